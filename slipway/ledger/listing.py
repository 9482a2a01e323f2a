"""Look things up among the events: by kind, model, subject, release, person and time."""

import itertools
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

from sqlalchemy import Connection, select

from slipway.artifacts import Json
from slipway.errors import UsageError
from slipway.ledger import chain, clock, events, past
from slipway.ledger.chain import Event
from slipway.ledger.past import Archives
from slipway.ledger.tables import events as rows
from slipway.ledger.tables import sealed


@dataclass(frozen=True)
class Wanted:
    """Which events; None: any."""

    kind: str | None = None
    model: str | None = None
    subject: str | None = None
    release: str | None = None
    actor: str | None = None
    since: str | None = None  # as clock.shown writes
    until: str | None = None
    last: int | None = None  # this many of the newest


def find(root: Path, connection: Connection, wanted: Wanted) -> list[Event]:
    """Those events, in their order, archived ones too where those of the table are not enough."""
    if wanted.kind is not None and wanted.kind not in chain.KINDS:
        raise UsageError(f"{wanted.kind!r:.60} is no kind of event; there are {', '.join(sorted(chain.KINDS))}")
    if wanted.last is not None and wanted.last < 1:
        raise UsageError(f"--last is {wanted.last}; show 1 event or more")
    people = _ids(connection, wanted.actor) if wanted.actor is not None else None
    with past.readable():
        told = itertools.chain(_of_table(connection, wanted), _of_archives(root, connection, wanted))
        meant = (event for event in told if _is_meant(event, wanted, people))
        return list(itertools.islice(meant, wanted.last))[::-1]


def _is_meant(event: Event, wanted: Wanted, people: set[str] | None) -> bool:
    of_release = wanted.release in (None, event.subject, event.payload.get("release"))
    in_time = (wanted.since or "") <= event.at and (wanted.until is None or event.at < wanted.until)
    return of_release and in_time and (people is None or event.actor.get("who", {}).get("sealed") in people)


def _of_table(connection: Connection, wanted: Wanted) -> Iterator[Event]:
    """The newest first."""
    query = select(rows).order_by(rows.c.sequence.desc())
    for column, value in ((rows.c.kind, wanted.kind), (rows.c.model, wanted.model), (rows.c.subject, wanted.subject)):
        query = query.where(column == value) if value is not None else query
    if wanted.since is not None:
        query = query.where(rows.c.at >= wanted.since)
    if wanted.until is not None:
        query = query.where(rows.c.at < wanted.until)
    return map(events.of_row, connection.execute(query.execution_options(yield_per=events.BATCH)))


def _of_archives(root: Path, connection: Connection, wanted: Wanted) -> Iterator[Event]:
    """The newest first; none is fetched where all in it is older than what is wanted."""
    if wanted.since is None or past.reach(connection, wanted.since):
        kinds = None if wanted.kind is None else (wanted.kind,)
        subjects = None if wanted.subject is None else (wanted.subject,)
        yield from Archives(root, connection, kinds, wanted.model).events(subjects=subjects)


def _ids(connection: Connection, name: str) -> set[str]:
    return set(connection.execute(select(sealed.c.id).where(sealed.c.text == name)).scalars())


def with_texts(event: Event, texts: dict[str, str | None]) -> Json:
    """An event with what people are called and said in place of digests."""

    def told(value: object) -> object:
        if isinstance(value, dict) and "sealed" in value:
            return texts.get(str(value["sealed"])) or "(erased)"
        return value

    payload = {name: told(value) for name, value in event.payload.items()}
    return {
        "sequence": event.sequence, "at": event.at, "kind": event.kind, "model": event.model, "subject": event.subject,
        "who": told(event.actor.get("who", {})), "via": event.actor.get("via"), "payload": payload, "hash": event.hash,
    }  # fmt: skip


def moment(text: str, now: datetime | None = None) -> tuple[datetime, str | None]:
    """A time that somebody typed, and what was taken for granted."""
    if text.strip() == "now":
        return now or clock.read().at, None
    try:
        found = datetime.fromisoformat(text.strip())
        if found.tzinfo is not None:
            return found.astimezone(UTC), None
    except (ValueError, OverflowError):  # which no calendar has, or has in another zone only
        raise UsageError(
            f"{text!r:.60} is no time; write 2026-11-21T14:00:00Z, 2026-11-21T14:00+01:00, 2026-11-21 or now"
        ) from None
    found = found.replace(tzinfo=UTC)
    return found, f"{text} names no zone; it was taken as UTC: {clock.shown(found)[:19]}Z"
