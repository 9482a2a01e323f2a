"""How long a version is kept and where: the policy, what may never be touched, and what is due. Pure: values in, steps out."""

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from pathlib import Path
from typing import Annotated, Literal, Self

from pydantic import BaseModel, ConfigDict, Field

from slipway import strict
from slipway.registry.versions import Stage, State

FILE = "configs/policies/lifecycle.yaml"

# From the warmest to the coldest; what lies in the last two must be asked for before it can be read.
Class = Literal["STANDARD", "STANDARD_IA", "GLACIER_IR", "GLACIER", "DEEP_ARCHIVE"]
CLASSES: tuple[Class, ...] = ("STANDARD", "STANDARD_IA", "GLACIER_IR", "GLACIER", "DEEP_ARCHIVE")
FROZEN = frozenset(["GLACIER", "DEEP_ARCHIVE"])
Place = Literal["local", "STANDARD", "STANDARD_IA", "GLACIER_IR", "GLACIER", "DEEP_ARCHIVE"]
Action = Literal["archive", "move", "delete"]

Days = Annotated[int, Field(ge=1, le=36_500)]
Price = Annotated[float, Field(ge=0)]
GB = 1_000_000_000


class _Strict(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, strict=True, allow_inf_nan=False)


class Ages(_Strict):
    none: Annotated[Days, Field(alias="None")]
    staging: Annotated[Days, Field(alias="Staging")]
    production: Annotated[Days, Field(alias="Production")]

    def of(self, stage: Stage) -> int:
        return {"None": self.none, "Staging": self.staging, "Production": self.production}[stage]


class Restore(_Strict):
    tier: Literal["Expedited", "Standard", "Bulk"]
    hours: Annotated[int, Field(ge=1, le=72)]
    days: Annotated[int, Field(ge=1, le=365)]


class Prices(_Strict):
    currency: Annotated[str, Field(pattern=r"^[A-Z]{3}$")]
    local: Price
    STANDARD: Price | None = None
    STANDARD_IA: Price | None = None
    GLACIER_IR: Price | None = None
    GLACIER: Price | None = None
    DEEP_ARCHIVE: Price | None = None

    def of(self, place: Place) -> float:
        """A price a GB and month; one that nobody has named counts as nothing saved and nothing spent."""
        return float(getattr(self, place) or 0.0)


class Policy(_Strict):
    """`configs/policies/lifecycle.yaml`."""

    archive_after_days: Ages
    delete_after_days: Days
    at_most_versions: Annotated[int, Field(ge=3, le=1_000_000)]
    rollback_days: Days
    storage: dict[Class, Annotated[int, Field(ge=0, le=36_500)]]
    restore: Restore
    prices: Prices

    @classmethod
    def load(cls, path: Path) -> Self:
        """The policy of a file; a fault is a UsageError with its line."""
        return strict.read_typed(path, cls, f"restore it (`git checkout -- {FILE}`)")

    def contradictions(self) -> Iterator[tuple[tuple[str, ...], str]]:
        """What no single key is to blame for."""
        days = [self.storage[one] for one in CLASSES if one in self.storage]
        if not days or days[0] != 0:
            yield ("storage",), "the first class must begin at 0 days, for a version lies somewhere once it is archived"
        if days != sorted(set(days)):
            yield ("storage",), f"colder classes must follow warmer ones ({', '.join(CLASSES)}), each on a later day"
        if self.storage.keys() >= FROZEN:
            yield (
                ("storage",),
                "GLACIER and DEEP_ARCHIVE are both frozen: nothing moves from one to the other; keep one",
            )
        if days and days[-1] >= self.delete_after_days:
            yield ("storage",), f"{days[-1]} days are not before delete_after_days, {self.delete_after_days}"
        if self.archive_after_days.production < self.rollback_days:
            what = f"{self.archive_after_days.production} days are inside the rollback window, rollback_days {self.rollback_days}"
            yield ("archive_after_days", "Production"), what
        for one in self.storage:
            if getattr(self.prices, one) is None:
                yield ("prices",), f"{one} has no price, and storage uses it"

    def place_after(self, age: timedelta) -> Class:
        """Where an archived version's bytes belong after some time."""
        due = [one for one in CLASSES if one in self.storage and timedelta(days=self.storage[one]) <= age]
        return due[-1]


