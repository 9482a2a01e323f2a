"""Waivers and break-glass: what a person may let through on their own name, for how long, and what they owe for it."""

import json
from collections.abc import Iterator
from datetime import timedelta
from pathlib import Path
from typing import NoReturn

import made_versions
import pytest
from made_versions import ADA, BOB, CAROL, Made, later
from sqlalchemy import delete, update

from slipway import cli
from slipway.artifacts import Decision
from slipway.errors import Refused, UsageError
from slipway.ledger import audit, clock, events, given
from slipway.ledger.clock import Reading
from slipway.ledger.events import Actor
from slipway.ledger.tables import grants as rows
from slipway.observing import observations
from slipway.people import approvals, grants, vouching, waivers
from slipway.registry import keys, receipt, register, stages, store, versions
from slipway.registry.place import Place

TESTED, VALIDATED = ["tested", "reviewed"], ["approved", "performance_validated"]


@pytest.fixture
def made(tmp_path: Path, ledger_url: str, monkeypatch: pytest.MonkeyPatch) -> Iterator[Made]:
    """One whole version in Staging, on each of the two databases."""
    monkeypatch.setenv("SLIPWAY_LEDGER_URL", ledger_url)
    yield from _made(tmp_path)


@pytest.fixture
def small(tmp_path: Path) -> Iterator[Made]:
    yield from _made(tmp_path)


def _made(folder: Path) -> Iterator[Made]:
    project = made_versions.project(folder / "a project")
    stages.transition(project.root, "support-desk", project.version("1.0.0").version, "Staging", TESTED, "new", ADA)
    yield project
    project.database.close()


def day(days: int) -> str:
    return f"{clock.read().at + timedelta(days=days):%Y-%m-%d}"


def evidence(made: Made) -> str:
    with made.database.read() as connection:
        return versions.resolve(connection, "1.0.0", None).evidence_digest


def rules(made: Made, now: Reading | None = None, digest: str | None = None) -> list[str]:
    return [one.rule for one in grants.standing(made.root, digest or evidence(made), now)]


def to_production(made: Made, now: Reading | None = None) -> str:
    return stages.transition(made.root, "support-desk", "1.0.0", "Production", VALIDATED, "go", ADA, now=now).stage


def slow(made: Made) -> None:
    """A policy that this version's latency does not meet."""
    made.policy.write_text(made.policy.read_text().replace("latency_p95_seconds <= 5.0", "latency_p95_seconds <= 0.1"))


# --- waivers ----------------------------------------------------------------------------------------------------------------


def test_a_waiver_lets_one_waivable_rule_through_by_name(made: Made) -> None:
    slow(made)
    approvals.give(made.root, "1.0.0", "approve", "fine", actor=BOB)
    with pytest.raises(stages.NotAllowed, match="latency"):
        to_production(made)
    grants.waive(made.root, "1.0.0", "latency", "the new machines come on Monday", day(3), actor=CAROL)
    assert to_production(made) == "Production"
    with made.database.read() as connection:
        step = list(events.read(connection, kind="stage_transition"))[-1]
        told = next(events.read(connection, kind="waiver_granted"))
    assert step.payload["decision"]["waived"] == ["latency"]
    assert told.payload["rule"] == "latency" and "Monday" not in json.dumps(told.payload)
    kept = store.folder(made.root, "support-desk", "1.0.0") / "later" / f"{step.sequence}-Production" / "decision.json"
    shown = next(finding for finding in Decision.load(kept).findings if finding.rule == "latency").waiver
    assert shown and (shown.owner, shown.reason) == ("carol", "the new machines come on Monday")
    assert audit.verify(made.root, mirrors=False).problems == []


def test_only_waivable_rules_that_exist_can_be_waived(small: Made) -> None:
    with pytest.raises(Refused, match="signed is block, not waivable"):
        grants.waive(small.root, "1.0.0", "signed", "please", day(1), actor=BOB)
    with pytest.raises(UsageError, match="no rule 'latancy'; there are latency"):
        grants.waive(small.root, "1.0.0", "latancy", "please", day(1), actor=BOB)
    for expires in ("soon", "2020-01-01", "2026-13-01", "", "9999-12-31"):
        with pytest.raises(UsageError, match="--expires"):
            grants.waive(small.root, "1.0.0", "latency", "please", expires, actor=BOB)
    with pytest.raises(UsageError, match="say why"):
        grants.waive(small.root, "1.0.0", "latency", " ", day(1), actor=BOB)
    with pytest.raises(Refused, match="a person does"):
        grants.waive(small.root, "1.0.0", "latency", "please", day(1), actor=Actor("bob", "flow"))


