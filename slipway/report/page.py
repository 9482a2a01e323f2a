"""The report's page: views of the evidence in the order they are read, put into the template."""

from dataclasses import dataclass
from typing import Any

from markupsafe import Markup, escape

from slipway.artifacts import Check, Decision, Estimate, Finding, Scorecard, Validation
from slipway.report import charts, comparisons, observed, words
from slipway.report.evidence import Evidence
from slipway.report.funnel import funnel
from slipway.report.next_steps import failed_checks, next_steps
from slipway.report.observed import Fact
from slipway.report.release import Release, StageRun
from slipway.report.samples import pick, samples

SHOWN_SAMPLES = 3  # of each kind
MOST_FILES = 8
LARGEST_MATRIX = 30  # labels; beyond, the picture is no longer readable

MODEL_NAMES = {"base": "Base", "champion": "Champion", "tuned": "Tuned"}


@dataclass(frozen=True)
class Figure:
    """One number worth a large type."""

    name: str
    value: str
    before: str | None
    note: str


@dataclass(frozen=True)
class ModelScore:
    model: str
    value: str
    interval: str
    band: charts.Band


@dataclass(frozen=True)
class MetricRow:
    """One metric for all models, with the tuned model's change against the base."""

    name: str
    direction: str
    scores: list[ModelScore]
    change: str | None
    change_interval: str | None
    tone: str


@dataclass(frozen=True)
class Rule:
    """One rule of the policy with its margin's bar: −1 to 1, positive inside the bound."""

    finding: Finding
    word: words.Word
    share: float | None


def prose(text: str) -> Markup:
    """A sentence with its `code` set as code, everything escaped."""
    parts = text.split("`")
    if len(parts) % 2 == 0:  # a lone backtick is only a backtick
        return escape(text)
    code = Markup("<code>{}</code>")
    return Markup().join(code.format(part) if place % 2 else escape(part) for place, part in enumerate(parts))


def models_of(scorecard: Scorecard) -> list[str]:
    """The models to show: the champion only where it is another than the base."""
    return [
        name
        for name in ("base", "champion", "tuned")
        if name in scorecard.metrics and not (name == "champion" and scorecard.champion.kind == "base")
    ]


def figures(scorecard: Scorecard | None, release: Release) -> list[Figure]:
    """The two or three metrics that matter most, and the rows they rest on."""
    if scorecard is None or "tuned" not in scorecard.metrics:
        return []
    tuned, base = scorecard.metrics["tuned"], scorecard.metrics.get("base", {})
    shown = []
    for name in ("exact_match", "macro_f1", "loss"):
        if name in tuned:
            metric, before = words.METRICS[name], base.get(name)
            note = f"95 % interval {metric.interval(tuned[name])}"
            was = metric.show(before.value) if before else None
            shown.append(Figure(metric.name, metric.show(tuned[name].value), was, note))
    took = f"{words.duration(release.seconds)} for the whole release" if release.seconds is not None else ""
    return [*shown, Figure("Test rows", words.number(scorecard.items), None, took)]


def _score(model: str, metric: words.Metric, estimate: Estimate, scale: tuple[float, float]) -> ModelScore:
    placed = charts.band(estimate, *scale)
    return ModelScore(MODEL_NAMES[model], metric.show(estimate.value), metric.interval(estimate), placed)


def pipeline(release: Release, decision: Decision | None) -> list[tuple[StageRun, words.Word]]:
    """Every stage with how it ended; the gate, which runs well to say no, with what it said."""
    ended = {stage.name: words.STATUSES[stage.status] for stage in release.stages}
    if decision and "gate" in ended:
        ended["gate"] = words.VERDICTS[decision.verdict]
    return [(stage, ended[stage.name]) for stage in release.stages]


def metric_rows(scorecard: Scorecard | None) -> list[MetricRow]:
    """Every metric of the tuned model beside the others'."""
    if scorecard is None:
        return []
    rows = []
    for name in words.metric_order(set(scorecard.metrics.get("tuned", {}))):
        metric = words.metric(name)
        estimates = {m: scorecard.metrics[m][name] for m in models_of(scorecard) if name in scorecard.metrics[m]}
        scale = charts.scale_of(list(estimates.values()), metric)
        delta = scorecard.deltas.get("base", {}).get(name)
        rows.append(
            MetricRow(
                name=metric.name,
                direction="higher is better" if metric.higher else "lower is better",
                scores=[_score(model, metric, estimate, scale) for model, estimate in estimates.items()],
                change=metric.change(delta.value) if delta else None,
                change_interval=metric.change_interval(delta) if delta else None,
                tone=metric.tone(delta.value) if delta else "mute",
            )
        )
    return rows


def rules(decision: Decision | None) -> list[Rule]:
    """The gate's rules: those that do not hold first, blocking ones before advice."""
    if decision is None:
        return []
    order = {"refuse": 0, "undecided": 1, "pass": 2}
    ordered = sorted(decision.findings, key=lambda f: (order[f.verdict], f.severity == "advise", f.waiver is not None))
    return [Rule(finding, _word(finding), charts.margin_share(finding.margin)) for finding in ordered]


def _word(finding: Finding) -> words.Word:
    return words.WAIVED if finding.waiver else words.VERDICTS[finding.verdict]


