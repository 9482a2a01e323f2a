"""CEL as policies use it: one language less a few ways to say yes by accident.

The library compiles and evaluates. What it does not tell (which names are read, which clause decided, how far from the
bound) comes from a small tokenizer, and the engine is given its tokens, never the text: what was read is what runs.
Left out of the language, each for a reason that its message gives: `has`, indexing, division by anything but a number,
conversions, lists of numbers, remarks, texts in three quotes, and literals that could overflow to infinity.
"""

import itertools
import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property, lru_cache
from typing import Any

import cel

from slipway.governance import patterns, vocabulary
from slipway.governance.patterns import Pattern

Context = Mapping[str, Any]

LONGEST = 2_000  # characters; the deepest nesting the parser takes is 96
LITERALS = (
    100,
    100,
    20,
)  # numbers and texts in an expression whose loops are so deep: no evaluation takes a millisecond
PRODUCTS = 4  # of factors below 1e44 each, so that no result overflows
SMALLEST, LARGEST = 1e-12, 1e15
COMPARISONS = ("<=", ">=", "==", "!=", "<", ">", "in")
MACROS = ("all", "exists", "exists_one", "filter")
METHODS = ("contains", "startsWith", "endsWith", "matches", "size")
SHOWN = {">=": "≥", "<=": "≤", "==": "=", "!=": "≠"}
_TOKEN = re.compile(
    r"(?P<unread>(?:[bB][rR]?|[rR][bB])['\"]|[rR]?(?:'''|\"\"\")|//)"
    r"|(?P<space>[ \t\r\n]+)"
    r"|(?P<text>[rR](?:'[^'\n]*'|\"[^\"\n]*\")|'(?:[^'\\\n]|\\.)*'|\"(?:[^\"\\\n]|\\.)*\")"
    r"|(?P<number>(?:\d+\.\d+|\.\d+|\d+)(?:[eE][+-]?\d+)?)"
    r"|(?P<word>[A-Za-z_]\w*)"
    r"|(?P<sign>&&|\|\||[<>=!]=|[-+*/%<>!?:.,()\[\]])",
    re.ASCII,
)


class Fault(ValueError):
    """What is wrong with an expression, and at which character."""

    def __init__(self, message: str, offset: int = 0):
        super().__init__(message)
        self.offset = offset


class CannotTell(Exception):
    """An expression that has no yes or no on these values."""


@dataclass(frozen=True)
class Token:
    kind: str  # text | number | word | sign | path | call
    text: str
    start: int


@dataclass(frozen=True)
class Clause:
    """One part of a conjunction. With a comparison it has two sides, and so a margin."""

    text: str
    paths: tuple[str, ...]
    left: str | None = None
    sign: str | None = None
    right: str | None = None

    @cached_property
    def names(self) -> tuple[str, ...]:
        return _names(self.paths)

    @cached_property
    def facing_bound(self) -> "Clause":
        """The same clause with what is measured on the left."""
        if self.left is None or self.right is None or self.sign is None or not _is_bound(self.left, self.right):
            return self
        return (
            Clause(self.text, self.paths, self.right, _MIRROR[self.sign], self.left) if self.sign in _MIRROR else self
        )


_MIRROR = {"<": ">", ">": "<", "<=": ">=", ">=": "<=", "==": "==", "!=": "!="}


def _is_bound(left: str, right: str) -> bool:
    """Whether the left side is a plain number, and the right side is not."""
    return is_number(left) and not is_number(right)


def is_number(text: str) -> bool:
    return re.fullmatch(r"-?\s*[\d.]+(?:[eE][+-]?\d+)?", text) is not None


