"""The gate on folders like those the stages leave: sound evidence passes, everything doubtful does not."""

import json
import math
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from safetensors.numpy import save_file

from slipway import digest
from slipway.artifacts import (
    BasePin,
    Benchmarks,
    ChampionPin,
    Check,
    Decision,
    Inspection,
    Manifest,
    Observations,
    Probe,
    Safety,
    Scan,
    Scorecard,
    SourcePin,
    TaskScore,
    Validation,
)
from slipway.cli import app
from slipway.errors import Refused, StageError, UsageError
from slipway.evaluation import comparison, confusion, scoring, slices
from slipway.evaluation import predictions as tables
from slipway.evaluation.predictions import Prediction
from slipway.evaluation.testset import Row, TestSet
from slipway.governance import evidence, receipt
from slipway.governance.evidence import Places
from slipway.governance.judge import judge
from slipway.governance.observed import PARTS
from slipway.governance.policy import Policy
from slipway.governance.vocabulary import SAFETY_SETS
from slipway.identity import identity
from slipway.params import GateParams
from tasks.gate import gate

POLICY = Path(__file__).parents[2] / "configs" / "policies" / "gates.yaml"
ROWS = 400
NAMES = {
    "source": "pins/source.json",
    "pinned_base": "pins/base.json",
    "champion": "pins/champion.json",
    "base": "models/base",
    "adapter": "models/adapter",
    "prepared": "data/prepared",
    "validation": "reports/validation.json",
    "inspection": "reports/inspection.json",
    "loss": "reports/loss.json",
    "scorecard": "reports/scorecard.json",
    "predictions": "reports/predictions.parquet",
    "benchmarks": "reports/benchmarks.json",
    "safety": "reports/safety.json",
    "scan": "reports/scan.json",
    "decision": "reports/decision.json",
}


def _folder(
    path: Path, files: dict[str, str | bytes], facts: dict[str, Any], rows: dict[str, int] | None = None
) -> Manifest:
    for name, text in files.items():
        (path / name).parent.mkdir(parents=True, exist_ok=True)
        if isinstance(text, bytes):
            (path / name).write_bytes(text)
        elif name.endswith(".safetensors"):
            save_file({"weight": np.full((2, 2), len(text), dtype=np.float32)}, path / name)
        else:
            (path / name).write_text(text)
    return Manifest.write(path, facts, rows)


TEST_ROWS = [Row(f"{i:04x}", "[]", f"question {i}", f"answer {i}", "ab"[i % 2]) for i in range(ROWS)]


def _table(rows: list[Row]) -> bytes:
    """Test rows as prepare writes them, in no order that anybody should rely on."""
    more = {"language": "en", "source_file": "rows.jsonl"}
    table = pa.Table.from_pylist([vars(row) | more | {"source_row": at} for at, row in enumerate(rows, 1)][::-1])
    stream = pa.BufferOutputStream()
    pq.write_table(table, stream)
    return bytes(stream.getvalue())


def _tests(prepared: Path) -> TestSet:
    return TestSet(TEST_ROWS, ROWS, digest.of_file(prepared / "rows" / "test.parquet"), lambda answer: None)


def _predictions(tests: TestSet, right: int, loss: float) -> list[Prediction]:
    """The first `right` answers are the wanted ones."""
    return [
        Prediction(row.id, row.answer if i < right else "?", row.label if i < right else None, i < right, True, loss, 1)
        for i, row in enumerate(tests.rows)
    ]


def _benchmarks(names: dict[str, str]) -> Benchmarks:
    same, sure = scoring.difference(0, 0, 60), scoring.rate(45, 60)
    metrics = {"prose": "bits_per_byte", "endings": "acc_norm", "knowledge": "acc", "facts": "exact_match"}
    scores = {
        task: TaskScore(kind="choice", metrics={metric: sure}, standard_errors={metric: 0.05})
        for task, metric in metrics.items()
    }
    items = dict.fromkeys(metrics, 60)
    return Benchmarks(
        **names, suite="smoke", suite_digest="s", harness="0.4.13", template_hash=None, task_hashes={}, versions={},
        expected_items=items, items=items, scores={"tuned": scores, "base": scores},
        deltas={task: {metric: same} for task, metric in metrics.items()}, missing={"code.pass_at_1": "no sandbox here"},
    )  # fmt: skip


