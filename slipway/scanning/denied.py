"""The one way a reader says no."""

from slipway import strict

SHOWN = 80


class Denied(Exception):
    """Why a file may not pass: one line, in words a person can act on."""


def shown(text: str) -> str:
    """A name out of a file that nobody trusts, fit for a terminal: cut, quoted, nothing unprintable."""
    cut = text if len(text) <= SHOWN else text[: SHOWN - 1] + "…"
    return repr(cut.encode("utf-8", "backslashreplace").decode())


def decoded(data: bytes) -> str:
    """UTF-8 text, or Denied naming the byte."""
    try:
        return data.decode("utf-8")
    except UnicodeDecodeError as error:
        raise Denied(f"not UTF-8 text (byte {error.start:,})") from None


def too_deep(value: object) -> bool:
    """Whether a JSON value is nested deeper than any reader here goes (level by level, never by recursion)."""
    level = [value]
    for _ in range(strict.MAX_DEPTH):
        level = [inner for outer in level if isinstance(outer, dict | list) for inner in _children(outer)]
        if not level:
            return False
    return True


def _children(value: dict[str, object] | list[object]) -> list[object]:
    return list(value.values()) if isinstance(value, dict) else value
