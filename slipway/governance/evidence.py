"""Gather what the judge needs from what the stages left: every folder checked byte by byte, every digest made anew."""

import json
import math
from collections.abc import Mapping
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

from slipway import digest, strict
from slipway.artifacts import (
    Benchmarks,
    ChampionPin,
    Estimate,
    Inspection,
    Manifest,
    Safety,
    Scan,
    Scorecard,
    Validation,
)
from slipway.errors import StageError
from slipway.governance import recount
from slipway.governance.judge import NOTHING, Agreement, Evidence
from slipway.governance.measures import Measure
from slipway.identity import identity

SCORE = "Run evaluate again on this very model and test set."
VALIDATE = "Correct the data that reports/validation.json names, then run validate again."
AGAIN = "Run validate again on this very data, then train on it."
SCAN = "Run gate again on these very files."
TESTS = "rows/test.parquet"  # of the prepared data
PER_TOKEN = ("loss", "perplexity")
ROUNDING = 2e-6  # two estimates of six decimals
FOLDERS = ("base", "adapter", "prepared")
PINS = {"source": "pins/source.json", "pinned_base": "pins/base.json", "champion": ChampionPin.FILE}


@dataclass(frozen=True)
class Places:
    """Where the evidence of one release lies, by the names of dvc.yaml's paths."""

    source: Path
    pinned_base: Path
    champion: Path
    base: Path
    adapter: Path
    prepared: Path
    validation: Path
    inspection: Path
    loss: Path
    scorecard: Path
    predictions: Path
    benchmarks: Path
    safety: Path
    scan: Path

    @classmethod
    def of(cls, root: Path, paths: Mapping[str, str]) -> "Places":
        """Those of a workspace; `paths` is `vars.path` of its dvc.yaml."""
        return cls(**{field.name: root / paths[field.name] for field in fields(cls)})

    @property
    def files(self) -> dict[str, Path]:
        """Every file whose digest is evidence, by the name that a receipt gives it."""
        found = {f"{name}/{digest.MANIFEST}": getattr(self, name) / digest.MANIFEST for name in FOLDERS}
        for name in (field.name for field in fields(self) if field.name not in FOLDERS):
            suffix = ".parquet" if name == "predictions" else ".json"
            found[PINS.get(name, f"{name}{suffix}")] = getattr(self, name)
        return found


@dataclass(frozen=True)
class Reports:
    """The artifacts that measures come from. None: this one is not at hand, and a rule on it is undecided."""

    scorecard: Scorecard
    validation: Validation | None = None
    inspection: Inspection | None = None
    benchmarks: Benchmarks | None = None
    safety: Safety | None = None
    scan: Scan | None = None
    losses: Any = None  # what loss.json holds
    card: Any = None  # what the prepared data's card.json holds
    sizes: Mapping[str, int] | None = None  # folder → bytes


def gather(places: Places) -> Evidence:
    """The evidence of one release."""
    verified = {name: Manifest.verified(getattr(places, name)) for name in FOLDERS}
    tuned, base = identity(places.base, places.adapter), identity(places.base, None)
    reports = read(places, verified)
    files = {name: digest.of_file(_there(path)) for name, path in places.files.items()}
    champion = ChampionPin.load(places.champion)
    agreements = (
        *_of_scorecard(reports.scorecard, places, files, champion, tuned, base),
        *_of_data(reports, verified["prepared"]),
        *_of_measurements(reports, tuned, base),
        *_of_scan(reports.scan, places, verified),
    )
    serving = Measure(champion.identity if champion.kind == "version" else base)
    return Evidence(tuned, files, measures(reports) | {"evidence.champion": serving}, agreements)


def read(places: Places, verified: Mapping[str, Manifest]) -> Reports:
    """Every report, typed."""
    return Reports(
        scorecard=Scorecard.load(places.scorecard),
        validation=Validation.load(places.validation),
        inspection=Inspection.load(places.inspection),
        benchmarks=Benchmarks.load(places.benchmarks),
        safety=Safety.load(places.safety),
        scan=Scan.load(places.scan),
        losses=losses(places.loss),
        card=strict.read_json(places.prepared / "card.json"),
        sizes={name: sum(file.bytes for file in manifest.files) for name, manifest in verified.items()},
    )


