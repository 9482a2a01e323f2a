"""prepare, killed for real: nothing half-made is ever seen, and the next run ends as if nothing had happened."""

import json
import os
import random
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from data_folders import base_folder, raw_folder, tickets

from slipway.artifacts import Manifest

ROOT = Path(__file__).resolve().parents[2]
COMMAND = [
    *(sys.executable, "-m", "tasks", "prepare", "--raw", "data/raw", "--base", "models/base"),
    *("--prepared", "data/prepared", "--metrics", "reports/metrics/prepare.json"),
]


@pytest.fixture
def project(tmp_path: Path) -> Path:
    """A copy of the project with raw data and a base, far enough for prepare."""
    for name in ("slipway", "tasks", "configs", "pins"):
        shutil.copytree(ROOT / name, tmp_path / name, ignore=shutil.ignore_patterns("__pycache__"))
    for name in ("dvc.yaml", "params.yaml", "constraints.txt"):
        shutil.copy(ROOT / name, tmp_path / name)
    raw_folder(tmp_path / "data" / "raw", tickets(400), tickets(40, seed=8))
    base_folder(tmp_path / "models" / "base")
    return tmp_path


def start(project: Path) -> "subprocess.Popen[bytes]":
    """The stage as a flow starts it: the flow tells MLflow, which here would be imported for nothing each time."""
    quiet = {**os.environ, "PYTHONUNBUFFERED": "1", "SLIPWAY_PARENT_RUN": "watched"}
    out = subprocess.DEVNULL
    return subprocess.Popen(COMMAND, cwd=project, env=quiet, stdout=out, stderr=out, start_new_session=True)


def visible(project: Path) -> list[str]:
    """What a reader of the outputs' folders sees."""
    places = [project / "data", project / "reports" / "metrics"]
    return sorted(p.name for place in places if place.exists() for p in place.iterdir() if not p.name.startswith("."))


def records(project: Path) -> tuple[list[Path], list[Path]]:
    found = sorted((project / ".scratch" / "attempts" / "prepare").glob("*.json"))
    ends = [path for path in found if path.name.endswith(".end.json")]
    return [path for path in found if path not in ends], ends


def test_case_A1_killed_at_random_instants_the_rerun_ends_the_same(project: Path) -> None:
    assert start(project).wait() == 0  # cold: its imports take longer than those of the runs below
    begun = time.monotonic()
    assert start(project).wait() == 0
    whole = time.monotonic() - begun
    first = Manifest.verified(project / "data" / "prepared").digest
    shutil.rmtree(project / "data" / "prepared")
    (project / "reports" / "metrics" / "prepare.json").unlink()
    rng, killed, shares = random.Random(), 0, [0.75, 0.6, 0.4]
    for _ in range(20):
        if not shares:
            break
        process, begun = start(project), time.monotonic()
        try:
            process.wait(timeout=whole * (shares[-1] + rng.uniform(-0.2, 0.2)))
            whole = time.monotonic() - begun  # the machine got faster: the same share again, of less
        except subprocess.TimeoutExpired:
            os.killpg(process.pid, signal.SIGKILL)
            process.wait()
            killed, shares = killed + 1, shares[:-1]
        if "prepared" in visible(project):
            assert Manifest.verified(project / "data" / "prepared").digest == first
    assert killed == 3
    assert start(project).wait() == 0
    assert Manifest.verified(project / "data" / "prepared").digest == first
    assert visible(project) == ["prepare.json", "prepared", "raw"]
    assert not [p for p in (project / "data").iterdir() if p.name.startswith(".")]
    starts, ends = records(project)
    assert [path.stem for path in starts] == [path.name.removesuffix(".end.json") for path in ends]
    outcomes = [json.loads(path.read_text())["outcome"] for path in ends]
    assert outcomes.count("done") == len(ends) - outcomes.count("killed") >= 2 and "killed" in outcomes
