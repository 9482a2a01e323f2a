"""A base model's tokenizer and chat template, without the transformers library: conversations to tokens and loss."""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import jinja2
from jinja2 import nodes
from jinja2.ext import Extension, loopcontrols
from jinja2.sandbox import ImmutableSandboxedEnvironment
from tokenizers import Tokenizer

from slipway import strict
from slipway.data.rows import Message, Row
from slipway.errors import StageError

# For a base without a chat template. Its answers end with the tokenizer's end-of-text token.
FALLBACK = (
    "{{ bos_token }}{% for message in messages %}"
    "{{ message.role | capitalize }}{{ ':\\n' + message.content }}{{ eos_token if message.role == 'assistant' }}"
    "{{ '\\n\\n' if not loop.last or add_generation_prompt }}"
    "{% endfor %}{% if add_generation_prompt %}{{ 'Assistant:\\n' }}{% endif %}"
)


class _Generation(Extension):
    """`{% generation %}`: marks the assistant's text for transformers; here only its body counts."""

    tags = {"generation"}  # noqa: RUF012 - the name and type that jinja2 asks for

    def parse(self, parser: Any) -> list[nodes.Node]:
        next(parser.stream)
        return list(parser.parse_statements(("name:endgeneration",), drop_needle=True))


@dataclass(frozen=True)
class Encoded:
    """A row in tokens: which of them carry loss, and the text that asks for the last answer."""

    row: Row
    prompt: str
    input_ids: list[int]
    loss: list[bool]
    merged: bool  # a token spans the edge of prompt and answer, so generation starts a little differently


class Template:
    """A base folder's way to write conversations as tokens."""

    def __init__(self, base: Path) -> None:
        if not (base / "tokenizer.json").is_file():
            raise StageError(f"{base} has no tokenizer.json; choose a base with a fast tokenizer (fetch.base)")
        try:
            self.tokenizer = Tokenizer.from_file(str(base / "tokenizer.json"))
        except Exception as error:  # noqa: BLE001 - the library raises plain Exception
            raise StageError(f"{base / 'tokenizer.json'} is not a tokenizer: {error}; fetch the base again") from None
        self.tokenizer.no_truncation()
        self.tokenizer.no_padding()
        config = _settings(base, "tokenizer_config.json")
        self.special = {t.content for t in self.tokenizer.get_added_tokens_decoder().values() if t.special}
        source = _source(base, config)
        self.is_fallback = source is None
        self.names = _names(base, self.tokenizer)
        if source is None:
            self._check_end(base)
            if not self._begins_with_bos():
                self.names["bos_token"] = ""
        self.template = _compiled(FALLBACK if source is None else source, base)

    def _begins_with_bos(self) -> bool:
        """Whether the tokenizer itself would put its beginning-of-text token before a text."""
        tokens = self.tokenizer.encode("a").tokens
        return bool(tokens) and tokens[0] == self.names["bos_token"]

    def _check_end(self, base: Path) -> None:
        """Without an end that is one token, a tuned model would never learn to stop."""
        end = self.names["eos_token"]
        if not end or len(self.tokenizer.encode(end, add_special_tokens=False).ids) != 1:
            what = f"the end-of-text token {end!r} is not one token of its tokenizer" if end else "no end-of-text token"
            raise StageError(
                f"{base} has no chat template and {what}; name an eos_token that tokenizer.json has in its "
                f"tokenizer_config.json, add a chat_template.jinja, or choose another base (fetch.base)"
            )

    def render(self, messages: Sequence[Message], ask: bool) -> str:
        """The conversation as text; with `ask`, up to where the assistant's next answer begins."""
        plain = [{"role": message.role, "content": message.content} for message in messages]
        try:
            return self.template.render(messages=plain, add_generation_prompt=ask, **self.names)
        except jinja2.TemplateError as error:
            raise StageError(
                f"the base's chat template refuses a conversation of {', '.join(m.role for m in messages)}: {error}; "
                f"change those rows or choose another base"
            ) from None

    def special_in(self, row: Row) -> str | None:
        """A special token that a row's own text contains: it would forge the end of a turn."""
        texts = [message.content for message in row.messages]
        return next((token for token in sorted(self.special) if any(token in text for text in texts)), None)

    def _answers(self, row: Row, text: str) -> list[tuple[int, int]]:
        """Where in the rendered text each of the assistant's turns stands, its end-of-turn token included."""
        spans = []
        for index, message in enumerate(row.messages):
            if message.role == "assistant":
                before, after = self.render(row.messages[:index], True), self.render(row.messages[: index + 1], False)
                if text.startswith(before) and text.startswith(after.rstrip()):
                    spans.append((len(before), len(after.rstrip())))
        return spans

    def encode(self, rows: Sequence[Row]) -> list[Encoded]:
        """Rows as tokens; loss on what the assistant says, up to and including its end of turn."""
        texts = [self.render(row.messages, False) for row in rows]
        # The template writes every special token itself; adding them again would double them.
        encodings = self.tokenizer.encode_batch(texts, add_special_tokens=False)
        return [self._encoded(row, text, enc) for row, text, enc in zip(rows, texts, encodings, strict=True)]

    def _encoded(self, row: Row, text: str, encoding: Any) -> Encoded:
        prompt = self.render(row.messages[:-1], True)
        spans = self._answers(row, text)
        if not spans or spans[-1][0] != len(prompt):
            raise StageError(
                f"the base's chat template does not write {row.file}:{row.number} as prompt, then answer; "
                f"choose another base or give it a template without such tricks"
            )
        # By character offsets: right also where prompt and answer tokenised apart would give other tokens.
        offsets = encoding.offsets
        loss = [any(end > start and end > low and start < high for low, high in spans) for start, end in offsets]
        merged = any(start < len(prompt) < end for start, end in offsets)
        return Encoded(row, prompt, encoding.ids, loss, merged)


