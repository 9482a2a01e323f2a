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
from made_ledger import Story
from sqlalchemy import insert

from slipway.errors import UsageError
from slipway.ledger import clock, events, history, listing, tables
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


@pytest.mark.parametrize("text", ["", "yesterday", "2026-13-01", "14:00", "2026-11-21T25:00Z", "\x1b[31m", "9" * 5000])
def test_what_is_no_time_is_refused(text: str) -> None:
    with pytest.raises(UsageError, match="is no time"):
        listing.moment(text)


# --- a hundred thousand events ---------------------------------------------------------------------------------------------


def filled(story: Story, count: int) -> None:
    """So many more events, written at once: what comes between releases, and many other promotions. No chain: none is asked for."""
    kinds = ("stage_finished", "decision_made", "stage_transition", "approval_given", "model_promoted")
    with story.database.write() as connection:
        first = events.head(connection).sequence + 1
        same = {"elapsed_ms": 1, "boot": "boot", "actor": "{}", "previous": "", "hash": ""}
        rows = [
            same | {
                "sequence": number, "at": clock.shown(START + timedelta(days=1, seconds=number)), "ticks_ms": number,
                "kind": kinds[number % len(kinds)], "model": "desk" if number % 2 else "other", "subject": f"9.{number}.0",
                "payload": f'{{"version":"9.{number}.0","identity":"x","previous":null,"generation":{number}}}',
            }
            for number in range(first, first + count)
        ]  # fmt: skip
        connection.execute(insert(tables.events), rows)


def test_it_answers_in_a_second_at_a_hundred_thousand_events(story: Story) -> None:
    filled(story, 100_000)
    for hours, version in ((5, "1.1.0"), (23.9, "1.3.0"), (24 + 10, None), (24 * 30, None)):
        begin = time.process_time()
        found = served(story, hours)
        spent = time.process_time() - begin
        assert version in (None, found.version) and spent < 1, f"{spent:.2f} s at hour {hours}"


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
    assert best < 1, f"{best:.2f} s"


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
