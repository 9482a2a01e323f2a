"""A proxy before a real server that loses replies: the server has done what it was asked, and the client never hears of it."""

import http.client
import threading
from collections.abc import Callable
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

Fate = Callable[[str, str], str]  # of a request's method and path: pass | drop | 503


class Proxy:
    """Listens on a port of its own; `fate` decides what becomes of each reply."""

    def __init__(self, port: int) -> None:
        self.upstream, self.fate, self.lost = port, lambda method, path: "pass", 0
        self.asked: list[tuple[str, str]] = []
        self.lock = threading.Lock()
        self.server = ThreadingHTTPServer(("127.0.0.1", 0), self._handler())
        self.server.daemon_threads = True
        threading.Thread(target=self.server.serve_forever, daemon=True).start()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server.server_address[1]}"

    def close(self) -> None:
        self.server.shutdown()
        self.server.server_close()

    def _handler(self) -> Any:
        proxy = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def _forward(self) -> None:
                body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
                status, headers, answer = proxy._asked_upstream(self.command, self.path, dict(self.headers), body)
                path = self.path.partition("?")[0]
                with proxy.lock:
                    proxy.asked.append((self.command, path))
                    fate = proxy.fate(self.command, path)
                    proxy.lost += fate != "pass"
                if fate == "drop":
                    self.close_connection = True
                    self.connection.close()
                    return
                if fate == "503":
                    status, headers, answer = 503, [], b"overloaded"
                self.send_response(status)
                for name, value in headers:
                    if name.lower() not in ("transfer-encoding", "connection", "content-length", "date", "server"):
                        self.send_header(name, value)
                self.send_header("Content-Length", str(len(answer)))
                self.end_headers()
                self.wfile.write(answer)

            do_GET = do_POST = do_PATCH = do_PUT = do_DELETE = _forward

            def log_message(self, *_: object) -> None:
                pass

        return Handler

    def _asked_upstream(self, method: str, path: str, headers: dict[str, str], body: bytes) -> tuple[int, list[tuple[str, str]], bytes]:  # fmt: skip
        kept = {
            name: value
            for name, value in headers.items()
            if name.lower() not in ("host", "connection", "transfer-encoding")
        }
        connection = http.client.HTTPConnection("127.0.0.1", self.upstream, timeout=60)
        try:
            connection.request(method, path, body, kept)
            reply = connection.getresponse()
            return reply.status, reply.getheaders(), reply.read()
        finally:
            connection.close()
