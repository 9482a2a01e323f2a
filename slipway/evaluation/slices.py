"""Where is the tuned model worse? The rows by label, language, length or any other column, each on its own.

Many slices mean many chances to look bad by luck, so the p-values are Holm's over all of them. Values that few rows have
make one slice together: rows do not leave the comparison because their label is rare.
"""

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

import numpy as np

from slipway import digest
from slipway.artifacts import Slice
from slipway.errors import StageError
from slipway.evaluation import comparison, scoring
from slipway.evaluation.predictions import Predictions
from slipway.evaluation.testset import TestSet

LENGTH = "length"
MINIMUM_ROWS = 5  # of fewer nothing can be said: five losses to none have p = 0.03
CERTAINTY = 0.05
NOTHING = "(none)"
RARER = "(rarer ones)"
_LONGEST_VALUE = 80

Values = dict[str, list[str]]  # column → each row's value, in the order of the test set


def values(prepared: Path, tests: TestSet, columns: Sequence[str]) -> Values:
    """Each row's value in every column to slice by."""
    import pyarrow.parquet

    path = prepared / "rows" / "test.parquet"
    known = pyarrow.parquet.read_schema(path).names
    if unknown := [column for column in columns if column != LENGTH and column not in known]:
        raise StageError(
            f"evaluate.slices names {unknown[0]!r}, which is no column of {path}; "
            f"the columns are {', '.join([LENGTH, *known])}"
        )
    stored = [column for column in dict.fromkeys(columns) if column != LENGTH]
    rows = pyarrow.parquet.read_table(path, columns=["id", *(name for name in stored if name != "id")]).to_pylist()
    by_id = {row["id"]: row for row in rows}
    found = {column: [_shown(by_id[row.id][column]) for row in tests.rows] for column in stored}
    return found | ({LENGTH: lengths(tests)} if LENGTH in columns else {})


def _places(listed: Sequence[str]) -> Iterator[tuple[str, np.ndarray]]:
    """Each value with its rows, those of rare values together; a value may itself be called what these are."""
    counts = Counter(listed)
    rare = {value for value, count in counts.items() if count < MINIMUM_ROWS}
    rarer = RARER
    while rarer in counts.keys() - rare:
        rarer = f"({rarer})"
    named = np.array([rarer if value in rare else value for value in listed], dtype=object)
    for value in sorted(set(named)):
        rows = np.flatnonzero(named == value)
        if len(rows) >= MINIMUM_ROWS:
            yield value, rows


def _shown(value: object) -> str:
    """A value as a name; a long one by its beginning and its digest, so that no two become one."""
    text = NOTHING if value is None else str(value)
    return text if len(text) <= _LONGEST_VALUE else f"{text[:60]}… {digest.of_bytes(text.encode())[:8]}"


def lengths(tests: TestSet) -> list[str]:
    """Each row's quarter by the length of its prompt, named by the shortest and longest prompt in it."""
    sizes = np.array([len(row.prompt) for row in tests.rows])
    cuts = np.unique(np.quantile(sizes, (0.25, 0.5, 0.75), method="lower"))
    quarter = np.searchsorted(cuts, sizes)
    names = {q: f"{sizes[quarter == q].min()}–{sizes[quarter == q].max()} characters" for q in np.unique(quarter)}
    return [names[q] for q in quarter]


def compare(by: Mapping[str, Sequence[str]], tuned: Predictions, champion: Predictions) -> list[Slice]:
    """Every slice of enough rows, those where the tuned model is worse first, then by how much."""
    mine, theirs = (np.array([p.exact for p in model]) for model in (tuned, champion))
    return of_marks(by, mine, theirs)


def of_marks(by: Mapping[str, Sequence[str]], mine: np.ndarray, theirs: np.ndarray) -> list[Slice]:
    """The same from right and wrong alone."""
    places = {(column, value): rows for column, listed in by.items() for value, rows in _places(listed)}
    counts = [(int((mine & ~theirs)[rows].sum()), int((theirs & ~mine)[rows].sum())) for rows in places.values()]
    p_values = [comparison.one_sided(gains, losses) for gains, losses in counts]
    adjusted = comparison.holm(p_values)
    found = [
        Slice(
            column=column,
            value=value,
            rows=len(rows),
            tuned=scoring.rate(int(mine[rows].sum()), len(rows)),
            delta=scoring.difference(gains, losses, len(rows)),
            p_value=round(p, 6),
            adjusted_p=round(surer, 6),
            worse=surer <= CERTAINTY,
        )
        for ((column, value), rows), (gains, losses), p, surer in zip(
            places.items(), counts, p_values, adjusted, strict=True
        )
    ]
    return sorted(found, key=lambda s: (not s.worse, s.delta.value, s.p_value, s.column, s.value))
