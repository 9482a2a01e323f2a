"""From a request to what is asked of the engine: which version, which tokens, how many, chosen how. Limits name their numbers."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Literal, TypeVar

from slipway.artifacts import Json
from slipway.errors import UsageError
from slipway.generating.jobs import Engine, Sampling, Served
from slipway.serving import problems
from slipway.serving.config import Limits
from slipway.serving.wire import ChatRequest, Common, CompletionRequest, Message, ResponsesRequest, Sampled

Kind = Literal["chat", "text", "response"]
Of = TypeVar("Of", bound=Common)
MOST_CHARACTERS_A_TOKEN = 40  # no text has more on average; what cannot fit is not even tokenised
LONG = 4000  # characters: more take a tokenizer longer than others should stand still for


@dataclass(frozen=True)
class Choice:
    """One answer to make."""

    prompt: tuple[int, ...]
    sampling: Sampling


@dataclass(frozen=True)
class Ask:
    """All that one request asks."""

    kind: Kind
    served: Served
    choices: tuple[Choice, ...]
    prompt_tokens: int
    stream: bool
    include_usage: bool
    user: str | None
    said: tuple[str, ...]  # the prompts as text, for the logs that may keep them


class Names:
    """What a client may call a version that is served here."""

    def __init__(self, served: Sequence[Served], wanted: Mapping[str, Served]) -> None:
        self._known = dict(wanted)
        for one in reversed(served):  # the first of a model is what its bare name means
            self._known |= {one.name: one, one.model: one}
        self.default = served[0]

    def find(self, name: str | None) -> Served:
        if name is None:
            return self.default
        if (found := self._known.get(name)) is not None:
            return found
        shown, there = ascii(name)[1:-1][:80], ", ".join(sorted(self._known))
        raise problems.Problem(
            404, "model_not_found", f"the model {shown} is not served here; there are {there}", "model"
        )


def sent_as(model: str | None, asked: Of, names: Names) -> Of:
    """A request as the gateway sent it: for the model that it counts the answer for, and never for another."""
    if model is None:
        return asked
    if (found := names.find(asked.model or model)).model != model:
        raise problems.Problem(
            404,
            "model_not_found",
            f"{found.name} is not the model {ascii(model)[1:-1][:80]} that this was sent to; ask the gateway for it by its own name",
            "model",
        )
    return asked if asked.model else asked.model_copy(update={"model": model})


def of_chat(request: ChatRequest, engine: Engine, names: Names, limits: Limits) -> Ask:
    """A conversation's next turn."""
    served = names.find(request.model)
    asked = _most(request.max_completion_tokens, request.max_tokens)
    field = "max_completion_tokens" if request.max_completion_tokens else "max_tokens"
    tokens = _conversation(engine, served, request.messages, limits, "messages")
    said = ("\n".join(f"{one.role}: {one.plain['content']}" for one in request.messages),)
    return _ask("chat", request, served, [tokens], said, asked, field, limits)


def of_completion(request: CompletionRequest, engine: Engine, names: Names, limits: Limits) -> Ask:
    """A text's continuation, or several texts'."""
    served = names.find(request.model)
    texts = (request.prompt,) if isinstance(request.prompt, str) else tuple(request.prompt)
    if len(texts) > limits.messages:
        raise problems.invalid(f"`prompt` has {len(texts)} texts, at most {limits.messages} are taken", "prompt")
    _check_count(request.n * len(texts), limits)  # before the work of reading them
    tokens = [_encoded(engine, served, text, "prompt") for text in texts]
    return _ask("text", request, served, tokens, texts, request.max_tokens, "max_tokens", limits)


def of_response(request: ResponsesRequest, engine: Engine, names: Names, limits: Limits) -> Ask:
    """The second version's: one answer to a text or a conversation."""
    served = names.find(request.model)
    asked = [Message(role="user", content=request.input)] if isinstance(request.input, str) else request.input
    before = [Message(role="system", content=request.instructions)] if request.instructions else []
    tokens = _conversation(engine, served, [*before, *asked], limits, "input")
    said = ("\n".join(f"{one.role}: {one.plain['content']}" for one in [*before, *asked]),)
    sampled = Sampled(
        model=request.model, temperature=request.temperature, top_p=request.top_p, top_k=request.top_k,
        seed=request.seed, stream=request.stream, user=request.user,
    )  # fmt: skip
    return _ask("response", sampled, served, [tokens], said, request.max_output_tokens, "max_output_tokens", limits)