@dataclass(frozen=True)
class Expression:
    """A rule's expression, read once."""

    text: str
    tokens: tuple[Token, ...]

    @cached_property
    def paths(self) -> tuple[str, ...]:
        """Every dotted path that it reads, in order."""
        return tuple(dict.fromkeys(token.text for token in self.tokens if token.kind == "path"))

    @cached_property
    def names(self) -> tuple[str, ...]:
        """The names of the vocabulary that it reads: `tuned.loss` for `tuned.loss.low`."""
        return _names(self.paths)

    @cached_property
    def calls(self) -> frozenset[str]:
        return frozenset(token.text for token in self.tokens if token.kind == "call")

    @cached_property
    def numbers(self) -> tuple[float, ...]:
        return tuple(dict.fromkeys(float(token.text) for token in self.tokens if token.kind == "number"))

    @cached_property
    def texts(self) -> tuple[str, ...]:
        """The texts that something is compared with."""
        asked = {token.start for token in _asked_of(self.tokens, "matches")}
        found = [token for token in self.tokens if token.kind == "text" and token.start not in asked]
        return tuple(dict.fromkeys(str(evaluate(token.text, {})) for token in found))

    @cached_property
    def patterns(self) -> tuple[Pattern, ...]:
        return tuple(patterns.read(str(evaluate(token.text, {}))) for token in _asked_of(self.tokens, "matches"))

    @cached_property
    def universal(self) -> tuple[str, ...]:
        """The lists of which all() asks something: an empty one has it."""
        asked = itertools.pairwise(self.tokens)
        return tuple(
            subject.text for subject, call in asked if (subject.kind, call.kind, call.text) == ("path", "call", "all")
        )

    @cached_property
    def clauses(self) -> tuple[Clause, ...]:
        """The parts of its conjunction; one, where it is none."""
        return tuple(_clause(self.text, part) for part in _conjuncts(self.tokens))


def _asked_of(tokens: Sequence[Token], call: str) -> list[Token]:
    """What stands first between the parentheses of a call, each time that it is made."""
    return [first for made, first in zip(tokens, tokens[2:], strict=False) if (made.kind, made.text) == ("call", call)]


def _names(paths: tuple[str, ...]) -> tuple[str, ...]:
    return tuple(dict.fromkeys(vocabulary.split(path)[0] for path in paths))


@lru_cache(maxsize=4096)
def parse(text: str) -> Expression:
    """An expression that compiles, reads known names and says nothing dangerous; else a Fault."""
    if len(text) > LONGEST:
        raise Fault(f"it has {len(text)} characters, more than {LONGEST}; make two rules of it")
    tokens = _paths(_tokens(text))
    _refuse_other_names(tokens, _compiled(text))
    _refuse_traps(tokens)
    for token in tokens:
        if token.kind == "path":
            try:
                vocabulary.split(token.text)
            except ValueError as error:
                raise Fault(str(error), token.start) from None
    return Expression(text, tuple(tokens))


def context_of(values: Mapping[str, Any]) -> Context:
    """Names with dots become the nested maps that CEL reads."""
    context: dict[str, Any] = {}
    for name, value in values.items():
        *folders, last = name.split(".")
        place = context
        for folder in folders:
            place = place.setdefault(folder, {})
        place[last] = value
    return context


def holds(text: str, context: Context) -> bool:
    """Yes or no, and nothing else."""
    answer = evaluate(text, context)
    if not isinstance(answer, bool):
        raise CannotTell(f"`{text}` gives {answer!r:.80}, neither yes nor no")
    return answer


def evaluate(text: str, context: Context) -> Any:
    """The value of an expression; CannotTell where it has none, or one that is no number a measurement can give."""
    try:
        value = _compiled(text).execute(dict(context))
    except KeyError as error:
        raise CannotTell(f"{error.args[0]} was not measured") from None
    except (ArithmeticError, LookupError, RuntimeError, TypeError, ValueError) as error:
        raise CannotTell(f"`{text}` cannot be evaluated: {_first_sentence(error)}") from None
    if isinstance(value, float) and not math.isfinite(value):
        raise CannotTell(f"`{text}` gives {value}, which is no measurement")
    return value


@lru_cache(maxsize=4096)
def _compiled(text: str) -> cel.Program:
    """The program of the tokens that were read, one space between each: the engine cannot take them for others."""
    tokens = _tokens(text)
    try:
        return cel.compile(" ".join(token.text for token in tokens))
    except ValueError as error:
        place = re.search(r"ERROR: <input>:1:(\d+): (?:Syntax error: )?([^\n]*)", str(error))
        if place is None:
            raise Fault(f"syntax error: {_first_sentence(error)}") from None
        raise Fault(f"syntax error: {place[2][:120]}", _offset(tokens, int(place[1]) - 1, len(text))) from None


def _offset(tokens: list[Token], column: int, end: int) -> int:
    """Where in a text the token stands that the engine saw at a column of its own; the text's end, behind the last one."""
    for token in tokens:
        if column <= len(token.text):
            return token.start
        column -= len(token.text) + 1
    return end


def _first_sentence(error: Exception) -> str:
    return str(error).splitlines()[0].split(". ")[0][:160]


