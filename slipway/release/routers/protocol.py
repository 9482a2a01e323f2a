"""What every router does, whatever it steers.

There are two places. The champion is in charge; the candidate, if there is one, stands beside it with its share of the
traffic: in a canary, or kept warm after it was replaced. A router decides nothing. Each method can be called again
after a kill anywhere in it: what is done already is found done, because state is read from the world and kept nowhere else.
"""

import math
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Protocol

from slipway.errors import Refused, Transient

TRIES = 5  # of a change that somebody else's came before


@dataclass(frozen=True)
class Arm:
    """A version to serve, and where a platform finds its bytes."""

    model: str
    version: str
    identity: str
    uri: str | None = None  # s3://…, oci://…; none: this machine has them


@dataclass(frozen=True)
class Traffic:
    """What a platform says it does now."""

    champion: str | None  # a version
    candidate: str | None
    candidate_percent: float
    ready: Mapping[str, bool] = field(default_factory=dict)  # by version


class Router(Protocol):
    """Moves traffic between two places of one platform."""

    def look(self) -> Traffic:
        """What is there now. Transient when nobody answers, Refused when what is there cannot be ours."""

    def prepare(self, champion: Arm, candidate: Arm) -> None:
        """The candidate deployed and ready, with no traffic; Transient when it is not ready in time."""

    def move(self, candidate_percent: float, why: str) -> Traffic:
        """Give the candidate a share; what a look finds afterwards."""

    def settle(self, candidate: Arm, keep_old: bool) -> None:
        """The candidate, which has all traffic, becomes the champion; the old one is kept at 0 %, or let go."""

    def restore(self, champion: Arm) -> Traffic:
        """All traffic to this version, from any state; it is the champion afterwards."""

    def abandon(self) -> None:
        """Let the candidate's place go. Refused while it has traffic."""


def share(percent: float, whole: bool = False) -> float:
    """A share that makes sense; Refused otherwise."""
    if isinstance(percent, bool) or not math.isfinite(percent) or not 0 <= percent <= 100:
        raise Refused(f"a candidate's share of {percent!r} is not within 0 and 100 per cent; the old one was kept")
    if whole and percent != round(percent):
        raise Refused(f"this platform takes whole per cents, not {percent:g}; change the step. The old share was kept")
    return round(percent, 2)


def expect(now: Traffic, candidate_percent: float, where: str) -> Traffic:
    """What was looked at, when it is what was asked for; Transient otherwise."""
    if abs(now.candidate_percent - candidate_percent) > 0.005:
        raise Transient(
            f"{where} gives the candidate {now.candidate_percent:g} % of the traffic, not the {candidate_percent:g} % "
            f"asked for; run this again"
        )
    return now


def can_take(now: Traffic, candidate_percent: float, where: str) -> None:
    """Refused where traffic would go to nobody, or to one that is not ready."""
    if candidate_percent <= now.candidate_percent:
        return
    if now.candidate is None:
        raise Refused(f"{where} has no candidate, so {candidate_percent:g} % cannot go there; prepare one first")
    if not now.ready.get(now.candidate, False):
        raise Refused(
            f"the candidate {now.candidate} at {where} is not ready, so {candidate_percent:g} % cannot go there; "
            f"the old share was kept"
        )


def can_settle(now: Traffic, candidate: Arm, where: str) -> None:
    """Refused unless this candidate has all traffic."""
    if now.candidate != candidate.version or now.candidate_percent != 100:
        has = f"{now.candidate} has {now.candidate_percent:g} %" if now.candidate else "there is no candidate"
        raise Refused(
            f"{candidate.version} has not all the traffic at {where} ({has}), so it cannot be its champion; move it to 100 % first"
        )


def in_charge(now: Traffic, champion: Arm, candidate: Arm, where: str) -> None:
    """Refused where another version is in charge than is believed, or the candidate is."""
    if candidate.version == champion.version:
        raise Refused(f"{candidate.version} is the champion at {where}, so it cannot be its candidate; name another")
    if now.champion != champion.version:
        raise Refused(
            f"{where} has {now.champion} in charge, not the champion {champion.version}; restore the champion first"
        )


def bring_back(router: Router, now: Traffic, champion: Arm) -> Traffic:
    """All traffic to a version that stands in neither place: deployed beside the one that serves, then switched to."""
    router.move(0, "restored")
    router.abandon()
    there = Arm(champion.model, str(now.champion), "")
    router.prepare(there, champion)
    router.move(100, "restored")
    router.settle(champion, keep_old=True)
    return router.look()


def idle(now: Traffic, where: str) -> None:
    """Refused while the candidate has traffic."""
    if now.candidate_percent > 0:
        raise Refused(
            f"the candidate {now.candidate} at {where} has {now.candidate_percent:g} % of the traffic; "
            f"move it to 0, or restore the champion, before it is let go"
        )


def wait(done: Callable[[], bool], seconds: float, every: float, said: Callable[[], str]) -> None:
    """Returns when something has come true; Transient with what was found when it has not in time."""
    deadline = time.monotonic() + seconds
    while not done():
        if time.monotonic() > deadline:
            raise Transient(f"{said()} after {seconds:g} s; look at it there, then run this again")
        time.sleep(every)


def until_ready(
    router: Router, version: str, seconds: float, every: float, where: str, why: Callable[[], str] = lambda: ""
) -> None:
    """Returns when a version is ready there; Transient when it is not in time."""
    wait(
        lambda: router.look().ready.get(version, False),
        seconds,
        every,
        lambda: f"{version} at {where} is not ready{why()}",
    )
