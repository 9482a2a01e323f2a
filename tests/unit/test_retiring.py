"""Archive, restore, delete, hold, retire: on real bytes, a real ledger and a real S3 protocol, with real kills."""

import os
import shutil
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import made_versions
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from made_versions import BOB, MODEL, Made
from object_storage import BUCKET, keys_in
from sqlalchemy import text

from slipway.errors import Refused, SlipwayError, StageError, Transient, UsageError
from slipway.keeping import lifecycle, liveness, retiring, storage
from slipway.keeping.archiving import Here
from slipway.keeping.leased import leased
from slipway.ledger import audit, checkpoints, clock, events, lifetimes, operations, retention
from slipway.ledger.clock import Reading
from slipway.ledger.database import Database
from slipway.ledger.events import Actor
from slipway.people import approvals
from slipway.registry import stages, store
from slipway.registry.versions import Version

ADA = Actor("ada", "os-user")
DAY_MS = 86_400_000


@pytest.fixture
def made(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Made:
    monkeypatch.delenv("SLIPWAY_ARCHIVE_URL", raising=False)
    return made_versions.project(tmp_path / "a project")


@pytest.fixture
def both(tmp_path: Path, ledger_url: str, monkeypatch: pytest.MonkeyPatch) -> Iterator[Made]:
    """The same project, its ledger on each of the two databases."""
    monkeypatch.delenv("SLIPWAY_ARCHIVE_URL", raising=False)
    monkeypatch.setenv("SLIPWAY_LEDGER_URL", ledger_url)
    project = made_versions.project(tmp_path / "a project")
    yield project
    project.database.close()


@pytest.fixture
def away(s3: Any, monkeypatch: pytest.MonkeyPatch) -> Any:
    """The project has an archive."""
    monkeypatch.setenv("SLIPWAY_ARCHIVE_URL", f"s3://{BUCKET}/kept")
    return s3


def archive(made: Made, version: Version, to: Any = None) -> retiring.Outcome:
    return retiring.archive(made.root, MODEL, version.version, "replaced", ADA, to)


def restore(made: Made, version: Version) -> retiring.Outcome:
    return retiring.restore(made.root, MODEL, version.version, "wanted again", ADA)


def delete(made: Made, version: Version) -> retiring.Outcome:
    return retiring.delete(made.root, MODEL, version.version, "of no use", ADA)


def sound(made: Made) -> None:
    """Tables, chain and events agree."""
    found = audit.verify(made.root, mirrors=False).problems
    assert not found, found


def lies(made: Made, version: Version) -> bool:
    return (store.folder(made.root, MODEL, version.version) / store.ADAPTER).is_dir()


def base_lies(made: Made, version: Version) -> bool:
    return store.base_folder(made.root, version.base_digest).is_dir()


# --- archive and restore ------------------------------------------------------------------------------------------------


def test_without_an_archive_url_an_archived_version_stays_here_and_says_so(made: Made) -> None:
    version = made.version(whole=False)
    assert "stay on this disk" in archive(made, version).said
    assert (made.find(version).stage, made.find(version).state) == ("Archived", "present") and lies(made, version)
    before = made.kinds()
    assert "archived already" in archive(made, version).said and made.kinds() == before
    assert "is back, in the stage None" in restore(made, version).said
    assert made.find(version).stage == "None" and store.problems(made.root, version) == []
    sound(made)


def test_an_archived_version_leaves_this_disk_but_for_its_receipt_and_comes_back_whole(made: Made, away: Any) -> None:
    version = made.version(whole=False)
    made.stage(version, "Staging")
    outcome = archive(made, version)
    assert (made.find(version).stage, made.find(version).state) == ("Archived", "cold")
    assert not lies(made, version) and not base_lies(made, version) and outcome.freed > 0
    assert (store.folder(made.root, MODEL, version.version) / "receipt" / "statement.json").is_file()
    assert "cold storage" in store.problems(made.root, made.find(version))[0]
    assert set(keys_in(away).values()) == {"STANDARD"} and len(keys_in(away)) >= len(version.files) + 3
    sound(made)
    assert "in the stage Staging" in restore(made, version).said
    assert store.problems(made.root, made.find(version)) == [] and keys_in(away) == {}
    sound(made)
    assert archive(made, version).freed > 0  # and away again
    sound(made)


def test_a_frozen_version_is_asked_for_and_comes_back_when_it_has_thawed(made: Made, away: Any) -> None:
    version = made.version(whole=False)
    archive(made, version, "GLACIER")
    assert set(keys_in(away).values()) == {"GLACIER"}
    with pytest.raises(Transient, match=r"takes about 5 hours: run `slipway models restore 1.0.0` again then"):
        restore(made, version)
    assert not lies(made, version) and made.find(version).state == "cold"
    for _ in range(10):
        try:
            restore(made, version)
            break
        except Transient:
            continue
    assert made.find(version).state == "present" and store.problems(made.root, made.find(version)) == []
    sound(made)


def test_a_base_that_others_need_stays_and_comes_back_with_the_first_that_needs_it(made: Made, away: Any) -> None:
    first, second = made.version(whole=False), made.version(whole=False)
    archive(made, first)
    assert base_lies(made, second) and store.problems(made.root, second) == []
    archive(made, second)
    assert not base_lies(made, second)
    restore(made, first)
    assert base_lies(made, first)
    assert [name for name in keys_in(away) if "/bases/" in name]  # the other one still needs it there
    restore(made, second)
    assert keys_in(away) == {}
    sound(made)


def test_wrong_bytes_from_the_archive_never_become_a_version(made: Made, away: Any) -> None:
    version = made.version(whole=False)
    archive(made, version)
    name = next(name for name in keys_in(away) if name.endswith("adapter_model.safetensors"))
    right = away.get_object(Bucket=BUCKET, Key=name)["Body"].read()
    away.put_object(Bucket=BUCKET, Key=name, Body=bytes([right[0] ^ 1]) + right[1:])
    with pytest.raises(StageError, match="came back with the SHA-256"):
        restore(made, version)
    assert made.find(version).state == "cold" and not lies(made, version)
    away.put_object(Bucket=BUCKET, Key=name, Body=right)
    restore(made, version)
    assert store.problems(made.root, made.find(version)) == []


def test_a_version_that_is_not_sound_is_not_sent_away(made: Made, away: Any) -> None:
    version = made.version(whole=False)
    weights = store.folder(made.root, MODEL, version.version) / "adapter" / "adapter_model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-1] + b"x")
    with pytest.raises(Refused, match="is not sound"):
        archive(made, version)
    assert lies(made, version) and made.find(version).state == "present" and keys_in(away) == {}


def test_an_archive_that_is_away_changes_nothing_that_cannot_be_finished_later(
    made: Made, away: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    version = made.version(whole=False)
    server = os.environ["AWS_ENDPOINT_URL"]
    monkeypatch.setenv("AWS_ENDPOINT_URL", "http://127.0.0.1:1")
    with pytest.raises(Transient):
        archive(made, version)
    assert lies(made, version) and store.problems(made.root, made.find(version)) == []
    monkeypatch.setenv("AWS_ENDPOINT_URL", server)
    assert retiring.recover(made.root, MODEL, ADA) and made.find(version).state == "cold"
    sound(made)


def test_the_next_release_finishes_what_was_cut_short(made: Made, away: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    from flows import release

    version = made.version(whole=False)
    server = os.environ["AWS_ENDPOINT_URL"]
    monkeypatch.setenv("AWS_ENDPOINT_URL", "http://127.0.0.1:1")
    with pytest.raises(Transient):
        archive(made, version)
    assert release._recovered(made.root) and lies(made, version), "an archive that is away stops no release"
    monkeypatch.setenv("AWS_ENDPOINT_URL", server)
    assert release._recovered(made.root) and made.find(version).state == "cold"
    assert release._recovered(made.root) == []


def test_a_predecessor_leaves_production_by_the_rules_of_the_gate_policy(
    made: Made, monkeypatch: pytest.MonkeyPatch
) -> None:
    first, second, third = made.version(), made.version(whole=False), made.version(whole=False)
    for version in (first, second, third):
        made.serve(version)
    later(monkeypatch, 14.1)
    with pytest.raises(
        Refused, match=r"is in Production, so it is not deleted; `slipway models archive 1\.0\.0` first"
    ):
        delete(made, first)
    with pytest.raises(Refused, match="reason"):
        retiring.archive(made.root, MODEL, first.version, "x", ADA)
    assert made.find(first).stage == "Production"
    said = retiring.archive(made.root, MODEL, first.version, "replaced by a better one", ADA).said
    assert made.find(first).stage == "Archived" and "its bytes stay on this disk" in said
    assert made.kinds()[-2:] == ["stage_transition", "model_archived"]
    assert "archived already" in archive(made, first).said and made.kinds().count("model_archived") == 1
    delete(made, first)
    sound(made)


def test_what_served_in_the_last_days_is_kept_for_a_rollback_however_many_came_after(
    made: Made, monkeypatch: pytest.MonkeyPatch
) -> None:
    """After a rollback the previous champion is the bad one; the way further back is what served before."""
    first, second, bad = (made.version(whole=False) for _ in range(3))
    for version in (first, second, bad, second):
        made.serve(version)
    for version in (first, bad):
        made.stage(version, "Archived")
        for act in (archive, delete):
            with pytest.raises(Refused, match=r"rollback returns to, for 14 days more"):
                act(made, version)
    later(monkeypatch, 14.1)
    delete(made, first)
    with pytest.raises(Refused, match=r"is what a rollback returns to"):
        delete(made, bad)


def test_what_came_to_serve_before_the_oldest_event_that_is_left_is_kept_for_a_rollback_too(
    made: Made, monkeypatch: pytest.MonkeyPatch
) -> None:
    first = made.version(whole=False)
    made.serve(first)
    later(monkeypatch, 400)
    second, third = made.version(whole=False), made.version(whole=False)
    retention.retain(made.root)
    assert "model_promoted" not in made.kinds()
    for version in (second, third):
        made.serve(version)
    with pytest.raises(Refused, match=r"rollback returns to, for 14 days more"):
        archive(made, first)
    later(monkeypatch, 300)
    made.version(whole=False)
    later(monkeypatch, 100)
    retention.retain(made.root)
    assert "model_promoted" not in made.kinds()
    assert {first.version, second.version} <= due(made).keys(), "no window stays open for ever"


def test_that_a_version_was_archived_is_told_once_whoever_changed_its_stage(made: Made) -> None:
    """By `models stage`, or by an archive that was killed between the two."""
    version = made.version(whole=False)
    made.stage(version, "Archived")
    assert "its bytes stay on this disk" in archive(made, version).said
    assert "archived already" in archive(made, version).said and made.kinds().count("model_archived") == 1
    restore(made, version)
    assert "its bytes stay on this disk" in archive(made, version).said and made.kinds().count("model_archived") == 2
    sound(made)


# --- delete -------------------------------------------------------------------------------------------------------------


def test_a_deleted_version_leaves_a_tombstone_and_its_base_to_others(made: Made) -> None:
    first, second = made.version(whole=False), made.version(whole=False)
    outcome = delete(made, first)
    assert outcome.freed > 0 and not store.folder(made.root, MODEL, first.version).exists()
    stone = made.find(first)
    assert (stone.state, stone.identity, stone.evidence_digest) == ("deleted", first.identity, first.evidence_digest)
    assert base_lies(made, second) and store.problems(made.root, second) == []
    before = made.kinds()
    assert "deleted already" in delete(made, first).said and made.kinds() == before
    for act in (archive, restore):
        with pytest.raises(Refused, match="only its row is left"):
            act(made, first)
    delete(made, second)
    assert not base_lies(made, second)
    sound(made)


def test_a_deleted_version_goes_from_the_archive_too(made: Made, away: Any) -> None:
    first, second = made.version(whole=False), made.version(whole=False)
    for version in (first, second):
        archive(made, version)
    delete(made, first)
    assert not [name for name in keys_in(away) if "/1.0.0/" in name]
    restore(made, second)  # with the base they shared
    assert store.problems(made.root, made.find(second)) == []
    sound(made)


def test_a_base_that_another_model_is_just_archiving_stays_in_the_archive(
    made: Made, away: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The lease is the model's; a base may be shared by several. The delete falls between the base's copy and its event."""
    first, second = made.version(whole=False), made.version(whole=False)
    archive(made, first)
    put, refused = storage.Archive.put, []

    def then_deleted(self: Any, name: str, *rest: Any) -> None:
        put(self, name, *rest)
        if name.startswith(store.BASES) and not refused:
            with leased(made.database, "lifecycle:another") as lease:
                here = Here(made.root, made.database, lease, ADA, retiring.load_policy(made.root))
                try:
                    refused.append(retiring._delete(here, MODEL, first.version, "of no use"))
                except SlipwayError as error:
                    refused.append(error)

    with monkeypatch.context() as patch:
        patch.setattr(storage.Archive, "put", then_deleted)
        archive(made, second)
    assert isinstance(refused[0], Transient) and "held by another run" in str(refused[0])
    assert retiring.recover(made.root, MODEL, ADA)  # the delete was begun
    assert not [name for name in keys_in(away) if "/1.0.0/" in name]
    restore(made, second)
    assert store.problems(made.root, made.find(second)) == [] and keys_in(away) == {}
    sound(made)


def test_a_base_that_a_registration_has_just_found_here_is_not_taken_away(
    made: Made, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Another model's delete falls between the base's copy and version.json, which says that it is needed."""
    first = made.version(whole=False)
    copied, others = store._keep_base, []

    def then_dropped(root: Path, wanted: str, base: Path) -> None:
        copied(root, wanted, base)
        others.append(threading.Thread(target=store.drop, args=(root, first)))
        others[0].start()
        others[0].join(0.5)

    with monkeypatch.context() as patch:
        patch.setattr(store, "_keep_base", then_dropped)
        second = made.version(whole=False)
    others[0].join(30)
    assert base_lies(made, second) and store.problems(made.root, second) == []


def test_case_C6_what_serves_served_or_may_serve_is_not_deleted(made: Made) -> None:
    first, second, third = (made.version(whole=False) for _ in range(3))
    made.serve(first)
    made.serve(second)
    made.stage(third, "Staging")
    for version, why in ((second, "is the champion"), (first, "rollback returns to"), (third, "is the candidate")):
        before = made.kinds()
        with pytest.raises(Refused, match=why):
            delete(made, version)
        assert made.kinds() == before and lies(made, version)
    with pytest.raises(Refused, match="is the champion"):
        archive(made, second)
    with pytest.raises(Refused, match=r"rollback returns to, for 14 days more"):
        archive(made, first)


def test_case_C6_a_canary_is_not_touched(made: Made) -> None:
    first, second, third = (made.version(whole=False) for _ in range(3))
    made.serve(first)
    with made.database.write() as connection:
        events.append(connection, "canary_started", MODEL, second.version, {"version": second.version}, ADA)
    with pytest.raises(Refused, match="is a candidate"):
        delete(made, second)
    with made.database.write() as connection:
        weights = {"weights": {first.version: 95, third.version: 5}}
        events.append(connection, "traffic_changed", MODEL, third.version, weights, ADA)
    with pytest.raises(Refused, match=r"takes 5 % of the traffic"):
        delete(made, third)


def test_a_legal_hold_keeps_a_version_until_it_is_taken_away(made: Made) -> None:
    version = made.version(whole=False)
    retiring.hold(made.root, MODEL, version.version, "asked by the court", ADA)
    assert "already" in retiring.hold(made.root, MODEL, version.version, "again", ADA).said
    for act in (archive, delete):
        with pytest.raises(Refused, match="legal hold"):
            act(made, version)
    sound(made)
    retiring.unhold(made.root, MODEL, version.version, "the court is done", ADA)
    assert "is not on" in retiring.unhold(made.root, MODEL, version.version, "again", ADA).said
    delete(made, version)
    assert made.kinds().count("model_held") == made.kinds().count("model_unheld") == 1
    sound(made)


@pytest.mark.parametrize("kept", ["row", "event"])
def test_a_legal_hold_stands_by_its_event_and_by_its_row(both: Made, kept: str) -> None:
    """One that was taken from the table by hand, or written into it, keeps a version just as well."""
    version = both.version(whole=False)
    if kept == "event":
        retiring.hold(both.root, MODEL, version.version, "asked by the court", ADA)
    statement = "DELETE FROM holds" if kept == "event" else f"INSERT INTO holds VALUES ('{MODEL}', '1.0.0', 1)"
    with both.database.write() as connection:
        connection.execute(text(statement))
    assert "already" in retiring.hold(both.root, MODEL, version.version, "again", ADA).said
    for act in (archive, delete):
        with pytest.raises(Refused, match="legal hold"):
            act(both, version)
    assert audit.verify(both.root, mirrors=False).problems
    retiring.unhold(both.root, MODEL, version.version, "the court is done", ADA)
    sound(both)
    delete(both, version)


def test_a_version_that_does_not_exist_is_a_usage_error(made: Made) -> None:
    made.version(whole=False)
    for act in (retiring.archive, retiring.restore, retiring.delete, retiring.hold, retiring.unhold):
        with pytest.raises(UsageError, match="has no version"):
            act(made.root, MODEL, "9.9.9", "why", ADA)


def test_case_H3_without_the_ledger_nothing_is_deleted_archived_or_held(
    made: Made, monkeypatch: pytest.MonkeyPatch
) -> None:
    version = made.version(whole=False)
    monkeypatch.setenv("SLIPWAY_LEDGER_URL", "postgresql+psycopg://nobody@127.0.0.1:1/none")
    for act in (retiring.archive, retiring.restore, retiring.delete, retiring.hold):
        with pytest.raises(Transient):
            act(made.root, MODEL, version.version, "why", ADA)
    assert lies(made, version)


def test_case_B9_on_a_ledger_put_back_from_a_backup_nothing_is_deleted(made: Made, tmp_path: Path) -> None:
    version = made.version(whole=False)
    file = Path(made.database.url.removeprefix("sqlite:///"))
    made.database.close()
    shutil.copy(file, tmp_path / "backup")
    made.version(whole=False)
    checkpoints.write(made.root)
    made.database.close()
    shutil.copy(tmp_path / "backup", file)
    for name in ("-wal", "-shm"):
        file.with_name(file.name + name).unlink(missing_ok=True)
    for act in (archive, delete):
        with pytest.raises(Refused, match="frozen"):
            act(made, version)
    assert lies(made, version) and made.find(version).state == "present"


# --- by policy ----------------------------------------------------------------------------------------------------------


def later(monkeypatch: pytest.MonkeyPatch, days: float, wall_days: float | None = None) -> None:
    """From now on, all clocks say that days have passed (the wall clock, another number of them)."""
    now = clock.read()

    def read() -> Reading:
        from datetime import timedelta

        wall = timedelta(days=days if wall_days is None else wall_days)
        return Reading(now.at + wall, now.boot, now.ticks_ms + int(days * DAY_MS))

    monkeypatch.setattr(clock, "read", read)


def due(made: Made) -> dict[str, str]:
    return {step.version: step.action for step in retiring.due(made.root, MODEL)}


def test_a_years_life_by_the_shipped_policy(made: Made, away: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    old, staged, champion = (made.version(whole=False) for _ in range(3))
    made.stage(staged, "Staging")
    made.serve(champion)
    later(monkeypatch, 29.9)
    assert due(made) == {}
    later(monkeypatch, 0.2)
    assert due(made) == {old.version: "archive", staged.version: "archive"}
    (first, second) = retiring.due(made.root, MODEL)
    assert "kept are 30 days" in first.why and "came to Staging" in second.why
    for step in (first, second):
        retiring.take(made.root, MODEL, step, ADA)
    assert due(made) == {} and set(keys_in(away).values()) == {"STANDARD"}
    later(monkeypatch, 30.1)
    steps = retiring.due(made.root, MODEL)
    assert {step.action for step in steps} == {"move"} and all(step.to == "GLACIER" for step in steps)
    for step in steps:
        retiring.take(made.root, MODEL, step, ADA)
    assert set(keys_in(away).values()) == {"GLACIER"} and due(made) == {}
    later(monkeypatch, 335)
    assert due(made) == {old.version: "delete", staged.version: "delete"}
    for step in retiring.due(made.root, MODEL):
        retiring.take(made.root, MODEL, step, ADA)
    assert keys_in(away) == {} and due(made) == {} and store.problems(made.root, made.find(champion)) == []
    sound(made)


def test_a_predecessor_is_kept_from_the_day_it_was_replaced(made: Made, monkeypatch: pytest.MonkeyPatch) -> None:
    first, second, third = (made.version(whole=False) for _ in range(3))
    made.serve(first)
    later(monkeypatch, 1000)
    made.serve(second)
    later(monkeypatch, 10)
    made.serve(third)
    later(monkeypatch, 79)
    assert due(made) == {}
    later(monkeypatch, 1.1)
    assert due(made) == {first.version: "archive"}  # 90 days after it served last; the second has 10 more
    later(monkeypatch, 10)
    assert due(made) == {first.version: "archive", second.version: "archive"}


@pytest.mark.parametrize("jump", [-400, -1, 1, 400])
def test_case_C10_a_clock_that_jumps_retires_nothing_early(
    made: Made, monkeypatch: pytest.MonkeyPatch, jump: float
) -> None:
    made.version(whole=False)
    later(monkeypatch, 1, wall_days=jump)
    made.version(whole=False)
    later(monkeypatch, 1, wall_days=-jump)
    assert due(made) == {}
    archive(made, made.find(made.version(whole=False)))
    later(monkeypatch, 1, wall_days=jump + 400)
    assert due(made) == {}


@settings(max_examples=25, deadline=None)
@given(
    st.lists(
        st.tuples(st.floats(0, 20), st.sampled_from([0, 0, -400, -1, 1, 400]), st.booleans()), min_size=1, max_size=12
    )
)
def test_case_C10_whatever_the_clocks_did_no_age_is_more_than_true_but_by_a_day_a_boot(
    tmp_path_factory: pytest.TempPathFactory, script: list[tuple[float, float, bool]]
) -> None:
    """Real events under a script of days, jumps of the wall clock, and restarts of the machine."""
    ledger = Database(f"sqlite:///{tmp_path_factory.mktemp('ledger') / 'ledger.db'}")
    ledger.migrate()
    true, wall, boot, up, since = 0.0, 0.0, 0, 0.0, 0.0
    start = clock.read().at

    def reading() -> Reading:
        from datetime import timedelta

        return Reading(start + timedelta(days=true + wall), f"boot {boot}", int(up * DAY_MS))

    with ledger.write() as connection:
        first = events.append(connection, "model_registered", "m", "1.0.0", {}, ADA, now=reading())
    restarts = 0
    for days, jump, restarted in script:
        true, up, wall = true + days, up + days, wall + jump
        if restarted:
            boot, up, restarts = boot + 1, 0.0, restarts + 1
        with ledger.write() as connection:
            events.append(connection, "stage_finished", "m", "", {}, ADA, now=reading())
    with ledger.read() as connection:
        now = liveness.Clock(connection, reading())
        age = lifecycle.passed(liveness._moment((first.at, first.elapsed_ms)), now.now)
    ledger.close()
    assert age.total_seconds() / 86_400 <= true + restarts + 0.001, (true, since)


def test_an_age_whose_event_went_to_an_archive_is_at_least_the_oldest_ones_left(made: Made) -> None:
    version = made.version(whole=False)
    with made.database.write() as connection:
        connection.execute(text("UPDATE versions SET stage_sequence = 999"))
    with made.database.read() as connection:
        clocks = liveness.Clock(connection, clock.read())
        assert clocks.of(999) == clocks.now and clocks.of(0) == clocks.now  # nobody knows: just now
    assert due(made) == {} and version


def test_awaiting_an_approval_protects(made: Made, monkeypatch: pytest.MonkeyPatch) -> None:
    from slipway.ledger import given as rows

    version = made.version(whole=False)
    about = {"id": "n", "model": MODEL, "release": version.release, "version": version.version, "answer": "approve"}
    with made.database.write() as connection:
        rows.add_approval(connection, about | {"expires": "2999-01-01T00:00:00.000000Z"}, "valid", 1)
    later(monkeypatch, 31)
    assert due(made) == {}
    with made.database.write() as connection:
        rows.set_approval(connection, "n", "expired")
    assert due(made) == {version.version: "archive"}


@pytest.fixture
def asked(made: Made) -> tuple[Made, Version]:
    """A version that only approvals keep from production, and a newer candidate."""
    version, newer = made.version(), made.version(whole=False)
    for one in (version, newer):
        made.stage(one, "Staging")
    tags = ["approved", "performance_validated"]
    with pytest.raises(stages.NotAllowed):
        stages.transition(made.root, MODEL, version.version, "Production", tags, "better", ADA)
    return made, version


def test_a_version_that_was_asked_for_waits_for_its_approval(asked: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    made, version = asked
    for act in (archive, delete):
        with pytest.raises(Refused, match=r"waits for an approval"):
            act(made, version)
    later(monkeypatch, 29.9)
    with pytest.raises(Refused, match=r"waits for an approval"):
        delete(made, version)
    later(monkeypatch, 0.2)
    assert due(made)[version.version] == "archive"
    delete(made, version)


def test_a_no_ends_the_wait_and_so_does_a_refusal_for_another_reason(asked: Any) -> None:
    made, version = asked
    with pytest.raises(stages.NotAllowed):
        stages.transition(made.root, MODEL, version.version, "Production", ["approved"], "better", ADA)
    with made.database.read() as connection:
        assert lifetimes.asked(connection, MODEL) == {}, "a tag is missing too"
    tags = ["approved", "performance_validated"]
    with pytest.raises(stages.NotAllowed):
        stages.transition(made.root, MODEL, version.version, "Production", tags, "better", ADA)
    approvals.give(made.root, version.version, "reject", "it swears", actor=BOB)
    delete(made, version)


def test_an_approval_to_archive_does_not_stand_in_the_archives_way(made: Made) -> None:
    version = made.version()
    made.stage(version, "Production")
    made.approvers(transitions={"Production→Archived": {"approvals": 1, "roles": {}}})
    with pytest.raises(stages.NotAllowed):
        archive(made, version)
    approvals.give(made.root, version.version, "approve", "nobody needs it", "Production→Archived", actor=BOB)
    retiring.archive(made.root, MODEL, version.version, "replaced by a better one", ADA)
    assert made.find(version).stage == "Archived"
    sound(made)


# --- kills --------------------------------------------------------------------------------------------------------------

# Each runs an act in a process that kills itself at the named call, before or after it did its work.
KILLED = """
import os, signal, sys
from pathlib import Path
sys.path[:0] = {path!r}
from slipway.ledger import operations
from slipway.ledger.events import Actor
from slipway.keeping import retiring, storage
from slipway.registry import store, versions

def kill_at(place, name, nth, after):
    known, calls = getattr(place, name), [0]
    def call(*args, **named):
        calls[0] += 1
        if calls[0] == nth and not after:
            os.kill(os.getpid(), signal.SIGKILL)
        result = known(*args, **named)
        if calls[0] == nth:
            os.kill(os.getpid(), signal.SIGKILL)
        return result
    setattr(place, name, call)

kill_at({place}, {name!r}, {nth}, {after})
getattr(retiring, {act!r})(Path({root!r}), {model!r}, {version!r}, "because", Actor("ada", "os-user"))
"""
POINTS = [
    ("archive", "operations", "begin", 1, True),
    ("archive", "storage.Archive", "put", 3, True),
    ("archive", "store", "cool", 1, False),
    ("archive", "operations", "end", 1, False),
    ("restore", "storage.Archive", "get", 1, True),
    ("restore", "versions", "set_state", 1, True),  # inside the transaction
    ("restore", "storage.Archive", "delete", 2, True),
    ("delete", "versions", "set_state", 1, True),
    ("delete", "store", "drop", 1, False),
    ("delete", "storage.Archive", "delete", 2, True),
]
MORE_POINTS = [
    ("archive", "storage.Archive", "put", 1, False),
    ("archive", "versions", "set_state", 1, True),
    ("archive", "store", "_removed", 1, True),
    ("restore", "storage.Archive", "get", 2, False),
    ("restore", "store", "warm", 1, True),
    ("restore", "operations", "end", 1, True),
    ("delete", "operations", "begin", 1, True),
    ("delete", "store", "_removed", 1, True),
    ("delete", "operations", "end", 1, False),
]
CHAOS = [pytest.param(*point, marks=pytest.mark.chaos) for point in MORE_POINTS]


def kill(made: Made, version: Version, act: str, place: str, name: str, nth: int, after: bool) -> None:
    about = {"path": [str(path) for path in sys.path if path], "root": str(made.root), "model": MODEL}
    program = KILLED.format(**about, version=version.version, act=act, place=place, name=name, nth=nth, after=after)
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=False, timeout=120)
    assert done.returncode == -9, done.stdout + done.stderr


def forget_lease(made: Made) -> None:
    """As if its holder had been silent for long enough."""
    with made.database.write() as connection:
        connection.execute(text("UPDATE leases SET holder = NULL"))


@pytest.mark.parametrize(("act", "place", "name", "nth", "after"), [*POINTS, *CHAOS])
def test_an_act_that_is_killed_anywhere_is_finished_by_the_next(
    made: Made, away: Any, act: str, place: str, name: str, nth: int, after: bool
) -> None:
    version, other = made.version(whole=False), made.version(whole=False)
    if act in ("restore", "delete"):
        archive(made, version)
    kill(made, version, act, place, name, nth, after)
    with pytest.raises(Transient, match="held by another run"):
        ACTS[act](made, version)
    forget_lease(made)
    ACTS[act](made, version)
    with made.database.read() as connection:
        left = [one.id for one in operations.unfinished(connection) if one.kind in retiring.KINDS]
    assert left == []
    wanted = {"archive": "cold", "restore": "present", "delete": "deleted"}[act]
    assert made.find(version).state == wanted
    place_of = store.folder(made.root, MODEL, version.version)
    assert lies(made, version) == (wanted == "present") and not list(place_of.parent.glob(".*.partial"))
    assert store.problems(made.root, made.find(other)) == [], "the other version and the base they share"
    told = {"archive": "model_archived", "restore": "model_restored", "delete": "model_deleted"}[act]
    assert made.kinds().count(told) == 1
    sound(made)


ACTS: dict[str, Callable[[Made, Version], Any]] = {"archive": archive, "restore": restore, "delete": delete}


def test_a_restore_that_was_begun_does_not_stand_in_a_deletes_way(made: Made, away: Any) -> None:
    version = made.version(whole=False)
    archive(made, version, "GLACIER")
    with pytest.raises(Transient):
        restore(made, version)
    delete(made, version)
    with made.database.read() as connection:
        assert [one for one in operations.unfinished(connection) if one.kind in retiring.KINDS] == []
    assert keys_in(away) == {}
    sound(made)


def test_a_full_disk_while_restoring_leaves_nothing_half_written(made: Made, away: Any, tmp_path: Path) -> None:
    version = made.version(whole=False)
    archive(made, version)
    place = store.top(made.root) / store.BASES
    mounted = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=8k", "tmpfs", str(place)], capture_output=True, check=False
    )
    if mounted.returncode:
        pytest.skip("needs the right to mount a tmpfs (root)")
    try:
        (place / "ballast").write_bytes(b"x" * 8192)
        with pytest.raises(SlipwayError, match="disk full"):
            restore(made, version)
        assert [path.name for path in place.iterdir()] == ["ballast"]
    finally:
        subprocess.run(["umount", str(place)], check=True)
    assert made.find(version).state == "cold" and not lies(made, version)
    restore(made, version)
    assert store.problems(made.root, made.find(version)) == []
