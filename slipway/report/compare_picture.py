"""Versions side by side as a picture (PNG): a panel for each metric that tells them apart, a bar for each version."""

import io
from collections.abc import Sequence
from typing import Any

from slipway.documents.text import plain
from slipway.registry.comparing import Line, Sheet
from slipway.report import figures

MOST_PANELS = 9
MOST_VERSIONS = 40  # bars in a panel
_ACROSS = 3
_INK, _SOFT, _LINE, _BAR, _BEST = "#15212b", "#56646f", "#dfe5ea", "#8fb3c7", "#17734a"
_STYLE = {
    "font.family": "DejaVu Sans",
    "font.size": 9,
    "text.parse_math": False,  # a name is a name, whatever signs it has
    "text.color": _INK,
    "axes.edgecolor": _LINE,
    "axes.labelcolor": _SOFT,
    "xtick.color": _SOFT,
    "ytick.color": _INK,
}


def png(sheet: Sheet) -> bytes:
    """The picture; the versions that come first where there are more than can be read."""
    import matplotlib
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    panels = _panels(sheet)
    across = min(_ACROSS, max(len(panels), 1))
    down = -(-max(len(panels), 1) // across)
    names = [plain(subject.name)[:40] for subject in sheet.subjects[:MOST_VERSIONS]]
    with matplotlib.rc_context(_STYLE):
        figure = Figure(figsize=(4.4 * across, 0.9 + down * (0.9 + 0.3 * len(names))), dpi=130, layout="constrained")
        canvas = FigureCanvasAgg(figure)
        figure.suptitle(f"{len(sheet.subjects)} versions side by side", fontsize=12, fontweight="bold")
        axes = figure.subplots(down, across, squeeze=False).flat
        for place, axis in enumerate(axes):
            _draw(axis, panels[place], names, place % across == 0) if place < len(panels) else axis.set_axis_off()
        if not panels:
            figure.text(0.5, 0.5, "no metric tells these versions apart", ha="center", color=_SOFT)
        target = io.BytesIO()
        canvas.print_png(target, metadata={"Software": "Slipway"})
    return target.getvalue()


def _panels(sheet: Sheet) -> list[Line]:
    """Metrics with a direction in which the versions differ, then what they cost."""
    found = [*sheet.parts.get("metrics", ()), *sheet.parts.get("cost", ())]
    telling = [line for line in found if line.differs and line.better != "either"]
    return ([line for line in telling if line.best] or telling)[
        :MOST_PANELS
    ]  # not what was measured against different models


def _draw(axis: Any, line: Line, names: Sequence[str], named: bool) -> None:
    values = [_number(value) for value in line.values[: len(names)]]
    colours = [_BEST if place in line.best else _BAR for place in range(len(names))]
    axis.barh(
        range(len(names)), values, color=colours, height=0.62, xerr=_whiskers(line, values), ecolor=_SOFT, capsize=2
    )
    axis.set_yticks(range(len(names)), names if named else [""] * len(names))
    axis.set_title(f"{figures.label(line.name)}\n{line.better} is better", fontsize=9.5, loc="left")
    axis.invert_yaxis()
    for place, value in enumerate(line.values[: len(names)]):
        axis.annotate(
            figures.show(line.name, value), (_end(line, place, values[place]), place), (5, 0),
            textcoords="offset points", va="center", fontsize=8, bbox={"facecolor": "white", "edgecolor": "none", "alpha": 0.75, "pad": 0.6},
        )  # fmt: skip
    axis.margins(x=0.22)
    axis.tick_params(length=0)
    axis.xaxis.set_major_locator(_few_ticks())
    for side in ("top", "right", "left"):
        axis.spines[side].set_visible(False)
    axis.axvline(0, color=_LINE, linewidth=1)


def _end(line: Line, place: int, value: float) -> float:
    """Where a value's figure stands: past its bar, and past its interval."""
    pair = line.intervals[place] if line.intervals else None
    return max(value, pair[1]) if pair else value


def _few_ticks() -> Any:
    from matplotlib.ticker import MaxNLocator

    return MaxNLocator(4)


def _number(value: Any) -> float:
    return float(value) if isinstance(value, int | float) else 0.0


def _whiskers(line: Line, values: Sequence[float]) -> Any:
    """How far each interval reaches to both sides; None where no interval was kept."""
    if not line.intervals:
        return None
    pairs = list(zip(values, line.intervals[: len(values)], strict=True))
    low = [max(value - pair[0], 0.0) if pair else 0.0 for value, pair in pairs]
    high = [max(pair[1] - value, 0.0) if pair else 0.0 for value, pair in pairs]
    return [low, high]
