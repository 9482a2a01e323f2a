"""One release: the pure stages in order, then the acts, the verdict and its report.

slipway run      works in place, as `dvc repro` does
slipway release  works in a git worktree of its own, as a deployment's run does
"""

import asyncio
import contextlib
import os
import platform
import signal
import sys
import threading
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import dataclass, field
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path
from typing import Any, Literal

from prefect import flow, get_run_logger
from prefect.artifacts import acreate_markdown_artifact
from prefect.client.schemas.objects import State
from prefect.exceptions import TerminationSignal
from prefect.states import Cancelled, Completed, Failed
from pydantic import BaseModel, Field

from flows import server
from slipway import digest, git, params, pins, records, settings, strict, tracking, workspace
from slipway.artifacts import Decision
from slipway.errors import Refused, SlipwayError, StageError, Transient
from slipway.keeping import retiring
from slipway.ledger import checkpoints, releases, sinks
from slipway.ledger.database import Database
from slipway.ledger.events import Actor
from slipway.registry import entry, mirror, receipt, versions
from slipway.registry.register import may_follow, misnamed_waivers
from slipway.report import write as write_report
from slipway.report.release import Machine, Outcome, Release, StageRun
from tasks import _repro, _storage
from tasks._prefect import Workspace
from tasks._stage import ACTS, NAMES, declared, find, find_act

STOP_SECONDS = 30  # from a signal to the end, for the stage's grace, the record and the report
_VERDICTS: dict[str, Outcome] = {"pass": "registered", "refuse": "refused", "undecided": "undecided"}


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
    """A release under way, with the configuration it began with."""

    project: Path
    place: Path  # the workspace: the project itself or a worktree
    id: str
    tracked: tracking.ReleaseRun
    environment: dict[str, str]
    params: params.Params
    began_with: dict[str, str]  # params.yaml and the policy → SHA-256
    started: datetime = field(default_factory=lambda: datetime.now(UTC))
    stages: dict[str, StageRun] = field(default_factory=dict)
    tag: str | None = None
    error: SlipwayError | None = None
    warnings: list[str] = field(default_factory=list)
    version: str | None = None
    already: str = ""  # said of a candidate that another release has registered

    @property
    def model(self) -> str:
        return tracking.model_name(self.place)

    @property
    def paths(self) -> dict[str, str]:
        return dict(strict.read_yaml(self.place / "dvc.yaml")["vars"][0]["path"])


def _configuration(place: Path, policy: str) -> dict[str, str]:
    return {name: digest.of_file(place / name) for name in ("params.yaml", policy) if (place / name).is_file()}


@contextlib.asynccontextmanager
async def _place(project: Path, release: str, options: ReleaseOptions) -> AsyncIterator[Path]:
    """The workspace, held for this release; waits as long as the options allow when another run holds it."""
    if options.isolation == "in place":
        with await _held(project, release, options.wait_seconds):
            yield project
        return
    with workspace.worktree(project, release, options.revision) as place:
        _storage.share(project, place)
        if options.changes:
            _repro.set_params(place, options.changes)
        yield place


async def _held(project: Path, release: str, wait_seconds: float) -> contextlib.ExitStack:
    stack, deadline, said = contextlib.ExitStack(), time.monotonic() + wait_seconds, False
    while True:
        try:
            stack.enter_context(workspace.held(project, release))
            return stack
        except Transient as error:
            if time.monotonic() >= deadline:
                raise
            if not said:
                print(f"waiting up to {wait_seconds:.0f} s: {error}", file=sys.stderr, flush=True)
                said = True
        await asyncio.sleep(0.2)


def _environment(project: Path, place: Path, release: str, parent_run: str, lifeline: Path) -> dict[str, str]:
    """What the stages' processes get: quiet libraries, shared state and scratch, and whom to follow."""
    commit = git.commit(place) if git.is_repository(place) else ""
    ours = {
        **settings.environment(project),
        "SLIPWAY_STATE": str(settings.state_folder(project)),
        "SLIPWAY_SCRATCH": str(settings.scratch_folder(project)),
        "SLIPWAY_PROJECT": str(project),
        "SLIPWAY_RELEASE": release,
        "SLIPWAY_PARENT_RUN": parent_run,
        "SLIPWAY_COMMIT": commit,
        "SLIPWAY_LIFELINE": str(lifeline),
    }
    return settings.child({}, ours)


