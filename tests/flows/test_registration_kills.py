"""Registering, killed at each of its points with SIGKILL, done by several at once, or without its ledger: one version, told once."""

import json
import os
import shutil
import signal
import sqlite3
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import stub_project
import yaml
from conftest import wait_for
from flow_runs import records, run, set_param

POINTS = ("before-receipt", "before-store", "after-store", "after-row", "after-commit")


def ledger(project: Path, query: str) -> list[tuple[Any, ...]]:
    with sqlite3.connect(project / ".slipway" / "ledger.db") as database:
        return database.execute(query).fetchall()


def versions(project: Path) -> list[str]:
    return [version for (version,) in ledger(project, "select version from versions order by serial")]


def told(project: Path, kind: str) -> list[dict[str, Any]]:
    return [
        json.loads(p) for (p,) in ledger(project, f"select payload from events where kind = '{kind}' order by sequence")
    ]


def in_store(project: Path) -> list[str]:
    folder = project / ".slipway" / "registry" / "support-desk"
    return sorted(path.name for path in folder.iterdir() if not path.name.startswith(".")) if folder.is_dir() else []


def unfinished(project: Path) -> list[str]:
    return [id for (id,) in ledger(project, "select id from operations where state = 'begun'")]


def register(project: Path, release: str, **extra: str) -> subprocess.Popen[str]:
    """The act by itself, as a flow starts it."""
    command = [sys.executable, "-m", "tasks", "register", "--release", release]
    env = stub_project.environment(SLIPWAY_PARENT_RUN="none", **extra)
    return subprocess.Popen(command, cwd=project, env=env, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)


@pytest.fixture(scope="module")
def _judged_once(stub_of_module: Path) -> Path:
    done = stub_project.repro(stub_of_module)
    assert done.returncode == 0, done.stderr
    return stub_of_module


@pytest.fixture
def judged(_judged_once: Path, tmp_path: Path) -> Path:
    """A stub project in which the gate has passed: a copy, its times kept, of one that is made once."""
    return shutil.copytree(_judged_once, tmp_path / "a project", symlinks=True)


RECOVER = "import sys; from pathlib import Path; from slipway import settings; from slipway.registry import entry; root = Path.cwd(); settings.apply(root); print('\\n'.join(entry.recover(root)))"  # fmt: skip


def recover(project: Path) -> str:
    """What the next start does first."""
    done = subprocess.run(
        [sys.executable, "-c", RECOVER],
        cwd=project,
        env=stub_project.environment(),
        capture_output=True,
        text=True,
        check=True,
    )
    return done.stdout


@pytest.mark.parametrize("point", POINTS)
def test_case_A4_case_A5_killed_at_any_point_the_next_start_has_one_version_told_once(judged: Path, point: str) -> None:
    """A4: bytes in the store and no row. A5: the row and its event are one transaction, so neither is ever without the other."""
    stub_project.fault(judged, "entry", point)
    killed = register(judged, "20260101-000000-aaaaaa")
    killed.communicate(timeout=120)
    assert killed.returncode == -signal.SIGKILL
    assert len(versions(judged)) == len(told(judged, "model_registered")) == (1 if point == "after-commit" else 0)
    stub_project.heal(judged, "entry")
    said = recover(judged)
    if point in ("after-store", "after-row"):
        assert "support-desk 1.0.0 is registered: a killed attempt had left it whole" in said
        assert versions(judged) == ["1.0.0"]
    elif point != "after-commit":
        assert "1.0.0 was not registered" in said and versions(judged) == [] == in_store(judged)
    again = register(judged, "20260101-000001-bbbbbb")
    out, _ = again.communicate(timeout=120)
    assert again.returncode == 0, out
    assert versions(judged) == ["1.0.0"] == in_store(judged) and unfinished(judged) == []
    registered = told(judged, "model_registered")
    assert [one["version"] for one in registered] == ["1.0.0"] and "registered as support-desk 1.0.0" in out
    assert recover(judged).strip() == ""


def test_two_registrations_of_one_candidate_at_once_are_one_version(judged: Path) -> None:
    acts = [register(judged, f"20260101-00000{n}-cccccc") for n in range(4)]
    said = [act.communicate(timeout=240)[0] for act in acts]
    assert [act.returncode for act in acts] == [0] * 4, said
    assert versions(judged) == ["1.0.0"] == in_store(judged)
    assert len(told(judged, "model_registered")) == 1 and unfinished(judged) == []
    statements = list((judged / ".slipway" / "releases").glob("*/register/statement.json"))
    assert [json.loads(path.read_text())["version"] for path in statements] == ["1.0.0"] * 4