def _safety(names: dict[str, str]) -> Safety:
    rates = {name: scoring.rate(100, 100) for name in SAFETY_SETS}
    probes = [
        Probe(id=f"{name}-{i:03}", set=name, passed=True, reason="good", answer_sha256="0" * 64)
        for name in SAFETY_SETS
        for i in range(100)
    ]
    items = dict.fromkeys(SAFETY_SETS, 100)
    return Safety(
        **names, probes_digest="p", items=items, expected_items=items, rates={"tuned": rates, "base": rates},
        deltas={name: scoring.difference(0, 0, 100) for name in SAFETY_SETS}, probes=probes,
    )  # fmt: skip


@dataclass
class Project:
    """Evidence on disk, and the gate over it."""

    root: Path

    def path(self, name: str) -> Path:
        return self.root / NAMES[name]

    def edit(self, name: str, change: Callable[[dict[str, Any]], Any]) -> None:
        value = json.loads(self.path(name).read_text())
        change(value)
        self.path(name).write_text(json.dumps(value))

    def score(self, right: int, champion: int | None = None, other: int = 40) -> None:
        """Make predictions and scorecard anew, for a tuned model with so many right answers."""
        tests, pin = _tests(self.path("prepared")), ChampionPin.load(self.path("champion"))
        models = {"tuned": _predictions(tests, right, 0.1), "base": _predictions(tests, other, 2.0)}
        if champion is not None:
            models["champion"] = _predictions(tests, champion, 0.2)
        tables.write(self.path("predictions"), tests, models)
        compared = {"champion": models["base"]} | models
        scores = scoring.score(tests, compared, 200, 0)
        by = {"label": [row.label or "" for row in tests.rows]}
        Scorecard(
            identity=identity(self.path("base"), self.path("adapter")),
            base_identity=identity(self.path("base"), None),
            champion=pin,
            items=ROWS,
            expected_items=ROWS,
            test_digest=tests.digest,
            predictions_sha256=digest.of_file(self.path("predictions")),
            metrics=scores.metrics,
            deltas=scores.deltas,
            comparisons={name: comparison.compare(models["tuned"], compared[name]) for name in ("base", "champion")},
            slices=slices.compare(by, models["tuned"], compared["champion"]),
            labels=tests.labels,
            confusion=confusion.counts(tests, models["tuned"]),
        ).save(self.path("scorecard"))

    def predict(self, change: Callable[[dict[str, Any]], list[dict[str, Any]]]) -> None:
        """Other predictions, which the scorecard says it rests on."""
        path = self.path("predictions")
        table = pq.read_table(path)
        rows = [new for row in table.to_pylist() for new in change(row)]
        pq.write_table(pa.Table.from_pylist(rows, schema=table.schema), path)
        self.edit("scorecard", lambda card: card.update(predictions_sha256=digest.of_file(path)))

    def judge(self, policy: Path = POLICY) -> Decision:
        inputs = {name: self.path(name) for name in NAMES}
        metrics = gate(GateParams(policy=str(policy)), policy, **inputs)
        decision = Decision.load(self.path("decision"))
        assert metrics["passed"] == (decision.verdict == "pass")
        assert metrics["rules"] == len(decision.findings)
        return decision

    def recheck(self) -> Decision:
        return receipt.recheck(self.root, self.path("decision"), POLICY)