# --- what is known ---------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Moment:
    """When an event was written: by the writer's wall clock, and by the time that has credibly passed since event 1."""

    at: datetime
    elapsed_ms: int


def passed(then: Moment, now: Moment) -> timedelta:
    """Time that both clocks say has passed; never less than none."""
    credible = timedelta(milliseconds=now.elapsed_ms - then.elapsed_ms)
    return max(min(now.at - then.at, credible), timedelta(0))


@dataclass(frozen=True)
class Kept:
    """A version that is there, and what retiring has to know of it."""

    version: str
    serial: int
    stage: Stage
    state: State
    bytes: int  # of its own, without the base
    base: str  # digest
    since: Moment  # when it came to its stage, or served last
    place: Place = "local"
    receipt: int = 0  # bytes that stay on this disk when the others go to the archive, where a copy of them goes too

    def cost(self, place: Place | None, prices: "Prices") -> float:
        """A month's price of it, lying there; nothing once it is nowhere."""
        if place is None:
            return 0.0
        here = self.receipt if place != "local" else 0
        return ((self.bytes + self.receipt) * prices.of(place) + here * prices.of("local")) / GB


@dataclass(frozen=True)
class Facts:
    """One model's versions and everything that may protect one of them."""

    model: str
    versions: Sequence[Kept]  # none of them deleted
    now: Moment
    champion: str | None = None
    previous: str | None = None
    left: Mapping[str, Moment] = field(default_factory=dict)  # when a version that served lost its traffic last
    weights: Mapping[str, float] = field(default_factory=dict)  # percent of the traffic
    candidates: frozenset[str] = frozenset()
    awaiting: frozenset[str] = frozenset()  # approved for a step that nobody has taken yet
    asked: Mapping[str, Moment] = field(default_factory=dict)  # when a step was refused for want of approvals alone
    held: frozenset[str] = frozenset()
    base_bytes: Mapping[str, int] = field(default_factory=dict)
    bases_elsewhere: frozenset[str] = frozenset()  # that other models need
    has_archive: bool = False


@dataclass(frozen=True)
class Step:
    """Something that is due to a version."""

    version: str
    action: Action
    why: str
    to: Place | None  # where its bytes go; None: nowhere
    saves_per_month: float
    bytes: int  # of its own and, where it is the last to need it, of its base


# --- what may never be touched ---------------------------------------------------------------------------------------


def live(facts: Facts, policy: Policy) -> dict[str, str]:
    """The one liveness rule: every version that nothing may be done to → why."""
    found: dict[str, str] = {}
    for version in sorted(facts.held):
        found[version] = "is on legal hold (`slipway models unhold`)"
    for version in sorted(facts.awaiting):
        found[version] = "waits for an approval"
    for version, then in sorted(facts.asked.items()):
        if passed(then, facts.now) < timedelta(days=policy.archive_after_days.staging):
            found[version] = "waits for an approval that was asked for (`slipway reject` ends that)"
    for version, left in sorted(_windows(facts, policy).items()):
        found[version] = f"may be what a rollback returns to, for {_days(left)} more"
    for version in sorted(facts.candidates):
        found[version] = "is a candidate"
    for version, percent in sorted(facts.weights.items()):
        if percent > 0:
            found[version] = f"takes {percent:g} % of the traffic"
    if facts.champion is not None:
        found[facts.champion] = "is the champion"
    return found


def _windows(facts: Facts, policy: Policy) -> dict[str, timedelta]:
    """What served lately → how much of its rollback window is left; the previous champion's own may be the bad one."""
    unknown = {facts.previous: facts.now} if facts.previous is not None else {}
    window = timedelta(days=policy.rollback_days)
    left = {version: window - passed(then, facts.now) for version, then in (unknown | dict(facts.left)).items()}
    return {version: time for version, time in left.items() if time > timedelta(0)}


def _days(time: timedelta) -> str:
    days = time / timedelta(days=1)
    return f"{days:.0f} days" if days >= 2 else f"{days * 24:.0f} hours"


