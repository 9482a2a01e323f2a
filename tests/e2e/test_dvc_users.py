"""DVC's own commands work as its users expect, and the project works where machines are poor: no network, no home."""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import stub_project
import yaml

pytestmark = pytest.mark.e2e


def dvc(project: Path, *words: str, **extra: str) -> subprocess.CompletedProcess[str]:
    env = stub_project.environment(SLIPWAY_PARENT_RUN="watched", **extra)
    return subprocess.run(
        [sys.executable, "-m", "dvc", *words],
        cwd=project,
        env=env,
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )


@pytest.fixture(scope="module")
def project(stub_of_module: Path) -> Path:
    done = dvc(stub_of_module, "repro")
    assert done.returncode == 0, done.stderr
    stub_project.git(stub_of_module, "add", "-A")
    stub_project.git(stub_of_module, "commit", "-q", "-m", "First")
    return stub_of_module


def test_metrics_and_params_can_be_shown_and_compared(project: Path) -> None:
    shown = json.loads(dvc(project, "metrics", "show", "--json").stdout)
    assert len(shown[""]["data"]) == 7
    text = (project / "params.yaml").read_text()
    params = yaml.safe_load(text)
    params["validate"]["rows_shown"] = 11
    (project / "params.yaml").write_text(yaml.safe_dump(params))
    try:
        assert dvc(project, "repro").returncode == 0
        changed = json.loads(dvc(project, "params", "diff", "--json").stdout)
        assert changed["params.yaml"]["validate.rows_shown"].items() >= {"old": 10, "new": 11}.items()
        compared = json.loads(dvc(project, "metrics", "diff", "--json").stdout)
        assert compared["reports/metrics/validate.json"]["rows_shown"]["diff"] == 1.0
    finally:
        (project / "params.yaml").write_text(text)
        assert dvc(project, "repro").returncode == 0


def test_plots_show_the_loss_curve_and_the_confusion_matrix(project: Path, tmp_path: Path) -> None:
    done = dvc(project, "plots", "show", "-o", str(tmp_path / "plots"))
    assert done.returncode == 0, done.stderr
    page = (tmp_path / "plots" / "index.html").read_text()
    assert "'#loss'" in page and "'#confusion'" in page
    assert "train_loss" in page and "validation_loss" in page


def test_an_experiment_changes_one_value(project: Path) -> None:
    done = dvc(project, "exp", "run", "-S", "finetune.lora.rank=4", "-n", "rank-four")
    assert done.returncode == 0, done.stdout + done.stderr
    assert yaml.safe_load((project / "params.yaml").read_text())["finetune"]["lora"]["rank"] == 4
    assert "rank 4" in (project / "models" / "adapter" / "weights.txt").read_text()
    assert "rank-four" in dvc(project, "exp", "show", "--csv").stdout


def test_a_release_needs_no_network_no_terminal_and_no_home(stub: Path, tmp_path: Path) -> None:
    """The embedded defaults end to end: no interface but loopback, a home folder that nobody may write to."""
    if os.geteuid() != 0 or not shutil.which("unshare") or not shutil.which("ip"):
        pytest.skip("needs root, unshare and ip, to take the network away")
    home = tmp_path / "home"
    home.mkdir()
    mounted = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "ro,size=1m", "tmpfs", str(home)], capture_output=True, check=False
    )
    if mounted.returncode:
        pytest.skip("needs the right to mount a tmpfs")
    try:
        script = f'ip link set lo up && exec "{sys.executable}" -c "from slipway.cli import main; main()" run --json'
        done = subprocess.run(
            ["unshare", "-n", "sh", "-c", script], cwd=stub, env=stub_project.environment(HOME=str(home)),
            stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=300, check=False,
        )  # fmt: skip
    finally:
        subprocess.run(["umount", "-l", str(home)], check=True)
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["outcome"] == "registered"
