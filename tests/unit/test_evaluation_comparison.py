"""Pairs of models: McNemar and Holm against published values, slices that hide nothing, formats that cannot hang."""

import math
import time
from itertools import pairwise
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given
from hypothesis import strategies as st

from slipway.errors import StageError, UsageError
from slipway.evaluation import answer_format, comparison, scoring, slices
from slipway.evaluation.predictions import Answer, Prediction, Predictions, of_answers
from slipway.evaluation.testset import Row, TestSet


def marks(right: list[bool]) -> Predictions:
    return [Prediction(f"{i:04}", "", None, exact, True, 1.0, 1) for i, exact in enumerate(right)]


def test_mcnemar_matches_a_published_value() -> None:
    # Fagerland, Lydersen and Laake 2013: 21 pairs, 1 against 7; the exact conditional p is 0.070.
    assert comparison.two_sided(1, 7) == 2 * (1 + 8) / 2**8 == pytest.approx(0.070, abs=5e-4)
    assert comparison.two_sided(7, 1) == comparison.two_sided(1, 7)
    assert comparison.two_sided(0, 0) == comparison.two_sided(5, 5) == 1.0


@given(st.integers(0, 60), st.integers(0, 60))
def test_the_one_sided_test_is_the_binomial_tail(gains: int, losses: int) -> None:
    n = gains + losses
    expected = sum(math.comb(n, k) for k in range(gains + 1)) / 2**n
    assert comparison.one_sided(gains, losses) == pytest.approx(expected, rel=1e-12)


def test_many_rows_are_no_trouble() -> None:
    began = time.monotonic()
    assert comparison.two_sided(9_900, 10_100) == pytest.approx(math.erfc(199 / math.sqrt(2 * 20_000)), rel=1e-3)
    assert comparison.two_sided(0, 5_000) == 0.0
    assert time.monotonic() - began < 5


def test_a_comparison_counts_every_row_once() -> None:
    tuned, other = marks([True, True, False, False, True]), marks([True, False, True, False, False])
    found = comparison.compare(tuned, other)
    assert (found.both, found.only_tuned, found.only_other, found.neither) == (1, 2, 1, 1)
    assert found.p_value == 1.0


def test_holm_matches_a_worked_example() -> None:
    assert comparison.holm([0.01, 0.04, 0.03, 0.005]) == pytest.approx([0.03, 0.06, 0.06, 0.02])  # Holm 1979's steps
    assert comparison.holm([]) == []


@given(st.lists(st.floats(0, 1), min_size=1, max_size=12))
def test_holm_never_lowers_a_p_value_and_keeps_their_order(p_values: list[float]) -> None:
    adjusted = comparison.holm(p_values)
    assert all(p <= surer <= 1.0 for p, surer in zip(p_values, adjusted, strict=True))
    ranked = [surer for _, surer in sorted(zip(p_values, adjusted, strict=True))]
    assert all(a <= b for a, b in pairwise(ranked))


def asked(prompts: list[str]) -> TestSet:
    rows = [Row(f"{i:04}", "[]", prompt, "yes", None) for i, prompt in enumerate(prompts)]
    return TestSet(rows, len(rows), "digest", lambda _: None)


def test_a_model_that_fails_one_label_is_worse_there_alone() -> None:
    by = {"label": ["a"] * 100 + ["b"] * 30 + ["c"] * 4}
    tuned = marks([True] * 100 + [False] * 12 + [True] * 18 + [False] * 4)
    champion = marks([True] * 134)
    found = slices.compare(by, tuned, champion)
    assert [(s.value, s.rows, s.worse) for s in found] == [("b", 30, True), ("a", 100, False)]  # c has too few rows
    worst = found[0]
    assert (worst.p_value, worst.adjusted_p) == pytest.approx((0.5**12, 2 * 0.5**12), abs=1e-6)
    assert (worst.delta.value, worst.tuned.value) == (-0.4, 0.6)
    assert (worst.delta.low, worst.delta.high) == pytest.approx(scoring.tango(0, 12, 30), abs=1e-6)
    assert slices.compare(by, champion, tuned)[0].worse is False


def test_rare_values_are_compared_together_so_that_nothing_hides_among_them() -> None:
    """Forty wrong rows under forty labels of their own; each alone would be too few rows to look at."""
    labels = ["common"] * 100 + [f"rare {n}" for n in range(40)]
    found = slices.compare({"label": labels}, marks([True] * 100 + [False] * 40), marks([True] * 140))
    assert [(one.value, one.rows, one.worse) for one in found] == [("(rarer ones)", 40, True), ("common", 100, False)]


def test_a_slice_has_five_rows_and_a_row_makes_no_verdict() -> None:
    labels = ["a"] * 100 + ["b"] * 5 + ["c"] * 4
    found = slices.compare({"label": labels}, marks([True] * 100 + [False] * 9), marks([True] * 109))
    assert [(one.value, one.rows) for one in found] == [("b", 5), ("a", 100)]
    assert slices.compare({"id": ["only"]}, marks([False]), marks([True])) == []


def test_a_value_may_be_called_what_rare_ones_are() -> None:
    labels = ["(rarer ones)"] * 20 + [f"rare {n}" for n in range(20)]
    right = marks([True] * 40)
    assert {(one.value, one.rows) for one in slices.compare({"label": labels}, right, right)} == {
        ("(rarer ones)", 20), ("((rarer ones))", 20),
    }  # fmt: skip
    alone = slices.compare({"label": ["(rarer ones)"] * 2 + ["x"] * 3}, marks([True] * 5), marks([True] * 5))
    assert [(one.value, one.rows) for one in alone] == [("(rarer ones)", 5)]


