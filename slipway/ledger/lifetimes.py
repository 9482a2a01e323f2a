"""What the ledger knows of how long versions have stood and served, and which of them are on legal hold."""

import json
from collections.abc import Iterable, Iterator
from pathlib import Path

from sqlalchemy import Connection, delete, func, insert, select

from slipway.artifacts import Json
from slipway.ledger import champions, clock, events, given
from slipway.ledger.chain import Event
from slipway.ledger.clock import Reading
from slipway.ledger.events import Actor
from slipway.ledger.past import Archives
from slipway.ledger.tables import approvals, holds, operations, versions
from slipway.ledger.tables import events as rows

_INTO_PRODUCTION = ("model_promoted", "rolled_back", "stage_transition")
_SERVING = ("model_promoted", "rolled_back", "traffic_changed")

Clocks = tuple[str, int]  # an event's wall clock, and its elapsed_ms


def now(connection: Connection, reading: Reading) -> Clocks:
    """The clocks an event would carry that was written now."""
    head = events.head(connection)
    gone = clock.passed_ms(head.reading, reading) if head.reading else 0
    return reading.text, head.elapsed_ms + gone


def clocks(connection: Connection) -> dict[int, Clocks]:
    """The clocks of the events that brought versions to their stages, and of those that changed what serves."""
    brought = select(versions.c.stage_sequence)
    query = select(rows.c.sequence, rows.c.at, rows.c.elapsed_ms)
    query = query.where(rows.c.sequence.in_(brought) | rows.c.kind.in_(_SERVING))
    return {row.sequence: (row.at, row.elapsed_ms) for row in connection.execute(query)}


def first(connection: Connection) -> tuple[int, Clocks] | None:
    """The oldest event that is not in an archive: whatever came before it is older still."""
    oldest = select(func.min(rows.c.sequence)).scalar_subquery()
    row = connection.execute(select(rows.c.sequence, rows.c.at, rows.c.elapsed_ms).where(rows.c.sequence == oldest))
    found = row.first()
    return (found.sequence, (found.at, found.elapsed_ms)) if found is not None else None


def stages(connection: Connection, model: str) -> dict[str, int]:
    """Version → the event that brought it to its stage."""
    query = select(versions.c.version, versions.c.stage_sequence).where(versions.c.model == model)
    return {row.version: row.stage_sequence for row in connection.execute(query)}


def serving(connection: Connection, model: str) -> Iterator[tuple[int, dict[str, float], str | None]]:
    """Every change of what serves, in order: its event, version → percent of the traffic, and the champion it replaced."""
    query = select(rows.c.sequence, rows.c.payload).where(rows.c.model == model, rows.c.kind.in_(_SERVING))
    for row in connection.execute(query.order_by(rows.c.sequence)):
        told = json.loads(row.payload)
        yield row.sequence, told.get("weights", {}), told.get("previous")


def in_canary(connection: Connection, model: str) -> list[str]:
    """The version of a canary that began and came to no end."""
    kinds = ("canary_started", "canary_verdict", "model_promoted", "rolled_back")
    query = select(rows.c.kind, rows.c.subject).where(rows.c.model == model, rows.c.kind.in_(kinds))
    row = connection.execute(query.order_by(rows.c.sequence.desc()).limit(1)).first()
    return [row.subject] if row is not None and row.kind == "canary_started" else []


def was_in_production(root: Path, connection: Connection, model: str, version: str) -> bool:
    """Whether a version ever was allowed to serve: by what stands of it, by the events, and last by those in archives."""
    return (
        _stands_in_production(connection, model, version)
        or any(map(_into_production, given.history(connection, model, (version,), _INTO_PRODUCTION)))
        or any(map(_into_production, Archives(root, connection, _INTO_PRODUCTION, model).events(subjects=(version,))))
    )


