"""What serves is changed by one process at a time, to what is sound, and is signed for this name and this generation."""

import json
import multiprocessing
import shutil
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import made_versions
import promotion_race
import pytest
from made_versions import ADA, Made
from sqlalchemy import update

from slipway.errors import Refused, SlipwayError, StageError, UsageError
from slipway.keeping import retiring
from slipway.ledger import audit, champions, events, leases, tables
from slipway.registry import keys, promotion, signing, store, versions
from slipway.registry.rollback import rollback
from slipway.registry.versions import Version

MODEL = "support-desk"


@pytest.fixture
def made(tmp_path: Path, ledger_url: str, monkeypatch: pytest.MonkeyPatch) -> Iterator[Made]:
    """Two versions in Production, on each of the two databases."""
    monkeypatch.setenv("SLIPWAY_LEDGER_URL", ledger_url)
    yield from _made(tmp_path)


@pytest.fixture
def small(tmp_path: Path) -> Iterator[Made]:
    yield from _made(tmp_path)


def _made(folder: Path, count: int = 2) -> Iterator[Made]:
    project = made_versions.project(folder / "a project")
    for _ in range(count):
        project.stage(project.version(whole=False), "Production")
    yield project
    project.database.close()


def promote(made: Made, version: str, generation: int | None = None, **more: Any) -> champions.Champion:
    return promotion.promote(made.root, MODEL, version, generation, "better", ADA, mirrored=False, **more)


def serving(made: Made) -> champions.Champion | None:
    with made.database.read() as connection:
        return champions.find(connection, MODEL)


def version_of(made: Made, number: str) -> Version:
    with made.database.read() as connection:
        found = versions.find(connection, MODEL, number)
    assert found is not None
    return found


def test_a_promotion_is_a_row_an_event_and_a_signed_statement(made: Made) -> None:
    first = promote(made, "1.0.0")
    assert (first.version, first.previous, first.generation) == ("1.0.0", None, 1)
    second = promote(made, "1.1.0", 1)
    assert (second.version, second.previous, second.generation) == ("1.1.0", "1.0.0", 2) and serving(made) == second
    said = promotion.verify_promotion(made.root, MODEL)
    assert (said.version, said.identity, said.generation, said.previous) == ("1.1.0", second.identity, 2, "1.0.0")
    with made.database.read() as connection:
        told = [event.payload for event in events.read(connection, kind="model_promoted")]
    assert [(one["version"], one["generation"], one["weights"]) for one in told] == [
        ("1.0.0", 1, {"1.0.0": 100}),
        ("1.1.0", 2, {"1.1.0": 100}),
    ]
    assert audit.verify(made.root, mirrors=False).problems == []


def test_who_decided_on_what_serves_no_longer_is_told_so(made: Made) -> None:
    promote(made, "1.0.0", 0)
    with pytest.raises(
        Refused,
        match=r"1\.1\.0 was not promoted: lost to generation 1 \(1\.0\.0 serves\), this was decided on generation 0",
    ):
        promote(made, "1.1.0", 0)
    with pytest.raises(Refused, match="is the champion already"):
        promote(made, "1.0.0")
    assert made.kinds().count("model_promoted") == 1


def test_only_what_is_sound_and_in_production_serves(small: Made) -> None:
    small.version("2.0.0", whole=False)
    with pytest.raises(Refused, match="is in None, and only versions in Production serve"):
        promote(small, "2.0.0")
    with pytest.raises(UsageError, match=r"has no version 9\.9\.9"):
        promote(small, "9.9.9")
    with pytest.raises(UsageError, match="say why"):
        promotion.promote(small.root, MODEL, "1.0.0", None, "", ADA)
    weights = store.folder(small.root, MODEL, "1.0.0") / "adapter" / "adapter_model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-1] + b"x")
    with pytest.raises(Refused, match=r"1\.0\.0 cannot serve: .*adapter_model\.safetensors changed"):
        promote(small, "1.0.0")
    assert serving(small) is None


def test_whoever_holds_the_lease_is_waited_for(small: Made) -> None:
    with small.database.write() as connection:
        leases.acquire(connection, f"champion:{MODEL}")
    with pytest.raises(SlipwayError, match="is held by another run"):
        promote(small, "1.0.0")
    assert serving(small) is None


def test_a_rollback_brings_an_archived_version_back_in_the_same_transaction(made: Made) -> None:
    promote(made, "1.0.0")
    made.stage(version_of(made, "1.1.0"), "Archived")
    with pytest.raises(Refused, match="is in Archived"):
        promote(made, "1.1.0")
    back = promote(made, "1.1.0", kind="rolled_back")
    assert (back.version, version_of(made, "1.1.0").stage) == ("1.1.0", "Production")
    assert made.kinds()[-2:] == ["stage_transition", "rolled_back"]
    assert promotion.verify_promotion(made.root, MODEL).kind == "rolled_back"


