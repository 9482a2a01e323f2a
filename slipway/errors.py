"""Every way Slipway ends badly, on purpose.

SlipwayError
├─ StageError    exit 1   wrong input or a bug: running again will not help
├─ UsageError    exit 2   the command or a configuration file is wrong
├─ Refused       exit 3   a gate said no: the pipeline is healthy, the data or model is not good enough
└─ Transient     exit 75  the world hiccuped: running again may help (75 is EX_TEMPFAIL)

A message is one line with three parts: what (with the values), where, and what to do.
"""

import errno
import shutil
from collections.abc import Iterator
from pathlib import Path


class SlipwayError(Exception):
    """The root of everything Slipway raises on purpose."""

    exit_code = 1


class StageError(SlipwayError):
    """Wrong input or a bug: running again will not help."""

    exit_code = 1


class UsageError(SlipwayError):
    """The command line or a configuration file is wrong."""

    exit_code = 2


class Refused(SlipwayError):
    """A gate said no: the pipeline is healthy, the data or the model is not good enough."""

    exit_code = 3


class Transient(SlipwayError):
    """The world hiccuped: the same thing may work later."""

    exit_code = 75


KINDS: tuple[type[SlipwayError], ...] = (StageError, UsageError, Refused, Transient)


def of_exit_code(code: int, message: str) -> SlipwayError:
    """The typed error that a child process meant by its exit code."""
    kind = next((k for k in KINDS if k.exit_code == code), StageError)
    return kind(message)


def _causes(error: BaseException) -> Iterator[BaseException]:
    seen: BaseException | None = error
    while seen is not None:
        yield seen
        seen = seen.__cause__ or seen.__context__


def size_text(count: float) -> str:
    """A number of bytes as people read it."""
    for unit in ("B", "kB", "MB", "GB"):
        if count < 1000:
            return f"{count:.0f} {unit}" if unit == "B" else f"{count:.1f} {unit}"
        count /= 1000
    return f"{count:.1f} TB"


def of_storage(error: BaseException, where: Path, written: int) -> SlipwayError | None:
    """A clear error for a full, read-only or forbidden disk; None when the disk is not to blame.

    Libraries wrap the operating system's error in their own (safetensors, torch), hence the texts.
    """
    for cause in _causes(error):
        code, text = getattr(cause, "errno", None), str(cause)
        if code in (errno.ENOSPC, errno.EDQUOT) or "No space left on device" in text or "os error 28" in text:
            free = shutil.disk_usage(where if where.exists() else where.parent).free
            return StageError(
                f"disk full writing {where}: need more than {size_text(written)}, have {size_text(free)} free; "
                f"free some space (`slipway clean`) or move the workspace, then run again"
            )
        if code == errno.EROFS or "Read-only file system" in text:
            return StageError(
                f"{getattr(cause, 'filename', None) or where} is on a read-only file system; "
                f"remount it writable or run in a folder you can write to"
            )
        if isinstance(cause, PermissionError):
            return StageError(
                f"no permission for {cause.filename or where}; "
                f"change its owner or mode, or run as a user who may write there"
            )
    return None
