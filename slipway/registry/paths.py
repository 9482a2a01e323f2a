"""Which names of files may be followed. Default deny: everything else could lead out of a folder on some system."""

import re
from pathlib import Path

from slipway.errors import UsageError

_PART = re.compile(r"(?!\.{1,2}$)[A-Za-z0-9_.+@=,() -]{1,200}")


def is_plain(path: str) -> bool:
    """Whether a relative path has plain parts alone: no `..`, link-like, encoded, absolute, Windows or hidden spelling."""
    return len(path) <= 1000 and all(_PART.fullmatch(part) for part in path.split("/"))


def given(path: Path, what: str) -> Path:
    """A path from the command line, once it can be a path at all."""
    text = str(path)
    if any(not character.isprintable() for character in text):
        raise UsageError(f"{what} {ascii(text)[1:-1][:80]} holds a character that no path here may have; name another")
    return path


def folder(text: str) -> Path | None:
    """The folder that somebody names; None where it is none, or no path could be."""
    try:
        return Path(text) if text.isprintable() and Path(text).is_dir() else None
    except OSError:  # too long, or not to be looked into
        return None
