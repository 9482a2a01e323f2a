"""Read YAML and JSON that people or machines wrote, and believe nothing.

Refused, each with file and line: more than a megabyte, tags (`!!python/object`), anchors and aliases (the
billion-laughs family), duplicate keys, deep nesting, numbers of more than 300 digits, NaN in JSON, anything that is not UTF-8.
"""

import json
import math
from collections import Counter
from collections.abc import Iterable
from pathlib import Path
from typing import Any, Protocol, TypeVar, cast

import yaml
from pydantic import BaseModel, ValidationError

from slipway.errors import StageError, UsageError

MAX_BYTES = 1_000_000
MAX_DEPTH = 40
MAX_DIGITS = 300  # of a number: what a float can hold, and far below what takes Python long to read

try:
    from yaml import CSafeLoader as _Loader
except ImportError:  # the pure-Python loader reads the same language, slower
    from yaml import SafeLoader as _Loader  # type: ignore[assignment]

_NUMBERS = {"tag:yaml.org,2002:int", "tag:yaml.org,2002:float"}


def _text(path: Path, what_to_do: str) -> str:
    try:
        if path.exists() and not path.is_file() and not path.is_dir():
            raise UsageError(f"{path} is a pipe or a device, not a file; {what_to_do}")
        with path.open("rb") as stream:
            data = stream.read(MAX_BYTES + 1)
        if len(data) > MAX_BYTES:
            size = max(len(data), path.stat().st_size)
            raise UsageError(f"{path} has {size:,} bytes, more than the {MAX_BYTES:,} a configuration file may have")
        return data.decode("utf-8")
    except FileNotFoundError:
        raise UsageError(f"{path} does not exist; {what_to_do}") from None
    except IsADirectoryError:
        raise UsageError(f"{path} is a folder, not a file; {what_to_do}") from None
    except OSError as error:
        raise UsageError(f"{path} cannot be read ({error.strerror}); {what_to_do}") from None
    except UnicodeDecodeError as error:
        raise UsageError(f"{path} is not UTF-8 (byte {error.start}); save it as UTF-8") from None
    except ValueError as error:  # a name that holds a NUL
        raise UsageError(f"{str(path)!r} cannot be read ({error}); {what_to_do}") from None


def _check_events(text: str, path: Path) -> None:
    """Refuse the dangerous parts of YAML from its event stream, before any value is built."""
    depth = 0
    for event in yaml.parse(text, Loader=_Loader):
        line = event.start_mark.line + 1  # type: ignore[union-attr]
        if isinstance(event, yaml.AliasEvent) or getattr(event, "anchor", None):
            raise UsageError(f"{path}:{line}: anchors and aliases are not allowed here; write the value out")
        tag = getattr(event, "tag", None)
        if tag is not None:  # a tag that somebody wrote: plain values carry none here
            raise UsageError(f"{path}:{line}: the tag {tag} is not allowed; write a plain value")
        if isinstance(event, yaml.CollectionStartEvent):
            depth += 1
            if depth > MAX_DEPTH:
                raise UsageError(f"{path}:{line}: nested deeper than {MAX_DEPTH} levels; flatten it")
        elif isinstance(event, yaml.CollectionEndEvent):
            depth -= 1


def _check_nodes(node: yaml.Node, path: Path) -> None:
    """Refuse a key that stands twice and a number without end, before any value is built."""
    if isinstance(node, yaml.MappingNode):
        seen: dict[str, int] = {}
        for key, value in node.value:
            line, name = key.start_mark.line + 1, str(key.value)
            if name in seen:
                raise UsageError(f"{path}:{line}: the key {name!r} stands twice (first on line {seen[name]}); keep one")
            seen[name] = line
            _check_nodes(key, path)
            _check_nodes(value, path)
    elif isinstance(node, yaml.SequenceNode):
        for item in node.value:
            _check_nodes(item, path)
    elif node.tag in _NUMBERS and len(node.value) > MAX_DIGITS:
        raise UsageError(
            f"{path}:{node.start_mark.line + 1}: a number of {len(node.value):,} digits; {MAX_DIGITS} are the most"
        )


def read_yaml(path: Path, what_to_do: str = "create it or name another") -> dict[str, Any]:
    """A YAML mapping, or UsageError naming the line."""
    text = _text(path, what_to_do)
    try:
        _check_events(text, path)
        loader = _Loader(text)
        node = loader.get_single_node()
        if node is None:
            raise UsageError(f"{path} is empty; {what_to_do}")
        _check_nodes(node, path)
        value = loader.construct_document(node)
    except yaml.YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        line = f":{mark.line + 1}" if mark else ""
        problem = str(getattr(error, "problem", None) or error).split("\n")[0]
        raise UsageError(f"{path}{line}: not valid YAML: {problem}; fix that line") from None
    except (RecursionError, ValueError, OverflowError) as error:
        raise UsageError(f"{path}: not valid YAML: {error}") from None
    if not isinstance(value, dict):
        raise UsageError(f"{path} holds a {type(value).__name__}, not a mapping of keys to values")
    return value


