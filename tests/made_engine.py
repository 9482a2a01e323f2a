"""A real Engine without a model: text made from the prompt, as slow and as faulty as the prompt says.

What the last message (or the text) holds steers it, so that a test over HTTP needs no other door:
`fault:NAME` is one of FAULTS, `delay:0.05` the seconds a token takes, `tokens:9` how many there are.
"""

import asyncio
import hashlib
import re
from collections import Counter
from collections.abc import AsyncIterator, Sequence
from typing import Any

from slipway.errors import StageError, Transient, UsageError
from slipway.generating.jobs import Job, Piece, Served

CONTEXT = 2000
SERVED = Served(
    "desk",
    "1.0.0",
    "1d" * 32,
    CONTEXT,
    {"run": "0" * 32, "release": "20261121-000000-abcdef", "asked_as": ["desk@champion"]},
)
FAULTS = (
    *("hang", "hang_after_first", "lost", "lost_midway", "failed", "bug", "bug_midway"),
    *("empty", "surrogate", "nul", "nan", "cut", "too_many", "not_text", "bad_finish", "nothing"),
)


class MadeEngine:
    """Answers `word-0 word-1 …`, each word from a digest of what was asked: equal questions, equal answers."""

    def __init__(self, served: Sequence[Served] = (SERVED,), start_seconds: float = 0.0) -> None:
        self.served = tuple(served)
        self._start_seconds = start_seconds
        self._texts: dict[int, str] = {}
        self.started: Counter[str] = Counter()  # jobs begun, by prompt
        self.closed: Counter[str] = Counter()  # jobs whose iterator was closed, by prompt
        self.broken: bool | Exception = False  # whatever is asked
        self.running = 0
        self.batches: Counter[int] = Counter()

    async def start(self) -> None:
        await asyncio.sleep(self._start_seconds)

    def encode(self, served: Served, prompt: str | Sequence[dict[str, Any]]) -> tuple[int, ...]:
        if not isinstance(prompt, str):
            if any(one["content"] == "refused by the template" for one in prompt):
                raise UsageError("the template wants user and assistant in turn")
            prompt = "\n".join(f"<{one['role']}>{one['content']}" for one in prompt)
        return tuple(prompt.encode())

    async def generate(self, job: Job) -> AsyncIterator[Piece]:
        prompt = bytes(job.prompt).decode()
        self.started[prompt] += 1
        if isinstance(self.broken, Exception):
            raise self.broken
        if self.broken:
            raise Transient("CUDA device lost at 0xdeadbeef")
        self.running += 1
        self.batches[self.running] += 1
        try:
            async for piece in self._made(job, prompt):
                yield piece
        finally:
            self.running -= 1
            self.closed[prompt] += 1

    async def _made(self, job: Job, prompt: str) -> AsyncIterator[Piece]:
        delay = float(_said(prompt, "delay", "0"))
        count = min(int(_said(prompt, "tokens", "4")), job.sampling.max_tokens)
        fault = _said(prompt, "fault", "")
        if fault:
            async for piece in _faulty(fault, job):
                yield piece
            return
        seed = [job.served.identity, prompt, job.sampling.seed if job.sampling.temperature else None]
        if not job.sampling.deterministic:
            seed.append(self.started[prompt])
        words = hashlib.sha256(repr(seed).encode()).hexdigest()
        for number in range(count):
            await asyncio.sleep(delay)
            last = number == count - 1
            wanted = int(_said(prompt, "tokens", "4"))
            finish = ("length" if count < wanted else "stop") if last else None
            yield Piece(f"{words[number % 60 : number % 60 + 4]}é ", 1, finish, 0.001 if not number else 0.0)

    def load(self) -> dict[str, Any]:
        return {
            "running": self.running, "waiting": 0, "batch_sizes": dict(self.batches), "device_memory_bytes": 12345,
        }  # fmt: skip

    async def stop(self) -> None:
        self.running = 0


def _said(prompt: str, name: str, otherwise: str) -> str:
    found = re.findall(rf"{name}:([\w.]+)", prompt)
    return found[-1] if found else otherwise


async def _faulty(fault: str, job: Job) -> AsyncIterator[Piece]:
    assert fault in FAULTS, fault
    if fault == "hang":
        await asyncio.Event().wait()
    if fault == "lost":
        raise Transient("CUDA device lost at 0xdeadbeef")
    if fault == "failed":
        raise StageError("the weights are gone")
    if fault == "bug":
        raise ZeroDivisionError("a bug in the engine")
    if fault == "nothing":
        return
    if fault in _GARBAGE:
        yield _GARBAGE[fault]
        return
    yield Piece("begun ", 1)
    if fault == "hang_after_first":
        await asyncio.Event().wait()
    if fault == "lost_midway":
        raise Transient("CUDA device lost at 0xdeadbeef")
    if fault == "bug_midway":
        raise ZeroDivisionError("a bug in the engine")
    if fault == "too_many":
        yield Piece("much", job.sampling.max_tokens, "stop")
    if fault == "empty":
        raise AssertionError("unreachable")
    return  # cut


_GARBAGE: dict[str, Any] = {
    "empty": Piece("", 7, "stop"),
    "surrogate": Piece("bad \ud800", 1, "stop"),
    "nul": Piece("\0\0\0", 3, "stop"),
    "nan": Piece("text", float("nan"), "stop"),  # type: ignore[arg-type]
    "not_text": Piece(b"bytes", 1, "stop"),  # type: ignore[arg-type]
    "bad_finish": Piece("text", 1, "exploded"),  # type: ignore[arg-type]
}
