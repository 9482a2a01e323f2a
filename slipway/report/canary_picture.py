"""What `slipway canary simulate` found, as one SVG: how often promoted, and how much traffic, by the true difference."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from html import escape
from typing import Any

from slipway.release.planning import Design
from slipway.report.charts import nice_ticks

WIDTH, HEIGHT = 980, 420
PANEL, TOP, BOTTOM, LEFT = 400, 60, 350, 60
TONES = ("a", "b", "c", "d")
BASE = 0.9  # of the champions that are drawn
_STYLE = """
  svg { font: 13px system-ui, sans-serif; background: #fff; fill: #15212b }
  .grid { stroke: #dfe5ea } .bar { stroke: #56646f; stroke-dasharray: 5 4 } .soft { fill: #56646f }
  polyline { fill: none; stroke-width: 2.2 } .a { stroke: #17734a; color: #17734a } .b { stroke: #1d5fa8; color: #1d5fa8 }
  .c { stroke: #a8551d; color: #a8551d } .d { stroke: #7a3fa0; color: #7a3fa0 } .dot { fill: currentColor } .wald { fill: none; stroke-width: 1.5 }
  @media (prefers-color-scheme: dark) { svg { background: #10171d; fill: #e8eef2 } .grid { stroke: #2c3943 } .soft { fill: #9fb0bc } }
"""


@dataclass(frozen=True)
class Panel:
    """One pair of axes: places of values, and the lines between round ones."""

    left: float
    x: tuple[float, float]
    top: float

    def at(self, x: float, y: float) -> tuple[float, float]:
        low, high = self.x
        return (
            self.left + PANEL * (x - low) / ((high - low) or 1.0),
            BOTTOM - (BOTTOM - TOP) * y / (self.top or 1.0),
        )

    def axes(self, title: str, label: Callable[[float], str]) -> list[str]:
        parts = [f'<text x="{self.left}" y="{TOP - 22}" font-weight="bold">{escape(title)}</text>']
        for y in nice_ticks(0, self.top):
            height = self.at(self.x[0], y)[1]
            parts.append(
                f'<line class="grid" x1="{self.left}" x2="{self.left + PANEL}" y1="{height:.1f}" y2="{height:.1f}"/>'
                f'<text class="soft" x="{self.left - 8}" y="{height + 4:.1f}" text-anchor="end">{label(y)}</text>'
            )
        for x in nice_ticks(*self.x, 5):
            parts.append(
                f'<text class="soft" x="{self.at(x, 0)[0]:.1f}" y="{BOTTOM + 18}" text-anchor="middle">{100 * x:+g}</text>'
            )
        middle = self.left + PANEL / 2
        said = "candidate minus champion, in points"
        return [*parts, f'<text class="soft" x="{middle}" y="{BOTTOM + 38}" text-anchor="middle">{said}</text>']


def svg(design: Design, scenarios: Sequence[dict[str, Any]], rules: Sequence[dict[str, Any]]) -> str:
    """The whole picture; the same figures, the same bytes."""
    drawn = [one for one in scenarios if one["base"] == BASE and not one["drifting"]]
    splits = list(dict.fromkeys(one["split"] for one in drawn))
    effects = [one["effect"] for one in drawn] or [design.question.low, design.question.high]
    reach = (min(effects), max(effects))
    chances = Panel(LEFT, reach, 1.0)
    most = max((one["mean_requests"] for one in drawn), default=1.0)
    traffic = Panel(LEFT + PANEL + 90, reach, 1.05 * most)
    parts = chances.axes(f"Promoted, of canaries of a champion at {BASE:.0%}", lambda y: f"{y:.0%}")
    parts += traffic.axes("Requests to the candidate (ring: Wald's bound)", lambda y: f"{y:,.0f}")
    start, end = chances.at(reach[0], design.alpha), chances.at(reach[1], design.alpha)
    parts.append(f'<line class="bar" x1="{start[0]}" x2="{end[0]}" y1="{start[1]:.1f}" y2="{end[1]:.1f}"/>')
    for place, (split, tone) in enumerate(zip(splits, TONES, strict=False)):
        mine = sorted((one for one in drawn if one["split"] == split), key=lambda one: float(one["effect"]))
        parts += _line(chances, tone, [(one["effect"], one["promoted"]) for one in mine])
        parts += _line(traffic, tone, [(one["effect"], one["mean_requests"]) for one in mine])
        for one in mine:
            if one["wald_bound"] and one["wald_bound"] <= traffic.top:
                x, y = traffic.at(one["effect"], one["wald_bound"])
                parts.append(f'<circle class="{tone} wald" cx="{x:.1f}" cy="{y:.1f}" r="4"/>')
        parts += _named(place, tone, f"{split}")
    for one in rules:
        x, y = chances.at(one["effect"], one["promoted"])
        parts.append(f'<circle class="soft" cx="{x:.1f}" cy="{y:.1f}" r="3"><title>{one["rule"]}</title></circle>')
    parts.append(
        f'<text class="soft" x="{LEFT + PANEL + 90}" y="{HEIGHT - 10}">grey dots: other rules; dashes: α</text>'
    )
    says = f"How often candidates are promoted and how many requests that takes, by their true difference; α is {design.alpha:g}"
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {HEIGHT}" role="img" aria-label="{escape(says)}">'
        f"<title>{escape(says)}</title><style>{_STYLE}</style>\n" + "\n".join(parts) + "\n</svg>\n"
    )


def _line(panel: Panel, tone: str, points: Sequence[tuple[float, float]]) -> list[str]:
    placed = [panel.at(*point) for point in points]
    path = " ".join(f"{x:.1f},{y:.1f}" for x, y in placed)
    dots = [f'<circle class="{tone} dot" cx="{x:.1f}" cy="{y:.1f}" r="3.5"/>' for x, y in placed]
    return [f'<polyline class="{tone}" points="{path}"/>', *dots]


def _named(place: int, tone: str, name: str) -> list[str]:
    x = LEFT + 100 * place
    return [
        f'<line class="{tone}" x1="{x}" x2="{x + 22}" y1="{HEIGHT - 14}" y2="{HEIGHT - 14}" stroke-width="3"/>'
        f'<text x="{x + 28}" y="{HEIGHT - 10}">{escape(name)}</text>'
    ]
