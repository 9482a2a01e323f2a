"""A server that speaks the part of vLLM's API that is used, over real HTTP: /v1/models and streamed /v1/completions.

What it answers is made from the prompt, one token a word; `fault` makes it fail in a way that servers do.
"""

import json
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any


class StandIn(ThreadingHTTPServer):
    """What it was asked, what it noticed, and how it shall fail."""

    daemon_threads = True

    def __init__(self, models: Sequence[str], context: int) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.models, self.context = list(models), context
        self.asked: list[dict[str, Any]] = []
        self.headers_seen: list[dict[str, str]] = []
        self.fault = ""
        self.left_early = threading.Event()  # a client closed a stream that was not at its end
        self.words = 5
        self.tail = ""  # of each word
        self.event: Any = None  # sent in place of the first one

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_address[1]}"


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server: StandIn

    def log_message(self, *_: Any) -> None:
        pass

    def do_GET(self) -> None:
        if self.path != "/v1/models":
            return self._answer(404, {"error": {"message": "no such route"}})
        listed = [{"id": name, "object": "model", "max_model_len": self.server.context} for name in self.server.models]
        return self._answer(200, {"object": "list", "data": listed})

    def do_POST(self) -> None:
        body = json.loads(self.rfile.read(int(self.headers["content-length"])))
        self.server.asked.append(body)
        self.server.headers_seen.append({name.lower(): value for name, value in self.headers.items()})
        if self.server.fault.isdigit():
            return self._answer(int(self.server.fault), {"error": {"message": f"fault {self.server.fault}"}})
        if self.server.fault == "hang":
            time.sleep(3)
        if body["model"] not in self.server.models:
            return self._answer(404, {"error": {"message": f"The model `{body['model']}` does not exist."}})
        return self._stream(body)

    def _stream(self, body: dict[str, Any]) -> None:
        self.send_response(200)
        self.send_header("content-type", "text/event-stream; charset=utf-8")
        self.send_header("transfer-encoding", "chunked")
        self.end_headers()
        count = min(self.server.words, body["max_tokens"])
        try:
            for at in range(count):
                if self.server.fault == "cut" and at == 2:
                    return self._drop()
                if self.server.fault == "slow":
                    time.sleep(0.2)
                if self.server.event is not None:
                    self._event(self.server.event)
                last = at == count - 1
                finish = ("length" if count == body["max_tokens"] else "stop") if last else None
                finish = "abort" if last and self.server.fault == "abort" else finish
                self._event(
                    {
                        "choices": [{"text": f" w{at}{self.server.tail}", "finish_reason": finish}],
                        "usage": {"completion_tokens": at + 1},
                    }
                )
                if self.server.fault == "garbage":
                    self._chunk(b"data: {torn\n\n")
                if self.server.fault == "error":
                    self._event({"error": {"message": "EngineCore died"}})
            if self.server.fault != "silent end":
                self._event({"choices": [], "usage": {"completion_tokens": count}})
                self._chunk(b"data: [DONE]\n\n")
            self._chunk(b"")
        except (BrokenPipeError, ConnectionResetError):
            self.server.left_early.set()
            self.close_connection = True

    def _drop(self) -> None:
        """The process dies: no last chunk."""
        self.wfile.flush()
        self.connection.close()
        self.close_connection = True

    def _event(self, value: dict[str, Any]) -> None:
        self._chunk(f"data: {json.dumps(value, ensure_ascii=False)}\n\n".encode())  # as vLLM writes it

    def _chunk(self, data: bytes) -> None:
        self.wfile.write(f"{len(data):x}\r\n".encode() + data + b"\r\n")
        self.wfile.flush()

    def _answer(self, status: int, value: Any) -> None:
        data = json.dumps(value).encode()
        self.send_response(status)
        self.send_header("content-type", "application/json")
        self.send_header("content-length", str(len(data)))
        self.end_headers()
        self.wfile.write(data)


@contextmanager
def stand_in(models: Sequence[str], context: int = 512) -> Iterator[StandIn]:
    with StandIn(models, context) as server:
        thread = threading.Thread(target=server.serve_forever, daemon=True)
        thread.start()
        try:
            yield server
        finally:
            server.shutdown()
            thread.join()
