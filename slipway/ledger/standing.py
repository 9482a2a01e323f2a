"""The tables as they stand, held against what the events say of them (expected.py)."""

import json
from collections.abc import Iterator
from typing import Any

from sqlalchemy import Connection, Table, func, select

from slipway import digest
from slipway.ledger import champions, cursors, events, tables
from slipway.ledger.expected import Expected

Found = Iterator[tuple[int | None, str]]  # the event that says otherwise, and what is wrong

_OF_A_VERSION = ("serial", "release", "identity", "evidence_digest", "policy_digest", "data_digest", "base_digest")
_GOOD = (
    "model_promoted",
    "rolled_back",
    "stage_transition",
    "model_registered",
    "mirror_repaired",
    "model_deleted",
    "model_archived",
    "model_restored",
)


def problems(connection: Connection, expected: Expected, skipped: int = 0) -> Found:
    """Every row that no event tells so, and every row that is missing. `skipped`: events up to this one were not read."""
    yield from _texts(connection, expected)
    yield from _champions(connection, expected, skipped)
    yield from _versions(connection, expected, skipped)
    yield from _rows_of(connection, expected, skipped)
    yield from _archives(connection, expected)
    yield from _sinks(connection)


def _texts(connection: Connection, expected: Expected) -> Found:
    found = {row.id: row for row in connection.execute(select(tables.sealed))}
    yield from (
        (sequence, f"names the sealed text {name} by another digest than before") for sequence, name in expected.mixed
    )
    for name, (wanted, sequence) in expected.sealed.items():
        row = found.get(name)
        if row is None:
            yield sequence, f"speaks of the sealed text {name}, and its row is gone"
        elif row.text is None:
            if name not in expected.erased:
                yield sequence, f"speaks of the sealed text {name}, which was erased without an event that says so"
        elif digest_of(f"{row.salt}:{row.text}") != wanted:
            yield sequence, f"speaks of the sealed text {name}, which says something else now"


def erased(connection: Connection) -> int:
    query = select(func.count()).select_from(tables.sealed).where(tables.sealed.c.text.is_(None))
    return int(connection.execute(query).scalar_one())


def _champions(connection: Connection, expected: Expected, skipped: int) -> Found:
    rows = {row.model: row._mapping for row in connection.execute(select(tables.champions))}
    for model in sorted(rows.keys() | expected.champions.keys()):
        row, told = rows.get(model), expected.champions.get(model)
        if row is None and told is not None:
            yield told["sequence"], f"made {told['version']} the champion of {model}, and the row is gone"
        elif row is not None and told is None:
            if row["sequence"] > skipped:
                yield None, f"{row['version']} is the champion of {model}, and no event says so"
        elif row is not None and told is not None:
            for name in ("version", "identity", "previous", "generation", "sequence"):
                if row[name] != told[name]:
                    yield (
                        told["sequence"],
                        f"says the champion of {model} has the {name} {told[name]}, the table {row[name]}",
                    )


def _versions(connection: Connection, expected: Expected, skipped: int) -> Found:
    rows = {(row.model, row.version): row._mapping for row in connection.execute(select(tables.versions))}
    for key in sorted(rows.keys() | expected.versions.keys()):
        row, told = rows.get(key), expected.versions.get(key)
        name = " ".join(key)
        if row is None and told is not None:
            yield told["event"], f"registered {name}, and its row is gone"
        elif row is not None and told is None:
            if not skipped:
                yield None, f"{name} is in the table of versions, and no event registered it"
        elif row is not None and told is not None:
            yield from _version(key, row, told, expected)


def _version(key: tuple[str, str], row: Any, told: Any, expected: Expected) -> Found:
    name, about = " ".join(key), _parsed(row["about"])
    for column in _OF_A_VERSION:
        if column in told and row[column] != told[column]:
            yield told["event"], f"registered {name} with the {column} {told[column]}, the table says {row[column]}"
        if isinstance(about, dict) and about.get(column) != row[column]:
            yield told["event"], f"registered {name}, and its row says {column} {row[column]} and {about.get(column)}"
    changed = "about_digest" in told and told["about_digest"] != digest_of(row["about"])
    if changed or (isinstance(about, dict) and _parsed(row["metrics"]) != about.get("metrics")):
        yield told["event"], f"registered {name}, and what the row tells about it was changed"
    stage, sequence = expected.stages[key]
    if row["stage"] != stage:
        yield sequence, f"says {name} is in {stage}, the table says {row['stage']}"
    state, sequence = expected.states[key]
    if row["state"] != state:
        yield sequence, f"says {name} is {state}, the table says {row['state']}"


