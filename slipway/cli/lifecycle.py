"""`slipway models archive | restore | delete | hold | unhold | retire`: what becomes of versions that have had their day."""

import json as json_module
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

from slipway import settings
from slipway.cli.rollback import follow, only_model
from slipway.errors import SlipwayError, UsageError, size_text
from slipway.keeping import retiring
from slipway.keeping.archiving import Outcome
from slipway.keeping.lifecycle import Prices, Step
from slipway.ledger.database import Database
from slipway.ledger.events import Actor
from slipway.registry import versions

Act = Callable[[Path, str, str, str, Actor], Outcome]
ACTS: dict[str, Act] = {
    "archive": retiring.archive,
    "restore": retiring.restore,
    "delete": retiring.delete,
    "hold": retiring.hold,
    "unhold": retiring.unhold,
}


def act(name: str, target: str, model: str | None, reason: str, json: bool) -> int:
    """One act on one version."""
    root = settings.find_root()
    if not reason.strip():
        raise UsageError("say why (--reason): whoever looks into it later will read that")
    with Database.of(root).read() as connection:
        version = versions.resolve(connection, target, model)
    outcome = ACTS[name](root, version.model, version.version, reason, Actor.here())
    print(json_module.dumps(_told(outcome), indent=2) if json else _line(outcome), flush=True)
    _follow(root, [version.model], mirrored="hold" not in name)
    return 0


def _follow(root: Path, models: list[str], mirrored: bool = True) -> None:
    """MLflow and the checkpoint come after, and nothing waits for them. MLflow knows nothing of holds."""
    for warning in (warning for model in models for warning in follow(root, model, mirrored)):
        print(f"slipway: {warning}", file=sys.stderr)


def _told(outcome: Outcome) -> dict[str, Any]:
    version = outcome.version
    told = {"model": version.model, "version": version.version, "said": outcome.said}
    return told | {"freed_bytes": outcome.freed}


def _line(outcome: Outcome) -> str:
    return outcome.said + (f"; {size_text(outcome.freed)} freed here" if outcome.freed else "")


def retire(model: str | None, dry_run: bool, json: bool) -> int:
    """Everything that the policy wants done, or only what it would be."""
    root = settings.find_root()
    known, prices = retiring.models(root), retiring.load_policy(root).prices
    names = [only_model(known, model)] if model is not None else known
    if not dry_run:
        for line in (line for name in names for line in retiring.recover(root, name, Actor.here())):
            print(f"finished what was begun: {line}", file=sys.stderr)
    steps = [(name, step) for name in names for step in retiring.due(root, name)]
    done = [(name, step, None if dry_run else _taken(root, name, step)) for name, step in steps]
    if json:
        print(json_module.dumps(_plan(done, prices), indent=2))
    else:
        _print_plan(done, prices, dry_run)
    sys.stdout.flush()
    _follow(root, sorted({name for name, _, result in done if isinstance(result, Outcome)}))
    return max((error.exit_code for _, _, error in done if isinstance(error, SlipwayError)), default=0)


Taken = tuple[str, Step, Outcome | SlipwayError | None]


def _taken(root: Path, model: str, step: Step) -> Outcome | SlipwayError:
    """One that is refused does not keep the others."""
    try:
        return retiring.take(root, model, step, Actor.here())
    except SlipwayError as error:
        return error


def _plan(done: list[Taken], prices: Prices) -> dict[str, Any]:
    steps = [
        {
            "model": name, "version": step.version, "action": step.action, "why": step.why, "to": step.to,
            "bytes": step.bytes, "saves_per_month": step.saves_per_month,
            "done": _told(result) if isinstance(result, Outcome) else None,
            "error": str(result) if isinstance(result, SlipwayError) else None,
        }
        for name, step, result in done
    ]  # fmt: skip
    return {"steps": steps, "saves_per_month": _total(done), "currency": prices.currency}


def _total(done: list[Taken]) -> float:
    return round(sum(step.saves_per_month for _, step, result in done if not isinstance(result, SlipwayError)), 9)


def _print_plan(done: list[Taken], prices: Prices, dry_run: bool) -> None:
    if not done:
        print("Nothing is due.")
        return
    for name, step, result in done:
        print(_step_line(name, step, prices))
        if isinstance(result, SlipwayError):
            print(f"slipway: {result}", file=sys.stderr)
        elif result is not None:
            print(f"    {_line(result)}")
    count = f"{len(done)} {'step' if len(done) == 1 else 'steps'}"
    print(f"{count}; all in all it {_worth(_total(done), prices)}.")
    if dry_run:
        print("Nothing was changed; `slipway models retire` does it.")


def _step_line(name: str, step: Step, prices: Prices) -> str:
    where = f" to {step.to}" if step.to and step.to != "local" else ""
    about = f"{size_text(step.bytes)}, {_worth(step.saves_per_month, prices)}"
    return f"{step.action:<8}{name} {step.version}{where}: {step.why} ({about})"


def _worth(saved: float, prices: Prices) -> str:
    """What a step changes of a month's bill; a copy of a base in the archive may cost more than an adapter here."""
    amount = "under 0.01" if 0 < abs(saved) < 0.01 else f"{abs(saved):,.2f}"
    if saved < 0:
        return f"costs {amount} {prices.currency} a month more"
    return f"saves {amount} {prices.currency} a month" if saved else "saves nothing"
