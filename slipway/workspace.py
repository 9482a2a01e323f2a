"""Where a release works: the folder the person stands in, or a git worktree of its own. One release at a time in each."""

import contextlib
import fcntl
import json
import os
import shutil
import time
from collections.abc import Iterator
from pathlib import Path

from slipway import git, settings
from slipway.errors import StageError, Transient


def _holder(path: Path) -> str:
    try:
        held = json.loads(path.read_text())
        return f"release {held['release']} (PID {held['pid']}, since {held['since']})"
    except (OSError, ValueError, KeyError):
        return "another run"


@contextlib.contextmanager
def held(root: Path, release: str) -> Iterator[None]:
    """Hold a workspace for one release; Transient naming the holder when it is taken."""
    path = root / ".scratch" / "workspace.lock"
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("a+") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise Transient(
                f"{root} is held by {_holder(path)}; "
                f"wait for it (`slipway run --wait SECONDS`) or work in a worktree (`slipway release`)"
            ) from None
        lock.truncate(0)
        since = time.strftime("%H:%M:%S")
        lock.write(json.dumps({"release": release, "pid": os.getpid(), "since": since}))
        lock.flush()
        yield


@contextlib.contextmanager
def lifeline(root: Path, release: str) -> Iterator[Path]:
    """A lock that the kernel drops when this process dies: the stages' processes wait for it, and die too."""
    path = settings.scratch_folder(root) / "lifelines" / release
    path.parent.mkdir(parents=True, exist_ok=True)
    with _guard(root).open("w") as working, path.open("w") as lock:
        fcntl.flock(working, fcntl.LOCK_SH)
        fcntl.flock(lock, fcntl.LOCK_EX)
        try:
            yield path
        finally:
            path.unlink(missing_ok=True)


def works(root: Path, release: str) -> bool:
    """Whether the process of a release still lives."""
    try:
        with (settings.scratch_folder(root) / "lifelines" / release).open() as lock:
            fcntl.flock(lock, fcntl.LOCK_SH | fcntl.LOCK_NB)
            return False
    except FileNotFoundError:
        return False
    except BlockingIOError:
        return True


def _guard(root: Path) -> Path:
    """Shared by every release that works, here or in a worktree; held alone by whoever cleans up."""
    return settings.scratch_folder(root) / "releases.lock"


@contextlib.contextmanager
def idle(root: Path) -> Iterator[None]:
    """The project while no release works in it, and none begins; Transient when one does."""
    guard = _guard(root)
    guard.parent.mkdir(parents=True, exist_ok=True)
    with guard.open("w") as alone:
        try:
            fcntl.flock(alone, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            lifelines = sorted(path.name for path in (guard.parent / "lifelines").glob("*"))
            named = f"release {lifelines[-1]}" if lifelines else "a release"
            raise Transient(f"{named} works in {root}; run this again when it has ended") from None
        yield


@contextlib.contextmanager
def worktree(root: Path, release: str, revision: str) -> Iterator[Path]:
    """A worktree of `revision`; gone afterwards."""
    folder = settings.scratch_folder(root) / "worktrees" / release
    git.add_worktree(root, folder, revision)
    try:
        settings.join(folder, settings.project_folder(root))
        yield folder
    finally:
        with contextlib.suppress(StageError):  # what ended the release matters more
            git.remove_worktree(root, folder)
        shutil.rmtree(folder, ignore_errors=True)
