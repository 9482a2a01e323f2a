"""What is PostgreSQL's own: bounded waits, the writers' lock, and what became of a commit whose answer was lost."""

import ctypes
from collections.abc import Generator
from time import monotonic
from typing import Any, cast

import psycopg
from psycopg.pq import TransactionStatus
from sqlalchemy import URL, Connection, Engine, create_engine, event, text

from slipway.errors import SlipwayError, StageError, Transient, UsageError

CONNECT_SECONDS = 5  # for each address of the server
SILENT_SECONDS = 10  # that one statement may take before the server counts as gone
_WRITERS = 7_359_201_773  # the advisory lock that every writer takes

# One statement, so that nothing is asked before the lock is held. A server, a role or a database may be set to say yes before
# the bytes are on disk; a writer that stopped in mid-write must not keep all others waiting.
_LOCK = text(
    """
    SELECT set_config('lock_timeout', :wait, true),
           set_config('idle_in_transaction_session_timeout', '30s', true),
           set_config('synchronous_commit', CASE current_setting('synchronous_commit')
                      WHEN 'off' THEN 'on' ELSE current_setting('synchronous_commit') END, true),
           pg_advisory_xact_lock(:key),
           pg_current_xact_id()::text
    """
)
_ALSO_LOCK = text("SELECT set_config('lock_timeout', '5s', true), pg_advisory_xact_lock(:key)")
_OUTCOME = text("SELECT pg_xact_status(CAST(:transaction AS xid8))")

_HINTS = {
    "authentication failed": "correct the user and password in ledger_url",
    "no pg_hba.conf entry": "let the server accept this machine and user",
    "does not exist": "create it, or correct ledger_url",
    "permission denied": "grant this user the rights on the database",
}


class Bounded(psycopg.Connection[Any]):
    """A connection that does not wait for ever: a frozen server keeps its sockets open and answers nothing."""

    patience: float = SILENT_SECONDS

    def wait(self, gen: Generator[Any, Any, Any], *args: Any, **kwargs: Any) -> Any:
        return super().wait(self._bounded(gen, monotonic() + self.patience), *args, **kwargs)

    def _bounded(self, gen: Generator[Any, Any, Any], deadline: float) -> Generator[Any, Any, Any]:
        try:
            wanted = next(gen)
            while True:
                ready = yield wanted
                if not ready and monotonic() > deadline:
                    self.pgconn.finish()
                    raise psycopg.OperationalError(f"no answer within {self.patience:.0f} s")
                wanted = gen.send(ready)
        except StopIteration as end:
            return end.value


def engine(url: URL) -> Engine:
    """An engine whose connections are bounded, and whose every setting that matters is ours and not the server's."""
    options = "-c statement_timeout=30s -c default_transaction_read_only=off"
    made = create_engine(
        url,
        connect_args={"connect_timeout": CONNECT_SECONDS, "options": options, "application_name": "slipway"},
        isolation_level="READ COMMITTED",
        pool_pre_ping=True,
        pool_timeout=SILENT_SECONDS,
    )
    event.listen(made, "do_connect", _connect)
    return made


def _connect(_: object, __: object, arguments: list[Any], options: dict[str, Any]) -> Bounded:
    connection = Bounded.connect(*arguments, **options)
    with connection.cursor() as cursor:
        found = cursor.execute("SHOW fsync").fetchone()
    connection.rollback()
    if found and found[0] == "off":
        connection.close()
        raise UsageError("the ledger's PostgreSQL runs with fsync=off: what it acknowledged could be lost; turn it on")
    return connection


def lock(connection: Connection, wait_seconds: float) -> str:
    """Wait until no other writer is at work; the number of this transaction."""
    driver = cast(Bounded, connection.connection.dbapi_connection)
    driver.patience = wait_seconds + 3
    try:
        row = connection.execute(_LOCK, {"wait": f"{int(wait_seconds * 1000)}ms", "key": _WRITERS}).one()
    finally:
        driver.patience = SILENT_SECONDS
    return str(row[-1])


def in_transaction(driver: Any) -> bool:
    return bool(driver.info.transaction_status == TransactionStatus.INTRANS)


def outcome(engine: Engine, transaction: str) -> str:
    """What became of a transaction: its lock is free again, so it has ended."""
    with engine.connect() as connection:
        connection.execute(_ALSO_LOCK, {"key": _WRITERS})
        return str(connection.execute(_OUTCOME, {"transaction": transaction}).scalar_one())


def error(said: str, shown: str) -> SlipwayError | None:
    """What PostgreSQL says that trying again does not mend, or that needs words of its own."""
    if "No space left on device" in said or "disk full" in said:
        return StageError(
            f"the disk of the ledger {shown} is full ({said}); nothing was changed, free some space there"
        )
    if "lock timeout" in said:
        return Transient(f"the ledger {shown} is being written by others ({said}); nothing was changed, run it again")
    if "read-only transaction" in said or "during recovery" in said:
        return Transient(
            f"the ledger {shown} is read-only now, a standby perhaps ({said}); nothing was changed, "
            f"run it again or correct ledger_url"
        )
    for words, hint in _HINTS.items():
        if words in said:
            return UsageError(f"the ledger {shown} cannot be used ({said}); {hint}")
    return None


def abandon(mine: object) -> None:
    """Let a forked child never close what it has in common with its parent: that would end the parent's session."""
    ctypes.pythonapi.Py_IncRef(ctypes.py_object(mine))
