"""What serves: one row a model name, changed by compare-and-set on its generation."""

from dataclasses import dataclass

from sqlalchemy import Connection, insert, select, update

from slipway.errors import Refused
from slipway.ledger import leases
from slipway.ledger.chain import Event
from slipway.ledger.leases import Lease
from slipway.ledger.tables import champions


@dataclass(frozen=True)
class Champion:
    """The version that serves a model's name, and the one before it."""

    model: str
    version: str
    identity: str
    previous: str | None
    generation: int
    sequence: int


def find(connection: Connection, model: str) -> Champion | None:
    """None before the first promotion: then the base model serves."""
    row = connection.execute(select(champions).where(champions.c.model == model)).first()
    return Champion(**row._mapping) if row is not None else None


def change(
    connection: Connection, model: str, version: str, identity: str, generation: int, event: Event, lease: Lease
) -> Champion:
    """Make a version the champion, where the champion still is of the generation that was looked at (0: there is none)."""
    leases.held(connection, lease)
    now = find(connection, model)
    found = now.generation if now else 0
    if found != generation:
        raise Refused(
            f"{model} {version} was not promoted: lost to generation {found} "
            f"({now.version if now else 'none'} serves), this was decided on generation {generation}; look and decide again"
        )
    if now is not None and now.version == version:
        raise Refused(f"{model} {version} serves already, since generation {found}; nothing was changed")
    previous = now.version if now else None
    values = {
        "version": version, "identity": identity, "previous": previous, "generation": found + 1, "sequence": event.sequence,
    }  # fmt: skip
    if now is None:
        connection.execute(insert(champions).values(model=model, **values))
    else:
        connection.execute(update(champions).where(champions.c.model == model).values(values))
    return Champion(model, version, identity, previous, found + 1, event.sequence)
