"""Prepared rows as the inspection reads them: what the user says, what is answered, and every text that is learnt."""

import json
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from slipway.data.tables import Table

LEARNT = ("train", "validation")  # the splits that training sees


@dataclass(frozen=True)
class Row:
    place: str  # file:row of the raw data
    source: tuple[str, int]  # the same, apart
    split: str
    turns: tuple[str, ...]  # what the user says
    answer: str
    label: str | None
    texts: tuple[str, ...]  # every text of the row, each once

    @property
    def asked(self) -> str:
        return "\n".join(self.turns)


def rows(prepared: Table) -> list[Row]:
    """The rows of all splits. A row with fields missing is still read, as far as it goes."""
    return [_row(place, record) for place, record in zip(prepared.places, _records(prepared), strict=True)]


def _records(prepared: Table) -> Iterator[dict[str, Any]]:
    columns = ("source_file", "source_row", "split", "messages", "prompt", "answer", "rejected", "label")
    values = [prepared.frame[name].tolist() for name in columns]
    return (dict(zip(columns, one, strict=True)) for one in zip(*values, strict=True))


def _row(place: str, record: dict[str, Any]) -> Row:
    said = _messages(record["messages"])
    prompt, answer = _text(record["prompt"]), _text(record["answer"])
    turns = tuple(content for role, content in said if role == "user") or (prompt,)
    spoken = [content for _, content in said] or [prompt]
    texts = [*spoken, answer, _text(record["rejected"]), _text(record["label"])]
    return Row(
        place=place,
        source=(_text(record["source_file"]), int(record["source_row"])),
        split=_text(record["split"]),
        turns=turns,
        answer=answer,
        label=_text(record["label"]) or None,
        texts=tuple(dict.fromkeys(text for text in texts if text)),
    )


def _text(value: Any) -> str:
    """A text; whatever else stands in its place (None, NaN) is none."""
    return value if isinstance(value, str) else ""


def _messages(value: Any) -> list[tuple[str, str]]:
    """(role, content) of every message that is one; the expectations say what is wrong with the others."""
    try:
        messages = json.loads(_text(value) or "[]")
    except (ValueError, RecursionError):
        return []
    listed = messages if isinstance(messages, list) else []
    return [(_text(m.get("role")), _text(m.get("content"))) for m in listed if isinstance(m, dict)]
