"""Hold raw and prepared tables against the expectations, and inspect the rows themselves."""

from slipway.artifacts import Manifest, Validation
from slipway.data import data_docs, tables
from slipway.data.expectations import digest_of, failures, hold, load, problem_of
from slipway.data.inspection import inspect
from slipway.errors import Refused
from slipway.params import ValidateParams
from tasks._stage import Input, Metrics, Output, stage


@stage()
def validate(
    params: ValidateParams, raw: Input, prepared: Input, expectations: Input, validation: Output, inspection: Output
) -> Metrics:
    suites = load(expectations)
    about_raw, about_prepared = Manifest.verified(raw), Manifest.verified(prepared)
    rows_in, rows_out = tables.raw(raw), tables.prepared(prepared)
    held = {"raw": rows_in, "prepared": rows_out, "summary": tables.summary(rows_in, rows_out, prepared)}
    outcomes = {name: hold(name, suites[name], table, params.rows_shown) for name, table in held.items()}
    inspected, about_rows = inspect(raw, rows_out, about_prepared.digest, params)

    checks = [check for found, _ in outcomes.values() for check in found] + about_rows
    critical, warning, info = (failures(checks, severity) for severity in ("critical", "warning", "info"))
    seen = {name: len(table.frame) for name, table in held.items()}
    result = Validation(
        passed=not critical,
        raw_digest=about_raw.digest,
        prepared_digest=about_prepared.digest,
        suites_digest=digest_of(expectations),
        tables=seen,
        checks=checks,
    )
    result.save(validation)
    inspected.save(inspection)
    docs = validation.with_name("data_docs")  # no output of the stage: Great Expectations writes the time into it
    first_page = data_docs.write(docs, result, {name: page for name, (_, page) in outcomes.items()})

    for check in (*critical, *warning, *info):
        print(f"{check.severity:<8}  {problem_of(check)}", flush=True)
    if critical:
        more = f"; and {len(critical) - 3} more" if len(critical) > 3 else ""
        raise Refused(
            f"{len(critical)} of {len(checks)} expectations failed critically: "
            f"{'; '.join(problem_of(check) for check in critical[:3])}{more} ({expectations}); "
            f"see {first_page} and validation.json beside it, then correct the data or, if it is right, the expectation"
        )
    return {
        "checks": len(checks),
        "failed_critical": len(critical),
        "failed_warning": len(warning),
        "rows": len(rows_out.frame),
    }
