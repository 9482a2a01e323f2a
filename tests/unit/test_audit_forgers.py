"""Whoever can write the files of checkpoints, the database or both, and holds no key that is believed: what it gets them."""

import shutil
from collections.abc import Iterator
from datetime import timedelta
from pathlib import Path
from typing import Any

import made_ledger
import pytest
from conftest import slipway
from made_ledger import Story, canonical

from slipway.errors import Refused
from slipway.ledger import audit, checkpoints, clock, cursors, events, places, signatures
from slipway.ledger.checkpoints import Checkpoint
from slipway.ledger.clock import Reading
from slipway.ledger.database import Database
from slipway.registry import keys


@pytest.fixture
def story(tmp_path: Path, ledger: Database, monkeypatch: pytest.MonkeyPatch) -> Story:
    """Three releases, each vouched for, on each of the two databases."""
    monkeypatch.setenv("SLIPWAY_LEDGER_URL", ledger.url)
    made = Story(made_ledger.project(tmp_path / "project"), ledger)
    made.tell(3)
    return made


@pytest.fixture
def here(tmp_path: Path) -> Iterator[Story]:
    """The same on SQLite alone, with a second place."""
    root = made_ledger.project(tmp_path / "project")
    made_ledger.configure(root, audit_checkpoints=str(tmp_path / "elsewhere"))
    database = Database.of(root)
    made = Story(root, database)
    made.tell(3)
    yield made
    database.close()


def own(root: Path) -> list[Checkpoint]:
    return [line.checkpoint for line in checkpoints.lines(root) if line.checkpoint]


def put(root: Path, one: Checkpoint, name: str = checkpoints.FILE) -> None:
    with (places.folder(root) / name).open("a") as stream:
        stream.write(f"{canonical(one.model_dump(mode='json'))}\n")


def signed(root: Path, private: Path | None = None, key: str | None = None, **said: Any) -> Checkpoint:
    """A checkpoint that follows on the last one of a machine, with these words."""
    last, (ours, path) = own(root)[-1], keys.signing_key(root)
    words = last.model_dump(mode="json", exclude={"signature"}) | {"number": last.number + 1, "previous": last.digest}
    words |= {"accepted": [], "key": key or ours} | said
    return Checkpoint.model_validate(words | {"signature": signatures.sign(private or path, "checkpoint", words)})


def tampered(story: Story, sequence: int = 14) -> None:
    """A history that was rewritten from an event on, its hashes made to fit."""
    with story.database.write() as connection:
        made_ledger.unguarded(connection, story.database.is_sqlite)
        made_ledger.rewritten(connection, sequence, {"payload": {"verdict": "refuse"}})
        made_ledger.guard(connection, story.database.is_sqlite)


def shortened(story: Story, after: int = 15) -> None:
    with story.database.write() as connection:
        made_ledger.unguarded(connection, story.database.is_sqlite)
        made_ledger.cut(connection, after)
        made_ledger.guard(connection, story.database.is_sqlite)


def head(story: Story) -> dict[str, Any]:
    with story.database.read() as connection:
        found = events.head(connection)
    return {"sequence": found.sequence, "hash": found.hash}


def problems(story: Story) -> list[str]:
    return [problem.text for problem in audit.verify(story.root, mirrors=False).problems]


def say(story: Story) -> None:
    with story.database.write() as connection:
        story.say(connection, "stage_finished", "r9")


# --- who may let go -------------------------------------------------------------------------------------------------------


def test_a_revoked_key_lets_no_checkpoint_go(story: Story, tmp_path: Path) -> None:
    first, private = keys.signing_key(story.root)
    stolen = Path(shutil.copy(private, tmp_path / "stolen.pem"))
    keys.rotate(story.root)
    keys.revoke(story.root, first, "stolen")
    story.tell(1)
    assert problems(story) == []
    tampered(story)
    put(story.root, signed(story.root, stolen, first, accepted=[one.digest for one in own(story.root)], **head(story)))
    assert any("another chain" in one for one in problems(story))
    with pytest.raises(Refused, match="frozen"):
        checkpoints.require(story.root, story.database)


def test_a_believed_key_lets_go_only_what_an_event_says_a_person_accepted(story: Story) -> None:
    tampered(story)
    put(story.root, signed(story.root, accepted=[one.digest for one in own(story.root)], **head(story)))
    assert any("another chain" in one for one in problems(story))


