"""The test set as `evaluate` sees it: prompts, the answers wanted, their labels."""

import itertools
import re
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from slipway import digest
from slipway.artifacts import Manifest
from slipway.errors import StageError

COLUMNS = ["id", "messages", "prompt", "answer", "label"]

LabelOf = Callable[[str], str | None]


@dataclass(frozen=True)
class Row:
    id: str
    messages: str  # JSON
    prompt: str
    answer: str
    label: str | None


@dataclass(frozen=True)
class TestSet:
    """The rows to score, by id, and how a label is read from an answer."""

    __test__ = False  # not a test class, whatever pytest thinks of its name

    rows: list[Row]
    expected: int  # how many rows had to be scored
    digest: str  # of the whole file, also where only some rows are scored
    label_of: LabelOf

    @property
    def labels(self) -> list[str]:
        return sorted({row.label for row in self.rows if row.label is not None})


def load(prepared: Path, max_rows: int | None) -> TestSet:
    """The test rows of a prepared folder, or its first `max_rows` by id."""
    import pyarrow.parquet

    path = prepared / "rows" / "test.parquet"
    if not path.is_file():
        raise StageError(f"{path} does not exist; run prepare again")
    table = pyarrow.parquet.read_table(path, columns=COLUMNS)
    rows = sorted((Row(**row) for row in table.to_pylist()), key=lambda row: row.id)
    if not rows:
        raise StageError(
            f"{path} has no rows, so nothing can be said about the model; "
            f"give ingest.test_source or raise prepare.split.test"
        )
    if twice := [a.id for a, b in itertools.pairwise(rows) if a.id == b.id]:
        raise StageError(f"{path} holds the row {twice[0]} twice; run prepare again")
    pattern = Manifest.load(prepared / digest.MANIFEST).facts.get("label_pattern")
    expected = min(len(rows), max_rows or len(rows))
    return TestSet(rows[:max_rows], expected, digest.of_file(path), label_reader(pattern, rows))


def label_reader(pattern: str | None, rows: list[Row]) -> LabelOf:
    """How to tell an answer's label: by the pattern's first group, or by the row that has this very answer."""
    if pattern is None:
        known = {row.answer.strip(): row.label for row in rows}
        return lambda answer: known.get(answer.strip())
    compiled = re.compile(pattern)

    def read(answer: str) -> str | None:
        found = compiled.search(answer)
        return found.group(1) if found else None

    return read
