"""The patterns that `matches` takes in a policy: few enough forms that a text which fits can be written down.

So whether a rule with a pattern can pass is tried, not believed, and `MIT` cannot come to mean `MIT-but-evil`: a pattern is
about the whole text, from ^ to $, and whatever could change that (an alternative outside of brackets, a flag, a $ that
stands for a dollar) is refused.
"""

import re
from collections.abc import Sequence
from dataclasses import dataclass

LONGEST = 200  # characters of a text that fits
DEEPEST = 20  # groups in one another
_PIECE = re.compile(
    r"(?P<set>\[\^?(?:\\[^\n]|[^\[\]\\&~\n])+\]|\\[dDsSwW]|\.)"
    r"|(?P<literal>\\[^\w\s]|[^\\\[\](){}|*+?^$\n])"
    r"|(?P<open>\((?:\?:)?(?!\?))"
    r"|(?P<close>\))"
    r"|(?P<or>\|)",
    re.ASCII,
)
_REPEATED = re.compile(r"(?:(?P<sign>[*+?])|\{(?P<least>\d{1,3})(?P<more>,(?P<most>\d{1,3})?)?\})\??", re.ASCII)
_ORDINARY = "a0A-._ /xyzXYZ" + "".join(map(chr, range(33, 127)))


class Unread(ValueError):
    """What about a pattern is not read here."""


@dataclass(frozen=True)
class Pattern:
    """A pattern that is sound, and texts that fit it."""

    body: str  # what stands between ^ and $

    def fitting(self, repeats: Sequence[int] = ()) -> list[str]:
        """A short text that fits, and one for each number of times that what may be repeated is."""
        found = [_Reader(self.body, times).whole() for times in (0, *repeats)]
        return list(dict.fromkeys(text for text in found if len(text) <= LONGEST))


def read(pattern: str) -> Pattern:
    """A pattern about a whole text, in forms that are read here."""
    if not (pattern.startswith("^") and pattern.endswith("$")):
        raise Unread("would be found anywhere; begin it with ^ and end it with $")
    found = Pattern(pattern[1:-1])
    found.fitting()
    return found


class _Reader:
    """Reads a pattern from left to right and writes down a text that fits."""

    def __init__(self, body: str, times: int):
        self._body, self._times, self._at, self._depth = body, times, 0, 0

    def whole(self) -> str:
        text, alternatives = self._alternatives()
        if self._at < len(self._body):
            raise self._unread()
        if alternatives > 1:
            raise Unread("has an alternative that ^ or $ does not hold for; write ^(one|other)$")
        return text

    def _alternatives(self) -> tuple[str, int]:
        """The first of the alternatives, and how many there are."""
        first, count = self._sequence(), 1
        while self._body[self._at : self._at + 1] == "|":
            self._at += 1
            self._sequence()
            count += 1
        return first, count

    def _sequence(self) -> str:
        found = ""
        while self._at < len(self._body) and self._body[self._at] not in "|)":
            found += self._piece()
        return found

    def _piece(self) -> str:
        piece = _PIECE.match(self._body, self._at)
        if piece is None:
            raise self._unread()
        self._at = piece.end()
        if piece.lastgroup == "open":
            text = self._group()
        else:
            text = _one_of(piece.group()) if piece.lastgroup == "set" else piece.group()[-1]
        return (text * min(self._count(), LONGEST + 1))[: LONGEST + 1]

    def _group(self) -> str:
        self._depth += 1
        if self._depth > DEEPEST:
            raise Unread(f"has more than {DEEPEST} groups in one another")
        text, _ = self._alternatives()
        self._depth -= 1
        if self._body[self._at : self._at + 1] != ")":
            raise self._unread()
        self._at += 1
        return text

    def _count(self) -> int:
        """How often what stands before is written: as often as asked, and as it may."""
        found = _REPEATED.match(self._body, self._at)
        if found is None:
            return 1
        self._at = found.end()
        if found["sign"]:
            least, most = {"*": (0, LONGEST), "+": (1, LONGEST), "?": (0, 1)}[found["sign"]]
        else:
            least = int(found["least"])
            most = int(found["most"] or LONGEST) if found["more"] else least
        return max(least, min(self._times, most))

    def _unread(self) -> Unread:
        return Unread(
            f"has {self._body[self._at : self._at + 3]!r} where policies read letters, \\d \\s \\w, [sets], (groups|of them), "
            "and * + ? {2,3} alone"
        )


def _one_of(characters: str) -> str:
    """One character of a set, an ordinary one where there is."""
    if "--" in characters or "||" in characters:
        raise Unread(f"has {characters}, which means one thing here and another there; write each sign once")
    try:
        kind = re.compile(characters, re.ASCII)
    except re.error as error:
        raise Unread(f"has {characters}, which is no set ({error.msg})") from None
    found: str | None = next((one for one in (*_ORDINARY, *characters) if kind.fullmatch(one)), None)
    if found is None:
        raise Unread(f"has {characters}, a set without an ordinary character")
    return found
