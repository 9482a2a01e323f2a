"""Versions side by side: what each reached, what it was made with, what it cost. Pure: values in, a sheet out.

A value is marked best where a metric has a direction, the versions differ in it, and they were measured on the same rows.
"""

import functools
import itertools
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Literal

from slipway.artifacts import Estimate, Json
from slipway.governance import vocabulary

Better = Literal["higher", "lower", "either"]
Part = Literal["metrics", "params", "data", "cost"]
PARTS: tuple[Part, ...] = ("metrics", "params", "data", "cost")
Value = float | int | str | bool | None
_NAMED = 4  # versions that a warning names

# Metrics of the test set: they compare only where it is the same one.
_ON_TEST_ROWS = ("tuned.", "base.", "delta.", "slices.")
# Differences: they compare only where they were taken from the same model.
_FROM = {
    "delta.champion.": "parent", "slices.": "parent",
    "delta.base.": "base_digest", "safety.delta.": "base_digest", "benchmarks.delta.": "base_digest",
}  # fmt: skip


@dataclass(frozen=True)
class Subject:
    """One version, as far as it is compared."""

    model: str
    version: str
    about: Json  # the compared parts of registry.versions.Version
    estimates: Mapping[str, Estimate] = field(default_factory=dict)  # metric → with its interval, where it was kept
    rows: Mapping[str, int] = field(default_factory=dict)  # split → prepared rows
    test: str = ""  # tells the rows it was measured on

    @property
    def name(self) -> str:
        return f"{self.model} {self.version}"


@dataclass(frozen=True)
class Line:
    """One thing that is compared: a value for each version, in their order."""

    name: str
    values: list[Value]
    better: Better = "either"
    best: frozenset[int] = frozenset()  # places of the best values
    intervals: list[tuple[float, float] | None] | None = None

    @functools.cached_property
    def differs(self) -> bool:
        return self.values.count(self.values[0]) != len(self.values)


@dataclass(frozen=True)
class Sheet:
    """Versions beside each other."""

    subjects: list[Subject]
    parts: dict[Part, list[Line]]
    warnings: list[str]

    def first(self, count: int) -> "Sheet":
        """The first versions of it; what is best stays what it is among all."""
        parts = {part: [_first(line, count) for line in lines] for part, lines in self.parts.items()}
        return Sheet(self.subjects[:count], parts, self.warnings)


def _first(line: Line, count: int) -> Line:
    intervals = line.intervals[:count] if line.intervals else None
    best = frozenset(place for place in line.best if place < count)
    return replace(line, values=line.values[:count], best=best, intervals=intervals)


def better(name: str) -> Better:
    """Which way a metric is better, by the words that policies use; `either` where they do not say."""
    known = vocabulary.find(name) or vocabulary.find(f"observations.{name}")
    return known.better if known else "either"


def compare(subjects: Sequence[Subject], parts: Iterable[Part] = PARTS) -> Sheet:
    """Everything that is asked for, of any number of versions."""
    wanted = tuple(parts)
    warnings = list(_warnings(subjects)) if "metrics" in wanted else []
    makers: dict[Part, Callable[[], Iterable[Line]]] = {
        "metrics": lambda: _metrics(subjects),
        "params": lambda: _params(subjects),
        "data": lambda: _data(subjects),
        "cost": lambda: _cost(subjects),
    }
    return Sheet(list(subjects), {part: list(makers[part]()) for part in PARTS if part in wanted}, warnings)


def _warnings(subjects: Sequence[Subject]) -> Iterator[str]:
    if len({subject.test for subject in subjects}) > 1:
        yield "not all of these were measured on the same test rows, so no score is marked as the best"
    elif len({subject.about["parent"] for subject in subjects}) > 1 and _have(subjects, "parent"):
        told = ", ".join(f"{one.version} from {one.about['parent'] or 'the base'}" for one in subjects[:_NAMED])
        more = f" and {len(subjects) - _NAMED} more" if len(subjects) > _NAMED else ""
        yield f"changes from the champion are from the champion of each one's day ({told}{more}), so none is marked as the best"


def _have(subjects: Sequence[Subject], source: str) -> bool:
    starts = tuple(start for start, known in _FROM.items() if known == source)
    return any(name.startswith(starts) for subject in subjects for name in subject.about["metrics"])


def _metrics(subjects: Sequence[Subject]) -> Iterator[Line]:
    names = dict.fromkeys(itertools.chain.from_iterable(subject.about["metrics"] for subject in subjects))
    for name in sorted(names, key=place_of):
        values = [subject.about["metrics"].get(name) for subject in subjects]
        best = _best(values, better(name)) if _comparable(subjects, name) else frozenset()
        yield Line(name, values, better(name), best, _intervals(subjects, name))


