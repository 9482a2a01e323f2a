"""What the process face promises for every stage alike, on the stub pipeline with real disks, kills and DVC."""

import json
import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
import stub_project
import yaml
from conftest import wait_for

STAGES = ["ingest", "fetch", "prepare", "validate", "finetune", "evaluate", "gate"]


def ends(project: Path, stage: str) -> list[dict[str, object]]:
    folder = project / ".scratch" / "attempts" / stage
    return [json.loads(path.read_text()) for path in sorted(folder.glob("*.end.json"))]


def starts(project: Path, stage: str) -> int:
    folder = project / ".scratch" / "attempts" / stage
    return sum(not path.name.endswith(".end.json") for path in folder.glob("*.json"))


def outs(project: Path, stage: str) -> list[Path]:
    from tasks import _stage

    return [project / out for key in ("outs", "metrics") for out in _stage.declared(project, stage, key)]


def quiet(project: Path, stage: str, **extra: str) -> subprocess.CompletedProcess[str]:
    """A stage's process as under a flow: MLflow is told by whoever watches, so that these tests need none."""
    return stub_project.stage(project, stage, **extra)


def up_to(project: Path, stage: str) -> None:
    for name in STAGES[: STAGES.index(stage)]:
        done = quiet(project, name)
        assert done.returncode == 0, done.stderr


