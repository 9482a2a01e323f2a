"""`slipway at TIME`: what served then, and how to have it back."""

import importlib
import json as json_module
import sys
from dataclasses import asdict
from typing import TYPE_CHECKING

from slipway import settings
from slipway.errors import UsageError

if TYPE_CHECKING:
    from pathlib import Path

    from slipway.ledger.history import Served


def at(time: str, model: str | None, restore: bool, reason: str | None, json: bool) -> int:
    from slipway.ledger import clock, history, listing
    from slipway.ledger.database import Database

    root = settings.find_root()
    moment, taken = listing.moment(time)
    name = model or _model(root)
    if restore and not (reason and reason.strip()):
        raise UsageError("say why what served then is put back (--reason)")
    with Database.of(root).read() as connection:
        served = history.at(connection, moment, name, root)
    early = f"{time} has not come yet; this is what serves now" if moment > clock.read().at else None
    for note in (taken, early, served.doubt):
        if note:
            print(f"note: {note}", file=sys.stderr)
    if restore:
        return _restore(root, served, reason or "", json)
    print(json_module.dumps(asdict(served), indent=2, ensure_ascii=False) if json else _text(served, time))
    return 0


def _model(root: "Path") -> str:
    from slipway import model

    if name := model.load(root).name:
        return name
    raise UsageError("configs/model.yaml has no name; say which model you mean (--model NAME)")


def _text(served: "Served", time: str) -> str:
    if served.version is None:
        return f"{served.model} at {time}: the base model; nothing had been promoted yet"
    weights = ", ".join(f"{version} {weight} %" for version, weight in served.weights.items())
    people = ", ".join(f"{one.by} ({one.at[:19]}Z)" for one in served.approvals) or "nobody"
    lines = {
        "served": f"{served.model} {served.version}, generation {served.generation}",
        "since": f"{(served.since or '')[:19]}Z (event {served.sequence})",
        "traffic": weights,
        "approved by": people,
        "release": served.release or "unknown",
        "policy": (served.policy_digest or "unknown")[:16],
        "evidence": (served.evidence_digest or "unknown")[:16],
        "identity": (served.identity or "unknown")[:16],
    }
    return "\n".join(f"{name:<12} {value}" for name, value in lines.items())


def _restore(root: "Path", served: "Served", reason: str, json: bool) -> int:
    """Roll back to exactly what served then."""
    from slipway.ledger.events import Actor

    if served.version is None:
        raise UsageError(f"{served.model}: the base model served then, which is no version that can be put back")
    rollback = importlib.import_module("slipway.registry.rollback").rollback
    champion = rollback(root, served.model, served.version, reason, Actor.here())
    facts = {"model": served.model, "version": champion.version, "generation": champion.generation}
    text = f"{served.model} {champion.version} serves again, generation {champion.generation}"
    print(json_module.dumps(facts, indent=2) if json else text)
    return 0