def _comparable(subjects: Sequence[Subject], name: str) -> bool:
    """Whether a metric was measured on the same rows, and a difference against the same model."""
    if name.startswith(_ON_TEST_ROWS) and len({subject.test for subject in subjects}) > 1:
        return False
    source = next((source for start, source in _FROM.items() if name.startswith(start)), None)
    return source is None or len({subject.about[source] for subject in subjects}) == 1


def place_of(name: str) -> tuple[int, str]:
    """The tuned model's scores first, then what it was measured to cost, then the rest."""
    order = ("tuned.", "delta.", "safety.", "benchmarks.", "servability.", "training.", "scan.", "size.")
    return next((place for place, start in enumerate(order) if name.startswith(start)), len(order)), name


def _best(values: Sequence[Any], which: Better) -> frozenset[int]:
    """Where the best values stand; nowhere when all are the same or nothing says which is better."""
    there = [value for value in values if isinstance(value, int | float)]
    if which == "either" or len(there) < 2 or min(there) == max(there):
        return frozenset()
    wanted = max(there) if which == "higher" else min(there)
    return frozenset(place for place, value in enumerate(values) if value == wanted)


def _intervals(subjects: Sequence[Subject], name: str) -> list[tuple[float, float] | None] | None:
    if not any(name in subject.estimates for subject in subjects):
        return None
    found = [_interval(subject, name) for subject in subjects]
    return found if any(found) else None


def _interval(subject: Subject, name: str) -> tuple[float, float] | None:
    """Of the very figure that was registered, or none."""
    estimate = subject.estimates.get(name)
    if estimate is None or estimate.value != subject.about["metrics"].get(name):
        return None
    return estimate.low, estimate.high


def _params(subjects: Sequence[Subject]) -> list[Line]:
    """Every parameter, those that differ first."""
    flat = [flattened(subject.about["params"]) for subject in subjects]
    names = dict.fromkeys(itertools.chain.from_iterable(flat))
    lines = [Line(name, [values.get(name) for values in flat]) for name in names]
    return sorted(lines, key=lambda line: not line.differs)


def flattened(value: Json) -> dict[str, Value]:
    """`{"lora": {"rank": 16}}` → `{"lora.rank": 16}`; a list is one value."""
    found: dict[str, Value] = {}
    _flatten(value, "", found)
    return found


def _flatten(value: Json, above: str, found: dict[str, Value]) -> None:
    for key, inner in value.items():
        if isinstance(inner, dict):
            _flatten(inner, f"{above}{key}.", found)
        else:
            found[above + key] = ", ".join(map(str, inner)) if isinstance(inner, list) else inner


def _data(subjects: Sequence[Subject]) -> Iterator[Line]:
    def told(name: str) -> list[Value]:
        return [subject.about.get(name) for subject in subjects]

    yield Line("data version", told("data_version"))
    yield Line("data digest", told("data_digest"))
    for split in dict.fromkeys(split for subject in subjects for split in subject.rows):
        yield Line(f"{split} rows", [subject.rows.get(split) for subject in subjects])
    yield Line("raw files", told("raw_files"))
    yield Line("base", told("base_source"))
    yield Line("base digest", told("base_digest"))


def _cost(subjects: Sequence[Subject]) -> Iterator[Line]:
    seconds = [dict[str, float](subject.about["seconds"]) for subject in subjects]
    yield _cheapest("seconds", [sum(stages.values()) if stages else None for stages in seconds])
    for stage in dict.fromkeys(stage for stages in seconds for stage in stages):
        yield Line(f"seconds.{stage}", [stages.get(stage) for stages in seconds])
    if any(subject.about.get("cost") is not None for subject in subjects):
        yield _cheapest("cost", [subject.about.get("cost") for subject in subjects])
    yield _cheapest("bytes", [subject.about["bytes"] for subject in subjects])


def _cheapest(name: str, values: list[Value]) -> Line:
    return Line(name, values, "lower", _best(values, "lower"))


def as_json(sheet: Sheet) -> Json:
    """The sheet for machines: every list of values is in the order of `versions`, `best` are places in it."""
    return {
        "versions": [_subject(subject) for subject in sheet.subjects],
        **{part: [_line(line) for line in lines] for part, lines in sheet.parts.items()},
        "warnings": sheet.warnings,
    }


def _subject(subject: Subject) -> Json:
    told = ("model", "version", "stage", "state", "at", "release", "identity")
    return {name: subject.about[name] for name in told}


def _line(line: Line) -> Json:
    told: Json = {"name": line.name, "values": line.values, "differs": line.differs}
    if line.better != "either":
        told |= {"better": line.better, "best": sorted(line.best)}
    return told | ({"intervals": line.intervals} if line.intervals else {})
