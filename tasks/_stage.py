"""The stage contract: one plain function, three faces.

    evaluate(params, base, adapter, …)     the work itself; tests and notebooks call it
    python -m tasks evaluate --base … …    what dvc.yaml runs: params checked, outputs whole, one exit code a kind of end
    evaluate.task()                        a Prefect task that runs `dvc repro --single-item evaluate`

The process face promises, for every stage alike: outputs appear whole or not at all, an input that changed meanwhile
fails the run, an attempt has exactly one terminal record, and no user's mistake prints a traceback.
"""

import argparse
import contextlib
import fcntl
import importlib
import inspect
import os
import shutil
import sys
import traceback
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, NewType, get_type_hints

from slipway import atomic, digest, errors, params, settings, strict, tracking
from slipway.journal import Journal
from tasks._attempt import Attempt, follow_supervisor

if TYPE_CHECKING:
    from prefect import Task

Input = NewType("Input", Path)  # a file or folder the stage reads
Output = NewType("Output", Path)  # a file or folder the stage makes; appears under its name only when whole
Scratch = NewType("Scratch", Path)  # survives attempts on the same inputs (checkpoints); removed when the stage is done
Memory = NewType("Memory", Path)  # kept for good, keyed by content: what a stage need not work out twice
Metrics = dict[str, float]

_LOGGED_BYTES = 5_000_000  # outputs up to this size are MLflow artifacts too; DVC keeps them all
NAMES = ("ingest", "fetch", "prepare", "validate", "finetune", "evaluate", "gate")
ACTS = ("register",)  # what touches the world, after the stages: never in dvc.yaml, never cached


@dataclass(frozen=True)
class _Step:
    """A step of a release, named after its function."""

    function: Callable[..., Metrics]
    retries: int
    timeout_seconds: int | None

    @property
    def name(self) -> str:
        return self.function.__name__

    @property
    def about(self) -> str:
        return (inspect.getdoc(inspect.getmodule(self.function)) or "").partition("\n")[0]

    def __call__(self, *args: Any, **kwargs: Any) -> Metrics:
        return self.function(*args, **kwargs)

    def task(self) -> "Task[..., Any]":
        """The step as a Prefect task."""
        from tasks import _prefect

        return _prefect.task_of(self)


class Stage(_Step):
    """A step from files to files."""

    def paths(self, kind: object) -> list[str]:
        """The names of the function's parameters of one kind (Input, Output, Scratch or Memory)."""
        hints = get_type_hints(self.function)
        return [name for name in inspect.signature(self.function).parameters if hints[name] is kind]


class Act(_Step):
    """A step that looks at the world or touches it; its function takes the workspace and the release. Doing it again changes nothing."""


def stage(retries: int = 0, timeout_seconds: int | None = None) -> Callable[[Callable[..., Metrics]], Stage]:
    """Make a function a stage; its name is the stage's name everywhere."""
    return lambda function: Stage(function, retries, timeout_seconds)


def act(retries: int = 0, timeout_seconds: int | None = None) -> Callable[[Callable[[Path, str], Metrics]], Act]:
    """Make a function an act; its name is the act's name everywhere."""
    return lambda function: Act(function, retries, timeout_seconds)


def find(name: str) -> Stage:
    """A stage by name."""
    if name not in NAMES:
        raise errors.UsageError(f"no stage {name!r}; the stages are {', '.join(NAMES)}")
    found = getattr(importlib.import_module(f"tasks.{name}"), name)
    assert isinstance(found, Stage)
    return found


def find_act(name: str) -> Act:
    """An act by name."""
    if name not in ACTS:
        raise errors.UsageError(f"no act {name!r}; the acts are {', '.join(ACTS)}")
    found = getattr(importlib.import_module(f"tasks.{name}"), name)
    assert isinstance(found, Act)
    return found


# --- what a stage depends on, as dvc.yaml says it ------------------------------------------------------------------


def _values(root: Path) -> dict[str, str]:
    """Everything `${…}` in dvc.yaml may name: its own vars and params.yaml."""
    flat: dict[str, str] = {}

    def walk(prefix: str, value: Any) -> None:
        if isinstance(value, dict):
            for key, inner in value.items():
                walk(f"{prefix}.{key}" if prefix else str(key), inner)
        else:
            flat[prefix] = str(value)

    for block in strict.read_yaml(root / "dvc.yaml").get("vars", []):
        walk("", block)
    walk("", strict.read_yaml(root / "params.yaml"))
    return flat


def declared(root: Path, name: str, key: str) -> list[str]:
    """A list of dvc.yaml (`deps`, `outs`, `params`, `metrics`) for one stage, with every `${…}` filled in.

    A whole file among the params (`{file: null}`) comes back as `file:`.
    """
    values = _values(root)
    entries = strict.read_yaml(root / "dvc.yaml")["stages"][name].get(key, [])
    filled = []
    for entry in entries:
        text = entry if isinstance(entry, str) else f"{next(iter(entry))}:"
        for variable, value in values.items():
            text = text.replace("${" + variable + "}", value)
        filled.append(text)
    return filled


