"""`slipway models stage` and `slipway models promote`: a version's next step, and what serves."""

import json as json_module
import sys
from pathlib import Path
from typing import Any

from slipway import settings
from slipway.artifacts import Decision
from slipway.ledger import champions
from slipway.ledger.champions import Champion
from slipway.registry import promotion, stages, versions
from slipway.registry.opening import reading
from slipway.registry.versions import Stage, Version

_SIGNS = {"pass": "✓", "refuse": "✗", "undecided": "?"}


def stage(target: str, to: Stage, tags: list[str], reason: str, json: bool) -> int:
    """0 when it is there, 3 with every rule that stands in the way."""
    root = settings.find_root()
    version, _ = _found(root, target)
    decisions: list[Decision] = []
    try:
        after = stages.transition(root, version.model, version.version, to, tags, reason, tell=decisions.append)
    except stages.NotAllowed as error:
        _show(version, to, error.decision, json)
        return error.exit_code
    if not decisions:
        return _say(json, {"version": after.version, "stage": after.stage}, f"{after.name} is in {to} already.")
    _show(after, to, decisions[0], json)
    return 0


def promote(target: str, tags: list[str], reason: str, json: bool) -> int:
    """To Production, where it is not there yet, and then in front of the users."""
    root = settings.find_root()
    version, serving = _found(root, target)
    if version.stage == "Staging":
        try:
            stages.transition(root, version.model, version.version, "Production", tags, reason)
        except stages.NotAllowed as error:
            _show(version, "Production", error.decision, json)
            return error.exit_code
    generation = serving.generation if serving else 0
    changed = promotion.promote(root, version.model, version.version, generation, reason, mirrored=False)
    if warning := promotion.mirror(root, version.model):
        print(f"slipway: {warning}", file=sys.stderr)
    facts = {name: getattr(changed, name) for name in ("model", "version", "identity", "previous", "generation")}
    before = f", in place of {changed.previous}" if changed.previous else ""
    text = f"{version.name} is the champion (generation {changed.generation}){before}. It was switched at once, without a canary."
    return _say(json, facts, text)


def _found(root: Path, target: str) -> tuple[Version, Champion | None]:
    with reading(root) as connection:
        version = versions.resolve(connection, target, None)
        return version, champions.find(connection, version.model)


def _show(version: Version, to: Stage, decision: Decision, json: bool) -> None:
    """The decision: what stands in the way and what to do about it, or that nothing does."""
    if json:
        print(json_module.dumps({"version": version.version, "to": to, **decision.model_dump(mode="json")}, indent=2))
        return
    if decision.verdict == "pass":
        waived = [finding for finding in decision.findings if finding.waiver]
        print(f"{version.name} is in {to}: {decision.summary.removeprefix('pass: ')}")
        for finding in waived:
            assert finding.waiver is not None
            print(f"  waived  {finding.rule}: {finding.waiver.reason} ({finding.waiver.owner})")
        for idle in decision.idle_waivers:
            print(f"  ! {idle}")
        return
    print(f"{version.name} does not go to {to}: {decision.verdict}")
    for finding in decision.against:
        print(f"  {_SIGNS[finding.verdict]} {finding.rule}: {finding.reason}")
        print(f"    {finding.remedy}")
    for idle in decision.idle_waivers:
        print(f"  ! {idle}")


def _say(json: bool, facts: dict[str, Any], text: str) -> int:
    print(json_module.dumps(facts, indent=2) if json else text)
    return 0
