"""The rows of the table `versions`. What a version is, the registry knows (slipway.registry.versions)."""

import json
from collections.abc import Iterable, Mapping
from typing import Any

from sqlalchemy import Connection, func, insert, or_, select, update

from slipway.artifacts import Json
from slipway.errors import StageError
from slipway.ledger.chain import canonical
from slipway.ledger.operations import Operation
from slipway.ledger.tables import operations, versions

# What may change after a version was entered; these columns win over the artifact that was written then.
CHANGING = ("stage", "state", "mlflow_version")
_ABOUT = (
    *("model", "version", "serial", "release", "identity", "stage", "state", "at", "mlflow_version", "parent"),
    *("evidence_digest", "policy_digest", "data_digest", "base_digest", "bytes"),
)


def add(connection: Connection, about: Json, sequence: int) -> None:
    """Add the row of a version; `sequence`: the event that tells it."""
    values = {name: about[name] for name in _ABOUT}
    texts = {"metrics": canonical(about["metrics"]), "about": canonical(about)}
    connection.execute(insert(versions).values(**values, **texts, stage_sequence=sequence))


def find(connection: Connection, model: str, version: str) -> Json | None:
    row = connection.execute(select(versions).where(versions.c.model == model, versions.c.version == version)).first()
    return _of_row(row) if row is not None else None


def of_identity(connection: Connection, model: str, identity: str) -> Json | None:
    here = (versions.c.model == model, versions.c.identity == identity)
    row = connection.execute(select(versions).where(*here)).first()
    return _of_row(row) if row is not None else None


def of_serial(connection: Connection, model: str, serial: int) -> Json | None:
    row = connection.execute(select(versions).where(versions.c.model == model, versions.c.serial == serial)).first()
    return _of_row(row) if row is not None else None


def of_release(connection: Connection, release: str, model: str | None) -> list[Json]:
    """Those that releases have made whose id begins so, of one model or of all."""
    query = select(versions).where(versions.c.release.startswith(release, autoescape=True))
    query = query.where(versions.c.model == model) if model is not None else query
    return [_of_row(row) for row in connection.execute(query.order_by(versions.c.serial.desc()))]


def listed(connection: Connection, model: str | None, stage: str | None, states: Iterable[str]) -> list[Json]:
    """One query; the newest first, model by model."""
    query = select(versions).where(or_(*(versions.c.state == state for state in states)))
    for column, wanted in ((versions.c.model, model), (versions.c.stage, stage)):
        query = query.where(column == wanted) if wanted is not None else query
    query = query.order_by(versions.c.model, versions.c.serial.desc())
    return [_of_row(row) for row in connection.execute(query)]


def newest(connection: Connection, model: str, states: Iterable[str]) -> Json | None:
    """The version that was entered last."""
    query = select(versions).where(versions.c.model == model, or_(*(versions.c.state == state for state in states)))
    row = connection.execute(query.order_by(versions.c.serial.desc()).limit(1)).first()
    return _of_row(row) if row is not None else None


def numbers(connection: Connection, model: str) -> dict[str, str]:
    """Every number that was ever given for a model's name, tombstones included → its identity."""
    query = select(versions.c.version, versions.c.identity).where(versions.c.model == model)
    return {row.version: row.identity for row in connection.execute(query)}


def there(connection: Connection, model: str) -> list[str]:
    """The numbers of a model's versions that were not deleted, the newest first."""
    query = select(versions.c.version).where(versions.c.model == model, versions.c.state != "deleted")
    return list(connection.execute(query.order_by(versions.c.serial.desc())).scalars())


def last_serial(connection: Connection, model: str) -> int:
    query = select(func.max(versions.c.serial)).where(versions.c.model == model)
    return int(connection.execute(query).scalar() or 0)


def models(connection: Connection) -> list[str]:
    """Every model's name that has a version, found by leaps over the index: one step a model, not one a version."""
    first = select(func.min(versions.c.model).label("model")).cte("names", recursive=True)
    after = (
        select(func.min(versions.c.model)).where(versions.c.model > first.c.model).correlate(first).scalar_subquery()
    )
    names = first.union_all(select(after).where(first.c.model.is_not(None)))
    return list(connection.execute(select(names.c.model).where(names.c.model.is_not(None))).scalars())


def change(connection: Connection, model: str, version: str, values: Mapping[str, Any]) -> None:
    """Change what may change of a version."""
    here = (versions.c.model == model, versions.c.version == version)
    done = connection.execute(update(versions).where(*here).values(dict(values)))
    if done.rowcount != 1:
        raise StageError(f"{model} {version} is not in the ledger, so nothing of it was changed (please report it)")


def _of_row(row: Any) -> Json:
    about: Json = json.loads(row.about)
    return about | {name: getattr(row, name) for name in CHANGING}


def mirrored(connection: Connection, model: str) -> dict[str, Operation]:
    """The operations that mirror a model elsewhere, by their ids."""
    query = select(operations).where(operations.c.kind == "mirror", operations.c.model == model)
    return {row.id: _operation(row) for row in connection.execute(query)}


def _operation(row: Any) -> Operation:
    result = json.loads(row.result) if row.result is not None else None
    return Operation(row.id, row.kind, row.model, json.loads(row.request), row.state, result)
