"""Which rows a version learned from: an index of row digests, one for each prepared data set, shared by the versions made of it.

A row's digest is `prepare`'s own id: the first 16 hex digits of the SHA-256 of its cleaned conversation. The index holds,
sorted, eight bytes of digest with the split and the place in the raw data, and no word of any row. It outlives the
data: whoever asks for erasure gets an answer after the rows themselves are gone.
"""

import bisect
import itertools
import os
import re
import shutil
import struct
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

from slipway import atomic, digest, settings
from slipway.artifacts import Artifact, Manifest
from slipway.errors import SlipwayError, StageError

INDEX = "rows.bin"
_BATCH = 10_000
SPLITS = ("train", "validation", "test")
_RECORD = struct.Struct(">QBHQ")  # digest, split, file, row: big-endian, so that bytes sort as numbers do
_DIGEST = re.compile(r"[0-9a-f]{64}")


class Rows(Artifact):
    """`rows.json`: what `rows.bin` beside it holds."""

    FILE: ClassVar[str] = "rows.json"

    data_digest: str
    rows: dict[str, int]  # split → rows
    splits: dict[str, str]  # split → SHA-256 of its prepared rows: two versions with one test set share its digest
    files: list[str]  # of the raw data, by the number that a record has for it
    sha256: str  # of rows.bin

    @property
    def counts(self) -> dict[str, int]:
        """Rows of each split, in the order in which people say them."""
        return {name: self.rows[name] for name in SPLITS if name in self.rows}


@dataclass(frozen=True)
class Learned:
    """One row as it stands in an index."""

    id: str
    split: str
    file: str
    row: int


def folder(root: Path, data_digest: str) -> Path:
    if not _DIGEST.fullmatch(data_digest):
        raise StageError(f"{data_digest!r:.80} is no digest of prepared data; register the version again")
    return settings.state_folder(root) / "registry" / "rows" / data_digest


def keep(root: Path, data_digest: str, prepared: Path) -> None:
    """Index the rows of a folder that `prepare` made; once a data set, whole or not at all."""
    target = folder(root, data_digest)
    if (target / Rows.FILE).is_file():
        return
    target.parent.mkdir(parents=True, exist_ok=True)
    partial = target.with_name(f".{target.name}.{os.getpid()}.partial")
    shutil.rmtree(partial, ignore_errors=True)
    try:
        _write(partial, data_digest, prepared)
        partial.rename(target)
    except OSError:
        if not (target / Rows.FILE).is_file():  # else somebody else was first
            raise
    finally:
        shutil.rmtree(partial, ignore_errors=True)
    atomic.fsync_folder(target.parent)


def _write(place: Path, data_digest: str, prepared: Path) -> None:
    found = sorted(_rows(prepared))
    files = sorted({file for _, _, file, _ in found})
    number = {file: index for index, file in enumerate(files)}
    packed = b"".join(_RECORD.pack(id, split, number[file], row) for id, split, file, row in found)
    atomic.write_bytes(place / INDEX, packed)
    counts = Counter(SPLITS[split] for _, split, _, _ in found)
    listed = {file.path: file.sha256 for file in Manifest.load(prepared / digest.MANIFEST).files}
    Rows(
        data_digest=data_digest,
        rows={name: counts[name] for name in SPLITS},
        splits={name: listed[f"rows/{name}.parquet"] for name in SPLITS if f"rows/{name}.parquet" in listed},
        files=files,
        sha256=digest.of_bytes(packed),
    ).save(place / Rows.FILE)


def _rows(prepared: Path) -> Iterator[tuple[int, int, str, int]]:
    """(digest, split, raw file, its row) of every prepared row, a batch at a time."""
    from pyarrow import parquet

    for split, name in enumerate(SPLITS):
        path = prepared / "rows" / f"{name}.parquet"
        if not path.is_file():
            continue
        with parquet.ParquetFile(path) as table:
            for batch in table.iter_batches(_BATCH, columns=["id", "source_file", "source_row"]):
                for id, file, row in zip(*(column.to_pylist() for column in batch.columns), strict=True):
                    yield int(id, 16), split, file, row


# --- looking up -------------------------------------------------------------------------------------------------------


class Unreadable(Exception):
    """An index that is missing or changed: whether a version learned from a row is not known."""


def describe(root: Path, data_digest: str) -> Rows | None:
    """How many rows there were in each split; None where no index was kept."""
    path = folder(root, data_digest) / Rows.FILE
    return Rows.load(path) if path.is_file() else None


def of_row(root: Path, data_digest: str, id: str) -> list[Learned]:
    """Where a row, by its digest, stands in a data set."""
    about, packed = _checked(root, data_digest)
    wanted = bytes.fromhex(id[:16])
    first = bisect.bisect_left(_Digests(packed), wanted)
    records = (packed[start : start + _RECORD.size] for start in range(first * _RECORD.size, len(packed), _RECORD.size))
    return [_named(about, one) for one in itertools.takewhile(lambda one: one.startswith(wanted), records)]


def of_place(root: Path, data_digest: str, file: str, row: int) -> list[Learned]:
    """What became of one row of a raw file: its digest and split, where it was used."""
    about, packed = _checked(root, data_digest)
    if file not in about.files or not 0 <= row < 2**64:
        return []
    place = struct.pack(">HQ", about.files.index(file), row)
    records = (packed[start : start + _RECORD.size] for start in range(0, len(packed), _RECORD.size))
    return [_named(about, one) for one in records if one.endswith(place)]


class _Digests(Sequence[bytes]):
    """The sorted digests of an index, read where bisection looks."""

    def __init__(self, packed: bytes) -> None:
        self.packed = packed

    def __len__(self) -> int:
        return len(self.packed) // _RECORD.size

    def __getitem__(self, index: Any) -> Any:
        return self.packed[index * _RECORD.size : index * _RECORD.size + 8]


def _named(about: Rows, record: bytes) -> Learned:
    id, split, file, row = _RECORD.unpack(record)
    return Learned(f"{id:016x}", SPLITS[split], about.files[file], row)


def problem(root: Path, data_digest: str) -> str | None:
    """What is wrong with an index; None when it is as it was written."""
    try:
        _checked(root, data_digest)
    except Unreadable as error:
        return str(error)
    return None


def _checked(root: Path, data_digest: str) -> tuple[Rows, bytes]:
    """An index whose every byte is as it was written: a changed one would say "nobody" where somebody learned."""
    try:
        place = folder(root, data_digest)
        if not place.is_dir():
            raise Unreadable(f"no index of the rows of its data was kept ({place} does not exist)")
        about, packed = Rows.load(place / Rows.FILE), (place / INDEX).read_bytes()
    except (OSError, SlipwayError) as error:
        raise Unreadable(f"the index of rows of the data {data_digest} cannot be read: {error}") from None
    if about.data_digest != data_digest:
        raise Unreadable(f"{place / Rows.FILE} is about the data {about.data_digest}")
    if (found := digest.of_bytes(packed)) != about.sha256:
        raise Unreadable(f"{place / INDEX} changed: its SHA-256 is {found}, kept was {about.sha256}")
    return about, packed
