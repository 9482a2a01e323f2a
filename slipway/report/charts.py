"""The geometry of the report's pictures: values in, coordinates out. The template draws them as inline SVG.

Drawn this way they need no JavaScript and no image library, follow the reader's light or dark theme, and print sharp.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass

from slipway.artifacts import Estimate, Json
from slipway.report import words

WIDTH, HEIGHT = 720, 260
LEFT, RIGHT, TOP, BOTTOM = 40, 12, 10, 42
FULL_MARGIN = 0.1  # ten points of a share: from here on a bar is full
MAX_POINTS = 600  # more would draw pixels upon pixels


@dataclass(frozen=True)
class Tick:
    at: float
    label: str


@dataclass(frozen=True)
class Line:
    """One series: its points in pixels, and its last value in words."""

    name: str
    tone: str
    points: list[tuple[float, float]]
    last: str

    @property
    def path(self) -> str:
        return " ".join(f"{x:.1f},{y:.1f}" for x, y in self.points)


@dataclass(frozen=True)
class Curve:
    """A line chart, ready to draw."""

    lines: list[Line]
    x_ticks: list[Tick]
    y_ticks: list[Tick]
    description: str
    width: int = WIDTH
    height: int = HEIGHT
    left: int = LEFT
    right: int = WIDTH - RIGHT
    top: int = TOP
    bottom: int = HEIGHT - BOTTOM


def nice_ticks(low: float, high: float, about: int = 5) -> list[float]:
    """Round numbers that cover a range: multiples of 1, 2 or 5 times a power of ten."""
    span = high - low
    if span <= 0:
        return [low]
    rough = span / about
    power = 10.0 ** math.floor(math.log10(rough))
    step = next(power * factor for factor in (1, 2, 5, 10) if power * factor >= rough)
    first = math.ceil(low / step - 1e-9)
    last = math.floor(high / step + 1e-9)
    return [round(index * step, 12) for index in range(first, last + 1)]


def _thin(points: list[tuple[float, float]]) -> list[tuple[float, float]]:
    """At most MAX_POINTS of them, the last one always kept."""
    stride = math.ceil(len(points) / MAX_POINTS)
    kept = points[::stride] if stride > 1 else points
    return kept if kept[-1] == points[-1] else [*kept, points[-1]]


def loss_curve(rows: Sequence[Json]) -> Curve | None:
    """Training and held-out loss over steps; None where there is nothing to draw."""
    series = {
        ("training", "train"): [(r["step"], r["train_loss"]) for r in rows if r.get("train_loss") is not None],
        ("held out", "held"): [(r["step"], r["validation_loss"]) for r in rows if r.get("validation_loss") is not None],
    }
    found = {name: _thin(points) for name, points in series.items() if points}
    values = [point for points in found.values() for point in points]
    if not values:
        return None
    last_step, highest = max(x for x, _ in values), max(y for _, y in values)
    right, bottom = WIDTH - RIGHT, HEIGHT - BOTTOM

    def place(x: float, y: float) -> tuple[float, float]:
        return (
            LEFT + (right - LEFT) * x / max(last_step, 1),
            bottom - (bottom - TOP) * y / max(highest * 1.04, 1e-9),
        )

    lines = [
        Line(name, tone, [place(*point) for point in points], words.number(points[-1][1]))
        for (name, tone), points in found.items()
    ]
    ends = {name: (points[0][1], points[-1][1]) for (name, _), points in found.items()}
    says = "; ".join(f"{name} from {words.number(a)} to {words.number(b)}" for name, (a, b) in ends.items())
    return Curve(
        lines=lines,
        x_ticks=[Tick(place(x, 0)[0], words.number(x)) for x in nice_ticks(0, last_step, 6)],
        y_ticks=[Tick(place(0, y)[1], words.number(y)) for y in nice_ticks(0, highest)],
        description=f"Loss over {words.number(last_step)} steps: {says}.",
    )


@dataclass(frozen=True)
class Band:
    """An estimate on a track from 0 to 100: the dot and its interval, in percent."""

    dot: float
    left: float
    width: float


def band(estimate: Estimate, low: float, high: float) -> Band:
    def at(value: float) -> float:
        return 100 * min(1.0, max(0.0, (value - low) / (high - low)))

    return Band(at(estimate.value), at(estimate.low), at(estimate.high) - at(estimate.low))


def scale_of(estimates: Sequence[Estimate], metric: words.Metric) -> tuple[float, float]:
    """The track's ends: 0 and 1 for shares, 0 and a little above the highest otherwise."""
    if metric.share:
        return 0.0, 1.0
    return 0.0, max([e.high for e in estimates if math.isfinite(e.high)] or [1.0]) * 1.05 or 1.0


def margin_share(margin: float | None) -> float | None:
    """Length of a margin's bar, −1 to 1: one scale for all rules, on which a narrow margin looks narrow."""
    return None if margin is None else max(-1.0, min(1.0, margin / FULL_MARGIN))


@dataclass(frozen=True)
class Cell:
    count: int
    share: float  # of the row
    right: bool


def confusion(matrix: Sequence[Sequence[int]]) -> list[list[Cell]]:
    """Each cell with its share of its row, which is how dark it is drawn."""
    return [
        [Cell(count, count / (sum(row) or 1), truth == predicted) for predicted, count in enumerate(row)]
        for truth, row in enumerate(matrix)
    ]
