"""Metrics and their intervals, against values worked out by hand and by plain loops."""

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from slipway.errors import StageError
from slipway.evaluation import confusion, scoring, testset
from slipway.evaluation.predictions import Prediction, Predictions
from slipway.evaluation.testset import Row, TestSet

TRUTH = ["a", "a", "a", "b", "b", None]
GUESS = ["a", "a", "b", "b", None, "a"]


def rows_with(labels: list[str | None]) -> TestSet:
    rows = [Row(f"{i:04}", "[]", "prompt", f"label: {label}", label) for i, label in enumerate(labels)]
    return TestSet(rows, len(rows), "digest", testset.label_reader(r"label: (\w+)", rows))


def predicted(guesses: list[str | None], exact: list[bool] | None = None, loss: float = 2.0) -> Predictions:
    marks = exact or [True] * len(guesses)
    return [Prediction(f"{i:04}", "text", g, e, loss, 4) for i, (g, e) in enumerate(zip(guesses, marks, strict=True))]


def test_metrics_are_what_one_counts_by_hand() -> None:
    tests, exact = rows_with(TRUTH), [True, True, False, True, False, True]
    scores = scoring.score(tests, {"tuned": predicted(GUESS, exact)}, 200, 7)
    found = {name: estimate.value for name, estimate in scores.metrics["tuned"].items()}
    # a: 3 rows, 2 hit, 2 guessed; b: 2 rows, 1 hit, 2 guessed. The row without a label counts in neither.
    expected = {
        "exact_match": 4 / 6, "accuracy": 3 / 5, "loss": 0.5, "perplexity": math.exp(0.5),
        "macro_precision": (1 + 1 / 2) / 2, "macro_recall": (2 / 3 + 1 / 2) / 2, "macro_f1": (4 / 5 + 1 / 2) / 2,
    }  # fmt: skip
    assert found == pytest.approx(expected, abs=1e-6)
    assert scores.metrics["tuned"]["accuracy"].rows == 5
    assert scores.metrics["tuned"]["exact_match"].rows == 6


def test_rows_without_labels_have_no_label_metrics() -> None:
    scores = scoring.score(rows_with([None, None]), {"tuned": predicted([None, None])}, 100, 7)
    assert sorted(scores.metrics["tuned"]) == ["exact_match", "loss", "perplexity"]


def test_wilson_matches_published_values() -> None:
    assert scoring.wilson(81, 263) == pytest.approx((0.2553, 0.3662), abs=1e-4)  # Newcombe 1998, table I
    assert scoring.wilson(15, 148) == pytest.approx((0.0624, 0.1605), abs=1e-4)
    assert scoring.wilson(0, 20) == pytest.approx((0.0, 0.1611), abs=1e-4)
    assert scoring.wilson(20, 20)[1] == 1.0


def test_the_bootstrap_is_the_plain_one_and_seeded() -> None:
    tests = rows_with(["a"] * 50)
    random = np.random.default_rng(1)
    losses = random.exponential(size=50)
    answers = [Prediction(f"{i:04}", "", "a", True, float(x), 1) for i, x in enumerate(losses)]
    found = scoring.score(tests, {"tuned": answers}, 2000, 3).metrics["tuned"]["loss"]
    plain = np.sort([random.choice(losses, 50).mean() for _ in range(2000)])
    assert found.low == pytest.approx(plain[50], abs=0.03)
    assert found.high == pytest.approx(plain[1949], abs=0.03)
    assert found == scoring.score(tests, {"tuned": answers}, 2000, 3).metrics["tuned"]["loss"]


def test_chunks_of_resamples_do_not_change_how_many_there_are(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(scoring, "WEIGHTS_AT_ONCE", 70)
    sums = scoring.resampled([np.ones((10, 1))], 23, 7)
    assert sums[0].shape == (23, 1)
    assert (sums[0] == 10).all()


def test_a_delta_is_paired_so_a_constant_gain_has_no_spread() -> None:
    tests = rows_with(["a"] * 40)
    random = np.random.default_rng(5)
    base = [Prediction(f"{i:04}", "", "a", True, float(x), 1) for i, x in enumerate(random.exponential(size=40))]
    tuned = [Prediction(p.id, "", "a", True, p.loss - 0.5, 1) for p in base]
    delta = scoring.score(tests, {"tuned": tuned, "base": base}, 500, 7).deltas["base"]["loss"]
    assert (delta.value, delta.low, delta.high) == pytest.approx((-0.5, -0.5, -0.5), abs=2e-6)


truths, guesses = st.sampled_from("abc"), st.sampled_from(["a", "b", "c", "zzz", None])


@given(st.lists(st.tuples(truths, guesses), min_size=1, max_size=30))
def test_every_estimate_is_finite_ordered_and_no_minus_zero(pairs: list[tuple[str, str | None]]) -> None:
    tests, answers = rows_with([t for t, _ in pairs]), predicted([g for _, g in pairs])
    scores = scoring.score(tests, {"tuned": answers, "base": answers}, 100, 7)
    estimates = [e for found in (*scores.metrics.values(), *scores.deltas.values()) for e in found.values()]
    assert len(estimates) == 21
    for e in estimates:
        assert e.low <= e.value <= e.high
        assert all(math.isfinite(x) and math.copysign(1, x) > 0 for x in (e.low, e.value, e.high) if x == 0)


@pytest.mark.parametrize("loss", [math.nan, math.inf, 1e308])
def test_a_broken_models_loss_is_an_error_that_names_the_row(loss: float) -> None:
    with pytest.raises(StageError, match="tuned model's loss on test row 0000"):
        scoring.score(rows_with(["a"]), {"tuned": predicted(["a"], loss=loss)}, 100, 7)


def test_confusion_counts_every_labelled_row_once() -> None:
    tests = rows_with(TRUTH)
    assert confusion.counts(tests, predicted(GUESS)) == [[2, 1, 0], [0, 1, 1]]


def test_without_a_pattern_a_label_is_that_of_the_row_with_this_answer() -> None:
    rows = [Row("1", "[]", "", "Pay here", "billing"), Row("2", "[]", "", "Reset it", "login")]
    label_of = testset.label_reader(None, rows)
    assert [label_of(text) for text in ("Pay here", " Reset it\n", "Pay")] == ["billing", "login", None]
