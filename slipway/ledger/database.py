"""Open the control database: SQLite beside the project, or PostgreSQL by configuration. One writer at a time.

Every write takes one lock for its whole transaction, so that events have one order and nothing is decided on what another
writer is changing. `write` returns when the bytes are on disk. When it raises, nothing was changed, but for `Unanswered`:
the server went away while it committed, and did not come back to be asked what became of it.
"""

import contextlib
import os
import random
import sqlite3
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType

from sqlalchemy import URL, Connection, Engine, create_engine, event, exc, make_url, text
from sqlalchemy.pool import ConnectionPoolEntry

from slipway import atomic, settings
from slipway.errors import SlipwayError, StageError, Transient, UsageError, of_storage
from slipway.ledger import local_disk

WAIT_SECONDS = 25  # for other writers, before it is said that they are in the way
SETTLE_SECONDS = 8  # for a server to come back and say whether it committed

_here = threading.local()  # which ledgers this thread is writing
_opened: dict[str, "Database"] = {}
_failed: dict[str, str] = {}  # ledgers whose disk has failed: what is in their memory may never reach it


class Unanswered(Transient):
    """The server went away while it committed: the change is there, or it is not."""


class Database:
    """The control database of a project."""

    def __init__(self, url: str) -> None:
        self.url = url
        self._parsed = _parsed(url)
        self.is_sqlite = self._parsed.drivername == "sqlite"
        self.file = Path(self._parsed.database or "").absolute() if self.is_sqlite else None
        self.engine = self._engine()
        self._process = os.getpid()

    @classmethod
    def of(cls, root: Path) -> "Database":
        """The project's database, its tables as this version of Slipway wants them; one for the whole process."""
        url = _anchored(settings.ledger_url(root), root)
        if (found := _opened.get(url)) is None:
            found = _opened[url] = cls(url)
        found.migrate()
        return found

    @property
    def shown(self) -> str:
        """Its address without a password."""
        return self._parsed.render_as_string(hide_password=True)

    @contextlib.contextmanager
    def write(self) -> Iterator[Connection]:
        """A transaction that no other writer overlaps; everything in it happens, or nothing. Keep it short."""
        with self._translated(), self._alone(), self._connected() as connection:
            transaction = self._begin_to_write(connection)
            yield connection
            self._must_be_whole(connection)
            self._commit(connection, transaction)

    @contextlib.contextmanager
    def read(self) -> Iterator[Connection]:
        """One consistent view; nothing in it can be changed."""
        with self._translated(), self._connected() as connection:
            if self.is_sqlite:
                connection.exec_driver_sql("PRAGMA query_only = ON")
                connection.exec_driver_sql("BEGIN")
            else:
                connection.execute(text("SET TRANSACTION ISOLATION LEVEL REPEATABLE READ, READ ONLY"))
            yield connection
            connection.rollback()

    def migrate(self) -> None:
        """Bring the tables up to date, one process at a time."""
        from slipway.ledger import schema

        with self._translated():
            schema.migrate(self)

    def unsound(self) -> str | None:
        """What is wrong with the file itself; an index that lost its end would hide events from whoever searches by it."""
        if not self.is_sqlite:
            return None  # PostgreSQL has its own checksums, and pg_amcheck
        try:
            with self.read() as connection:
                found = str(connection.exec_driver_sql("PRAGMA integrity_check(1)").scalar_one())
        except StageError as error:
            return str(error)
        return None if found == "ok" else f"the ledger {self.file} is damaged ({found}); restore it"

    def close(self) -> None:
        """Let go of the connections; the next use opens new ones."""
        self.engine.dispose(close=os.getpid() == self._process)

    def _engine(self) -> Engine:
        if self.file is None:
            engine: Engine = _server().engine(self._parsed)
            return engine
        _make_folder(self.file.parent)
        engine = create_engine(self._parsed, connect_args={"timeout": WAIT_SECONDS, "isolation_level": None})
        event.listen(engine, "connect", self._opened_file)
        event.listen(engine, "checkout", self._same_file)
        return engine

    def _opened_file(self, connection: "object", entry: ConnectionPoolEntry) -> None:
        """Commits reach the disk before they return; readers never wait for a writer."""
        for pragma in ("journal_mode = WAL", "synchronous = FULL", "foreign_keys = ON"):
            connection.execute(f"PRAGMA {pragma}").close()  # type: ignore[attr-defined]
        entry.info["file"] = self._file_now()

    def _same_file(self, _: object, entry: ConnectionPoolEntry, __: object) -> None:
        """A connection to a file that was since moved or replaced is not one to this ledger."""
        if entry.info.get("file") != self._file_now():
            raise exc.DisconnectionError("the file was replaced")

    def _file_now(self) -> tuple[int, int] | None:
        with contextlib.suppress(OSError):
            found = Path(self.file or "").stat()
            return found.st_dev, found.st_ino
        return None

    @contextlib.contextmanager
    def _connected(self) -> Iterator[Connection]:
        """A connection that is this process's own, given back whatever happens, but by a process forked meanwhile."""
        if why := _failed.get(self.url):
            raise StageError(why)
        process = os.getpid()
        if process != self._process:
            _server().abandon(self.engine)
            self.engine, self._process = self._engine(), process
        connection = self.engine.connect()
        try:
            yield connection
        finally:
            if os.getpid() == process:
                connection.close()
            else:
                _server().abandon(connection)

    @contextlib.contextmanager
    def _alone(self) -> Iterator[None]:
        """A thread that wrote inside its own write would wait for itself."""
        writing: set[tuple[int, str]] = _here.__dict__.setdefault("writing", set())
        mark = (os.getpid(), self.url)
        if mark in writing:
            raise StageError(f"the ledger {self.shown} is written inside a write of the same thread (please report it)")
        writing.add(mark)
        try:
            yield
        finally:
            writing.discard(mark)

    def _begin_to_write(self, connection: Connection) -> str | None:
        """Wait for the lock; PostgreSQL's number of the transaction, by which it can be asked for later."""
        if not self.is_sqlite:
            number: str = _server().lock(connection, WAIT_SECONDS)
            return number
        connection.exec_driver_sql("PRAGMA query_only = OFF")
        connection.exec_driver_sql("PRAGMA busy_timeout = 0")
        _take_turns(connection, time.monotonic() + WAIT_SECONDS)
        connection.exec_driver_sql(f"PRAGMA busy_timeout = {WAIT_SECONDS * 1000}")
        return None

    def _must_be_whole(self, connection: Connection) -> None:
        """A statement that failed and was passed over has undone the others, and a commit would not say so."""
        driver = connection.connection.dbapi_connection
        whole = driver.in_transaction if self.is_sqlite else _server().in_transaction(driver)  # type: ignore[union-attr]
        if not whole:
            raise StageError(
                f"a write of the ledger {self.shown} went on after one of its statements had failed; "
                f"nothing was changed (please report it)"
            )

    def _commit(self, connection: Connection, transaction: str | None) -> None:
        try:
            connection.commit()
        except exc.DBAPIError as error:
            if transaction is None:
                raise
            connection.invalidate()
            self._settle(transaction, error)

    def _settle(self, transaction: str, error: exc.DBAPIError) -> None:
        """The answer to a commit was lost: ask again until the server says what became of it."""
        deadline = time.monotonic() + SETTLE_SECONDS
        while True:
            with contextlib.suppress(exc.DBAPIError):
                became = _server().outcome(self.engine, transaction)
                break
            if time.monotonic() > deadline:
                raise Unanswered(
                    f"the ledger {self.shown} went away while it committed ({_said(error)}); whether the change "
                    f"was made is not known: look before doing it again"
                ) from None
            time.sleep(0.2)
        if became != "committed":
            raise Transient(
                f"the ledger {self.shown} went away ({_said(error)}); nothing was changed, run it again"
            ) from None

    @contextlib.contextmanager
    def _translated(self) -> Iterator[None]:
        """The driver's errors as ours: what may pass, and what is broken."""
        try:
            yield
        except exc.DBAPIError as error:
            raise self._error(_said(error), error) from None
        except exc.SQLAlchemyError as error:
            raise Transient(
                f"the ledger {self.shown} cannot be reached now ({' '.join(str(error).split())}); "
                f"nothing was changed, run it again"
            ) from None

    def _error(self, said: str, error: exc.DBAPIError) -> SlipwayError:
        if "ledger only grows" in said:
            return StageError(f"the ledger {self.shown} refused to be rewritten: {said}")
        known = self._file_error(said) if self.is_sqlite else _server().error(said, self.shown)
        if known is not None:
            return known
        gone = error.connection_invalidated or "terminating connection" in said
        if gone or isinstance(error, exc.OperationalError | exc.InterfaceError):
            return Transient(f"the ledger {self.shown} does not answer ({said}); nothing was changed, run it again")
        return StageError(
            f"the ledger {self.shown} did not take a change ({said}); nothing was changed (please report it)"
        )

    def _file_error(self, said: str) -> SlipwayError | None:
        """What SQLite says of the disk."""
        if "disk is full" in said:
            return of_storage(OSError(28, "No space left on device"), self.file or Path(), 0)
        if "disk I/O error" in said:
            _failed[self.url] = (
                f"the disk of the ledger {self.file} failed ({said}): what was not acknowledged may be lost and "
                f"nothing more is written; look after the disk, then `slipway audit verify`"
            )
            return StageError(_failed[self.url])
        if any(words in said for words in ("malformed", "not a database", "no such table", "no such column")):
            return StageError(
                f"the ledger {self.file} cannot be trusted ({said}); `slipway audit verify`, then restore it"
            )
        if "readonly database" in said or "unable to open" in said:
            return StageError(
                f"the ledger {self.file} cannot be opened and written ({said}); give this user write access to the "
                f"file and its folder"
            )
        return None