def test_the_statement_bears_the_policy_that_judged_the_step_to_production(small: Made) -> None:
    """The event has it too, for a machine without the file; a rollback bears the one that judged it last."""
    found = version_of(small, "1.0.0")
    with small.database.write() as connection:
        told = {"version": "1.0.0", "from": "Staging", "to": "Production", "decision": {"policy_digest": "7" * 64}}
        events.append(connection, "stage_transition", MODEL, "1.0.0", told, ADA)
    promote(small, "1.0.0")
    said = promotion.verify_promotion(small.root, MODEL)
    assert said.policy_digest == "7" * 64 != found.policy_digest and said.evidence_digest == found.evidence_digest
    path(small, 1).unlink()
    assert promotion.verify_promotion(small.root, MODEL) == said
    promote(small, "1.1.0")
    assert promotion.verify_promotion(small.root, MODEL).policy_digest == version_of(small, "1.1.0").policy_digest
    small.stage(found, "Archived")
    promote(small, "1.0.0", kind="rolled_back")
    assert promotion.verify_promotion(small.root, MODEL).policy_digest == "7" * 64


@pytest.mark.parametrize("stage", ["None", "Staging"])
def test_a_restored_version_serves_again_by_a_rollback(small: Made, stage: str) -> None:
    """Restored, it stands where it is judged again; going back is another matter, as for an archived one."""
    promote(small, "1.0.0")
    promote(small, "1.1.0")
    small.stage(version_of(small, "1.0.0"), stage)
    with pytest.raises(Refused, match="only versions in Production serve"):
        promote(small, "1.0.0")
    rollback(small.root, MODEL, "1.0.0", "wrong answers", ADA, mirrored=False)
    assert (serving(small).version, version_of(small, "1.0.0").stage) == ("1.0.0", "Production")
    assert small.kinds()[-2:] == ["stage_transition", "rolled_back"]
    assert audit.verify(small.root, mirrors=False).problems == []


def test_no_statement_is_left_of_a_promotion_that_never_was(small: Made, monkeypatch: pytest.MonkeyPatch) -> None:
    """Another machine's promotion of that generation would not be believed here."""
    promote(small, "1.0.0")

    def away(*_: object) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(leases, "release", away)  # the last word to the ledger before it is asked to commit
        promote(small, "1.1.0")
    assert serving(small).generation == 1 and not path(small, 2).exists()
    with monkeypatch.context() as patch:
        patch.setattr(promotion.atomic, "write_json", full)
        promote(small, "1.1.0")  # it serves: a file that cannot be written changes nothing of that
    assert promotion.verify_promotion(small.root, MODEL).generation == 2 and not path(small, 2).exists()


def full(*_: object) -> None:
    raise OSError(28, "No space left on device")


# --- races ------------------------------------------------------------------------------------------------------------------


def _race(root: Path, races: int) -> list[Any]:
    spawning = multiprocessing.get_context("spawn")
    start, done = spawning.Barrier(8), spawning.Queue()
    racers = [
        spawning.Process(target=promotion_race.race, args=(root, number, races, start, done)) for number in range(8)
    ]
    for racer in racers:
        racer.start()
    said = [done.get(timeout=180) for _ in range(8 * races)]
    for racer in racers:
        racer.join(60)
    return said


def _check_races(made: Made, races: int, said: list[Any]) -> None:
    before = None
    for race in range(races):
        outcomes = Counter(what for number, what, *_ in said if number == race)
        assert outcomes == {"won": 1, "lost to generation": 7}, (race, outcomes)
        generation, version, previous = next(rest for number, what, *rest in said if (number, what) == (race, "won"))
        assert (generation, previous) == (race + 1, before)
        before = version
    assert (found := serving(made)) and (found.generation, found.version) == (races, before)
    with made.database.read() as connection:
        told = [event.payload for event in events.read(connection, kind="model_promoted")]
    assert [one["generation"] for one in told] == list(range(1, races + 1))
    assert [one["previous"] for one in told[1:]] == [one["version"] for one in told[:-1]]
    assert promotion.verify_promotion(made.root, MODEL).generation == races


@pytest.fixture
def nine(tmp_path: Path, ledger_url: str, monkeypatch: pytest.MonkeyPatch) -> Iterator[Made]:
    """Nine versions in Production: eight to race, one to serve meanwhile."""
    monkeypatch.setenv("SLIPWAY_LEDGER_URL", ledger_url)
    yield from _made(tmp_path, 9)


def test_case_C3_of_eight_promotions_at_once_one_wins(nine: Made) -> None:
    _check_races(nine, 12, _race(nine.root, 12))


@pytest.mark.chaos
@pytest.mark.timeout(1800)
def test_case_C3_five_hundred_races_of_eight(nine: Made) -> None:
    _check_races(nine, 500, _race(nine.root, 500))


