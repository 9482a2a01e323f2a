"""The rows of `approvals` and `grants`, and the events that tell them: what a person gave, and whether it still stands."""

import json
from collections import deque
from collections.abc import Collection
from typing import Any

from sqlalchemy import Connection, Table, insert, or_, select, update

from slipway.artifacts import Json
from slipway.ledger import chain, clock, events
from slipway.ledger import sealed as sealed_texts
from slipway.ledger.chain import Event, canonical
from slipway.ledger.clock import Reading
from slipway.ledger.tables import approvals, archives, grants, sealed
from slipway.ledger.tables import events as rows


def add_approval(connection: Connection, about: Json, state: str, sequence: int) -> None:
    _add(connection, approvals, about, sequence, state=state)


def add_grant(connection: Connection, kind: str, about: Json, sequence: int) -> None:
    _add(connection, grants, about, sequence, state="open", kind=kind)


def _add(connection: Connection, table: Table, about: Json, sequence: int, **values: str) -> None:
    named = {name: about[name] for name in ("id", "model", "release")}
    connection.execute(insert(table).values(**named, **values, about=canonical(about), sequence=sequence))


def approvals_of(connection: Connection, model: str | None, release: str | None = None) -> list[Any]:
    """Their rows, of one release or of all, of one model or of all, the oldest first."""
    return _of(connection, approvals, model, release)


def approval(connection: Connection, identifier: str) -> Any | None:
    """The row of one approval, by its id or the start of it."""
    found = connection.execute(select(approvals).where(approvals.c.id.startswith(identifier, autoescape=True)).limit(2))
    known = list(found)
    return known[0] if len(known) == 1 else None


def grants_of(connection: Connection, model: str | None = None, kind: str | None = None) -> list[Any]:
    query = select(grants).order_by(grants.c.sequence)
    query = query.where(grants.c.model == model) if model is not None else query
    query = query.where(grants.c.kind == kind) if kind is not None else query
    return list(connection.execute(query))


def _of(connection: Connection, table: Table, model: str | None, release: str | None) -> list[Any]:
    query = select(table).order_by(table.c.sequence)
    query = query.where(table.c.model == model) if model is not None else query
    return list(connection.execute(query.where(table.c.release == release) if release is not None else query))


def set_approval(connection: Connection, identifier: str, state: str) -> None:
    connection.execute(update(approvals).where(approvals.c.id == identifier).values(state=state))


def set_grant(connection: Connection, identifier: str, state: str) -> None:
    connection.execute(update(grants).where(grants.c.id == identifier).values(state=state))


# --- what the events say of them ------------------------------------------------------------------------------------------


def told(connection: Connection, sequence: int) -> Event:
    """An event that follows on the one before it and that the one after it follows; chain.Broken where it does not."""
    near = list(events.read(connection, after=sequence - 2, most=3))
    if not near:
        raise chain.Broken(sequence, "is not in the ledger")
    found = [
        event for event in chain.checked(near, near[0].sequence - 1, near[0].previous) if event.sequence == sequence
    ]
    if not found:
        raise chain.Broken(sequence, "is not in the ledger")
    return found[0]


def history(connection: Connection, model: str, subjects: Collection[str], kinds: Collection[str]) -> list[Event]:
    """Every event of some kinds about some of a model's versions and releases, in order."""
    about = or_(*(rows.c.subject == subject for subject in subjects))
    query = select(rows).where(rows.c.model == model, rows.c.kind.in_(list(kinds)), about).order_by(rows.c.sequence)
    return [events.of_row(row) for row in connection.execute(query)]


def check_since(connection: Connection, model: str, subjects: Collection[str]) -> None:
    """Hold every event since a release began against the one before; chain.Broken at the first that does not follow.

    Where its beginning is not what comes first of it, in an archive or taken out, all that the table has is held.
    """
    about = or_(*(rows.c.subject == subject for subject in subjects))
    first = connection.execute(
        select(rows).where(rows.c.model == model, about).order_by(rows.c.sequence).limit(1)
    ).first()
    if first is not None and first.kind == "release_started":
        last, last_hash = first.sequence - 1, first.previous
    else:
        kept = connection.execute(select(archives).order_by(archives.c.last.desc()).limit(1)).first()
        last, last_hash = (kept.last, kept.last_hash) if kept is not None else (0, chain.GENESIS)
    deque(events.checked(connection, last, last_hash), maxlen=0)


def passed_ms(connection: Connection, then: Reading, sequence: int, now: Reading) -> int:
    """Milliseconds that have credibly passed since an event: straight, or through the events written since, whichever is more."""
    last = events.head(connection)
    since = connection.execute(select(rows.c.elapsed_ms).where(rows.c.sequence == sequence)).scalar()
    through = (
        last.elapsed_ms - int(since) + (clock.passed_ms(last.reading, now) if last.reading else 0)
        if since is not None
        else 0
    )
    return max(clock.passed_ms(then, now), through)


def text(connection: Connection, held: Json) -> tuple[bool, str | None]:
    """Whether a sealed text is what was sealed, and the text; an erased one is not disproved, and None."""
    row = connection.execute(select(sealed.c.text).where(sealed.c.id == held["sealed"])).first()
    return sealed_texts.is_true(connection, held), row.text if row is not None else None


def payload_of(text: str) -> Json:
    """A row's JSON; {} where it is none."""
    try:
        value = json.loads(text)
    except ValueError:
        return {}
    return value if isinstance(value, dict) else {}
