"""Questions about many versions, each answered by one query, however many versions there are."""

import json
from collections.abc import Collection, Iterator
from dataclasses import dataclass
from typing import Any

from pydantic_core import from_json  # four times as fast as the standard library's, where there are thousands
from sqlalchemy import JSON, ColumnElement, Connection, Select, Text, cast, column, func, or_, select, true, tuple_

from slipway.artifacts import Json
from slipway.ledger.chain import Event, canonical
from slipway.ledger.champions import Champion
from slipway.ledger.events import of_row
from slipway.ledger.tables import approvals, champions, events, sealed, versions

Key = tuple[str, str]  # model, version
Holder = tuple[str, str, str]  # model, version, state
_HOLDER = (versions.c.model, versions.c.version, versions.c.state)
_MOST_KEYS = 500  # in one query: SQLite takes 32,766 variables, and nobody types more


@dataclass(frozen=True)
class Row:
    """What a list shows of a version: its columns."""

    model: str
    version: str
    serial: int
    release: str
    identity: str
    stage: str
    state: str
    at: str
    bytes: int
    metrics: dict[str, float]

    @property
    def key(self) -> Key:
        return self.model, self.version


def listed(connection: Connection, model: str | None, stage: str | None, states: Collection[str]) -> list[Row]:
    """Every version of a model or of all, the newest first; the artifacts stay in the database."""
    columns = [versions.c[name] for name in Row.__annotations__]
    query = select(*columns).where(versions.c.state.in_(states))
    for one, wanted in ((versions.c.model, model), (versions.c.stage, stage)):
        query = query.where(one == wanted) if wanted is not None else query
    query = query.order_by(versions.c.at.desc(), versions.c.serial.desc(), versions.c.model)
    return [Row(**dict(row._mapping) | {"metrics": from_json(row.metrics)}) for row in connection.execute(query)]


def _part(connection: Connection, *path: str) -> ColumnElement[Any]:
    """A part of the kept artifact as text, taken out by the database."""
    if connection.dialect.name == "sqlite":
        return func.json_extract(versions.c.about, "$." + ".".join(path))
    return func.json_extract_path_text(cast(versions.c.about, JSON), *path)


def stated(connection: Connection, name: str, keys: Collection[Key]) -> dict[Key, str | None]:
    """One word of what people said about these versions (author, team, …), taken out by the database."""
    query = select(versions.c.model, versions.c.version, _part(connection, "metadata", name).label("word"))
    if len(keys) <= _MOST_KEYS:
        query = query.where(tuple_(versions.c.model, versions.c.version).in_(sorted(keys)))
    return {(row.model, row.version): row.word for row in connection.execute(query)}


_COLUMNS = ("model", "version", "release", "identity", "stage", "state", "at", "data_digest", "base_digest", "bytes")
_PARTS = ("params", "seconds", "cost", "data_version", "base_source", "parent")


def compared(connection: Connection, keys: Collection[Key] | None = None, model: str | None = None) -> dict[Key, Json]:
    """What is compared of versions, the newest first: these, or all that are not deleted. The rest of each artifact,
    which is most of it, stays in the database."""
    query = _with_parts(connection, *(versions.c[name] for name in (*_COLUMNS, "metrics")))
    if keys is None:
        query = query.where(versions.c.state != "deleted")
        query = query.where(versions.c.model == model) if model is not None else query
    elif len(keys) <= _MOST_KEYS:
        query = query.where(tuple_(versions.c.model, versions.c.version).in_(sorted(set(keys))))
    found = connection.execute(query.order_by(versions.c.at.desc(), versions.c.serial.desc(), versions.c.model))
    wanted = set(keys) if keys is not None else None
    return {key: _compared(row) for row in found if (key := (row.model, row.version)) and (not wanted or key in wanted)}


def _compared(row: Any) -> Json:
    told = dict(zip((*_PARTS, "raw_files"), from_json(row.parts), strict=True)) | {"metrics": from_json(row.metrics)}
    return {name: getattr(row, name) for name in _COLUMNS} | told


def _with_parts(connection: Connection, *columns: ColumnElement[Any]) -> Select[Any]:
    """Those parts beside the columns, as one JSON array with the number of raw files last; each artifact is read once."""
    if connection.dialect.name == "sqlite":
        files = func.json_array_length(versions.c.about, "$.sources")
        whole = func.json_extract(versions.c.about, *(f"$.{name}" for name in _PARTS))
        return select(*columns, func.json_insert(whole, "$[#]", files).label("parts"))
    record = func.json_to_record(cast(versions.c.about, JSON))
    part = record.table_valued(*(column(name, JSON) for name in (*_PARTS, "sources"))).render_derived("part", True)
    whole = func.json_build_array(*(part.c[name] for name in _PARTS), func.json_array_length(part.c.sources))
    return select(*columns, cast(whole, Text).label("parts")).select_from(versions.join(part, true()))


