"""Is the candidate good enough on one yes-or-no metric? Two opposed tests that may be looked at after every block.

Each is a game played against a claim. *Promotion* bets against "the candidate is worse than allowed", *rollback* against "the
candidate is as good as hoped". A bet is made before a block is seen and is fair or worse while its claim is true, so wealth
grows only where the claim is false: the chance that it ever reaches 1/α under a true claim is at most α (Ville's inequality),
however often somebody looks. Turner, Ly and Grünwald (2024); Turner and Grünwald, arXiv 2203.09785. Pure: values in, values out.
"""

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from typing import Any, Self

# Of the stake, what bets on the difference that the test was designed for; the rest bets on what was learned.
DESIGN_SHARE = 0.75
PRIOR = 0.5  # answers of either kind that each arm is thought to have given before the first block
HALVINGS = 36  # leaves less than 1e-11 of any bracket


@dataclass(frozen=True)
class Question:
    """Two differences, candidate minus champion, that must be told apart; between them either answer will do.

    A candidate at `low` or below must not be promoted, one at `high` or above must not be rolled back.
    """

    low: float
    high: float

    def __post_init__(self) -> None:
        if not -1 < self.low < self.high < 1:
            raise ValueError(
                f"differences from {self.low} to {self.high} cannot be told apart; both lie between -1 and 1"
            )

    @classmethod
    def non_inferiority(cls, margin: float) -> Self:
        """Not worse by `margin`; a candidate that is as good must not be rolled back."""
        return cls(-margin, 0.0)

    @classmethod
    def superiority(cls, margin: float, expected: float) -> Self:
        """Better by more than `margin`; one that is better by `expected` must not be rolled back."""
        return cls(margin, expected)


@dataclass(frozen=True)
class Block:
    """So many answers of each arm, and how many of them were good; parts of a good one where a user's mean counts."""

    champion: int
    champion_good: float
    candidate: int
    candidate_good: float

    def __post_init__(self) -> None:
        for arm in ("champion", "candidate"):
            count, good = getattr(self, arm), getattr(self, f"{arm}_good")
            if type(count) is not int or count < 1:
                raise ValueError(f"a block with {count!r} answers of the {arm}; at least one of each arm is needed")
            if type(good) not in (int, float) or not 0 <= good <= count:  # NaN is in no range
                raise ValueError(f"{good!r} good answers of {count} by the {arm}; from 0 to {count} are possible")

    def __add__(self, other: "Block") -> "Block":
        return Block(
            self.champion + other.champion, self.champion_good + other.champion_good,
            self.candidate + other.candidate, self.candidate_good + other.candidate_good,
        )  # fmt: skip

    @property
    def swapped(self) -> "Block":
        return Block(self.candidate, self.candidate_good, self.champion, self.champion_good)


@dataclass(frozen=True)
class Wealth:
    """What one game has won so far, as logarithms: of its two halves, and the most that both together ever were."""

    design: float = 0.0
    learned: float = 0.0
    peak: float = 0.0

    @property
    def log(self) -> float:
        return mixed(self.design, self.learned)

    def won(self, design: float, learned: float) -> "Wealth":
        grown = replace(self, design=self.design + design, learned=self.learned + learned)
        return replace(grown, peak=max(self.peak, grown.log))


def mixed(design: float, learned: float) -> float:
    """The logarithm of ¾ of one wealth and ¼ of the other, which may both be far beyond any number."""
    most = max(design, learned)
    return most + math.log(DESIGN_SHARE * math.exp(design - most) + (1 - DESIGN_SHARE) * math.exp(learned - most))


@dataclass(frozen=True)
class Sequential:
    """All that the two tests of one metric remember; `add` gives the next one."""

    question: Question
    blocks: tuple[Block, ...] = ()
    total: Block | None = None
    promote: Wealth = Wealth()
    rollback: Wealth = Wealth()

    def add(self, *blocks: Block) -> Self:
        """With further blocks, each bet on as it was known before it."""
        total, promote, rollback = self.total, self.promote, self.rollback
        low, high = self.question.low, self.question.high
        for block in blocks:
            before = estimates(total)
            promote = promote.won(*winnings(before, block, low, high))
            rollback = rollback.won(*winnings(before.swapped, block.swapped, -high, -low))
            total = total + block if total else block
        return replace(self, blocks=self.blocks + blocks, total=total, promote=promote, rollback=rollback)

    @property
    def promote_evidence(self) -> float:
        """log W⁺, against "worse than allowed"; it must reach log 1/α."""
        return self.promote.log

    @property
    def rollback_evidence(self) -> float:
        """log W⁻, against "as good as hoped"; where it reaches log k/β the candidate goes."""
        return self.rollback.log

    @property
    def difference(self) -> float | None:
        """Candidate minus champion as it was seen; None before the first block."""
        if self.total is None:
            return None
        return self.total.candidate_good / self.total.candidate - self.total.champion_good / self.total.champion

    def as_json(self) -> dict[str, Any]:
        """Everything, so that what is read back is this very value, to the last bit."""
        return {
            "low": self.question.low,
            "high": self.question.high,
            "blocks": [[b.champion, b.champion_good, b.candidate, b.candidate_good] for b in self.blocks],
            "promote": [self.promote.design, self.promote.learned, self.promote.peak],
            "rollback": [self.rollback.design, self.rollback.learned, self.rollback.peak],
        }

    @classmethod
    def of_json(cls, kept: dict[str, Any]) -> Self:
        """As it was kept; ValueError where it is torn."""
        try:
            blocks = tuple(Block(*block) for block in kept["blocks"])
            promote, rollback = _wealth(kept["promote"]), _wealth(kept["rollback"])
            question = Question(kept["low"], kept["high"])
        except (KeyError, TypeError) as error:
            raise ValueError(f"no state of a sequential test: {error!r}") from None
        return cls(question, blocks, _sum(blocks), promote, rollback)


