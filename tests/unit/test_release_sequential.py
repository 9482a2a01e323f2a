"""The two opposed tests: bets counted by hand, fair by enumeration, the same after a kill, the same for many at once."""

import json
import math
from itertools import pairwise, product

import numpy as np
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from slipway.release import planning
from slipway.release.blocks import Shape
from slipway.release.intervals import interval
from slipway.release.rates import Limits, Rate
from slipway.release.sequential import Block, Question, Sequential, Wealth, estimates, log_e, mixed, project
from slipway.release.vectorised import Canaries

EQUAL = Question.non_inferiority(0.05)
BAR = math.log(20)
PAIRS = Shape(1, 1)
RATES = st.floats(0.001, 0.999)
BOUNDARIES = st.sampled_from([-0.3, -0.05, -0.01, 0.0, 0.02, 0.2])


def played(
    question: Question, champion: float, candidate: float, blocks: int, seed: int, shape: Shape = PAIRS
) -> list[Block]:
    """The blocks of one canary, drawn."""
    draw = np.random.default_rng(seed)
    return [
        Block(shape[0], int(draw.binomial(shape[0], champion)), shape[1], int(draw.binomial(shape[1], candidate)))
        for _ in range(blocks)
    ]


# --- one bet ----------------------------------------------------------------------------------------------------------


def test_a_block_by_hand() -> None:
    """Bets on 0.8 and 0.9 against "no better": the nearest equal rates are their mean, 0.85."""
    both_good = math.log(0.8 / 0.85 * 0.9 / 0.85)
    assert log_e(0.8, 0.9, Block(1, 1, 1, 1), 0.0) == pytest.approx(both_good, abs=1e-12)
    only_candidate = math.log(0.2 / 0.15 * 0.9 / 0.85)
    assert log_e(0.8, 0.9, Block(1, 0, 1, 1), 0.0) == pytest.approx(only_candidate, abs=1e-12)
    weighted = (19 * 0.8 + 0.9) / 20
    nineteen = 15 * math.log(0.8 / weighted) + 4 * math.log(0.2 / (1 - weighted)) + math.log(0.1 / (1 - weighted))
    assert log_e(0.8, 0.9, Block(19, 15, 1, 0), 0.0) == pytest.approx(nineteen, abs=1e-12)


def test_the_first_blocks_of_a_test_by_hand() -> None:
    """Nothing is known before the first: both halves bet on what the prior says, one half for each answer."""
    test = Sequential(Question.non_inferiority(0.2)).add(Block(1, 1, 1, 1))
    assert estimates(None).champion == estimates(None).candidate == 0.5
    # Against "worse by 0.2": from (0.5, 0.5), the nearest is (0.6, 0.4), by symmetry.
    assert test.promote.design == test.promote.learned == pytest.approx(math.log(0.5 / 0.6 * 0.5 / 0.4), abs=1e-10)
    # Against "as good": the design bets on (0.6, 0.4), nearest (0.5, 0.5); what was learned lies within the claim.
    assert test.rollback.design == pytest.approx(math.log(0.6 / 0.5 * 0.4 / 0.5), abs=1e-10)
    assert test.rollback.learned == 0.0
    after = test.add(Block(1, 0, 1, 1))  # known by now: 0.75 and 0.75
    assert (estimates(test.total).champion, estimates(test.total).candidate) == (0.75, 0.75)
    x = project(1.0, 0.75, 1.0, 0.75, -0.2)
    won = math.log(0.25 / (1 - x) * 0.75 / (x - 0.2))
    assert after.promote.learned - test.promote.learned == pytest.approx(won, abs=1e-12)
    assert after.promote_evidence == pytest.approx(
        math.log(0.75 * math.exp(after.promote.design) + 0.25 * math.exp(after.promote.learned))
    )


@given(RATES, RATES, BOUNDARIES, st.sampled_from([(1.0, 1.0), (19.0, 1.0), (1.0, 3.0), (5.0, 5.0)]))
def test_the_projection_is_the_nearest_point(b: float, c: float, shift: float, weights: tuple[float, float]) -> None:
    def distance(x: float) -> float:
        return weights[0] * planning.divergence(b, x) + weights[1] * planning.divergence(c, x + shift)

    found = project(weights[0], b, weights[1], c, shift)
    low, high = max(0.0, -shift), min(1.0, 1 - shift)
    assert low < found < high
    others = [low + (high - low) * part / 200 for part in range(1, 200)] + [found + step for step in (-1e-6, 1e-6)]
    assert all(distance(found) <= distance(x) + 1e-9 for x in others if low < x < high)


