"""What token sequences have in common, so that a model reads it once: trees of sequences, and trees on one trunk."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from itertools import pairwise, takewhile

_ROOM = 256  # a tree may outgrow four times its context by so many tokens; attention is quadratic in its size
_WORTH = 256  # tokens that a trunk must save before it pays for a pass of its own


@dataclass(frozen=True)
class Request:
    """A context in tokens and the answer whose likelihood is wanted; what follows the context is scored."""

    number: int
    context: tuple[int, ...]
    answer: tuple[int, ...]


@dataclass
class Tree:
    """Requests that share their context, each token held once, a parent always before its children."""

    context: tuple[int, ...]
    tokens: list[int]
    parents: list[int]
    depths: list[int]
    wanted: list[tuple[int, int, int]] = field(default_factory=list)  # node, the token it should guess, request
    _nodes: dict[tuple[int, int], int] = field(default_factory=dict)

    @classmethod
    def on(cls, context: tuple[int, ...]) -> "Tree":
        count = len(context)
        return cls(context, list(context), list(range(-1, count - 1)), list(range(count)))

    def add(self, request: Request) -> None:
        """Hang the answer's tokens where they branch off; the last one is only guessed, never read."""
        node, last = len(self.context) - 1, len(request.answer) - 1
        for place, token in enumerate(request.answer):
            self.wanted.append((node, token, request.number))
            if place < last:
                node = self._child(node, token)

    def _child(self, parent: int, token: int) -> int:
        node = self._nodes.setdefault((parent, token), len(self.tokens))
        if node == len(self.tokens):
            self.tokens.append(token)
            self.parents.append(parent)
            self.depths.append(self.depths[parent] + 1)
        return node

    @property
    def straight(self) -> int:
        """How many tokens follow each other before the first branch."""
        return sum(1 for _ in takewhile(lambda pair: pair[1] == pair[0] - 1, enumerate(self.parents)))

    @property
    def length(self) -> int:
        """Of its longest sequence, counted from the start."""
        return max(self.depths) + 1

    @property
    def branches(self) -> bool:
        return self.straight < len(self.tokens)

    def path(self, node: int) -> list[int]:
        """The nodes from the root to this one."""
        found = []
        while node >= 0:
            found.append(node)
            node = self.parents[node]
        return found[::-1]

    @property
    def room(self) -> int:
        return 4 * len(self.context) + _ROOM

    def without(self, shared: int) -> "Tree":
        """The same tree above its first tokens, which the model has read already; depths count from the start still."""
        return Tree(
            self.context,
            self.tokens[shared:],
            [parent - shared if parent >= shared else -1 for parent in self.parents[shared:]],
            self.depths[shared:],
            [(node - shared, target, number) for node, target, number in self.wanted],
        )


@dataclass(frozen=True)
class Stand:
    """Trees that start with the same tokens; often none."""

    shared: tuple[int, ...]
    trees: list[Tree]


def window(number: int, context: Sequence[int], answer: Sequence[int], positions: int) -> Request:
    """A request cut from the left to what the model has positions for."""
    kept = (*context, *answer)[-(positions + 1) :]
    return Request(number, kept[: -len(answer)], tuple(answer))


def trees(requests: Iterable[Request], branching: bool) -> list[Tree]:
    """Requests with the same context in one tree; for a model that cannot read trees, only what is one sequence."""
    found: dict[tuple[tuple[int, ...], ...], list[Tree]] = {}
    for request in requests:
        group = found.setdefault((request.context, () if branching else request.answer[:-1]), [])
        if not group or len(group[-1].tokens) + len(request.answer) > group[-1].room:
            group.append(Tree.on(request.context))
        group[-1].add(request)
    return [tree for group in found.values() for tree in group]


def stands(grown: list[Tree]) -> list[Stand]:
    """Trees on trunks, where these save reading; those on none come together, first."""
    ordered = sorted(grown, key=lambda tree: tree.context)
    shared = [_shared(a.context, b.context) for a, b in pairwise(ordered)]
    found, alone, at = [], [], 0
    for start, stop, length in _trunks(shared):
        alone += ordered[at:start]
        found.append(Stand(ordered[start].context[:length], [tree.without(length) for tree in ordered[start:stop]]))
        at = stop
    alone += ordered[at:]
    return [Stand((), alone)] * bool(alone) + found


def _shared(one: tuple[int, ...], other: tuple[int, ...]) -> int:
    """How many tokens two contexts start with in common, less the one that must stay to be scored after."""
    same = sum(1 for _ in takewhile(lambda pair: pair[0] == pair[1], zip(one, other, strict=False)))
    return max(0, min(same, len(one) - 1, len(other) - 1))


@dataclass
class _Span:
    """Neighbours that share a prefix, and the best trunks within them."""

    length: int
    start: int
    saved: int = 0
    trunks: list[tuple[int, int, int]] = field(default_factory=list)

    def closed(self, stop: int) -> "_Span":
        """With one trunk for all of them, where that saves more than the trunks within."""
        whole = (stop - self.start - 1) * self.length - _WORTH
        if whole > self.saved:
            return _Span(self.length, self.start, whole, [(self.start, stop, self.length)])
        return self

    def take(self, other: "_Span") -> None:
        self.saved += other.saved
        self.trunks += other.trunks


def _trunks(shared: Sequence[int]) -> list[tuple[int, int, int]]:
    """Start, stop and length of each trunk, given what neighbours in sorted order share.

    Neighbours nest by how much they share: a stack of open spans, from the least shared to the most. All that share a
    start stand on one trunk, unless those within save more.
    """
    open_spans = [_Span(0, 0)]
    for place, length in enumerate([*shared, 0]):
        start, inner = place, None
        while open_spans[-1].length > length:
            span = open_spans.pop()
            if inner:
                span.take(inner)
            inner, start = span.closed(place + 1), span.start
        if open_spans[-1].length < length:
            open_spans.append(_Span(length, start))
        if inner:
            open_spans[-1].take(inner)
    return open_spans[0].trunks


def by_size(grown: list[Tree]) -> list[Tree]:
    """The largest first: a batch is as wide as its first tree, and what does not fit in memory shows at once."""
    return sorted(grown, key=lambda tree: -len(tree.tokens))


def fitting(ordered: list[Tree], tokens: int) -> int:
    """How many of the first trees come to so many tokens, padding counted; one at least."""
    return max(1, tokens // len(ordered[0].tokens))
