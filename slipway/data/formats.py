"""Source files of rows: JSON Lines, gzipped JSON Lines and Parquet, told apart by content."""

import codecs
import gzip
import io
import json
import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from slipway import strict
from slipway.errors import StageError

SUFFIXES = (".jsonl", ".jsonl.gz", ".json", ".json.gz", ".ndjson", ".parquet")
HEAD_BYTES = 2000  # of a row too large to keep: enough to recognise it by
LARGEST_PROBED_ROW = 16_000_000

_BOMS = {codecs.BOM_UTF8: "UTF-8", codecs.BOM_UTF16_LE: "UTF-16", codecs.BOM_UTF16_BE: "UTF-16"}
_CHUNK = 1 << 20
_REASONS = {"stands twice": "duplicate_key", "is not a JSON value": "not_finite", "nested too deeply": "too_deep"}

Kind = Literal["jsonl", "gzip", "parquet"]


@dataclass(frozen=True)
class Record:
    """One row as it came: its number from 1 (a line's number), its text and, unless broken, its value."""

    number: int
    text: str
    value: Any = None
    reason: str | None = None  # why it cannot be used, one of docs/guide/data.md's reasons
    detail: str = ""


def kind_of(path: Path) -> Kind:
    """What a file is by its first bytes, whatever its name says."""
    with path.open("rb") as stream:
        head = stream.read(4)
    if head == b"PAR1":
        return "parquet"
    return "gzip" if head[:2] == b"\x1f\x8b" else "jsonl"


def _open(path: Path) -> io.BufferedIOBase:
    return gzip.open(path, "rb") if kind_of(path) == "gzip" else path.open("rb")


def _torn(path: Path, error: Exception) -> StageError:
    return StageError(f"{path} is not an intact gzip file: {error}; compress or copy it again")


def _lines(path: Path, largest: int) -> Iterator[tuple[int, bytes, int]]:
    """(number, bytes, size) of every line; of a line above `largest` bytes only its head is ever held."""
    number = 0
    try:
        with _open(path) as stream:
            while piece := stream.readline(largest + 1):
                number, size = number + 1, len(piece)
                kept = piece if size <= largest or piece.endswith(b"\n") else piece[:HEAD_BYTES]
                while not piece.endswith(b"\n") and (piece := stream.readline(_CHUNK)):
                    size += len(piece)
                yield number, kept, size
    except (EOFError, gzip.BadGzipFile, zlib.error) as error:
        raise _torn(path, error) from None


def _not_finite(value: Any) -> bool:
    return isinstance(value, float) and not (-float("inf") < value < float("inf"))


def _fault(value: Any) -> tuple[str, str] | None:
    """What makes a parsed value unusable: depth, NaN or infinity, text that is not Unicode."""
    level, depth = [value], 0
    while level:
        depth += 1
        if depth > strict.MAX_DEPTH:
            return "too_deep", f"nested deeper than {strict.MAX_DEPTH} levels"
        if any(_not_finite(item) for item in level):
            return "not_finite", "NaN or infinity"
        below: list[Any] = []
        for item in level:
            if isinstance(item, dict):
                below += [*item.keys(), *item.values()]
            elif isinstance(item, list):
                below += item
            elif isinstance(item, str) and not _is_unicode(item):
                return "bad_text", "half of a surrogate pair"
        level = below
    return None


def _is_unicode(text: str) -> bool:
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True


def _parsed(number: int, data: bytes) -> Record:
    text = data.decode("utf-8", errors="replace").strip()
    try:
        value = strict.loads_json(data.decode("utf-8"))
    except UnicodeDecodeError as error:
        return Record(number, text, reason="bad_text", detail=f"not UTF-8 at byte {error.start} of the row")
    except json.JSONDecodeError as error:
        detail = f"{error.msg.removesuffix(' at')} at character {error.pos}"
        return Record(number, text, reason="broken_json", detail=detail)
    except ValueError as error:
        reason = next((name for part, name in _REASONS.items() if part in str(error)), "broken_json")
        return Record(number, text, reason=reason, detail=str(error))
    return _checked(number, text, value)


