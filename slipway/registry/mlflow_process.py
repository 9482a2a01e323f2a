"""MLflow through a process of its own, with one deadline for everything that is asked of it."""

import contextlib
import json
import os
import select
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any, Self

from slipway import settings
from slipway.artifacts import Json
from slipway.errors import Transient

DEADLINE_SECONDS = 30.0  # for everything that MLflow is asked in one go


class Mlflow:
    """MLflow through a process of its own, with one deadline for everything that is asked of it."""

    def __init__(self, root: Path, seconds: float = DEADLINE_SECONDS, lock: int | None = None) -> None:
        self.root, self.uri, self.seconds = root, settings.mlflow_uri(root), seconds
        self.deadline = time.monotonic() + seconds
        self.lock = lock  # held by the process too: where this one is killed, nobody begins before that one has ended
        self.said = b""

    def __enter__(self) -> Self:
        # One try a call: whoever repeats a POST whose answer was lost makes a second one.
        patience = {"MLFLOW_HTTP_REQUEST_MAX_RETRIES": "0", "MLFLOW_HTTP_REQUEST_TIMEOUT": "20"}
        self.process = subprocess.Popen(
            [sys.executable, "-m", "slipway.registry.mirroring"],
            env=settings.child({}, settings.environment(self.root) | patience),
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            start_new_session=True,
            pass_fds=() if self.lock is None else (self.lock,),
        )
        try:
            self._send({"root": str(self.root), "seconds": self.seconds})
            self._heard()
        except BaseException:
            self._kill()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        self._kill()

    def look(self, model: str) -> Json:
        return dict(self._asked(do="look", model=model))

    def enter(self, model: str, operation: str, about: Json, seconds: float) -> Json:
        """Enter a version; `seconds`: that its upload may take beyond the deadline."""
        self.deadline += seconds
        return dict(self._asked(do="enter", model=model, operation=operation, about=about, seconds=seconds))

    def tag(self, model: str, number: str, tags: dict[str, str]) -> None:
        self._asked(do="tag", model=model, number=number, tags=tags)

    def alias(self, model: str, alias: str, number: str | None) -> None:
        self._asked(do="alias", model=model, alias=alias, number=number)

    def delete(self, model: str, number: str) -> None:
        self._asked(do="delete", model=model, number=number)

    def _asked(self, **request: Any) -> Any:
        self._send(request)
        return self._heard().get("answer")

    def _send(self, request: Json) -> None:
        assert self.process.stdin is not None
        try:
            self.process.stdin.write(json.dumps(request).encode() + b"\n")
            self.process.stdin.flush()
        except OSError:
            raise self._away("its process has ended") from None

    def _heard(self) -> Json:
        """The next line of the process, before the deadline."""
        assert self.process.stdout is not None
        while b"\n" not in self.said:
            left = self.deadline - time.monotonic()
            if left <= 0 or not select.select([self.process.stdout], [], [], left)[0]:
                raise self._away(f"no answer in {self.seconds:.0f} s")
            if not (more := os.read(self.process.stdout.fileno(), 65536)):
                raise self._away("its process has ended")
            self.said += more
        line, _, self.said = self.said.partition(b"\n")
        answer: Json = json.loads(line)
        if "error" in answer:
            raise self._away(str(answer["error"]))
        return answer

    def _away(self, why: str) -> Transient:
        return Transient(
            f"MLflow at {self.uri} could not be brought up to date ({why}); the ledger has everything, "
            f"the next release or `slipway doctor` catches up"
        )

    def _kill(self) -> None:
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.killpg(self.process.pid, signal.SIGKILL)
        for stream in (self.process.stdin, self.process.stdout):
            with contextlib.suppress(OSError):
                stream.close()  # type: ignore[union-attr]
        self.process.wait()
