"""Where Slipway runs: the only reader of environment variables.

`configs/env/<name>.yaml` first, then SLIPWAY_* variables. Nothing here changes a byte of any output.
"""

import contextlib
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator

from slipway import atomic, strict
from slipway.errors import UsageError
from slipway.release.routers import configuration as routers

_PROJECT = "slipway-project"

# The one switch for telemetry: off, for every library, with nothing that turns it on.
_QUIET = {
    "DO_NOT_TRACK": "1",
    "PREFECT_SERVER_ANALYTICS_ENABLED": "false",
    "MLFLOW_DISABLE_TELEMETRY": "true",
    "GX_ANALYTICS_ENABLED": "false",
    "DVC_NO_ANALYTICS": "true",
    "RAY_USAGE_STATS_ENABLED": "0",
    "HF_HUB_DISABLE_TELEMETRY": "1",
    # Not telemetry, but the same kind of switch: never unpickle what a registry serves.
    "MLFLOW_ALLOW_PICKLE_DESERIALIZATION": "false",
}


class Environment(BaseModel):
    """One file of configs/env."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    state: str = Field(description="Folder for MLflow, Prefect and release records, relative to the project")
    mlflow_uri: str | None = Field(description="MLflow tracking server; none: SQLite in the state folder")
    ledger_url: str | None = Field(
        default=None, description="Control database; none: SQLite in the state folder; postgresql+psycopg://…"
    )
    prefect_api_url: str | None = Field(description="Prefect server; none: Prefect's own local API")
    stage_timeout_seconds: Annotated[int, Field(ge=1)]
    servability_seconds: Annotated[int, Field(ge=1)] = Field(
        default=300, description="The most that loading a candidate and asking it a few prompts may take"
    )
    signing: Literal["key", "keyless"] = Field(
        default="key", description="A key in the state folder, or Sigstore with the identity this machine has"
    )
    advisories_snapshot: str | None = Field(
        default=None,
        description="OSV snapshot (all.zip or a folder) where no service answers; none: the state folder's",
    )
    archive_url: str | None = Field(
        default=None, description="Where archived versions go: s3://bucket/prefix; none: they stay in the state folder"
    )
    hour_price: Annotated[float, Field(ge=0)] | None = Field(
        default=None, description="What an hour of this machine costs, for the cost of a version; none: not known"
    )
    audit_checkpoints: str | None = Field(
        default=None, description="A second place for the ledger's signed checkpoints: a folder or s3://bucket/prefix"
    )
    audit_archive: str | None = Field(
        default=None, description="Where old events go: a folder or s3://bucket/prefix; none: the state folder"
    )
    audit_lock: Literal["bucket", "governance", "compliance"] = Field(
        default="bucket", description="S3 Object Lock of checkpoints and archives; bucket: the bucket's own rule"
    )
    audit_lock_days: Annotated[int, Field(ge=1)] = 400
    audit_sinks: list[str] = Field(
        default=[], description="Who is told of every event: file:PATH, elasticsearch+https://HOST:PORT/INDEX, s3://…"
    )

    router: routers.Settings = Field(default=routers.Local(), description="Where releases move traffic")

    @field_validator("audit_sinks", mode="before")
    @classmethod
    def _listed(cls, given: object) -> object:
        """A variable is text, with spaces between."""
        return given.split() if isinstance(given, str) else given


class _RouterFile(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)

    router: routers.Settings


def find_root(start: Path | None = None) -> Path:
    """The project that a folder belongs to: the nearest one upwards with dvc.yaml and params.yaml."""
    here = (start or Path.cwd()).resolve()
    for folder in (here, *here.parents):
        if (folder / "dvc.yaml").is_file() and (folder / "params.yaml").is_file():
            return folder
    raise UsageError(
        f"no Slipway project at {here} or above it (dvc.yaml and params.yaml); go to one, or `slipway init NAME`"
    )


def variable(name: str) -> str | None:
    """A SLIPWAY_* variable, None when unset or empty."""
    return os.environ.get(f"SLIPWAY_{name}") or None


def load(root: Path, name: str | None = None) -> Environment:
    """The named environment, or the one in use; a release's worktree runs where its project does."""
    name = name or variable("ENV") or "local"
    path = project_folder(root) / "configs" / "env" / f"{name}.yaml"
    raw = strict.read_yaml(
        path, f"set SLIPWAY_ENV to one of {', '.join(sorted(p.stem for p in path.parent.glob('*.yaml')))}"
    )
    keys = Environment.model_fields.keys() - {"router"}  # a section is no variable
    overrides = {key: value for key in keys if (value := variable(key.upper())) is not None}
    try:
        return Environment.model_validate(raw | overrides)
    except ValidationError as error:
        raise _usage_error(path, error) from None


def load_router(path: Path) -> routers.Settings:
    """The section `router` of a file that has nothing else."""
    try:
        return _RouterFile.model_validate(strict.read_yaml(path)).router
    except ValidationError as error:
        raise _usage_error(path, error) from None