def _checked(number: int, text: str, value: Any) -> Record:
    if not isinstance(value, dict):
        return Record(number, text, reason="not_an_object", detail=f"a {type(value).__name__}, not an object")
    if fault := _fault(value):
        return Record(number, text.encode(errors="replace").decode(), reason=fault[0], detail=fault[1])
    return Record(number, text, value)


def _too_large(number: int, head: str, size: int, largest: int) -> Record:
    return Record(number, head, reason="too_large", detail=f"{size:,} bytes, more than {largest:,}")


def _from_lines(path: Path, largest: int) -> Iterator[Record]:
    for number, data, size in _lines(path, largest):
        if size > largest and size - data.endswith(b"\n") > largest:
            yield _too_large(number, data[:HEAD_BYTES].decode("utf-8", errors="replace"), size, largest)
        elif data.strip():
            yield _parsed(number, data)


def _from_parquet(path: Path, largest: int) -> Iterator[Record]:
    import pyarrow as pa
    from pyarrow import parquet

    number = 0
    try:
        with parquet.ParquetFile(path) as file:
            for batch in file.iter_batches(batch_size=256):
                for value in batch.to_pylist():
                    number += 1
                    value = {key: item for key, item in value.items() if item is not None}
                    text = json.dumps(value, ensure_ascii=False, default=str)
                    size = len(text.encode(errors="replace"))
                    if size > largest:
                        yield _too_large(number, text[:HEAD_BYTES], size, largest)
                    else:
                        yield _checked(number, text, value)
    except (pa.ArrowException, OSError) as error:
        first = str(error).splitlines()[0]
        raise StageError(f"{path} is not a readable Parquet file: {first}; write or copy it again") from None


def records(path: Path, largest: int) -> Iterator[Record]:
    """Every row of a file, the broken ones with their reason; blank lines are no rows."""
    return _from_parquet(path, largest) if kind_of(path) == "parquet" else _from_lines(path, largest)


def _check_text(path: Path) -> None:
    """Raise unless a text file is UTF-8 without a byte order mark, naming offset and line."""
    decoder, offset, line = codecs.getincrementaldecoder("utf-8")(), 0, 1
    try:
        with _open(path) as stream:
            while chunk := stream.read(_CHUNK):
                for mark, name in _BOMS.items():
                    if offset == 0 and chunk.startswith(mark):
                        raise StageError(f"{path} starts with a {name} byte order mark (byte 0); save it as UTF-8")
                pending = len(decoder.getstate()[0])
                try:
                    decoder.decode(chunk)
                except UnicodeDecodeError as error:
                    place = max(error.start - pending, 0)
                    line += chunk.count(b"\n", 0, place)
                    raise _not_utf8(path, offset - pending + error.start, line) from None
                offset, line = offset + len(chunk), line + chunk.count(b"\n")
    except (EOFError, gzip.BadGzipFile, zlib.error) as error:
        raise _torn(path, error) from None
    if pending := len(decoder.getstate()[0]):
        raise _not_utf8(path, offset - pending, line)


def _not_utf8(path: Path, offset: int, line: int) -> StageError:
    return StageError(f"{path} is not UTF-8 at byte {offset} (line {line}); save it as UTF-8")


def check(path: Path, called: str) -> int:
    """How many rows a source file holds; StageError when it is empty, unreadable or has no usable row.

    `called` is what the person knows the file as: it may lie here under another name.
    """
    try:
        return _count(path)
    except StageError as error:
        raise StageError(str(error).replace(str(path), called)) from None


def _count(path: Path) -> int:
    if path.stat().st_size == 0:
        raise StageError(f"{path} is empty; give a file with at least one row")
    if kind_of(path) != "parquet":
        _check_text(path)
    rows, bad, first, usable = 0, 0, None, False
    for record in records(path, LARGEST_PROBED_ROW):
        rows += 1
        usable = usable or record.reason is None
        if record.reason is not None:
            bad, first = bad + 1, first or record
    if rows == 0:
        raise StageError(f"{path} has no rows; give a file with at least one")
    if not usable and first is not None:
        raise StageError(
            f"{path} has no usable row: all {bad} are broken, the first at row {first.number} "
            f"({first.reason}: {first.detail}); give JSON Lines (one object a line) or Parquet"
        )
    return rows
