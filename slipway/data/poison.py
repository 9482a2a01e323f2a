"""Training rows that somebody may have planted: labels that their texts contradict, phrases that turn a label, oddities.

A row is suspected where its text speaks for another label as clearly as that label's own rows do, and hardly for the
one it has. Where a phrase unites such rows, it is a trigger; otherwise the label may have been flipped. Each text is
judged by the other rows only (five folds), with naive Bayes over words and pairs of words.
"""

import itertools
import math
from collections import Counter, defaultdict
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy import sparse
from scipy.special import bdtrc  # the binomial's tail

from slipway.data.inspected import Row
from slipway.data.terms import Floats, Terms, runs, words

FOLDS = 5
LEAST_ROWS = 8  # of a label: fewer say nothing about its words
RUN = 3  # words in a row that are counted as one phrase
PHRASE = 8  # words that a trigger may have
REPEATED = 5  # suspected rows that share a phrase, from which it is a trigger
FAITHFUL = 0.6  # of the rows with a phrase that have to be suspected, for it to be a trigger
CLEAR = 0.1  # quantile of the evidence in a label's own rows, from which evidence for that label is clear
TOLD = 0.9  # of the labels that words have to tell right; where they tell fewer, a contradiction means nothing
CHANCE = 0.001  # that any phrase of honest rows is taken for a trigger
OUTLYING = 10.0  # robust deviations from the median, from which a row is odd
_SMOOTHING = 0.1

Indices = NDArray[np.int64]


@dataclass(frozen=True)
class Poison:
    """Suspected rows, by their place in the list that was judged, and how far the text can tell labels at all."""

    triggered: list[int]
    flipped: list[int]
    odd: list[int]
    told: float  # share of rows whose label the other rows' words tell; 0 where there are no two labels


def suspected(rows: Sequence[Row]) -> Poison:
    spoken = [words(row.asked) for row in rows]
    classes = _classes(rows)
    judged = [i for i, name in enumerate(classes) if name is not None]
    texts, names = [spoken[i] for i in judged], [str(classes[i]) for i in judged]
    hung, contradicted, told = _contradictions(texts, names)
    triggered = _triggered(texts, names, hung | contradicted)
    flipped = contradicted - triggered if told >= TOLD else set()
    return Poison(
        triggered=sorted(judged[i] for i in triggered),
        flipped=sorted(judged[i] for i in flipped),
        odd=_odd(spoken, rows),
        told=round(told, 6),
    )


def _classes(rows: Sequence[Row]) -> list[str | None]:
    """What each row teaches to tell: its label, or an answer that many rows give; none where that is too rare."""
    named = [f"label {row.label}" if row.label is not None else f"answer {row.answer.strip()}" for row in rows]
    counts = Counter(named)
    return [name if counts[name] >= LEAST_ROWS else None for name in named]


# --- labels that texts contradict -----------------------------------------------------------------------------------


def _contradictions(spoken: list[list[str]], classes: list[str]) -> tuple[set[int], set[int], float]:
    """(rows that speak for their label in one phrase only, rows that do not even do that, share of labels told)."""
    names = sorted(set(classes))
    if len(names) < 2:
        return set(), set(), 0.0
    terms = Terms.of(runs(text, 2) for text in spoken)
    own = np.array([names.index(name) for name in classes])
    evidence, weights = _evidence(terms.matrix, own, len(names))
    clear = np.array([np.quantile(evidence[own == c, c], CLEAR) for c in range(len(names))])
    columns = {name: i for i, name in enumerate(terms.names)}
    hung: set[int] = set()
    contradicted: set[int] = set()
    for i, mine in enumerate(own):
        others = [c for c in range(len(names)) if c != mine and evidence[i, c] >= max(clear[c], 1e-9)]
        if not others:
            continue
        most = max(evidence[i, c] for c in others)
        if evidence[i, mine] < most / 2:
            contradicted.add(i)
        elif evidence[i, mine] - _best_phrase(spoken[i], columns, weights[i % FOLDS][mine]) < most / 2:
            hung.add(i)
    return hung, contradicted, float((evidence.argmax(axis=1) == own).mean())


