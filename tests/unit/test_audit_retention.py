"""What leaves the table, when, and that the chain goes on; and what is forgotten for good."""

import gzip
from collections.abc import Iterator
from datetime import timedelta
from pathlib import Path

import made_ledger
import pytest
from made_ledger import Story
from sqlalchemy import insert, select

from slipway.errors import Refused, SlipwayError, UsageError
from slipway.ledger import archive, audit, checkpoints, clock, events, exports, history, retention, sealed, tables
from slipway.ledger.clock import Reading
from slipway.ledger.database import Database
from slipway.ledger.events import Actor
from slipway.registry import keys

DAY_MS = 24 * 3600 * 1000
START = clock.moment("2026-01-01T00:00:00.000000Z")


def reading(days: float, skew: float = 0) -> Reading:
    """Clocks of one machine that has run since the start; its wall clock may be wrong by some days."""
    return Reading(START + timedelta(days=days + skew), "boot", int((days + 1) * DAY_MS))


class Aged:
    """A ledger with a release at the start and one a hundred days later."""

    def __init__(self, root: Path, database: Database) -> None:
        self.root, self.database = root, database
        self.story = Story(root, database, vouch=0, now=reading(0))
        self.story.tell(1)
        self.story.now = reading(100)
        self.story.tell(1)

    def retain(self, now: Reading) -> archive.Archive | None:
        return retention.retain(self.root, now=now)

    def left(self) -> list[int]:
        with self.database.read() as connection:
            return [event.sequence for event in events.read(connection)]

    def problems(self) -> list[str]:
        """But for the age of what no checkpoint vouches for: these clocks are not ours."""
        found = audit.verify(self.root, mirrors=False).problems
        return [one.text for one in found if "no checkpoint yet" not in one.text]

    def hold(self, text: str) -> None:
        path = self.root / retention.FILE
        path.write_text(path.read_text().replace("holds: []", f"holds: [{text}]"))


@pytest.fixture
def aged(tmp_path: Path, ledger: Database, monkeypatch: pytest.MonkeyPatch) -> Aged:
    monkeypatch.setenv("SLIPWAY_LEDGER_URL", ledger.url)
    return Aged(made_ledger.project(tmp_path / "project"), ledger)


@pytest.mark.parametrize(
    ("days", "moved"), [(0, 0), (300, 0), (364, 0), (364.999, 0), (365, 10), (366, 10), (464.999, 10), (465, 19)]
)
def test_case_H5_nothing_younger_than_a_year_leaves(aged: Aged, days: float, moved: int) -> None:
    kept = aged.retain(reading(days))
    assert (kept.last if kept else 0) == moved, "the newest event always stays"
    assert aged.left()[0] == moved + 1
    assert aged.problems() == []


@pytest.mark.parametrize("skew", [-400, -1, 1, 400])
@pytest.mark.parametrize(("days", "may_move"), [(10, False), (364, False), (366, True)])
def test_case_H5_case_C10_a_wrong_clock_makes_nothing_old(aged: Aged, days: float, skew: float, may_move: bool) -> None:
    kept = aged.retain(reading(days, skew))
    assert kept is None or may_move
    assert (kept is not None) == (may_move and skew >= -1), "a clock that is behind keeps things for longer"
    assert aged.problems() == []


def test_case_C10_events_written_while_the_clock_was_400_days_behind_stay(aged: Aged) -> None:
    """Their own time says they are old; how long ago they were written does not."""
    aged.story.now = reading(110, skew=-400)
    aged.story.tell(1)
    aged.retain(reading(200))
    assert aged.left() == list(range(1, 31))


def test_case_C10_a_machine_that_was_restarted_with_its_clock_set_ahead_purges_nothing(aged: Aged) -> None:
    assert aged.retain(Reading(START + timedelta(days=800), "another boot", 5)) is None


@pytest.mark.parametrize(
    ("hold", "moved"),
    [
        ("{reason: a lawsuit}", 0),
        ("{model: desk, reason: a lawsuit}", 0),
        ("{model: other, reason: a lawsuit}", 10),
        ("{model: desk, reason: a lawsuit, since: 2026-03-01T00:00:00Z}", 10),
    ],
)
def test_case_H5_a_legal_hold_keeps_events_whatever_their_age(aged: Aged, hold: str, moved: int) -> None:
    aged.hold(hold)
    kept = aged.retain(reading(400))
    assert (kept.last if kept else 0) == moved
    with aged.database.read() as connection:
        plan = retention.plan(connection, retention.Policy.load(aged.root / retention.FILE), reading(500))
    assert (plan.stopped_by is None) == ("other" in hold)


