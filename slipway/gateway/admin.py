"""The gateway's admin port: a live page, its figures as JSON, and changes for who holds the token."""

import contextlib
import hmac
import ipaddress
import json
import os
import secrets
import sys
import threading
import time
from collections.abc import Callable
from dataclasses import asdict
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

from slipway.artifacts import Json
from slipway.errors import Refused, SlipwayError, UsageError
from slipway.gateway import config as configuration
from slipway.gateway.config import split

if TYPE_CHECKING:
    from slipway.gateway.control import Gateway

TOKEN = "admin.token"
PAGE = Path(__file__).with_name("page.html")
LARGEST = 100_000
MOST_STREAMS = 32
_STATUS = {1: 500, 2: 400, 3: 409, 75: 503}


def token(folder: Path) -> str:
    """The secret that changes need, made once; only this user can read it."""
    path = folder / TOKEN
    with contextlib.suppress(FileNotFoundError):
        if len(found := path.read_text().strip()) >= 32:  # one that is cut short, or empty, is none
            return found
    partial = path.with_name(f".{TOKEN}.{os.getpid()}.partial")
    with os.fdopen(os.open(partial, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600), "w") as stream:
        stream.write(secrets.token_urlsafe(32))
        stream.flush()
        os.fsync(stream.fileno())
    partial.replace(path)
    return path.read_text().strip()


def status(gateway: "Gateway") -> Json:
    """Everything the page shows, but for its curves."""
    return {
        "listen": gateway.routing.listen,
        "haproxy": {"version": gateway.plane.binary.version},
        "generation": gateway.routing.generation,
        "models": {served.name: _model(gateway, served.name) for served in gateway.config.models},
        "shadow": {**gateway.pairs.sent(), "pairs": gateway.pairs.count, "same": gateway.pairs.agreed},
        "events": [asdict(happening) for happening in list(gateway.journal.last)[-50:]],
    }


def _model(gateway: "Gateway", name: str) -> Json:
    return {
        "weights": gateway.weights(name),
        "arms": gateway.arms(name),
        "share": gateway.share(name),
        "totals": asdict(gateway.watch.totals(name)),
        "quality": gateway.watch.quality(name),
    }


def metrics(gateway: "Gateway") -> str:
    """The gateway's counts as Prometheus reads them."""
    lines = ["# TYPE slipway_gateway_requests_total counter", "# TYPE slipway_gateway_weight gauge"]
    for served in gateway.config.models:
        counts, name = gateway.watch.totals(served.name), served.name
        for arm in ("champion", "candidate"):
            lines.append(f'slipway_gateway_requests_total{{model="{name}",arm="{arm}"}} {getattr(counts, arm)}')
            lines.append(f'slipway_gateway_errors_total{{model="{name}",arm="{arm}"}} {getattr(counts, arm + "_bad")}')
            lines.append(f'slipway_gateway_weight{{model="{name}",arm="{arm}"}} {gateway.weights(name)[arm]:g}')
        lines.append(f'slipway_gateway_failovers_total{{model="{name}"}} {counts.failovers}')
        lines.append(f'slipway_gateway_cut_streams_total{{model="{name}",arm="candidate"}} {counts.candidate_cut}')
    return "\n".join(lines) + "\n"


class Admin:
    """The admin port of one gateway."""

    def __init__(self, gateway: "Gateway", address: str) -> None:
        self.gateway, self.token = gateway, token(gateway.folder)
        host, port = split(address)
        try:
            self.server = _Server((host, port), self)
        except OSError as error:
            raise UsageError(
                f"the admin port {address} cannot be opened ({error.strerror}); set `admin` in configs/gateway.yaml"
            ) from None
        self.host = host
        self.address = f"{host}:{self.server.server_address[1]}"
        self.streams = 0
        self.stopping = threading.Event()

    def start(self) -> None:
        threading.Thread(target=self.server.serve_forever, args=(0.2,), name="slipway-admin", daemon=True).start()

    def stop(self) -> None:
        self.stopping.set()
        self.server.shutdown()
        self.server.server_close()

    def change(self, what: str, asked: Json) -> Json:
        """Do one change that was asked for; UsageError where it is none that we know."""
        act = _CHANGES.get(what)
        if act is None:
            raise UsageError(f"no change named {ascii(what)[:40]}; there are {', '.join(sorted(_CHANGES))}")
        try:
            act(self.gateway, asked)
        except KeyError as error:
            raise UsageError(f"{what} needs {error.args[0]!r}; it got {sorted(asked)}") from None
        return status(self.gateway)


