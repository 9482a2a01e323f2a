"""The differences that have not been refuted: the confidence sequence of a `Sequential`, at any time of a canary. Pure."""

import numpy as np

from slipway.release.sequential import DESIGN_SHARE, PRIOR, Sequential
from slipway.release.vectorised import Array, project

HALVINGS = 16  # of a range of 2: to 0.00003


def interval(state: Sequential, promote_bar: float, rollback_bar: float) -> tuple[float, float]:
    """Least and greatest difference δ whose tests, with δ in the place of the boundary, never reached their bars.

    Its ends agree with the tests: the lower one is above `low` where W⁺ has been at its bar, the upper one below `high` where W⁻ has.
    """
    seen = state.difference
    if seen is None:
        return -1.0, 1.0
    counts = np.array([[b.champion, b.champion_good, b.candidate, b.candidate_good] for b in state.blocks], dtype=float)
    wide = state.question.high - state.question.low
    swapped = counts[:, [2, 3, 0, 1]]
    low = _edge(counts, seen, wide, promote_bar)
    high = -_edge(swapped, -seen, wide, rollback_bar)
    return low, high


def _edge(counts: Array, seen: float, wide: float, bar: float) -> float:
    """The greatest difference below what was seen that the game against "at most this" has won."""
    refuted, standing = -1.0, seen
    for _ in range(HALVINGS):
        middle = (refuted + standing) / 2
        if _peak(counts, middle, min(middle + wide, (1 + middle) / 2)) >= bar:
            refuted = middle
        else:
            standing = middle
    return refuted


def _peak(counts: Array, boundary: float, design: float) -> float:
    """The most that the game against "at most `boundary`" ever had won."""
    n_b, k_b, n_c, k_c = counts.T
    before = np.cumsum(counts, axis=0) - counts + [2 * PRIOR, PRIOR, 2 * PRIOR, PRIOR]
    b, c = before[:, 1] / before[:, 0], before[:, 3] / before[:, 2]
    pooled = project(before[:, 0], b, before[:, 2], c, design)
    halves = []
    for p, q in ((pooled, pooled + design), (b, c)):
        x = project(n_b, p, n_c, q, boundary)
        y = x + boundary
        won = (
            k_b * np.log(p / x) + (n_b - k_b) * np.log((1 - p) / (1 - x))
            + k_c * np.log(q / y) + (n_c - k_c) * np.log((1 - q) / (1 - y))
        )  # fmt: skip
        halves.append(np.cumsum(np.where(q - p > boundary, won, 0.0)))
    both = np.logaddexp(halves[0] + np.log(DESIGN_SHARE), halves[1] + np.log(1 - DESIGN_SHARE))
    return float(both.max())
