"""finetune as a stage: never on refused data, the same bytes after a kill, and any base goes through."""

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
import yaml
from data_folders import params as prepare_params
from data_folders import raw_folder, tickets
from model_folders import make_gpt2, make_llama, make_qwen2
from training_parts import parameters, write_tokens

from slipway import digest
from slipway.artifacts import BasePin, Check, Manifest, Validation
from slipway.errors import Refused, StageError
from slipway.identity import identity, parts
from slipway.params import FetchParams, FinetuneParams, LoraParams
from slipway.training import base as bases
from tasks.fetch import fetch
from tasks.finetune import finetune
from tasks.prepare import prepare

ROOT = Path(__file__).parents[2]


def finetune_params(**changes) -> FinetuneParams:
    values = vars(parameters(**changes))
    return FinetuneParams(**(values | {"lora": LoraParams(**vars(values["lora"]))}))


def fetch_params(base: str) -> FetchParams:
    tiny = {
        "layers": 1,
        "hidden_size": 16,
        "heads": 2,
        "vocabulary": 300,
        "max_length": 64,
        "steps": 1,
        "batch_size": 1,
    }
    return FetchParams.model_validate(
        {"base": base, "revision": None, "seed": 1, "threads": 1, "tiny": tiny | {"learning_rate": 0.001}}
    )


def judged(path: Path, passed: bool, prepared: Path) -> Path:
    """What validate says of a prepared folder."""
    check = Check(
        suite="prepared", expectation="rows", column=None, severity="critical", passed=passed, observed=1, unexpected=0,
        rows=[], why="a test",
    )  # fmt: skip
    about = Manifest.load(prepared / "manifest.json").digest
    Validation(
        passed=passed, raw_digest="r", prepared_digest=about, suites_digest="s", tables={"train": 1}, checks=[check]
    ).save(path)
    return path


def inputs(folder: Path) -> dict[str, Path]:
    """What finetune reads, made small."""
    make_llama(folder / "base")
    Manifest.write(folder / "base", bases.facts(folder / "base", "small", None))
    write_tokens(folder / "prepared" / "tokens")
    Manifest.write(folder / "prepared", {"tokenizer_sha256": digest.of_file(folder / "base" / "tokenizer.json")})
    judged(folder / "validation.json", True, folder / "prepared")
    return {"base": folder / "base", "prepared": folder / "prepared", "validation": folder / "validation.json"}


def outputs(folder: Path) -> dict[str, Path]:
    (folder / "checkpoints").mkdir(parents=True)
    return {"adapter": folder / "adapter", "loss": folder / "loss.json", "checkpoints": folder / "checkpoints"}


def test_the_adapter_says_what_it_is_and_the_curve_is_kept(tmp_path):
    given, made = inputs(tmp_path / "in"), outputs(tmp_path / "out")
    metrics = finetune(finetune_params(), **given, **made)
    facts = Manifest.verified(made["adapter"]).facts
    assert facts["method"] == "lora" and facts["base_digest"] == Manifest.load(given["base"] / "manifest.json").digest
    assert facts["steps"] == metrics["steps"] >= 4 and facts["best_step"] == metrics["best_step"]
    curve = json.loads(made["loss"].read_text())
    assert (
        curve[-1]["step"] == facts["steps"] and {"train_loss", "learning_rate", "validation_loss"} <= curve[-1].keys()
    )
    assert metrics.keys() == {"train_loss", "validation_loss", "steps", "best_step"}


def test_refused_data_trains_nothing(tmp_path):
    given, made = inputs(tmp_path / "in"), outputs(tmp_path / "out")
    judged(given["validation"], False, given["prepared"])
    with pytest.raises(Refused, match="the data failed \\(prepared: rows\\)"):
        finetune(finetune_params(), **given, **made)
    assert not made["adapter"].exists() and not made["loss"].exists()


def test_a_pass_for_other_data_trains_nothing(tmp_path):
    given, made = inputs(tmp_path / "in"), outputs(tmp_path / "out")
    write_tokens(given["prepared"] / "tokens", documents=41)
    now = Manifest.write(given["prepared"], {}).digest
    with pytest.raises(Refused, match=rf"is about other data: .* is {now}, validated was .*; run validate again"):
        finetune(finetune_params(), **given, **made)
    assert not made["adapter"].exists() and not made["loss"].exists()


def test_case_D8_another_base_than_the_data_was_prepared_for_trains_nothing(tmp_path):
    given, made = inputs(tmp_path / "in"), outputs(tmp_path / "out")
    other = given["base"] / "tokenizer.json"
    before = digest.of_file(other)
    other.write_text(other.read_text() + " ")
    Manifest.write(given["base"], Manifest.load(given["base"] / "manifest.json").facts)
    with pytest.raises(StageError, match=rf"tokens of another base: .* was {before}, .* has {digest.of_file(other)}"):
        finetune(finetune_params(), **given, **made)
    assert not made["adapter"].exists() and not made["loss"].exists()


@pytest.mark.parametrize("torn", ["base/model.safetensors", "prepared/tokens/train.safetensors"])
def test_torn_inputs_are_named(tmp_path, torn):
    given, made = inputs(tmp_path / "in"), outputs(tmp_path / "out")
    path = tmp_path / "in" / torn
    path.write_bytes(path.read_bytes()[:-7])
    with pytest.raises(StageError, match=f"{path.name} is cut at byte"):
        finetune(finetune_params(), **given, **made)
    assert not made["adapter"].exists()


def test_a_diverging_training_leaves_no_adapter(tmp_path):
    given, made = inputs(tmp_path / "in"), outputs(tmp_path / "out")
    with pytest.raises(StageError, match="no adapter is made"):
        finetune(finetune_params(learning_rate=1e30), **given, **made)
    assert not made["adapter"].exists() and not made["loss"].exists()


