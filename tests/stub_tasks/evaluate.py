"""Evaluate (stub)."""

from slipway import digest
from slipway.artifacts import Benchmarks, ChampionPin, Estimate, Safety, Scorecard
from slipway.params import EvaluateParams
from tasks import _faults
from tasks._stage import Input, Memory, Metrics, Output, stage


@stage(retries=2)
def evaluate(
    params: EvaluateParams, base: Input, adapter: Input, prepared: Input, champion: Input, suite: Input, probes: Input,
    scorecard: Output, predictions: Output, confusion: Output, benchmarks: Output, safety: Output, memory: Memory,
) -> Metrics:  # fmt: skip
    _faults.act("evaluate", scorecard)
    predictions.write_bytes(b"rows")
    confusion.write_text("actual,predicted\na,a\n")
    sure = Estimate(value=1.0, low=0.99, high=1.0, rows=400)
    Scorecard(
        identity=digest.of_path(adapter), base_identity=digest.of_path(base), champion=ChampionPin.load(champion),
        items=400, expected_items=400, test_digest="0", predictions_sha256="0",
        metrics={"tuned": {"exact_match": sure}, "base": {"exact_match": sure}}, deltas={"base": {"exact_match": sure}},
        comparisons={}, slices=[], labels=["a"], confusion=[[1, 0]],
    ).save(scorecard)  # fmt: skip
    who = {"identity": digest.of_path(adapter), "base_identity": digest.of_path(base)}
    Benchmarks(
        **who, suite=suite.name, suite_digest=digest.of_path(suite), harness="0", template_hash=None, task_hashes={},
        versions={}, expected_items={}, items={}, scores={}, deltas={}, missing={},
    ).save(benchmarks)  # fmt: skip
    Safety(
        **who, probes_digest=digest.of_file(probes), items={}, expected_items={}, rates={}, deltas={}, probes=[]
    ).save(safety)
    (memory / "seen").write_text("once")
    return {"exact_match": 1.0}