def _server() -> ModuleType:
    """What is PostgreSQL's own; its driver takes a tenth of a second that a ledger in a file need not spend."""
    from slipway.ledger import server

    return server


def _parsed(url: str) -> URL:
    try:
        found = make_url(url)
    except exc.ArgumentError:
        raise UsageError(
            "ledger_url is no address; write sqlite:///FILE or postgresql+psycopg://HOST/DATABASE"
        ) from None
    is_file = found.drivername == "sqlite" and found.database not in (None, "", ":memory:") and not found.query
    if not is_file and found.drivername != "postgresql+psycopg":
        shown = found.render_as_string(hide_password=True)
        raise UsageError(f"ledger_url is {shown}; write sqlite:///FILE or postgresql+psycopg://HOST/DATABASE")
    return found


def _anchored(url: str, root: Path) -> str:
    """A relative file belongs to the project, not to the folder where somebody happens to stand."""
    parsed = _parsed(url)
    if parsed.drivername != "sqlite":
        return url
    return f"sqlite:///{(root.resolve() / (parsed.database or ''))}"


def _make_folder(folder: Path) -> None:
    """Make the ledger's folder, so that a power cut does not take it; refuse a disk that machines share."""
    try:
        missing = [path for path in (folder, *folder.parents) if not path.exists()]
        folder.mkdir(parents=True, exist_ok=True)
        for path in missing:
            atomic.fsync_folder(path.parent)
    except OSError as error:
        known = of_storage(error, folder, 0)
        raise known or StageError(f"the ledger's folder {folder} cannot be made ({error.strerror}); make it") from None
    if kind := local_disk.network_kind(folder):
        raise UsageError(
            f"the ledger's folder {folder} is on a network disk ({kind}), where SQLite cannot keep two machines apart; "
            f"set ledger_url to a PostgreSQL, or `state` to a folder on a local disk"
        )


def _take_turns(connection: Connection, deadline: float) -> None:
    """Begin to write as soon as nobody else does. SQLite's own waiting grows to 0.1 s a step, and some never get a turn."""
    driver = connection.connection.dbapi_connection
    while time.monotonic() < deadline:
        try:
            driver.execute("BEGIN IMMEDIATE")  # type: ignore[union-attr]
            return
        except sqlite3.OperationalError as error:
            if "locked" not in str(error):
                break
        time.sleep(random.uniform(0.001, 0.008))
    connection.exec_driver_sql("BEGIN IMMEDIATE")  # the last try, whose error is SQLAlchemy's


def _said(error: exc.DBAPIError) -> str:
    return " ".join(str(error.orig).split())
