"""What happened, told to MLflow: one parent run a release, one child run a stage. The only module that imports MLflow."""

import contextlib
import fcntl
import json
import logging
import threading
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from slipway import digest, model, settings
from slipway.errors import Transient
from slipway.journal import Reader

if TYPE_CHECKING:
    from mlflow.tracking import MlflowClient

LOOK_SECONDS = 1.0
AWAY = (Transient, OSError)  # how a tracking server that is away or ill shows itself to our callers
SYSTEM_METRICS_SECONDS = 5.0
STAGE, OUTPUTS, CACHED = "slipway.stage", "slipway.outputs", "slipway.cached"


def model_name(root: Path) -> str:
    """The name everything is filed under: configs/model.yaml's."""
    return model.load(root).name or root.name


def connect(root: Path) -> tuple["MlflowClient", str]:
    """A client and the id of the model's experiment, made when missing."""
    from mlflow.exceptions import MlflowException
    from mlflow.tracking import MlflowClient

    for name in ("alembic", "mlflow"):
        logging.getLogger(name).setLevel(logging.ERROR)
    # It prints a traceback for what it raises as well; we say that in one line.
    logging.getLogger("mlflow.store.db.utils").setLevel(logging.CRITICAL)
    uri, name = settings.mlflow_uri(root), model_name(root)
    location = (settings.state_folder(root) / "mlflow").as_uri() if uri.startswith("sqlite") else None
    try:
        with _alone(uri):
            client = MlflowClient(uri)
            if found := client.get_experiment_by_name(name):
                return client, str(found.experiment_id)
            with contextlib.suppress(MlflowException):  # another machine may have made it meanwhile
                client.create_experiment(name, artifact_location=location)
            found = client.get_experiment_by_name(name)
    except MlflowException as error:
        raise Transient(
            f"MLflow at {uri} does not answer ({error.message}); start it or correct configs/env"
        ) from error
    if found is None:
        raise Transient(f"MLflow at {uri} did not keep the experiment {name}; look at its log, then run again")
    return client, str(found.experiment_id)


@contextlib.contextmanager
def _translated() -> Iterator[None]:
    """MLflow's many errors as one of ours."""
    from mlflow.exceptions import MlflowException

    try:
        yield
    except MlflowException as error:
        raise Transient(f"MLflow did not take what it was told ({error.message}); the journal keeps it") from error


