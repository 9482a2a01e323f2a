"""What a stage says about itself while it works: JSON lines on disk, so that nothing is lost when MLflow is away.

The stage's process only writes. Whoever watches replays the lines into MLflow (slipway/tracking.py): the flow, or,
under a bare `dvc repro`, a thread of the same process.
"""

import contextlib
import json
import time
from collections.abc import Iterator, Mapping
from contextvars import ContextVar
from pathlib import Path
from typing import Any, Self

_current: ContextVar["Journal | None"] = ContextVar("current journal", default=None)


def log(metrics: Mapping[str, float], step: int) -> None:
    """Live metrics of the stage that runs now; does nothing outside a stage (in a notebook, say)."""
    if journal := _current.get():
        journal.step = step
        journal.write("metrics", values=dict(metrics), step=step)


class Journal:
    """One attempt's lines."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.file = path.open("a", encoding="utf-8")
        self.step = 0  # the last one logged live: where the final figures belong on a curve

    def __enter__(self) -> Self:
        self.token = _current.set(self)
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: object) -> None:
        _current.reset(self.token)
        self.write("end", status="FINISHED" if kind is None else "KILLED" if kind is KeyboardInterrupt else "FAILED")
        self.file.close()

    def write(self, what: str, **facts: Any) -> None:
        self.file.write(json.dumps({"what": what, "at": int(time.time() * 1000), **facts}) + "\n")
        self.file.flush()


class Reader:
    """The lines written since the last look; a line still being written waits for the next."""

    def __init__(self, path: Path) -> None:
        self.path, self.offset = path, 0

    @contextlib.contextmanager
    def new(self) -> Iterator[list[dict[str, Any]]]:
        """The new lines; they count as read only when the caller is done with them."""
        if not self.path.exists():
            yield []
            return
        with self.path.open("rb") as file:
            file.seek(self.offset)
            data = file.read()
        whole = data[: data.rfind(b"\n") + 1]
        yield [json.loads(line) for line in whole.splitlines()]
        self.offset += len(whole)