def _usage_error(path: Path, error: ValidationError) -> UsageError:
    found = error.errors()
    first = next(
        (one for one in found if one["type"] == "extra_forbidden"), found[0]
    )  # what is missing may be misspelt
    loc = first["loc"]
    if loc[0] == "router" and len(loc) > 2:  # the kind that was chosen stands there too, which no file says
        loc = ("router", *loc[2:])
    key = ".".join(str(part) for part in loc)
    if first["type"] == "extra_forbidden":
        return UsageError(f"{path}:{strict.line_of(path, loc)}: unknown key {key}; remove it or correct its spelling")
    return UsageError(f"{path}:{strict.line_of(path, loc)}: {key}: {first['msg']}; correct it")


def state_folder(root: Path) -> Path:
    """Where state lives, one folder for a project and all its releases' worktrees."""
    return (project_folder(root) / load(root).state).resolve()


def gateway_folder(root: Path) -> Path:
    """Where the gateway of this project keeps what it knows."""
    return state_folder(root) / "gateway"


def scratch_folder(root: Path) -> Path:
    """Checkpoints and caches, keyed by input digest, one folder for a project and all its releases' worktrees."""
    return Path(variable("SCRATCH") or project_folder(root) / ".scratch").resolve()


def project_folder(root: Path) -> Path:
    """The project that a release's worktree belongs to, whose state, data and models it shares; else itself."""
    return Path(variable("PROJECT") or _project_of_worktree(root) or root)


def join(worktree: Path, project: Path) -> None:
    """Let a release's worktree know its project; kept in git's own folder of the worktree, which goes with it."""
    atomic.write_bytes(_git_folder(worktree) / _PROJECT, str(project.resolve()).encode())


def _project_of_worktree(root: Path) -> str | None:
    """A person's own worktree names none: it is a project of its own."""
    if not (root / ".git").is_file():
        return None
    with contextlib.suppress(OSError):
        return (_git_folder(root) / _PROJECT).read_text()
    return None


def _git_folder(worktree: Path) -> Path:
    return (worktree / (worktree / ".git").read_text().removeprefix("gitdir:").strip()).resolve()


def mlflow_uri(root: Path) -> str:
    return load(root).mlflow_uri or f"sqlite:///{state_folder(root)}/mlflow.db"


def ledger_url(root: Path) -> str:
    return load(root).ledger_url or f"sqlite:///{state_folder(root)}/ledger.db"


def environment(root: Path) -> dict[str, str]:
    """The variables every library needs to be quiet, to stay inside the project and to work without a home folder."""
    scratch, state = scratch_folder(root), state_folder(root)
    inside = {
        "PREFECT_HOME": state / "prefect",
        "MPLCONFIGDIR": scratch / "matplotlib",
        "XDG_CACHE_HOME": scratch / "cache",
        "DVC_SITE_CACHE_DIR": scratch / "dvc-site",
    }
    chosen = {
        # Progress goes to Prefect's log, where its UI shows it; the terminal has a display of its own.
        "PREFECT_LOGGING_HANDLERS_CONSOLE_LEVEL": "CRITICAL",
        "PREFECT_SERVER_LOGGING_LEVEL": "ERROR",
        "PREFECT_RESULTS_PERSIST_BY_DEFAULT": "false",
        "PREFECT_SERVER_ALLOW_EPHEMERAL_MODE": "true",
        "PREFECT_SERVER_EPHEMERAL_STARTUP_TIMEOUT_SECONDS": "120",  # its first start makes its database
        "TOKENIZERS_PARALLELISM": "false",
        "OMP_WAIT_POLICY": "PASSIVE",  # threads that spin for each other run 4 times slower beside other work
        "CUBLAS_WORKSPACE_CONFIG": ":4096:8",  # deterministic matrix products on CUDA
        "PYTHONHASHSEED": "0",
    }
    if url := load(root).prefect_api_url:
        chosen["PREFECT_API_URL"] = url
    # What a person exported on purpose wins over our choices; never over the telemetry switch, nor over configs/env, which alone
    # says where MLflow is: MLflow looks some things up by these variables, whatever address its client was given.
    ours = {key: os.environ.get(key) or str(value) for key, value in (inside | chosen).items()}
    return ours | _QUIET | dict.fromkeys(("MLFLOW_TRACKING_URI", "MLFLOW_REGISTRY_URI"), mlflow_uri(root))


def quiet() -> None:
    """Switch every library's telemetry off where no project sets the rest of the environment."""
    os.environ.update(_QUIET)


def child(defaults: Mapping[str, str], forced: Mapping[str, str]) -> dict[str, str]:
    """A child process's whole environment: ours over its defaults, and what it must have over ours."""
    return {**defaults, **os.environ, **forced}


def apply(root: Path) -> None:
    """Set those variables for this process and its children; call before any library is imported."""
    chosen = environment(root)
    try:
        Path(chosen["PREFECT_HOME"]).mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UsageError(
            f"the state folder {state_folder(root)} cannot be made ({error.strerror}: {error.filename}); "
            f"correct `state` in configs/env or SLIPWAY_STATE"
        ) from None
    os.environ.update(chosen)
    # The user's tools, `python` among them, are the ones of the interpreter that runs this.
    import sys

    here = str(Path(sys.executable).parent)
    if here not in os.environ.get("PATH", "").split(os.pathsep):
        os.environ["PATH"] = here + os.pathsep + os.environ.get("PATH", "")
