"""All that a canary has seen, metric by metric: outcomes go in as they come, a judgement comes out at any time. Pure.

What is kept is enough to go on after a kill to the last bit. Outcomes of the candidate's first requests count for nothing, and
of a user only what the policy's unit says.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any, NamedTuple, Self

from slipway.release import verdicts
from slipway.release.blocks import Arm, Arrival, Queue, pseudonym, shape_of
from slipway.release.policy import AbortRule, Canary
from slipway.release.rates import Rate
from slipway.release.sequential import Sequential
from slipway.release.verdicts import Broken, Judgement, State


class Outcome(NamedTuple):
    """How one answer was by one metric: 1 good, 0 bad, or between where the metric knows degrees."""

    metric: str
    arm: Arm
    user: str
    value: float


@dataclass(frozen=True)
class Alone:
    """A metric of the candidate alone, and whose outcome has counted."""

    rate: Rate
    seen: frozenset[str] = field(default=frozenset(), repr=False)


@dataclass(frozen=True)
class Compared:
    """A metric of both arms: what waits for its block, and the tests."""

    queue: Queue
    test: Sequential


@dataclass(frozen=True)
class Evidence:
    """What was seen so far under one policy; `add` gives the next one."""

    policy: Canary
    compared: Mapping[str, Compared]
    alone: Mapping[str, Alone]
    last: Mapping[str, tuple[float, ...]]  # the candidate's newest outcomes, as many as the abort rules look at
    warmed: Mapping[str, int]  # how many of the candidate's first outcomes were passed over

    @classmethod
    def of(cls, policy: Canary) -> Self:
        """Of a canary that begins."""
        compared = {w.name: Compared(Queue(policy.unit), Sequential(w.question)) for w in policy.watched if w.question}
        alone = {w.name: Alone(Rate(w.limits)) for w in policy.watched if w.limits}
        names = [watched.name for watched in policy.watched]
        return cls(policy, compared, alone, dict.fromkeys(names, ()), dict.fromkeys(names, 0))

    def add(self, outcomes: Iterable[Outcome], candidate_percent: float) -> Self:
        """With what came at this share of the traffic, in its order; metrics that the policy does not watch are passed over."""
        by_metric: dict[str, list[Outcome]] = {name: [] for name in self.last}
        warmed = dict(self.warmed)
        for one in outcomes:
            if one.metric not in by_metric:
                continue
            if not 0 <= one.value <= 1:  # NaN is in no range
                raise ValueError(f"{one.metric}: an outcome of {one.value!r}; from 0 (bad) to 1 (good) are possible")
            if one.arm == "candidate" and warmed[one.metric] < self.policy.warm_up.requests:
                warmed[one.metric] += 1
                continue
            by_metric[one.metric].append(one)
        return replace(
            self,
            compared={name: _compared(one, by_metric[name], candidate_percent) for name, one in self.compared.items()},
            alone={name: self._alone(one, by_metric[name]) for name, one in self.alone.items()},
            last={name: self._last(name, by_metric[name]) for name in self.last},
            warmed=warmed,
        )

    def judge(self, unreadable: Mapping[str, str], intervals: bool = True) -> Judgement:
        """Every metric, those that cannot be read just now by name with the reason; an abort rule that is met comes first."""
        states: dict[str, State] = {name: one.test for name, one in self.compared.items()}
        states |= {name: one.rate for name, one in self.alone.items()}
        states |= {name: Broken(why) for name, why in unreadable.items()}
        judged = verdicts.judge(self.policy, states, intervals)
        if met := [said for rule in self.policy.abort if (said := self._met(rule))]:
            return replace(judged, word="failing", reason="; ".join(met))
        return judged

    def _met(self, rule: AbortRule) -> str | None:
        last = self.last[rule.metric][-rule.of_last :]
        good = sum(last)
        if len(last) < rule.of_last or good >= rule.below * rule.of_last:
            return None
        return f"{rule.metric}: {good:g} of the candidate's last {rule.of_last} were good, fewer than {100 * rule.below:g} %"

    def _alone(self, one: Alone, outcomes: list[Outcome]) -> Alone:
        for outcome in outcomes:
            if outcome.arm != "candidate":
                continue
            if self.policy.unit != "request":
                if (user := pseudonym(outcome.user)) in one.seen:
                    continue
                one = replace(one, seen=one.seen | {user})
            one = replace(one, rate=one.rate.add(1, outcome.value))
        return one

    def _last(self, name: str, outcomes: list[Outcome]) -> tuple[float, ...]:
        longest = max((rule.of_last for rule in self.policy.abort if rule.metric == name), default=0)
        values = (*self.last[name], *(one.value for one in outcomes if one.arm == "candidate"))
        return values[-longest:] if longest else ()

    # --- kept -----------------------------------------------------------------------------------------------------------

    def as_json(self) -> dict[str, Any]:
        """Everything but the policy, so that what is read back under it is this very value."""
        return {
            "compared": {n: {"queue": c.queue.as_json(), "test": c.test.as_json()} for n, c in self.compared.items()},
            "alone": {n: {"rate": a.rate.as_json(), "seen": sorted(a.seen)} for n, a in self.alone.items()},
            "last": {name: list(values) for name, values in self.last.items()},
            "warmed": dict(self.warmed),
        }

    @classmethod
    def of_json(cls, policy: Canary, kept: Mapping[str, Any]) -> Self:
        """As it was kept under this policy; ValueError where it is torn, or belongs to another."""
        fresh = cls.of(policy)
        try:
            compared = {
                name: Compared(Queue.of_json(one["queue"]), Sequential.of_json(one["test"]))
                for name, one in kept["compared"].items()
            }
            alone = {
                name: Alone(Rate.of_json(one["rate"]), frozenset(one["seen"])) for name, one in kept["alone"].items()
            }
            last = {name: tuple(map(float, values)) for name, values in kept["last"].items()}
            found = cls(policy, compared, alone, last, dict(kept["warmed"]))
        except (KeyError, TypeError, AttributeError) as error:
            raise ValueError(f"no evidence of a canary: {error!r}") from None
        if found._questions != fresh._questions:
            raise ValueError("the evidence that was kept is of another policy")
        return found

    @property
    def _questions(self) -> Any:
        return (
            {name: (one.queue.unit, one.test.question) for name, one in self.compared.items()},
            {name: one.rate.limits for name, one in self.alone.items()},
            set(self.last), set(self.warmed),
        )  # fmt: skip


def _compared(one: Compared, outcomes: list[Outcome], candidate_percent: float) -> Compared:
    """Blocks need both arms: where one has no traffic, nothing is compared."""
    if not 0 < candidate_percent < 100:
        return one
    arrivals = (Arrival(outcome.arm, outcome.user, outcome.value) for outcome in outcomes)
    queue, blocks = one.queue.add(arrivals, shape_of(candidate_percent))
    return Compared(queue, one.test.add(*blocks))