def test_identity_changes_with_every_part_and_with_nothing_else(tmp_path):
    given, made = inputs(tmp_path / "in"), outputs(tmp_path / "out")
    finetune(finetune_params(max_steps=1), **given, **made)
    base, adapter = given["base"], made["adapter"]
    assert identity(base, adapter) == identity(base, adapter) != identity(base, None)
    before = parts(base, None)
    (base / "chat_template.jinja").write_text("{{ messages }}")
    Manifest.write(base, Manifest.load(base / "manifest.json").facts)
    after = parts(base, None)
    assert {name for name in before if before[name] != after[name]} == {"chat_template"}
    with pytest.raises(StageError, match="was tuned on the base"):
        identity(base, adapter)


@pytest.mark.parametrize("make", [make_llama, make_qwen2, make_gpt2])
def test_any_base_goes_from_fetch_to_finetune(tmp_path, monkeypatch, make):
    monkeypatch.chdir(tmp_path)
    make(tmp_path / "mine")
    bases.pin(fetch_params("mine"), tmp_path, tmp_path / ".memory").save(tmp_path / "pin.json")
    fetch(fetch_params("mine"), tmp_path / "pin.json", tmp_path / "base")
    raw = raw_folder(tmp_path / "raw", tickets(60), tickets(10, seed=9))
    prepare(prepare_params(), raw, tmp_path / "base", tmp_path / "prepared")
    given = {"base": tmp_path / "base", "prepared": tmp_path / "prepared"}
    made = outputs(tmp_path / "out")
    given["validation"] = judged(tmp_path / "validation.json", True, given["prepared"])
    metrics = finetune(finetune_params(max_steps=2), **given, **made)
    assert metrics["steps"] == 2 and Manifest.verified(made["adapter"]).facts["trained_parameters"] > 0
    assert BasePin.load(tmp_path / "pin.json").source == "mine"


# --- killed for real ---


def project(folder: Path) -> Path:
    """A copy of the project with only what finetune needs, its inputs already made."""
    for name in ("slipway", "tasks", "configs"):
        shutil.copytree(ROOT / name, folder / name, ignore=shutil.ignore_patterns("__pycache__"))
    for name in ("dvc.yaml", "constraints.txt"):
        shutil.copy2(ROOT / name, folder / name)
    values = yaml.safe_load((ROOT / "params.yaml").read_text())
    values["finetune"] = finetune_params(epochs=60, evaluate_every=5).model_dump()
    (folder / "params.yaml").write_text(yaml.safe_dump(values))
    made = inputs(folder / "in")
    for name, target in (
        ("base", "models/base"),
        ("prepared", "data/prepared"),
        ("validation", "reports/validation.json"),
    ):
        (folder / target).parent.mkdir(parents=True, exist_ok=True)
        made[name].rename(folder / target)
    return folder


COMMAND = [
    sys.executable, "-m", "tasks", "finetune", "--base", "models/base", "--prepared", "data/prepared",
    "--validation", "reports/validation.json", "--adapter", "models/adapter", "--loss", "reports/loss.json",
    "--metrics", "reports/metrics/finetune.json",
]  # fmt: skip


def start(folder: Path) -> subprocess.Popen[bytes]:
    """The stage as a flow starts it: the flow tells MLflow, which here would be imported for nothing five times."""
    with (folder / "log").open("a") as log:
        environment = {**os.environ, "PYTHONPATH": str(folder), "PYTHONHASHSEED": str(random.randrange(1000))}
        environment["SLIPWAY_PARENT_RUN"] = "watched"
        return subprocess.Popen(COMMAND, cwd=folder, stdout=log, stderr=log, env=environment, start_new_session=True)


def made_by(folder: Path) -> dict[str, str]:
    return {name: digest.of_path(folder / name) for name in ("models/adapter", "reports/loss.json", "reports/metrics")}


def wait_for_step(folder: Path, step: int) -> None:
    """Until a checkpoint at or after this step stands; a stage that ended meanwhile fails the test."""
    scratch, deadline = folder / ".scratch", time.monotonic() + 60
    while not any(int(p.name[5:]) >= step for p in scratch.glob("finetune/*/checkpoints/step-*")):
        assert time.monotonic() < deadline and not (folder / "models/adapter").exists(), (folder / "log").read_text()
        time.sleep(0.005)


def test_case_A2_killed_three_times_it_ends_in_the_same_bytes(tmp_path):
    whole = project(tmp_path / "whole")
    uninterrupted = start(whole)
    broken = project(tmp_path / "broken")
    rng = random.Random()
    for step in (5, 60, 120):
        process = start(broken)
        wait_for_step(broken, step)
        time.sleep(rng.uniform(0, 0.15))
        os.killpg(process.pid, signal.SIGKILL)
        assert process.wait(10) == -signal.SIGKILL, (broken / "log").read_text()
        assert not (broken / "models/adapter").exists() and not (broken / "reports/loss.json").exists()
    assert start(broken).wait(120) == 0, (broken / "log").read_text()
    assert uninterrupted.wait(120) == 0, (whole / "log").read_text()
    assert made_by(broken) == made_by(whole)
    assert (broken / "log").read_text().count("going on from the checkpoint after step") == 3
    assert not list((broken / ".scratch" / "finetune").glob("*/checkpoints/*"))
    ends = list((broken / ".scratch" / "attempts" / "finetune").glob("*.end.json"))
    assert sorted(json.loads(p.read_text())["outcome"] for p in ends) == ["done", "killed", "killed", "killed"]
