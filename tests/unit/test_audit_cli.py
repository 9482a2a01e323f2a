"""`slipway audit`, as a person types it."""

import json
import os
from datetime import timedelta
from pathlib import Path

import made_ledger
import pytest
from conftest import slipway as typed
from made_ledger import Story

from slipway import cli
from slipway.ledger import clock, retention
from slipway.ledger.clock import Reading
from slipway.ledger.database import Database
from slipway.ledger.events import Actor


@pytest.fixture
def story(tmp_path: Path, ledger: Database, monkeypatch: pytest.MonkeyPatch) -> Story:
    monkeypatch.setenv("SLIPWAY_LEDGER_URL", ledger.url)
    root = made_ledger.project(tmp_path / "project")
    monkeypatch.chdir(root)
    made = Story(root, ledger)
    made.tell(2)
    return made


def slipway(capsys: pytest.CaptureFixture[str], *words: str) -> tuple[int, str, str]:
    return typed(capsys, "audit", *words)


def test_verify_says_so_and_its_exit_code_too(story: Story, capsys: pytest.CaptureFixture[str]) -> None:
    code, out, err = slipway(capsys, "verify", "--ledger-only")
    assert (code, err) == (0, "") and "✓ Nothing was rewritten: 20 events, 2 checkpoints" in out
    with story.database.write() as connection:
        connection.exec_driver_sql("UPDATE champions SET version = '1.1.0'")
    code, out, err = slipway(capsys, "verify", "--ledger-only")
    assert code == 3 and "✗ 1 problems" in out
    assert len(err.splitlines()) == 1 and err.startswith("event 18: ") and "docs/guide/audit.md" in err
    code, out, _ = slipway(capsys, "verify", "--ledger-only", "--json")
    told = json.loads(out)
    assert code == 3 and told["clean"] is False and told["problems"][0]["sequence"] == 18


def test_verify_reads_only(story: Story, capsys: pytest.CaptureFixture[str]) -> None:
    before = {path: path.stat().st_mtime_ns for path in story.root.rglob("*.jsonl")}
    with story.database.read() as connection:
        count = connection.exec_driver_sql("SELECT count(*) FROM events").scalar()
    slipway(capsys, "verify", "--ledger-only")
    with story.database.read() as connection:
        assert connection.exec_driver_sql("SELECT count(*) FROM events").scalar() == count
    assert {path: path.stat().st_mtime_ns for path in story.root.rglob("*.jsonl")} == before


def test_show_filters(story: Story, capsys: pytest.CaptureFixture[str]) -> None:
    def found(*words: str) -> list[int]:
        code, out, _ = slipway(capsys, "show", "--json", *words)
        assert code == 0
        return [event["sequence"] for event in json.loads(out)]

    assert found() == list(range(1, 21))
    assert found("--last", "3") == [18, 19, 20]
    assert found("--kind", "model_promoted") == [8, 18]
    assert found("--subject", "1.2.0", "--kind", "stage_transition") == [16, 17]
    assert found("--release", "r000002") == [11, 12, 13, 15, 20]
    assert found("--actor", "Bob") == [5, 15]
    assert found("--model", "other") == [] and found("--since", "2099-01-01") == []
    assert found("--until", "2099-01-01", "--last", "1") == [20]


def test_show_is_a_table_that_no_text_can_break(story: Story, capsys: pytest.CaptureFixture[str]) -> None:
    with story.database.write() as connection:
        story.say(connection, "stage_finished", "r9", Actor("\x1b[31m[bold]Eve\nroot", "os-user"), "[red]\x07")
    code, out, _ = slipway(capsys, "show", "--last", "2")
    assert code == 0 and "release_ended" in out
    assert "\x1b" not in out and "\x07" not in out and "[bold]" in out.replace("\n", "").replace(" ", "")


