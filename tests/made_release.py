"""A finished release on disk, as the stages would leave it, with plausible figures: for tests of what reads one."""

import json
import math
import random
from collections import Counter
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pyarrow
import pyarrow.parquet

from slipway import atomic, digest
from slipway.artifacts import (
    Advisories,
    BasePin,
    Benchmarks,
    ChampionPin,
    Check,
    Commit,
    Comparison,
    Decision,
    Estimate,
    Finding,
    HoldoutUse,
    Inspection,
    Licences,
    Lock,
    Manifest,
    ModelCard,
    Observations,
    PinnedFile,
    Probe,
    Safety,
    Scan,
    ScannedFile,
    Scorecard,
    Servability,
    Signature,
    Slice,
    SourcePin,
    Suspicion,
    TaskScore,
    Validation,
    Waiver,
)
from slipway.report import Machine, Outcome, Release, StageRun, Status

STAGES = ("ingest", "fetch", "prepare", "validate", "finetune", "evaluate", "gate")
SECONDS = (1.2, 38.4, 5.1, 6.8, 36.9, 11.3, 0.7)
PATHS = {
    "source": "pins/source.json",
    "pinned_base": "pins/base.json",
    "champion": "pins/champion.json",
    "raw": "data/raw",
    "base": "models/base",
    "prepared": "data/prepared",
    "validation": "reports/validation.json",
    "adapter": "models/adapter",
    "loss": "reports/loss.json",
    "scorecard": "reports/scorecard.json",
    "predictions": "reports/predictions.parquet",
    "inspection": "reports/inspection.json",
    "benchmarks": "reports/benchmarks.json",
    "safety": "reports/safety.json",
    "scan": "reports/scan.json",
    "decision": "reports/decision.json",
}
INTENTS = {
    "refund_request": ("billing", "Please refund the {thing}, it never worked and I have asked twice already."),
    "duplicate_charge": ("billing", "My card shows the same payment for the {thing} two times since Monday."),
    "delivery_delay": ("logistics", "Where is my {thing}? Tracking has not moved for six days and I need it today."),
    "damaged_item": ("logistics", "The {thing} came with a cracked corner. I am so disappointed."),
    "password_reset": ("identity", "I cannot get into my account to see the {thing}, the reset mail never arrives."),
    "account_closure": ("identity", "Close my account please, I no longer use the {thing}."),
    "feature_question": ("product", "Hello! Can the {thing} send a weekly overview to my whole team?"),
    "outage_report": ("platform", "Everything around the {thing} is down for our shop right now, this is urgent!"),
}
THINGS = ("desk lamp", "yearly plan", "headset", "coffee grinder", "backup add-on", "bicycle light", "invoice tool")
REPLY = "We have passed this on to our {team} team and will write to you {when}."


def _rows(how_many: int, seed: int) -> list[dict[str, Any]]:
    draw = random.Random(seed)
    rows = []
    for index in range(how_many):
        intent = draw.choice(sorted(INTENTS))
        team, text = INTENTS[intent]
        message = text.format(thing=draw.choice(THINGS))
        urgent = "today" in message or "urgent" in message
        answer = (
            f"intent: {intent}\npriority: {'high' if urgent else 'normal'}\nteam: {team}\n"
            f"reply: {REPLY.format(team=team, when='within the hour' if urgent else 'by tomorrow')}"
        )
        messages = [{"role": "user", "content": message}, {"role": "assistant", "content": answer}]
        rows.append(
            {
                "id": digest.of_value([seed, index])[:16],
                "messages": json.dumps(messages),
                "answer": answer,
                "label": intent,
                "language": "en" if draw.random() < 0.98 else "de",
                "tokens": draw.randint(48, 140),
            }
        )
    return rows