def test_an_event_alone_lets_nothing_go(story: Story) -> None:
    """Whoever writes the database can write that somebody accepted."""
    shortened(story)
    with story.database.write() as connection:
        names = [one.digest for one in own(story.root)]
        events.append(connection, "ledger_released", "", "", {"accepted": names, "vouched": 30}, reason="me")
    with pytest.raises(Refused, match="frozen: event 30"):
        checkpoints.require(story.root, story.database)


def test_a_line_that_nobody_signed_lifts_no_freeze_and_is_one_until_a_person_accepts_it(story: Story) -> None:
    forged = signed(story.root, accepted=[one.digest for one in own(story.root)], **head(story))
    put(story.root, forged.model_copy(update={"key": "ff" * 32, "signature": "00"}))
    with pytest.raises(
        Refused, match=r"frozen: a checkpoint of event 30 is signed by the key ffff.* nobody here trusts"
    ):
        checkpoints.require(story.root, story.database)
    with pytest.raises(Refused, match="nobody here trusts"):
        checkpoints.write(story.root, story.database)
    shortened(story)
    with pytest.raises(Refused, match="frozen"):
        checkpoints.require(story.root, story.database)
    assert len(checkpoints.accept(story.root, "I wrote that line, to see what it does")) == 3
    checkpoints.require(story.root, story.database)
    report = audit.verify(story.root, mirrors=False)
    assert not any("checkpoint" in problem.text for problem in report.problems), report.problems
    assert any("nobody here trusts, and a person accepted that" in note for note in report.notes)


@pytest.mark.parametrize("rubbish", ["{}", '{"accepted":["x"]}', "\x00"])
def test_a_line_that_is_no_checkpoint_stops_every_act(here: Story, rubbish: str) -> None:
    with (places.folder(here.root) / checkpoints.FILE).open("a") as stream:
        stream.write(f"{rubbish}\n")
    with pytest.raises(Refused, match=r"checkpoints.jsonl is no checkpoint.* take that line out"):
        checkpoints.require(here.root, here.database)


def test_a_checkpoint_of_a_revoked_key_must_still_stand(story: Story) -> None:
    """Between a revocation and the next checkpoint nobody else vouches for what there was."""
    first = keys.signing_key(story.root)[0]
    keys.rotate(story.root)
    keys.revoke(story.root, first, "it leaked")
    checkpoints.require(story.root, story.database)
    tampered(story)
    assert any("another chain" in one for one in problems(story))
    with pytest.raises(Refused, match="frozen: event 30"):
        checkpoints.write(story.root, story.database)


# --- files that are gone --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kept", [0, 1])
def test_checkpoints_that_are_gone_freeze_what_the_database_knows_was_vouched_for(story: Story, kept: int) -> None:
    tampered(story, 25)
    path = places.folder(story.root) / checkpoints.FILE
    path.write_text("".join(path.read_text().splitlines(keepends=True)[:kept]))
    said = rf"vouched for up to event 30, and the checkpoints known here end at event {kept * 10}"
    for act in (checkpoints.require, checkpoints.write):
        with pytest.raises(Refused, match=said):
            act(story.root, story.database)
    assert any("vouched for up to event 30" in one for one in problems(story))
    checkpoints.accept(story.root, "the disk of the checkpoints died")
    checkpoints.require(story.root, story.database)
    assert not any("vouched for" in one for one in problems(story)), "what the tampering did to the rows is still named"


def test_a_machine_that_is_new_learns_of_the_others_from_the_second_place(here: Story, tmp_path: Path) -> None:
    shutil.rmtree(places.folder(here.root))  # as on a machine that has only the database and the keys
    checkpoints.require(here.root, here.database)
    assert len(checkpoints.seen(here.root)) == 3
    shutil.rmtree(places.folder(here.root))
    shutil.rmtree(tmp_path / "elsewhere")
    with pytest.raises(Refused, match="name the place that the machines share"):
        checkpoints.require(here.root, here.database)


# --- what is not forgotten ------------------------------------------------------------------------------------------------


