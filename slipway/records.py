"""Release records in the state folder: one folder a release, with its report and evidence."""

import contextlib
import os
import shutil
import sys
import time
import uuid
from collections.abc import Iterator
from itertools import islice
from pathlib import Path

from slipway import digest, settings, workspace
from slipway.errors import StageError, UsageError
from slipway.report.release import Release

DATA_DOCS = "data_docs"  # Great Expectations' pages, beside validation.json; no DVC output, since they carry the time
_BEGUN = "begun.json"
# Names of dvc.yaml's paths worth keeping with the record: all that another judgement of this release would read.
_KEPT = (
    *("source", "pinned_base", "champion", "validation", "inspection", "loss", "scorecard", "predictions"),
    *("benchmarks", "safety", "scan", "decision", "report"),
)
_KEPT_OF_FOLDERS = {
    "base": ("manifest.json",),
    "adapter": ("manifest.json",),
    "prepared": ("manifest.json", "card.json"),
}


def new_id() -> str:
    """Sorts by time, unique without asking anybody."""
    return f"{time.strftime('%Y%m%d-%H%M%S', time.gmtime())}-{uuid.uuid4().hex[:6]}"


def folder_of(root: Path, release: str) -> Path:
    return settings.state_folder(root) / "releases" / release


def begin(root: Path, release: Release) -> None:
    """Note a release as if it had been killed: what stays true if nobody gets to say otherwise."""
    release.save(folder_of(root, release.id) / _BEGUN)


def bury(root: Path) -> list[Release]:
    """Give every release that was killed the record it could not write itself."""
    dead = []
    for begun in sorted((settings.state_folder(root) / "releases").glob(f"*/{_BEGUN}")):
        if workspace.works(root, begun.parent.name):
            continue
        with contextlib.suppress(FileNotFoundError, FileExistsError):  # buried meanwhile, or it had said all it had to
            os.link(begun, begun.parent / Release.FILE)
            dead.append(Release.load(begun.parent / Release.FILE))
        begun.unlink(missing_ok=True)
    return dead


def save(root: Path, place: Path, release: Release) -> Path:
    """Keep a release's record, and copies of the evidence it made."""
    folder = folder_of(root, release.id)
    folder.mkdir(parents=True, exist_ok=True)
    kept = {_name(name, release.paths[name]): place / release.paths[name] for name in _KEPT if name in release.paths}
    for name, files in _KEPT_OF_FOLDERS.items():
        kept |= {f"{name}/{file}": place / release.paths[name] / file for file in files if name in release.paths}
    for target, path in (kept | {name: place / name for name in ("params.yaml", "dvc.lock")}).items():
        if path.is_file():
            (folder / target).parent.mkdir(exist_ok=True)
            shutil.copy2(path, folder / target)
    pages = place / "reports" / DATA_DOCS
    if pages.is_dir() and (validated := release.stage("validate")) and validated.status in ("ran", "refused"):
        shutil.copytree(pages, folder / DATA_DOCS, dirs_exist_ok=True)
    release.save(folder / Release.FILE)
    (folder / _BEGUN).unlink(missing_ok=True)
    return folder


def _name(name: str, path: str) -> str:
    """Where a file is kept: by its own name, pins in a folder of theirs."""
    return f"pins/{Path(path).name}" if name in ("source", "pinned_base", "champion") else Path(path).name


def newest_first(root: Path) -> Iterator[Release]:
    """Every release of the project that ended, killed ones included, the newest first."""
    releases = settings.state_folder(root) / "releases"
    for folder in sorted(releases.iterdir(), reverse=True) if releases.is_dir() else []:
        path = folder / Release.FILE
        if not path.is_file() and not workspace.works(root, folder.name):
            path = folder / _BEGUN
        if path.is_file():
            try:
                yield Release.load(path)
            except StageError as error:
                print(f"slipway: skipped: {error}", file=sys.stderr)


def find(root: Path, release: str | None) -> Release:
    """A release by id (or a start of one that no other has); the newest where none is named."""
    if release == "":
        raise UsageError("an empty word names no release; `slipway status` shows the newest one's id")
    found = list(islice(newest_first(root), 1)) if release is None else starting(root, release)
    if not found:
        raise UsageError(f"no release {release or ''} here yet; `slipway run` makes one".replace("  ", " "))
    if len(found) > 1:
        shown = ", ".join(one.id for one in found[:3]) + ", …" * (len(found) > 3)
        raise UsageError(f"{len(found)} releases begin with {release}: {shown}; write more of the id")
    return found[0]


def starting(root: Path, start: str) -> list[Release]:
    """The release of this very id, or else every one whose id begins so, the newest first."""
    found = [record for record in newest_first(root) if record.id.startswith(start)]
    return [record for record in found if record.id == start] or found


def lock_digest(place: Path) -> str | None:
    lock = place / "dvc.lock"
    return digest.of_file(lock) if lock.is_file() else None


def of_lock(root: Path, lock: str | None) -> Release | None:
    """The newest release that ended with a verdict on exactly these inputs and outputs."""
    judged = (r for r in newest_first(root) if r.outcome in ("registered", "refused", "undecided"))
    return next((r for r in judged if lock is not None and r.lock_digest == lock), None)
