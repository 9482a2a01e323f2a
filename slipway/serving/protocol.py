"""What a connection may do before it has sent a request: how many there are, how long and how large headers may be."""

import asyncio
from collections.abc import Callable
from http import HTTPStatus
from typing import ClassVar

import orjson
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

from slipway.serving.config import Limits
from slipway.serving.problems import Problem

_BAD = Problem(400, "invalid_http", "this is no HTTP request that is understood here")


class Guards:
    """The limits of a replica's connections, and what is said to whoever does not keep them."""

    def __init__(self, limits: Limits, refused: Callable[[int], None]) -> None:
        self.limits, self.refused = limits, refused
        self.slow = Problem(408, "headers_too_slow", f"the headers did not arrive within {limits.header_seconds:g} s")
        most = f"more than {limits.header_count} headers, or {limits.header_bytes:,} bytes"
        self.many = Problem(431, "headers_too_large", most)
        busy, again = f"{limits.connections} connections are open; try again", {"retry-after": "1"}
        self.busy = Problem(429, "too_many_connections", busy, headers=again)


def guarded(limits: Limits, refused: Callable[[int], None]) -> type[asyncio.Protocol]:
    """uvicorn's protocol, with limits on what comes before the body."""
    return type("GuardedProtocol", (Guarded,), {"guards": Guards(limits, refused)})


class Guarded(HttpToolsProtocol):
    """One connection."""

    guards: ClassVar[Guards]

    _timer: asyncio.TimerHandle | None = None
    _reading = True  # the headers of a request, or nothing yet
    _headed = False  # its headers are complete
    _raw = _count = _size = 0
    _problem = _BAD

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        super().connection_made(transport)
        self._arm()
        if len(self.connections) > self.guards.limits.connections:
            self._refuse(self.guards.busy)

    def connection_lost(self, exc: Exception | None) -> None:
        self._disarm()
        super().connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        if self.cycle is None or self.cycle.response_complete:
            self._reading = True
            self._arm()
        self._raw = self._raw + len(data) if self._reading else 0
        super().data_received(data)
        if self._reading and self._raw > self.guards.limits.header_bytes and not self.transport.is_closing():
            self._refuse(self.guards.many)

    def on_message_begin(self) -> None:
        self._count = self._size = 0
        self._headed = False
        super().on_message_begin()

    def on_url(self, url: bytes) -> None:
        self._grow(len(url))
        super().on_url(url)

    def on_header(self, name: bytes, value: bytes) -> None:
        self._count += 1
        self._grow(len(name) + len(value) + 4)
        if not self._headed:  # a trailer is dropped: among the headers it could say what the gateway lets no client say
            super().on_header(name, value)

    def on_headers_complete(self) -> None:
        self._reading, self._raw, self._headed = False, 0, True
        self._disarm()
        super().on_headers_complete()

    def send_400_response(self, msg: str) -> None:
        """The parser gave up: for what it read itself, or for what is refused above."""
        self._refuse(self._problem)

    def _grow(self, size: int) -> None:
        self._size += size
        if self._size > self.guards.limits.header_bytes or self._count > self.guards.limits.header_count:
            self._problem = self.guards.many
            raise ValueError(str(self._problem))  # the parser stops, and `send_400_response` says why

    def _arm(self) -> None:
        if self._timer is None:
            self._timer = self.loop.call_later(self.guards.limits.header_seconds, self._too_slow)

    def _disarm(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def _too_slow(self) -> None:
        self._timer = None
        if self._raw:
            self._refuse(self.guards.slow)
        else:  # it never said a thing
            self.transport.close()

    def _refuse(self, problem: Problem) -> None:
        self.guards.refused(problem.status)
        self._disarm()
        self._unset_keepalive_if_required()
        if not self.transport.is_closing():
            self.transport.write(_response(problem))
            self.transport.close()


def _response(problem: Problem) -> bytes:
    body = orjson.dumps(problem.body)
    headers = {"content-type": "application/json", "content-length": str(len(body)), "connection": "close"}
    lines = [f"{name}: {value}" for name, value in (headers | problem.headers).items()]
    status = HTTPStatus(problem.status)
    return "\r\n".join([f"HTTP/1.1 {status.value} {status.phrase}", *lines, "", ""]).encode() + body
