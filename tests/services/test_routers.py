"""What every router promises, on each platform: the same calls, the same end, whatever dies or gets in between."""

import contextlib
import time
from collections.abc import Callable, Iterator

import pytest
from pace import slowness
from router_rigs import Dying, Killed, Rig, rig

from slipway.errors import Refused, SlipwayError, StageError, Transient
from slipway.release.routers.protocol import Router, Traffic

KINDS = ["local", "percent", "canary", "llm", "kubernetes", "sagemaker"]
OLD, NEW, NEXT = "1.0.0", "2.0.0", "3.0.0"


@pytest.fixture(scope="module", params=KINDS)
def made(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Rig]:
    with rig(request.param, tmp_path_factory.mktemp(request.param)) as platform:
        yield platform


@pytest.fixture
def platform(made: Rig) -> Rig:
    made.empty()
    return made


def steps(platform: Rig, keep_old: bool) -> list[Callable[[Router], object]]:
    """A promotion, as the calls that make it."""
    old, new = platform.arm(OLD), platform.arm(NEW)
    moves = [lambda router, share=share: router.move(share, "a step") for share in platform.steps]
    return [lambda router: router.prepare(old, new), *moves, lambda router: router.settle(new, keep_old)]


def test_a_candidate_goes_up_step_by_step_takes_over_and_the_way_back_is_kept(platform: Rig) -> None:
    router, old, new = platform.router(), platform.arm(OLD), platform.arm(NEW)
    assert router.look().candidate is None
    router.prepare(old, new)
    assert platform.shares() == {OLD: 100} and platform.there() == {OLD, NEW}
    assert router.look() == Traffic(OLD, NEW, 0, {OLD: True, NEW: True})
    for share in platform.steps:
        now = router.move(share, "a step")
        assert (now.champion, now.candidate, now.candidate_percent) == (OLD, NEW, share)
        assert platform.shares() == ({OLD: 100 - share, NEW: share} if share < 100 else {NEW: 100})
    router.settle(new, keep_old=True)
    assert platform.shares() == {NEW: 100} and platform.there() >= {NEW}
    now = router.look()
    assert (now.champion, now.candidate, now.candidate_percent) == (NEW, OLD, 0)
    now = router.restore(old)
    assert (now.champion, now.candidate_percent) == (OLD, 0) and platform.shares() == {OLD: 100}
    router.abandon()
    assert platform.shares() == {OLD: 100} and platform.there() == {OLD}
    assert router.look().candidate is None and router.look().champion == OLD


def test_every_call_may_be_made_twice(platform: Rig) -> None:
    for step in steps(platform, keep_old=False):
        step(platform.router())
        step(platform.router())
    assert platform.shares() == {NEW: 100} and platform.there() == {NEW}
    for _ in range(2):
        platform.router().restore(platform.arm(NEW))
        platform.router().abandon()
    assert platform.shares() == {NEW: 100} and platform.there() == {NEW}


def until_killed(platform: Rig, at: int) -> tuple[bool, int]:
    """A promotion that dies before its n-th write: whether it did, and in which step."""
    dying, calls = Dying(at), steps(platform, keep_old=False)
    for number, step in enumerate(calls):
        try:
            step(platform.router(dying))
        except Killed:
            return True, number
    return False, len(calls)


THEN = ["in turn", pytest.param("goes on", marks=pytest.mark.chaos), pytest.param("goes back", marks=pytest.mark.chaos)]


@pytest.mark.parametrize("then", THEN)
def test_killed_before_any_write_the_next_one_goes_on_or_back(platform: Rig, then: str) -> None:
    seen = set()
    for at in range(1, 60):
        platform.empty()
        died, step = until_killed(platform, at)
        if step > 0:
            assert sum(platform.shares().values()) == 100, "nobody is lost in between"
        if then == "goes on" or (then == "in turn" and at % 2):
            for call in steps(platform, keep_old=False)[step:]:
                call(platform.router())
            assert platform.shares() == {NEW: 100} and platform.there() == {NEW}, (at, step)
        else:
            platform.router().restore(platform.arm(OLD))
            assert platform.shares() == {OLD: 100}, (at, step)
            platform.router().abandon()
            assert platform.there() == {OLD}, (at, step)
        if not died:
            break
        seen.add(step)
    assert not died and len(seen) >= 3, "the kills reached most steps, and then there was nothing left to kill"


def test_a_way_back_that_is_killed_is_gone_again(platform: Rig) -> None:
    for at in range(1, 20):
        platform.empty()
        for step in steps(platform, keep_old=True):
            step(platform.router())
        dying = Dying(at)
        try:
            platform.router(dying).restore(platform.arm(OLD))
        except Killed:
            assert sum(platform.shares().values()) == 100
            platform.router().restore(platform.arm(OLD))
        assert platform.shares() == {OLD: 100} and platform.router().look().champion == OLD
        if dying.count < at:
            break
    assert dying.count < at and at >= 2


