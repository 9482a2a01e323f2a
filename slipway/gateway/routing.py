"""Where each model's traffic goes: weights, and the replicas of each arm. Pure, but for `load` and `save`."""

import math
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from slipway import atomic, strict
from slipway.errors import Refused, StageError, UsageError
from slipway.gateway.config import ARMS, Address, Arm, Config
from slipway.model import Name

FILE = "routing.json"
STEPS = 10_000  # users fall into so many buckets: a weight is kept to a hundredth of a per cent
State = Literal["ready", "drain"]


class _Part(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)


class Replica(_Part):
    """One process that answers, and its place in HAProxy's configuration."""

    slot: Annotated[int, Field(ge=1, le=64)]
    address: Address
    state: State = "ready"
    pid: int | None = None  # of a process that the gateway has started
    started: float | None = None  # when, by the kernel, so that a number used again is not taken for it
    serves: str | None = None  # the version it was started with


class Side(_Part):
    """One arm: a version, and who answers for it."""

    version: str | None = None
    replicas: list[Replica] = []

    def at(self, address: str) -> Replica | None:
        return next((one for one in self.replicas if one.address == address), None)

    def free_slot(self, slots: int) -> int | None:
        taken = {one.slot for one in self.replicas}
        return next((slot for slot in range(1, slots + 1) if slot not in taken), None)


class Model(_Part):
    """One model's traffic."""

    candidate_weight: Annotated[float, Field(ge=0, le=100)] = 0  # percent; the champion has the rest
    shadow_percent: Annotated[float, Field(ge=0, le=100)] = 0
    champion: Side = Side()
    candidate: Side = Side()
    shadow: Side = Side()
    given: dict[Arm, list[Address]] = {}  # what configs/gateway.yaml named when it was read last

    @property
    def weights(self) -> dict[str, float]:
        return {"champion": round(100 - self.candidate_weight, 2), "candidate": self.candidate_weight}

    def side(self, arm: Arm) -> Side:
        found: Side = getattr(self, arm)
        return found

    def with_side(self, arm: Arm, side: Side) -> "Model":
        return self.model_copy(update={arm: side})


class Routing(_Part):
    """All that a gateway must know to go on as before, whatever was killed."""

    models: dict[Name, Model] = {}
    listen: Address | None = None
    admin: Address | None = None
    generation: int = 0  # counts the changes

    def changed(self, model: str, now: Model) -> "Routing":
        return self.model_copy(update={"models": {**self.models, model: now}, "generation": self.generation + 1})


def checked(weights: Mapping[str, object]) -> float:
    """The candidate's weight out of weights that make sense; Refused otherwise."""
    said = ", ".join(f"{name} {value!r:.40}" for name, value in weights.items())
    if set(weights) != {"champion", "candidate"}:
        raise Refused(f"weights are for champion and candidate, these are {said or 'none'}; the old ones were kept")
    for name, value in weights.items():
        if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value):
            raise Refused(f"the weight of {name} is {value!r:.40}, not a number; the old weights were kept")
        if not 0 <= value <= 100:
            raise Refused(f"the weight of {name} is {value}, not within 0 and 100 per cent; the old weights were kept")
    shares = {name: float(str(value)) for name, value in weights.items()}
    total = sum(shares.values())
    if abs(total - 100) > 1e-6:
        raise Refused(f"weights add up to {total:g}, not 100 ({said}); the old ones were kept")
    return round(shares["candidate"], 2)


def moved(model: str, now: Model, candidate: float, back: bool) -> Model:
    """A model's traffic with another weight; Refused where users would flip back, or nobody could answer."""
    if candidate > 0 and not any(one.state == "ready" for one in now.candidate.replicas):
        raise Refused(
            f"{model} has no candidate replica that takes traffic, so {candidate:g} % cannot go there; add one first"
        )
    if 0 < candidate < now.candidate_weight and not back:
        raise Refused(
            f"{candidate:g} % of {model} would take users back from its candidate, which has {now.candidate_weight:g} %; "
            f"roll back to 0, or hold"
        )
    return now.model_copy(update={"candidate_weight": candidate})


def threshold(percent: float) -> int:
    """How many of the buckets a share is."""
    return round(percent * STEPS / 100)


