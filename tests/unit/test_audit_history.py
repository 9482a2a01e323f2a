"""What served at a time: by the order of events, at any length of the ledger, in under a second."""

import json
import subprocess
import sys
import time
from datetime import UTC, datetime, timedelta
from pathlib import Path

import made_ledger
import pytest
from conftest import slipway
from made_ledger import ADA, BOB, Story
from pace import slowness
from sqlalchemy import insert

from slipway import digest
from slipway.errors import UsageError
from slipway.ledger import archive, chain, checkpoints, clock, events, history, listing, tables
from slipway.ledger.chain import Event
from slipway.ledger.clock import Reading
from slipway.ledger.database import Database

START = clock.moment("2026-03-01T00:00:00.000000Z")


def at_hour(hours: float) -> Reading:
    return Reading(START + timedelta(hours=hours), "boot", int((hours + 1) * 3_600_000))


@pytest.fixture
def story(tmp_path: Path, ledger: Database, monkeypatch: pytest.MonkeyPatch) -> Story:
    """Releases at hours 0, 10 and 20."""
    monkeypatch.setenv("SLIPWAY_LEDGER_URL", ledger.url)
    made = Story(made_ledger.project(tmp_path / "project"), ledger, vouch=0)
    for hours in (0, 10, 20):
        made.now = at_hour(hours)
        made.tell(1)
    return made


def served(story: Story, hours: float) -> history.Served:
    with story.database.read() as connection:
        return history.at(connection, START + timedelta(hours=hours), "desk", story.root)


@pytest.mark.parametrize(
    ("hours", "version"), [(-1, None), (0, "1.1.0"), (9.99, "1.1.0"), (10, "1.2.0"), (19, "1.2.0"), (500, "1.3.0")]
)
def test_what_served(story: Story, hours: float, version: str | None) -> None:
    found = served(story, hours)
    assert found.version == version
    if version:
        assert found.weights == {version: 100} and [one.by for one in found.approvals] == ["Bob"]
        assert found.policy_digest and found.evidence_digest and found.identity and found.doubt is None
        assert found.release == f"r00000{version[2]}" and found.generation == int(version[2])


def test_weights_are_the_last_that_were_set(story: Story) -> None:
    story.now = at_hour(30)
    with story.database.write() as connection:
        story.say(connection, "traffic_changed", "1.3.0", weights={"1.3.0": 90, "1.4.0": 10})
    assert served(story, 29).weights == {"1.3.0": 100}
    assert served(story, 31).weights == {"1.3.0": 90, "1.4.0": 10}


def test_an_approval_counts_until_it_is_withdrawn(story: Story) -> None:
    story.now = at_hour(30)
    with story.database.write() as connection:
        story.say(connection, "approval_revoked", "1.3.0", id="nonce-1.3.0", release="r000003", version="1.3.0")
    assert [one.id for one in served(story, 29).approvals] == ["nonce-1.3.0"]
    assert served(story, 31).approvals == []


def test_a_rollback_is_what_served_then(story: Story) -> None:
    story.now = at_hour(30)
    with story.database.write() as connection:
        story.say(connection, "rolled_back", "1.1.0", version="1.1.0", identity="x", previous="1.3.0", generation=4)
    found = served(story, 40)
    assert (found.version, found.generation, found.weights) == ("1.1.0", 4, {"1.1.0": 100})


def test_case_C10_a_clock_that_was_set_back_is_said(story: Story) -> None:
    story.now = at_hour(15)
    story.tell(1)
    found = served(story, 16)
    assert found.version == "1.4.0", "the last by order of those that say a time before"
    assert found.doubt is not None and "set back after event 30" in found.doubt
    assert served(story, 21).version == "1.4.0"


def test_another_models_events_do_not_count(story: Story) -> None:
    with story.database.read() as connection:
        assert history.at(connection, START + timedelta(hours=50), "other").version is None