def test_a_waiver_holds_for_its_evidence_up_to_and_with_its_day(small: Made) -> None:
    grants.waive(small.root, "1.0.0", "latency", "soon better", day(2), actor=BOB)
    assert rules(small) == ["latency"] and rules(small, digest="0" * 64) == []
    last = Reading(clock.moment(f"{day(2)}T23:59:00.000000Z"), clock.read().boot, clock.read().ticks_ms)
    assert rules(small, last) == ["latency"]
    assert rules(small, later(days=3)) == []
    set_back = Reading(clock.read().at, clock.read().boot, later(days=4).ticks_ms)
    assert rules(small, set_back) == []


def test_a_waiver_for_all_and_those_of_the_file_stand_side_by_side(small: Made) -> None:
    (small.root / waivers.FILE).write_text(
        "waivers:\n  - {rule: memory, owner: Ada, reason: a bigger machine is ordered, expires: 2099-01-01}\n"
    )
    grants.waive(small.root, "all", "latency", "soon better", day(9), actor=BOB)
    assert rules(small, digest="0" * 64) == ["memory", "latency"]


def test_the_register_act_sees_waivers_and_a_refused_gate_may_follow_them(small: Made) -> None:
    gate = Decision.load(small.path("decision"))
    refused = [f.model_copy(update={"verdict": "refuse"}) if f.rule == "safe-files" else f for f in gate.findings]
    gate = gate.model_copy(update={"verdict": "refuse", "findings": refused})
    assert not register.may_follow(small.root, gate)
    grants.waive(small.root, "1.0.0", "safe-files", "looked at by hand", day(2), actor=BOB)
    assert register.may_follow(small.root, gate)
    release = "20260101-000000-000001"
    assert receipt.stale(small.root, release)  # what it was registered with is another by now
    seen = observations.gather(
        Place.of(small.root, release), keys.now(), gate.evidence_digest, describe=_cannot, sign=_cannot, version="1.0.0"
    )
    assert [one.rule for one in seen.waivers] == ["safe-files"]


def _cannot(_: object) -> NoReturn:
    raise UsageError("not asked here; never mind")


@pytest.mark.parametrize(
    "change", [{"state": "withdrawn"}, {"model": "other"}, {"release": "*"}, {"kind": "break_glass"}, {"sequence": 1}]
)
def test_case_F1_a_waiver_that_was_changed_by_hand_waives_nothing(small: Made, change: dict[str, object]) -> None:
    grants.waive(small.root, "1.0.0", "latency", "soon better", day(2), actor=BOB)
    with small.database.write() as connection:
        connection.execute(update(rows).values(**change))
    assert rules(small) == []


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("rule", "memory"),
        ("expires", "2099-01-01T00:00:00.000000Z"),
        ("lifetime_ms", 10**12),
        ("evidence_digest", "0" * 64),
        ("release", "*"),
        ("signature", "00"),
    ],
)
def test_case_F1_nor_one_whose_words_were(small: Made, name: str, value: object) -> None:
    grant = grants.waive(small.root, "1.0.0", "latency", "soon better", day(2), actor=BOB)
    about = grant.model_dump(mode="json") | {name: value}
    with small.database.write() as connection:
        connection.execute(update(rows).values(about=json.dumps(about)))
    assert rules(small) == [] and rules(small, digest="0" * 64) == []


