"""How often does the gate contradict itself? Two equally good models, judged many times by the real policy.

Each trial draws rows anew and makes the tuned model and the champion exchangeable: in each drawn row their answers are
swapped or not by the toss of a coin. Whatever the verdict then depends on is luck. Where the base is the champion there
is nothing to swap with, so its place is taken by a twin: as good as the tuned model, and erring independently of it.
"""

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from slipway.artifacts import Comparison, Decision, Estimate, Scorecard, Verdict
from slipway.evaluation import comparison, scoring, slices
from slipway.evaluation.scoring import COLUMNS, Floats

RESAMPLES = 200  # a trial; the interval's ends shake a little more than those of `evaluate`
VERDICTS: tuple[Verdict, ...] = ("pass", "refuse", "undecided")
_OF_THE_ANSWER = ("exact", "valid", "correct")  # a twin has these from another row of the same label

Judged = Callable[[Scorecard], Decision]


@dataclass(frozen=True)
class Trials:
    """What became of many runs of the gate on models that do not differ."""

    trials: int
    verdicts: Mapping[Verdict, int]
    flips: Estimate  # how often two runs on identical models disagree
    rules: Mapping[str, Mapping[Verdict, int]]


def run(
    card: Scorecard,
    tables: Mapping[str, Floats],
    by: Mapping[str, Sequence[str]],
    judged: Judged,
    trials: int,
    seed: int,
) -> Trials:
    """Judge `trials` times; `tables` are scoring's facts of tuned, base and champion, `by` the values to slice by."""
    random = np.random.default_rng(seed)
    weights = list(scoring.resamples_of(card.items, RESAMPLES, seed))
    columns = {name: np.array(values, dtype=object) for name, values in by.items()}
    decisions = []
    for _ in range(trials):
        rows = random.integers(0, card.items, card.items)
        # Drawn first: a row that is drawn twice is tossed for twice, or the coins would not be independent.
        drawn = exchanged(card, {name: table[rows] for name, table in tables.items()}, random)
        decisions.append(
            judged(_rescored(card, drawn, {name: c[rows].tolist() for name, c in columns.items()}, weights))
        )
    return _told(decisions)


def exchanged(card: Scorecard, tables: Mapping[str, Floats], random: np.random.Generator) -> dict[str, Floats]:
    """The same models with tuned and champion swapped in half of the rows."""
    other = tables["champion"] if card.champion.kind == "version" else _twin(tables["tuned"], random)
    swap = random.random(len(other)) < 0.5
    tuned = np.where(swap[:, None], other, tables["tuned"])
    champion = np.where(swap[:, None], tables["tuned"], other)
    return {"tuned": tuned, "base": tables["base"], "champion": champion}


def _twin(facts: Floats, random: np.random.Generator) -> Floats:
    """A model that answers each row as this one answered another row of the same label."""
    labels = (facts.shape[1] - len(COLUMNS)) // 3
    true = facts[:, len(COLUMNS) : len(COLUMNS) + labels]
    kind = np.where(true.any(axis=1), true.argmax(axis=1), -1) if labels else np.zeros(len(facts))
    shuffled = random.permutation(len(facts))
    source = np.empty(len(facts), dtype=int)
    source[np.argsort(kind, kind="stable")] = shuffled[np.argsort(kind[shuffled], kind="stable")]
    moved = [COLUMNS.index(name) for name in _OF_THE_ANSWER] + list(range(len(COLUMNS) + labels, facts.shape[1]))
    twin = facts.copy()
    twin[:, moved] = facts[source][:, moved]
    return twin


def _rescored(
    card: Scorecard, tables: Mapping[str, Floats], by: Mapping[str, Sequence[str]], weights: list[Floats]
) -> Scorecard:
    """The scorecard that `evaluate` would have written of these rows."""
    scores = scoring.of_tables(tables, weights)
    right = {name: table[:, COLUMNS.index("exact")] > 0 for name, table in tables.items()}
    return card.model_copy(
        update={
            "metrics": scores.metrics,
            "deltas": scores.deltas,
            "comparisons": {other: _compared(right["tuned"], right[other]) for other in ("base", "champion")},
            "slices": slices.of_marks(by, right["tuned"], right["champion"]),
        }
    )


def _compared(mine: "np.ndarray", theirs: "np.ndarray") -> Comparison:
    return comparison.of_marks(mine.tolist(), theirs.tolist())


def _told(decisions: list[Decision]) -> Trials:
    verdicts = [decision.verdict for decision in decisions]
    pairs = list(
        zip(verdicts[::2], verdicts[1::2], strict=False)
    )  # each trial in one pair, so that pairs are independent
    rules: dict[str, Counter[Verdict]] = {}
    for decision in decisions:
        for finding in decision.findings:
            rules.setdefault(finding.rule, Counter())[finding.verdict] += 1
    flips = scoring.rate(sum(one != two for one, two in pairs), len(pairs))
    return Trials(len(decisions), _counted(Counter(verdicts)), flips, {name: _counted(c) for name, c in rules.items()})


def _counted(found: Counter[Verdict]) -> dict[Verdict, int]:
    return {verdict: found[verdict] for verdict in VERDICTS}
