"""What `torch.save` writes, for import only: a ZIP archive of one pickle and raw tensors.

torch reads the archive by its directory at the end, other tools by the headers along the way. Here both must say the
same, nothing may lie between or around, and nothing is compressed, so that nothing can swell.
"""

import os
import re
import struct
import zipfile
from typing import BinaryIO

from slipway.scanning import pickles
from slipway.scanning.denied import Denied, shown
from slipway.scanning.walk import CHUNK, Opened

MAX_ENTRIES = 100_000
MAX_DIRECTORY = 32_000_000
_END = struct.Struct("<4sHHHHIIH")
_END_64 = struct.Struct("<4sQHHIIQQQQ")
_LOCATOR = struct.Struct("<4sIQI")
_LOCAL = struct.Struct("<4sHHHHHIIIHH")
_DESCRIPTORS = (0, 12, 16, 20, 24)  # bytes that may follow an entry: its sizes again, in four forms
_ENDS = (22, 22 + 20 + 56)  # the end record, without and with its 64-bit forms
_PARTS = re.compile(
    r"(?P<folder>[\w.-]+)/(data\.pkl|version|byteorder|\.format_version|\.storage_alignment|\.data/serialization_id"
    r"|data/\d{1,9})"
)


def check(file: Opened) -> None:
    """Denied unless the archive holds one harmless pickle, raw tensors, and nothing else."""
    if not file.head(4).startswith(b"PK\x03\x04"):
        pickles.check(file)
        return
    with os.fdopen(os.dup(file.handle), "rb") as stream:
        try:
            _check_end(stream, file.size)
            with zipfile.ZipFile(stream) as archive:
                _check_archive(archive, stream, file.size)
        except (zipfile.BadZipFile, NotImplementedError, ValueError, struct.error, EOFError, RuntimeError) as error:
            raise Denied(f"not an archive that can be followed ({shown(str(error))})") from None


def _check_end(stream: BinaryIO, size: int) -> None:
    """The directory ends right before the end records, where every reader looks, and fits into memory."""
    tail = os.pread(stream.fileno(), _ENDS[1], max(0, size - _ENDS[1]))
    start, _, _, _, _, length, offset, comment = _END.unpack(tail[-_END.size :])
    if start != b"PK\x05\x06" or comment:
        raise Denied("an archive with a comment, or bytes after its end")
    has_64 = tail[-_LOCATOR.size - _END.size :].startswith(b"PK\x06\x07")
    if has_64:
        length, offset = _large(tail, size, length, offset)
    if length > MAX_DIRECTORY:
        raise Denied(f"an archive with a directory of {length:,} bytes; {MAX_DIRECTORY:,} is the most")
    if offset + length != size - _ENDS[has_64]:
        raise Denied("an archive whose directory does not lie where its end says, which readers take differently")


def _large(tail: bytes, size: int, length: int, offset: int) -> tuple[int, int]:
    """Length and offset of the directory by the 64-bit end record; the short record may not say something else."""
    start, _, _, _, _, _, _, _, large_length, large_offset = _END_64.unpack_from(tail)
    _, _, at, _ = _LOCATOR.unpack_from(tail, _END_64.size)
    told = {(length, large_length), (offset, large_offset)}
    if start != b"PK\x06\x06" or at != size - _ENDS[1] or any(a not in (b, 0xFFFF_FFFF) for a, b in told):
        raise Denied("an archive whose two end records disagree")
    return large_length, large_offset


def _check_archive(archive: zipfile.ZipFile, stream: BinaryIO, size: int) -> None:
    entries = sorted(archive.infolist(), key=lambda entry: entry.header_offset)
    if len(entries) > MAX_ENTRIES:
        raise Denied(f"an archive of more than {MAX_ENTRIES:,} entries")
    names = [_folder_of(entry) for entry in entries]
    if len({entry.filename for entry in entries}) != len(entries):
        raise Denied("an archive with two entries of one name")
    if len(set(names)) != 1 or not any(entry.filename.endswith("/data.pkl") for entry in entries):
        raise Denied("not what torch.save writes: no single folder with a data.pkl")
    _check_layout(entries, stream, archive.start_dir, size)
    for entry in entries:
        _check_entry(archive, entry)


def _folder_of(entry: zipfile.ZipInfo) -> str:
    found = _PARTS.fullmatch(entry.orig_filename)
    if found is None:
        raise Denied(f"the archive holds {shown(entry.orig_filename)}, which torch.save does not write")
    if entry.flag_bits & 0x1:
        raise Denied(f"{shown(entry.filename)} is encrypted")
    if entry.compress_type != zipfile.ZIP_STORED or entry.file_size != entry.compress_size:
        raise Denied(f"{shown(entry.filename)} is compressed; torch.save never does that, archive bombs do")
    return found["folder"]


def _check_layout(entries: list[zipfile.ZipInfo], stream: BinaryIO, directory: int, size: int) -> None:
    """The headers along the way agree with the directory, and entries stand side by side from the first byte on."""
    position = 0
    for entry in entries:
        gap = entry.header_offset - position
        if gap not in (_DESCRIPTORS if position else (0,)):
            raise Denied(f"{gap:,} bytes of the archive before {shown(entry.filename)} belong to no entry")
        stream.seek(entry.header_offset)
        start, _, flags, method, _, _, _, packed, plain, name_length, extra_length = _LOCAL.unpack(
            stream.read(_LOCAL.size)
        )
        name = stream.read(name_length)
        sizes = {packed, plain} - {0xFFFF_FFFF, entry.file_size} - ({0} if flags & 0x8 else set())
        if start != b"PK\x03\x04" or name != entry.orig_filename.encode() or method or flags & 0x1 or sizes:
            raise Denied(f"the archive's directory and the header of {shown(entry.filename)} disagree")
        position = entry.header_offset + _LOCAL.size + name_length + extra_length + entry.file_size
    if directory - position not in _DESCRIPTORS:
        raise Denied(f"{directory - position:,} bytes of the archive before its directory belong to no entry")
    listed = sum(46 + len(e.orig_filename) + len(e.extra) + len(e.comment) for e in entries)
    if (rest := size - directory - listed) not in _ENDS:
        raise Denied(f"{rest:,} bytes of the archive after its directory, more than its end needs")


def _check_entry(archive: zipfile.ZipFile, entry: zipfile.ZipInfo) -> None:
    """Every byte against its checksum; the pickle is walked."""
    if entry.filename.endswith("/data.pkl"):
        if entry.file_size > pickles.MAX_BYTES:
            raise Denied(f"a pickle of {entry.file_size:,} bytes")
        pickles.walk(archive.read(entry), torch=True)
        return
    with archive.open(entry) as stream:
        while stream.read(CHUNK):
            pass
