"""What a canary has seen, metric by metric: what counts, what does not, and that nothing is lost when it is kept."""

import json
import random
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from slipway.release.evidence import Evidence, Outcome
from slipway.release.policy import FILE, Canary

SHIPPED = Canary.load(Path(__file__).parents[2] / FILE)
POLICY = Canary.model_validate(
    SHIPPED.model_dump()
    | {
        "warm_up": {"requests": 2, "seconds": 0.0},
        "unit": "request",
        "guardrails": {"success_rate": {"at_least": 0.99, "fails_at": 0.9}, "toxicity": {"margin": 0.05}},
        "abort": [
            {"metric": "success_rate", "below": 0.75, "of_last": 8},
            {"metric": "toxicity", "below": 0.5, "of_last": 4},
        ],
    }
)
METRICS = ("quality", "success_rate", "toxicity")


def outcomes(
    seed: int, count: int, good: float = 0.9, candidate_good: float = 0.9, share: float = 0.5
) -> list[Outcome]:
    draw = random.Random(seed)
    found = []
    for number in range(count):
        arm: Any = "candidate" if draw.random() < share else "champion"
        right = draw.random() < (candidate_good if arm == "candidate" else good)
        user = f"user-{number}"
        found += [Outcome("quality", arm, user, float(right)), Outcome("success_rate", arm, user, 1.0)]
        found.append(Outcome("toxicity", arm, user, 1.0))
    return found


def seen(evidence: Evidence) -> dict[str, Any]:
    """How many of the candidate's outcomes each metric has counted."""
    found = {name: one.test.total.candidate if one.test.total else 0 for name, one in evidence.compared.items()}
    return found | {name: one.rate.answers for name, one in evidence.alone.items()}


def test_equal_arms_are_proved_healthy_and_a_worse_candidate_fails() -> None:
    assert Evidence.of(POLICY).add(outcomes(1, 4000), 50).judge({}).word == "healthy"
    judged = Evidence.of(POLICY).add(outcomes(1, 4000, candidate_good=0.7), 50).judge({})
    assert judged.word == "failing" and judged.reason.startswith("quality: ")


def test_nothing_seen_is_undecided() -> None:
    judged = Evidence.of(POLICY).judge({})
    assert judged.word == "undecided" and "nothing seen yet" in judged.reason


def test_what_cannot_be_read_is_broken_however_good_the_rest_is() -> None:
    evidence = Evidence.of(POLICY).add(outcomes(1, 4000), 50)
    judged = evidence.judge({"toxicity": "no file for 90 s"})
    assert judged.word == "broken" and judged.reason == "toxicity: no file for 90 s"


def test_the_candidates_first_answers_count_for_nothing() -> None:
    first = [Outcome(name, "candidate", f"u{n}", 0.0) for n in range(2) for name in METRICS]
    evidence = Evidence.of(POLICY).add(first, 50)
    assert evidence.warmed == dict.fromkeys(METRICS, 2) and evidence.last == dict.fromkeys(METRICS, ())
    assert set(seen(evidence).values()) == {0}
    more = evidence.add([Outcome(name, "candidate", "u3", 1.0) for name in METRICS], 50)
    assert more.alone["success_rate"].rate.answers == 1 and more.last["toxicity"] == (1.0,)
    assert more.last["quality"] == (), "no rule looks at them"


def test_too_many_bad_ones_among_the_last_end_it_at_once() -> None:
    warm = [Outcome("toxicity", "candidate", "w", 1.0)] * 2
    evidence = Evidence.of(POLICY).add([*warm, *[Outcome("toxicity", "candidate", "u", 0.0)] * 3], 50)
    assert evidence.judge({}).word == "undecided", "three are not four"
    judged = evidence.add([Outcome("toxicity", "candidate", "u", 1.0)], 50).judge({})
    assert judged.word == "failing" and judged.reason.startswith("toxicity: 1 of the candidate's last 4 were good")
    assert evidence.add([Outcome("toxicity", "candidate", "u", 1.0)] * 2, 50).judge({}).word == "undecided"
    assert evidence.judge({"quality": "away"}).word == "broken"
    assert evidence.add([Outcome("toxicity", "candidate", "u", 0.0)], 50).judge({"quality": "away"}).word == "failing"