# --- reading ---------------------------------------------------------------------------------------------------------


_UNREAD = {
    "//": "remarks are not for expressions; write them as `# …` in the policy file",
    "b": "bytes are not for policies; write 'text'",
    "quotes": "three quotes are not for policies; write 'text' in one pair",
}


def _tokens(text: str) -> list[Token]:
    found, at = [], 0
    while at < len(text):
        match = _TOKEN.match(text, at)
        if match is None:
            raise Fault(f"{text[at]!r} means nothing here", at)
        if match.lastgroup == "unread":
            raise Fault(_UNREAD["//" if match[0] == "//" else "b" if "b" in match[0].lower() else "quotes"], at)
        if match.lastgroup != "space":
            found.append(Token(str(match.lastgroup), match.group(), at))
        at = match.end()
    if not found:
        raise Fault("it is empty")
    return found


def _paths(tokens: list[Token]) -> list[Token]:
    """Words joined by dots become paths; what stands before a parenthesis is called; a macro's own variable is neither."""
    texts = [*(token.text for token in tokens), ""]
    bound = _bound(texts)
    found: list[Token] = []
    at = 0
    while at < len(tokens):
        token = tokens[at]
        if token.kind != "word" or token.text in ("in", "true", "false", "null"):
            found.append(token)
            at += 1
            continue
        end = at + 1
        while texts[end] == "." and end + 1 < len(tokens) and tokens[end + 1].kind == "word":
            end += 2
        called = texts[end] == "("
        last = end - 2 if called else end
        if last > at:
            path, end_of_path = "".join(texts[at:last]), tokens[last - 1]
            if end_of_path.start + len(end_of_path.text) - token.start != len(path):
                raise Fault(f"write {path} without spaces", token.start)
            if token.text in bound and token.text in vocabulary.ROOTS:
                raise Fault(f"{token.text} is a name of the evidence; call the variable something else", token.start)
            kind = "word" if token.text in bound or (found and found[-1].text == ".") else "path"
            found.append(Token(kind, path, token.start))
        if called:
            found.append(Token("call", texts[end - 1], tokens[end - 1].start))
        at = end
    return found


def _bound(texts: list[str]) -> set[str]:
    """The variables of macros."""
    named = {
        name
        for call, open, name in zip(texts, texts[1:], texts[2:], strict=False)
        if (call in MACROS, open) == (True, "(")
    }
    return {name for name in named if name.isidentifier()}


def _refuse_other_names(tokens: list[Token], program: cel.Program) -> None:
    """The names that were read here are the names that the engine looks up."""
    read = {token.text.partition(".")[0] for token in tokens if token.kind == "path"}
    looked_up = set(program.variables()) - _bound([token.text for token in tokens])
    if odd := sorted(read ^ looked_up):
        raise Fault(f"whether {odd[0]} is read here is not clear; write each name as docs/guide/policies.md lists it")


def _refuse_traps(tokens: list[Token]) -> None:
    products = 0
    for at, token in enumerate(tokens):
        before, after = tokens[at - 1] if at else None, tokens[at + 1] if at + 1 < len(tokens) else None
        if token.kind == "call" and token.text == "has":
            raise Fault("has() would let a missing metric pass; a rule on a missing metric is undecided", token.start)
        if token.kind == "call" and token.text not in (*MACROS, *METHODS):
            known = ", ".join(sorted((*MACROS, *METHODS)))
            raise Fault(f"{token.text}() is not for policies; there are {known}", token.start)
        if token.kind == "call" and token.text == "all" and not _is_plain_list(tokens, at):
            raise Fault("all() is for names and for lists in brackets", token.start)
        if token.text == "[" and before and before.text != "in" and _ends_a_value(before):
            raise Fault("indexing is not for policies; name the metric with dots", token.start)
        if token.kind == "number" and not _sound_number(token.text):
            raise Fault(f"{token.text:.40} is no bound a metric can have", token.start)
        if token.text in ("/", "%") and not (after and after.kind == "number" and float(after.text) != 0):
            raise Fault(f"`{token.text}` by anything but a number that is not zero; multiply instead", token.start)
        products += token.text in ("*", "/")
        if products > PRODUCTS:
            raise Fault(f"more than {PRODUCTS} multiplications; make two rules of it", token.start)
    _refuse_loose_patterns(tokens)
    _refuse_long_work(tokens)
    _refuse_hidden_bounds(tokens)


