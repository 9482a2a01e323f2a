"""Every entry below a folder, and its bytes, each opened once and never through a link.

Names are resolved against open folders (openat), so that nothing swapped in meanwhile leads out of the folder. What is
judged is what was opened: one pass gives the reader the bytes and takes their SHA-256.
"""

import hashlib
import os
import stat
import unicodedata
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import islice
from pathlib import Path

from slipway.scanning.denied import Denied

MAX_ENTRIES = 10_000  # in one folder
MAX_TOTAL = 20_000  # in all folders together
MAX_DEPTH = 8
MAX_NAME_BYTES = 200
CHUNK = 1 << 20

_FOLDER = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
_FILE = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC  # a pipe must not hold us up
_KINDS = (
    (stat.S_ISLNK, "symbolic link", "a symbolic link can lead anywhere, and elsewhere tomorrow; put the file itself here"),
    (stat.S_ISFIFO, "pipe", "a named pipe is no file"),
    (stat.S_ISSOCK, "socket", "a socket is no file"),
    (stat.S_ISBLK, "device", "a block device is no file"),
    (stat.S_ISCHR, "device", "a character device is no file"),
)  # fmt: skip


@dataclass(frozen=True)
class Entry:
    """Something in the folder, seen but not opened; `fault` says why it is refused unread."""

    path: str  # relative to the folder, fit to be shown
    name: str
    kind: str  # file | folder | symbolic link | pipe | …
    status: os.stat_result
    folder: int  # the open folder it stands in
    fault: str | None


class Opened:
    """A file being read once, front to back; `sha256` is of the very bytes that were handed out."""

    def __init__(self, handle: int) -> None:
        self.handle = handle
        self.size = os.fstat(handle).st_size
        self.offset = 0
        self._sha256 = hashlib.sha256()

    def into(self, view: memoryview) -> None:
        """Fill a buffer with the next bytes."""
        got = 0
        while got < len(view):
            if not (count := os.preadv(self.handle, [view[got:]], self.offset)):
                raise Denied(f"was cut to {self.offset:,} bytes while it was read")
            got, self.offset = got + count, self.offset + count
        self._sha256.update(view)

    def take(self, count: int) -> bytes:
        buffer = bytearray(count)
        self.into(memoryview(buffer))
        return bytes(buffer)

    def whole(self, limit: int) -> bytes:
        """All of a file that has to fit into memory."""
        if self.size > limit:
            raise Denied(f"{self.size:,} bytes, more than the {limit:,} such a file may have")
        return self.take(self.size)

    def head(self, count: int) -> bytes:
        """The first bytes, without reading on."""
        return os.pread(self.handle, count, 0)

    def sha256(self) -> str:
        """The digest of the whole file; what no reader asked for is read now."""
        buffer = bytearray(CHUNK)
        while self.offset < self.size:
            self.into(memoryview(buffer)[: self.size - self.offset])
        return self._sha256.hexdigest()


@contextmanager
def opened(name: str, folder: int, expected: os.stat_result) -> Iterator[Opened]:
    """A plain file of an open folder, the same one that was seen there, unchanged until it was read."""
    try:
        handle = os.open(name, _FILE, dir_fd=folder)
    except OSError as error:
        raise Denied(f"cannot be opened ({error.strerror})") from None
    try:
        if not stat.S_ISREG(expected.st_mode) or _mark(os.fstat(handle)) != _mark(expected):
            raise Denied("was swapped for another file while it was scanned")
        yield Opened(handle)
        if _mark(os.fstat(handle)) != _mark(expected):
            raise Denied("was changed while it was read")
    except OSError as error:
        raise Denied(f"cannot be read ({error.strerror})") from None
    finally:
        os.close(handle)


def _mark(status: os.stat_result) -> tuple[int, ...]:
    """What changes when a file does; its owner can set the time of change back (mtime), nobody that of the entry (ctime)."""
    return status.st_dev, status.st_ino, status.st_mode, status.st_size, status.st_mtime_ns, status.st_ctime_ns


@contextmanager
def open_folder(path: Path | str, inside: int | None = None) -> Iterator[int]:
    handle = os.open(path, _FOLDER, dir_fd=inside)
    try:
        yield handle
    finally:
        os.close(handle)


