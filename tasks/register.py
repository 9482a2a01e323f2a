"""Observe, sign and judge again; keep the receipt, and enter what passed into the registry."""

from pathlib import Path

from slipway.registry import entry
from slipway.registry import register as registration
from slipway.registry.place import Place
from tasks._stage import Metrics, act


@act()
def register(root: Path, release: str) -> Metrics:
    """The second judgement of a release that the gate passed, with what the world says; a pass becomes a version."""
    decision = registration.register(root, release)
    print("\n".join([decision.summary, *decision.idle_waivers]), flush=True)
    if decision.verdict == "pass":
        version = entry.enter(root, Place.of(root, release), decision)
        already = "" if version.release == release else f" already, by release {version.release}"
        print(f"registered as {version.name}{already}", flush=True)
    return {
        "rules": float(len(decision.findings)),
        "failed": float(sum(finding.verdict != "pass" for finding in decision.findings)),
        "waived": float(sum(finding.waiver is not None for finding in decision.findings)),
        "passed": float(decision.verdict == "pass"),
    }
