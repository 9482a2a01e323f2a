"""`slipway serve`: one replica of one or more versions."""

import asyncio
import json as json_module
import socket
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from slipway import settings
from slipway.errors import UsageError

if TYPE_CHECKING:
    from slipway.serving.config import ServingConfig
    from slipway.serving.replica import Replica

EngineName = Literal["transformers", "vllm"]


def serve(targets: Sequence[str], host: str, port: int, engine: EngineName | None, composites: bool, json: bool) -> int:
    from slipway.serving.config import FILE, ServingConfig

    if not 0 <= port <= 65535:
        raise UsageError(f"{port} is no port; name one from 0 (any free one) to 65535")
    root = settings.find_root()
    config = ServingConfig.load(root / FILE)
    if engine is not None:
        config = config.model_copy(update={"engine": engine})
    if not composites:
        config = config.model_copy(update={"composites": []})
    if not targets and not config.composites:
        raise UsageError("name what is served, as in `slipway serve support-desk@champion`")
    settings.apply(root)
    from slipway.serving import server  # FastAPI and uvicorn: only a server waits for them

    with server.listen(host, port) as listener:
        asyncio.run(_serve(root, config, list(targets), listener, json))
    return 0


async def _serve(root: Path, config: "ServingConfig", targets: list[str], listener: socket.socket, json: bool) -> None:
    from slipway.serving import engines, server
    from slipway.serving.replica import Replica

    replica = Replica(root, config, engines.open_engine(root, config, targets))
    await server.serve(server.Server(replica), listener, lambda: _say(replica, server.address(listener), json))


def _say(replica: "Replica", address: str, json: bool) -> None:
    """One line, once it is ready: whoever started it waits for that."""
    served = [{"model": one.model, "version": one.version, "identity": one.identity} for one in replica.served]
    if json:
        print(json_module.dumps({"address": address, "replica": replica.name, "served": served}), flush=True)
        return
    named = ", ".join(f"{one.name} (identity {one.identity[:16]})" for one in replica.served)
    print(f"{address} answers with {named}; Ctrl-C ends it", flush=True)