# --- what is due -----------------------------------------------------------------------------------------------------


def plan(facts: Facts, policy: Policy) -> list[Step]:
    """Everything that is due, the oldest version first."""
    protected = live(facts, policy)
    free = sorted((one for one in facts.versions if one.version not in protected), key=lambda one: one.serial)
    due = {one.version: found for one in free if (found := _by_age(one, facts, policy))}
    for one, why in _above_limit(free, due, facts, policy):
        due[one.version] = ("delete", None, why)
    costs = _Costs(facts, policy.prices)
    return [costs.step(one, *due[one.version]) for one in free if one.version in due]


_Due = tuple[Action, Place | None, str]


def _by_age(one: Kept, facts: Facts, policy: Policy) -> _Due | None:
    age = passed(one.since, facts.now)
    if one.stage == "Archived":
        return _archived(one, age, facts, policy)
    limit = policy.archive_after_days.of(one.stage)
    if age < timedelta(days=limit):
        return None
    where = (
        "served last" if one.stage == "Production" else f"came to {one.stage}" if one.stage != "None" else "was made"
    )
    return "archive", _target(facts, policy, timedelta(0)), f"{where} {_days(age)} ago, kept are {limit} days"


def _archived(one: Kept, age: timedelta, facts: Facts, policy: Policy) -> _Due | None:
    if age >= timedelta(days=policy.delete_after_days) and one.version != facts.previous:
        return "delete", None, f"was archived {_days(age)} ago, kept are {policy.delete_after_days} days"
    target = _target(facts, policy, age)
    if target == "local" or not _is_colder(target, one.place):
        return None
    return "move", target, f"was archived {_days(age)} ago, lies in {one.place}"


def _target(facts: Facts, policy: Policy, age: timedelta) -> Place:
    return policy.place_after(age) if facts.has_archive else "local"


def _is_colder(target: Place, now: Place) -> bool:
    order = ("local", *CLASSES)
    return order.index(target) > order.index(now)


_FIRST_TO_GO: tuple[Stage, ...] = ("Archived", "None", "Staging")


def _above_limit(
    free: Sequence[Kept], due: Mapping[str, _Due], facts: Facts, policy: Policy
) -> Iterator[tuple[Kept, str]]:
    """The versions by which the model has too many: the oldest archived ones first, none that customers have met."""
    going = {version for version, (action, _, _) in due.items() if action == "delete"}
    there = len(facts.versions) - len(going)
    may_go = [
        one
        for stage in _FIRST_TO_GO
        for one in free
        if one.stage == stage and one.version not in going and one.version != facts.previous
    ]
    why = f"{there} versions are kept, at most {policy.at_most_versions} may be"
    for one in may_go[: max(there - policy.at_most_versions, 0)]:
        yield one, why


class _Costs:
    """What lies where, step by step: a base is paid for as long as one version needs it, wherever that one lies."""

    def __init__(self, facts: Facts, prices: Prices) -> None:
        self.facts, self.prices = facts, prices
        self.users: Counter[tuple[str, Place]] = Counter((one.base, one.place) for one in facts.versions)

    def step(self, one: Kept, action: Action, to: Place | None, why: str) -> Step:
        before = self._of_base(one.base)
        self.users[one.base, one.place] -= 1
        if to is not None:
            self.users[one.base, to] += 1
        after = self._of_base(one.base)
        own = one.cost(one.place, self.prices) - one.cost(to, self.prices)
        size = self.facts.base_bytes.get(one.base, 0)
        base = size / GB * (sum(map(self.prices.of, before)) - sum(map(self.prices.of, after)))
        gone = one.bytes * (one.place != to) + one.receipt * (to is None)
        freed = gone + size * ("local" in before and "local" not in after)
        return Step(one.version, action, why, to, round(own + base, 9), freed)

    def _of_base(self, base: str) -> set[Place]:
        """Where a base lies: on this disk for those that are here, once in the archive, as warm as the warmest needs it."""
        local: set[Place] = {"local"} if base in self.facts.bases_elsewhere or self.users[base, "local"] > 0 else set()
        colder = [one for one in CLASSES if self.users[base, one] > 0]
        return local | set(colder[:1])
