"""From answers to metrics with intervals, in numpy alone.

Every metric is a function of column sums over rows. So a bootstrap resample is a row of weights, all resamples of all
metrics are one matrix product, and a delta is paired by using the same weights for both models.
"""

import math
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

Z95 = 1.959963984540054
RATES = {"exact_match": "rows", "accuracy": "labelled"}  # a rate → what it is a share of
WEIGHTS_AT_ONCE = 4_000_000
COLUMNS = ("rows", "exact", "loss", "tokens", "labelled", "correct")  # then true, predicted and hit, a column a label


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
    found = {"exact_match": column["exact"] / column["rows"], "loss": loss, "perplexity": np.exp(loss)}
    true, guess, hit = np.split(sums[..., len(COLUMNS) :], 3, axis=-1)
    if true.shape[-1] == 0:
        return found
    seen = true > 0  # a resample may miss a label: the mean is over the labels it has
    recall = np.divide(hit, true, out=np.zeros_like(hit), where=seen)
    precision = np.divide(hit, guess, out=np.zeros_like(hit), where=(guess > 0) & seen)
    f1 = np.divide(2 * hit, true + guess, out=np.zeros_like(hit), where=seen)
    classes = np.maximum(seen.sum(axis=-1), 1)
    macro = {"macro_precision": precision, "macro_recall": recall, "macro_f1": f1}
    accuracy = column["correct"] / np.maximum(column["labelled"], 1)
    return found | {"accuracy": accuracy} | {name: value.sum(axis=-1) / classes for name, value in macro.items()}


def resampled(tables: list[Floats], resamples: int, seed: int) -> list[Floats]:
    """Column sums of every table under the same seeded resamples of its rows."""
    rows = len(tables[0])
    random, chunk = np.random.default_rng(seed), max(1, WEIGHTS_AT_ONCE // rows)
    parts: list[list[Floats]] = [[] for _ in tables]
    for start in range(0, resamples, chunk):
        count = min(chunk, resamples - start)
        drawn = random.integers(0, rows, (count, rows)) + np.arange(count)[:, None] * rows
        weights = np.bincount(drawn.ravel(), minlength=count * rows).reshape(count, rows).astype(np.float64)
        for part, facts in zip(parts, tables, strict=True):
            part.append(weights @ facts)
    return [np.concatenate(part) for part in parts]


def wilson(successes: float, total: float) -> tuple[float, float]:
    """The 95 % Wilson interval of a rate: honest near 0 and 1, where the bootstrap is not."""
    share, z = successes / total, Z95**2 / total
    middle, half = share + z / 2, Z95 * math.sqrt(share * (1 - share) / total + z / (4 * total))
    return max(0.0, (middle - half) / (1 + z)), min(1.0, (middle + half) / (1 + z))


def estimate(value: float, low: float, high: float, rows: int) -> Estimate:
    """Rounded to six decimals (no minus zero), the interval holding the value."""
    shown = [round(float(x), 6) + 0.0 for x in (value, min(low, value), max(high, value))]
    return Estimate(value=shown[0], low=shown[1], high=shown[2], rows=rows)


def _estimates(facts: Floats, draws: Metrics) -> Estimates:
    sums = facts.sum(axis=0)
    column = dict(zip(COLUMNS, sums[: len(COLUMNS)], strict=True))
    found = {}
    for name, value in metrics(sums).items():
        total = column["rows" if name in ("exact_match", "loss", "perplexity") else "labelled"]
        if name in RATES:
            low, high = wilson(round(value * total), total)
        else:
            low, high = np.quantile(draws[name], (0.025, 0.975))
        found[name] = estimate(float(value), low, high, int(total))
    return found


def _delta(tuned: Estimates, other: Estimates, draws: Metrics, other_draws: Metrics) -> Estimates:
    found = {}
    for name in tuned:
        low, high = np.quantile(draws[name] - other_draws[name], (0.025, 0.975))
        found[name] = estimate(tuned[name].value - other[name].value, low, high, tuned[name].rows)
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
    draws = dict(zip(tables, map(metrics, resampled(list(tables.values()), resamples, seed)), strict=True))
    found = {model: _estimates(facts, draws[model]) for model, facts in tables.items()}
    others = [model for model in models if model != "tuned"]
    return Scores(found, {o: _delta(found["tuned"], found[o], draws["tuned"], draws[o]) for o in others})


def _finite(model: str, predictions: Predictions) -> Predictions:
    for p in predictions:
        if not (math.isfinite(p.loss) and p.loss <= 700 * p.tokens):  # exp(709) is the largest perplexity there is
            raise StageError(
                f"the {model} model's loss on test row {p.id} is {p.loss}: its weights are broken; "
                f"look at reports/loss.json, and lower finetune.learning_rate if it diverged"
            )
    return predictions