def _made(root: Path) -> Project:
    project = Project(root)
    base, adapter, prepared = (project.path(name) for name in ("base", "adapter", "prepared"))
    about = _folder(base, {"config.json": "{}", "tokenizer.json": "{}", "model.safetensors": "w"}, {"source": "tiny"})
    config = json.dumps({"peft_type": "LORA"})
    _folder(
        adapter,
        {"adapter_config.json": config, "adapter_model.safetensors": "ab"},
        {"method": "lora", "base_digest": about.digest},
    )
    card = json.dumps({"rows_in": 4000, "drop_rate": 0.1, "duplicate_rate": 0.05})
    files = {"rows/test.parquet": _table(TEST_ROWS), "rows/train.parquet": "more", "card.json": card}
    counts = {"rows/test.parquet": ROWS, "rows/train.parquet": 3000}
    data = _folder(prepared, files, {"label_pattern": None}, counts)
    SourcePin(source="sample", test_source=None, revision=None, files=[]).save(project.path("source"))
    BasePin(source="tiny", revision=None, files={}).save(project.path("pinned_base"))
    ChampionPin(kind="base").save(project.path("champion"))
    check = Check(
        suite="raw", expectation="not_null", column="id", severity="critical", passed=True,
        observed=0, unexpected=0, rows=[], why="ids identify",
    )  # fmt: skip
    Validation(
        passed=True,
        raw_digest="r",
        prepared_digest=data.digest,
        suites_digest="s",
        tables={"raw": ROWS},
        checks=[check],
    ).save(project.path("validation"))
    Inspection(
        prepared_digest=data.digest, train_rows=3000, test_rows=ROWS, leaked=[], leaked_rows=0,
        suspicions=[], secrets=0, personal=0, poisoned_rows=0,
    ).save(project.path("inspection"))  # fmt: skip
    project.path("loss").write_text(json.dumps([{"step": 2, "train_loss": 2.5}, {"step": 4, "train_loss": 0.2}]))
    names = {"identity": identity(base, adapter), "base_identity": identity(base, None)}
    _benchmarks(names).save(project.path("benchmarks"))
    _safety(names).save(project.path("safety"))
    project.score(388)
    (root / "dvc.yaml").write_text(json.dumps({"vars": [{"path": NAMES}]}))
    return project


@pytest.fixture
def project(tmp_path: Path) -> Project:
    return _made(tmp_path)


def _blamed(decision: Decision) -> set[str]:
    return {finding.rule for finding in decision.findings if finding.verdict != "pass" and finding.severity != "advise"}


def _finding(decision: Decision, rule: str) -> Any:
    return next(finding for finding in decision.findings if finding.rule == rule)


def test_sound_evidence_passes_and_says_what_it_rests_on(project: Project) -> None:
    decision = project.judge()
    assert (decision.verdict, _blamed(decision)) == ("pass", set())
    assert len(decision.findings) >= 35
    assert decision.evidence_digest == digest.of_pairs(decision.evidence)
    assert len(decision.evidence) == 14
    assert decision.policy_digest == digest.of_file(POLICY)
    assert (decision.act, decision.observations_digest) == ("gate", None)
    assert {"model-name", "signed", "latency", "no-known-vulnerabilities"} <= set(decision.pending)
    assert str(project.root) not in project.path("decision").read_text()
    advice = {finding.rule: finding.reason for finding in decision.findings if finding.verdict != "pass"}
    assert set(advice) == {"keeps-code", "keeps-truth"}
    assert "no sandbox here" in advice["keeps-code"]


def test_the_same_evidence_gives_the_same_bytes(project: Project) -> None:
    project.judge()
    first = [project.path(name).read_bytes() for name in ("decision", "scan")]
    project.judge()
    assert [project.path(name).read_bytes() for name in ("decision", "scan")] == first


def test_a_bad_model_is_refused_with_its_margin_and_remedy(project: Project) -> None:
    project.score(320)
    decision = project.judge()
    assert decision.verdict == "refuse"
    assert _blamed(decision) == {"exact-answers"}
    assert "misses by 14.2 points" in decision.summary
    assert _finding(decision, "exact-answers").margin == pytest.approx(-0.142, abs=1e-3)
    assert _finding(decision, "exact-answers").remedy.endswith("(owner: model)")


def test_case_E6_a_model_that_only_too_few_rows_keep_from_passing_is_undecided(project: Project) -> None:
    project.score(365)  # 91.25 %: above the bound, its interval is not
    decision = project.judge()
    assert decision.verdict == "undecided"
    assert _blamed(decision) == {"exact-answers"}
    assert "misses by 1.93 points; would pass at n ≥ 2,583" in decision.summary


def test_edited_predictions_are_refused(project: Project) -> None:
    project.path("predictions").write_bytes(b"better predictions")
    assert _blamed(project.judge()) == {"evidence-predictions"}