@settings(max_examples=150)
@given(RATES, RATES, BOUNDARIES, st.sampled_from([(1, 1), (2, 2), (3, 1), (1, 2), (5, 1)]), RATES, RATES)
def test_no_bet_is_better_than_fair_while_its_claim_is_true(
    b: float, c: float, boundary: float, shape: tuple[int, int], champion: float, candidate: float
) -> None:
    """The expectation over every outcome of a block, whatever the two rates within the claim."""
    assume(candidate - champion <= boundary)
    n_b, n_c = shape
    fair = 0.0
    for k_b, k_c in product(range(n_b + 1), range(n_c + 1)):
        chance = math.comb(n_b, k_b) * champion**k_b * (1 - champion) ** (n_b - k_b)
        chance *= math.comb(n_c, k_c) * candidate**k_c * (1 - candidate) ** (n_c - k_c)
        fair += chance * math.exp(log_e(b, c, Block(n_b, k_b, n_c, k_c), boundary))
    assert fair <= 1 + 1e-6


@given(RATES, RATES, BOUNDARIES)
def test_more_good_answers_of_the_candidate_never_speak_against_it(b: float, c: float, boundary: float) -> None:
    found = [log_e(b, c, Block(4, 2, 4, good), boundary) for good in range(5)]
    assert all(before <= after for before, after in pairwise(found))
    found = [log_e(b, c, Block(4, good, 4, 2), boundary) for good in range(5)]
    assert all(before >= after for before, after in pairwise(found))


# --- the tests as they go on ------------------------------------------------------------------------------------------


@settings(max_examples=40)
@given(st.lists(st.tuples(st.integers(0, 19), st.floats(0, 1)), min_size=1, max_size=30), st.integers(0, 30))
def test_killed_anywhere_it_goes_on_to_the_same_bits(answers: list[tuple[int, float]], kill: int) -> None:
    blocks = [Block(19, good, 1, mean) for good, mean in answers]
    whole = Sequential(EQUAL).add(*blocks)
    kept = json.dumps(Sequential(EQUAL).add(*blocks[:kill]).as_json())
    assert Sequential.of_json(json.loads(kept)).add(*blocks[kill:]) == whole
    one_by_one = Sequential(EQUAL)
    for block in blocks:
        one_by_one = one_by_one.add(block)
    assert one_by_one == whole


@pytest.mark.parametrize(
    "torn",
    [
        {},
        {"low": -0.05, "high": 0.0, "blocks": [[1, 2, 1, 1]], "promote": [0, 0, 0], "rollback": [0, 0, 0]},
        {"low": -0.05, "high": 0.0, "blocks": [[1, 1]], "promote": [0, 0, 0], "rollback": [0, 0, 0]},
        {"low": -0.05, "high": 0.0, "blocks": [], "promote": [float("nan"), 0, 0], "rollback": [0, 0, 0]},
        {"low": -0.05, "high": 0.0, "blocks": [], "promote": [float("inf"), 0, 0], "rollback": [0, 0, 0]},
        {"low": 0.05, "high": 0.0, "blocks": [], "promote": [0, 0, 0], "rollback": [0, 0, 0]},
    ],
)
def test_a_torn_state_is_refused(torn: dict[str, object]) -> None:
    with pytest.raises(ValueError):
        Sequential.of_json(torn)


@pytest.mark.parametrize("bad", [float("nan"), -1, 6, math.inf, None, True, "3"])
def test_counts_that_cannot_be_are_refused(bad: object) -> None:
    with pytest.raises(ValueError):
        Block(5, bad, 5, 3)  # type: ignore[arg-type]
    with pytest.raises(ValueError):
        Block(5, 3, 5, bad)  # type: ignore[arg-type]


@pytest.mark.parametrize("bad", [0, -5, 2.0, float("nan"), True])
def test_a_block_without_answers_is_refused(bad: object) -> None:
    with pytest.raises(ValueError, match="at least one of each arm"):
        Block(bad, 0, 5, 3)  # type: ignore[arg-type]


