"""What goes wrong in a release and what becomes of it: failures, refusals, kills, services that go away."""

import contextlib
import json
import os
import signal
from pathlib import Path

import pytest
import stub_project
from conftest import wait_for
from flow_runs import attempts, records, run, set_param, statuses


def test_a_transient_failure_is_retried(stub: Path, prefect_url: str) -> None:
    stub_project.fault(stub, "fetch", "transient 1")
    code, record, err = run(stub, prefect_url)
    assert code == 0, err
    assert [end["outcome"] for end in attempts(stub, "fetch")].count("failed") == 1
    assert next(stage["attempts"] for stage in record["stages"] if stage["name"] == "fetch") == 2


def test_a_bug_is_not_retried(stub: Path, prefect_url: str) -> None:
    stub_project.fault(stub, "fetch", "bug")
    code, record, err = run(stub, prefect_url)
    assert code == 1
    assert record["outcome"] == "failed" and record["reason"] == "a bug"
    assert [end["outcome"] for end in attempts(stub, "fetch")] == ["failed"]
    assert statuses(record)["prepare"] == "not run"


def test_failed_validation_stops_both_engines_before_training(stub: Path, prefect_url: str) -> None:
    stub_project.fault(stub, "validate", "refuse")
    code, record, err = run(stub, prefect_url)
    assert code == 3, err
    assert record["outcome"] == "refused" and statuses(record)["finetune"] == "not run"
    assert json.loads((stub / "reports" / "validation.json").read_text())["passed"] is False

    for words in (["finetune"], ["-k"], ["--single-item", "finetune"]):
        done = stub_project.repro(stub, *words)
        assert done.returncode != 0
        assert not (stub / "models" / "adapter").exists(), f"dvc repro {words} trained on refused data"
    assert stub_project.stage(stub, "validate").returncode == 3
    assert stub_project.stage(stub, "finetune").returncode == 3

    # A pass that has gone stale: it speaks for the rows it has seen, not for those that came after.
    stub_project.heal(stub, "validate")
    code, record, err = run(stub, prefect_url)
    assert code == 0, err
    set_param(stub, "prepare", "max_length", 128)
    assert stub_project.repro(stub, "-s", "prepare").returncode == 0
    done = stub_project.repro(stub, "-s", "finetune")
    assert done.returncode != 0 and "run validate again" in done.stdout + done.stderr
    assert stub_project.stage(stub, "finetune").returncode == 3
    ends = [end["outcome"] for end in attempts(stub, "finetune")]
    assert ends.count("done") == 1, ends


def test_a_refusal_by_the_gate_is_an_outcome_not_a_crash(stub: Path, prefect_url: str) -> None:
    stub_project.fault(stub, "gate", "refuse")
    code, record, err = run(stub, prefect_url)
    assert code == 3, err
    assert record["outcome"] == "refused" and statuses(record)["gate"] == "ran"
    assert record["tag"] in stub_project.git(stub, "tag").splitlines()
    again = stub_project.slipway(stub, "run", PREFECT_API_URL="http://127.0.0.1:9/api")
    assert again.returncode == 3 and "up to date" in again.stdout


def _group_of(pid: int) -> list[int]:
    found = []
    for stat in Path("/proc").glob("[0-9]*/stat"):
        try:
            fields = stat.read_text().rsplit(")", 1)[1].split()
        except OSError:
            continue
        if int(fields[2]) == pid and fields[0] != "Z":
            found.append(int(stat.parent.name))
    return found


@pytest.mark.parametrize("how", [signal.SIGKILL, signal.SIGTERM, signal.SIGINT])
def test_killing_the_flow_kills_the_stage_and_the_next_run_resumes(
    stub: Path, prefect_url: str, how: signal.Signals
) -> None:
    stub_project.fault(stub, "finetune", "hang")
    flow = stub_project.start(stub, "run", PREFECT_API_URL=prefect_url)
    reached = stub / "faults" / "finetune.reached"
    wait_for(lambda: reached.exists() and reached.read_text(), 120, "finetune to begin")
    worker = int(reached.read_text())
    group = os.getpgid(worker)
    os.kill(flow.pid, how)
    _, err = flow.communicate(timeout=60)
    wait_for(lambda: not _group_of(group), 20, "the stage's process group to die")
    status = stub_project.slipway(stub, "status", "--json")
    killed = json.loads(status.stdout)
    assert killed["outcome"] == "aborted", err + status.stderr
    assert "Traceback" not in err
    stub_project.heal(stub, "finetune")
    code, record, err = run(stub, prefect_url)
    assert code == 0, err
    assert "resumed from step 1" in err
    assert {e["outcome"] for e in attempts(stub, "finetune")} >= {"done"}
    assert not list((stub / ".scratch" / "finetune").glob("*/checkpoints/*")), (
        "checkpoints of a finished stage are gone"
    )


def test_a_remote_that_is_away_costs_a_warning_not_the_verdict(stub: Path, prefect_url: str) -> None:
    config = stub / ".dvc" / "config"
    config.write_text(config.read_text().replace("../.slipway/dvc-remote", "/proc/nowhere"))
    code, record, err = run(stub, prefect_url)
    assert code == 0, err
    assert record["outcome"] == "registered" and record["tag"]
    assert len(record["warnings"]) == 1 and "did not reach the DVC remote" in record["warnings"][0]


def test_mlflow_that_goes_away_in_between_costs_a_warning_not_the_verdict(stub: Path, prefect_url: str) -> None:
    """Its database becomes unreadable while the stages run; they go on, and the journals keep what it did not take."""
    stub_project.fault(stub, "finetune", "edit .slipway/mlflow.db")
    (stub / "tasks" / "_faults.py").write_text(
        (stub / "tasks" / "_faults.py").read_text().replace(
            'path.write_text(path.read_text() + " ")', 'path.write_bytes(b"no database")'
        )
    )  # fmt: skip
    code, record, err = run(stub, prefect_url)
    assert code == 0, err
    assert record["outcome"] == "registered" and record["warnings"]
    assert "Traceback" not in err, err


def test_a_stage_that_takes_too_long_is_stopped_and_said_so(stub: Path, prefect_url: str) -> None:
    stub_project.fault(stub, "fetch", "hang")
    done = stub_project.slipway(stub, "run", PREFECT_API_URL=prefect_url, SLIPWAY_STAGE_TIMEOUT_SECONDS="4")
    assert done.returncode == 75, done.stderr
    record = records(stub)[-1]
    assert record["outcome"] == "failed" and "stage_timeout_seconds" in record["reason"]
    assert "Traceback" not in done.stderr


def _uvicorns() -> set[int]:
    found = set()
    for line in Path("/proc").glob("[0-9]*/cmdline"):
        with contextlib.suppress(OSError):
            if "prefect.server" in line.read_text() or "prefect\0server" in line.read_text():
                found.add(int(line.parent.name))
    return found


def test_a_killed_run_leaves_no_server_behind(stub: Path) -> None:
    """Without a configured server the flow starts its own; it must not outlive the flow."""
    before = _uvicorns()
    stub_project.fault(stub, "ingest", "hang")
    flow = stub_project.start(stub, "run")
    wait_for((stub / "faults" / "ingest.reached").exists, 120, "ingest to begin")
    assert _uvicorns() - before
    os.kill(flow.pid, signal.SIGKILL)
    flow.communicate(timeout=30)
    wait_for(lambda: not _uvicorns() - before, 20, "the embedded server to die")
