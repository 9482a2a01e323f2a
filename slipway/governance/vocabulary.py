"""The metrics that a rule may name: which way is better, and what values there can be."""

import math
import re
from dataclasses import dataclass


@dataclass(frozen=True)
class Metric:
    """What is known of a metric before it is measured."""

    better: str  # higher | lower | either
    least: float
    most: float
    is_rate: bool = False
    is_flag: bool = False

    @property
    def delta(self) -> "Metric":
        """The same metric as a difference between two models."""
        span = self.most - self.least
        return Metric(self.better, -span, span, self.is_rate)


_RATE = Metric("higher", 0.0, 1.0, is_rate=True)
_SCORES = {
    "exact_match": _RATE,
    "accuracy": _RATE,
    "macro_precision": _RATE,
    "macro_recall": _RATE,
    "macro_f1": _RATE,
    "loss": Metric("lower", 0.0, 100.0),
    "perplexity": Metric("lower", 1.0, math.exp(100.0)),
}
_OTHERS = {
    "rows": Metric("higher", 0.0, 1e12),
    "validation.passed": Metric("higher", 0.0, 1.0, is_flag=True),
    "prepared.drop_rate": Metric("lower", 0.0, 1.0, is_rate=True),
    "prepared.duplicate_rate": Metric("lower", 0.0, 1.0, is_rate=True),
}
_SCORE = re.compile(r"(?P<delta>delta\.(?:base|champion)|tuned|base|champion)\.(?P<name>\w+)")


def find(path: str) -> Metric | None:
    """The metric a dotted path means, or None when there is no such metric."""
    if path in _OTHERS:
        return _OTHERS[path]
    match = _SCORE.fullmatch(path)
    metric = _SCORES.get(match["name"]) if match else None
    return metric.delta if metric and path.startswith("delta.") else metric


def listing() -> str:
    return f"(tuned | base | champion | delta.base | delta.champion).({' | '.join(_SCORES)}), {', '.join(_OTHERS)}"
