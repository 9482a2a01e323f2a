"""A release through real Prefect, DVC, MLflow and git, on the stub pipeline."""

import contextlib
import json
import os
import signal
import sqlite3
import time
from pathlib import Path
from typing import Any

import pytest
import stub_project
import yaml
from conftest import wait_for

STAGES = ["ingest", "fetch", "prepare", "validate", "finetune", "evaluate", "gate"]


def records(project: Path) -> list[dict[str, Any]]:
    paths = sorted((project / ".slipway" / "releases").glob("*/release.json"))
    return [json.loads(path.read_text()) for path in paths]


def run(project: Path, url: str, *words: str) -> tuple[int, dict[str, Any], str]:
    """`slipway run`: exit code, the newest record, standard error."""
    done = stub_project.slipway(project, "run", *words, PREFECT_API_URL=url)
    found = records(project)
    return done.returncode, found[-1] if found else {}, done.stderr


def statuses(record: dict[str, Any]) -> dict[str, str]:
    return {stage["name"]: stage["status"] for stage in record["stages"]}


def mlflow_rows(project: Path, query: str) -> list[tuple[Any, ...]]:
    with sqlite3.connect(project / ".slipway" / "mlflow.db") as database:
        return database.execute(query).fetchall()


def attempts(project: Path, stage: str) -> list[dict[str, Any]]:
    return [json.loads(p.read_text()) for p in sorted((project / ".scratch" / "attempts" / stage).glob("*.end.json"))]


def set_param(project: Path, section: str, key: str, value: object) -> None:
    params = yaml.safe_load((project / "params.yaml").read_text())
    params[section][key] = value
    (project / "params.yaml").write_text(yaml.safe_dump(params))


@pytest.fixture(scope="module")
def released(stub_of_module: Path, prefect_url: str) -> tuple[Path, dict[str, Any]]:
    code, record, err = run(stub_of_module, prefect_url)
    assert code == 0, err
    return stub_of_module, record


def test_a_release_runs_every_stage_and_keeps_its_record(released: tuple[Path, dict[str, Any]]) -> None:
    project, record = released
    assert list(statuses(record)) == STAGES
    assert set(statuses(record).values()) == {"ran"}
    assert record["outcome"] == "passed"
    assert (project / record["report"]).stat().st_size > 1000
    changed = stub_project.git(project, "status", "--porcelain").splitlines()
    assert {line.split()[-1].split("/")[0] for line in changed} <= {"dvc.lock", "pins"}


def test_every_stage_logs_to_mlflow_under_one_parent_run(released: tuple[Path, dict[str, Any]]) -> None:
    project, record = released
    parent = record["mlflow_run_id"]
    children = mlflow_rows(
        project,
        "select r.name, r.status from runs r join tags t on t.run_uuid = r.run_uuid "
        f"where t.key = 'mlflow.parentRunId' and t.value = '{parent}'",
    )
    assert sorted(name for name, _ in children) == sorted(STAGES)
    assert {status for _, status in children} == {"FINISHED"}
    steps = mlflow_rows(project, "select step from metrics where key = 'loss' order by step")
    assert [step for (step,) in steps] == [0, 1, 2]
    sets = mlflow_rows(project, "select count(*) from inputs")
    assert sets[0][0] >= 7


def test_nothing_changed_shows_the_last_result_and_starts_nothing(released: tuple[Path, dict[str, Any]]) -> None:
    project, record = released
    begin = time.monotonic()
    done = stub_project.slipway(project, "run", PREFECT_API_URL="http://127.0.0.1:9/api")  # nobody listens there
    assert done.returncode == 0, done.stderr
    assert time.monotonic() - begin < 3
    assert "up to date" in done.stdout and record["id"] in done.stdout
    assert len(records(project)) == 1


def test_changing_one_value_runs_exactly_the_stages_that_depend_on_it(
    released: tuple[Path, dict[str, Any]], prefect_url: str
) -> None:
    project, first = released
    before = (project / "params.yaml").read_text()
    set_param(project, "finetune", "seed", 8)
    code, record, err = run(project, prefect_url)
    assert code == 0, err
    assert [n for n, s in statuses(record).items() if s == "ran"] == ["finetune"], (
        "the adapter's bytes are the same: nothing after it runs"
    )

    (project / "params.yaml").write_text(before)
    code, record, err = run(project, prefect_url)
    assert code == 0, err
    assert statuses(record)["finetune"] == "cached"
    run_id = next(stage["mlflow_run_id"] for stage in record["stages"] if stage["name"] == "finetune")
    tags = dict(mlflow_rows(project, f"select key, value from tags where run_uuid = '{run_id}'"))
    made_by = {stage["mlflow_run_id"] for r in records(project) for stage in r["stages"] if stage["name"] == "finetune"}
    assert tags["slipway.cached"] == "yes" and tags["slipway.made_by"] in made_by - {run_id}
    metrics = dict(mlflow_rows(project, f"select key, value from metrics where run_uuid = '{run_id}'"))
    assert metrics == {"train_loss": 0.5}


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


