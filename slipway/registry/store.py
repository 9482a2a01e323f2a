"""Where a version's bytes are, beside every service: what rollback and serving read when MLflow, S3 and DVC are away.

    <state>/registry/<model>/<version>/   adapter/  receipt/  version.json, written last
    <state>/registry/bases/<digest>/      a base model, once for all versions tuned on it

`receipt/` is what `register` has left, and in `receipt/evidence/` everything that was judged, by the names a decision gives it.
"""

import contextlib
import fcntl
import os
import re
import shutil
import stat
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path

from slipway import atomic, digest, model, settings
from slipway.artifacts import Decision, Manifest, check_file
from slipway.errors import Refused, SlipwayError, StageError, UsageError
from slipway.ledger.database import Database
from slipway.registry import keys, receipt, signing, versions
from slipway.registry.versions import File, Version

ADAPTER, RECEIPT, EVIDENCE = "adapter", "receipt", "evidence"
BASES = "bases"
_DIGEST = re.compile(r"[0-9a-f]{64}")
# Names that are folders of the store's own.
RESERVED = frozenset([BASES, "rows"])


def top(root: Path) -> Path:
    return settings.state_folder(root) / "registry"


def folder(root: Path, model_name: str, version: str) -> Path:
    """Where a version lies. A name that could lead elsewhere never becomes a path."""
    if not re.fullmatch(model.NAME, model_name) or model_name in RESERVED:
        raise UsageError(f"{ascii(model_name)[:80]} is no model's name: letters, digits, `.`, `_` and `-`, 63 at most")
    if not re.fullmatch(versions.NUMBER, version):
        raise UsageError(f"{ascii(version)[:80]} is no version; write one as in 1.0.0 (`slipway models list`)")
    return top(root) / model_name / version


def base_folder(root: Path, base_digest: str) -> Path:
    """Where a base model lies, shared by the versions tuned on it."""
    if not _DIGEST.fullmatch(base_digest):
        raise UsageError(f"{ascii(base_digest)[:80]} is no digest of a base model")
    return top(root) / BASES / base_digest


def base_digest(base: Path) -> str:
    """A base model's digest here: all of its folder, the manifest too, so that equal digests are equal folders."""
    manifest = Manifest.load(base / digest.MANIFEST)
    listed = {file.path: file.sha256 for file in manifest.files}
    return digest.of_pairs(listed | {digest.MANIFEST: digest.of_file(base / digest.MANIFEST)})


# --- keeping ----------------------------------------------------------------------------------------------------------


def contents(adapter: Path, receipt_folder: Path, evidence: Mapping[str, Path]) -> dict[str, Path]:
    """Every file that is kept of a version → where it comes from."""
    found = {f"{ADAPTER}/{path.relative_to(adapter).as_posix()}": path for path in digest.files_under(adapter)}
    for path in digest.files_under(receipt_folder):
        found[f"{RECEIPT}/{path.relative_to(receipt_folder).as_posix()}"] = path
    return found | {f"{RECEIPT}/{EVIDENCE}/{name}": path for name, path in evidence.items()}


def described(found: Mapping[str, Path]) -> list[File]:
    """Those files with size and SHA-256, as `version.json` lists them."""
    return [
        File(path=name, bytes=path.stat().st_size, sha256=digest.of_file(path)) for name, path in sorted(found.items())
    ]


@contextlib.contextmanager
def alone(root: Path, model_name: str) -> Iterator[None]:
    """One process at a time brings in or takes away a model's versions on this machine; the kernel frees the dead."""
    with _locked(top(root) / model_name / ".lock"):
        yield


@contextlib.contextmanager
def _bases_alone(root: Path) -> Iterator[None]:
    """Models share bases: nobody takes one away that another is about to need. `alone` may be held, and is taken first."""
    with _locked(top(root) / ".bases.lock"):
        yield


@contextlib.contextmanager
def _locked(path: Path) -> Iterator[None]:
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield


def keep(
    root: Path, version: Version, adapter: Path, base: Path, receipt: Path, evidence: Mapping[str, Path] | None = None
) -> None:
    """Copy a version here, whole or not at all; again changes nothing. A half copy of a killed attempt goes first."""
    with _bases_alone(root):  # until version.json says that the base is needed
        _keep_base(root, version.base_digest, base)
        place = folder(root, version.model, version.version)
        if (known := _version_in(place)) is not None and known == version:
            return
        found = contents(adapter, receipt, evidence or {})
        with _growing(place) as partial:
            for file in version.files:
                if file.path not in found:
                    raise StageError(f"{file.path} of {version.name} is not there any more; register it again")
                _copied(found[file.path], partial / file.path, file)
            version.save(partial / Version.FILE)


