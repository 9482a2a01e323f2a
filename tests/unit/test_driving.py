"""A canary driven to its end on a real ledger, with a router and outcomes made here; killed before every single call."""

import random
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import made_versions
import pytest
from made_versions import ADA, MODEL, Made

from slipway.errors import Refused, SlipwayError, Transient
from slipway.keeping.leased import leased
from slipway.ledger import audit, canaries, champions, events, leases
from slipway.ledger.canaries import Canary
from slipway.registry import promotion
from slipway.release.driving import Drive
from slipway.release.evidence import Outcome
from slipway.release.policy import FILE
from slipway.release.policy import Canary as Policy
from slipway.release.progress import Seen
from slipway.release.routers.protocol import Arm, Traffic

POLICY = Policy.model_validate(
    Policy.load(Path(__file__).parents[2] / FILE).model_dump()
    | {
        "steps": [
            {"candidate_percent": p, "min_requests": 20, "min_seconds": 2.0, "max_seconds": 60.0, "bake_seconds": 0.0}
            for p in (10.0, 50.0, 100.0)
        ],
        "warm_up": {"requests": 0, "seconds": 0.0},
        "unit": "request",
        "guardrails": {"success_rate": {"at_least": 0.99, "fails_at": 0.9}},
        "abort": [{"metric": "success_rate", "below": 0.5, "of_last": 20}],
        "deadline_seconds": 200.0,
        "broken_limit_seconds": 10.0,
    }
)


class Killed(BaseException):
    """As if the process had ended here."""


class World:
    """Traffic and outcomes that outlive whoever drives, and a count of the calls at which one can be killed."""

    def __init__(self, good: float = 0.9, candidate_good: float = 0.9) -> None:
        self.traffic = Traffic("1.0.0", None, 0.0, {"1.0.0": True})
        self.rates = {"champion": good, "candidate": candidate_good}
        self.answered = 1.0  # the candidate's share of answers that are no errors
        self.moves: list[float] = []
        self.calls, self.die_at, self.away = 0, -1, False
        self.unreadable: dict[str, str] = {}
        self.before: dict[int, Callable[[], Any]] = {}  # what happens in the world before the n-th look

    def call(self) -> None:
        self.calls += 1
        if self.calls == self.die_at:
            raise Killed
        if self.away:
            raise Transient("the router does not answer")

    def place(self, champion: str, candidate: str | None, percent: float) -> Traffic:
        self.traffic = Traffic(
            champion, candidate, percent, {champion: True} | ({candidate: True} if candidate else {})
        )
        if not self.moves or self.moves[-1] != percent:
            self.moves.append(percent)
        return self.traffic

    # --- as a router ----------------------------------------------------------------------------------------------------

    def look(self, cursor: Any = "router") -> Any:
        return self.traffic if cursor == "router" else self.outcomes(cursor)

    def prepare(self, champion: Arm, candidate: Arm) -> None:
        self.call()
        self.place(champion.version, candidate.version, 0)

    def move(self, candidate_percent: float, why: str) -> Traffic:
        self.call()
        found = self.place(str(self.traffic.champion), self.traffic.candidate, candidate_percent)
        self.call()
        return found

    def settle(self, candidate: Arm, keep_old: bool) -> None:
        self.call()
        if self.traffic.champion != candidate.version:
            self.place(candidate.version, self.traffic.champion, 0)

    def restore(self, champion: Arm) -> Traffic:
        self.call()
        other = {self.traffic.champion, self.traffic.candidate} - {champion.version, None}
        found = self.place(champion.version, next(iter(other), None), 0)
        self.call()
        return found

    def abandon(self) -> None:
        raise AssertionError("a canary leaves the old one warm")

    # --- as a source ----------------------------------------------------------------------------------------------------

    def outcomes(self, cursor: Any) -> Seen:
        at = cursor["read"] if cursor else 0
        if at in self.before:
            self.before.pop(at)()
        self.call()
        draw, found = random.Random(at), []
        for number in range(200):
            arm: Any = "candidate" if draw.random() < max(0.1, self.traffic.candidate_percent / 100) else "champion"
            user, right = f"{at}-{number}", draw.random() < self.rates[arm]
            found += [
                Outcome("quality", arm, user, float(right)),
                Outcome("success_rate", arm, user, self.answered if arm == "candidate" else 1.0),
            ]
        requests = sum(one.arm == "candidate" for one in found) // 2
        return Seen(found, requests, {"read": at + 1}, self.unreadable)


