"""Words that came from outside, made harmless: they are shown as they are and do nothing, in any renderer."""

import re
import unicodedata

_ENTITIES = {"&": "&amp;", "<": "&lt;", ">": "&gt;"}
_SIGNS = re.compile(r"[\\`*_{}\[\]#|~$!@]")
_OPENS_A_BLOCK = re.compile(r"^([-+=](?=[\s=+-]|$)|\d{1,9}(?=[.)](\s|$)))")
_IN_CODE = re.compile(r"[^A-Za-z0-9 ._/:@+=,-]")


class Markdown(str):
    """Text that is Markdown already and may stand as it is."""

    __slots__ = ()


def plain(value: object) -> str:
    """One visible line: no line breaks, no control or direction characters, nothing that UTF-8 cannot write."""
    shown = "".join(" " if c.isspace() else c if unicodedata.category(c)[0] != "C" else "\ufffd" for c in str(value))
    return " ".join(shown.split())


def markdown(value: object) -> Markdown:
    """A value as Markdown that shows exactly these letters: no HTML, link, list, table, formula or template."""
    if isinstance(value, Markdown):
        return value
    if value is None:
        raise TypeError("nothing is not shown: leave its line out")
    text = _SIGNS.sub(r"\\\g<0>", plain(value))
    text = text.replace("://", "\\://").replace("www.", "www\\.")  # else an address becomes a link
    text = "".join(_ENTITIES.get(c, c) for c in text)
    opens = _OPENS_A_BLOCK.match(text)
    if opens and opens[0].isdigit():
        text = f"{opens[0]}\\{text[opens.end() :]}"
    return Markdown(f"\\{text}" if opens and not opens[0].isdigit() else text)


def code(value: object) -> Markdown:
    """A path or digest, set as code."""
    return Markdown(f"`{_IN_CODE.sub('?', plain(value))}`")
