"""Answers of the base and the tuned model to the same message, picked so that a reader sees both kinds."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

MAX_CHARACTERS = 1200


@dataclass(frozen=True)
class AnswerLine:
    text: str
    expected: bool  # the expected answer has this very line


@dataclass(frozen=True)
class Answer:
    lines: list[AnswerLine]
    exact: bool


@dataclass(frozen=True)
class Sample:
    """One test row: what was asked, what was expected, what each model said."""

    id: str
    label: str | None
    message: str | None
    expected: str
    answers: dict[str, Answer]  # base | tuned

    @property
    def right(self) -> bool:
        return self.answers["tuned"].exact


def _cut(text: str) -> str:
    return text if len(text) <= MAX_CHARACTERS else text[:MAX_CHARACTERS].rstrip() + " …"


def _answer(prediction: str, expected: str, exact: bool) -> Answer:
    known = {line.strip() for line in expected.splitlines()}
    shown = _cut(prediction).splitlines() or ["(nothing)"]
    return Answer([AnswerLine(line, line.strip() in known) for line in shown], exact)


def _message(row: Mapping[str, Any] | None) -> str | None:
    """The customer's last message of a prepared row."""
    if row is None or not row.get("messages"):
        return None
    asked = [m["content"] for m in json.loads(row["messages"]) if m["role"] == "user"]
    return _cut(asked[-1]) if asked else None


def samples(predictions: Sequence[Mapping[str, Any]], test_rows: Sequence[Mapping[str, Any]]) -> list[Sample]:
    """Every test row that the tuned model answered, in the order of ids."""
    rows = {row["id"]: row for row in test_rows}
    by_id: dict[str, dict[str, Mapping[str, Any]]] = {}
    for prediction in predictions:
        by_id.setdefault(prediction["id"], {})[prediction["model"]] = prediction
    return [
        Sample(
            id=key,
            label=models["tuned"]["label"],
            message=_message(rows.get(key)),
            expected=_cut(models["tuned"]["answer"]),
            answers={
                name: _answer(models[name]["prediction"] or "", models[name]["answer"], bool(models[name]["exact"]))
                for name in ("base", "tuned")
                if name in models
            },
        )
        for key, models in sorted(by_id.items())
        if "tuned" in models
    ]


def pick(found: Sequence[Sample], right: bool, how_many: int) -> list[Sample]:
    """A few of the right or wrong ones: one of each label first, so that they differ."""
    wanted = [sample for sample in found if sample.right is right]
    labels: set[str | None] = set()
    first: list[Sample] = []
    others: list[Sample] = []
    for sample in wanted:
        (others if sample.label in labels else first).append(sample)
        labels.add(sample.label)
    return [*first, *others][:how_many]
