"""The receipt of `register`: a folder beside the release's record, which appears whole or not at all.

    observations.json  decision.json  README.md  eval_results.yaml  bom.json  statement.json  statement.sig

Only a pass leaves the signature there: a model that was refused is one that nobody vouches for.
"""

import contextlib
import os
import shutil
from collections.abc import Iterator
from pathlib import Path

from slipway import atomic, digest, model, records
from slipway.artifacts import Decision, Observations
from slipway.errors import StageError

FOLDER = "register"
OBSERVATIONS, DECISION = "observations.json", "decision.json"


def folder_of(project: Path, release: str) -> Path:
    """Where a release's receipt lies."""
    return records.folder_of(project, release) / FOLDER


def earlier(folder: Path, gate: Decision) -> Decision | None:
    """What was decided on this very evidence by this very policy; a receipt about anything else stands in the way."""
    if not (folder / DECISION).is_file():
        return None
    known, seen = Decision.load(folder / DECISION), Observations.load(folder / OBSERVATIONS)
    if (seen.evidence_digest, known.policy_digest) != (gate.evidence_digest, gate.policy_digest):
        raise StageError(f"{folder} is the receipt of other evidence; a release is registered once, start another")
    return known


@contextlib.contextmanager
def growing(folder: Path) -> Iterator[Path]:
    """A place for the receipt to grow; it gets its name when it is whole, and leaves nothing when it is not."""
    folder.parent.mkdir(parents=True, exist_ok=True)
    sweep(folder.parent)
    partial = folder.with_name(f".{folder.name}.{os.getpid()}.partial")
    partial.mkdir()
    try:
        yield partial
        for file in digest.files_under(partial):
            with file.open("rb") as stream:
                os.fsync(stream.fileno())
        partial.rename(folder)
        atomic.fsync_folder(folder.parent)
    finally:
        shutil.rmtree(partial, ignore_errors=True)


def sweep(record: Path) -> None:
    """Remove what an attempt that was killed has left beside a release's record."""
    for left in record.glob(f".{FOLDER}.*.partial"):
        shutil.rmtree(left, ignore_errors=True)


def digest_of(path: Path) -> str:
    return digest.of_file(path) if path.is_file() else "none"


def stale(project: Path, release: str) -> bool:
    """Whether what a release was registered with, and DVC does not see, is another by now: who the model is, waivers."""
    path = folder_of(project, release) / OBSERVATIONS
    if not path.is_file():
        return False
    from slipway.registry import grants

    seen = Observations.load(path)
    changed = digest_of(project / model.FILE) != seen.model_digest
    return changed or grants.standing(project, seen.evidence_digest) != seen.waivers
