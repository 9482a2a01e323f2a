"""One word for each metric and one for all; undecided and broken never pass."""

import math
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from slipway.release import verdicts
from slipway.release.blocks import Arrival, Queue, Shape
from slipway.release.policy import Canary
from slipway.release.rates import Rate
from slipway.release.sequential import Block, Sequential
from slipway.release.verdicts import Bars, Broken, State

ROOT = Path(__file__).parents[2]
POLICY = Canary.load(ROOT / "configs" / "policies" / "canary.yaml")


def unseen() -> dict[str, State]:
    """Every metric, of which nothing is known."""
    return {w.name: Sequential(w.question) if w.question else Rate(w.limits) for w in POLICY.watched}  # type: ignore[arg-type]


def blocks(champion: float, candidate: float, count: int, seed: int = 1) -> list[Block]:
    draw = np.random.default_rng(seed)
    drawn = zip(draw.binomial(10, champion, count // 10), draw.binomial(10, candidate, count // 10), strict=True)
    return [Block(10, int(b), 10, int(c)) for b, c in drawn]


def seen(metric: str, champion: float, candidate: float, count: int = 6000) -> dict[str, State]:
    found = unseen()
    state = found[metric]
    assert isinstance(state, Sequential)
    return found | {metric: state.add(*blocks(champion, candidate, count))}


def word(states: dict[str, State], metric: str) -> str:
    return next(one.word for one in verdicts.judge(POLICY, states).verdicts if one.metric == metric)


def test_all_share_the_chance_of_a_false_rollback_and_none_that_of_a_false_promotion() -> None:
    assert Bars.of(POLICY) == Bars(-math.log(0.05), math.log(7 / 0.05))


def test_a_candidate_as_good_is_healthy_while_guardrails_are_open() -> None:
    found = verdicts.judge(POLICY, seen("quality", 0.9, 0.9, 2000))
    assert found.word == "healthy" and "quality" in found.reason
    quality = found.verdicts[0]
    assert quality.promote_evidence and quality.promote_evidence >= -math.log(0.05)
    assert quality.low is not None and quality.high is not None
    assert -0.05 < quality.low < 0 < quality.high
    assert word(seen("quality", 0.9, 0.9, 2000), "toxicity") == "undecided"


def test_any_metric_that_fails_fails_all() -> None:
    states = seen("quality", 0.9, 0.9, 2000) | {"toxicity": seen("toxicity", 0.999, 0.9)["toxicity"]}
    found = verdicts.judge(POLICY, states)
    assert found.word == "failing" and found.reason.startswith("toxicity: ")
    states["quality"] = Broken("NaN from the metrics source")
    assert verdicts.judge(POLICY, states).word == "failing", "what is proven is not undone by what cannot be read"


def test_what_cannot_be_read_is_broken_and_never_passes() -> None:
    states = seen("quality", 0.9, 0.9, 2000)
    del states["latency_p99"]
    found = verdicts.judge(POLICY, states)
    assert found.word == "broken" and "latency_p99: nothing has measured it" in found.reason
    states["latency_p99"] = states["toxicity"]  # another margin? then it is another question
    same = POLICY.guardrails.latency_p99.margin == POLICY.guardrails.toxicity.margin  # type: ignore[union-attr]
    assert verdicts.judge(POLICY, states).word == ("healthy" if same else "broken")
    states["latency_p99"] = states["latency_p95"]
    assert "another question" in verdicts.judge(POLICY, states).reason


def test_a_guardrail_that_must_pass_is_waited_for() -> None:
    rail = POLICY.guardrails.success_rate
    assert rail
    strict = POLICY.model_copy(
        update={
            "guardrails": POLICY.guardrails.model_copy(
                update={"success_rate": rail.model_copy(update={"must_pass": True})}
            )
        }
    )
    states = seen("quality", 0.9, 0.9, 2000)
    found = verdicts.judge(strict, states)
    assert found.word == "undecided" and "success_rate: nothing seen yet" in found.reason
    state = states["success_rate"]
    assert isinstance(state, Rate)
    assert verdicts.judge(strict, states | {"success_rate": state.add(1000, 999)}).word == "healthy"
    assert verdicts.judge(strict, states | {"success_rate": state.add(1000, 900)}).word == "failing"


def test_a_rollback_once_earned_stays_and_a_promotion_must_be_earned_now() -> None:
    state = Sequential(POLICY.primary["quality"].question).add(*blocks(0.9, 0.9, 2000))
    late = state.add(*blocks(0.9, 0.8, 1500, 2))
    assert state.promote.peak >= -math.log(0.05)
    states = unseen()
    assert word(states | {"quality": state}, "quality") == "healthy"
    assert word(states | {"quality": late}, "quality") == "failing"
    unsure = replace(state, promote=replace(state.promote, design=0.0, learned=0.0))
    assert word(states | {"quality": unsure}, "quality") == "undecided"


@pytest.mark.parametrize(
    ("metric", "champion", "candidate"),
    [
        ("toxicity", 0.9995, 0.9895),  # 1 % more toxic answers
        ("latency_p99", 0.9923, 0.9803),  # 20 % slower, times lognormal with a spread of 0.5, the bound 5 % above p99
        ("format_validity", 0.995, 0.8),  # answers in another language, which the format knows
    ],
)
def test_case_G3_a_candidate_that_is_subtly_worse_is_caught(metric: str, champion: float, candidate: float) -> None:
    assert word(seen(metric, champion, candidate), metric) == "failing"
    assert word(seen(metric, champion, champion), metric) == "healthy"


def test_case_G5_no_traffic_and_traffic_to_one_arm_are_undecided() -> None:
    assert verdicts.judge(POLICY, unseen()).word == "undecided"
    assert verdicts.judge(POLICY, {}).word == "broken"
    queue, full = Queue().add([Arrival("champion", str(user), 1) for user in range(3000)], Shape(19, 1))
    assert full == [] and queue.dropped > 1000
    quality = unseen()["quality"]
    assert isinstance(quality, Sequential)
    found = verdicts.judge(POLICY, unseen() | {"quality": quality.add(*full)})
    assert found.word == "undecided" and found.reason.startswith("quality: nothing seen yet")


def test_without_intervals_the_words_are_the_same() -> None:
    states = seen("quality", 0.9, 0.9, 2000)
    full, quick = verdicts.judge(POLICY, states), verdicts.judge(POLICY, states, intervals=False)
    assert [one.word for one in full.verdicts] == [one.word for one in quick.verdicts] and full.word == quick.word
    assert quick.verdicts[0].low is None and full.verdicts[0].low is not None


def test_an_undecided_metric_says_how_much_more_would_settle_it() -> None:
    found = verdicts.judge(POLICY, seen("quality", 0.9, 0.9, 150))
    quality = found.verdicts[0]
    assert quality.word == "undecided" and quality.more_requests and quality.more_requests > 100
    assert f"about {quality.more_requests:,} more requests to the candidate would settle it" in quality.reason
