"""The bars of the canary's statistics at full size: every truth, 20,000 canaries of each, looked at after every block."""

from typing import Any

import pytest

from slipway.release import simulating
from slipway.release.planning import Design
from slipway.release.sequential import Question
from slipway.release.simulating import Scenario

CANARIES = 20_000
ALPHA = 0.05


def found(base: float, margin: float, splits: tuple[float | str, ...]) -> list[dict[str, Any]]:
    design = Design(Question.non_inferiority(margin), ALPHA, ALPHA, ((5.0, 40), (10.0, 40), (25.0, 60), (50.0, 100)))
    truths = [
        Scenario(base, effect, split, drifting)
        for split in splits
        for drifting in (False, True)
        for effect in (0.0, -margin)
    ]
    return simulating.simulate(design, truths, CANARIES, 20)


@pytest.mark.chaos
@pytest.mark.parametrize("split", [50.0, 5.0, 1.0, "ramp"])
@pytest.mark.parametrize(("base", "margin"), [(0.6, 0.05), (0.9, 0.05), (0.99, 0.05), (0.99, 0.01)])
def test_no_more_than_the_stated_share_is_decided_wrongly(base: float, margin: float, split: float | str) -> None:
    for one in found(base, margin, (split,)):
        wrong = "rolled_back" if one["effect"] == 0 else "promoted"
        assert one[f"{wrong}_interval"][1] <= ALPHA + 0.005, one
        assert one["undecided"] < 0.02, one


@pytest.mark.chaos
def test_traffic_at_the_design_points() -> None:
    equal, worse = found(0.9, 0.05, (50.0,))[:2]
    assert equal["mean_requests"] <= 1.2 * equal["wald_bound"]
    assert worse["mean_requests"] <= 1.2 * worse["wald_bound"]
