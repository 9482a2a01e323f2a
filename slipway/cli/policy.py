"""`slipway policy check`: is a policy sound, and does a receipt still hold?"""

import json as json_module
from pathlib import Path

from slipway import params, settings
from slipway.errors import Refused, UsageError
from slipway.governance import policy as policies
from slipway.governance import receipt as receipts


def check(file: Path | None, receipt: Path | None, json: bool) -> int:
    """Exit 0, 2 for a policy with faults, or 3 for a receipt that its evidence does not bear out."""
    path = file or _of_project()
    if problems := policies.problems(path):
        if json:
            listed = [{"line": p.line, "column": p.column, "rule": p.rule, "message": p.message} for p in problems]
            print(json_module.dumps({"policy": str(path), "sound": False, "problems": listed}, indent=2))
        else:
            print(*problems, sep="\n")
        return UsageError.exit_code
    return _rechecked(path, receipt, json) if receipt else _sound(path, json)


def _of_project() -> Path:
    root = settings.find_root()
    named = root / params.load_all(root / "params.yaml").gate.policy
    return named.relative_to(Path.cwd()) if named.is_relative_to(Path.cwd()) else named


def _sound(path: Path, json: bool) -> int:
    policy = policies.Policy.load(path)
    counts = {severity: sum(rule.severity == severity for rule in policy.rules) for severity in _SEVERITIES}
    if json:
        found = {"policy": str(path), "sound": True, "problems": [], "rules": counts}
        print(json_module.dumps(found | {"transitions": sorted(policy.transitions)}, indent=2))
    else:
        told = ", ".join(f"{count} {severity}" for severity, count in counts.items() if count)
        print(f"{path}: sound; {len(policy.rules)} rules ({told}), {len(policy.transitions)} transitions")
    return 0


_SEVERITIES = ("block", "waivable", "advise")


def _rechecked(path: Path, receipt: Path, json: bool) -> int:
    try:
        decision = receipts.recheck(settings.find_root(), receipt, path)
    except Refused as error:
        if not json:
            raise
        print(json_module.dumps({"receipt": str(receipt), "holds": False, "reason": str(error)}, indent=2))
        return error.exit_code
    if json:
        found = {"receipt": str(receipt), "holds": True, "act": decision.act, "verdict": decision.verdict}
        print(json_module.dumps(found, indent=2))
    else:
        files, rules = len(decision.evidence), len(decision.findings)
        print(f"{receipt} holds: {files} files are as judged, and {rules} rules lead to the same verdict again")
        print(decision.summary)
    return 0