def start(config: Config, kept: Routing | None) -> Routing:
    """What was kept, for the models configured now, and what the file says otherwise than when it was read last."""
    models = {one.name: kept.models.get(one.name, Model()) if kept else Model() for one in config.models}
    for served in config.models:
        for arm in ARMS:
            models[served.name] = _given(
                served.name, models[served.name], arm, list(getattr(served, arm)), config.slots
            )
    before = kept or Routing()
    return before.model_copy(update={"models": models})


def _given(name: str, model: Model, arm: Arm, addresses: list[str], slots: int) -> Model:
    """An arm after the file was read. What the file says as before changes nothing: traffic may have been settled since."""
    side, before = model.side(arm), model.given.get(arm, [])
    gone = set(before) - set(addresses)
    come = [address for address in addresses if address not in before and side.at(address) is None]
    old = [one for one in side.replicas if one.address not in gone]
    taken = {one.slot for one in old if one.slot <= slots}
    free = iter([slot for slot in range(1, slots + 1) if slot not in taken])
    if len(old) + len(come) > slots:
        raise UsageError(
            f"the {arm} of {name} has {len(old) + len(come)} replicas, more than slots ({slots}); raise slots, or remove one"
        )
    replicas = [one if one.slot <= slots else one.model_copy(update={"slot": next(free)}) for one in old]
    replicas += [Replica(slot=next(free), address=address) for address in come]
    now = Side(version=side.version if old or not come else None, replicas=replicas)
    return model.with_side(arm, now).model_copy(update={"given": {**model.given, arm: addresses}})


def ended(now: Routing) -> Routing:
    """Without the champions' replicas that the gateway ran itself: they end with it, and who answers next the ledger says."""
    models = {}
    for name, model in now.models.items():
        rest = [one for one in model.champion.replicas if one.pid is None]
        models[name] = model.with_side("champion", model.champion.model_copy(update={"replicas": rest}))
    return now.model_copy(update={"models": models})


def load(folder: Path) -> Routing | None:
    """What was kept; None before the first start. A file that cannot be read is an error, never a fresh start."""
    path = folder / FILE
    if not path.exists():
        return None
    try:
        return Routing.model_validate(strict.read_json(path))
    except ValidationError as error:
        first = error.errors()[0]
        key = ".".join(str(part) for part in first["loc"])
        raise StageError(
            f"{path}: {key}: {first['msg']}; restore it, or remove it to send all traffic to champions"
        ) from None


def save(folder: Path, routing: Routing) -> None:
    atomic.write_json(folder / FILE, routing.model_dump(mode="json"))


def added(
    model: str, now: Model, arm: Arm, address: str, slots: int, version: str | None = None
) -> tuple[Model, Replica]:
    """An arm with one more replica, in the first free slot; one that is there already becomes ready again."""
    side = now.side(arm)
    beside = [one for one in side.replicas if one.address != address]
    if beside and version and side.version and version != side.version:
        raise Refused(
            f"{address} serves {version}, and the {arm} of {model} is {side.version}: its users would be sent back and "
            f"forth; remove {beside[0].address} first, or add it to another arm"
        )
    known = side.at(address)
    slot = known.slot if known else side.free_slot(slots)
    if slot is None:
        raise Refused(f"the {arm} of {model} has {slots} replicas, as many as slots; remove one, or raise `slots`")
    replica = Replica(slot=slot, address=address)
    others = [one for one in side.replicas if one.slot != slot]
    return now.with_side(arm, side.model_copy(update={"replicas": [*others, replica]})), replica


def found(now: Model, model: str, address: str) -> tuple[Arm, Replica]:
    """The arm and the slot of an address; UsageError naming those there are."""
    for arm in ARMS:
        if (replica := now.side(arm).at(address)) is not None:
            return arm, replica
    there = ", ".join(one.address for arm in ARMS for one in now.side(arm).replicas) or "none"
    raise UsageError(f"{model} has no replica at {address}; it has {there}")


def readdressed(now: Model, arm: Arm, old: str, address: str, pid: int, started: float) -> Model:
    """A replica of ours that was started again: its address is another one, its arm, slot and state are not."""
    side = now.side(arm)
    new = {"address": address, "pid": pid, "started": started}
    replicas = [one.model_copy(update=new) if one.address == old else one for one in side.replicas]
    return now.with_side(arm, side.model_copy(update={"replicas": replicas}))