def _token(value: Any) -> str:
    """A special token's text: tokenizer_config.json writes it plainly or as an object."""
    return str(value["content"]) if isinstance(value, dict) else str(value or "")


def _settings(base: Path, name: str) -> dict[str, Any]:
    """A settings file of the base; a base does not have to have each."""
    found = strict.read_json(base / name) if (base / name).is_file() else {}
    if not isinstance(found, dict):
        raise StageError(f"{base / name} is not a JSON object; fetch the base again or choose another (fetch.base)")
    return found


def _names(base: Path, tokenizer: Tokenizer) -> dict[str, str]:
    """Special tokens by name, from the first file that tells: by text, else by number."""
    by_text = [_settings(base, name) for name in ("tokenizer_config.json", "special_tokens_map.json")]
    by_number = [_settings(base, name) for name in ("generation_config.json", "config.json")]
    names = {}
    for name in ("bos_token", "eos_token", "pad_token", "unk_token"):
        told = [_token(found.get(name)) for found in by_text]
        told += [_numbered(found.get(f"{name}_id"), tokenizer) for found in by_number]
        names[name] = next(filter(None, told), "")
    return names


def _numbered(value: Any, tokenizer: Tokenizer) -> str:
    """The token of a number, or of the first in a list; empty where the tokenizer has none."""
    first = value[0] if isinstance(value, list) and value else value
    known = isinstance(first, int) and not isinstance(first, bool) and first >= 0
    return (tokenizer.id_to_token(first) or "") if known else ""


def _source(base: Path, config: dict[str, Any]) -> str | None:
    """The chat template's text, wherever the base keeps it."""
    if (base / "chat_template.jinja").is_file():
        return (base / "chat_template.jinja").read_text(encoding="utf-8")
    found = config.get("chat_template")
    if isinstance(found, list):  # several named ones
        found = next((item["template"] for item in found if item.get("name") == "default"), None)
    return found if isinstance(found, str) else None


def _refuse(message: str) -> None:
    raise jinja2.TemplateError(message)


def _tojson(value: Any, indent: int | None = None) -> str:
    return json.dumps(value, ensure_ascii=False, indent=indent)


def _compiled(source: str, base: Path) -> jinja2.Template:
    """A template in a sandbox, with what transformers offers it except the clock: no output may depend on that."""
    environment = ImmutableSandboxedEnvironment(
        trim_blocks=True, lstrip_blocks=True, extensions=[_Generation, loopcontrols]
    )
    environment.filters["tojson"] = _tojson
    environment.globals["raise_exception"] = _refuse
    try:
        return environment.from_string(source)
    except jinja2.TemplateError as error:
        raise StageError(f"the chat template in {base} is broken: {error}; choose another base") from None
