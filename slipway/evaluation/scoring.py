"""From answers to metrics with intervals, in numpy alone.

Every metric is a function of column sums over rows. So a bootstrap resample is a row of weights, all resamples of all
metrics are one matrix product, and a delta is paired by using the same weights for both models.
"""

import functools
import math
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from slipway.artifacts import Estimate
from slipway.errors import StageError
from slipway.evaluation.predictions import Predictions
from slipway.evaluation.testset import TestSet

Floats = NDArray[np.float64]
Metrics = dict[str, Floats]
Estimates = dict[str, Estimate]  # by metric
Bounds = tuple[float, float]

Z95 = 1.959963984540054
RATES = {"exact_match": "exact", "format_validity": "valid", "accuracy": "correct"}  # → the column it is the mean of
OF_ALL_ROWS = ("exact_match", "format_validity", "loss", "perplexity")  # the others are of the labelled rows
PER_TOKEN = ("loss", "perplexity")  # means a token: they compare only between models that cut a text alike
WEIGHTS_AT_ONCE = 4_000_000
# What is counted a row; after these come true, predicted and hit, a column a label.
COLUMNS = ("rows", "exact", "valid", "loss", "tokens", "labelled", "correct")


def table(tests: TestSet, predictions: Predictions) -> Floats:
    """One row of countable facts for each test row."""
    labels = np.array(tests.labels, dtype=object)
    actual = np.array([row.label for row in tests.rows], dtype=object)
    predicted = np.array([p.predicted_label for p in predictions], dtype=object)
    labelled = actual != None  # noqa: E711  (elementwise)
    true = actual[:, None] == labels
    guess = (predicted[:, None] == labels) & labelled[:, None]
    facts = [
        np.ones(len(actual)),
        np.array([p.exact for p in predictions]),
        np.array([p.valid for p in predictions]),
        np.array([p.loss for p in predictions]),
        np.array([p.tokens for p in predictions]),
        labelled,
        labelled & (actual == predicted),
    ]
    return np.column_stack([*facts, true, guess, true & guess]).astype(np.float64)


def metrics(sums: Floats) -> Metrics:
    """Every metric from column sums; leading axes (resamples) are kept."""
    column = {name: sums[..., i] for i, name in enumerate(COLUMNS)}
    loss = column["loss"] / column["tokens"]
    found = {
        "exact_match": column["exact"] / column["rows"],
        "format_validity": column["valid"] / column["rows"],
        "loss": loss,
        "perplexity": np.exp(loss),
    }
    true, guess, hit = np.split(sums[..., len(COLUMNS) :], 3, axis=-1)
    if true.shape[-1] == 0:
        return found
    seen = true > 0  # a resample may miss a label: the mean is over the labels it has
    recall = np.divide(hit, true, out=np.zeros_like(hit), where=seen)
    precision = np.divide(hit, guess, out=np.zeros_like(hit), where=(guess > 0) & seen)
    f1 = np.divide(2 * hit, true + guess, out=np.zeros_like(hit), where=seen)
    classes = np.maximum(seen.sum(axis=-1), 1)
    macro = {"macro_precision": precision, "macro_recall": recall, "macro_f1": f1}
    accuracy = column["correct"] / np.maximum(column["labelled"], 1)  # before the macro scores, which lean on it
    return found | {"accuracy": accuracy} | {name: value.sum(axis=-1) / classes for name, value in macro.items()}


