"""Side effects on the world, each done once: the intent is written first, looked up before it is repeated, and ended with its result.

A process that dies between the two leaves an operation that is *begun*. The next start finishes or undoes it: the world is
asked for the operation's id, and `request` holds all that another process needs.
"""

import json
from dataclasses import dataclass
from typing import Any

from sqlalchemy import Connection, insert, select, update

from slipway.artifacts import Json
from slipway.errors import Refused, StageError
from slipway.ledger.chain import canonical
from slipway.ledger.tables import operations


@dataclass(frozen=True)
class Operation:
    id: str
    kind: str
    model: str
    request: Json
    state: str  # begun | done | undone
    result: Json | None


def begin(connection: Connection, identifier: str, kind: str, model: str, request: Json) -> Operation:
    """The operation of this id: a new one, or the one that another process began or ended. Other content is a conflict."""
    known = find(connection, identifier)
    if known is None or known.state == "undone":
        values: dict[str, Any] = {
            "kind": kind,
            "model": model,
            "request": canonical(request),
            "state": "begun",
            "result": None,
        }
        if known is None:
            connection.execute(insert(operations).values(id=identifier, **values))
        else:
            connection.execute(update(operations).where(operations.c.id == identifier).values(values))
        return Operation(identifier, kind, model, request, "begun", None)
    if canonical(known.request) != canonical(request):
        raise Refused(f"{identifier} was asked for before with other content; it is {known.state}, look at it first")
    return known


def find(connection: Connection, identifier: str) -> Operation | None:
    row = connection.execute(select(operations).where(operations.c.id == identifier)).first()
    return _of_row(row) if row is not None else None


def unfinished(connection: Connection) -> list[Operation]:
    """Those that a process began and did not end."""
    rows = connection.execute(select(operations).where(operations.c.state == "begun").order_by(operations.c.id))
    return [_of_row(row) for row in rows]


def end(connection: Connection, identifier: str, result: Json, undone: bool = False) -> None:
    """Write what came of it, in the transaction that writes what it changed."""
    if find(connection, identifier) is None:
        raise StageError(f"the operation {identifier} was never begun, so it cannot end (please report it)")
    values = {"state": "undone" if undone else "done", "result": canonical(result)}
    connection.execute(update(operations).where(operations.c.id == identifier).values(values))


def _of_row(row: Any) -> Operation:
    result = json.loads(row.result) if row.result is not None else None
    return Operation(row.id, row.kind, row.model, json.loads(row.request), row.state, result)
