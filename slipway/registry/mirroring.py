"""The process that talks to MLflow, for `mirror`, which kills it at its deadline: a hung server blocks a client for minutes.

It reads a request a line from standard input and answers each with a line. Everything it makes carries the id of the operation
it belongs to, and is looked for under that id before it is made: after a lost reply, a retry or a kill there is one of it.
"""

import contextlib
import json
import os
import shutil
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from slipway import tracking
from slipway.artifacts import Json
from slipway.registry import form

if TYPE_CHECKING:
    from mlflow.tracking import MlflowClient

OPERATION = "slipway.operation"
ARTIFACTS = "model"  # what the logged model is called in MLflow
_TRIES = 4
_PAGE = 1000
T = TypeVar("T")


class World:
    """MLflow, as a project's versions see it."""

    def __init__(self, root: Path) -> None:
        self.client: MlflowClient
        self.client, self.experiment = tracking.connect(root)

    # --- looking ------------------------------------------------------------------------------------------------------

    def look(self, model: str) -> Json:
        """Every version and alias of a registered model; none where there is no such model."""
        aliases = self._aliases(model)
        if aliases is None:
            return {"versions": [], "aliases": {}}
        return {"versions": [_told(version) for version in self._versions(f"name = '{model}'")], "aliases": aliases}

    def _aliases(self, model: str) -> dict[str, str] | None:
        found = self.client.search_registered_models(f"name = '{model}'", max_results=1)
        # One that stands in a list may come without its aliases.
        return {a: str(n) for a, n in self.client.get_registered_model(model).aliases.items()} if found else None

    def _versions(self, where: str) -> list[Any]:
        found, token = [], None
        while True:
            page = self.client.search_model_versions(where, max_results=_PAGE, page_token=token)
            found += list(page)
            token = page.token
            if not token:
                return sorted(found, key=lambda version: int(version.version))

    # --- making -------------------------------------------------------------------------------------------------------

    def enter(self, model: str, operation: str, about: Json) -> Json:
        """The version that an operation stands for, made where it is missing; whatever stands there twice goes."""
        once(lambda: self._aliases(model) is not None or None, lambda: self.client.create_registered_model(model))
        known = self._of_operation(model, operation)
        for extra in known[1:]:
            self.delete(model, str(extra.version))
        if not known:
            run = self._run(operation, about)
            logged = self._logged(operation, run, about)
            once(
                lambda: self._of_operation(model, operation) or None,
                lambda: self.client.create_model_version(
                    model,
                    f"models:/{logged}",
                    run,
                    tags=about["tags"] | {OPERATION: operation},
                    await_creation_for=0,
                    model_id=logged,
                ),
            )
            known = self._of_operation(model, operation)
        return _told(known[0])

    def _of_operation(self, model: str, operation: str) -> list[Any]:
        return self._versions(f"name = '{model}' and tag.`{OPERATION}` = '{operation}'")

    def _run(self, operation: str, about: Json) -> str:
        """The run that a version hangs on, below its release's where MLflow has that one."""

        def find() -> str | None:
            runs = self.client.search_runs(
                [self.experiment], f"tags.`{OPERATION}` = '{operation}'", order_by=["start_time"]
            )
            for extra in runs[1:]:
                self.client.delete_run(extra.info.run_id)
            return str(runs[0].info.run_id) if runs else None

        parents = self.client.search_runs(
            [self.experiment], f"tags.`slipway.release` = '{about['release']}'", max_results=1
        )
        family = {"mlflow.parentRunId": parents[0].info.run_id} if parents else {}
        tags = {OPERATION: operation, **family}
        run = once(find, lambda: self.client.create_run(self.experiment, tags=tags, run_name=about["title"]))
        self._measured(run, about["metrics"])
        return run

    def _measured(self, run: str, metrics: dict[str, float]) -> None:
        from mlflow.entities import Metric

        at = int(time.time() * 1000)
        measured = [Metric(key, float(value), at, 0) for key, value in metrics.items()]
        again(lambda: self.client.log_batch(run, metrics=measured))
        again(lambda: self.client.set_terminated(run, "FINISHED"))

    def _logged(self, operation: str, run: str, about: Json) -> str:
        """MLflow's own record of the model's files."""

        def find() -> Any:
            return next(
                iter(self.client.search_logged_models([self.experiment], f"tags.`{OPERATION}` = '{operation}'")), None
            )

        def make() -> Any:
            return self.client.create_logged_model(
                self.experiment, name=ARTIFACTS, source_run_id=run, tags={OPERATION: operation}
            )

        logged = once(find, make)
        if str(getattr(logged.status, "value", logged.status)) != "READY":
            with tempfile.TemporaryDirectory() as place:
                whole, part = Path(place) / "form", Path(place) / "part"
                form.write(whole, Path(about["adapter"]), Path(about["base"]), about["metadata"])
                self._upload(logged.model_id, whole, part)
            again(lambda: self.client.finalize_logged_model(logged.model_id, "READY"))
        return str(logged.model_id)

    def _upload(self, logged: str, whole: Path, part: Path) -> None:
        """A file at a time: a reply that is lost costs the upload of that file again, not of all."""
        for file in sorted(path for path in whole.rglob("*") if path.is_file()):
            alone = part / file.relative_to(whole)
            alone.parent.mkdir(parents=True)
            file.rename(alone)
            again(partial(self.client.log_model_artifacts, logged, str(part)))
            shutil.rmtree(part)

    # --- setting ------------------------------------------------------------------------------------------------------

    def tag(self, model: str, number: str, tags: dict[str, str]) -> None:
        for key, value in tags.items():
            again(partial(self.client.set_model_version_tag, model, number, key, value))

    def alias(self, model: str, alias: str, number: str | None) -> None:
        if number is None:
            again(lambda: self.client.delete_registered_model_alias(model, alias))
        else:
            again(lambda: self.client.set_registered_model_alias(model, alias, number))

    def delete(self, model: str, number: str) -> None:
        """Delete a version, and the run and model that were made for it alone: `mlflow gc` frees what is deleted so."""
        where = f"name = '{model}' and version_number = {int(number)}"
        known = next(iter(self._versions(where)), None)
        again(lambda: self.client.delete_model_version(model, number) if self._versions(where) else None)
        operation = known.tags.get(OPERATION) if known else None
        if known and operation and not self._versions(f"run_id = '{known.run_id}'"):
            again(lambda: self._forget(f"tags.`{OPERATION}` = '{operation}'", known.run_id))

    def _forget(self, ours: str, run: str) -> None:
        for logged in self.client.search_logged_models([self.experiment], ours):
            if logged.source_run_id == run:
                self.client.delete_logged_model(logged.model_id)
        if any(one.info.run_id == run for one in self.client.search_runs([self.experiment], ours)):
            self.client.delete_run(run)


