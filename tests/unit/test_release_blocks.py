"""Arrivals become blocks: in order, in the traffic's ratio, one outcome a user, whatever the outcomes are."""

import json
import random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from slipway.release.blocks import BLOCKS_WAITING, Arrival, Queue, Shape, pseudonym, shape_of
from slipway.release.sequential import Block


def arrivals(arm: str, *outcomes: float, first: int = 0) -> list[Arrival]:
    return [Arrival(arm, f"{arm}-{number}", outcome) for number, outcome in enumerate(outcomes, first)]  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("percent", "shape"),
    [(50, (1, 1)), (5, (19, 1)), (1, (99, 1)), (10, (9, 1)), (25, (3, 1)), (40, (3, 2)), (75, (1, 3)), (0.1, (100, 1))],
)
def test_a_block_has_the_traffics_ratio(percent: float, shape: tuple[int, int]) -> None:
    assert shape_of(percent) == shape


@pytest.mark.parametrize("percent", [0, 100, -1, 101, float("nan")])
def test_one_arm_alone_makes_no_blocks(percent: float) -> None:
    with pytest.raises(ValueError, match="both arms must answer"):
        shape_of(percent)


def test_first_in_first_out() -> None:
    queue, blocks = Queue().add(arrivals("champion", 1, 0, 1, 1) + arrivals("candidate", 0, 1, 1), Shape(2, 1))
    assert blocks == [Block(2, 1, 1, 0), Block(2, 2, 1, 1)]
    assert (len(queue.champion), len(queue.candidate)) == (0, 1)
    _, blocks = queue.add(arrivals("champion", 0, 1, first=10), Shape(2, 1))
    assert blocks == [Block(2, 1, 1, 1)]


def test_the_shape_may_change_between_blocks() -> None:
    queue, blocks = Queue().add(arrivals("champion", *[1] * 19) + arrivals("candidate", 1), Shape(19, 1))
    assert blocks == [Block(19, 19, 1, 1)]
    _, blocks = queue.add(arrivals("champion", 1, first=50) + arrivals("candidate", 0, first=50), Shape(1, 1))
    assert blocks == [Block(1, 1, 1, 0)]


def test_one_outcome_a_user_the_first() -> None:
    again = [Arrival("champion", "ada", 1), Arrival("champion", "ada", 0), Arrival("candidate", "ada", 0)]
    queue, blocks = Queue().add([*again, Arrival("candidate", "bob", 1)], Shape(1, 1))
    assert blocks == [Block(1, 1, 1, 1)] and queue.ignored == 2, "who has moved to the other arm has counted too"
    queue, blocks = queue.add([Arrival("champion", "ada", 0), Arrival("candidate", "bob", 0)], Shape(1, 1))
    assert blocks == [] and queue.ignored == 4


def test_or_the_mean_of_what_came_until_their_turn() -> None:
    queue, _ = Queue("user_mean").add([Arrival("champion", "ada", 1), Arrival("champion", "ada", 0)], Shape(1, 1))
    queue, blocks = queue.add([Arrival("champion", "ada", 0), Arrival("candidate", "bob", 1)], Shape(1, 1))
    assert [one.champion_good for one in blocks] == [pytest.approx(1 / 3)] and queue.ignored == 0
    queue, blocks = queue.add([Arrival("champion", "ada", 1)], Shape(1, 1))
    assert blocks == [] and queue.ignored == 1


def test_or_every_request() -> None:
    same = [Arrival("champion", "ada", 1)] * 3 + [Arrival("candidate", "ada", 0)] * 3
    queue, blocks = Queue("request").add(same, Shape(1, 1))
    assert blocks == [Block(1, 1, 1, 0)] * 3 and not queue.seen


@given(st.lists(st.tuples(st.sampled_from(["champion", "candidate"]), st.integers(0, 30), st.booleans()), max_size=80))
def test_which_block_somebody_is_in_does_not_depend_on_outcomes(came: list[tuple[str, int, bool]]) -> None:
    seen = Queue().add([Arrival(arm, str(who), good) for arm, who, good in came], Shape(2, 1))  # type: ignore[arg-type]
    opposite = Queue().add([Arrival(arm, str(who), not good) for arm, who, good in came], Shape(2, 1))  # type: ignore[arg-type]
    assert seen[0].seen == opposite[0].seen and len(seen[1]) == len(opposite[1])
    for one, other in zip(seen[1], opposite[1], strict=True):
        assert one.champion_good + other.champion_good == 2 and one.candidate_good + other.candidate_good == 1


@pytest.mark.parametrize("unit", ["user", "user_mean", "request"])
def test_killed_anywhere_it_goes_on_alike(unit: str) -> None:
    draw = random.Random(1)
    came = [
        Arrival(draw.choice(["champion", "candidate"]), str(draw.randrange(150)), draw.random())  # type: ignore[arg-type]
        for _ in range(400)
    ]
    whole, blocks = Queue(unit).add(came, Shape(1, 1))  # type: ignore[arg-type]
    part, before = Queue(unit).add(came[:170], Shape(1, 1))  # type: ignore[arg-type]
    again, after = Queue.of_json(json.loads(json.dumps(part.as_json()))).add(came[170:], Shape(1, 1))
    if unit != "user_mean":  # there a block's members are known when it is taken out, and it was taken out earlier
        assert before + after == blocks and again.seen == whole.seen
    straight, _ = part.add(came[170:], Shape(1, 1))
    assert again == straight


def test_an_arm_that_has_more_than_its_share_does_not_wait_for_ever() -> None:
    """Else old answers of one arm would be compared with new ones of the other."""
    queue, _ = Queue().add(arrivals("champion", *[0] * 500, *[1] * BLOCKS_WAITING), Shape(1, 1))
    assert len(queue.champion) == BLOCKS_WAITING and queue.dropped == 500
    _, blocks = queue.add(arrivals("candidate", 1), Shape(1, 1))
    assert blocks == [Block(1, 1, 1, 1)]


def test_no_user_stands_in_the_state() -> None:
    queue, _ = Queue().add([Arrival("champion", "ada@example.com", 1)], Shape(1, 1))
    assert "ada" not in json.dumps(queue.as_json())
    assert pseudonym("ada") != pseudonym("bob")


@pytest.mark.parametrize("outcome", [float("nan"), -0.1, 1.1, float("inf")])
def test_an_outcome_that_is_none_is_refused(outcome: float) -> None:
    with pytest.raises(ValueError, match="an outcome of"):
        Queue().add([Arrival("champion", "ada", outcome)], Shape(1, 1))
    with pytest.raises(ValueError, match="no arm"):
        Queue().add([Arrival("shadow", "ada", 1)], Shape(1, 1))  # type: ignore[arg-type]
    kept = Queue().add(arrivals("champion", 1), Shape(1, 1))[0].as_json()
    kept["champion"][0][1] = outcome
    with pytest.raises(ValueError):
        Queue.of_json(kept)
