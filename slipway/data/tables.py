"""The tables that expectations speak about: raw rows, prepared rows, and one row that sums both up.

Nothing here believes what prepare says of itself: shares and overlaps are counted again from rows and drops.
"""

import re
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from slipway.artifacts import Manifest
from slipway.data import formats
from slipway.errors import StageError

if TYPE_CHECKING:
    import pandas

SPLITS = ("train", "validation", "test")
_SHAPES = {"chat": {"messages"}, "preference": {"chosen", "rejected"}, "prompt": {"prompt", "completion"}}

COLUMNS: dict[str, tuple[str, ...]] = {
    "raw": ("source_file", "source_row", "role", "shape", "chars", "problem"),
    "prepared": (
        *("id", "source_file", "source_row", "messages", "prompt", "answer", "rejected", "label", "language", "tokens"),
        *("split", "prompt_chars", "answer_chars", "in_other_split"),
    ),
    "summary": (
        *("rows_in", "rows_out", "unaccounted_rows", "drop_rate", "duplicate_rate", "leak_rate"),
        *("train_rows", "validation_rows", "test_rows", "overlapping_rows"),
        *("labels", "labelled_share", "largest_label_share", "smallest_label_share", "main_language_share"),
    ),
}


@dataclass(frozen=True)
class Table:
    """Rows to judge, where each of them stands in the raw data, and a sentence on some columns."""

    frame: "pandas.DataFrame"
    places: list[str]  # empty for a table that has no rows of data
    notes: dict[str, str] = field(default_factory=dict)


def _places(frame: "pandas.DataFrame") -> list[str]:
    pairs = zip(frame["source_file"], frame["source_row"], strict=True)
    return [f"{file}:{row}" for file, row in pairs]


def _parquet(path: Path) -> "pandas.DataFrame":
    import pyarrow
    import pyarrow.parquet

    try:
        return pyarrow.parquet.read_table(path).to_pandas()
    except FileNotFoundError:
        raise StageError(f"{path} does not exist; run `dvc repro prepare`") from None
    except pyarrow.ArrowException as error:
        first = str(error).splitlines()[0]
        raise StageError(f"{path} is not readable as Parquet ({first}); run prepare again") from None


def raw(folder: Path) -> Table:
    """The rows as they came: where each stands, its shape and length, and what is wrong with those that are broken."""
    import pandas

    roles: dict[str, str] = Manifest.verified(folder).facts["roles"]
    rows = [
        (file, record.number, role, _shape(record), len(record.text), record.reason)
        for file, role in sorted(roles.items())
        for record in formats.records(folder / file, formats.LARGEST_PROBED_ROW)
    ]
    frame = pandas.DataFrame(rows, columns=list(COLUMNS["raw"]))
    return Table(frame, _places(frame))


def _shape(record: formats.Record) -> str | None:
    """The shape whose fields a row has."""
    fields = record.value.keys() if isinstance(record.value, dict) else ()
    return next((shape for shape, needed in _SHAPES.items() if needed <= set(fields)), None)


def prepared(folder: Path) -> Table:
    """The rows of all three splits, with their lengths and whether the same prompt stands in another split."""
    import pandas

    parts = {split: _parquet(folder / "rows" / f"{split}.parquet") for split in SPLITS}
    frame = pandas.concat([part.assign(split=split) for split, part in parts.items()], ignore_index=True)
    frame["prompt_chars"] = frame["prompt"].str.len()
    frame["answer_chars"] = frame["answer"].str.len()
    plain = frame["prompt"].fillna("").map(_plain)
    frame["in_other_split"] = frame.groupby(plain)["split"].transform("nunique") > 1
    return Table(frame, _places(frame))


def _plain(prompt: str) -> str:
    """A prompt without the differences that nobody sees."""
    return re.sub(r"\W+", " ", prompt).casefold().strip()


def _share(part: int, whole: int) -> float:
    return part / whole if whole else 0.0


