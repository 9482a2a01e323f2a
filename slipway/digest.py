"""SHA-256 of files, folders and values: the only identity Slipway trusts."""

import hashlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from slipway import atomic

MANIFEST = "manifest.json"


def of_bytes(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


def of_file(path: Path) -> str:
    with path.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


def of_file_once(path: Path, memory: Path) -> str:
    """A file's SHA-256, from `memory` (a folder) while the file's size, time and inode are what they were."""
    stat = path.stat()
    mark = [stat.st_size, stat.st_mtime_ns, stat.st_ino]
    entry = memory / f"{of_bytes(str(path.resolve()).encode())[:32]}.json"
    try:
        known = json.loads(entry.read_text())
        if known["mark"] == mark:
            return str(known["sha256"])
    except (OSError, ValueError, KeyError, TypeError):
        pass  # not there yet or damaged: reading the file is always right
    sha256 = of_file(path)
    atomic.write_json(entry, {"mark": mark, "sha256": sha256})
    return sha256


def of_value(value: Any) -> str:
    """Digest of a JSON value in canonical form (sorted keys, no spaces, no NaN)."""
    return of_bytes(json.dumps(value, sort_keys=True, separators=(",", ":"), allow_nan=False).encode())


def files_under(folder: Path) -> list[Path]:
    """Every file below a folder, in one order everywhere."""
    return sorted((p for p in folder.rglob("*") if p.is_file()), key=lambda p: p.relative_to(folder).as_posix())


def of_pairs(pairs: Mapping[str, str]) -> str:
    """Digest over sorted (path, SHA-256) pairs."""
    return of_value(sorted(pairs.items()))


def of_path(path: Path) -> str:
    """Digest of a file, or of a folder's (path, SHA-256) pairs."""
    if path.is_dir():
        return of_pairs({p.relative_to(path).as_posix(): of_file(p) for p in files_under(path)})
    return of_file(path)
