"""How far a canary has come: what it has seen, how long its step has had, and what was decided and perhaps not done. Pure."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Self

from slipway.artifacts import Json
from slipway.release.deciding import has_had_its_minimum
from slipway.release.evidence import Evidence, Outcome
from slipway.release.policy import Canary as Policy
from slipway.release.verdicts import Judgement


@dataclass(frozen=True)
class Seen:
    """What a source has found since it was asked last."""

    outcomes: Sequence[Outcome] = ()
    requests: int = 0  # of the candidate
    cursor: Json | None = None  # how far it has read: it is asked on from there
    unreadable: Mapping[str, str] = field(default_factory=dict)  # metric → why it cannot be told just now
    champion_ready: bool = True


@dataclass(frozen=True)
class Progress:
    """Kept in the canary's row; whoever goes on goes on from it."""

    evidence: Evidence
    cursor: Json | None = None
    requests: int = 0  # of the candidate at this step
    seconds: float = 0.0  # at this step
    baked_seconds: float = 0.0
    total_seconds: float = 0.0
    broken_seconds: float = 0.0
    moving: bool = True  # the share of this step was decided, and perhaps not given yet
    ending: Json | None = None  # a promotion, {"outcome": …, "why": …}: decided, and perhaps not done yet

    def saw(self, seen: Seen, passed_seconds: float, percent: float, at: int, paused: bool) -> "tuple[Self, Judgement]":
        """After a look, and the judgement of everything by now. A pause stops the clocks and nothing else."""
        policy = self.evidence.policy
        warm = self.total_seconds >= policy.warm_up.seconds
        evidence = self.evidence.add(seen.outcomes if warm else (), percent)
        judged = evidence.judge(seen.unreadable, intervals=False)
        counted = 0.0 if paused else passed_seconds
        requests, seconds = self.requests + (seen.requests if warm else 0), self.seconds + counted
        baked = (
            self.baked_seconds + counted if has_had_its_minimum(self.requests, self.seconds, policy.steps[at]) else 0.0
        )
        after = replace(
            self, evidence=evidence, cursor=seen.cursor, requests=requests, seconds=seconds, baked_seconds=baked,
            total_seconds=self.total_seconds + counted,
            broken_seconds=self.broken_seconds + passed_seconds if judged.word == "broken" else 0.0,
        )  # fmt: skip
        return after, judged

    def next_step(self) -> Self:
        """At the beginning of a step: evidence is kept, clocks and counts begin anew."""
        return replace(self, requests=0, seconds=0.0, baked_seconds=0.0, moving=True)

    def as_json(self) -> Json:
        return {**{name: getattr(self, name) for name in _PLAIN}, "evidence": self.evidence.as_json()}

    @classmethod
    def of_json(cls, policy: Policy, kept: Mapping[str, Any]) -> Self:
        """As it was kept; of a canary that has just begun, the beginning. ValueError where it is torn."""
        if not kept:
            return cls(Evidence.of(policy))
        try:
            return cls(Evidence.of_json(policy, kept["evidence"]), **{name: kept[name] for name in _PLAIN})
        except KeyError as error:
            raise ValueError(f"no progress of a canary: {error} is missing") from None


_PLAIN = (
    "cursor", "requests", "seconds", "baked_seconds", "total_seconds", "broken_seconds", "moving", "ending",
)  # fmt: skip
