"""One shape for every row: chat, prompt/completion and preference rows all become a conversation."""

import hashlib
import json
import re
import unicodedata
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from slipway.data import formats

# A value that a spreadsheet would run when somebody opens an export. A dash, plus or @ alone begins many an honest text.
_FORMULA = re.compile(
    r"""[\s\u00ad\u061c\u180e\u200b-\u200f\u2060-\u2064\ufeff]*(?:
        =[-+@({\s]* (?: \d | \$?[a-z]{1,3}\$?\d+\b | [a-z_][\w.]*\s*[(|!] | ["'] )  # =1+1, =-A1, =HYPERLINK(…
        | [-+@][\d.+*/(-]* [a-z_][\w.]*[(|]                                            # @sum(1), +cmd|…
        | [-+@][^\n|]*\w\|(?:'[^'\n]*'|[^\s!]*)!                                       # -2+3+cmd|' /C calc'!A0
    )""",
    re.IGNORECASE | re.VERBOSE,
)
_CONTROL = re.compile(r"[\x00-\x08\x0b\x0c\x0e-\x1f\x7f-\x9f\u200b\u2028\u2029\u202a-\u202e\u2066-\u2069\ufeff]")
_TRAILING = re.compile(r"[ \t]+(?=\n|\Z)")


@dataclass(frozen=True)
class Message:
    role: str
    content: str


@dataclass(frozen=True)
class Row:
    """A conversation whose last message is the answer to learn, and where it came from."""

    file: str
    number: int
    shape: str
    messages: tuple[Message, ...]
    rejected: str | None = None
    label: str | None = None

    @property
    def answer(self) -> str:
        return self.messages[-1].content

    @property
    def prompt(self) -> str:
        """All text before the answer."""
        return "\n".join(message.content for message in self.messages[:-1])

    @property
    def system(self) -> str:
        """The system message, which many rows share; empty without one."""
        return self.messages[0].content if self.messages[0].role == "system" else ""

    @property
    def turns(self) -> tuple[str, ...]:
        """What the user says, turn by turn: what tells one row from another."""
        return tuple(message.content for message in self.messages if message.role == "user")

    @property
    def asked(self) -> str:
        return "\n".join(self.turns)

    @property
    def conversation(self) -> str:
        """The messages as canonical JSON: what identifies a row."""
        return json.dumps([{"role": m.role, "content": m.content} for m in self.messages], ensure_ascii=False)

    @property
    def id(self) -> str:
        return hashlib.sha256(self.conversation.encode()).hexdigest()[:16]

    def with_texts(self, change: Any) -> "Row":
        """The row with a function applied to every text of it."""
        return replace(
            self,
            messages=tuple(Message(m.role, change(m.content)) for m in self.messages),
            rejected=None if self.rejected is None else change(self.rejected),
            label=None if self.label is None else change(self.label),
        )


@dataclass(frozen=True)
class Drop:
    """A row that was dropped, or kept but altered, and why."""

    file: str
    number: int
    reason: str
    detail: str = ""
    content: str = field(default="", repr=False)
    action: str = "dropped"


class Misshapen(ValueError):
    """A row that is no conversation: the reason's name, then the detail."""

    def __init__(self, reason: str, detail: str) -> None:
        super().__init__(f"{reason}: {detail}")
        self.reason, self.detail = reason, detail


def _field(value: dict[str, Any], name: str) -> Any:
    if value.get(name) is None:
        raise Misshapen("missing_field", f"no {name}")
    return value[name]


def _message(value: Any, where: str) -> Message:
    if not isinstance(value, dict):
        raise Misshapen("wrong_type", f"{where} is a {type(value).__name__}, not an object")
    role, content = _field(value, "role"), _field(value, "content")
    if not isinstance(role, str) or not isinstance(content, str):
        raise Misshapen("wrong_type", f"{where}: role and content have to be text")
    return Message(role, content)


