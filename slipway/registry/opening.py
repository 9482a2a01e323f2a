"""The project's ledger for one act, its connections given back at the end."""

import contextlib
import sys
from collections.abc import Iterator
from pathlib import Path

from sqlalchemy import Connection

from slipway.errors import SlipwayError
from slipway.ledger import checkpoints
from slipway.ledger.database import Database


@contextlib.contextmanager
def ledger(root: Path) -> Iterator[Database]:
    database = Database.of(root)
    try:
        yield database
    finally:
        database.close()


@contextlib.contextmanager
def reading(root: Path) -> Iterator[Connection]:
    """One consistent view of it."""
    with ledger(root) as database, database.read() as connection:
        yield connection


@contextlib.contextmanager
def acting(root: Path) -> Iterator[Connection]:
    """One transaction that no other writer overlaps, on a ledger that is not frozen; vouched for once it is committed."""
    with ledger(root) as database:
        checkpoints.require(root, database)
        with database.write() as connection:
            yield connection
        vouch(root, database)


def vouch(root: Path, database: Database) -> None:
    """A checkpoint behind an act, which is done whatever becomes of this: the next one vouches for both."""
    try:
        checkpoints.write(root, database)
    except SlipwayError as error:
        print(f"slipway: no checkpoint was written: {error}", file=sys.stderr)
