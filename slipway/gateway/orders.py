"""What HAProxy is told over its runtime API, to do what was decided. Pure, but for asking where a host is."""

import socket
from collections.abc import Iterator

from slipway.errors import StageError
from slipway.gateway import rendering, routing
from slipway.gateway.config import ARMS, Arm, split
from slipway.gateway.routing import Model, Routing


def everything(now: Routing, slots: int) -> list[str]:
    """All that a HAProxy must be told that may believe anything."""
    commands: list[str] = []
    for name, model in now.models.items():
        for arm in ARMS:
            commands += _slots(name, arm, model, slots)
        commands += [weight(name, model), shadow(name, model)]
    return commands


def _slots(name: str, arm: Arm, model: Model, slots: int) -> Iterator[str]:
    by_slot = {one.slot: one for one in model.side(arm).replicas}
    for index in range(1, slots + 1):
        if (replica := by_slot.get(index)) is None:
            yield from rendering.detach(name, arm, index)
        else:
            host, port = resolve(replica.address)
            yield from rendering.attach(name, arm, index, host, port)[:1]
            yield f"set server {name}:{arm}/{rendering.slot(index)} state {replica.state}"


def weight(name: str, model: Model) -> str:
    return f"set map {rendering.WEIGHTS} {name} {routing.threshold(model.candidate_weight)}"


def shadow(name: str, model: Model) -> str:
    return f"set map {rendering.SHADOWS} {name} {routing.threshold(model.shadow_percent)}"


def settled(name: str, before: Model, slots: int, keep_old: bool = False) -> tuple[Model, list[str]]:
    """The candidate's replicas in the champion's slots, and the commands in an order that never lacks an answerer."""
    old, new = before.champion, before.candidate
    side = routing.Side(version=new.version)
    free = [index for index in range(1, slots + 1) if index not in {one.slot for one in old.replicas}]
    free += sorted(one.slot for one in old.replicas)  # taken over only when nothing else is left
    commands: list[str] = []
    for replica, index in zip(new.replicas, free, strict=False):
        host, port = resolve(replica.address)
        commands += [f"set server {name}:champion/{rendering.slot(index)} state maint"]
        commands += rendering.attach(name, "champion", index, host, port)
        side = side.model_copy(update={"replicas": [*side.replicas, replica.model_copy(update={"slot": index})]})
    taken = {one.slot for one in side.replicas}
    commands += [
        f"set server {name}:champion/{rendering.slot(one.slot)} state maint"
        for one in old.replicas
        if one.slot not in taken
    ]
    kept = old if keep_old else routing.Side()
    now = before.model_copy(update={"champion": side, "candidate": kept, "candidate_weight": 0.0})
    commands += [weight(name, now)]
    commands += [command for one in new.replicas for command in rendering.detach(name, "candidate", one.slot)]
    for one in kept.replicas:
        commands += rendering.attach(name, "candidate", one.slot, *resolve(one.address))
    return now, commands


def joined(host: str, port: int) -> str:
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"


def resolve(address: str) -> tuple[str, int]:
    """The number of a host; StageError when it has none."""
    host, port = split(address)
    try:
        found = socket.getaddrinfo(host.strip("[]"), port, type=socket.SOCK_STREAM)
    except OSError as error:
        raise StageError(f"the replica {address} has no address that is known here ({error}); correct it") from None
    return str(found[0][4][0]), port


def numbered(now: Routing) -> Routing:
    """Every replica by its number: no name server is asked while traffic waits."""
    models = {}
    for name, model in now.models.items():
        for arm in ARMS:
            side = model.side(arm)
            numbers = [one.model_copy(update={"address": joined(*resolve(one.address))}) for one in side.replicas]
            model = model.with_side(arm, side.model_copy(update={"replicas": numbers}))
        models[name] = model
    return now.model_copy(update={"models": models})
