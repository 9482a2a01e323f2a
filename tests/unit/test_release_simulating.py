"""What the policy does on candidates whose truth is known: the stated error rates and traffic, at a small size."""

import json
from pathlib import Path

import pytest

from slipway import cli
from slipway.release import rivals, simulating
from slipway.release.planning import Design
from slipway.release.sequential import Question
from slipway.release.simulating import Scenario

ROOT = Path(__file__).parents[2]
DESIGN = Design(Question.non_inferiority(0.05), 0.05, 0.05, ((5.0, 40), (25.0, 60), (50.0, 100)))
CANARIES = 2000
SLACK = 0.0125  # the 97.5 % bound of a share of 5 % of so many, with some room


def test_the_design_points_keep_their_errors_and_their_traffic() -> None:
    """Looked at after every block. 20,000 canaries of every truth: tests/chaos/test_canary_statistics.py."""
    points = [Scenario(0.9, 0.0, 50.0, False), Scenario(0.9, -0.05, 50.0, False), Scenario(0.9, -0.05, 5.0, True)]
    equal, worse, drifting = simulating.simulate(DESIGN, points, CANARIES, 3)
    assert equal["wald_bound"] == pytest.approx(389, abs=1) and worse["wald_bound"] == pytest.approx(461, abs=1)
    for one in (equal, worse, drifting):
        assert one["false_promotion"] <= 0.05 + SLACK and one["false_rollback"] <= 0.05 + SLACK
        assert one["undecided"] <= 0.01
        assert one["mean_requests"] <= 1.2 * one["wald_bound"]
        assert one["mean_requests"] < one["p90_requests"] < 4 * one["mean_requests"]
    assert equal["promoted"] >= 0.94 and worse["rolled_back"] >= 0.94
    assert equal["false_promotion"] == worse["false_rollback"] == 0.0
    assert worse["false_promotion"] > 0 and equal["false_rollback"] > 0, "the chances are used, not given away"


def test_a_scenario_has_its_own_random_numbers() -> None:
    wide, one = Design(Question.non_inferiority(0.2), 0.05, 0.05), [Scenario(0.9, 0.0, 50.0, False)]
    alone = simulating.simulate(wide, one, 100, 5)
    beside = simulating.simulate(wide, [Scenario(0.9, -0.2, 50.0, False), *one], 100, 5)
    assert alone == beside[1:]
    assert alone != simulating.simulate(wide, one, 100, 6)


def test_evidence_is_carried_over_the_ramp() -> None:
    (ramp,) = simulating.simulate(DESIGN, [Scenario(0.9, 0.05, "ramp", False)], 300, 5)
    (flat,) = simulating.simulate(DESIGN, [Scenario(0.9, 0.05, 50.0, False)], 300, 5)
    assert ramp["promoted"] > 0.98
    assert ramp["mean_requests"] < flat["mean_requests"], (
        "a candidate's request tells more beside many of the champion's"
    )
    shapes = simulating.shapes("ramp", DESIGN.ramp)
    firsts = [next(shapes) for _ in range(101)]
    assert firsts[:40] == [(19, 1)] * 40 and firsts[40:100] == [(3, 1)] * 60 and firsts[100] == (1, 1)


def test_superiority_is_simulated_too() -> None:
    better = Design(Question.superiority(0.05, 0.25), 0.05, 0.05, ((25.0, 20), (50.0, 20)))
    assert simulating.grid(Question.superiority(0.05, 0.45)) == [], "better than all right"
    for one in simulating.simulate(better, simulating.grid(better.question), 200, 4):
        assert one["false_promotion"] <= 0.1 and one["false_rollback"] <= 0.1
        assert (one["promoted"] > 0.9) == (one["effect"] >= 0.25) or 0.05 < one["effect"] < 0.25


def test_every_truth_of_the_grid_is_possible() -> None:
    for question in (DESIGN.question, Question.superiority(0.02, 0.06), Question.non_inferiority(0.2)):
        found = simulating.grid(question)
        assert len(found) >= 40 and len(found) == len(set(found))
        for scenario in found:
            ends = (scenario.base - scenario.swing, scenario.base + scenario.swing)
            assert min(ends) + min(0, scenario.effect) >= 0 and max(ends) + max(0, scenario.effect) <= 1 + 1e-9
        assert {scenario.base for scenario in found} == {0.6, 0.9} | ({0.99} if question.high == 0 else set())


def test_other_rules_are_wrong_more_often() -> None:
    found = {(one["rule"], one["effect"]): one for one in rivals.simulate(DESIGN, 2000, 1)}
    assert found["last-10-mean", -0.05]["false_promotion"] > 0.15
    assert found["last-10-mean", 0.0]["false_rollback"] > 0.15
    assert found["flagger", -0.05]["false_promotion"] > 0.15
    assert found["z-peeking", 0.0]["false_rollback"] > 0.1
    fixed = found["fixed-z", -0.05]
    assert 0.03 < fixed["false_promotion"] < 0.07 and fixed["mean_requests"] == 780
    assert len(found) == 8


def test_the_command_draws_tables_json_and_a_picture(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    policy = tmp_path / "wide.yaml"
    shipped = (ROOT / "configs" / "policies" / "canary.yaml").read_text()
    policy.write_text(shipped.replace("non-inferiority, margin: 0.05", "non-inferiority, margin: 0.3"))
    words = ["canary", "simulate", "--canaries", "40", "--seed", "2", "--policy", str(policy)]
    picture = tmp_path / "canaries.svg"

    def said(*more: str) -> tuple[int, str]:
        with pytest.raises(SystemExit) as ended:
            cli.main([*words, *more])
        return ended.value.code, capsys.readouterr().out  # type: ignore[return-value]

    code, out = said("--json", "--plot", str(picture))
    told = json.loads(out)
    assert code == 0 and told["canaries"] == 40 and len(told["scenarios"]) >= 20 and len(told["rules"]) == 8
    wanted = {"effect", "false_promotion", "false_rollback", "mean_requests", "p90_requests", "wald_bound"}
    assert all(wanted <= set(one) for one in told["scenarios"])
    assert picture.read_text().startswith("<svg ") and "polyline" in picture.read_text()
    assert said("--json")[1] == out, "the same seed, the same figures"
    code, table = said()
    assert code == 0 and "Wrongly promoted at most" in table and "last-10-mean" in table
    assert said("--canaries", "0")[0] == said("--plot", "x.gif")[0] == said("--metric", "taste")[0] == 2
