"""Replicas for tests: a project with a serving.yaml, and servers over real HTTP, in a thread or as a process."""

import asyncio
import json
import os
import shutil
import socket
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx
import yaml
from made_engine import MadeEngine

from slipway.generating.jobs import Engine
from slipway.serving.config import FILE, ServingConfig
from slipway.serving.replica import Replica
from slipway.serving.server import Server, address, listen, serve

ROOT = Path(__file__).parents[1]
TARGET = "desk@champion"


def project(folder: Path, changes: Mapping[str, Any] | None = None) -> Path:
    """The least that `slipway serve` needs, with some keys of serving.yaml changed: {"limits": {"body_bytes": 9}}."""
    for name in ("dvc.yaml", "params.yaml", "configs/env/local.yaml", "configs/model.yaml"):
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy2(ROOT / name, folder / name)
    chosen = yaml.safe_load((ROOT / FILE).read_text())
    quick: dict[str, Any] = {"drain": {"announce_seconds": 0, "limit_seconds": 10}}
    for section, values in [*quick.items(), *(changes or {}).items()]:
        chosen[section] = {**chosen[section], **values} if isinstance(chosen.get(section), dict) else values
    (folder / FILE).write_text(yaml.safe_dump(chosen))
    return folder


class Running:
    """A replica in a thread of this process: its parts can be looked at."""

    def __init__(self, root: Path, engine: Engine | None = None) -> None:
        self.engine = engine or MadeEngine()
        self._root, self._ready = root, threading.Event()
        self._error: BaseException | None = None
        self._thread = threading.Thread(target=self._run)
        self.listener = listen("127.0.0.1", 0)
        self.url = address(self.listener)
        self.replica: Replica
        self._thread.start()
        assert self._ready.wait(20), "the replica is not ready"
        if self._error is not None:
            raise self._error
        self.http = httpx.Client(base_url=self.url, timeout=30)

    def _run(self) -> None:
        try:
            asyncio.run(self._serve())
        except BaseException as error:  # noqa: BLE001 — told to the test's own thread
            self._error = error
        finally:
            self._ready.set()

    async def _serve(self) -> None:
        config = ServingConfig.load(self._root / FILE)
        self.replica = Replica(self._root, config, self.engine)
        self.loop, self.server = asyncio.get_running_loop(), Server(self.replica)
        await serve(self.server, self.listener, self._ready.set)

    def end(self) -> None:
        """As SIGTERM does."""
        self.loop.call_soon_threadsafe(self.server.end)

    def stop(self) -> None:
        self.http.close()
        if self._thread.is_alive():
            self.end()
            self._thread.join(30)
        assert not self._thread.is_alive()
        if self._error is not None:
            raise self._error

    def chat(self, text: str, headers: Mapping[str, str] | None = None, **asked: Any) -> httpx.Response:
        return self.http.post("/v1/chat/completions", json=chat(text, **asked), headers=headers)

    def metric(self, line: str) -> float:
        """The value of one line of /metrics; 0 where it is not there."""
        for one in self.http.get("/metrics").text.splitlines():
            if one.startswith(line + " "):
                return float(one.rpartition(" ")[2])
        return 0.0

    @property
    def port(self) -> int:
        return int(self.url.rpartition(":")[2])

    def connection(self) -> socket.socket:
        """A bare connection, for what no HTTP client sends."""
        made = socket.create_connection(("127.0.0.1", self.port), timeout=20)
        made.settimeout(20)
        return made


def chat(text: str, **asked: Any) -> dict[str, Any]:
    return {"model": "desk", "messages": [{"role": "user", "content": text}], **asked}


def read_all(connection: socket.socket) -> bytes:
    """What comes until the other side closes."""
    data = b""
    try:
        while part := connection.recv(65536):
            data += part
    except ConnectionResetError:  # closed with something of ours unread
        pass
    return data


@contextmanager
def running(folder: Path, changes: Mapping[str, Any] | None = None, engine: Engine | None = None) -> Iterator[Running]:
    found = Running(project(folder, changes), engine)
    try:
        yield found
    finally:
        found.stop()


class Process:
    """`slipway serve` as a process of its own."""

    def __init__(self, root: Path, *words: str) -> None:
        environment = {**os.environ, "PYTHONPATH": f"{ROOT}:{ROOT / 'tests'}", "COVERAGE_PROCESS_START": ""}
        command = [sys.executable, str(ROOT / "tests" / "serve_made.py"), *words]
        self.process = subprocess.Popen(
            command, cwd=root, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
        )

    def ready(self) -> dict[str, Any]:
        """The line that says so, with --json."""
        assert self.process.stdout is not None and self.process.stderr is not None
        line = self.process.stdout.readline()
        assert line, self.process.stderr.read()
        found: dict[str, Any] = json.loads(line)
        return found

    def ended(self, seconds: float = 30) -> tuple[int, str, str]:
        out, err = self.process.communicate(timeout=seconds)
        return self.process.returncode, out, err

    def kill(self) -> None:
        self.process.kill()
        self.process.communicate(timeout=30)


def events(text: str) -> list[tuple[str | None, Any]]:
    """Server-sent events as (name, data)."""
    found = []
    for block in text.split("\n\n"):
        lines = dict(line.split(": ", 1) for line in block.splitlines() if ": " in line)
        if "data" in lines:
            data = lines["data"]
            found.append((lines.get("event"), data if data == "[DONE]" else json.loads(data)))
    return found


Until = Callable[[Callable[[], bool], float, str], None]
