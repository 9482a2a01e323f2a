"""From raw files to clean, split, tokenised rows: every row that goes in comes out, or is dropped by name."""

import re
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING

from slipway.data import duplicates, personal, rows, split
from slipway.data.packing import pack
from slipway.data.rows import Drop, Row
from slipway.data.split import SPLITS, Split
from slipway.data.template import Encoded, Template
from slipway.errors import StageError, UsageError
from slipway.progress import Progress

if TYPE_CHECKING:
    from slipway.params import PrepareParams

_BATCH = 256  # rows tokenised at once


@dataclass
class Journal:
    """What happened to rows on the way: everything dropped or altered, and how many were left after each step."""

    drops: list[Drop] = field(default_factory=list)
    steps: list[tuple[str, int]] = field(default_factory=list)

    def kept(self, result: tuple[list[Row], list[Drop]]) -> list[Row]:
        """Note a step's drops; its rows go on."""
        self.drops += result[1]
        return result[0]

    def after(self, step: str, *left: Sequence[object]) -> None:
        count = sum(len(part) for part in left)
        self.steps.append((step, count))
        print(f"{step}: {count:,} rows", flush=True)

    def counts(self, action: str) -> dict[str, int]:
        return dict(sorted(Counter(drop.reason for drop in self.drops if drop.action == action).items()))


@dataclass(frozen=True)
class Prepared:
    """Tokenised rows by split, packs of the two that are trained on, and the journal."""

    rows_in: int
    splits: dict[Split, list[Encoded]]
    packs: dict[Split, list[list[int]]]
    journal: Journal
    fallback_template: bool


def _label_of(pattern: str | None) -> "re.Pattern[str] | None":
    if pattern is None:
        return None
    try:
        compiled = re.compile(pattern)
    except re.error as error:
        raise UsageError(f"params.yaml: prepare.label_pattern {pattern!r} is no regular expression: {error}") from None
    if compiled.groups < 1:
        raise UsageError(f"params.yaml: prepare.label_pattern {pattern!r} has no group; put ( ) around the label")
    return compiled


class Cleaner:
    """Normalises and redacts rows and finds their labels, noting every alteration."""

    def __init__(self, params: "PrepareParams", journal: Journal) -> None:
        self.params, self.journal = params, journal
        self.pattern = _label_of(params.label_pattern)

    def clean(self, row: Row) -> Row:
        normal = self._altered(row, row.with_texts(rows.normal), "normalised", "spaces, line ends or characters")
        found: Counter[str] = Counter()
        redacted = normal.with_texts(lambda text: personal.redact(text, self.params.redact, found))
        detail = ", ".join(f"{kind} {count}" for kind, count in sorted(found.items()))
        clean = self._altered(normal, redacted, "personal_data", detail)
        match = self.pattern.search(clean.answer) if self.pattern and clean.label is None else None
        return replace(clean, label=match.group(1)) if match else clean

    def _altered(self, before: Row, after: Row, reason: str, detail: str) -> Row:
        if after != before:
            self.journal.drops.append(Drop(after.file, after.number, reason, detail, after.conversation, "altered"))
        return after

    def read(self, path: Path) -> tuple[int, list[Row]]:
        """(rows in the file, its usable rows, cleaned)."""
        total, kept = 0, list[Row]()
        for item in rows.read(path, self.params.max_row_bytes):
            total += 1
            if isinstance(item, Drop):
                self.journal.drops.append(item)
            else:
                kept.append(self.clean(item))
        return total, kept


def _encode(found: Iterable[Row], template: Template, max_length: int, journal: Journal) -> list[Encoded]:
    """Rows in tokens, without those that are too long or forge a special token."""
    fit: list[Row] = []
    for row in found:
        if token := template.special_in(row):
            detail = f"its text contains {token}"
            journal.drops.append(Drop(row.file, row.number, "special_token", detail, row.conversation))
        else:
            fit.append(row)
    kept: list[Encoded] = []
    progress = Progress(len(fit), "tokenised")
    for start in range(0, len(fit), _BATCH):
        for one in template.encode(fit[start : start + _BATCH]):
            if (length := len(one.input_ids)) > max_length:
                detail = f"{length} tokens, more than {max_length}"
                journal.drops.append(Drop(one.row.file, one.row.number, "too_long", detail, one.row.conversation))
            else:
                kept.append(one)
        progress.at(min(start + _BATCH, len(fit)))
    return kept


def _check_survivors(splits: Mapping[Split, Sequence[Encoded]], rows_in: int, journal: Journal) -> None:
    if splits["train"]:
        return
    reasons = Counter(journal.counts("dropped")).most_common(1)
    why = f"most were dropped as {reasons[0][0]} ({reasons[0][1]:,})" if reasons else "the split left none"
    raise StageError(
        f"no training row is left of {rows_in:,}: {why}; see docs/guide/data.md for the reasons, "
        f"then correct the data or the prepare section of params.yaml"
    )


def prepare(params: "PrepareParams", files: Mapping[Path, str], base: Path, base_max_length: int | None) -> Prepared:
    """Clean, deduplicate, redact, split, decontaminate, tokenise and pack; `files` says each file's role."""
    if base_max_length is not None and params.max_length > base_max_length:
        raise StageError(
            f"prepare.max_length is {params.max_length}, more than the {base_max_length} tokens the base model takes; "
            f"lower it in params.yaml or choose another base"
        )
    template, journal = Template(base), Journal()
    cleaner, rows_in = Cleaner(params, journal), 0
    found: dict[str, list[Row]] = {"data": [], "test": []}
    for path, role in files.items():
        total, usable = cleaner.read(path)
        rows_in += total
        found[role] += usable
    journal.steps.append(("read", rows_in))
    journal.after("parsed and redacted", *found.values())
    splits = _split(found, params, "test" not in files.values(), journal)
    encoded = {name: _encode(splits[name], template, params.max_length, journal) for name in SPLITS}
    journal.after("tokenised", *encoded.values())
    _check_survivors(encoded, rows_in, journal)
    trained: tuple[Split, ...] = ("train", "validation")
    packs = {name: pack([len(one.input_ids) for one in encoded[name]], params.max_length) for name in trained}
    return Prepared(rows_in, encoded, packs, journal, template.is_fallback)


def _split(
    found: Mapping[str, list[Row]], params: "PrepareParams", take_test: bool, journal: Journal
) -> dict[Split, list[Row]]:
    """Rows by split, none twice and none that gives a held-out row away."""
    similarity = params.near_duplicate_similarity
    data = journal.kept(duplicates.without_exact(found["data"]))
    test = journal.kept(duplicates.without_exact(found["test"]))
    journal.after("without exact duplicates", data, test)
    data = journal.kept(duplicates.without_near(data, similarity))
    journal.after("without near duplicates", data, test)
    splits = split.assign(data, params.split, take_test)
    splits["test"] += test
    for name, held_out in (("validation", "test"), ("train", "test"), ("train", "validation")):
        held: Split = "test" if held_out == "test" else "validation"
        which: Split = "train" if name == "train" else "validation"
        splits[which] = journal.kept(duplicates.without_leaks(splits[which], splits[held], held, similarity))
    journal.after("decontaminated", *splits.values())
    return splits
