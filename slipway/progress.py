"""Progress as lines of text: what `dvc repro` prints, a flow logs and `slipway run` shows live."""

import time


class Progress:
    """Says where a long piece of work stands, at most every `every_seconds`, with the time left."""

    def __init__(self, total: int, what: str = "step", every_seconds: float = 1.0, done: int = 0) -> None:
        self.total, self.what, self.every_seconds = total, what, every_seconds
        self.start, self.already, self.last = time.monotonic(), done, 0.0

    def at(self, done: int, **values: float) -> None:
        now = time.monotonic()
        if done < self.total and now - self.last < self.every_seconds:
            return
        self.last = now
        pace = (now - self.start) / max(done - self.already, 1)
        left = int(pace * (self.total - done))
        shown = "".join(f" · {name} {value:.4g}" for name, value in values.items())
        print(f"{self.what} {done}/{self.total}{shown} · {left // 60:02d}:{left % 60:02d} left", flush=True)