@pytest.mark.parametrize("good", [(0, 0), (0, 100), (100, 0), (100, 100)])
def test_extreme_counts_end_and_do_not_overflow(good: tuple[int, int]) -> None:
    test = Sequential(EQUAL).add(*[Block(100, good[0], 100, good[1])] * 2000)
    assert math.isfinite(test.promote_evidence) and math.isfinite(test.rollback_evidence)
    better = good[1] >= good[0]
    assert (test.promote_evidence > 700) == better, "far beyond what exp can hold"
    assert (test.rollback.peak >= BAR) == (good[1] < good[0])
    assert Sequential.of_json(json.loads(json.dumps(test.as_json()))) == test


def test_both_halves_of_a_stake_count() -> None:
    assert mixed(0.0, 0.0) == 0.0
    assert mixed(1000.0, -1000.0) == pytest.approx(1000 + math.log(0.75))
    assert mixed(-1000.0, 1000.0) == pytest.approx(1000 + math.log(0.25))
    assert Wealth().won(2.0, 1.0).won(-5.0, -5.0).peak == mixed(2.0, 1.0)


def test_superiority_is_non_inferiority_with_a_negative_margin() -> None:
    better = Question.superiority(0.02, 0.1)
    assert (better.low, better.high) == (0.02, 0.1)
    equal = Sequential(better).add(*played(better, 0.8, 0.8, 2500, 5))
    assert equal.rollback.peak >= BAR and equal.promote.peak < BAR
    much = Sequential(better).add(*played(better, 0.8, 0.92, 2500, 5))
    assert much.promote_evidence >= BAR and much.rollback.peak < BAR


def test_evidence_carries_over_a_ramp() -> None:
    blocks = [
        *played(EQUAL, 0.9, 0.9, 60, 1, Shape(19, 1)),
        *played(EQUAL, 0.9, 0.9, 60, 2, Shape(3, 1)),
        *played(EQUAL, 0.9, 0.9, 600, 3),
    ]
    test = Sequential(EQUAL).add(*blocks)
    assert test.promote_evidence >= BAR
    assert test.promote_evidence > Sequential(EQUAL).add(*blocks[120:]).promote_evidence


# --- many at once -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("question", [EQUAL, Question.superiority(0.02, 0.08)])
def test_many_canaries_at_once_have_the_same_bits(question: Question) -> None:
    draw, count = np.random.default_rng(3), 40
    many, each = Canaries(question, count), [Sequential(question)] * count
    rates = np.linspace(0.02, 0.99, count)  # canaries of every kind
    for at in range(90):
        shape = Shape(19, 1) if at < 30 else Shape(3, 1) if at < 60 else Shape(1, 1)
        champion, candidate = draw.binomial(shape.champion, rates), draw.binomial(shape.candidate, rates[::-1])
        many.add(shape, champion.astype(float), candidate.astype(float))
        each = [
            test.add(Block(shape.champion, int(b), shape.candidate, int(c)))
            for test, b, c in zip(each, champion, candidate, strict=True)
        ]
        if at == 60:
            kept = np.arange(count) % 3 > 0
            many.keep(kept)
            each, rates = [test for test, keep in zip(each, kept, strict=True) if keep], rates[kept]
            count = len(each)
    assert [list(half) for half in many.promote] == [
        [t.promote.design for t in each],
        [t.promote.learned for t in each],
    ]
    assert [list(half) for half in many.rollback] == [
        [t.rollback.design for t in each], [t.rollback.learned for t in each],
    ]  # fmt: skip
    for bar in (0.0, 1.0, BAR):
        assert list(many.promoted(bar)) == [test.promote_evidence >= bar for test in each]
        assert list(many.rolled_back(bar)) == [test.rollback_evidence >= bar for test in each]


# --- intervals and plans ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("candidate", [0.8, 0.85, 0.9, 0.95])
def test_the_interval_agrees_with_the_tests(candidate: float) -> None:
    test = Sequential(EQUAL)
    assert interval(test, BAR, BAR) == (-1.0, 1.0)
    widths = []
    for blocks in np.array_split(played(EQUAL, 0.9, candidate, 900, 11), 6):  # type: ignore[arg-type]
        test = test.add(*blocks)
        low, high = interval(test, BAR, BAR)
        assert low < candidate - 0.9 < high
        assert (low >= EQUAL.low - 1e-4) == (test.promote.peak >= BAR)
        assert (high <= EQUAL.high + 1e-4) == (test.rollback.peak >= BAR)
        widths.append(high - low)
    assert widths[-1] < widths[0] / 2
    assert all(after <= before + 1e-4 for before, after in pairwise(widths)) or widths[-1] < 0.2


