"""One release: the pure stages in order, then the verdict and its report.

slipway run      works in place, as `dvc repro` does
slipway release  works in a git worktree of its own, as a deployment's run does
"""

import asyncio
import contextlib
import os
import platform
import signal
import time
from collections.abc import AsyncIterator, Iterator
from dataclasses import dataclass, field
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path
from typing import Any, Literal

from prefect import flow
from prefect.artifacts import acreate_markdown_artifact
from prefect.client.schemas.objects import State
from prefect.exceptions import TerminationSignal
from prefect.states import Cancelled, Completed, Failed
from pydantic import BaseModel, Field

from slipway import digest, git, params, pins, records, settings, strict, tracking, workspace
from slipway.artifacts import Decision
from slipway.errors import Refused, SlipwayError
from slipway.report import write as write_report
from slipway.report.release import Machine, Outcome, Release, StageRun
from tasks import _repro
from tasks._prefect import Workspace
from tasks._stage import NAMES, find

_VERDICTS: dict[str, Outcome] = {"pass": "passed", "refuse": "refused", "undecided": "undecided"}


class ReleaseOptions(BaseModel):
    """What a person may choose when starting a release; the Prefect UI shows it as a form."""

    isolation: Literal["worktree", "in place"] = Field(
        default="worktree", title="Where to work", description="A git worktree of its own, or the folder as it stands"
    )
    revision: str = Field(default="HEAD", title="Git revision", description="What to build, when working in a worktree")
    changes: list[str] = Field(
        default=[],
        title="Parameter changes",
        description="`section.key=value`, as in `finetune.lora.rank=4`; worktree only",
    )
    wait_seconds: float = Field(
        default=0, ge=0, title="Wait", description="How long to wait for a workspace that another run holds"
    )


@dataclass
class Run:
    """A release under way."""

    project: Path
    place: Path  # the workspace: the project itself or a worktree
    id: str
    options: ReleaseOptions
    tracked: tracking.ReleaseRun
    environment: dict[str, str]
    started: datetime = field(default_factory=lambda: datetime.now(UTC))
    stages: dict[str, StageRun] = field(default_factory=dict)
    tag: str | None = None
    error: SlipwayError | None = None

    @property
    def paths(self) -> dict[str, str]:
        return dict(strict.read_yaml(self.place / "dvc.yaml")["vars"][0]["path"])


@contextlib.contextmanager
def _place(project: Path, release: str, options: ReleaseOptions) -> Iterator[Path]:
    if options.isolation == "in place":
        with workspace.held(project, release, options.wait_seconds):
            yield project
        return
    with workspace.worktree(project, release, options.revision) as place:
        if options.changes:
            _repro.set_params(place, options.changes)
        yield place


def _environment(project: Path, place: Path, release: str, parent_run: str, lifeline: Path) -> dict[str, str]:
    """What the stages' processes get: quiet libraries, shared state and scratch, and whom to follow."""
    commit = git.commit(place) if git.is_repository(place) else ""
    return {
        **os.environ,
        **settings.environment(project),
        "SLIPWAY_STATE": str(settings.state_folder(project)),
        "SLIPWAY_SCRATCH": str(settings.scratch_folder(project)),
        "SLIPWAY_PROJECT": str(project),
        "SLIPWAY_RELEASE": release,
        "SLIPWAY_PARENT_RUN": parent_run,
        "SLIPWAY_COMMIT": commit,
        "SLIPWAY_LIFELINE": str(lifeline),
    }


@contextlib.asynccontextmanager
async def _begin(project: Path, release: str, options: ReleaseOptions) -> AsyncIterator[Run]:
    settings.apply(project)  # a worker of Prefect's starts this flow without the command line
    with workspace.lifeline(project, release) as lifeline, _place(project, release, options) as place:
        for dead in records.bury(project):
            if dead.mlflow_run_id:
                await asyncio.to_thread(tracking.close, project, dead.mlflow_run_id)
        pins.refresh(project, place)
        policy = place / params.load_all(place / "params.yaml").gate.policy
        tags = {"slipway.params": digest.of_file(place / "params.yaml")}
        if policy.is_file():
            tags["slipway.policy"] = digest.of_file(policy)
        tracked = await asyncio.to_thread(tracking.ReleaseRun, project, release, tags)
        run = Run(
            project, place, release, options, tracked, _environment(project, place, release, tracked.id, lifeline)
        )
        records.begin(project, _record(run, "aborted", "killed before its end"))
        yield run


async def _stage(run: Run, name: str) -> None:
    """Run one stage and note what became of it, whatever that is."""
    begin, place = time.monotonic(), Workspace(root=str(run.place), release=run.id, environment=run.environment)
    try:
        done: dict[str, Any] = await find(name).task()(place)
    except SlipwayError as error:
        run.error = error
        status: Literal["refused", "failed"] = "refused" if isinstance(error, Refused) else "failed"
        run.stages[name] = StageRun(name=name, status=status, seconds=time.monotonic() - begin, message=str(error))
        raise
    seconds = time.monotonic() - begin
    metrics = strict.read_json(run.place / run.paths["metrics"] / f"{name}.json")
    mlflow_run = done["run"] or await asyncio.to_thread(_restored, run, name, metrics)
    run.stages[name] = StageRun(
        name=name,
        status=done["status"],
        seconds=seconds,
        attempts=done["attempts"],
        metrics=metrics,
        mlflow_run_id=mlflow_run,
    )


