"""Which engine generates: the one place that knows them all."""

from collections.abc import Sequence
from importlib import import_module
from pathlib import Path

from slipway.errors import UsageError
from slipway.generating.jobs import Engine
from slipway.serving.config import ServingConfig


def open_engine(root: Path, config: ServingConfig, wanted: Sequence[str]) -> Engine:
    """The engine that configs/serving.yaml names, for versions as people write them; nothing is loaded before its `start`."""
    if config.engine == "vllm" and config.vllm_url is None:
        raise UsageError("the engine is vllm and `vllm_url` says not where it answers; set it in configs/serving.yaml")
    # Imported here, and by name: PyTorch takes seconds, and who serves through vLLM never needs it.
    module = import_module(f"slipway.generating.{config.engine}_engine")
    made: Engine
    if config.engine == "vllm":
        made = module.VllmEngine(root, list(wanted), config.vllm_url)
    else:
        batching = import_module("slipway.generating.engine_config").EngineConfig(**config.batching.model_dump())
        made = module.TransformersEngine(root, list(wanted), batching)
    return made
