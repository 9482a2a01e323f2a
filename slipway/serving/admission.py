"""How much is taken on at once: so many answers at the engine, so many in line, first come first served; the rest is told to come back."""

import asyncio
import contextlib
import math
import time
from collections import deque
from collections.abc import AsyncIterator

from slipway.serving import problems
from slipway.serving.config import Admission

_RETRY = (1, 60)  # seconds
_WEIGHT = 0.1  # of the newest answer in the mean


class Queue:
    """The line before the engine."""

    def __init__(self, config: Admission) -> None:
        self._config = config
        self._waiting: deque[asyncio.Future[None]] = deque()
        self.running = 0
        self._mean_seconds = 1.0

    @property
    def waiting(self) -> int:
        return len(self._waiting)

    @contextlib.asynccontextmanager
    async def turn(self) -> AsyncIterator[float]:
        """One answer's place at the engine; gives the seconds that it was waited for, or raises 429."""
        began = time.monotonic()
        await self._enter()
        entered = time.monotonic()
        try:
            yield entered - began
        finally:
            self._mean_seconds += _WEIGHT * (time.monotonic() - entered - self._mean_seconds)
            self._leave()

    async def _enter(self) -> None:
        if self.running < self._config.running:
            self.running += 1
            return
        if len(self._waiting) >= self._config.waiting:
            raise problems.full(len(self._waiting), self.retry_seconds())
        place: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._waiting.append(place)
        try:
            await place
        except asyncio.CancelledError:
            if place.done() and not place.cancelled():
                self._leave()  # the turn had come in the same moment
            else:
                self._waiting.remove(place)
            raise

    def _leave(self) -> None:
        """Hand the place to the next in line."""
        while self._waiting:
            place = self._waiting.popleft()
            if not place.done():
                place.set_result(None)
                return
        self.running -= 1

    def retry_seconds(self) -> int:
        """About when there is room again."""
        lowest, highest = _RETRY
        due = (len(self._waiting) + 1) * self._mean_seconds / self._config.running
        return min(highest, max(lowest, math.ceil(due)))
