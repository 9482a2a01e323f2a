"""Right and wrong, row by row: the exact tests of a pair of models."""

from collections.abc import Sequence

from slipway.artifacts import Comparison
from slipway.evaluation.predictions import Predictions


def compare(tuned: Predictions, other: Predictions) -> Comparison:
    """Exact McNemar: do the rows that only one of the two has right favour either?"""
    return of_marks([p.exact for p in tuned], [p.exact for p in other])


def of_marks(mine: Sequence[bool], theirs: Sequence[bool]) -> Comparison:
    """The same from right and wrong alone."""
    pairs = list(zip(mine, theirs, strict=True))
    only_tuned, only_other = pairs.count((True, False)), pairs.count((False, True))
    return Comparison(
        both=pairs.count((True, True)),
        only_tuned=only_tuned,
        only_other=only_other,
        neither=pairs.count((False, False)),
        p_value=round(two_sided(only_tuned, only_other), 6),
    )


def two_sided(gains: int, losses: int) -> float:
    """How often two equally good models would differ at least this much, in whichever direction."""
    return min(1.0, 2 * one_sided(min(gains, losses), max(gains, losses)))


def one_sided(gains: int, losses: int) -> float:
    """How often a model that is no worse would lose at least this many of the rows that only one of two has right."""
    toss, total = gains + losses, 0
    ways = 1  # to choose k of them, from k = 0 on; whole numbers, so that nothing is rounded
    for k in range(gains + 1):
        total += ways
        ways = ways * (toss - k) // (k + 1)
    return total / (1 << toss)


def holm(p_values: Sequence[float]) -> list[float]:
    """Holm's adjusted p-values: rejecting those under 5 % is wrong about any of them at most 5 % of the time."""
    adjusted, reached = [1.0] * len(p_values), 0.0
    for rank, place in enumerate(sorted(range(len(p_values)), key=lambda i: p_values[i])):
        reached = max(reached, min(1.0, (len(p_values) - rank) * p_values[place]))
        adjusted[place] = reached
    return adjusted