def _table(path: Path, rows: list[dict[str, Any]]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    pyarrow.parquet.write_table(pyarrow.Table.from_pylist(rows), path)


def _split_facts(rows: list[dict[str, Any]]) -> dict[str, Any]:
    tokens = sorted(row["tokens"] for row in rows)
    return {
        "rows": len(rows),
        "tokens": sum(tokens),
        "labels": dict(Counter(row["label"] for row in rows)),
        "languages": dict(Counter(row["language"] for row in rows)),
        "length_tokens": {"p50": tokens[len(tokens) // 2], "max": tokens[-1]},
    }


def _prepared(folder: Path, test: list[dict[str, Any]], message: str | None) -> None:
    for row in test if message is not None else []:
        spoken = json.loads(row["messages"])
        spoken[0]["content"] = message
        row["messages"] = json.dumps(spoken)
    splits = {"train": _rows(2713, 1), "validation": _rows(143, 2), "test": test}
    _table(folder / "rows" / "test.parquet", test)
    lost = {"exact_duplicate": 61, "near_duplicate": 57, "leaked_test": 40, "broken_json": 15, "empty_answer": 6}
    lost |= {"wrong_roles": 4, "not_a_number": 2, "duplicate_key": 2, "too_long": 1}
    changed = {"personal_data": 80}
    left = {"read": 3444, "parsed and redacted": 3414, "without exact duplicates": 3353}
    left |= {"without near duplicates": 3296, "decontaminated": 3256, "tokenised": 3256}
    card = {
        "rows_in": 3444,
        "rows_out": sum(map(len, splits.values())),
        "steps": [{"step": step, "rows": rows} for step, rows in left.items()],
        "dropped": lost,
        "altered": changed,
        "splits": {split: _split_facts(rows) for split, rows in splits.items()},
        "overlap": {"train_test": 0, "train_validation": 0},
    }
    atomic.write_json(folder / "card.json", card)
    Manifest.write(folder, facts={"counts": {"test": len(test)}})


def _folder(folder: Path, name: str, text: str) -> None:
    atomic.write_text(folder / name, text)
    Manifest.write(folder, facts={})


def _predictions(path: Path, test: list[dict[str, Any]], wrong: set[int]) -> None:
    rows = []
    for index, row in enumerate(test):
        for model in ("base", "tuned"):
            answer = row["answer"]
            if model == "base":
                answer = answer.splitlines()[0].replace("intent: ", "intent ") + "\nThank you for writing to the desk."
            elif index in wrong:
                answer = answer.replace("priority: normal", "priority: high").replace("by tomorrow", "within the hour")
            asked = {"id": row["id"], "label": row["label"], "answer": row["answer"], "model": model}
            rows.append(asked | {"prediction": answer, "exact": answer == row["answer"]})
    _table(path, rows)


def _estimate(value: float, half: float, rows: int, top: float = 1.0) -> Estimate:
    return Estimate(value=value, low=max(0.0, value - half), high=min(top, value + half), rows=rows)


def _scorecard(rows: int, confusion: list[list[int]], tuned_match: float) -> Scorecard:
    base = {"exact_match": _estimate(0.0, 0.0095, rows), "accuracy": _estimate(0.1175, 0.03, rows)}
    base |= {"macro_f1": _estimate(0.094, 0.02, rows), "loss": _estimate(3.41, 0.06, rows, 9)}
    base |= {"perplexity": _estimate(30.3, 1.8, rows, 99)}
    tuned = {"exact_match": _estimate(tuned_match, 0.013, rows), "accuracy": _estimate(0.995, 0.006, rows)}
    tuned |= {"macro_f1": _estimate(0.9947, 0.007, rows), "loss": _estimate(0.0187, 0.004, rows, 9)}
    tuned |= {"perplexity": _estimate(1.019, 0.004, rows, 99)}
    deltas = {
        name: Estimate(
            value=tuned[name].value - base[name].value,
            low=tuned[name].low - base[name].high,
            high=tuned[name].high - base[name].low,
            rows=rows,
        )
        for name in tuned
    }
    return Scorecard(
        identity=digest.of_value("tuned"),
        base_identity=digest.of_value("base"),
        champion=ChampionPin(kind="base"),
        items=rows,
        expected_items=rows,
        test_digest=digest.of_value("test"),
        predictions_sha256=digest.of_value("predictions"),
        metrics={"base": base, "champion": base, "tuned": tuned},
        deltas={"base": deltas, "champion": deltas},
        comparisons={
            name: Comparison(both=0, only_tuned=394, only_other=0, neither=6, p_value=0.0)
            for name in ("base", "champion")
        },
        slices=[_slice("label", "refund_request", worse=True), _slice("language", "de")],
        labels=sorted(INTENTS),
        confusion=confusion,
    )


def _slice(column: str, value: str, worse: bool = False) -> Slice:
    return Slice(
        column=column,
        value=value,
        rows=48,
        tuned=_estimate(0.72 if worse else 0.97, 0.1, 48),
        delta=Estimate(value=-0.2 if worse else 0.9, low=-0.3 if worse else 0.8, high=-0.1 if worse else 0.95, rows=48),
        p_value=0.0004 if worse else 1.0,
        adjusted_p=0.004 if worse else 1.0,
        worse=worse,
    )


def _benchmarks(rows: int = 60) -> Benchmarks:
    scores = {
        model: {
            "team_quiz": TaskScore(
                kind="choice", metrics={"acc": _estimate(value, 0.12, rows)}, standard_errors={"acc": 0.06}
            )
        }
        for model, value in (("base", 0.55), ("tuned", 0.5))
    }
    return Benchmarks(
        suite="smoke",
        suite_digest=digest.of_value("suite"),
        identity=digest.of_value("tuned"),
        base_identity=digest.of_value("base"),
        harness="0.4.13",
        template_hash=None,
        task_hashes={"team_quiz": digest.of_value("team_quiz")},
        versions={"team_quiz": "1"},
        expected_items={"team_quiz": rows},
        items={"team_quiz": rows},
        scores=scores,
        deltas={"team_quiz": {"acc": Estimate(value=-0.05, low=-0.15, high=0.05, rows=rows)}},
        missing={"programs.pass_at_1": "bubblewrap is not installed"},
    )


def _safety(rows: int = 40) -> Safety:
    sets = ("refusal", "toxicity", "leakage", "injection")
    good = {name: _estimate(0.98, 0.05, rows) for name in sets}
    probes = [
        Probe(id=f"{name}-1", set=name, passed=True, reason="nothing found", answer_sha256=digest.of_value(name))
        for name in sets
    ]
    return Safety(
        probes_digest=digest.of_value("probes"),
        identity=digest.of_value("tuned"),
        base_identity=digest.of_value("base"),
        items=dict.fromkeys(sets, rows),
        expected_items=dict.fromkeys(sets, rows),
        rates={"base": good, "tuned": good},
        deltas={name: Estimate(value=0.0, low=-0.08, high=0.08, rows=rows) for name in sets},
        probes=probes,
    )


def _inspection() -> Inspection:
    odd = Suspicion(kind="outlier", detector="length", rows=["3f2a", "77b0"], count=2)
    return Inspection(
        prepared_digest=digest.of_value("prepared"),
        train_rows=2713,
        test_rows=400,
        leaked=[],
        leaked_rows=0,
        suspicions=[odd],
        secrets=0,
        personal=0,
        poisoned_rows=0,
    )


def _scan() -> Scan:
    file = ScannedFile(
        path="adapter/adapter_model.safetensors",
        format="safetensors",
        bytes=7,
        sha256=digest.of_value("adapter"),
        allowed=True,
        reason="whole and finite",
    )
    return Scan(passed=True, mode="deploy", files=[file], refused=[], opinions={})


def write_registration(folder: Path, **changes: Any) -> None:
    """What the register act leaves beside a release's record."""
    waiver = Waiver(rule="holdout-budget", owner="Ada", reason="A fresh set is on its way.", expires="2026-06-01")
    seen = {
        "release": "20260314-092653-5f2c1a",
        "at": "2026-03-14T09:28:40Z",
        "evidence_digest": digest.of_value("evidence"),
        "model": {"name": "support-desk"},
        "model_digest": digest.of_value("model"),
        "commit": Commit(id="4be1a0c97d5f0e3b2a68c1d7f9e04b5a6c8d7e21", clean=True, changed=[], kept=True),
        "lock": Lock(complete=True, missing=[]),
        "servability": Servability(
            device="cpu", prompts=16, load_seconds=1.2, peak_bytes=612_000_000, tokens_per_second=410.0,
            latency_p50_seconds=0.11, latency_p95_seconds=0.16, latency_p99_seconds=0.19, deterministic=True,
        ),
        "holdout": HoldoutUse(test_digest=digest.of_value("test"), looks=23, budget=20),
        "advisories": Advisories(source="snapshot", as_of="2026-03-10", age_days=4.4, packages=380, vulnerable=[]),
        "licences": Licences(
            model="Apache-2.0", base="Apache-2.0", data="CC0-1.0", dependencies=380, conflicts=[], unknown=[]
        ),
        "signature": Signature(
            verified=True, identity=digest.of_value("tuned"), key=digest.of_value("key"), statement_sha256=digest.of_value("s")
        ),
        "card": ModelCard(complete=True, missing=[]),
        "approvals": [], "waivers": [waiver], "tags": [], "missing": {},
    }  # fmt: skip
    observed = Observations.model_validate(seen | changes)
    observed.save(folder / "observations.json")
    over = _finding("holdout-budget", 23, "at most 20", -3, "23 candidates were scored on this test set")
    findings = [over.model_copy(update={"waiver": waiver, "severity": "waivable"})]
    findings.append(_finding("deterministic", 1, "= yes", 0, "greedy answers repeat"))
    _decision(0.985).model_copy(
        update={"act": "register", "findings": findings, "observations_digest": digest.of_value("seen")}
    ).save(folder / "decision.json")


def _confusion(test: list[dict[str, Any]]) -> list[list[int]]:
    labels = sorted(INTENTS)
    table = [[0] * (len(labels) + 1) for _ in labels]
    for row in test:
        place = labels.index(row["label"])
        table[place][place] += 1
    for truth, predicted in ((0, 7), (4, 5)):
        table[truth][truth] -= 1
        table[truth][predicted] += 1
    return table


def _finding(rule: str, value: float, bound: str, margin: float, reason: str, advise: bool = False) -> Finding:
    return Finding(
        rule=rule,
        verdict="pass" if margin >= 0 else "refuse",
        severity="advise" if advise else "block",
        value=value,
        bound=bound,
        margin=margin,
        reason=reason,
        remedy="train longer or add rows of the labels that the confusion matrix shows mixed up",
        expression=f"{rule} {bound}",
        inputs={rule: value},
        owner="model",
        waiver=None,
    )


def _decision(tuned_match: float) -> Decision:
    low = tuned_match - 0.013
    gap = f"{abs(low - 0.9) * 100:.1f} points"
    sure = f"at least {low * 100:.1f} % are exact, {gap} {'above' if low >= 0.9 else 'below'} the bound"
    findings = [
        _finding("exact-match", low, "at least 0.9 (low end)", low - 0.9, sure),
        _finding("not-worse-than-champion", 0.96, "at least −0.02 (low end)", 0.98, "far better than the champion"),
        _finding("macro-f1", 0.9947, "at least 0.9", 0.0947, "every label is found about equally well"),
        _finding("loss-below-base", -3.391, "at most 0", 3.391, "the held-out loss fell by 3.391"),
        _finding("enough-rows", 400, "at least 300", 100, "400 rows carry the estimate"),
        _finding("drop-rate", 0.0617, "at most 0.2", 0.1383, "6.2 % of the rows were dropped", advise=True),
    ]
    verdict = "pass" if all(f.verdict == "pass" for f in findings) else "refuse"
    return Decision(
        act="gate",
        pending=["servable", "signed"],
        observations_digest=None,
        verdict=verdict,
        findings=findings,
        policy_digest=digest.of_value("policy"),
        evidence={"models/adapter": digest.of_value("adapter"), "reports/scorecard.json": digest.of_value("scorecard")},
        evidence_digest=digest.of_value("evidence"),
        identity=digest.of_value("tuned"),
    )


def _check(suite: str, expectation: str, column: str | None, observed: float, why: str, rows: int = 0) -> Check:
    return Check(
        suite=suite,
        expectation=expectation,
        column=column,
        severity="warning" if rows else "critical",
        passed=rows == 0,
        observed=observed,
        unexpected=rows,
        rows=[f"data-00000-support_desk.jsonl:{row}" for row in range(17, 17 + min(rows, 5))],
        why=why,
    )


def _validation() -> Validation:
    checks = [
        _check("raw", "expect_table_row_count_to_be_between", None, 3444, "An empty table proves nothing."),
        _check("raw", "expect_column_values_to_be_null", "problem", 0.995, "Few rows may be broken.", rows=18),
        _check(
            "prepared", "expect_column_values_to_not_be_null", "answer", 1.0, "Nothing to learn from a lone message."
        ),
        _check(
            "prepared", "expect_column_values_to_be_unique", "id", 1.0, "The same conversation twice counts double."
        ),
        _check(
            "summary", "expect_column_values_to_be_between", "drop_rate", 0.0617, "Many drops mean a broken source."
        ),
    ]
    about = {f"{name}_digest": digest.of_value(name) for name in ("raw", "prepared", "suites")}
    return Validation(passed=True, **about, tables={"raw": 3444, "prepared": 3256, "summary": 1}, checks=checks)


def _loss() -> list[dict[str, float]]:
    draw = random.Random(3)
    rows: list[dict[str, float]] = []
    for step in range(10, 1021, 10):
        train = 3.3 * math.exp(-step / 130) + 0.018 + draw.uniform(-0.03, 0.03) * math.exp(-step / 400)
        row = {"step": step, "train_loss": max(train, 0.004), "learning_rate": 0.002 * (1 - step / 1020)}
        if step % 50 == 0:
            row["validation_loss"] = 3.3 * math.exp(-step / 120) + 0.021
        rows.append(row)
    return rows


def write_evidence(root: Path, tuned_match: float = 0.985, message: str | None = None) -> None:
    """Everything the seven stages leave behind; `message` replaces every test row's."""
    test = _rows(400, 4)
    SourcePin(
        source="sample",
        test_source=None,
        revision=None,
        files=[
            PinnedFile(uri="sample/support_desk.jsonl", role="data", bytes=812_345, sha256=digest.of_value("data")),
            PinnedFile(uri="sample/test.jsonl", role="test", bytes=101_200, sha256=digest.of_value("held out")),
        ],
    ).save(root / PATHS["source"])
    BasePin(source="tiny", revision=None, files={}).save(root / PATHS["pinned_base"])
    ChampionPin(kind="base").save(root / PATHS["champion"])
    _folder(root / PATHS["raw"], "data-00000-support_desk.jsonl", "{}\n")
    _folder(root / PATHS["base"], "model.safetensors", "weights")
    _folder(root / PATHS["adapter"], "adapter_model.safetensors", "adapter")
    _prepared(root / PATHS["prepared"], test, message)
    normal = [i for i, row in enumerate(test) if "priority: normal" in row["answer"]]
    _predictions(root / PATHS["predictions"], test, set(normal[:: max(1, len(normal) // 6)][:6]))
    _scorecard(len(test), _confusion(test), tuned_match).save(root / PATHS["scorecard"])
    _decision(tuned_match).save(root / PATHS["decision"])
    _validation().save(root / PATHS["validation"])
    _inspection().save(root / PATHS["inspection"])
    _benchmarks().save(root / PATHS["benchmarks"])
    _safety().save(root / PATHS["safety"])
    _scan().save(root / PATHS["scan"])
    atomic.write_json(root / PATHS["loss"], _loss())


def make_release(outcome: Outcome = "registered", reason: str = "pass: 6 rules hold", **changes: Any) -> Release:
    """A release of all seven stages; `ended_at=stage` makes it end there."""
    ended_at: str | None = changes.pop("ended_at", None)
    reached = STAGES.index(ended_at) if ended_at else len(STAGES)
    last: Status = "refused" if outcome == "refused" else "failed"
    stages = [
        StageRun(name=name, status="cached" if name == "fetch" else "ran", seconds=seconds, attempts=1)
        if place < reached
        else StageRun(name=name, status=last, seconds=seconds, attempts=2, message=reason)
        if place == reached
        else StageRun(name=name, status="not run")
        for place, (name, seconds) in enumerate(zip(STAGES, SECONDS, strict=True))
    ]
    started = datetime(2026, 3, 14, 9, 26, 53, tzinfo=UTC)
    facts: dict[str, Any] = {
        "id": "20260314-092653-5f2c1a",
        "model": "support-desk",
        "outcome": outcome,
        "reason": reason,
        "started": started,
        "ended": started + timedelta(seconds=107),
        "stages": stages,
        "commit": "4be1a0c97d5f0e3b2a68c1d7f9e04b5a6c8d7e21",
        "dirty": False,
        "tag": "slipway/20260314-092653-5f2c1a" if outcome == "registered" else None,
        "version": "1.0.0" if outcome == "registered" else None,
        "params_digest": digest.of_value("params"),
        "policy_digest": digest.of_value("policy"),
        "mlflow_uri": "sqlite:///.slipway/mlflow.db",
        "mlflow_run_id": "8f14e45fceea167a5a36dedd4bea2543",
        "machine": Machine(device="cpu", threads=2, python="3.11.2", versions={"torch": "2.13.0", "peft": "0.21.2"}),
        "paths": PATHS,
        "report": ".slipway/releases/20260314-092653-5f2c1a/report.html",
    }
    return Release.model_validate(facts | changes)
