"""What a canary does next: every combination of what can be the case, and each rule by name."""

import itertools
from dataclasses import replace
from typing import get_args

import pytest

from slipway.release.deciding import Action, Approval, Limits, Moment, Step, Verdict, decide

STEP = Step(percent=25, minimum_requests=100, minimum_seconds=60, maximum_seconds=600)
NEXT = Step(percent=50, minimum_requests=100, minimum_seconds=60, maximum_seconds=600)
LIMITS = Limits(total_seconds=3600, broken_seconds=120)
RIPE = Moment("undecided", "accuracy: -0.01, from -0.04 to 0.02", False, 100, 60, 300, 0)
PROVED = replace(RIPE, verdict="healthy", reason="accuracy is proved", proved=True)


def next_of(moment: Moment, last: bool = False) -> Action:
    return decide(moment, STEP, None if last else NEXT, LIMITS)


def every_moment() -> list[Moment]:
    """Every combination of what a decision reads, each quantity below and at its limit."""
    return [
        Moment(verdict, "so it was seen", proved, requests, seconds, total, broken, ready, paused, aborted, newer, approval)
        for verdict, proved, requests, seconds, total, broken, ready, paused, aborted, newer, approval in itertools.product(
            get_args(Verdict), (False, True), (0, 99, 100), (0, 59, 60, 600), (0, 3599, 3600), (0, 119, 120), (True, False),
            (False, True), (None, "by alex"), (None, "1.3.0"), get_args(Approval),
        )
    ]  # fmt: skip


@pytest.fixture(scope="module")
def moments() -> list[Moment]:
    found = every_moment()
    assert len(found) == 4 * 2 * 3 * 4 * 3 * 3 * 2 * 2 * 2 * 2 * 6
    return found


def test_promoted_is_only_what_is_proved_healthy_agreed_and_at_its_last_step(moments: list[Moment]) -> None:
    promoted = [moment for moment in moments if next_of(moment, last=True).kind == "promote"]
    assert promoted
    for moment in promoted:
        assert moment.proved and moment.verdict in ("healthy", "undecided") and moment.champion_ready
        assert moment.approval in ("not needed", "given") and not moment.paused
        assert moment.aborted is None and moment.superseded_by is None
        assert moment.step_requests >= 100 and moment.step_seconds >= 60
    assert not any(next_of(moment).kind == "promote" for moment in moments), "there is a step left"


def test_more_traffic_is_never_given_to_what_fails_or_cannot_be_seen(moments: list[Moment]) -> None:
    forward = [moment for moment in moments if next_of(moment).kind == "advance"]
    assert forward
    for moment in forward:
        assert moment.verdict in ("healthy", "undecided") and moment.champion_ready and not moment.paused
        assert moment.step_requests >= 100 and moment.step_seconds >= 60


def test_what_fails_goes_back_whatever_else_is_the_case(moments: list[Moment]) -> None:
    failing = [moment for moment in moments if moment.verdict == "failing"]
    assert len(failing) == len(moments) / 4
    assert {next_of(moment, last).kind for moment in failing for last in (False, True)} == {"back"}


def test_every_way_back_names_how_it_ended_and_nothing_else_does(moments: list[Moment]) -> None:
    for moment in moments:
        action = next_of(moment, last=True)
        assert (action.outcome is not None) == (action.kind == "back") and action.reason


def test_a_ramp_goes_on_without_proof_and_stops_before_all() -> None:
    assert next_of(RIPE).kind == "advance"
    assert next_of(RIPE, last=True) == Action("stay", f"not proved yet: {RIPE.reason}")
    assert next_of(PROVED, last=True) == Action("promote", "accuracy is proved")


@pytest.mark.parametrize("early", [replace(PROVED, step_requests=99), replace(PROVED, step_seconds=59)])
def test_a_step_has_its_requests_and_its_time(early: Moment) -> None:
    assert next_of(early).kind == "stay"
    assert next_of(early, last=True).kind == "stay"


def test_case_G04_what_cannot_be_seen_holds_and_then_goes_back() -> None:
    blind = replace(PROVED, verdict="broken", reason="no figures for 40 s", broken_seconds=119)
    assert next_of(blind, last=True) == Action("hold", "no figures for 40 s")
    ended = next_of(replace(blind, broken_seconds=120))
    assert (ended.kind, ended.outcome) == ("back", "rolled back") and "no figures" in ended.reason


def test_case_G05_without_traffic_it_ends_undecided() -> None:
    idle = replace(RIPE, step_requests=3, step_seconds=600)
    ended = next_of(idle)
    assert (ended.kind, ended.outcome) == ("back", "undecided") and "3 of 100 requests" in ended.reason


def test_what_is_not_proved_in_time_ends_undecided_and_what_is_may_wait_for_a_person() -> None:
    assert next_of(replace(RIPE, total_seconds=3600), last=True).outcome == "undecided"
    waiting = replace(PROVED, total_seconds=9999, step_seconds=9999, approval="missing")
    assert next_of(waiting, last=True) == Action("stay", "proved; waits for a person's approval")
    assert next_of(replace(waiting, approval="given"), last=True).kind == "promote"
    assert next_of(replace(waiting, approval="expired"), last=True).outcome == "undecided"


def test_case_G07_a_champion_that_fails_promotes_nobody() -> None:
    for moment in (PROVED, replace(PROVED, verdict="broken", broken_seconds=999), replace(PROVED, total_seconds=9999)):
        action = next_of(replace(moment, champion_ready=False), last=True)
        assert action.kind == "hold" and "champion" in action.reason


@pytest.mark.parametrize("said", ["revoked", "rejected"])
def test_case_F04_an_approval_that_is_taken_back_ends_the_canary(said: Approval) -> None:
    ended = next_of(replace(PROVED, approval=said))
    assert (ended.kind, ended.outcome) == ("back", "rolled back") and said in ended.reason


def test_a_pause_stops_the_ramp_and_no_alarm() -> None:
    assert next_of(replace(PROVED, paused=True)) == Action("stay", "paused")
    assert next_of(replace(PROVED, paused=True, verdict="failing")).kind == "back"


def test_people_come_first() -> None:
    everything = replace(PROVED, verdict="failing", aborted="by alex", superseded_by="1.3.0", approval="revoked")
    assert next_of(everything).outcome == "aborted"
    assert next_of(replace(everything, aborted=None)).outcome == "rolled back"
    assert next_of(replace(PROVED, superseded_by="1.3.0")).outcome == "superseded"