Place = tuple[str | int, ...]


class Checked(Protocol):
    """A model that also knows what no single value of it is to blame for."""

    def contradictions(self) -> Iterable[tuple[Place, str]]: ...


Typed = TypeVar("Typed", bound=BaseModel)


def read_typed(path: Path, model: type[Typed], what_to_do: str) -> Typed:
    """A YAML file as its model, free of contradictions; a fault is a UsageError with its line and key."""
    try:
        found = model.model_validate(read_yaml(path, what_to_do))
    except ValidationError as error:
        faults = error.errors()
        first = next((one for one in faults if one["type"] == "extra_forbidden"), faults[0])
        raise _wrong(path, first["loc"], _said(first["type"], first["msg"], first["input"])) from None
    for where, what in cast(Checked, found).contradictions():
        raise _wrong(path, where, what)
    return found


def _said(kind: str, message: str, given: object) -> str:
    if kind == "extra_forbidden":
        return "there is no such key; remove it or correct its spelling"
    return "is missing; add it" if kind == "missing" else f"is {given!r:.80}: {message}; correct it"


def _wrong(path: Path, where: Place, what: str) -> UsageError:
    key = ".".join(str(part) for part in where if part != "[key]") or "the file"
    return UsageError(f"{path}:{line_of(path, where)}: {key}: {what}")


def line_of(path: Path, location: tuple[str | int, ...]) -> int:
    """The line where a nested key of a YAML file stands (its nearest existing parent's, when it is missing)."""
    node: yaml.Node | None = yaml.compose(path.read_text(encoding="utf-8"), Loader=_Loader)
    line = 1
    for part in location:
        if isinstance(node, yaml.MappingNode):
            found = next(((k, v) for k, v in node.value if k.value == str(part)), None)
            if found is None:
                return line
            line, node = found[0].start_mark.line + 1, found[1]
        elif isinstance(node, yaml.SequenceNode) and isinstance(part, int) and part < len(node.value):
            node = node.value[part]
            line = node.start_mark.line + 1
        else:
            return line
    return line


def _no_constant(name: str) -> Any:
    raise ValueError(f"{name} is not a JSON value")


def _finite(text: str) -> float:
    value = float(text)
    if math.isinf(value):
        raise ValueError(f"{text[:40]} is not a JSON value that a number can hold")
    return value


def _whole(text: str) -> int:
    if len(text) > MAX_DIGITS:
        raise ValueError(f"a number of {len(text):,} digits; {MAX_DIGITS} are the most")
    return int(text)


def _no_duplicates(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    value = dict(pairs)
    if len(value) != len(pairs):
        counted = Counter(name for name, _ in pairs)
        raise ValueError(f"the key {next(name for name in counted if counted[name] > 1)!r} stands twice")
    return value


def loads_json(text: str | bytes) -> Any:
    """JSON without NaN, infinity, endless numbers or duplicate keys; ValueError otherwise."""
    hooks: dict[str, Any] = {"parse_constant": _no_constant, "parse_float": _finite, "parse_int": _whole}
    try:
        return json.loads(text, object_pairs_hook=_no_duplicates, **hooks)
    except RecursionError:
        raise ValueError("nested too deeply") from None


def read_json(path: Path) -> Any:
    """A JSON artifact; a torn or edited one is a StageError naming file and offset."""
    try:
        data = path.read_bytes()
    except FileNotFoundError:
        raise StageError(f"{path} does not exist; run the stage that makes it (`dvc repro`)") from None
    except OSError as error:
        raise StageError(f"{path} cannot be read ({error.strerror}); put the file itself there, readable") from None
    try:
        return loads_json(data.decode("utf-8"))
    except json.JSONDecodeError as error:
        offset = len(error.doc[: error.pos].encode())
        raise StageError(
            f"{path} is torn or not JSON at byte {offset} of {len(data)} ({error.msg}); run the stage that makes it again"
        ) from None
    except UnicodeDecodeError as error:
        raise StageError(
            f"{path} is torn or not UTF-8 at byte {error.start} of {len(data)}; run the stage that makes it again"
        ) from None
    except ValueError as error:
        raise StageError(
            f"{path} is not a valid artifact: {error} ({len(data)} bytes); run the stage that makes it again"
        ) from None
