"""How fast our loop tunes a 0.5B-shaped Llama with LoRA: tokens/s, MFU and peak memory, to a JSON file.

    python benchmarks/gpu_finetune.py FILE [--tiny]

The model is built from a configuration with random weights and the packed data are random, so nothing is downloaded.
MFU counts 4·N FLOP a token (LoRA needs no weight gradients of the base) against this device's own bf16 matmul rate.
"""

import argparse
import json
import os
import sys
import tempfile
import time
from pathlib import Path
from types import SimpleNamespace
from typing import Any

os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
ROOT = Path(__file__).resolve().parents[1]
sys.path[:0] = [str(ROOT), str(ROOT / "tests")]

import torch  # noqa: E402
from model_folders import make_llama  # noqa: E402
from training_parts import parameters, write_split  # noqa: E402

from slipway.training import loop, model  # noqa: E402

# Qwen2-0.5B's width and depth in Llama's clothes; its 32k vocabulary is Llama's.
LARGE = {
    "hidden_size": 896,
    "intermediate_size": 4864,
    "num_hidden_layers": 24,
    "num_attention_heads": 14,
    "vocab_size": 32000,
}
LARGE |= {"max_position_embeddings": 2048}
TINY = {
    "hidden_size": 64,
    "intermediate_size": 128,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "vocab_size": 512,
}


def matmul_rate(device: torch.device, size: int, seconds: float = 1.0) -> float:
    """Measured FLOP/s of a square bf16 matrix product."""
    one, other = (torch.randn(size, size, device=device, dtype=torch.bfloat16) for _ in range(2))
    for _ in range(3):
        one @ other
    _wait(device)
    count, start = 0, time.perf_counter()
    while time.perf_counter() - start < seconds:
        for _ in range(10):
            one @ other
        _wait(device)
        count += 10
    return count * 2 * size**3 / (time.perf_counter() - start)


def _wait(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize()


def random_tokens(folder: Path, packs: int, length: int, vocabulary: int) -> Path:
    """Packs of four documents each; loss on the later half of each document."""
    folder.mkdir(parents=True)
    generator = torch.Generator().manual_seed(1)
    drawn = torch.randint(0, vocabulary, (packs * 4, length // 4), generator=generator).tolist()
    write_split(folder / "train.safetensors", drawn, length)
    write_split(folder / "validation.safetensors", drawn[:4], length)
    return folder


def measure(
    folder: Path, shape: dict[str, int], length: int, micro: int, steps: int, precision: str, fast: bool
) -> dict[str, Any]:
    """One training; the first steps warm up and are not counted."""
    device, batch = model.best_device(), 2 * micro
    base = folder / "base"
    if not base.exists():
        make_llama(base, **shape)
    tokens = random_tokens(folder / f"tokens-{length}-{fast}", batch * 4, length, shape["vocab_size"])
    seen: list[dict[str, float]] = []
    given = parameters(
        lora=SimpleNamespace(rank=16, alpha=32, dropout=0.0, target_modules="all-linear"), precision=precision,
        max_steps=steps, epochs=1000, batch_size=batch, micro_batch_size=micro, learning_rate=1e-4, evaluate_every=steps,
        deterministic=not fast, threads=torch.get_num_threads(),
    )  # fmt: skip
    checkpoints = folder / f"checkpoints-{fast}"
    checkpoints.mkdir()
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats()
    tuned = loop.train(base, tokens, given, checkpoints, lambda values, step: seen.append({**values, "step": step}))
    rates = sorted(point["tokens_per_second"] for point in seen[2:-1])
    parameters_of_base = sum(p.numel() for p in tuned.model.causal.parameters() if not p.requires_grad)
    return {
        "parameters": parameters_of_base,
        "separation": tuned_forward(tuned),
        "precision": "bf16" if tuned.model.half else "fp32",
        "deterministic": not fast,
        "length": length,
        "micro_batch": tuned.state.micro_batch,
        "tokens_a_step": batch * length,
        "tokens_per_second": rates[len(rates) // 2],
        "flop_a_token": 4 * parameters_of_base,
        "peak_memory_bytes": torch.cuda.max_memory_allocated() if device.type == "cuda" else None,
        "losses": [round(point["train_loss"], 4) for point in seen],
    }


def tuned_forward(tuned: loop.Tuned) -> str:
    from slipway.training import forward

    return forward.probe(tuned.model.causal).separation


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("file", type=Path, help="where the figures go")
    parser.add_argument("--tiny", action="store_true", help="a few seconds on any device, to see that it runs")
    chosen = parser.parse_args()
    device = model.best_device()
    shape, length, micro, steps = (TINY, 64, 2, 6) if chosen.tiny else (LARGE, 2048, 8, 16)
    rate = matmul_rate(device, 256 if chosen.tiny else 8192, 0.2 if chosen.tiny else 2.0)
    with tempfile.TemporaryDirectory() as folder:
        runs = [measure(Path(folder), shape, length, micro, steps, "bf16", fast) for fast in (False, True)]
    figures = {
        "device": torch.cuda.get_device_name() if device.type == "cuda" else device.type,
        "torch": torch.__version__,
        "matmul_flop_per_second": rate,
        "runs": [run | {"mfu": run["tokens_per_second"] * run["flop_a_token"] / rate} for run in runs],
    }
    text = json.dumps(figures, indent=2)
    chosen.file.write_text(text + "\n")
    print(text)


if __name__ == "__main__":
    main()
