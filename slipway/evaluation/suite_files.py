"""A benchmark suite as it stands in its folder: `suite.yaml` says what is asked and how, `rows.jsonl` holds the rows.

A task has lm-evaluation-harness's own keys. Its templates are rendered here, in jinja's sandbox: the harness renders
them with the whole of Python in reach, so it is only ever given the finished text.
"""

import ast
import functools
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from slipway import digest, strict
from slipway.artifacts import Json
from slipway.errors import UsageError

Kind = Literal["perplexity", "choice", "generate", "code"]
METRICS: dict[Kind, tuple[str, ...]] = {
    "perplexity": ("byte_perplexity", "word_perplexity", "bits_per_byte"),
    "choice": ("acc", "acc_norm", "mc2"),
    "generate": ("exact_match",),
    "code": ("pass_at_1",),
}
PROBLEM = ("prompt", "test", "entry_point")  # a row of HumanEval's form
_MAX_BYTES = 200_000_000

Name = Annotated[str, Field(pattern=r"^[a-z][a-z0-9_]*$")]  # policies name it: benchmarks.tuned.NAME.METRIC


class _Part(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, strict=True, allow_inf_nan=False)


class Metric(_Part):
    metric: str
    ignore_case: bool = False  # of exact_match
    ignore_punctuation: bool = False


class Generation(_Part):
    """Greedy always: an answer is a function of the model."""

    until: Annotated[list[str], Field(min_length=1)]
    max_gen_toks: Annotated[int, Field(ge=1, le=4096)]


class Metadata(_Part):
    version: int | float | str


class Spec(_Part):
    """One task of suite.yaml."""

    task: Name
    kind: Kind
    hub: str | None = None  # the harness's name of a task whose rows come from the hub; nothing below is given then
    description: str = ""
    doc_to_text: str = ""
    doc_to_choice: str | list[str] | None = None
    doc_to_target: str | int | None = None
    target_delimiter: str = " "
    fewshot_delimiter: str = "\n\n"
    num_fewshot: Annotated[int, Field(ge=0, le=64)] = 0
    metric_list: Annotated[list[Metric], Field(min_length=1)] | None = None
    generation_kwargs: Generation | None = None
    metadata: Metadata = Metadata(version=1)

    @property
    def metrics(self) -> list[str]:
        """What is measured: the metrics that are listed, or all of this kind that need nothing special."""
        if self.metric_list is None:
            return [name for name in METRICS[self.kind] if name != "mc2"]
        return [metric.metric for metric in self.metric_list]


class SuiteFile(_Part):
    """All of suite.yaml."""

    description: str
    chat_template: bool = False  # ask in the model's own chat template
    tasks: Annotated[list[Spec], Field(min_length=1)]


@dataclass(frozen=True)
class Item:
    """A row as it is asked: text and data, no template left in it."""

    line: int
    query: str
    target: str | int | list[int]
    choices: list[str]
    description: str
    problem: dict[str, str]  # prompt, test and entry point, of a code task

    @property
    def document(self) -> Json:
        """What the harness sees of it."""
        seen = {"query": self.query, "target": self.target, "description": self.description}
        return seen | ({"choices": self.choices} if self.choices else {})


@dataclass(frozen=True)
class Task:
    spec: Spec
    items: list[Item]  # empty where the rows come from the hub
    shots: list[Item]  # solved examples, shown before each question


@dataclass(frozen=True)
class Suite:
    name: str
    digest: str
    chat_template: bool
    tasks: list[Task]


