"""How far each sink has been told, and how far the checkpoints vouch."""

from sqlalchemy import Connection, delete, insert, select

from slipway.ledger.tables import sinks


def at(connection: Connection, name: str) -> int:
    """The last event that was told; 0 before the first."""
    return int(connection.execute(select(sinks.c.sequence).where(sinks.c.name == name)).scalar() or 0)


def move(connection: Connection, name: str, sequence: int) -> None:
    connection.execute(delete(sinks).where(sinks.c.name == name))
    connection.execute(insert(sinks).values(name=name, sequence=sequence))


def all_of(connection: Connection) -> dict[str, int]:
    return {row.name: row.sequence for row in connection.execute(select(sinks).order_by(sinks.c.name))}
