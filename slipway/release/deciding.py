"""What a canary does next. Pure: what stands, what was seen and the policy's step go in, one action with its reason comes out.

    stay      nothing speaks for another share yet, or against this one
    advance   the next step of the ramp: no guardrail is failing, and the step had its requests and its time
    promote   all traffic, for good: every primary metric is proved, and whoever must agree has agreed
    hold      nobody can tell how it goes: the traffic stays where it is, and nothing counts as passed
    back      all traffic to the champion, and how the release has ended

Undecided is never a pass. What speaks against the candidate is looked at before what speaks for it, and what a person
has said before both.
"""

from dataclasses import dataclass
from typing import Literal

Verdict = Literal["healthy", "failing", "undecided", "broken"]
Kind = Literal["stay", "advance", "promote", "hold", "back"]
Outcome = Literal["rolled back", "undecided", "aborted", "superseded"]
Approval = Literal["not needed", "missing", "given", "revoked", "rejected", "expired"]


@dataclass(frozen=True)
class Step:
    """One share of the traffic, and what it must have seen before the next one."""

    percent: float
    minimum_requests: int
    minimum_seconds: float
    maximum_seconds: float


@dataclass(frozen=True)
class Limits:
    """When a canary ends although nothing has decided it."""

    total_seconds: float
    broken_seconds: float


@dataclass(frozen=True)
class Moment:
    """All that a decision rests on."""

    verdict: Verdict
    reason: str  # of the verdict, in a line
    proved: bool  # every primary metric's W⁺ has reached 1/α
    step_requests: int  # of the candidate, since this step began
    step_seconds: float
    total_seconds: float  # since the canary began; pauses do not count
    broken_seconds: float  # how long the verdict has been *broken* without a break; 0 where it is not
    champion_ready: bool = True
    paused: bool = False
    aborted: str | None = None  # by whom and why
    superseded_by: str | None = None  # a newer candidate, where the policy lets it take this one's place
    approval: Approval = "not needed"


@dataclass(frozen=True)
class Action:
    """What to do, and why."""

    kind: Kind
    reason: str
    outcome: Outcome | None = None  # of `back`


def decide(moment: Moment, step: Step, following: Step | None, limits: Limits) -> Action:
    """The action for this moment; `following` is the step after this one, None where the next share is all."""
    return (
        _ended_by_people(moment)
        or _ended_by_what_was_seen(moment, limits)
        or _not_to_be_judged(moment)
        or _ended_by_time(moment, step, limits)
        or _forward(moment, step, following)
    )


def _ended_by_people(moment: Moment) -> Action | None:
    if moment.aborted is not None:
        return Action("back", f"aborted: {moment.aborted}", "aborted")
    if moment.approval in ("revoked", "rejected"):
        return Action("back", f"the approval of this promotion was {moment.approval}", "rolled back")
    if moment.approval == "expired":
        return Action("back", "nobody approved the promotion in time", "undecided")
    if moment.superseded_by is not None:
        return Action("back", f"superseded by {moment.superseded_by}", "superseded")
    return None


def _ended_by_what_was_seen(moment: Moment, limits: Limits) -> Action | None:
    if moment.verdict == "failing":
        return Action("back", moment.reason, "rolled back")
    if moment.verdict == "broken" and moment.broken_seconds >= limits.broken_seconds and moment.champion_ready:
        return Action("back", f"for {moment.broken_seconds:.0f} s nobody could tell: {moment.reason}", "rolled back")
    return None


def _not_to_be_judged(moment: Moment) -> Action | None:
    """Without a champion there is nothing to compare with, and nothing better to go back to."""
    if not moment.champion_ready:
        return Action("hold", "the champion itself does not answer; the candidate is not promoted for that")
    if moment.verdict == "broken":
        return Action("hold", moment.reason)
    if moment.paused:
        return Action("stay", "paused")
    return None


def _ended_by_time(moment: Moment, step: Step, limits: Limits) -> Action | None:
    if moment.proved and _ripe(moment, step):
        return None  # what is missing is a person's word or the next share, not evidence
    if moment.total_seconds >= limits.total_seconds:
        return Action("back", f"undecided after {moment.total_seconds:.0f} s: {moment.reason}", "undecided")
    if moment.step_seconds >= step.maximum_seconds and not _ripe(moment, step):
        seen = f"{moment.step_requests} of {step.minimum_requests} requests in {moment.step_seconds:.0f} s"
        return Action("back", f"undecided: at {step.percent:g} % the candidate had {seen}", "undecided")
    return None


def _forward(moment: Moment, step: Step, following: Step | None) -> Action:
    if not _ripe(moment, step):
        seen = f"{moment.step_requests} of {step.minimum_requests} requests"
        return Action("stay", f"{seen}, {moment.step_seconds:.0f} of {step.minimum_seconds:g} s at {step.percent:g} %")
    if following is not None:
        return Action("advance", f"no guardrail is failing; on to {following.percent:g} %")
    if not moment.proved:
        return Action("stay", f"not proved yet: {moment.reason}")
    if moment.approval == "missing":
        return Action("stay", "proved; waits for a person's approval")
    return Action("promote", moment.reason)


def _ripe(moment: Moment, step: Step) -> bool:
    return moment.step_requests >= step.minimum_requests and moment.step_seconds >= step.minimum_seconds
