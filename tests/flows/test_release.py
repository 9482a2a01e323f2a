"""A release through real Prefect, DVC, MLflow and git, on the stub pipeline."""

import json
import os
import time
from pathlib import Path
from typing import Any

import pytest
import stub_project
import yaml
from flow_runs import STAGES, mlflow_rows, records, run, set_param, statuses


@pytest.fixture(scope="module")
def released(stub_of_module: Path, prefect_url: str) -> tuple[Path, dict[str, Any]]:
    code, record, err = run(stub_of_module, prefect_url)
    assert code == 0, err
    return stub_of_module, record


def test_a_release_runs_every_stage_and_keeps_its_record(released: tuple[Path, dict[str, Any]]) -> None:
    project, record = released
    assert list(statuses(record)) == STAGES
    assert set(statuses(record).values()) == {"ran"}
    assert record["outcome"] == "registered"
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
    assert [n for n, s in statuses(record).items() if s == "ran"] == ["finetune", "register"], (
        "the adapter's bytes are the same: no stage after it runs, and what is not cached is asked again"
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
    done = stub_project.repro(other, SLIPWAY_PARENT_RUN="")
    assert done.returncode == 0, done.stdout + done.stderr
    assert (stub / "dvc.lock").read_text() == (other / "dvc.lock").read_text()
    assert "up to date" in stub_project.repro(stub).stdout


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
