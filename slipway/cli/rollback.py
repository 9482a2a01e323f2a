"""`slipway models rollback`: what served before serves again."""

import json as json_module
import sys
import time
from pathlib import Path

from slipway import settings
from slipway.errors import SlipwayError, UsageError
from slipway.keeping import retiring
from slipway.ledger import champions, checkpoints
from slipway.ledger.database import Database
from slipway.ledger.events import Actor
from slipway.registry import promotion
from slipway.registry import rollback as registry


def rollback(model: str | None, to: str | None, reason: str, json: bool) -> int:
    """Switch first and say so; MLflow and the checkpoint follow, and nobody waits for them."""
    root, began = settings.find_root(), time.monotonic()
    name = only_model(retiring.models(root), model)
    with Database.of(root).read() as connection:
        before = champions.find(connection, name)
    now = registry.rollback(root, name, to, reason, Actor.here(), mirrored=False)
    changed = before is None or now.generation != before.generation
    seconds = time.monotonic() - began
    if json:
        told = {"model": name, "version": now.version, "previous": now.previous, "generation": now.generation}
        print(json_module.dumps(told | {"changed": changed, "seconds": round(seconds, 3)}, indent=2), flush=True)
    elif changed:
        print(
            f"✓ {name} {now.version} serves again in place of {now.previous} (generation {now.generation}, {seconds:.1f} s)",
            flush=True,
        )
    else:
        print(
            f"{name} {now.version} serves already, generation {now.generation}; nothing was changed "
            f"(name a version with --to to go further back)",
            flush=True,
        )
    for warning in follow(root, name) if changed else ():
        print(f"slipway: {warning}", file=sys.stderr)
    return 0


def follow(root: Path, model: str, mirrored: bool = True) -> list[str]:
    """What comes after the switch and may fail without undoing it."""
    warnings = []
    try:
        checkpoints.write(root)
    except SlipwayError as error:
        warnings.append(f"the checkpoint was not written: {error}")
    if mirrored and (said := promotion.mirror(root, model)):
        warnings.append(said)
    return warnings


def only_model(known: list[str], model: str | None) -> str:
    """The model that is meant, where none is named and there is but one."""
    if model is not None:
        if model not in known:
            there = ", ".join(known) or "none yet"
            raise UsageError(f"no model {ascii(model)[1:-1][:80]} has a version here; there are: {there}")
        return model
    if len(known) == 1:
        return known[0]
    if not known:
        raise UsageError("nothing is registered here yet; `slipway run` makes a version")
    raise UsageError(f"of which model? Here are {', '.join(known)}")
