"""The candidate in a process of its own: measured where it serves, said why where it does not, never left running."""

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import model_folders
import pyarrow
import pyarrow.parquet
import pytest
import stub_project
from conftest import wait_for

from slipway import digest, params
from slipway.artifacts import Manifest
from slipway.errors import StageError
from slipway.evaluation.servability import quantile
from slipway.observing import servability

ROOT = Path(__file__).parents[2]
SLEEPER = "import sys, threading; print('servability: ready', flush=True); threading.Event().wait()"
FOLLOWER = (
    "import os, threading; from slipway.evaluation import servability; servability._follow_parent(); "
    "print('servability:', os.getpid(), flush=True); threading.Event().wait()"
)


def prepared(folder: Path, rows: int = 6) -> Path:
    table = []
    for i in range(rows):
        prompt = f"the customer asked for a refund {i}"
        messages = [{"role": "user", "content": prompt}, {"role": "assistant", "content": "the desk"}]
        table.append(
            {
                "id": f"{i:04}",
                "messages": json.dumps(messages),
                "prompt": f"<|im_start|>user\n{prompt}<|im_end|>\n<|im_start|>assistant\n",
                "answer": "the desk",
                "label": None,
            }
        )
    schema = pyarrow.schema([(name, pyarrow.string()) for name in ("id", "messages", "prompt", "answer", "label")])
    (folder / "rows").mkdir(parents=True)
    pyarrow.parquet.write_table(pyarrow.Table.from_pylist(table, schema=schema), folder / "rows" / "test.parquet")
    Manifest.write(folder, {"label_pattern": None})
    return folder


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A small Llama with a LoRA adapter, and six prompts."""
    import torch
    from peft import LoraConfig, get_peft_model
    from transformers import AutoModelForCausalLM

    torch.set_num_threads(1)
    root = tmp_path_factory.mktemp("servable")
    base = model_folders.make_llama(root / "base")
    about = Manifest.write(base, {"source": "base", "quantisation": None})
    model = AutoModelForCausalLM.from_pretrained(base)
    get_peft_model(model, LoraConfig(r=2, target_modules="all-linear")).save_pretrained(root / "adapter")
    Manifest.write(root / "adapter", {"method": "lora", "base_digest": about.digest})
    prepared(root / "prepared")
    return root


def observe(root: Path, seconds: float = 120, prompts: int = 4) -> Any:
    chosen = params.load("evaluate", ROOT / "params.yaml")
    assert isinstance(chosen, params.EvaluateParams)
    short = chosen.model_copy(update={"max_new_tokens": 8, "threads": 1})
    folders = (root / name for name in ("base", "adapter", "prepared"))
    return servability.observe(*folders, root / "scratch", short, seconds, prompts, say=lambda line: None)


def test_what_serving_is_like_here(made: Path) -> None:
    begin = time.monotonic()
    found = observe(made)
    took = time.monotonic() - begin
    assert found.prompts == 4 and found.deterministic
    assert 0 < found.latency_p50_seconds <= found.latency_p95_seconds <= found.latency_p99_seconds < took
    assert 0 < found.load_seconds < took and found.tokens_per_second > 1
    assert found.peak_bytes > 50_000_000, "a process with torch in it"
    assert not list((made / "scratch" / "snapshots").iterdir()), "the private copies are gone"


def test_a_model_that_does_not_load_is_said_so(made: Path, tmp_path: Path) -> None:
    """Whole by its manifest, and yet no model."""
    for name in ("base", "adapter", "prepared"):
        shutil.copytree(made / name, tmp_path / name)
    (tmp_path / "base" / "config.json").write_text('{"model_type": "no such model"}')
    about = Manifest.write(tmp_path / "base", {"source": "base", "quantisation": None})
    Manifest.write(tmp_path / "adapter", {"method": "lora", "base_digest": about.digest})
    with pytest.raises(StageError, match="the model does not serve"):
        observe(tmp_path)


def test_a_process_that_hangs_is_killed_at_the_deadline(tmp_path: Path) -> None:
    begin, said = time.monotonic(), list[str]()
    with pytest.raises(StageError, match="servability_seconds"):
        servability._run([sys.executable, "-c", SLEEPER], 2, said.append)
    assert time.monotonic() - begin < 10
    assert said == ["servability: ready"]


def test_a_process_that_fails_is_quoted() -> None:
    with pytest.raises(StageError, match=r"exit 1.*no memory left"):
        servability._run([sys.executable, "-c", "raise SystemExit('no memory left')"], 20, print)


def test_it_ends_with_whoever_asked(tmp_path: Path) -> None:
    asker = (
        "import sys; from slipway.observing import servability; "
        f"servability._run([sys.executable, '-c', {FOLLOWER!r}], 60, lambda line: print(line, flush=True))"
    )
    parent = subprocess.Popen(
        [sys.executable, "-c", asker], cwd=ROOT, env=stub_project.environment(), stdout=subprocess.PIPE, text=True
    )
    assert parent.stdout is not None
    child = int(parent.stdout.readline().split()[-1])
    parent.send_signal(signal.SIGKILL)
    parent.wait(10)
    wait_for(lambda: not _lives(child), 10, "the probe to end")
    parent.stdout.close()


def _lives(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[0] != "Z"
    except OSError:
        return False


def flip(path: Path) -> None:
    before, data = path.stat(), bytearray(path.read_bytes())
    data[-1] ^= 1
    path.write_bytes(data)
    os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))


@pytest.mark.parametrize("name", ["base/model.safetensors", "adapter/adapter_model.safetensors"])
def test_case_D1_a_flipped_bit_is_never_loaded(made: Path, name: str) -> None:
    recorded = digest.of_file(made / name)
    flip(made / name)
    found = digest.of_file(made / name)
    try:
        with pytest.raises(StageError) as caught:
            observe(made)
    finally:
        flip(made / name)
    assert all(part in str(caught.value) for part in (str(made / name), recorded, found))


def test_case_D8_an_adapter_of_another_base_is_never_loaded(made: Path, tmp_path: Path) -> None:
    other = model_folders.make_llama(tmp_path / "base", hidden_size=16)
    Manifest.write(other, {"source": "other", "quantisation": None})
    for name in ("adapter", "prepared"):
        (tmp_path / name).symlink_to(made / name)
    with pytest.raises(StageError, match="was tuned on the base"):
        observe(tmp_path)
    assert not (tmp_path / "scratch").exists()


def test_copies_of_a_killed_process_are_swept(made: Path) -> None:
    left = made / "scratch" / "snapshots" / "left"
    (left / "base").mkdir(parents=True)
    (left / "lock").touch()
    (left / "base" / "weights").write_text("x")
    (left / "base").chmod(0o500)
    with servability.private_copies(made / "scratch", {"adapter": made / "adapter"}) as (_, copies):
        assert not left.exists()
        assert (copies["adapter"] / "adapter_model.safetensors").is_file()
        with servability.private_copies(made / "scratch", {"adapter": made / "adapter"}):
            assert copies["adapter"].is_dir(), "another's copies, in use, are left alone"
    assert not list((made / "scratch" / "snapshots").iterdir())


@pytest.mark.parametrize(("share", "value"), [(0.5, 2.0), (0.95, 4.0), (0.99, 4.0), (0.25, 1.0)])
def test_a_quantile_is_a_latency_that_occurred(share: float, value: float) -> None:
    assert quantile([4.0, 1.0, 3.0, 2.0], share) == value