def _fingerprint(root: Path, name: str, known: Mapping[str, tuple[Any, str]]) -> dict[str, tuple[Any, str]]:
    """Stat and SHA-256 of everything the stage depends on; a file whose stat is as `known` is not read again."""
    found: dict[str, tuple[Any, str]] = {}
    whole_files = [p.rstrip(":") for p in declared(root, name, "params") if p.endswith(":")]
    for dependency in [*declared(root, name, "deps"), *whole_files]:
        path = root / dependency
        if not path.exists():
            raise errors.StageError(
                f"{dependency} does not exist, and {name} needs it; run the stage that makes it, or restore it"
            )
        for file in digest.files_under(path) if path.is_dir() else [path]:
            if "__pycache__" in file.parts:
                continue
            key, stat = file.relative_to(root).as_posix(), file.stat()
            mark = (stat.st_size, stat.st_mtime_ns, stat.st_ino)
            before = known.get(key)
            found[key] = before if before and before[0] == mark else (mark, digest.of_file(file))
    section = strict.read_yaml(root / "params.yaml").get(name)
    found[f"params.yaml: {name}"] = (None, digest.of_value(section))
    return found


def _digest_of(path: Path, known: Mapping[str, tuple[Any, str]]) -> str:
    """Digest of one input, from the fingerprint already taken where it covers it."""
    inside = {name: sha for name, (_, sha) in known.items() if name == path.as_posix() or path in Path(name).parents}
    return inside.get(path.as_posix()) or (digest.of_pairs(inside) if inside else digest.of_path(path))


def _changed(before: Mapping[str, tuple[Any, str]], after: Mapping[str, tuple[Any, str]]) -> list[str]:
    names = before.keys() | after.keys()
    return sorted(n for n in names if before.get(n, (None, ""))[1] != after.get(n, (None, ""))[1])


# --- the process face ----------------------------------------------------------------------------------------------


def _arguments(stage: Stage, argv: list[str]) -> dict[str, Path]:
    parser = argparse.ArgumentParser(prog=f"python -m tasks {stage.name}", description=stage.about)
    for name in (*stage.paths(Input), *stage.paths(Output)):
        parser.add_argument(f"--{name.replace('_', '-')}", type=Path, required=True)
    parser.add_argument("--metrics", type=Path, required=True, help="where the stage's metrics go")
    return vars(parser.parse_args(argv))


def _size(path: Path) -> int:
    if path.is_dir():
        return sum(p.stat().st_size for p in digest.files_under(path))
    return path.stat().st_size if path.exists() else 0


def _remove(path: Path) -> None:
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)


def _partial(path: Path) -> Path:
    """Where an output grows until it is whole: beside its place, hidden, its suffix kept (writers look at it)."""
    return path.with_name(f".partial-{path.name}")


def _publish(outputs: Mapping[Path, Path]) -> None:
    """fsync every finished output and give it its name."""
    for partial, final in outputs.items():
        if not partial.exists():
            continue
        for file in digest.files_under(partial) if partial.is_dir() else [partial]:
            with file.open("rb") as stream:
                os.fsync(stream.fileno())
        _remove(final)
        partial.rename(final)
        atomic.fsync_folder(final.parent)


