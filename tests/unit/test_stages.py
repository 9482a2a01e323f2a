"""None → Staging → Production → Archived: who may take which step, on what, and what is left of it."""

import json
import shutil
from collections.abc import Iterator
from datetime import timedelta
from pathlib import Path
from typing import Any, get_args

import made_versions
import pytest
from conftest import slipway
from made_versions import ADA, BOB, Made, later

from slipway.artifacts import Advisories, Decision, Observations
from slipway.errors import Refused, Transient, UsageError
from slipway.keeping import lifecycle
from slipway.ledger import audit, clock, events
from slipway.observing import advisories
from slipway.people import approvals, grants
from slipway.registry import promotion, stages, store, versions
from slipway.registry.versions import Stage, Version

TESTED = ["tested", "reviewed"]
VALIDATED = ["approved", "performance_validated"]


@pytest.fixture
def made(tmp_path: Path, ledger_url: str, monkeypatch: pytest.MonkeyPatch) -> Iterator[Made]:
    """One whole version, on each of the two databases."""
    monkeypatch.setenv("SLIPWAY_LEDGER_URL", ledger_url)
    yield from _made(tmp_path)


@pytest.fixture
def small(tmp_path: Path) -> Iterator[Made]:
    yield from _made(tmp_path)


def _made(folder: Path) -> Iterator[Made]:
    project = made_versions.project(folder / "a project")
    project.version("1.0.0")
    yield project
    project.database.close()


def go(made: Made, to: Stage, tags: list[str], version: str = "1.0.0", **more: Any) -> Version:
    return stages.transition(made.root, "support-desk", version, to, tags, "the tests say so", ADA, **more)


def approve(made: Made, version: str = "1.0.0", **more: Any) -> None:
    approvals.give(made.root, version, "approve", "tried it", actor=BOB, **more)


def in_production(made: Made, version: str = "1.0.0") -> Version:
    go(made, "Staging", TESTED, version)
    approve(made, version)
    return go(made, "Production", VALIDATED, version)


def blamed(error: stages.NotAllowed) -> set[str]:
    return {finding.rule for finding in error.decision.against}


def test_a_version_goes_its_way_and_every_step_leaves_its_receipt(made: Made) -> None:
    found = in_production(made)
    assert found.stage == "Production" and made.find(found).stage == "Production"
    after = go(made, "Archived", [])
    assert made.find(after).stage == "Archived"
    with made.database.read() as connection:
        steps = list(events.read(connection, kind="stage_transition"))
    assert [(one.payload["from"], one.payload["to"]) for one in steps] == [
        ("None", "Staging"), ("Staging", "Production"), ("Production", "Archived"),
    ]  # fmt: skip
    assert [len(one.payload["approvals"]) for one in steps] == [0, 1, 0]
    assert steps[1].payload["tags"] == sorted(TESTED + VALIDATED) == steps[2].payload["tags"]  # without the reason
    place = store.folder(made.root, "support-desk", "1.0.0") / "later" / f"{steps[1].sequence}-Production"
    decision = Decision.load(place / "decision.json")
    assert (decision.verdict, decision.transition) == ("pass", "Staging→Production")
    assert decision.saved_digest == steps[1].payload["decision"]["digest"]
    assert decision.observations_digest == Observations.load(place / "observations.json").saved_digest
    assert store.problems(made.root, made.find(found)) == []
    assert audit.verify(made.root, mirrors=False).problems == []


@pytest.mark.parametrize("there", get_args(Stage))
@pytest.mark.parametrize("to", get_args(Stage))
def test_every_other_step_is_refused_naming_the_one_that_there_is(small: Made, there: Stage, to: Stage) -> None:
    version = small.find(first(small))
    if there != "None":
        small.stage(version, there)
    if there == to:
        assert go(small, to, []).stage == to
        assert small.kinds().count("stage_transition") == (there != "None")
        return
    if stages.AFTER[there] == to:
        return
    way = f"to {stages.AFTER[there]} alone" if stages.AFTER[there] else "models restore"
    with pytest.raises(Refused, match=f"is in {there} and does not go to {to}: .*{way}"):
        go(small, to, TESTED + VALIDATED)


def first(made: Made) -> Version:
    with made.database.read() as connection:
        return versions.listed(connection)[-1]


