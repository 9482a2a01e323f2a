"""How many rows does a verdict need? Solved against the very intervals that the gate reads, so the two never disagree.

A rule on an interval is *decidable* when a model that deserves to pass it does so at least 80 times in 100.
"""

import functools
import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass

from slipway.evaluation.scoring import misfit, wilson

POWER = 0.8
MOST_ROWS = 10_000_000
STEPS = 12
ROUNDING = 5e-7  # estimates are kept to six decimals


@dataclass(frozen=True)
class Plan:
    """What a number of rows can decide about one bound, and how many it takes."""

    question: str
    rows: int | None  # that there are
    power: float | None  # how often a model that deserves to pass would, on these rows
    needed: int | None  # rows for 80 %; none where no number of rows is enough

    @property
    def decides(self) -> bool:
        return self.power is not None and self.power >= POWER

    @property
    def sentence(self) -> str:
        would = f"{self.needed:,} would" if self.needed else f"nor can {MOST_ROWS:,}: the model is too near the bound"
        if self.rows is None:
            return f"{self.needed:,} rows decide {self.question}" if self.needed else f"no rows decide {self.question}"
        if self.decides:
            return f"{self.rows:,} rows can decide {self.question} ({self.needed:,} would be enough)"
        return f"{self.rows:,} rows cannot decide {self.question}; {would}"


def of_margin(margin: float, discordance: float, rows: int | None) -> Plan:
    """Non-inferiority: can an equally good model be shown not to be worse by more than `margin`?"""

    def power(n: int) -> float:
        return power_of_margin(n, margin, discordance)

    question = f"a margin of {100 * margin:g} points where {100 * discordance:.3g} % of the rows tell the models apart"
    return Plan(question, rows, None if rows is None else power(rows), _needed(power))


def of_rate(rate: float, bound: float, rows: int | None) -> Plan:
    """A minimum: can a model that is right at `rate` be shown to be right at least at `bound`?"""

    def power(n: int) -> float:
        return power_of_rate(n, rate, bound)

    question = f"a minimum of {100 * bound:g} % for a model that is right {100 * rate:.4g} % of the time"
    return Plan(question, rows, None if rows is None else power(rows), _needed(power) if rate > bound else None)


def worst_discordance(rate: float) -> float:
    """The rows that tell two models of one rate apart when they err independently: more would be a difference."""
    return 2 * rate * (1 - rate)


def fewest_rows(margin: float) -> int:
    """Below this many rows not even two models that never differ are shown to be within `margin`."""
    return _first(lambda n: shown(0, 0, n, margin))


def shown(gains: int, losses: int, rows: int, margin: float) -> bool:
    """Whether Tango's interval, rounded as the scorecard rounds it, lies at or above −margin."""
    edge = -(margin + ROUNDING)
    return (gains - losses) / rows > edge and misfit(gains, losses, rows, edge) > 0


def power_of_margin(rows: int, margin: float, discordance: float) -> float:
    """How often two equally good models are shown to be within `margin` of each other."""
    from scipy import special

    total = 0.0
    for apart, chance in _binomial(rows, discordance):  # rows that only one of them has right
        least = _bisect(0, apart + 1, functools.partial(_gains_show, apart, rows, margin))
        total += chance * float(special.bdtrc(least - 1, apart, 0.5) if least > 0 else 1.0)
    return min(total, 1.0)


def _gains_show(apart: int, rows: int, margin: float, gains: int) -> bool:
    return shown(gains, apart - gains, rows, margin)


def power_of_rate(rows: int, rate: float, bound: float) -> float:
    """How often Wilson's interval of a model right at `rate`, rounded as the scorecard does, is at or above `bound`."""
    from scipy import special

    least = _bisect(0, rows + 1, lambda right: round(wilson(right, rows)[0], 6) >= bound)
    return float(special.bdtrc(least - 1, rows, rate)) if least > 0 else 1.0


def _binomial(rows: int, share: float) -> Iterator[tuple[int, float]]:
    """How many of the rows, and how likely; what lies too far out to matter is left out."""
    spread = 7 * math.sqrt(rows * share * (1 - share)) + 7
    for k in range(max(0, math.floor(rows * share - spread)), min(rows, math.ceil(rows * share + spread)) + 1):
        ways = math.lgamma(rows + 1) - math.lgamma(k + 1) - math.lgamma(rows - k + 1)
        yield k, math.exp(ways + _times_log(k, share) + _times_log(rows - k, 1 - share))


def _times_log(times: int, share: float) -> float:
    return times * math.log(share) if share > 0 else (0.0 if times == 0 else -math.inf)


def _needed(power: Callable[[int], float]) -> int | None:
    """The rows from which on the power stays enough."""
    most = 16
    while power(most) < POWER:
        most *= 2
        if most > MOST_ROWS:
            return None
    rows = _bisect(1, most, lambda n: power(n) >= POWER)
    while (short := [n for n in range(rows, rows + STEPS) if power(n) < POWER]) and rows < MOST_ROWS:
        rows = short[-1] + 1  # whole rows make it rise in teeth: go on until the last dip is behind
    return rows


def _first(holds: Callable[[int], bool]) -> int:
    most = 1
    while not holds(most):
        most *= 2
    return _bisect(1, most, holds)


def _bisect(low: int, high: int, holds: Callable[[int], bool]) -> int:
    """The least number from `low` on that holds; `high` where none before it does."""
    while low < high:
        middle = (low + high) // 2
        low, high = (low, middle) if holds(middle) else (middle + 1, high)
    return low
