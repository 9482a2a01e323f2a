"""A loaded base with the adapters of every version that was tuned on it; each row of a batch goes through its own."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from safetensors import safe_open

from slipway import strict
from slipway.errors import StageError
from slipway.evaluation import inference
from slipway.evaluation.testset import Row
from slipway.generating.prompts import Prompts

BASE = "__base__"  # PEFT's word for a row without an adapter
_KINDS = ("full_attention", "sliding_attention")
_TOLERANCE = {torch.float32: 1e-3, torch.float16: 0.1, torch.bfloat16: 0.3}  # of a logit's spread


class Network:
    """One model in memory."""

    def __init__(self, folder: Path) -> None:
        self.prompts = Prompts(folder)
        self.model = inference.load_model(folder)
        config = self.model.config.get_text_config()
        self.layers = int(config.num_hidden_layers)
        self.windows = _windows(config, folder)
        self.context = inference.positions_of(self.model) or 10**6
        self.stops = self.prompts.stops(self.model)
        self.adapters: list[str] = []
        self.changed: dict[str, str] = {}  # adapters that change more than LoRA layers, and what
        self._names: list[str] = []  # of the rows of the pass that runs now

    @property
    def device(self) -> torch.device:
        return self.model.device

    def add(self, folder: Path) -> str:
        """Load one more adapter; gives its name here."""
        _check_adapter(folder)
        name = f"adapter{len(self.adapters)}" if self.adapters else "default"  # PEFT's own name for the first
        if not self.adapters:
            self._peft = inference.add_adapter(self.model, folder)
            self.model = self._peft.get_base_model()
            self._hook()
        else:
            self._peft.load_adapter(str(folder), adapter_name=name, is_trainable=False)
            self._peft.eval()
        self.adapters.append(name)
        if changed := _beyond_lora(folder):
            self.changed[name] = changed
        return name

    def _hook(self) -> None:
        """Tell every LoRA layer whose row is whose. PEFT does so by hooks too, but anew for each pass."""
        from peft.tuners.lora import LoraLayer

        def told(module: Any, args: Any, kwargs: Any) -> Any:
            return args, {**kwargs, "adapter_names": self._names}

        for module in self.model.modules():
            if isinstance(module, LoraLayer):
                module.register_forward_pre_hook(told, with_kwargs=True)

    def forward(self, adapters: Sequence[str], **inputs: Any) -> torch.Tensor:
        """The logits at the end of each row, [rows, vocabulary]; the cache among the inputs has grown."""
        self._names = list(adapters)
        return inference.forward(self.model, **inputs, use_cache=True, logits_to_keep=1).logits[:, -1]

    def likelihood(self, adapter: str, prompt: list[int], answer: str) -> float:
        """The mean log-likelihood of an answer's tokens, by evaluation's own losses."""
        tokens = self.prompts.tokens_of_answer(answer)
        if not tokens or len(prompt) + len(tokens) > self.context:
            return float("-inf")
        self._names = [adapter]
        example = inference.Example(Row("", "[]", "", answer, None), prompt, prompt, tokens)
        return -inference.losses(self.model, [example])[0] / len(tokens)

    def plain(self, adapter: str, tokens: list[int]) -> torch.Tensor:
        """The logits after some tokens, read in one pass without any cache."""
        self._names = [adapter]
        inputs = inference.padded(self.model, [tokens])
        return inference.forward(self.model, **inputs, use_cache=False, logits_to_keep=1).logits[0, -1]


def _windows(config: Any, folder: Path) -> tuple[int | None, ...]:
    """How far each kind of layer looks back; nothing where all of them look at everything."""
    window: Any = getattr(config, "sliding_window", None)
    kinds = sorted(set(getattr(config, "layer_types", None) or ([_KINDS[1]] if window else [_KINDS[0]])))
    if odd := [kind for kind in kinds if kind not in _KINDS]:
        raise StageError(
            f"{folder} has layers of the kind {odd[0]}, which this engine does not run; serve it with vLLM"
        )
    if kinds == [_KINDS[0]]:
        return ()
    return tuple(int(window) if kind == _KINDS[1] else None for kind in kinds)


def _check_adapter(folder: Path) -> None:
    config = strict.read_json(folder / "adapter_config.json")
    if config.get("peft_type") != "LORA":
        raise StageError(f"{folder} is an adapter of the kind {config.get('peft_type')!r:.40}; this engine runs LORA")
    if config.get("use_dora"):
        raise StageError(f"{folder} is an adapter with DoRA, which this engine does not run; serve it with vLLM")


def _beyond_lora(folder: Path) -> str | None:
    """What of the base an adapter puts its own in place of: a tensor's name. No row of a batch can go around that."""
    if parameters := strict.read_json(folder / "adapter_config.json").get("target_parameters"):
        return str(parameters[0])
    with safe_open(folder / "adapter_model.safetensors", "pt") as tensors:
        return next((name for name in sorted(tensors.keys()) if ".lora_" not in name), None)


def check(network: Network) -> None:
    """Rows of different lengths and adapters, run together step by step, give what each gives alone; and all is warm.

    A kind of model whose attention this engine's cache does not suit is found here, before anybody is served.
    """
    from transformers.cache_utils import DynamicCache

    from slipway.generating.slots import Slots

    adapters = [BASE, *network.adapters]
    words = network.prompts.tokens("The quick brown fox jumps over the lazy dog, twice.") or [0]
    most = min(len(words), max(2, network.context - 3))
    rows = [words[: max(1, most - 2 * (at % 3))] for at in range(max(2, len(adapters)))]
    names = [adapters[at % len(adapters)] for at in range(len(rows))]
    slots, staged = Slots(network.layers, network.windows, network.model.dtype), DynamicCache()
    network.forward(names, **inference.padded(network.model, rows), past_key_values=staged)
    slots.join(staged, [len(row) for row in rows])
    for token in (words[0], words[-1]):
        rows = [[*row, token] for row in rows]
        tokens = torch.tensor([[token]] * len(rows), device=network.device)
        together = network.forward(names, input_ids=tokens, **slots.step(network.device))
        slots.wrote()
    alone = torch.stack([network.plain(name, row) for name, row in zip(names, rows, strict=True)])
    apart = float((together.float() - alone.float()).abs().max() / alone.float().std().clamp(min=1e-9))
    if not apart <= _TOLERANCE.get(network.model.dtype, 0.3):
        raise StageError(
            f"{type(network.model).__name__} answers differently in a batch than alone (by {apart:.2g} of a logit's "
            f"spread); this engine does not suit it, serve it with vLLM"
        )