def test_case_H5_events_of_a_version_on_hold_stay(aged: Aged) -> None:
    with aged.database.write() as connection:
        connection.execute(insert(tables.holds).values(model="desk", version="1.1.0", sequence=21))
    kept = aged.retain(reading(400))
    assert kept is not None and kept.last == 2, "what was before the held version's first event may go"


def test_the_chain_and_the_answers_go_on_across_archives(aged: Aged) -> None:
    aged.retain(reading(366))
    aged.story.now = reading(370)
    aged.story.tell(1)
    aged.retain(reading(470))
    report = audit.verify(aged.root, mirrors=False)
    assert (aged.problems(), report.events) == ([], 32)
    assert report.archived == 20, "the first release and the second, each in an archive"
    with aged.database.read() as connection:
        assert [one.first for one in archive.listed(connection)] == [1, 11]
        then = history.at(connection, START + timedelta(days=50), "desk", aged.root)
        later = history.at(connection, START + timedelta(days=150), "desk", aged.root)
        now = history.at(connection, START + timedelta(days=371), "desk", aged.root)
    assert [one.version for one in (then, later, now)] == ["1.1.0", "1.2.0", "1.3.0"]
    assert [answer.by for answer in then.approvals] == ["Bob"] and then.policy_digest and then.weights == {"1.1.0": 100}


def test_without_archives_only_their_digests_are_believed(aged: Aged) -> None:
    kept = aged.retain(reading(366))
    assert kept is not None
    (aged.root / ".slipway" / "audit" / "archive" / kept.uri).unlink()
    assert any("is gone" in one for one in aged.problems())
    found = audit.verify(aged.root, mirrors=False, archives=False).problems
    assert [one.text for one in found if "no checkpoint yet" not in one.text] == []


def test_an_archive_that_was_changed_is_found(aged: Aged) -> None:
    kept = aged.retain(reading(366))
    assert kept is not None
    path = aged.root / ".slipway" / "audit" / "archive" / kept.uri
    whole = path.read_bytes()
    path.write_bytes(gzip.compress(gzip.decompress(whole).replace(b"model_promoted", b"model_archived"), mtime=0))
    assert "changed: its SHA-256" in aged.problems()[0]
    path.write_bytes(whole)
    assert aged.problems() == []
    with aged.database.write() as connection:
        connection.execute(tables.archives.update().values(sha256="0" * 64))
    assert aged.problems() != []


def test_a_kill_after_the_copy_leaves_everything_in_place(aged: Aged, monkeypatch: pytest.MonkeyPatch) -> None:
    def killed(*_: object, **__: object) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(events, "append", killed)
        aged.retain(reading(366))
    assert (len(aged.left()), aged.problems()) == (20, [])
    assert len(list((aged.root / ".slipway" / "audit" / "archive").iterdir())) == 1
    kept = aged.retain(reading(366))
    assert kept is not None and kept.last == 10 and aged.problems() == []


def test_a_copy_that_cannot_be_read_back_stops_it(aged: Aged) -> None:
    with aged.database.read() as connection:
        plan = retention.plan(connection, retention.Policy.load(aged.root / retention.FILE), reading(366))
    place = archive.place(aged.root)
    place.put_new(plan.name, b"something else")
    with pytest.raises(SlipwayError, match="does not hold what was just written"):
        aged.retain(reading(366))
    assert len(aged.left()) == 20


def test_a_broken_or_frozen_ledger_is_left_as_it_is(aged: Aged) -> None:
    checkpoints.write(aged.root, aged.database)
    with aged.database.write() as connection:
        made_ledger.unguarded(connection, aged.database.is_sqlite)
        connection.execute(tables.events.update().where(tables.events.c.sequence == 3).values(subject="x"))
        made_ledger.guard(connection, aged.database.is_sqlite)
    with pytest.raises(Refused, match="event 3"):
        aged.retain(reading(366))
    assert len(aged.left()) == 20


