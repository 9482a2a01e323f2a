"""A replica that answers at once, and badly where a test wants it: a process of its own, so that it can be killed.

    python tests/made_replica.py --version 1.0.0 [--port 0]      prints {"address": …} when it listens

POST /fault {"mode": …} sets how it answers from then on: ok, hang, slow, empty, garbage, nothing, cut, cut-chunks, cut-stream,
hang-stream, empty-stream, or a status as a number.
GET /seen tells the headers of the last requests, /metrics what was counted.
"""

import argparse
import asyncio
import json
import signal
import subprocess
import sys
import urllib.request
from collections import deque
from pathlib import Path
from typing import Any

MODEL = "support-desk"
PIECES = 5


class Replica:
    """What all connections of one replica share."""

    def __init__(self, version: str) -> None:
        self.version, self.mode, self.slow_seconds = version, "ok", 0.3
        self.piece_seconds = 0.02
        self.requests = self.feedback = self.tokens = self.correct = self.judged = 0
        self.seen: deque[dict[str, str]] = deque(maxlen=100)
        self.draining = False


class Connection(asyncio.Protocol):
    """One client. Requests come whole and one by one, as HAProxy sends them."""

    def __init__(self, replica: Replica) -> None:
        self.replica, self.buffer = replica, b""
        self.task: asyncio.Task[None] | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport: Any = transport

    def connection_lost(self, error: Exception | None) -> None:
        if self.task is not None:
            self.task.cancel()

    def data_received(self, data: bytes) -> None:
        self.buffer += data
        while (end := self.buffer.find(b"\r\n\r\n")) >= 0:
            lines = self.buffer[:end].split(b"\r\n")
            headers = {
                n.lower().decode(): v.strip().decode("latin-1") for n, _, v in (x.partition(b":") for x in lines[1:])
            }
            if headers.get("transfer-encoding") == "chunked":
                done = self.buffer.find(b"0\r\n\r\n", end)
                if done < 0:
                    return
                body, self.buffer = self.buffer[end + 4 : done], self.buffer[done + 5 :]
            else:
                whole = end + 4 + int(headers.get("content-length", 0))
                if len(self.buffer) < whole:
                    return
                body, self.buffer = self.buffer[end + 4 : whole], self.buffer[whole:]
            method, path, _ = lines[0].decode().split(" ", 2)
            self.asked(method, path, headers, body)

    def asked(self, method: str, path: str, headers: dict[str, str], body: bytes) -> None:
        replica = self.replica
        if path == "/ready":
            self.answer(
                {"status": "ready"} if not replica.draining else {"reason": "draining"},
                503 if replica.draining else 200,
            )
        elif path == "/seen":
            self.answer({"requests": replica.requests, "feedback": replica.feedback, "seen": list(replica.seen)})
        elif path == "/metrics":
            text = f"llm_tokens_total {replica.tokens}\nmodel_correct_predictions {replica.correct}\nmodel_total_predictions {replica.judged}\n"
            self.text(text)
        elif path == "/fault":
            wanted = json.loads(body)
            replica.mode = wanted.get("mode", replica.mode)
            replica.slow_seconds = wanted.get("seconds", replica.slow_seconds)
            replica.piece_seconds = wanted.get("piece_seconds", replica.piece_seconds)
            replica.draining = wanted.get("draining", replica.draining)
            self.answer({"mode": replica.mode})
        else:
            self.served(path, headers, body)

    def served(self, path: str, headers: dict[str, str], body: bytes) -> None:
        replica = self.replica
        replica.requests += 1
        replica.seen.append({"path": path, "body": body[:300].decode("latin-1"), **headers})
        if path.endswith("/feedback"):
            replica.feedback += 1
            replica.judged += 1
            replica.correct += b'"score": 1' in body or b'"score":1' in body
        mode = replica.mode
        if mode == "ok" and b'"stream": true' not in body and b'"stream":true' not in body:
            replica.tokens += 10
            self.answer(self.completion(headers, "hello"))
        else:
            self.task = asyncio.get_running_loop().create_task(self.slowly(mode, headers, body))

    def completion(self, headers: dict[str, str], text: str) -> dict[str, Any]:
        choice = {"index": 0, "message": {"role": "assistant", "content": text}, "finish_reason": "stop"}
        return {
            "id": f"chatcmpl-x.{self.replica.version}.y",
            "object": "chat.completion",
            "model": MODEL,
            "choices": [choice],
        }

    async def slowly(self, mode: str, headers: dict[str, str], body: bytes) -> None:
        if mode == "hang":
            await asyncio.sleep(3600)
        elif mode == "101":
            self.transport.write(
                b"HTTP/1.1 101 Switching Protocols\r\nupgrade: websocket\r\nconnection: upgrade\r\n\r\n"
            )
        elif mode.isdigit():
            self.answer({"error": "broken"}, int(mode))
        elif mode == "empty":
            self.answer(None)
        elif mode == "garbage":
            self.text("\x00\x01 this is no JSON", "application/json")
        elif mode == "nothing":
            self.transport.abort()
        elif mode == "cut":
            head = self.head(200, "application/json", 500)
            self.transport.write(head + b'{"id": "x", "choices": [')
            await asyncio.sleep(0.02)
            self.transport.close()
        elif mode == "cut-chunks":
            self.transport.write(self.head(200, "application/json", None))
            self.piece(json.dumps(self.completion(headers, "hello")).encode())
            await asyncio.sleep(0.02)
            self.transport.close()
        elif mode == "empty-stream":
            self.transport.write(self.head(200, "text/event-stream", None) + b"0\r\n\r\n")
        else:
            if mode == "slow":
                await asyncio.sleep(self.replica.slow_seconds)
            if b'"stream": true' in body or b'"stream":true' in body:
                await self.stream(mode)
            else:
                self.answer(self.completion(headers, "hello"))

    async def stream(self, mode: str) -> None:
        self.transport.write(self.head(200, "text/event-stream", None))
        for number in range(PIECES):
            delta = {
                "id": f"chatcmpl-x.{self.replica.version}.y",
                "choices": [{"index": 0, "delta": {"content": f"{self.replica.version}-{number} "}}],
            }
            self.piece(f"data: {json.dumps(delta)}\n\n".encode())
            await asyncio.sleep(self.replica.piece_seconds)
            if mode == "cut-stream" and number == 2:
                self.transport.close()
                return
            if mode == "hang-stream" and number == 2:
                await asyncio.sleep(3600)
        self.replica.tokens += PIECES
        self.piece(b"data: [DONE]\n\n")
        self.transport.write(b"0\r\n\r\n")

    def piece(self, data: bytes) -> None:
        self.transport.write(b"%x\r\n%b\r\n" % (len(data), data))

    def head(self, status: int, kind: str, length: int | None) -> bytes:
        size = "transfer-encoding: chunked" if length is None else f"content-length: {length}"
        return f"HTTP/1.1 {status} X\r\ncontent-type: {kind}\r\nx-slipway-version: {self.replica.version}\r\n{size}\r\n\r\n".encode()

    def answer(self, value: object, status: int = 200) -> None:
        data = b"" if value is None else json.dumps(value).encode()
        self.transport.write(self.head(status, "application/json", len(data)) + data)

    def text(self, text: str, kind: str = "text/plain") -> None:
        self.transport.write(self.head(200, kind, len(text)) + text.encode())