def _most(first: int | None, second: int | None) -> int | None:
    """Both names of one thing: where both are said, the smaller one."""
    said = [one for one in (first, second) if one is not None]
    return min(said) if said else None


def _conversation(
    engine: Engine, served: Served, messages: Sequence[Message], limits: Limits, field: str
) -> tuple[int, ...]:
    if len(messages) > limits.messages:
        raise problems.invalid(f"`{field}` has {len(messages)} messages, at most {limits.messages} are taken", field)
    return _encoded(engine, served, [one.plain for one in messages], field)


def _encoded(engine: Engine, served: Served, prompt: str | Sequence[Json], field: str) -> tuple[int, ...]:
    characters = len(prompt) if isinstance(prompt, str) else sum(len(one["content"]) for one in prompt)
    if characters > (most := served.context * MOST_CHARACTERS_A_TOKEN):
        raise problems.invalid(
            f"`{field}` has {characters:,} characters, more than the {most:,} that may fit "
            f"into the {served.context:,} tokens of {served.name}; send less",
            field,
            "context_length_exceeded",
        )
    try:
        tokens = engine.encode(served, prompt)
    except UsageError as error:  # what the template says of these messages
        raise problems.invalid(f"`{field}`: {error}", field) from None
    if not tokens:
        raise problems.invalid(f"`{field}` is empty; send some text", field)
    return tokens


def _ask(
    kind: Kind,
    request: Sampled,
    served: Served,
    prompts: Sequence[tuple[int, ...]],
    said: tuple[str, ...],
    asked: int | None,
    field: str,
    limits: Limits,
) -> Ask:
    _check_count(request.n * len(prompts), limits)
    sampling = Sampling(
        max_tokens=0,  # each prompt leaves its own room
        temperature=request.temperature,
        top_p=request.top_p,
        top_k=request.top_k,
        seed=request.seed,
        stop=_stops(request.stops, limits),
        presence_penalty=request.presence_penalty,
        frequency_penalty=request.frequency_penalty,
    )
    choices = tuple(
        Choice(
            prompt, _numbered(replace(sampling, max_tokens=_room(served, len(prompt), asked, field, limits)), number)
        )
        for prompt in prompts
        for number in range(request.n)
    )
    usage = request.stream_options.include_usage
    return Ask(kind, served, choices, sum(map(len, prompts)), request.stream, usage, request.user, said)


def _check_count(count: int, limits: Limits) -> None:
    if count > limits.choices:
        raise problems.invalid(
            f"{count} answers are asked for (`n` times prompts), at most {limits.choices} are made", "n"
        )


def _stops(stops: tuple[str, ...], limits: Limits) -> tuple[str, ...]:
    if len(stops) > limits.stop_sequences:
        raise problems.invalid(f"`stop` has {len(stops)} sequences, at most {limits.stop_sequences} are taken", "stop")
    if any(not 1 <= len(stop) <= 200 for stop in stops):
        raise problems.invalid("`stop` has a sequence that is empty or longer than 200 characters", "stop")
    return stops


def _numbered(sampling: Sampling, number: int) -> Sampling:
    """Several sampled answers to one prompt differ, also where a seed makes each of them the same every time."""
    if sampling.seed is None or not number:
        return sampling
    return replace(sampling, seed=(sampling.seed + number) % 2**63)


def _room(served: Served, prompt: int, asked: int | None, field: str, limits: Limits) -> int:
    """The most tokens that an answer may have."""
    left = served.context - prompt
    if asked is not None and asked > limits.answer_tokens:
        raise problems.invalid(f"`{field}` is {asked:,}, at most {limits.answer_tokens:,} tokens are made here", field)
    if left < (asked or 1):
        wanted = f" and `{field}` asks for {asked:,}" if asked else ""
        raise problems.invalid(
            f"the prompt has {prompt:,} tokens{wanted}; {served.name} holds {served.context:,} together; send less",
            field if asked and left >= 1 else None,
            "context_length_exceeded",
        )
    return asked or min(left, limits.default_answer_tokens)