@pytest.mark.parametrize("kind", ["waiver", "break_glass"])
def test_case_F1_nor_one_that_was_invented_with_its_event(small: Made, kind: str) -> None:
    """Row and event by hand, every digest right: only the signature is left to stop it, and nobody has the key."""
    slow(small)
    if kind == "waiver":
        approvals.give(small.root, "1.0.0", "approve", "fine", actor=BOB)
        real, told_by = grants.waive(small.root, "1.0.0", "latency", "soon better", day(2), actor=BOB), "waiver_granted"
    else:
        real, told_by = grants.break_glass(small.root, "1.0.0", "fire", 2, actor=BOB), "break_glass"
    about = real.model_dump(mode="json") | {"id": "ab" * 16}
    with small.database.write() as connection:
        connection.execute(delete(rows))
        told = {"id": about["id"], "digest": vouching.digest_of(about), "follow_up_due": about["follow_up_due"]}
        event = events.append(connection, told_by, "support-desk", "1.0.0", told, BOB)
        given.add_grant(connection, kind, about, event.sequence)
    with pytest.raises(stages.NotAllowed, match="latency"):
        to_production(small)


def test_case_F1_where_signatures_are_asked_for_an_account_answers_for_nothing(small: Made) -> None:
    grants.waive(small.root, "1.0.0", "latency", "soon better", day(2), actor=BOB)
    grants.break_glass(small.root, "1.0.0", "fire", 2, actor=BOB)
    small.approvers(signature=True)
    assert rules(small) == []
    with small.database.read() as connection:
        assert (
            grants.open_for(connection, small.root, versions.resolve(connection, "1.0.0", None), clock.read()) is None
        )
    with pytest.raises(Refused, match="a waiver must be signed with your own key here"):
        grants.waive(small.root, "1.0.0", "latency", "soon better", day(2), actor=BOB)
    with pytest.raises(Refused, match="a break-glass must be signed with your own key here"):
        grants.break_glass(small.root, "1.0.0", "fire", 2, actor=BOB)
    _, private = small.key("bob")
    grants.waive(small.root, "1.0.0", "latency", "soon better", day(2), key=private)
    grants.break_glass(small.root, "1.0.0", "fire", 2, key=private)
    assert rules(small) == ["latency"]


def test_a_waiver_is_for_the_release_that_was_named(small: Made) -> None:
    small.version("1.1.0")
    for target, said in (("", "an empty word names no release"), ("2", "2 releases begin with 2: ")):
        with pytest.raises(UsageError, match=said):
            grants.waive(small.root, target, "latency", "soon better", day(2), actor=BOB)
    grants.waive(small.root, "20260101-000000-000002", "latency", "soon better", day(2), actor=BOB)
    assert rules(small) == []
    with pytest.raises(UsageError, match="an empty word"):
        approvals.give(small.root, "", "approve", "fine", "register", actor=BOB)


# --- break-glass --------------------------------------------------------------------------------------------------------------


def test_broken_glass_lets_through_what_only_lacks_approvals(made: Made) -> None:
    slow(made)
    grant = grants.break_glass(made.root, "1.0.0", "the champion insults people", 2, actor=ADA)
    assert to_production(made) == "Production"
    with made.database.read() as connection:
        step = list(events.read(connection, kind="stage_transition"))[-1]
        told = next(events.read(connection, kind="break_glass"))
    assert step.payload["break_glass"] == grant.id and step.payload["approvals"] == []
    assert set(step.payload["decision"]["waived"]) == {"latency", "approval-of-this-evidence", "evidence-approvals"}
    assert told.payload["follow_up_due"] == grant.follow_up_due
    assert audit.verify(made.root, mirrors=False).problems == []


def test_it_is_used_once_and_for_a_short_time(small: Made) -> None:
    grants.break_glass(small.root, "1.0.0", "fire", 2, actor=ADA)
    to_production(small)
    with small.database.read() as connection:
        version = versions.resolve(connection, "1.0.0", None)
    small.stage(version, "Staging")
    with pytest.raises(stages.NotAllowed, match="evidence-approvals"):
        to_production(small)
    grants.break_glass(small.root, "1.0.0", "fire", 2, actor=ADA)
    with pytest.raises(stages.NotAllowed, match="evidence-approvals"):
        to_production(small, later(hours=2.1))
    for hours in (0, -1, 25, float("nan")):
        with pytest.raises(UsageError, match="at most 24 h"):
            grants.break_glass(small.root, "1.0.0", "fire", hours, actor=ADA)


