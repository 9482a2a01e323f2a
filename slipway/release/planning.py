"""How much traffic a question needs: before the canary by Wald's bound, during it from what was seen. Pure."""

import math
from dataclasses import dataclass

from slipway.release.blocks import shape_of
from slipway.release.sequential import Block, Estimates, Question, Sequential, estimates, mixed, project, winnings

MOST_REQUESTS = 100_000_000  # more than this is never


@dataclass(frozen=True)
class Design:
    """What of a policy decides how long a canary takes."""

    question: Question
    alpha: float
    beta: float  # of this metric: the policy's, shared among all that can roll back
    ramp: tuple[tuple[float, int], ...] = ()  # per cent of the candidate, and its requests before the next step

    @property
    def bars(self) -> tuple[float, float]:
        return -math.log(self.alpha), -math.log(self.beta)


def divergence(p: float, q: float) -> float:
    """How fast answers at rate p speak against rate q, in nats an answer."""
    found = p * math.log(p / q) if p > 0 else 0.0
    return found + ((1 - p) * math.log((1 - p) / (1 - q)) if p < 1 else 0.0)


def speed(champion: float, candidate: float, boundary: float, weights: tuple[float, float]) -> float:
    """The most evidence that answers in these weights can give against "candidate minus champion is `boundary`"."""
    x = project(weights[0], champion, weights[1], candidate, boundary)
    return weights[0] * divergence(champion, x) + weights[1] * divergence(candidate, x + boundary)


def wald_bound(
    champion: float, effect: float, question: Question, alpha: float, beta: float, shape: tuple[int, int]
) -> float | None:
    """Requests to the candidate that no test with these two error rates can do without, on average, at this effect.

    None between the two differences, where either answer will do and the bound says nothing.
    """
    if question.low < effect < question.high:
        return None
    promoting = effect >= question.high
    wrong, missed = (alpha, beta) if promoting else (beta, alpha)
    evidence = (1 - missed) * math.log((1 - missed) / wrong) + missed * math.log(missed / (1 - wrong))
    boundary = question.low if promoting else question.high
    return shape[1] * evidence / speed(champion, champion + effect, boundary, shape)


OVERHEAD = 1.16  # what these tests take above Wald's bound at the design's differences, as simulated


def foretold(design: Design, champion: float) -> str:
    """What a question costs at the last step of the ramp, in words, before a canary starts."""
    question, shape = design.question, shape_of(design.ramp[-1][0] if design.ramp else 50)
    ends = [end for end in (question.low, question.high) if 0 <= champion + end <= 1]
    bounds = [wald_bound(champion, end, question, design.alpha, design.beta, shape) for end in ends]
    least = max((bound for bound in bounds if bound is not None), default=0.0)
    likely = float(f"{OVERHEAD * least:.3g}")
    return (
        f"to tell {100 * question.low:+g} points from {100 * question.high:+g}, of a champion with {100 * champion:g} % good "
        f"answers, takes about {likely:,.0f} requests to the candidate (no test can do with fewer than {least:,.0f})"
    )


def more_requests(state: Sequential, promote_bar: float, rollback_bar: float) -> int | None:
    """How many more requests to the candidate would likely settle it, if all goes on as it went; None where none would."""
    if state.total is None or state.promote_evidence >= promote_bar or state.rollback.peak >= rollback_bar:
        return None if state.total is None else 0
    last, known = state.blocks[-1], estimates(state.total)
    low, high = state.question.low, state.question.high
    likely = Block(
        last.champion, last.champion * known.champion, last.candidate, last.candidate * known.candidate
    )  # an average block
    blocks = [
        _blocks(state.promote.design, state.promote.learned, winnings(known, likely, low, high), promote_bar),
        _blocks(
            state.rollback.design, state.rollback.learned, _swapped(known, likely, low, high), rollback_bar
        ),
    ]  # fmt: skip
    needed = min((found for found in blocks if found is not None), default=None)
    if needed is None or needed * last.candidate > MOST_REQUESTS:
        return None
    return math.ceil(needed) * last.candidate


def _swapped(known: Estimates, likely: Block, low: float, high: float) -> tuple[float, float]:
    return winnings(known.swapped, likely.swapped, -high, -low)


def _blocks(design: float, learned: float, growth: tuple[float, float], bar: float) -> float | None:
    """After how many average blocks both halves together are at the bar."""
    if max(growth) <= 0:
        return None

    def reached(blocks: float) -> bool:
        return mixed(design + blocks * growth[0], learned + blocks * growth[1]) >= bar

    most = 1.0
    while not reached(most):
        most *= 2
        if most > MOST_REQUESTS:
            return None
    least = 0.0
    while most - least > 0.5:
        middle = (least + most) / 2
        least, most = (least, middle) if reached(middle) else (middle, most)
    return most
