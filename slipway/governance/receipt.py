"""A decision is a receipt: whoever holds the evidence can judge again, offline, and must come to the same verdict.

What was observed, and what people said, cannot be made anew, so a pass of the register act counts only with the signature over it and all it
stands on (registry/receipt.py).
"""

from pathlib import Path
from typing import Any

from slipway import digest, strict
from slipway.artifacts import Decision, Finding, Observations
from slipway.errors import Refused, StageError, UsageError
from slipway.governance import backtest, evidence
from slipway.governance.evidence import Places
from slipway.governance.judge import heard, judge, said_in
from slipway.governance.policy import Policy
from slipway.registry import receipt as receipts


def recheck(root: Path, decision_path: Path, policy: Path | None = None) -> Decision:
    """The decision, where the stored evidence leads to it again; else Refused naming the file or the rule that differs."""
    if not decision_path.is_file():
        raise UsageError(f"{decision_path} does not exist; name a decision.json")
    stored: Decision = _loaded(Decision, decision_path)
    places = Places.of(root, _settings(root, "dvc.yaml")["vars"][0]["path"])
    policy = policy or root / str(_settings(root, "params.yaml")["gate"]["policy"])
    if stored.act == "register" and stored.verdict == "pass":
        receipts.check_here(root, decision_path.parent)
    _check("the policy", policy, stored.policy_digest)
    _check_evidence(stored, places)
    observations = _observations(stored, decision_path)
    try:
        found = evidence.gather(places)
    except StageError as error:
        raise Refused(str(error)) from None
    again = judge(found, Policy.load(policy), digest.of_file(policy), stored.act, observations, stored.transition)
    again = heard(again, said_in(stored))
    if again != stored:
        raise Refused(f"{decision_path} is not what its evidence leads to: {_difference(stored, again)}")
    return stored


def recheck_kept(folder: Path, kept: Path) -> Decision:
    """The decision of a receipt that is whole, where the evidence kept of its release leads to each verdict again.

    Rows and weights are not kept: that two accounts of them agreed is taken from the decision, which is signed.
    """
    path = folder / receipts.DECISION
    stored: Decision = _loaded(Decision, path)
    for name, sha256 in sorted(stored.evidence.items()):
        _check(name, kept / name, sha256)
    policy = folder / receipts.POLICY
    try:
        found = backtest.kept_evidence(kept, stored)
        rules = Policy.load(policy)
    except (StageError, UsageError) as error:
        raise Refused(str(error)) from None
    seen = _observations(stored, path)
    again = heard(judge(found, rules, digest.of_file(policy), stored.act, seen, stored.transition), said_in(stored))
    if differing := _differing_verdict(stored, again):
        raise Refused(f"{path} is not what its evidence leads to: {differing}")
    return stored


def _differing_verdict(stored: Decision, again: Decision) -> str | None:
    """The first rule, or else the whole, that comes out otherwise."""
    old, new = ({finding.rule: _outcome(finding) for finding in decision.findings} for decision in (stored, again))
    for name in dict.fromkeys((*old, *new)):
        if old.get(name) != new.get(name):
            return f"rule {name} is {old.get(name, 'not judged')} there and {new.get(name, 'not judged')} here"
    if stored.verdict != again.verdict:
        return f"the verdict is {stored.verdict} there and {again.verdict} here"
    return None


def _outcome(finding: Finding) -> str:
    return f"{finding.verdict} ({finding.severity}{', waived' if finding.waiver else ''})"


def _settings(root: Path, name: str) -> dict[str, Any]:
    return strict.read_yaml(root / name)


def _loaded(kind: Any, path: Path) -> Any:
    """An artifact of a receipt: one that cannot be read proves nothing."""
    try:
        return kind.load(path)
    except (StageError, UsageError) as error:
        raise Refused(str(error)) from None


def _check(what: str, path: Path, recorded: str | None) -> None:
    """One file against the digest on the receipt."""
    if not path.is_file():
        raise Refused(f"{what} is missing: {path} does not exist, the receipt has {recorded}")
    if (found := digest.of_file(path)) != recorded:
        raise Refused(f"{what} changed: {path} is {found}, the receipt has {recorded}")


def _check_evidence(stored: Decision, places: Places) -> None:
    files = places.files
    if odd := sorted(files.keys() ^ stored.evidence.keys()):
        here = "is not on the receipt" if odd[0] in files else "is on the receipt and is no evidence"
        raise Refused(f"{odd[0]} {here}; this receipt was made by another version of Slipway or by hand")
    for name, path in sorted(files.items()):
        _check(name, path, stored.evidence[name])


def _observations(stored: Decision, decision_path: Path) -> Observations | None:
    if stored.act == "gate" or stored.observations_digest is None:
        return None
    path = decision_path.with_name(receipts.OBSERVATIONS)
    _check("the record of observations", path, stored.observations_digest)
    found: Observations = _loaded(Observations, path)
    return found


def _difference(stored: Decision, again: Decision) -> str:
    """The first rule on which the two decisions differ, or the part of them that does."""
    old, new = ({finding.rule: finding for finding in decision.findings} for decision in (stored, again))
    for name in dict.fromkeys((*old, *new)):
        if old.get(name) != new.get(name):
            return f"rule {name} is {_told(old.get(name))} there and {_told(new.get(name))} here"
    parts = [name for name in Decision.model_fields if getattr(stored, name) != getattr(again, name)]
    name = parts[0]
    return f"{name} is {_short(getattr(stored, name))} there and {_short(getattr(again, name))} here"


def _told(finding: Finding | None) -> str:
    return "not judged" if finding is None else f"{finding.verdict} ({finding.reason})"


def _short(value: object) -> str:
    return str(value)[:200]
