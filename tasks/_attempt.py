"""One run of a stage's process: it has one start and one end on record, and dies with whoever started it."""

import contextlib
import fcntl
import json
import os
import signal
import threading
import time
import uuid
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from slipway import settings


class Attempt:
    """One run of a stage's process: a file held under lock while it lives, and exactly one record of its end."""

    def __init__(self, folder: Path, name: str) -> None:
        self.folder = folder / "attempts" / name
        self.folder.mkdir(parents=True, exist_ok=True)
        self._bury_the_dead()
        self.id = settings.variable("ATTEMPT") or f"{time.strftime('%Y%m%dT%H%M%S')}-{uuid.uuid4().hex[:8]}"
        self.start = self.folder / f"{self.id}.json"
        unborn = self.folder / f".{self.id}.unborn"  # locked before it has its name: nobody can take it for dead
        self.file = unborn.open("w")
        fcntl.flock(self.file, fcntl.LOCK_EX)
        self.file.write(json.dumps({"stage": name, "pid": os.getpid(), "started": time.time()}))
        self.file.flush()
        unborn.rename(self.start)

    @property
    def journal(self) -> Path:
        return self.start.with_suffix(".jsonl")

    def _bury_the_dead(self) -> None:
        """Record the end of attempts that were killed: their lock is free and no end stands beside them."""
        for path in self.folder.glob("*.json"):
            if path.name.endswith(".end.json"):
                continue
            with path.open() as file:
                try:
                    fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
                except BlockingIOError:
                    continue
                _end(path, {"outcome": "killed"})

    def end(self, outcome: str, **facts: Any) -> None:
        """Write the attempt's last word; where even that finds no room, the next attempt buries this one."""
        with contextlib.suppress(OSError):
            _end(self.start, {"outcome": outcome, "ended": time.time(), **facts})
        self.file.close()


def _end(start: Path, record: Mapping[str, Any]) -> None:
    """Write the terminal record beside its start; the first writer wins, whole."""
    end = start.with_suffix(".end.json")
    partial = end.with_name(f".{end.name}.{os.getpid()}.partial")
    partial.write_text(json.dumps(record))
    try:
        os.link(partial, end)
    except FileExistsError:
        pass
    finally:
        partial.unlink()


def follow_supervisor() -> None:
    """Kill this whole process group the moment the flow that started it is gone, however it went.

    The flow holds a lock on the file named by SLIPWAY_LIFELINE; a thread waits for it. The kernel drops the lock
    when the flow dies, SIGKILL included, so nothing has to be polled and no process is left holding a GPU.
    """
    lifeline = settings.variable("LIFELINE")
    if lifeline is None:
        return

    def wait() -> None:
        try:
            with Path(lifeline).open() as file:
                fcntl.flock(file, fcntl.LOCK_SH)
        except OSError:
            pass
        os.killpg(0, signal.SIGKILL)

    threading.Thread(target=wait, name="lifeline", daemon=True).start()