@contextlib.asynccontextmanager
async def _begin(project: Path, release: str, options: ReleaseOptions) -> AsyncIterator[Run]:
    settings.apply(project)  # a worker of Prefect's starts this flow without the command line
    with workspace.lifeline(project, release) as lifeline:
        async with _place(project, release, options) as place:
            chosen = params.load_all(place / "params.yaml")
            began_with = _configuration(place, chosen.gate.policy)
            warnings = await _open_ledger(project, place, release, began_with)
            pins.refresh(project, place)
            tracked = await asyncio.to_thread(tracking.ReleaseRun, project, release, began_with)
            environment = _environment(project, place, release, tracked.id, lifeline)
            run = Run(project, place, release, tracked, environment, chosen, began_with, warnings=warnings)
            records.begin(project, _record(run, "aborted", "killed before its end"))
            yield run


async def _open_ledger(project: Path, place: Path, release: str, began_with: dict[str, str]) -> list[str]:
    """Nothing starts that the ledger cannot be told of; what killed releases left in it is finished or undone first."""
    database = await asyncio.to_thread(Database.of, project)
    left = await asyncio.to_thread(_recovered, place)
    dead = [one.id for one in await _close_the_killed(project)]
    policies = {path.relative_to(place).as_posix(): digest.of_file(path) for path in _policies(place)}
    told = {"digests": began_with, "commit": git.commit(place) if git.is_repository(place) else None}
    name = tracking.model_name(place)
    await asyncio.to_thread(releases.started, project, database, name, release, told, policies, dead)
    return left


def _recovered(place: Path) -> list[str]:
    """Registrations and moves of the lifecycle that a killed process left begun; a line for each."""
    said = entry.recover(place)
    for name in retiring.models(place):
        try:
            said += retiring.recover(place, name, Actor.here())
        except SlipwayError as error:  # another process is at it, or its archive is away: the next start tries again
            said.append(str(error))
    return said


def _policies(place: Path) -> list[Path]:
    return sorted((place / "configs" / "policies").glob("*.yaml"))


async def _close_the_killed(project: Path) -> list[Release]:
    """Say of releases that were killed what they could not say themselves; which ones they were."""
    buried = records.bury(project)
    for dead in buried:
        receipt.sweep(records.folder_of(project, dead.id))
        if dead.mlflow_run_id:
            with contextlib.suppress(*tracking.AWAY):
                await asyncio.to_thread(tracking.close, project, dead.mlflow_run_id)
    return buried


async def _told(run: Run, tell: Callable[..., None], payload: dict[str, Any]) -> None:
    """Tell the ledger; where it is lost in the middle of a release, nothing is registered, and that is said."""
    await _attempted(run, asyncio.to_thread(lambda: tell(Database.of(run.project), run.model, run.id, payload)))


async def _step(run: Run, name: str) -> None:
    """Run one stage or act, and tell the ledger what became of it, whatever that is."""
    try:
        await _worked(run, name)
    finally:
        if known := run.stages.get(name):
            said = {"stage": name, "status": known.status, "seconds": round(known.seconds or 0.0, 3)}
            await _told(run, releases.stage_finished, said | {"run": known.mlflow_run_id})


async def _worked(run: Run, name: str) -> None:
    """Run it and note how it went."""
    step = find_act(name) if name in ACTS else find(name)
    begin, place = time.monotonic(), Workspace(root=str(run.place), release=run.id, environment=run.environment)
    try:
        done: dict[str, Any] = await step.task()(place)
    except (SlipwayError, TimeoutError) as caught:
        error = caught if isinstance(caught, SlipwayError) else _timed_out(name, time.monotonic() - begin)
        status: Literal["refused", "failed"] = "refused" if isinstance(error, Refused) else "failed"
        run.stages[name] = StageRun(name=name, status=status, seconds=time.monotonic() - begin, message=str(error))
        raise error from None
    seconds = time.monotonic() - begin
    metrics, mlflow_run = done["metrics"], done["run"]
    if name in NAMES:  # a stage that DVC restored has done nothing just now; its files say what it once did
        metrics = strict.read_json(run.place / run.paths["metrics"] / f"{name}.json")
        mlflow_run = mlflow_run or await asyncio.to_thread(_restored, run, name, metrics)
    run.stages[name] = StageRun(
        name=name,
        status=done["status"],
        seconds=seconds,
        attempts=done["attempts"],
        metrics=metrics,
        mlflow_run_id=mlflow_run,
    )


