"""The planner and the gate never disagree: both ask the same intervals."""

import json
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from slipway.cli import main
from slipway.evaluation import scoring
from slipway.governance import power
from slipway.governance.judge import apply
from slipway.governance.measures import Measure
from slipway.governance.policy import Policy

REPO = Path(__file__).parents[2]
POLICY = REPO / "configs" / "policies" / "gates.yaml"


@given(st.integers(1, 3000), st.data())
@settings(max_examples=300, deadline=None)
def test_a_margin_is_shown_exactly_where_the_scorecards_interval_shows_it(rows: int, data: st.DataObject) -> None:
    gains = data.draw(st.integers(0, min(rows, 60)))
    losses = data.draw(st.integers(0, min(rows - gains, 60)))
    margin = data.draw(st.sampled_from([0.005, 0.01, 0.02, 0.05, 0.1]))
    assert power.shown(gains, losses, rows, margin) == (scoring.difference(gains, losses, rows).low >= -margin)


def test_200_rows_cannot_decide_a_2_point_margin() -> None:
    plan = power.of_margin(0.02, 0.0785, 200)
    assert plan.sentence == (
        "200 rows cannot decide a margin of 2 points where 7.85 % of the rows tell the models apart; 1,582 would"
    )
    assert not plan.decides
    assert power.of_margin(0.02, 0.0785, 1582).decides
    assert power.of_margin(0.02, 0.0785, 1582).sentence.startswith("1,582 rows can decide a margin of 2 points")


@pytest.mark.parametrize(("margin", "apart"), [(0.02, 0.05), (0.05, 0.1), (0.02, 0.0), (0.1, 1.0)])
def test_the_rows_needed_are_the_fewest_from_which_on_the_power_stays(margin: float, apart: float) -> None:
    needed = power.of_margin(margin, apart, None).needed
    assert needed is not None
    assert power.power_of_margin(needed - 1, margin, apart) < power.POWER
    assert min(power.power_of_margin(needed + i, margin, apart) for i in range(12)) >= power.POWER


@pytest.mark.parametrize(("rows", "margin", "apart"), [(700, 0.02, 0.05), (300, 0.05, 0.12), (150, 0.05, 0.02)])
def test_the_power_of_a_margin_is_how_often_equal_models_pass(rows: int, margin: float, apart: float) -> None:
    random = np.random.default_rng(1)
    draws = random.multinomial(rows, [apart / 2, apart / 2, 1 - apart], 3000)
    passed = np.mean([scoring.difference(int(g), int(m), rows).low >= -margin for g, m, _ in draws])
    assert power.power_of_margin(rows, margin, apart) == pytest.approx(passed, abs=0.035)


@pytest.mark.parametrize(("rows", "rate", "bound"), [(400, 0.93, 0.9), (127, 0.9675, 0.9), (60, 0.99, 0.9)])
def test_the_power_of_a_minimum_is_how_often_such_a_model_passes(rows: int, rate: float, bound: float) -> None:
    right = np.random.default_rng(1).binomial(rows, rate, 5000)
    passed = np.mean([scoring.rate(int(k), rows).low >= bound for k in right])
    assert power.power_of_rate(rows, rate, bound) == pytest.approx(passed, abs=0.03)


def test_a_model_at_its_bound_is_never_shown_to_meet_it() -> None:
    plan = power.of_rate(0.9, 0.9, 400)
    assert (plan.decides, plan.needed) == (False, None)
    assert "nor can 10,000,000: the model is too near the bound" in plan.sentence
    assert power.of_rate(0.85, 0.9, None).sentence.startswith("no rows decide")


def test_the_shipped_policy_asks_for_the_rows_that_its_margin_needs() -> None:
    """With fewer, not even two models that never differ are within two points; the policy says so before it looks."""
    (rule,) = [rule for rule in Policy.load(POLICY).rules if rule.id == "not-worse-than-champion"]
    assert ">= -0.02" in rule.expression
    assert power.fewest_rows(0.02) == 189 <= rule.minimum_rows
    assert scoring.difference(0, 0, 189).low >= -0.02 > scoring.difference(0, 0, 188).low


@pytest.mark.parametrize("rows", [1, 10, 50, 100, 188, 200, 400])
def test_case_E6_too_few_rows_are_undecided_and_never_a_pass(rows: int) -> None:
    """Two equal models that each gain and lose 4 % of the rows: what is too little for the planner is for the gate."""
    rules = {rule.id: rule for rule in Policy.load(POLICY).rules}
    apart = round(0.04 * rows)
    delta = scoring.difference(apart, apart, rows)
    finding = apply(rules["not-worse-than-champion"], {"delta.champion.exact_match": Measure.of(delta)})
    assert power.power_of_margin(rows, 0.02, 0.08) < power.POWER
    assert finding.verdict == "undecided"
    right = Measure.of(scoring.rate(rows, rows))  # all right, and still too few to know
    assert rows > 99 or apply(rules["exact-answers"], {"tuned.exact_match": right}).verdict == "undecided"


def test_enough_rows_decide() -> None:
    rule = next(rule for rule in Policy.load(POLICY).rules if rule.id == "not-worse-than-champion")
    needed = power.of_margin(0.02, 0.08, None).needed
    assert needed is not None
    delta = scoring.difference(round(0.04 * needed), round(0.04 * needed), needed)
    assert apply(rule, {"delta.champion.exact_match": Measure.of(delta)}).verdict == "pass"


def test_the_worst_of_two_equal_models_is_that_they_err_independently() -> None:
    random = np.random.default_rng(2)
    one, two = random.random((2, 200_000)) < 0.93
    assert power.worst_discordance(0.93) == pytest.approx((one != two).mean(), abs=2e-3)


def _answer(capsys: pytest.CaptureFixture[str], *arguments: str) -> tuple[int, str, str]:
    with pytest.raises(SystemExit) as end:
        main(["policy", "power", *arguments])
    said = capsys.readouterr()
    return int(end.value.code or 0), said.out, said.err


def test_the_command_needs_no_release_when_told_all(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("dvc.yaml", "params.yaml"):
        (tmp_path / name).write_text((REPO / name).read_text())
    monkeypatch.chdir(tmp_path)
    code, out, _ = _answer(capsys, "--rows", "200", "--margin", "0.02", "--discordance", "0.0785", "--json")
    (plan,) = json.loads(out)["plans"]
    assert (code, plan["rows"], plan["needed"], plan["decides"]) == (0, 200, 1582, False)
    code, out, _ = _answer(capsys, "--discordance", "0.05")
    assert (code, out) == (0, "1,042 rows decide a margin of 2 points where 5 % of the rows tell the models apart\n")
    for wrong in (["--margin", "2"], ["--margin", "nan"], ["--discordance=-1"], ["--rate", "1"], ["--rows", "0"], []):
        code, _, err = _answer(capsys, *wrong)
        assert (code, err.count("\n")) == (2, 1), wrong
