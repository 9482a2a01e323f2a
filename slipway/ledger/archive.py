"""Events that left the table: one object a run of them, in their order, compressed, with its digest in the ledger."""

import gzip
import zlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from sqlalchemy import Connection, select

from slipway import digest, settings
from slipway.errors import StageError
from slipway.ledger import places, wire
from slipway.ledger.chain import Event
from slipway.ledger.tables import archives


@dataclass(frozen=True)
class Archive:
    """A run of events, and where it lies."""

    first: int
    last: int
    last_hash: str
    uri: str  # a name is one in the state folder
    sha256: str


def listed(connection: Connection) -> list[Archive]:
    return [Archive(**row._mapping) for row in connection.execute(select(archives).order_by(archives.c.first))]


def packed(events: Sequence[Event]) -> bytes:
    """The same events are the same bytes, whoever packs them and when."""
    return gzip.compress("".join(f"{wire.text(event)}\n" for event in events).encode(), mtime=0)


def place(root: Path) -> places.Place:
    """Where archives go now."""
    uri = settings.load(root).audit_archive
    return places.of(root, uri) if uri else places.Folder(str(_home(root)))


def address(root: Path, name: str) -> str:
    """How the ledger names an archive: one in the state folder moves with it."""
    return f"{place(root).uri}/{name}" if settings.load(root).audit_archive else name


def read(root: Path, kept: Archive) -> Iterator[Event]:
    """The events of an archive whose bytes are the ones that were kept; StageError where they are not."""
    return (parsed(line, kept.uri) for line in lines(root, kept))


def lines(root: Path, kept: Archive) -> list[bytes]:
    """The same, as they lie there: most of them can be told apart without being parsed."""
    data = fetched(root, kept.uri)
    if data is None:
        raise StageError(f"the archive {kept.uri} of events {kept.first}–{kept.last} is gone; restore it from a copy")
    if (found := digest.of_bytes(data)) != kept.sha256:
        raise StageError(
            f"the archive {kept.uri} of events {kept.first}–{kept.last} changed: its SHA-256 is {found[:16]}, "
            f"recorded was {kept.sha256[:16]}; restore it from a copy"
        )
    return unpacked(data, kept.uri)


def fetched(root: Path, uri: str) -> bytes | None:
    """The bytes of an archive, wherever it was put."""
    where, slash, name = uri.rpartition("/")
    return (places.of(root, where) if slash else places.Folder(str(_home(root)))).get(name)


def unpacked(data: bytes, uri: str) -> list[bytes]:
    try:
        return gzip.decompress(data).split(b"\n")[:-1]
    except (OSError, EOFError, zlib.error) as error:
        raise _torn(uri, error) from None


def parsed(line: bytes, uri: str) -> Event:
    try:
        return wire.parsed(line.decode("utf-8"))
    except ValueError as error:
        raise _torn(uri, error) from None


def _torn(uri: str, error: Exception) -> StageError:
    return StageError(f"the archive {uri} is not whole ({error}); restore it from a copy")


def _home(root: Path) -> Path:
    return places.folder(root) / "archive"
