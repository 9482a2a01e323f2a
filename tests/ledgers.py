"""A real PostgreSQL of the tests' own, and the ledger on it and on SQLite.

`ledger` is a migrated `Database`, `ledger_url` its address; a test that asks for one runs twice, on SQLite and on
PostgreSQL, each time on a fresh database. `postgres` is the server itself, for tests that restart, kill or freeze it.
"""

import ctypes
import os
import pwd
import secrets
import shutil
import signal
import socket
import subprocess
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import psycopg
import pytest

from slipway.ledger.database import Database

_QUIET = ["-c", "logging_collector=off", "-c", "shared_buffers=16MB", "-c", "max_connections=60", "-c", "fsync=on"]
_PR_SET_PDEATHSIG = 1
_TEMPLATE = "slipway_template"


def postgres_folder() -> Path | None:
    """Where the newest installed server's programs are; None where there is none."""
    debian = sorted(Path("/usr/lib/postgresql").glob("*/bin/initdb"), key=lambda path: float(path.parts[-3]))
    found = debian[-1] if debian else shutil.which("initdb")
    return Path(found).resolve().parent if found else None


class Postgres:
    """One server: its data in a folder of its own, reached over loopback, gone when the session ends."""

    def __init__(self, programs: Path) -> None:
        self.programs = programs
        self.port = _free_port()
        self.owner = pwd.getpwnam("postgres") if os.geteuid() == 0 else None
        # Beside pytest's own folders, which that user could not enter.
        self.home = Path(
            tempfile.mkdtemp(prefix="slipway-postgres-", dir=os.environ.get("PYTEST_DEBUG_TEMPROOT") or None)
        )
        self._own(self.home)
        self._server: subprocess.Popen[bytes] | None = None
        made = [str(programs / "initdb"), "-D", str(self.data), "-U", "slipway", "-A", "trust", "-E", "UTF8"]
        self._popen([*made, "--locale=C", "--no-sync"]).wait(120)
        self.start()

    @property
    def data(self) -> Path:
        return self.home / "data"

    @property
    def pid(self) -> int:
        assert self._server is not None, "the server does not run"
        return self._server.pid

    def url(self, database: str) -> str:
        return f"postgresql+psycopg://slipway@127.0.0.1:{self.port}/{database}"

    def start(self) -> None:
        """Start the server and wait until it answers."""
        command = [str(self.programs / "postgres"), "-D", str(self.data), "-h", "127.0.0.1", "-p", str(self.port)]
        self._server = self._popen([*command, "-k", "", *_QUIET])
        self.wait()

    def wait(self, seconds: float = 60) -> None:
        """Wait until it answers, also after a crash of one of its processes."""
        deadline = time.monotonic() + seconds
        while not self._answers():
            log = (self.home / "log").read_text()[-2000:]
            assert time.monotonic() < deadline, f"PostgreSQL did not answer in {seconds} s: {log}"
            assert self._server is not None and self._server.poll() is None, f"PostgreSQL did not start: {log}"
            time.sleep(0.02)

    def stop(self, how: int = signal.SIGINT) -> None:
        """SIGINT: at once, cleanly; SIGQUIT: as in a crash."""
        if self._server is not None:
            if self._server.poll() is None:
                self._server.send_signal(how)
            self._server.wait(60)
            self._server = None

    def restart(self, how: int = signal.SIGINT) -> None:
        self.stop(how)
        self.start()

    def remove(self) -> None:
        self.stop(signal.SIGQUIT)
        shutil.rmtree(self.home, ignore_errors=True)

    def execute(self, statement: str, database: str = "postgres") -> list[tuple[object, ...]]:
        """Run one statement outside a transaction; its rows."""
        with psycopg.connect(self._address(database), autocommit=True) as connection:
            found = connection.execute(statement)  # type: ignore[arg-type]
            return found.fetchall() if found.description else []

    def fresh(self) -> str:
        """The address of a new database with the ledger's tables, copied from one that was migrated once."""
        if not self.execute(f"SELECT 1 FROM pg_database WHERE datname = '{_TEMPLATE}'"):
            self.execute(f"CREATE DATABASE {_TEMPLATE}")
            made = Database(self.url(_TEMPLATE))
            made.migrate()
            made.close()
        return self.empty(f"TEMPLATE {_TEMPLATE}")

    def empty(self, options: str = "") -> str:
        """The address of a new database without any table."""
        name = f"t_{secrets.token_hex(6)}"
        self.execute(f"CREATE DATABASE {name} {options}")
        return self.url(name)

    def drop(self, url: str) -> None:
        self.execute(f"DROP DATABASE IF EXISTS {url.rsplit('/', 1)[1]} WITH (FORCE)")

    def _answers(self) -> bool:
        try:
            return self.execute("SELECT 1") == [(1,)]
        except psycopg.OperationalError:
            return False

    def _address(self, database: str) -> str:
        return f"host=127.0.0.1 port={self.port} user=slipway dbname={database} connect_timeout=5"

    def _popen(self, command: list[str]) -> subprocess.Popen[bytes]:
        """A child that dies with us, as a user that PostgreSQL accepts (it refuses root)."""
        as_user = {"user": self.owner.pw_uid, "group": self.owner.pw_gid, "extra_groups": []} if self.owner else {}
        with (self.home / "log").open("ab") as log:
            return subprocess.Popen(
                command, stdout=log, stderr=log, stdin=subprocess.DEVNULL, cwd=self.home, preexec_fn=_die_with_us,
                **as_user,  # type: ignore[call-overload]
            )  # fmt: skip

    def _own(self, path: Path) -> None:
        if self.owner:
            os.chown(path, self.owner.pw_uid, self.owner.pw_gid)


