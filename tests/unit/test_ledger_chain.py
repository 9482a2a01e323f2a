"""The chain of events: what is tampered with is found, what comes in is one record, and clocks do not decide anything."""

import json
import shutil
import sqlite3
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from sqlalchemy import text

from slipway import digest
from slipway.errors import StageError
from slipway.ledger import chain, clock, events, sealed
from slipway.ledger.chain import Broken, Event, canonical, checked, hash_of
from slipway.ledger.clock import MOST_MS, Reading
from slipway.ledger.database import Database
from slipway.ledger.events import Actor
from slipway.ledger.tables import events as table

ROBOT = Actor("robot", "service")
LENGTH = 200


def fill(database: Database, count: int) -> list[Event]:
    with database.write() as connection:
        return [
            events.append(connection, "traffic_changed", "desk", f"1.{n}.0", {"weights": {"a": n}}, ROBOT, f"step {n}")
            for n in range(count)
        ]


def found_in(database: Database) -> int | None:
    """The first bad event that verification names; both ways to look agree."""
    with database.read() as connection:
        ways: list[Callable[[], Iterator[Event]]] = [
            lambda: events.checked(connection),
            lambda: checked(events.read(connection)),
        ]
        found = []
        for way in ways:
            try:
                assert sum(1 for _ in way()) <= LENGTH
                found.append(None)
            except Broken as broken:
                found.append(broken.sequence)
    assert found[0] == found[1]
    return found[0]


def test_a_chain_as_it_was_written_verifies_and_reads_back_as_it_was_given(ledger: Database) -> None:
    written = fill(ledger, 20)
    with ledger.read() as connection:
        assert list(events.checked(connection)) == list(events.read(connection)) == written
        assert [event.sequence for event in written] == list(range(1, 21))
        assert events.head(connection).hash == written[-1].hash
        assert [e.sequence for e in events.read(connection, after=3, most=2)] == [4, 5]
        assert [e.sequence for e in events.read(connection, subject="1.7.0", model="desk")] == [8]
        assert events.count(connection) == 20


def test_the_hash_is_the_digest_of_the_whole_events_canonical_text(ledger: Database) -> None:
    for event in fill(ledger, 3):
        assert event.hash == hash_of(event)
        assert event.hash == digest.of_bytes(canonical(event.model_dump(mode="json", exclude={"hash"})).encode())
    assert tuple(column.name for column in table.columns) == chain.COLUMNS
    assert set(chain.COLUMNS) == set(Event.model_fields)


def test_reading_uses_an_index_and_gives_events_in_order_without_sorting(sqlite_url: str) -> None:
    database = Database(sqlite_url)
    database.migrate()
    for column in ("kind", "model", "subject"):
        with database.read() as connection:
            query = f"EXPLAIN QUERY PLAN SELECT * FROM events WHERE {column} = 'x' AND sequence > 5 ORDER BY sequence"
            plan = " ".join(str(row[3]) for row in connection.execute(text(query)))
        assert f"ix_events_{column}" in plan and "B-TREE" not in plan


# --- H1 ----------------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def good(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A ledger of 200 events, as a file without its triggers: whoever owns the file can drop them."""
    path = tmp_path_factory.mktemp("good") / "ledger.db"
    database = Database(f"sqlite:///{path}")
    database.migrate()
    fill(database, LENGTH)
    database.close()
    with sqlite3.connect(path) as raw:
        raw.executescript(
            "DROP TRIGGER events_stay; DROP TRIGGER events_go_to_archives; PRAGMA wal_checkpoint(TRUNCATE)"
        )
    raw.close()
    return path


@pytest.fixture
def attacked(good: Path, tmp_path: Path) -> "Attacked":
    return Attacked(good, tmp_path / "ledger.db")


@dataclass
class Attacked:
    good: Path
    path: Path

    def after(self, *statements: tuple[str, tuple[object, ...]]) -> int | None:
        """What verification finds after these statements."""
        shutil.copyfile(self.good, self.path)
        with sqlite3.connect(self.path) as raw:
            for statement, values in statements:
                raw.execute(statement, values)
        raw.close()
        database = Database(f"sqlite:///{self.path}")
        try:
            return found_in(database)
        finally:
            database.close()
            self.path.with_name("ledger.db-wal").unlink(missing_ok=True)
            self.path.with_name("ledger.db-shm").unlink(missing_ok=True)

    def rows(self) -> list[list[object]]:
        with sqlite3.connect(self.good) as raw:
            return [list(row) for row in raw.execute(f"SELECT {', '.join(chain.COLUMNS)} FROM events ORDER BY 1")]


