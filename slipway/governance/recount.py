"""Count again what the scorecard says, from the predictions it rests on: right or wrong, row by row."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from slipway.artifacts import Comparison, Estimate, Scorecard
from slipway.errors import StageError
from slipway.evaluation import scoring

COLUMNS = ("id", "model", "answer", "label", "prediction", "predicted_label", "exact", "valid", "loss", "tokens")
ROUNDING = 2e-6
NONE = "none"


@dataclass(frozen=True)
class Answers:
    """One model's rows, by id."""

    rows: list[dict[str, Any]]

    @property
    def exact(self) -> list[bool]:
        return [row["prediction"].strip() == row["answer"].strip() for row in self.rows]

    @property
    def correct(self) -> list[bool]:
        """Of the labelled rows."""
        return [row["predicted_label"] == row["label"] for row in self.rows if row["label"] is not None]

    @property
    def valid(self) -> list[bool]:
        """As the row says: only evaluate knows what format was asked for."""
        return [bool(row["valid"]) for row in self.rows]

    @property
    def loss(self) -> float:
        return float(sum(row["loss"] for row in self.rows) / max(1, sum(row["tokens"] for row in self.rows)))


def first_wrong(card: Scorecard, predictions: Path) -> str:
    """The first figure that the predictions contradict, with both values; "none" when all stand."""
    answers = _read(predictions)
    if card.champion.kind == "base" and "base" in answers:
        answers["champion"] = answers["base"]
    for model in ("tuned", "base", "champion"):
        rows = answers.get(model)
        if rows is None or len(rows.rows) != card.items:
            return f"items of {model}: {len(rows.rows) if rows else 0} rows, not {card.items}"
        if [row["id"] for row in rows.rows] != [row["id"] for row in answers["tuned"].rows]:
            return f"rows of {model}: not the ones of tuned"
        if stated := next(
            (row["id"] for row, right in zip(rows.rows, rows.exact, strict=True) if row["exact"] != right), None
        ):
            return f"exact of {model}, row {stated}"
        if wrong := _wrong_metric(card.metrics.get(model, {}), rows):
            return f"{model}.{wrong}"
    return _wrong_pair(card, answers) or NONE


def _read(path: Path) -> dict[str, Answers]:
    import pyarrow
    import pyarrow.parquet

    try:
        rows = pyarrow.parquet.read_table(path).select(list(COLUMNS)).to_pylist()
    except (pyarrow.ArrowException, KeyError, OSError) as error:
        reason = (str(error).splitlines() or ["not Parquet"])[0]
        raise StageError(f"{path} is no table of predictions ({reason}); run evaluate again") from None
    found: dict[str, Answers] = {}
    for row in sorted(rows, key=lambda row: str(row["id"])):
        found.setdefault(str(row["model"]), Answers([])).rows.append(row)
    return found


def _wrong_metric(stated: dict[str, Estimate], answers: Answers) -> str | None:
    """Rates with their intervals, and the loss."""
    counted = {"exact_match": answers.exact, "accuracy": answers.correct, "format_validity": answers.valid}
    for name, marks in counted.items():
        if name in stated and not _same(stated[name], scoring.rate(sum(marks), len(marks)) if marks else None):
            return f"{name}: {sum(marks)} of {len(marks)} rows, not {stated[name].value}"
    if "loss" in stated and abs(stated["loss"].value - answers.loss) > ROUNDING * max(1.0, answers.loss):
        return f"loss: {answers.loss:.6g}, not {stated['loss'].value}"
    return None


def _wrong_pair(card: Scorecard, answers: dict[str, Answers]) -> str | None:
    """The paired differences of exact match, and the counts of McNemar's test."""
    for other in ("base", "champion"):
        pairs = list(zip(answers["tuned"].exact, answers[other].exact, strict=True))
        gains, losses = pairs.count((True, False)), pairs.count((False, True))
        delta = card.deltas.get(other, {}).get("exact_match")
        if delta is not None and not _same(delta, scoring.difference(gains, losses, len(pairs))):
            return f"delta.{other}.exact_match: {gains} rows gained and {losses} lost, not {delta.value}"
        if other in card.comparisons and _counts(card.comparisons[other]) != _paired(pairs):
            return f"comparison.{other}: {gains} rows gained and {losses} lost"
    return None


def _counts(found: Comparison) -> tuple[int, ...]:
    return found.both, found.only_tuned, found.only_other, found.neither


def _paired(pairs: Sequence[tuple[bool, bool]]) -> tuple[int, ...]:
    return tuple(pairs.count(pair) for pair in ((True, True), (True, False), (False, True), (False, False)))


def _same(stated: Estimate, found: Estimate | None) -> bool:
    if found is None or stated.rows != found.rows:
        return False
    return all(abs(getattr(stated, end) - getattr(found, end)) <= ROUNDING for end in ("value", "low", "high"))
