"""What was measured, as it came, and whether it can be believed."""

import math
from dataclasses import dataclass
from typing import Any

from slipway.artifacts import Estimate
from slipway.governance import vocabulary
from slipway.governance.vocabulary import Metric

MOST_ITEMS = 1_000  # of a list; a rule may loop over it twice


@dataclass(frozen=True)
class Measure:
    """One name of the vocabulary; nothing about it is believed yet. `low` and `high` belong to estimates alone."""

    value: object
    low: object = None
    high: object = None
    rows: object = None  # that it rests on
    doubt: str | None = None  # why there is no value, where somebody said so

    @classmethod
    def of(cls, estimate: Estimate) -> "Measure":
        return cls(estimate.value, estimate.low, estimate.high, estimate.rows)

    @classmethod
    def missing(cls, why: str) -> "Measure":
        return cls(None, doubt=why)


_TYPES: dict[str, tuple[type, ...]] = {
    "flag": (bool,),
    "text": (str,),
    "list": (list,),
    "map": (dict,),
    "records": (list,),
    "filled": (str, list, dict),
}


def doubt_of(name: str, measure: Measure | None, minimum_rows: int) -> str | None:
    """Why a measure cannot be believed; None when it can."""
    known = vocabulary.find(name)
    if measure is None or known is None:
        return f"{name} is not given" if name.startswith("model.") else f"{name} was not measured"
    if measure.doubt:
        return f"{name} is not known: {measure.doubt}"
    if known.kind == "estimate":
        return _of_estimate(name, known, measure, minimum_rows)
    if known.kind in ("number", "count"):
        doubt = _of_number(name, "value", known, measure.value)
        return doubt or (_of_rows(name, measure, minimum_rows) if known.is_of_rows and minimum_rows > 1 else None)
    if not isinstance(measure.value, _TYPES[known.kind]):
        wanted = {"flag": "neither yes nor no", "filled": "neither text nor list"}.get(known.kind, f"no {known.kind}")
        return f"{name} is {measure.value!r:.80}, {wanted}"
    items = measure.value if isinstance(measure.value, list) else []
    if len(items) > MOST_ITEMS:
        return f"{name} holds {len(items):,} items, more than the {MOST_ITEMS:,} that are read"
    wanted_item = dict if known.kind == "records" else str
    if odd := [item for item in items if not isinstance(item, wanted_item)]:
        return f"{name} holds {odd[0]!r:.80}, which does not belong there"
    return None


def _of_estimate(name: str, known: Metric, measure: Measure, minimum_rows: int) -> str | None:
    for end in ("value", "low", "high"):
        if doubt := _of_number(name, end, known, getattr(measure, end)):
            return doubt
    low, value, high = (number(getattr(measure, end)) for end in ("low", "value", "high"))
    if low is None or value is None or high is None or not low <= value <= high:
        return f"{name} is {measure.value!r} in an interval from {measure.low!r} to {measure.high!r}"
    return _of_rows(name, measure, minimum_rows)


def _of_rows(name: str, measure: Measure, minimum_rows: int) -> str | None:
    if not isinstance(measure.rows, int) or isinstance(measure.rows, bool) or not 1 <= measure.rows <= 10**12:
        return f"{name} does not say on how many rows it rests"
    if measure.rows < minimum_rows:
        return f"{name} rests on {measure.rows} rows, fewer than the {minimum_rows} needed"
    return None


def _of_number(name: str, end: str, known: Metric, value: object) -> str | None:
    found = number(value)
    if found is None or (known.kind == "count" and not found.is_integer()):
        return f"{name} has the {end} {value!r:.80}, which is not a {'count' if known.kind == 'count' else 'number'}"
    if not known.least <= found <= known.most:
        return f"{name} has the {end} {found:g}, outside the {known.least:g} to {known.most:g} it can have"
    return None


def number(value: object) -> float | None:
    """A finite number that a measurement can give: no text, no yes/no, no minus zero."""
    if isinstance(value, bool) or not isinstance(value, int | float):
        return None
    if isinstance(value, int) and abs(value) > 10**300:
        return None
    found = float(value)
    return None if not math.isfinite(found) or (found == 0 and math.copysign(1, found) < 0) else found


def in_context(name: str, measure: Measure) -> Any:
    """A believed measure as the expression sees it: every number is a decimal."""
    known = vocabulary.find(name)
    if known is not None and known.kind == "estimate":
        return {end: number(getattr(measure, end)) for end in vocabulary.FIELDS}
    found = number(measure.value)
    return measure.value if found is None else found
