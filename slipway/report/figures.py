"""What a version's figures are called, and how they are written: one way in tables, pages and pictures."""

from typing import Any

from slipway.errors import size_text
from slipway.governance import vocabulary
from slipway.report import words

_OF_TUNED = "tuned."
_GROUPS = {
    "base": "base", "champion": "champion", "delta.base": "change from base", "delta.champion": "change from champion",
    "safety.tuned": "safety", "safety.base": "safety of the base", "safety.delta": "change in safety",
    "benchmarks.tuned": "benchmark", "benchmarks.base": "benchmark of the base", "benchmarks.delta": "change in benchmark",
    "servability": "serving", "seconds": "seconds", "training": "training", "scan": "scan", "size": "size",
}  # fmt: skip


def label(name: str) -> str:
    """`tuned.exact_match` → `Exact match`; `delta.champion.loss` → `Held-out loss, change from champion`."""
    if name.startswith(_OF_TUNED) or "." not in name:
        return _title(name.removeprefix(_OF_TUNED))
    group = next((one for one in sorted(_GROUPS, key=len, reverse=True) if name.startswith(f"{one}.")), None)
    if group is None:
        return name
    rest = name.removeprefix(f"{group}.")
    return f"{', '.join(_title(part) for part in rest.split('.'))} ({_GROUPS[group]})"


def _title(name: str) -> str:
    known = words.METRICS.get(name)
    return known.name if known else words.title(name.removesuffix("_seconds").removesuffix("_bytes"))


def show(name: str, value: Any) -> str:
    """A value in its unit."""
    if value is None:
        return "–"
    if isinstance(value, bool):
        return "yes" if value else "no"
    if not isinstance(value, int | float):
        return str(value)
    if name.endswith("bytes"):
        return size_text(value)
    if name.startswith("seconds"):
        return words.duration(value)
    if name.endswith("_seconds"):
        return f"{words.number(value)} s"
    return _share(name, value) if is_share(name) else words.number(value)


def _share(name: str, value: float) -> str:
    sign = "+" if value > 0 and "delta." in name else ""
    return f"{sign}{words.percent(value)}".replace("-", "−")


def is_share(name: str) -> bool:
    known = vocabulary.find(name) or vocabulary.find(f"observations.{name}")
    return known is not None and known.is_rate


def interval(name: str, low: float, high: float) -> str:
    """`97.2–99.8 %`; where an end is below zero, `−0.05 to 0.02`."""
    first, last = show(name, low), show(name, high)
    unit = next((end for end in (" %", " s") if first.endswith(end) and last.endswith(end)), "")
    between = " to " if "−" in first + last else "–"
    return f"{first.removesuffix(unit)}{between}{last}"
