"""Values in, verdict out: no file is read here and no clock is looked at.

A rule passes only when its metric is there, is a number that this metric can have, rests on enough rows and meets its
bound. Everything else is undecided or a refusal, and the worst blocking finding is the verdict.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal

from slipway import digest
from slipway.artifacts import Decision, Finding
from slipway.governance import vocabulary
from slipway.governance.policy import Policy, Rule
from slipway.governance.vocabulary import Metric

Verdict = Literal["pass", "refuse", "undecided"]
WORST_FIRST: tuple[Verdict, ...] = ("refuse", "undecided", "pass")


@dataclass(frozen=True)
class Measure:
    """What was measured, as it came: nothing about it is believed yet."""

    value: object
    low: object = None
    high: object = None
    rows: object = None


@dataclass(frozen=True)
class Agreement:
    """Two accounts of one fact that must be the same (a digest made now, a digest on record)."""

    name: str
    what: str
    found: str
    recorded: str
    remedy: str

    @property
    def finding(self) -> Finding:
        same, differs = self.found == self.recorded, f"{self.what} is {self.found}, recorded was {self.recorded}"
        return Finding(
            rule=self.name,
            verdict="pass" if same else "refuse",
            severity="block",
            value=self.found,
            bound=f"= {self.recorded}",
            margin=None,
            reason=f"{self.what} is as recorded" if same else differs,
            remedy="" if same else self.remedy,
        )


@dataclass(frozen=True)
class Evidence:
    """Everything a verdict may rest on."""

    identity: str
    files: Mapping[str, str]  # path → SHA-256
    measures: Mapping[str, Measure]
    agreements: tuple[Agreement, ...] = field(default=())


def judge(evidence: Evidence, policy: Policy, policy_digest: str) -> Decision:
    """The verdict on the evidence, with a finding for every agreement and every rule."""
    findings = [agreement.finding for agreement in evidence.agreements]
    findings += [apply(rule, evidence.measures.get(rule.metric)) for rule in policy.rules]
    return Decision(
        verdict=verdict_of(findings),
        findings=findings,
        policy_digest=policy_digest,
        evidence=dict(evidence.files),
        evidence_digest=digest.of_pairs(evidence.files),
        identity=evidence.identity,
    )


def verdict_of(findings: list[Finding]) -> Verdict:
    """The worst of the blocking findings; undecided when nothing blocks, for then nothing was judged."""
    found = {finding.verdict for finding in findings if finding.severity == "block"}
    return next((verdict for verdict in WORST_FIRST if verdict in found), "undecided")


def apply(rule: Rule, measure: Measure | None) -> Finding:
    """One rule on one measure."""
    known = vocabulary.find(rule.metric)
    if measure is None or known is None:
        return _finding(rule, "undecided", None, None, f"{rule.metric} was not measured")
    if rule.equals is not None:
        return _flag(rule, measure)
    if doubt := _doubt(rule, known, measure):
        return _finding(rule, "undecided", _shown(measure.value), None, doubt)
    value = _number(getattr(measure, rule.use))
    bound = rule.at_least if rule.at_least is not None else rule.at_most
    if value is None or bound is None:  # _doubt and Rule have excluded both
        return _finding(rule, "undecided", None, None, f"{rule.metric} cannot be compared")
    margin = (value - bound if rule.at_least is not None else bound - value) + 0.0
    end = "" if rule.use == "value" else f" ({rule.use} end {value:.4g} over {measure.rows} rows)"
    outcome = f"is inside by {_distance(margin, known)}" if margin >= 0 else f"misses by {_distance(-margin, known)}"
    reason = f"{rule.metric} is {_shown(measure.value):.4g}{end}, asked is {_asked(rule)}: {outcome}"
    return _finding(rule, "pass" if margin >= 0 else "refuse", _number(measure.value), margin, reason)


def _flag(rule: Rule, measure: Measure) -> Finding:
    if not isinstance(measure.value, bool):
        reason = f"{rule.metric} is {measure.value!r}, neither yes nor no"
        return _finding(rule, "undecided", _shown(measure.value), None, reason)
    said = "yes" if measure.value else "no"
    return _finding(rule, "pass" if measure.value == rule.equals else "refuse", said, None, f"{rule.metric} is {said}")


def _doubt(rule: Rule, known: Metric, measure: Measure) -> str | None:
    """Why a measure cannot be believed; None when it can."""
    for name in dict.fromkeys(("value", rule.use)):
        number = _number(getattr(measure, name))
        if number is None:
            return f"{rule.metric} has the {name} {getattr(measure, name)!r}, which is not a number"
        if not known.least <= number <= known.most:
            return f"{rule.metric} has the {name} {number:g}, outside the {known.least:g} to {known.most:g} it can have"
    if rule.use != "value" and not _in_order(measure):
        return f"{rule.metric} is {measure.value!r} in an interval from {measure.low!r} to {measure.high!r}"
    if rule.minimum_rows > 1 or rule.use != "value":
        if not isinstance(measure.rows, int) or isinstance(measure.rows, bool):
            return f"{rule.metric} does not say on how many rows it rests"
        if measure.rows < rule.minimum_rows:
            return f"{rule.metric} rests on {measure.rows} rows, fewer than the {rule.minimum_rows} needed"
    return None


def _in_order(measure: Measure) -> bool:
    low, value, high = _number(measure.low), _number(measure.value), _number(measure.high)
    return low is not None and value is not None and high is not None and low <= value <= high


def _number(value: object) -> float | None:
    """A finite number that a measurement can give: no text, no yes/no, no minus zero."""
    if isinstance(value, bool) or not isinstance(value, int | float):
        return None
    if isinstance(value, int) and abs(value) > 10**300:
        return None
    number = float(value)
    return None if not math.isfinite(number) or (number == 0 and math.copysign(1, number) < 0) else number


def _shown(value: object) -> float | str | None:
    number = _number(value)
    return number if number is not None or value is None else repr(value)[:80]


def _distance(margin: float, known: Metric) -> str:
    return f"{100 * margin:.4g} points" if known.is_rate else f"{margin:.4g}"


def _asked(rule: Rule) -> str:
    return f"at least {rule.at_least:g}" if rule.at_least is not None else f"at most {rule.at_most:g}"


def _finding(rule: Rule, verdict: Verdict, value: float | str | None, margin: float | None, reason: str) -> Finding:
    return Finding(
        rule=rule.id,
        verdict=verdict,
        severity=rule.severity,
        value=value,
        bound=rule.bound,
        margin=margin,
        reason=reason,
        remedy="" if verdict == "pass" else f"{rule.remedy} (owner: {rule.owner})",
    )
