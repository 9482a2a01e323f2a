"""A stage as a Prefect task: retries, timeout and progress where Prefect shows them; the work stays in `dvc repro`."""

import asyncio
import contextlib
import uuid
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from prefect import get_run_logger, task
from prefect.cache_policies import NO_CACHE
from prefect.context import TaskRunContext
from prefect.tasks import exponential_backoff
from pydantic import BaseModel

from slipway import settings, tracking
from slipway.errors import Transient
from tasks import _repro
from tasks._stage import ACTS

if TYPE_CHECKING:
    from prefect import Task
    from prefect.client.schemas.objects import State, TaskRun

    from tasks._stage import _Step


class Workspace(BaseModel):
    """Where a release works, and what its stages' processes need to know. Plain values: Prefect may store them."""

    root: str
    release: str
    environment: dict[str, str]


# Lines of progress for whoever watches in this process (the terminal); Prefect gets them as logs either way.
watchers: dict[str, Callable[[str, str], None]] = {}


class Attempt:
    """One attempt of a stage, its journal replayed into MLflow while the stage runs in its own process."""

    def __init__(self, name: str, workspace: Workspace) -> None:
        self.name, self.workspace, self.id = name, workspace, uuid.uuid4().hex
        environment = workspace.environment
        self.journal = Path(environment["SLIPWAY_SCRATCH"]) / "attempts" / name / f"{self.id}.jsonl"
        self.project = Path(environment["SLIPWAY_PROJECT"])
        self.run: tracking.StageRun | None = None
        context = TaskRunContext.get()
        self.count = context.task_run.run_count if context else 1

    def advance(self) -> None:
        """Take in what the journal says by now; a stage that DVC does not run has none, and no run here."""
        if self.run is None and self.journal.exists():
            environment = self.workspace.environment
            tags = {"slipway.commit": environment["SLIPWAY_COMMIT"], "slipway.attempt": str(self.count)}
            self.run = tracking.StageRun(self.project, self.name, self.journal, environment["SLIPWAY_PARENT_RUN"], tags)
        if self.run:
            self.run.advance()

    async def follow(self, done: asyncio.Event) -> None:
        """Look every second until the stage is done. MLflow away: the journal keeps the lines for the next look."""
        while not done.is_set():
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(done.wait(), tracking.LOOK_SECONDS)
            with contextlib.suppress(*tracking.AWAY):
                await asyncio.to_thread(self.advance)

    def end(self, status: str) -> None:
        self.advance()
        if self.run:
            self.run.end(status)


@contextlib.asynccontextmanager
async def _followed(name: str, workspace: Workspace) -> AsyncIterator[Attempt]:
    """An attempt, followed until it ends; a run that was begun is ended too, whatever happened.

    What MLflow does not take is no reason to lose a stage: the journal stays on disk.
    """
    attempt, status, done = Attempt(name, workspace), "FAILED", asyncio.Event()
    following = asyncio.create_task(attempt.follow(done))
    try:
        yield attempt
        status = "FINISHED"
    finally:
        done.set()
        await asyncio.shield(following)
        try:
            await asyncio.shield(asyncio.to_thread(attempt.end, status))
        except tracking.AWAY as error:
            get_run_logger().warning("MLflow did not take all of %s: %s (kept in %s)", name, error, attempt.journal)


def _only_transient(task: "Task[..., Any]", run: "TaskRun", state: "State[Any]") -> bool:
    """Retry what may work later; a bug or a refusal ends at once."""
    return isinstance(state.data, Transient)


def task_of(stage: "_Step") -> "Task[..., Any]":
    """The Prefect task that runs one stage through DVC, or does one act."""
    perform = _repro.perform if stage.name in ACTS else _repro.repro

    @task(
        name=stage.name,
        description=stage.about,
        tags=["stage"],
        retries=stage.retries,
        retry_delay_seconds=exponential_backoff(backoff_factor=2),
        retry_jitter_factor=0.5,
        retry_condition_fn=_only_transient,
        timeout_seconds=stage.timeout_seconds or settings.load(settings.find_root()).stage_timeout_seconds,
        cache_policy=NO_CACHE,  # DVC is the cache
        persist_result=False,  # Prefect's results are pickles; files and digests carry the data
    )
    async def run(workspace: Workspace) -> dict[str, Any]:
        logger, watch = get_run_logger(), watchers.get(workspace.release)

        def on_line(line: str) -> None:
            logger.info("%s", line)
            if watch:
                with contextlib.suppress(OSError):  # the terminal is gone; the work is not
                    watch(stage.name, line)

        async with _followed(stage.name, workspace) as attempt:
            done = await perform(stage.name, attempt.id, Path(workspace.root), workspace.environment, on_line)
        run_id = attempt.run.id if attempt.run else None
        return {"status": done.status, "attempts": attempt.count, "run": run_id, "metrics": done.record.get("metrics")}

    return run
