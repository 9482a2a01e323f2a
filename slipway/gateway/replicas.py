"""Replicas that the gateway starts itself: `slipway serve`, watched, and started again with growing pauses."""

import json
import os
import signal
import subprocess
import sys
import threading
import time
import urllib.error
import urllib.request
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

from slipway import settings
from slipway.errors import StageError, Transient
from slipway.gateway.config import Arm

PAUSES = (1.0, 2.0, 5.0, 10.0, 30.0)
READY_SECONDS = 600.0


def serve_command(model: str, version: str) -> list[str]:
    return [
        sys.executable,
        "-c",
        "from slipway.cli import main; main()",
        "serve",
        f"{model}@{version}",
        "--no-composites",  # an arm is one version
        "--port",
        "0",
        "--json",
    ]


@dataclass
class Started:
    """A process that answers, or will."""

    model: str
    arm: Arm
    version: str
    log: Path
    command: Sequence[str]
    pid: int = 0
    born: float = 0.0  # by the kernel
    address: str | None = None
    failures: int = 0
    again_at: float = 0.0  # time.monotonic() before which it is not started again
    known_as: str | None = None  # the address by which the routing has it
    adopted: bool = False  # an earlier gateway started it
    coming_back: bool = False
    child: "subprocess.Popen[bytes] | None" = field(default=None, repr=False)

    def start(self) -> None:
        self.log.parent.mkdir(parents=True, exist_ok=True)
        with self.log.open("wb") as log:
            # A file, not a pipe: a replica that outlives its gateway must still be able to write.
            self.child = subprocess.Popen(
                list(self.command), stdin=subprocess.DEVNULL, stdout=log, stderr=log, env=settings.child({}, {}),
                start_new_session=True,
            )  # fmt: skip
        self.pid, self.address = self.child.pid, None
        self.born = born(self.pid) or 0.0

    def lives(self) -> bool:
        if self.child is not None:
            return self.child.poll() is None
        return lives(self.pid, self.born)

    def said_address(self) -> str | None:
        """The address in the line of JSON that it prints when it listens."""
        if self.address is None:
            for line in self.log.read_text(errors="replace").splitlines():
                self.address = self.address or _address(line)
        return self.address

    def failed(self) -> float:
        """Plan the next start; how many seconds that is away."""
        pause = PAUSES[min(self.failures, len(PAUSES) - 1)]
        self.failures, self.again_at = self.failures + 1, time.monotonic() + pause
        return pause

    def stop(self) -> None:
        """Ask it to finish what it has; it is not waited for."""
        if self.lives():
            os.kill(self.pid, signal.SIGTERM)

    def last_words(self) -> str:
        lines = [line for line in self.log.read_text(errors="replace").splitlines() if line.strip()]
        return lines[-1][:300] if lines else "it said nothing"


def _address(line: str) -> str | None:
    if not line.startswith("{"):
        return None
    try:
        said = json.loads(line)
    except ValueError:
        return None
    found = said.get("address") or said.get("url") or ""
    if not found and "port" in said:
        found = f"{said.get('host', '127.0.0.1')}:{said['port']}"
    return str(found).removeprefix("http://").rstrip("/") or None


def born(pid: int) -> float | None:
    """When a process began, by the kernel's clock; None when there is none, or a dead one."""
    try:
        after = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except OSError:
        return None
    return None if after[0] in "ZX" else float(after[19])


def lives(pid: int, since: float) -> bool:
    """Whether a process is there, and not another one under its number."""
    return pid > 0 and born(pid) == since


@dataclass(frozen=True)
class Readiness:
    """What a replica says of itself."""

    ready: bool
    said: str
    version: str | None = None


def ask(address: str, seconds: float = 2.0) -> Readiness:
    """A replica's /ready."""
    try:
        with urllib.request.urlopen(f"http://{address}/ready", timeout=seconds) as answer:
            return Readiness(True, "ready", answer.headers.get("x-slipway-version") or _version(answer.read(10_000)))
    except urllib.error.HTTPError as error:
        text = error.read(300).decode(errors="replace").strip()
        return Readiness(False, f"{error.code} {text}", error.headers.get("x-slipway-version"))
    except (OSError, ValueError) as error:
        return Readiness(False, str(getattr(error, "reason", error)))


def _version(body: bytes) -> str | None:
    """The version that a replica's /ready names first."""
    try:
        return str(json.loads(body)["served"][0]["version"])
    except (ValueError, KeyError, IndexError, TypeError):
        return None


def wait_ready(address: str, seconds: float) -> Readiness:
    """Returns when a replica is ready; Transient with its own reason when it is not in time."""
    deadline = time.monotonic() + seconds
    while not (said := ask(address)).ready:
        if time.monotonic() > deadline:
            raise Transient(f"{address} is not ready after {seconds:g} s ({said.said}); no traffic was sent there")
        time.sleep(0.05)
    return said


def wait_started(replica: Started, seconds: float = READY_SECONDS, ended: threading.Event | None = None) -> str:
    """The address of a replica that has become ready; StageError with its last words when it died instead."""
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        if not replica.lives():
            raise StageError(
                f"the replica of {replica.model} {replica.version} ended: {replica.last_words()} ({replica.log})"
            )
        if (address := replica.said_address()) and ask(address).ready:
            return address
        if ended is not None and ended.wait(0.05):
            raise Transient(f"the gateway ends; the replica of {replica.model} {replica.version} was not waited for")
        time.sleep(0 if ended is not None else 0.05)
    raise Transient(
        f"the replica of {replica.model} {replica.version} is not ready after {seconds:g} s ({replica.log})"
    )