def test_a_second_release_in_a_worktree_never_mixes_and_a_tag_rebuilds(
    stub: Path, prefect_url: str, tmp_path: Path
) -> None:
    ranks = {5: "", 6: ""}
    started = {
        rank: stub_project.start(
            stub, "release", "--json", "-S", f"finetune.lora.rank={rank}", PREFECT_API_URL=prefect_url
        )
        for rank in ranks
    }
    for rank, process in started.items():
        out, err = process.communicate(timeout=200)
        assert process.returncode == 0, err
        ranks[rank] = json.loads(out)["tag"]
    assert stub_project.git(stub, "status", "--porcelain") == "", "the workspace itself is untouched"
    assert stub_project.git(stub, "worktree", "list").count("\n") == 0
    for rank, tag in ranks.items():
        params = yaml.safe_load(stub_project.git(stub, "show", f"{tag}:params.yaml"))
        assert params["finetune"]["lora"]["rank"] == rank
        clone = tmp_path / f"clone {rank}"
        stub_project.git(stub, "clone", "-q", str(stub), str(clone))
        stub_project.git(clone, "checkout", "-q", tag)
        kept = (clone / "dvc.lock").read_text()
        done = stub_project.repro(clone)
        assert done.returncode == 0, done.stdout + done.stderr
        assert (clone / "dvc.lock").read_text() == kept, "rebuilt from the tag: the same digests"
        assert f"rank {rank}" in (clone / "models" / "adapter" / "weights.txt").read_text()


def test_dvc_repro_and_slipway_run_agree_and_leave_the_other_nothing_to_do(
    stub: Path, prefect_url: str, tmp_path: Path
) -> None:
    other = stub_project.make(tmp_path / "other")
    code, _, err = run(stub, prefect_url)
    assert code == 0, err
    for pin in ("source", "base", "champion"):
        (other / "pins" / f"{pin}.json").write_bytes((stub / "pins" / f"{pin}.json").read_bytes())
    done = stub_project.repro(other)
    assert done.returncode == 0, done.stdout + done.stderr
    assert (stub / "dvc.lock").read_text() == (other / "dvc.lock").read_text()
    assert "up to date" in stub_project.repro(stub).stdout


def test_a_remote_that_is_away_costs_a_warning_not_the_verdict(stub: Path, prefect_url: str) -> None:
    config = stub / ".dvc" / "config"
    config.write_text(config.read_text().replace("../.slipway/dvc-remote", "/proc/nowhere"))
    code, record, err = run(stub, prefect_url)
    assert code == 0, err
    assert record["outcome"] == "passed" and record["tag"]
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
    assert record["outcome"] == "passed" and record["warnings"]
    assert "Traceback" not in err


def test_a_stage_that_takes_too_long_is_stopped_and_said_so(stub: Path, prefect_url: str) -> None:
    stub_project.fault(stub, "fetch", "hang")
    done = stub_project.slipway(stub, "run", PREFECT_API_URL=prefect_url, SLIPWAY_STAGE_TIMEOUT_SECONDS="4")
    assert done.returncode == 75, done.stderr
    record = records(stub)[-1]
    assert record["outcome"] == "failed" and "stage_timeout_seconds" in record["reason"]
    assert "Traceback" not in done.stderr


def test_values_edited_while_the_stages_run_void_the_verdict(stub: Path, prefect_url: str) -> None:
    stub_project.fault(stub, "evaluate", "edit params.yaml")
    code, record, err = run(stub, prefect_url)
    assert code == 1
    assert record["outcome"] == "failed" and "input changed during run" in record["reason"]
    assert record["tag"] is None


def test_a_tag_keeps_a_policy_that_nobody_committed(stub: Path, prefect_url: str) -> None:
    (stub / "configs" / "policies" / "mine.yaml").write_text("rules: mine\n")
    set_param(stub, "gate", "policy", "configs/policies/mine.yaml")
    code, record, err = run(stub, prefect_url)
    assert code == 0, err
    assert stub_project.git(stub, "show", f"{record['tag']}:configs/policies/mine.yaml") == "rules: mine"


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


def test_case_D2_results_of_prefect_are_never_unpickled(stub: Path, prefect_url: str) -> None:
    """Every task and flow keeps its results to itself: a malicious record in the result store is never read."""
    import pickle

    class Boom:
        def __reduce__(self) -> tuple[Any, ...]:
            return os.system, (f"touch '{stub}/pwned'",)

    code, _, err = run(stub, prefect_url)
    assert code == 0, err
    storage = stub / ".slipway" / "prefect" / "storage"
    assert not list(storage.rglob("*")) if storage.exists() else True, "nothing was persisted"
    planted = pickle.dumps(Boom())
    assert b"system" in planted, "the record would execute if anything read it"
    storage.mkdir(parents=True, exist_ok=True)
    for name in STAGES:
        (storage / name).write_bytes(planted)
    set_param(stub, "finetune", "seed", 9)
    code, _, err = run(stub, prefect_url)
    assert code == 0, err
    assert not (stub / "pwned").exists()