def naming(connection: Connection, end: str) -> Iterator[tuple[Holder, list[Json]]]:
    """Every version, tombstones too, with a text that ends so (a file's name, a digest) → its raw data files."""
    written = canonical(end)[1:]  # with the quote that ends it
    found = func.instr if connection.dialect.name == "sqlite" else func.strpos
    query = select(*_HOLDER, _part(connection, "sources").label("sources")).where(found(versions.c.about, written) > 0)
    for row in connection.execute(query.order_by(versions.c.model, versions.c.serial)):
        yield (row.model, row.version, row.state), from_json(row.sources)


def having(connection: Connection, name: str, digest: str) -> list[Holder]:
    """Every version, tombstones too, with this digest in a column."""
    query = select(*_HOLDER).where(versions.c[name] == digest).order_by(versions.c.model, versions.c.serial)
    return [(row.model, row.version, row.state) for row in connection.execute(query)]


def keys_by_data(connection: Connection) -> dict[str, list[Holder]]:
    """Every version there ever was, by its data's digest."""
    query = select(versions.c.data_digest, *_HOLDER)
    found: dict[str, list[Holder]] = {}
    for row in connection.execute(query.order_by(versions.c.model, versions.c.serial)):
        found.setdefault(row.data_digest, []).append((row.model, row.version, row.state))
    return found


def sections(connection: Connection, name: str) -> dict[str, list[str]]:
    """The different texts of one section of `params` (None where there is none) → the data digests made with it."""
    query = select(_part(connection, "params", name).label("section"), versions.c.data_digest).distinct()
    found: dict[str, list[str]] = {}
    for row in connection.execute(query):
        found.setdefault(row.section or "{}", []).append(row.data_digest)
    return found


def children(connection: Connection, model: str, version: str) -> list[str]:
    """The versions that were compared with this one when it was the champion."""
    query = select(versions.c.version).where(versions.c.model == model, versions.c.parent == version)
    return list(connection.execute(query.order_by(versions.c.serial)).scalars())


def approvals_of(connection: Connection, model: str, release: str) -> list[Json]:
    """Every approval that was given for a release, with its state now; which of them count, the approvals' module says."""
    query = select(approvals).where(approvals.c.model == model, approvals.c.release == release)
    found = connection.execute(query.order_by(approvals.c.sequence))
    return [json.loads(row.about) | {"state": row.state} for row in found]


def said(connection: Connection, ids: Collection[str]) -> dict[str, str | None]:
    """Sealed texts by their id; None where one was erased."""
    wanted, found = sorted(ids), dict[str, str | None]()
    for start in range(0, len(wanted), _MOST_KEYS):
        query = select(sealed.c.id, sealed.c.text).where(sealed.c.id.in_(wanted[start : start + _MOST_KEYS]))
        found |= {row.id: row.text for row in connection.execute(query)}
    return found


def serving(connection: Connection) -> dict[str, Champion]:
    """The champion of every model."""
    return {row.model: Champion(**row._mapping) for row in connection.execute(select(champions))}


def newest_in(connection: Connection, stage: str) -> dict[str, str]:
    """The version of each model that came last of those in a stage whose bytes are here."""
    query = select(versions.c.model, versions.c.version).where(versions.c.stage == stage, versions.c.state == "present")
    return {row.model: row.version for row in connection.execute(query.order_by(versions.c.serial))}


def verdicts(connection: Connection, model: str | None) -> dict[Key, str]:
    """(model, version or release) → what was decided of it last."""
    query = select(events.c.model, events.c.subject, events.c.payload).where(events.c.kind == "decision_made")
    query = query.where(events.c.model == model) if model is not None else query
    told = connection.execute(query.order_by(events.c.sequence))
    return {(row.model, row.subject): str(json.loads(row.payload).get("verdict")) for row in told}


def history(connection: Connection, model: str, subjects: Collection[str]) -> list[Event]:
    """Everything that happened to a version or its release, in order."""
    query = select(events).where(events.c.model == model, events.c.subject.in_(subjects))
    return [of_row(row) for row in connection.execute(query.order_by(events.c.sequence))]


def deployments(connection: Connection, model: str) -> Iterator[Event]:
    """Every change of what serves a model, in order."""
    changes = or_(events.c.kind == "model_promoted", events.c.kind == "rolled_back")
    query = select(events).where(events.c.model == model, changes).order_by(events.c.sequence)
    yield from (of_row(row) for row in connection.execute(query))
