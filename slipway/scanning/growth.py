"""How much work a chat template makes: gone through as a renderer would, with sizes in place of values.

A name's size is the length of its text, the value of its number or the items of its list, whichever could be meant. What
the renderer is given counts as a few. Gone through again and again, what doubles shows itself, however it is written.
Macros are gone through once, where they stand: what calls of calls add up to, only a limit on rendering can stop.
"""

import math
import re
from collections import ChainMap
from collections.abc import Iterable
from dataclasses import dataclass, field

from jinja2 import nodes

from slipway.scanning.denied import Denied

MAX_NUMBER = 1_000_000  # of any constant
MAX_COUNT = 10_000  # in range(), `*` and paddings: no conversation has more turns
MAX_ROUNDS = 1_000_000  # of loops in loops
MAX_SIZE = 1_000_000
MAX_ASSIGNMENTS = 1_000

_GIVEN = 10  # the size of what a renderer is given
_PASSES = 24  # 2 ** 24 is more than what any number of plain additions comes to
_MAX_GROWN = 10_000_000
_ENDLESS = 1 << 40

_PADDINGS = {"ljust", "rjust", "center", "zfill", "expandtabs", "indent", "batch", "slice", "truncate", "wordwrap"}
_SUMS = (
    nodes.Add,
    nodes.Sub,
    nodes.Concat,
    nodes.List,
    nodes.Tuple,
    nodes.Dict,
    nodes.Output,
    nodes.Div,
    nodes.FloorDiv,
)
_ANSWERS = (nodes.Compare, nodes.Test, nodes.Not)  # true or false
# A width or a precision of five digits, for `%` or for format.
_WIDE = re.compile(r"%(\(\w*\))?[-+ #0]*\d*\.?\d{5,}|\{[\w.]*(![rsa])?:[^{}]*\d{5,}")
_FIELD = re.compile(r"%(\(\w*\))?[^%]|\{[^{}]*\}")

Sizes = ChainMap[str, int]  # of names; a branch or loop writes its own into a new first map


def check(tree: nodes.Template) -> None:
    """Denied when a template would keep a renderer busy, or fill its memory."""
    if sum(1 for _ in tree.find_all((nodes.Assign, nodes.AssignBlock))) > MAX_ASSIGNMENTS:
        raise _too_much(tree, f"sets names more than {MAX_ASSIGNMENTS:,} times")
    reads_numbers = any(found.name in ("int", "float") for found in tree.find_all(nodes.Filter))
    rendering = _Rendering(reads_numbers)
    for _ in range(_PASSES):
        before = dict(rendering.kept)
        rendering.block(tree.body, ChainMap(), 1)
        if rendering.kept == before:
            return
        rendering.limit = _MAX_GROWN


def _too_much(node: nodes.Node, what: str) -> Denied:
    return Denied(f"the chat template {what} (line {getattr(node, 'lineno', 1)})")


@dataclass
class _Rendering:
    """One way through a template; `kept` is what namespaces hold, which outlives loops and, here, each pass."""

    reads_numbers: bool
    limit: int = MAX_SIZE
    kept: Sizes = field(default_factory=ChainMap)

    def block(self, body: Iterable[nodes.Node], names: Sizes, rounds: int) -> int:
        """Go through statements, noting in `names` what they set; the size of what they write."""
        return min(sum(self._statement(node, names, rounds) for node in body), _ENDLESS)

    def _statement(self, node: nodes.Node, names: Sizes, rounds: int) -> int:
        if isinstance(node, nodes.For):
            return self._loop(node, names, rounds)
        if isinstance(node, nodes.If):
            return self._choice(node, names, rounds)
        if isinstance(node, nodes.Assign):
            self._set(node.target, self.size(node.node, names), names)
            return 0
        if isinstance(node, nodes.AssignBlock):
            written = self.block(node.body, names.new_child(), rounds)
            self._set(node.target, self._within(written, node), names)
            return 0
        if isinstance(node, nodes.Expr | nodes.Output):
            return self.size(node, names)
        return self.block(node.iter_child_nodes(), names.new_child(), rounds)

    def _loop(self, node: nodes.For, names: Sizes, rounds: int) -> int:
        if node.recursive:
            raise _too_much(node, "has a loop that calls itself")
        count = max(1, self.size(node.iter, names))
        if rounds * count > MAX_ROUNDS:
            raise _too_much(node, f"has loops in loops that could go round more than {MAX_ROUNDS:,} times")
        inner = names.new_child()
        self._set(node.target, count, inner)
        if node.test is not None:
            self.size(node.test, inner)
        return count * self.block(node.body, inner, rounds * count) + self.block(node.else_, names.new_child(), rounds)

    def _choice(self, node: nodes.If, names: Sizes, rounds: int) -> int:
        """Each branch on its own; afterwards a name is as large as any branch left it."""
        self.size(node.test, names)
        kept, written = self.kept, 0
        branches = []
        for body in (node.body, node.elif_, node.else_):
            self.kept, inner = kept.new_child(), names.new_child()
            written = max(written, self.block(body, inner, rounds))
            branches.append((self.kept, inner))
        self.kept = kept
        for inner_kept, inner in branches:
            _widen(kept, inner_kept)
            _widen(names, inner)
        return written

    def _set(self, target: nodes.Node, size: int, names: Sizes) -> None:
        if isinstance(target, nodes.NSRef):
            self.kept[f"{target.name}.{target.attr}"] = size
        elif isinstance(target, nodes.Name):
            names[target.name] = size
        else:
            for part in target.iter_child_nodes():
                self._set(part, size, names)

    def size(self, node: nodes.Node, names: Sizes) -> int:
        """How large a value can be; Denied when that is too large."""
        if isinstance(node, nodes.Const | nodes.TemplateData):
            return self._constant(node)
        if isinstance(node, nodes.Name):
            return names.get(node.name, _GIVEN)
        parts = [self.size(part, names) for part in node.iter_child_nodes()]
        return self._within(self._made(node, parts), node)

    def _within(self, size: int, node: nodes.Node) -> int:
        if size > self.limit:
            raise _too_much(node, f"makes something larger than {MAX_SIZE:,}, or larger at each turn")
        return size

    def _constant(self, node: nodes.Const | nodes.TemplateData) -> int:
        value = node.data if isinstance(node, nodes.TemplateData) else node.value
        if isinstance(node, nodes.Const) and isinstance(value, str) and _WIDE.search(value):
            raise _too_much(node, "pads a text or number to five digits of characters")
        size = len(value) if isinstance(value, str) else 1
        number = _number(value, self.reads_numbers)
        if number > MAX_NUMBER:
            raise _too_much(node, f"holds a number beyond {MAX_NUMBER:,}")
        return max(size, int(number))

    def _made(self, node: nodes.Node, parts: list[int]) -> int:
        """What an operation makes of parts of these sizes."""
        largest = max(parts, default=1)
        if isinstance(node, _ANSWERS):
            return 1
        if isinstance(node, nodes.CondExpr):
            return max(parts[1:], default=1)
        if isinstance(node, _SUMS):
            return sum(parts)
        if isinstance(node, nodes.Mul):
            if largest > MAX_COUNT:
                raise _too_much(node, f"multiplies by more than {MAX_COUNT:,}")
            return parts[0] * parts[1]
        if isinstance(node, nodes.Mod):
            values = node.right.items if isinstance(node.right, nodes.Tuple) else [node.right]
            return parts[0] + parts[1] * _uses(node.left, len(values))
        if isinstance(node, nodes.Getattr | nodes.Getitem):
            return self.kept.get(_kept_name(node) or "", parts[0])
        if isinstance(node, nodes.Filter):
            return _changed(node, node.name, parts[0], parts[1:], list(node.args)) if parts else _GIVEN
        if isinstance(node, nodes.Call):
            return _called(node, parts)
        return largest


