"""What a release came to, for the terminal: stages, metrics before and after, verdict, report, next step.

Light on purpose: it also answers a run in which nothing changed, which has less than a moment.
"""

import io
from pathlib import Path

from rich.console import Console, Group, RenderableType
from rich.table import Table
from rich.text import Text

from slipway.artifacts import Estimate, Scorecard
from slipway.report import words
from slipway.report.evidence import Evidence
from slipway.report.next_steps import next_steps
from slipway.report.release import Release, StageRun

_COLOURS = {"good": "green", "bad": "bold red", "warn": "yellow", "mute": "dim"}

# What each stage's line shows of its metrics, where they exist; other stages show their first two.
_HEADLINES: dict[str, tuple[str, ...]] = {
    "ingest": ("rows", "files"),
    "fetch": ("parameters",),
    "prepare": ("rows_in", "rows_out"),
    "validate": ("checks", "failed_critical", "failed_warning"),
    "finetune": ("train_loss", "validation_loss"),
    "evaluate": ("exact_match", "base_exact_match"),
    "gate": ("rules", "failed"),
    "register": ("rules", "failed"),
}


def _plain(text: str, colour: str = "") -> Text:
    """Text as it is: no markup, no control characters that could move a terminal's cursor."""
    return Text("".join(c if c.isprintable() or c == "\n" else "�" for c in text), style=colour)


def _headline(stage: StageRun) -> str:
    if stage.message:
        return stage.message
    names = [name for name in _HEADLINES.get(stage.name, ()) if name in stage.metrics] or list(stage.metrics)[:2]
    shown = ((words.metric(name), stage.metrics[name]) for name in names)
    return " · ".join(f"{metric.name.lower()} {metric.show(value)}" for metric, value in shown)


def _stages(release: Release) -> Table:
    table = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0))
    table.add_column("stage")
    table.add_column("status")
    table.add_column("time", justify="right")
    table.add_column("result", overflow="fold")
    for stage in release.stages:
        word = words.STATUSES[stage.status]
        tries = f" ({stage.attempts} tries)" if stage.attempts > 1 else ""
        status = _plain(f"{word.sign} {word.text}{tries}", _COLOURS[word.tone])
        table.add_row(_plain(stage.name), status, words.duration(stage.seconds), _plain(_headline(stage)))
    return table


def _cell(metric: words.Metric, estimate: Estimate | None) -> str:
    return f"{metric.show(estimate.value)} ({metric.interval(estimate)})" if estimate else "–"


def _metrics(scorecard: Scorecard) -> Table:
    """Before and after, on the same rows, with 95 % intervals."""
    models = [name for name in ("base", "champion", "tuned") if name in scorecard.metrics]
    if scorecard.champion.kind == "base":
        models = [name for name in models if name != "champion"]  # the champion is the base: one column says it
    table = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0))
    table.add_column(f"on {words.count(scorecard.items, 'test row')}")
    for model in models:
        table.add_column(model, justify="right")
    for name in words.metric_order(set(scorecard.metrics.get("tuned", {}))):
        metric = words.metric(name)
        table.add_row(_plain(metric.name), *(_cell(metric, scorecard.metrics[model].get(name)) for model in models))
    return table


def renderable(evidence: Evidence, release: Release) -> RenderableType:
    """The summary for a rich console; colours only where the console has them."""
    scorecard = evidence.scorecard
    word = words.OUTCOMES[release.outcome]
    steps = next_steps(release, evidence.validation, evidence.registration or evidence.decision)
    parts: list[RenderableType] = [_stages(release), Text()]
    if scorecard:
        parts += [_metrics(scorecard), Text()]
    parts.append(_plain(f"{word.sign} {word.text}: {words.reason(release)}", f"bold {_COLOURS[word.tone]}"))
    idle = evidence.registration.idle_waivers if evidence.registration else []
    parts += [_plain(f"  ! {problem}", "yellow") for problem in (*release.warnings, *idle, *evidence.problems)]
    took = f" in {words.duration(release.seconds)}" if release.seconds is not None else ""
    parts.append(_plain(f"  release {release.id}{took}"))
    if release.report:
        parts.append(_plain(f"  report  {release.report}"))
    parts += [_plain(f"  next    {steps[0]}"), *(_plain(f"          {step}") for step in steps[1:])]
    return Group(*parts)


def show(release: Release, root: Path) -> None:
    """Print a kept release's summary from the copies of its evidence, whatever the workspace holds by now."""
    from slipway import records

    kept = {name: Path(path).name for name, path in release.paths.items()}
    folder = records.folder_of(root, release.id)
    evidence = Evidence(folder, release.model_copy(update={"paths": kept}), folder / "register")
    Console().print(renderable(evidence, release))


def lines(release: Release, root: Path, width: int = 110) -> list[str]:
    """The summary of the release in a workspace as plain lines, for a log or a pipe."""
    console = Console(file=io.StringIO(), width=width, color_system=None, force_terminal=False, legacy_windows=False)
    with console.capture() as capture:
        console.print(renderable(Evidence(root, release), release))
    return [line.rstrip() for line in capture.get().rstrip("\n").split("\n")]
