"""What the ledger is told of a release, from its start to its end."""

import contextlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from sqlalchemy import Connection, select

from slipway.artifacts import Json
from slipway.errors import SlipwayError
from slipway.ledger import events
from slipway.ledger.database import Database
from slipway.ledger.past import Archives
from slipway.ledger.tables import events as rows


def started(
    root: Path,
    database: Database,
    model: str,
    release: str,
    payload: Json,
    policies: Mapping[str, str],
    dead: list[str],
) -> None:
    """That a release begins, under which policies, and which ones before it were killed; Transient where nobody listens."""
    archived = _archived(root, database, policies)
    with database.write() as connection:
        for one in dead:
            _ended(connection, model, one, {"release": one, "outcome": "aborted"})
        known = archived | _policies(connection)
        for path, digest in sorted(policies.items()):
            if known.get(path) != digest:
                told = {"path": path, "digest": digest, "previous": known.get(path)}
                events.append(connection, "policy_changed", model, path, told)
        events.append(connection, "release_started", model, release, {"release": release, **payload})


def _policies(connection: Connection) -> dict[str, str]:
    """The digest of every policy as the ledger last heard of it."""
    return {str(e.payload["path"]): str(e.payload["digest"]) for e in events.read(connection, kind="policy_changed")}


def _archived(root: Path, database: Database, policies: Mapping[str, str]) -> dict[str, str]:
    """What archives say of policies that no event of the table names; a release waits for none that is away."""
    with database.read() as connection:
        if policies.keys() <= _policies(connection).keys():
            return {}
        with contextlib.suppress(SlipwayError):  # then it is said once more, as if it were new
            found = list(Archives(root, connection, ("policy_changed",)).events())
            return {str(event.payload["path"]): str(event.payload["digest"]) for event in reversed(found)}
    return {}


def stage_finished(database: Database, model: str, release: str, payload: Json) -> None:
    with database.write() as connection:
        events.append(connection, "stage_finished", model, release, payload)


def decided(database: Database, model: str, release: str, payload: Json) -> None:
    """A verdict, once for each act of a release."""
    with database.write() as connection:
        told = events.read(connection, kind="decision_made", model=model, subject=release)
        if not any(event.payload.get("act") == payload["act"] for event in told):
            events.append(connection, "decision_made", model, release, payload)


def ended(database: Database, model: str, release: str, payload: Json) -> None:
    """How it ended; said once."""
    with database.write() as connection:
        _ended(connection, model, release, {"release": release, **payload})


def _ended(connection: Connection, model: str, release: str, payload: Mapping[str, Any]) -> None:
    query = select(rows.c.sequence).where(rows.c.subject == release, rows.c.kind == "release_ended")
    if connection.execute(query.limit(1)).first() is None:
        events.append(connection, "release_ended", model, release, payload)