def one_line(done: subprocess.CompletedProcess[str]) -> str:
    assert "Traceback" not in done.stderr + done.stdout, done.stderr
    lines = done.stderr.strip().splitlines()
    assert len(lines) == 1, done.stderr
    return lines[0]


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of two megabytes."""
    place = tmp_path / "small disk"
    place.mkdir()
    mounted = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=2m", "tmpfs", str(place)], capture_output=True, check=False
    )
    if mounted.returncode:
        pytest.skip("needs the right to mount a tmpfs (root)")
    yield place
    subprocess.run(["mount", "-o", "remount,rw", str(place)], capture_output=True, check=False)
    subprocess.run(["umount", "-l", str(place)], check=True)


def move_to(disk: Path, folder: Path) -> None:
    """Put a folder of a project on another disk, under the name it had."""
    folder.mkdir(parents=True, exist_ok=True)
    shutil.copytree(folder, disk / folder.name)
    shutil.rmtree(folder)
    folder.symlink_to(disk / folder.name)


@pytest.mark.parametrize("stage", STAGES)
def test_case_A11_a_full_disk_is_one_clear_line_and_nothing_is_half_written(
    stub: Path, small_disk: Path, stage: str
) -> None:
    up_to(stub, stage)
    first = outs(stub, stage)[0]
    move_to(small_disk, first.parent)
    before = {p: p.read_bytes() for p in (small_disk / first.parent.name).rglob("*") if p.is_file()}
    stub_project.fault(stub, stage, "fill")
    done = quiet(stub, stage)
    assert done.returncode == 1
    line = one_line(done)
    assert "disk full" in line and "need more than" in line and "have" in line and "free" in line
    after = {p: p.read_bytes() for p in (small_disk / first.parent.name).rglob("*") if p.is_file()}
    assert after == before, "what was there is untouched, and no half output is left"
    assert [end["outcome"] for end in ends(stub, stage)] == ["failed"]
    stub_project.heal(stub, stage)
    assert quiet(stub, stage).returncode == 0, "with room again, the same command works"


def test_case_A11_a_full_disk_under_everything_is_still_one_line(stub: Path, small_disk: Path) -> None:
    """Not only the output: scratch, records and journal stand on the full disk too."""
    up_to(stub, "prepare")
    for name in ("data", ".scratch"):
        move_to(small_disk, stub / name)
    stub_project.fault(stub, "prepare", "fill")
    rest = small_disk / "filler"
    rest.write_bytes(b"x" * 1_900_000)
    done = quiet(stub, "prepare")
    assert done.returncode == 1
    assert "disk full" in one_line(done)
    assert not (stub / "data" / "prepared").exists()
    rest.unlink()
    stub_project.heal(stub, "prepare")
    assert quiet(stub, "prepare").returncode == 0
    assert starts(stub, "prepare") == len(ends(stub, "prepare")), (
        "every attempt has its end, written by the next if need be"
    )


def test_case_A13_a_read_only_file_system_is_one_clear_line(stub: Path, small_disk: Path) -> None:
    up_to(stub, "prepare")
    move_to(small_disk, stub / "data")
    subprocess.run(["mount", "-o", "remount,ro", str(small_disk)], check=True)
    done = quiet(stub, "prepare")
    assert done.returncode == 1
    assert "read-only file system" in one_line(done)


def test_case_A13_permission_denied_is_one_clear_line(stub: Path) -> None:
    if os.geteuid() != 0 or not shutil.which("setpriv"):
        pytest.skip("needs root and setpriv, to run the stage as somebody else")
    up_to(stub, "prepare")
    for parent in [stub, *stub.parents][:4]:
        parent.chmod(0o755)
    subprocess.run(["chmod", "-R", "a+rX", str(stub)], check=True)
    subprocess.run(["chmod", "-R", "a+rwX", str(stub / ".scratch"), str(stub / ".slipway")], check=True)
    command = ["setpriv", "--reuid=65534", "--regid=65534", "--clear-groups", sys.executable, "-m", "tasks", "prepare"]
    command += [
        "--raw",
        "data/raw",
        "--base",
        "models/base",
        "--prepared",
        "data/prepared",
        "--metrics",
        "reports/metrics/prepare.json",
    ]
    if subprocess.run([*command[:5], "-c", "import yaml"], capture_output=True, check=False).returncode:
        pytest.skip("the environment's Python is not readable for other users here")
    env = stub_project.environment(SLIPWAY_PARENT_RUN="watched")
    done = subprocess.run(command, cwd=stub, env=env, capture_output=True, text=True, check=False)
    assert done.returncode == 1, done.stderr
    assert "no permission" in one_line(done)


@pytest.mark.parametrize("edited", ["data/raw/rows.txt", "tasks/prepare.py", "constraints.txt"])
def test_case_C8_an_input_edited_meanwhile_fails_the_run_and_nothing_is_cached(stub: Path, edited: str) -> None:
    up_to(stub, "prepare")
    stub_project.fault(stub, "prepare", f"edit {edited}")
    done = stub_project.repro(stub, "--single-item", "prepare")
    assert done.returncode != 0
    assert f"input changed during run: {edited}" in done.stdout + done.stderr
    assert not (stub / "data" / "prepared").exists()
    lock = yaml.safe_load((stub / "dvc.lock").read_text()) if (stub / "dvc.lock").exists() else {"stages": {}}
    assert "prepare" not in lock["stages"]


def test_case_C8_a_parameter_edited_meanwhile_fails_the_run(stub: Path) -> None:
    up_to(stub, "prepare")
    (stub / "tasks" / "prepare.py").write_text(
        (stub / "tasks" / "prepare.py").read_text().replace(
            '_faults.act("prepare", prepared)',
            'from pathlib import Path; p = Path("params.yaml"); p.write_text(p.read_text().replace("max_length: 2", "max_length: 3"))',
        )
    )  # fmt: skip
    done = quiet(stub, "prepare")
    assert done.returncode == 1 and "input changed during run: params.yaml: prepare" in one_line(done)


def test_case_C7_a_second_run_in_one_workspace_waits_or_names_the_first(stub: Path, prefect_url: str) -> None:
    stub_project.fault(stub, "ingest", "hang")
    first = stub_project.start(stub, "run", PREFECT_API_URL=prefect_url)
    reached = stub / "faults" / "ingest.reached"
    wait_for(reached.exists, 60, "the first run to begin")
    second = stub_project.slipway(stub, "run", PREFECT_API_URL=prefect_url)
    assert second.returncode == 75
    assert f"PID {first.pid}" in second.stderr and "Traceback" not in second.stderr
    waiting = stub_project.start(stub, "run", "--wait", "60", PREFECT_API_URL=prefect_url)
    assert waiting.stderr is not None
    said = next(line for line in waiting.stderr if line.startswith("waiting up to 60 s"))
    assert f"PID {first.pid}" in said
    stub_project.heal(stub, "ingest")
    first.send_signal(signal.SIGKILL)
    first.communicate()
    out, err = waiting.communicate(timeout=120)
    assert waiting.returncode == 0, err


def test_case_C7_a_workspace_held_by_dvc_itself_is_named_too(stub: Path, prefect_url: str) -> None:
    stub_project.fault(stub, "ingest", "hang")
    env = stub_project.environment(SLIPWAY_PARENT_RUN="watched")
    first = subprocess.Popen(
        [sys.executable, "-m", "dvc", "repro", "ingest"], cwd=stub, env=env, start_new_session=True,
        stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
    )  # fmt: skip
    wait_for((stub / "faults" / "ingest.reached").exists, 60, "dvc repro to begin")
    second = stub_project.slipway(stub, "run", PREFECT_API_URL=prefect_url)
    os.killpg(first.pid, signal.SIGKILL)
    first.wait()
    assert second.returncode == 75
    assert f"PID {first.pid}" in second.stderr + second.stdout and "Traceback" not in second.stderr


def test_a_killed_attempt_gets_exactly_one_terminal_record(stub: Path) -> None:
    for _ in range(3):
        stub_project.fault(stub, "ingest", "die")
        quiet(stub, "ingest")
        assert not (stub / "data" / "raw").exists()
    stub_project.heal(stub, "ingest")
    assert quiet(stub, "ingest").returncode == 0
    assert starts(stub, "ingest") == len(ends(stub, "ingest")) == 4
    assert sorted(str(end["outcome"]) for end in ends(stub, "ingest")) == ["done", "killed", "killed", "killed"]


@pytest.mark.parametrize(
    ("fault", "code"), [("transient 1", 75), ("bug", 1), ("refuse", 3)]
)  # fmt: skip
def test_the_exit_code_says_how_a_stage_ended_and_dvc_says_it_only_in_its_text(
    stub: Path, fault: str, code: int
) -> None:
    from tasks._repro import exit_code_of

    stub_project.fault(stub, "ingest", fault)
    done = stub_project.repro(stub, "ingest")
    assert done.returncode == 255, "if DVC learns to pass the code on, the parsing can go"
    assert exit_code_of(done.stdout + done.stderr) == code


def test_an_unknown_key_and_a_wrong_type_in_params_name_the_line(stub: Path) -> None:
    text = (stub / "params.yaml").read_text()
    (stub / "params.yaml").write_text(text.replace("  rows_shown: 10", "  rows_shown: ten"))
    line = one_line(quiet(stub, "validate"))
    assert "params.yaml:" in line and "validate.rows_shown" in line and "'ten'" in line
    (stub / "params.yaml").write_text(text.replace("  rows_shown: 10", "  rows_shown: 10\n  rows_shwon: 3"))
    done = quiet(stub, "validate")
    assert done.returncode == 2 and "unknown key validate.rows_shwon" in one_line(done)
    started = stub_project.slipway(stub, "run", PREFECT_API_URL="http://127.0.0.1:9/api")
    assert started.returncode == 2 and "unknown key validate.rows_shwon" in one_line(started)
