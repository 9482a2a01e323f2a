"""One default release for every test that only looks at it."""

import json
import subprocess
import sys
import time

import pytest
import stub_project
from real_project import Released, clone


@pytest.fixture(scope="session")
def released(tmp_path_factory: pytest.TempPathFactory) -> Released:
    """`slipway run` in a fresh clone, from one of its folders, embedded from end to end."""
    project = clone(tmp_path_factory.mktemp("e2e") / "slipway clone")
    command = "import sys; sys.path.insert(0, '..'); from slipway.cli import main; main()"
    begin = time.monotonic()
    done = subprocess.run(
        [sys.executable, "-c", command, "run", "--json"],
        cwd=project / "docs",
        env=stub_project.environment(),
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    return Released(project, json.loads(done.stdout), time.monotonic() - begin, done.stderr)
