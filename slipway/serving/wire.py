"""What clients send, typed and strict. A field that would change the answer and is not supported is refused by name.

Fields that OpenAI knows and that change no answer here (`metadata`, `store`, …) are let through. Unsupported ones may stand
there as long as they say nothing: null, or what they are by default.
"""

from typing import Annotated, Any, ClassVar, Literal, TypeVar

from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from slipway.artifacts import Json
from slipway.serving import problems

_HARMLESS = frozenset(
    [
        *("metadata", "store", "service_tier", "safety_identifier", "prompt_cache_key", "prompt_cache_retention"),
        *("prediction", "parallel_tool_calls"),
    ]
)
# Unsupported: what each may be without asking for anything.
_NEUTRAL: Json = {
    "logprobs": (False,),
    "top_logprobs": (0,),
    "logit_bias": ({},),
    "tools": ([],),
    "tool_choice": ("none", "auto"),
    "functions": ([],),
    "function_call": ("none", "auto"),
    "response_format": ({"type": "text"},),
    "modalities": (["text"],),
    "echo": (False,),
    "suffix": ("",),
    "best_of": (1,),
    "background": (False,),
    "include": ([],),
    "text": ({"format": {"type": "text"}},),
    "truncation": ("disabled",),
}

# Of a message that came from here and goes back as a part of a longer conversation: what says nothing.
_ECHOED: Json = {"type": ("message",), "annotations": ([],), "logprobs": ([],), "tool_calls": ([],)}
_NAMES_OF_ECHOES = frozenset(["id", "status"])

Request = TypeVar("Request", bound=BaseModel)
Penalty = Annotated[float, Field(ge=-2, le=2, allow_inf_nan=False)]
Tokens = Annotated[int, Field(ge=1)]


class Said(BaseModel):
    """A message or a part of one, as somebody wrote it or as it came from here."""

    model_config = ConfigDict(extra="forbid", strict=True)

    @model_validator(mode="before")
    @classmethod
    def _without_nothing(cls, given: Any) -> Any:
        if not isinstance(given, dict):
            return given
        known = cls.model_fields
        return {key: value for key, value in given.items() if key in known or not _is_echo(key, value)}


class Part(Said):
    """A part of a message; text alone."""

    type: Literal["text", "input_text", "output_text"]
    text: str


class Message(Said):
    """One turn of a conversation."""

    role: Literal["system", "developer", "user", "assistant"]
    content: str | list[Part]

    @property
    def plain(self) -> Json:
        """As chat templates know it: a developer is a system."""
        content = self.content if isinstance(self.content, str) else "".join(part.text for part in self.content)
        return {"role": "system" if self.role == "developer" else self.role, "content": content}


class StreamOptions(BaseModel):
    """How a stream ends."""

    model_config = ConfigDict(extra="forbid", strict=True)

    include_usage: bool = False
    include_obfuscation: bool = False  # what it would hide, packet sizes, is the gateway's to hide


class Common(BaseModel):
    """What every kind of request has."""

    model_config = ConfigDict(extra="forbid", strict=True)

    model: Annotated[str, Field(min_length=1, max_length=200)] | None = Field(
        default=None, description="What should answer; the first that is served here, where none is named"
    )
    temperature: Annotated[float, Field(ge=0, le=2, allow_inf_nan=False)] = 1.0
    top_p: Annotated[float, Field(gt=0, le=1, allow_inf_nan=False)] = 1.0
    top_k: Annotated[int, Field(ge=0, le=1_000_000)] = 0
    seed: Annotated[int, Field(ge=-(2**63), lt=2**63)] | None = None
    stream: bool = False
    user: Annotated[str, Field(max_length=512)] | None = None


class Sampled(Common):
    """What both of OpenAI's completions have."""

    max_tokens: Tokens | None = None
    n: Annotated[int, Field(ge=1)] = 1
    stop: str | list[str] = []
    presence_penalty: Penalty = 0.0
    frequency_penalty: Penalty = 0.0
    stream_options: StreamOptions = StreamOptions()

    @property
    def stops(self) -> tuple[str, ...]:
        return (self.stop,) if isinstance(self.stop, str) else tuple(self.stop)


class ChatRequest(Sampled):
    """POST /v1/chat/completions."""

    model_config = ConfigDict(title="Chat completion")

    messages: Annotated[list[Message], Field(min_length=1)]
    max_completion_tokens: Tokens | None = None

    @property
    def characters(self) -> int:
        return sum(len(one.plain["content"]) for one in self.messages)


