"""Bring a database's tables up to date. Alembic is only loaded where there is something to do."""

import importlib.resources
from typing import TYPE_CHECKING

from sqlalchemy import Connection, inspect, text

from slipway.errors import UsageError

if TYPE_CHECKING:
    from slipway.ledger.database import Database

HEAD = "0002"  # the newest migration


def migrate(database: "Database") -> None:
    """Run the migrations that a database has not seen; refuse one that a newer Slipway has written."""
    with database.read() as connection:
        if _is_new(connection, database.shown):
            return
    with database.write() as connection:
        if not _is_new(connection, database.shown):  # another process may have been first
            _upgrade(connection)


def _is_new(connection: Connection, shown: str) -> bool:
    found = _version(connection)
    if found is not None and found > HEAD:
        raise UsageError(
            f"the ledger {shown} was written by a newer Slipway (schema {found}, this one knows {HEAD}); upgrade Slipway"
        )
    return found == HEAD


def _version(connection: Connection) -> str | None:
    if not inspect(connection).has_table("alembic_version"):
        return None
    return connection.execute(text("SELECT version_num FROM alembic_version")).scalar()


def _upgrade(connection: Connection) -> None:
    from alembic import command
    from alembic.config import Config

    config = Config()
    config.set_main_option("script_location", str(importlib.resources.files("slipway.ledger") / "migrations"))
    config.attributes["connection"] = connection
    command.upgrade(config, "head")
