"""`slipway doctor` and `slipway clean`: what they find, what they leave alone."""

import fcntl
import http.server
import json
import os
import shutil
import sqlite3
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from pathlib import Path

import pytest
import stub_project
from packaging.requirements import Requirement

from slipway import workspace
from slipway.cli import configuration, disk, machine, main, services
from slipway.cli.diagnosis import Diagnosis
from slipway.errors import UsageError

ROOT = Path(__file__).parents[2]
OLD = time.time() - 30 * 86_400


@pytest.fixture
def project(stub: Path) -> Path:
    """The stub project with the real policy, so that nothing has to be fixed."""
    shutil.copy2(ROOT / "configs" / "policies" / "gates.yaml", stub / "configs" / "policies" / "gates.yaml")
    stub_project.git(stub, "commit", "-qam", "The real policy")
    return stub


def examined(folder: Path, **extra: str) -> tuple[int, dict[str, Diagnosis]]:
    done = stub_project.slipway(folder, "doctor", "--json", **extra)
    assert done.stderr == ""
    return done.returncode, {one["check"]: Diagnosis(**one) for one in json.loads(done.stdout)}


def test_a_sound_project(project: Path) -> None:
    code, found = examined(project)
    assert (code, [one for one in found.values() if one.state == "fail"]) == (0, [])
    assert len(found) >= 20
    assert {
        "python",
        "packages",
        "pipeline",
        "pins",
        "dvc remote",
        "mlflow",
        "prefect",
        "device",
        "telemetry",
    } <= found.keys()


def test_each_broken_file_is_a_line_with_its_fix(project: Path) -> None:
    (project / "params.yaml").write_text((project / "params.yaml").read_text().replace("method: lora", "method: magic"))
    (project / "configs" / "policies" / "gates.yaml").write_text("rules: []\n")
    (project / "configs" / "expectations" / "raw.yaml").write_text("expectations: []\n")
    (project / "configs" / "env" / "other.yaml").write_text("state: x\nnope: 1\n")
    (project / "configs" / "model.yaml").unlink()
    code, found = examined(project)
    broken = {name for name, one in found.items() if one.state == "fail"}
    assert code == 1
    assert {"params", "expectations", "env other", "model"} <= broken
    assert all(found[name].fix for name in broken)
    assert "params.yaml:" in found["params"].found


def test_an_unknown_environment_ends_the_checks_that_need_it(project: Path) -> None:
    code, found = examined(project, SLIPWAY_ENV="nowhere")
    assert code == 1
    assert found["env nowhere"].state == "fail" and "mlflow" not in found


def test_without_a_project_the_machine_is_checked(tmp_path: Path) -> None:
    code, found = examined(tmp_path, PYTHONPATH=str(ROOT))
    assert code == 0
    assert found["project"].state == "warn" and "slipway init" in found["project"].fix
    assert {"python", "packages", "disk", "git", "device"} <= found.keys()


def test_people_get_a_line_a_check_and_a_verdict(project: Path) -> None:
    done = stub_project.slipway(project, "doctor")
    lines = done.stdout.splitlines()
    assert all(line[0] in "✓!✗" for line in lines[:-2]) and lines[-1].startswith("Nothing to fix")


# --- machine ---


def test_a_package_outside_our_bound_or_unlike_the_pin_is_named() -> None:
    assert list(machine._problems(Requirement("packaging<1"), None)) != []
    assert "constraints.txt says ==1" in next(machine._problems(Requirement("packaging"), Requirement("packaging==1")))
    assert list(machine._problems(Requirement("no-such-package-of-ours"), None)) == [
        "no-such-package-of-ours is not installed"
    ]
    assert list(machine._problems(Requirement("packaging"), None)) == []


def test_a_pin_that_is_not_installed_fails_the_check(tmp_path: Path) -> None:
    pins = tmp_path / "constraints.txt"
    pins.write_text((ROOT / "constraints.txt").read_text().replace("cyclopts==", "cyclopts==0."))
    found = list(machine.packages(pins))
    assert [one.state for one in found] == ["fail"] and "cyclopts" in found[0].found