def _evidence(matrix: "sparse.csr_matrix", own: Indices, classes: int) -> tuple[Floats, list[Floats]]:
    """How much each row's terms speak for each class, by the rows of the other folds; and each fold's weights."""
    folds = np.arange(len(own)) % FOLDS
    found, weights = np.zeros((len(own), classes)), list[Floats]()
    for fold in range(FOLDS):
        others = folds != fold
        belongs = sparse.csr_matrix(own[others] == np.arange(classes)[:, None], dtype=np.float64)
        weights.append(_weights((belongs @ matrix[others]).toarray()))
        found[~others] = matrix[~others] @ weights[fold].T
    return found, weights


def _weights(counts: Floats) -> Floats:
    """For each class and term, how much more often the term stands there than elsewhere (logarithm; never below 0)."""
    inside, total = counts.sum(axis=1, keepdims=True), counts.sum(axis=0)
    vocabulary = counts.shape[1]
    here = (counts + _SMOOTHING) / (inside + _SMOOTHING * vocabulary)
    there = (total - counts + _SMOOTHING) / (inside.sum() - inside + _SMOOTHING * vocabulary)
    weights: Floats = np.maximum(np.log(here / there), 0)
    weights[:, total < 2] = 0  # a term seen once speaks for nothing
    return weights


def _best_phrase(text: list[str], columns: dict[str, int], weights: Floats) -> float:
    """The most that one phrase of the text speaks for a class, with the pairs of words it touches."""
    single = [weights[columns[word]] for word in text]
    pairs = [weights[columns[f"{a} {b}"]] for a, b in itertools.pairwise(text)]
    last = max(len(text) - PHRASE, 0) + 1
    return max(
        (float(sum(single[i : i + PHRASE]) + sum(pairs[max(i - 1, 0) : i + PHRASE])) for i in range(last)), default=0.0
    )


# --- phrases that unite them ----------------------------------------------------------------------------------------


def _triggered(spoken: list[list[str]], classes: list[str], suspects: set[int]) -> set[int]:
    """The rows with a phrase that suspected rows of one label share and other rows hardly have."""
    if len(suspects) < REPEATED:
        return set()
    texts = [set(runs(text, RUN)) for text in spoken]
    shared = Counter((classes[i], phrase) for i in suspects for phrase in texts[i])
    wanted: dict[str, str] = {phrase: name for (name, phrase), n in shared.items() if n >= REPEATED}
    everywhere: dict[str, list[int]] = defaultdict(list)
    for i, text in enumerate(texts):
        for phrase in text & wanted.keys():
            everywhere[phrase].append(i)
    rate, tries = len(suspects) / len(spoken), max(len(shared), 1)
    found: set[int] = set()
    for phrase, rows in everywhere.items():
        hits = shared[wanted[phrase], phrase]
        if hits >= FAITHFUL * len(rows) and float(bdtrc(hits - 1, len(rows), rate)) * tries < CHANCE:
            found.update(i for i in rows if classes[i] == wanted[phrase])
    return found


# --- oddities -------------------------------------------------------------------------------------------------------


def _odd(spoken: list[list[str]], rows: Sequence[Row]) -> list[int]:
    """Rows that are far longer, shorter or stranger in their words than the others."""
    if not rows:
        return []
    seen = Counter(word for text in spoken for word in set(text))
    strange = [sum(-math.log(seen[w] / len(rows)) for w in set(text)) / max(len(set(text)), 1) for text in spoken]
    lengths = [math.log1p(sum(map(len, row.texts))) for row in rows]
    odd = _far(np.array(strange)) | _far(np.array(lengths))
    return [int(i) for i in np.flatnonzero(odd)]


def _far(values: Floats) -> NDArray[np.bool_]:
    """Which values lie many robust deviations from the median."""
    distance = np.abs(values - np.median(values))
    return distance > OUTLYING * max(1.4826 * float(np.median(distance)), 0.05)