def _ends_a_value(token: Token) -> bool:
    return token.kind in ("path", "word", "text") or token.text in (")", "]")


def _refuse_hidden_bounds(tokens: list[Token]) -> None:
    """A bound, or what is measured, within a list would have no side, no margin and no careful end."""
    listed = 0
    for token in tokens:
        listed += (token.text == "[") - (token.text == "]")
        if listed and token.kind != "text" and token.text not in ("[", ","):
            what = f"{token.text:.40} stands in a list, and lists are of texts"
            raise Fault(f"{what}; compare with each bound by itself, as in `a <= 1.0 || b >= 2.0`", token.start)


def _refuse_long_work(tokens: list[Token]) -> None:
    """Loops in loops over long lists would keep the gate from ever answering."""
    brackets: list[bool] = []  # the open ones: does each belong to a loop?
    deepest = 0
    for before, token in itertools.pairwise(tokens):
        if token.text in ("(", "["):
            brackets.append(token.text == "(" and before.kind == "call" and before.text in MACROS)
        elif token.text in (")", "]") and brackets:
            brackets.pop()
        deepest = max(deepest, sum(brackets))
        if deepest >= len(LITERALS):
            raise Fault(f"more than {len(LITERALS) - 1} loops in one another", before.start)
    literals = [token for token in tokens if token.kind in ("number", "text")]
    if len(literals) > (most := LITERALS[deepest]):
        raise Fault(f"more than {most} numbers and texts here; make two rules of it", literals[most].start)


def _is_plain_list(tokens: list[Token], call: int) -> bool:
    """Whether all() is asked of a name or of a list that stands there, whose emptiness can be tried."""
    return tokens[call - 1].kind == "path" or (call >= 2 and tokens[call - 2].text == "]")


def _sound_number(text: str) -> bool:
    return float(text) == 0 or SMALLEST <= float(text) <= LARGEST


def _refuse_loose_patterns(tokens: list[Token]) -> None:
    """`matches` looks anywhere in a text: a pattern says where it begins and ends, and stands there to be read."""
    for at, token in enumerate(tokens):
        if token.kind != "call" or token.text != "matches":
            continue
        pattern, closing = (tokens[at + n] if at + n < len(tokens) else token for n in (2, 3))
        if pattern.kind != "text" or closing.text != ")":
            raise Fault("matches() takes one pattern in quotes", token.start)
        try:
            evaluate(f"'x'.matches({pattern.text})", {})
            patterns.read(str(evaluate(pattern.text, {})))
        except patterns.Unread as unread:
            raise Fault(f"{pattern.text} {unread}", pattern.start) from None
        except CannotTell:
            raise Fault(f"{pattern.text} is no regular expression", pattern.start) from None


def _depths(tokens: tuple[Token, ...]) -> list[int]:
    """How many brackets are open at each token."""
    depth, found = 0, []
    for token in tokens:
        depth -= token.text in (")", "]")
        found.append(depth)
        depth += token.text in ("(", "[")
    return found


def _conjuncts(tokens: tuple[Token, ...]) -> list[tuple[Token, ...]]:
    top = [token.text for token, depth in zip(tokens, _depths(tokens), strict=True) if depth == 0]
    if "||" in top or "?" in top:
        return [tokens]
    parts: list[list[Token]] = [[]]
    for token, depth in zip(tokens, _depths(tokens), strict=True):
        if depth == 0 and token.text == "&&":
            parts.append([])
        else:
            parts[-1].append(token)
    return [tuple(part) for part in parts]


def _clause(text: str, tokens: tuple[Token, ...]) -> Clause:
    whole = _between(text, tokens)
    paths = tuple(dict.fromkeys(token.text for token in tokens if token.kind == "path"))
    top = [token for token, depth in zip(tokens, _depths(tokens), strict=True) if depth == 0]
    signs = [token for token in top if token.kind != "text" and token.text in COMPARISONS]
    at = tokens.index(signs[0]) if len(signs) == 1 else 0
    if not at or any(token.text in ("||", "?") for token in top):
        return Clause(whole, paths)
    return Clause(whole, paths, _between(text, tokens[:at]), signs[0].text, _between(text, tokens[at + 1 :]))


def _between(text: str, tokens: tuple[Token, ...]) -> str:
    return text[tokens[0].start : tokens[-1].start + len(tokens[-1].text)] if tokens else ""
