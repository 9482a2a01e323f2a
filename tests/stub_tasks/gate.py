"""Judge (stub): pass, unless a flag says otherwise."""

from slipway import digest
from slipway.artifacts import Decision, Finding
from slipway.errors import Refused
from slipway.params import GateParams
from tasks import _faults
from tasks._stage import Input, Metrics, Output, stage


@stage()
def gate(
    params: GateParams,
    policy: Input,
    source: Input,
    pinned_base: Input,
    champion: Input,
    base: Input,
    adapter: Input,
    prepared: Input,
    validation: Input,
    scorecard: Input,
    predictions: Input,
    decision: Output,
) -> Metrics:
    verdict = "pass"
    try:
        _faults.act("gate", decision)
    except Refused:
        verdict = "refuse"
    finding = Finding(
        rule="exact-match",
        verdict=verdict,
        severity="block",
        value=1.0,
        bound="≥ 0.9",
        margin=0.1,
        reason="exact_match is 1.0",
        remedy="",
    )
    evidence = {"scorecard": digest.of_file(scorecard)}
    Decision(
        verdict=verdict, findings=[finding], policy_digest=digest.of_file(policy), evidence=evidence,
        evidence_digest=digest.of_pairs(evidence), identity=digest.of_path(adapter),
    ).save(decision)  # fmt: skip
    return {"passed": float(verdict == "pass")}
