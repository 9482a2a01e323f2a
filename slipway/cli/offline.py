"""`slipway predict`: many prompts answered offline by one version."""

import contextlib
import json as json_module
import sys
import time
from pathlib import Path
from typing import Any

from slipway import settings
from slipway.errors import UsageError


def predict(
    given: Path, out: Path, model: str, sampling: dict[str, Any], batch: int, shard_rows: int, threads: int | None,
    json: bool,
) -> int:  # fmt: skip
    root = settings.find_root()
    settings.apply(root)
    chosen = _checked(sampling, batch, shard_rows, threads)
    from slipway.generating import predict as predictions
    from slipway.generating.engine_config import EngineConfig
    from slipway.generating.jobs import Sampling
    from slipway.generating.transformers_engine import TransformersEngine

    engine = TransformersEngine(root, [model], EngineConfig(max_batch=batch, max_waiting=4 * batch, threads=threads))
    order = predictions.Order(given, out, Sampling(**chosen), shard_rows, in_flight=2 * batch)
    start = time.monotonic()
    # Progress is for people; with --json, standard output is for a program alone.
    with contextlib.redirect_stdout(sys.stderr) if json else contextlib.nullcontext():
        found = predictions.run(engine, order)
    seconds = time.monotonic() - start
    if json:
        print(json_module.dumps(found | {"seconds": round(seconds, 3), "out": str(out)}, indent=2))
    else:
        print(
            f"{found['rows']} rows answered by {found['model']}@{found['version']} in {out} "
            f"({found['answered_now']} of them now, {seconds:.1f} s)"
        )
    return 0


def _checked(sampling: dict[str, Any], batch: int, shard_rows: int, threads: int | None) -> dict[str, Any]:
    """Settings that can be; whoever asked for others is told which."""
    bounds = {
        "--max-tokens": (sampling["max_tokens"], 1, 1e6), "--temperature": (sampling["temperature"], 0, 100),
        "--top-p": (sampling["top_p"], 1e-9, 1), "--top-k": (sampling["top_k"], 0, 1e9),
        "--batch": (batch, 1, 1024), "--shard-rows": (shard_rows, 1, 1e6), "--threads": (threads or 1, 1, 1024),
    }  # fmt: skip
    for name, (value, least, most) in bounds.items():
        if not least <= value <= most:
            raise UsageError(f"{name} is {value}; give {least:g} to {most:g}")
    return sampling | {"stop": tuple(sampling["stop"])}
