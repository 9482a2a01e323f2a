"""Drive a canary to its end: look, decide, write the intent down, act, write what came of it.

Killed anywhere, whoever drives next goes on from the row. A step that was decided and not taken is taken, an end that was decided
and not reached is reached: every call of a router can be made again. The way back comes before everything that may fail: all
traffic is with the champion before anybody is told.
"""

import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Protocol

from sqlalchemy import Connection

from slipway.errors import Refused, SlipwayError, StageError, Transient
from slipway.ledger import canaries, champions, leases
from slipway.ledger.canaries import Canary
from slipway.ledger.database import Database
from slipway.ledger.leases import Lease
from slipway.registry import promotion
from slipway.release import deciding
from slipway.release.deciding import Action, Approval, Moment
from slipway.release.policy import Canary as Policy
from slipway.release.progress import Progress, Seen
from slipway.release.routers.protocol import Arm, Router
from slipway.release.verdicts import Judgement

LONGEST_SECONDS = 30.0  # between two looks: what is beyond it was not watched, and does not count as seen


class Source(Protocol):
    """Where outcomes come from."""

    def look(self, cursor: object) -> Seen:
        """What has come since the cursor; Transient where nobody answers."""


class Drive:
    """One process's turn at a canary, under its lease."""

    def __init__(
        self,
        root: Path,
        database: Database,
        canary: Canary,
        arms: tuple[Arm, Arm],
        router: Router,
        source: Source,
        lease: Lease,
        approval: Callable[[Connection, Canary], Approval] = lambda connection, canary: "not needed",
        settled: Callable[[], None] = lambda: None,
    ) -> None:
        self.root, self.database, self.canary, self.router, self.source = root, database, canary, router, source
        self.champion, self.candidate = arms
        self.lease, self._approval, self._into_production = lease, approval, settled
        self.policy = Policy.model_validate(canary.about["policy"])
        self.progress = Progress.of_json(self.policy, canary.progress)

    def run(self, pause: Callable[[], float]) -> Canary:
        """Until it has ended; `pause` waits for the next turn and says how long it was. Who does not answer is asked again."""
        self._begin()
        while self.canary.state == "running":
            try:
                self.turn(min(pause(), LONGEST_SECONDS))
            except Transient as error:
                self._still_ours()
                print(f"{self.canary.model} {self.canary.version}: {error}", file=sys.stderr, flush=True)
        return self.canary

    def turn(self, passed_seconds: float) -> None:
        """Finish what was decided and perhaps not done, or look."""
        if self.progress.ending is not None:
            self._end(self.progress.ending)
        elif self.progress.moving:
            self._move()
        else:
            self.look(passed_seconds)

    def _still_ours(self) -> None:
        """Refused by the ledger is not the same as unanswered: whoever lost the lease goes."""
        try:
            with self.database.read() as connection:
                ours = leases.holder(connection, self.lease.name) == self.lease
        except SlipwayError:
            return  # the ledger is away too: the next write under the lease will tell
        if not ours:
            raise Refused(f"another process drives the canary of {self.canary.model} now")

    def look(self, passed_seconds: float) -> Action:
        """One look, and what follows from it."""
        at, seen = self.canary.step, self._seen()
        asked, approval = self._heard()
        paused = "pause" in asked
        self.progress, judged = self.progress.saw(seen, passed_seconds, self.canary.percent, at, paused)
        action = deciding.decide(self._moment(judged, seen, asked, approval), self.policy, at)
        if action.kind != "back":
            action = self._moved_behind_our_back() or action
        self._do(action, judged)
        return action

    # --- looking --------------------------------------------------------------------------------------------------------

    def _seen(self) -> Seen:
        """What the source says; where it says nothing, no metric can be told."""
        try:
            return self.source.look(self.progress.cursor)
        except SlipwayError as error:
            unreadable = {watched.name: str(error) for watched in self.policy.watched}
            return Seen(cursor=self.progress.cursor, unreadable=unreadable)

    def _heard(self) -> tuple[dict[str, dict[str, str]], Approval]:
        """What people want of it by now; while the ledger is away, what they last wanted, and nobody's yes."""
        try:
            with self.database.read() as connection:
                now = canaries.find(connection, self.canary.id)
                if now is None:
                    raise StageError(f"the canary {self.canary.id} is gone from the ledger; `slipway audit verify`")
                self.canary = replace(self.canary, asked=now.asked)
                return now.asked, self._approval(connection, self.canary)
        except Transient:
            return self.canary.asked, "missing"

    def _moment(self, judged: Judgement, seen: Seen, asked: dict[str, dict[str, str]], approval: Approval) -> Moment:
        progress = self.progress
        return Moment(
            judged.word, judged.reason, progress.requests, progress.seconds, progress.baked_seconds,
            progress.total_seconds, progress.broken_seconds, seen.champion_ready, "pause" in asked,
            "by a person" if "abort" in asked else None, asked.get("supersede", {}).get("newer"), approval,
        )  # fmt: skip

    def _moved_behind_our_back(self) -> Action | None:
        """Somebody else gave the candidate another share, the gateway's breaker for one: then nothing here is what was decided."""
        try:
            found = self.router.look()
        except SlipwayError:
            return None  # what cannot be asked just now cannot be known; outcomes say whether anything is wrong
        if found.candidate == self.candidate.version and abs(found.candidate_percent - self.canary.percent) < 0.01:
            return None
        has = f"{found.candidate_percent:g} % for {found.candidate or 'no candidate'}"
        return Action(
            "back", f"the traffic was moved by somebody else: {has}, not {self.canary.percent:g} %", "rolled back"
        )

    # --- acting ---------------------------------------------------------------------------------------------------------

    def _do(self, action: Action, judged: Judgement) -> None:
        if action.kind == "back":
            self._end({"outcome": action.outcome, "why": action.reason, "metrics": _told(judged)})
        elif action.kind == "promote":
            self._end({"outcome": "promoted", "why": action.reason, "metrics": _told(judged)})
        elif action.kind == "advance":
            self._advance(action, judged)
        else:
            self._keep()

    def _keep(self) -> None:
        with self.database.write() as connection:
            self.canary = canaries.keep(connection, self.canary, self.progress.as_json(), self.lease)

    def _advance(self, action: Action, judged: Judgement) -> None:
        at = self.canary.step + 1
        percent = self.policy.steps[at].candidate_percent
        if percent == 100:
            self._into_production()
        self.progress = self.progress.next_step()
        told = {"why": action.reason, "metrics": _told(judged)}
        with self.database.write() as connection:
            self.canary = canaries.advance(
                connection, self.canary, at, percent, self.progress.as_json(), told, self.lease
            )
        self._move()

    def _move(self) -> None:
        """Give the share that was decided; where the router does not answer, the next driver does."""
        self.router.move(self.canary.percent, f"step {self.canary.step + 1} of the canary")
        self.progress = replace(self.progress, moving=False)
        self._keep()

    def _begin(self) -> None:
        """The candidate ready and the first share decided, unless another process came further."""
        if self.canary.state != "running" or self.progress.ending is not None:
            return
        if self.canary.percent == 0:
            self.router.prepare(self.champion, self.candidate)
            first = self.policy.steps[0].candidate_percent
            with self.database.write() as connection:
                self.canary = canaries.advance(
                    connection, self.canary, 0, first, self.progress.as_json(), {"why": "the canary begins"}, self.lease
                )

    def _end(self, ending: dict[str, object]) -> None:
        """The champion's row where it is a promotion, the traffic, and then that it is done.

        A promotion that was decided is kept first: once the row has changed, nothing that is seen can end it otherwise. The way
        back waits for no ledger: whoever goes on after a kill comes to the same decision, or finds the traffic moved.
        """
        if ending["outcome"] == "promoted":
            self.progress = replace(self.progress, ending=ending)
            self._keep()
            ending = self._promoted(ending)
        if ending["outcome"] != "promoted":
            self.router.restore(self._serving())
        with self.database.write() as connection:
            self.canary = canaries.end(connection, self.canary, str(ending["outcome"]), ending, self.lease)

    def _promoted(self, ending: dict[str, object]) -> dict[str, object]:
        """Make it the champion, or say who was faster."""
        with self.database.read() as connection:
            serving = champions.find(connection, self.canary.model)
        if serving is None or serving.version != self.canary.version:
            try:
                promotion.promote(
                    self.root, self.canary.model, self.canary.version, self.canary.generation, str(ending["why"]), mirrored=False
                )  # fmt: skip
            except Refused as refused:
                return ending | {"outcome": "superseded", "why": str(refused)}
        self.router.settle(self.candidate, keep_old=True)
        return ending

    def _serving(self) -> Arm:
        """The champion of now: another one may have been promoted meanwhile. Where the ledger does not answer, the one of then."""
        try:
            with self.database.read() as connection:
                serving = champions.find(connection, self.canary.model)
        except SlipwayError:
            serving = None
        if serving is None or serving.version == self.champion.version:
            return self.champion
        return Arm(self.canary.model, serving.version, serving.identity)


def _told(judged: Judgement) -> list[dict[str, object]]:
    """Every metric as it stood, for the event."""
    return [
        {"metric": one.metric, "word": one.word, "reason": one.reason, "estimate": one.estimate}
        for one in judged.verdicts
    ]