@pytest.fixture
def made(tmp_path: Path) -> Iterator[Made]:
    """A champion, and a candidate that may serve."""
    project = made_versions.project(tmp_path / "a project")
    for _ in range(3):
        project.stage(project.version(whole=False), "Production")
    promotion.promote(project.root, MODEL, "1.0.0", None, "first", ADA, mirrored=False)
    yield project
    project.database.close()


def begun(made: Made) -> Canary:
    with leased(made.database, f"canary:{MODEL}") as lease, made.database.write() as connection:
        about = {"policy": POLICY.model_dump(mode="json")}
        return canaries.begin(connection, MODEL, "1.1.0", "ab", "1.0.0", 1, about, lease, ADA, "a release")


def driven(made: Made, world: World, most: int = 300) -> Canary:
    """By one process, from wherever the canary stands; its looks are a second apart."""
    with made.database.read() as connection:
        canary = canaries.running(connection, MODEL)
    assert canary is not None
    turns = iter(range(most))

    def pause() -> float:
        next(turns)
        return 1.0

    with leased(made.database, f"canary:{MODEL}") as lease:
        arms = (Arm(MODEL, "1.0.0", "aa"), Arm(MODEL, "1.1.0", "ab"))
        return Drive(made.root, made.database, canary, arms, world, world, lease).run(pause)


def serving(made: Made) -> str:
    with made.database.read() as connection:
        found = champions.find(connection, MODEL)
    assert found is not None
    return found.version


def told(made: Made, kind: str) -> list[dict[str, Any]]:
    with made.database.read() as connection:
        return [event.payload for event in events.read(connection, kind=kind)]


def test_a_candidate_as_good_is_proved_on_a_ramp_and_becomes_the_champion(made: Made) -> None:
    begun(made)
    world = World()
    ended = driven(made, world)
    assert ended.outcome == "promoted" and serving(made) == "1.1.0"
    assert world.moves == [0, 10, 50, 100, 0] and world.traffic.champion == "1.1.0"
    assert world.traffic.candidate == "1.0.0", "the old one stays warm"
    assert [one["to"] for one in told(made, "canary_step")] == [10, 50, 100]
    (verdict,) = told(made, "canary_verdict")
    assert verdict["outcome"] == "promoted" and {one["metric"] for one in verdict["metrics"]} == {
        "quality",
        "success_rate",
    }
    assert audit.verify(made.root, mirrors=False).problems == []


def test_a_worse_one_goes_back_and_the_champion_was_never_touched(made: Made) -> None:
    begun(made)
    world = World(candidate_good=0.6)
    ended = driven(made, world)
    assert ended.outcome == "rolled back" and serving(made) == "1.0.0"
    assert (world.traffic.champion, world.traffic.candidate_percent) == ("1.0.0", 0)
    assert told(made, "canary_verdict")[0]["why"].startswith("quality: ")
    assert len(told(made, "model_promoted")) == 1


@pytest.mark.parametrize(("rate", "outcome"), [(0.9, "promoted"), (0.6, "rolled back")])
def test_killed_before_any_call_another_process_comes_to_the_same_end(made: Made, rate: float, outcome: str) -> None:
    begun(made)
    world, kills, draw = World(candidate_good=rate), 0, random.Random(7)
    while True:
        world.die_at = world.calls + draw.randint(1, 5)
        try:
            ended = driven(made, world)
            break
        except Killed:
            kills += 1
            assert kills < 200
    assert kills > 5 and ended.outcome == outcome
    assert serving(made) == ("1.1.0" if outcome == "promoted" else "1.0.0")
    assert world.traffic.champion == serving(made) and world.traffic.candidate_percent == 0
    steps = [one["to"] for one in told(made, "canary_step")]
    assert steps == sorted(set(steps)), "no step is told twice"
    assert len(told(made, "canary_verdict")) == 1
    assert len(told(made, "model_promoted")) == (2 if outcome == "promoted" else 1)
    assert audit.verify(made.root, mirrors=False).problems == []


def test_a_person_ends_it(made: Made) -> None:
    begun(made)
    world = World()

    def abort() -> None:
        with made.database.write() as connection:
            canaries.ask(connection, MODEL, "abort", ADA, "a complaint")

    world.before[2] = abort
    assert (
        driven(made, world).outcome == "aborted" and world.traffic.candidate_percent == 0 and serving(made) == "1.0.0"
    )


def test_a_pause_keeps_the_share_until_it_is_taken_back(made: Made) -> None:
    begun(made)
    world = World()

    def ask(what: Any) -> Callable[[], None]:
        def now() -> None:
            with made.database.write() as connection:
                canaries.ask(connection, MODEL, what, ADA, "lunch")

        return now

    world.before = {1: ask("pause"), 30: ask("resume")}
    seen_at: list[float] = []
    world.before[29] = lambda: seen_at.append(world.traffic.candidate_percent)
    assert driven(made, world).outcome == "promoted" and seen_at == [10]