def test_a_refusal_names_every_rule_and_is_on_record(made: Made) -> None:
    with pytest.raises(stages.NotAllowed, match="tested-and-reviewed"):
        go(made, "Staging", ["tested"])
    go(made, "Staging", TESTED)
    with pytest.raises(stages.NotAllowed) as error:
        go(made, "Production", [])
    assert blamed(error.value) == {"approved-and-validated", "approval-of-this-evidence", "evidence-approvals"}
    assert made.find(first(made)).stage == "Staging"
    with made.database.read() as connection:
        told = [event.payload for event in events.read(connection, kind="decision_made")]
    assert [(one["act"], one["verdict"]) for one in told] == [
        ("None→Staging", "refuse"),
        ("Staging→Production", "refuse"),
    ]


def test_why_an_approval_does_not_count_stands_in_the_refusal(small: Made) -> None:
    go(small, "Staging", TESTED)
    approve(small)
    small.policy.write_text(small.policy.read_text() + "\n")
    with pytest.raises(stages.NotAllowed, match="does not count: it is to the policy digest"):
        go(small, "Production", VALIDATED)


def test_an_approval_is_used_once(small: Made) -> None:
    found = in_production(small)
    small.stage(found, "Staging")
    with pytest.raises(stages.NotAllowed, match="was used for Staging→Production"):
        go(small, "Production", VALIDATED)


@pytest.mark.parametrize("name", ["scorecard.json", "safety.json", "pins/champion.json"])
def test_evidence_that_was_changed_is_not_judged(small: Made, name: str) -> None:
    path = store.folder(small.root, "support-desk", "1.0.0") / "receipt" / "evidence" / name
    path.write_text(path.read_text() + " ")
    with pytest.raises(Refused, match=name):
        go(small, "Staging", TESTED)
    assert small.find(first(small)).stage == "None"


def test_case_D10_a_version_without_its_files_goes_nowhere(small: Made) -> None:
    shutil.rmtree(store.folder(small.root, "support-desk", "1.0.0"))
    with pytest.raises(Refused, match=r"does not go to Staging: the files of support-desk 1\.0\.0 are missing"):
        go(small, "Staging", TESTED)


def test_a_stricter_policy_is_the_one_that_judges(small: Made) -> None:
    text = small.policy.read_text()
    small.policy.write_text(text.replace("tuned.exact_match.low >= 0.9\n", "tuned.exact_match.low >= 0.99\n"))
    with pytest.raises(stages.NotAllowed, match="exact-answers"):
        go(small, "Staging", TESTED)


def test_advisories_grow_old_and_are_asked_again(small: Made, monkeypatch: pytest.MonkeyPatch) -> None:
    go(small, "Staging", TESTED)

    def away(*_: Any) -> Advisories:
        raise Transient("nobody answers")

    monkeypatch.setattr(advisories, "observe", away)
    month = later(days=31)
    small.approvers(expiry_hours=720)
    approvals.give(small.root, "1.0.0", "approve", "tried it", actor=BOB, now=month)
    with pytest.raises(stages.NotAllowed) as error:
        go(small, "Production", VALIDATED, now=month)
    assert blamed(error.value) == {"fresh-advisories"}
    holed = {"source": "OSV", "as_of": "2026-12-22", "age_days": 0.1, "packages": 9}
    hole = {"package": "jinja2", "version": "2.4.1", "id": "GHSA-1", "fixed_in": ["2.4.2"]}
    monkeypatch.setattr(advisories, "observe", lambda *_: Advisories.model_validate(holed | {"vulnerable": [hole]}))
    with pytest.raises(stages.NotAllowed) as error:
        go(small, "Production", VALIDATED, now=month)
    assert blamed(error.value) == {"no-vulnerabilities-in-production"}
    monkeypatch.setattr(advisories, "observe", lambda *_: Advisories.model_validate(holed | {"vulnerable": []}))
    assert go(small, "Production", VALIDATED, now=month).stage == "Production"


def test_case_C6_what_serves_or_served_last_is_not_archived(made: Made) -> None:
    old, new = in_production(made), made.version("1.1.0")
    promotion.promote(made.root, "support-desk", "1.0.0", None, "first", ADA, mirrored=False)
    with pytest.raises(Refused, match="is the champion"):
        go(made, "Archived", [])
    in_production(made, "1.1.0")
    promotion.promote(made.root, "support-desk", "1.1.0", None, "better", ADA, mirrored=False)
    with pytest.raises(Refused, match="may be what a rollback returns to"):
        go(made, "Archived", [])
    assert made.find(old).stage == made.find(new).stage == "Production"
    window = lifecycle.Policy.load(made.root / lifecycle.FILE).rollback_days
    assert window >= 1


