"""What the harness found, row by row, and the comparison of two models by it: intervals and paired differences.

Every metric is a ratio of two sums over rows (a mean: of values and ones; a perplexity: of losses and bytes), so one
formula gives its standard error, and its differences are paired row by row.
"""

import json
import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray
from pydantic import ValidationError

from slipway.artifacts import Artifact, Benchmarks, Estimate, TaskScore
from slipway.errors import StageError
from slipway.evaluation import scoring
from slipway.evaluation.suite_files import METRICS, Kind, Suite

BROKEN = "its weights are broken; look at reports/loss.json, and lower finetune.learning_rate if it diverged"
Rows = list[tuple[float, float]]  # a metric's numerator and denominator, row by row


class TaskRows(Artifact):
    """One task, one model."""

    kind: Kind
    version: str
    hash: str  # of its documents, prompts and targets
    expected: int
    values: dict[str, Rows]  # by metric

    @property
    def scored(self) -> int:
        return min((len(rows) for rows in self.values.values()), default=0)


class TaskResults(Artifact):
    """All tasks of a suite, one model."""

    suite_digest: str
    identity: str
    harness: str
    template_hash: str | None
    tasks: dict[str, TaskRows]
    missing: dict[str, str]  # "task.metric" → why it could not be measured

    @classmethod
    def of_json(cls, value: Any) -> Self:
        """What was kept as plain JSON."""
        try:
            return cls.model_validate_json(json.dumps(value))
        except ValidationError as error:
            first = error.errors()[0]
            where = ".".join(str(part) for part in first["loc"])
            raise StageError(
                f"kept benchmark scores are damaged ({where}: {first['msg']}); run evaluate again"
            ) from None

    @property
    def hashes(self) -> dict[str, str]:
        return {name: task.hash for name, task in self.tasks.items()}


# --- one metric -----------------------------------------------------------------------------------------------------

# From nats a unit to what people call it, and how fast that grows.
_SHOWN: dict[str, tuple[Callable[[float], float], Callable[[float], float]]] = {
    "byte_perplexity": (math.exp, math.exp),
    "word_perplexity": (math.exp, math.exp),
    "bits_per_byte": (lambda nats: nats / math.log(2), lambda _: 1 / math.log(2)),
}
_AS_IS = (float, lambda _: 1.0)


@dataclass(frozen=True)
class _Measured:
    """A metric of one model, and how far each row moves it."""

    estimate: Estimate
    standard_error: float
    moves: NDArray[np.float64]
    right: NDArray[np.float64] | None  # 0 or 1 a row, where it is a rate


def _measure(metric: str, rows: Rows) -> _Measured | None:
    """A rate with Wilson's interval, anything else with Student's; None where one row tells no spread."""
    over, under = np.array(rows, dtype=np.float64).T
    count, ratio = len(rows), float(over.sum() / under.sum())
    shown, slope = _SHOWN.get(metric, _AS_IS)
    moves = slope(ratio) * (over - ratio * under) / under.mean()
    if set(over) <= {0.0, 1.0} and set(under) == {1.0}:
        return _Measured(scoring.rate(float(over.sum()), count), _spread(moves), moves, over)
    if count < 2:
        return None
    reach = _student(count) * _spread(moves) / slope(ratio)
    estimate = scoring.estimate(shown(ratio), shown(ratio - reach), shown(ratio + reach), count)
    return _Measured(estimate, _spread(moves), moves, None)


def _difference(tuned: _Measured, base: _Measured) -> Estimate:
    """Tuned minus base, paired by row."""
    count = tuned.estimate.rows
    if tuned.right is not None and base.right is not None:
        better, worse = tuned.right > base.right, tuned.right < base.right
        return scoring.difference(float(better.sum()), float(worse.sum()), count)
    value = tuned.estimate.value - base.estimate.value
    reach = _student(count) * _spread(tuned.moves - base.moves)
    return scoring.estimate(value, value - reach, value + reach, count)


def _spread(moves: NDArray[np.float64]) -> float:
    """The standard error of a mean, as the harness has it; 0 of a single row."""
    return float(moves.std(ddof=1) / math.sqrt(len(moves))) if len(moves) > 1 else 0.0


def _student(count: int) -> float:
    """How many standard errors reach over 95 %: 1.96 of many rows, 12.7 of two."""
    from scipy.special import stdtrit

    return float(stdtrit(count - 1, 0.975))


# --- two models -----------------------------------------------------------------------------------------------------