def test_traffic_that_somebody_else_moved_ends_it(made: Made) -> None:
    begun(made)
    world = World()
    world.before[3] = lambda: world.place("1.0.0", "1.1.0", 0)  # the gateway's breaker does this
    ended = driven(made, world)
    assert ended.outcome == "rolled back" and "moved by somebody else" in told(made, "canary_verdict")[0]["why"]


def test_case_G04_what_cannot_be_read_holds_and_then_goes_back(made: Made) -> None:
    begun(made)
    world = World()
    world.unreadable = {"quality": "no judgement for 90 s"}
    ended = driven(made, world)
    assert ended.outcome == "rolled back" and world.moves == [0, 10, 0], "it never got more than the first share"
    assert "no judgement for 90 s" in told(made, "canary_verdict")[0]["why"]


def test_who_was_promoted_meanwhile_keeps_the_traffic(made: Made) -> None:
    begun(made)
    world = World()
    world.before[5] = lambda: promotion.promote(made.root, MODEL, "1.2.0", 1, "by hand", ADA, mirrored=False)
    ended = driven(made, world)
    assert ended.outcome == "superseded" and serving(made) == "1.2.0"
    assert (world.traffic.champion, world.traffic.candidate_percent) == ("1.2.0", 0)


def test_a_router_that_is_away_is_asked_until_the_traffic_is_back(made: Made) -> None:
    begun(made)
    world = World(candidate_good=0.3)
    back = world.restore
    left = [5]

    def restore(champion: Arm) -> Traffic:
        left[0] -= 1
        if left[0] > 0:
            raise Transient("the router does not answer")
        return back(champion)

    world.restore = restore  # type: ignore[method-assign]
    assert driven(made, world).outcome == "rolled back" and left == [0] and world.traffic.candidate_percent == 0


@pytest.mark.parametrize("asked", ["abort", None])
def test_case_A07_a_way_back_that_was_cut_short_ends_as_it_was_decided(made: Made, asked: Any) -> None:
    """Killed between the traffic and the ledger: the champion has everything, and the end is told by whoever comes next."""
    begun(made)
    world = World(candidate_good=0.9 if asked else 0.3)
    restore = world.restore

    def killed(champion: Arm) -> Traffic:
        restore(champion)
        raise Killed

    if asked:
        with made.database.write() as connection:
            canaries.ask(connection, MODEL, asked, ADA, "a complaint")
    world.restore = killed  # type: ignore[method-assign]
    with pytest.raises(Killed):
        driven(made, world)
    assert world.traffic.candidate_percent == 0 and serving(made) == "1.0.0" and not told(made, "canary_verdict")
    world.restore = restore  # type: ignore[method-assign]
    assert driven(made, world).outcome == ("aborted" if asked else "rolled back")
    assert len(told(made, "canary_verdict")) == 1 and serving(made) == "1.0.0"


def test_who_lost_the_lease_goes(made: Made) -> None:
    begun(made)
    world = World()

    def steal() -> None:
        with made.database.write() as connection:
            row = leases.holder(connection, f"canary:{MODEL}")
            assert row is not None
            leases.release(connection, row)
            leases.acquire(connection, f"canary:{MODEL}")

    world.before[3] = steal
    with pytest.raises(SlipwayError) as caught:
        driven(made, world)
    assert isinstance(caught.value, Refused) and "another process drives" in str(caught.value)
    with made.database.read() as connection:
        now = canaries.running(connection, MODEL)
    assert now is not None and now.progress["cursor"] == {"read": 3}, "nothing was written after it"


def test_case_A06_a_promotion_that_was_decided_is_finished_whatever_is_seen_afterwards(made: Made) -> None:
    """Killed between the champion's row and the traffic: it serves by then, so a canary cannot end otherwise any more."""
    begun(made)
    world = World()
    settle = world.settle

    def killed(candidate: Arm, keep_old: bool) -> None:
        raise Killed

    world.settle = killed  # type: ignore[method-assign]
    with pytest.raises(Killed):
        driven(made, world)
    assert serving(made) == "1.1.0" and world.traffic.champion == "1.0.0"
    world.settle = settle  # type: ignore[method-assign]
    world.answered = 0.0
    assert driven(made, world).outcome == "promoted" and world.traffic.champion == "1.1.0"
    assert len(told(made, "model_promoted")) == 2