def test_a_letting_go_that_is_killed_can_be_followed_by_the_same_candidate(platform: Rig) -> None:
    old, new = platform.arm(OLD), platform.arm(NEW)
    platform.router().prepare(old, new)
    for at in range(1, 20):
        dying = Dying(at)
        with contextlib.suppress(Killed):
            platform.router(dying).abandon()
        platform.router().prepare(old, new)
        assert platform.router().look().ready.get(NEW) and platform.shares() == {OLD: 100}
        if dying.count < at:
            break
    assert dying.count < at and at >= 2


def test_a_candidate_that_does_not_come_up_gets_nothing_and_is_let_go(platform: Rig) -> None:
    router, old, new = platform.router(), platform.arm(OLD), platform.arm(NEW)
    router.prepare(old, platform.arm(NEXT))
    router.restore(old)
    router.abandon()
    platform.unready(NEW)
    with pytest.raises((Transient, StageError), match=f"{NEW}|could not be given"):
        router.prepare(old, new)
    with pytest.raises(Refused, match=r"not ready|no candidate"):
        router.move(100, "anyway")
    assert platform.shares() == {OLD: 100}
    assert router.restore(old).candidate_percent == 0
    router.abandon()
    assert platform.shares() == {OLD: 100} and platform.there() == {OLD}
    platform.unready()
    router.prepare(old, new)
    assert router.look().ready[NEW]


def test_a_version_that_stands_nowhere_any_more_comes_back(platform: Rig) -> None:
    for step in steps(platform, keep_old=False):
        step(platform.router())
    assert platform.there() == {NEW}
    now = platform.router().restore(platform.arm(OLD))
    assert now.champion == OLD and platform.shares() == {OLD: 100}


def test_another_candidate_takes_the_place_of_one_that_was_left(platform: Rig) -> None:
    router, old = platform.router(), platform.arm(OLD)
    router.prepare(old, platform.arm(NEW))
    router.prepare(old, platform.arm(NEXT))
    assert router.look().candidate == NEXT and platform.there() == {OLD, NEXT} and platform.shares() == {OLD: 100}


def test_calls_that_make_no_sense_are_refused_and_change_nothing(platform: Rig) -> None:
    router, old, new = platform.router(), platform.arm(OLD), platform.arm(NEW)
    router.prepare(old, new)
    wrong: list[tuple[Callable[[], object], str]] = [
        (lambda: router.move(101, "x"), "within 0 and 100"),
        (lambda: router.move(float("nan"), "x"), "within 0 and 100"),
        (lambda: router.settle(new, True), "not all the traffic"),
        (lambda: router.prepare(new, platform.arm(NEXT)), "in charge"),
        (lambda: router.prepare(old, old), "cannot be its candidate"),
    ]
    if len(platform.steps) > 1:
        router.move(50, "x")
        wrong.append((router.abandon, "before it is let go"))
        expected = {OLD: 50, NEW: 50}
    else:
        wrong.append((lambda: router.move(50, "x"), "switched, not split"))
        expected = {OLD: 100}
    for call, words in wrong:
        with pytest.raises(Refused, match=words):
            call()
    assert platform.shares() == expected and platform.there() == {OLD, NEW}


def test_somebody_else_changes_it_in_between_and_our_change_is_made_on_top(platform: Rig) -> None:
    router = platform.router()
    router.prepare(platform.arm(OLD), platform.arm(NEW))
    platform.disturb(3)
    platform.router().move(platform.steps[-1], "a step")
    assert platform.shares() == {NEW: 100}


def test_a_platform_that_does_not_answer_is_a_passing_trouble(platform: Rig) -> None:
    router, old = platform.unreachable(), platform.arm(OLD)
    calls: list[Callable[[], object]] = [
        router.look, lambda: router.prepare(old, platform.arm(NEW)), lambda: router.move(0, "x"),
        lambda: router.settle(old, True), lambda: router.restore(old), router.abandon,
    ]  # fmt: skip
    for call in calls:
        with pytest.raises(Transient) as caught:
            call()
        assert len(str(caught.value).splitlines()) == 1 and isinstance(caught.value, SlipwayError)


@pytest.mark.alone
def test_the_way_back_is_under_a_second(platform: Rig) -> None:
    router, old = platform.router(), platform.arm(OLD)
    for step in steps(platform, keep_old=False)[:-1]:
        step(router)
    begun = time.monotonic()
    router.restore(old)
    took = time.monotonic() - begun
    assert platform.shares() == {OLD: 100}
    assert took < 1 * slowness(), took
    print(f"{platform.name}: {1000 * took:.0f} ms")