VALUES: list[object] = [
    "x",
    "",
    7,
    -1,
    2.5,
    None,
    b"\xff\xfe\x00",
    "\x00",
    "é\u202e",
    "[]",
    '{"a":1}',
    "{",
    "9" * 5000,
    10**18,
]
INSERT = f"INSERT INTO events ({', '.join(chain.COLUMNS)}) VALUES ({', '.join('?' * len(chain.COLUMNS))})"


@pytest.mark.parametrize("column", [name for name in chain.COLUMNS if name != "sequence"])
def test_case_H1_an_edit_of_any_column_to_anything_is_found_where_it_is(attacked: Attacked, column: str) -> None:
    tried = 0
    for value in VALUES:
        sequence = 1 + (tried * 37) % LENGTH
        attempts: list[tuple[str, tuple[object, ...]]] = [
            (f"UPDATE events SET {column} = ? WHERE sequence = ?", (value, sequence))
        ]
        if value is None:  # NOT NULL goes as easily as the triggers
            continue
        assert attacked.after(*attempts) == sequence, value
        tried += 1
    bad_text = (f"UPDATE events SET {column} = CAST(x'c328ff' AS TEXT) WHERE sequence = ?", (150,))
    assert attacked.after(bad_text) == 150
    assert tried >= 13


def _attacks(rows: list[list[object]], at: int) -> Iterator[tuple[str, list[list[object]], int]]:
    """What somebody may do at one place: its name, the rows afterwards, and where it must be found."""
    place, row = at - 1, rows[at - 1]
    for column in range(1, len(row)):
        was = row[column]
        other = was + 1 if isinstance(was, int) else f"{was}0"
        yield (
            f"edit {chain.COLUMNS[column]}",
            [*rows[:place], [*row[:column], other, *row[column + 1 :]], *rows[at:]],
            at,
        )
    forged = [*row[:9], '{"forged":1}', row[10]]
    forged.append(chain._hash(*forged))  # type: ignore[arg-type]
    if at < len(rows):
        yield "delete", [*rows[:place], *rows[at:]], at
        yield "swap", [*rows[:place], rows[at], row, *rows[at + 1 :]], at
        yield "swap and renumber", [*rows[:place], [at, *rows[at][1:]], [at + 1, *row[1:]], *rows[at + 1 :]], at
        yield "hash again", [*rows[:place], forged, *rows[at:]], at + 1
        yield "delete and renumber", [*rows[:place], *([one[0] - 1, *one[1:]] for one in rows[at:])], at  # type: ignore[operator]
    yield "twice", [*rows[:at], row, *rows[at:]], at + 1
    yield "insert", [*rows[:place], forged, *([one[0] + 1, *one[1:]] for one in rows[place:])], at + 1  # type: ignore[operator]
    yield "cut the beginning", rows[at:] or [[2, *row[1:]]], 1
    yield "replay", [*rows[:at], *([one[0] + at, *one[1:]] for one in rows[:3])], at + 1  # type: ignore[operator]


def test_case_H1_every_attack_at_every_place_is_found_where_it_is(attacked: Attacked) -> None:
    rows, tried = attacked.rows(), 0
    assert len(list(chain.checked_rows(rows))) == LENGTH
    for at in range(1, LENGTH + 1):
        for name, changed, due in _attacks(rows, at):
            with pytest.raises(Broken) as broken:
                list(chain.checked_rows(changed))
            assert broken.value.sequence == due, (name, at)
            tried += 1
    assert tried >= 3_900


def test_case_H1_the_same_through_the_file(attacked: Attacked) -> None:
    """Edit, delete, swap, insert: each at every seventh place of 200, found exactly there."""
    for at in range(1, LENGTH + 1, 7):
        assert attacked.after(('UPDATE events SET payload = \'{"weights":{"b":1}}\' WHERE sequence = ?', (at,))) == at
        if at < LENGTH:
            assert attacked.after(("DELETE FROM events WHERE sequence = ?", (at,))) == at
            swap: list[tuple[str, tuple[object, ...]]] = [
                ("UPDATE events SET sequence = -1 WHERE sequence = ?", (at,)),
                ("UPDATE events SET sequence = ? WHERE sequence = ?", (at, at + 1)),
                ("UPDATE events SET sequence = ? WHERE sequence = -1", (at + 1,)),
            ]
            assert attacked.after(*swap) == at
        row = attacked.rows()[at - 1]
        shifted = ("UPDATE events SET sequence = -sequence - 1 WHERE sequence >= ?", (at,))
        back = ("UPDATE events SET sequence = -sequence WHERE sequence < 0", ())
        assert attacked.after(shifted, back, (INSERT, tuple(row))) in (at, at + 1)


