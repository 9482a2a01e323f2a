"""What the tests of training share: packed tokens on disk and parameters without a file."""

import random
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import torch
from safetensors.torch import save_file


def parameters(**changes: Any) -> Any:
    """finetune's parameters, small; plain values, so that a machine without pydantic can use them too."""
    lora = SimpleNamespace(rank=4, alpha=8, dropout=0.0, target_modules="all-linear")
    values = {
        "method": "lora", "lora": lora, "precision": "fp32", "epochs": 2.0, "max_steps": None, "batch_size": 4,
        "micro_batch_size": 4, "learning_rate": 0.01, "schedule": "cosine", "warmup_share": 0.1, "weight_decay": 0.0,
        "max_grad_norm": 1.0, "evaluate_every": 4, "patience": None, "deterministic": True, "seed": 3, "threads": 1,
    }  # fmt: skip
    return SimpleNamespace(**(values | changes))


def write_split(path: Path, documents: list[list[int]], length: int, prompt_share: float = 0.5) -> None:
    """Documents packed in their order; loss falls on each one's later part."""
    packs: list[list[int]] = [[]]
    room = length
    for index, document in enumerate(documents):
        if len(document) > room:
            packs, room = [*packs, []], length
        packs[-1].append(index)
        room -= len(document)
    ends, pack_ends = [0], [0]
    for document in documents:
        ends.append(ends[-1] + len(document))
    for pack in packs:
        pack_ends.append(pack_ends[-1] + len(pack))
    loss = [int(i >= len(d) * prompt_share) for d in documents for i in range(len(d))]
    tensors = {
        "input_ids": torch.tensor([t for d in documents for t in d], dtype=torch.int32),
        "loss": torch.tensor(loss, dtype=torch.uint8),
        "documents": torch.tensor(ends),
        "packs": torch.tensor([i for pack in packs for i in pack], dtype=torch.int32),
        "pack_offsets": torch.tensor(pack_ends if documents else [0]),
    }
    save_file(tensors, path)


def write_tokens(folder: Path, documents: int = 40, vocabulary: int = 300, length: int = 48, held_out: int = 8) -> Path:
    """Random documents (each a small pattern, so that there is something to learn) for training and held-out loss."""
    folder.mkdir(parents=True, exist_ok=True)
    rng = random.Random(1)

    def document() -> list[int]:
        start, step = rng.randrange(vocabulary), rng.randrange(1, 4)
        return [(start + i * step) % vocabulary for i in range(rng.randrange(3, 24))]

    write_split(folder / "train.safetensors", [document() for _ in range(documents)], length)
    write_split(folder / "validation.safetensors", [document() for _ in range(held_out)], length)
    return folder
