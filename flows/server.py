"""Prefect's own local server, for as long as this process lives."""

import contextlib
import ctypes
import os
import signal
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator
from pathlib import Path

from prefect.events.worker import EventsWorker
from prefect.logging.handlers import APILogWorker
from prefect.settings import PREFECT_API_URL, temporary_settings

from slipway import settings
from slipway.errors import Transient

START_SECONDS = 120  # its first start makes its database
DRAIN_SECONDS = 10
_PR_SET_PDEATHSIG = 1


@contextlib.contextmanager
def at_hand(root: Path) -> Iterator[None]:
    """The configured Prefect server; where none is, one of our own on loopback, gone when we are.

    Prefect would start one too, but in our process group and with our terminal: Ctrl-C would end it before the flow
    could say how it ended, and a killed flow would leave it behind.
    """
    if PREFECT_API_URL.value():
        yield
        return
    log = settings.state_folder(root) / "prefect" / "server.log"
    port = _free_port()
    with log.open("w") as output:
        process = subprocess.Popen(
            [sys.executable, "-m", "prefect", "server", "start", "--no-ui", "--host", "127.0.0.1", "--port", str(port)],
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=output,
            start_new_session=True,
            preexec_fn=_die_with_parent if sys.platform == "linux" else None,
        )
    try:
        _wait(process, f"http://127.0.0.1:{port}/api/health", log)
        with temporary_settings({PREFECT_API_URL: f"http://127.0.0.1:{port}/api"}):
            try:
                yield
            finally:  # else Prefect tries to reach the server for a minute when this process ends
                for worker in (APILogWorker, EventsWorker):
                    worker.drain_all(timeout=DRAIN_SECONDS)
    finally:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)  # SQLite's journal keeps what was committed
        process.wait()


def _die_with_parent() -> None:
    """Ask the kernel to end this process when its parent ends, however it does."""
    ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def _wait(process: subprocess.Popen[bytes], url: str, log: Path) -> None:
    deadline = time.monotonic() + START_SECONDS
    while time.monotonic() < deadline and process.poll() is None:
        with contextlib.suppress(OSError), urllib.request.urlopen(url, timeout=5) as answer:
            if answer.status == 200:
                return
        time.sleep(0.1)
    raise Transient(f"Prefect's local server did not start; its words are in {log}")
