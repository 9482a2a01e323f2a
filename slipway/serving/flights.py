"""Answers being made. Identical deterministic questions share one; it ends when nobody waits for it any more."""

import asyncio
import contextlib
import sys
import time
from collections.abc import AsyncGenerator, AsyncIterator
from dataclasses import dataclass, field

from slipway.errors import SlipwayError, UsageError
from slipway.generating.jobs import Engine, Job, Piece
from slipway.generating.tickets import Full
from slipway.serving import problems
from slipway.serving.admission import Queue
from slipway.serving.cache import Cache, Level
from slipway.serving.checking import Answer, Check
from slipway.serving.problems import Problem
from slipway.serving.pulse import Pulse

_ROUNDING_SECONDS = 0.05


@dataclass
class Told:
    """What is known of an answer beside its text, filled in while it comes."""

    queue_seconds: float = 0.0
    level: Level | None = None  # from the cache
    joined: bool = False  # made for another request too

    @property
    def cached(self) -> bool:
        return self.joined or self.level is not None


@dataclass(eq=False)
class Flight:
    """One generation and all who wait for it."""

    job: Job
    pieces: list[Piece] = field(default_factory=list)
    error: BaseException | None = None
    queue_seconds: float = 0.0
    followers: int = 0
    _changed: asyncio.Event = field(default_factory=asyncio.Event)
    _task: "asyncio.Task[Answer] | None" = None

    @property
    def over(self) -> bool:
        return self.error is not None or bool(self.pieces and self.pieces[-1].finish)

    @property
    def given_up(self) -> bool:
        """Whether nobody who comes now gets an answer of it."""
        return self.error is not None or (self._task is not None and self._task.cancelling() > 0)

    def start(self, engine: Engine, queue: Queue) -> "asyncio.Task[Answer]":
        self._task = asyncio.create_task(self._run(engine, queue), name=self.job.id)
        self._task.add_done_callback(lambda task: self._ended(task, queue))
        return self._task

    def fail(self, problem: Problem) -> None:
        """End it from outside: all who wait get this."""
        if not self.over:
            self.error = problem
            self._tell()
        self._cancel()

    async def followed(self) -> AsyncGenerator[Piece, None]:
        """Every piece from the first on; whoever is the last to leave stops the generation."""
        self.followers += 1
        try:
            seen = 0
            while True:
                while seen < len(self.pieces):
                    piece, seen = self.pieces[seen], seen + 1
                    yield piece
                    if piece.finish is not None:
                        return
                if self.error is not None:
                    raise self.error
                await self._changed.wait()
        finally:
            self.followers -= 1
            if self.followers == 0:
                self._cancel()

    async def _run(self, engine: Engine, queue: Queue) -> Answer:
        check = Check(self.job.sampling, self.job.served.answers)
        async with queue.turn() as waited, contextlib.aclosing(_closable(engine.generate(self.job))) as pieces:
            async for piece in pieces:
                check.add(piece)
                if not self.pieces:
                    self.queue_seconds = waited + piece.queued_seconds
                if piece.finish is not None:
                    break
                self._add(piece)
            answer = check.end()
        self._add(piece)  # the last piece, once the engine has let go and all is known to be sound
        return answer

    def _add(self, piece: Piece) -> None:
        self.pieces.append(piece)
        self._tell()

    def _tell(self) -> None:
        self._changed.set()
        self._changed = asyncio.Event()

    def _cancel(self) -> None:
        if self._task is not None and not self._task.done():
            self._task.cancel()

    def _ended(self, task: "asyncio.Task[Answer]", queue: Queue) -> None:
        if not task.cancelled() and (found := task.exception()) is not None and self.error is None:
            self.error = _as_problem(found, self.job, queue)
        elif task.cancelled() and not self.over:
            self.error = problems.lost("the answer was given up", "given_up")
        self._tell()


async def _closable(pieces: AsyncIterator[Piece]) -> AsyncGenerator[Piece, None]:
    """An engine's iterator, closed with this one whether or not it is a generator."""
    try:
        async for piece in pieces:
            yield piece
    finally:
        if (close := getattr(pieces, "aclose", None)) is not None:
            await close()


def _as_problem(error: BaseException, job: Job, queue: Queue) -> BaseException:
    """What an engine says on purpose, with its words for the log alone; a bug stays what it is."""
    if isinstance(error, Problem) or not isinstance(error, SlipwayError):
        return error
    if isinstance(error, UsageError):  # the engine is well; it is told to whoever asked, and to no log
        return problems.invalid(str(error))
    if isinstance(error, Full):
        return problems.full(error.waiting, queue.retry_seconds())
    if time.monotonic() >= job.deadline - _ROUNDING_SECONDS:  # the engine looks at the clock too
        return problems.out_of_time("the answer")
    return of_engine(error)


def of_engine(error: SlipwayError) -> Problem:
    """An engine that is lost is a 503; what it says is for whoever runs it."""
    print(f"slipway: the engine failed: {error}", file=sys.stderr, flush=True)
    return problems.lost("the model cannot answer now; try again")


def _is_engines(error: BaseException | None) -> bool:
    """Whether it is the engine's failure, and not that the line was full or the question wrong."""
    return not isinstance(error, Problem) or error.status >= 500


class Flights:
    """All answers that are being made, and those that are known."""

    def __init__(self, engine: Engine, queue: Queue, cache: Cache, pulse: Pulse) -> None:
        self._engine, self._queue, self._cache, self._pulse = engine, queue, cache, pulse
        self._shared: dict[bytes, Flight] = {}
        self.all: set[Flight] = set()

    async def pieces(self, job: Job, at: bytes | None, told: Told) -> AsyncGenerator[Piece, None]:
        """An answer, from wherever it comes. `at` is its key; None: it is nobody else's."""
        if at is not None and (found := await self._cache.find(at)) is not None:
            answer, told.level = found
            yield Piece(answer.text, answer.tokens, answer.finish)
            return
        flight = self._joined(at, job, told) or self._begun(at, job)
        async with contextlib.aclosing(flight.followed()) as pieces:
            async for piece in pieces:
                self._pulse.answered()
                if not told.joined:
                    told.queue_seconds = flight.queue_seconds
                yield piece

    def fail_all(self, problem: Problem) -> None:
        for flight in tuple(self.all):
            flight.fail(problem)

    def _joined(self, at: bytes | None, job: Job, told: Told) -> Flight | None:
        """One that is made already, if it has at least half of the time left that this one would have."""
        flight = self._shared.get(at) if at is not None and self._cache.config.coalesce else None
        if flight is None or flight.given_up:
            return None
        now = time.monotonic()
        if flight.job.deadline - now < (job.deadline - now) / 2:
            return None
        told.joined = True
        return flight

    def _begun(self, at: bytes | None, job: Job) -> Flight:
        flight = Flight(job)
        self.all.add(flight)
        if at is not None:
            self._shared[at] = flight
        flight.start(self._engine, self._queue).add_done_callback(lambda task: self._landed(at, flight, task))
        return flight

    def _landed(self, at: bytes | None, flight: Flight, task: "asyncio.Task[Answer]") -> None:
        self.all.discard(flight)
        if not task.cancelled() and task.exception() is not None and _is_engines(flight.error):
            self._pulse.failed()
        if at is None:
            return
        if self._shared.get(at) is flight:
            del self._shared[at]
        if not task.cancelled() and task.exception() is None:
            self._cache.keep(at, task.result())
