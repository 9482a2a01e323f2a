"""Answers as clients of OpenAI read them: completions whole and in chunks, responses, models. Pure."""

import itertools
from collections.abc import Iterator, Sequence

import orjson

from slipway.artifacts import Json
from slipway.generating.jobs import Served
from slipway.serving.answering import Part
from slipway.serving.asking import Ask
from slipway.serving.checking import Answer
from slipway.serving.problems import Problem

# To JSON they are letters like others, to many a reader of lines an end: U+0085, U+2028, U+2029.
_LINE_ENDS = ((b"\xc2\x85", b"\\u0085"), (b"\xe2\x80\xa8", b"\\u2028"), (b"\xe2\x80\xa9", b"\\u2029"))
DONE = b"data: [DONE]\n\n"
PREFIXES = {"chat": "chatcmpl-", "text": "cmpl-", "response": "resp_"}


def event(value: Json, name: str | None = None) -> bytes:
    """One server-sent event."""
    said = b"event: " + name.encode() + b"\n" if name else b""
    data = orjson.dumps(value)
    for raw, escaped in _LINE_ENDS:
        data = data.replace(raw, escaped)
    return said + b"data: " + data + b"\n\n"


def usage(prompt: int, answer: int) -> Json:
    return {"prompt_tokens": prompt, "completion_tokens": answer, "total_tokens": prompt + answer}


def _head(ask: Ask, answer_id: str, created: int, kind: str) -> Json:
    return {
        "id": answer_id,
        "object": kind,
        "created": created,
        "model": ask.served.name,
        "system_fingerprint": f"fp_{ask.served.identity[:16]}",
    }


def completion(ask: Ask, answers: Sequence[Answer], answer_id: str, created: int) -> Json:
    """Both of OpenAI's completions, whole."""
    chat = ask.kind == "chat"
    choices = [_choice(chat, index, answer) for index, answer in enumerate(answers)]
    head = _head(ask, answer_id, created, "chat.completion" if chat else "text_completion")
    return head | {"choices": choices, "usage": usage(ask.prompt_tokens, sum(one.tokens for one in answers))}


def _choice(chat: bool, index: int, answer: Answer) -> Json:
    said: Json = {"text": answer.text}
    if chat:
        said = {"message": {"role": "assistant", "content": answer.text, "refusal": None}}
    return {"index": index, **said, "logprobs": None, "finish_reason": answer.finish}


class Chunks:
    """The events of a streamed completion."""

    def __init__(self, ask: Ask, answer_id: str, created: int) -> None:
        self._ask, self._chat = ask, ask.kind == "chat"
        kind = "chat.completion.chunk" if self._chat else "text_completion"
        self._head = _head(ask, answer_id, created, kind) | ({"usage": None} if ask.include_usage else {})
        self._begun: set[int] = set()

    def begin(self) -> Iterator[bytes]:
        return iter(())

    def part(self, part: Part) -> Iterator[bytes]:
        """A chat's answer begins with who speaks and ends with an empty part that says how."""
        piece, first = part.piece, part.index not in self._begun
        self._begun.add(part.index)
        if not self._chat:
            yield self._event(part.index, {"text": piece.text}, piece.finish)
            return
        if first:
            yield self._event(part.index, {"delta": {"role": "assistant", "content": ""}}, None)
        if piece.text:
            yield self._event(part.index, {"delta": {"content": piece.text}}, None)
        if piece.finish is not None:
            yield self._event(part.index, {"delta": {}}, piece.finish)

    def end(self, tokens: int) -> Iterator[bytes]:
        if self._ask.include_usage:
            yield event(self._head | {"choices": [], "usage": usage(self._ask.prompt_tokens, tokens)})
        yield DONE

    def failed(self, problem: Problem) -> Iterator[bytes]:
        """The last event of a stream that failed; nothing comes after it, no [DONE] either."""
        yield event(problem.body, "error")

    def _event(self, index: int, said: Json, finish: str | None) -> bytes:
        choice = {"index": index, **said, "logprobs": None, "finish_reason": finish}
        return event(self._head | {"choices": [choice]})


# --- the second version -------------------------------------------------------------------------------------------------


