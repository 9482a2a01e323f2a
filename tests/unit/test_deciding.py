"""What a canary does next: every combination of what can be the case, and each rule by name."""

import itertools
from dataclasses import replace
from pathlib import Path
from typing import get_args

import pytest

from slipway.release.deciding import Action, Approval, Moment, decide
from slipway.release.policy import FILE, Canary, Step
from slipway.release.verdicts import Word

SHIPPED = Canary.load(Path(__file__).parents[2] / FILE)
FIRST, LAST, ALL = 0, 1, 2  # steps: more are to come; all traffic comes next; the candidate has it


def step(percent: float, bake: float = 0) -> Step:
    return Step(candidate_percent=percent, min_requests=100, min_seconds=60, max_seconds=600, bake_seconds=bake)


POLICY = SHIPPED.model_copy(
    update={"steps": [step(25), step(50, 10), step(100, 30)], "deadline_seconds": 3600.0, "broken_limit_seconds": 120.0}
)
RIPE = Moment("undecided", "quality: -0.01, from -0.04 to 0.02", 100, 60, 30, 300, 0)
PROVED = replace(RIPE, word="healthy", reason="quality passed")


def next_of(moment: Moment, at: int = FIRST) -> Action:
    return decide(moment, POLICY, at)


@pytest.fixture(scope="module")
def moments() -> list[Moment]:
    """Every combination of what a decision reads, each quantity below and at its limit."""
    found = [
        Moment(word, "so it was seen", requests, seconds, baked, total, broken, ready, paused, aborted, newer, approval)
        for word, requests, seconds, baked, total, broken, ready, paused, aborted, newer, approval in itertools.product(
            get_args(Word), (0, 99, 100), (59, 60, 600), (0, 10, 30), (0, 3599, 3600), (0, 119, 120), (True, False),
            (False, True), (None, "by alex"), (None, "1.3.0"), get_args(Approval),
        )
    ]  # fmt: skip
    assert len(found) == 4 * 3 * 3 * 3 * 3 * 3 * 2 * 2 * 2 * 2 * 6
    return found


def test_all_traffic_is_given_only_to_what_is_proved_agreed_and_ripe(moments: list[Moment]) -> None:
    advanced = [moment for moment in moments if next_of(moment, LAST).kind == "advance"]
    assert advanced
    for moment in advanced:
        assert moment.word == "healthy" and moment.champion_ready and not moment.paused
        assert moment.approval in ("not needed", "given")
        assert moment.aborted is None and moment.superseded_by is None
        assert moment.requests >= 100 and moment.seconds >= 60 and moment.baked_seconds >= 10


def test_promoted_is_only_what_has_had_all_traffic_long_enough(moments: list[Moment]) -> None:
    assert not any(next_of(moment, at).kind == "promote" for moment in moments for at in (FIRST, LAST))
    promoted = [moment for moment in moments if next_of(moment, ALL).kind == "promote"]
    assert promoted
    for moment in promoted:
        assert moment.word in ("healthy", "undecided") and moment.champion_ready and not moment.paused
        assert moment.requests >= 100 and moment.seconds >= 60 and moment.baked_seconds >= 30


def test_more_traffic_is_never_given_to_what_fails_or_cannot_be_seen(moments: list[Moment]) -> None:
    forward = [moment for moment in moments if next_of(moment).kind == "advance"]
    assert forward
    for moment in forward:
        assert moment.word in ("healthy", "undecided") and moment.champion_ready and not moment.paused
        assert moment.requests >= 100 and moment.seconds >= 60


def test_what_fails_goes_back_whatever_else_is_the_case(moments: list[Moment]) -> None:
    failing = [moment for moment in moments if moment.word == "failing"]
    assert len(failing) == len(moments) / 4
    assert {next_of(moment, at).kind for moment in failing for at in (FIRST, LAST, ALL)} == {"back"}


def test_every_way_back_names_how_it_ended_and_nothing_else_does(moments: list[Moment]) -> None:
    for moment in moments:
        action = next_of(moment, LAST)
        assert (action.outcome is not None) == (action.kind == "back") and action.reason


def test_a_ramp_goes_on_without_proof_and_stops_before_all() -> None:
    assert next_of(RIPE).kind == "advance"
    assert next_of(RIPE, LAST) == Action("stay", f"not proved yet: {RIPE.reason}")
    assert next_of(PROVED, LAST) == Action("advance", "quality passed; on to all traffic")
    assert next_of(PROVED, ALL) == Action("promote", "quality passed")


@pytest.mark.parametrize(
    "early", [replace(PROVED, requests=99), replace(PROVED, seconds=59), replace(PROVED, baked_seconds=9)]
)
def test_a_step_has_its_requests_its_time_and_its_bake(early: Moment) -> None:
    assert {next_of(early, at).kind for at in (LAST, ALL)} == {"stay"}
    assert next_of(early, LAST).reason.startswith("50 % has had ") and "of 10 s baked" in next_of(early, LAST).reason


def test_case_G04_what_cannot_be_seen_holds_and_then_goes_back() -> None:
    blind = replace(PROVED, word="broken", reason="no figures for 40 s", broken_seconds=119)
    assert next_of(blind, LAST) == Action("hold", "no figures for 40 s")
    ended = next_of(replace(blind, broken_seconds=120))
    assert (ended.kind, ended.outcome) == ("back", "rolled back") and "no figures" in ended.reason


def test_case_G05_without_traffic_it_ends_undecided() -> None:
    idle = replace(RIPE, requests=3, seconds=600)
    ended = next_of(idle)
    assert (ended.kind, ended.outcome) == ("back", "undecided") and "3 of 100 requests" in ended.reason
    assert next_of(replace(RIPE, seconds=600), LAST).kind == "stay", "with traffic it has until the deadline"


def test_what_is_not_proved_in_time_ends_undecided_and_what_is_may_wait_for_a_person() -> None:
    assert next_of(replace(RIPE, total_seconds=3600), LAST).outcome == "undecided"
    waiting = replace(PROVED, total_seconds=9999, seconds=9999, approval="missing")
    assert next_of(waiting, LAST) == Action("stay", "proved; waits for a person's approval")
    assert next_of(replace(waiting, approval="given"), LAST).kind == "advance"
    assert next_of(replace(waiting, approval="expired"), LAST).outcome == "undecided"


def test_case_G07_a_champion_that_fails_promotes_nobody() -> None:
    for moment in (PROVED, replace(PROVED, word="broken", broken_seconds=999), replace(PROVED, total_seconds=9999)):
        action = next_of(replace(moment, champion_ready=False), LAST)
        assert action.kind == "hold" and "champion" in action.reason


@pytest.mark.parametrize("said", ["revoked", "rejected"])
def test_case_F04_an_approval_that_is_taken_back_ends_the_canary(said: Approval) -> None:
    ended = next_of(replace(PROVED, approval=said))
    assert (ended.kind, ended.outcome) == ("back", "rolled back") and said in ended.reason


def test_a_pause_stops_the_ramp_and_no_alarm() -> None:
    assert next_of(replace(PROVED, paused=True)) == Action("stay", "paused")
    assert next_of(replace(PROVED, paused=True, word="failing")).kind == "back"


def test_people_come_first() -> None:
    everything = replace(PROVED, word="failing", aborted="by alex", superseded_by="1.3.0", approval="revoked")
    assert next_of(everything).outcome == "aborted"
    assert next_of(replace(everything, aborted=None)).outcome == "rolled back"
    assert next_of(replace(PROVED, superseded_by="1.3.0")).outcome == "superseded"
