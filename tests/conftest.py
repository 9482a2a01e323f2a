"""Fixtures that every tier may use."""

import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import pytest
import stub_project

# Fixtures of the ledger's tests, for every tier.
from ledgers import _postgres_of_session, ledger, ledger_url, postgres, postgres_url, sqlite_url  # noqa: F401
from object_storage import s3, s3_server  # noqa: F401

from slipway import cli


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Long runs may take their two hours; everything else keeps the time that pyproject.toml gives."""
    for item in items:
        if item.get_closest_marker("chaos") and not item.get_closest_marker("timeout"):
            item.add_marker(pytest.mark.timeout(7200))


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


@pytest.fixture(scope="session")
def prefect_url(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """A real Prefect server for the whole session: starting one for every flow run would cost seconds each."""
    home, port = tmp_path_factory.mktemp("prefect"), free_port()
    url = f"http://127.0.0.1:{port}/api"
    extra = {
        "PREFECT_HOME": str(home),
        "PREFECT_SERVER_ANALYTICS_ENABLED": "false",
        "PREFECT_SERVER_LOGGING_LEVEL": "ERROR",
    }
    command = [
        sys.executable,
        "-m",
        "prefect",
        "server",
        "start",
        "--host",
        "127.0.0.1",
        "--port",
        str(port),
        "--no-ui",
    ]
    with (home / "server.log").open("w") as log:
        server = subprocess.Popen(command, env=stub_project.environment(**extra), stdout=log, stderr=log)
        try:
            wait_for(lambda: _answers(f"{url}/health"), 120, f"Prefect's server: {(home / 'server.log').read_text()}")
            yield url
        finally:
            server.terminate()
            server.wait(30)


def _answers(url: str) -> bool:
    try:
        with urllib.request.urlopen(url, timeout=2) as answer:
            return bool(answer.status == 200)
    except OSError:
        return False


def slipway(capsys: pytest.CaptureFixture[str], *words: str) -> tuple[int, str, str]:
    """The command in this process: its exit code, what it says, and what it says on standard error."""
    with pytest.raises(SystemExit) as ended:
        cli.main(list(words))
    said = capsys.readouterr()
    return int(ended.value.code or 0), said.out, said.err


def wait_for(true: object, seconds: float, what: str) -> None:
    """Wait until a condition holds; fail naming it."""
    deadline = time.monotonic() + seconds
    while not true():  # type: ignore[operator]
        assert time.monotonic() < deadline, f"waited {seconds} s for {what}"
        time.sleep(0.05)


@pytest.fixture
def stub(tmp_path: Path) -> Path:
    """A project of stub stages, in a folder with a space in its name."""
    return stub_project.make(tmp_path / "a project")


@pytest.fixture(scope="module")
def stub_of_module(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The same, one for all tests of a module (they may build on each other's releases)."""
    return stub_project.make(tmp_path_factory.mktemp("module") / "a project")
