"""Is dvc.lock whole, and does it speak of what lies here? Read and hashed by ourselves: DVC trusts sizes and times."""

import hashlib
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from slipway import digest, strict
from slipway.artifacts import Lock
from slipway.errors import StageError


def observe(root: Path) -> Lock:
    """Every stage of dvc.yaml with every output, and each file as the lock has it."""
    lock = root / "dvc.lock"
    if not lock.is_file():
        raise StageError(f"{lock} does not exist; run the stages (`slipway run`)")
    missing = list(_missing(root, strict.read_yaml(root / "dvc.yaml")["stages"], strict.read_yaml(lock)["stages"]))
    return Lock(complete=not missing, missing=missing)


def _missing(root: Path, stages: dict[str, Any], locked: dict[str, Any]) -> Iterator[str]:
    known: dict[str, str | None] = {}
    for name, stage in stages.items():
        if name not in locked:
            yield f"{name}: not in dvc.lock"
            continue
        outs = locked[name].get("outs", [])
        if len(outs) != (due := len(stage.get("outs", [])) + len(stage.get("metrics", []))):
            yield f"{name}: {len(outs)} outputs in dvc.lock, {due} in dvc.yaml"
        for entry in [*locked[name].get("deps", []), *outs]:
            path = str(entry["path"])
            if path not in known:
                known[path] = _md5_of(root / path)
            if known[path] is None:
                yield f"{name}: {path} does not exist"
            elif known[path] != entry.get("md5"):
                yield f"{name}: {path} is {known[path]}, dvc.lock has {entry.get('md5')}"


def _md5_of(path: Path) -> str | None:
    """DVC's digest of a file, or of a folder's list of files; None where there is nothing."""
    if path.is_dir():
        files = [
            {"md5": _md5_of(file), "relpath": file.relative_to(path).as_posix()} for file in digest.files_under(path)
        ]
        listed = json.dumps(sorted(files, key=lambda file: str(file["relpath"])), sort_keys=True)
        return hashlib.md5(listed.encode(), usedforsecurity=False).hexdigest() + ".dir"
    if not path.is_file():
        return None
    with path.open("rb") as stream:
        return hashlib.file_digest(stream, _md5).hexdigest()


def _md5() -> "hashlib._Hash":
    return hashlib.md5(usedforsecurity=False)
