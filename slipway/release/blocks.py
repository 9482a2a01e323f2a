"""Arrivals become blocks: first in, first out, so many of each arm as the traffic is split, one outcome a user.

When a block is full depends on who came, never on how it went: a test whose looks depend on outcomes is none. Pure.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field, replace
from fractions import Fraction
from hashlib import blake2b
from typing import Any, Literal, NamedTuple, Self

from slipway.release.sequential import Block

Arm = Literal["champion", "candidate"]
Unit = Literal["request", "user", "user_mean"]
UNITS: tuple[Unit, ...] = ("request", "user", "user_mean")
MOST_OF_ONE_ARM = 100  # of a block; beyond this a split is rounded
BLOCKS_WAITING = 50  # of the arm that has more than its share; older ones go, or the new would be compared with the old


class Shape(NamedTuple):
    """How many answers of each arm make a block."""

    champion: int
    candidate: int


def shape_of(candidate_percent: float) -> Shape:
    """The fewest answers in about the ratio of the traffic: 1 + 1 at 50, 19 + 1 at 5, 99 + 1 at 1 per cent."""
    if not 0 < candidate_percent < 100:
        raise ValueError(f"no blocks at {candidate_percent} % candidate; both arms must answer")
    share = candidate_percent / 100
    if share < 0.5:
        odds = Fraction((1 - share) / share).limit_denominator(3)
        if odds > MOST_OF_ONE_ARM:
            odds = Fraction(MOST_OF_ONE_ARM)
        return Shape(odds.numerator, odds.denominator)
    candidate, champion = shape_of(100 - candidate_percent) if share > 0.5 else (1, 1)
    return Shape(champion, candidate)


class Arrival(NamedTuple):
    """One outcome: 1 good, 0 bad, or between where the metric knows degrees."""

    arm: Arm
    user: str
    outcome: float


class Waiting(NamedTuple):
    """An outcome, or the mean of a user's, that is in no block yet."""

    user: str
    outcome: float
    answers: int = 1


@dataclass(frozen=True)
class Queue:
    """What has come and is in no block yet, and whose outcome has counted; `add` gives the next one and full blocks."""

    unit: Unit = "user"
    champion: tuple[Waiting, ...] = ()
    candidate: tuple[Waiting, ...] = ()
    seen: frozenset[str] = field(default=frozenset(), repr=False)  # who is in a block
    ignored: int = 0  # later outcomes of users who had counted
    dropped: int = 0  # of the arm that had more than its share

    def add(self, arrivals: Iterable[Arrival], shape: Shape) -> tuple[Self, list[Block]]:
        """With further arrivals, in their order; the blocks that are full in this shape are taken out."""
        if shape[0] < 1 or shape[1] < 1:
            raise ValueError(f"a block of {shape[0]} + {shape[1]} answers; at least one of each arm is needed")
        waiting: dict[Arm, list[Waiting]] = {"champion": list(self.champion), "candidate": list(self.candidate)}
        ignored = self._arrive(arrivals, waiting)
        champion, candidate = waiting["champion"], waiting["candidate"]
        full = min(len(champion) // shape[0], len(candidate) // shape[1])
        blocks, members = [], []
        for at in range(full):
            ours = champion[at * shape[0] : (at + 1) * shape[0]]
            theirs = candidate[at * shape[1] : (at + 1) * shape[1]]
            blocks.append(Block(shape[0], _good(ours), shape[1], _good(theirs)))
            members += [one.user for one in (*ours, *theirs)]
        left = champion[full * shape[0] :], candidate[full * shape[1] :]
        kept = [queue[max(0, len(queue) - BLOCKS_WAITING * n) :] for queue, n in zip(left, shape, strict=True)]
        gone = [one.user for queue, k in zip(left, kept, strict=True) for one in queue[: len(queue) - len(k)]]
        seen = self.seen if self.unit == "request" else self.seen.union(members, gone)
        grown = replace(
            self, champion=tuple(kept[0]), candidate=tuple(kept[1]), seen=seen,
            ignored=self.ignored + ignored, dropped=self.dropped + len(gone),
        )  # fmt: skip
        return grown, blocks

    def _arrive(self, arrivals: Iterable[Arrival], waiting: dict[Arm, list[Waiting]]) -> int:
        """Put arrivals at the end of their queues; how many of them belong to somebody who has counted."""
        places = {one.user: (arm, at) for arm, queue in waiting.items() for at, one in enumerate(queue)}
        ignored = 0
        for arm, name, outcome in arrivals:
            if arm not in waiting:
                raise ValueError(f"no arm {arm!r}; there are champion and candidate")
            if not 0 <= outcome <= 1:  # NaN is in no range
                raise ValueError(f"an outcome of {outcome!r}; from 0 (bad) to 1 (good) are possible")
            user = "" if self.unit == "request" else pseudonym(name)
            place = places.get(user) if user else None
            if user in self.seen or (place and (self.unit == "user" or place[0] != arm)):
                ignored += 1
            elif place:
                queue, at = waiting[arm], place[1]
                had = queue[at]
                mean = (had.outcome * had.answers + outcome) / (had.answers + 1)
                queue[at] = Waiting(user, mean, had.answers + 1)
            else:
                places[user] = (arm, len(waiting[arm]))
                waiting[arm].append(Waiting(user, float(outcome)))
        return ignored

    def as_json(self) -> dict[str, Any]:
        """Everything, so that what is read back is this very value."""
        return {
            "unit": self.unit,
            "champion": [list(one) for one in self.champion],
            "candidate": [list(one) for one in self.candidate],
            "seen": sorted(self.seen),
            "ignored": self.ignored,
            "dropped": self.dropped,
        }

    @classmethod
    def of_json(cls, kept: dict[str, Any]) -> Self:
        """As it was kept; ValueError where it is torn."""
        try:
            if kept["unit"] not in UNITS:
                raise ValueError(f"no unit {kept['unit']!r}; there are {', '.join(UNITS)}")
            champion, candidate = (_waiting(kept[arm]) for arm in ("champion", "candidate"))
            return cls(kept["unit"], champion, candidate, frozenset(kept["seen"]), kept["ignored"], kept["dropped"])
        except (KeyError, TypeError) as error:
            raise ValueError(f"no state of a queue: {error!r}") from None


def _waiting(kept: Sequence[Sequence[Any]]) -> tuple[Waiting, ...]:
    found = tuple(Waiting(*one) for one in kept)
    if any(not 0 <= one.outcome <= 1 for one in found):
        raise ValueError("an outcome that is not between 0 and 1")
    return found


def _good(members: Sequence[Waiting]) -> float:
    return sum(one.outcome for one in members)


def pseudonym(user: str) -> str:
    """A user as the state knows them: enough to tell two apart, and no name."""
    return blake2b(user.encode(), digest_size=12).hexdigest()
