"""Rules that others promote by, tried on the same truths: what a policy is compared with.

- `last-10-mean`: after each batch of ten answers of either arm, the mean of the last ten batches: promoted where the candidate is
  not lower, rolled back where it is lower by the margin.
- `flagger`: each hundred requests to the candidate its rate is held against a fixed bar, the champion's true rate less the margin;
  ten checks that pass promote, five that fail roll back.
- `fixed-z`: one z-test at a number of requests set beforehand for both error rates; looked at once.
- `z-peeking`: the same test, looked at after every ten requests from the hundredth on, at its usual 5 %.
"""

import math
from collections.abc import Callable
from statistics import NormalDist
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from slipway.release.planning import Design

BATCH, LAST = 10, 10
CHECK, PASSES, FAILURES = 100, 10, 5
PATIENCE = 8  # times the requests of the fixed test
BASE = 0.9

Counts = NDArray[np.int64]  # canaries × batches of ten


class Ended(NamedTuple):
    promoted: NDArray[np.bool_]
    rolled_back: NDArray[np.bool_]
    requests: NDArray[np.int64]


def simulate(design: Design, canaries: int, seed: int, base: float = BASE) -> list[dict[str, Any]]:
    """What each rule makes of candidates at both ends of the question, at an even split."""
    question, found = design.question, []
    fixed = fixed_requests(design, base)
    batches = math.ceil(PATIENCE * fixed / BATCH)
    rules: dict[str, Callable[[Counts, Counts], Ended]] = {
        "last-10-mean": lambda b, c: last_mean(b, c, question.low, question.high),
        "flagger": lambda b, c: flagger(c, base + question.low),
        "fixed-z": lambda b, c: fixed_z(b, c, question.low, design.alpha, fixed),
        "z-peeking": lambda b, c: z_peeking(b, c, question.low, question.high, design.alpha, design.beta),
    }
    for effect in (question.high, question.low):
        if not 0 <= base + effect <= 1:
            continue
        draw = np.random.default_rng([seed, round((effect + 1) * 1_000_000)])
        champion = draw.binomial(BATCH, base, (canaries, batches))
        candidate = draw.binomial(BATCH, base + effect, (canaries, batches))
        for name, rule in rules.items():
            ended = rule(champion, candidate)
            promoted, back = float(ended.promoted.mean()), float(ended.rolled_back.mean())
            found.append(
                {
                    "rule": name,
                    "base": base,
                    "effect": effect,
                    "promoted": promoted,
                    "rolled_back": back,
                    "undecided": float((~ended.promoted & ~ended.rolled_back).mean()),
                    "false_promotion": promoted if effect <= question.low else 0.0,
                    "false_rollback": back if effect >= question.high else 0.0,
                    "mean_requests": float(ended.requests.mean()),
                }
            )
    return found


def fixed_requests(design: Design, base: float) -> int:
    """Requests to each arm that a z-test for both error rates needs, to the next ten."""
    z = NormalDist().inv_cdf(1 - design.alpha) + NormalDist().inv_cdf(1 - design.beta)
    wide = design.question.high - design.question.low
    return math.ceil(2 * base * (1 - base) * (z / wide) ** 2 / BATCH) * BATCH


def last_mean(champion: Counts, candidate: Counts, low: float, high: float) -> Ended:
    sums = np.cumsum(candidate - champion, axis=1)
    last = sums[:, LAST - 1 :].copy()
    last[:, 1:] -= sums[:, :-LAST]
    difference = last / (BATCH * LAST)
    return _first(difference >= high, difference <= low, LAST)


def flagger(candidate: Counts, bar: float) -> Ended:
    per_check = CHECK // BATCH
    checks = candidate.shape[1] // per_check
    good = candidate[:, : checks * per_check].reshape(len(candidate), checks, per_check).sum(axis=2) / CHECK
    passed = np.cumsum(good >= bar, axis=1)
    failed = np.arange(1, checks + 1) - passed
    ended = _first(passed >= PASSES, failed >= FAILURES, 1)
    return ended._replace(requests=ended.requests * per_check)


def fixed_z(champion: Counts, candidate: Counts, low: float, alpha: float, requests: int) -> Ended:
    batches = requests // BATCH
    z = _z(champion[:, :batches].sum(axis=1), candidate[:, :batches].sum(axis=1), requests, low)
    promoted = z >= NormalDist().inv_cdf(1 - alpha)
    return Ended(promoted, ~promoted, np.full(len(promoted), requests))


def z_peeking(champion: Counts, candidate: Counts, low: float, high: float, alpha: float, beta: float) -> Ended:
    b, c = (np.cumsum(arm, axis=1)[:, LAST - 1 :] for arm in (champion, candidate))
    requests = BATCH * np.arange(LAST, champion.shape[1] + 1)
    up, down = NormalDist().inv_cdf(1 - alpha), NormalDist().inv_cdf(1 - beta)
    return _first(_z(b, c, requests, low) >= up, _z(b, c, requests, high) <= -down, LAST)


def _z(b: Counts, c: Counts, requests: Any, boundary: float) -> NDArray[np.float64]:
    p, q = b / requests, c / requests
    spread = np.sqrt(np.maximum(p * (1 - p) + q * (1 - q), 1e-9) / requests)
    return np.asarray((q - p - boundary) / spread)


def _first(promote: NDArray[np.bool_], back: NDArray[np.bool_], before: int) -> Ended:
    """What was reached first; `before` batches had been seen at the first look."""
    looks = promote.shape[1]
    up = np.where(promote.any(axis=1), promote.argmax(axis=1), looks)
    down = np.where(back.any(axis=1), back.argmax(axis=1), looks)
    at = np.minimum(np.minimum(up, down), looks - 1)
    return Ended((up < down), (down <= up) & (down < looks), BATCH * (at + before))
