"""What the evidence says of each metric, and what all of them say together: healthy, failing, undecided or broken. Pure.

Promotion asks every metric that must pass to pass at α; no correction is due, for a false promotion has to get past all of them.
Any of k metrics can roll back, so each must reach k/β.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

from slipway.release.intervals import interval
from slipway.release.planning import more_requests
from slipway.release.policy import Canary, Role, Watched
from slipway.release.rates import Rate
from slipway.release.sequential import Sequential

Word = Literal["healthy", "failing", "undecided", "broken"]
UNSEEN = "nothing seen yet"


@dataclass(frozen=True)
class Broken:
    """A metric that cannot be read: missing, stale, not a number. Never a reason to go on."""

    why: str


State = Sequential | Rate | Broken


@dataclass(frozen=True)
class Bars:
    """What evidence must reach, as logarithms."""

    promote: float
    rollback: float

    @classmethod
    def of(cls, policy: Canary) -> "Bars":
        return cls(-math.log(policy.alpha), math.log(len(policy.watched) / policy.beta))


@dataclass(frozen=True)
class Verdict:
    """One metric: the word, why, and how sure."""

    metric: str
    role: Role
    word: Word
    reason: str
    must_pass: bool
    promote_evidence: float | None = None  # log W⁺
    rollback_evidence: float | None = None  # log W⁻
    estimate: float | None = None  # candidate minus champion; of a promised rate, the candidate's own
    low: float | None = None
    high: float | None = None
    more_requests: int | None = None  # to the candidate, that would likely settle it; None where none would


@dataclass(frozen=True)
class Judgement:
    """All metrics together."""

    word: Word
    reason: str
    verdicts: tuple[Verdict, ...]


def judge(policy: Canary, states: Mapping[str, State], intervals: bool = True) -> Judgement:
    """Every metric of the policy; one that is not among the states is broken.

    Intervals are for people; without them the same words come some hundred times faster.
    """
    bars = Bars.of(policy)
    missing = Broken("nothing has measured it")
    verdicts = tuple(of_metric(one, states.get(one.name, missing), bars, intervals) for one in policy.watched)
    return of_all(verdicts)


def of_all(verdicts: Sequence[Verdict]) -> Judgement:
    """Failing before broken before undecided; healthy where every metric that must pass does, and there is one."""
    for word in ("failing", "broken"):
        if found := [one for one in verdicts if one.word == word]:
            return Judgement(word, "; ".join(f"{one.metric}: {one.reason}" for one in found), tuple(verdicts))
    asked = [one for one in verdicts if one.must_pass]
    open_ = [one for one in asked if one.word != "healthy"]
    if asked and not open_:
        return Judgement("healthy", f"{', '.join(one.metric for one in asked)} passed", tuple(verdicts))
    why = "; ".join(f"{one.metric}: {one.reason}" for one in open_) or "no metric that must pass"
    return Judgement("undecided", why, tuple(verdicts))


def of_metric(watched: Watched, state: State, bars: Bars, intervals: bool = True) -> Verdict:
    """One metric's word: a rollback that was earned once stays, a promotion must be earned now."""
    if isinstance(state, Broken) or not _fits(watched, state):
        why = state.why if isinstance(state, Broken) else "its state is of another question than the policy asks"
        return Verdict(watched.name, watched.role, "broken", why, watched.must_pass)
    if isinstance(state, Rate):
        return _of_rate(watched, state, bars)
    low, high = interval(state, bars.promote, bars.rollback) if intervals else (None, None)
    word = _word(state.promote_evidence, state.rollback.peak, bars)
    needed = more_requests(state, bars.promote, bars.rollback)
    return Verdict(
        watched.name, watched.role, word, _said(word, _difference(state, low, high), needed), watched.must_pass,
        state.promote_evidence, state.rollback_evidence, state.difference, low, high, needed,
    )  # fmt: skip


def _fits(watched: Watched, state: Sequential | Rate) -> bool:
    if isinstance(state, Rate):
        return state.limits == watched.limits
    return state.question == watched.question


def _of_rate(watched: Watched, state: Rate, bars: Bars) -> Verdict:
    low, high = state.interval(math.exp(-bars.promote))
    word = _word(state.promote_evidence, state.rollback_peak, bars)
    needed = state.more_requests(bars.promote, bars.rollback)
    estimate = state.good / state.answers if state.answers else None
    asked = f"asked for {100 * state.limits.at_least:g}"
    against = UNSEEN if estimate is None else f"{100 * estimate:.2f} % ({100 * low:.2f} to {100 * high:.2f}; {asked})"
    return Verdict(
        watched.name, watched.role, word, _said(word, against, needed), watched.must_pass,
        state.promote_evidence, state.rollback_evidence, estimate, low, high, needed,
    )  # fmt: skip


def _word(promote: float, rollback_peak: float, bars: Bars) -> Word:
    if rollback_peak >= bars.rollback:
        return "failing"
    return "healthy" if promote >= bars.promote else "undecided"


def _difference(state: Sequential, low: float | None, high: float | None) -> str:
    if state.difference is None:
        return UNSEEN
    allowed = f"promoted above {100 * state.question.low:+g}, as good as hoped at {100 * state.question.high:+g}"
    between = "" if low is None or high is None else f"{100 * low:+.1f} to {100 * high:+.1f}; "
    return f"{100 * state.difference:+.1f} points ({between}{allowed})"


def _said(word: Word, seen: str, needed: int | None) -> str:
    if word == "healthy":
        return f"{seen}: good enough"
    if word == "failing":
        return f"{seen}: not good enough"
    if seen == UNSEEN:
        return UNSEEN
    more = (
        f"about {needed:,} more requests to the candidate would settle it"
        if needed
        else "no more traffic would settle it as things stand"
    )
    return f"{seen}: {more}"
