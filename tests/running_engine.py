"""An engine on an event loop of its own thread, asked from plain test code."""

import asyncio
import itertools
import threading
import time
from collections.abc import Coroutine, Iterator, Sequence
from contextlib import contextmanager
from typing import Any, TypeVar

from slipway.generating.jobs import Engine, Job, Piece, Sampling, Served

T = TypeVar("T")
_ids = itertools.count()


class Running:
    """Asks an engine and waits for what it says."""

    def __init__(self, engine: Any, loop: asyncio.AbstractEventLoop) -> None:
        self.engine, self.loop = engine, loop

    def do(self, work: Coroutine[Any, Any, T], seconds: float = 120) -> T:
        return asyncio.run_coroutine_threadsafe(work, self.loop).result(seconds)

    def named(self, version: str) -> Served:
        return next(served for served in self.engine.served if served.version == version)

    def job(self, prompt: Sequence[int], version: str = "1.0.0", seconds: float = 100, **sampling: Any) -> Job:
        chosen = Sampling(**{"max_tokens": 20, "temperature": 0.0, **sampling})
        return Job(f"job-{next(_ids)}", self.named(version), tuple(prompt), chosen, time.monotonic() + seconds)

    async def pieces(self, job: Job) -> list[Piece]:
        return [piece async for piece in self.engine.generate(job)]

    async def text(self, job: Job) -> str:
        return "".join(piece.text for piece in await self.pieces(job))

    def say(self, prompt: Sequence[int], version: str = "1.0.0", **sampling: Any) -> str:
        return self.do(self.text(self.job(prompt, version, **sampling)))

    def until(self, true: Any, seconds: float = 30) -> None:
        """Wait for something in the engine's own count."""
        deadline = time.monotonic() + seconds
        while not true(self.engine.load()):
            assert time.monotonic() < deadline, self.engine.load()
            time.sleep(0.002)


@contextmanager
def running(engine: Engine) -> Iterator[Running]:
    loop = asyncio.new_event_loop()
    thread = threading.Thread(target=loop.run_forever, daemon=True)
    thread.start()
    found = Running(engine, loop)
    try:
        found.do(engine.start())
        yield found
    finally:
        found.do(engine.stop())
        loop.call_soon_threadsafe(loop.stop)
        thread.join()
        loop.close()
