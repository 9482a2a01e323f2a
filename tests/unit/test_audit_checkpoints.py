"""Checkpoints: what they vouch for, what becomes of a ledger on which they do not stand, and who may sign them."""

import json
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import made_ledger
import pytest
from made_ledger import Story
from sqlalchemy import delete, insert, select

from slipway.errors import Refused, UsageError
from slipway.ledger import audit, checkpoints, cursors, events, places, tables
from slipway.ledger.checkpoints import Checkpoint
from slipway.ledger.database import Database
from slipway.registry import keys


@pytest.fixture
def root(tmp_path: Path, ledger: Database, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A project on each of the two databases."""
    monkeypatch.setenv("SLIPWAY_LEDGER_URL", ledger.url)
    return made_ledger.project(tmp_path / "project")


@pytest.fixture
def here(tmp_path: Path) -> Iterator[Story]:
    """A project with three releases on SQLite, checkpoints beside it and at a second place."""
    root = made_ledger.project(tmp_path / "project")
    made_ledger.configure(root, audit_checkpoints=str(tmp_path / "elsewhere"))
    database = Database.of(root)
    story = Story(root, database)
    story.tell(3)
    yield story
    database.close()


def file_of(root: Path) -> Path:
    return places.folder(root) / checkpoints.FILE


def problems(root: Path) -> list[str]:
    return [problem.text for problem in audit.verify(root, mirrors=False).problems]


def test_each_act_leaves_a_signed_checkpoint(root: Path, ledger: Database) -> None:
    assert checkpoints.write(root, ledger) is None, "nothing has happened yet"
    Story(root, ledger).tell(2)
    trust = keys.load(keys.folder(root) / keys.FILE)
    found = [line.checkpoint for line in checkpoints.lines(root)]
    assert [(one.number, one.sequence) for one in found if one] == [(1, 10), (2, 20)]
    assert all(one is not None and one.doubt(trust) is None for one in found)
    with ledger.read() as connection:
        assert found[-1] is not None and found[-1].hash == events.head(connection).hash
        assert cursors.at(connection, checkpoints.CURSOR) == 20
    assert checkpoints.write(root, ledger) == found[-1], "nothing happened since"
    assert problems(root) == []


def test_a_killed_writer_leaves_half_a_line_that_goes(here: Story) -> None:
    with file_of(here.root).open("ab") as stream:
        stream.write(b'{"number":4,"seq')
    assert problems(here.root) == []
    here.tell(1)
    assert [line.checkpoint.number for line in checkpoints.lines(here.root) if line.checkpoint] == [1, 2, 3, 4]
    assert problems(here.root) == []


def test_the_second_place_has_every_checkpoint_and_makes_up_for_what_it_missed(here: Story, tmp_path: Path) -> None:
    place = tmp_path / "elsewhere"
    assert len(list(place.iterdir())) == 3
    for path in sorted(place.iterdir())[1:]:
        path.unlink()  # as if it had been away
    here.tell(1)
    assert len(list(place.iterdir())) == 4
    assert [path.name for path in sorted(place.iterdir())] == [
        line.checkpoint.name for line in checkpoints.lines(here.root) if line.checkpoint
    ]


def test_what_another_machine_vouched_for_is_known_here(here: Story) -> None:
    """Two machines on one PostgreSQL, say: each has its own file and both have the second place."""
    other = here.root.with_name("other")
    shutil.copytree(here.root, other)
    with here.database.write() as connection:
        here.say(connection, "stage_finished", "r9")
    mine = checkpoints.write(here.root, here.database)
    assert mine is not None and problems(other) != [], "the other's database is behind what the second place says"
    with pytest.raises(Refused, match="the ledger is frozen: event 31 stood in it"):
        checkpoints.write(other)
    assert [line.checkpoint for line in checkpoints.seen(other)] == [mine]


# --- forged, cut and lost -------------------------------------------------------------------------------------------------


def lines_of(root: Path) -> list[dict[str, object]]:
    return [json.loads(line) for line in file_of(root).read_text().splitlines()]


def rewrite(root: Path, lines: list[dict[str, object]]) -> None:
    file_of(root).write_text("".join(f"{made_ledger.canonical(line)}\n" for line in lines))


@pytest.mark.parametrize(
    ("name", "value"),
    [("sequence", 29), ("hash", "0" * 64), ("at", "2026-01-01T00:00:00.000000Z"), ("number", 9), ("accepted", ["x"]),
     ("previous", "1" * 64), ("signature", "00"), ("key", "ab" * 32)],
)  # fmt: skip
def test_a_checkpoint_that_was_changed_is_forged(here: Story, name: str, value: object) -> None:
    lines = lines_of(here.root)
    rewrite(here.root, [*lines[:2], lines[2] | {name: value}])
    said = problems(here.root)
    assert any("does not bear the signature" in one or "nobody here trusts" in one for one in said), said


def test_signed_by_a_key_for_approvals_it_is_forged(here: Story, tmp_path: Path) -> None:
    from slipway.ledger import signatures

    fingerprint, private = keys.new(here.root, "Eve", tmp_path / "mine")
    said = lines_of(here.root)[2] | {"key": fingerprint}
    said.pop("signature")
    rewrite(here.root, [*lines_of(here.root)[:2], said | {"signature": signatures.sign(private, "checkpoint", said)}])
    assert any("nobody here trusts" in one for one in problems(here.root))


def test_a_checkpoint_cut_from_the_middle_leaves_a_gap(here: Story) -> None:
    lines = lines_of(here.root)
    rewrite(here.root, [lines[0], lines[2]])
    assert any("checkpoint 2 is missing" in one for one in problems(here.root))


def test_checkpoints_cut_from_the_end_are_missed_by_the_database_and_known_elsewhere(
    here: Story, tmp_path: Path
) -> None:
    rewrite(here.root, lines_of(here.root)[:1])
    shutil.rmtree(tmp_path / "elsewhere")
    assert any("vouched for up to event 30, and the checkpoints end at event 10" in one for one in problems(here.root))


@pytest.mark.parametrize("rubbish", ["{}", "[]", "null", "\x00", '{"number":1}', "{" * 5000])
def test_rubbish_among_the_checkpoints_is_named_by_its_line(here: Story, rubbish: str) -> None:
    with file_of(here.root).open("a") as stream:
        stream.write(f"{rubbish}\n")
    assert any("checkpoints.jsonl:4" in one and "is no checkpoint" in one for one in problems(here.root))


def test_a_key_that_was_rotated_still_vouches_and_a_revoked_one_until_another_does(here: Story) -> None:
    first = keys.signing_key(here.root)[0]
    keys.rotate(here.root)
    assert problems(here.root) == []
    keys.revoke(here.root, first, "it leaked")
    assert any("a key that is not believed any more" in one for one in problems(here.root))
    here.tell(1)
    report = audit.verify(here.root, mirrors=False)
    assert report.is_clean and any("later ones vouch for the same events" in note for note in report.notes)


# --- an older backup ------------------------------------------------------------------------------------------------------


def older(story: Story, keep: int) -> None:
    """The database as it was after so many releases, with what was written since gone."""
    with story.database.write() as connection:
        made_ledger.unguarded(connection, story.database.is_sqlite)
        made_ledger.cut(connection, keep * made_ledger.EACH)
        version = f"1.{keep}.0"
        row = connection.execute(select(tables.versions).where(tables.versions.c.version == version)).one()
        for table in (tables.versions, tables.approvals, tables.champions, tables.sinks):
            if table is not tables.sinks:
                late = getattr(table.c, "stage_sequence" if table is tables.versions else "sequence")
                connection.execute(delete(table).where(late > keep * made_ledger.EACH))
        at = keep * made_ledger.EACH - 2
        connection.execute(delete(tables.champions))
        values = {"model": made_ledger.MODEL, "version": version, "identity": row.identity, "generation": keep}
        before = f"1.{keep - 1}.0" if keep > 1 else None
        connection.execute(insert(tables.champions).values(**values, previous=before, sequence=at))
        connection.execute(delete(tables.sinks))
        made_ledger.guard(connection, story.database.is_sqlite)


def test_case_B9_an_older_backup_freezes_promotions_until_a_person_accepts_it(root: Path, ledger: Database) -> None:
    story = Story(root, ledger)
    story.tell(5)
    checkpoints.require(root, ledger)
    older(story, 3)
    report = audit.verify(root, mirrors=False)
    assert [problem.sequence for problem in report.problems] == [31]
    assert "older copy put back" in report.problems[0].what
    with pytest.raises(Refused, match=r"frozen: event 50 stood in it at .* \(it ends at event 30\)"):
        checkpoints.require(root, ledger)
    with pytest.raises(Refused, match="frozen"):
        checkpoints.write(root, ledger)
    with ledger.read() as connection:
        assert [event.kind for event in events.read(connection, 30)] == ["ledger_frozen"], "told once"
    with pytest.raises(UsageError, match="say why"):
        checkpoints.accept(root, " ")
    lost = checkpoints.accept(root, "the disk died, and this was the newest backup")
    assert [one.sequence for one in lost] == [40, 50]
    checkpoints.require(root, ledger)
    story.count = 3
    story.tell(1)
    report = audit.verify(root, mirrors=False)
    assert report.is_clean and sum("a person accepted that" in note for note in report.notes) == 2
    with ledger.read() as connection:
        kinds = [event.kind for event in events.read(connection, 30)]
    assert kinds[:2] == ["ledger_frozen", "ledger_released"]


def test_case_B9_a_backup_that_grew_past_the_old_end_is_found_too(root: Path, ledger: Database) -> None:
    story = Story(root, ledger, vouch=0)
    story.tell(3)
    checkpoints.write(root, ledger)
    older(story, 1)
    story.count = 1
    story.tell(4)
    report = audit.verify(root, mirrors=False)
    assert report.problems and report.problems[0].sequence == 1 and "another chain" in report.problems[0].what
    with pytest.raises(Refused, match="frozen"):
        checkpoints.require(root, ledger)


def test_case_B9_with_the_whole_state_put_back_the_second_place_knows(here: Story, tmp_path: Path) -> None:
    here.database.close()
    shutil.copytree(here.root / ".slipway", tmp_path / "backup")
    here.database = Database.of(here.root)
    here.tell(2)
    here.database.close()
    shutil.rmtree(here.root / ".slipway")
    shutil.copytree(tmp_path / "backup", here.root / ".slipway")
    said = problems(here.root)
    assert said and "event 31: is missing" in said[0]
    with pytest.raises(Refused, match="frozen"):  # the start of a release
        checkpoints.write(here.root)
    with pytest.raises(Refused, match="frozen"):  # and from then on, without asking the second place
        checkpoints.require(here.root)


def test_nothing_to_accept(here: Story) -> None:
    with pytest.raises(UsageError, match="nothing to accept"):
        checkpoints.accept(here.root, "because")


def test_eight_processes_vouch_at_once(here: Story) -> None:
    code = (
        "import sys; from pathlib import Path; from slipway.ledger import checkpoints, events; "
        "from slipway.ledger.database import Database; root = Path(sys.argv[1]); d = Database.of(root)\n"
        "for n in range(5):\n"
        "    with d.write() as c: events.append(c, 'stage_finished', 'desk', 'r', {'n': n})\n"
        "    checkpoints.write(root, d)\n"
    )
    running = [subprocess.Popen([sys.executable, "-c", code, str(here.root)], cwd=made_ledger.ROOT) for _ in range(8)]
    assert [one.wait(120) for one in running] == [0] * 8
    found = [line.checkpoint for line in checkpoints.lines(here.root)]
    assert all(isinstance(one, Checkpoint) for one in found) and found[-1] is not None and found[-1].sequence == 70
    assert problems(here.root) == []