def _messages(value: Any, name: str, role: str) -> tuple[Message, ...]:
    """A list of messages, or one text spoken by `role`."""
    if isinstance(value, str):
        return (Message(role, value),)
    if not isinstance(value, list):
        raise Misshapen("wrong_type", f"{name} is a {type(value).__name__}, not text or a list of messages")
    return tuple(_message(item, f"{name}[{index}]") for index, item in enumerate(value))


def _check_formula(text: str, where: str) -> None:
    if _FORMULA.match(normal(text)):
        raise Misshapen("formula", f"{where} starts like a spreadsheet formula")


def _check_turns(messages: tuple[Message, ...]) -> None:
    """system? (user assistant)+ and every content with something in it."""
    if not messages:
        raise Misshapen("missing_field", "messages is empty")
    turns = messages[1:] if messages[0].role == "system" else messages
    for index, (message, due) in enumerate(zip(turns, ("user", "assistant") * len(turns), strict=False)):
        if message.role != due:
            place = index + len(messages) - len(turns)
            raise Misshapen("wrong_role", f"messages[{place}].role is {message.role[:40]!r}, expected {due!r}")
    if not turns or messages[-1].role != "assistant":
        raise Misshapen("missing_answer", f"messages[{len(messages) - 1}] is not the assistant's")
    for index, message in enumerate(messages):
        if not _CONTROL.sub("", message.content).strip():
            raise Misshapen("empty_content", f"messages[{index}].content is empty")
        _check_formula(message.content, f"messages[{index}].content")


def _label(value: dict[str, Any]) -> str | None:
    label = value.get("label")
    if label is None or label == "":
        return None
    if isinstance(label, (dict, list)):
        raise Misshapen("wrong_type", f"label is a {type(label).__name__}, not one value")
    _check_formula(str(label), "label")
    return str(label)


def _conversation(value: dict[str, Any]) -> tuple[str, tuple[Message, ...], str | None]:
    """(shape, messages, rejected answer) of any of the three shapes."""
    if "messages" in value:
        if not isinstance(value["messages"], list):
            raise Misshapen("wrong_type", f"messages is a {type(value['messages']).__name__}, not a list")
        return "chat", _messages(value["messages"], "messages", "user"), None
    if "chosen" in value or "rejected" in value:
        asked = _messages(value["prompt"], "prompt", "user") if value.get("prompt") is not None else ()
        chosen = _messages(_field(value, "chosen"), "chosen", "assistant")
        rejected = _messages(_field(value, "rejected"), "rejected", "assistant")
        return "preference", asked + chosen, rejected[-1].content if rejected else None
    if "prompt" in value or "completion" in value:
        asked = _messages(_field(value, "prompt"), "prompt", "user")
        return "completion", asked + _messages(_field(value, "completion"), "completion", "assistant"), None
    raise Misshapen("missing_field", "neither messages, nor prompt and completion, nor chosen and rejected")


def of_record(file: str, record: formats.Record) -> Row | Drop:
    """The row that a record holds, or why it holds none."""
    if record.reason is not None:
        return Drop(file, record.number, record.reason, record.detail, record.text)
    try:
        shape, messages, rejected = _conversation(record.value)
        _check_turns(messages)
        _check_formula(rejected or "", "rejected")
        return Row(file, record.number, shape, messages, rejected, _label(record.value))
    except Misshapen as error:
        return Drop(file, record.number, error.reason, error.detail, record.text)


def read(path: Path, largest: int) -> Iterator[Row | Drop]:
    """Every row of a source file, usable or not, in order."""
    for record in formats.records(path, largest):
        yield of_record(path.name, record)


def normal(text: str) -> str:
    """Text in one form: composed Unicode, \\n line ends, no control characters, no spaces at line ends or around."""
    text = unicodedata.normalize("NFC", text.replace("\r\n", "\n").replace("\r", "\n"))
    return _TRAILING.sub("", _CONTROL.sub("", text)).strip()
