"""How a canary policy behaves, tried on canaries whose truth is known: false promotions, false rollbacks, traffic needed.

Every canary is judged after every block by the tests that judge real ones (`vectorised.py` holds many of them at once, to the
same bits). All canaries of one split are played together, each scenario from its own random numbers.
"""

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from slipway.evaluation.scoring import wilson
from slipway.release.blocks import Shape, shape_of
from slipway.release.planning import Design, wald_bound
from slipway.release.sequential import Question
from slipway.release.vectorised import Array, Canaries

BASES = (0.6, 0.9, 0.99)  # the champion's rate of good answers
SPLITS = (50.0, 5.0, 1.0)  # per cent of the candidate
RAMP = "ramp"  # the policy's own steps
DRIFT = 0.05  # how far the rate of both arms swings, where there is room
WAVES = 2.0  # of such a swing within Wald's bound
PATIENCE = 5.0  # a canary that has had so many times the traffic of Wald's bound ends undecided


@dataclass(frozen=True)
class Scenario:
    """One truth: the champion's rate, how much better the candidate is, how traffic is split, whether rates drift."""

    base: float
    effect: float
    split: float | str
    drifting: bool

    @property
    def swing(self) -> float:
        above, below = 1 - self.base - max(0.0, self.effect), self.base + min(0.0, self.effect)
        return min(DRIFT, above / 2, below / 2) if self.drifting else 0.0

    def rate(self, phase: float) -> float:
        """Of the champion, at a time counted in Wald's bounds."""
        return self.base + self.swing * math.sin(2 * math.pi * WAVES * phase)


@dataclass
class Tally:
    """What became of the canaries of one scenario."""

    promoted: int
    rolled_back: int
    requests: Array  # to the candidate, each canary's


def grid(question: Question) -> list[Scenario]:
    """The truths that a policy is tried on: as good as hoped and as bad as feared, and as far again beyond either."""
    wide = question.high - question.low
    found = []
    for base in BASES:
        if not (base + question.low > 0 and base + question.high < 1):
            continue  # nobody is two points better than a champion at 99 %
        most = question.high + (1 - base - question.high) / 2
        wanted = [question.high, question.low, question.low - wide, min(question.high + wide, most)]
        effects = [effect for effect in wanted if base + effect > 0]
        for split in (*SPLITS, RAMP):
            found += [Scenario(base, effect, split, False) for effect in effects]
            found += [Scenario(base, e, split, True) for e in effects if e in (question.low, question.high)]
    return found


def shapes(split: float | str, ramp: Sequence[tuple[float, int]]) -> Iterator[Shape]:
    """The blocks as they come: of one split for ever, or of the ramp's steps and then of its last."""
    if isinstance(split, float):
        while True:
            yield shape_of(split)
    for at, (percent, requests) in enumerate(ramp):
        shape, had = shape_of(percent), 0
        while had < requests or at == len(ramp) - 1:
            yield shape
            had += shape.candidate


def simulate(design: Design, scenarios: Sequence[Scenario], canaries: int, seed: int) -> list[dict[str, Any]]:
    """What became of so many canaries of each scenario, in the order of the scenarios; the same seed, the same figures."""
    tallies: dict[Scenario, Tally] = {}
    for split in dict.fromkeys(scenario.split for scenario in scenarios):
        together = [scenario for scenario in scenarios if scenario.split == split]
        tallies.update(zip(together, _play(design, together, canaries, seed), strict=True))
    return [_told(design, scenario, tallies[scenario], canaries) for scenario in scenarios]


def bound(design: Design, scenario: Scenario) -> float | None:
    """Wald's, in requests to the candidate; of the ramp's last step where there is a ramp."""
    split = design.ramp[-1][0] if isinstance(scenario.split, str) else scenario.split
    return wald_bound(
        scenario.base, scenario.effect, design.question, design.alpha, design.beta, shape_of(split)
    )  # fmt: skip


def _patience(design: Design, scenario: Scenario) -> float:
    """Wald's bound at the harder of the two ends, so often as a canary is patient."""
    ends = (design.question.low, design.question.high)
    found = [bound(design, Scenario(scenario.base, end, scenario.split, False)) for end in ends]
    return max(one for one in found if one is not None)


