"""Prefect's server works with the versions we pin: some of fastapi's break exactly these commands."""

import subprocess
import sys
from pathlib import Path

import stub_project


def prefect(project: Path, url: str, *words: str) -> str:
    env = stub_project.environment(PREFECT_API_URL=url, PREFECT_HOME=str(project / ".slipway" / "prefect"))
    command = [sys.executable, "-m", "prefect", "--no-prompt", *words]
    done = subprocess.run(command, cwd=project, env=env, capture_output=True, text=True, timeout=120, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def test_the_server_boots_and_the_four_commands_that_broke_once_work(stub: Path, prefect_url: str) -> None:
    prefect(stub, prefect_url, "work-pool", "create", "laptop", "--type", "process")
    prefect(stub, prefect_url, "deploy", "flows/release.py:release", "--name", "weekly", "--pool", "laptop")
    assert "release/weekly" in prefect(stub, prefect_url, "deployment", "ls")
    prefect(stub, prefect_url, "automation", "ls")
    prefect(stub, prefect_url, "flow-run", "ls")


def test_a_deployments_form_shows_titles_help_and_choices(stub: Path, prefect_url: str) -> None:
    import httpx

    prefect(stub, prefect_url, "work-pool", "create", "form", "--type", "process")
    prefect(stub, prefect_url, "deploy", "flows/release.py:release", "--name", "form", "--pool", "form")
    found = httpx.get(f"{prefect_url}/deployments/name/release/form", timeout=30).json()
    options = found["parameter_openapi_schema"]["definitions"]["ReleaseOptions"]["properties"]
    assert options["isolation"]["enum"] == ["worktree", "in place"]
    assert options["changes"]["description"].startswith("`section.key=value`")
    assert all("title" in option for option in options.values()) and len(options) >= 4
