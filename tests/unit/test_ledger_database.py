"""The control database's transactions, on SQLite and PostgreSQL: all or nothing, and never a yes that was none."""

import contextlib
import os
import shutil
import signal
import socket
import sqlite3
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import ledger_workers as workers
import psutil
import pytest
from alembic.autogenerate import compare_metadata
from alembic.migration import MigrationContext
from ledgers import Postgres, wait_until
from sqlalchemy import exc, insert, inspect, text

from slipway.errors import Refused, SlipwayError, StageError, Transient, UsageError
from slipway.ledger import champions, database, events, leases, local_disk, operations, server, tables
from slipway.ledger.database import Database, Unanswered
from slipway.ledger.events import Actor

ROBOT = Actor("robot", "service")


def add(ledger: Database, subject: str = "s") -> int:
    with ledger.write() as connection:
        return events.append(connection, "canary_step", "m", subject, {}, ROBOT).sequence


def count(ledger: Database) -> int:
    with ledger.read() as connection:
        return events.count(connection)


# --- all or nothing ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("error", [RuntimeError, KeyboardInterrupt, SystemExit, Refused, GeneratorExit])
def test_whatever_ends_a_write_undoes_all_of_it(ledger: Database, error: type[BaseException]) -> None:
    add(ledger)
    with pytest.raises(error), ledger.write() as connection:
        events.append(connection, "canary_step", "m", "s", {}, ROBOT)
        leases.acquire(connection, "champion:m")
        raise error("stop")
    with ledger.write() as connection:  # and the next write finds a free connection and a free lock
        assert events.count(connection) == 1
        assert leases.acquire(connection, "champion:m").token == 1


def test_a_failed_statement_that_was_passed_over_is_no_success(ledger: Database) -> None:
    """PostgreSQL undoes everything then, and answers a commit as if all were well."""
    with ledger.write() as connection:
        champion = {"model": "m", "version": "1", "identity": "i", "generation": 1, "sequence": 1}
        connection.execute(insert(tables.champions).values(champion))
    outcome: list[object] = []
    try:
        with ledger.write() as connection:
            events.append(connection, "canary_step", "m", "s", {}, ROBOT)
            try:
                connection.execute(insert(tables.champions).values(champion))
            except exc.IntegrityError:
                outcome.append("passed over")
        outcome.append(1)
    except StageError as error:
        assert "went on after one of its statements had failed" in str(error)
        outcome.append(0)
    assert outcome == ["passed over", count(ledger)], "what was said is what is there"


def test_a_write_that_ends_its_own_transaction_is_no_success(ledger: Database) -> None:
    for end in ("commit", "rollback"):
        with pytest.raises(SlipwayError), ledger.write() as connection:
            events.append(connection, "canary_step", "m", "s", {}, ROBOT)
            getattr(connection, end)()


def test_a_write_inside_a_write_is_told_at_once(ledger: Database) -> None:
    started = time.monotonic()
    other = Database(ledger.url)
    with pytest.raises(StageError, match="inside a write of the same thread"), ledger.write(), other.write():
        pass
    assert time.monotonic() - started < 5
    other.close()
    assert add(ledger) == 1


def test_a_read_changes_nothing_and_says_so(ledger: Database) -> None:
    add(ledger)
    with pytest.raises(SlipwayError), ledger.read() as connection:
        events.append(connection, "canary_step", "m", "s", {}, ROBOT)
    assert (count(ledger), add(ledger)) == (1, 2)


def test_a_read_sees_one_moment(ledger: Database) -> None:
    add(ledger)
    with ledger.read() as connection:
        assert events.count(connection) == 1
        thread = threading.Thread(target=add, args=(ledger,))
        thread.start()
        thread.join(30)
        assert events.count(connection) == 1
    assert count(ledger) == 2


def test_events_stay_as_they_are(ledger: Database) -> None:
    for _ in range(3):
        add(ledger)
    for statement in (
        "UPDATE events SET kind = 'x' WHERE sequence = 2",
        "DELETE FROM events WHERE sequence = 2",
        "DELETE FROM events",
        *([] if ledger.is_sqlite else ["TRUNCATE events"]),
    ):
        with pytest.raises(StageError, match="refused to be rewritten"), ledger.write() as connection:
            connection.execute(text(statement))
    with pytest.raises(StageError, match="refused"), ledger.write() as connection:
        connection.execute(insert(tables.archives).values(first=1, last=3, last_hash="x", uri="x", sha256="x"))
        connection.execute(text("DELETE FROM events"))  # also the newest, on which the next one hangs
    with ledger.write() as connection:
        connection.execute(insert(tables.archives).values(first=1, last=2, last_hash="x", uri="x", sha256="x"))
        connection.execute(text("DELETE FROM events WHERE sequence <= 2"))
    assert (count(ledger), add(ledger)) == (1, 4)