def _restored(run: Run, name: str, metrics: dict[str, float]) -> str:
    """The MLflow run of a stage that DVC had no need to run."""
    from tasks._stage import declared

    made = [run.place / out for key in ("outs", "metrics") for out in declared(run.place, name, key)]
    return tracking.restored_run(run.project, name, run.tracked.id, metrics, tracking.outputs_digest(made, run.place))


async def _judged(run: Run) -> tuple[Outcome, str]:
    """Every stage in order; the verdict, or how the release ended before it."""
    try:
        for name in NAMES:
            await _stage(run, name)
        decision = Decision.load(run.place / run.paths["decision"])
        return _VERDICTS[decision.verdict], decision.summary
    except Refused as error:
        return "refused", str(error)
    except SlipwayError as error:
        return "failed", str(error)


def _machine(run: Run) -> Machine:
    names = ("torch", "transformers", "peft", "mlflow", "prefect", "dvc")
    threads = params.load_all(run.place / "params.yaml").finetune.threads
    device = str(run.stages["finetune"].metrics.get("device", "")) if "finetune" in run.stages else ""
    return Machine(
        device=device or f"{platform.machine()} CPU, {os.cpu_count()} cores",
        threads=threads,
        python=platform.python_version(),
        versions={name: version(name) for name in names},
    )


def _record(run: Run, outcome: Outcome, reason: str) -> Release:
    chosen = params.load_all(run.place / "params.yaml")
    policy, known = run.place / chosen.gate.policy, git.is_repository(run.place)
    stages = [run.stages.get(name) or StageRun(name=name, status="not run") for name in NAMES]
    return Release(
        id=run.id,
        model=tracking.model_name(run.place),
        outcome=outcome,
        reason=reason,
        exit_code=0
        if outcome == "passed"
        else 130
        if outcome == "aborted"
        else run.error.exit_code
        if run.error
        else 3,
        started=run.started,
        ended=datetime.now(UTC),
        stages=stages,
        commit=git.commit(run.place) if known else None,
        dirty=bool(git.dirty(run.place)) if known else True,
        tag=run.tag,
        params_digest=digest.of_file(run.place / "params.yaml"),
        policy_digest=digest.of_file(policy) if policy.is_file() else None,
        mlflow_uri=settings.mlflow_uri(run.project),
        mlflow_run_id=run.tracked.id,
        machine=_machine(run),
        paths=run.paths,
        params=chosen.model_dump(mode="json", by_alias=True),
        lock_digest=records.lock_digest(run.place),
        report=os.path.relpath(records.folder_of(run.project, run.id) / "report.html", run.project),
    )


async def _finish(run: Run, outcome: Outcome, reason: str) -> Release:
    """Tag, push, report, record: what a release leaves behind, however it ended."""
    if outcome in _VERDICTS.values() and git.is_repository(run.place) and (run.place / "dvc.lock").exists():
        run.tag = f"slipway/{run.id}"
        git.keep(run.place, run.tag, f"Release {run.id}: {outcome}\n\n{reason}")
        await _repro.push(run.place, run.environment)
    release = _record(run, outcome, reason)
    folder = records.save(run.project, run.place, release)
    report = await asyncio.to_thread(write_report, release, run.place, folder / "report.html")
    headline = {
        f"{s.name}.{k}": v for s in release.stages if s.name in ("evaluate", "gate") for k, v in s.metrics.items()
    }
    tags = {"slipway.tag": run.tag or "", "slipway.reason": reason[:4000]}
    await asyncio.to_thread(
        run.tracked.finish, outcome, headline, tags, [report, folder / Release.FILE, folder / records.DATA_DOCS]
    )
    return release


async def _show(release: Release) -> None:
    """The release's end as a Prefect artifact."""
    rows = "\n".join(f"| {s.name} | {s.status} | {s.seconds or 0:.1f} |" for s in release.stages)
    text = f"# {release.model}: {release.outcome}\n\n{release.reason}\n\n| stage | status | seconds |\n|---|---|---|\n{rows}\n"
    await acreate_markdown_artifact(
        markdown=f"{text}\nReport: `{release.report}`\n", key="release-report", description=f"Release {release.id}"
    )


def _state(release: Release) -> State[Any]:
    """A named final state; a refusal is an outcome, not a crash."""
    message = f"{release.id}: {release.reason}"
    if release.outcome == "failed":
        return Failed(message=message)
    if release.outcome == "aborted":
        return Cancelled(message=message)
    return Completed(name=release.outcome.capitalize(), message=message)


@flow(name="release", persist_result=False, description=__doc__, validate_parameters=True)
async def release(options: ReleaseOptions = ReleaseOptions(), release_id: str | None = None) -> State[Any]:  # noqa: B008
    """From data to a judged model."""
    project = settings.find_root()
    async with _begin(project, release_id or records.new_id(), options) as run:
        try:
            outcome, reason = await _judged(run)
        except (asyncio.CancelledError, KeyboardInterrupt):
            await asyncio.shield(_finish(run, "aborted", "stopped before its end"))
            raise
        ended = await _finish(run, outcome, reason)
    await _show(ended)
    return _state(ended)


def run_here(release_id: str, options: ReleaseOptions) -> BaseException | None:
    """Run the flow in this process; what it raised, when it did not end in a state of its own."""

    async def watched() -> Any:
        task = asyncio.current_task()
        assert task is not None
        asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, task.cancel)
        state = await release(options, release_id, return_state=True)
        return await state.aresult(raise_on_failure=False)

    try:
        ended = asyncio.run(watched())
    except (asyncio.CancelledError, KeyboardInterrupt, TerminationSignal):
        return None  # stopped on purpose; the flow has kept its record
    return ended if isinstance(ended, BaseException) else None