def test_export_and_verify_the_file(story: Story, capsys: pytest.CaptureFixture[str]) -> None:
    code, out, _ = slipway(capsys, "export", "out.jsonl")
    assert code == 0 and "20 events" in out
    code, out, _ = slipway(capsys, "verify", "--file", "out.jsonl")
    assert code == 0 and "✓ As it was exported: 20 events" in out
    code, out, _ = slipway(capsys, "verify", "--file", "out.jsonl", "--trust", ".slipway/keys/trust.json", "--json")
    assert code == 0 and json.loads(out)["clean"] is True
    data = Path("out.jsonl").read_text()
    Path("out.jsonl").write_text(data.replace("model_promoted", "rolled_back", 1))
    code, _, err = slipway(capsys, "verify", "--file", "out.jsonl")
    assert code == 3 and "event 8: " in err
    assert slipway(capsys, "verify", "--file", "nothing.jsonl")[0] == 2


def test_export_to_standard_output(story: Story, capfdbinary: pytest.CaptureFixture[bytes]) -> None:
    with pytest.raises(SystemExit) as ended:
        cli.main(["audit", "export", "-", "--sealed"])
    out = capfdbinary.readouterr().out
    assert not ended.value.code and out.count(b"\n") == 21 and b"Bob" not in out


def test_checkpoint_accept_deliver_retain(story: Story, capsys: pytest.CaptureFixture[str]) -> None:
    code, out, _ = slipway(capsys, "checkpoint")
    assert code == 0 and "Checkpoint 2: the ledger ends at event 20" in out
    code, _, err = slipway(capsys, "accept", "--reason", "x")
    assert code == 2 and "nothing to accept" in err
    code, out, _ = slipway(capsys, "deliver")
    assert code == 0 and "No sink is configured" in out
    code, out, _ = slipway(capsys, "retain", "--dry-run")
    assert code == 0 and "Older than 365 days: nothing would move." in out
    code, out, _ = slipway(capsys, "retain", "--json")
    assert code == 0 and json.loads(out) == {"moved": 0}


def test_deliver_says_75_while_a_sink_is_away(
    story: Story, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SLIPWAY_AUDIT_SINKS", "file:told.jsonl elasticsearch+http://127.0.0.1:9")
    code, out, _ = slipway(capsys, "deliver")
    assert code == 75 and "file:told.jsonl: 20 told, 0 pending" in out and "20 pending; elasticsearch" in out


def test_erase(story: Story, capsys: pytest.CaptureFixture[str]) -> None:
    code, out, _ = slipway(capsys, "erase", "Bob", "--reason", "asked to be forgotten")
    assert code == 0 and "1 texts are erased" in out
    assert slipway(capsys, "verify", "--ledger-only")[0] == 0
    code, out, _ = slipway(capsys, "show", "--json", "--kind", "approval_given")
    assert code == 0 and {event["who"] for event in json.loads(out)} == {"(erased)"}


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["show", "--kind", "nonsense"], "no kind of event"),
        (["show", "--since", "soon"], "is no time"),
        (["verify", "--trust", "nothing.json"], "does not exist"),
        (["erase", "Nobody", "--reason", "x"], "no event has this text"),
        (["export", "no/such/folder/out.jsonl"], "name another file"),
        (["accept"], "--reason"),
        (["show", "--last", "0"], "--last is 0"),
        (["show", "--last", "-3"], "--last is -3"),
        (["show", "--since", "9999-12-31T23:59:59-14:00"], "is no time"),
        (["export", "."], "is a folder; name a file"),
    ],
)
def test_a_mistake_is_one_line(story: Story, capsys: pytest.CaptureFixture[str], words: list[str], said: str) -> None:
    code, _, err = slipway(capsys, *words)
    assert (code, len(err.splitlines())) == (2, 1) and said in err