@contextlib.contextmanager
def _alone(uri: str) -> Iterator[None]:
    """One process at a time meets an embedded database: two that create its tables at once both fail."""
    if not uri.startswith("sqlite:///"):
        yield
        return
    database = Path(uri.removeprefix("sqlite:///"))
    database.parent.mkdir(parents=True, exist_ok=True)
    with database.with_suffix(".lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield


def _flat(value: Mapping[str, Any], prefix: str = "") -> dict[str, str]:
    flat: dict[str, str] = {}
    for key, inner in value.items():
        if isinstance(inner, Mapping):
            flat |= _flat(inner, f"{prefix}{key}.")
        else:
            flat[f"{prefix}{key}"] = json.dumps(inner) if isinstance(inner, list) else str(inner)
    return flat


def _begin(client: "MlflowClient", experiment: str, name: str, parent: str | None, tags: Mapping[str, str]) -> str:
    family = {"mlflow.parentRunId": parent} if parent else {}
    run = client.create_run(experiment, tags={STAGE: name, **tags, **family}, run_name=name)
    return str(run.info.run_id)


class StageRun:
    """A stage's MLflow run, made from its journal line by line."""

    def __init__(self, root: Path, name: str, journal: Path, parent: str | None, tags: Mapping[str, str]) -> None:
        from mlflow.system_metrics.system_metrics_monitor import SystemMetricsMonitor

        self.client, experiment = connect(root)
        self.id = _begin(self.client, experiment, name, parent, {CACHED: "no", **tags})
        self.reader = Reader(journal)
        self.monitor = SystemMetricsMonitor(
            self.id, sampling_interval=SYSTEM_METRICS_SECONDS, tracking_uri=settings.mlflow_uri(root)
        )
        self.monitor.start()

    def advance(self) -> None:
        """Tell MLflow what the journal says since the last time."""
        from mlflow.entities import Metric

        metrics: list[Metric] = []
        with _translated(), self.reader.new() as lines:
            for line in lines:
                if line["what"] == "metrics":
                    at, step = line["at"], line["step"]
                    metrics += [Metric(key, float(value), at, step) for key, value in line["values"].items()]
                elif line["what"] == "begin":
                    self._inputs(line["params"], line["inputs"], line["inputs_digest"])
                elif line["what"] == "made":
                    self.client.set_tag(self.id, OUTPUTS, line["outputs"])
                    for path in line["artifacts"]:
                        self.client.log_artifact(self.id, path)
            for start in range(0, len(metrics), 1000):
                self.client.log_batch(self.id, metrics=metrics[start : start + 1000])

    def _inputs(self, params: Mapping[str, Any], inputs: Mapping[str, str], inputs_digest: str) -> None:
        """Params, and every input as an MLflow data set with its digest (MLflow keeps 36 characters, the tag all)."""
        from mlflow.entities import Dataset, DatasetInput, InputTag, Param

        self.client.log_batch(self.id, params=[Param(key, value[:6000]) for key, value in _flat(params).items()])
        self.client.set_tag(self.id, "slipway.inputs", inputs_digest)
        sets = [
            DatasetInput(Dataset(path, sha[:36], "local", json.dumps({"path": path})), [InputTag("sha256", sha)])
            for path, sha in inputs.items()
        ]
        self.client.log_inputs(self.id, sets)

    def end(self, status: str) -> None:
        self.monitor.finish()
        self.advance()
        with _translated():
            self.client.set_terminated(self.id, status)


@contextlib.contextmanager
def followed(root: Path, name: str, journal: Path, tags: Mapping[str, str]) -> Iterator[None]:
    """Replay a journal while it grows, from a thread of this process: for a stage that no flow watches."""
    done = threading.Event()

    def follow() -> None:
        try:
            run = StageRun(root, name, journal, None, tags)
            while not done.wait(LOOK_SECONDS):
                with contextlib.suppress(*AWAY):
                    run.advance()
            run.end("FINISHED" if succeeded else "FAILED")
        except AWAY as error:
            print(f"{name}: {error} (its journal is {journal})", flush=True)

    succeeded = False
    thread = threading.Thread(target=follow, name="tracking")
    thread.start()
    try:
        yield
        succeeded = True
    finally:
        done.set()
        thread.join()


def restored_run(root: Path, name: str, parent: str, metrics: Mapping[str, float], outputs: str) -> str:
    """A stage that DVC restored or left alone, in the release's run tree: marked cached, linked to the run that made it."""
    client, experiment = connect(root)
    with _translated():
        made = client.search_runs(
            [experiment],
            f"tags.`{STAGE}` = '{name}' and tags.`{OUTPUTS}` = '{outputs}' and tags.`{CACHED}` = 'no'",
            max_results=1,
        )
        source = made[0].info.run_id if made else "unknown"  # made elsewhere: by another clone or machine
        run = _begin(client, experiment, name, parent, {CACHED: "yes", "slipway.made_by": source, OUTPUTS: outputs})
        for key, value in metrics.items():
            client.log_metric(run, key, value)
        client.set_terminated(run, "FINISHED")
    return run


def close(root: Path, run_id: str) -> None:
    """End the runs of a release that was killed: its own and those of its stages."""
    client, experiment = connect(root)
    with _translated():
        running = f"tags.mlflow.parentRunId = '{run_id}' and attributes.status = 'RUNNING'"
        for run in client.search_runs([experiment], running):
            client.set_terminated(run.info.run_id, "KILLED")
        client.set_terminated(run_id, "KILLED")


class ReleaseRun:
    """The parent run of one release."""

    def __init__(self, root: Path, release: str, tags: Mapping[str, str]) -> None:
        self.client, experiment = connect(root)
        run = self.client.create_run(experiment, tags={"slipway.release": release, **tags}, run_name=release)
        self.id: str = run.info.run_id

    def finish(
        self, outcome: str, metrics: Mapping[str, float], tags: Mapping[str, str], artifacts: list[Path]
    ) -> None:
        with _translated():
            for key, value in metrics.items():
                self.client.log_metric(self.id, key, value)
            for key, text in {"slipway.outcome": outcome, **tags}.items():
                self.client.set_tag(self.id, key, text)
            for path in artifacts:
                if path.is_dir():
                    self.client.log_artifacts(self.id, str(path), path.name)
                elif path.exists():
                    self.client.log_artifact(self.id, str(path))
            self.client.set_terminated(self.id, "FAILED" if outcome in ("failed", "aborted") else "FINISHED")


def outputs_digest(paths: list[Path], root: Path) -> str:
    """What a stage made, as one digest: the tag by which a cached stage finds the run that made it."""
    return digest.of_pairs({path.relative_to(root).as_posix(): digest.of_path(path) for path in paths})