def digest_of(text: str) -> str:
    return digest.of_bytes(text.encode())


def _parsed(text: str) -> Any:
    try:
        return json.loads(text)
    except ValueError:
        return {}


def _rows_of(connection: Connection, expected: Expected, skipped: int) -> Found:
    """Holds, approvals and grants: a row for each event, an event for each row."""
    holds = {(row.model, row.version): row.sequence for row in connection.execute(select(tables.holds))}
    for key in sorted(holds.keys() ^ expected.holds.keys()):
        if key in holds and holds[key] > skipped:
            yield None, f"{' '.join(key)} is on hold, and no event says so"
        elif key in expected.holds:
            yield expected.holds[key], f"put {' '.join(key)} on hold, and the row is gone"
    yield from _given(connection, tables.approvals, expected.approvals, expected, skipped)
    yield from _given(connection, tables.grants, expected.grants, expected, skipped)


def _given(
    connection: Connection, table: Table, told: dict[str, tuple[str, int]], expected: Expected, skipped: int
) -> Found:
    """What people gave, one row an id: its state, and what it is about."""
    rows = {row.id: row for row in connection.execute(select(table))}
    what = table.name.removesuffix("s")
    for name, row in sorted(rows.items()):
        state, sequence = told.get(name, (None, 0))
        if state is None:
            if row.sequence > skipped:
                yield None, f"the {what} {name} of {row.model} {row.release} stands in the table, and no event says so"
        elif row.state != state:
            yield sequence, f"says the {what} {name} is {state}, the table says {row.state}"
        wanted, sequence = expected.digests.get(name, (None, 0))
        if wanted is not None and digest_of(row.about) != wanted:
            yield sequence, f"tells of the {what} {name}, and what the row says of it was changed"
    for name in sorted(told.keys() - rows.keys()):
        yield told[name][1], f"tells of the {what} {name}, and its row is gone"


def _archives(connection: Connection, expected: Expected) -> Found:
    told = {payload.get("first"): (sequence, payload) for sequence, payload in expected.archived}
    for row in connection.execute(select(tables.archives).order_by(tables.archives.c.first)):
        if row.first not in told:
            yield row.first, f"and up to {row.last} are in the archive {row.uri} by the table, and no event says so"
            continue
        sequence, payload = told[row.first]
        for name in ("last", "last_hash", "uri", "sha256"):
            if payload.get(name) != getattr(row, name):
                yield (
                    sequence,
                    f"says the archive from event {row.first} on has the {name} {payload.get(name)}, the table says {getattr(row, name)}",
                )
    known = {row.first for row in connection.execute(select(tables.archives.c.first))}
    for first in sorted(told.keys() - known, key=str):
        yield told[first][0], f"moved the events from {first} on to an archive, and its row is gone"


def _sinks(connection: Connection) -> Found:
    last = events.head(connection).sequence
    for name, sequence in cursors.all_of(connection).items():
        if sequence > last:
            yield last + 1, f"is missing: {name} was told of events up to {sequence}, and the ledger ends at {last}"


# --- the mirrors --------------------------------------------------------------------------------------------------------


def last_good(connection: Connection, model: str) -> tuple[int, str] | None:
    """The event, and its time, that last changed what the mirrors of a model's name should say, or put them right."""
    rows = tables.events
    query = select(rows.c.sequence, rows.c.at).where(rows.c.model == model, rows.c.kind.in_(_GOOD))
    row = connection.execute(query.order_by(rows.c.sequence.desc()).limit(1)).first()
    return (row.sequence, row.at) if row is not None else None


def mirrored(connection: Connection) -> int:
    """How many versions and champions are mirrored."""
    here = tables.versions.c.state != "deleted"
    versions = connection.execute(select(func.count()).select_from(tables.versions).where(here)).scalar_one()
    return int(versions) + sum(champions.find(connection, name) is not None for name in _models(connection))


def _models(connection: Connection) -> list[str]:
    return list(connection.execute(select(tables.champions.c.model)).scalars())