def losses(path: Path) -> Any:
    """loss.json, also where NaN stands in it: that is a finding about the training, not a torn file."""
    try:
        return strict.read_json(path)
    except StageError:
        try:
            return json.loads(path.read_bytes())
        except (OSError, ValueError, RecursionError):
            pass
        raise


def _there(path: Path) -> Path:
    if not path.is_file():
        raise StageError(f"{path} does not exist; run the stage that makes it again (`dvc repro`)")
    return path


# --- what must agree -------------------------------------------------------------------------------------------------


def _of_scorecard(
    card: Scorecard, places: Places, files: Mapping[str, str], champion: ChampionPin, tuned: str, base: str
) -> list[Agreement]:
    predictions, tests = files["predictions.parquet"], _test_digest(places.prepared)
    is_scored = (predictions, tests) == (card.predictions_sha256, card.test_digest)
    return [
        Agreement("evidence-model", "the model's identity", tuned, card.identity, SCORE),
        Agreement("evidence-base", "the base model's identity", base, card.base_identity, SCORE),
        Agreement("evidence-test-set", "the test set", tests, card.test_digest, SCORE),
        Agreement("evidence-champion", "the pinned champion", _pin(champion), _pin(card.champion), SCORE),
        Agreement("evidence-predictions", "the predictions", predictions, card.predictions_sha256, SCORE),
        Agreement("evidence-rows", "the number of scored rows", str(card.items), str(card.expected_items), SCORE),
        Agreement("evidence-deltas", "the first delta that is not tuned − other", _wrong_delta(card), NOTHING, SCORE),
        Agreement(
            "evidence-recount",
            "the first figure of the scorecard that its predictions contradict",
            recount.first_wrong(card, places.predictions, places.prepared / TESTS) if is_scored else NOTHING,
            NOTHING,
            SCORE,
        ),
    ]


def _of_data(reports: Reports, prepared: Manifest) -> list[Agreement]:
    assert reports.validation is not None and reports.inspection is not None, "read() has loaded both"
    rows = {file.path: file.rows for file in prepared.files}
    inspected = [reports.inspection.train_rows, reports.inspection.test_rows]
    there = [rows.get(f"rows/{split}.parquet") for split in ("train", "test")]
    return [
        Agreement("evidence-validation", "the data's validation", _passed(reports.validation), "passed", VALIDATE),
        Agreement(
            "evidence-validated-data", "the prepared data", prepared.digest, reports.validation.prepared_digest, AGAIN
        ),
        Agreement(
            "evidence-inspected-data", "the prepared data", prepared.digest, reports.inspection.prepared_digest, AGAIN
        ),
        Agreement("evidence-inspected-rows", "the number of training and test rows", str(there), str(inspected), AGAIN),
    ]


def _of_measurements(reports: Reports, tuned: str, base: str) -> list[Agreement]:
    assert reports.benchmarks is not None and reports.safety is not None, "read() has loaded both"
    found = []
    for name, report in (("benchmarks", reports.benchmarks), ("safety", reports.safety)):
        items = _listed(report.items) or "nothing"
        found += [
            Agreement(f"evidence-{name}-model", "the model's identity", tuned, report.identity, SCORE),
            Agreement(f"evidence-{name}-base", "the base model's identity", base, report.base_identity, SCORE),
            Agreement(f"evidence-{name}-rows", f"the items of {name}", items, _listed(report.expected_items), SCORE),
        ]
    wrong = "the first delta that is not tuned − base"
    return [
        *found,
        Agreement("evidence-benchmarks-deltas", wrong, _wrong_benchmark(reports.benchmarks), NOTHING, SCORE),
        Agreement("evidence-safety-deltas", wrong, _wrong_safety(reports.safety), NOTHING, SCORE),
    ]


