"""What a canary does next. Pure: what stands, what was seen and the policy go in, one action with its reason comes out.

    stay      nothing speaks for another share yet, or against this one
    advance   the next step: no guardrail is failing, and this one had its requests and its time; all traffic only when every
              metric that must pass has passed, and whoever must agree has agreed
    promote   the candidate has had all traffic for as long as was asked: it is the champion
    hold      nobody can tell how it goes: the traffic stays where it is, and nothing counts as passed
    back      all traffic to the champion, and how the release has ended

Undecided is never a pass. What speaks against the candidate is looked at before what speaks for it, and what people have said
before both.
"""

from dataclasses import dataclass
from typing import Literal

from slipway.release.policy import Canary, Step
from slipway.release.verdicts import Word

Kind = Literal["stay", "advance", "promote", "hold", "back"]
Outcome = Literal["rolled back", "undecided", "aborted", "superseded"]
Approval = Literal["not needed", "missing", "given", "revoked", "rejected", "expired"]


@dataclass(frozen=True)
class Moment:
    """All that a decision rests on, beside the policy."""

    word: Word  # of all metrics together
    reason: str  # for it, in a line
    requests: int  # of the candidate, since this step began
    seconds: float  # since this step began
    baked_seconds: float  # since the step had its requests and its time; 0 before
    total_seconds: float  # since the canary began; pauses do not count
    broken_seconds: float  # how long the word has been *broken* without a break; 0 where it is not
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


def decide(moment: Moment, policy: Canary, at: int) -> Action:
    """The action for this moment at a step of the policy."""
    step, following = policy.steps[at], policy.steps[at + 1] if at + 1 < len(policy.steps) else None
    return (
        _ended_by_people(moment)
        or _ended_by_what_was_seen(moment, policy)
        or _not_to_be_judged(moment)
        or _ended_by_time(moment, policy, step)
        or _forward(moment, step, following)
    )


def has_had_its_minimum(requests: int, seconds: float, step: Step) -> bool:
    """Whether a step has had its requests and its time; from then on it bakes."""
    return requests >= step.min_requests and seconds >= step.min_seconds


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


def _ended_by_what_was_seen(moment: Moment, policy: Canary) -> Action | None:
    if moment.word == "failing":
        return Action("back", moment.reason, "rolled back")
    if moment.word == "broken" and moment.broken_seconds >= policy.broken_limit_seconds and moment.champion_ready:
        return Action("back", f"for {moment.broken_seconds:.0f} s nobody could tell: {moment.reason}", "rolled back")
    return None


def _not_to_be_judged(moment: Moment) -> Action | None:
    """Without a champion there is nothing to compare with, and nothing better to go back to."""
    if not moment.champion_ready:
        return Action("hold", "the champion itself does not answer; the candidate is not promoted for that")
    if moment.word == "broken":
        return Action("hold", moment.reason)
    if moment.paused:
        return Action("stay", "paused")
    return None


def _ended_by_time(moment: Moment, policy: Canary, step: Step) -> Action | None:
    ripe = _is_ripe(moment, step)
    if moment.word == "healthy" and ripe:
        return None  # what is missing is a person's word or the next share, not evidence
    if moment.total_seconds >= policy.deadline_seconds:
        return Action("back", f"undecided after {moment.total_seconds:.0f} s: {moment.reason}", "undecided")
    if moment.seconds >= step.max_seconds and not ripe:
        seen = f"{moment.requests} of {step.min_requests} requests in {moment.seconds:.0f} s"
        return Action("back", f"undecided: at {step.candidate_percent:g} % the candidate had {seen}", "undecided")
    return None


def _forward(moment: Moment, step: Step, following: Step | None) -> Action:
    if not _is_ripe(moment, step):
        had = f"{moment.requests} of {step.min_requests} requests and {moment.seconds:.0f} of {step.min_seconds:g} s"
        baked = f", {moment.baked_seconds:.0f} of {step.bake_seconds:g} s baked" if step.bake_seconds else ""
        return Action("stay", f"{step.candidate_percent:g} % has had {had}{baked}")
    if following is None:
        return Action("promote", moment.reason)
    if following.candidate_percent < 100:
        return Action("advance", f"no guardrail is failing; on to {following.candidate_percent:g} %")
    if moment.word != "healthy":
        return Action("stay", f"not proved yet: {moment.reason}")
    if moment.approval == "missing":
        return Action("stay", "proved; waits for a person's approval")
    return Action("advance", f"{moment.reason}; on to all traffic")


def _is_ripe(moment: Moment, step: Step) -> bool:
    enough = has_had_its_minimum(moment.requests, moment.seconds, step)
    return enough and moment.baked_seconds >= step.bake_seconds
