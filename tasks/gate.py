"""Judge the evidence by the policy."""

from slipway import digest
from slipway.artifacts import BasePin, ChampionPin, SourcePin
from slipway.governance import evidence
from slipway.governance.judge import judge
from slipway.governance.policy import Policy
from slipway.params import GateParams
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
    rules = Policy.load(policy)
    pins = {SourcePin.FILE: source, BasePin.FILE: pinned_base, ChampionPin.FILE: champion}
    found = evidence.gather(pins, base, adapter, prepared, validation, scorecard, predictions)
    verdict = judge(found, rules, digest.of_file(policy))
    verdict.save(decision)
    print(verdict.summary, flush=True)
    return {
        "rules": float(len(verdict.findings)),
        "failed": float(sum(finding.verdict != "pass" for finding in verdict.findings)),
        "passed": float(verdict.verdict == "pass"),
    }