def test_it_breaks_no_rule_that_blocks_no_signature_and_no_rejection(small: Made) -> None:
    grants.break_glass(small.root, "1.0.0", "fire", 2, actor=ADA)
    text = small.policy.read_text()
    small.policy.write_text(text.replace("tuned.exact_match.low >= 0.9\n", "tuned.exact_match.low >= 0.99\n"))
    with pytest.raises(stages.NotAllowed, match="exact-answers"):
        to_production(small)
    small.policy.write_text(text)
    with pytest.raises(stages.NotAllowed, match="approved-and-validated"):
        stages.transition(small.root, "support-desk", "1.0.0", "Production", [], "go", ADA)
    approvals.give(small.root, "1.0.0", "reject", "it is the cause", actor=CAROL)
    with pytest.raises(stages.NotAllowed, match="carol has rejected it"):
        to_production(small)
    approvals.revoke(small.root, approvals.listed(small.root, "1.0.0")[0]["id"], "it was not", actor=CAROL)
    signature = store.folder(small.root, "support-desk", "1.0.0") / "receipt" / "statement.sig"
    signature.write_bytes(signature.read_bytes().replace(b"a", b"b", 1))
    with pytest.raises(Refused, match=r"statement\.sig"):
        to_production(small)
    with pytest.raises(Refused, match="cannot go to production, whoever asks"):
        grants.break_glass(small.root, "1.0.0", "fire", 2, actor=ADA)


def test_who_breaks_glass_owes_an_explanation(made: Made) -> None:
    grant = grants.break_glass(made.root, "1.0.0", "fire", 2, actor=ADA)
    with made.database.read() as connection:
        owed = grants.owed(connection, clock.read())
        assert [(one.id, one.overdue) for one in owed] == [(grant.id, False)] and grants.overdue(connection) == []
        assert [one.id for one in grants.overdue(connection, later(hours=73))] == [grant.id]
        set_back = Reading(clock.read().at, clock.read().boot, later(hours=73).ticks_ms)
        assert [one.id for one in grants.overdue(connection, set_back)] == [grant.id]
    with pytest.raises(Refused, match=f"break-glass {grant.id[:8]} of support-desk 1.0.0 was to be explained by"):
        grants.break_glass(made.root, "1.0.0", "fire again", 2, actor=ADA, now=later(hours=73))
    with made.database.write() as connection:  # a row by hand explains nothing
        given.set_grant(connection, grant.id, "followed_up")
        connection.execute(delete(rows))
    with made.database.read() as connection:
        assert len(grants.owed(connection, clock.read())) == 1
    with pytest.raises(UsageError, match=f"waiting: {grant.id[:8]}"):
        grants.follow_up(made.root, "ffff", "a story", actor=ADA)
    assert grants.follow_up(made.root, grant.id[:8], "the filter was off; a test holds it now", actor=ADA) == grant.id
    with made.database.read() as connection:
        assert grants.owed(connection, clock.read()) == []


def test_the_doctor_and_the_command_line_know_it(
    small: Made, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    from slipway.cli import approvals as commands

    monkeypatch.chdir(small.root)

    def slipway(*words: str) -> tuple[int, str, str]:
        with pytest.raises(SystemExit) as ended:
            cli.main(list(words))
        said = capsys.readouterr()
        return int(ended.value.code or 0), said.out, said.err

    assert list(commands.checks(small.root)) == []
    code, out, _ = slipway("waive", "1.0.0", "latency", "--reason", "soon better", "--expires", day(2))
    assert code == 0 and "latency is waived for the evidence of 1.0.0" in out
    code, _, err = slipway("waive", "1.0.0", "signed", "--reason", "please", "--expires", day(2))
    assert code == 3 and len(err.splitlines()) == 1
    code, out, _ = slipway("break-glass", "1.0.0", "--reason", "fire", "--json")
    grant = json.loads(out)
    assert code == 0
    assert [(one.state, one.check) for one in commands.checks(small.root)] == [("warn", "break-glass")]
    late = later(hours=80)
    monkeypatch.setattr(clock, "read", lambda: late)
    assert [one.state for one in commands.checks(small.root)] == ["fail"]
    monkeypatch.undo()
    monkeypatch.chdir(small.root)
    code, out, _ = slipway("follow-up", grant["id"][:8], "--reason", "the filter was off")
    assert code == 0 and "is explained" in out