def entries(folder: int) -> Iterator[Entry]:
    """Everything below an open folder, in one order everywhere; what lies beyond the most that is looked at is refused."""
    for count, entry in enumerate(_below(folder)):
        if count == MAX_TOTAL:
            yield _refused(folder, "", f"more than {MAX_TOTAL:,} files and folders")
            return
        yield entry


def _below(folder: int, prefix: str = "", depth: int = 0) -> Iterator[Entry]:
    """Everything below an open folder; a folder that holds nothing is an entry too."""
    try:
        with os.scandir(folder) as listing:
            names = sorted(entry.name for entry in islice(listing, MAX_ENTRIES + 1))
    except OSError as error:
        yield _refused(folder, prefix, f"cannot be listed ({error.strerror})")
        return
    if len(names) > MAX_ENTRIES:
        yield _refused(folder, prefix, f"more than {MAX_ENTRIES:,} files in one folder")
        return
    alike = Counter(_folded(name) for name in names)
    for name in names:
        try:
            entry = seen(name, folder, prefix, alike[_folded(name)] > 1)
        except OSError as error:  # it was there a moment ago
            yield _refused(folder, prefix + printable(name), f"cannot be looked at ({error.strerror})")
            continue
        yield entry
        if entry.kind == "folder" and entry.fault is None:
            yield from _inside(entry, depth + 1)


def _inside(entry: Entry, depth: int) -> Iterator[Entry]:
    if depth > MAX_DEPTH:
        yield _refused(entry.folder, entry.path, f"nested deeper than {MAX_DEPTH} folders")
        return
    try:
        with open_folder(entry.name, entry.folder) as inner:
            found = False
            for below in _below(inner, entry.path + "/", depth):
                found = True
                yield below
            if not found:
                yield _refused(inner, entry.path, "an empty folder, which no manifest lists; remove it")
    except OSError as error:
        yield _refused(entry.folder, entry.path, f"cannot be opened ({error.strerror})")


def _refused(folder: int, path: str, fault: str) -> Entry:
    return Entry(path or ".", path, "folder", os.fstat(folder), folder, fault)


def seen(name: str, folder: int, prefix: str = "", collides: bool = False) -> Entry:
    """One entry of an open folder, looked at and not opened."""
    status = os.stat(name, dir_fd=folder, follow_symlinks=False)
    path = prefix + printable(name)
    if stat.S_ISDIR(status.st_mode):
        kind, fault = "folder", None
    elif stat.S_ISREG(status.st_mode):
        kind, fault = "file", None
    else:
        kind, fault = next((kind, why) for is_kind, kind, why in _KINDS if is_kind(status.st_mode))
    fault = fault or _name_fault(name) or _mode_fault(status)
    if collides:
        fault = fault or "another name here differs only in case or accents; some file systems hold just one of them"
    return Entry(path, name, kind, status, folder, fault)


def printable(name: str) -> str:
    """A file's name, fit for a terminal and for JSON."""
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in name)


def _folded(name: str) -> str:
    return unicodedata.normalize("NFKC", name).casefold()


def _name_fault(name: str) -> str | None:
    if not name.isprintable():  # control characters, direction marks, bytes that are not UTF-8
        return "its name holds characters that cannot be shown"
    if name == ".gitattributes":
        return None  # every hub repository has one; whether it may pass depends on the mode
    if name.startswith("."):
        return "hidden: manifests and signatures often overlook such names; remove it"
    if len(name.encode()) > MAX_NAME_BYTES:
        return f"its name is longer than {MAX_NAME_BYTES} bytes"
    if (
        any(c in '\\:*?"<>|%' for c in name)
        or name != name.strip()
        or name.startswith(("-", "~"))
        or name.endswith(".")
    ):
        return "its name means something else to a shell, a URL or another file system; rename it"
    return None


def _mode_fault(status: os.stat_result) -> str | None:
    mode = stat.S_IMODE(status.st_mode)
    is_file = stat.S_ISREG(status.st_mode)
    if mode & (stat.S_ISUID | stat.S_ISVTX) or (is_file and mode & stat.S_ISGID):
        return f"its mode {mode:04o} lends rights to whoever runs it; chmod 644"
    if is_file and mode & 0o111:
        return f"executable (mode {mode:04o}), and nothing in a model is to be run; chmod 644"
    if mode & stat.S_IWOTH:
        return f"anyone on the machine may write it (mode {mode:04o}); chmod o-w"
    return None
