"""A version's files: which there are, and a checked copy of them. Whole or not at all; every byte against its digest on the way."""

import hashlib
import os
import shutil
import stat
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

from slipway import atomic, digest
from slipway.artifacts import Manifest
from slipway.errors import Refused, StageError, UsageError
from slipway.registry import catalog, paths, store
from slipway.registry.versions import Version

BASE = "base"
_CHUNK = 1 << 20


@dataclass(frozen=True)
class Kept:
    """One file of a version."""

    path: str
    bytes: int
    sha256: str
    source: Path | None  # where its bytes are; None while they are not here


def files(root: Path, version: Version, base: bool = False) -> list[Kept]:
    """Every file with its size and digest, whether or not it is here; the base model's too, where asked for."""
    listed = [*_own(root, version), *(_of_base(root, version) if base else ())]
    for one in listed:
        if not paths.is_plain(one.path):
            raise Refused(
                f"{version.name} lists a file {catalog.shown(one.path)}, which could lead out of its folder; nothing "
                f"of it was read (`slipway audit verify` says whether the ledger was changed)"
            )
    return listed


def _own(root: Path, version: Version) -> Iterator[Kept]:
    place = store.folder(root, version.model, version.version)
    for file in version.files:
        here = place / file.path if paths.is_plain(file.path) else None
        yield Kept(file.path, file.bytes, file.sha256, here if here and here.is_file() else None)


def _of_base(root: Path, version: Version) -> Iterator[Kept]:
    place = store.base_folder(root, version.base_digest)
    manifest = place / digest.MANIFEST
    if not manifest.is_file():
        raise Refused(f"the base model of {version.name} is not here ({place}); bring it back, or leave --base out")
    if (found := store.base_digest(place)) != version.base_digest:
        raise Refused(f"{manifest} changed: the base model is {found} by it, recorded was {version.base_digest}")
    for file in Manifest.load(manifest).files:
        yield Kept(f"{BASE}/{file.path}", file.bytes, file.sha256, place / file.path)
    yield Kept(f"{BASE}/{digest.MANIFEST}", manifest.stat().st_size, digest.of_file(manifest), manifest)


def download(root: Path, version: Version, target: Path, base: bool = False) -> list[Kept]:
    """Copy a version into a folder that is not there yet, or empty."""
    _check_target(target)
    listed = _here(version, files(root, version, base))
    partial = target.with_name(f".{target.name}.{os.getpid()}.partial")
    shutil.rmtree(partial, ignore_errors=True)
    try:
        partial.mkdir(parents=True)
    except OSError as error:
        raise UsageError(f"{target} cannot be made ({error.strerror or error}); name a folder of yours") from None
    try:
        for one in listed:
            _copy(one, partial / one.path)
        version.save(partial / Version.FILE)
        partial.rename(target)
    finally:
        shutil.rmtree(partial, ignore_errors=True)
    atomic.fsync_folder(target.parent)
    return listed


def _check_target(target: Path) -> None:
    paths.given(target, "the folder")
    if target.name == "" or ".." in target.parts:
        raise UsageError(f"{target} is not written out; name the folder itself, without `..`")
    if target.is_symlink():
        raise UsageError(f"{target} is a link; name the folder itself")
    if target.exists() and not target.is_dir():
        raise UsageError(f"{target} is a file; name a folder that is not there yet, or an empty one")
    if target.is_dir() and any(target.iterdir()):
        raise UsageError(f"{target} is not empty; name another folder, nothing is ever overwritten")


def _here(version: Version, listed: list[Kept]) -> list[Kept]:
    """All of them, once their bytes are in this store."""
    if version.state == "deleted":
        raise Refused(f"{version.name} was deleted; its row is a tombstone, and its bytes are gone")
    if version.state == "cold":
        raise Refused(f"{version.name} is in cold storage; `slipway models restore {version.version}` brings it back")
    if gone := [one.path for one in listed if one.source is None]:
        more = f" and {len(gone) - 1} more" if len(gone) > 1 else ""
        raise Refused(f"{version.name} is not whole: {gone[0]}{more} is missing from the store; restore it from a copy")
    return listed


def _copy(one: Kept, target: Path) -> None:
    """Copy a file, its digest taken of the very bytes that are written; nothing is read through a link."""
    target.parent.mkdir(parents=True, exist_ok=True)
    taken, size = hashlib.sha256(), 0
    with _opened(one) as source, target.open("xb") as copy:
        while piece := source.read(_CHUNK):
            taken.update(piece)
            size += len(piece)
            copy.write(piece)
        copy.flush()
        os.fsync(copy.fileno())
    if (size, taken.hexdigest()) != (one.bytes, one.sha256):
        raise Refused(
            f"{one.path} changed in the store: its SHA-256 is {taken.hexdigest()} ({size:,} bytes), recorded was "
            f"{one.sha256} ({one.bytes:,} bytes); nothing was kept, restore it from a copy (`slipway models verify`)"
        )


def _opened(one: Kept) -> BinaryIO:
    """A regular file that is reached through no link."""
    if one.source is None:
        raise StageError(f"{one.path} is not here (please report it)")
    if link := next((above for above in list(one.source.parents)[: one.path.count("/")] if above.is_symlink()), None):
        raise Refused(f"{link} is a link, which the store has none of; nothing was kept, restore it from a copy")
    try:
        handle = os.open(one.source, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK)
    except OSError as error:
        raise Refused(
            f"{one.source} cannot be read as a file of its own ({error.strerror}); nothing was kept"
        ) from None
    if not stat.S_ISREG(os.fstat(handle).st_mode):
        os.close(handle)
        raise Refused(f"{one.source} is no regular file; nothing was kept")
    return os.fdopen(handle, "rb")