# --- tables ------------------------------------------------------------------------------------------------------------


def test_the_migrations_make_the_tables(ledger: Database) -> None:
    with ledger.engine.connect() as connection:
        context = MigrationContext.configure(connection, opts={"compare_type": True})
        assert compare_metadata(context, tables.metadata) == []
        assert len(inspect(connection).get_table_names()) >= 12


def test_a_ledger_of_a_newer_slipway_is_refused(ledger: Database) -> None:
    with ledger.write() as connection:
        connection.execute(text("UPDATE alembic_version SET version_num = '0999'"))
    with pytest.raises(UsageError, match=r"written by a newer Slipway .schema 0999"):
        ledger.migrate()


def test_a_project_has_one_database_and_migrates_it(stub: Path) -> None:
    one = Database.of(stub)
    assert one is Database.of(stub) and one.file == stub.resolve() / ".slipway" / "ledger.db"
    assert add(one) == 1
    one.close()
    assert count(one) == 1


@pytest.mark.parametrize(
    "url",
    [
        "",
        "ledger.db",
        "sqlite://",
        "sqlite:///:memory:",
        "sqlite:///x.db?mode=ro",
        "mysql://h/d",
        "postgresql://h/d",
        "://",
    ],
)
def test_an_address_that_is_none_is_refused(url: str) -> None:
    with pytest.raises(UsageError, match=r"sqlite:///FILE or postgresql\+psycopg://HOST/DATABASE"):
        Database(url)


def test_a_password_is_never_shown() -> None:
    for url in ("postgresql+psycopg://u:s3cr3t@127.0.0.1:1/d", "postgresql+psycopg://u:p%40s3cr3t@127.0.0.1:1/d"):
        ledger = Database(url)
        assert "s3cr3t" not in ledger.shown
        with pytest.raises(Transient) as refused, ledger.read():
            pass
        assert "s3cr3t" not in str(refused.value) and "does not answer" in str(refused.value)


# --- disks -------------------------------------------------------------------------------------------------------------


def test_a_file_that_was_replaced_is_read_anew(sqlite_url: str, tmp_path: Path) -> None:
    ledger = Database(sqlite_url)
    ledger.migrate()
    add(ledger)
    assert ledger.file is not None
    with sqlite3.connect(ledger.file) as raw:
        raw.execute("PRAGMA wal_checkpoint(TRUNCATE)")
    raw.close()
    shutil.copyfile(ledger.file, tmp_path / "older")
    assert add(ledger) == 2
    for ending in ("-wal", "-shm"):
        ledger.file.with_name(f"ledger.db{ending}").unlink()
    (tmp_path / "older").replace(ledger.file)
    assert count(ledger) == 1, "an open connection still saw the old file"


