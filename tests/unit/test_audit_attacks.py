"""Ten ways to rewrite a ledger, at every position of a log of 200 events: each is found, and the first bad event is named."""

import shutil
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import made_ledger
import pytest
from ledgers import Postgres
from made_ledger import EACH, Story
from sqlalchemy import Connection, delete, insert, select, text, update

from slipway.ledger import audit, chain, checkpoints, events, places, tables
from slipway.ledger.audit import Report
from slipway.ledger.chain import canonical
from slipway.ledger.database import Database

EVENTS = 200
ROWS = tables.events
VOUCHED = 2 * EACH  # events from one checkpoint to the next


@dataclass
class Log:
    """A log of 200 events, put back whole for each attack on it."""

    root: Path
    restore: Callable[[], str]  # the address of a whole copy
    is_sqlite: bool
    snapshots: dict[int, str]  # events → the database as it was when it had so many

    def attacked(self, attack: Callable[["Log", Connection, int], None], position: int) -> Report:
        database = Database(self.restore())
        try:
            with database.write() as connection:
                made_ledger.unguarded(connection, self.is_sqlite)
                attack(self, connection, position)
                made_ledger.guard(connection, self.is_sqlite)
            return audit.verify(self.root, mirrors=False)
        finally:
            database.close()


@pytest.fixture(scope="module")
def told(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The log on SQLite, told once; copies of it as it grew; a second place with every checkpoint."""
    folder = tmp_path_factory.mktemp("attacks")
    root = made_ledger.project(folder / "project")
    made_ledger.configure(root, audit_checkpoints=str(folder / "elsewhere"))
    database = Database.of(root)
    story = Story(root, database, vouch=2)
    for number in range(1, EVENTS // EACH + 1):
        story.tell(1)
        _copied(database, folder / f"{number * EACH}.db")
    database.close()
    (root / ".slipway" / "ledger.db").unlink()
    return folder


def _copied(database: Database, target: Path) -> None:
    with database.engine.connect() as connection:
        connection.exec_driver_sql(f"VACUUM INTO '{target}'")


@pytest.fixture
def log(told: Path, tmp_path: Path) -> Log:
    """The log on SQLite."""
    root = tmp_path / "project"
    shutil.copytree(told / "project", root)
    here = root / ".slipway" / "ledger.db"

    def restore() -> str:
        for name in ("-wal", "-shm"):
            here.with_name(here.name + name).unlink(missing_ok=True)
        shutil.copyfile(told / f"{EVENTS}.db", here)
        return f"sqlite:///{here}"

    snapshots = {count: str(told / f"{count}.db") for count in range(EACH, EVENTS, EACH)}
    return Log(root, restore, True, snapshots)


# --- the attacks ------------------------------------------------------------------------------------------------------

_EDITS = {
    "at": "2031-01-01T00:00:00.000000Z", "elapsed_ms": 1, "boot": "another", "ticks_ms": 2, "kind": "rolled_back",
    "model": "other", "subject": "other", "actor": "{}", "payload": '{"a":1}', "previous": "f" * 64, "hash": "e" * 64,
}  # fmt: skip


def edit(_: Log, connection: Connection, position: int) -> None:
    name, value = list(_EDITS.items())[position % len(_EDITS)]
    connection.execute(update(ROWS).where(ROWS.c.sequence == position).values({name: value}))


def remove(_: Log, connection: Connection, position: int) -> None:
    connection.execute(delete(ROWS).where(ROWS.c.sequence == position))


def put_between(_: Log, connection: Connection, position: int) -> None:
    row = dict(_row(connection, position))
    _move_up(connection, position)
    connection.execute(insert(ROWS).values(row | {"payload": '{"forged":true}'}))


def swap(_: Log, connection: Connection, position: int) -> None:
    other = position + 1 if position < EVENTS else position - 1
    first, second = dict(_row(connection, position)), dict(_row(connection, other))
    connection.execute(delete(ROWS).where(ROWS.c.sequence.in_((position, other))))
    connection.execute(insert(ROWS).values(first | {"sequence": other}))
    connection.execute(insert(ROWS).values(second | {"sequence": position}))


def truncate(_: Log, connection: Connection, position: int) -> None:
    made_ledger.cut(connection, position - 1)


def empty(_: Log, connection: Connection, position: int) -> None:
    """All of it gone, and another history of some length in its place."""
    for table in tables.metadata.sorted_tables:
        connection.execute(delete(table))
    _append(connection, min(position, 2 * VOUCHED + 5))


def rehash(_: Log, connection: Connection, position: int) -> None:
    made_ledger.rewritten(connection, position, {"payload": {"forged": True}})


def forge_tail(_: Log, connection: Connection, position: int) -> None:
    made_ledger.cut(connection, position - 1)
    _append(connection, min(EVENTS - position + 1, VOUCHED + 5))


def split_view(log: Log, connection: Connection, position: int) -> None:
    """Another history from a position on, shown with checkpoints that end before it. The second place knows better."""
    forge_tail(log, connection, position)
    connection.execute(delete(tables.sinks))
    file = places.folder(log.root) / checkpoints.FILE
    kept = [line for line in checkpoints.lines(log.root) if line.checkpoint and line.checkpoint.sequence < position]
    file.write_text("".join(f"{canonical(line.checkpoint.model_dump())}\n" for line in kept if line.checkpoint))


def _row(connection: Connection, position: int) -> dict[str, object]:
    return dict(connection.execute(select(ROWS).where(ROWS.c.sequence == position)).one()._mapping)


def _move_up(connection: Connection, position: int) -> None:
    connection.execute(update(ROWS).where(ROWS.c.sequence >= position).values(sequence=-ROWS.c.sequence))
    connection.execute(update(ROWS).where(ROWS.c.sequence < 0).values(sequence=1 - ROWS.c.sequence))


def _append(connection: Connection, count: int) -> None:
    for _ in range(count):
        events.append(connection, "stage_finished", made_ledger.MODEL, "forged", {"forged": True})


ATTACKS = (edit, remove, put_between, swap, truncate, empty, rehash, forge_tail)


def is_named(report: Report, attack: Callable[..., None], position: int) -> bool:
    """Whether the first bad event is named: exactly, or to within what lies between two checkpoints where hashes fit."""
    found = report.problems[0].sequence
    if attack in (rehash, forge_tail, split_view):
        return found is not None and position - VOUCHED < found <= position
    if attack is empty:  # a history shorter than the first checkpoint could be a true one that was cut
        return found == (1 if position >= VOUCHED else position + 1)
    return found == (position if attack is not swap or position < EVENTS else position - 1)


@pytest.mark.parametrize("attack", ATTACKS, ids=lambda attack: attack.__name__)
def test_case_H1_every_rewriting_is_found_at_every_position(log: Log, attack: Callable[..., None]) -> None:
    found = 0
    for position in range(1, EVENTS + 1):
        report = log.attacked(attack, position)
        assert report.problems, f"{attack.__name__} at {position} was not found"
        assert is_named(report, attack, position), (attack.__name__, position, report.problems[0])
        found += 1
    assert found == EVENTS


def test_case_H1_a_split_view_is_found_by_the_second_place(log: Log) -> None:
    whole = (places.folder(log.root) / checkpoints.FILE).read_bytes()
    for position in range(1, EVENTS + 1):
        (places.folder(log.root) / checkpoints.FILE).write_bytes(whole)
        report = log.attacked(split_view, position)
        assert report.problems and is_named(report, split_view, position), (position, report.problems[:1])


def test_case_H1_an_older_copy_put_back_is_found(log: Log) -> None:
    here = log.root / ".slipway" / "ledger.db"
    assert len(log.snapshots) == EVENTS // EACH - 1
    for count, copy in log.snapshots.items():
        log.restore()
        shutil.copyfile(copy, here)
        report = audit.verify(log.root, mirrors=False)
        first = report.problems[0]
        assert first.sequence == count + 1 and "older copy" in first.what, (count, report.problems)


def test_the_log_itself_is_clean(log: Log) -> None:
    log.restore()
    report = audit.verify(log.root, mirrors=False)
    assert (report.problems, report.events, report.checkpoints) == ([], EVENTS, EVENTS // VOUCHED)


# --- on PostgreSQL, at some positions ------------------------------------------------------------------------------------


@pytest.fixture
def log_on_postgres(told: Path, tmp_path: Path, postgres: Postgres, monkeypatch: pytest.MonkeyPatch) -> Iterator[Log]:
    root = tmp_path / "project"
    shutil.copytree(told / "project", root)
    source, whole = Database(f"sqlite:///{told / f'{EVENTS}.db'}"), postgres.fresh()
    copy = Database(whole)
    with source.read() as reading, copy.write() as writing:
        for table in tables.metadata.sorted_tables:
            if rows := [dict(row._mapping) for row in reading.execute(select(table))]:
                writing.execute(insert(table), rows)
    source.close()
    copy.close()
    made = []

    def restore() -> str:
        made.append(postgres.empty(f"TEMPLATE {whole.rsplit('/', 1)[1]}"))
        monkeypatch.setenv("SLIPWAY_LEDGER_URL", made[-1])
        return made[-1]

    yield Log(root, restore, False, {})
    for url in (*made, whole):
        postgres.drop(url)


@pytest.mark.parametrize("attack", [*ATTACKS, split_view], ids=lambda attack: attack.__name__)
def test_case_H1_the_same_on_postgresql(log_on_postgres: Log, attack: Callable[..., None]) -> None:
    whole = (places.folder(log_on_postgres.root) / checkpoints.FILE).read_bytes()
    for position in (1, 2, 57, EVENTS):
        (places.folder(log_on_postgres.root) / checkpoints.FILE).write_bytes(whole)
        report = log_on_postgres.attacked(attack, position)
        assert report.problems and is_named(report, attack, position), (position, report.problems[:1])


def test_the_log_is_clean_on_postgresql(log_on_postgres: Log) -> None:
    log_on_postgres.restore()
    assert audit.verify(log_on_postgres.root, mirrors=False).problems == []


# --- rows beside the chain ------------------------------------------------------------------------------------------------

BY_HAND = {
    "champion": ("UPDATE champions SET version = '1.3.0'", "champion of desk has the version 1.20.0, the table 1.3.0", 199 - 1),
    "generation": ("UPDATE champions SET generation = 7", "generation 20, the table 7", 198),
    "champion gone": ("DELETE FROM champions", "made 1.20.0 the champion of desk, and the row is gone", 198),
    "champion of no event": (
        "INSERT INTO champions VALUES ('other', '1.0.0', 'x', NULL, 1, 198)", "no event says so", None,
    ),
    "stage": ("UPDATE versions SET stage = 'Archived' WHERE version = '1.4.0'", "1.4.0 is in Production", 37),
    "state": ("UPDATE versions SET state = 'deleted' WHERE version = '1.4.0'", "1.4.0 is present", 33),
    "identity": ("UPDATE versions SET identity = 'x' WHERE version = '1.4.0'", "with the identity", 33),
    "evidence": ("UPDATE versions SET evidence_digest = 'x' WHERE version = '1.4.0'", "with the evidence_digest", 33),
    "version gone": ("DELETE FROM versions WHERE version = '1.4.0'", "registered desk 1.4.0, and its row is gone", 33),
    "approval revived": ("UPDATE approvals SET state = 'revoked' WHERE id = 'nonce-1.4.0'", "nonce-1.4.0 is valid", 35),
    "approval forged": (
        "INSERT INTO approvals VALUES ('mine', 'desk', 'r000001', 'valid', '{}', 200)", "the approval mine of desk", None,
    ),
    "approval gone": ("DELETE FROM approvals WHERE id = 'nonce-1.4.0'", "nonce-1.4.0, and its row is gone", 35),
    "hold": ("INSERT INTO holds VALUES ('desk', '1.4.0', 12)", "desk 1.4.0 is on hold, and no event says so", None),
    "grant": ("INSERT INTO grants VALUES ('g', 'waiver', 'desk', 'r000001', 'open', '{}', 12)", "the grant g of desk", None),
    "text": ("UPDATE sealed SET text = 'Eve' WHERE text = 'Bob'", "which says something else now", 5),
    "text erased": ("UPDATE sealed SET text = NULL, salt = NULL WHERE text = 'Bob'", "erased without an event", 5),
    "text gone": ("DELETE FROM sealed WHERE text = 'Bob'", "its row is gone", 5),
    "archive": ("INSERT INTO archives VALUES (1, 20, 'x', 'nothing.gz', 'x')", "nothing.gz", 1),
    "row beside the chain": (
        "INSERT INTO events SELECT -1, at, elapsed_ms, boot, ticks_ms, kind, model, subject, actor, payload, previous, hash "
        "FROM events WHERE sequence = 8", "1 rows stand beside the chain", 1,
    ),
    "sink": ("UPDATE sinks SET sequence = 300", "ledger ends at 200", 201),
}  # fmt: skip


@pytest.mark.parametrize("name", BY_HAND)
def test_a_row_that_was_changed_by_hand_is_found(log: Log, name: str) -> None:
    statement, said, sequence = BY_HAND[name]
    report = log.attacked(lambda _, connection, __: connection.execute(text(statement)), 0)  # type: ignore[arg-type, return-value]
    hits = [problem for problem in report.problems if said in problem.what]
    assert hits and hits[0].sequence == sequence, report.problems


def test_a_guard_that_is_switched_off_is_found(log: Log) -> None:
    database = Database(log.restore())
    with database.write() as connection:
        made_ledger.unguarded(connection, True)
    database.close()
    assert ["events_go_to_archives" in one.what for one in audit.verify(log.root, mirrors=False).problems] == [True]


def test_events_that_fit_are_shown_as_not_vouched_for(log: Log) -> None:
    """Whoever may write to the database can append; it shows until somebody looks, and a day later it is a problem."""
    database = Database(log.restore())
    with database.write() as connection:
        _append(connection, 2)
    report = audit.verify(log.root, mirrors=False)
    assert report.is_clean and any("events 201–202 have no checkpoint yet" in note for note in report.notes)
    with database.write() as connection:
        old = events.append(connection, "stage_finished", "desk", "x", {}).model_copy(
            update={"at": "2026-01-01T00:00:00.000000Z"}
        )
        made_ledger.unguarded(connection, True)
        connection.execute(update(ROWS).where(ROWS.c.sequence == 203).values(at=old.at, hash=chain.hash_of(old)))
        made_ledger.guard(connection, True)
    database.close()
    assert "a day after the last" in audit.verify(log.root, mirrors=False).problems[0].what
