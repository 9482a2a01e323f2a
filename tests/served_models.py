"""Real tiny models, registered: a base, LoRA versions on it, and the project they are served from.

made = served_models.project(tmp_path)                a Llama; another kind with make=make_gpt2
first, second = made.version(whole=False), made.version("1.1.0", whole=False)
"""

import shutil
import warnings
from collections.abc import Callable, Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Any

import made_versions
from model_folders import make_llama

from slipway import digest
from slipway.artifacts import Manifest


def make_adapter(base: Path, place: Path, seed: int, **more: Any) -> Path:
    """A random LoRA adapter, strong enough to change every answer."""
    import torch
    from peft import LoraConfig, get_peft_model
    from transformers.pytorch_utils import Conv1D

    from slipway.evaluation import inference

    model = inference.load_model(base)
    turned = any(isinstance(module, Conv1D) for module in model.modules())
    chosen = {"r": 4, "lora_alpha": 64, "target_modules": "all-linear", "task_type": "CAUSAL_LM", **more}
    config = LoraConfig(**chosen, fan_in_fan_out=turned)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", FutureWarning)
        peft = get_peft_model(model, config)
    generator = torch.Generator().manual_seed(seed)
    for _, weight in sorted(peft.named_parameters()):
        if weight.requires_grad:
            weight.data.normal_(0, 0.3, generator=generator)
    peft.save_pretrained(place)
    (place / "README.md").unlink(missing_ok=True)
    return place


def make_whole(base: Path, place: Path, seed: int) -> Path:
    """The base with other weights."""
    import torch

    from slipway.evaluation import inference

    shutil.copytree(base, place, ignore=shutil.ignore_patterns(digest.MANIFEST))
    model, generator = inference.load_model(base), torch.Generator().manual_seed(seed)
    for _, weight in sorted(model.named_parameters()):
        if weight.dim() > 1:
            weight.data.normal_(0, 0.1, generator=generator)
    model.save_pretrained(place)
    return place


class Served(made_versions.Made):
    """A project whose base and versions are real models."""

    full = False  # whether all of the base is tuned, rather than an adapter on it
    adapter: Mapping[str, Any] = MappingProxyType({})  # how an adapter differs from the usual one

    def _train(self, number: str) -> None:
        base, adapter = self.path("base"), self.path("adapter")
        shutil.rmtree(adapter)
        seed = int(digest.of_bytes(number.encode())[:8], 16)
        made = make_whole(base, adapter, seed) if self.full else make_adapter(base, adapter, seed, **self.adapter)
        facts = {"method": "full" if self.full else "lora", "base_digest": Manifest.load(base / digest.MANIFEST).digest}
        Manifest.write(made, facts)


def project(root: Path, make: Callable[..., Path] = make_llama, **changes: Any) -> Served:
    """A project with a real base and no version yet."""
    made_versions.project(root)
    made = Served(root)
    shutil.rmtree(made.path("base"))
    make(made.path("base"), **changes)
    Manifest.write(made.path("base"), {"source": "tiny"})
    return made