def _timed_out(name: str, seconds: float) -> Transient:
    return Transient(
        f"{name} was stopped after {seconds:.0f} s, the most it may take; "
        f"raise stage_timeout_seconds in configs/env and run again (a training goes on from its last checkpoint)"
    )


def _restored(run: Run, name: str, metrics: dict[str, float]) -> str | None:
    """The MLflow run of a stage that DVC had no need to run; None when MLflow does not take it."""
    made = [run.place / out for key in ("outs", "metrics") for out in declared(run.place, name, key)]
    outputs = tracking.outputs_digest(made, run.place)
    try:
        return tracking.restored_run(run.project, name, run.tracked.id, metrics, outputs)
    except tracking.AWAY as error:
        run.warnings.append(str(error))
        return None


async def _judged(run: Run) -> tuple[Outcome, str]:
    """Every stage in order, then the second judgement where it can pass; the verdict, or how the release ended before."""
    try:
        for name in NAMES:
            await _step(run, name)
        await _nothing_moved(run)
        decision = Decision.load(run.place / run.paths["decision"])
        await _told(run, releases.decided, entry.of_decision(decision))
        if await asyncio.to_thread(may_follow, run.place, decision):
            decision = await _registered(run, decision)
        else:
            run.warnings += await asyncio.to_thread(misnamed_waivers, run.place, run.place / run.params.gate.policy)
        return _VERDICTS[decision.verdict], decision.summary + run.already
    except SlipwayError as error:
        run.error = error
        return "refused" if isinstance(error, Refused) else "failed", str(error)
    except Exception as error:  # noqa: BLE001 - a bug of ours; the release still ends in words and with a record
        get_run_logger().exception("unexpected")
        run.error = StageError(f"{type(error).__name__}: {error} (this is a bug of Slipway's: please report it)")
        return "failed", str(run.error)


async def _registered(run: Run, gate: Decision) -> Decision:
    """What the gate let through, judged again with what the world says; kept in git first, for that is judged too."""
    await _attempted(run, asyncio.to_thread(_keep, run, gate.summary))
    try:
        for name in ACTS:
            await _step(run, name)
    finally:
        receipt.sweep(records.folder_of(run.project, run.id))
    decision = Decision.load(receipt.folder_of(run.project, run.id) / receipt.DECISION)
    if decision.verdict == "pass":
        await asyncio.to_thread(_entered, run, decision)
    else:
        await _told(run, releases.decided, entry.of_decision(decision))
    return decision


def _entered(run: Run, decision: Decision) -> None:
    """The version that the act has entered, as the ledger has it."""
    with Database.of(run.project).read() as connection:
        version = versions.of_identity(connection, run.model, decision.identity)
        lags = mirror.pending(connection, run.model)
    if version is None:
        raise StageError(f"{run.id} passed and is not in the ledger; run it again (and please report it)")
    run.version = version.version
    if version.release != run.id:
        run.already = f"; nothing new, release {version.release} has registered it"
    if lags:
        run.warnings.append(f"MLflow does not have {version.name} yet; the next release brings it up to date")


async def _nothing_moved(run: Run) -> None:
    """What was judged is what stands here: nobody edited a value, a policy or a module while the stages ran."""
    moved: bool = _configuration(run.place, run.params.gate.policy) != run.began_with
    changed = await asyncio.to_thread(_repro.changed_stages, run.place)
    if moved or changed:
        raise StageError("input changed during run: the verdict is not of what stands here now; run it again")


def _machine(run: Run) -> Machine:
    names = ("torch", "transformers", "peft", "mlflow", "prefect", "dvc")
    return Machine(
        device=f"{platform.machine()}, {os.cpu_count()} cores",
        threads=run.params.finetune.threads,
        python=platform.python_version(),
        versions={name: version(name) for name in names},
    )


def _exit_code(outcome: Outcome, error: SlipwayError | None) -> int:
    if outcome in ("registered", "aborted"):
        return 0 if outcome == "registered" else 130
    return error.exit_code if error else Refused.exit_code