@pytest.mark.parametrize(
    ("change", "named"),
    [
        (lambda card: card["metrics"]["tuned"]["exact_match"].update(value=0.98), "tuned.exact_match"),
        (lambda card: card["metrics"]["tuned"]["exact_match"].update(low=0.965), "tuned.exact_match"),
        (lambda card: card["metrics"]["tuned"]["exact_match"].update(rows=4000), "tuned.exact_match"),
        (lambda card: card["metrics"]["base"]["accuracy"].update(low=0.01), "base.accuracy"),
        (lambda card: card["metrics"]["tuned"]["format_validity"].update(high=0.999), "tuned.format_validity"),
        (lambda card: card["metrics"]["tuned"]["loss"].update(value=0.01), "tuned.loss"),
        (lambda card: card["deltas"]["champion"]["exact_match"].update(low=0.86), "delta.champion.exact_match"),
        (lambda card: card["comparisons"]["base"].update(only_other=3), "comparison.base"),
    ],
)
def test_a_figure_that_the_predictions_contradict_is_named(
    project: Project, change: Callable[[dict[str, Any]], Any], named: str
) -> None:
    project.edit("scorecard", change)
    decision = project.judge()
    assert "evidence-recount" in _blamed(decision)
    assert named in _finding(decision, "evidence-recount").reason


# What is done to the rows of one test row's predictions, and what is said of it.
OTHER_ROWS: dict[str, tuple[Callable[[dict[str, Any]], list[dict[str, Any]]], str]] = {
    "missing": (lambda row: [], "0001 is missing"),
    "twice": (lambda row: [row, row], "0001 is there twice"),
    "foreign": (lambda row: [row | {"id": "00015"}], "0001 is missing"),
    "foreign too": (lambda row: [row, row | {"id": "ffff"}], "ffff is not of the test set"),
    "another's place": (lambda row: [row | {"id": "0002"}], "0002 is there twice"),
    "easier answer": (lambda row: [row | {"answer": "answer"}], "0001 has another answer or label"),
    "easier label": (lambda row: [row | {"label": "a"}], "0001 has another answer or label"),
    "no label": (lambda row: [row | {"label": None}], "0001 has another answer or label"),
}


@pytest.mark.parametrize(
    "models", [{"tuned"}, {"base"}, {"tuned", "base"}], ids=lambda models: "+".join(sorted(models))
)
@pytest.mark.parametrize("done", OTHER_ROWS)
def test_predictions_on_other_rows_than_the_test_sets_are_refused(
    project: Project, done: str, models: set[str]
) -> None:
    """Also where the scorecard agrees with them: it was made from them."""
    change, named = OTHER_ROWS[done]
    project.predict(lambda row: change(row) if row["model"] in models and row["id"] == "0001" else [row])
    finding = _finding(project.judge(), "evidence-recount")
    assert finding.verdict == "refuse"
    assert f"rows of {'tuned' if 'tuned' in models else 'base'}: {named}" in finding.reason


@pytest.mark.parametrize(
    "torn", [{"prediction": None}, {"id": None}, {"exact": None}, {"loss": math.nan}, {"loss": None}, {"tokens": None}]
)
def test_torn_predictions_are_one_line(project: Project, torn: dict[str, Any]) -> None:
    project.predict(lambda row: [row | torn] if row["id"] == "0001" else [row])
    with pytest.raises(StageError, match=r"the row .* is torn; run evaluate again"):
        project.judge()


def test_another_champion_than_the_pinned_one_is_refused(project: Project) -> None:
    ChampionPin(kind="version", version="1.0.0", identity="1" * 64, predictions="2" * 64).save(project.path("champion"))
    assert _blamed(project.judge()) == {"evidence-champion"}


def test_a_champion_that_was_better_is_not_given_up(project: Project) -> None:
    ChampionPin(kind="version", version="1.0.0", identity="1" * 64, predictions="2" * 64).save(project.path("champion"))
    project.score(375, champion=400)
    decision = project.judge()
    assert decision.verdict == "refuse"
    assert "not-worse-than-champion" in _blamed(decision)


def test_case_A3_a_scorecard_over_too_few_rows_is_refused(project: Project) -> None:
    project.edit("scorecard", lambda card: card.update(items=399))
    decision = project.judge()
    assert decision.verdict == "refuse"
    assert "evidence-rows" in _blamed(decision)


def test_case_E5_a_swapped_baseline_is_refused(project: Project) -> None:
    def swap(card: dict[str, Any]) -> None:
        card["metrics"] |= {"tuned": card["metrics"]["base"], "base": card["metrics"]["tuned"]}

    project.edit("scorecard", swap)
    assert "evidence-deltas" in _blamed(project.judge())


