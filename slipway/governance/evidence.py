"""Gather what the judge needs from what the stages left: every folder checked byte by byte, every digest made anew."""

from collections.abc import Mapping
from pathlib import Path

from slipway import digest, strict
from slipway.artifacts import ChampionPin, Estimate, Manifest, Scorecard, Validation
from slipway.errors import StageError
from slipway.governance.judge import Agreement, Evidence, Measure
from slipway.identity import identity

SCORE = "Run evaluate again on this very model and test set."
VALIDATE = "Correct the data that reports/validation.json names, then run validate again."
AGAIN = "Run validate again on this very data, then train on it."
PER_TOKEN = ("loss", "perplexity")
ROUNDING = 2e-6  # two estimates of six decimals


def gather(
    pins: Mapping[str, Path],
    base: Path,
    adapter: Path,
    prepared: Path,
    validation: Path,
    scorecard: Path,
    predictions: Path,
) -> Evidence:
    """The evidence of one release; `pins` by the names they have in a project."""
    folders = {"base": base, "adapter": adapter, "prepared": prepared}
    verified = {name: Manifest.verified(folder) for name, folder in folders.items()}
    card, report = Scorecard.load(scorecard), Validation.load(validation)
    tuned = identity(base, adapter)
    files = {f"{name}/{digest.MANIFEST}": digest.of_file(folder / digest.MANIFEST) for name, folder in folders.items()}
    files |= {"validation.json": digest.of_file(validation), "scorecard.json": digest.of_file(scorecard)}
    files |= {name: digest.of_file(path) for name, path in pins.items()}
    files["predictions.parquet"] = digest.of_file(predictions)
    champion = ChampionPin.load(pins[ChampionPin.FILE])
    agreements = (
        Agreement("evidence-model", "the model's identity", tuned, card.identity, SCORE),
        Agreement("evidence-base", "the base model's identity", identity(base, None), card.base_identity, SCORE),
        Agreement("evidence-test-set", "the test set", _test_digest(prepared), card.test_digest, SCORE),
        Agreement("evidence-champion", "the pinned champion", _pin(champion), _pin(card.champion), SCORE),
        Agreement(
            "evidence-predictions", "the predictions", files["predictions.parquet"], card.predictions_sha256, SCORE
        ),
        Agreement("evidence-rows", "the number of scored rows", str(card.items), str(card.expected_items), SCORE),
        Agreement("evidence-deltas", "the first delta that is not tuned − other", _wrong_delta(card), "none", SCORE),
        Agreement("evidence-validation", "the data's validation", _passed(report), "passed", VALIDATE),
        Agreement(
            "evidence-validated-data", "the prepared data", verified["prepared"].digest, report.prepared_digest, AGAIN
        ),
    )
    return Evidence(tuned, files, _measures(card, report, prepared), agreements)


def _pin(champion: ChampionPin) -> str:
    return digest.of_value(champion.model_dump(mode="json"))


def _passed(report: Validation) -> str:
    """Critical checks are counted here: what the report says of itself is not enough."""
    failed = [check.expectation for check in report.checks if check.severity == "critical" and not check.passed]
    if report.passed and report.checks and not failed:
        return "passed"
    return f"failed ({', '.join(failed) or 'no critical check by name'})"


def _test_digest(prepared: Path) -> str:
    path = prepared / "rows" / "test.parquet"
    if not path.is_file():
        raise StageError(f"{path} does not exist; run prepare again")
    return digest.of_file(path)


def _wrong_delta(card: Scorecard) -> str:
    """The first delta that contradicts the metrics it is made of (a swapped baseline does), or "none"."""
    for other in ("base", "champion"):
        for name, tuned in card.metrics.get("tuned", {}).items():
            delta, baseline = card.deltas.get(other, {}).get(name), card.metrics.get(other, {}).get(name)
            if delta is None and name in PER_TOKEN and (other, card.champion.kind) == ("champion", "version"):
                continue  # a champion with another tokenizer; a rule on this delta is undecided
            if delta is None or baseline is None or not _is_difference(delta, tuned, baseline):
                return f"{other}.{name}"
    if card.champion.kind == "base" and card.metrics.get("champion") != card.metrics.get("base"):
        return "champion (it is the base, yet its metrics differ)"
    return "none"


def _is_difference(delta: Estimate, tuned: Estimate, baseline: Estimate) -> bool:
    size = max(1.0, abs(tuned.value), abs(baseline.value))
    return abs(delta.value - (tuned.value - baseline.value)) <= ROUNDING * size


def _measures(card: Scorecard, report: Validation, prepared: Path) -> dict[str, Measure]:
    found = {"rows": Measure(card.items, rows=card.items), "validation.passed": Measure(report.passed)}
    scores = card.metrics | {f"delta.{other}": deltas for other, deltas in card.deltas.items()}
    for prefix, estimates in scores.items():
        for name, estimate in estimates.items():
            found[f"{prefix}.{name}"] = Measure(estimate.value, estimate.low, estimate.high, estimate.rows)
    about = strict.read_json(prepared / "card.json")
    rates = [name for name in ("drop_rate", "duplicate_rate") if name in about]
    return found | {f"prepared.{name}": Measure(about[name]) for name in rates}