def idle_waivers(evidence: Evidence) -> list[str]:
    """Whoever gave one believes that it holds."""
    return evidence.registration.idle_waivers if evidence.registration else []


def second_rules(evidence: Evidence) -> list[Rule]:
    """What `register` judged beyond the gate: the rules that need observations, and any whose verdict moved."""
    if evidence.registration is None:
        return []
    before = {(f.rule, f.verdict) for f in evidence.decision.findings} if evidence.decision else set()
    return [rule for rule in rules(evidence.registration) if (rule.finding.rule, rule.finding.verdict) not in before]


def passed_checks(validation: Validation | None) -> list[Check]:
    return [check for check in validation.checks if check.passed] if validation else []


def _commit(release: Release) -> str:
    if release.commit is None:
        return "not in git"
    return "with changes that are not committed" if release.dirty else "clean"


def lineage(evidence: Evidence) -> list[Fact]:
    """What this model was made from and by, each with the digest that says so."""
    release, decision, source, base = evidence.release, evidence.decision, evidence.source, evidence.base
    facts = [Fact("Commit", _commit(release), release.commit)]
    if release.tag:
        facts.append(Fact("Tag", release.tag))
    if source:
        facts.append(Fact("Source", f"{source.source}, {words.count(len(source.files), 'file')}", source.revision))
        shown = source.files[:MOST_FILES]
        facts += [Fact("Source file", f"{file.uri} ({file.role})", file.sha256 or file.etag) for file in shown]
    if base:
        facts.append(Fact("Base model", base.source, base.revision))
    for name, manifest in evidence.manifests.items():
        facts.append(Fact(words.title(name), words.count(len(manifest.files), "file"), manifest.digest))
    facts += _judged(evidence)
    facts.append(Fact("Params", "params.yaml", release.params_digest))
    if policy := release.policy_digest or (decision and decision.policy_digest):
        facts.append(Fact("Policy", "the gate's rules", policy))
    return facts


def _judged(evidence: Evidence) -> list[Fact]:
    scorecard, decision, champion = evidence.scorecard, evidence.decision, evidence.champion
    facts = []
    if champion:
        serves = f"version {champion.version}" if champion.version else "the base model"
        facts.append(Fact("Champion", serves, champion.identity))
    if scorecard:
        facts += [Fact("Model identity", "tuned", scorecard.identity), Fact("Test set", "", scorecard.test_digest)]
    if decision:
        facts.append(Fact("Evidence", words.count(len(decision.evidence), "file"), decision.evidence_digest))
    return facts


def machine_facts(release: Release) -> list[Fact]:
    machine = release.machine
    libraries = ", ".join(f"{name} {version}" for name, version in sorted(machine.versions.items()))
    where = f"{machine.device}, {words.count(machine.threads, 'thread')}"
    facts = [Fact("Device", where), Fact("Python", machine.python)]
    if libraries:
        facts.append(Fact("Libraries", libraries))
    if release.mlflow_run_id:
        facts.append(Fact("MLflow run", f"{release.mlflow_run_id} at {release.mlflow_uri}"))
    return facts


def view(evidence: Evidence) -> dict[str, Any]:
    """Everything the template shows, by name."""
    release, scorecard = evidence.release, evidence.scorecard
    found = samples(evidence.predictions, evidence.test_messages)
    longest = max([stage.seconds or 0.0 for stage in release.stages], default=0.0) or 1.0
    matrix = scorecard.confusion if scorecard and 2 <= len(scorecard.labels) <= LARGEST_MATRIX else []
    return {
        "release": release,
        "reason": words.reason(release),
        "full_margin": words.number(charts.FULL_MARGIN),
        "outcome": words.OUTCOMES[release.outcome],
        "next_steps": next_steps(release, evidence.validation, evidence.registration or evidence.decision),
        "pipeline": pipeline(release, evidence.decision),
        "figures": figures(scorecard, release),
        "funnel": funnel(evidence.card),
        "curve": charts.loss_curve(evidence.loss),
        "metrics": metric_rows(scorecard),
        "scorecard": scorecard,
        "matrix": charts.confusion(matrix),
        "wrong": pick(found, False, SHOWN_SAMPLES),
        "right": pick(found, True, SHOWN_SAMPLES),
        "answered": len(found),
        "wrong_rows": sum(not sample.right for sample in found),
        "decision": evidence.decision,
        "rules": rules(evidence.decision),
        "pairings": comparisons.pairings(scorecard),
        "slices": comparisons.slices(scorecard),
        "benchmarks": evidence.benchmarks,
        "benchmark_rows": comparisons.benchmarks(evidence.benchmarks),
        "safety_rows": comparisons.safety(evidence.safety),
        "inspection": evidence.inspection,
        "scan": evidence.scan,
        "registration": evidence.registration,
        "second_rules": second_rules(evidence),
        "observed": observed.facts(evidence.observations),
        "waived": [rule for rule in rules(evidence.registration or evidence.decision) if rule.finding.waiver],
        "validation": evidence.validation,
        "failed_checks": failed_checks(evidence.validation),
        "passed_checks": passed_checks(evidence.validation),
        "lineage": lineage(evidence),
        "machine": machine_facts(release),
        "longest": longest,
        "problems": [
            *evidence.release.warnings,
            *idle_waivers(evidence),
            *evidence.problems,
        ],  # last: reading the parts above is what finds them
    }
