"""Does the engine still answer? Several failures in a row and the replica is lost, until a question of its own is answered."""

import asyncio
import contextlib
import logging
import secrets
import time

from slipway.errors import SlipwayError
from slipway.generating.jobs import Engine, Job, Sampling

FAILURES = 3  # in a row
PROBE_SECONDS = 2.0  # between two questions of its own
_PATIENCE_SECONDS = 10.0


class Pulse:
    """What the last answers say of the engine."""

    def __init__(self, engine: Engine) -> None:
        self._engine = engine
        self._failures = 0
        self._suspected = asyncio.Event()

    @property
    def lost(self) -> bool:
        return self._failures >= FAILURES

    def answered(self) -> None:
        """One sound piece is proof enough."""
        self._failures = 0
        self._suspected.clear()

    def failed(self) -> None:
        self._failures += 1
        if self.lost:
            self._suspected.set()

    async def watch(self) -> None:
        """While it is lost nobody else asks it anything, so that it has to be asked from here."""
        while True:
            await self._suspected.wait()
            if await self._answers():
                self.answered()
            else:
                await asyncio.sleep(PROBE_SECONDS)

    async def _answers(self) -> bool:
        served = self._engine.served[0]
        try:
            prompt = self._engine.encode(served, "1")
            job = Job(
                f"probe-{secrets.token_hex(4)}", served, prompt, Sampling(1, 0), time.monotonic() + _PATIENCE_SECONDS
            )
            async with asyncio.timeout(_PATIENCE_SECONDS), contextlib.aclosing(self._engine.generate(job)) as pieces:  # type: ignore[type-var]
                return [piece async for piece in pieces][-1:] != []
        except Exception as error:  # a bug too: whoever watches must outlive whatever is watched
            if not isinstance(error, SlipwayError | TimeoutError):
                logging.getLogger("slipway.serving").exception("the engine's own question ended in a bug")
            return False
