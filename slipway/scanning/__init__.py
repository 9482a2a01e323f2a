"""The artifact scan: every file of a model, by default refused.

`deploy` allows safetensors and UTF-8 text that names no code. `import` also allows pickles that only rebuild data.
Nothing is executed or unpickled, no link is followed, nothing outside the folder is read.
"""

import stat
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from pathlib import Path

from slipway import errors
from slipway.artifacts import Scan, ScannedFile
from slipway.scanning import kinds, opinions, polyglots, walk
from slipway.scanning.denied import Denied
from slipway.scanning.kinds import Kind, Mode
from slipway.scanning.walk import Entry, Opened

_REFUSED_READ = 1 << 30  # a refused file is still named by its digest up to this size; beyond, nobody waits for it

_FAILURES = (ValueError, ArithmeticError, LookupError, RecursionError, MemoryError)


def scan(path: Path, mode: Mode = "deploy", ask_others: bool = True) -> Scan:
    """Judge one file or a whole folder; other scanners that happen to be installed may add their opinion."""
    with _entries(path) as entries:
        files = [_judged(entry, mode) for entry in entries if entry.fault or entry.kind == "file"]
    place = path if path.is_dir() else path.parent
    plain = [place / file.path for file in files if file.sha256]
    return _as_scan(files or [_empty()], mode, opinions.gather(plain) if ask_others else {})


def scan_folders(folders: Mapping[str, Path], mode: Mode = "deploy") -> Scan:
    """Judge several folders as one, each file under its folder's name: a base and its adapter, say.

    By bytes alone: what other scanners think depends on the machine, and this is evidence.
    """
    scans = {name: scan(path, mode, ask_others=False) for name, path in sorted(folders.items())}
    files = [f.model_copy(update={"path": f"{name}/{f.path}"}) for name, found in scans.items() for f in found.files]
    return _as_scan(files, mode, {})


def demand(path: Path, name: str, mode: Mode = "deploy") -> Scan:
    """The scan of a folder that passed; Refused, with the first few reasons, otherwise. `name` is what people call it."""
    found = scan(path, mode, ask_others=False)
    if not found.passed:
        reasons = "; ".join(f"{file.path}: {file.reason}" for file in found.refused[:3])
        more = f"; and {len(found.refused) - 3} more" if len(found.refused) > 3 else ""
        raise errors.Refused(f"{name} is refused by the artifact scan: {reasons}{more} (`slipway scan` shows all)")
    return found


def _as_scan(files: list[ScannedFile], mode: Mode, said: dict[str, str]) -> Scan:
    ordered = sorted(files, key=lambda file: file.path)
    refused = [file for file in ordered if not file.allowed]
    return Scan(passed=not refused, mode=mode, files=ordered, refused=refused, opinions=said)


def _empty() -> ScannedFile:
    return ScannedFile(path=".", format="folder", bytes=0, sha256="", allowed=False, reason="an empty folder")


@contextmanager
def _entries(path: Path) -> Iterator[Iterator[Entry]]:
    """What lies at a path: everything below a folder, or the one file (or link, or pipe) itself."""
    with ExitStack() as stack:
        try:
            is_folder = stat.S_ISDIR(path.lstat().st_mode)
            folder = stack.enter_context(walk.open_folder(path if is_folder else path.parent.resolve()))
            found = walk.entries(folder) if is_folder else iter([walk.seen(path.name, folder)])
        except (OSError, ValueError) as error:  # a ValueError: a name that holds a NUL
            raise _not_there(path, error) from None
        yield found


def _not_there(path: Path, error: OSError | ValueError) -> errors.UsageError:
    name = walk.printable(str(path))
    if isinstance(error, FileNotFoundError):
        return errors.UsageError(f"{name} does not exist; name a model's file or folder")
    why = error.strerror if isinstance(error, OSError) else error
    return errors.UsageError(f"{name} cannot be read ({why}); name a model's file or folder that can be")


def _judged(entry: Entry, mode: Mode) -> ScannedFile:
    kind = kinds.of_name(entry.path, mode) if entry.kind == "file" else Kind(entry.kind, None, "")
    fault, sha256 = _read(entry, kind) if entry.kind == "file" else (entry.fault, "")
    return ScannedFile(
        path=entry.path,
        format=kind.format,
        bytes=entry.status.st_size if entry.kind == "file" else 0,
        sha256=sha256,
        allowed=fault is None,
        reason=fault or kind.reason,
    )


def _read(entry: Entry, kind: Kind) -> tuple[str | None, str]:
    """What is wrong with a file, if anything, and the SHA-256 of the bytes that were judged."""
    try:
        with walk.opened(entry.name, entry.folder, entry.status) as file:
            fault = entry.fault or _fault(file, kind, entry.path)
            return fault, file.sha256() if fault is None or file.size <= _REFUSED_READ else ""
    except Denied as error:
        return entry.fault or str(error), ""


def _fault(file: Opened, kind: Kind, path: str) -> str | None:
    if file.size == 0:
        return "empty"
    content = kinds.of_content(file.head(kinds.HEAD_BYTES))
    if kind.check is None:
        return f"{kind.reason}; its content is {content}" if content else kind.reason
    try:
        kind.check(file, path)
        polyglots.check(file)
    except Denied as error:
        return f"{content}, whatever its name says: {error}" if content and kind.format != "pickle" else str(error)
    except _FAILURES as error:  # a reader that fails has not allowed the file
        return f"cannot be judged ({type(error).__name__})"
    return None