def write(root: Path, version: Version, name: str, data: bytes) -> None:
    """Add a file that came later (a decision about its stage, a signed promotion) beside a version's own."""
    atomic.write_bytes(folder(root, version.model, version.version) / "later" / name, data)


def _keep_base(root: Path, wanted: str, base: Path) -> None:
    place = base_folder(root, wanted)
    if place.is_dir():
        return
    manifest = Manifest.load(base / digest.MANIFEST)
    with _growing(place) as partial:
        for file in manifest.files:
            _copied(base / file.path, partial / file.path, File(path=file.path, bytes=file.bytes, sha256=file.sha256))
        shutil.copyfile(base / digest.MANIFEST, partial / digest.MANIFEST)
        if (found := base_digest(partial)) != wanted:
            raise StageError(f"{base} is {found}, expected was {wanted}; it changed meanwhile, register it again")


def _copied(source: Path, target: Path, file: File) -> None:
    """Bytes of their own (no link: a later edit of the workspace must not reach them), checked after the copy."""
    target.parent.mkdir(parents=True, exist_ok=True)
    shutil.copyfile(source, target, follow_symlinks=True)
    target.chmod(0o644)
    check_file(target, file.bytes, file.sha256)


@contextlib.contextmanager
def _growing(place: Path) -> Iterator[Path]:
    """A place for a folder to grow; it gets its name when it is whole and on the disk, in place of one that is not ours."""
    place.parent.mkdir(parents=True, exist_ok=True)
    for left in place.parent.glob(f".{place.name}.*.partial"):
        if not _lives(left):
            shutil.rmtree(left, ignore_errors=True)
    partial = place.with_name(f".{place.name}.{os.getpid()}.partial")
    partial.mkdir()
    try:
        yield partial
        for file in digest.files_under(partial):
            with file.open("rb") as stream:
                os.fsync(stream.fileno())
        for inner in {file.parent for file in digest.files_under(partial)}:
            atomic.fsync_folder(inner)
        _named(partial, place)
    finally:
        shutil.rmtree(partial, ignore_errors=True)


def _lives(partial: Path) -> bool:
    pid = partial.name.split(".")[-2]
    return pid.isdigit() and int(pid) != os.getpid() and Path(f"/proc/{pid}").exists()


def _named(partial: Path, place: Path) -> None:
    if place.name and place.is_dir():
        if place.parent.name == BASES:
            return  # another process was first, with the very same bytes
        shutil.rmtree(place)  # an attempt that never reached the ledger; `alone` is held here
    partial.rename(place)
    atomic.fsync_folder(place.parent)


def _version_in(place: Path) -> Version | None:
    try:
        return Version.load(place / Version.FILE)
    except SlipwayError:
        return None


def kept(root: Path, model_name: str, version: str) -> Version | None:
    """What lies here under a number, whole; None where nothing or only a part does."""
    return _version_in(folder(root, model_name, version))


# --- checking ---------------------------------------------------------------------------------------------------------


def problems(root: Path, version: Version) -> list[str]:
    """Why this version cannot be approved, promoted or loaded: bytes, signature, identity; nothing when it is sound."""
    if version.state == "deleted":
        return [f"{version.name} was deleted; its row is a tombstone"]
    if version.state == "cold":
        return [f"{version.name} is in cold storage; `slipway models restore {version.version}` brings it back"]
    place = folder(root, version.model, version.version)
    if not place.is_dir() or place.is_symlink():
        return [f"the files of {version.name} are missing: {place} does not exist; restore it from a copy"]
    return [*_record(place, version), *_files(place, version)] or _signature(root, place, version)


def _record(place: Path, version: Version) -> Iterator[str]:
    """version.json says what the ledger says, but for what changes later."""
    if (known := _version_in(place)) is None:
        yield f"{place / Version.FILE} is missing or cannot be read"
    elif odd := [name for name in Version.model_fields if name not in _CHANGING and _differs(known, version, name)]:
        yield f"{place / Version.FILE} is not what the ledger has: {odd[0]} differs"


_CHANGING = ("stage", "state", "mlflow_version")


def _differs(known: Version, version: Version, name: str) -> bool:
    return bool(getattr(known, name) != getattr(version, name))


def _files(place: Path, version: Version) -> Iterator[str]:
    listed = {file.path: file for file in version.files}
    needed = {parent.as_posix() for path in listed for parent in Path(path).parents}
    for where in (ADAPTER, RECEIPT):
        for entry in sorted((place / where).rglob("*")):
            path = entry.relative_to(place).as_posix()
            if path not in listed and path not in needed:
                yield f"{entry} does not belong to {version.name}"
    for path, file in listed.items():
        yield from _file(place / path, file)


