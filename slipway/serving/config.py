"""configs/serving.yaml: how one replica serves. Nothing but `composites` changes an answer, only whether and when it is given."""

from datetime import date
from pathlib import Path
from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator, model_validator

from slipway import strict
from slipway.errors import UsageError
from slipway.generating.composite_config import Composites

FILE = Path("configs") / "serving.yaml"

Count = Annotated[int, Field(ge=1)]
Seconds = Annotated[float, Field(gt=0, allow_inf_nan=False)]
Share = Annotated[float, Field(ge=0, le=1, allow_inf_nan=False)]


class Section(BaseModel):
    """A part of the file: every key is known, and none changes while the replica runs."""

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True)


class Limits(Section):
    """What a request may be before anybody looks at what it asks."""

    body_bytes: Count = Field(description="The largest body; more is 413")
    body_seconds: Seconds = Field(description="How long a body may take to arrive; longer is 408")
    header_count: Count = Field(description="The most header lines; more is 431")
    header_bytes: Count = Field(description="The most bytes of request line and headers; more is 431")
    header_seconds: Seconds = Field(description="How long the headers may take to arrive; longer is 408")
    idle_seconds: Seconds = Field(description="How long a connection may wait for its next request")
    connections: Count = Field(description="The most connections at once; more are 429 and closed")
    json_depth: Count = Field(description="How deep a body's JSON may be nested; deeper is 400")
    messages: Count = Field(description="The most messages, or prompts, of one request")
    choices: Count = Field(description="The most answers of one request: `n` times its prompts")
    stop_sequences: Count = Field(description="The most stop sequences")
    answer_tokens: Count = Field(description="The largest max_tokens; more is 400")
    default_answer_tokens: Count = Field(description="max_tokens where a request names none")


class Deadline(Section):
    """How long a kind of request may take."""

    first_token_seconds: Seconds = Field(description="Until the first token, waiting included; longer is 504")
    total_seconds: Seconds = Field(
        description="Until the last token, waiting included; longer is 504 or an error event"
    )


class Deadlines(Section):
    """By kind of request."""

    answer: Deadline = Field(description="Of an answer that is sent whole")
    stream: Deadline = Field(description="Of an answer that is sent as it is made")


class Batching(Section):
    """Handed to the engine in this process."""

    max_batch: Annotated[int, Field(ge=1, le=1024)] = Field(description="The most answers that grow together")
    max_wait_seconds: Annotated[float, Field(ge=0, le=1)] = Field(
        description="How long the first job of an idle engine waits for others to start with"
    )
    max_waiting: Count = Field(description="Jobs that may wait inside the engine; `admission` is the line before it")
    prefill_tokens: Annotated[int, Field(ge=16)] = Field(
        description="Prompt tokens read between two steps of the running answers; a longer prompt in parts"
    )
    threads: Count | None = Field(default=None, description="CPU threads that compute; null: what the libraries choose")


class Admission(Section):
    """How much is taken on at once."""

    running: Count = Field(description="The most answers that the engine has at once")
    waiting: Annotated[int, Field(ge=0)] = Field(description="The most answers that wait for their turn; more is 429")


class Redis(Section):
    """The second level of the cache, shared by replicas. Where it fails, requests go on without it."""

    url: Annotated[str, Field(pattern=r"^(redis|rediss|unix)://")] = Field(description="redis://HOST:PORT/0")
    timeout_seconds: Seconds = Field(default=0.05, description="The longest a request waits for it")
    pause_seconds: Seconds = Field(default=5.0, description="How long it is left alone after it failed")
    keep_seconds: Count = Field(default=3600, description="How long it keeps an answer")


class Cache(Section):
    """Answers that are known already."""

    coalesce: bool = Field(
        description="Whether identical deterministic requests in flight are answered by one generation"
    )
    memory_bytes: Annotated[int, Field(ge=0)] = Field(description="Memory for answers; 0 keeps none")
    keep_seconds: Seconds = Field(description="How long memory keeps an answer")
    scope: Literal["tenant", "user", "shared"] = Field(
        description="Who may be answered with whose answer: the same API key, the same user of it, or anybody"
    )
    redis: Redis | None = Field(default=None, description="The second level; null: none")


class Prompts(Section):
    """Whether what people ask and are told is ever written down. It is redacted first, always."""

    share: Share = Field(description="The share of requests whose prompt and answer are written, redacted; 0: never")


