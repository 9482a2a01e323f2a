"""`slipway at TIME`: what served then, and how to have it back."""

import importlib
import json as json_module
import sys
from dataclasses import asdict
from typing import TYPE_CHECKING

from slipway import settings
from slipway.errors import Refused, UsageError

if TYPE_CHECKING:
    from pathlib import Path

    from slipway.ledger.history import Answer, Served


def at(time: str, model: str | None, restore: bool, reason: str | None, json: bool) -> int:
    from slipway.ledger import clock, history, listing
    from slipway.ledger.database import Database

    root, now = settings.find_root(), clock.read().at
    moment, taken = listing.moment(time, now)
    name = model or _model(root)
    if restore and not (reason and reason.strip()):
        raise UsageError("say why what served then is put back (--reason)")
    with Database.of(root).read() as connection:
        served = history.at(connection, moment, name, root, now)
        is_known = model is None or history.is_known(connection, name)
    early = f"{time} has not come yet; this is what serves now" if moment > now else None
    for note in (taken, early, served.doubt):
        if note:
            print(f"note: {note}", file=sys.stderr)
    if not is_known:
        raise UsageError(f"nothing ever happened to a model {name!r:.80}; `slipway models list` shows those there are")
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
    weights = ", ".join(f"{version} {weight} %" for version, weight in served.weights.items())
    if served.version is None:
        split = f"; traffic {weights}" if weights else ""
        return f"{served.model} at {time}: the base model; nothing had been promoted yet{split}"
    lines = {
        "served": f"{served.model} {served.version}, generation {served.generation}",
        "since": f"{(served.since or '')[:19]}Z (event {served.sequence})",
        "traffic": weights,
        "approved by": ", ".join(map(_person, served.approvals)) or "nobody",
        **({"break-glass": f"by {_person(served.break_glass)}"} if served.break_glass else {}),
        "release": served.release or "unknown",
        "policy": (served.policy_digest or "unknown")[:16],
        "evidence": (served.evidence_digest or "unknown")[:16],
        "identity": (served.identity or "unknown")[:16],
    }
    return "\n".join(f"{name:<12} {value}" for name, value in lines.items())


def _person(answer: "Answer") -> str:
    said = (f"{answer.at[:19]}Z", answer.act, "solo: asked for it too" if answer.solo else None)
    return f"{answer.by} ({', '.join(one for one in said if one)})"


def _restore(root: "Path", served: "Served", reason: str, json: bool) -> int:
    """Roll back to exactly what served then."""
    from slipway.ledger.events import Actor

    if served.version is None:
        raise UsageError(f"{served.model}: the base model served then, which is no version that can be put back")
    if served.doubt is not None:
        raise Refused(
            f"what served then is not sure ({served.doubt}); nothing was changed: say which version you mean, "
            f"`slipway models rollback --to VERSION`"
        )
    if served.is_split:
        shares = ", ".join(f"{version} {weight} %" for version, weight in served.weights.items())
        raise Refused(
            f"{served.model} was served by {shares} then, and a rollback brings one version to everybody; nothing was "
            f"changed: say which one, `slipway models rollback --to {served.version}`"
        )
    rollback = importlib.import_module("slipway.registry.rollback").rollback
    champion = rollback(root, served.model, served.version, reason, Actor.here())
    facts = {"model": served.model, "version": champion.version, "generation": champion.generation}
    text = f"{served.model} {champion.version} serves again, generation {champion.generation}"
    print(json_module.dumps(facts, indent=2) if json else text)
    return 0
