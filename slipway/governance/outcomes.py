"""How far from its bound a rule ended: the clause that decided, what was found and what was asked."""

import math
from collections.abc import Mapping
from dataclasses import dataclass

from slipway.governance import vocabulary
from slipway.governance.expressions import SHOWN, CannotTell, Clause, Context, Expression, evaluate, holds, is_number
from slipway.governance.measures import Measure, number

LONGEST_SHOWN = 80


@dataclass(frozen=True)
class Outcome:
    """The clause that decided, with its two sides as they came out."""

    clause: Clause
    holds: bool
    value: object
    limit: object

    @property
    def margin(self) -> float | None:
        """How far inside the bound; negative when outside. None where there is no distance."""
        left, right = number(self.value), number(self.limit)
        if left is None or right is None or self.clause.sign in (None, "!=", "in"):
            return None
        if self.clause.sign == "==":
            return -abs(left - right) + 0.0
        return (left - right if self.clause.sign in (">", ">=") else right - left) + 0.0

    @property
    def bound(self) -> str:
        clause = self.clause
        if clause.sign is None or clause.right is None:
            return "= yes" if clause.paths == (clause.text,) else clause.text
        shown = f"{SHOWN.get(clause.sign, clause.sign)} {clause.right}"
        limit = number(self.limit)
        return shown if limit is None or is_number(clause.right) else f"{shown} (= {limit:.6g})"

    @property
    def subject(self) -> str:
        return self.clause.left if self.clause.left is not None else self.clause.text

    def words(self, measures: Mapping[str, Measure]) -> str:
        """What was found and what was asked, with the distance."""
        if self.clause.sign is None or any(vocabulary.is_open(name) for name in self.clause.names):
            return self._as_found(measures)
        measure = self._estimate(measures)
        about = f" (value {shown(measure.value)}, {measure.rows} rows)" if measure else ""
        text = f"{self.subject} is {shown(self.value)}{about}, asked is {self.bound}"
        if self.margin is None or (self.holds and self.clause.sign == "=="):
            return text
        distance = self._distance(abs(self.margin))
        return f"{text}: {f'inside by {distance}' if self.holds else f'misses by {distance}'}"

    def _as_found(self, measures: Mapping[str, Measure]) -> str:
        if self.clause.paths == (self.clause.text,):
            return f"{self.clause.text} is {'yes' if self.holds else 'no'}"
        found = ", ".join(f"{path} is {shown(read(path, measures))}" for path in self.clause.paths)
        return f"{found}; asked is {self.clause.text}"

    def _estimate(self, measures: Mapping[str, Measure]) -> Measure | None:
        """The estimate, where the clause compares one end of a single one."""
        name, _, end = self.subject.rpartition(".")
        return measures.get(name) if vocabulary.is_estimate(name) and end in ("low", "high") else None

    def _distance(self, margin: float) -> str:
        known = [vocabulary.find(name) for name in self.clause.names]
        rate = bool(known) and all(metric is not None and metric.is_rate for metric in known)
        counted = any(path.endswith(".rows") for path in self.clause.paths)
        return f"{100 * margin:.3g} points" if rate and not counted else f"{margin:.4g}"


def deciding(expression: Expression, context: Context) -> Outcome:
    """The clause that failed, or came nearest to failing."""
    return min((_outcome(clause, context) for clause in expression.clauses), key=_first)


def _first(outcome: Outcome) -> tuple[bool, float]:
    """Failed ones first; among them those without a distance, then the farthest outside. Those that hold: the nearest."""
    margin = outcome.margin
    return outcome.holds, margin if margin is not None else (math.inf if outcome.holds else -math.inf)


def _outcome(clause: Clause, context: Context) -> Outcome:
    try:
        said = holds(clause.text, context)
    except CannotTell:  # another clause has said no before this one was asked
        return Outcome(clause, True, None, None)
    if clause.left is None or clause.right is None:
        return Outcome(clause, said, said, None)
    left, right = evaluate(clause.left, context), evaluate(clause.right, context)
    return Outcome(clause.facing_bound, said, *((left, right) if clause.facing_bound is clause else (right, left)))


def read(path: str, measures: Mapping[str, Measure]) -> object:
    """What a path of an expression read, as it came."""
    name, end = vocabulary.split(path)
    measure = measures.get(name)
    return None if measure is None else getattr(measure, end or "value")


def shown(value: object) -> str:
    found = number(value)
    if found is not None:
        return f"{found:.4g}" if abs(found) < 1e4 or not found.is_integer() else f"{found:.0f}"
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, list):
        return f"[{', '.join(str(item) for item in value)}]"[:LONGEST_SHOWN] if value else "empty"
    return repr(value)[:LONGEST_SHOWN]


def said(value: object) -> float | str | None:
    """The value of the clause that decided, as a finding shows it."""
    if isinstance(value, bool):
        return "yes" if value else "no"
    found = number(value)
    return round(found, 6) + 0.0 if found is not None else value[:LONGEST_SHOWN] if isinstance(value, str) else None


def kept(value: object) -> float | int | bool | str | list[str] | None:
    """As a receipt keeps it: finite numbers, flags and text as they are, everything else as text."""
    if value is None or isinstance(value, bool):
        return value
    if isinstance(value, int) and number(value) is not None:
        return value
    if isinstance(value, float) and number(value) is not None:
        return round(value, 6) + 0.0
    if isinstance(value, str):
        return value[:1000]
    if isinstance(value, dict):
        return sorted(str(key) for key in value)
    if isinstance(value, list):
        return [item if isinstance(item, str) else _line(item) for item in value]
    return repr(value)[:LONGEST_SHOWN]


def _line(item: object) -> str:
    return (
        ", ".join(f"{key}: {item[key]}" for key in sorted(item))
        if isinstance(item, dict)
        else repr(item)[:LONGEST_SHOWN]
    )
