"""Progress in the terminal: a line a stage that stays current, or plain lines where nobody can move a cursor."""

import sys
import time
from types import TracebackType
from typing import Self

from rich.console import Console
from rich.live import Live
from rich.table import Table
from rich.text import Text

# What DVC says around a stage's own words.
_NOISE = (
    "> python",
    "Running stage",
    "Updating lock",
    "Generating lock",
    "Use `dvc",
    "To track",
    "To enable",
    "\tgit add",
    "\tdvc config",
)


class Display:
    """Shows what each stage says, as it says it."""

    def __init__(self, stages: tuple[str, ...]) -> None:
        self.stages, self.last, self.since = stages, dict.fromkeys(stages, ""), dict.fromkeys(stages, 0.0)
        self.current: str | None = None
        self.console = Console(stderr=True)
        self.live = Live(get_renderable=self._table, console=self.console, refresh_per_second=4, transient=True)
        self.moving = self.console.is_terminal

    def __enter__(self) -> Self:
        if self.moving:
            self.live.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self.moving:
            self.live.stop()

    def line(self, stage: str, line: str) -> None:
        """One line of a stage's output."""
        if not line.strip() or line.startswith(_NOISE):
            return
        if stage != self.current:
            self.current, self.since[stage] = stage, time.monotonic()
        self.last[stage] = line
        if not self.moving:
            print(f"{stage:>9} │ {line}", file=sys.stderr, flush=True)

    def _table(self) -> Table:
        table = Table.grid(padding=(0, 2))
        reached = self.stages.index(self.current) if self.current else -1
        for number, stage in enumerate(self.stages):
            sign, colour = ("✓", "green") if number < reached else ("▶", "cyan") if number == reached else ("·", "dim")
            seconds = f"{time.monotonic() - self.since[stage]:.0f} s" if number == reached else ""
            table.add_row(
                Text(sign, colour),
                Text(stage, colour),
                Text(seconds),
                Text(self.last[stage], overflow="ellipsis", no_wrap=True),
            )
        return table
