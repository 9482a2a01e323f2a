"""Server-sent events: an answer while it is made. Nothing is sent before its first piece; whatever fails later is the last event."""

import asyncio
import contextlib
import logging
from collections.abc import AsyncGenerator, Awaitable, Iterator
from typing import Protocol, TypeVar

from starlette.requests import Request
from starlette.responses import Response
from starlette.types import Receive, Scope, Send

from slipway.errors import SlipwayError
from slipway.serving import problems
from slipway.serving.answering import Part
from slipway.serving.edge import BUG
from slipway.serving.flights import of_engine
from slipway.serving.problems import Problem
from slipway.serving.seen import Seen

Of = TypeVar("Of")
GONE = problems.Problem(499, "client_gone", "the client went away before its answer was there")


class Form(Protocol):
    """How one version of the interface says a stream."""

    def begin(self) -> Iterator[bytes]: ...
    def part(self, part: Part) -> Iterator[bytes]: ...
    def end(self, tokens: int) -> Iterator[bytes]: ...
    def failed(self, problem: Problem) -> Iterator[bytes]: ...


async def unless_gone(request: Request, work: Awaitable[Of]) -> Of:
    """The work's result; given up as soon as the client goes away."""
    working, watching = asyncio.ensure_future(work), asyncio.ensure_future(_gone(request.receive))
    try:
        await asyncio.wait((working, watching), return_when=asyncio.FIRST_COMPLETED)
        if working.done():
            return working.result()
        raise GONE
    finally:
        for task in (working, watching):
            task.cancel()
        await asyncio.wait((working, watching))


async def _gone(receive: Receive) -> None:
    while (await receive())["type"] != "http.disconnect":
        pass


class EventStream(Response):
    """The answer of a streamed request."""

    media_type = "text/event-stream"

    def __init__(self, first: Part, parts: AsyncGenerator[Part, None], form: Form, seen: Seen) -> None:
        super().__init__(headers={"cache-control": "no-cache", "x-accel-buffering": "no"})
        del self.headers["content-length"]
        self._first, self._parts, self._form, self._seen = first, parts, form, seen

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        sending, watching = asyncio.ensure_future(self._send(send)), asyncio.ensure_future(_gone(receive))
        try:
            await asyncio.wait((sending, watching), return_when=asyncio.FIRST_COMPLETED)
            if not sending.done():
                self._seen.failure = GONE
                return
            sending.result()
        finally:
            for task in (sending, watching):
                task.cancel()
            await asyncio.wait((sending, watching))

    async def _send(self, send: Send) -> None:
        await send({"type": "http.response.start", "status": 200, "headers": self.raw_headers})
        async with contextlib.aclosing(self._parts):
            try:
                await self._events(send)
            except SlipwayError as error:
                await self._fail(send, error if isinstance(error, Problem) else of_engine(error))
            except Exception:  # a bug: the log has it, and the client is told that its answer ends here
                logging.getLogger("slipway.serving").exception("a stream was ended by a bug")
                await self._fail(send, BUG)
        await send({"type": "http.response.body", "body": b"", "more_body": False})

    async def _events(self, send: Send) -> None:
        await _say(send, [*self._form.begin(), *self._form.part(self._first)])
        async for part in self._parts:
            await _say(send, self._form.part(part))
        await _say(send, self._form.end(self._seen.answer_tokens))

    async def _fail(self, send: Send, problem: Problem) -> None:
        self._seen.failure = problem
        await _say(send, self._form.failed(problem))


async def _say(send: Send, events: "Iterator[bytes] | list[bytes]") -> None:
    if data := b"".join(events):
        await send({"type": "http.response.body", "body": data, "more_body": True})