def test_numbers_rise_by_what_changed(judged: Path) -> None:
    steps = [("lora", {"rank": 4}, "1.1.0"), ("seed", 8, "1.1.1"), ("epochs", 2.0, "1.1.2")]
    assert register(judged, "20260101-000000-dddddd").wait(120) == 0
    for n, (key, value, _) in enumerate(steps, 1):
        now = yaml.safe_load((judged / "params.yaml").read_text())["finetune"]
        set_param(judged, "finetune", key, now[key] | value if isinstance(value, dict) else value)
        (judged / "tasks" / "finetune.py").write_text((judged / "tasks" / "finetune.py").read_text().replace('rank {params.lora.rank}"', 'rank {params.lora.rank} {params.seed} {params.epochs}"'))  # fmt: skip
        assert stub_project.repro(judged).returncode == 0
        assert register(judged, f"20260101-00000{n}-dddddd").wait(120) == 0
    assert versions(judged) == ["1.0.0", *(number for *_, number in steps)]


# --- whole releases -------------------------------------------------------------------------------------------------


def test_case_A4_the_flow_killed_in_the_middle_is_finished_by_the_next_start(stub: Path, prefect_url: str) -> None:
    (stub / "mirrored").write_text("")
    stub_project.fault(stub, "entry", "after-store hang")
    flow = stub_project.start(stub, "run", PREFECT_API_URL=prefect_url)
    reached = stub / "faults" / "entry.reached"
    wait_for(lambda: reached.exists() and reached.read_text(), 240, "the entry to reach its point")
    os.kill(flow.pid, signal.SIGKILL)
    flow.communicate(timeout=60)
    stub_project.heal(stub, "entry")
    code, record, err = run(stub, prefect_url, "--again")
    assert (code, record["outcome"], record["version"]) == (0, "registered", "1.0.0"), err
    assert any("a killed attempt had left it whole" in line for line in record["warnings"]), record["warnings"]
    assert "nothing new" in record["reason"]
    assert versions(stub) == ["1.0.0"] and unfinished(stub) == []
    assert [one["outcome"] for one in told(stub, "release_ended")] == ["aborted", "registered"]
    assert "support-desk@v1.0.0" in stub_project.git(stub, "tag").splitlines()
    with sqlite3.connect(stub / ".slipway" / "mlflow.db") as database:
        found = database.execute("select version from model_versions where name = 'support-desk'").fetchall()
    assert found == [(1,)]
    kinds = [kind for (kind,) in ledger(stub, "select kind from events order by sequence")]
    assert kinds.count("model_registered") == 1 and kinds[-1] == "release_ended"


def test_nothing_starts_without_a_ledger(stub: Path, prefect_url: str) -> None:
    (stub / ".slipway" / "ledger.db").mkdir(parents=True)
    done = stub_project.slipway(stub, "run", PREFECT_API_URL=prefect_url)
    assert done.returncode != 0 and "ledger" in done.stderr and "Traceback" not in done.stderr
    assert records(stub) == [] and not (stub / "data" / "raw").exists()


def test_a_ledger_lost_on_the_way_registers_nothing_and_says_so(stub: Path, prefect_url: str) -> None:
    stub_project.fault(stub, "evaluate", "lose")
    code, record, err = run(stub, prefect_url)
    assert code != 0 and record["outcome"] == "failed", err
    assert any("ledger" in line for line in record["warnings"]) and "ledger" in record["reason"]
    assert in_store(stub) == []


def test_the_ledger_knows_every_step_of_a_release(stub: Path, prefect_url: str) -> None:
    code, record, err = run(stub, prefect_url)
    assert code == 0, err
    stages = told(stub, "stage_finished")
    assert [one["stage"] for one in stages] == [stage["name"] for stage in record["stages"]]
    assert {one["status"] for one in stages} == {"ran"} and all(one["seconds"] > 0 for one in stages)
    assert [(one["act"], one["verdict"]) for one in told(stub, "decision_made")] == [
        ("gate", "pass"),
        ("register", "pass"),
    ]
    assert {one["path"] for one in told(stub, "policy_changed")} >= {"configs/policies/gates.yaml"}
    policy = stub / "configs" / "policies" / "gates.yaml"
    policy.write_text(policy.read_text() + "# stricter\n")
    code, _, err = run(stub, prefect_url)
    assert code == 0, err
    changed = told(stub, "policy_changed")[-1]
    assert changed["path"] == "configs/policies/gates.yaml" and changed["previous"] != changed["digest"]
    assert len(told(stub, "release_started")) == len(told(stub, "release_ended")) == 2
    assert versions(stub) == ["1.0.0"]
