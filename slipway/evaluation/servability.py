"""Load the candidate in a process of its own, warm it and ask it a few prompts one by one, as a server would be asked.

    python -m slipway.evaluation.servability REQUEST RESULT     both JSON files

What it measures depends on the machine and the moment, so it is an observation of `register` and no stage's output.
It lives no longer than whoever started it: its standard input is a pipe, and the pipe's end is its own.
"""

import math
import os
import resource
import sys
import threading
import time
from pathlib import Path
from typing import Any

from slipway import atomic, digest, params, strict
from slipway.artifacts import Manifest, Servability
from slipway.evaluation import inference, testset
from slipway.progress import Progress


def probe(base: Path, adapter: Path, prepared: Path, chosen: params.EvaluateParams, prompts: int) -> Servability:
    """What serving this model is like here."""
    full = Manifest.load(adapter / digest.MANIFEST).facts["method"] == "full"
    tests = testset.load(prepared, chosen.max_rows)
    begin = time.perf_counter()
    (model,) = inference.models(base, adapter, full, {"tuned": ""}, chosen, {"tuned"})
    loaded = time.perf_counter() - begin
    examples = inference.encode(model.tokenizer, tests, model.limits.positions)
    asked = [examples[at * len(examples) // prompts] for at in range(min(prompts, len(examples)))]
    with inference.computing(chosen.threads):
        _answer(model, asked[-1])  # the longest of them: kernels chosen, memory grown
        progress, answers, seconds = Progress(2 * len(asked), "servability: prompt"), [], []
        for done, example in enumerate(asked, 1):
            start = time.perf_counter()
            answers.append(_answer(model, example))
            seconds.append(time.perf_counter() - start)
            progress.at(done)
        again = []
        for done, example in enumerate(asked, len(asked) + 1):
            again.append(_answer(model, example))
            progress.at(done)
    tokens = sum(len(answer) + 1 for answer in answers)  # the token that ended it was computed too
    return Servability(
        device=inference.device(),
        prompts=len(asked),
        load_seconds=round(loaded, 6),
        peak_bytes=_peak_bytes(),
        tokens_per_second=round(tokens / sum(seconds), 6),
        latency_p50_seconds=round(quantile(seconds, 0.50), 6),
        latency_p95_seconds=round(quantile(seconds, 0.95), 6),
        latency_p99_seconds=round(quantile(seconds, 0.99), 6),
        deterministic=answers == again,
    )


def _answer(model: inference.Model, example: inference.Example) -> list[int]:
    """One greedy answer in tokens; on an accelerator the clock waits for it, since the tokens are read back."""
    stops = inference.stop_tokens(model.tokenizer, model.network, example)
    return inference.answers(model.network, [example], model.limits, stops)[0]


def quantile(values: list[float], share: float) -> float:
    """The smallest value that at least this share of the values does not exceed: a latency that really occurred."""
    ordered = sorted(values)
    return ordered[max(0, math.ceil(share * len(ordered)) - 1)]


def _peak_bytes() -> int:
    """The most memory this process has held: the accelerator's where there is one, else its own."""
    import torch

    if torch.cuda.is_available():
        return int(torch.cuda.max_memory_reserved())
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else peak * 1024


def _follow_parent() -> None:
    """End at once when whoever holds the other end of standard input is gone."""

    def wait() -> None:
        while os.read(0, 4096):
            pass
        os._exit(1)

    threading.Thread(target=wait, name="parent", daemon=True).start()


def main(request: Path, result: Path) -> None:
    _follow_parent()
    asked: dict[str, Any] = strict.read_json(request)
    chosen = params.EvaluateParams.model_validate(asked["params"])
    folders = {name: Path(asked[name]) for name in ("base", "adapter", "prepared")}
    found = probe(**folders, chosen=chosen, prompts=asked["prompts"])
    atomic.write_json(result, found.model_dump(mode="json"))


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]))
