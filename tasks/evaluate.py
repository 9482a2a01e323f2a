"""Score the tuned model on the test set, beside the base and the pinned champion."""

from slipway import digest
from slipway.artifacts import ChampionPin, Manifest, Scorecard
from slipway.evaluation import confusion as confusions
from slipway.evaluation import inference, scoring, testset
from slipway.evaluation import predictions as tables
from slipway.identity import identity
from slipway.params import EvaluateParams
from tasks._stage import Input, Metrics, Output, stage


@stage(retries=2)
def evaluate(
    params: EvaluateParams,
    base: Input,
    adapter: Input,
    prepared: Input,
    champion: Input,
    scorecard: Output,
    predictions: Output,
    confusion: Output,
) -> Metrics:
    about_adapter = [Manifest.verified(folder) for folder in (base, prepared, adapter)][-1]
    tests = testset.load(prepared, params.max_rows)
    pin = ChampionPin.load(champion)
    pinned = tables.of_champion(pin, champion.with_suffix(".parquet"), tests) if pin.kind == "version" else None
    models = inference.predict_both(base, adapter, about_adapter.facts["method"] == "full", tests, params)
    kept = models | ({"champion": pinned} if pinned else {})
    tables.write(predictions, tests, kept)
    confusions.write(confusion, tests, models["tuned"])

    compared = models | {"champion": pinned or models["base"]}
    scores = scoring.score(tests, compared, params.bootstrap_resamples, params.seed)
    Scorecard(
        identity=identity(base, adapter),
        base_identity=identity(base, None),
        champion=pin,
        items=len(models["tuned"]),
        expected_items=tests.expected,
        test_digest=tests.digest,
        predictions_sha256=digest.of_file(predictions),
        metrics=scores.metrics,
        deltas=scores.deltas,
        labels=tests.labels,
        confusion=confusions.counts(tests, models["tuned"]),
    ).save(scorecard)
    return scores.headline
