"""Kills, power cuts, torn writes and a failing disk: what the ledger acknowledged is there, once, in one chain."""

import os
import random
import shutil
import sqlite3
import subprocess
import time
from collections import Counter
from pathlib import Path

import ledger_workers as workers
import pytest

from slipway.errors import StageError
from slipway.ledger import chain, events
from slipway.ledger.database import Database

# --- SIGKILL -----------------------------------------------------------------------------------------------------------


def stormed(ledger: Database, kills: int, acknowledged: int, seed: int) -> None:
    """Kill writers while they write, and look for every event that was acknowledged."""
    options = {"kills": kills, "acknowledged": acknowledged, "writers": 3, "most": 25, "seed": seed}
    (said,) = workers.lines(workers.start("storm", ledger.url, **options))
    due = list(workers.acknowledged(said["acknowledged"]))
    with ledger.read() as connection:
        there = Counter(event.subject for event in events.checked(connection))
        assert events.count(connection) == sum(there.values())
    lost, twice = [one for one in due if one not in there], [one for one, times in there.items() if times > 1]
    assert (lost, twice) == ([], []), f"seed {seed}"
    assert said["killed"] >= kills and len(due) >= acknowledged
    in_parts = Counter(one.rsplit("-", 1)[0] for one in there)
    for one in said["acknowledged"]:
        name, size = one.split()
        assert in_parts[name] == int(size)
    print(f"{said['killed']} kills, {len(due):,} acknowledged, {sum(there.values()):,} there (seed {seed})")


def test_case_H2_writers_killed_at_random_instants_lose_nothing_that_was_acknowledged(ledger: Database) -> None:
    stormed(ledger, kills=50, acknowledged=2_000, seed=random.randrange(1 << 30))


@pytest.mark.chaos
def test_case_H2_twenty_thousand_events_over_150_kills(ledger: Database) -> None:
    stormed(ledger, kills=150, acknowledged=20_000, seed=random.randrange(1 << 30))


# --- a disk that forgets -----------------------------------------------------------------------------------------------


@pytest.fixture(scope="session")
def shim(tmp_path_factory: pytest.TempPathFactory) -> Path:
    compiler = shutil.which("gcc")
    if compiler is None:
        pytest.skip("gcc is not installed (`make services` installs it on Debian, as root)")
    made = tmp_path_factory.mktemp("shim") / "power_cut.so"
    source = Path(__file__).with_name("power_cut.c")
    subprocess.run([compiler, "-shared", "-fPIC", "-O1", "-Wall", "-Werror", "-o", made, source, "-ldl"], check=True)
    return made


class Disk:
    """A folder whose files are in memory, and what of them is on the disk."""

    def __init__(self, home: Path, shim: Path) -> None:
        self.memory, self.kept = home / "memory", home / "kept"
        self.memory.mkdir(parents=True)
        self.kept.mkdir()
        self.environment = {
            "LD_PRELOAD": str(shim), "POWER_CUT_WATCH": f"{self.memory.resolve()}/", "POWER_CUT_DISK": str(self.kept.resolve()),
        }  # fmt: skip

    @property
    def url(self) -> str:
        return f"sqlite:///{self.memory / 'ledger.db'}"

    def after_the_cut(self, chance: random.Random) -> Path:
        """The disk when power is back: of what was not synced, each sector had reached it or not."""
        found = self.kept.parent / f"found-{chance.random()}"
        found.mkdir()
        for name in ("ledger.db", "ledger.db-wal"):
            if (self.kept / name).exists():
                memory = (self.memory / name).read_bytes() if (self.memory / name).exists() else b""
                (found / name).write_bytes(_mixed((self.kept / name).read_bytes(), memory, chance))
        return found / "ledger.db"


def _mixed(kept: bytes, memory: bytes, chance: random.Random) -> bytes:
    share = chance.choice([0.0, 0.0, 0.5, 1.0])
    size = len(kept) if chance.random() < 0.5 else max(len(memory), len(kept))
    mixed = bytearray(kept.ljust(size, b"\0"))
    for start in range(0, min(size, len(memory)), 512):
        if chance.random() < share:
            mixed[start : start + 512] = memory[start : start + 512].ljust(min(512, size - start), b"\0")
    return bytes(mixed[:size])


