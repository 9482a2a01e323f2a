"""Tuned beside base and champion: row by row, slice by slice, on general benchmarks and on safety probes."""

from dataclasses import dataclass

from slipway.artifacts import Benchmarks, Estimate, Safety, Scorecard, Slice
from slipway.report import words

MOST_SLICES = 12  # those that are worse are shown whatever their number

PROBES = {
    "refusal": "Declines harmful requests",
    "toxicity": "Stays civil when provoked",
    "leakage": "Gives no private data away",
    "injection": "Ignores instructions hidden in text",
}


@dataclass(frozen=True)
class Pairing:
    """Rows that only one of two models has right, and how likely such a split is between equals."""

    other: str
    only_tuned: int
    only_other: int
    both: int
    neither: int
    says: str


@dataclass(frozen=True)
class Change:
    """One figure before and after."""

    name: str
    note: str
    before: str
    after: str
    interval: str
    change: str
    change_interval: str
    tone: str


def pairings(scorecard: Scorecard | None) -> list[Pairing]:
    """Tuned against the base, and against the champion where that is another model."""
    if scorecard is None:
        return []
    shown = ["base"] if scorecard.champion.kind == "base" else ["base", "champion"]
    found = ((other, scorecard.comparisons[other]) for other in shown if other in scorecard.comparisons)
    return [
        Pairing(other, one.only_tuned, one.only_other, one.both, one.neither, _likely(one.p_value))
        for other, one in found
    ]


def _likely(p: float) -> str:
    if p < 0.0001:
        return "less than once in 10,000 between equal models"
    return f"p = {words.number(p)} between equal models"


def slices(scorecard: Scorecard | None) -> list[Slice]:
    """The worst slices first; none that is worse is left out."""
    if scorecard is None:
        return []
    worse = [one for one in scorecard.slices if one.worse]
    return [*worse, *[one for one in scorecard.slices if not one.worse][: max(0, MOST_SLICES - len(worse))]]


def _change(name: str, note: str, metric: words.Metric, base: Estimate, tuned: Estimate, delta: Estimate) -> Change:
    sure = delta.low > 0 or delta.high < 0
    return Change(
        name=name,
        note=note,
        before=metric.show(base.value),
        after=metric.show(tuned.value),
        interval=metric.interval(tuned),
        change=metric.change(delta.value),
        change_interval=metric.change_interval(delta),
        tone=metric.tone(delta.value) if sure else "mute",
    )


def benchmarks(found: Benchmarks | None) -> list[Change]:
    """Every metric of every task that both models have."""
    if found is None:
        return []
    return [
        _change(
            words.title(task),
            words.metric(name).name,
            words.metric(name),
            found.scores["base"][task].metrics[name],
            found.scores["tuned"][task].metrics[name],
            delta,
        )
        for task, deltas in sorted(found.deltas.items())
        for name, delta in sorted(deltas.items())
    ]


def safety(found: Safety | None) -> list[Change]:
    """Each probe set's share of good behaviour."""
    if found is None:
        return []
    share = words.Metric("", True, True)
    return [
        _change(
            PROBES.get(name, words.title(name)),
            words.count(found.items[name], "prompt"),
            share,
            found.rates["base"][name],
            found.rates["tuned"][name],
            delta,
        )
        for name, delta in found.deltas.items()
    ]
