"""A policy file, typed: rules that a release must meet. Anything doubtful in it is an error, never a pass."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal, Self

import yaml
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from slipway import strict
from slipway.errors import UsageError
from slipway.governance import checking, expressions, vocabulary
from slipway.governance.expressions import Expression

Words = Annotated[str, Field(min_length=1)]
TRANSITIONS = ("None→Staging", "Staging→Production", "Production→Archived")
MOST_ROWS = 10**9  # beyond this nobody collects rows
_Loader = getattr(yaml, "CSafeLoader", yaml.SafeLoader)


class Rule(BaseModel):
    """One expression that must be true, and what to do where it is not."""

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True)

    id: Annotated[str, Field(pattern=r"^[a-z0-9][a-z0-9-]*$", max_length=60)]
    expression: Words
    minimum_rows: Annotated[int, Field(ge=1, le=MOST_ROWS)] = 1  # that everything measured on rows must rest on
    severity: Literal["block", "waivable", "advise"]
    why: Words
    remedy: Words
    owner: Words

    @property
    def parsed(self) -> Expression:
        return expressions.parse(self.expression)

    @property
    def is_for_register(self) -> bool:
        """Whether it reads what only the register act knows."""
        return any(path.partition(".")[0] in vocabulary.ONLY_REGISTER for path in self.parsed.paths)


class Transition(BaseModel):
    """What a version must have for one change of its stage, over and above the rules for all."""

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True)

    rules: Annotated[list[Rule], Field(min_length=1)]


class Policy(BaseModel):
    """Everything a release is held against, at least one rule of it blocking."""

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True)

    rules: Annotated[list[Rule], Field(min_length=1)]
    transitions: dict[str, Transition] = {}

    def transition(self, name: str) -> list[Rule]:
        """The rules of one change of stage; a change without rules is not allowed at all."""
        if name not in self.transitions:
            raise UsageError(f"the policy has no rules for the transition {name}; add transitions: {name}: rules:")
        return self.transitions[name].rules

    @classmethod
    def load(cls, path: Path) -> Self:
        """The policy of a file; a fault is a UsageError with its place."""
        if found := problems(path):
            more = f" ({len(found) - 1} more: `slipway policy check {path}`)" if len(found) > 1 else ""
            raise UsageError(f"{found[0]}{more}")
        return cls.model_validate(_read(path))


@dataclass(frozen=True)
class Problem:
    """One thing that is wrong with a policy file, and where."""

    path: Path
    line: int
    column: int
    rule: str | None
    message: str

    def __str__(self) -> str:
        return f"{self.path}:{self.line}:{self.column}: {f'rule {self.rule}: ' if self.rule else ''}{self.message}"


def problems(path: Path) -> list[Problem]:
    """Everything that is wrong with a policy file; a file that is no YAML mapping is a UsageError of its own."""
    raw = _read(path)
    found = [*_of_form(raw), *_of_rules(raw), *_of_whole(raw)]
    if not found:
        return []
    node = yaml.compose(path.read_text(encoding="utf-8"), Loader=_Loader)
    placed = [Problem(path, *_place(node, where, offset), _rule_of(raw, where), text) for where, offset, text in found]
    return sorted(placed, key=lambda problem: (problem.line, problem.column, problem.message))


def _read(path: Path) -> dict[str, Any]:
    return strict.read_yaml(path, "restore it or name another in params.yaml: gate.policy")


Location = tuple[str | int, ...]
Found = tuple[Location, int, str]  # where, at which character of the value (-1: at the key), what


def _of_form(raw: Mapping[str, Any]) -> Iterator[Found]:
    """What the models refuse."""
    try:
        Policy.model_validate(raw)
    except ValidationError as error:
        for fault in error.errors():
            where = fault["loc"]
            key = str(where[-1])
            if fault["type"] == "extra_forbidden":
                yield where, -1, f"unknown key {key}; remove it or correct its spelling"
            elif fault["type"] == "missing":
                yield where, -1, f"{key} is missing; add it"
            else:
                yield where, -1, f"{key} is {_shown(fault['input'])}: {fault['msg']}; correct it"


def _shown(value: object) -> str:
    try:
        return f"{value!r:.80}"
    except ValueError:  # Python writes no number of more digits than it reads
        return "a number of thousands of digits"


def _of_rules(raw: Mapping[str, Any]) -> Iterator[Found]:
    """What trying each expression shows, and ids that stand twice."""
    seen: set[str] = set()
    for where, rule in _rules(raw):
        name, text, rows = rule.get("id"), rule.get("expression"), rule.get("minimum_rows", 1)
        if isinstance(text, str) and text:
            sound = rows if isinstance(rows, int) and 1 <= rows <= MOST_ROWS else 1
            yield from (((*where, "expression"), f.offset, str(f)) for f in checking.faults(text, sound))
        if isinstance(name, str):
            if name in seen:
                yield (*where, "id"), -1, f"two rules have the id {name!r}; rename one"
            if name.startswith("evidence-"):
                yield (*where, "id"), -1, "ids that begin with evidence- are the gate's own; rename it"
            seen.add(name)


def _of_whole(raw: Mapping[str, Any]) -> Iterator[Found]:
    rules = raw.get("rules")
    if isinstance(rules, list) and rules and not any(_severity(rule) == "block" for rule in rules):
        yield ("rules",), -1, "no rule has severity: block, so nothing could ever be refused"
    transitions = raw.get("transitions")
    if not isinstance(transitions, dict):
        return
    for name in transitions:
        if name not in TRANSITIONS:
            yield ("transitions", name), -1, f"there is no transition {name!r}; there are {', '.join(TRANSITIONS)}"
    for name in TRANSITIONS:
        if name not in transitions:
            yield ("transitions",), -1, f"the transition {name} has no rules; add some, or nothing can make it"


def _severity(rule: object) -> object:
    return rule.get("severity") if isinstance(rule, dict) else None


def _rules(raw: Mapping[str, Any]) -> Iterator[tuple[Location, dict[str, Any]]]:
    """Every mapping that stands where a rule should."""
    places: list[tuple[Location, object]] = [(("rules",), raw.get("rules"))]
    transitions = raw.get("transitions")
    for name, transition in transitions.items() if isinstance(transitions, dict) else []:
        if isinstance(transition, dict):
            places.append((("transitions", name, "rules"), transition.get("rules")))
    for where, rules in places:
        for at, rule in enumerate(rules if isinstance(rules, list) else []):
            if isinstance(rule, dict):
                yield (*where, at), rule


def _rule_of(raw: Mapping[str, Any], where: Location) -> str | None:
    """The rule that a place belongs to: by its id, or by its number."""
    for place, rule in _rules(raw):
        if where[: len(place)] == place:
            name = rule.get("id")
            return name if isinstance(name, str) else str(int(place[-1]) + 1)
    return None


def _place(node: yaml.Node | None, where: Location, offset: int) -> tuple[int, int]:
    """Line and column, both from 1, of a key (or of its nearest parent that is there), or of a value's character."""
    mark = node.start_mark if node else None
    for part in where:
        if isinstance(node, yaml.MappingNode):
            pair = next(((key, value) for key, value in node.value if key.value == str(part)), None)
            if pair is None:
                break
            mark, node = pair[0].start_mark, pair[1]
        elif isinstance(node, yaml.SequenceNode) and isinstance(part, int) and part < len(node.value):
            node = node.value[part]
            mark = node.start_mark
        else:
            break
    if offset >= 0 and isinstance(node, yaml.ScalarNode):
        mark = node.start_mark
        if node.style in (None, "", "'", '"') and node.end_mark.line == mark.line:
            return mark.line + 1, mark.column + 1 + offset + (node.style in ("'", '"'))
    return (mark.line + 1, mark.column + 1) if mark else (1, 1)
