"""What is wrong with a rule, found by trying it on the corners of what its metrics can be.

A rule is evaluated on the ends of its metrics' ranges and a hair to both sides of its own numbers. So a rule that cannot
fail, one that cannot pass, one that a worse or a less certain metric passes, and a text compared with a number show
themselves before a candidate does.
"""

import itertools
import random
import string
from collections.abc import Iterator
from functools import lru_cache
from typing import Any

from slipway.governance import vocabulary
from slipway.governance.expressions import MACROS, CannotTell, Clause, Expression, Fault, context_of, holds, parse
from slipway.governance.vocabulary import Metric

Sample = dict[str, Any]  # name → what it is
Choices = dict[str, list[Any]]  # name → what it can be

TRIED = 3_000  # samples of one expression; fewer where its corners are fewer
TRIED_WITH_LOOPS = 300  # each of which takes longer
HAIR = 1e-6  # metrics have six decimals
LONGEST = {"text": 400, "list": 60, "filled": 60}  # how many characters or items are tried
FEW_TEXTS = 5  # of which every choice is tried
# What people write. A pattern that takes all of these takes whatever comes.
ORDINARY = ("some words", "One-two_3.4", string.punctuation, "naïve 漢字", "x" * 400, "")


@lru_cache(maxsize=1024)
def faults(text: str, minimum_rows: int = 1) -> tuple[Fault, ...]:
    """Everything wrong with an expression; nothing when it can stand in a policy."""
    try:
        expression = parse(text)
        if not expression.paths:
            raise Fault("it reads no metric, so it says the same of every model")
        if minimum_rows > 1 and not any(_metric(name).rests_on_rows for name in expression.names):
            raise Fault("minimum_rows asks for nothing here, since none of its metrics rests on rows; remove it")
        choices = {name: _corners(name, expression, minimum_rows) for name in expression.names}
        found = [fault for clause in expression.clauses for fault in _of_clause(clause, expression, choices)]
        return tuple(found or _of_whole(expression, choices))
    except Fault as fault:
        return (fault,)


def _of_clause(clause: Clause, expression: Expression, choices: Choices) -> Iterator[Fault]:
    at = expression.text.index(clause.text)
    samples = list(_samples({name: choices[name] for name in clause.names}, expression))
    verdicts = [_tried(clause.text, sample, at) for sample in samples]
    if all(verdicts):
        yield Fault(f"`{clause.text}` holds whatever the candidate is, so it can never fail", at)
        return
    for name in clause.names:
        if fault := _flattering(name, clause, samples, verdicts, at) or _backwards(name, clause, samples, verdicts, at):
            yield fault


def _of_whole(expression: Expression, choices: Choices) -> list[Fault]:
    """What only shows when all clauses are asked together."""
    possible = {name: _fitting(name, expression, values) for name, values in choices.items()}
    samples = list(_samples(possible, expression))
    passing = [sample for sample in samples if _tried(expression.text, sample, 0)]
    if not passing:
        is_open = any(vocabulary.is_open(name) for name in expression.names)
        hint = "; where one could, say it in simpler words or as two rules" if is_open else ""
        return [Fault(f"no candidate can meet it, so it can never pass{hint}")]
    for name in expression.universal:
        empty = [value for value in possible[name] if value == []]
        if any(_tried(expression.text, sample, 0) for sample in _samples(possible | {name: empty}, expression)):
            return [Fault(f"all() holds for an empty list; add size({name}) > 0 &&", expression.text.index(name))]
    return []


def _fitting(name: str, expression: Expression, values: list[Any]) -> list[Any]:
    """The values that the clauses about this name alone let through."""
    alone = [clause for clause in expression.clauses if clause.names == (name,)]
    return [value for value in values if all(_tried(clause.text, {name: value}, 0) for clause in alone)]


def _tried(text: str, sample: Sample, at: int) -> bool:
    try:
        return holds(text, context_of(sample))
    except CannotTell as unclear:
        message = str(unclear)
        hint = "; every metric is a decimal: write 2.0 for 2 in sums and products" if "Unsupported" in message else ""
        raise Fault(f"type error: {message}{hint}", at) from None


def _metric(name: str) -> Metric:
    metric = vocabulary.find(name)
    assert metric is not None, f"{name}: parse() has looked it up"
    return metric


# --- better and worse ------------------------------------------------------------------------------------------------


def _flattering(name: str, clause: Clause, samples: list[Sample], verdicts: list[bool], at: int) -> Fault | None:
    """An interval that says less must not pass where one that says more fails."""
    metric = _metric(name)
    if metric.kind != "estimate":
        return None
    for sample, verdict in zip(samples, verdicts, strict=True):
        for end, edge in (("low", metric.least), ("high", metric.most)):
            wider = sample | {name: sample[name] | {end: edge}}
            if not verdict and _tried(clause.text, wider, at):
                return Fault(f"{name}.{end} is the flattering end here: a wider interval passes", at)
    return None