def _why(asked: Json) -> str:
    return str(asked.get("why") or "by the admin port")[:300]


def _weights(gateway: "Gateway", asked: Json) -> None:
    if not isinstance(asked["weights"], dict):
        raise Refused("weights are a mapping of arm to per cent; the old ones were kept")
    gateway.set_weights(str(asked["model"]), asked["weights"], _why(asked), bool(asked.get("back")))


def _add(gateway: "Gateway", asked: Json) -> None:
    version = asked.get("version")
    if not isinstance(version, str | None):
        raise UsageError(
            f"version is {ascii(version)[:80]}, not a text"
        )  # it would be kept, and no start could read it
    gateway.add(str(asked["model"]), asked["arm"], _address(asked), version)


def _serve(gateway: "Gateway", asked: Json) -> None:
    gateway.serving.ensure(str(asked["model"]), asked["arm"], str(asked["version"]))


def _reload(gateway: "Gateway", asked: Json) -> None:
    gateway.reload(configuration.load(Path(), Path(str(asked["file"]))))


def _address(asked: Json) -> str:
    import re

    address = str(asked["address"])
    if not re.fullmatch(configuration.ADDRESS, address):
        raise UsageError(f"{ascii(address)[:80]} is no address; write HOST:PORT")
    return address


_CHANGES: dict[str, Callable[["Gateway", Json], Any]] = {
    "weights": _weights,
    "shadow": lambda gateway, asked: gateway.set_shadow(str(asked["model"]), asked["percent"], _why(asked)),
    "add": _add,
    "serve": _serve,
    "drain": lambda gateway, asked: gateway.drain(str(asked["model"]), _address(asked)),
    "ready": lambda gateway, asked: gateway.ready(str(asked["model"]), _address(asked)),
    "remove": lambda gateway, asked: gateway.remove(str(asked["model"]), _address(asked)),
    "settle": lambda gateway, asked: gateway.settle(str(asked["model"]), _why(asked), bool(asked.get("keep_old"))),
    "reload": _reload,
}


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    timeout = 30
    server: "_Server"

    def do_GET(self) -> None:
        admin, path = self.server.admin, self.path.partition("?")[0]
        if self._length() != 0:
            self.close_connection = True  # what it sent along is not read, and so must not be taken for a request
        if not self._from_here():
            return
        if path == "/":
            nonce = secrets.token_urlsafe(16)
            policy = f"default-src 'none'; connect-src 'self'; script-src 'nonce-{nonce}'; style-src 'nonce-{nonce}'"
            page = PAGE.read_text(encoding="utf-8").replace("NONCE", nonce)
            self._send(200, page.encode(), "text/html; charset=utf-8", policy)
        elif path == "/api/status":
            self._do(lambda: status(admin.gateway))
        elif path == "/api/history":
            self._do(lambda: {m.name: admin.gateway.watch.history(m.name) for m in admin.gateway.config.models})
        elif path == "/metrics":
            self._send(200, metrics(admin.gateway).encode(), "text/plain; version=0.0.4")
        elif path == "/events":
            self._stream()
        else:
            self._json(404, {"error": "there are /, /api/status, /api/history, /events and /metrics"})

    def do_POST(self) -> None:
        admin = self.server.admin
        keep, self.close_connection = self.close_connection, True  # unless its body was read to the end
        if not self._from_here():
            return
        given = (self.headers.get("authorization") or "").removeprefix("Bearer ")
        if not hmac.compare_digest(given.encode(), admin.token.encode()):
            self._json(401, {"error": f"changes need the token of {admin.gateway.folder / TOKEN}"})
            return
        if not 0 <= (length := self._length()) <= LARGEST:
            self._json(413, {"error": f"send at most {LARGEST} bytes, and say how many"})
            return
        body, self.close_connection = self.rfile.read(length), keep
        try:
            asked = json.loads(body)
        except (ValueError, RecursionError):
            asked = None
        if not isinstance(asked, dict):
            self._json(400, {"error": "send a JSON object"})
            return
        self._do(lambda: admin.change(self.path.removeprefix("/api/"), asked))

    def _from_here(self) -> bool:
        """Refuse another site's page that a browser was led to: its Host is that site's name, and never a number."""
        host = urlsplit(f"//{self.headers.get('host') or ''}").hostname or ""
        with contextlib.suppress(ValueError):
            ipaddress.ip_address(host)
            return True
        if host in ("localhost", self.server.admin.host):
            return True
        self._json(403, {"error": f"this is the admin port of {self.server.admin.address}"})
        return False

    def _length(self) -> int:
        """How long its body is; -1 where that is not said in figures."""
        if "transfer-encoding" in self.headers:
            return -1
        said = self.headers.get("content-length", "0")
        return int(said) if said.isascii() and said.isdigit() and len(said) < 10 else -1

    def _do(self, act: Callable[[], Json]) -> None:
        try:
            self._json(200, act())
        except SlipwayError as error:
            self._json(_STATUS.get(error.exit_code, 500), {"error": str(error), "exit_code": error.exit_code})

    def _stream(self) -> None:
        """The figures once a second, until the page is closed."""
        admin = self.server.admin
        if admin.streams >= MOST_STREAMS:
            self._json(429, {"error": f"{MOST_STREAMS} pages are open"})
            return
        admin.streams += 1
        try:
            self.send_response(200)
            self.send_header("content-type", "text/event-stream")
            self.send_header("cache-control", "no-store")
            self.send_header("connection", "close")
            self.end_headers()
            self.close_connection = True
            while not admin.stopping.is_set():
                self.wfile.write(b"data: " + json.dumps(_shown(admin.gateway)).encode() + b"\n\n")
                self.wfile.flush()
                admin.stopping.wait(1.0)
        except OSError:
            pass  # the page is closed
        finally:
            admin.streams -= 1

    def _json(self, code: int, value: Json) -> None:
        self._send(code, json.dumps(value).encode(), "application/json")

    def _send(self, code: int, data: bytes, kind: str, policy: str = "default-src 'none'") -> None:
        self.send_response(code)
        for name, value in (
            ("content-type", kind), ("content-length", str(len(data))), ("content-security-policy", policy),
            ("x-content-type-options", "nosniff"), ("x-frame-options", "DENY"), ("cache-control", "no-store"),
        ):  # fmt: skip
            self.send_header(name, value)
        self.end_headers()
        self.wfile.write(data)

    def log_message(self, format: str, *args: object) -> None:
        """Nothing: what changes is in the journal."""


def _shown(gateway: "Gateway") -> Json:
    try:
        history = {served.name: gateway.watch.history(served.name) for served in gateway.config.models}
        return {**status(gateway), "history": history, "now": time.time()}
    except SlipwayError as error:
        return {"problem": str(error)}


class _Server(ThreadingHTTPServer):
    daemon_threads = True
    request_queue_size = 64

    def __init__(self, address: tuple[str, int], admin: Admin) -> None:
        self.admin = admin
        super().__init__(address, _Handler)

    def handle_error(self, request: object, client_address: object) -> None:
        """A reader that went away is no error; anything else is shown as usual."""
        if not isinstance(sys.exception(), OSError):
            super().handle_error(request, client_address)  # type: ignore[arg-type]
