"""A small HTTP client for load: connections that are kept, answers that are known to be whole or cut."""

import asyncio
import json
import ssl
import time
from collections import deque
from dataclasses import dataclass, field
from urllib.parse import urlsplit

from slipway.artifacts import Json
from slipway.errors import UsageError

_CLOSED = "closed without an answer"
_Line = tuple[asyncio.StreamReader, asyncio.StreamWriter]


@dataclass
class Answer:
    """What came back, and how long it took."""

    status: int = 0  # 0: nothing came
    headers: dict[str, str] = field(default_factory=dict)
    body: bytes = b""
    whole: bool = False
    seconds: float = 0.0
    first_byte_seconds: float = 0.0
    problem: str = ""
    resent: bool = False  # the kept connection it was sent on at first was closed without a word

    @property
    def streamed(self) -> bool:
        return self.headers.get("content-type", "").startswith("text/event-stream")


class Client:
    """Posts JSON to one address."""

    def __init__(self, url: str, key: str | None, seconds: float) -> None:
        parts = urlsplit(url)
        if parts.scheme not in ("http", "https") or not parts.hostname:
            raise UsageError(f"{url!r:.100} is no address of a gateway; write http://HOST:PORT")
        self.host, self.port = parts.hostname, parts.port or (443 if parts.scheme == "https" else 80)
        self.tls = ssl.create_default_context() if parts.scheme == "https" else None
        self.path, self.key, self.seconds = parts.path.rstrip("/"), key, seconds
        self._idle: deque[_Line] = deque()

    async def post(self, path: str, body: Json, headers: dict[str, str]) -> Answer:
        """An answer in any case: what went wrong stands in it. Sent again once, and said so, where a kept connection closed."""
        data, begun, resent = json.dumps(body).encode(), time.perf_counter(), False
        while True:
            line, kept = await self._line(begun)
            if isinstance(line, Answer):
                line.resent = resent
                return line
            answer = await self._asked(line, self._request(path, data, headers), begun)
            answer.resent = resent
            if answer.status or not kept or answer.problem != _CLOSED:
                return answer
            resent = True

    async def _line(self, begun: float) -> tuple[_Line | Answer, bool]:
        while self._idle:
            line = self._idle.pop()
            if not line[0].at_eof() and line[0].exception() is None:
                return line, True
            line[1].close()  # closed while it waited: nothing was sent, so nothing is lost
        try:
            opened = asyncio.open_connection(self.host, self.port, ssl=self.tls, limit=1 << 20)
            return await asyncio.wait_for(opened, self.seconds), False
        except (OSError, TimeoutError) as error:
            return Answer(seconds=time.perf_counter() - begun, problem=f"no connection: {error or 'too slow'}"), False

    def _request(self, path: str, data: bytes, headers: dict[str, str]) -> bytes:
        given = {
            "host": f"{self.host}:{self.port}",
            "content-type": "application/json",
            "content-length": str(len(data)),
        }
        if self.key:
            given["authorization"] = f"Bearer {self.key}"
        lines = [f"POST {self.path}{path} HTTP/1.1", *(f"{name}: {value}" for name, value in (given | headers).items())]
        return ("\r\n".join(lines) + "\r\n\r\n").encode() + data

    async def _asked(self, line: _Line, request: bytes, begun: float) -> Answer:
        answer = Answer()
        try:
            async with asyncio.timeout(self.seconds):
                await _exchange(line, request, answer, begun)
        except TimeoutError:
            answer.problem = "late"
        except asyncio.IncompleteReadError as error:
            answer.problem = str(error) if error.partial or answer.status else _CLOSED
        except (OSError, ValueError, LookupError, asyncio.LimitOverrunError) as error:
            reset = isinstance(error, ConnectionError) and not answer.status
            answer.problem = _CLOSED if reset else str(error) or type(error).__name__
        answer.seconds = time.perf_counter() - begun
        if answer.whole and answer.headers.get("connection", "").lower() != "close":
            self._idle.append(line)
        else:
            line[1].close()
        return answer

    def close(self) -> None:
        for _, writer in self._idle:
            writer.close()


async def _exchange(line: _Line, request: bytes, answer: Answer, begun: float) -> None:
    reader, writer = line
    writer.write(request)
    await writer.drain()
    head = await reader.readuntil(b"\r\n\r\n")
    answer.first_byte_seconds = time.perf_counter() - begun
    lines = head.decode("latin-1").split("\r\n")
    answer.headers = {n.lower(): v.strip() for n, _, v in (one.partition(":") for one in lines[1:-2])}
    answer.status = int(lines[0].split(" ")[1])
    if answer.headers.get("transfer-encoding", "").lower() == "chunked":
        while size := int((await reader.readline()).partition(b";")[0] or b"x", 16):
            answer.body += (await reader.readexactly(size + 2))[:-2]
        await reader.readline()
    else:
        answer.body = await reader.readexactly(int(answer.headers.get("content-length", "0")))
    answer.whole = True
