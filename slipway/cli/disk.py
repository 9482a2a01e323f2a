"""`slipway clean`: what is left over on disk goes; what a release, a workspace or a running process needs stays."""

import json as json_module
import math
import shutil
import subprocess
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from slipway import errors, git, settings, workspace
from slipway.cli.configuration import is_free

_DAY = 86_400


@dataclass(frozen=True)
class Leftover:
    """Something that nobody needs any more."""

    kind: str
    path: Path
    bytes: int


def clean(older_than_days: float, dry_run: bool, json: bool) -> int:
    from tasks import _storage

    if not (math.isfinite(older_than_days) and older_than_days >= 0):
        raise errors.UsageError(f"--older-than-days is {older_than_days}; give a number of days from 0 on")
    root = settings.find_root()
    settings.apply(root)
    with workspace.held(root, "clean"), workspace.idle(root):
        found = list(leftovers(root, time.time() - older_than_days * _DAY))
        for left in [] if dry_run else found:
            _remove(left.path)
        if git.is_repository(root) and not dry_run:
            subprocess.run(["git", "worktree", "prune"], cwd=root, check=False)
        objects, size = _storage.free_cache(root, dry_run)
    _tell(found, objects, size, dry_run, json)
    return 0


def leftovers(root: Path, before: float) -> Iterator[Leftover]:
    """What may go from the scratch folder when no release is under way."""
    scratch = settings.scratch_folder(root)
    for folder in sorted(scratch.glob("worktrees/*")):
        yield Leftover("worktree", folder, _size(folder))
    for lease in sorted(scratch.glob("*/*/lease")):
        if _age(lease.parent) < before and is_free(lease):
            yield Leftover("checkpoints", lease.parent, _size(lease.parent))
    for path in sorted([*scratch.glob("attempts/*/*.json*"), *scratch.glob("lifelines/*")]):
        if _age(path) < before and is_free(path):
            yield Leftover("trace of a process", path, _size(path))


def _files(path: Path) -> list[Path]:
    return [path, *path.rglob("*")] if path.is_dir() and not path.is_symlink() else [path]


def _size(path: Path) -> int:
    return sum(file.lstat().st_size for file in _files(path) if not file.is_dir())


def _age(path: Path) -> float:
    """When anything in there was last written."""
    return max(file.lstat().st_mtime for file in _files(path))


def _remove(path: Path) -> None:
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path)
    else:
        path.unlink()


def _tell(found: list[Leftover], objects: int, size: int, dry_run: bool, json: bool) -> None:
    total = sum(left.bytes for left in found) + size
    if json:
        listed = [{"kind": left.kind, "path": str(left.path), "bytes": left.bytes} for left in found]
        cached = {"objects": objects, "bytes": size}
        print(json_module.dumps({"dry_run": dry_run, "left_over": listed, "cache": cached, "bytes": total}, indent=2))
        return
    for left in found:
        if left.kind != "trace of a process":
            print(f"{left.kind} {left.path}: {errors.size_text(left.bytes)}")
    if traces := sum(left.kind == "trace of a process" for left in found):
        print(f"{traces} traces of ended processes")
    if objects:
        print(f"{objects} cached outputs that no release, branch or workspace uses: {errors.size_text(size)}")
    print(f"{'Would free' if dry_run else 'Freed'} {errors.size_text(total)}.")
