"""Texts and conversations to tokens and back, as training and evaluation wrote them."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from slipway.artifacts import Json
from slipway.data.rows import Message
from slipway.data.template import Template
from slipway.errors import StageError, UsageError
from slipway.evaluation import inference
from slipway.evaluation.testset import Row, TestSet

if TYPE_CHECKING:
    from transformers import PreTrainedModel


_KEYS = ("role", "content")


class Prompts:
    """One model's tokenizer and chat template."""

    def __init__(self, folder: Path) -> None:
        self._template = Template(folder)
        # One to read prompts, one to write answers. Reading changes nothing in a tokenizer once it has read the
        # first text, so that two threads may read; writing is the engine's thread alone.
        self._reads, self._writes = inference.load_tokenizer(folder), inference.load_tokenizer(folder)

    def encode(self, prompt: str | Sequence[Json]) -> list[int]:
        """A text as it is, or messages through the chat template; UsageError where a template refuses them."""
        text = prompt if isinstance(prompt, str) else self._rendered(prompt)
        try:
            text.encode()
        except UnicodeEncodeError as error:
            half = ord(text[error.start])
            raise UsageError(f"the text holds half of a character (U+{half:04X}); write the whole one") from None
        return self.tokens(text)

    def tokens(self, text: str) -> list[int]:
        return list(self._reads(text, add_special_tokens=False)["input_ids"])

    def tokens_of_answer(self, text: str) -> list[int]:
        """For the thread that writes answers."""
        return list(self._writes(text, add_special_tokens=False)["input_ids"])

    def decode(self, tokens: list[int]) -> str:
        return str(self._writes.decode(tokens, skip_special_tokens=True))

    def stops(self, model: "PreTrainedModel") -> set[int]:
        """The tokens that end an answer, found as evaluation finds them: from an answer that the template writes."""
        messages = [{"role": "user", "content": "a"}, {"role": "assistant", "content": "b"}]
        asked = self._template.render([Message("user", "a")], True)
        row = Row("stops", json.dumps(messages), asked, "b", None)
        (example,) = inference.encode(self._reads, TestSet([row], 1, "", lambda answer: None), None)
        return inference.stop_tokens(self._reads, model, example)

    def _rendered(self, messages: Sequence[Json]) -> str:
        turns = [_message(at, message) for at, message in enumerate(messages, 1)]
        if not turns:
            raise UsageError("messages is empty; send at least one message")
        for at, turn in enumerate(turns, 1):
            for token in sorted(self._template.special):
                if token in turn.content:  # it would forge the end of a turn, as in training
                    raise UsageError(f"message {at} contains {token!r}, a special token of the model; leave it out")
        try:
            return self._template.render(turns, True)
        except StageError as error:
            raise UsageError(str(error).partition("; change those rows")[0]) from None


def _message(at: int, message: Any) -> Message:
    """One message; its content is text, or OpenAI's list of parts that are all text."""
    role = message.get("role") if isinstance(message, dict) else None
    content = message.get("content") if isinstance(message, dict) else None
    if isinstance(content, list) and all(isinstance(part, dict) and part.get("type") == "text" for part in content):
        content = "".join(str(part.get("text", "")) for part in content)
    if isinstance(message, dict) and (odd := sorted(k for k in message if k not in _KEYS and message[k] is not None)):
        raise UsageError(f"message {at} has {odd[0]!r:.60}, which no template here gets; leave it out")
    if not isinstance(role, str) or not isinstance(content, str):
        raise UsageError(f"message {at} must have a role and a content, both text")
    return Message(role, content)
