"""Judge the evidence by the policy."""

from slipway import digest
from slipway.governance import evidence
from slipway.governance.evidence import Places
from slipway.governance.judge import judge
from slipway.governance.policy import Policy
from slipway.params import GateParams
from slipway.scanning import scan_folders
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
    rules = Policy.load(policy)
    scan_folders({"base": base, "adapter": adapter}).save(scan)
    places = Places(
        source=source,
        pinned_base=pinned_base,
        champion=champion,
        base=base,
        adapter=adapter,
        prepared=prepared,
        validation=validation,
        inspection=inspection,
        loss=loss,
        scorecard=scorecard,
        predictions=predictions,
        benchmarks=benchmarks,
        safety=safety,
        scan=scan,
    )
    verdict = judge(evidence.gather(places), rules, digest.of_file(policy))
    verdict.save(decision)
    print(verdict.summary, flush=True)
    return {
        "rules": float(len(verdict.findings)),
        "failed": float(sum(finding.verdict != "pass" for finding in verdict.findings)),
        "passed": float(verdict.verdict == "pass"),
    }