def test_what_was_accepted_stays_accepted_however_many_acts_follow(here: Story) -> None:
    """The lost checkpoint is another machine's, and so the newest of its file for good."""
    lost = signed(here.root, sequence=90, hash="ab" * 32, number=1, previous="0" * 64)
    put(here.root, lost, checkpoints.SEEN)
    with pytest.raises(Refused, match="frozen: event 90"):
        checkpoints.require(here.root, here.database)
    checkpoints.accept(here.root, "that machine had another database")
    path = places.folder(here.root) / checkpoints.FILE
    for _ in range(3):
        say(here)
        checkpoints.write(here.root, here.database)
    line = path.read_text().splitlines()[-1]
    with path.open("a") as stream:  # a good line, as often as an act's look back would have to reach
        stream.write(f"{line}\n" * 400)
    say(here)
    assert any("events 36–36 have no checkpoint yet" in note for note in audit.verify(here.root, mirrors=False).notes)
    assert path.stat().st_size > 2 * 65_536
    checkpoints.require(here.root, here.database)


def test_a_line_longer_than_an_acts_look_back_is_still_the_last(here: Story) -> None:
    for number in range(1100):
        put(here.root, signed(here.root, sequence=100 + number, hash=f"{number:064x}"), checkpoints.SEEN)
    assert len(checkpoints.accept(here.root, "another machine's database")) == 1100
    assert len((places.folder(here.root) / checkpoints.FILE).read_bytes().splitlines()[-1]) > 65_536
    say(here)
    made = checkpoints.write(here.root, here.database)
    assert made is not None and made.number == 5
    assert problems(here) == []


def test_a_checkpoint_dated_ahead_hides_none_of_the_others(here: Story, monkeypatch: pytest.MonkeyPatch) -> None:
    real = clock.read
    monkeypatch.setattr(clock, "read", lambda: Reading(real().at + timedelta(days=400), real().boot, real().ticks_ms))
    here.tell(1)
    monkeypatch.setattr(clock, "read", real)
    other = signed(here.root, sequence=99, hash="ab" * 32, number=1, previous="0" * 64, at=real().text)
    path = here.root.with_name("elsewhere") / other.name
    path.write_text(canonical(other.model_dump(mode="json")))
    with pytest.raises(Refused, match="frozen: event 99"):
        checkpoints.write(here.root, here.database)


def test_a_checkpoint_that_came_late_to_the_second_place_is_found(here: Story) -> None:
    """Its machine was cut off for a week; its name says when it was written."""
    then = clock.shown(clock.read().at - timedelta(days=7))
    other = signed(here.root, sequence=99, hash="ab" * 32, number=1, previous="0" * 64, at=then)
    trust = keys.load(keys.folder(here.root) / keys.FILE)
    made = {name: key.model_copy(update={"made": None}) for name, key in trust.keys.items()}
    trust.model_copy(update={"keys": made}).save(keys.folder(here.root) / keys.FILE)
    (here.root.with_name("elsewhere") / other.name).write_text(canonical(other.model_dump(mode="json")))
    with pytest.raises(Refused, match="frozen: event 99"):
        checkpoints.write(here.root, here.database)


# --- remedies and what stands in their way --------------------------------------------------------------------------------


def test_a_new_checkpoint_is_written_where_the_newest_is_not_believed_any_more(story: Story) -> None:
    first = keys.signing_key(story.root)[0]
    keys.rotate(story.root)
    keys.revoke(story.root, first, "it leaked")
    made = checkpoints.write(story.root, story.database)
    assert made is not None and (made.number, made.sequence) == (4, 30) and made.key != first
    assert problems(story) == []


def test_without_the_trust_file_nothing_is_done_until_a_person_accepts_that_it_is_lost(here: Story) -> None:
    (keys.folder(here.root) / keys.FILE).unlink()
    for act in (checkpoints.require, checkpoints.write):
        with pytest.raises(Refused, match=r"nobody here trusts.* the trust file from a copy"):
            act(here.root, here.database)
    assert len(checkpoints.accept(here.root, "the trust file is lost, and I have read the events")) == 3
    checkpoints.require(here.root, here.database)
    assert problems(here) == []


