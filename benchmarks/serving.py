"""Tokens a second and latency of our engine against `transformers serve`, on one model, at 1, 8 and 32 clients.

    python benchmarks/serving.py FILE [--clients 1 8 32] [--seconds 20] [--tokens 64] [--hidden 256] [--threads 1]

Each side is a server process of its own that streams over HTTP; the clients are the same, ask the same prompts and read
every event. Ours stands behind a front of this file's own, as thin as one can be: what is measured is the engine (with
--url, a server that runs already instead, `slipway serve` for one). Theirs runs twice: as it comes, and with
--continuous-batching where that runs here. The model has random weights, on which speed does not depend; answers are
greedy and of equal length on both sides. Beside wall time the server's CPU time is told: other work on the machine
moves that less. Sides take turns within a level, and both are warmed first.
"""

import argparse
import asyncio
import json
import os
import random
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import AsyncIterator, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
sys.path[:0] = [str(ROOT), str(ROOT / "tests")]

import httpx2 as httpx  # noqa: E402
import psutil  # noqa: E402

VOCABULARY = 32_000
READY_SECONDS = 300


# --- the model ----------------------------------------------------------------------------------------------------------


def build(folder: Path, hidden: int) -> Path:
    """A Llama of 4 layers with a tokenizer of 32,000 made-up words."""
    from model_folders import make_llama
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers
    from transformers import PreTrainedTokenizerFast

    shape = {"num_hidden_layers": 4, "num_attention_heads": hidden // 64, "max_position_embeddings": 2048}
    make_llama(folder, hidden_size=hidden, intermediate_size=hidden * 8 // 3, vocab_size=VOCABULARY, **shape)
    words = {"<|im_start|>": 0, "<|im_end|>": 1, "<|pad|>": 2, "<|unk|>": 3}
    words |= {f"▁w{number}": number for number in range(4, VOCABULARY)}
    tokenizer = Tokenizer(models.WordLevel(words, unk_token="<|unk|>"))
    tokenizer.pre_tokenizer = pre_tokenizers.Metaspace()
    tokenizer.decoder = decoders.Metaspace()
    special = {"eos_token": "<|im_end|>", "pad_token": "<|pad|>", "unk_token": "<|unk|>"}
    wrapped = PreTrainedTokenizerFast(tokenizer_object=tokenizer, **special)
    wrapped.chat_template = "{% for m in messages %}{{ m['content'] }} {% endfor %}"
    wrapped.save_pretrained(folder)
    return folder


def prompts(count: int) -> list[str]:
    draw = random.Random(7)
    return [
        " ".join(f"w{draw.randrange(4, VOCABULARY)}" for _ in range(draw.choice([20, 60, 150]))) for _ in range(count)
    ]


# --- the servers --------------------------------------------------------------------------------------------------------


async def front(root: Path, port: int, threads: int) -> None:
    """Our engine behind the least HTTP that streams."""
    import uvicorn
    from starlette.applications import Starlette
    from starlette.requests import Request
    from starlette.responses import JSONResponse, StreamingResponse
    from starlette.routing import Route

    from slipway.generating.engine_config import EngineConfig
    from slipway.generating.jobs import Job, Sampling
    from slipway.generating.transformers_engine import TransformersEngine

    engine = TransformersEngine(root, ["bench@base"], EngineConfig(threads=threads))
    await engine.start()
    served = engine.served[0]

    async def complete(request: Request) -> StreamingResponse:
        body = await request.json()
        prompt = engine.encode(served, body["prompt"])
        job = Job("", served, prompt, Sampling(body["max_tokens"], temperature=0.0), time.monotonic() + 600)

        async def events() -> AsyncIterator[str]:
            async for piece in engine.generate(job):
                event = {"choices": [{"text": piece.text, "finish_reason": piece.finish, "index": 0}]}
                yield f"data: {json.dumps(event)}\n\n"
            yield "data: [DONE]\n\n"

        return StreamingResponse(events(), media_type="text/event-stream")

    async def health(_: Request) -> JSONResponse:
        return JSONResponse(engine.load())

    app = Starlette(routes=[Route("/v1/completions", complete, methods=["POST"]), Route("/health", health)])
    await uvicorn.Server(uvicorn.Config(app, port=port, log_level="warning")).serve()


@dataclass
class Side:
    """A server that answers, and what was measured of it by the number of clients."""

    name: str
    command: list[str]
    model: str
    url: str
    process: Any = None
    found: dict[int, dict[str, float]] = field(default_factory=dict)

    @property
    def cpu(self) -> float:
        """Seconds of processor time that the server and its children have used."""
        if self.process is None:
            return 0.0
        main = psutil.Process(self.process.pid)
        return sum(sum(one.cpu_times()[:2]) for one in [main, *main.children(recursive=True)])


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def sides(root: Path, model: Path, arguments: argparse.Namespace) -> list[Side]:
    def theirs(name: str, *more: str) -> Side:
        port = free_port()
        serve = [str(Path(sys.executable).with_name("transformers")), "serve", str(model), "--port", str(port)]
        return Side(
            name, [*serve, "--device", "cpu", "--dtype", "float32", *more], str(model), f"http://localhost:{port}"
        )

    port = free_port()
    ours = [sys.executable, __file__, "-", "--front", str(root), str(port), "--threads", str(arguments.threads)]
    first = Side("ours", ours, "bench@base", f"http://127.0.0.1:{port}")
    if arguments.url:
        first = Side("ours", [], arguments.model or "bench@base", arguments.url)
    batching = theirs("transformers serve --continuous-batching", "--continuous-batching")
    return [first, theirs("transformers serve"), batching]


@contextmanager
def running(side: Side, log: Path, threads: int) -> Iterator[bool]:
    """Start a server; False where it does not answer."""
    if not side.command:
        yield True
        return
    environment = os.environ | {"OMP_NUM_THREADS": str(threads), "HF_HUB_OFFLINE": "1"}
    with log.open("wb") as said, subprocess.Popen(side.command, stdout=said, stderr=said, env=environment) as process:
        side.process = process
        try:
            yield asyncio.run(_answers(side))
        finally:
            process.terminate()
            try:
                process.wait(20)
            except subprocess.TimeoutExpired:
                process.kill()


async def _answers(side: Side) -> bool:
    deadline = time.monotonic() + READY_SECONDS
    async with httpx.AsyncClient(timeout=60, trust_env=False) as client:
        while time.monotonic() < deadline and side.process.poll() is None:
            try:
                if (await client.get(f"{side.url}/health")).status_code == 200:
                    return (await ask(client, side, "w5 w6 w7", 8))[2] > 0
            except httpx.HTTPError:
                await asyncio.sleep(0.2)
    return False


# --- the clients --------------------------------------------------------------------------------------------------------


async def ask(client: httpx.AsyncClient, side: Side, prompt: str, tokens: int) -> tuple[float, float, int]:
    """Seconds to the first text and to the end, and how many pieces of text came."""
    body = {"model": side.model, "prompt": prompt, "max_tokens": tokens, "temperature": 0, "stream": True}
    begun, first, pieces = time.perf_counter(), 0.0, 0
    async with client.stream("POST", f"{side.url}/v1/completions", json=body) as answer:
        if answer.status_code != 200:
            raise RuntimeError(f"{side.name}: {answer.status_code} {(await answer.aread())[:300]!r}")
        async for line in answer.aiter_lines():
            if line.startswith("data: {") and (json.loads(line[6:]).get("choices") or [{}])[0].get("text"):
                pieces += 1
                first = first or time.perf_counter() - begun
    return first, time.perf_counter() - begun, pieces


async def level(side: Side, clients: int, seconds: float, tokens: int) -> dict[str, float]:
    """So many clients, each asking again as soon as it is answered, until the time is over."""
    asked = prompts(500)
    times: list[tuple[float, float, int]] = []

    # One pool of connections: a client object each would cost the clients more than the server.
    limits = httpx.Limits(max_connections=None, max_keepalive_connections=clients)
    async with httpx.AsyncClient(timeout=600, limits=limits, verify=False, trust_env=False) as client:

        async def one(number: int) -> None:
            turn = number
            while turn == number or time.perf_counter() < end:
                times.append(await ask(client, side, asked[turn % len(asked)], tokens))
                turn += clients

        end, processor, clock = time.perf_counter() + seconds, side.cpu, time.perf_counter()
        await asyncio.gather(*(one(number) for number in range(clients)))
    wall, cpu = time.perf_counter() - clock, side.cpu - processor
    made = tokens * len(times)
    firsts, wholes = sorted(t[0] for t in times), sorted(t[1] for t in times)

    def at(values: list[float], share: float) -> float:
        return values[min(len(values) - 1, int(share * len(values)))]

    return {
        "answers": len(times), "tokens_per_second": made / wall, "tokens_per_cpu_second": made / cpu if cpu else 0.0,
        "first_p50": at(firsts, 0.5), "first_p95": at(firsts, 0.95), "p50": at(wholes, 0.5), "p95": at(wholes, 0.95),
        "shortest_pieces": min(t[2] for t in times),
    }  # fmt: skip


def shown(side: Side, clients: int, about: dict[str, float], ours: dict[str, float]) -> str:
    ratio = ours["tokens_per_second"] / about["tokens_per_second"]
    cpu = ours["tokens_per_cpu_second"] / about["tokens_per_cpu_second"] if about["tokens_per_cpu_second"] else 0.0
    return (
        f"{side.name:45} {clients:3} clients: {about['tokens_per_second']:7.0f} tokens/s, "
        f"{about['tokens_per_cpu_second']:7.0f} a CPU second, first text {about['first_p50']:.3f}/{about['first_p95']:.3f} s, "
        f"answer {about['p50']:.3f}/{about['p95']:.3f} s (p50/p95), {about['answers']:.0f} answers; "
        f"ours is {ratio:.2f}× (CPU {cpu:.2f}×)"
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("file", help="where the figures go, as JSON")
    parser.add_argument("--clients", type=int, nargs="+", default=[1, 8, 32])
    parser.add_argument("--seconds", type=float, default=20)
    parser.add_argument("--tokens", type=int, default=64)
    parser.add_argument("--hidden", type=int, default=256)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--url")
    parser.add_argument("--model", help="the model's name where --url is given")
    parser.add_argument("--front", nargs=2, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.front:
        return asyncio.run(front(Path(arguments.front[0]), int(arguments.front[1]), arguments.threads))
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(1))  # the servers end with it
    with tempfile.TemporaryDirectory() as folder:
        measure(Path(folder), arguments)


def measure(folder: Path, arguments: argparse.Namespace) -> None:
    import served_models

    project = served_models.project(folder / "project", lambda path: build(path, arguments.hidden))
    every = sides(project.root, project.path("base"), arguments)
    from contextlib import ExitStack

    with ExitStack() as stack:
        alive = []
        for number, side in enumerate(every):
            log = folder / f"{number}.log"
            if stack.enter_context(running(side, log, arguments.threads)):
                alive.append(side)
            else:
                print(f"{side.name}: does not run here: {log.read_text()[-400:]}", flush=True)
        for clients in arguments.clients:
            for side in alive:
                side.found[clients] = asyncio.run(level(side, clients, arguments.seconds, arguments.tokens))
                print(shown(side, clients, side.found[clients], alive[0].found[clients]), flush=True)
    figures = {side.name: {str(clients): about for clients, about in side.found.items()} for side in alive}
    Path(arguments.file).write_text(json.dumps({"arguments": vars(arguments), "sides": figures}, indent=2) + "\n")


if __name__ == "__main__":
    main()
