"""SIGKILL at random instants over a whole release, again and again: the end is that of a run nobody disturbed.

`make chaos`; SLIPWAY_KILLS=20 for a short one. The seed is printed, so that a failure can be repeated.
"""

import json
import os
import random
import signal
import sqlite3
import subprocess
from pathlib import Path

import pytest
import stub_project

KILLS = int(os.environ.get("SLIPWAY_KILLS", "200"))
SEED = int(os.environ.get("SLIPWAY_SEED", "7"))
pytestmark = pytest.mark.chaos


def digests(project: Path) -> str:
    return (project / "dvc.lock").read_text()


def undisturbed(folder: Path, url: str) -> str:
    project = stub_project.make(folder)
    done = stub_project.slipway(project, "run", PREFECT_API_URL=url)
    assert done.returncode == 0, done.stderr
    return digests(project)


def killed_after(project: Path, seconds: float, url: str) -> bool:
    """Start a release and kill it; False when it ended before."""
    flow = stub_project.start(project, "run", PREFECT_API_URL=url)
    try:
        flow.communicate(timeout=seconds)
        return False
    except subprocess.TimeoutExpired:
        flow.send_signal(signal.SIGKILL)
        flow.communicate()
        return True


def registered(project: Path) -> list[tuple[str, int]]:
    """Every version, and how often it was told of."""
    query = "select version, (select count(*) from events where kind = 'model_registered' and subject = version) from versions"
    with sqlite3.connect(project / ".slipway" / "ledger.db") as database:
        return database.execute(query).fetchall()


def test_killed_at_random_instants_a_release_ends_as_if_nobody_had(tmp_path: Path, prefect_url: str) -> None:
    expected, chance, kills, releases = undisturbed(tmp_path / "calm", prefect_url), random.Random(SEED), 0, 0
    print(f"seed {SEED}, {KILLS} kills")
    while kills < KILLS:
        project = stub_project.make(tmp_path / f"project {releases}")
        releases += 1
        for _ in range(min(8, KILLS - kills)):
            kills += killed_after(project, chance.uniform(1.0, 14.0), prefect_url)
        done = stub_project.slipway(project, "run", PREFECT_API_URL=prefect_url)
        assert done.returncode == 0, f"after {kills} kills: {done.stderr}"
        assert digests(project) == expected, f"after {kills} kills"
        assert not list(project.glob("*/.partial-*")), "no half output is left"
        records = [json.loads(p.read_text()) for p in (project / ".slipway" / "releases").glob("*/release.json")]
        assert {record["outcome"] for record in records} <= {"registered", "aborted"}
        assert registered(project) == [("1.0.0", 1)], "one version, told once"
        for start in (project / ".scratch" / "attempts").glob("*/*.json"):
            if not start.name.endswith(".end.json"):
                assert len(list(start.parent.glob(f"{start.stem}.end.json"))) == 1, f"{start} has no end"
    print(f"{kills} kills over {releases} releases, every end as expected")