def load(folder: Path) -> Suite:
    """A suite, every row of it rendered and checked; UsageError with file and line otherwise."""
    path = folder / "suite.yaml"
    raw = strict.read_yaml(path, "evaluate.suite names a folder of configs/evals with a suite.yaml")
    try:
        file = SuiteFile.model_validate(raw)
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(str(part) for part in first["loc"])
        raise UsageError(
            f"{path}:{strict.line_of(path, first['loc'])}: {where}: {first['msg']}; "
            f"docs/guide/evaluation-suites.md lists the keys"
        ) from None
    for i, spec in enumerate(file.tasks):
        _check(path, strict.line_of(path, ("tasks", i)), spec, [other.task for other in file.tasks[:i]])
    local = {spec.task: spec for spec in file.tasks if spec.hub is None}
    rows = _rows(folder / "rows.jsonl", local) if local else {}
    tasks = [_task(folder / "rows.jsonl", spec, rows.get(spec.task, [])) for spec in file.tasks]
    return Suite(folder.name, digest.of_path(folder), file.chat_template, tasks)


def _check(path: Path, line: int, spec: Spec, before: list[str]) -> None:
    """What the types alone do not say."""
    given = spec.model_fields_set - {"task", "kind", "hub"}
    problems = {
        "its name stands twice; rename one": spec.task in before,
        f"it comes from the hub as it is, so {', '.join(sorted(given))} cannot be given; remove it": spec.hub and given,
        "a choice task needs doc_to_choice": spec.kind == "choice" and not spec.hub and spec.doc_to_choice is None,
        "doc_to_choice is for choice tasks; remove it": spec.kind != "choice" and spec.doc_to_choice is not None,
        "doc_to_target is missing": spec.kind != "code" and not spec.hub and spec.doc_to_target is None,
        "generation_kwargs is missing: until and max_gen_toks": spec.kind in ("generate", "code")
        and not spec.hub
        and spec.generation_kwargs is None,
        "generation_kwargs is for generate and code tasks; remove it": spec.kind in ("perplexity", "choice")
        and spec.generation_kwargs is not None,
        "num_fewshot is for choice and generate tasks; remove it": spec.num_fewshot
        and spec.kind in ("perplexity", "code"),
        f"a {spec.kind} task has the metrics {', '.join(METRICS[spec.kind])}, not "
        f"{', '.join(sorted(set(spec.metrics) - set(METRICS[spec.kind])))}": set(spec.metrics)
        - set(METRICS[spec.kind]),
    }
    if found := next((text for text, wrong in problems.items() if wrong), None):
        raise UsageError(f"{path}:{line}: task {spec.task}: {found}")


def _rows(path: Path, known: dict[str, Spec]) -> dict[str, list[tuple[int, Json]]]:
    """Task → its rows with their line numbers."""
    rows: dict[str, list[tuple[int, Json]]] = {}
    if not path.is_file():
        raise UsageError(f"{path} does not exist, and {', '.join(sorted(known))} have their rows there; write it")
    if (size := path.stat().st_size) > _MAX_BYTES:
        raise UsageError(f"{path} has {size:,} bytes, more than the {_MAX_BYTES:,} a suite may have; split it")
    for number, line in enumerate(path.read_bytes().splitlines(), start=1):
        try:
            row = strict.loads_json(line.decode("utf-8"))
        except ValueError as error:
            raise UsageError(f"{path}:{number}: not a JSON row: {error}; correct it") from None
        task = row.get("task") if isinstance(row, dict) else None
        if not isinstance(task, str) or task not in known:
            names = ", ".join(sorted(known))
            raise UsageError(f"{path}:{number}: the row's task is {task!r}; suite.yaml has {names}")
        rows.setdefault(task, []).append((number, row))
    if empty := sorted(known.keys() - rows.keys()):
        raise UsageError(f"{path} has no row of the task {empty[0]}, so it would measure nothing; add rows")
    return rows