def test_case_H1_a_suffix_hashed_again_is_found_where_it_was_cut_from_the_rest(attacked: Attacked) -> None:
    """Re-hashing all that follows hides an edit from the chain itself: the head then is another one, which checkpoints hold."""
    rows = attacked.rows()
    rows[100][9] = '{"weights":{"forged":100}}'
    one = Event.model_validate_json(canonical(_as_event(rows[100])))
    rows[100][11] = hash_of(one)
    edit = ("UPDATE events SET payload = ?, hash = ? WHERE sequence = 101", (rows[100][9], rows[100][11]))
    assert attacked.after(edit) == 102
    forged, previous = [edit], str(rows[100][11])
    for row in rows[101:]:
        row[10] = previous
        previous = hash_of(Event.model_validate_json(canonical(_as_event(row))))
        forged.append(("UPDATE events SET previous = ?, hash = ? WHERE sequence = ?", (row[10], previous, row[0])))
    assert attacked.after(*forged) is None
    assert previous != attacked.rows()[-1][11], "the head tells; slipway.ledger.checkpoints keeps it elsewhere"


def test_case_H1_a_forged_tail_must_hang_on_the_head(attacked: Attacked) -> None:
    row = attacked.rows()[-1]
    row[0] = LENGTH + 1
    assert attacked.after((INSERT, tuple(row))) == LENGTH + 1
    row[10] = row[11]
    assert attacked.after((INSERT, tuple(row))) == LENGTH + 1, "it follows, but its hash is the old one"


def test_case_H1_a_first_event_that_is_not_the_first_is_found(attacked: Attacked) -> None:
    assert attacked.after(("DELETE FROM events WHERE sequence < 50", ())) == 1
    assert attacked.after(("UPDATE events SET previous = ? WHERE sequence = 1", ("1" * 64,))) == 1


def test_case_H1_payloads_that_are_no_objects_are_found_though_their_hashes_hold(attacked: Attacked) -> None:
    for text_of_it in ("[]", "1", "null", '"x"'):
        row = attacked.rows()[-1]
        row[9] = text_of_it
        row[11] = chain._hash(*row[:11])  # type: ignore[arg-type]
        edit = ("UPDATE events SET payload = ?, hash = ? WHERE sequence = ?", (row[9], row[11], LENGTH))
        assert attacked.after(edit) == LENGTH


def test_case_H1_events_from_elsewhere_may_hold_anything_too() -> None:
    """Archives and exports are read from files: the same check on events that never saw a database."""
    event = Event.model_construct(
        sequence=1, at="x", elapsed_ms=0, boot="b", ticks_ms=0, kind="k", model="m", subject="s", actor={}, payload={},
        previous=chain.GENESIS, hash="",
    )  # fmt: skip
    event = event.model_copy(update={"hash": hash_of(event)})
    assert list(checked([event])) == [event]
    deep: list[object] = []
    for _ in range(5000):
        deep = [deep]
    for name in Event.model_fields:
        for value in (
            None,
            5,
            "5",
            b"5",
            2.5,
            float("nan"),
            {1, 2},
            object(),
            {"a": object()},
            {"a": deep},
            "\ud800",
            {"x": 1},
        ):
            changed = event.model_copy(update={name: value})
            if changed.__dict__ != event.__dict__:
                with pytest.raises(Broken) as broken:
                    list(checked([changed]))
                assert broken.value.sequence == 1 or name == "sequence"


def test_appending_to_a_head_that_was_changed_is_refused(ledger: Database) -> None:
    fill(ledger, 3)
    with ledger.write() as connection:
        if ledger.is_sqlite:
            connection.exec_driver_sql("DROP TRIGGER events_stay")
        else:
            connection.exec_driver_sql("ALTER TABLE events DISABLE TRIGGER USER")
        connection.execute(table.update().where(table.c.sequence == 3).values(subject="9.9.9"))
    with (
        pytest.raises(StageError, match=r"newest event was changed behind its back \(event 3: says something else"),
        ledger.write() as c,
    ):
        events.append(c, "release_started", "m", "r", {}, ROBOT)
    with ledger.read() as connection:
        assert events.count(connection) == 3


def _as_event(row: list[object]) -> dict[str, object]:
    values = dict(zip(chain.COLUMNS, row, strict=True))
    return values | {"actor": json.loads(str(values["actor"])), "payload": json.loads(str(values["payload"]))}


# --- H4 ----------------------------------------------------------------------------------------------------------------