@pytest.mark.parametrize(
    ("base", "margin", "shape", "equal", "worse"),
    [
        (0.9, 0.01, (1, 1), 9548, 9958),
        (0.9, 0.02, (1, 1), 2393, 2591),
        (0.9, 0.05, (5, 5), 389, 461),
        (0.9, 0.10, (1, 1), 102, 133),
        (0.9, 0.05, (19, 1), 251, 230),
        (0.99, 0.01, (1, 1), 1157, 1537),
    ],
)
def test_walds_bound(base: float, margin: float, shape: tuple[int, int], equal: int, worse: int) -> None:
    question = Question.non_inferiority(margin)
    assert planning.wald_bound(base, 0.0, question, 0.05, 0.05, shape) == pytest.approx(equal, abs=1)
    assert planning.wald_bound(base, -margin, question, 0.05, 0.05, shape) == pytest.approx(worse, abs=1)
    assert planning.wald_bound(base, -margin / 2, question, 0.05, 0.05, shape) is None


def test_how_much_more_traffic_would_settle_it() -> None:
    nothing = Sequential(EQUAL)
    assert planning.more_requests(nothing, BAR, BAR) is None
    blocks = played(EQUAL, 0.9, 0.9, 2000, 4)
    early = nothing.add(*blocks[:100])
    needed = planning.more_requests(early, BAR, BAR)
    assert needed is not None and 50 < needed < 2000
    assert planning.more_requests(nothing.add(*blocks), BAR, BAR) == 0
    known = estimates(early.total)
    average = Block(1, known.champion, 1, known.candidate)
    assert early.add(*[average] * round(0.8 * needed)).promote_evidence < BAR
    assert early.add(*[average] * round(1.2 * needed)).promote_evidence >= BAR
    narrow = Sequential(Question.non_inferiority(0.00001)).add(Block(1000, 900, 1000, 900))
    assert planning.more_requests(narrow, BAR, BAR) is None, "a hundred million requests would not do"


def test_what_a_margin_costs_is_said_before_it_starts() -> None:
    narrow = planning.Design(Question.non_inferiority(0.01), 0.05, 0.05, ((5.0, 40), (50.0, 100)))
    assert planning.foretold(narrow, 0.9) == (
        "to tell -1 points from +0, of a champion with 90 % good answers, takes about 11,600 requests to the candidate "
        "(no test can do with fewer than 9,958)"
    )


# --- one arm alone ----------------------------------------------------------------------------------------------------


def test_a_promised_rate_by_hand_and_both_ways() -> None:
    limits = Limits(0.99, 0.97)
    one = Rate(limits).add(10, 9)
    assert one.promote_evidence == pytest.approx(9 * math.log(0.99 / 0.97) + math.log(0.01 / 0.03))
    assert one.rollback_evidence == -one.promote_evidence
    sound = Rate(limits).add(1000, 993)
    assert sound.promote_evidence >= BAR > sound.rollback_peak
    low, high = sound.interval(0.05)
    assert low < 0.993 < high and low > 0.97
    broken = Rate(limits).add(100, 80)
    assert broken.rollback_peak >= BAR
    assert broken.add(5000, 5000).rollback_peak >= BAR, "what was reached once stays"
    assert Rate.of_json(json.loads(json.dumps(broken.as_json()))) == broken
    assert Rate(limits).interval(0.05) == (0.0, 1.0)
    assert Rate(limits).add(20, 20).more_requests(BAR, BAR) > 50  # type: ignore[operator]
    for answers, good in ((0, 0), (5, 6), (5, -1), (5, float("nan")), (True, 1)):
        with pytest.raises(ValueError):
            Rate(limits).add(answers, good)


@pytest.mark.parametrize("rate", [0.0, 0.5, 0.9, 0.97])
def test_no_answer_of_a_failing_arm_is_better_than_fair(rate: float) -> None:
    limits = Limits(0.99, 0.97)
    up = [math.exp(Rate(limits).add(1, good).promote_evidence) for good in (0, 1)]
    assert (1 - rate) * up[0] + rate * up[1] <= 1 + 1e-12
    down = [math.exp(Rate(limits).add(1, good).rollback_evidence) for good in (0, 1)]
    sound = max(rate, 0.99)
    assert (1 - sound) * down[0] + sound * down[1] <= 1 + 1e-12