def test_a_folder_that_cannot_be_made_and_a_file_that_is_no_database(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("x" * 5000)
    with pytest.raises(StageError, match="cannot be made"):
        Database(f"sqlite:///{tmp_path}/file/ledger.db")
    with (
        pytest.raises(StageError, match=r"cannot be trusted.*audit verify"),
        Database(f"sqlite:///{tmp_path}/file").write(),
    ):
        pass
    with pytest.raises(StageError, match="write access"), Database(f"sqlite:///{tmp_path}").write():
        pass


def test_case_A13_a_ledger_that_may_not_be_written_says_so() -> None:
    """Another user's: read it may be, and an event that cannot be kept is not acknowledged."""
    folder = Path(tempfile.mkdtemp())
    try:
        folder.chmod(0o755)
        url = f"sqlite:///{folder / 'ledger.db'}"
        ledger = Database(url)
        ledger.migrate()
        add(ledger)
        ledger.close()
        for path in (ledger.file, folder):
            assert path is not None
            path.chmod(0o555 if path.is_dir() else 0o444)
        (said,) = workers.lines(workers.start("append_as_nobody", url))
        assert said["exit_code"] == 1 and "give this user write access" in said["why"]
        assert count(ledger) == 1 or os.geteuid() != 0
        ledger.close()
    finally:
        folder.chmod(0o755)
        shutil.rmtree(folder)


def test_case_A11_a_full_disk_is_told_and_nothing_is_acknowledged(sqlite_url: str) -> None:
    ledger = Database(sqlite_url)
    ledger.migrate()
    add(ledger)
    with ledger.engine.connect() as connection:
        pages = connection.exec_driver_sql("PRAGMA page_count").scalar_one()
        connection.exec_driver_sql(f"PRAGMA max_page_count = {pages}")  # SQLITE_FULL, as on a full disk
    with (
        pytest.raises(StageError, match=r"disk full writing .*ledger.db.*free some space"),
        ledger.write() as connection,
    ):
        for _ in range(500):
            events.append(connection, "canary_step", "m", "s", {"x": "y" * 500}, ROBOT)
    assert count(ledger) == 1
    ledger.close()
    assert add(ledger) == 2


def test_case_C12_two_hosts_cannot_share_a_sqlite_ledger() -> None:
    mounts = "\n".join(
        [
            "22 1 254:0 / / rw,relatime - ext4 /dev/vda rw",
            "30 22 0:40 / /srv rw - nfs4 server:/srv rw",
            "31 30 0:41 / /srv/us/local\\040disk rw - xfs /dev/sdb rw",
            "32 22 0:42 / /mnt/share rw shared:3 - cifs //host/share rw",
            "33 32 0:43 / /mnt/share rw shared:3 - tmpfs tmpfs rw",
            "23 1 0:50 / / rw - overlay overlay rw",  # newer, but not as deep
            "short line",
        ]
    )
    kinds = {
        "/": None, "/srvs": None, "/srv": "nfs4", "/srv/us": "nfs4", "/srv/us/local disk/state": None, "/mnt/share/x": None,
    }  # fmt: skip
    assert {path: local_disk.kind_in(mounts, Path(path)) for path in kinds} == kinds
    assert local_disk.network_kind(Path("/proc")) is None


def test_case_C12_a_ledger_on_a_network_disk_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    mounts = tmp_path / "mountinfo"
    mounts.write_text(f"30 22 0:40 / {str(tmp_path).replace(' ', chr(92) + '040')} rw - nfs4 server:/srv rw\n")
    monkeypatch.setattr(local_disk, "_MOUNTS", mounts)
    with pytest.raises(UsageError, match=r"network disk .nfs4.*PostgreSQL"):
        Database(f"sqlite:///{tmp_path}/ledger.db")


# --- a server that is away ---------------------------------------------------------------------------------------------


def test_case_H3_a_server_that_is_gone_takes_nothing_and_acknowledges_nothing(
    postgres: Postgres, postgres_url: str
) -> None:
    ledger = Database(postgres_url)
    add(ledger)
    postgres.stop()
    started = time.monotonic()
    for _ in range(3):
        with pytest.raises(Transient, match=r"nothing was changed, run it again|does not answer"):
            add(ledger)
    assert time.monotonic() - started < 10
    postgres.start()
    assert add(ledger) == 2
    ledger.close()


@pytest.fixture
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    assert server.SILENT_SECONDS + server.CONNECT_SECONDS + database.SETTLE_SECONDS <= 30, "in total"
    assert database.WAIT_SECONDS + 3 <= 30
    monkeypatch.setattr(server, "CONNECT_SECONDS", 2)
    monkeypatch.setattr(server, "SILENT_SECONDS", 1)
    monkeypatch.setattr(server.Bounded, "patience", 1)
    monkeypatch.setattr(database, "SETTLE_SECONDS", 1)


def test_case_H3_a_frozen_server_is_given_up(postgres: Postgres, postgres_url: str, impatient: None) -> None:
    """It keeps its sockets open and answers nothing; keep-alives would never end that."""
    ledger = Database(postgres_url)
    add(ledger)
    frozen = [psutil.Process(postgres.pid), *psutil.Process(postgres.pid).children()]
    try:
        for process in frozen:
            process.suspend()
        started = time.monotonic()
        with pytest.raises(Transient, match=r"no answer within 1 s|timeout"):
            add(ledger)
        assert time.monotonic() - started < 8
    finally:
        for process in frozen:
            process.resume()
    wait_until(lambda: _succeeds(lambda: add(ledger)), "the server")
    assert count(ledger) == 2
    ledger.close()


def _succeeds(act: Callable[[], object]) -> bool:
    try:
        act()
    except Transient:
        return False
    return True


class Cutter:
    """Between a client and its server: lets everything through, until a commit is to lose its answer."""

    def __init__(self, port: int) -> None:
        self.server, self.mode, self.away = port, "through", False
        self.listener = socket.create_server(("127.0.0.1", 0))
        self.port = self.listener.getsockname()[1]
        threading.Thread(target=self._serve, daemon=True).start()

    def _serve(self) -> None:
        while True:
            try:
                client, _ = self.listener.accept()
            except OSError:
                return
            if self.away:
                client.close()
                continue
            upstream = socket.create_connection(("127.0.0.1", self.server))
            threading.Thread(target=self._up, args=(client, upstream), daemon=True).start()
            threading.Thread(target=_copy, args=(upstream, client), daemon=True).start()

    def _up(self, client: socket.socket, upstream: socket.socket) -> None:
        while data := _received(client):
            if b"COMMIT\x00" in data and self.mode != "through":
                self._cut(data, client, upstream)
                return
            upstream.sendall(data)
        _close(upstream)

    def _cut(self, data: bytes, client: socket.socket, upstream: socket.socket) -> None:
        how, self.mode = self.mode, "through"
        self.away = how.endswith("and away")
        client.shutdown(socket.SHUT_WR)  # the answer never comes
        if how.startswith("after"):
            upstream.sendall(data)
            upstream.shutdown(socket.SHUT_WR)
        _close(client)
        _close(upstream) if how.startswith("before") else None


def _copy(source: socket.socket, sink: socket.socket) -> None:
    while data := _received(source):
        try:
            sink.sendall(data)
        except OSError:
            continue
    _close(sink)


def _received(source: socket.socket) -> bytes:
    try:
        return source.recv(65536)
    except OSError:
        return b""


def _close(one: socket.socket) -> None:
    with contextlib.suppress(OSError):
        one.shutdown(socket.SHUT_RDWR)
    one.close()


@pytest.fixture
def cutter(postgres: Postgres) -> Iterator[Cutter]:
    made = Cutter(postgres.port)
    yield made
    made.listener.close()


def test_case_H2_a_commit_whose_answer_was_lost_is_asked_for_again(
    postgres: Postgres, postgres_url: str, cutter: Cutter
) -> None:
    """100 lost answers: what was committed is a success, what was not is none, and nothing is there twice."""
    ledger, wanted = Database(postgres_url.replace(str(postgres.port), str(cutter.port))), []
    for number in range(100):
        cutter.mode = "after" if number % 2 else "before"
        if number % 2:
            add(ledger, f"{number}")
            wanted.append(f"{number}")
        else:
            with pytest.raises(Transient, match="nothing was changed, run it again") as lost:
                add(ledger, f"{number}")
            assert not isinstance(lost.value, Unanswered)
    with ledger.read() as connection:
        assert [event.subject for event in events.checked(connection)] == wanted and len(wanted) == 50
    ledger.close()


def test_case_H2_a_server_that_stays_away_leaves_it_open(
    postgres: Postgres, postgres_url: str, cutter: Cutter, impatient: None
) -> None:
    ledger = Database(postgres_url.replace(str(postgres.port), str(cutter.port)))
    add(ledger)
    for number, how in enumerate(("before and away", "after and away")):
        cutter.mode = how
        with pytest.raises(Unanswered, match="whether the change was made is not known: look before"):
            add(ledger)
        cutter.away = False
        wait_until(lambda due=1 + number: count(ledger) == due, "the server to end what it was told")  # type: ignore[misc]
    ledger.close()


def test_case_H2_a_server_killed_at_random_instants_loses_nothing_that_was_acknowledged(
    postgres: Postgres, postgres_url: str
) -> None:
    ledger, said, over = Database(postgres_url), [], threading.Event()

    def work() -> None:
        while not over.is_set():
            name = f"{len(said)}-{time.monotonic_ns()}"
            if _succeeds(lambda: add(ledger, name)):  # noqa: B023
                said.append(name)

    thread = threading.Thread(target=work)
    thread.start()
    try:
        for kill in range(4):
            due = len(said) + 25
            wait_until(lambda due=due: len(said) >= due, f"writes before kill {kill}")  # type: ignore[misc]
            postgres.restart(signal.SIGQUIT)
    finally:
        over.set()
        thread.join(60)
    with ledger.read() as connection:
        there = [event.subject for event in events.checked(connection)]
    assert set(said) <= set(there) and len(there) == len(set(there)) and len(said) >= 100
    ledger.close()


def test_an_unsafe_server_is_refused_and_a_careless_one_made_careful(postgres: Postgres, postgres_url: str) -> None:
    name = postgres_url.rsplit("/", 1)[1]
    for setting in (
        "synchronous_commit = off",
        "default_transaction_isolation = 'serializable'",
        "default_transaction_read_only = on",
    ):
        postgres.execute(f"ALTER DATABASE {name} SET {setting}")
    ledger = Database(postgres_url)
    with ledger.write() as connection:
        shown = {
            n: connection.execute(text(f"SHOW {n}")).scalar_one()
            for n in ("synchronous_commit", "transaction_isolation")
        }
        events.append(connection, "canary_step", "m", "s", {}, ROBOT)
    assert shown == {"synchronous_commit": "on", "transaction_isolation": "read committed"}
    ledger.close()
    postgres.execute("ALTER SYSTEM SET fsync = off")
    postgres.stop()
    started = postgres._popen([str(postgres.programs / "postgres"), "-D", str(postgres.data), "-h", "127.0.0.1",
                               "-p", str(postgres.port), "-k", ""])  # fmt: skip
    postgres._server = started
    try:
        postgres.wait()
        with pytest.raises(UsageError, match="fsync=off"):
            add(Database(postgres_url))
    finally:
        postgres.execute("ALTER SYSTEM RESET fsync")
        postgres.restart()


def test_a_writer_that_waits_for_others_too_long_is_told(ledger: Database, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(database, "WAIT_SECONDS", 1)
    other = Database(ledger.url)
    with ledger.write():
        refused: list[BaseException] = []

        def wait() -> None:
            try:
                add(other)
            except Transient as error:
                refused.append(error)

        thread = threading.Thread(target=wait)
        thread.start()
        thread.join(30)
    assert "nothing was changed, run it again" in str(refused[0])
    assert add(other) == 1
    other.close()


def test_a_server_that_does_not_know_us_says_what_to_correct(postgres: Postgres) -> None:
    with (
        pytest.raises(UsageError, match=r"does not exist.*correct ledger_url"),
        Database(postgres.url("nowhere")).read(),
    ):
        pass


# --- champions, leases, operations -------------------------------------------------------------------------------------


def test_a_champion_changes_once_a_generation(ledger: Database) -> None:
    with ledger.write() as connection:
        lease = leases.acquire(connection, "champion:m")
        event = events.append(connection, "model_promoted", "m", "1.0.0", {}, ROBOT)
        first = champions.change(connection, "m", "1.0.0", "a" * 64, 0, event, lease)
        second = champions.change(connection, "m", "1.1.0", "b" * 64, 1, event, lease)
        assert (first.previous, second.previous, second.generation) == (None, "1.0.0", 2)
        for version, generation, words in (
            ("1.2.0", 1, "lost to generation 2 .1.1.0 serves"),
            ("1.1.0", 2, "serves already"),
        ):
            with pytest.raises(Refused, match=words):
                champions.change(connection, "m", version, "c" * 64, generation, event, lease)
        leases.release(connection, lease)
        with pytest.raises(Transient, match="was lost"):
            champions.change(connection, "m", "1.2.0", "c" * 64, 2, event, lease)
        assert champions.find(connection, "m") == second


def test_an_operation_is_begun_once_and_ends_with_its_result(ledger: Database) -> None:
    with ledger.write() as connection:
        begun = operations.begin(connection, "op", "enter", "m", {"a": 1})
        assert operations.begin(connection, "op", "enter", "m", {"a": 1}) == begun
        assert operations.unfinished(connection) == [begun]
        operations.end(connection, "op", {"version": "1.0.0"})
        assert operations.begin(connection, "op", "enter", "m", {"a": 1}).result == {"version": "1.0.0"}
        with pytest.raises(StageError, match="never begun"):
            operations.end(connection, "other", {})


def test_case_C2_the_same_operation_with_other_content_is_a_conflict(ledger: Database) -> None:
    with ledger.write() as connection:
        operations.begin(connection, "op", "enter", "m", {"a": 1})
        with pytest.raises(Refused, match="asked for before with other content"):
            operations.begin(connection, "op", "enter", "m", {"a": 2})
        operations.end(connection, "op", {}, undone=True)
        assert operations.begin(connection, "op", "enter", "m", {"a": 2}).state == "begun"