async def serve(version: str, port: int) -> None:
    loop, replica = asyncio.get_running_loop(), Replica(version)
    server = await loop.create_server(lambda: Connection(replica), "127.0.0.1", port, backlog=1024)
    host, port = server.sockets[0].getsockname()[:2]
    print(json.dumps({"address": f"{host}:{port}"}), flush=True)
    ended = asyncio.Event()
    loop.add_signal_handler(signal.SIGTERM, ended.set)
    await ended.wait()


# --- what tests call --------------------------------------------------------------------------------------------------


class Process:
    """A replica in a process of its own."""

    def __init__(self, version: str, port: int = 0) -> None:
        self.version = version
        command = [sys.executable, __file__, "--version", version, "--port", str(port)]
        self.child = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
        assert self.child.stdout is not None
        self.address = json.loads(self.child.stdout.readline())["address"]

    def fault(self, mode: str, **more: object) -> None:
        data = json.dumps({"mode": mode, **more}).encode()
        urllib.request.urlopen(urllib.request.Request(f"http://{self.address}/fault", data), timeout=5).read()

    def asked(self, what: str) -> Any:
        with urllib.request.urlopen(f"http://{self.address}{what}", timeout=5) as answer:
            return json.loads(answer.read())

    @property
    def seen(self) -> list[dict[str, str]]:
        return list(self.asked("/seen")["seen"])

    def kill(self) -> None:
        self.child.kill()
        self.child.wait()

    def again(self) -> None:
        """The same, at the same address, after it was killed."""
        self.__init__(self.version, int(self.address.rpartition(":")[2]))  # type: ignore[misc]


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--version", default="1.0.0")
    parser.add_argument("--port", type=int, default=0)
    parser.add_argument("--json", action="store_true")
    parser.add_argument("words", nargs="*")
    given = parser.parse_args()
    try:
        import uvloop

        asyncio.set_event_loop_policy(uvloop.EventLoopPolicy())
    except ImportError:
        pass
    asyncio.run(serve(given.version, given.port))


if __name__ == "__main__":
    sys.path[:] = [entry for entry in sys.path if Path(entry or ".").resolve() != Path(__file__).resolve().parent]
    main()
