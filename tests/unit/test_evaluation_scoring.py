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
    """The first of four answers has not the format."""
    marks = exact or [True] * len(guesses)
    pairs = enumerate(zip(guesses, marks, strict=True))
    return [Prediction(f"{i:04}", "text", g, e, i % 4 > 0, loss, 4) for i, (g, e) in pairs]


def test_metrics_are_what_one_counts_by_hand() -> None:
    tests, exact = rows_with(TRUTH), [True, True, False, True, False, True]
    scores = scoring.score(tests, {"tuned": predicted(GUESS, exact)}, 200, 7)
    found = {name: estimate.value for name, estimate in scores.metrics["tuned"].items()}
    # a: 3 rows, 2 hit, 2 guessed; b: 2 rows, 1 hit, 2 guessed. The row without a label counts in neither.
    expected = {
        "exact_match": 4 / 6, "format_validity": 4 / 6, "accuracy": 3 / 5, "loss": 0.5, "perplexity": math.exp(0.5),
        "macro_precision": (1 + 1 / 2) / 2, "macro_recall": (2 / 3 + 1 / 2) / 2, "macro_f1": (4 / 5 + 1 / 2) / 2,
    }  # fmt: skip
    assert found == pytest.approx(expected, abs=1e-6)
    assert scores.metrics["tuned"]["accuracy"].rows == 5
    assert scores.metrics["tuned"]["exact_match"].rows == 6


def test_rows_without_labels_have_no_label_metrics() -> None:
    scores = scoring.score(rows_with([None, None]), {"tuned": predicted([None, None])}, 100, 7)
    assert sorted(scores.metrics["tuned"]) == ["exact_match", "format_validity", "loss", "perplexity"]


def test_wilson_matches_published_values() -> None:
    assert scoring.wilson(81, 263) == pytest.approx((0.2553, 0.3662), abs=1e-4)  # Newcombe 1998, table I
    assert scoring.wilson(15, 148) == pytest.approx((0.0624, 0.1605), abs=1e-4)
    assert scoring.wilson(0, 20) == pytest.approx((0.0, 0.1611), abs=1e-4)
    assert scoring.wilson(20, 20)[1] == 1.0


def test_tango_matches_published_values() -> None:
    assert scoring.tango(1, 7, 21) == pytest.approx((-0.517, -0.026), abs=5e-4)  # Fagerland et al. 2014
    assert scoring.tango(86, 150, 1600) == pytest.approx((-0.059, -0.021), abs=5e-4)  # Agresti and Min 2005


@pytest.mark.parametrize(("gains", "losses", "total"), [(1, 7, 21), (0, 3, 40), (12, 5, 60), (0, 0, 30), (9, 0, 9)])
def test_tango_is_where_the_restricted_likelihood_puts_it(gains: int, losses: int, total: int) -> None:
    """The same interval by brute force: at each delta the likeliest cell on a grid, then the score test."""
    inside, same = [], total - gains - losses
    for delta in np.linspace(-0.999, 0.999, 1999):
        lost = np.linspace(max(0.0, -delta), (1 - delta) / 2, 20_001)
        cells = np.maximum([lost + delta, lost, 1 - 2 * lost - delta], 0.0)
        with np.errstate(divide="ignore"):
            terms = [k * np.log(p) for k, p in zip((gains, losses, same), cells, strict=True) if k]
        q = lost[int(np.argmax(sum(terms)))]
        if abs(gains - losses - total * delta) <= scoring.Z95 * math.sqrt(total * max(2 * q + delta - delta**2, 0.0)):
            inside.append(delta)
    assert scoring.tango(gains, losses, total) == pytest.approx((min(inside), max(inside)), abs=2e-3)


def test_two_models_that_always_agree_may_still_differ() -> None:
    reach = scoring.Z95**2 / (100 + scoring.Z95**2)  # 3.7 points
    assert scoring.tango(0, 0, 100) == pytest.approx((-reach, reach), abs=1e-9)
    assert scoring.tango(100, 0, 100) == pytest.approx((1 - 2 * reach, 1.0), abs=1e-3)
    assert scoring.tango(0, 100, 100) == pytest.approx((-1.0, 2 * reach - 1), abs=1e-3)
    answers = predicted(["a", "b"] * 50)
    tests = rows_with(["a", "b"] * 50)
    deltas = scoring.score(tests, {"tuned": answers, "champion": answers}, 100, 7).deltas["champion"]
    rates = ["exact_match", "accuracy", "macro_precision", "macro_recall", "macro_f1"]
    found = {name: (deltas[name].low, deltas[name].high) for name in rates}
    assert found == {name: pytest.approx((-reach, reach), abs=1e-6) for name in rates}


def test_macro_scores_are_never_surer_than_accuracy() -> None:
    right = scoring.score(rows_with(["a", "b"] * 10), {"tuned": predicted(["a", "b"] * 10)}, 100, 7).metrics["tuned"]
    assert (right["macro_f1"].value, right["macro_f1"].high) == (1.0, 1.0)
    assert right["macro_f1"].low == right["accuracy"].low == pytest.approx(0.8389, abs=1e-4)