class CompletionRequest(Sampled):
    """POST /v1/completions."""

    model_config = ConfigDict(title="Text completion")

    prompt: str | Annotated[list[str], Field(min_length=1)]
    max_tokens: Tokens | None = 16  # as OpenAI's

    @property
    def characters(self) -> int:
        return len(self.prompt) if isinstance(self.prompt, str) else sum(map(len, self.prompt))


class ResponsesRequest(Common):
    """POST /v2/responses."""

    model_config = ConfigDict(title="Response")

    input: str | Annotated[list[Message], Field(min_length=1)]
    instructions: str | None = None
    max_output_tokens: Tokens | None = None

    @property
    def characters(self) -> int:
        asked = len(self.input) if isinstance(self.input, str) else sum(len(one.plain["content"]) for one in self.input)
        return asked + len(self.instructions or "")


class FeedbackRequest(BaseModel):
    """POST /v1/feedback: what somebody thinks of an answer."""

    model_config = ConfigDict(extra="forbid", strict=True, title="Feedback")
    LABELS: ClassVar[dict[str, float]] = {"correct": 1.0, "incorrect": 0.0}

    id: Annotated[str, Field(min_length=1, max_length=200, description="The answer's id")]
    score: Annotated[float, Field(ge=0, le=1, allow_inf_nan=False)] | None = None
    label: Annotated[str, Field(min_length=1, max_length=64)] | None = None
    comment: Annotated[str, Field(max_length=4000)] | None = None
    user: Annotated[str, Field(max_length=512)] | None = None

    @property
    def correct(self) -> bool | None:
        """Whether the answer was right; None where nothing says so."""
        score = self.score if self.score is not None else self.LABELS.get(self.label or "")
        return None if score is None else score >= 0.5


def read(kind: type[Request], body: Json) -> Request:
    """A request, or the Problem that names its first wrong field."""
    if kind is FeedbackRequest and "id" not in body and "request_id" in body:  # as some call it
        body = {("id" if key == "request_id" else key): value for key, value in body.items()}
    given = {key: value for key, value in body.items() if value is not None and not _says_nothing(kind, key, value)}
    if kind is CompletionRequest and "prompt" in given and not _is_text(given["prompt"]):
        raise problems.unsupported("prompt", "as tokens is not supported; send text")
    try:
        return kind.model_validate(given)
    except ValidationError as error:
        raise _problem(error) from None


def _says_nothing(kind: type[BaseModel], key: str, value: Any) -> bool:
    """Whether a field may be left out; raises for one that would change the answer."""
    if key in kind.model_fields:
        return False
    if key in _HARMLESS or any(type(value) is type(one) and value == one for one in _NEUTRAL.get(key, ())):
        return True  # by type too: to OpenAI, `logprobs: 0` asks for something and `false` does not
    shown = ascii(key)[1:-1][:60]
    raise problems.unsupported(shown, "is not supported" if key in _NEUTRAL else "is not known here")


def _is_echo(key: str, value: Any) -> bool:
    """Whether a field of a message stands there only because the message was an answer of ours."""
    return value is None or key in _NAMES_OF_ECHOES or value in _ECHOED.get(key, ())


def _is_text(prompt: Any) -> bool:
    return isinstance(prompt, str) or (isinstance(prompt, list) and all(isinstance(one, str) for one in prompt))


def _problem(error: ValidationError) -> problems.Problem:
    """The first thing that is wrong, by its place; never what was sent."""
    found = error.errors(include_input=False, include_url=False)
    # Of a field that may be two things, what is wrong with the one that it nearly was says most.
    first = max(found, key=lambda one: len(one["loc"])) if found[0]["loc"][:1] == found[-1]["loc"][:1] else found[0]
    where = ".".join(str(part) for part in first["loc"] if not _is_branch(part))[:120]
    if first["type"] == "missing":
        raise problems.invalid(f"`{where}` is missing", where, "missing_required_parameter")
    if first["type"] == "extra_forbidden":
        return problems.unsupported(ascii(where)[1:-1])
    return problems.invalid(f"`{where}`: {first['msg']}", where or None)


def _is_branch(part: str | int) -> bool:
    """pydantic names the branch of a union; nobody who sends JSON knows those names."""
    return isinstance(part, str) and ("[" in part or part in ("str", "Part"))
