"""The model that is tuned: loaded on the best device there is, fitted with LoRA, saved as a folder."""

import shutil
import warnings
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from safetensors.torch import save_file

from slipway import atomic, digest
from slipway.errors import StageError

if TYPE_CHECKING:
    from slipway.params import FinetuneParams, LoraParams


def best_device() -> torch.device:
    """CUDA, else MPS, else the CPU."""
    if torch.cuda.is_available():
        return torch.device("cuda")
    return torch.device("mps" if torch.backends.mps.is_available() else "cpu")


def half_precision(precision: str, device: torch.device) -> bool:
    """Whether to compute in bf16; `auto` does where CUDA can."""
    if precision == "auto":
        return device.type == "cuda" and bool(torch.cuda.is_bf16_supported())
    return precision == "bf16"


def load(base: Path, dtype: torch.dtype) -> Any:
    """A causal language model from a folder; its own code is never run, its pickles are never read."""
    from transformers import AutoModelForCausalLM
    from transformers.utils import logging

    logging.disable_progress_bar()
    try:
        return AutoModelForCausalLM.from_pretrained(
            base,
            dtype=dtype,
            attn_implementation="sdpa",
            local_files_only=True,
            use_safetensors=True,
            trust_remote_code=False,
        )
    except (OSError, ValueError, KeyError) as error:
        reason = str(error).strip().splitlines()[0]
        raise StageError(
            f"{base} is no causal language model that Transformers can load: {reason}; choose another fetch.base"
        ) from None


@dataclass
class Tunable:
    """A model on its device, and the parameters that training may change, by name."""

    causal: Any  # the Hugging Face model itself; LoRA layers, where there are any, sit inside it
    peft: Any | None
    base: Path
    device: torch.device
    half: bool

    @property
    def parameters(self) -> dict[str, torch.nn.Parameter]:
        return {name: p for name, p in self.causal.named_parameters() if p.requires_grad}

    def autocast(self) -> torch.autocast:
        return torch.autocast(self.device.type, torch.bfloat16, enabled=self.half)

    def save(self, folder: Path, source: str) -> None:
        """Write the adapter (or the whole model), free of this machine's paths and of set order."""
        folder.mkdir(parents=True, exist_ok=True)
        if self.peft is None:
            self._save_whole(folder)
        else:
            self._save_adapter(folder, source)

    def _save_whole(self, folder: Path) -> None:
        for path in digest.files_under(self.base):
            if path.suffix != ".safetensors" and not path.name.endswith(".index.json") and path.name != digest.MANIFEST:
                (folder / path.relative_to(self.base)).parent.mkdir(parents=True, exist_ok=True)
                shutil.copyfile(path, folder / path.relative_to(self.base))
        config = (folder / "config.json").read_bytes()
        dtype = self.causal.config.dtype or torch.float32
        self.causal.to(dtype).save_pretrained(folder)
        (folder / "config.json").write_bytes(config)  # the base's own words: tuning changes weights only

    def _save_adapter(self, folder: Path, source: str) -> None:
        from peft import get_peft_model_state_dict

        assert self.peft is not None
        found = get_peft_model_state_dict(self.peft, save_embedding_layers=False)
        weights = {name: found[name].detach().cpu().contiguous() for name in sorted(found)}
        save_file(weights, folder / "adapter_model.safetensors", metadata={"format": "pt"})
        config = self.peft.peft_config["default"].to_dict()
        plain = {key: sorted(value) if isinstance(value, set | frozenset) else value for key, value in config.items()}
        plain |= {"base_model_name_or_path": source, "inference_mode": True}
        atomic.write_json(folder / "adapter_config.json", plain)


def _with_lora(causal: Any, lora: "LoraParams") -> Any:
    from peft import LoraConfig, TaskType, get_peft_model
    from transformers.pytorch_utils import Conv1D

    modules = lora.target_modules
    known = {name.rpartition(".")[2] for name, _ in causal.named_modules()}
    if isinstance(modules, list) and (unknown := sorted(set(modules) - known)):
        raise StageError(
            f"finetune.lora.target_modules names {unknown[0]!r}, which {type(causal).__name__} lacks; "
            f"write all-linear in params.yaml, or names the model has"
        )
    config = LoraConfig(
        task_type=TaskType.CAUSAL_LM,
        r=lora.rank,
        lora_alpha=lora.alpha,
        lora_dropout=lora.dropout,
        target_modules=modules,
        fan_in_fan_out=any(isinstance(m, Conv1D) for m in causal.modules()),  # GPT-2 stores weights transposed
    )
    with warnings.catch_warnings():
        warnings.filterwarnings(
            "ignore", "`is_gradient_checkpointing` is deprecated", FutureWarning
        )  # PEFT's own affair
        return get_peft_model(causal, config)


def prepare(base: Path, params: "FinetuneParams") -> Tunable:
    """The base, ready to be tuned by the method that params.yaml names."""
    device = best_device()
    half = half_precision(params.precision, device)
    # LoRA never changes the base, so bf16 holds it; full tuning needs fp32 masters under autocast.
    causal = load(base, torch.bfloat16 if half and params.method == "lora" else torch.float32)
    peft = _with_lora(causal, params.lora) if params.method == "lora" else None
    causal.to(device)
    causal.train()
    return Tunable(causal, peft, base, device, half)
