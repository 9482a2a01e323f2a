"""The training loop on CUDA: the CPU's losses, the same end after a stop, and real out-of-memory.

Needs only PyTorch, Transformers, PEFT and pytest: `python -m pytest -m gpu --noconftest tests/gpu`.
"""

import gc
import os
from types import SimpleNamespace

os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")  # deterministic matrix products; before CUDA starts

import pytest
import torch
from model_folders import make_llama
from training_parts import parameters, write_tokens

from slipway.training import loop, model

CUDA = torch.cuda.is_available()
LADDER = (6.3033, 5.8288, 5.8791, 5.4967)  # losses of steps 1, 4, 7 and 10, measured on a CPU in fp32
needs_cuda = pytest.mark.skipif(not CUDA, reason="no CUDA device here")


def silent(_values, _step):
    pass


@pytest.fixture(scope="module")
def small(tmp_path_factory):
    folder = tmp_path_factory.mktemp("small")
    return make_llama(folder / "llama"), write_tokens(folder / "tokens")


def tune(small, folder, report=silent, **changes):
    folder.mkdir(exist_ok=True)
    return loop.train(*small, parameters(**changes), folder, report)


def ladder(small, folder):
    tuned = tune(small, folder, max_steps=10, epochs=20, learning_rate=0.05)
    losses = {record["step"]: record["train_loss"] for record in tuned.state.records}
    return tuned, [losses[step] for step in (1, 4, 7, 10)]


def weights(tuned):
    return {name: p.detach().cpu().clone() for name, p in tuned.model.parameters.items()}


def same_bytes(one, other):
    return one.keys() == other.keys() and len(one) > 10 and all(torch.equal(one[n], other[n]) for n in one)


def test_the_ladder_on_the_cpu(small, tmp_path, monkeypatch):
    monkeypatch.setattr(model, "best_device", lambda: torch.device("cpu"))
    _, losses = ladder(small, tmp_path / "c")
    assert losses == pytest.approx(LADDER, rel=2e-3)


@pytest.mark.gpu
@needs_cuda
def test_the_ladder_on_cuda(small, tmp_path):
    tuned, losses = ladder(small, tmp_path / "c")
    assert tuned.model.device.type == "cuda"
    assert losses == pytest.approx(LADDER, rel=2e-3)


@pytest.mark.gpu
@needs_cuda
@pytest.mark.parametrize("precision", ["auto", "fp32"])
def test_stopped_and_started_again_on_cuda_it_ends_in_the_same_bytes(small, tmp_path, precision):
    lora = SimpleNamespace(rank=4, alpha=8, dropout=0.1, target_modules="all-linear")
    changes = {"epochs": 5, "precision": precision, "lora": lora}
    expected = tune(small, tmp_path / "whole", **changes)
    assert expected.model.half == (precision == "auto")

    def stop(_values, step):
        if step >= 6:
            raise InterruptedError

    with pytest.raises(InterruptedError):
        tune(small, tmp_path / "broken", stop, **changes)
    again = tune(small, tmp_path / "broken", **changes)
    assert same_bytes(weights(again), weights(expected)) and again.state == expected.state


@pytest.mark.gpu
@needs_cuda
def test_real_out_of_memory_halves_the_micro_batch(tmp_path, capsys):
    base = make_llama(tmp_path / "llama", vocab_size=32000, hidden_size=512, intermediate_size=1536)
    tokens = write_tokens(tmp_path / "tokens", documents=3000, vocabulary=32000, length=512)
    changes = {"batch_size": 64, "micro_batch_size": 64, "max_steps": 3, "precision": "fp32"}
    gc.collect()
    torch.cuda.empty_cache()
    total = torch.cuda.get_device_properties(0).total_memory
    try:
        torch.cuda.set_per_process_memory_fraction(min(1.0, 1.5e9 / total))
        tuned = tune((base, tokens), tmp_path / "c", **changes)
    finally:
        torch.cuda.set_per_process_memory_fraction(1.0)
    assert tuned.state.step == 3 and 1 <= tuned.state.micro_batch < 64
    assert "out of memory with 64 packed sequences at once" in capsys.readouterr().out