def _task(path: Path, spec: Spec, rows: list[tuple[int, Json]]) -> Task:
    """A task with its rows rendered; those with `"shot": true` are the solved examples."""
    items: list[Item] = []
    shots: list[Item] = []
    render = renderer()
    for line, row in rows:
        try:
            item = _item(spec, line, row, render)
        except Exception as error:  # noqa: BLE001 - a template may fail in any way
            reason = (str(error).splitlines() or ["no reason given"])[0]
            raise UsageError(f"{path}:{line}: task {spec.task}: {reason}; correct the row or suite.yaml") from None
        (shots if row.get("shot") is True else items).append(item)
    if rows and not items:
        raise UsageError(f"{path}: the task {spec.task} has no row but solved examples; add rows to score")
    if len(shots) < spec.num_fewshot:
        raise UsageError(
            f'{path}: num_fewshot of {spec.task} is {spec.num_fewshot}, its rows with "shot": true are {len(shots)}'
        )
    if len({type(item.target) for item in [*items, *shots]}) > 1:
        raise UsageError(f"{path}: the task {spec.task} has targets of several kinds; make all rows alike")
    return Task(spec, items, shots[: spec.num_fewshot])


Render = Callable[[str, Json], str]


def renderer() -> Render:
    """Renders a template on a row, and cannot reach Python from there."""
    from jinja2 import StrictUndefined
    from jinja2.sandbox import ImmutableSandboxedEnvironment

    environment = ImmutableSandboxedEnvironment(undefined=StrictUndefined, keep_trailing_newline=True)
    compiled = functools.cache(environment.from_string)
    return lambda template, row: compiled(template).render(row)


def _item(spec: Spec, line: int, row: Json, render: Render) -> Item:
    def text(template: str) -> Any:
        """A column by its name, or a template: as the harness reads it, but that a name alone must be a column."""
        if template not in row and template.isidentifier():
            raise ValueError(f"no column {template!r}")
        return row[template] if template in row else render(template, row)

    if spec.kind == "code":
        problem = {name: _text(row.get(name), name) for name in PROBLEM}
        query = _text(text(spec.doc_to_text or "prompt"), "doc_to_text")
        return Item(line, query, "", [], "", problem)
    query = text(spec.doc_to_text)
    if not isinstance(query, str):
        raise ValueError(f"doc_to_text gives a {type(query).__name__}, not text")
    choices = _choices(spec, text) if spec.kind == "choice" else []
    return Item(line, query, _target(spec, text, choices), choices, render(spec.description, row), {})


def _text(value: Any, name: str) -> str:
    if not isinstance(value, str) or not value.strip():
        raise ValueError(f"{name} is {value!r}, not a text with something in it")
    return value


def _choices(spec: Spec, text: Callable[[str], Any]) -> list[str]:
    choices = spec.doc_to_choice
    if isinstance(choices, str):
        found = text(choices)
        choices = ast.literal_eval(found) if isinstance(found, str) else found
    if not isinstance(choices, list) or len(choices) < 2:
        raise ValueError(f"doc_to_choice gives {choices!r}, not two texts or more")
    return [_text(choice, "a choice") for choice in choices]


def _target(spec: Spec, text: Callable[[str], Any], choices: list[str]) -> str | int | list[int]:
    """The wanted answer: a text, or the place (or places) of the right choices."""
    found = spec.doc_to_target if isinstance(spec.doc_to_target, int) else text(spec.doc_to_target or "")
    if spec.kind != "choice":
        return _text(found, "doc_to_target")
    if isinstance(found, str):
        found = choices.index(found) if found in choices else ast.literal_eval(found)
    places = found if isinstance(found, list) else [found]
    if not places or any(type(place) is not int or not 0 <= place < len(choices) for place in places):
        raise ValueError(f"doc_to_target gives {found!r}, not the place of one of {len(choices)} choices (from 0)")
    if "mc2" in spec.metrics and (not isinstance(found, list) or len(set(places)) == len(choices)):
        raise ValueError(f"doc_to_target gives {found!r}; mc2 needs a list of places, and a choice that is wrong")
    if isinstance(found, list) and spec.num_fewshot:
        raise ValueError("a task with several right choices has no solved examples; set num_fewshot to 0")
    return found
