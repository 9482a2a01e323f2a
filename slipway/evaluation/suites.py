"""Benchmarks: what the model could do before tuning, and whether it still can.

suite = load(Path("configs/evals/smoke"))
results = {model.name: score(suite, model, threads) for model in models}
benchmarks = compare(suite, results, identities)
"""

from slipway.evaluation import sandbox
from slipway.evaluation.inference import Model, Question
from slipway.evaluation.suite_engine import score
from slipway.evaluation.suite_files import Suite, load
from slipway.evaluation.suite_results import TaskResults, compare

__all__ = ["Suite", "TaskResults", "compare", "load", "question", "score"]


def question(suite: Suite, batch_size: int, threads: int) -> Question:
    """How does a model do on a suite? Asked again once generated code can run, where it could not before."""
    codes = any(task.spec.kind == "code" for task in suite.tasks)

    def ask(model: Model) -> object:
        return score(suite, model, threads).model_dump(mode="json")

    facts = {"suite": suite.digest, "batch_size": batch_size, "threads": threads}
    return Question("benchmarks", facts | {"code": codes and sandbox.unusable() is None}, ask)