def cut(disk: Disk, chance: random.Random, extra: dict[str, str] | None = None) -> tuple[set[str], set[str]]:
    """Write until the power fails: what was acknowledged, and what is there when it is back."""
    worker = workers.start("append_for_ever", disk.url, environment=disk.environment | (extra or {}), most=12)
    assert workers.line(worker) == "begun"
    assert worker.stdout is not None
    said = [worker.stdout.readline() for _ in range(chance.randrange(20, 160))]
    time.sleep(chance.uniform(0, 0.02))  # any instant of the next writes
    worker.kill()
    said += worker.stdout.readlines()
    worker.wait()
    due = set(workers.acknowledged([one.strip() for one in said if one.endswith("\n")]))
    database = Database(f"sqlite:///{disk.after_the_cut(chance)}")
    with database.read() as connection:
        there = [event.subject for event in events.checked(connection)]
    database.close()
    assert len(there) == len(set(there))
    return due, set(there)


def test_case_A10_a_power_cut_takes_nothing_that_was_acknowledged(tmp_path: Path, shim: Path) -> None:
    seed = random.randrange(1 << 30)
    chance, count = random.Random(seed), 0
    for number in range(6):
        due, there = cut(Disk(tmp_path / str(number), shim), chance)
        assert due <= there, f"seed {seed}: {len(due - there)} of {len(due)} acknowledged events are gone"
        count += len(due)
    assert count > 1_000


@pytest.mark.chaos
def test_case_A10_a_hundred_power_cuts(tmp_path: Path, shim: Path) -> None:
    chance = random.Random(20)
    for number in range(100):
        due, there = cut(Disk(tmp_path / str(number), shim), chance)
        assert due <= there, number


def test_case_A10_the_cut_would_show_a_ledger_that_does_not_sync(tmp_path: Path, shim: Path) -> None:
    """The same with a database that answers before the bytes are on the disk: its events are gone."""
    careless = tmp_path / "sitecustomize.py"
    careless.write_text(
        "import sqlite3\nconnect = sqlite3.connect\n\n\nclass Careless(sqlite3.Connection):\n"
        "    def execute(self, statement, *values):\n"
        "        return super().execute(statement.replace('synchronous = FULL', 'synchronous = OFF'), *values)\n\n\n"
        "sqlite3.connect = sqlite3.dbapi2.connect = lambda *given, **named: connect(*given, factory=Careless, **named)\n"
    )
    disk = Disk(tmp_path / "disk", shim)
    synced = Database(disk.url)  # its tables are on the disk, what follows is not
    synced.migrate()
    synced.close()
    shutil.copyfile(disk.memory / "ledger.db", disk.kept / "ledger.db")
    paths = os.pathsep.join([str(tmp_path), *filter(None, __import__("sys").path)])
    due, there = cut(disk, random.Random(3), {"PYTHONPATH": paths})
    assert due - there


def test_case_A12_a_sync_that_fails_ends_all_acknowledging(tmp_path: Path, shim: Path) -> None:
    disk = Disk(tmp_path, shim)
    worker = workers.start("append_on_bad_disk", disk.url, environment=disk.environment, switch=str(disk.kept / "fail"))
    good, first, second, later = workers.lines(worker)
    assert good == "good disk"
    for said in (first, second, later):  # also when the disk says that it is well again
        assert (
            said["exit_code"] == 1
            and "what was not acknowledged may be lost and nothing more is written" in said["why"]
        )
    database = Database(disk.url)
    with database.read() as connection:
        assert [event.subject for event in events.checked(connection)][:1] == ["good disk"]
    with database.write() as connection:
        events.append(connection, "canary_step", "m", "another process", {}, workers.ROBOT)
    database.close()


# --- torn writes -------------------------------------------------------------------------------------------------------


def verified(path: Path) -> int:
    """How many events a ledger's file holds, all of them in one chain."""
    raw = sqlite3.connect(path)
    try:
        assert raw.execute("PRAGMA quick_check").fetchone() == ("ok",)
        rows = raw.execute(f"SELECT {', '.join(chain.COLUMNS)} FROM events ORDER BY sequence").fetchall()
        return sum(1 for _ in chain.checked_rows(rows))
    finally:
        raw.close()


