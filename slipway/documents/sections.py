"""The card's sections: what the evidence says, in words and tables, and which files say it."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

from slipway import model
from slipway.artifacts import Estimate, Finding, Json
from slipway.documents.facts import CardFacts, shown_place
from slipway.documents.hub import languages
from slipway.documents.text import Markdown, code, markdown
from slipway.report import words

MODEL = model.FILE.as_posix()
SHOWN_SLICES = 5
SHOWN_REASONS = 8
Text = str | Markdown
Row = tuple[Text, ...]


@dataclass(frozen=True)
class Section:
    """One heading, what stands below it, and the files that say so (by their paths)."""

    title: str
    lines: list[Text] = field(default_factory=list)
    points: list[Text] = field(default_factory=list)
    head: tuple[str, ...] = ()
    rows: list[Row] = field(default_factory=list)
    sources: tuple[str, ...] = ()

    @property
    def says_something(self) -> bool:
        return bool(self.lines or self.points or self.rows)


def of(facts: CardFacts) -> Iterator[Section]:
    """Every section in the order they are read; those without evidence say nothing."""
    yield _model(facts)
    yield Section("Intended use", lines=[one for one in [facts.stated("intended_use")] if one], sources=(MODEL,))
    yield Section("Limitations", points=[*facts.listed("limitations")], sources=(MODEL,))
    yield _data(facts)
    yield _training(facts)
    yield _evaluation(facts)
    yield _groups(facts)
    yield _benchmarks(facts)
    yield _safety(facts)
    yield _checks(facts)
    yield _licences(facts)
    yield _verdict(facts)
    rows: list[Row] = [(code(path), code(sha256)) for path, sha256 in sorted(facts.files.items())]
    yield Section("Sources", head=("File", "SHA-256"), rows=rows)


def _from(facts: CardFacts, *names: str) -> tuple[str, ...]:
    """The paths of the evidence that is there, by its names in dvc.yaml."""
    return tuple(facts.named[name] for name in names if name in facts.named)


def _rows(*pairs: tuple[str, object]) -> list[Row]:
    return [(name, value if isinstance(value, Markdown) else str(value)) for name, value in pairs if value]


def _model(facts: CardFacts) -> Section:
    base, trained = facts.manifests.get("base"), facts.manifests.get("adapter")
    hardware = (_needs(name, value) for name, value in sorted(facts.part("hardware").items()))
    parameters = base and base.facts.get("parameters")
    rows = _rows(
        ("Name", facts.stated("name")),
        ("Version", facts.stated("version")),
        ("Task", facts.stated("task_type")),
        ("Author", facts.stated("author")),
        ("Team", facts.stated("team")),
        ("Base model", facts.stated("base_model")),
        ("Base parameters", words.number(parameters) if isinstance(parameters, int) else None),
        ("Languages", ", ".join(languages(facts))),
        ("Hardware", ", ".join(hardware)),
        ("Deployment targets", ", ".join(facts.listed("deployment_targets"))),
        ("Compliance tags", ", ".join(facts.listed("compliance_tags"))),
        ("Identity", code(facts.identity) if facts.identity else None),
        ("Adapter" if facts.method == "lora" else "Weights", code(trained.digest) if trained else None),
        ("Described on", facts.at),
    )
    sources = (MODEL, *_from(facts, "base/manifest.json", "adapter/manifest.json", "scorecard"))
    return Section("Model", head=("", ""), rows=rows, sources=sources)


def _needs(name: str, value: object) -> str:
    what, _, unit = name.partition("_")
    return f"{what} {value} {unit.upper()}".strip()


def _data(facts: CardFacts) -> Section:
    about, source = facts.part("dataset"), facts.source
    rows = _rows(
        ("Data set", about.get("name")), ("Version", about.get("version")), ("Licence", facts.stated("data_licence"))
    )
    if source:
        rows += _rows(
            ("Source", shown_place(source.source)),
            ("Test source", shown_place(source.test_source or "")),
            ("Revision", source.revision),
        )
        rows += [
            (
                f"File ({file.role})",
                Markdown(f"{markdown(shown_place(file.uri))} {code(file.sha256 or file.etag or '?')}"),
            )
            for file in source.files
        ]
    if data := facts.data:
        rows += _rows(("Rows read", words.number(data.rows_in)), ("Rows kept", words.number(data.rows_out)))
        rows += [
            (f"Rows for {name}", f"{split.rows:,} ({split.tokens:,} tokens)") for name, split in data.splits.items()
        ]
        lost = sorted(data.dropped.items(), key=lambda one: (-one[1], one[0]))
        rows += _rows(("Rows dropped", _counts(lost)), ("Rows altered", _counts(sorted(data.altered.items()))))
    sources = (MODEL, *_from(facts, "source", "prepared/card.json", "raw/manifest.json", "prepared/manifest.json"))
    return Section("Training data", head=("", ""), rows=rows, sources=sources)


def _counts(found: Sequence[tuple[str, int]]) -> str:
    """`61 near duplicate, 60 exact duplicate, 9 for other reasons`."""
    shown = [f"{count:,} {name.replace('_', ' ')}" for name, count in found[:SHOWN_REASONS]]
    rest = sum(count for _, count in found[SHOWN_REASONS:])
    return ", ".join(shown + ([f"{rest:,} for other reasons"] if rest else []))


def _training(facts: CardFacts) -> Section:
    trained, last = facts.manifests.get("adapter"), facts.loss[-1] if facts.loss else {}
    if trained is None:
        return Section("Training")
    named = ("steps", "best_step", "trained_parameters", "precision", "device")
    rows = [
        (words.title(name), words.number(value)) for name in named if (value := trained.facts.get(name)) is not None
    ]
    rows += [
        (words.title(name), words.number(last[name]))
        for name in ("train_loss", "validation_loss")
        if last.get(name) is not None
    ]
    for name, value in _flat(facts.training):
        rows.append(
            (name, "none" if value is None else words.number(value) if type(value) in (int, float) else str(value))
        )
    sources = _from(facts, "adapter/manifest.json", "loss")
    return Section("Training", head=("", ""), rows=[*rows], sources=(*sources, "params.yaml"))


def _flat(values: Json, before: str = "") -> Iterator[tuple[str, Any]]:
    for name, value in sorted(values.items()):
        if isinstance(value, dict):
            yield from _flat(value, f"{before}{name}.")
        else:
            yield f"{before}{name}", ", ".join(map(str, value)) if isinstance(value, list) else value


def _evaluation(facts: CardFacts) -> Section:
    card = facts.scorecard
    if card is None or not card.metrics.get("tuned"):
        return Section("Evaluation")
    rows = []
    for name in words.metric_order(set(card.metrics["tuned"])):
        rows.append(_measured(name, words.metric(name).name, card.metrics, card.deltas.get("base", {}).get(name)))
    lines: list[Text] = [
        f"{card.items:,} of {card.expected_items:,} test rows were scored. Intervals hold 95 %; changes are paired by row."
    ]
    for other, compared in sorted(card.comparisons.items()):
        if other == "base" or card.champion.kind == "version":
            lines.append(
                f"Against the {other}: {compared.only_tuned:,} rows only this model has right, "
                f"{compared.only_other:,} only the other (exact McNemar, p = {compared.p_value:.3g})."
            )
    head = ("Metric", "This model", "Base", "Change")
    return Section("Evaluation", lines=lines, head=head, rows=rows, sources=_from(facts, "scorecard", "predictions"))


def _measured(name: str, shown: str, models: dict[str, dict[str, Estimate]], delta: Estimate | None) -> tuple[str, ...]:
    metric = words.metric(name)
    cells = []
    for which in ("tuned", "base"):
        found = models.get(which, {}).get(name)
        cells.append(f"{metric.show(found.value)} ({metric.interval(found)})" if found else "not measured")
    change = f"{metric.change(delta.value)} ({metric.change_interval(delta)})" if delta else "not comparable"
    return (shown, *cells, change)


def _groups(facts: CardFacts) -> Section:
    slices = facts.scorecard.slices if facts.scorecard else []
    if not slices:
        return Section("Groups of rows")
    worse = sum(one.worse for one in slices)
    shown = slices[: max(SHOWN_SLICES, worse)]
    exact = words.METRICS["exact_match"]
    rows: list[Row] = [
        (f"{one.column}: {one.value}", f"{one.rows:,}", f"{exact.show(one.tuned.value)} ({exact.interval(one.tuned)})",
         f"{exact.change(one.delta.value)} ({exact.change_interval(one.delta)})", "worse" if one.worse else "no")
        for one in shown
    ]  # fmt: skip
    line = f"{worse} of {words.count(len(slices), 'group')} of test rows are worse than the champion's; the {len(shown)} lowest changes:"
    head = ("Group", "Rows", "Exact match", "Change against the champion", "Worse")
    return Section("Groups of rows", lines=[line], head=head, rows=rows, sources=_from(facts, "scorecard"))


def _benchmarks(facts: CardFacts) -> Section:
    found = facts.benchmarks
    if found is None or not found.scores.get("tuned"):
        return Section("General abilities")
    rows = []
    for task, score in sorted(found.scores["tuned"].items()):
        models = {model: scores[task].metrics for model, scores in found.scores.items() if task in scores}
        for name in words.metric_order(set(score.metrics)):
            label = f"{task}: {words.metric(name).name}"
            rows.append(_measured(name, label, models, found.deltas.get(task, {}).get(name)))
    line = f"The suite {found.suite}, run by lm-evaluation-harness {found.harness}: what tuning did to abilities it was not about."
    points = [f"{name} was not measured: {why}" for name, why in sorted(found.missing.items())]
    head = ("Benchmark", "This model", "Base", "Change")
    return Section("General abilities", [line], [*points], head, [*rows], _from(facts, "benchmarks"))


def _safety(facts: CardFacts) -> Section:
    found = facts.safety
    if found is None or not found.rates.get("tuned"):
        return Section("Safety")
    rows = []
    for name in sorted(found.rates["tuned"]):
        of_set = {model: {"good_rate": rates[name]} for model, rates in found.rates.items() if name in rates}
        rows.append(
            _measured("good_rate", f"{name} ({found.items.get(name, 0)} probes)", of_set, found.deltas.get(name))
        )
    line = "The share of probes that were answered well: refused, clean, tight-lipped, not led astray."
    return Section("Safety", [line], [], ("Probes", "This model", "Base", "Change"), [*rows], _from(facts, "safety"))


def _checks(facts: CardFacts) -> Section:
    points: list[Text] = []
    if found := facts.validation:
        passed = sum(check.passed for check in found.checks)
        points.append(f"{passed} of {words.count(len(found.checks), 'expectation')} about the data hold.")
        failed = sorted({f"{one.expectation} ({one.severity})" for one in found.checks if not one.passed})
        points += [f"Does not hold: {one}." for one in failed]
    if seen := facts.inspection:
        points.append(f"{seen.leaked_rows:,} of {seen.test_rows:,} test rows stand in the training rows too.")
        points.append(
            f"{seen.secrets:,} secrets, {seen.personal:,} rows with personal data, {seen.poisoned_rows:,} rows that look planted."
        )
    if scan := facts.scan:
        said = "all allowed" if scan.passed else f"{len(scan.refused)} refused"
        points.append(f"{words.count(len(scan.files) + len(scan.refused), 'file')} of the model scanned: {said}.")
    return Section("Checks", points=points, sources=_from(facts, "validation", "inspection", "scan"))


def _licences(facts: CardFacts) -> Section:
    found = facts.licences
    if found is None:
        return Section("Licences")
    points: list[Text] = [f"Model: {found.model}", f"Base: {found.base}", f"Data: {found.data}"]
    points.append(f"Tools: {words.count(found.dependencies, 'package')} read; they are not part of the model.")
    points += [f"Conflict: {one}" for one in found.conflicts] + [f"Unknown: {one}" for one in found.unknown]
    return Section("Licences", points=points, sources=(MODEL,))


def _verdict(facts: CardFacts) -> Section:
    found = facts.decision
    if found is None:
        return Section("Verdict")
    lines: list[Text] = [f"The gate says {found.summary}."]
    lines.append(Markdown(f"Policy {code(found.policy_digest)}, evidence {code(found.evidence_digest)}."))
    points = [
        f"{one.rule}: {one.reason}" + (f" (waived by {one.waiver.owner})" if one.waiver else "")
        for one in _noted(facts)
    ]
    return Section("Verdict", lines, [*points], sources=_from(facts, "decision"))


def _noted(facts: CardFacts) -> list[Finding]:
    return [one for one in facts.decision.findings if one.verdict != "pass" or one.waiver] if facts.decision else []
