"""The judge: nothing doubtful ever passes, and a better metric never makes a verdict worse."""

import math
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from slipway.governance import vocabulary
from slipway.governance.judge import WORST_FIRST, Agreement, Evidence, Measure, apply, judge
from slipway.governance.policy import Policy, Rule

WORDS = {"why": "because", "remedy": "Do better.", "owner": "model"}


def rule(**keys: Any) -> Rule:
    given = {"id": "r", "metric": "tuned.exact_match", "at_least": 0.9, "severity": "block"} | WORDS | keys
    return Rule.model_validate({key: value for key, value in given.items() if value is not None})


LOSS = rule(metric="delta.base.loss", at_least=None, at_most=0.0)
EXACT = rule()
DELTA = rule(metric="delta.champion.exact_match", at_least=0.0)


def test_a_rule_that_holds_passes_with_its_margin() -> None:
    finding = apply(rule(use="low", minimum_rows=100), Measure(0.95, 0.913, 0.97, 400))
    assert finding.verdict == "pass"
    assert finding.margin == pytest.approx(0.013)
    assert "inside by 1.3 points" in finding.reason


def test_a_miss_says_by_how_much_and_what_to_do() -> None:
    finding = apply(rule(use="low"), Measure(0.912, 0.887, 0.93, 400))
    assert finding.verdict == "refuse"
    assert "misses by 1.3 points" in finding.reason
    assert finding.remedy == "Do better. (owner: model)"


@pytest.mark.parametrize("of", [EXACT, DELTA, LOSS], ids=["rate", "delta", "loss"])
@pytest.mark.parametrize(
    "value",
    [math.nan, math.inf, -math.inf, -0.0, 1e308, -1e308, 10**400, "0.9", "-1", None, True, [1.0], {}, b"1"],
    ids=repr,
)
def test_case_E5_no_malformed_metric_passes(of: Rule, value: object) -> None:
    assert apply(of, Measure(value, value, value, 400)).verdict != "pass"


def test_case_E5_a_missing_metric_is_undecided() -> None:
    assert apply(EXACT, None).verdict == "undecided"
    assert judge(Evidence("id", {}, {}), Policy(rules=[EXACT]), "p").verdict == "undecided"


@pytest.mark.parametrize(
    "measure",
    [
        Measure(0.95, math.nan, 0.97, 400),
        Measure(0.95, None, 0.97, 400),
        Measure(0.95, 0.96, 0.97, 400),
        Measure(0.95, 0.97, 0.91, 400),
        Measure(0.95, "0.94", 0.97, 400),
        Measure(0.95, 0.94, 0.97, 99),
        Measure(0.95, 0.94, 0.97, None),
        Measure(0.95, 0.94, 0.97, True),
        Measure(0.95, 0.94, 0.97, 400.0),
    ],
    ids=repr,
)
def test_a_doubtful_interval_or_too_few_rows_is_undecided(measure: Measure) -> None:
    assert apply(rule(use="low", minimum_rows=100), measure).verdict == "undecided"


@pytest.mark.parametrize(
    ("keys", "complaint"),
    [
        ({"metric": "tuned.loss"}, "better when lower"),
        ({"at_least": None, "at_most": 0.9}, "better when higher"),
        ({"metric": "validation.passed"}, "yes or no"),
        ({"use": "high"}, "flattering end"),
    ],
)
def test_case_E5_a_rule_in_the_wrong_direction_is_refused(keys: dict[str, Any], complaint: str) -> None:
    with pytest.raises(ValueError, match=complaint):
        rule(**keys)


def test_only_yes_and_no_answer_a_flag() -> None:
    passed = rule(metric="validation.passed", at_least=None, equals=True)
    verdicts = {repr(value): apply(passed, Measure(value)).verdict for value in (True, False, 1, "true", None)}
    assert verdicts == {"True": "pass", "False": "refuse", "1": "undecided", "'true'": "undecided", "None": "undecided"}


def test_the_worst_blocking_finding_wins_and_advice_never_blocks() -> None:
    advice = rule(id="advice", severity="advise", at_least=1.0)
    for value, missing, expected in ((0.95, False, "pass"), (0.95, True, "undecided"), (0.5, True, "refuse")):
        rules = [EXACT, advice, *([rule(id="gone", metric="tuned.accuracy")] if missing else [])]
        evidence = Evidence("id", {}, {"tuned.exact_match": Measure(value)})
        assert judge(evidence, Policy(rules=rules), "p").verdict == expected


def test_evidence_that_disagrees_with_itself_is_refused_naming_both() -> None:
    agreements = (Agreement("evidence-model", "the model's identity", "aaa", "bbb", "Run evaluate again."),)
    evidence = Evidence("aaa", {"scorecard.json": "1"}, {"tuned.exact_match": Measure(1.0)}, agreements)
    decision = judge(evidence, Policy(rules=[EXACT]), "p")
    assert decision.verdict == "refuse"
    assert "aaa" in decision.summary
    assert "bbb" in decision.summary


anything = st.one_of(st.none(), st.booleans(), st.text(), st.integers(), st.floats(), st.lists(st.floats()))


@given(anything, anything, anything, anything)
def test_whatever_comes_in_only_a_proven_metric_passes(value: object, low: object, high: object, rows: object) -> None:
    finding = apply(rule(use="low", minimum_rows=100), Measure(value, low, high, rows))
    if finding.verdict == "pass":
        numbers = [value, low, high]
        assert all(type(n) in (int, float) and 0 <= n <= 1 for n in numbers)  # type: ignore[operator]
        assert 0.9 <= low <= value <= high  # type: ignore[operator]
        assert type(rows) is int
        assert rows >= 100


@given(st.floats(0, 1), st.floats(0, 1), st.sampled_from(["tuned.exact_match", "prepared.drop_rate"]))
def test_a_better_metric_never_worsens_the_verdict(first: float, second: float, metric: str) -> None:
    higher = vocabulary.find(metric).better == "higher"  # type: ignore[union-attr]
    of = rule(metric=metric) if higher else rule(metric=metric, at_least=None, at_most=0.2)
    worse, better = sorted((abs(first), abs(second)), reverse=not higher)
    verdicts = [WORST_FIRST.index(apply(of, Measure(value)).verdict) for value in (worse, better)]
    assert verdicts[0] <= verdicts[1]
