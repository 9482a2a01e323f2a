"""Tokens to text while an answer grows: never half a character, never a part of a stop string."""

from collections.abc import Callable, Sequence

_BROKEN = "\N{REPLACEMENT CHARACTER}"  # what a decoder writes for bytes that are no whole character yet
_PENDING = 3  # bytes of a character that may be there before its last one
_CONTEXT, _WINDOW = (
    6,
    32,
)  # tokens decoded again with the new ones: the space before a word depends on what is before it


class AnswerText:
    """What of an answer may be shown so far."""

    def __init__(self, decode: Callable[[list[int]], str], stop: Sequence[str]) -> None:
        self._decode, self._stop = decode, [text for text in stop if text]
        self._start = self._known = 0  # the first token of the window, and how much of the window's text is known
        self._held = ""  # might yet become a stop string
        self.stopped = False  # a stop string was found: what follows it is not the answer's

    def grown(self, tokens: list[int]) -> str:
        """The text that is new and certain, given all of the answer's tokens."""
        text = self._decode(tokens[self._start :])
        broken = len(text) - len(text.rstrip(_BROKEN))
        end = len(text) - min(broken, _PENDING)  # these may be a character's first bytes
        new, self._known = text[self._known : end], max(end, self._known)
        if not broken and len(tokens) - self._start > _WINDOW:
            self._start = len(tokens) - _CONTEXT
            self._known = len(self._decode(tokens[self._start :]))
        return self._certain(new)

    def end(self) -> str:
        """What is left when the answer ends; bytes that never became a character are left out."""
        left, self._held = self._held, ""
        return left

    def _certain(self, new: str) -> str:
        """Cut at a stop string; keep back an end that may be the beginning of one."""
        text = self._held + new
        found = [at for stop in self._stop if (at := text.find(stop)) >= 0]
        if found:
            self.stopped, self._held = True, ""
            return text[: min(found)]
        keep = max((_beginning(text, stop) for stop in self._stop), default=0)
        self._held = text[len(text) - keep :]
        return text[: len(text) - keep]


def _beginning(text: str, stop: str) -> int:
    """How many of the text's last characters are the first of a stop string."""
    most = min(len(text), len(stop) - 1)
    return next((size for size in range(most, 0, -1) if text.endswith(stop[:size])), 0)