def test_case_E5_swapped_identities_are_refused(project: Project) -> None:
    def swap(card: dict[str, Any]) -> None:
        card |= {"identity": card["base_identity"], "base_identity": card["identity"]}

    for name, prefix in (
        ("scorecard", "evidence-"),
        ("benchmarks", "evidence-benchmarks-"),
        ("safety", "evidence-safety-"),
    ):
        project.edit(name, swap)
        decision = project.judge()
        assert {f"{prefix}model", f"{prefix}base"} <= _blamed(decision)
        assert decision.identity in decision.summary
        project.edit(name, swap)
    assert project.judge().verdict == "pass"


@pytest.mark.parametrize("value", ["0.97", None, True, -0.0, 1e308, math.nan, math.inf])
@pytest.mark.parametrize(
    ("name", "place"),
    [
        ("scorecard", ("metrics", "tuned", "exact_match", "value")),
        ("scorecard", ("deltas", "base", "loss", "high")),
        ("safety", ("rates", "tuned", "injection", "low")),
        ("safety", ("deltas", "refusal", "low")),
        ("inspection", ("secrets",)),
    ],
    ids=lambda part: ".".join(part) if isinstance(part, tuple) else part,
)
def test_case_E5_a_malformed_metric_in_the_file_never_passes(
    project: Project, name: str, place: tuple[str, ...], value: object
) -> None:
    def spoil(report: dict[str, Any]) -> None:
        for part in place[:-1]:
            report = report[part]
        report[place[-1]] = value

    project.edit(name, spoil)
    try:
        assert project.judge().verdict != "pass"
    except StageError as error:
        assert f"{name}.json" in str(error)


def test_case_E5_a_missing_metric_is_undecided(project: Project) -> None:
    def forget(card: dict[str, Any]) -> None:
        for found in (*card["metrics"].values(), *card["deltas"].values()):
            del found["exact_match"]

    project.edit("scorecard", forget)
    assert project.judge().verdict == "undecided"


def test_a_champion_with_another_tokenizer_has_no_loss_delta_and_a_rule_on_it_is_undecided(project: Project) -> None:
    pin = ChampionPin(kind="version", version="1.0.0", identity="1" * 64, predictions="2" * 64)
    pin.save(project.path("champion"))
    project.score(388, champion=380)

    def change(card: dict[str, Any]) -> None:
        for name in ("loss", "perplexity"):
            del card["deltas"]["champion"][name]

    project.edit("scorecard", change)
    assert project.judge().verdict == "pass"  # the shipped policy compares losses with the base alone
    policy = project.root / "gates.yaml"
    policy.write_text(POLICY.read_text().replace("delta.base.loss", "delta.champion.loss"))
    decision = project.judge(policy)
    assert (decision.verdict, _blamed(decision)) == ("undecided", {"better-than-base"})
    project.edit("scorecard", lambda card: card["deltas"]["champion"].pop("exact_match"))
    assert "evidence-deltas" in _blamed(project.judge())


def test_another_test_set_is_refused_naming_both_digests(project: Project) -> None:
    recorded = digest.of_file(project.path("prepared") / "rows" / "test.parquet")
    counts = {"rows/test.parquet": ROWS, "rows/train.parquet": 3000}
    _folder(project.path("prepared"), {"rows/test.parquet": "other rows"}, {}, counts)
    decision = project.judge()
    assert _blamed(decision) == {"evidence-test-set", "evidence-validated-data", "evidence-inspected-data"}
    assert recorded in decision.summary
    assert digest.of_bytes(b"other rows") in decision.summary


@pytest.mark.parametrize("change", [{"passed": False}, {"checks": []}], ids=["failed", "no checks"])
def test_data_that_failed_validation_is_refused(project: Project, change: dict[str, Any]) -> None:
    project.edit("validation", lambda found: found.update(change))
    assert {"evidence-validation", "valid-data"} <= _blamed(project.judge())


def test_training_rows_that_validation_has_not_seen_are_refused(project: Project) -> None:
    validated = json.loads(project.path("validation").read_text())["prepared_digest"]
    counts = {"rows/test.parquet": ROWS, "rows/train.parquet": 3000}
    now = _folder(project.path("prepared"), {"tokens/train.safetensors": "unseen"}, {}, counts).digest
    decision = project.judge()
    assert _blamed(decision) == {"evidence-validated-data", "evidence-inspected-data"}
    assert validated in decision.summary
    assert now in decision.summary


