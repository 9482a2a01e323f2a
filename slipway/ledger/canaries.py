"""The canary of a model: one that runs, what it has seen so far, and what people asked of it meanwhile.

The row is all that another process needs to go on where one was killed: what was counted stands in it together with how far
the sources were read, so that nothing counts twice. What it decides becomes events; what it merely saw does not.
"""

import json
import secrets
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any, Literal

from sqlalchemy import Connection, insert, select, update

from slipway.artifacts import Json
from slipway.errors import Refused, UsageError
from slipway.ledger import events, leases
from slipway.ledger.chain import canonical
from slipway.ledger.events import Actor
from slipway.ledger.leases import Lease
from slipway.ledger.tables import canaries

Ask = Literal["pause", "resume", "abort", "supersede"]
_PACKED = ("about", "progress", "asked")  # JSON


@dataclass(frozen=True)
class Canary:
    """A candidate on its way to being the champion."""

    id: str
    model: str
    version: str
    identity: str
    champion: str | None  # the version it is compared with; None: the base model
    generation: int  # of the champion when it began
    state: Literal["running", "ended"]
    outcome: str | None
    about: Json  # the policy and what else was fixed at its beginning
    step: int
    percent: float
    progress: Json
    asked: Json  # {"pause": {…}} or {"abort": {…}}
    sequence: int  # the event that told its last change


def begin(
    connection: Connection,
    model: str,
    version: str,
    identity: str,
    champion: str | None,
    generation: int,
    about: Json,
    lease: Lease,
    actor: Actor | None = None,
    reason: str = "",
) -> Canary:
    """A new one, at its first step and without traffic yet; Refused where another one of the model runs."""
    leases.held(connection, lease)
    if (other := running(connection, model)) is not None:
        raise Refused(f"{model} {other.version} is in canary already ({other.percent:g} %); `slipway abort` ends it")
    identifier = f"canary-{secrets.token_hex(6)}"
    told = {"canary": identifier, "version": version, "champion": champion, "generation": generation, **about}
    event = events.append(connection, "canary_started", model, version, told, actor, reason)
    made = Canary(
        identifier, model, version, identity, champion, generation, "running", None, about, 0, 0.0, {}, {}, event.sequence
    )  # fmt: skip
    connection.execute(insert(canaries).values(**_row(made)))
    return made


def running(connection: Connection, model: str) -> Canary | None:
    row = connection.execute(select(canaries).where(canaries.c.model == model, canaries.c.state == "running")).first()
    return _of_row(row) if row is not None else None


def find(connection: Connection, identifier: str) -> Canary | None:
    row = connection.execute(select(canaries).where(canaries.c.id == identifier)).first()
    return _of_row(row) if row is not None else None


def keep(connection: Connection, canary: Canary, progress: Json, lease: Lease) -> Canary:
    """Write down what has been seen by now."""
    _owned(connection, canary, lease)
    return _changed(connection, canary, progress=progress)


def advance(
    connection: Connection, canary: Canary, step: int, percent: float, progress: Json, told: Json, lease: Lease
) -> Canary:
    """The intent of a step: it is on record before the traffic moves."""
    _owned(connection, canary, lease)
    said = {"canary": canary.id, "step": step, "from": canary.percent, "to": percent, **told}
    event = events.append(connection, "canary_step", canary.model, canary.version, said)
    return _changed(connection, canary, step=step, percent=percent, progress=progress, sequence=event.sequence)


def ask(
    connection: Connection, model: str, what: Ask, actor: Actor | None, reason: str, newer: str | None = None
) -> Canary:
    """What somebody wants of the canary that runs: whoever drives it obeys at its next look. Asked twice is asked once.

    `newer` is the version for which it is to make room (supersede).
    """
    canary = running(connection, model)
    if canary is None:
        raise UsageError(f"no canary of {model} runs, so there is nothing to {what}")
    if "abort" in canary.asked or ((what == "pause") == ("pause" in canary.asked) and what != "abort"):
        return canary
    event = events.append(
        connection, "canary_asked", model, canary.version, {"canary": canary.id, "asked": what}, actor, reason
    )
    asked = {} if what == "resume" else {what: {"by": event.actor, "sequence": event.sequence}}
    return _changed(connection, canary, asked=asked, sequence=event.sequence)


def end(connection: Connection, canary: Canary, outcome: str, told: Mapping[str, Any], lease: Lease) -> Canary:
    """How it ended, said once."""
    _owned(connection, canary, lease)
    said = {"canary": canary.id, "outcome": outcome, "step": canary.step, "percent": canary.percent, **told}
    event = events.append(connection, "canary_verdict", canary.model, canary.version, said)
    return _changed(connection, canary, state="ended", outcome=outcome, sequence=event.sequence)


def _owned(connection: Connection, canary: Canary, lease: Lease) -> None:
    """Whoever lost the lease, or wakes after the end, changes nothing."""
    leases.held(connection, lease)
    now = find(connection, canary.id)
    if now is None or now.state != "running":
        raise Refused(f"the canary of {canary.model} {canary.version} has ended ({now.outcome if now else 'gone'})")


def _changed(connection: Connection, canary: Canary, **values: Any) -> Canary:
    """These columns and no others: what a person asks meanwhile is not written over by whoever drives."""
    after = replace(canary, **values)
    row = {name: value for name, value in _row(after).items() if name in values}
    connection.execute(update(canaries).where(canaries.c.id == canary.id).values(row))
    return after


def _row(canary: Canary) -> dict[str, Any]:
    return {**canary.__dict__, **{name: canonical(getattr(canary, name)) for name in _PACKED}}


def _of_row(row: Any) -> Canary:
    packed = {name: json.loads(row._mapping[name]) for name in _PACKED}
    return Canary(**{**row._mapping, **packed})
