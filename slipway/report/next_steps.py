"""What a person does after a release, by how it ended."""

from slipway.artifacts import Check, Decision, Validation
from slipway.report import words
from slipway.report.release import Release

_GO_ON = "Run `slipway run` again: finished stages are kept, and training goes on from its last checkpoint."


def failed_checks(validation: Validation | None) -> list[Check]:
    """The expectations that do not hold, critical ones first."""
    order = {"critical": 0, "warning": 1, "info": 2}
    failed = [check for check in validation.checks if not check.passed] if validation else []
    return sorted(failed, key=lambda check: order[check.severity])


def _of_checks(validation: Validation | None) -> list[str]:
    steps = []
    for check in failed_checks(validation):
        if check.severity == "critical":
            place = f"{check.column}: " if check.column else ""
            steps.append(f"{place}{check.expectation} fails in {words.count(check.unexpected, 'row')}. {check.why}")
    return steps


def _of_findings(decision: Decision | None) -> list[str]:
    findings = decision.findings if decision else []
    return [
        f"{f.rule}: {f.remedy}"
        for f in findings
        if f.severity != "advise" and f.verdict != "pass" and not f.waiver and f.remedy
    ]


def next_steps(release: Release, validation: Validation | None, decision: Decision | None) -> list[str]:
    """The next steps, each one sentence or two, the most useful first."""
    if release.outcome in ("registered", "passed"):
        again = f"`git checkout {release.tag} && dvc repro` makes it again."
        kept = again if release.tag else "Commit `dvc.lock` and `pins/` to keep it."
        return [f"Read the sample answers, then {_use(release)}.", kept]
    if release.outcome in ("refused", "undecided"):
        causes = _of_findings(decision) or _of_checks(validation)
        return [*causes, "Change the data, `params.yaml` or the policy, then run `slipway run` again."]
    if release.outcome == "aborted":
        return [_GO_ON]
    return ["Put right what the reason above names.", _GO_ON]


def _use(release: Release) -> str:
    if release.version is None:
        return f"use the model in `{release.paths.get('adapter', 'the adapter')}`"
    adapter = release.paths.get("adapter", "the adapter")
    return f"look at the model (`{adapter}`) with `slipway models show {release.version}`"