def summary(raw: Table, prepared: Table, folder: Path) -> Table:
    """One row: what went in, what came out, what was lost why, and how the labels lie."""
    import pandas

    drops = _parquet(folder / "drops.parquet")
    facts: dict[str, Any] = {}
    notes: dict[str, str] = {}
    parts = (_funnel(raw, prepared, drops), _splits(prepared), _labels(prepared), _languages(prepared))
    for one_facts, one_notes in parts:
        facts |= one_facts
        notes |= one_notes
    return Table(pandas.DataFrame([facts])[list(COLUMNS["summary"])], [], {k: str(v) for k, v in facts.items()} | notes)


Facts = tuple[dict[str, Any], dict[str, str]]


def _funnel(raw: Table, prepared: Table, drops: "pandas.DataFrame") -> Facts:
    rows_in, rows_out = len(raw.frame), len(prepared.frame)
    reasons = drops.loc[drops["action"] == "dropped", "reason"]
    lost = {
        "drop_rate": len(reasons),
        "duplicate_rate": int(reasons.str.contains("duplicate").sum()),
        "leak_rate": int(reasons.str.startswith("leaked").sum()),
    }
    facts = {"rows_in": rows_in, "rows_out": rows_out, "unaccounted_rows": abs(rows_in - rows_out - len(reasons))}
    notes = {name: f"{_share(count, rows_in):.4f}: {count:,} of {rows_in:,} raw rows" for name, count in lost.items()}
    if lost["drop_rate"]:
        worst, count = reasons.value_counts().index[0], int(reasons.value_counts().iloc[0])
        notes["drop_rate"] += f", {count:,} of them as {worst}"
    notes["unaccounted_rows"] = f"{rows_in:,} in, {rows_out:,} out, {len(reasons):,} dropped"
    return facts | {name: _share(count, rows_in) for name, count in lost.items()}, notes


def _splits(prepared: Table) -> Facts:
    counts = prepared.frame["split"].value_counts()
    facts = {f"{split}_rows": int(counts.get(split, 0)) for split in SPLITS}
    return facts | {"overlapping_rows": int(prepared.frame["in_other_split"].sum())}, {}


def _labels(prepared: Table) -> Facts:
    """How many labels the training rows carry and how evenly; unlabelled data has none, which is no fault."""
    train = prepared.frame.loc[prepared.frame["split"] == "train", "label"]
    counts = train.dropna().value_counts()
    labelled = int(counts.sum())
    facts = {
        "labels": len(counts),
        "labelled_share": _share(labelled, len(train)),
        "largest_label_share": _share(int(counts.max()), labelled) if labelled else 0.0,
        "smallest_label_share": _share(int(counts.min()), labelled) if labelled else 0.0,
    }
    notes = {"labels": f"{len(counts)} labels on {labelled:,} of {len(train):,} training rows"}
    if labelled:
        notes["largest_label_share"] = _label_note(counts.index[0], int(counts.iloc[0]), labelled)
        notes["smallest_label_share"] = _label_note(counts.index[-1], int(counts.iloc[-1]), labelled)
    if len(counts) == 1:
        notes["labels"] = f"only one, {_name(counts.index[0])}, on {labelled:,} of {len(train):,} training rows"
    return facts, notes


def _label_note(label: str, count: int, labelled: int) -> str:
    return f"{_share(count, labelled):.4f}: {_name(label)} on {count:,} of {labelled:,} labelled training rows"


def _name(label: str) -> str:
    """A label or language that reads like a class's name; anything else may be private and is withheld."""
    return label if re.fullmatch(r"[A-Za-z][A-Za-z _-]{0,39}", label) else "a name withheld"


def _languages(prepared: Table) -> Facts:
    counts = prepared.frame["language"].dropna().value_counts()
    if not len(counts):
        return {"main_language_share": 0.0}, {}
    share = _share(int(counts.iloc[0]), len(prepared.frame))
    return {"main_language_share": share}, {"main_language_share": f"{share:.4f}: {_name(counts.index[0])}"}