def test_the_champions_outcomes_never_end_it() -> None:
    bad = [Outcome(name, "champion", f"u{n}", 0.0) for n in range(50) for name in METRICS]
    evidence = Evidence.of(POLICY).add(bad, 50)
    assert evidence.judge({}).word == "undecided" and evidence.alone["success_rate"].rate.answers == 0
    assert evidence.warmed == dict.fromkeys(METRICS, 0), "only the candidate warms up"


def test_one_outcome_a_user_where_users_are_the_unit() -> None:
    policy = POLICY.model_copy(update={"unit": "user"})
    same = [
        Outcome(name, arm, f"{arm} {n % 5}", 1.0)
        for n in range(100)
        for name in METRICS
        for arm in ("champion", "candidate")
    ]
    evidence = Evidence.of(policy).add(same, 50)
    assert seen(evidence) == {"quality": 5, "toxicity": 5, "success_rate": 5}
    assert len(evidence.last["success_rate"]) == 8, "alarms look at every answer"


@pytest.mark.parametrize("percent", [0.0, 100.0])
def test_without_two_arms_nothing_is_compared_and_the_rest_goes_on(percent: float) -> None:
    evidence = Evidence.of(POLICY).add(outcomes(3, 200), percent)
    assert evidence.compared == Evidence.of(POLICY).compared
    assert evidence.alone["success_rate"].rate.answers > 50


@pytest.mark.parametrize("value", [float("nan"), -0.1, 1.1, float("inf")])
def test_case_G04_a_value_that_is_none_is_refused_at_any_share(value: float) -> None:
    for percent in (50, 100):
        with pytest.raises(ValueError, match="toxicity: an outcome of"):
            Evidence.of(POLICY).add([Outcome("toxicity", "champion", "u", value)], percent)


def test_what_the_policy_does_not_watch_is_passed_over() -> None:
    assert Evidence.of(POLICY).add([Outcome("wit", "candidate", "u", 1.0)], 50) == Evidence.of(POLICY)


@pytest.mark.parametrize("unit", ["request", "user", "user_mean"])
def test_kept_and_read_back_it_goes_on_to_the_same_bits(unit: str) -> None:
    policy = POLICY.model_copy(update={"unit": unit})
    stream = outcomes(7, 1500, candidate_good=0.85, share=0.3)
    whole = Evidence.of(policy)
    parts = Evidence.of(policy)
    for begin in range(0, len(stream), 333):
        whole = whole.add(stream[begin : begin + 333], 25)
        parts = parts.add(stream[begin : begin + 333], 25)
        parts = Evidence.of_json(policy, json.loads(json.dumps(parts.as_json())))
    assert parts == whole and parts.judge({}) == whole.judge({})


@pytest.mark.parametrize("gone", ["compared", "alone", "last", "warmed"])
def test_what_is_torn_or_of_another_policy_is_refused(gone: str) -> None:
    kept = Evidence.of(POLICY).add(outcomes(1, 100), 50).as_json()
    with pytest.raises(ValueError):
        Evidence.of_json(POLICY, {name: value for name, value in kept.items() if name != gone})
    with pytest.raises(ValueError, match="of another policy"):
        Evidence.of_json(POLICY.model_copy(update={"unit": "user"}), kept)
    with pytest.raises(ValueError, match="of another policy"):
        Evidence.of_json(SHIPPED, kept)
    assert replace(Evidence.of_json(POLICY, kept)) == Evidence.of(POLICY).add(outcomes(1, 100), 50)