_Table = dict[str, dict[str, _Measured]]  # task → metric → what was measured


def compare(suite: Suite, results: Mapping[str, TaskResults], identities: Mapping[str, str]) -> Benchmarks:
    """The tuned model beside the base on every task of a suite; StageError where they were not asked the same."""
    tuned, base = results["tuned"], results["base"]
    for model, found in results.items():
        _believe(suite, model, found, identities[model])
    if (tuned.hashes, tuned.harness, tuned.template_hash) != (base.hashes, base.harness, base.template_hash):
        raise StageError(f"the base and the tuned model were not asked the same of the suite {suite.name}; run again")
    missing = dict(base.missing | tuned.missing)
    measured = {model: _measured(model, found, missing) for model, found in results.items()}
    return Benchmarks(
        suite=suite.name,
        suite_digest=suite.digest,
        identity=identities["tuned"],
        base_identity=identities["base"],
        harness=tuned.harness,
        template_hash=tuned.template_hash,
        task_hashes=tuned.hashes,
        versions={name: task.version for name, task in tuned.tasks.items()},
        expected_items={name: task.expected for name, task in tuned.tasks.items()},
        items={name: task.scored for name, task in tuned.tasks.items()},
        scores={model: _scores(results[model], table) for model, table in measured.items()},
        deltas={name: _deltas(metrics, measured["base"][name]) for name, metrics in measured["tuned"].items()},
        missing=dict(sorted(missing.items())),
    )


def _measured(model: str, results: TaskResults, missing: dict[str, str]) -> _Table:
    """Every metric that can be told; the others join the missing."""
    table: _Table = {}
    for name, task in results.tasks.items():
        table[name] = {}
        for metric, rows in task.values.items():
            try:
                found = _measure(metric, rows)
            except OverflowError:
                raise StageError(f"{metric} of the {model} model on {name} is beyond any number: {BROKEN}") from None
            if found is None:
                missing[f"{name}.{metric}"] = "one row tells no spread; add rows"
            else:
                table[name][metric] = found
    return table


def _scores(results: TaskResults, table: _Table) -> dict[str, TaskScore]:
    return {
        name: TaskScore(
            kind=results.tasks[name].kind,
            metrics={metric: found.estimate for metric, found in metrics.items()},
            standard_errors={metric: round(found.standard_error, 6) for metric, found in metrics.items()},
        )
        for name, metrics in table.items()
    }


def _deltas(tuned: dict[str, _Measured], base: dict[str, _Measured]) -> dict[str, Estimate]:
    return {metric: _difference(found, base[metric]) for metric, found in tuned.items() if metric in base}


def _believe(suite: Suite, model: str, results: TaskResults, identity: str) -> None:
    """Raise unless the results are this model's, of this suite, with a finite value for every row of every metric."""
    if (results.suite_digest, results.identity) != (suite.digest, identity):
        raise StageError(f"the benchmark scores of the {model} model are of another suite or model; run evaluate again")
    if results.tasks.keys() != {task.spec.task for task in suite.tasks}:
        raise StageError(
            f"the {model} model was not scored on every task of the suite {suite.name}; run evaluate again"
        )
    for task in suite.tasks:
        name, found = task.spec.task, results.tasks[task.spec.task]
        expected = len(task.items) or found.expected  # the hub says how many rows its tasks have
        unmeasured = {metric for metric in METRICS[task.spec.kind] if f"{name}.{metric}" in results.missing}
        if wanted := set(task.spec.metrics) - found.values.keys() - unmeasured if task.items else set():
            raise StageError(f"the {model} model has no {sorted(wanted)[0]} on {name}, and nothing says why; run again")
        if not found.values and not unmeasured:
            raise StageError(f"the {model} model has no metric at all on {name}; run evaluate again")
        for metric, rows in found.values.items():
            if len(rows) != expected or expected < 1:
                raise StageError(
                    f"{metric} on {name} has {len(rows)} rows of the {model} model where {expected} were to be scored; "
                    f"the harness left some out, so run evaluate again"
                )
            check_finite(model, name, metric, rows)


def check_finite(model: str, task: str, metric: str, rows: Rows) -> None:
    """Raise where a row's value is no number: nothing may be said of such a model."""
    for number, (over, under) in enumerate(rows):
        if not (math.isfinite(over) and math.isfinite(under) and under > 0):
            raise StageError(f"{metric} of the {model} model is not a number in row {number} of {task}: {BROKEN}")
