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
    """How to tell an answer's label: by the row that has this very answer, else by the pattern's first group.

    A pattern that finds nothing in the wanted answers, or other labels than the rows' own, was written for other data:
    then only the rows speak.
    """
    known = _labels_of_answers(rows)
    read = re.compile(pattern).search if pattern is not None and _fits(pattern, rows) else None

    def label_of(answer: str) -> str | None:
        text = answer.strip()
        if text in known:
            return known[text]
        found = read(answer) if read else None
        return found.group(1) if found else None

    return label_of


def _labels_of_answers(rows: list[Row]) -> dict[str, str | None]:
    """The label that goes with an answer; None where rows with the same answer have several."""
    labels: dict[str, set[str | None]] = {}
    for row in rows:
        labels.setdefault(row.answer.strip(), set()).add(row.label)
    return {answer: next(iter(found)) if len(found) == 1 else None for answer, found in labels.items()}


def _fits(pattern: str, rows: list[Row]) -> bool:
    """Whether a pattern reads at least one wanted answer's label, and never another than the row's own."""
    labelled = [row for row in rows if row.label is not None]
    read = [(row, found.group(1)) for row in labelled if (found := re.search(pattern, row.answer))]
    for row, label in read:
        if label != row.label:
            print(
                f"prepare.label_pattern reads {label!r} in the wanted answer of test row {row.id}, whose label is "
                f"{row.label!r}; it is left aside, and only answers that a row has word for word get a label",
                flush=True,
            )
            return False
    return bool(read)