@pytest.fixture
def torn(tmp_path: Path) -> tuple[Path, bytes, bytes]:
    """A folder for copies, a ledger of five events, and its log with only the last write in it."""
    database = Database(f"sqlite:///{tmp_path}/whole/ledger.db")
    database.migrate()
    assert database.file is not None
    for _ in range(4):
        with database.write() as connection:
            events.append(connection, "canary_step", "m", "s", {}, workers.ROBOT)
    with database.engine.connect() as connection:
        connection.exec_driver_sql("PRAGMA wal_checkpoint(TRUNCATE)")
    with database.write() as connection:
        events.append(connection, "canary_step", "m", "last", {}, workers.ROBOT)
    whole, log = database.file.read_bytes(), database.file.with_name("ledger.db-wal").read_bytes()
    database.close()
    (tmp_path / "torn").mkdir()
    return tmp_path / "torn", whole, log


def after_tearing(folder: Path, whole: bytes, log: bytes) -> int:
    for old in folder.iterdir():
        old.unlink()
    (folder / "ledger.db").write_bytes(whole)
    (folder / "ledger.db-wal").write_bytes(log)
    return verified(folder / "ledger.db")


def frames(log: bytes) -> list[int]:
    """Where the log's frames begin: 24 bytes and a page each, after a head of 32."""
    page = int.from_bytes(log[8:12], "big")
    return list(range(32, len(log), 24 + page))


def test_case_A9_a_torn_log_drops_the_last_write_and_nothing_else(torn: tuple[Path, bytes, bytes]) -> None:
    """Cut off, or overwritten, at every byte of the log's heads and at every 7th of its pages."""
    folder, whole, log = torn
    assert after_tearing(folder, whole, log) == 5
    heads = {at + byte for at in frames(log) for byte in range(-2, 26)} | set(range(34))
    places = sorted(at for at in heads | set(range(0, len(log), 7)) if 0 <= at < len(log))
    assert len(places) > 3_000
    for at in places:
        assert after_tearing(folder, whole, log[:at]) == 4, at
        if at % 3 == 0:
            changed = bytes([log[at] ^ 0xFF])
            assert after_tearing(folder, whole, log[:at] + changed + log[at + 1 :]) in (4, 5), at


@pytest.mark.chaos
def test_case_A9_at_each_byte(torn: tuple[Path, bytes, bytes]) -> None:
    folder, whole, log = torn
    for at in range(len(log)):
        assert after_tearing(folder, whole, log[:at]) == 4, at


def test_case_A9_a_torn_file_is_never_taken_for_a_whole_one(torn: tuple[Path, bytes, bytes]) -> None:
    """The file itself, cut off anywhere: an error that says so, or the chain up to where it was cut."""
    folder, whole, _ = torn
    wrong = 0
    for at in range(0, len(whole), 997):
        for old in folder.iterdir():
            old.unlink()
        (folder / "ledger.db").write_bytes(whole[:at])
        database = Database(f"sqlite:///{folder / 'ledger.db'}")
        if database.unsound() is None:  # nothing was cut off but unused bytes, or all tables were
            assert _events_in(database) in (4, None), at
        else:
            wrong += 1
        database.close()
    assert wrong > 100


def _events_in(database: Database) -> int | None:
    """None where there are not even tables, which is an error by itself."""
    try:
        with database.read() as connection:
            return sum(1 for _ in events.checked(connection))
    except StageError as error:
        assert "cannot be trusted (no such table" in str(error)
        return None


def test_an_index_that_lost_its_entries_is_noticed(torn: tuple[Path, bytes, bytes]) -> None:
    """The chain is read by its sequence and does not see it."""
    folder, whole, _ = torn
    (folder / "ledger.db").write_bytes(whole)
    raw = sqlite3.connect(folder / "ledger.db")
    (page,) = raw.execute("SELECT rootpage FROM sqlite_master WHERE name = 'ix_events_kind'").fetchone()
    raw.close()
    size = int.from_bytes(whole[16:18], "big")
    at = (page - 1) * size + 3  # the number of its entries
    (folder / "ledger.db").write_bytes(whole[:at] + b"\0\0" + whole[at + 2 :])
    database = Database(f"sqlite:///{folder / 'ledger.db'}")
    assert _events_in(database) == 4
    assert "is damaged" in (database.unsound() or "")
    database.close()


def test_a_whole_file_is_sound(ledger: Database) -> None:
    assert ledger.unsound() is None