def again(do: Callable[[], Any]) -> None:
    """Do what may be done twice without harm, until it is known to be done."""
    from mlflow.exceptions import MlflowException

    for attempt in range(_TRIES):
        try:
            do()
            return
        except (MlflowException, OSError):
            if attempt == _TRIES - 1:
                raise
            time.sleep(0.2 * attempt)


def once(find: Callable[[], T | None], make: Callable[[], Any]) -> T:
    """What is looked for, made where it is missing; a making that failed may have happened all the same, so look again."""
    from mlflow.exceptions import MlflowException

    wrong: Exception | None = None
    for attempt in range(_TRIES):
        try:
            if (found := find()) is not None:
                return found
            if attempt < _TRIES - 1:
                make()
        except (MlflowException, OSError) as error:
            wrong = error
            time.sleep(0.2 * attempt)
    raise wrong or RuntimeError("MLflow made it and cannot find it")


def _told(version: Any) -> Json:
    return {
        "number": str(version.version),
        "source": str(version.source),
        "run": version.run_id,
        "tags": dict(version.tags),
    }


# --- the process ------------------------------------------------------------------------------------------------------


def main() -> None:
    with _own_words() as say:
        try:
            first = json.loads(sys.stdin.readline())
            allowed = _Allowance(first["seconds"])
            world = World(Path(first["root"]))
            say({"ready": True})
            for line in sys.stdin:
                request = json.loads(line)
                allowed.extend(request.pop("seconds", 0))
                say({"answer": getattr(world, request.pop("do"))(**request)})
        except Exception as error:  # noqa: BLE001 - whatever MLflow raises is told to the parent in one line
            say({"error": " ".join(f"{getattr(error, 'message', error)}".split())[:500] or type(error).__name__})


class _Allowance:
    """Ends this process when its time is over, also where nobody is left to kill it."""

    def __init__(self, seconds: float) -> None:
        self.end, self.timer = time.monotonic() + seconds, threading.Timer(seconds, os._exit, [75])
        self._start()

    def extend(self, seconds: float) -> None:
        if seconds:
            self.timer.cancel()
            self.end += seconds
            self.timer = threading.Timer(max(self.end - time.monotonic(), 0), os._exit, [75])
            self._start()

    def _start(self) -> None:
        self.timer.daemon = True
        self.timer.start()


@contextlib.contextmanager
def _own_words() -> Iterator[Callable[[Json], None]]:
    """Standard output for answers alone: what libraries print goes to standard error."""
    with os.fdopen(os.dup(1), "w") as out:
        os.dup2(2, 1)

        def say(what: Json) -> None:
            out.write(json.dumps(what) + "\n")
            out.flush()

        yield say


if __name__ == "__main__":
    main()