def test_case_H3_with_the_ledger_away_nothing_is_answered_and_nothing_vouched_for(
    story: Story, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SLIPWAY_LEDGER_URL", "postgresql+psycopg://nobody@127.0.0.1:9/none")
    for words in (["verify", "--ledger-only"], ["checkpoint"], ["show"], ["retain"], ["erase", "Bob", "--reason", "x"]):
        code, out, err = slipway(capsys, *words)
        assert (code, out, len(err.splitlines())) == (75, "", 1), words


def test_a_database_that_is_none_is_a_problem_and_no_traceback(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    root = made_ledger.project(tmp_path / "project")
    monkeypatch.chdir(root)
    (root / ".slipway").mkdir()
    (root / ".slipway" / "ledger.db").write_bytes(os.urandom(9000))
    code, _, err = slipway(capsys, "verify", "--ledger-only")
    assert code == 3 and "cannot be trusted" in err


def test_what_went_to_the_archive_is_shown_and_exported(
    tmp_path: Path, ledger: Database, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("SLIPWAY_LEDGER_URL", ledger.url)
    root, now = made_ledger.project(tmp_path / "aged"), clock.read()
    monkeypatch.chdir(root)
    story = Story(root, ledger, vouch=0)
    for days in (500, 400, 1):
        story.now = Reading(now.at - timedelta(days=days), "boot", (600 - days) * 86_400_000)
        story.tell(1)
    kept = retention.retain(root, now=Reading(now.at, "boot", 600 * 86_400_000))
    assert kept is not None and kept.last == 20

    def shown(*words: str) -> list[int]:
        code, out, _ = slipway(capsys, "show", "--json", *words)
        assert code == 0
        return [event["sequence"] for event in json.loads(out)]

    assert shown() == list(range(1, 32)) and shown("--last", "13") == list(range(19, 32))
    assert shown("--kind", "model_promoted") == [8, 18, 28] and shown("--actor", "Bob") == [5, 15, 25]
    assert shown("--release", "r000002") == [11, 12, 13, 15, 20]
    ago = {days: f"{now.at - timedelta(days=days):%Y-%m-%d}" for days in (450, 350)}
    assert shown("--until", ago[450]) == list(range(1, 11)) and shown("--since", ago[350]) == list(range(21, 32))
    for words, count in (((), 31), (("--since", ago[450]), 21), (("--since", ago[350]), 11)):
        code, out, _ = slipway(capsys, "export", "out.jsonl", *words)
        assert code == 0 and out.startswith(f"{count} events"), words
        assert slipway(capsys, "verify", "--file", "out.jsonl")[0] == 0
    (root / ".slipway" / "audit" / "archive" / kept.uri).unlink()
    assert shown("--since", ago[350]) == list(range(21, 32)), "no archive is asked for what it cannot hold"
    code, _, err = slipway(capsys, "export", "out.jsonl")
    assert code == 1 and "is gone" in err and len(err.splitlines()) == 1


def test_an_event_that_cannot_be_read_is_one_line(
    story: Story, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    with story.database.write() as connection:
        made_ledger.unguarded(connection, story.database.is_sqlite)
        connection.exec_driver_sql("UPDATE events SET payload = '{' WHERE sequence = 9")
        made_ledger.guard(connection, story.database.is_sqlite)
    for words in (["show"], ["export", "out.jsonl"]):
        code, out, err = slipway(capsys, *words)
        assert (code, out, len(err.splitlines())) == (3, "", 1) and "event 9" in err and "audit verify" in err
    assert not Path("out.jsonl").exists()
    monkeypatch.setenv("SLIPWAY_AUDIT_SINKS", "file:told.jsonl")
    code, out, err = slipway(capsys, "deliver")
    assert (code, err) == (75, "") and "event 9" in out


def test_whoever_reads_a_frozen_ledger_hears_it(story: Story, capsys: pytest.CaptureFixture[str]) -> None:
    with story.database.write() as connection:
        made_ledger.unguarded(connection, story.database.is_sqlite)
        made_ledger.cut(connection, 15)
        made_ledger.guard(connection, story.database.is_sqlite)
    for words in (["show"], ["export", "out.jsonl"]):
        code, _, err = slipway(capsys, *words)
        assert code == 0 and "note: the ledger is frozen: event 20 stood in it" in err
