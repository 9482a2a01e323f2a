"""Count again what the scorecard says, from the predictions it rests on: right or wrong, row by row.

The rows are those of the prepared test set, each once, with the answer and label that stand there: predictions on easier
rows, or on the same rows with other answers wanted, would agree with any scorecard.
"""

import itertools
import math
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

Reference = tuple[str, str, str | None]  # of a test row: id, the answer that is wanted, its label


@dataclass(frozen=True)
class Answers:
    """One model's rows, by id."""

    rows: list[dict[str, Any]]

    @property
    def references(self) -> list[Reference]:
        return [(row["id"], row["answer"], row["label"]) for row in self.rows]

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


def first_wrong(card: Scorecard, predictions: Path, tests: Path) -> str:
    """The first figure that the predictions on these tests contradict, with both values; "none" when all stand."""
    answers = _read(predictions)
    if card.champion.kind == "base" and "base" in answers:
        answers["champion"] = answers["base"]
    asked = _references(tests)[: card.items]
    for model in ("tuned", "base", "champion"):
        if wrong := _wrong_rows(answers.get(model, Answers([])), asked, card.items):
            return f"rows of {model}: {wrong}"
        rows = answers[model]
        if stated := next(
            (row["id"] for row, right in zip(rows.rows, rows.exact, strict=True) if row["exact"] != right), None
        ):
            return f"exact of {model}, row {stated}"
        if wrong := _wrong_metric(card.metrics.get(model, {}), rows):
            return f"{model}.{wrong}"
    return _wrong_pair(card, answers) or NONE


def _wrong_rows(answers: Answers, asked: list[Reference], items: int) -> str | None:
    """How the rows are not those that had to be asked: the first ones of the test set, by id."""
    found = answers.references
    if found == asked and len(found) == items:
        return None
    ids, wanted = [row[0] for row in found], [row[0] for row in asked]
    if len(set(ids)) < len(ids):
        return f"{next(a for a, b in itertools.pairwise(ids) if a == b)} is there twice"
    for what, odd in (("missing", set(wanted) - set(ids)), ("not of the test set", set(ids) - set(wanted))):
        if odd:
            return f"{min(odd)} is {what}"
    changed = next((row[0] for row, other in zip(found, asked, strict=False) if row != other), None)
    return f"{changed} has another answer or label than in the test set" if changed else f"{len(found)}, not {items}"


def _references(tests: Path) -> list[Reference]:
    """The prepared test rows by id, as evaluate asks them."""
    rows = _table(tests, ("id", "answer", "label"), "run prepare again")
    return sorted(((row["id"], row["answer"], row["label"]) for row in rows), key=lambda row: str(row[0]))


def _read(path: Path) -> dict[str, Answers]:
    found: dict[str, Answers] = {}
    for row in sorted(_table(path, COLUMNS, "run evaluate again"), key=lambda row: str(row["id"])):
        if not _is_whole(row):
            raise StageError(f"{path}: the row {row['id']!r:.80} of {row['model']!r:.80} is torn; run evaluate again")
        found.setdefault(row["model"], Answers([])).rows.append(row)
    return found


def _table(path: Path, columns: Sequence[str], again: str) -> list[dict[str, Any]]:
    import pyarrow
    import pyarrow.parquet

    try:
        rows: list[dict[str, Any]] = pyarrow.parquet.read_table(path).select(list(columns)).to_pylist()
    except (pyarrow.ArrowException, KeyError, OSError) as error:
        reason = (str(error).splitlines() or ["not Parquet"])[0]
        raise StageError(f"{path} is no table of {', '.join(columns)} ({reason}); {again}") from None
    return rows


def _is_whole(row: dict[str, Any]) -> bool:
    """Texts where texts belong, and numbers that can be added up."""
    texts = all(isinstance(row[name], str) for name in ("id", "model", "answer", "prediction"))
    marks = all(isinstance(row[name], bool) for name in ("exact", "valid"))
    return (
        texts
        and marks
        and isinstance(row["tokens"], int)
        and isinstance(row["loss"], float)
        and math.isfinite(row["loss"])
    )


def _wrong_metric(stated: dict[str, Estimate], answers: Answers) -> str | None:
    """Rates with their intervals, and the loss."""
    counted = {"exact_match": answers.exact, "accuracy": answers.correct, "format_validity": answers.valid}
    for name, marks in counted.items():
        if name in stated and not _same(stated[name], scoring.rate(sum(marks), len(marks)) if marks else None):
            return f"{name}: {sum(marks)} of {len(marks)} rows, not {stated[name].value}"
    if "loss" in stated and not abs(stated["loss"].value - answers.loss) <= ROUNDING * max(1.0, answers.loss):
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