def _file(path: Path, file: File) -> Iterator[str]:
    try:
        if not stat.S_ISREG(path.lstat().st_mode):
            yield f"{path} is no regular file"
        else:
            check_file(path, file.bytes, file.sha256)
    except FileNotFoundError:
        yield f"{path} is missing"
    except (StageError, OSError) as error:
        yield str(error).partition("; run the stage")[0]


def _signature(root: Path, place: Path, version: Version) -> list[str]:
    """The signed statement speaks of these bytes, this name, this number and this identity."""
    base = base_folder(root, version.base_digest)
    trust = keys.load(keys.folder(root) / keys.FILE)
    try:
        signing.verify(place / RECEIPT, base, place / ADAPTER, trust, keys.now())
        statement = signing.Statement.load(place / RECEIPT / signing.Statement.FILE)
        decision = Decision.load(place / RECEIPT / receipt.DECISION)
    except (Refused, StageError) as error:
        return [str(error)]
    said = (statement.model, statement.version, statement.identity, decision.verdict)
    wanted = (version.model, version.version, version.identity, "pass")
    if said == wanted:
        return []
    return [f"what was signed and decided is {' '.join(map(str, said))}, the ledger has {' '.join(wanted)}"]


# --- taking away ------------------------------------------------------------------------------------------------------


def drop(root: Path, version: Version) -> int:
    """Take a version's bytes away, and its base's where no version needs it; how many bytes that freed."""
    place = folder(root, version.model, version.version)
    with alone(root, version.model):
        return _removed(place) + _base_removed(root, version)


def cool(root: Path, version: Version) -> int:
    """Take away what an archive has of a version, and leave its receipt; how many bytes that freed."""
    place = folder(root, version.model, version.version)
    with alone(root, version.model):
        (place / Version.FILE).unlink(missing_ok=True)
        return _removed(place / ADAPTER) + _base_removed(root, version)


def warm(root: Path, version: Version, base: Mapping[str, str], fetch: Callable[[str, str, Path], None]) -> None:
    """Bring back what `cool` took away, each folder whole or not at all; `fetch` gets a name, a SHA-256 and a target.

    `base` lists the base's files with their SHA-256. version.json comes last, when everything else is there.
    """
    place = folder(root, version.model, version.version)
    with alone(root, version.model):
        _fetched(base_folder(root, version.base_digest), f"{BASES}/{version.base_digest}", base, fetch)
        kept = {file.path: file.sha256 for file in version.files}
        own = {path.removeprefix(f"{ADAPTER}/"): sha for path, sha in kept.items() if path.startswith(f"{ADAPTER}/")}
        _fetched(place / ADAPTER, f"{version.model}/{version.version}/{ADAPTER}", own, fetch)
        for path in sorted(kept):
            if path.startswith(f"{RECEIPT}/") and not (place / path).is_file():
                fetch(f"{version.model}/{version.version}/{path}", kept[path], place / path)
        version.save(place / Version.FILE)


def _fetched(place: Path, name: str, files: Mapping[str, str], fetch: Callable[[str, str, Path], None]) -> None:
    if place.is_dir():
        return
    with _growing(place) as partial:
        for path, sha256 in sorted(files.items()):
            fetch(f"{name}/{path}", sha256, partial / path)
            (partial / path).chmod(0o644)


def discard(root: Path, version: Version) -> None:
    """Take away what was kept of a version that never reached the ledger. `alone` is held."""
    _removed(folder(root, version.model, version.version))


def _base_removed(root: Path, version: Version) -> int:
    with _bases_alone(root):
        return 0 if _base_needed(root, version) else _removed(base_folder(root, version.base_digest))


def _base_needed(root: Path, version: Version) -> bool:
    """Any other version that lies here or should; one in cold storage has its base there."""
    for path in top(root).glob(f"*/*/{Version.FILE}"):
        if (other := _version_in(path.parent)) is not None and other.base_digest == version.base_digest:
            return True
    with Database.of(root).read() as connection:
        there = versions.listed(connection, states=("present",))
    return any(v.base_digest == version.base_digest and v.name != version.name for v in there)


def _removed(place: Path) -> int:
    """Remove a folder: out of its place first, so that nobody ever sees a half of it."""
    if not place.is_dir():
        return 0
    size = sum(path.stat().st_size for path in digest.files_under(place))
    gone = place.with_name(f".{place.name}.{os.getpid()}.partial")
    shutil.rmtree(gone, ignore_errors=True)
    place.rename(gone)
    atomic.fsync_folder(place.parent)
    shutil.rmtree(gone)
    return size
