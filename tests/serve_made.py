"""`slipway serve` with the made engine in place of a model: `python tests/serve_made.py TARGET --port 0`, in a project's folder."""

import sys
from collections.abc import Sequence
from pathlib import Path

from made_engine import MadeEngine

from slipway import cli
from slipway.errors import Refused
from slipway.generating.jobs import Engine
from slipway.serving import engines
from slipway.serving.config import ServingConfig


class Unsound(MadeEngine):
    async def start(self) -> None:
        raise Refused("desk 1.0.0: base/model.safetensors has changed since it was signed; nothing was served")


def made(root: Path, config: ServingConfig, wanted: Sequence[str]) -> Engine:
    if wanted[0].startswith("unsound"):
        return Unsound()
    return MadeEngine(start_seconds=1.0 if wanted[0].startswith("slow") else 0.0)


if __name__ == "__main__":
    engines.open_engine = made
    cli.main(["serve", *sys.argv[1:]])
