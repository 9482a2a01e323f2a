"""Events wherever they are by now: in the table, or in the archives that retention moved them to.

Whoever asks the table alone forgets, a year later, what was approved, promoted and gone back from. Archives are asked last:
they may lie on another machine. Their lines are told apart as text (canonical JSON has one form), for only few are wanted.
"""

import contextlib
import re
from collections.abc import Collection, Iterator, Mapping
from datetime import UTC, datetime
from pathlib import Path

from sqlalchemy import Connection, select

from slipway.errors import Refused
from slipway.ledger import archive, chain, clock, events
from slipway.ledger.archive import Archive
from slipway.ledger.chain import Event, canonical
from slipway.ledger.tables import events as rows

_AT = re.compile(rb'"at":"([^"]*)"')


@contextlib.contextmanager
def readable() -> Iterator[None]:
    """An event that somebody changed ends in a refusal that says where to look."""
    try:
        yield
    except chain.Broken as broken:
        raise Refused(f"{broken}; `slipway audit verify` says what was done to the ledger") from None


def sound(event: Event) -> Event:
    """The event, where it says what its hash says; chain.Broken where it does not."""
    return next(chain.checked([event], event.sequence - 1, event.previous))


def read(root: Path, connection: Connection, after: int = 0) -> Iterator[Event]:
    """Every event behind one, in order, archived ones too."""
    for kept in archive.listed(connection):
        if kept.last > after:
            wanted = archive.lines(root, kept)[max(after + 1 - kept.first, 0) :]
            yield from (archive.parsed(line, kept.uri) for line in wanted)
            after = kept.last
    yield from events.read(connection, after)


def one(root: Path, connection: Connection, sequence: int) -> Event | None:
    """The event of a number."""
    found = next(events.read(connection, sequence - 1, most=1), None)
    if found is None or found.sequence != sequence:
        found = next((event for event in read(root, connection, sequence - 1) if event.sequence == sequence), None)
    return sound(found) if found is not None else None


def before(root: Path, connection: Connection, since: str) -> int:
    """The event before the first one of a time or later: what comes after it is a run of the chain, without a gap."""
    if reach(connection, since):
        archived = Archives(root, connection, None).times()
        if found := min((number for number, at in archived if at >= since), default=None):
            return found - 1
    query = select(rows.c.sequence).where(rows.c.at >= since).order_by(rows.c.sequence).limit(1)
    first = connection.execute(query).scalar()
    return int(first) - 1 if first is not None else events.head(connection).sequence


class Archives:
    """The archived events of some kinds (of one model), the newest first; each archive is fetched once, where it is needed."""

    def __init__(
        self, root: Path, connection: Connection, kinds: Collection[str] | None, model: str | None = None
    ) -> None:
        self._root, self._listed = root, archive.listed(connection)[::-1]
        self._wanted = {"kind": kinds, "model": None if model is None else (model,)}
        self._lines: dict[str, list[bytes]] = {}

    def events(self, kinds: Collection[str] | None = None, subjects: Collection[str] | None = None) -> Iterator[Event]:
        """Those of fewer kinds, and about some subjects."""
        fewer = {"kind": kinds, "subject": subjects}
        for kept in self._listed:
            for line in reversed(_told_apart(self._of(kept), fewer)):
                event = sound(archive.parsed(line, kept.uri))
                if all(_is(event, wanted) for wanted in (self._wanted, fewer)):
                    yield event

    def times(self) -> Iterator[tuple[int, str]]:
        """Every archived event's number and time, of whatever kind, the newest first."""
        for kept in self._listed:
            lines = archive.lines(self._root, kept)
            for place in reversed(range(len(lines))):
                found = _AT.search(lines[place])  # only the actor stands before it, and names no time
                yield kept.first + place, found.group(1).decode() if found else ""

    def _of(self, kept: Archive) -> list[bytes]:
        if kept.uri not in self._lines:
            self._lines[kept.uri] = _told_apart(archive.lines(self._root, kept), self._wanted)
        return self._lines[kept.uri]


def reach(connection: Connection, at: str) -> bool:
    """Whether an archive may hold an event of a time or later."""
    return at <= latest(connection)


def latest(connection: Connection) -> str:
    """The latest time that an archived event may say, as the newest move to an archive tells it; "" where there was none."""
    if not archive.listed(connection):
        return ""
    query = select(rows).where(rows.c.kind == "events_archived").order_by(rows.c.sequence.desc()).limit(1)
    row = connection.execute(query).first()
    told = sound(events.of_row(row)) if row is not None else None
    return (
        str(told.payload.get("latest", told.at)) if told is not None else clock.shown(datetime.max.replace(tzinfo=UTC))
    )


Wanted = Mapping[str, Collection[str] | None]  # an event's field → what it may say; None: anything


def _told_apart(lines: list[bytes], wanted: Wanted) -> list[bytes]:
    """The lines that may be wanted: what a payload says may look the same."""
    for name, values in wanted.items():
        if values is not None:
            marks = [f'"{name}":{canonical(value)}'.encode() for value in values]
            lines = [line for line in lines if any(mark in line for mark in marks)]
    return lines


def _is(event: Event, wanted: Wanted) -> bool:
    return all(values is None or getattr(event, name) in values for name, values in wanted.items())