def _of_scan(scan: Scan | None, places: Places, verified: Mapping[str, Manifest]) -> list[Agreement]:
    """The scan is of these very files, each with the digest that its manifest gives it."""
    assert scan is not None, "read() has loaded it"
    listed = {f"{name}/{file.path}": file.sha256 for name in ("base", "adapter") for file in verified[name].files} | {
        f"{name}/{digest.MANIFEST}": digest.of_file(getattr(places, name) / digest.MANIFEST)
        for name in ("base", "adapter")
    }
    scanned = {file.path: file.sha256 for file in scan.files if file.sha256}
    odd = sorted(path for path in listed.keys() | scanned.keys() if listed.get(path) != scanned.get(path))
    refused = [file.path for file in scan.files if not file.allowed]
    sound = scan.mode == "deploy" and scan.passed == (not refused) and [file.path for file in scan.refused] == refused
    return [
        Agreement("evidence-scanned-files", "the first file that was not scanned as it is", (odd or [NOTHING])[0], NOTHING, SCAN),
        Agreement("evidence-scan", "the scan's own verdict", "sound" if sound else "contradicts its files", "sound", SCAN),
    ]  # fmt: skip


def _listed(items: Mapping[str, int]) -> str:
    return ", ".join(f"{name} {count}" for name, count in sorted(items.items()))


def _pin(champion: ChampionPin) -> str:
    return digest.of_value(champion.model_dump(mode="json"))


def _passed(report: Validation) -> str:
    """Critical checks are counted here: what the report says of itself is not enough."""
    failed = [check.expectation for check in report.checks if check.severity == "critical" and not check.passed]
    if report.passed and report.checks and not failed:
        return "passed"
    return f"failed ({', '.join(failed) or 'no critical check by name'})"


def _test_digest(prepared: Path) -> str:
    return digest.of_file(_there(prepared / TESTS))


def _wrong_delta(card: Scorecard) -> str:
    """The first delta that contradicts the metrics it is made of (a swapped baseline does), or NOTHING."""
    for other in ("base", "champion"):
        for name, tuned in card.metrics.get("tuned", {}).items():
            delta, baseline = card.deltas.get(other, {}).get(name), card.metrics.get(other, {}).get(name)
            if delta is None and name in PER_TOKEN and (other, card.champion.kind) == ("champion", "version"):
                continue  # a champion with another tokenizer; a rule on this delta is undecided
            if delta is None or baseline is None or not _is_difference(delta, tuned, baseline):
                return f"{other}.{name}"
    if card.champion.kind == "base" and card.metrics.get("champion") != card.metrics.get("base"):
        return "champion (it is the base, yet its metrics differ)"
    return NOTHING


def _wrong_benchmark(report: Benchmarks) -> str:
    for task, deltas in sorted(report.deltas.items()):
        tuned, base = (report.scores.get(model, {}).get(task) for model in ("tuned", "base"))
        for name, delta in sorted(deltas.items()):
            pair = [score.metrics.get(name) if score else None for score in (tuned, base)]
            if pair[0] is None or pair[1] is None or not _is_difference(delta, pair[0], pair[1]):
                return f"{task}.{name}"
    return NOTHING


def _wrong_safety(report: Safety) -> str:
    """Also a rate that is not the share of probes passed."""
    for name, rate in sorted(report.rates.get("tuned", {}).items()):
        passed = [probe.passed for probe in report.probes if probe.set == name]
        if len(passed) != rate.rows or abs(sum(passed) - rate.value * rate.rows) > 0.01:
            return f"tuned.{name} (its probes say {sum(passed)} of {len(passed)})"
    for name, delta in sorted(report.deltas.items()):
        pair = [report.rates.get(model, {}).get(name) for model in ("tuned", "base")]
        if pair[0] is None or pair[1] is None or not _is_difference(delta, pair[0], pair[1]):
            return name
    return NOTHING


def _is_difference(delta: Estimate, tuned: Estimate, baseline: Estimate) -> bool:
    size = max(1.0, abs(tuned.value), abs(baseline.value))
    return abs(delta.value - (tuned.value - baseline.value)) <= ROUNDING * size


# --- what rules read -------------------------------------------------------------------------------------------------


def measures(reports: Reports) -> dict[str, Measure]:
    """Every name that the evidence gives to rules. Pure, and nothing in it is believed yet."""
    return {
        **of_scorecard(reports.scorecard),
        **_of_validation(reports.validation),
        **_of_inspection(reports.inspection),
        **_of_benchmarks(reports.benchmarks),
        **_of_safety(reports.safety),
        **_of_files(reports),
        **_of_training(reports.losses),
    }


