"""What the README promises of the default run, on the real pipeline in fresh clones: figures, times, equal digests."""

import json
import sqlite3
import subprocess
import sys
import time
from pathlib import Path

import pytest
import stub_project
import yaml
from pace import slowness
from real_project import Released, clone

pytestmark = [pytest.mark.e2e, pytest.mark.timeout(900)]


def test_the_default_release_passes_in_five_minutes(released: Released) -> None:
    record, seconds = released.record, released.seconds
    assert record["outcome"] == "registered"
    assert {stage["status"] for stage in record["stages"]} == {"ran"}
    assert seconds < 300, f"took {seconds:.0f} s"


def test_the_default_release_registers_its_version(released: Released) -> None:
    """In the store, in the ledger, in git and in MLflow."""
    project = released.project
    assert released.record["version"] == "1.0.0" and released.record["warnings"] == []
    about = json.loads((project / ".slipway" / "registry" / "support-desk" / "1.0.0" / "version.json").read_text())
    assert about["release"] == released.record["id"] and about["metrics"]["tuned.exact_match"] >= 0.9
    assert about["seconds"].keys() >= {"fetch", "finetune", "evaluate"}
    assert "support-desk@v1.0.0" in stub_project.git(project, "tag").splitlines()
    with sqlite3.connect(project / ".slipway" / "mlflow.db") as database:
        assert database.execute("select name, version from model_versions").fetchall() == [("support-desk", 1)]


def test_the_tuned_model_answers_and_the_base_does_not(released: Released) -> None:
    project = released.project
    metrics = json.loads((project / "reports" / "scorecard.json").read_text())["metrics"]
    assert metrics["tuned"]["exact_match"]["value"] >= 0.9
    assert metrics["base"]["exact_match"]["value"] < 0.25
    assert metrics["tuned"]["exact_match"]["rows"] == 400


def test_git_sees_at_most_the_lock_and_the_pins(released: Released) -> None:
    project = released.project
    seen = {line[3:].split("/")[0] for line in stub_project.git(project, "status", "--porcelain").splitlines()}
    assert seen <= {"dvc.lock", "pins"} | {"vc.lock"}


def test_a_second_run_takes_under_three_seconds_and_dvc_has_nothing_to_do(
    released: Released,
) -> None:
    project, record = released.project, released.record
    begin = time.monotonic()
    again = stub_project.slipway(
        project, "run", PREFECT_API_URL="http://127.0.0.1:9/api", MLFLOW_TRACKING_URI="http://127.0.0.1:9"
    )
    assert again.returncode == 0 and record["id"] in again.stdout
    assert time.monotonic() - begin < 3 * slowness()
    begin = time.monotonic()
    repro = stub_project.repro(project)
    assert "up to date" in repro.stdout
    assert time.monotonic() - begin < 1.5 * slowness()


@pytest.mark.parametrize(
    ("edited", "expected"),
    [
        ("slipway/evaluation/scoring.py", ["evaluate", "gate"]),  # the gate counts again
        ("slipway/data/duplicates.py", ["prepare"]),
        ("slipway/training/loop.py", ["finetune"]),
        ("slipway/report/page.py", []),
        ("docs/runbook.md", []),
        ("configs/policies/gates.yaml", ["gate"]),
    ],
)
def test_editing_a_module_runs_exactly_the_stages_that_import_it(
    released: Released, edited: str, expected: list[str]
) -> None:
    project = released.project
    path = project / edited
    before = path.read_text()
    path.write_text(before + "\n# edited: true\n")
    try:
        done = subprocess.run(
            [sys.executable, "-m", "dvc", "status", "--json"],
            cwd=project,
            env=stub_project.environment(),
            capture_output=True,
            text=True,
            check=True,
        )
        assert sorted(json.loads(done.stdout)) == expected
    finally:
        path.write_text(before)


def test_dvc_repro_in_another_clone_gives_the_same_digests(released: Released, tmp_path: Path) -> None:
    project = released.project
    other = clone(tmp_path / "another clone")
    done = stub_project.repro(other, timeout=600, SLIPWAY_PARENT_RUN="")
    assert done.returncode == 0, (done.stdout + done.stderr)[-3000:]
    ours, theirs = ((p / "dvc.lock").read_text() for p in (project, other))
    outputs = [out["path"] for stage in yaml.safe_load(ours)["stages"].values() for out in stage["outs"]]
    assert len(outputs) >= 16
    assert ours == theirs
    after = stub_project.slipway(other, "run", "--json")
    assert after.returncode == 0, after.stderr
    stages = {stage["name"]: stage["status"] for stage in json.loads(after.stdout)["stages"]}
    assert stages.pop("register") == "ran"
    assert set(stages.values()) == {"unchanged"}, "after one engine, the other has nothing to do"