def _wealth(kept: Sequence[float]) -> Wealth:
    if not all(type(part) in (int, float) and math.isfinite(part) for part in kept):
        raise ValueError(f"wealth of {list(kept)!r}; finite numbers are kept")
    return Wealth(*kept)


def _sum(blocks: Iterable[Block]) -> Block | None:
    total: Block | None = None
    for block in blocks:
        total = total + block if total else block
    return total


# --- one bet ----------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Estimates:
    """What the earlier blocks say of both arms, and how many answers each estimate is worth."""

    champion: float
    champion_weight: float
    candidate: float
    candidate_weight: float

    @property
    def swapped(self) -> "Estimates":
        return Estimates(self.candidate, self.candidate_weight, self.champion, self.champion_weight)


def estimates(total: Block | None) -> Estimates:
    """Means of the Beta posteriors."""
    if total is None:
        return Estimates(0.5, 2 * PRIOR, 0.5, 2 * PRIOR)
    champion, candidate = total.champion + 2 * PRIOR, total.candidate + 2 * PRIOR
    return Estimates(
        (total.champion_good + PRIOR) / champion, champion, (total.candidate_good + PRIOR) / candidate, candidate
    )


def winnings(known: Estimates, block: Block, boundary: float, design: float) -> tuple[float, float]:
    """What a block adds to both halves of the game against "candidate minus champion is at most `boundary`"."""
    pooled = project(known.champion_weight, known.champion, known.candidate_weight, known.candidate, design)
    return (
        log_e(pooled, pooled + design, block, boundary),
        log_e(known.champion, known.candidate, block, boundary),
    )


def log_e(b: float, c: float, block: Block, boundary: float) -> float:
    """The logarithm of a block's E-value where the bet is on the rates b and c; 0 where these are within the claim."""
    if c - b <= boundary:
        return 0.0
    n_b, k_b, n_c, k_c = block.champion, block.champion_good, block.candidate, block.candidate_good
    x = project(float(n_b), b, float(n_c), c, boundary)
    y = x + boundary
    return (
        k_b * math.log(b / x) + (n_b - k_b) * math.log((1 - b) / (1 - x))
        + k_c * math.log(c / y) + (n_c - k_c) * math.log((1 - c) / (1 - y))
    )  # fmt: skip


def project(weight_b: float, b: float, weight_c: float, c: float, shift: float) -> float:
    """The x nearest to the rates b and c, by weighted relative entropy, among those with rates x and x + shift."""
    if shift == 0:
        return (weight_b * b + weight_c * c) / (weight_b + weight_c)
    cubic, square, linear, constant = slope(weight_b, b, weight_c, c, shift)
    x = max(min(b, c - shift), 0.0, -shift)  # the root is above it, and not above it by more than `width`
    width = min(max(b, c - shift), 1.0, 1.0 - shift) - x
    for _ in range(HALVINGS):
        width = width * 0.5
        middle = x + width
        if ((cubic * middle + square) * middle + linear) * middle + constant <= 0:
            x = middle
    return x + width * 0.5


def slope(weight_b: Any, b: Any, weight_c: Any, c: Any, shift: float) -> tuple[Any, Any, Any, Any]:
    """The polynomial in x, of numbers or of arrays of them, that is 0 at the nearest point: the derivative
    weight_b·(x-b)/(x(1-x)) + weight_c·(y-c)/(y(1-y)), where y = x + shift, times x(1-x)y(1-y), which leaves its sign."""
    turn, edge, gap = 1 - 2 * shift, shift * (1 - shift), shift - c
    return (
        -(weight_b + weight_c),
        weight_b * (turn + b) + weight_c * (1 - gap),
        weight_b * (edge - turn * b) + weight_c * gap,
        -(weight_b * b * edge),
    )