def _die_with_us() -> None:
    ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGQUIT)
    os.setpgid(0, 0)  # a Ctrl-C at the terminal is for the tests, which stop the server themselves


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


@pytest.fixture(scope="session")
def _postgres_of_session() -> Iterator[Postgres]:
    programs = postgres_folder()
    if programs is None:
        pytest.skip("PostgreSQL is not installed (`make services` installs it on Debian, as root)")
    server = Postgres(programs)
    try:
        yield server
    finally:
        server.remove()


@pytest.fixture
def postgres(_postgres_of_session: Postgres) -> Iterator[Postgres]:
    """The session's server, running again for the next test whatever this one did to it."""
    yield _postgres_of_session
    if not _postgres_of_session._answers():
        _postgres_of_session.stop(signal.SIGQUIT)
        _postgres_of_session.start()


@pytest.fixture
def sqlite_url(tmp_path: Path) -> str:
    """A file that is not there yet."""
    return f"sqlite:///{tmp_path / 'a ledger' / 'ledger.db'}"


@pytest.fixture
def postgres_url(postgres: Postgres) -> Iterator[str]:
    """A fresh database with the ledger's tables."""
    url = postgres.fresh()
    yield url
    postgres.wait()
    postgres.drop(url)


@pytest.fixture(params=["sqlite", "postgresql"])
def ledger_url(request: pytest.FixtureRequest) -> str:
    """The address of a fresh ledger, on each of the two databases."""
    return str(request.getfixturevalue("sqlite_url" if request.param == "sqlite" else "postgres_url"))


@pytest.fixture
def ledger(ledger_url: str) -> Iterator[Database]:
    """A fresh ledger with its tables, on each of the two databases."""
    database = Database(ledger_url)
    database.migrate()
    yield database
    database.close()


def wait_until(true: Callable[[], bool], what: str, seconds: float = 30) -> None:
    """Wait until a condition holds; fail naming it."""
    deadline = time.monotonic() + seconds
    while not true():
        assert time.monotonic() < deadline, f"waited {seconds} s for {what}"
        time.sleep(0.01)