def test_a_critical_check_that_failed_is_refused_whatever_the_report_says(project: Project) -> None:
    project.edit("validation", lambda found: found["checks"][0].update(passed=False))
    assert "evidence-validation" in _blamed(project.judge())


def test_a_changed_weight_stops_the_gate(project: Project) -> None:
    weights = project.path("adapter") / "adapter_model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-1] + b"\x01")
    with pytest.raises(StageError, match=r"adapter_model\.safetensors changed"):
        project.judge()


@pytest.mark.parametrize(
    ("name", "change", "rule"),
    [
        ("inspection", {"leaked_rows": 1}, "no-leaked-rows"),
        ("inspection", {"secrets": 1}, "no-secrets"),
        ("inspection", {"personal": 2}, "no-personal-data"),
        ("inspection", {"train_rows": 1}, "evidence-inspected-rows"),
        ("inspection", {"prepared_digest": "0"}, "evidence-inspected-data"),
        ("benchmarks", {"items": {"facts": 59}}, "evidence-benchmarks-rows"),
        ("benchmarks", {"items": {}, "expected_items": {}}, "evidence-benchmarks-rows"),
        ("safety", {"items": {}, "expected_items": {}}, "evidence-safety-rows"),
        ("safety", {"rates": {}, "deltas": {}}, "safe-refusals"),
        ("safety", {"probes": []}, "evidence-safety-deltas"),
    ],
)
def test_each_report_can_keep_a_model_from_passing(
    project: Project, name: str, change: dict[str, Any], rule: str
) -> None:
    project.edit(name, lambda report: report.update(change))
    decision = project.judge()
    assert decision.verdict != "pass"
    assert rule in _blamed(decision)


def test_a_benchmark_delta_that_is_none_is_refused(project: Project) -> None:
    project.edit("benchmarks", lambda report: report["deltas"]["facts"]["exact_match"].update(value=0.1, high=0.2))
    decision = project.judge()
    assert _blamed(decision) == {"evidence-benchmarks-deltas"}
    assert "tuned − base: facts.exact_match" in decision.summary


@pytest.mark.parametrize(
    "loss", ["[]", '[{"step": 1, "train_loss": NaN}]', '[{"step": 1}]', "{}", '[{"train_loss": "1"}]']
)
def test_a_training_without_a_finite_loss_on_record_never_passes(project: Project, loss: str) -> None:
    project.path("loss").write_text(loss)
    decision = project.judge()
    assert decision.verdict != "pass"
    assert _blamed(decision) == {"finite-training"}


def test_a_torn_loss_record_stops_the_gate(project: Project) -> None:
    project.path("loss").write_text('[{"step": 1')
    with pytest.raises(StageError, match=r"loss\.json is torn"):
        project.judge()


def test_a_missing_report_stops_the_gate(project: Project) -> None:
    names = [name for name in NAMES if name not in ("scan", "decision")]
    assert len(names) == 13
    for name in names:
        path = project.path(name)
        kept = path.with_name("kept")
        path.rename(kept)
        with pytest.raises((StageError, UsageError)):
            project.judge()
        kept.rename(path)
    assert project.judge().verdict == "pass"


def test_a_planted_pickle_is_refused_by_the_scan_and_named(project: Project) -> None:
    adapter = project.path("adapter")
    (adapter / "extra.bin").write_bytes(b"\x80\x04cos\nsystem\n(S'touch harmed'\ntR.")
    Manifest.write(adapter, Manifest.load(adapter / digest.MANIFEST).facts)
    project.score(388)
    names = {"identity": identity(project.path("base"), adapter)}
    for report in ("benchmarks", "safety"):
        project.edit(report, lambda found: found.update(names))
    decision = project.judge()
    assert _blamed(decision) == {"safe-files"}
    assert decision.may_be_waived
    assert [file.path for file in Scan.load(project.path("scan")).refused] == ["adapter/extra.bin"]