def response(ask: Ask, answer: Answer | None, answer_id: str, created: int, error: Json | None = None) -> Json:
    """OpenAI's response object, with one message; without an answer it is still being made, or has failed."""
    cut = answer is not None and answer.finish == "length"
    status = "failed" if error else "in_progress" if answer is None else "incomplete" if cut else "completed"
    tokens = answer.tokens if answer else 0
    counted = {"input_tokens": ask.prompt_tokens, "output_tokens": tokens, "total_tokens": ask.prompt_tokens + tokens}
    counted |= {"input_tokens_details": {"cached_tokens": 0}, "output_tokens_details": {"reasoning_tokens": 0}}  # type: ignore[dict-item]
    return {
        "id": answer_id,
        "object": "response",
        "created_at": created,
        "model": ask.served.name,
        "status": status,
        "error": error,
        "incomplete_details": {"reason": "max_output_tokens"} if cut else None,
        "output": [_message(answer, answer_id)] if answer else [],
        "usage": counted if answer else None,
        "parallel_tool_calls": False,
        "tool_choice": "none",
        "tools": [],
        "instructions": None,
        "metadata": {},
        "temperature": ask.choices[0].sampling.temperature,
        "top_p": ask.choices[0].sampling.top_p,
        "max_output_tokens": ask.choices[0].sampling.max_tokens,
    }


def _message(answer: Answer, answer_id: str) -> Json:
    return {
        "id": _message_id(answer_id),
        "type": "message",
        "role": "assistant",
        "status": "incomplete" if answer.finish == "length" else "completed",
        "content": [_text(answer.text)],
    }


_BEGUN: Json = {"status": "in_progress", "content": []}


def _text(text: str) -> Json:
    return {"type": "output_text", "text": text, "annotations": [], "logprobs": []}


def _message_id(answer_id: str) -> str:
    return "msg_" + answer_id.removeprefix("resp_").partition(".")[0]


class ResponseEvents:
    """The events of a streamed response."""

    def __init__(self, ask: Ask, answer_id: str, created: int) -> None:
        self._ask, self._id, self._created = ask, answer_id, created
        self._numbers, self._texts = itertools.count(), list[str]()
        self._finish: Answer | None = None
        self._tokens = 0

    def begin(self) -> Iterator[bytes]:
        """What there will be is told before any of it: clients put the pieces into it."""
        for kind in ("response.created", "response.in_progress"):
            yield self._event(kind, response=response(self._ask, None, self._id, self._created))
        item = {"id": _message_id(self._id), "type": "message", "role": "assistant"}
        yield self._event("response.output_item.added", output_index=0, item=item | _BEGUN)
        yield self._event("response.content_part.added", **self._place, part=_text(""))

    def part(self, part: Part) -> Iterator[bytes]:
        self._texts.append(part.piece.text)
        self._tokens += part.piece.tokens
        if part.piece.text:
            yield self._event("response.output_text.delta", **self._place, delta=part.piece.text, logprobs=[])
        if part.piece.finish is not None:
            self._finish = Answer("".join(self._texts), self._tokens, part.piece.finish)

    def end(self, tokens: int) -> Iterator[bytes]:
        yield self._event("response.output_text.done", **self._place, text="".join(self._texts), logprobs=[])
        whole = response(self._ask, self._finish, self._id, self._created)
        (item,) = whole["output"]
        yield self._event("response.content_part.done", **self._place, part=item["content"][0])
        yield self._event("response.output_item.done", output_index=0, item=item)
        yield self._event(f"response.{whole['status']}", response=whole)

    def failed(self, problem: Problem) -> Iterator[bytes]:
        error = {"code": problem.code, "message": str(problem)}
        yield self._event("response.failed", response=response(self._ask, None, self._id, self._created, error))

    @property
    def _place(self) -> Json:
        return {"item_id": _message_id(self._id), "output_index": 0, "content_index": 0}

    def _event(self, kind: str, **said: object) -> bytes:
        return event({"type": kind, "sequence_number": next(self._numbers), **said}, kind)


def models(served: Sequence[Served], created: int) -> Json:
    """Every name by which a version is known: the model's own means the first of it."""
    named = {one.name: one for one in served} | {one.model: one for one in reversed(served)}
    return {"object": "list", "data": [model(name, one, created) for name, one in sorted(named.items())]}


def model(name: str, one: Served, created: int) -> Json:
    """One of the names, and whom it means."""
    said: Json = {
        "id": name, "object": "model", "created": created, "owned_by": "slipway", "version": one.version,
        "identity": one.identity, "context": one.context,
    }  # fmt: skip
    return said | ({"members": one.members} if one.members else {})