@contextlib.contextmanager
def _scratch(stage: Stage, folder: Path, inputs_digest: str) -> Iterator[dict[str, Path]]:
    """The stage's scratch folders for these very inputs, leased: a second run on the same inputs waits its turn."""
    names = stage.paths(Scratch)
    if not names:
        yield {}
        return
    place = folder / stage.name / inputs_digest[:16]
    place.mkdir(parents=True, exist_ok=True)
    with (place / "lease").open("w") as lease:
        try:
            fcntl.flock(lease, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            print(f"{stage.name}: another run works on the same inputs; waiting for it", flush=True)
            fcntl.flock(lease, fcntl.LOCK_EX)
        for name in names:
            (place / name).mkdir(parents=True, exist_ok=True)
        yield {name: place / name for name in names}
        for name in names:
            shutil.rmtree(place / name, ignore_errors=True)


def _memory(stage: Stage, root: Path) -> dict[str, Path]:
    """Where the stage remembers; it may be emptied at any time without changing a byte of any output."""
    folders = {name: settings.state_folder(root) / name / stage.name for name in stage.paths(Memory)}
    for folder in folders.values():
        folder.mkdir(parents=True, exist_ok=True)
    return folders


def _work(stage: Stage, root: Path, argv: list[str], journal: Journal) -> dict[str, Any]:
    """Run the function on partial outputs, check that no input moved, then publish everything at once."""
    paths = _arguments(stage, argv)
    section = params.load(stage.name, root / "params.yaml")
    before = _fingerprint(root, stage.name, {})
    inputs_digest = digest.of_pairs({name: sha for name, (_, sha) in before.items()})
    inputs = {name: Input(paths[name]) for name in stage.paths(Input)}
    read = {path.as_posix(): _digest_of(path, before) for path in inputs.values()}
    journal.write("begin", params=section.model_dump(mode="json"), inputs=read, inputs_digest=inputs_digest)
    with (
        _partials({name: paths[name] for name in (*stage.paths(Output), "metrics")}) as outputs,
        _scratch(stage, settings.scratch_folder(root), inputs_digest) as scratch,
    ):
        metrics_path = outputs.pop("metrics")
        metrics = stage.function(section, **inputs, **outputs, **scratch, **_memory(stage, root))
        atomic.write_json(metrics_path, metrics)
        if changed := _changed(before, _fingerprint(root, stage.name, before)):
            raise errors.StageError(
                f"input changed during run: {', '.join(changed[:3])}; nothing was kept, run {stage.name} again"
            )
    made = [root / paths[name] for name in (*stage.paths(Output), "metrics")]
    outputs_digest = tracking.outputs_digest(made, root)
    small = [str(path) for path in made if path.is_file() and path.stat().st_size < _LOGGED_BYTES]
    journal.write("metrics", values=metrics, step=journal.step)
    journal.write("made", outputs=outputs_digest, artifacts=small)
    return {"metrics": metrics, "inputs": inputs_digest, "outputs": outputs_digest}


def _perform(act: Act, root: Path, argv: list[str], journal: Journal) -> dict[str, Any]:
    """Do an act for one release; what it leaves is its own business, kept whole or not at all."""
    parser = argparse.ArgumentParser(prog=f"python -m tasks {act.name}", description=act.about)
    parser.add_argument("--release", required=True, help="the release it is about")
    release = parser.parse_args(argv).release
    journal.write("begin", params={"release": release}, inputs={}, inputs_digest="")
    metrics = act.function(root, release)
    journal.write("metrics", values=metrics, step=journal.step)
    return {"metrics": metrics}


@contextlib.contextmanager
def _partials(finals: Mapping[str, Path]) -> Iterator[dict[str, Path]]:
    """Places for the outputs to grow; all get their names at the end, or none (a refusal's report is an output too)."""
    partials = {name: _partial(path) for name, path in finals.items()}
    for path in partials.values():
        path.parent.mkdir(parents=True, exist_ok=True)
        _remove(path)
    published = {partials[name]: path for name, path in finals.items()}
    try:
        yield dict(partials)
        _publish(published)
    except errors.Refused:
        _publish(published)
        raise
    except BaseException as error:
        written = sum(_size(path) for path in partials.values())
        for path in partials.values():
            with contextlib.suppress(OSError):
                _remove(path)
        if storage := errors.of_storage(error, next(iter(finals.values())), written):
            raise storage from error
        raise


def main(argv: list[str]) -> int:
    """`python -m tasks STAGE --flag PATH …`: run one stage in this process and say how it ended by the exit code."""
    if not argv or argv[0] in ("-h", "--help"):
        print("usage: python -m tasks STAGE --flag PATH …\n\nstages, in order: " + ", ".join(NAMES))
        print("acts, by a release: " + ", ".join(ACTS))
        return 0 if argv else 2
    try:
        root = settings.find_root()
        os.chdir(root)
        settings.apply(root)
        follow_supervisor()
        found = find_act(argv[0]) if argv[0] in ACTS else find(argv[0])
        attempt = Attempt(settings.scratch_folder(root), found.name)
    except (errors.SlipwayError, OSError) as error:
        return _say(argv[0], errors.of_storage(error, Path.cwd(), 0) or error)
    try:
        with _followed(root, found.name, attempt), Journal(attempt.journal) as journal:
            if isinstance(found, Act):
                facts = _perform(found, root, argv[1:], journal)
            else:
                facts = _work(found, root, argv[1:], journal)
    except SystemExit as error:  # argparse has said what is wrong
        attempt.end("failed", exit=2)
        return int(error.code or 0)
    except BaseException as error:  # noqa: BLE001 - every way out gets its record and its exit code
        error = errors.of_storage(error, root, 0) or error
        code = _say(found.name, error)
        attempt.end("refused" if code == errors.Refused.exit_code else "failed", exit=code, error=str(error))
        return code
    attempt.end("done", **facts)
    return 0


def _followed(root: Path, name: str, attempt: Attempt) -> contextlib.AbstractContextManager[None]:
    """Tell MLflow ourselves, where no flow watches this attempt's journal."""
    if settings.variable("PARENT_RUN"):
        return contextlib.nullcontext()
    return tracking.followed(root, name, attempt.journal, {"slipway.commit": settings.variable("COMMIT") or ""})


def _say(name: str, error: BaseException) -> int:
    """Print an ending's one line (a traceback only for our own bugs) and give its exit code."""
    if isinstance(error, KeyboardInterrupt):
        print(f"{name}: interrupted; run it again to go on", file=sys.stderr, flush=True)
        return 130
    if not isinstance(error, errors.SlipwayError):
        traceback.print_exception(error)
        print(
            f"{name}: {type(error).__name__}: {error} (this is a bug of Slipway's: please report it)",
            file=sys.stderr,
            flush=True,
        )
        return errors.StageError.exit_code
    print(f"{name}: {error}", file=sys.stderr, flush=True)
    return error.exit_code