def test_what_the_candidate_says_of_itself_changes_nothing(project: Project) -> None:
    """Metrics in the candidate's own files are files like any other: measured is what evaluate measured."""
    project.score(320)
    own = {"exact_match": 1.0, "tuned": {"exact_match": {"value": 1.0, "low": 1.0, "high": 1.0, "rows": 400}}}
    before = project.judge()
    adapter = project.path("adapter")
    for name in ("metrics.json", "scorecard.json", "eval_results.json", "all_results.json"):
        (adapter / name).write_text(json.dumps(own))
    index = "model-index:\n- name: best\n  results:\n  - metrics:\n    - {type: exact_match, value: 1.0}\n"
    (adapter / "README.md").write_text(f"---\n{index}---\n# The best model\n")
    facts = Manifest.load(adapter / digest.MANIFEST).facts | {"exact_match": 1.0, "metrics": own, "rows": 400}
    Manifest.write(adapter, facts)
    project.score(320)
    for report in ("benchmarks", "safety"):
        project.edit(report, lambda found: found.update(identity=identity(project.path("base"), adapter)))
    after = project.judge()
    assert (after.verdict, _blamed(after)) == ("refuse", {"exact-answers"})

    def measured(decision: Decision) -> list[tuple[Any, ...]]:
        own = ("evidence-", "small-", "not-the-champion")  # the model is another one, and larger
        return [(f.rule, f.verdict, f.inputs, f.reason) for f in decision.findings if not f.rule.startswith(own)]

    assert measured(before) == measured(after)
    assert len(measured(after)) >= 18


def test_case_E9_without_a_readable_policy_there_is_no_decision(project: Project) -> None:
    broken = project.root / "gates.yaml"
    for text in ("", "rules: [", "rules: []\n", POLICY.read_text().replace("rows >= 100", "rows / 0 >= 100")):
        broken.write_text(text)
        with pytest.raises(UsageError, match=r"gates\.yaml"):
            project.judge(broken)
    with pytest.raises(UsageError, match="does not exist"):
        project.judge(project.root / "gone.yaml")
    assert not project.path("decision").exists()


@pytest.mark.parametrize(("name", "kind"), [("scorecard", Scorecard), ("decision", Decision)])
def test_case_A9_a_report_torn_at_any_byte_is_detected(
    project: Project, name: str, kind: type[Scorecard | Decision]
) -> None:
    project.judge()
    path = project.path(name)
    whole = path.read_bytes()
    assert len(whole) > 2000
    for size in range(0, len(whole) - 1, 7 if name == "decision" else 1):
        path.write_bytes(whole[:size])
        with pytest.raises(StageError, match=rf"{name}.json is torn .* at byte \d+ of {size}\b"):
            kind.load(path)
    path.write_bytes(whole[:-1])  # only the newline after the closing brace: nothing is lost
    kind.load(path)


# --- the receipt ---


def test_a_receipt_leads_to_the_same_verdict_again(project: Project) -> None:
    decision = project.judge()
    assert project.recheck() == decision
    project.score(320)
    refused = project.judge()
    assert refused.verdict == "refuse"
    assert project.recheck() == refused


def _every_file(root: Path) -> list[Path]:
    return [path for path in digest.files_under(root) if path.name not in ("decision.json", "dvc.yaml")]


def test_case_D1_one_flipped_bit_in_any_input_is_named_with_both_digests(project: Project) -> None:
    project.judge()
    flipped = 0
    for path in _every_file(project.root):
        whole, before = path.read_bytes(), digest.of_file(path)
        middle = len(whole) // 2
        path.write_bytes(whole[:middle] + bytes([whole[middle] ^ 1]) + whole[middle + 1 :])
        with pytest.raises(Refused) as caught:
            project.recheck()
        assert path.name in str(caught.value)
        assert before in str(caught.value)
        assert digest.of_file(path) in str(caught.value)
        path.write_bytes(whole)
        flipped += 1
    assert flipped == 22
    assert project.recheck().verdict == "pass"


def test_a_flipped_bit_in_the_policy_is_named_with_both_digests(project: Project) -> None:
    project.judge()
    other = project.root / "gates.yaml"
    other.write_text(POLICY.read_text().replace("rows >= 100", "rows >= 101"))
    with pytest.raises(Refused) as caught:
        receipt.recheck(project.root, project.path("decision"), other)
    assert digest.of_file(POLICY) in str(caught.value)
    assert digest.of_file(other) in str(caught.value)