def _backwards(name: str, clause: Clause, samples: list[Sample], verdicts: list[bool], at: int) -> Fault | None:
    """Where a clause is about one metric, a worse one must not pass where a better one fails."""
    metric = _metric(name)
    if metric.better == "either" or clause.names != (name,):
        return None
    ranked = [
        (rank, verdict)
        for sample, verdict in zip(samples, verdicts, strict=True)
        if (rank := _rank(metric, sample[name], clause.paths == (f"{name}.rows",))) is not None
    ]
    worst_passing = min((rank for rank, verdict in ranked if verdict), default=float("inf"))
    if any(rank > worst_passing for rank, verdict in ranked if not verdict):
        which = {"flag": "is better when it says yes", "list": "is better when empty"}
        better = which.get(metric.kind, f"is better when {metric.better}")
        return Fault(f"{name} {better}, and `{clause.text}` lets a worse one pass", at)
    return None


def _rank(metric: Metric, value: Any, by_rows: bool) -> float | None:
    """How good a value is; None where that is not clear."""
    if by_rows:
        return float(value["rows"])
    if metric.kind == "estimate":
        if not value["low"] == value["value"] == value["high"]:
            return None
        value = value["value"]
    size = float(len(value)) if metric.kind == "list" else float(value)
    return size if metric.better == "higher" else -size


# --- corners ---------------------------------------------------------------------------------------------------------


def _samples(choices: Choices, expression: Expression) -> Iterator[Sample]:
    """Every combination, or a seeded choice of them where there are too many."""
    count, most = 1, TRIED_WITH_LOOPS if expression.calls & set(MACROS) else TRIED
    for values in choices.values():
        count *= len(values)
    if count <= most:
        yield from (dict(zip(choices, values, strict=True)) for values in itertools.product(*choices.values()))
        return
    chance = random.Random(0)
    for _ in range(most):
        yield {name: chance.choice(values) for name, values in choices.items()}


def _corners(name: str, expression: Expression, minimum_rows: int) -> list[Any]:
    metric = _metric(name)
    if metric.kind == "flag":
        return [True, False]
    if metric.kind in ("number", "count"):
        return _numbers(metric, expression.numbers)
    if metric.kind == "estimate":
        return _estimates(metric, expression, minimum_rows, f"{name}.rows" in expression.paths)
    return _open_values(metric, expression)


def _numbers(metric: Metric, mentioned: tuple[float, ...]) -> list[float]:
    hair = 1.0 if metric.kind == "count" else HAIR
    near = [sign * number + step for number in (0.0, *mentioned) for sign in (1, -1) for step in (-hair, 0.0, hair)]
    inside = {number + 0.0 for number in (metric.least, metric.most, *near) if metric.least <= number <= metric.most}
    return sorted(number for number in inside if metric.kind != "count" or number.is_integer())


def _estimates(metric: Metric, expression: Expression, minimum_rows: int, rows_matter: bool) -> list[Sample]:
    least, most = metric.least, metric.most
    counts = {float(minimum_rows), 1e9}
    if rows_matter:
        counts |= {number + step for number in expression.numbers for step in (-1.0, 0.0, 1.0)}
    return [
        {"value": value, "low": low, "high": high, "rows": rows}
        for value in _numbers(metric, expression.numbers)
        for low, high in dict.fromkeys(((value, value), (least, value), (value, most), (least, most)))
        for rows in (sorted(c for c in counts if c >= minimum_rows) if rows_matter else [float(minimum_rows)])
    ]


def _open_values(metric: Metric, expression: Expression) -> list[Any]:
    """The examples, the expression's own texts, and as many characters or items as its numbers speak of."""
    longest = LONGEST.get(metric.kind, 0)
    sizes = sorted({int(number) + step for number in expression.numbers if number <= longest for step in (0, 1)})
    texts = [*expression.texts, *_matching(expression, sizes), *("x" * size for size in sizes)]
    texts += [text.ljust(size, "x") for text in expression.texts for size in sizes if size > len(text)]
    found = list(metric.examples)
    if metric.kind in ("text", "filled"):
        found += [text for text in texts if metric.width in (None, len(text))]
    if metric.kind in ("list", "filled"):
        found += [*_chosen(expression.texts), *([text] for text in texts), *(["x"] * size for size in sizes)]
    if metric.kind == "map":
        found += [dict.fromkeys(some, "something") for some in _chosen(expression.texts)]
    if metric.kind == "records":
        found += _records(metric.examples[0][0], texts)
    return list({repr(value): value for value in found}.values())


def _chosen(texts: tuple[str, ...]) -> Iterator[list[str]]:
    """Every choice of a few texts; of many, all together."""
    counts = range(len(texts), 0, -1) if len(texts) <= FEW_TEXTS else [len(texts)]
    for count in counts:
        yield from (list(some) for some in itertools.combinations(texts, count))


def _records(sound: dict[str, str], texts: list[str]) -> Iterator[list[dict[str, str]]]:
    """A sound record with each text in the place of each field, one alone and all together."""
    for field in sound if texts else ():
        changed = [sound | {field: text} for text in texts]
        yield from ([one] for one in changed)
        yield changed


def _matching(expression: Expression, sizes: list[int]) -> list[str]:
    """Where a pattern is asked for: texts that fit it, and texts that come as they may."""
    fitting = [text for pattern in expression.patterns for text in pattern.fitting(sizes)]
    return [*fitting, *ORDINARY] if expression.patterns else []