def of_scorecard(card: Scorecard) -> dict[str, Measure]:
    found = {"rows": Measure(card.items, rows=card.items)}
    scores = card.metrics | {f"delta.{other}": deltas for other, deltas in card.deltas.items()}
    for prefix, estimates in scores.items():
        found |= {f"{prefix}.{name}": Measure.of(estimate) for name, estimate in estimates.items()}
    for other, pairs in card.comparisons.items():
        rows = pairs.both + pairs.only_tuned + pairs.only_other + pairs.neither
        for name in ("only_tuned", "only_other", "p_value"):
            found[f"comparison.{other}.{name}"] = Measure(getattr(pairs, name), rows=rows)
    if card.slices:  # none: a rule on slices is undecided
        found["slices.worse"] = Measure(sum(one.worse for one in card.slices), rows=card.items)
        found["slices.worst"] = Measure.of(min((one.delta for one in card.slices), key=lambda delta: delta.value))
    return found


def _of_validation(report: Validation | None) -> dict[str, Measure]:
    if report is None:
        return {}
    warnings = sum(check.severity == "warning" and not check.passed for check in report.checks)
    passed = _passed(report) == "passed"
    return {"validation.passed": Measure(passed), "validation.failed_warnings": Measure(warnings)}


def _of_inspection(report: Inspection | None) -> dict[str, Measure]:
    if report is None:
        return {}
    prepared = report.train_rows + report.test_rows
    names = ("secrets", "personal", "poisoned_rows")
    found = {f"inspection.{name}": Measure(getattr(report, name), rows=prepared) for name in names}
    return found | {"inspection.leaked_rows": Measure(report.leaked_rows, rows=report.test_rows)}


def _of_benchmarks(report: Benchmarks | None) -> dict[str, Measure]:
    if report is None:
        return {}
    found: dict[str, Measure] = {}
    for model, tasks in report.scores.items():
        for task, score in tasks.items():
            found |= {f"benchmarks.{model}.{task}.{name}": Measure.of(e) for name, e in score.metrics.items()}
    for task, deltas in report.deltas.items():
        found |= {f"benchmarks.delta.{task}.{name}": Measure.of(estimate) for name, estimate in deltas.items()}
    for name, why in report.missing.items():
        found |= {f"benchmarks.{of}.{name}": Measure.missing(why) for of in ("tuned", "base", "delta")}
    return found


def _of_safety(report: Safety | None) -> dict[str, Measure]:
    if report is None:
        return {}
    rates = report.rates | {"delta": report.deltas}
    return {f"safety.{of}.{name}": Measure.of(e) for of, estimates in rates.items() for name, e in estimates.items()}


def _of_files(reports: Reports) -> dict[str, Measure]:
    found: dict[str, Measure] = {}
    if reports.scan is not None:
        refused = [file for file in reports.scan.files if not file.allowed]
        found["scan.passed"] = Measure(reports.scan.passed and bool(reports.scan.files) and not refused)
        found["scan.refused"] = Measure(len(refused))
        found["scan.bytes"] = Measure(sum(file.bytes for file in reports.scan.files))
    sizes = reports.sizes or {}
    found |= {f"size.{name}_bytes": Measure(sizes[name]) for name in ("base", "adapter") if name in sizes}
    about = reports.card if isinstance(reports.card, dict) else {}
    rates = [name for name in ("drop_rate", "duplicate_rate") if name in about]
    return found | {f"prepared.{name}": Measure(about[name], rows=about.get("rows_in")) for name in rates}


def _of_training(records: Any) -> dict[str, Measure]:
    """Whether every loss on record is a number, and the last one; without a record neither is known."""
    rows = [row for row in records if isinstance(row, dict)] if isinstance(records, list) else []
    if not rows or len(rows) != len(records):
        return {}
    numbers = [value for row in rows for name, value in row.items() if name.endswith("loss")]
    trained = [row["train_loss"] for row in rows if "train_loss" in row]
    if not trained:
        return {}
    finite = all(isinstance(value, int | float) and math.isfinite(value) for value in numbers)
    return {"training.finite": Measure(finite), "training.train_loss": Measure(trained[-1])}