NASTY = {
    "newline": "a\nb\r\nc\x0bd\x0ce\x85f\u2028g\u2029h",
    "control": "".join(map(chr, range(32))) + "\x7f\x9b[31m",
    "ten megabytes": "x" * 10_000_000,
    "ten megabytes of newlines": "\n" * 10_000_000,
    "wide": "\U0001f4a9" * 5_000,
    "no Unicode": "caf\udce9 \ud83d",
    "bidi": "abc\u202edef\u2066ghi\u2069",
    "NUL": "a\x00b",
    "JSON": '"},"hash":"0"}{',
    "empty": "",
}


@pytest.mark.parametrize("name", NASTY)
def test_case_H4_whatever_somebody_is_called_or_says_is_one_well_formed_record(ledger: Database, name: str) -> None:
    nasty = NASTY[name]
    with ledger.write() as connection:
        events.append(connection, "release_started", nasty, nasty, {"said": nasty[:1000].encode("utf-8", "replace").decode()},
                      Actor(nasty, nasty), nasty)  # fmt: skip
        events.append(connection, "release_ended", "m", "r", {}, ROBOT)
    with ledger.read() as connection:
        one, two = events.checked(connection)
        assert [one.sequence, two.sequence] == [1, 2]
        said = sealed.texts(connection)
        texts = [one.model, one.subject, str(one.actor["via"]), said[one.payload["reason"]["sealed"]] or ""]
        texts.append(said[one.actor["who"]["sealed"]] or "")
        assert sealed.is_true(connection, one.payload["reason"]) and sealed.is_true(connection, one.actor["who"])
        assert next(events.read(connection, model=one.model)).sequence == 1
    for value in texts:
        assert len(value) < 4_200 and len(value.splitlines()) <= 1 and (value.isprintable() or value == "")
        assert value.encode().decode() == value
    record = canonical(one.model_dump(mode="json"))
    assert record.isascii() and len(record.splitlines()) == 1 and len(record) < 30_000


def test_case_H4_the_same_long_text_is_kept_once_and_can_be_erased(ledger: Database) -> None:
    with ledger.write() as connection:
        long = "".join(chr(0x4E00 + (n * 7919) % 20000) for n in range(3_999))  # far beyond what an index row holds
        first, second = sealed.seal(connection, long), sealed.seal(connection, long)
        assert first == second
        assert sealed.erase(connection, long) == [first["sealed"]]
        assert sealed.is_true(connection, first)
        assert sealed.seal(connection, long) != first
    with ledger.read() as connection:
        assert not sealed.is_true(connection, {"sealed": "no such", "digest": "x"}) and not sealed.is_true(
            connection, {}
        )


@pytest.mark.parametrize(
    "payload", [{"x": float("nan")}, {"x": {1, 2}}, {"x": 2**70}, {"x": "\ud800"}, {"x": "y" * 2_000_000}]
)
def test_a_payload_that_no_json_holds_is_refused_in_words(ledger: Database, payload: dict[str, object]) -> None:
    with pytest.raises(StageError, match="payload of release_started"), ledger.write() as connection:
        events.append(connection, "release_started", "m", "r", payload, ROBOT)
    with ledger.read() as connection:
        assert events.count(connection) == 0


def test_an_unknown_kind_is_refused(ledger: Database) -> None:
    with pytest.raises(StageError, match="promoted is no kind"), ledger.write() as connection:
        events.append(connection, "promoted", "m", "r", {}, ROBOT)


# --- C10, C11: clocks --------------------------------------------------------------------------------------------------

DAY = 24 * 3600 * 1000
BORN = datetime(2026, 11, 21, tzinfo=UTC)


@dataclass
class World:
    """True time, and machines whose clocks show something else."""

    now_ms: int = 0

    def __post_init__(self) -> None:
        self.boots: dict[int, tuple[str, int]] = {}
        self.skews: dict[int, int] = {}

    def reading(self, machine: int) -> Reading:
        boot, since = self.boots.setdefault(machine, (f"{machine}-0", self.now_ms))
        shown = BORN + timedelta(milliseconds=self.now_ms + self.skews.get(machine, 0))
        return Reading(shown, boot, self.now_ms - since)

    def reboot(self, machine: int) -> None:
        name = self.boots.get(machine, (f"{machine}-0", 0))[0]
        self.boots[machine] = (f"{machine}-{int(name.split('-')[1]) + 1}", self.now_ms)


