"""Judge the evidence by the policy."""

from slipway import digest
from slipway.governance import evidence
from slipway.governance.judge import judge
from slipway.governance.policy import Policy
from slipway.params import GateParams
from tasks._stage import Input, Metrics, Output, stage


@stage()
def gate(
    params: GateParams,
    policy: Input,
    base: Input,
    adapter: Input,
    prepared: Input,
    validation: Input,
    scorecard: Input,
    decision: Output,
) -> Metrics:
    rules = Policy.load(policy)
    found = evidence.gather(base, adapter, prepared, validation, scorecard)
    verdict = judge(found, rules, digest.of_file(policy))
    verdict.save(decision)
    print(verdict.summary, flush=True)
    return {
        "rules": float(len(verdict.findings)),
        "failed": float(sum(finding.verdict != "pass" for finding in verdict.findings)),
        "passed": float(verdict.verdict == "pass"),
    }
