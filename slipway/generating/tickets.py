"""A job's two ends: the event loop where its pieces are awaited, and the thread where they are made."""

import asyncio
import time
from collections.abc import AsyncIterator
from dataclasses import dataclass, field

from slipway.errors import Transient
from slipway.generating.jobs import Job, Piece


class Late(Transient):
    """Nobody waits for the answer any more: its deadline has passed."""


class Full(Transient):
    """Too many jobs wait in the engine already."""

    def __init__(self, waiting: int, name: str) -> None:
        super().__init__(f"{waiting} requests wait for {name} already; try again later")
        self.waiting = waiting


@dataclass(eq=False)
class Ticket:
    """A job on its way through an engine."""

    job: Job
    arrived: float = field(default_factory=time.monotonic)
    given_up: bool = False  # set by the event loop alone, seen by the engine before its next step
    _pieces: "asyncio.Queue[Piece | BaseException]" = field(default_factory=asyncio.Queue)

    def put(self, piece: Piece | BaseException) -> None:
        """From the event loop: hand on a part of the answer, or why there is none."""
        self._pieces.put_nowait(piece)

    async def pieces(self) -> AsyncIterator[Piece]:
        """From the event loop: the answer as it comes; whatever lies ready for a slow reader comes as one piece."""
        while True:
            piece = await self._pieces.get()
            while not self._pieces.empty() and isinstance(piece, Piece):
                piece = _joined(piece, self._pieces.get_nowait())
            if isinstance(piece, BaseException):
                raise piece
            yield piece
            if piece.finish:
                return

    def late(self, now: float) -> Late | None:
        """Why the job is not worth another step, where it is late."""
        if now < self.job.deadline:
            return None
        waited = now - self.arrived
        return Late(
            f"{self.job.served.name} did not answer in {waited:.1f} s, the time this request had; try again later"
        )


def _joined(piece: Piece, after: Piece | BaseException) -> Piece | BaseException:
    if isinstance(after, BaseException):
        return after
    return Piece(piece.text + after.text, piece.tokens + after.tokens, after.finish, piece.queued_seconds)
