"""The `vllm serve` command for versions of a project: vLLM lives in an image of its own, so it is written, not run.

place/base/  place/1.0.0/  …   verified copies, for vLLM to load
place/serve.sh                 the command, which works wherever the folder is mounted
"""

import shlex
import shutil
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from slipway import atomic, strict
from slipway.artifacts import Manifest
from slipway.errors import UsageError
from slipway.generating import opening
from slipway.generating.opening import Opened

COMMAND = "serve.sh"
# The ranks that vLLM has kernels for.
_RANKS = (8, 16, 32, 64, 128, 256, 320, 512)
_DTYPES = ("float16", "bfloat16", "float32")


@dataclass(frozen=True)
class Options:
    """What is the user's to choose; everything else comes from the versions."""

    host: str = "127.0.0.1"
    port: int = 8000
    max_model_len: int | None = None
    gpu_memory_utilization: float | None = None
    tensor_parallel: int = 1


def command(versions: Sequence[Opened], options: Options) -> list[str]:
    """`vllm serve …` for versions on one base: each under the name that requests carry."""
    if not versions:
        raise UsageError("nothing to serve was named; name a version, as in NAME@champion")
    bases = {version.base for version in versions}
    if len(bases) > 1:
        named = ", ".join(version.name for version in versions)
        raise UsageError(
            f"{named} stand on {len(bases)} bases, and one vLLM server serves one; start a server for each"
        )
    (base,) = bases
    whole = [version for version in versions if version.adapter is None]
    name = whole[0].name if whole else f"{versions[0].model}@{opening.BASE}"
    words = ["vllm", "serve", str(base), "--served-model-name", name, "--dtype", _dtype(base)]
    words += _lora([version for version in versions if version.adapter is not None])
    words += ["--host", options.host, "--port", str(options.port)]
    if options.max_model_len:
        words += ["--max-model-len", str(options.max_model_len)]
    if options.gpu_memory_utilization:
        words += ["--gpu-memory-utilization", f"{options.gpu_memory_utilization:g}"]
    if options.tensor_parallel > 1:
        words += ["--tensor-parallel-size", str(options.tensor_parallel)]
    # Sampling comes with each request; the base's own generation settings must not slip in.
    return [*words, "--generation-config", "vllm"]


def _lora(tuned: Sequence[Opened]) -> list[str]:
    if not tuned:
        return []
    rank = max(_rank(version) for version in tuned)
    words = ["--enable-lora", "--max-loras", str(len(tuned)), "--max-lora-rank", str(rank), "--lora-modules"]
    return [*words, *(f"{version.name}={version.adapter}" for version in tuned)]


def _rank(version: Opened) -> int:
    """The smallest rank vLLM has that holds the adapter's largest."""
    assert version.adapter is not None
    config = strict.read_json(version.adapter / "adapter_config.json")
    largest = max([config["r"], *(config.get("rank_pattern") or {}).values()])
    found = next((rank for rank in _RANKS if rank >= largest), None)
    if found is None:
        raise UsageError(f"{version.name} has the LoRA rank {largest}; vLLM serves at most {_RANKS[-1]}")
    return found


def _dtype(base: Path) -> str:
    """The precision the base's weights have."""
    config = strict.read_json(base / "config.json")
    named = str(config.get("dtype") or config.get("torch_dtype") or "auto").removeprefix("torch.")
    return named if named in _DTYPES else "auto"


def write(root: Path, targets: Sequence[str], place: Path, options: Options) -> list[str]:
    """Verified copies of the versions in a folder, and the command that serves them from there."""
    if place.exists() and any(place.iterdir()):
        raise UsageError(f"{place} is not empty; name a new folder, so that nothing else is served from it")
    place = place.resolve()
    with opening.opened(root, targets) as found:
        command(found, options)  # says what cannot be served so, before gigabytes are copied
        copied = [_copied(version, place) for version in found]
    words = command(copied, options)
    there = [word.replace(f"{place}/", "./") for word in words]
    atomic.write_text(place / COMMAND, f'#!/bin/sh\ncd "$(dirname "$0")" && exec {shlex.join(there)}\n')
    return words


def _copied(version: Opened, place: Path) -> Opened:
    base = place / ("base" if version.adapter or version.version == opening.BASE else version.version)
    adapter = place / version.version if version.adapter else None
    for source, target in ((version.base, base), (version.adapter, adapter)):
        if source is not None and target is not None and not target.exists():
            shutil.copytree(source, target, copy_function=shutil.copyfile)
            for folder in (target, *(path for path in target.rglob("*") if path.is_dir())):
                folder.chmod(0o755)
            Manifest.verified(target)
    return Opened(version.model, version.version, version.identity, base, adapter, version.facts)