@pytest.mark.parametrize(
    "text",
    ["keep_days: 0", "keep_days: forever", "keep: 365", "keep_days: 365\nholds: [{model: desk}]", "keep_days: 1.5"],
)
def test_a_policy_that_cannot_be_is_named_by_its_line(tmp_path: Path, text: str) -> None:
    path = tmp_path / "audit.yaml"
    path.write_text(text)
    with pytest.raises(UsageError, match=r"audit\.yaml:\d"):
        retention.Policy.load(path)


# --- erasing ------------------------------------------------------------------------------------------------------------


@pytest.fixture
def told(tmp_path: Path, ledger: Database, monkeypatch: pytest.MonkeyPatch) -> Iterator[Story]:
    monkeypatch.setenv("SLIPWAY_LEDGER_URL", ledger.url)
    story = Story(made_ledger.project(tmp_path / "project"), ledger)
    story.tell(2)
    yield story


def test_case_H6_a_name_is_erased_and_the_chain_still_verifies(told: Story) -> None:
    gone = retention.erase(told.root, "Bob", "asked to be forgotten", actor=made_ledger.ADA)
    assert len(gone.ids) == 1 and gone.also_in == []
    report = audit.verify(told.root, mirrors=False)
    assert (report.problems, report.erased) == ([], 1)
    with told.database.read() as connection:
        last = list(events.read(connection))[-1]
        assert "Bob" not in sealed.texts(connection).values()
        served = history.at(connection, clock.read().at, "desk")
    assert (last.kind, last.payload["ids"]) == ("text_erased", gone.ids)
    assert [answer.by for answer in served.approvals] == ["(erased)"]


def test_case_H6_not_one_byte_of_it_is_left_in_the_database(told: Story) -> None:
    name = "Zebulon Quixworth-Abernathy"
    with told.database.write() as connection:
        told.say(connection, "stage_finished", "r9", Actor(name, "os-user"))
    folder = told.root / ".slipway"
    files = [path for path in folder.rglob("*") if path.is_file()]
    if told.database.is_sqlite:
        files += list(Path(told.database.url.removeprefix("sqlite:///")).parent.glob("ledger.db*"))
        assert any(name.encode() in path.read_bytes() for path in files), "it was there before"
    retention.erase(told.root, name, "asked to be forgotten")
    assert not [path for path in files if path.exists() and name.encode() in path.read_bytes()]


def test_case_H6_longer_texts_that_hold_it_are_named_and_erased_when_asked(told: Story) -> None:
    with told.database.write() as connection:
        told.say(connection, "stage_finished", "r9", reason="Bob said it is fine")
    gone = retention.erase(told.root, "Bob", "asked to be forgotten", actor=made_ledger.ADA)
    assert len(gone.ids) == 1 and len(gone.also_in) == 1
    gone = retention.erase(told.root, "Bob", "asked to be forgotten", within=True, actor=made_ledger.ADA)
    assert len(gone.ids) == 1 and gone.also_in == []
    assert audit.verify(told.root, mirrors=False).problems == []


def test_case_H6_the_request_itself_must_not_repeat_it(told: Story) -> None:
    with pytest.raises(UsageError, match="the reason holds the text"):
        retention.erase(told.root, "Bob", "Bob asked")
    with pytest.raises(UsageError, match="your own name"):
        retention.erase(told.root, "Ada", "because", actor=made_ledger.ADA)
    with pytest.raises(UsageError, match="no event has this text"):
        retention.erase(told.root, "Nobody", "because", actor=made_ledger.ADA)
    with pytest.raises(UsageError, match="say why"):
        retention.erase(told.root, "Bob", " ")


def test_case_H6_an_export_made_afterwards_verifies_without_it(told: Story, tmp_path: Path) -> None:
    retention.erase(told.root, "Bob", "asked to be forgotten", actor=made_ledger.ADA)
    with told.database.read() as connection, (tmp_path / "out.jsonl").open("wb") as stream:
        exports.write(told.root, connection, stream, None, with_texts=True)
        count = len(list(connection.execute(select(tables.events.c.sequence))))
    found = exports.verify(tmp_path / "out.jsonl", keys.load(keys.folder(told.root) / keys.FILE))
    assert (found.problems, found.events) == ([], count)
    assert b"Bob" not in (tmp_path / "out.jsonl").read_bytes()