def resamples_of(rows: int, resamples: int, seed: int) -> Iterator[Floats]:
    """Seeded resamples as weights: one line a resample, in chunks that fit in memory."""
    random, chunk = np.random.default_rng(seed), max(1, WEIGHTS_AT_ONCE // rows)
    for start in range(0, resamples, chunk):
        count = min(chunk, resamples - start)
        drawn = random.integers(0, rows, (count, rows)) + np.arange(count)[:, None] * rows
        yield np.bincount(drawn.ravel(), minlength=count * rows).reshape(count, rows).astype(np.float64)


def resampled(tables: list[Floats], weights: Iterable[Floats]) -> list[Floats]:
    """Column sums of every table under the same resamples of its rows."""
    side_by_side = np.hstack(tables)
    sums = np.concatenate([chunk @ side_by_side for chunk in weights])
    return np.split(sums, np.cumsum([facts.shape[1] for facts in tables])[:-1], axis=-1)


def wilson(successes: float, total: float) -> tuple[float, float]:
    """The 95 % Wilson interval of a rate: honest near 0 and 1, where the bootstrap is not."""
    share, z = successes / total, Z95**2 / total
    middle, half = share + z / 2, Z95 * math.sqrt(share * (1 - share) / total + z / (4 * total))
    return max(0.0, (middle - half) / (1 + z)), min(1.0, (middle + half) / (1 + z))


@functools.lru_cache(maxsize=10_000)
def tango(gains: float, losses: float, total: float) -> tuple[float, float]:
    """The 95 % score interval of a paired difference of rates (Tango 1998).

    `gains` and `losses` are the rows that only the one or only the other model has right. Where there are none, the
    bootstrap sees no spread at all; this says ± z²/(n + z²), the most that two models may still differ by.
    """

    def beyond(delta: float) -> float:
        return misfit(gains, losses, total, delta)

    found = (gains - losses) / total
    return _edge(beyond, found, -1.0), _edge(beyond, found, 1.0)


def misfit(gains: float, losses: float, total: float, delta: float) -> float:
    """Above zero where the data contradict a true difference of `delta`: where Tango's interval does not reach."""
    linear = (2 * total - gains + losses) * delta - gains - losses
    root = math.sqrt(max(linear**2 + 8 * total * losses * delta * (1 - delta), 0.0))
    share = (root - linear) / (4 * total)  # the likeliest share of losses, were the difference `delta`
    variance = max(2 * share + delta * (1 - delta), 0.0)
    return (gains - losses - total * delta) ** 2 - Z95**2 * total * variance


def _edge(beyond: Callable[[float], float], inside: float, outside: float) -> float:
    """Where `beyond` changes its sign, by bisection."""
    for _ in range(36):  # to 10 decimals
        middle = (inside + outside) / 2
        inside, outside = (inside, middle) if beyond(middle) > 0 else (middle, outside)
    return (inside + outside) / 2


def widened(value: float, low: float, high: float, accuracy: Estimate, bounds: tuple[float, float]) -> Bounds:
    """A macro score's interval, reaching at least as far to both sides as accuracy's on the same rows.

    A bootstrap of rows that are all right (or all wrong) has no width, though nothing is certain. A macro score rests
    on fewer rows a label than accuracy does on all, so it is never surer.
    """
    least, most = bounds
    low, high = min(low, value - (accuracy.value - accuracy.low)), max(high, value + (accuracy.high - accuracy.value))
    return max(low, least), min(high, most)


def estimate(value: float, low: float, high: float, rows: int) -> Estimate:
    """Rounded to six decimals (no minus zero), the interval holding the value."""
    shown = [round(float(x), 6) + 0.0 for x in (value, min(low, value), max(high, value))]
    return Estimate(value=shown[0], low=shown[1], high=shown[2], rows=rows)


def rate(successes: float, total: int) -> Estimate:
    """A rate with its Wilson interval."""
    return estimate(successes / total, *wilson(successes, total), total)


def difference(gains: float, losses: float, total: int) -> Estimate:
    """A paired difference of rates with its Tango interval."""
    return estimate((gains - losses) / total, *tango(gains, losses, total), total)


def _estimates(facts: Floats, draws: Metrics) -> Estimates:
    sums = facts.sum(axis=0)
    column = dict(zip(COLUMNS, sums[: len(COLUMNS)], strict=True))
    found: Estimates = {}
    for name, value in metrics(sums).items():
        total = column["rows" if name in OF_ALL_ROWS else "labelled"]
        if name in RATES:
            low, high = wilson(column[RATES[name]], total)
        else:
            low, high = np.quantile(draws[name], (0.025, 0.975))
        if name.startswith("macro_"):
            low, high = widened(float(value), low, high, found["accuracy"], (0.0, 1.0))
        found[name] = estimate(float(value), low, high, int(total))
    return found


@dataclass(frozen=True)
class _Scored:
    """One model: its facts a row, its metrics, and the same of every resample."""

    facts: Floats
    found: Estimates
    draws: Metrics


def _delta(tuned: _Scored, other: _Scored) -> Estimates:
    """Tuned minus another, paired by row."""
    column = {name: i for i, name in enumerate(COLUMNS)}
    same_tokens = bool((tuned.facts[:, column["tokens"]] == other.facts[:, column["tokens"]]).all())
    found: Estimates = {}
    for name, measured in tuned.found.items():
        if name in PER_TOKEN and not same_tokens:
            continue  # per-token means over other tokens: no difference can be told, and a rule on it is undecided
        value = measured.value - other.found[name].value
        if name in RATES:
            mine, theirs = (model.facts[:, column[RATES[name]]] for model in (tuned, other))
            low, high = tango(float((mine > theirs).sum()), float((mine < theirs).sum()), measured.rows)
        else:
            low, high = np.quantile(tuned.draws[name] - other.draws[name], (0.025, 0.975))
        if name.startswith("macro_"):
            low, high = widened(value, low, high, found["accuracy"], (-1.0, 1.0))
        found[name] = estimate(value, low, high, measured.rows)
    return found


@dataclass(frozen=True)
class Scores:
    """metrics: model → metric → estimate; deltas: tuned minus another model, paired by row."""

    metrics: dict[str, Estimates]
    deltas: dict[str, Estimates]

    @property
    def headline(self) -> dict[str, float]:
        """The tuned model's metrics under their own names, the base's with a prefix: what DVC and MLflow compare."""
        named = {"": self.metrics["tuned"], "base_": self.metrics["base"]}
        return {
            "items": float(self.metrics["tuned"]["exact_match"].rows),
            **{prefix + name: found.value for prefix, metrics in named.items() for name, found in metrics.items()},
        }


def score(tests: TestSet, models: dict[str, Predictions], resamples: int, seed: int) -> Scores:
    """Every model's metrics, and tuned against each of the others."""
    tables = {model: table(tests, _finite(model, predictions)) for model, predictions in models.items()}
    return of_tables(tables, resamples_of(len(tests.rows), resamples, seed))


def of_tables(tables: Mapping[str, Floats], weights: Iterable[Floats]) -> Scores:
    """The same from countable facts and resamples alone."""
    draws = dict(zip(tables, map(metrics, resampled(list(tables.values()), weights)), strict=True))
    scored = {model: _Scored(facts, _estimates(facts, draws[model]), draws[model]) for model, facts in tables.items()}
    deltas = {other: _delta(scored["tuned"], scored[other]) for other in tables if other != "tuned"}
    return Scores({model: one.found for model, one in scored.items()}, deltas)


def _finite(model: str, predictions: Predictions) -> Predictions:
    for p in predictions:
        if not (math.isfinite(p.loss) and p.loss <= 700 * p.tokens):  # exp(709) is the largest perplexity there is
            raise StageError(
                f"the {model} model's loss on test row {p.id} is {p.loss}: its weights are broken; "
                f"look at reports/loss.json, and lower finetune.learning_rate if it diverged"
            )
    return predictions