@pytest.mark.parametrize(("free", "state"), [(10**8, "fail"), (2 * 10**9, "warn"), (10**11, "ok")])
def test_disk(free: int, state: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(shutil, "disk_usage", lambda _: shutil._ntuple_diskusage(10**12, 0, free))  # type: ignore[attr-defined]
    assert machine.disk(tmp_path).state == state


def test_the_device_probe_does_not_wait_for_ever() -> None:
    with machine.DeviceProbe("import time; time.sleep(60)", seconds=0.2) as probe:
        assert probe.diagnosis().state == "warn"
    assert probe.process.poll() is not None


def test_a_broken_torch_is_said_in_one_line() -> None:
    with machine.DeviceProbe("raise ImportError('libcudart.so: no such file')") as probe:
        found = probe.diagnosis()
    assert found.state == "fail" and "libcudart" in found.found and "\n" not in found.found


# --- services ---


@pytest.fixture
def answers() -> Iterator[str]:
    """A server that answers 200 below /good and 503 elsewhere."""

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_response(200 if self.path.startswith("/good") else 503)
            self.end_headers()

        def log_message(self, format: str, *args: object) -> None:
            pass

    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{server.server_port}"
    server.shutdown()
    server.server_close()


def test_a_server_that_answers_is_down_or_is_not_there(answers: str) -> None:
    assert services.mlflow(f"{answers}/good").state == "ok"
    assert services.mlflow(f"{answers}/bad").state == "fail"
    assert services.mlflow("http://127.0.0.1:1").state == "fail"
    assert services.mlflow("./mlruns").state == "fail"


def test_the_sqlite_store_is_read(tmp_path: Path) -> None:
    path = tmp_path / "mlflow.db"
    assert services.mlflow(f"sqlite:///{path}").state == "ok"  # not made yet
    path.write_bytes(b"no database at all, though long enough to be one" * 40)
    assert services.mlflow(f"sqlite:///{path}").state == "fail"
    path.unlink()
    with sqlite3.connect(path) as database:
        database.executescript("CREATE TABLE alembic_version (version_num); CREATE TABLE runs (id);")
    database.close()
    assert "0 runs" in services.mlflow(f"sqlite:///{path}").found


def test_a_database_that_is_down_never_shows_its_password() -> None:
    found = services.mlflow("postgresql+psycopg2://someone:secret@127.0.0.1:1/mlflow")
    assert found.state == "fail" and "secret" not in found.found


def test_a_folder_remote_is_tried_and_left_as_it_was(tmp_path: Path) -> None:
    assert services._folder_remote(tmp_path).state == "ok"
    assert list(tmp_path.iterdir()) == []
    (tmp_path / "file").write_text("")
    assert services._folder_remote(tmp_path / "file").state == "fail"


def test_a_bucket_nobody_serves_is_said_in_one_line() -> None:
    remote = {
        "endpointurl": "http://127.0.0.1:1",
        "access_key_id": "a",
        "secret_access_key": "b",
        "region": "eu-west-1",
    }
    found = services._bucket("s3://nowhere/x", remote)
    assert found.state == "fail" and "\n" not in found.found


def test_the_remote_is_the_one_dvc_reads(project: Path) -> None:
    from tasks import _storage

    assert _storage.remote(project)["url"] == str(project / ".slipway" / "dvc-remote")
    (project / ".dvc" / "config").write_text("[core\n")
    with pytest.raises(UsageError, match="config"):
        _storage.remote(project)


# --- clean ---


Clean = Callable[..., tuple[int, str, str]]


@pytest.fixture
def clean(project: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Clean:
    """`slipway clean` in the project, in this process: exit code, output, errors."""
    monkeypatch.chdir(project)
    monkeypatch.setattr(os, "environ", os.environ.copy())
    for name in [name for name in os.environ if name.startswith("SLIPWAY_")]:
        del os.environ[name]

    def run(*words: str) -> tuple[int, str, str]:
        with pytest.raises(SystemExit) as ended:
            main(["clean", *words])
        return int(ended.value.code or 0), *capsys.readouterr()

    return run


def aged(path: Path, text: str = "x" * 1000) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)
    os.utime(path, (OLD, OLD))
    return path


def checkpoint(project: Path) -> Path:
    lease = aged(project / ".scratch" / "finetune" / "0123456789abcdef" / "lease", "")
    aged(lease.parent / "checkpoints" / "step-10" / "weights")
    for folder in (lease.parent / "checkpoints" / "step-10", lease.parent / "checkpoints", lease.parent):
        os.utime(folder, (OLD, OLD))
    return lease


def test_clean_removes_what_is_old_and_free(project: Path, clean: Clean) -> None:
    lease = checkpoint(project)
    gone = [
        lease,
        aged(project / ".scratch" / "attempts" / "gate" / "a.json"),
        aged(project / ".scratch" / "lifelines" / "r1"),
    ]
    kept = [
        project / ".scratch" / "attempts" / "gate" / "b.json",
        project / ".slipway" / "releases" / "r0" / "release.json",
    ]
    for path in kept:
        aged(path)
    os.utime(kept[0])
    dry = json.loads(clean("--dry-run", "--json")[1])
    assert all(path.exists() for path in gone) and dry["bytes"] == 3000
    assert json.loads(clean("--json")[1])["bytes"] == 3000
    assert not any(path.exists() for path in gone) and all(path.exists() for path in kept)


def test_a_leased_checkpoint_stays(project: Path) -> None:
    lease = checkpoint(project)
    with lease.open() as held:
        fcntl.flock(held, fcntl.LOCK_EX)
        assert list(disk.leftovers(project, time.time() - 1)) == []
    assert [left.kind for left in disk.leftovers(project, time.time() - 1)] == ["checkpoints"]
    assert list(disk.leftovers(project, OLD - 1)) == []  # too young


def test_clean_removes_the_worktree_of_a_killed_release(project: Path, clean: Clean) -> None:
    folder = project / ".scratch" / "worktrees" / "killed"
    folder.parent.mkdir(parents=True)
    stub_project.git(project, "worktree", "add", "--detach", str(folder))
    os.utime(folder, (OLD, OLD))
    assert configuration._leftovers(project).state == "warn"
    assert clean()[0] == 0
    assert not folder.exists() and "killed" not in stub_project.git(project, "worktree", "list")
    assert configuration._leftovers(project).state == "ok"


@pytest.mark.parametrize("hold", [lambda p: workspace.held(p, "r1"), lambda p: workspace.lifeline(p, "r1")])
def test_clean_touches_nothing_while_a_release_is_under_way(
    hold: Callable[[Path], AbstractContextManager[object]], project: Path, clean: Clean
) -> None:
    lease = checkpoint(project)
    with hold(project):
        code, _, said = clean()
    assert code == 75 and len(said.splitlines()) == 1 and "r1" in said
    assert lease.exists()
    assert clean()[0] == 0


@pytest.mark.parametrize("days", ["-1", "nan", "inf"])
def test_clean_refuses_an_age_that_is_none(days: str, project: Path, clean: Clean) -> None:
    code, _, said = clean(f"--older-than-days={days}")
    assert code == 2 and len(said.splitlines()) == 1


def dvc(project: Path, *words: str) -> None:
    command = [sys.executable, "-m", "dvc", *words]
    subprocess.run(command, cwd=project, env=stub_project.environment(), check=True, capture_output=True)


def cached(project: Path) -> int:
    return len([path for path in (project / ".dvc" / "cache" / "files").rglob("*") if path.is_file()])


def test_clean_drops_cached_outputs_that_nothing_uses(project: Path, clean: Clean) -> None:
    big = project / "big"
    for content in ("in a tag", "in nothing", "in the workspace"):
        big.write_text(content)
        dvc(project, "add", "big")
        if content == "in a tag":
            stub_project.git(project, "add", "big.dvc", ".gitignore")
            stub_project.git(project, "commit", "-qm", content)
            stub_project.git(project, "tag", "slipway/1")
            stub_project.git(project, "reset", "-q", "HEAD~1")
    assert cached(project) == 3
    dry = json.loads(clean("--dry-run", "--json")[1])
    assert dry["cache"] == {"objects": 1, "bytes": len("in nothing")} and cached(project) == 3
    assert "1 cached output" in clean()[1]
    assert cached(project) == 2
