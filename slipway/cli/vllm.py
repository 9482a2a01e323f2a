"""`slipway vllm`: the command of a vLLM server, and the verified files that it serves."""

import json as json_module
import shlex
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from slipway import settings
from slipway.errors import UsageError

if TYPE_CHECKING:
    from slipway.generating.vllm_command import Options


def write(targets: Sequence[str], out: Path, options: "Options", json: bool) -> int:
    from slipway.generating import vllm_command
    from slipway.generating.composite_config import members_of
    from slipway.serving.config import FILE, ServingConfig

    _check(options)
    root = settings.find_root()
    settings.apply(root)
    made = {one.name: members_of(one) for one in ServingConfig.load(root / FILE).composites}
    wanted = dict.fromkeys(name for target in targets for name in made.get(target, [target]))
    words = vllm_command.write(root, list(wanted), out, options)
    script = out.resolve() / vllm_command.COMMAND
    if json:
        print(json_module.dumps({"command": words, "script": str(script)}, indent=2))
        return 0
    print(shlex.join(words))
    print(
        f"{script} runs the same, also where its folder is mounted elsewhere. Then, in {FILE}: engine: vllm, and "
        f"vllm_url: http://HOST:{options.port}, where HOST is the one that it runs on",
        file=sys.stderr,
    )
    return 0


def _check(options: "Options") -> None:
    if not 1 <= options.port <= 65535:
        raise UsageError(f"{options.port} is no port; name one from 1 to 65535 (--port)")
    if options.max_model_len is not None and options.max_model_len < 1:
        raise UsageError(f"--max-model-len is {options.max_model_len}; give at least 1 token")
    share = options.gpu_memory_utilization
    if share is not None and not 0 < share <= 1:
        raise UsageError(f"--gpu-memory-utilization is {share}; give a share above 0, at most 1")
    if options.tensor_parallel < 1:
        raise UsageError(f"--tensor-parallel is {options.tensor_parallel}; give at least 1 GPU")
