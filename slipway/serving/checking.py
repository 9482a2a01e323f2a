"""Is this an answer? What an engine hands out is looked at piece by piece before a client sees it. Pure."""

from dataclasses import dataclass, field
from math import isfinite

from slipway.generating.jobs import Finish, Piece, Sampling
from slipway.serving import problems
from slipway.serving.problems import Problem

SILENT = 4  # tokens may make no text: the end-of-text token, or the bytes of one character that was cut


@dataclass(frozen=True)
class Answer:
    """A whole answer."""

    text: str
    tokens: int
    finish: Finish


@dataclass
class Check:
    """Follows one answer; raises 503 at the first piece that no sound engine makes."""

    sampling: Sampling
    answers: int = 1  # that may have been made for this one: their tokens count too
    tokens: int = 0
    finish: Finish | None = None
    texts: list[str] = field(default_factory=list)

    def add(self, piece: Piece) -> None:
        if self.finish is not None:
            raise garbage("went on after its end")
        if type(piece.tokens) is not int or piece.tokens < 0:
            raise garbage("has a number of tokens that is no number")
        if not isinstance(piece.queued_seconds, int | float) or not isfinite(piece.queued_seconds):
            raise garbage("has a time that is not finite")
        if piece.finish not in (None, "stop", "length"):
            raise garbage("ended in a way that there is not")
        self._text(piece.text)
        self.tokens += piece.tokens
        if self.tokens > self.sampling.max_tokens * self.answers:
            raise garbage(f"has more than the {self.sampling.max_tokens} tokens that were asked for")
        self.finish = piece.finish
        if self.finish is not None:
            self._end()

    def end(self) -> Answer:
        """The answer, once the engine has no more pieces."""
        if self.finish is None:
            raise garbage("was cut: it has no end")
        return Answer("".join(self.texts), self.tokens, self.finish)

    def _text(self, text: object) -> None:
        if not isinstance(text, str):
            raise garbage("is no text")
        try:
            text.encode()
        except UnicodeEncodeError:
            raise garbage("is no valid UTF-8") from None
        if "\0" in text:
            raise garbage("holds NUL, which no text does")
        self.texts.append(text)

    def _end(self) -> None:
        """A model may say nothing at all, or meet a stop sequence at once. Tokens that make no text are garbage."""
        if any(self.texts):
            if not self.tokens:
                raise garbage("has a text and no tokens")
        elif (self.tokens > SILENT * self.answers and not self.sampling.stop) or (
            self.finish == "length" and not self.tokens
        ):
            raise garbage(f"is empty after {self.tokens} tokens")


def garbage(what: str) -> Problem:
    return problems.lost(f"the model's answer {what}; it was not sent", "bad_answer")
