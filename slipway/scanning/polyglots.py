"""One file, one format: a file that a second reader would take for an archive holds what nobody judged.

tar is told by its first 512 bytes, ZIP by its last 64 kB, so each can be laid over a format that is told by its beginning.
"""

import os
import tarfile

from slipway.scanning.denied import Denied
from slipway.scanning.walk import Opened

_ZIP_END = b"PK\x05\x06"
_ZIP_TAIL = 22 + 0xFFFF  # an end record and the longest comment after it


def check(file: Opened) -> None:
    """Denied when a tar reader takes the file for a tar, or a ZIP reader finds an archive that the beginning denies."""
    if _is_tar(file.head(tarfile.BLOCKSIZE)):
        raise Denied("a tar archive too: which content is read depends on the reader")
    announced = 1 if file.head(4) == b"PK\x03\x04" else 0
    tail = os.pread(file.handle, _ZIP_TAIL, max(0, file.size - _ZIP_TAIL))
    if tail.count(_ZIP_END) > announced:
        another = "a second ZIP archive in its end" if announced else "a ZIP archive too"
        raise Denied(f"{another}: which content is read depends on the reader")


def _is_tar(head: bytes) -> bool:
    """The oldest tar has no magic, only a checksum: ask as Python's own reader, and torch's, does."""
    if head[257:262] == b"ustar":
        return True
    try:
        tarfile.TarInfo.frombuf(head, tarfile.ENCODING, "surrogateescape")
    except (tarfile.HeaderError, ValueError):
        return False
    return True
