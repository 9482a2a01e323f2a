"""Judge (stub): pass, unless a flag says otherwise."""

from slipway import digest
from slipway.artifacts import Decision, Finding, Scan
from slipway.errors import Refused
from slipway.identity import identity
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
    inspection: Input,
    loss: Input,
    scorecard: Input,
    predictions: Input,
    benchmarks: Input,
    safety: Input,
    scan: Output,
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
        expression="tuned.exact_match.value >= 0.9",
        inputs={"tuned.exact_match.value": 1.0},
        owner="model",
        waiver=None,
    )
    evidence = {"scorecard": digest.of_file(scorecard)}
    Scan(passed=True, mode="deploy", files=[], refused=[], opinions={}).save(scan)
    Decision(
        act="gate", pending=[], observations_digest=None, verdict=verdict, findings=[finding], policy_digest=digest.of_file(policy), evidence=evidence,
        evidence_digest=digest.of_pairs(evidence), identity=identity(base, adapter),
    ).save(decision)  # fmt: skip
    return {"passed": float(verdict == "pass")}