def test_losses_over_other_tokens_have_no_delta() -> None:
    tests, tuned = rows_with(["a", "b"]), predicted(["a", "b"])
    champion = [*tuned[:1], Prediction("0001", "text", "b", True, True, 2.0, 5)]
    deltas = scoring.score(tests, {"tuned": tuned, "base": tuned, "champion": champion}, 100, 7).deltas
    assert deltas["base"].keys() - deltas["champion"].keys() == {"loss", "perplexity"}


def test_the_bootstrap_is_the_plain_one_and_seeded() -> None:
    tests = rows_with(["a"] * 50)
    random = np.random.default_rng(1)
    losses = random.exponential(size=50)
    answers = [Prediction(f"{i:04}", "", "a", True, True, float(x), 1) for i, x in enumerate(losses)]
    found = scoring.score(tests, {"tuned": answers}, 2000, 3).metrics["tuned"]["loss"]
    plain = np.sort([random.choice(losses, 50).mean() for _ in range(2000)])
    assert found.low == pytest.approx(plain[50], abs=0.03)
    assert found.high == pytest.approx(plain[1949], abs=0.03)
    assert found == scoring.score(tests, {"tuned": answers}, 2000, 3).metrics["tuned"]["loss"]


def test_chunks_of_resamples_do_not_change_how_many_there_are(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(scoring, "WEIGHTS_AT_ONCE", 70)
    sums = scoring.resampled([np.ones((10, 1))], scoring.resamples_of(10, 23, 7))
    assert sums[0].shape == (23, 1)
    assert (sums[0] == 10).all()


def test_a_delta_is_paired_so_a_constant_gain_has_no_spread() -> None:
    tests = rows_with(["a"] * 40)
    random = np.random.default_rng(5)
    base = [Prediction(f"{i:04}", "", "a", True, True, float(x), 1) for i, x in enumerate(random.exponential(size=40))]
    tuned = [Prediction(p.id, "", "a", True, True, p.loss - 0.5, 1) for p in base]
    delta = scoring.score(tests, {"tuned": tuned, "base": base}, 500, 7).deltas["base"]["loss"]
    assert (delta.value, delta.low, delta.high) == pytest.approx((-0.5, -0.5, -0.5), abs=2e-6)


truths, guesses = st.sampled_from("abc"), st.sampled_from(["a", "b", "c", "zzz", None])


@given(st.lists(st.tuples(truths, guesses), min_size=1, max_size=30))
def test_every_estimate_is_finite_ordered_and_no_minus_zero(pairs: list[tuple[str, str | None]]) -> None:
    tests, answers = rows_with([t for t, _ in pairs]), predicted([g for _, g in pairs])
    scores = scoring.score(tests, {"tuned": answers, "base": answers}, 100, 7)
    estimates = [e for found in (*scores.metrics.values(), *scores.deltas.values()) for e in found.values()]
    assert len(estimates) == 24
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


SHIPPED = r"(?m)^intent: *(\S+)"


def test_a_pattern_that_fits_no_answer_leaves_the_word_to_the_rows(capsys: pytest.CaptureFixture[str]) -> None:
    rows = [Row("1", "[]", "", "Pay here", "billing"), Row("2", "[]", "", "Reset it", "login")]
    label_of = testset.label_reader(SHIPPED, rows)
    assert [label_of(row.answer) for row in rows] == ["billing", "login"]
    assert label_of("intent: refund") is None
    assert capsys.readouterr().out == ""


def test_a_pattern_that_contradicts_the_rows_is_left_aside_and_said(capsys: pytest.CaptureFixture[str]) -> None:
    rows = [Row("1", "[]", "", "intent: a", "billing"), Row("2", "[]", "", "intent: b", "login")]
    label_of = testset.label_reader(SHIPPED, rows)
    assert [label_of(text) for text in ("intent: a", "intent: b", "intent: c")] == ["billing", "login", None]
    said = capsys.readouterr().out
    assert "reads 'a' in the wanted answer of test row 1, whose label is 'billing'" in said
    assert said.count("\n") == 1


def test_a_pattern_that_fits_reads_answers_that_no_row_has() -> None:
    rows = [Row("1", "[]", "", "intent: a\nmore", "a"), Row("2", "[]", "", "in words", "b")]
    label_of = testset.label_reader(SHIPPED, rows)
    assert [label_of(text) for text in ("intent: a\nelse", "in words", "intent: b")] == ["a", "b", "b"]


def test_one_answer_with_two_labels_says_neither() -> None:
    rows = [Row("1", "[]", "", "yes", "billing"), Row("2", "[]", "", "yes", "login")]
    assert testset.label_reader(None, rows)("yes") is None


def test_without_a_pattern_a_label_is_that_of_the_row_with_this_answer() -> None:
    rows = [Row("1", "[]", "", "Pay here", "billing"), Row("2", "[]", "", "Reset it", "login")]
    label_of = testset.label_reader(None, rows)
    assert [label_of(text) for text in ("Pay here", " Reset it\n", "Pay")] == ["billing", "login", None]