def _stands_in_production(connection: Connection, model: str, version: str) -> bool:
    """By the rows: going back to the champion before needs no archive, which may be on a machine that is away."""
    serving = champions.find(connection, model)
    if serving is not None and version in (serving.version, serving.previous):
        return True
    here = (versions.c.model == model, versions.c.version == version)
    return connection.execute(select(versions.c.stage).where(*here)).scalar() == "Production"


def _into_production(event: Event) -> bool:
    return event.kind != "stage_transition" or event.payload.get("to") == "Production"


def kind_of(connection: Connection, sequence: int) -> str | None:
    """What kind of event has a number; None where it is in an archive."""
    return connection.execute(select(rows.c.kind).where(rows.c.sequence == sequence)).scalar()


def base_users(connection: Connection, base: str) -> list[tuple[str, str, str]]:
    """Model, version and state of every version on a base, tombstones left out."""
    query = select(versions.c.model, versions.c.version, versions.c.state)
    query = query.where(versions.c.base_digest == base, versions.c.state != "deleted")
    return [(row.model, row.version, row.state) for row in connection.execute(query)]


def last_of_kind(connection: Connection, model: str, version: str, kind: str) -> Json | None:
    """The payload of the newest event of one kind about a version."""
    query = select(rows.c.payload).where(rows.c.model == model, rows.c.kind == kind, rows.c.subject == version)
    row = connection.execute(query.order_by(rows.c.sequence.desc()).limit(1)).first()
    return dict(json.loads(row.payload)) if row is not None else None


def brought(connection: Connection, model: str, kinds: Iterable[str]) -> list[Json]:
    """What operations of these kinds were asked for, those left out that came to nothing."""
    query = select(operations.c.request).where(operations.c.model == model, operations.c.kind.in_(list(kinds)))
    return [json.loads(text) for text in connection.execute(query.where(operations.c.state != "undone")).scalars()]


def open_approvals(connection: Connection, model: str) -> list[Json]:
    """Approvals that were given and neither used, revoked nor expired."""
    query = select(approvals.c.about).where(approvals.c.model == model, approvals.c.state == "valid")
    return [json.loads(row.about) for row in connection.execute(query)]


def asked(connection: Connection, model: str) -> dict[str, Clocks]:
    """Version → when a step was refused to it for want of approvals alone, where nothing was decided or said against it since."""
    kinds = ("decision_made", "approval_rejected", "stage_transition")
    query = select(rows).where(rows.c.model == model, rows.c.kind.in_(kinds)).order_by(rows.c.sequence)
    last = {row.subject: row for row in connection.execute(query)}
    waiting = (row for row in last.values() if json.loads(row.payload).get("awaits_approval"))
    return {row.subject: (row.at, row.elapsed_ms) for row in waiting}


# --- legal holds -----------------------------------------------------------------------------------------------------


def held(connection: Connection, model: str) -> frozenset[str]:
    return frozenset(version for name, version in all_held(connection) if name == model)


def all_held(connection: Connection) -> set[tuple[str, str]]:
    """Model and version of all that an event or a row holds: whoever takes one of the two away frees nothing."""
    found = {(row.model, row.version) for row in connection.execute(select(holds))}
    query = select(rows.c.model, rows.c.subject, rows.c.kind).where(rows.c.kind.in_(("model_held", "model_unheld")))
    last = {(row.model, row.subject): row.kind for row in connection.execute(query.order_by(rows.c.sequence))}
    return found | {key for key, kind in last.items() if kind == "model_held"}


def hold(connection: Connection, model: str, version: str, reason: str, actor: Actor | None) -> None:
    event = events.append(connection, "model_held", model, version, {"version": version}, actor, reason)
    connection.execute(insert(holds).values(model=model, version=version, sequence=event.sequence))


def unhold(connection: Connection, model: str, version: str, reason: str, actor: Actor | None) -> None:
    events.append(connection, "model_unheld", model, version, {"version": version}, actor, reason)
    connection.execute(delete(holds).where(holds.c.model == model, holds.c.version == version))
