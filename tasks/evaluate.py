"""Score the tuned model on the test set, beside the base and the pinned champion."""

import json

from slipway import digest
from slipway.artifacts import ChampionPin, Manifest, Scorecard
from slipway.evaluation import comparison, inference, scoring, slices, suites, testset
from slipway.evaluation import confusion as confusions
from slipway.evaluation import memory as memories
from slipway.evaluation import predictions as tables
from slipway.evaluation import safety as behaviour
from slipway.identity import identity
from slipway.params import EvaluateParams
from tasks._stage import Input, Memory, Metrics, Output, stage


@stage(retries=2)
def evaluate(
    params: EvaluateParams,
    base: Input,
    adapter: Input,
    prepared: Input,
    champion: Input,
    suite: Input,
    probes: Input,
    scorecard: Output,
    predictions: Output,
    confusion: Output,
    benchmarks: Output,
    safety: Output,
    memory: Memory,
) -> Metrics:
    about_adapter = [Manifest.verified(folder) for folder in (base, prepared, adapter)][-1]
    who = {"base": identity(base, None), "tuned": identity(base, adapter)}
    tests = testset.load(prepared, params.max_rows)
    by = slices.values(prepared, tests, params.slices)
    exam, provocations = suites.load(suite), behaviour.load(probes)
    answering = inference.question(tests, params)
    questions = [
        answering,
        suites.question(exam, params.batch_size, params.threads),
        behaviour.question(provocations, base, params),
    ]
    notebook = memories.Notebook(memory, memories.surroundings())
    pin = ChampionPin.load(champion)
    others = {}
    if pin.kind == "version":
        remembered = notebook.recall(answering, pin.identity or "")
        others["champion"] = tables.of_champion(pin, champion.with_suffix(".parquet"), tests, remembered)

    memories.look(memory, tests.digest, who["tuned"])
    full = about_adapter.facts["method"] == "full"
    found = notebook.gather(questions, who, lambda names: inference.models(base, adapter, full, who, params, names))
    said = {model: tables.of_json(about["answers"]) for model, about in found.items()} | others
    models = {model: tables.of_answers(tests, answers, params.format) for model, answers in said.items()}
    results = {m: suites.TaskResults.model_validate_json(json.dumps(about["benchmarks"])) for m, about in found.items()}
    suites.compare(exam, results, who).save(benchmarks)
    behaviour.judge(provocations, {model: about["safety"] for model, about in found.items()}, who).save(safety)

    tables.write(predictions, tests, models)
    confusions.write(confusion, tests, models["tuned"])
    compared = {"champion": models["base"], **models}
    scores = scoring.score(tests, compared, params.bootstrap_resamples, params.seed)
    Scorecard(
        identity=who["tuned"],
        base_identity=who["base"],
        champion=pin,
        items=len(models["tuned"]),
        expected_items=tests.expected,
        test_digest=tests.digest,
        predictions_sha256=digest.of_file(predictions),
        metrics=scores.metrics,
        deltas=scores.deltas,
        comparisons={other: comparison.compare(models["tuned"], compared[other]) for other in ("base", "champion")},
        slices=slices.compare(by, models["tuned"], compared["champion"]),
        labels=tests.labels,
        confusion=confusions.counts(tests, models["tuned"]),
    ).save(scorecard)
    return scores.headline