def _widen(sizes: Sizes, branch: Sizes) -> None:
    """What a branch set, where it made a name larger."""
    for name, size in branch.maps[0].items():
        sizes[name] = max(sizes.get(name, 0), size)


def _number(value: object, in_text: bool) -> float:
    """The number that a constant is, or that `int` and `float` read in it; small parts of one make large quotients."""
    if isinstance(value, str) and in_text:
        try:
            value = float(value)
        except ValueError:
            return 0
    if isinstance(value, bool) or not isinstance(value, int | float) or value == 0 or math.isnan(value):
        return 0
    return max(abs(value), 1 / abs(value) if abs(value) > 1e-300 else float("inf"))  # an int may be beyond any float


def _kept_name(node: nodes.Getattr | nodes.Getitem) -> str | None:
    """`ns.text`, also when written `ns['text']`."""
    if not isinstance(node.node, nodes.Name):
        return None
    if isinstance(node, nodes.Getattr):
        return f"{node.node.name}.{node.attr}"
    return f"{node.node.name}.{node.arg.value}" if isinstance(node.arg, nodes.Const) else None


def _called(node: nodes.Call, parts: list[int]) -> int:
    given = parts[1:]
    if isinstance(node.node, nodes.Name):
        if node.node.name == "range" and max(given, default=0) > MAX_COUNT:
            raise _too_much(node, f"counts beyond {MAX_COUNT:,}")
        return max(given, default=_GIVEN)
    if isinstance(node.node, nodes.Getattr):
        return _changed(node, node.node.attr, parts[0], given, list(node.args))
    return max(parts)


def _changed(node: nodes.Node, name: str, size: int, given: list[int], arguments: list[nodes.Expr]) -> int:
    """What a filter or method makes of a text or list."""
    if name in _PADDINGS:
        if max(given, default=0) > MAX_COUNT:
            raise _too_much(node, f"pads to more than {MAX_COUNT:,}")
        return size + _GIVEN * sum(given)
    if name == "replace" and len(arguments) >= 2:
        old = arguments[0].value if isinstance(arguments[0], nodes.Const) else ""
        return size * max(1, -(-given[1] // max(1, len(str(old)))))
    if name == "join":
        return size + size * sum(given) if isinstance(node, nodes.Filter) else sum(given) * (1 + size)
    if name in ("format", "format_map"):
        text = node.node.node if isinstance(node, nodes.Call) and isinstance(node.node, nodes.Getattr) else node
        return size + sum(given) * _uses(text, len(given))
    return max([size, *given])


def _uses(text: nodes.Node, values: int) -> int:
    """How often a format writes each of its values: one after the other, or the same again and again."""
    if not isinstance(text, nodes.Const) or not isinstance(text.value, str):
        return 1 if not isinstance(text, nodes.Const) else 0
    fields = [found.group() for found in _FIELD.finditer(text.value)]
    if any(re.match(r"%\(|\{\w", one) for one in fields):
        return len(fields)
    return -(-len(fields) // max(1, values))