@pytest.mark.parametrize("tag", ["", "a\nb", "x" * 65, "é\u202e", "-first", "a;b"])
def test_a_tag_is_a_word_on_one_line(small: Made, tag: str) -> None:
    with pytest.raises(UsageError, match="is no tag"):
        go(small, "Staging", [*TESTED, tag])


def test_case_H3_nothing_moves_while_the_ledger_is_away(small: Made, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SLIPWAY_LEDGER_URL", "postgresql+psycopg://nobody@127.0.0.1:9/nothing")
    with pytest.raises(Transient):
        go(small, "Staging", TESTED)
    with pytest.raises(Transient):
        promotion.promote(small.root, "support-desk", "1.0.0", None, "now", ADA)


def test_case_B9_an_older_ledger_put_back_freezes_every_step(small: Made) -> None:
    go(small, "Staging", TESTED)
    file = Path(small.database.url.removeprefix("sqlite:///"))
    with small.database.engine.connect() as connection:
        connection.exec_driver_sql("PRAGMA wal_checkpoint(TRUNCATE)")
    copy = file.read_bytes()
    approve(small)
    small.database.close()
    for left in file.parent.glob(f"{file.name}-*"):
        left.unlink()
    file.write_bytes(copy)
    with pytest.raises(Refused, match="the ledger is frozen"):
        go(small, "Production", VALIDATED)
    with pytest.raises(Refused, match="the ledger is frozen"):
        approve(small)
    with pytest.raises(Refused, match="the ledger is frozen"):
        grants.break_glass(small.root, "1.0.0", "fire", 1, actor=BOB)


# --- as a person types it ---------------------------------------------------------------------------------------------------


def test_the_whole_way_on_the_command_line(
    small: Made, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(small.root)
    code, out, err = slipway(capsys, "models", "stage", "1.0.0", "Staging", "--reason", "new")
    assert (
        (code, err) == (3, "")
        and "✗ tested-and-reviewed: tags is empty" in out
        and "Test it and have it reviewed" in out
    )
    code, out, _ = slipway(
        capsys, "models", "stage", "1.0.0", "Staging", "--tag", "tested", "--tag", "reviewed", "--reason", "new"
    )
    assert code == 0 and out.startswith("support-desk 1.0.0 is in Staging: ")
    code, out, _ = slipway(
        capsys, "models", "promote", "1.0.0", "--tag", "approved", "--tag", "performance_validated", "--reason", "go"
    )
    assert (
        code == 3
        and "✗ evidence-approvals: wanting: 1 more approval" in out
        and "slipway approve VERSION --for Production --reason" in out
    )
    code, out, _ = slipway(capsys, "approve", "1.0.0", "--reason", "tried it", "--expires", "2h", "--json")
    assert code == 0 and json.loads(out)["wanting"] == []
    code, out, _ = slipway(capsys, "approvals", "list", "--json")
    assert [one["state"] for one in json.loads(out)] == ["counts"]
    code, out, _ = slipway(
        capsys, "models", "stage", "1.0.0", "Production", "--tag", "approved", "--tag", "performance_validated", "--reason", "go", "--json"
    )  # fmt: skip
    assert code == 0 and json.loads(out)["verdict"] == "pass"
    monkeypatch.setattr(promotion, "mirror", lambda *_: "MLflow does not know yet: it is away")
    code, out, err = slipway(capsys, "models", "promote", "latest", "--reason", "go")
    assert (
        code == 0
        and "is the champion (generation 1)" in out
        and "without a canary" in out
        and "MLflow does not know" in err
    )
    code, out, _ = slipway(capsys, "approvals", "list")
    assert code == 0 and "does not count: it was used for Staging→Production" in out
    for words in (
        ["approve", "9.9.9", "--reason", "x"],
        ["approve", "1.0.0", "--reason", "x", "--expires", "long"],
        ["revoke", "1.0.0", "--reason", "x"],
    ):
        code, out, err = slipway(capsys, *words)
        assert (code, out, len(err.splitlines())) == (2, "", 1), words


def test_time_that_passes_is_told_from_the_ledger(small: Made) -> None:
    """The stage of a version is dated by its event, and never before the one that entered it."""
    go(small, "Staging", TESTED)
    with small.database.read() as connection:
        entered, moved = (next(events.read(connection, kind=kind)) for kind in ("model_registered", "stage_transition"))
    assert moved.elapsed_ms >= entered.elapsed_ms and clock.moment(moved.at) - clock.moment(entered.at) < timedelta(
        minutes=5
    )