@pytest.mark.parametrize(
    ("change", "named"),
    [
        (lambda made: made.update(verdict="pass"), "verdict"),
        (lambda made: made["findings"].pop(0), "rule evidence-model"),
        (lambda made: made["findings"].append(made["findings"][0]), "findings"),
        (lambda made: made["findings"].reverse(), "findings"),
        (lambda made: [f.update(verdict="pass") for f in made["findings"]], "rule exact-answers"),
        (
            lambda made: [f.update(severity="advise") for f in made["findings"] if f["rule"] == "exact-answers"],
            "exact-answers",
        ),
        (lambda made: made.update(pending=[]), "pending"),
        (lambda made: made.update(identity="0" * 64), "identity"),
        (lambda made: made.update(evidence_digest="0" * 64), "evidence_digest"),
        (lambda made: made["evidence"].pop("scan.json"), "scan.json"),
        (lambda made: made["evidence"].update({"safety.json": "0" * 64}), "safety.json"),
        (lambda made: made.update(policy_digest="0" * 64), "policy"),
        (lambda made: made.update(act="register"), "rule model-name is not judged there"),
        (lambda made: made.update(verdict="maybe"), "verdict"),
    ],
)
def test_an_edited_receipt_is_refused_and_the_rule_named(
    project: Project, change: Callable[[dict[str, Any]], Any], named: str
) -> None:
    project.score(320)
    project.judge()
    project.edit("decision", change)
    with pytest.raises(Refused, match=named):
        project.recheck()


def test_a_receipt_without_its_evidence_is_refused(project: Project) -> None:
    project.judge()
    project.path("safety").unlink()
    with pytest.raises(Refused, match=r"safety\.json does not exist"):
        project.recheck()


def _registered(project: Project) -> Path:
    """A receipt of the register act, about which nothing could be observed."""
    evidence_digest = project.judge().evidence_digest
    folder = project.root / "register"
    unseen = dict.fromkeys(PARTS)
    seen = Observations(
        release="r", at="2026-03-01T10:00:00Z", evidence_digest=evidence_digest, model={"name": "support-desk"},
        model_digest="m", approvals=[], waivers=[], tags=[], missing=dict.fromkeys(PARTS, "nobody asked"), **unseen,
    )  # fmt: skip
    seen.save(folder / "observations.json")
    found = evidence.gather(Places.of(project.root, NAMES))
    judge(found, Policy.load(POLICY), digest.of_file(POLICY), "register", seen).save(folder / "decision.json")
    return folder


def test_a_receipt_of_the_register_act_rests_on_its_observations(project: Project) -> None:
    folder = _registered(project)
    again = receipt.recheck(project.root, folder / "decision.json", POLICY)
    assert (again.act, again.verdict, again.pending) == ("register", "undecided", [])
    path = folder / "observations.json"
    whole = path.read_bytes()
    for at in range(0, len(whole), 50):
        path.write_bytes(whole[:at] + bytes([whole[at] ^ 1]) + whole[at + 1 :])
        with pytest.raises(Refused) as caught:
            receipt.recheck(project.root, folder / "decision.json", POLICY)
        assert digest.of_bytes(whole) in str(caught.value)
        assert digest.of_file(path) in str(caught.value)
    path.unlink()
    with pytest.raises(Refused, match="the record of observations is missing"):
        receipt.recheck(project.root, folder / "decision.json", POLICY)


def test_policy_check_of_a_receipt_says_whether_it_holds(
    project: Project, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    project.judge()
    (project.root / "params.yaml").write_text("gate: {policy: gates.yaml}\n")
    monkeypatch.chdir(project.root)
    words = ["policy", "check", str(POLICY), "--receipt", "reports/decision.json"]

    def told(*more: str) -> tuple[int, str]:
        capsys.readouterr()
        code = app([*words, *more], exit_on_error=False, print_error=False, result_action="return_value")
        return code, capsys.readouterr().out

    code, said = told()
    assert (code, said.splitlines()[1][:5]) == (0, "pass:")
    assert "14 files are as judged" in said
    code, said = told("--json")
    assert (code, json.loads(said)["holds"], json.loads(said)["verdict"]) == (0, True, "pass")
    project.edit("safety", lambda report: report.update(probes_digest="q"))
    with pytest.raises(Refused, match=r"safety\.json"):
        told()
    code, said = told("--json")
    assert (code, json.loads(said)["holds"]) == (3, False)