def _play(design: Design, scenarios: Sequence[Scenario], canaries: int, seed: int) -> list[Tally]:
    """All canaries of scenarios that share a split, block by block, until the last one has ended."""
    draws = [_random(seed, scenario) for scenario in scenarios]
    patience = np.array([_patience(design, scenario) for scenario in scenarios])
    tallies = [Tally(0, 0, np.zeros(0)) for _ in scenarios]
    state = Canaries(design.question, canaries * len(scenarios))
    owner = np.repeat(np.arange(len(scenarios)), canaries)
    ramp_requests = sum(requests for _, requests in design.ramp[:-1]) if scenarios[0].split == RAMP else 0
    promote_bar, rollback_bar = design.bars
    for shape in shapes(scenarios[0].split, design.ramp):
        alive = np.bincount(owner, minlength=len(scenarios))
        rates = [
            scenario.rate(state.answers.candidate / most) for scenario, most in zip(scenarios, patience, strict=True)
        ]
        state.add(shape, *_answers(scenarios, draws, rates, alive, shape))
        back = state.rolled_back(rollback_bar)
        promoted = state.promoted(promote_bar) & ~back
        late = state.answers.candidate >= PATIENCE * patience[owner] + ramp_requests
        ended = back | promoted | late
        if ended.any():
            _count(tallies, owner, promoted, back, ended, state.answers.candidate)
            owner = owner[~ended]
            state.keep(~ended)
        if not len(owner):
            break
    return tallies


def _random(seed: int, scenario: Scenario) -> np.random.Generator:
    """A scenario's own numbers, whatever others are tried beside it."""
    split = -1.0 if isinstance(scenario.split, str) else scenario.split
    parts = (scenario.base, scenario.effect + 1, split + 1, float(scenario.drifting))
    return np.random.default_rng([seed, *(round(part * 1_000_000) for part in parts)])


def _answers(
    scenarios: Sequence[Scenario],
    draws: Sequence[np.random.Generator],
    rates: Sequence[float],
    alive: NDArray[np.intp],
    shape: Shape,
) -> tuple[Array, Array]:
    """Good answers of either arm in the next block of every canary that goes on."""
    champion, candidate = [], []
    for scenario, draw, rate, count in zip(scenarios, draws, rates, alive, strict=True):
        champion.append(draw.binomial(shape.champion, rate, count))
        candidate.append(draw.binomial(shape.candidate, min(1.0, rate + scenario.effect), count))
    return np.concatenate(champion).astype(float), np.concatenate(candidate).astype(float)


def _count(
    tallies: Sequence[Tally],
    owner: NDArray[np.intp],
    promoted: NDArray[np.bool_],
    back: NDArray[np.bool_],
    ended: NDArray[np.bool_],
    requests: int,
) -> None:
    for at in np.unique(owner[ended]):
        mine, tally = owner == at, tallies[at]
        tally.promoted += int((promoted & mine).sum())
        tally.rolled_back += int((back & mine).sum())
        tally.requests = np.append(tally.requests, np.full(int((ended & mine).sum()), float(requests)))


def _told(design: Design, scenario: Scenario, tally: Tally, canaries: int) -> dict[str, Any]:
    promoted, back = tally.promoted / canaries, tally.rolled_back / canaries
    least = bound(design, scenario)
    mean = float(tally.requests.mean())
    return {
        "base": scenario.base,
        "effect": scenario.effect,
        "split": scenario.split if isinstance(scenario.split, str) else f"{100 - scenario.split:g}:{scenario.split:g}",
        "drifting": scenario.drifting,
        "promoted": promoted,
        "rolled_back": back,
        "undecided": (canaries - tally.promoted - tally.rolled_back) / canaries,
        "false_promotion": promoted if scenario.effect <= design.question.low else 0.0,
        "false_rollback": back if scenario.effect >= design.question.high else 0.0,
        "promoted_interval": wilson(tally.promoted, canaries),
        "rolled_back_interval": wilson(tally.rolled_back, canaries),
        "mean_requests": mean,
        "p90_requests": float(np.quantile(tally.requests, 0.9)),
        "wald_bound": least,
        "ratio": mean / least if least else None,
    }
