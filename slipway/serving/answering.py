"""From what is asked to the answers: whole, or as they are made; each within its deadlines."""

import asyncio
import contextlib
import secrets
import time
from collections.abc import AsyncGenerator
from dataclasses import dataclass

from slipway.generating.jobs import Job, Piece
from slipway.serving import cache, problems
from slipway.serving.asking import Ask
from slipway.serving.checking import Answer, Check
from slipway.serving.config import Deadline
from slipway.serving.flights import Told
from slipway.serving.replica import Replica
from slipway.serving.seen import Seen

_LINE = 64  # pieces of a stream that wait to be sent


@dataclass(frozen=True)
class Part:
    """A piece of one of the answers."""

    index: int
    piece: Piece


async def whole(replica: Replica, ask: Ask, seen: Seen) -> list[Answer]:
    """Every answer, checked to its end before anything is sent."""
    tasks = [asyncio.create_task(_whole(replica, ask, index, seen)) for index in range(len(ask.choices))]
    try:
        return await asyncio.gather(*tasks)
    finally:
        for task in tasks:
            task.cancel()


async def _whole(replica: Replica, ask: Ask, index: int, seen: Seen) -> Answer:
    check = Check(ask.choices[index].sampling, ask.served.answers)
    async with contextlib.aclosing(_pieces(replica, ask, index, seen)) as pieces:
        async for piece in pieces:
            check.add(piece)
    return check.end()


async def streamed(replica: Replica, ask: Ask, seen: Seen) -> AsyncGenerator[Part, None]:
    """Pieces of all answers as they come; the first that fails ends all."""
    line: asyncio.Queue[Part | None] = asyncio.Queue(_LINE)

    async def pump(index: int) -> None:
        async with contextlib.aclosing(_pieces(replica, ask, index, seen)) as pieces:
            async for piece in pieces:
                await line.put(Part(index, piece))

    async def all_of_them() -> None:
        try:
            await _together([asyncio.create_task(pump(index)) for index in range(len(ask.choices))])
        finally:
            ended.set()

    ended = asyncio.Event()
    pumping = asyncio.create_task(all_of_them())
    try:
        while (part := await _next(line, ended)) is not None:
            if seen.kept:
                seen.answer = (seen.answer or "") + part.piece.text
            yield part
        await pumping  # raises what ended it
    finally:
        pumping.cancel()


async def _together(tasks: "list[asyncio.Task[None]]") -> None:
    """All of them, or the first error of one and the end of all."""
    try:
        await asyncio.gather(*tasks)
    finally:
        for task in tasks:
            task.cancel()


async def _next(line: "asyncio.Queue[Part | None]", ended: asyncio.Event) -> Part | None:
    """What is next in line; None once nothing more will come."""
    if not line.empty():
        return line.get_nowait()
    getting, ending = asyncio.ensure_future(line.get()), asyncio.ensure_future(ended.wait())
    try:
        await asyncio.wait((getting, ending), return_when=asyncio.FIRST_COMPLETED)
        return getting.result() if getting.done() else None
    finally:
        getting.cancel()
        ending.cancel()


async def _pieces(replica: Replica, ask: Ask, index: int, seen: Seen) -> AsyncGenerator[Piece, None]:
    """One answer within its deadlines, what is learned of it noted."""
    deadline = replica.config.deadlines.stream if ask.stream else replica.config.deadlines.answer
    told, at = Told(), _key(replica, ask, index, seen)
    pieces = replica.flights.pieces(_job(replica, ask, index, seen, at is not None), at, told)
    async with contextlib.aclosing(_timed(replica, pieces, seen.began, deadline)) as timed:
        async for piece in timed:
            seen.first_token()
            seen.answer_tokens += piece.tokens
            yield piece
    seen.queue_seconds = max(seen.queue_seconds or 0.0, told.queue_seconds)
    seen.cached = seen.cached or told.cached
    if at is not None:
        replica.metrics.looked_up("joined" if told.joined else told.level)


def _job(replica: Replica, ask: Ask, index: int, seen: Seen, shareable: bool) -> Job:
    """Whoever may join an answer may have longer to wait than who asked first; each keeps to a time of their own."""
    choice, deadlines = ask.choices[index], replica.config.deadlines
    own = deadlines.stream if ask.stream else deadlines.answer
    seconds = max(deadlines.stream.total_seconds, deadlines.answer.total_seconds) if shareable else own.total_seconds
    name = f"{seen.request_id}-{index}-{secrets.token_hex(4)}"
    return Job(name, ask.served, choice.prompt, choice.sampling, seen.began + seconds, seen.asked_by)


def _key(replica: Replica, ask: Ask, index: int, seen: Seen) -> bytes | None:
    """The answer's key; None where it is drawn anew each time, or nobody knows who asks."""
    choice, shared_by = ask.choices[index], replica.shared_key(seen)
    if shared_by is None or not choice.sampling.deterministic:
        return None
    return cache.key(replica.cache.secret, shared_by, ask.served, choice, seen.asked_by)


async def _timed(
    replica: Replica, pieces: AsyncGenerator[Piece, None], began: float, deadline: Deadline
) -> AsyncGenerator[Piece, None]:
    """The same pieces, or 504 once the first or the last is too late."""
    first, offset = True, asyncio.get_running_loop().time() - time.monotonic()
    async with contextlib.aclosing(pieces) as open_pieces:
        while True:
            seconds = deadline.first_token_seconds if first else deadline.total_seconds
            try:
                async with asyncio.timeout_at(began + min(seconds, deadline.total_seconds) + offset):
                    piece = await anext(open_pieces, None)
            except TimeoutError:
                if first:
                    replica.pulse.failed()  # it may hang
                raise problems.out_of_time("the first token" if first else "the answer", seconds) from None
            if piece is None:
                return
            first = False
            yield piece