def test_bad_luck_in_one_of_many_slices_is_no_finding() -> None:
    """A loss of 5 rows to none has p = 0.03: telling on its own, and nothing among forty."""
    values = [f"{i:02}" for i in range(40) for _ in range(20)]
    unlucky = marks([False] * 5 + [True] * 795)
    alone = slices.compare({"kind": ["only"] * 800}, unlucky, marks([True] * 800))
    assert (alone[0].p_value, alone[0].worse) == (0.03125, True)
    among = slices.compare({"kind": values}, unlucky, marks([True] * 800))
    assert len(among) == 40
    assert not any(s.worse for s in among)
    assert among[0].value == "00"  # still shown first


def test_no_slice_is_hidden_however_many_there_are() -> None:
    values = [f"{i:04}" for i in range(1500) for _ in range(10)]
    right = [True] * 14_990 + [False] * 10
    found = slices.compare({"kind": values, "all": ["one"] * 15_000}, marks(right), marks([True] * 15_000))
    assert len(found) == 1501
    assert (found[0].value, found[0].worse) == ("1499", False)  # p = 0.001 among 1,501
    assert found[1].value == "one"


def test_lengths_are_quarters_named_by_their_bounds() -> None:
    names = slices.lengths(asked(["x" * n for n in range(1, 101)]))
    assert sorted(set(names), key=lambda name: int(name.split("–")[0])) == [
        "1–25 characters", "26–50 characters", "51–75 characters", "76–100 characters",
    ]  # fmt: skip
    assert len(set(slices.lengths(asked(["same"] * 20)))) == 1


def test_any_column_can_be_sliced_by_and_an_unknown_one_is_one_line(tmp_path: Path) -> None:
    tests = asked(["a", "b", "c"])
    rows = [
        {"id": row.id, "tier": tier, "note": "x" * 99 + row.id}
        for row, tier in zip(tests.rows, (1, None, 2), strict=True)
    ]
    (tmp_path / "rows").mkdir()
    pq.write_table(pa.Table.from_pylist(rows[::-1]), tmp_path / "rows" / "test.parquet")
    found = slices.values(tmp_path, tests, ["tier", "note", "length", "id"])
    assert found["tier"] == ["1", "(none)", "2"]
    assert len(set(found["note"])) == 3
    assert max(map(len, found["note"])) <= 80
    assert found["id"] == ["0000", "0001", "0002"]
    with pytest.raises(
        StageError, match=r"names 'team', which is no column of .*the columns are length, id, tier, note$"
    ):
        slices.values(tmp_path, tests, ["tier", "team"])
    assert slices.values(tmp_path, tests, []) == {}


# --- format -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("format", "answer", "fits"),
    [
        ("any", " a ", True), ("any", " \n", False), ("any", "", False),
        ("json", ' {"a": [1, 2.5, null]}\n', True), ("json", '"text"', True), ("json", "{a: 1}", False),
        ("json", '{"a": 1} and more', False), ("json", "", False), ("json", "NaN", False), ("json", "[1e999]", False),
        ("json", '{"a": 1, "a": 2}', False), ("json", "[" * 100_000, False), ("json", "9" * 5000, False),
        ("yes|no", " yes\n", True), ("yes|no", "yes, no", False), ("yes|no", "yesno", False),
        (r"(?s)^intent: \S+\nreply: .+", "intent: x\nreply: two\nlines", True),
        (r"(?s)^intent: \S+\nreply: .+", "So: intent: x\nreply: y", False), ("é+", "éé", True),
    ],
)  # fmt: skip
def test_an_answer_has_the_format_or_not(format: str, answer: str, fits: bool) -> None:
    assert answer_format.check(format, [answer]) == [fits]


def test_the_answers_keep_their_order() -> None:
    answers = [str(i) for i in range(300)]
    assert answer_format.check(r"\d*[05]", answers) == [i % 5 == 0 for i in range(300)]
    assert answer_format.check(r"\d+", []) == []


def test_a_pattern_that_never_ends_is_an_error_at_its_deadline() -> None:
    began = time.monotonic()
    with pytest.raises(StageError, match=r"is not done with 1 answers after 0\.5 seconds.*rewrite it") as error:
        answer_format.check("(a+)+b", ["a" * 60], seconds=0.5)
    assert time.monotonic() - began < 5
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("pattern", ["(", "[z-a]", "a{99999999999}", "(?P<x>a)(?P<x>b)", "(" * 5000 + ")" * 5000])
def test_what_is_no_pattern_is_one_line(pattern: str) -> None:
    with pytest.raises(UsageError, match=r"evaluate\.format is .* which is no pattern") as error:
        answer_format.check(pattern, ["a"])
    assert "\n" not in str(error.value)


def test_validity_is_read_from_the_answer_alone() -> None:
    tests = asked(["a", "b"])
    answers = [Answer("0000", "yes", 1.0, 1), Answer("0001", "maybe", 1.0, 1)]
    found = of_answers(tests, answers, "yes|no")
    assert [(p.exact, p.valid) for p in found] == [(True, True), (False, False)]
    scores = scoring.score(tests, {"tuned": found, "base": found[:1] + found[:1]}, 100, 7)
    assert scores.metrics["tuned"]["format_validity"] == scoring.rate(1, 2)
    assert scores.deltas["base"]["format_validity"] == scoring.difference(0, 1, 2)
