"""Checks of what people write: environments, params, pipeline, policy, expectations, pins, git and folders."""

import fcntl
import os
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path

from pydantic import ValidationError

from slipway import git, params, pins, settings, strict, tracking
from slipway.cli.diagnosis import Diagnosis
from slipway.errors import SlipwayError, Transient, UsageError

TELEMETRY_OF = ("DVC", "Great Expectations", "Hugging Face", "MLflow", "Prefect")


def environments(root: Path) -> Iterator[Diagnosis]:
    """Every file of configs/env, and the one in use with its SLIPWAY_* overrides."""
    chosen = settings.variable("ENV") or "local"
    names = {path.stem for path in (root / "configs" / "env").glob("*.yaml")} | {chosen}
    asked = {f"env {name}": partial(settings.load, root, name) for name in sorted(names)}
    problems = [problem for check, ask in asked.items() if (problem := _problem(check, ask))]
    yield from problems or [Diagnosis.ok("environment", f"{chosen} (valid: {', '.join(sorted(names))})")]


def checks(root: Path) -> Iterator[Diagnosis]:
    yield from _files(root)
    yield _pins(root)
    yield from _git(root)
    yield from _folders(root)
    yield _leftovers(root)
    yield Diagnosis.ok("telemetry", f"off, for {', '.join(TELEMETRY_OF)}")


def _problem(check: str, ask: Callable[[], object]) -> Diagnosis | None:
    """What is wrong, as a diagnosis; None when nothing is."""
    try:
        ask()
    except Transient as error:
        return Diagnosis.of(check, error, "warn")
    except SlipwayError as error:
        return Diagnosis.of(check, error)
    return None


def _files(root: Path) -> Iterator[Diagnosis]:
    yield _problem("params", lambda: params.load_all(root / "params.yaml")) or _threads(root)
    yield _pipeline(root)
    yield _policy(root)
    suites = root / "configs" / "expectations"
    yield _problem("expectations", lambda: _suites(suites)) or Diagnosis.ok("expectations", "valid")
    yield _problem("model", lambda: tracking.model_name(root)) or Diagnosis.ok("model", tracking.model_name(root))


def _threads(root: Path) -> Diagnosis:
    chosen, cores = params.load_all(root / "params.yaml"), os.cpu_count() or 1
    threads = max(chosen.fetch.threads, chosen.prepare.threads, chosen.finetune.threads, chosen.evaluate.threads)
    if threads > cores:
        found = f"valid, but up to {threads} threads on {cores} cores"
        return Diagnosis.warn("params", found, "lower `threads` in params.yaml, or be slower than need be")
    return Diagnosis.ok("params", f"valid; up to {threads} threads on {cores} cores")


def _pipeline(root: Path) -> Diagnosis:
    """dvc.yaml, as DVC itself reads it."""
    from tasks import _repro
    from tasks._stage import NAMES

    stages = strict.read_yaml(root / "dvc.yaml").get("stages") or {}
    if odd := sorted(set(NAMES) ^ set(stages)):
        return Diagnosis.fail("pipeline", f"{root / 'dvc.yaml'} and tasks/ disagree on {odd[0]}", "make both the same")
    try:
        changed = _repro.changed_stages(root)
    except Transient as error:
        return Diagnosis.of("pipeline", error, "warn")
    return Diagnosis.ok("pipeline", f"{len(stages)} stages; {f'{len(changed)} would run' if changed else 'up to date'}")


def _policy(root: Path) -> Diagnosis:
    from slipway.governance.policy import Policy

    try:
        name = params.load_all(root / "params.yaml").gate.policy
        rules = Policy.load(root / name).rules
    except SlipwayError as error:
        return Diagnosis.of("policy", error)
    return Diagnosis.ok("policy", f"{name}: {len(rules)} rules")


def _suites(folder: Path) -> None:
    """The form of each suite; validate asks Great Expectations the rest, whose import takes seconds."""
    from slipway.data import expectations
    from slipway.data.tables import COLUMNS

    for table in COLUMNS:
        path = folder / f"{table}.yaml"
        try:
            expectations.Suite.model_validate(strict.read_yaml(path))
        except ValidationError as error:
            first = error.errors()[0]
            where = ".".join(str(part) for part in first["loc"])
            line = strict.line_of(path, first["loc"])
            raise UsageError(f"{path}:{line}: {where}: {first['msg']}; correct it") from None


def _pins(root: Path) -> Diagnosis:
    try:
        old = pins.stale(root, root)
    except SlipwayError as error:
        return Diagnosis.of("pins", error, "warn" if isinstance(error, Transient) else "fail")
    return Diagnosis.ok("pins", f"{', '.join(old)}: the next run renews it" if old else "current")


def _git(root: Path) -> Iterator[Diagnosis]:
    if not git.is_repository(root):
        fix = "`git init && git add -A && git commit -m Start`, so that releases can be kept under tags"
        yield Diagnosis.warn("commit", f"{root} is not a git checkout with a commit", fix)
        return
    changed = git.dirty(root)
    state = f"with {len(changed)} uncommitted: {', '.join(changed[:3])}" if changed else "clean"
    yield Diagnosis.ok("commit", f"{git.commit(root)[:10]}, {state}")


def _folders(root: Path) -> Iterator[Diagnosis]:
    for check, folder in (("state", settings.state_folder(root)), ("scratch", settings.scratch_folder(root))):
        yield writable(check, folder)


def nearest(folder: Path) -> Path:
    """The folder, or the nearest one above it that exists."""
    return next(place for place in (folder, *folder.parents) if place.exists())


def writable(check: str, folder: Path) -> Diagnosis:
    """Whether a folder can be written to, or made."""
    place = nearest(folder)
    if not place.is_dir() or not os.access(place, os.W_OK):
        what = "a file, not a folder" if place.is_file() else "not writable"
        fix = "change its mode or owner, or name another place (configs/env, SLIPWAY_STATE, SLIPWAY_SCRATCH)"
        return Diagnosis.fail(check, f"{place} is {what}", fix)
    return Diagnosis.ok(check, str(folder) if folder.exists() else f"{folder}, made when needed")


def is_free(path: Path) -> bool:
    """Whether no living process holds this lock file; one that is gone is held by nobody."""
    try:
        with path.open() as lock:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except FileNotFoundError:
        return True
    except BlockingIOError:
        return False
    return True


def _leftovers(root: Path) -> Diagnosis:
    """What killed releases left behind."""
    folders = list(settings.scratch_folder(root).glob("worktrees/*"))
    lifelines = settings.scratch_folder(root) / "lifelines"
    dead = [folder for folder in folders if is_free(lifelines / folder.name)]
    if dead:
        return Diagnosis.warn("left over", f"{len(dead)} worktrees of killed releases", "`slipway clean`")
    return Diagnosis.ok("left over", f"nothing{f'; {len(folders)} releases are under way' if folders else ''}")
