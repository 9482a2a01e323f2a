"""Values in, verdict out: no file is read here and no clock is looked at.

A rule passes only when everything it reads is there, is what such a metric can be, and makes its expression true. An
expression that is false, and true once every interval is collapsed to its value, rests on too few rows: undecided.
Whatever cannot be believed is undecided too. The worst finding that blocks is the verdict.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

from slipway import digest
from slipway.artifacts import Decision, Finding, Observations, Verdict, Waiver
from slipway.governance import observed, vocabulary
from slipway.governance.expressions import CannotTell, Expression, context_of, holds
from slipway.governance.measures import Measure, doubt_of, in_context
from slipway.governance.outcomes import Outcome, deciding, kept, read, said
from slipway.governance.policy import MOST_ROWS, Policy, Rule

PEOPLE = "evidence-approvals"  # the rule that is what people said, not what a policy says

Act = Literal["gate", "register"]
WORST_FIRST: tuple[Verdict, ...] = ("refuse", "undecided", "pass")
NOTHING = "none"  # recorded where the first thing that is wrong is asked for


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
        same = self.found == self.recorded
        return Finding(
            rule=self.name,
            verdict="pass" if same else "refuse",
            severity="block",
            expression="found == recorded",
            inputs={"found": self.found, "recorded": self.recorded},
            value=self.found,
            bound=f"= {self.recorded}",
            margin=None,
            reason=self._reason(same),
            remedy="" if same else self.remedy,
            owner="slipway",
            waiver=None,
        )

    def _reason(self, same: bool) -> str:
        if self.recorded == NOTHING:
            return f"{self.what}: {self.found}"
        return f"{self.what}: as recorded" if same else f"{self.what}: {self.found}, recorded was {self.recorded}"


@dataclass(frozen=True)
class Evidence:
    """Everything a verdict may rest on."""

    identity: str
    files: Mapping[str, str]  # path → SHA-256
    measures: Mapping[str, Measure]
    agreements: Sequence[Agreement] = field(default_factory=tuple)

    @property
    def digest(self) -> str:
        return digest.of_pairs(self.files)


def judge(
    evidence: Evidence,
    policy: Policy,
    policy_digest: str,
    act: Act = "gate",
    observations: Observations | None = None,
    transition: str | None = None,
) -> Decision:
    """The gate judges evidence; the register act judges evidence and observations, by the same rules."""
    rules = [*policy.rules, *(policy.transition(transition) if transition else [])]
    now = [rule for rule in rules if act == "register" or not rule.is_for_register]
    measures = dict(evidence.measures) | _about(evidence, policy_digest)
    agreements = list(evidence.agreements)
    if act == "register" and observations is not None:
        measures |= observed.measures(observations)
        agreements += _observed_agreements(evidence, observations)
    findings = [agreement.finding for agreement in agreements]
    findings += [waived(apply(rule, measures), act, observations) for rule in now]
    return Decision(
        act=act,
        transition=transition,
        verdict=verdict_of(findings),
        findings=findings,
        pending=[rule.id for rule in rules if act == "gate" and rule.is_for_register],
        policy_digest=policy_digest,
        evidence=dict(evidence.files),
        evidence_digest=evidence.digest,
        observations_digest=observations.saved_digest if act == "register" and observations is not None else None,
        identity=evidence.identity,
        idle_waivers=_idle(policy, findings, observations) if act == "register" and observations is not None else [],
    )


def _about(evidence: Evidence, policy_digest: str) -> dict[str, Measure]:
    return {
        "evidence.digest": Measure(evidence.digest),
        "evidence.identity": Measure(evidence.identity),
        "policy.digest": Measure(policy_digest),
    }


def _observed_agreements(evidence: Evidence, observations: Observations) -> list[Agreement]:
    """What was observed must be about this very evidence and model."""
    again = "Run `slipway run --again`."
    found = [
        Agreement("evidence-observed", "the observed evidence", evidence.digest, observations.evidence_digest, again)
    ]
    if observations.signature is not None:
        signed = observations.signature.identity
        found.append(Agreement("evidence-signed", "the signed model's identity", evidence.identity, signed, again))
    return found


def heard(decision: Decision, said: Finding | None) -> Decision:
    """A decision with what people said of the act, which no evidence tells."""
    if said is None:
        return decision
    findings = [*decision.findings, said]
    return decision.model_copy(update={"findings": findings, "verdict": verdict_of(findings)})


def said_in(decision: Decision) -> Finding | None:
    """What people said of the act, as a decision has it."""
    return next((finding for finding in decision.findings if finding.rule == PEOPLE), None)


def verdict_of(findings: Sequence[Finding]) -> Verdict:
    """The worst of the findings that block; undecided when nothing blocks, for then nothing was judged."""
    found = {finding.verdict for finding in findings if finding.severity != "advise" and finding.waiver is None}
    if not any(finding.severity != "advise" for finding in findings):
        return "undecided"
    return next((verdict for verdict in WORST_FIRST if verdict in found), "pass")


def waived(finding: Finding, act: Act, observations: Observations | None) -> Finding:
    """A finding with the waiver that covers it: for waivable rules only, by name, and not a day longer than it says."""
    if act != "register" or observations is None or finding.verdict == "pass" or finding.severity != "waivable":
        return finding
    valid = (waiver for waiver in observations.waivers if waiver.rule == finding.rule and _covers(waiver, observations))
    return finding.model_copy(update={"waiver": next(valid, None)})


def _idle(policy: Policy, findings: Sequence[Finding], observations: Observations) -> list[str]:
    """The waivers that covered nothing, each with the reason: whoever gave one believes that it holds."""
    elsewhere = {rule.id for step in policy.transitions.values() for rule in step.rules}
    found = {finding.rule: finding for finding in findings}
    return [
        f"the waiver of {waiver.rule} by {waiver.owner} did nothing: {why}"
        for waiver in observations.waivers
        if (waiver.rule in found or waiver.rule not in elsewhere)
        and (why := _why_idle(waiver, found.get(waiver.rule), observations))
    ]


def _why_idle(waiver: Waiver, finding: Finding | None, observations: Observations) -> str | None:
    if finding is None:
        return "the policy has no such rule"
    if finding.waiver == waiver:
        return None
    if finding.verdict == "pass":
        return "the rule holds without it"
    if finding.severity != "waivable":
        return f"the rule is not waivable ({finding.severity})"
    return "another covers the rule" if _covers(waiver, observations) else _why_void(waiver, observations)


def _why_void(waiver: Waiver, observations: Observations) -> str:
    if not (waiver.owner.strip() and waiver.reason.strip()):
        return "it names no owner, or no reason"
    return f"it ended with {waiver.expires}" if _is_date(waiver.expires) else f"{waiver.expires!r:.40} is no date"


def _covers(waiver: Waiver, observations: Observations) -> bool:
    """Dates as text, year first, compare as dates do."""
    today = observations.at[:10]
    return (
        bool(waiver.owner.strip() and waiver.reason.strip())
        and _is_date(today)
        and _is_date(waiver.expires)
        and today <= waiver.expires
    )


def _is_date(text: str) -> bool:
    parts = text.split("-")
    return [len(part) for part in parts] == [4, 2, 2] and all(part.isdecimal() and part.isascii() for part in parts)


# --- one rule --------------------------------------------------------------------------------------------------------


def apply(rule: Rule, measures: Mapping[str, Measure]) -> Finding:
    """One rule on what was measured."""
    expression = rule.parsed
    doubts = [doubt for name in expression.names if (doubt := doubt_of(name, measures.get(name), rule.minimum_rows))]
    if doubts:
        return _finding(rule, measures, "undecided", None, "; ".join(doubts))
    values = {name: in_context(name, measures[name]) for name in expression.names}
    try:
        passes = holds(expression.text, context_of(values))
        outcome = deciding(expression, context_of(values))
        if passes:
            return _finding(rule, measures, "pass", outcome, outcome.words(measures))
        if not holds(expression.text, context_of(_narrowed(values, 0.0))):
            return _finding(rule, measures, "refuse", outcome, outcome.words(measures))
        rows = _rows_needed(expression, values, outcome)
    except CannotTell as unclear:
        return _finding(rule, measures, "undecided", None, str(unclear))
    enough = f"would pass at n ≥ {rows:,}" if rows else "no number of rows would show it"
    return _finding(rule, measures, "undecided", outcome, f"{outcome.words(measures)}; {enough}")


# --- too few rows ----------------------------------------------------------------------------------------------------


def _narrowed(values: Mapping[str, Any], share: float) -> dict[str, Any]:
    """Every interval at a share of its width; at 0 it is its value."""

    def narrow(value: Any) -> Any:
        middle = value["value"]
        return value | {end: middle + (value[end] - middle) * share for end in ("low", "high")}

    return {name: narrow(value) if vocabulary.is_estimate(name) else value for name, value in values.items()}


def _rows_needed(expression: Expression, values: Mapping[str, Any], outcome: Outcome) -> int | None:
    """The fewest rows at which the rule would hold, were the values to stay: widths shrink as 1/√n. None: no such."""
    estimates = [value for name, value in values.items() if vocabulary.is_estimate(name)]
    asked = [values[name] for name in outcome.clause.names if vocabulary.is_estimate(name)]
    rows = min((int(value["rows"]) for value in asked or estimates), default=0)
    if not rows:
        return None

    def enough(count: int) -> bool:
        return holds(expression.text, context_of(_narrowed(values, math.sqrt(rows / count))))

    too_few, plenty = rows, MOST_ROWS
    if not enough(plenty):
        return None
    while plenty - too_few > 1:
        middle = (too_few + plenty) // 2
        too_few, plenty = (too_few, middle) if enough(middle) else (middle, plenty)
    return plenty


def _finding(
    rule: Rule, measures: Mapping[str, Measure], verdict: Verdict, outcome: Outcome | None, reason: str
) -> Finding:
    margin = outcome.margin if outcome else None
    return Finding(
        rule=rule.id,
        verdict=verdict,
        severity=rule.severity,
        expression=rule.expression,
        inputs={path: kept(read(path, measures)) for path in rule.parsed.paths},
        value=said(outcome.value) if outcome else None,
        bound=outcome.bound if outcome else rule.expression,
        margin=None if margin is None else round(margin, 6) + 0.0,
        reason=reason,
        remedy="" if verdict == "pass" else f"{rule.remedy} (owner: {rule.owner})",
        owner=rule.owner,
        waiver=None,
    )
