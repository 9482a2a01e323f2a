"""The audit over what the acts really leave: clean after each of them, and MLflow's part of it held against the ledger."""

import json
from datetime import timedelta
from pathlib import Path
from typing import Any

import made_versions
import pytest
from made_versions import ADA, BOB, Made
from sqlalchemy import select, update

from slipway import cli, settings
from slipway.keeping import retiring
from slipway.ledger import audit, checkpoints, clock, history, tables
from slipway.ledger.audit import Report
from slipway.people import approvals, grants
from slipway.registry import mirror, promotion, rollback, stages
from slipway.registry.versions import Stage

MODEL = made_versions.MODEL
PATIENT = 200.0  # seconds for MLflow on a machine that is busy


@pytest.fixture
def made(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Made:
    for name in ("MLFLOW_TRACKING_URI", "SLIPWAY_MLFLOW_URI"):
        monkeypatch.delenv(name, raising=False)
    return made_versions.project(tmp_path / "a project")


def clean(made: Made) -> Report:
    checkpoints.write(made.root, made.database)
    found = audit.verify(made.root, mirrors=False)
    assert found.problems == []
    return found


def go(made: Made, version: str, to: Stage, *tags: str) -> None:
    stages.transition(made.root, MODEL, version, to, list(tags), "the tests say so", ADA)


def test_every_act_leaves_a_ledger_that_verifies(
    made: Made, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    for version in ("1.0.0", "1.1.0"):
        made.version(version)
        go(made, version, "Staging", "tested", "reviewed")
        clean(made)
        approvals.give(made.root, version, "approve", "tried it", actor=BOB)
        clean(made)
        go(made, version, "Production", "approved", "performance_validated")
        promotion.promote(made.root, MODEL, version, None, "better", ADA, mirrored=False)
        clean(made)
    between = clock.read().at
    rollback.rollback(made.root, MODEL, None, "worse on Mondays", BOB, mirrored=False)
    clean(made)
    made.version("1.2.0")
    approvals.give(made.root, "1.2.0", "approve", "tried it", actor=BOB)
    approvals.revoke(made.root, "1.2.0", "not after all", actor=BOB)
    grants.waive(made.root, "1.2.0", "holdout-unspent", "a new one comes", "2099-01-01", actor=BOB)
    glass = grants.break_glass(made.root, "1.2.0", "the desk is on fire", 2, actor=BOB)
    clean(made)
    grants.follow_up(made.root, glass.id[:8], "it was only smoke", actor=BOB)
    retiring.hold(made.root, MODEL, "1.2.0", "a lawsuit", BOB)
    clean(made)
    retiring.unhold(made.root, MODEL, "1.2.0", "settled", BOB)
    made.version("1.3.0")
    retiring.archive(made.root, MODEL, "1.3.0", "nobody wants it", BOB)
    retiring.delete(made.root, MODEL, "1.3.0", "nor this", BOB)
    clean(made)
    with made.database.read() as connection:
        then = history.at(connection, between, MODEL)
        now = history.at(connection, clock.read().at, MODEL)
    assert (then.version, now.version, now.generation) == ("1.1.0", "1.0.0", 3)
    assert [one.by for one in then.approvals] == ["bob"]
    assert then.policy_digest == approvals.policy_digest_of(made.root)
    _restored(made, clock.shown(between), capsys, monkeypatch)
    clean(made)


def _restored(made: Made, moment: str, capsys: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """`slipway at … --restore` puts exactly that back."""
    monkeypatch.chdir(made.root)
    with pytest.raises(SystemExit) as ended:
        cli.main(["at", moment, "--model", MODEL, "--restore", "--reason", "Mondays are over"])
    assert not ended.value.code and f"{MODEL} 1.1.0 serves again, generation 4" in capsys.readouterr().out


def test_case_F5_an_alias_moved_by_hand_is_found_with_when_it_was_right(made: Made) -> None:
    from mlflow.tracking import MlflowClient

    first, second = made.version(whole=False), made.version(whole=False)
    made.serve(first)
    made.serve(second)
    checkpoints.write(made.root, made.database)
    mirror.reconcile(made.root)
    report = audit.verify(made.root)
    assert report.problems == [] and report.mirrors == 3
    client = MlflowClient(settings.mlflow_uri(made.root))
    number = made.find(first).mlflow_version
    client.set_registered_model_alias(MODEL, "champion", number)
    client.set_model_version_tag(MODEL, number, "slipway.stage", "Archived")
    found = [one.text for one in audit.verify(made.root).problems]
    assert len(found) == 2 and all("MLflow" in one and "right since event" in one for one in found), found
    assert any("champion" in one for one in found) and any("slipway.stage" in one for one in found)
    assert len(mirror.reconcile(made.root)) == 2
    checkpoints.write(made.root, made.database)
    assert audit.verify(made.root).problems == []
    kinds = made.kinds()
    assert kinds.count("drift_found") == 2 == kinds.count("mirror_repaired")


def test_a_row_that_says_mlflow_was_told_so_hides_no_alias(made: Made, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whoever moves an alias and can write the database too makes the drift look like a mirror that lags."""
    from mlflow import MlflowClient

    first, second = made.version("1.0.0", whole=False), made.version("1.1.0", whole=False)
    made.serve(first)
    made.serve(second)
    mirror.reconcile(made.root, seconds=PATIENT)
    checkpoints.write(made.root, made.database)
    number = made.find(first).mlflow_version
    MlflowClient(settings.mlflow_uri(made.root)).set_registered_model_alias(MODEL, "champion", number)
    rows = tables.operations
    with made.database.write() as connection:
        told = json.loads(connection.execute(select(rows.c.result).where(rows.c.id == f"mirror:{MODEL}")).scalar_one())
        told["aliases"]["champion"] = number
        connection.execute(update(rows).where(rows.c.id == f"mirror:{MODEL}").values(result=json.dumps(told)))
    found = mirror.differences(made.root, PATIENT)  # asked once: MLflow is slow to start
    assert found and not any(step.drift for _, step in found)
    monkeypatch.setattr(mirror, "differences", lambda _: found)
    report = audit.verify(made.root)
    assert any("alias champion is version" in note and "not told yet" in note for note in report.notes), report
    now = clock.read()
    later = clock.Reading(now.at + timedelta(days=2), now.boot, now.ticks_ms)
    monkeypatch.setattr(clock, "read", lambda: later)
    assert any(
        "alias champion is version" in one.what and "not for a day" in one.what
        for one in audit.verify(made.root).problems
    )


def test_with_mlflow_away_the_ledger_alone_can_be_verified(made: Made, monkeypatch: pytest.MonkeyPatch) -> None:
    made.version(whole=False)
    checkpoints.write(made.root, made.database)
    monkeypatch.setenv("SLIPWAY_MLFLOW_URI", "http://127.0.0.1:9")
    found = audit.verify(made.root).problems
    assert len(found) == 1 and "MLflow was not compared" in found[0].what and "--ledger-only" in found[0].todo
    assert audit.verify(made.root, mirrors=False).problems == []
