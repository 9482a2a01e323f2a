"""Chat templates: programs in jinja2, parsed but never run.

Whoever renders one does it in jinja2's sandbox. What is refused here never gets that far: reaching for Python's insides
by name, other templates, filters that look attributes up, and, by `growth`, work without end.
"""

import re
from collections.abc import Iterator
from typing import Any

import jinja2
from jinja2 import nodes
from jinja2.ext import Extension, loopcontrols

from slipway.scanning import growth
from slipway.scanning.denied import Denied, shown

MAX_CHARACTERS = 200_000

_FILTERS = {
    "abs", "batch", "capitalize", "count", "d", "default", "dictsort", "e", "escape", "first", "float",
    "groupby", "indent", "int", "items", "join", "last", "length", "list", "lower", "map", "max", "min",
    "pprint", "reject", "rejectattr", "replace", "reverse", "round", "safe", "select", "selectattr", "slice",
    "sort", "string", "sum", "title", "tojson", "trim", "truncate", "unique", "upper", "wordcount",
}  # fmt: skip
_BY_ATTRIBUTE = {"map", "selectattr", "rejectattr", "groupby", "sort", "sum", "min", "max", "unique"}
_GLOBALS = {"lipsum", "cycler", "joiner", "self"}  # objects of jinja2 itself: the usual ways to Python's insides
_INSIDES = {"mro", "func_globals", "func_code", "gi_frame", "gi_code", "cr_frame", "tb_frame"}
_CONTROL = re.compile(r"[\x00-\x08\x0b\x0e-\x1f\x7f\x9b]")  # an escape sequence rewrites a terminal
_OTHER_FILES = (nodes.Import, nodes.FromImport, nodes.Include, nodes.Extends)


class _Generation(Extension):
    """`{% generation %}`, the mark that Transformers adds to jinja2: here its body counts."""

    tags = {"generation"}  # noqa: RUF012 - the name and type that jinja2 asks for

    def parse(self, parser: Any) -> list[nodes.Node]:
        next(parser.stream)
        return list(parser.parse_statements(("name:endgeneration",), drop_needle=True))


_ENVIRONMENT = jinja2.Environment(
    trim_blocks=True,
    lstrip_blocks=True,
    extensions=[_Generation, loopcontrols],
)


def check(source: str) -> None:
    """Denied unless a chat template only arranges what it is given."""
    if len(source) > MAX_CHARACTERS:
        raise Denied(f"a chat template of {len(source):,} characters; {MAX_CHARACTERS:,} are the most")
    if found := _CONTROL.search(source):
        raise Denied(f"the chat template holds the control character {ord(found.group()):#04x}")
    try:
        tree = _ENVIRONMENT.parse(source)
        for node in _nodes(tree):
            if fault := _fault(node):
                raise Denied(f"the chat template {fault} (line {getattr(node, 'lineno', 1)})")
        growth.check(tree)
    except (ValueError, OverflowError) as error:  # jinja2 passes on what Python's own readers say of a constant
        raise Denied(f"the chat template holds a constant that cannot be read ({shown(str(error))})") from None
    except jinja2.TemplateError as error:
        raise Denied(f"the chat template is not valid jinja2: {shown(str(error))}") from None
    except RecursionError:
        raise Denied("the chat template is nested too deeply") from None


def _nodes(tree: nodes.Node) -> Iterator[nodes.Node]:
    waiting = [tree]
    while waiting:
        node = waiting.pop()
        yield node
        waiting.extend(node.iter_child_nodes())


def _fault(node: nodes.Node) -> str | None:
    if isinstance(node, _OTHER_FILES):
        return "reads another template"
    if isinstance(node, nodes.Getattr) and _is_inside(node.attr):
        return f"reaches for the attribute {shown(node.attr)}"
    if isinstance(node, nodes.Getitem) and (name := _text(node.arg)) is not None and _is_inside(name):
        return f"reaches for the attribute {shown(name)}"
    if isinstance(node, nodes.Name) and (node.name in _GLOBALS or node.name.startswith("__")):
        return f"uses {shown(node.name)}"
    if isinstance(node, nodes.Const) and isinstance(node.value, str) and _is_dunder(node.value):
        return f"spells out {shown(node.value)}"
    if isinstance(node, nodes.Const) and isinstance(node.value, str) and _CONTROL.search(node.value):
        return f"writes a control character ({shown(node.value)})"
    if isinstance(node, nodes.Filter):
        return _filter_fault(node)
    return "uses powers" if isinstance(node, nodes.Pow) else None


def _filter_fault(node: nodes.Filter) -> str | None:
    """The filters that chat templates use; those that take a name may take a plain one only."""
    if node.name not in _FILTERS:
        return f"uses the filter {shown(node.name)}"
    if node.name not in _BY_ATTRIBUTE:
        return None
    given = [*node.args, *(word.value for word in node.kwargs)]
    names = [_text(argument) for argument in given]
    if node.name == "map" and node.args and (names[0] not in _FILTERS or names[0] in _BY_ATTRIBUTE):
        return f"maps the filter {shown(str(names[0]))}"
    for argument, name in zip(given, names, strict=True):
        if name is None and not isinstance(argument, nodes.Const | nodes.Name | nodes.List | nodes.Tuple):
            return f"gives the filter {node.name} a computed name"
        if name is not None and any(_is_inside(part) for part in name.split(".")):
            return f"reaches for the attribute {shown(name)}"
    return None


def _is_inside(name: str) -> bool:
    return name.startswith("_") or name in _INSIDES


def _is_dunder(text: str) -> bool:
    """A name of Python's insides, alone or in a text for `format`."""
    if "{" in text and ("._" in text or "[_" in text):
        return True
    return len(text) > 4 and text.startswith("__") and text.endswith("__") and text[2:-2].isidentifier()


def _text(node: nodes.Node) -> str | None:
    """The text of a constant, also when it is spelled in pieces; jinja2's own folding would compute `9 ** 9 ** 9`."""
    if isinstance(node, nodes.Const):
        return node.value if isinstance(node.value, str) else None
    if isinstance(node, nodes.Add):
        parts = [_text(node.left), _text(node.right)]
    elif isinstance(node, nodes.Concat):
        parts = [_text(part) for part in node.nodes]
    else:
        return None
    return None if any(part is None for part in parts) else "".join(part for part in parts if part)