@pytest.mark.parametrize("first", ["delete", "promote"])
def test_case_C5_a_change_of_champion_and_a_delete_never_leave_a_dangling_one(
    made: Made, first: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The other act falls between looking and writing, where it hurts most; only a rollback takes what may be deleted."""
    promote(made, "1.0.0")
    made.stage(version_of(made, "1.1.0"), "Archived")
    if first == "delete":
        ready = promotion._ready

        def then_deleted(root: Path, version: Version, kind: str) -> None:
            ready(root, version, kind)
            retiring.delete(root, MODEL, "1.1.0", "not wanted", ADA)

        monkeypatch.setattr(promotion, "_ready", then_deleted)
        with pytest.raises(Refused, match="is deleted by now"):
            promote(made, "1.1.0", kind="rolled_back")
    else:
        promote(made, "1.1.0", kind="rolled_back")
        with pytest.raises(Refused, match="is the champion, so it is not deleted"):
            retiring.delete(made.root, MODEL, "1.1.0", "not wanted", ADA)
    found = serving(made)
    assert found and version_of(made, found.version).state == "present"
    assert store.problems(made.root, version_of(made, found.version)) == []


# --- the signed statement -----------------------------------------------------------------------------------------------------


@pytest.fixture
def served(small: Made) -> Made:
    """1.0.0, then 1.1.0, then 1.0.0 again: generations 1 to 3."""
    for number in ("1.0.0", "1.1.0"):
        promote(small, number)
    promote(small, "1.0.0", kind="rolled_back")
    return small


def path(made: Made, generation: int) -> Path:
    return promotion.path_of(made.root, MODEL, generation)


def test_case_D6_an_older_promotion_is_not_one_for_today(served: Made) -> None:
    assert promotion.verify_promotion(served.root, MODEL).generation == 3
    shutil.copy(path(served, 1), path(served, 3))  # the same version, validly signed, two generations ago
    with pytest.raises(Refused, match="speaks of support-desk, generation 1; it belongs elsewhere"):
        promotion.verify_promotion(served.root, MODEL)
    shutil.copy(path(served, 2), path(served, 3))
    with pytest.raises(Refused, match="generation 2; it belongs elsewhere"):
        promotion.verify_promotion(served.root, MODEL)


def test_case_D6_nor_is_the_whole_row_of_an_earlier_day(served: Made) -> None:
    with served.database.write() as connection:
        old = next(
            event for event in events.read(connection, kind="model_promoted") if event.payload["generation"] == 2
        )
        values = {"version": "1.1.0", "identity": old.payload["identity"], "previous": "1.0.0", "generation": 2}
        connection.execute(update(tables.champions).values(**values, sequence=old.sequence))
    assert promotion.verify_promotion(served.root, MODEL).generation == 2
    with pytest.raises(Refused, match="generation 2 of support-desk is a replay: 3 has been seen"):
        promotion.verify_promotion(served.root, MODEL, at_least=3)


@pytest.mark.parametrize(
    "name",
    ["version", "identity", "generation", "previous", "model", "key", "at", "evidence_digest", "kind", "signature"],
)
def test_case_D6_a_word_that_was_changed_is_noticed(served: Made, name: str) -> None:
    said = json.loads(path(served, 3).read_text())
    said[name] = (
        said[name] + 1 if isinstance(said[name], int) else "1.1.0" if name in ("version", "previous") else "0" * 64
    )
    said["previous"] = "1.0.0" if name == "previous" else said["previous"]
    path(served, 3).write_text(json.dumps(said))
    with pytest.raises((Refused, StageError)):
        promotion.verify_promotion(served.root, MODEL)


@pytest.mark.parametrize(
    "values", [{"version": "1.1.0"}, {"identity": "0" * 64}, {"previous": None}, {"generation": 4}]
)
def test_a_champions_row_that_was_changed_by_hand_is_noticed(served: Made, values: dict[str, Any]) -> None:
    with served.database.write() as connection:
        connection.execute(update(tables.champions).values(**values))
    with pytest.raises(Refused):
        promotion.verify_promotion(served.root, MODEL)


def test_a_machine_that_never_had_the_file_reads_the_event(served: Made) -> None:
    path(served, 3).unlink()
    assert promotion.verify_promotion(served.root, MODEL).generation == 3


def test_case_D7_a_promotion_by_a_revoked_key_is_not_believed_and_a_retired_one_is(served: Made) -> None:
    signer = promotion.verify_promotion(served.root, MODEL).key
    keys.rotate(served.root)
    assert promotion.verify_promotion(served.root, MODEL).key == signer
    keys.revoke(served.root, signer, "lost")
    with pytest.raises(Refused, match="was revoked"):
        promotion.verify_promotion(served.root, MODEL)


def test_case_D7_a_persons_key_vouches_for_no_model(small: Made) -> None:
    """Somebody signs a model with a key that is trusted for approvals alone."""
    fingerprint, private = keys.new(small.root, "bob", small.root / "people")
    receipt = store.folder(small.root, MODEL, "1.0.0") / "receipt"
    signing._sign_with_key(receipt / signing.Statement.FILE, receipt / signing.BUNDLE, private)
    with pytest.raises(Refused, match=f"{fingerprint[:16]}, which is trusted for approvals alone"):
        signing.signed(receipt, keys.load(keys.folder(small.root) / keys.FILE), keys.now())
