"""A private copy whose bytes are the verified ones: what is loaded from it is what was checked.

Checking a folder and then loading from it leaves a moment in which files can be swapped. Here each file is opened once,
copied and hashed in the same pass into a folder of our own, and only the copy is loaded.
"""

import shutil
from pathlib import Path

from slipway import digest
from slipway.artifacts import Manifest, ManifestFile
from slipway.errors import StageError
from slipway.scanning import walk
from slipway.scanning.denied import Denied


def snapshot(folder: Path, manifest: Manifest, place: Path) -> Path:
    """Copy a folder to `place` (which must not exist), every file as its manifest says and nothing else; read-only.

    The manifest is the caller's, read and trusted before: the one that lies in the folder is not looked at.
    """
    place.mkdir(mode=0o700, parents=True)
    try:
        _copy(folder, {file.path: file for file in manifest.files}, place)
        manifest.save(place / digest.MANIFEST)
        for path in sorted(place.rglob("*"), reverse=True):
            path.chmod(0o500 if path.is_dir() else 0o400)
        place.chmod(0o500)
    except BaseException:
        discard(place)
        raise
    return place


def discard(place: Path) -> None:
    """Remove a snapshot (its folders are read-only)."""
    if place.is_dir():
        for folder in [place, *(path for path in place.rglob("*") if path.is_dir())]:
            folder.chmod(0o700)
        shutil.rmtree(place)


def _copy(folder: Path, listed: dict[str, ManifestFile], place: Path) -> None:
    missing = set(listed)
    try:
        with walk.open_folder(folder) as handle:
            for entry in walk.entries(handle):
                if entry.fault:
                    raise StageError(f"{folder / entry.path}: {entry.fault}; the model is not loaded")
                if entry.kind == "folder" or entry.path == digest.MANIFEST:
                    continue
                if entry.path not in listed:
                    raise StageError(f"{folder / entry.path} is not in the folder's manifest; remove it")
                _copy_file(entry, listed[entry.path], folder / entry.path, place / entry.path)
                missing.remove(entry.path)
    except OSError as error:
        if error.filename is not None and Path(error.filename).is_relative_to(place):
            raise  # the disk's, not the folder's
        raise StageError(f"{folder} changed while it was read ({error.strerror}); the model is not loaded") from None
    if missing:
        raise StageError(f"{folder / min(missing)} is missing though its manifest lists it; the model is not loaded")


def _copy_file(entry: walk.Entry, expected: ManifestFile, source: Path, target: Path) -> None:
    target.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    try:
        with walk.opened(entry.name, entry.folder, entry.status) as file:
            if file.size != expected.bytes:
                raise Denied(f"has {file.size:,} bytes, its manifest says {expected.bytes:,}")
            _write(file, target)
            found = file.sha256()
    except Denied as error:
        raise StageError(f"{source} {error}; the model is not loaded") from None
    if found != expected.sha256:
        raise StageError(f"{source} changed: its SHA-256 is {found}, recorded was {expected.sha256}; it is not loaded")


def _write(file: walk.Opened, target: Path) -> None:
    with target.open("xb") as stream:
        buffer = memoryview(bytearray(walk.CHUNK))
        while file.offset < file.size:
            part = buffer[: file.size - file.offset]
            file.into(part)
            stream.write(part)
