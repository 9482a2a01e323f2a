"""Which engine generates: the one place that knows them all."""

from collections.abc import Sequence
from importlib import import_module
from pathlib import Path

from slipway.errors import SlipwayError, UsageError
from slipway.generating.composite_config import Composite, members_of, places
from slipway.generating.jobs import Engine
from slipway.serving.config import FILE, ServingConfig, mistake


def open_engine(root: Path, config: ServingConfig, wanted: Sequence[str]) -> Engine:
    """What answers for versions as people write them, and for composites by name; nothing is loaded before its `start`.

    All composites of the file are made, or, where some are named, only those. Their members are loaded too.
    """
    named = [one for one in config.composites if one.name in wanted]
    composites = named or config.composites
    if not composites:
        return _of_versions(root, config, wanted)
    _check(root, config, composites)
    members = [member for one in composites for member in members_of(one)]
    versions = [name for name in wanted if name not in {one.name for one in named}]
    made = import_module("slipway.generating.composite")
    together = import_module("slipway.generating.together")
    engine = _of_versions(root, config, list(dict.fromkeys([*versions, *members])))
    first = wanted or [one.name for one in composites]
    opened: Engine = together.Together([engine, made.CompositeEngine([engine], composites)], first)
    return opened


def _of_versions(root: Path, config: ServingConfig, wanted: Sequence[str]) -> Engine:
    """The engine that configs/serving.yaml names."""
    if config.engine == "vllm" and config.vllm_url is None:
        raise UsageError(
            "the engine is vllm and `vllm_url` says not where it answers; set it in configs/serving.yaml "
            "(`slipway vllm` writes the command that starts it)"
        )
    # Imported here, and by name: PyTorch takes seconds, and who serves through vLLM never needs it.
    module = import_module(f"slipway.generating.{config.engine}_engine")
    made: Engine
    if config.engine == "vllm":
        made = module.VllmEngine(root, list(wanted), config.vllm_url)
    else:
        batching = import_module("slipway.generating.engine_config").EngineConfig(**config.batching.model_dump())
        made = module.TransformersEngine(root, list(wanted), batching)
    return made


def _check(root: Path, config: ServingConfig, composites: Sequence[Composite]) -> None:
    """What only the project knows of composites, before anything is loaded: their names, their members, the room."""
    from slipway.generating import opening

    path, known, most = root / FILE, opening.models(root), config.batching.max_waiting
    for composite in composites:
        place = ("composites", config.composites.index(composite))
        if composite.name in known:
            raise mistake(path, (*place, "name"), f"{composite.name} is a model that is registered; name it otherwise")
        for within, member in places(composite):
            try:
                opening.resolve(root, member)
            except SlipwayError as error:
                raise mistake(path, (*place, *within), str(error)) from None
        if config.engine == "transformers" and (made := config.admission.running * composite.answers) > most:
            raise mistake(
                path,
                place,
                f"{config.admission.running} requests at once (admission.running) with {composite.answers} answers made "
                f"for each are {made}, and {most} may wait in the engine (batching.max_waiting); lower or raise one",
            )
