"""A real gateway on real replicas, for tests."""

import contextlib
import http.client
import json
import os
import signal
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from made_replica import MODEL, Process

from slipway.errors import UsageError
from slipway.gateway import haproxy
from slipway.gateway.config import Config
from slipway.gateway.control import Gateway
from slipway.gateway.runtime import Runtime


def need_haproxy() -> None:
    try:
        haproxy.find()
    except UsageError as error:
        pytest.skip(str(error))


def configuration(champion: list[str], candidate: list[str], **more: Any) -> Config:
    models = [{"name": MODEL, "champion": champion, "candidate": candidate}]
    budgets = {"stream": 0.8, "chat": 0.8, "completion": 0.8, "champion": 10}
    values = {"listen": "127.0.0.1:0", "admin": "127.0.0.1:0", "models": models, "budgets": budgets}
    return Config.model_validate(values | more)


class Rig:
    """A gateway with a champion and a candidate."""

    def __init__(self, folder: Path, **more: Any) -> None:
        self.folder = folder
        self.champion, self.candidate = Process("1.0.0"), Process("2.0.0")
        self.more = more
        self.told: list[Any] = []
        self.gateway = self.made()

    def made(self) -> Gateway:
        config = configuration([self.champion.address], [self.candidate.address], **self.more)
        self.gateway = Gateway(config, self.folder, self.told.append)
        return self.gateway

    @property
    def port(self) -> int:
        return int(str(self.gateway.routing.listen).rpartition(":")[2])

    def split(self, candidate: float, **more: Any) -> None:
        self.gateway.set_weights(MODEL, {"champion": 100 - candidate, "candidate": candidate}, "a test", **more)

    def kinds(self) -> list[str]:
        return [happening.kind for happening in self.gateway.journal.last]

    def end(self) -> None:
        with contextlib.suppress(Exception):
            self.gateway.watch.stop()
        if pid := Runtime(self.folder / "haproxy").pid():
            os.kill(pid, signal.SIGKILL)
        for replica in (self.champion, self.candidate):
            replica.kill()


@contextlib.contextmanager
def rigged(folder: Path, **more: Any) -> Iterator[Rig]:
    rig = Rig(folder, **more)
    try:
        rig.gateway.start()
        yield rig
    finally:
        rig.end()


class Client:
    """One client that keeps its connection, as real ones do."""

    def __init__(self, port: int, seconds: float = 10) -> None:
        self.line = http.client.HTTPConnection("127.0.0.1", port, timeout=seconds)

    def ask(self, user: str = "u", path: str = "/v1/chat/completions", body: Any = None, **headers: str) -> "Answer":
        given = {"model": MODEL, "messages": [{"role": "user", "content": "hi"}]} if body is None else body
        data = given if isinstance(given, bytes) else json.dumps(given).encode()
        named = {name.replace("_", "-"): value for name, value in headers.items()}
        self.line.request("POST", path, data, {"x-user-id": user, "content-type": "application/json", **named})
        got = self.line.getresponse()
        return Answer(got.status, {name.lower(): value for name, value in got.getheaders()}, got.read())

    def close(self) -> None:
        self.line.close()


class Answer:
    """What came back, whole."""

    def __init__(self, status: int, headers: dict[str, str], body: bytes) -> None:
        self.status, self.headers, self.body = status, headers, body

    @property
    def version(self) -> str:
        return self.headers.get("x-slipway-version", "")
