"""The tests of `sequential.py` for many canaries at once, to the same bits: the same arithmetic in the same order, on arrays.

Logarithms are Python's own here too; numpy's differ from them in the last bit, and from one processor to the next. They are
taken once for canaries that have seen the same, which most have.
"""

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from slipway.release.blocks import Shape
from slipway.release.sequential import HALVINGS, PRIOR, Question, mixed, slope

Array = NDArray[np.float64]


@dataclass
class Canaries:
    """As many `Sequential`s, each with its own counts; `add` bets a block of every one of them."""

    question: Question
    count: int

    def __post_init__(self) -> None:
        self.answers = Shape(0, 0)
        self.champion_good, self.candidate_good = np.zeros(self.count), np.zeros(self.count)
        self.promote, self.rollback = (np.zeros(self.count), np.zeros(self.count)), (np.zeros(self.count),) * 2

    def add(self, shape: Shape, champion_good: Array, candidate_good: Array) -> None:
        pairs, which = _distinct(self.champion_good, self.candidate_good, self.answers.candidate)
        b, weight_b = (pairs[0] + PRIOR) / (self.answers.champion + 2 * PRIOR), self.answers.champion + 2 * PRIOR
        c, weight_c = (pairs[1] + PRIOR) / (self.answers.candidate + 2 * PRIOR), self.answers.candidate + 2 * PRIOR
        low, high = self.question.low, self.question.high
        up = _Bets.of(b, weight_b, c, weight_c, shape, low, high)
        down = _Bets.of(c, weight_c, b, weight_b, Shape(shape.candidate, shape.champion), -high, -low)
        k_b, k_c = champion_good, candidate_good
        self.promote = up.won(self.promote, which, k_b, shape.champion - k_b, k_c, shape.candidate - k_c)
        self.rollback = down.won(self.rollback, which, k_c, shape.candidate - k_c, k_b, shape.champion - k_b)
        self.champion_good, self.candidate_good = self.champion_good + k_b, self.candidate_good + k_c
        self.answers = Shape(self.answers.champion + shape.champion, self.answers.candidate + shape.candidate)

    def keep(self, which: NDArray[np.bool_]) -> None:
        """Forget the others."""
        self.champion_good, self.candidate_good = self.champion_good[which], self.candidate_good[which]
        self.promote = self.promote[0][which], self.promote[1][which]
        self.rollback = self.rollback[0][which], self.rollback[1][which]
        self.count = int(which.sum())

    def promoted(self, bar: float) -> NDArray[np.bool_]:
        return _reached(*self.promote, bar)

    def rolled_back(self, bar: float) -> NDArray[np.bool_]:
        return _reached(*self.rollback, bar)


def _reached(design: Array, learned: Array, bar: float) -> NDArray[np.bool_]:
    """Whose wealth, both halves together, is at the bar: never more than the larger half, which rules most out."""
    reached = np.maximum(design, learned) >= bar
    for at in np.flatnonzero(reached):
        reached[at] = mixed(float(design[at]), float(learned[at])) >= bar
    return reached


def _distinct(champion: Array, candidate: Array, most: int) -> tuple[tuple[Array, Array], NDArray[np.intp]]:
    """The different pairs of counts, and which of them each canary has."""
    codes, which = np.unique(champion * (most + 1) + candidate, return_inverse=True)
    return (codes // (most + 1), codes % (most + 1)), which


@dataclass
class _Bets:
    """What a good and a bad answer of either arm adds to the two halves of one game, for each distinct pair of counts."""

    design: tuple[Array, ...]
    learned: tuple[Array, ...]

    @classmethod
    def of(
        cls, b: Array, weight_b: float, c: Array, weight_c: float, shape: Shape, boundary: float, design: float
    ) -> "_Bets":
        pooled = project(weight_b, b, weight_c, c, design)
        both = odds(np.concatenate((pooled, b)), np.concatenate((pooled + design, c)), shape, boundary)
        return cls(tuple(part[: len(b)] for part in both), tuple(part[len(b) :] for part in both))

    def won(
        self, had: tuple[Array, Array], which: NDArray[np.intp], k_b: Array, l_b: Array, k_c: Array, l_c: Array
    ) -> tuple[Array, Array]:
        def of(half: tuple[Array, ...]) -> Array:
            good_b, bad_b, good_c, bad_c = (part[which] for part in half)
            return k_b * good_b + l_b * bad_b + k_c * good_c + l_c * bad_c

        return had[0] + of(self.design), had[1] + of(self.learned)


def odds(b: Array, c: Array, shape: Shape, boundary: float) -> tuple[Array, ...]:
    """Logarithms of b/x, (1-b)/(1-x), c/y and (1-c)/(1-y); 0 where the bet is within the claim."""
    outside = c - b > boundary
    b, c = b[outside], c[outside]
    x = project(shape.champion, b, shape.candidate, c, boundary)
    y = x + boundary
    found = tuple(np.zeros(len(outside)) for _ in range(4))
    for part, ratio in zip(found, (b / x, (1 - b) / (1 - x), c / y, (1 - c) / (1 - y)), strict=True):
        part[outside] = _log(ratio)
    return found


def _log(values: Array) -> Array:
    return np.array(list(map(math.log, values.tolist())))


def project(weight_b: float | Array, b: Array, weight_c: float | Array, c: Array, shift: float) -> Array:
    """`sequential.project` of each."""
    if shift == 0:
        return (weight_b * b + weight_c * c) / (weight_b + weight_c)
    cubic, square, linear, constant = slope(weight_b, b, weight_c, c, shift)
    x = np.maximum(np.maximum(np.minimum(b, c - shift), 0.0), -shift)
    width = np.minimum(np.minimum(np.maximum(b, c - shift), 1.0), 1.0 - shift) - x
    middle, value = np.empty_like(x), np.empty_like(x)
    for _ in range(HALVINGS):  # in place: new arrays would take most of the time
        width *= 0.5
        np.add(x, width, out=middle)
        np.multiply(cubic, middle, out=value)
        value += square
        value *= middle
        value += linear
        value *= middle
        value += constant
        np.copyto(x, middle, where=value <= 0)
    return np.asarray(x + width * 0.5)
