"""Answer pairs: what the champion said and what the shadow said to the same question, kept for comparison."""

import json
import threading
import time
from http.server import BaseHTTPRequestHandler
from socketserver import ThreadingMixIn, UnixStreamServer
from typing import TYPE_CHECKING

from slipway.artifacts import Json
from slipway.data.redaction import redacted
from slipway.gateway import rendering, runtime

if TYPE_CHECKING:
    from slipway.gateway.control import Gateway

LARGEST = 8_000_000  # bytes of one pair
FILE_BYTES = 50_000_000  # of one file of pairs
FILES = 20


class Pairs:
    """Receives pairs from HAProxy's Lua tasks and writes them as JSON lines, a file for each 50 MB, the newest twenty."""

    def __init__(self, gateway: "Gateway") -> None:
        self.gateway, self.folder = gateway, gateway.folder / "shadow"
        self.count = self.agreed = 0
        self._lock = threading.Lock()
        self._server: _Server | None = None

    def start(self) -> None:
        place = self.gateway.plane.folder
        (place / rendering.PAIRS).unlink(missing_ok=True)
        with runtime.short(place, rendering.PAIRS) as path:
            self._server = _Server(path, self)
        (place / rendering.PAIRS).chmod(0o600)
        threading.Thread(target=self._server.serve_forever, args=(0.2,), name="slipway-pairs", daemon=True).start()

    def stop(self) -> None:
        if self._server is not None:
            self._server.shutdown()
            self._server.server_close()
            self._server = None

    def add(self, data: bytes) -> None:
        pair = parsed(data, self.gateway.config.shadow.keep_texts)
        with self._lock:
            self.count += 1
            self.agreed += bool(pair["same"])
            self._write(pair)

    def _write(self, pair: Json) -> None:
        self.folder.mkdir(parents=True, exist_ok=True, mode=0o700)
        file = self.folder / "pairs.jsonl"
        if file.exists() and file.stat().st_size > FILE_BYTES:
            file.replace(self.folder / f"pairs-{time.time_ns()}.jsonl")
            for old in sorted(self.folder.glob("pairs-*.jsonl"))[:-FILES]:
                old.unlink(missing_ok=True)
        with file.open("a", encoding="utf-8") as stream:
            stream.write(json.dumps(pair, ensure_ascii=False) + "\n")

    def sent(self) -> dict[str, int]:
        """Copies that HAProxy has sent, dropped because too many were under way, and has under way."""
        words = self.gateway.runtime.ask("show slipway shadow").split()
        numbers = (
            [int(word) for word in words[:3]] if len(words) >= 3 and all(w.isdigit() for w in words[:3]) else [0, 0, 0]
        )
        return dict(zip(("sent", "dropped", "in_flight"), numbers, strict=True))


def parsed(data: bytes, keep_texts: bool) -> Json:
    """A pair as Lua sends it: a line of facts with lengths, then question, champion's answer, shadow's answer."""
    head, _, rest = data.partition(b"\n")
    fields = head.decode("utf-8", "replace").split("\t")
    name, model, status, version, shadow_status, shadow_version, ms = fields[:7]
    lengths = [int(field) for field in fields[7:10]]
    question, answer = rest[: lengths[0]], rest[lengths[0] : lengths[0] + lengths[1]]
    shadow = rest[lengths[0] + lengths[1] :][: lengths[2]]
    texts = said(answer), said(shadow)
    pair: Json = {
        "at": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
        "request": name,
        "model": model,
        "champion": {"status": int(status), "version": version, "characters": len(texts[0])},
        "shadow": {"status": int(shadow_status), "version": shadow_version, "characters": len(texts[1]), "ms": int(ms)},
        "same": bool(texts[0]) and texts[0] == texts[1],
    }
    if keep_texts:
        pair["question"] = redacted(question.decode("utf-8", "replace"))
        pair["champion"]["text"], pair["shadow"]["text"] = redacted(texts[0]), redacted(texts[1])
    return pair


def said(answer: bytes) -> str:
    """The text of a completion, whole or streamed; empty where it is neither."""
    text = answer.decode("utf-8", "replace")
    if text.lstrip().startswith("data:"):
        lines = [line[5:].strip() for line in text.splitlines() if line.startswith("data:")]
        return "".join(_content(line) for line in lines if line != "[DONE]")
    return _content(text)


def _content(text: str) -> str:
    try:
        choice = json.loads(text)["choices"][0]
        part = choice.get("message") or choice.get("delta") or choice
        return str(part.get("content") or part.get("text") or "")
    except (ValueError, KeyError, IndexError, TypeError, AttributeError, RecursionError):
        return ""


class _Handler(BaseHTTPRequestHandler):
    timeout = 10
    server: "_Server"

    def do_POST(self) -> None:
        length = int(self.headers.get("content-length") or 0)
        if length > LARGEST:
            self.send_error(413)
            return
        try:
            self.server.pairs.add(self.rfile.read(length))
            self.send_response(204)
        except (ValueError, IndexError):
            self.send_response(400)
        self.send_header("content-length", "0")
        self.end_headers()

    def log_message(self, format: str, *args: object) -> None:
        """Nothing: prompts are nobody's log."""

    def address_string(self) -> str:
        return "haproxy"


class _Server(ThreadingMixIn, UnixStreamServer):
    daemon_threads = True

    def __init__(self, path: str, pairs: Pairs) -> None:
        self.pairs = pairs
        super().__init__(path, _Handler)