STEP = st.tuples(
    st.integers(0, 2),
    st.sampled_from([0, 1, 1000, 3600_000, DAY, 40 * DAY]),
    st.sampled_from([0, 0, 0, DAY, -DAY, 400 * DAY, -400 * DAY, 3600_000, -3600_000]),
    st.booleans(),
)


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(script=st.lists(STEP, min_size=2, max_size=25))
def test_case_C10_no_clock_makes_time_pass_faster_or_go_back(
    tmp_path: Path, script: list[tuple[int, int, int, bool]]
) -> None:
    """Over-counted by a day at most for each start of a machine, never going back, in the order in which events came."""
    path = tmp_path / "ledger.db"
    for old in tmp_path.glob("ledger.db*"):
        old.unlink()
    database, world, told, truth = Database(f"sqlite:///{path}"), World(), [], []
    database.migrate()
    for machine, passes, steps, reboots in script:
        world.now_ms += passes
        world.skews[machine] = world.skews.get(machine, 0) + steps
        if reboots:
            world.reboot(machine)
        with database.write() as connection:
            told.append(events.append(connection, "canary_step", "m", "s", {}, ROBOT, now=world.reading(machine)))
        truth.append(world.now_ms)
    database.close()
    assert [event.sequence for event in told] == list(range(1, len(script) + 1))
    boots: set[str] = set()
    for before, event in zip([None, *told], told, strict=False):
        boots.add(event.boot)
        assert event.elapsed_ms <= truth[event.sequence - 1] - truth[0] + MOST_MS * (len(boots) - 1)
        assert before is None or event.elapsed_ms >= before.elapsed_ms
    assert list(checked(told)) == told


def test_case_C10_two_machines_of_which_one_is_ahead_do_not_add_up_the_difference(ledger: Database) -> None:
    world = World(skews_of := 0)
    assert skews_of == 0
    world.skews[1] = DAY
    with ledger.write() as connection:
        for _ in range(50):
            for machine in (0, 1):
                world.now_ms += 1000
                last = events.append(connection, "canary_step", "m", "s", {}, ROBOT, now=world.reading(machine))
        assert last.elapsed_ms <= world.now_ms + DAY
        assert events.elapsed_ms(connection, world.reading(0)) == last.elapsed_ms


def test_case_C10_a_steady_machine_counts_exactly_whatever_its_wall_clock_does(ledger: Database) -> None:
    world, gone = World(), []
    with ledger.write() as connection:
        for step in (0, 400 * DAY, -800 * DAY, DAY, -DAY, 60_000):
            world.now_ms, world.skews[0] = world.now_ms + 60_000, step
            gone.append(events.append(connection, "canary_step", "m", "s", {}, ROBOT, now=world.reading(0)).elapsed_ms)
    assert gone == [0, 60_000, 120_000, 180_000, 240_000, 300_000]


def test_case_C10_a_machine_that_went_back_to_a_snapshot_counts_nothing_twice() -> None:
    ahead, behind = Reading(BORN, "b", 1000), Reading(BORN + timedelta(days=300), "b", 500)
    assert clock.passed_ms(ahead, behind) == 0
    assert clock.elapsed_ms(70, behind, (70, 1000), Reading(BORN, "b", 999)) == 70
    assert clock.elapsed_ms(70, behind, (70, 1000), Reading(BORN, "b", 1100)) == 170


def test_case_C10_two_copies_of_one_machine_count_what_the_one_ahead_has_seen(ledger: Database) -> None:
    with ledger.write() as connection:
        readings = [Reading(BORN, "b", ticks) for ticks in (1000, 500, 600, 1001, 700, 1010)]
        gone = [events.append(connection, "canary_step", "m", "s", {}, ROBOT, now=now).elapsed_ms for now in readings]
    assert gone == [0, 0, 0, 1, 1, 10]


def test_case_C11_time_is_utc_in_any_time_zone(ledger: Database, monkeypatch: pytest.MonkeyPatch) -> None:
    import time

    shown = []
    try:
        for zone in ("Pacific/Kiritimati", "America/St_Johns", "Europe/London", "UTC"):
            monkeypatch.setenv("TZ", zone)
            time.tzset()
            with ledger.write() as connection:
                event = events.append(connection, "canary_step", "m", "s", {}, ROBOT)
            assert event.at.endswith("Z") and abs(clock.moment(event.at) - datetime.now(UTC)) < timedelta(seconds=30)
            shown.append(event.at)
    finally:
        monkeypatch.undo()
        time.tzset()
    assert shown == sorted(shown)
    local = datetime.fromisoformat("2026-10-25T02:30:00+02:00")  # the hour that comes twice
    assert clock.shown(local) == "2026-10-25T00:30:00.000000Z"
    assert clock.moment(clock.shown(local)) == local
    early = datetime(900, 1, 1, tzinfo=UTC)
    assert (
        clock.shown(early) == "0900-01-01T00:00:00.000000Z" < clock.shown(local)
        and clock.moment(clock.shown(early)) == early
    )