def _record(run: Run, outcome: Outcome, reason: str) -> Release:
    known = git.is_repository(run.place)
    return Release(
        id=run.id,
        model=tracking.model_name(run.place),
        outcome=outcome,
        reason=reason,
        exit_code=_exit_code(outcome, run.error),
        started=run.started,
        ended=datetime.now(UTC),
        stages=[run.stages.get(name) or StageRun(name=name, status="not run") for name in (*NAMES, *ACTS)],
        commit=git.commit(run.place) if known else None,
        dirty=bool(git.dirty(run.place)) if known else True,
        tag=run.tag,
        params_digest=run.began_with["params.yaml"],
        policy_digest=run.began_with.get(run.params.gate.policy),
        mlflow_uri=settings.mlflow_uri(run.project),
        mlflow_run_id=run.tracked.id,
        machine=_machine(run),
        paths=run.paths,
        params=run.params.model_dump(mode="json", by_alias=True),
        lock_digest=records.lock_digest(run.place),
        report=os.path.relpath(records.folder_of(run.project, run.id) / "report.html", run.project),
        warnings=run.warnings,
        version=run.version if outcome == "registered" else None,
    )


async def _finish(run: Run, outcome: Outcome, reason: str) -> Release:
    """What a release leaves behind, however it ended: tag and push, record, report, MLflow.

    Only the record must succeed. A remote or a server that is away is a warning in it, never a lost verdict.
    """
    if outcome in _VERDICTS.values() and run.error is None and git.is_repository(run.place):
        if run.tag is None:
            await _attempted(run, asyncio.to_thread(_keep, run, reason))
        await _attempted(run, _repro.push(run.place, run.environment))
    ended = {"outcome": outcome, "version": run.version, "exit_code": _exit_code(outcome, run.error)}
    await _told(run, releases.ended, ended | {"tag": run.tag})
    await _attempted(run, asyncio.to_thread(lambda: checkpoints.write(run.project)))
    await _attempted(run, asyncio.to_thread(lambda: sinks.after_release(run.project)))
    release = _record(run, outcome, reason)
    folder = records.save(run.project, run.place, release)
    report = await asyncio.to_thread(write_report, release, run.place, folder / "report.html")
    judged = [stage for stage in release.stages if stage.name in ("evaluate", "gate", *ACTS)]
    headline = {f"{stage.name}.{key}": value for stage in judged for key, value in stage.metrics.items()}
    tags = {"slipway.tag": run.tag or "", "slipway.reason": reason[:4000]}
    made = [report, folder / Release.FILE, folder / records.DATA_DOCS, folder / receipt.FOLDER]
    if await _attempted(run, asyncio.to_thread(run.tracked.finish, outcome, headline, tags, made)):
        return release
    release = _record(run, outcome, reason)  # with the warning that MLflow did not take it
    records.save(run.project, run.place, release)
    return release


def _keep(run: Run, reason: str) -> None:
    tag = f"slipway/{run.id}"
    git.keep(run.place, tag, f"Release {run.id}\n\nThe gate: {reason}")
    run.tag = tag


async def _attempted(run: Run, step: Awaitable[Any]) -> bool:
    """Do what may fail without taking the verdict with it; its failure becomes a warning."""
    try:
        await step
        return True
    except (SlipwayError, OSError) as error:
        run.warnings.append(str(error))
        return False


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


def _stop(task: "asyncio.Task[Any]") -> None:
    """End in order on the first signal; at once on a second, or when order takes too long.

    Nothing is lost by leaving at once: the lifeline ends the stages, and the record that stands from the start says
    that the release was killed.
    """
    if task.cancelling():
        os._exit(130)
    task.cancel()
    leave = threading.Timer(STOP_SECONDS, os._exit, [130])
    leave.daemon = True
    leave.start()


def run_here(release_id: str, options: ReleaseOptions) -> BaseException | None:
    """Run the flow in this process; what it raised, when it did not end in a state of its own."""

    async def watched() -> Any:
        task = asyncio.current_task()
        assert task is not None
        for one in (signal.SIGINT, signal.SIGTERM):
            asyncio.get_running_loop().add_signal_handler(one, _stop, task)
        state = await release(options, release_id, return_state=True)
        return await state.aresult(raise_on_failure=False)

    try:
        with server.at_hand(settings.find_root()):
            ended = asyncio.run(watched())
    except (asyncio.CancelledError, KeyboardInterrupt, TerminationSignal):
        return KeyboardInterrupt()  # stopped on purpose; where the flow had begun, it has kept its record
    return ended if isinstance(ended, BaseException) else None
