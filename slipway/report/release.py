"""One release as the flow saw it: the record that `slipway status`, the summary and the report are made from."""

from typing import Annotated, ClassVar, Literal

from pydantic import AwareDatetime, Field

from slipway.artifacts import Artifact, Json

# `passed`: a release from before there was a registry.
Outcome = Literal["registered", "refused", "undecided", "failed", "aborted", "passed"]
Status = Literal["ran", "cached", "unchanged", "failed", "refused", "not run"]

Moment = Annotated[AwareDatetime, Field(strict=False)]  # artifacts are strict, and JSON has no moments

# Statuses after which a stage's outputs in the workspace are this release's own, not an earlier one's.
_MADE: tuple[Status, ...] = ("ran", "cached", "unchanged", "refused")


class StageRun(Artifact):
    """What one stage did in a release. `cached`: restored by DVC; `unchanged`: its outputs already stood there."""

    name: str
    status: Status
    seconds: float | None = Field(default=None, ge=0)
    attempts: int = Field(default=0, ge=0)
    metrics: dict[str, float] = Field(default_factory=dict)
    mlflow_run_id: str | None = None
    message: str | None = None  # the error's one line, where it failed or refused


class Machine(Artifact):
    """Where a release ran, as far as it explains its figures."""

    device: str
    threads: int
    python: str
    versions: dict[str, str]  # library → version


class Release(Artifact):
    """`release.json`: one pass of the pipeline for one model name, with how it ended and why."""

    FILE: ClassVar[str] = "release.json"

    id: str
    model: str
    outcome: Outcome
    reason: str
    exit_code: int = 0
    started: Moment
    ended: Moment | None
    stages: list[StageRun]
    commit: str | None
    dirty: bool
    tag: str | None
    params_digest: str
    policy_digest: str | None
    mlflow_uri: str | None
    mlflow_run_id: str | None
    machine: Machine
    paths: dict[str, str]  # `vars.path` of dvc.yaml: what lies where, relative to the project
    params: Json = Field(default_factory=dict)  # params.yaml as it was
    warnings: list[str] = Field(default_factory=list)  # what went wrong beside the verdict: a tag, a push
    lock_digest: str | None = None  # of dvc.lock when it ended: what "nothing changed" is measured against
    version: str | None = None  # that it was registered as, or already was
    report: str | None = None  # where the HTML report is, relative to the project

    @property
    def seconds(self) -> float | None:
        return (self.ended - self.started).total_seconds() if self.ended else None

    def stage(self, name: str) -> StageRun | None:
        return next((stage for stage in self.stages if stage.name == name), None)

    def made(self, name: str) -> bool:
        """Whether a stage's outputs belong to this release: an early end leaves an older release's files behind."""
        stage = self.stage(name)
        return stage is not None and stage.status in _MADE