def released(story: Story, number: str, **of_step: object) -> None:
    """A version with an approval that is used within its three days."""
    with story.database.write() as connection:
        until = clock.shown(START + timedelta(hours=30 + 72))
        story.say(connection, "model_registered", number, version=number, release="r9", evidence_digest="e9")
        story.say(
            connection, "approval_given", number, BOB, id="a9", version=number, act="Staging→Production", expires=until
        )
        story.say(connection, "approval_given", number, ADA, id="b9", version=number, expires=until)
        step = {"from": "Staging", "to": "Production", "approvals": ["a9"], **of_step}
        story.say(connection, "stage_transition", number, version=number, **step)
        story.say(
            connection, "model_promoted", number, version=number, identity="i", generation=4, weights={number: 100}
        )


def test_an_approval_that_was_used_is_answered_long_after_its_time(story: Story) -> None:
    story.now = at_hour(30)
    released(story, "2.0.0")
    assert [one.by for one in served(story, 31).approvals] == ["Bob", "Ada Lovelace"]
    found = served(story, 2000)
    assert [(one.id, one.by, one.act) for one in found.approvals] == [("a9", "Bob", "Staging→Production")]


def test_a_break_glass_is_answered(
    story: Story, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    story.now = at_hour(30)
    with story.database.write() as connection:
        story.say(connection, "break_glass", "2.0.0", BOB, "fire", id="g9", version="2.0.0")
    released(story, "2.0.0", approvals=[], break_glass="g9")
    found = served(story, 2000)
    assert found.approvals == [] and found.break_glass is not None and found.break_glass.by == "Bob"
    assert served(story, 25).break_glass is None
    monkeypatch.chdir(story.root)
    _, out, _ = slipway(capsys, "at", "2026-05-01", "--model", "desk")
    assert "break-glass  by Bob (" in out and "approved by  nobody" in out


def test_a_canary_before_the_first_promotion_has_its_share(tmp_path: Path, ledger: Database) -> None:
    story = Story(made_ledger.project(tmp_path / "new"), ledger, vouch=0, now=at_hour(0))
    with ledger.write() as connection:
        story.say(connection, "traffic_changed", "1.0.0", weights={"base": 90, "1.0.0": 10})
    found = served(story, 1)
    assert (found.version, found.weights) == (None, {"base": 90, "1.0.0": 10})


def test_case_C10_what_was_written_while_the_clock_was_ahead_counts_now_and_is_a_doubt_before(story: Story) -> None:
    story.now = Reading(clock.read().at + timedelta(days=400), "boot", 100 * 3_600_000)
    story.tell(1)
    with story.database.read() as connection:
        now = history.at(connection, clock.read().at + timedelta(seconds=1), "desk", story.root)
    assert (now.version, now.doubt) == ("1.4.0", None)
    found = served(story, 30)
    assert found.version == "1.3.0" and found.doubt is not None and "says a time that has not come yet" in found.doubt


# --- events that are not what was written ---------------------------------------------------------------------------------


def edited(story: Story, **values: object) -> None:
    with story.database.write() as connection:
        made_ledger.unguarded(connection, story.database.is_sqlite)
        here = (tables.events.c.kind == "model_promoted") & (tables.events.c.subject == "1.3.0")
        connection.execute(tables.events.update().where(here).values(**values))
        made_ledger.guard(connection, story.database.is_sqlite)


@pytest.mark.parametrize("payload", ['{"version":"6.6.6","identity":"x","generation":3}', "{", "[]", '{"a":NaN}'])
def test_an_event_that_was_edited_answers_nothing(
    story: Story, payload: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    edited(story, payload=payload)
    assert served(story, 15).version == "1.2.0", "what was before stands by its own hash"
    monkeypatch.chdir(story.root)
    for words in (["at", "now", "--model", "desk"], ["at", "now", "--model", "desk", "--restore", "--reason", "x"]):
        code, out, err = slipway(capsys, *words)
        assert (code, out, len(err.splitlines())) == (3, "", 1) and "event 28" in err and "audit verify" in err


def test_a_frozen_ledger_says_so_and_restores_nothing(
    story: Story, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    checkpoints.write(story.root, story.database)
    with story.database.write() as connection:
        made_ledger.unguarded(connection, story.database.is_sqlite)
        made_ledger.cut(connection, 20)
        made_ledger.guard(connection, story.database.is_sqlite)
    found = served(story, 25)
    assert found.version == "1.2.0" and found.doubt is not None and "event 30 stood in it" in found.doubt
    monkeypatch.chdir(story.root)
    code, _, err = slipway(capsys, "at", "now", "--model", "desk")
    assert code == 0 and "note: the ledger is frozen" in err
    code, out, err = slipway(capsys, "at", "now", "--model", "desk", "--restore", "--reason", "x")
    assert (code, out) == (3, "") and "is not sure" in err


def test_a_split_is_not_restored_as_if_it_were_none(
    story: Story, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    with story.database.write() as connection:
        story.say(connection, "traffic_changed", "1.4.0", weights={"1.3.0": 70, "1.4.0": 30})
    monkeypatch.chdir(story.root)
    code, out, err = slipway(capsys, "at", "2026-03-05", "--model", "desk", "--restore", "--reason", "x")
    assert (code, out) == (3, "") and "was served by 1.3.0 70 %, 1.4.0 30 % then" in err


# --- times that people type -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "wanted", "is_taken"),
    [
        ("2026-11-21T14:00:00Z", datetime(2026, 11, 21, 14, tzinfo=UTC), False),
        ("2026-11-21T14:00+01:00", datetime(2026, 11, 21, 13, tzinfo=UTC), False),
        ("2026-11-21T14:00:00", datetime(2026, 11, 21, 14, tzinfo=UTC), True),
        ("2026-11-21 14:00", datetime(2026, 11, 21, 14, tzinfo=UTC), True),
        ("2026-11-21", datetime(2026, 11, 21, tzinfo=UTC), True),
        (" 20261121T140000Z ", datetime(2026, 11, 21, 14, tzinfo=UTC), False),
    ],
)
def test_a_time_is_read(text: str, wanted: datetime, is_taken: bool) -> None:
    found, taken = listing.moment(text)
    assert found == wanted and (taken is not None) == is_taken
    assert taken is None or "taken as UTC" in taken


def test_a_year_before_1000_has_its_place() -> None:
    assert clock.shown(datetime(900, 1, 1, tzinfo=UTC)) == "0900-01-01T00:00:00.000000Z" < clock.shown(START)


OUTSIDE = ["0001-01-01T00:00:00+14:00", "9999-12-31T23:59:59-14:00"]  # of the calendar, in UTC


@pytest.mark.parametrize(
    "text", [*OUTSIDE, "", "yesterday", "2026-13-01", "14:00", "2026-11-21T25:00Z", "\x1b[31m", "9" * 5000]
)
def test_what_is_no_time_is_refused(text: str) -> None:
    with pytest.raises(UsageError, match="is no time"):
        listing.moment(text)


# --- a hundred thousand events ---------------------------------------------------------------------------------------------


def made_events(first: int, count: int) -> list[Event]:
    """What comes between releases, and many other promotions, each by its own hash. No chain: none is asked for."""
    kinds = ("stage_finished", "decision_made", "stage_transition", "approval_given", "model_promoted")
    found = []
    for number in range(first, first + count):
        version = f"9.{number}.0"
        event = Event(
            sequence=number, at=clock.shown(START + timedelta(days=1, seconds=number)), elapsed_ms=1, boot="boot",
            ticks_ms=number, kind=kinds[number % len(kinds)], model="desk" if number % 2 else "other", subject=version,
            actor={}, payload={"version": version, "identity": "x", "previous": None, "generation": number, "id": str(number)},
            previous="", hash="",
        )  # fmt: skip
        found.append(event.model_copy(update={"hash": chain.hash_of(event)}))
    return found


def filled(story: Story, count: int, archived: int = 0) -> None:
    """So many more events, written at once, the first of them in archives."""
    with story.database.write() as connection:
        first = events.head(connection).sequence + 1
        for begin in range(first, first + archived, 40_000):
            old = made_events(begin, min(40_000, first + archived - begin))
            name, data = f"events-{begin}.jsonl.gz", archive.packed(old)
            archive.place(story.root).put_new(name, data)
            row = {"first": begin, "last": old[-1].sequence, "last_hash": "", "uri": name}
            connection.execute(insert(tables.archives).values(**row, sha256=digest.of_bytes(data)))
        rows = [
            event.model_dump() | {"actor": chain.canonical(event.actor), "payload": chain.canonical(event.payload)}
            for event in made_events(first + archived, count - archived)
        ]
        connection.execute(insert(tables.events), rows)


@pytest.mark.parametrize("archived", [0, 80_000])
def test_it_answers_in_a_second_at_a_hundred_thousand_events(story: Story, archived: int) -> None:
    filled(story, 100_000, archived)
    for hours, version in ((5, "1.1.0"), (23.9, "1.3.0"), (24 + 10, None), (24 * 30, None)):
        best = 9.0
        for _ in range(3):
            begin = time.process_time()
            found = served(story, hours)
            best = min(best, time.process_time() - begin)
        assert version in (None, found.version) and found.version
        assert best < 1, f"{best:.2f} s at hour {hours}"


@pytest.mark.alone
def test_the_command_answers_in_a_second_with_its_start(story: Story, capsys: pytest.CaptureFixture[str]) -> None:
    """Processor time of the whole process: what the clock on the wall says depends on whoever else uses this machine."""
    import resource

    if not story.database.is_sqlite:
        pytest.skip("the server's time is not this process's; the query is timed above on both")
    filled(story, 100_000)
    command = [Path(sys.executable).parent / "slipway", "at", "2026-03-01T05:00:00Z", "--model", "desk", "--json"]
    best = 9.0
    for _ in range(3):
        before = resource.getrusage(resource.RUSAGE_CHILDREN)
        done = subprocess.run(command, cwd=story.root, capture_output=True, text=True)
        after = resource.getrusage(resource.RUSAGE_CHILDREN)
        best = min(best, after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime)
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["version"] == "1.1.0"
    assert best < 1 * slowness(), f"{best:.2f} s"


# --- the command -----------------------------------------------------------------------------------------------------------


def test_the_command_says_who_and_what(
    story: Story, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(story.root)
    code, out, err = slipway(capsys, "at", "2026-03-01T05:00", "--model", "desk")
    assert code == 0 and "desk 1.1.0, generation 1" in out and "Bob (" in out and "1.1.0 100 %" in out
    assert "taken as UTC" in err
    code, out, _ = slipway(capsys, "at", "2025-01-01", "--model", "desk")
    assert code == 0 and "the base model" in out
    code, _, err = slipway(capsys, "at", "9026-01-01T00:00Z", "--model", "desk")
    assert code == 0 and "has not come yet" in err
    code, out, err = slipway(capsys, "at", "now", "--model", "desk")
    assert code == 0 and "desk" in out and "has not come" not in err
    code, _, err = slipway(capsys, "at", "noon")
    assert code == 2 and len(err.splitlines()) == 1
    code, _, err = slipway(capsys, "at", "2026-03-01T05:00Z", "--model", "desk", "--restore")
    assert code == 2 and "--reason" in err
    code, _, err = slipway(capsys, "at", "2025-03-01T05:00Z", "--model", "desk", "--restore", "--reason", "x")
    assert code == 2 and "the base model served then" in err
    code, out, err = slipway(capsys, "at", "now", "--model", "nosuch")
    assert (code, out) == (2, "") and "nothing ever happened to a model 'nosuch'" in err
    assert slipway(capsys, "at", "now")[0] == 0, "the project's own model: the base serves before anything happens"
