"""Does one arm alone reach a promised rate? Wald's likelihood ratio of two rates, which may be looked at after every answer.

Where the truth is at `fails_at` or below, the ratio in favour of `at_least` is a fair bet or worse, and the other way round, so
either wealth reaches 1/α under its claim with a chance of at most α. Pure.
"""

import math
from dataclasses import dataclass, replace
from typing import Any, Self

HALVINGS = 40


@dataclass(frozen=True)
class Limits:
    """Two rates that must be told apart; between them either answer will do."""

    at_least: float
    fails_at: float

    def __post_init__(self) -> None:
        if not 0 < self.fails_at < self.at_least < 1:
            raise ValueError(
                f"rates {self.fails_at} and {self.at_least} cannot be told apart; 0 < fails_at < at_least < 1"
            )


@dataclass(frozen=True)
class Rate:
    """All that the two tests of one rate remember; `add` gives the next one."""

    limits: Limits
    answers: int = 0
    good: float = 0.0
    ratio: float = 0.0  # logarithm, in favour of at_least
    least: float = 0.0  # that it ever was

    def add(self, answers: int, good: float) -> Self:
        """With further answers, so many of them good."""
        if type(answers) is not int or answers < 1 or not 0 <= good <= answers:
            raise ValueError(f"{good!r} good answers of {answers!r}; whole answers from 1, good ones from 0 to them")
        high, low = self.limits.at_least, self.limits.fails_at
        won = good * math.log(high / low) + (answers - good) * math.log((1 - high) / (1 - low))
        ratio = self.ratio + won
        return replace(
            self, answers=self.answers + answers, good=self.good + good, ratio=ratio, least=min(self.least, ratio)
        )  # fmt: skip

    @property
    def promote_evidence(self) -> float:
        """log W⁺, against "at `fails_at` or below"."""
        return self.ratio

    @property
    def rollback_evidence(self) -> float:
        """log W⁻, against "at `at_least` or above"."""
        return -self.ratio

    @property
    def rollback_peak(self) -> float:
        return -self.least

    def interval(self, alpha: float) -> tuple[float, float]:
        """Rates that have not been refuted, at 1-α at any time, where the rate does not move: bets on every rate at once."""
        if not self.answers:
            return 0.0, 1.0
        bad, seen = self.answers - self.good, self.good / self.answers
        marginal = _beta(self.good + 0.5, bad + 0.5) - _beta(0.5, 0.5)

        def refuted(rate: float) -> bool:
            good = self.good * math.log(rate) if self.good else 0.0
            return marginal - good - (bad * math.log(1 - rate) if bad else 0.0) >= -math.log(alpha)

        return _edge(seen, 0.0, refuted), _edge(seen, 1.0, refuted)

    def more_requests(self, promote_bar: float, rollback_bar: float) -> int | None:
        """How many more answers would likely settle it, if all goes on as it went; None where none would."""
        if self.promote_evidence >= promote_bar or self.rollback_peak >= rollback_bar:
            return 0
        growth = self.ratio / self.answers if self.answers else 0.0
        if growth == 0:
            return None
        missing = promote_bar - self.ratio if growth > 0 else rollback_bar + self.ratio
        return math.ceil(missing / abs(growth))

    def as_json(self) -> dict[str, Any]:
        return {
            "at_least": self.limits.at_least, "fails_at": self.limits.fails_at, "answers": self.answers,
            "good": self.good, "ratio": self.ratio, "least": self.least,
        }  # fmt: skip

    @classmethod
    def of_json(cls, kept: dict[str, Any]) -> Self:
        """As it was kept; ValueError where it is torn."""
        try:
            limits = Limits(kept["at_least"], kept["fails_at"])
            found = cls(limits, kept["answers"], kept["good"], kept["ratio"], kept["least"])
            sound = 0 <= found.good <= found.answers and found.least <= found.ratio and math.isfinite(found.ratio)
        except (KeyError, TypeError) as error:
            raise ValueError(f"no state of a rate: {error!r}") from None
        if not sound or not math.isfinite(found.least):
            raise ValueError("a state of a rate that contradicts itself")
        return found


def _beta(a: float, b: float) -> float:
    return math.lgamma(a) + math.lgamma(b) - math.lgamma(a + b)


def _edge(seen: float, end: float, refuted: Any) -> float:
    """Where, from what was seen towards an end, rates begin to be refuted."""
    inside, outside = seen, end
    for _ in range(HALVINGS):
        middle = (inside + outside) / 2
        inside, outside = (inside, middle) if refuted(middle) else (middle, outside)
    return outside