def test_a_second_place_that_is_away_hides_nothing_that_is_found_here(
    here: Story, monkeypatch: pytest.MonkeyPatch
) -> None:
    made_ledger.configure(here.root, audit_checkpoints="nowhere://x")
    with here.database.write() as connection:
        connection.exec_driver_sql("UPDATE champions SET version = '9.9.9'")
    shortened(here)
    said = problems(here)
    assert any("second place" in one for one in said)
    assert any("the tail was cut" in one for one in said) and any("9.9.9" in one for one in said)


def test_what_another_machine_vouched_for_meanwhile_is_not_forgotten(story: Story) -> None:
    checkpoints._remember(story.database, 20)
    with story.database.read() as connection:
        assert cursors.at(connection, checkpoints.CURSOR) == 30


# --- keys, and what the events say of them --------------------------------------------------------------------------------


def test_a_revocation_that_no_event_tells_is_named_and_one_that_was_taken_back_too(
    here: Story, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(here.root)
    first, file = keys.signing_key(here.root)[0], keys.folder(here.root) / keys.FILE
    keys.rotate(here.root)
    before = keys.load(file)
    keys.revoke(here.root, first, "lost")  # and killed before the event
    checkpoints.write(here.root, here.database)
    report = audit.verify(here.root, mirrors=False)
    assert report.is_clean and any(f"{first[:16]} is revoked, and no event tells it" in note for note in report.notes)
    assert slipway(capsys, "keys", "revoke", first[:16], "--reason", "lost")[0] == 0
    report = audit.verify(here.root, mirrors=False)
    assert report.is_clean and not any("no event tells it" in note for note in report.notes)
    before.save(file)
    assert [one for one in problems(here) if f"revoked the key {first[:16]}, and the trust file believes it" in one]


def test_a_stolen_key_is_revoked_while_the_ledger_is_frozen(
    here: Story, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(here.root)
    first = keys.signing_key(here.root)[0]
    shortened(here)
    code, out, err = slipway(capsys, "keys", "revoke", first[:16], "--reason", "stolen")
    assert code == 0 and "is revoked" in out and "no checkpoint was written" in err
    assert slipway(capsys, "keys", "rotate")[0] == 0
    assert keys.load(keys.folder(here.root) / keys.FILE).keys[first].revoked
    with here.database.read() as connection:
        told = [event.payload["change"] for event in events.read(connection, kind="key_changed")]
    assert told == ["revoked", "rotated"]


def test_a_stolen_key_is_revoked_while_the_ledger_does_not_answer(
    here: Story, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(here.root)
    monkeypatch.setenv("SLIPWAY_LEDGER_URL", "postgresql://127.0.0.1:9/none")
    first = keys.signing_key(here.root)[0]
    code, _, err = slipway(capsys, "keys", "revoke", first[:16], "--reason", "stolen")
    assert code == 0 and "done, but the ledger was not told" in err
    assert keys.load(keys.folder(here.root) / keys.FILE).keys[first].revoked


# --- guards ---------------------------------------------------------------------------------------------------------------


def test_a_guard_that_does_something_else_is_found(story: Story) -> None:
    assert problems(story) == []
    with story.database.write() as connection:
        if story.database.is_sqlite:
            connection.exec_driver_sql("DROP TRIGGER events_stay")
            connection.exec_driver_sql("CREATE TRIGGER events_stay BEFORE UPDATE ON events WHEN 0 BEGIN SELECT 1; END")
        else:
            connection.exec_driver_sql(
                "CREATE OR REPLACE FUNCTION events_stay() RETURNS trigger LANGUAGE plpgsql AS "
                "$$ BEGIN RETURN coalesce(NEW, OLD); END $$"
            )
    assert any("the trigger events_stay, which" in one and "does something else" in one for one in problems(story))


def test_a_guard_on_another_occasion_is_found(story: Story) -> None:
    with story.database.write() as connection:
        if story.database.is_sqlite:
            connection.exec_driver_sql("DROP TRIGGER events_go_to_archives")
            connection.exec_driver_sql(
                "CREATE TRIGGER events_go_to_archives BEFORE INSERT ON events WHEN NEW.sequence < 0 BEGIN SELECT 1; END"
            )
        else:
            connection.exec_driver_sql("DROP TRIGGER events_stay ON events")
            connection.exec_driver_sql(
                "CREATE TRIGGER events_stay BEFORE UPDATE ON events FOR EACH ROW EXECUTE FUNCTION events_stay()"
            )
    assert any("does something else" in one for one in problems(story))
