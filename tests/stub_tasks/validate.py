"""Validate rows (stub)."""

from slipway import digest
from slipway.artifacts import Check, Inspection, Manifest, Validation
from slipway.errors import Refused
from slipway.params import ValidateParams
from tasks import _faults
from tasks._stage import Input, Metrics, Output, stage


@stage()
def validate(
    params: ValidateParams, raw: Input, prepared: Input, expectations: Input, validation: Output, inspection: Output
) -> Metrics:
    passed, refusal = True, None
    try:
        _faults.act("validate", validation)
    except Refused as error:
        passed, refusal = False, error
    check = Check(
        suite="prepared", expectation="rows", column=None, severity="critical", passed=passed,
        observed=2, unexpected=0 if passed else 3, rows=[] if passed else ["a:1", "a:2", "a:3"], why="A model learns from rows.",
    )  # fmt: skip
    Validation(
        passed=passed, raw_digest=Manifest.verified(raw).digest, prepared_digest=Manifest.verified(prepared).digest,
        suites_digest=digest.of_path(expectations), tables={"prepared": 2}, checks=[check],
    ).save(validation)  # fmt: skip
    Inspection(
        prepared_digest=Manifest.verified(prepared).digest, train_rows=2, test_rows=2, leaked=[], leaked_rows=0,
        suspicions=[], secrets=0, personal=0, poisoned_rows=0,
    ).save(inspection)  # fmt: skip
    if refusal:
        raise refusal
    return {"checks": 1.0, "rows_shown": float(params.rows_shown)}
