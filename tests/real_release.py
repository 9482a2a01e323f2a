"""Two real versions behind a real gateway, every part of it a process of its own: `slipway serve` twice, `slipway gateway`.

with running(forks, folder) as release:
    release.split(50)
    release.candidate.kill()
    release.candidate.start()
"""

import contextlib
import json
import os
import signal
import urllib.error
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import served_models
import yaml
from conftest import free_port, wait_for
from forked_slipway import Forks
from made_versions import MODEL
from pace import slowness

from slipway import settings
from slipway.gateway import admin, replicas, routing
from slipway.gateway.runtime import Runtime

ROOT = Path(__file__).parents[1]
CHAMPION, CANDIDATE = "1.0.0", "1.1.0"


class Replica:
    """`slipway serve` of one version, at one address however often it is started."""

    def __init__(self, forks: Forks, root: Path, version: str) -> None:
        self.forks, self.root, self.version = forks, root, version
        self.port, self.pid = free_port(), 0

    @property
    def address(self) -> str:
        return f"127.0.0.1:{self.port}"

    def start(self) -> None:
        log = self.root / f"replica-{self.version}.log"
        words = ("serve", f"{MODEL}@{self.version}", "--port", str(self.port), "--json")
        self.pid = self.forks.start(*words, log=log, where=self.root)

    def ready(self) -> None:
        replicas.wait_ready(self.address, 30 * slowness())

    def end(self, how: signal.Signals) -> int:
        """Its exit code, once it is gone."""
        os.kill(self.pid, how)
        pid, self.pid = self.pid, 0
        return self.forks.wait(pid)

    def ask(self, messages: list[Any], **more: Any) -> str | None:
        """The whole answer to a question; None where the model's words are no text."""
        asked = json.dumps({"messages": messages, "temperature": 0, **more}).encode()
        headers = {"content-type": "application/json"}
        request = urllib.request.Request(f"http://{self.address}/v1/chat/completions", asked, headers)
        try:
            with urllib.request.urlopen(request, timeout=60) as answer:
                return str(json.load(answer)["choices"][0]["message"]["content"])
        except urllib.error.HTTPError:
            return None


class Release:
    """A champion, a candidate, and the gateway before them."""

    def __init__(self, forks: Forks, root: Path) -> None:
        self.forks, self.root = forks, root
        self.champion, self.candidate = Replica(forks, root, CHAMPION), Replica(forks, root, CANDIDATE)
        self.folder = settings.state_folder(root) / "gateway"
        self.pid = 0

    def start(self) -> None:
        for replica in (self.champion, self.candidate):
            replica.start()
        for replica in (self.champion, self.candidate):
            replica.ready()
        models = [{"name": MODEL, "champion": [self.champion.address], "candidate": [self.candidate.address]}]
        wanted = {"listen": "127.0.0.1:0", "admin": "127.0.0.1:0", "models": models}
        (self.root / "configs" / "gateway.yaml").write_text(yaml.safe_dump(wanted))
        self.pid = self.forks.start("gateway", "--json", log=self.root / "gateway.log", where=self.root)
        wait_for(lambda: self.up("candidate"), 30 * slowness(), "the gateway")

    @property
    def url(self) -> str:
        kept = routing.load(self.folder)
        assert kept is not None
        return f"http://{kept.listen}"

    def asked(self, path: str, what: object = None) -> Any:
        """What the gateway's admin port answers."""
        kept = routing.load(self.folder)
        assert kept is not None
        request = urllib.request.Request(f"http://{kept.admin}{path}")
        if what is not None:
            request.data = json.dumps(what).encode()
            request.add_header("authorization", f"Bearer {admin.token(self.folder)}")
        with urllib.request.urlopen(request, timeout=30) as answer:
            return json.load(answer)

    def split(self, candidate: float) -> None:
        weights = {"champion": 100 - candidate, "candidate": candidate}
        self.asked("/api/weights", {"model": MODEL, "weights": weights, "why": "a test"})

    @property
    def model(self) -> Any:
        return self.asked("/api/status")["models"][MODEL]

    def up(self, arm: str) -> bool:
        try:
            return bool(self.model["arms"][arm]["up"])
        except (OSError, AssertionError, KeyError):  # the gateway is only starting
            return False

    def end(self) -> None:
        for replica in (self.champion, self.candidate):
            if replica.pid:
                replica.end(signal.SIGKILL)
        if self.pid:
            os.kill(self.pid, signal.SIGKILL)
            self.forks.wait(self.pid)
        if pid := Runtime(self.folder / "haproxy").pid():
            os.kill(pid, signal.SIGKILL)


@contextlib.contextmanager
def running(forks: Forks, root: Path) -> Iterator[Release]:
    """Every request is generated: nothing is answered from a cache, or together with another."""
    made = served_models.project(root)
    made.version(whole=False)
    made.version(CANDIDATE, whole=False)
    chosen = yaml.safe_load((ROOT / "configs" / "serving.yaml").read_text())
    chosen["cache"] |= {"memory_bytes": 0, "coalesce": False}
    chosen["batching"] |= {"threads": 1}
    (root / "configs" / "serving.yaml").write_text(yaml.safe_dump(chosen))
    release = Release(forks, root)
    try:
        release.start()
        yield release
    finally:
        release.end()
