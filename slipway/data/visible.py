"""A text as its reader sees it: what looks the same is the same, and nothing hides in between."""

import re
import unicodedata

_INVISIBLE = re.compile("[\u00ad\u034f\u061c\u180e\u200b-\u200f\u202a-\u202e\u2060-\u2069\ufe00-\ufe0f\ufeff]")


def visible(text: str) -> str:
    """One form for signs of any width and style (NFKC), without invisible ones."""
    return text if text.isascii() else unicodedata.normalize("NFKC", _INVISIBLE.sub("", text))