class Log(Section):
    """The inference log: a row a request, in Parquet."""

    share: Share = Field(description="The share of requests that are logged; 0: no log")
    buffer_rows: Count = Field(description="Rows in memory before a file is written: what a crash may lose")
    flush_seconds: Seconds = Field(description="The longest that a row waits for its file")
    keep_days: Count = Field(description="Files older than this are removed")
    keep_bytes: Count = Field(description="The most bytes of all files of a model; the oldest are removed")


class Traces(Section):
    """MLflow traces of some requests."""

    share: Share = Field(description="The share of requests that are traced; 0: none, and MLflow is never imported")
    queue: Count = Field(description="Traces that wait for MLflow; more are dropped, and counted")


class OpenTelemetry(Section):
    """Spans for a collector."""

    endpoint: Annotated[str, Field(pattern=r"^https?://")] = Field(description="http://HOST:4318/v1/traces")
    share: Share = Field(default=1.0, description="The share of requests without a parent that are traced")


class Api(Section):
    """One version of the HTTP interface."""

    deprecated: date | None = Field(default=None, description="Since when it is deprecated; null: it is not")
    sunset: date | None = Field(default=None, description="When it goes away; null: not decided")

    @field_validator("deprecated", "sunset", mode="before")
    @classmethod
    def _date(cls, given: object) -> object:
        """JSON and quoted YAML write a date as text."""
        return date.fromisoformat(given) if isinstance(given, str) else given

    @model_validator(mode="after")
    def _ordered(self) -> "Api":
        if self.sunset and not self.deprecated:
            raise ValueError("has a sunset and no date of its deprecation; say `deprecated` too")
        if self.sunset and self.deprecated and self.sunset < self.deprecated:
            raise ValueError("goes away before it is deprecated; set a later sunset")
        return self


class Versions(Section):
    """The versions of the HTTP interface; null leaves one out."""

    v1: Api | None = Field(description="As OpenAI's chat and text completions")
    v2: Api | None = Field(description="As OpenAI's responses")

    @model_validator(mode="after")
    def _one(self) -> "Versions":
        if self.v1 is None and self.v2 is None:
            raise ValueError("leaves out every version; keep one")
        return self


class Ledger(Section):
    """What happens while the ledger cannot be told that this version answers."""

    unrecorded_requests: Annotated[int, Field(ge=0)] = Field(description="Requests that are answered meanwhile")
    then: Literal["refuse", "alarm"] = Field(
        description="After them: refuse (503) until it is told, or go on and alarm (llm_ledger_unrecorded)"
    )
    retry_seconds: Seconds = Field(description="How long until the ledger is tried again")


class Drain(Section):
    """How a replica ends."""

    announce_seconds: Annotated[float, Field(ge=0)] = Field(
        description="How long /ready says 503 before the port closes, so that the gateway sees it"
    )
    limit_seconds: Seconds = Field(description="How long requests in flight may take; the rest end with an error")


class ServingConfig(Section):
    """configs/serving.yaml."""

    engine: Literal["transformers", "vllm"] = Field(description="What generates: in this process, or vLLM over HTTP")
    vllm_url: str | None = Field(default=None, description="Where vLLM answers: http://HOST:8000")
    limits: Limits
    deadlines: Deadlines
    batching: Batching
    admission: Admission
    cache: Cache
    prompts: Prompts
    log: Log
    traces: Traces
    opentelemetry: OpenTelemetry | None = Field(default=None, description="null: none, and it is never imported")
    versions: Versions
    ledger: Ledger
    drain: Drain
    composites: Composites = Field(default=[], description="Models made of others, each with a name of its own")

    @classmethod
    def load(cls, path: Path) -> "ServingConfig":
        """The file, or UsageError naming line and key."""
        try:
            return cls.model_validate(strict.read_yaml(path))
        except ValidationError as error:
            first = error.errors()[0]
            place = first["loc"]
            if place[:1] == ("composites",):  # pydantic puts the kind between the number and the key
                place = (*place[:2], *place[3:])
            raise mistake(path, place, first["msg"]) from None


def mistake(path: Path, place: tuple[str | int, ...], what: str) -> UsageError:
    """What is wrong with the file, by line and key."""
    key = ".".join(map(str, place)) or "the whole file"
    return UsageError(f"{path}:{strict.line_of(path, place)}: {key}: {what}; correct it (docs/guide/serving.md)")
