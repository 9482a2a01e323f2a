"""What a server asks of an engine and what it gets back: the one seam between HTTP and whatever generates."""

from collections.abc import AsyncIterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal, Protocol

from slipway.artifacts import Json

Finish = Literal["stop", "length"]


@dataclass(frozen=True)
class Sampling:
    """How an answer is chosen. Temperature 0 takes the likeliest token each time."""

    max_tokens: int
    temperature: float = 1.0
    top_p: float = 1.0
    top_k: int = 0  # 0: all
    seed: int | None = None
    stop: tuple[str, ...] = ()
    presence_penalty: float = 0.0
    frequency_penalty: float = 0.0

    @property
    def deterministic(self) -> bool:
        """Whether the same question gets the same answer every time."""
        return self.temperature == 0 or self.seed is not None


@dataclass(frozen=True)
class Served:
    """One version that an engine answers with, as it was verified when it was loaded."""

    model: str  # support-desk
    version: str  # 1.0.0, or base
    identity: str
    context: int  # tokens of prompt and answer together
    facts: Json = field(default_factory=dict)  # release, run, commit: what a trace links to
    members: tuple[str, ...] = ()  # whom a composite is made of; of a version there are none
    answers: int = 1  # the most that are made for one that is asked for

    @property
    def name(self) -> str:
        return f"{self.model}@{self.version}"


class Prompt(tuple[int, ...]):
    """A composite's prompt: the tokens of the member that it counts in, and beside them what each member is given."""

    members: tuple[tuple[int, ...], ...]

    @classmethod
    def of(cls, members: Sequence[tuple[int, ...]], counted: int) -> "Prompt":
        made = cls(members[counted])
        made.members = tuple(members)
        return made


@dataclass(frozen=True)
class Job:
    """One answer to make."""

    id: str
    served: Served
    prompt: tuple[int, ...]
    sampling: Sampling
    deadline: float  # time.monotonic() after which nobody waits any more
    asked_by: Mapping[str, Any] = field(default_factory=dict)  # user_group, track: what a composite's rules may read


@dataclass(frozen=True)
class Piece:
    """A part of an answer. The last one, and it alone, says how the answer ended."""

    text: str
    tokens: int
    finish: Finish | None = None
    queued_seconds: float = 0.0  # of the first piece: how long the job waited for its turn


class Engine(Protocol):
    """Generates. Every method is called from one event loop, but for `encode`; whatever computes does so elsewhere."""

    @property
    def served(self) -> Sequence[Served]:
        """The versions this can answer with; the first is the default."""

    async def start(self) -> None:
        """Load, verify and warm up; raises a SlipwayError that says why not."""

    def encode(self, served: Served, prompt: str | Sequence[Json]) -> tuple[int, ...]:
        """A text as it is, or messages through the chat template, in tokens; UsageError where a template refuses them.

        A long text comes from a thread of its own, while short ones come from the event loop."""

    def generate(self, job: Job) -> AsyncIterator[Piece]:
        """The answer in pieces; closing the iterator gives up the job. Raises Transient when the engine is lost."""

    def load(self) -> Json:
        """What it is doing now: running, waiting, batch sizes seen, device memory in bytes."""

    async def stop(self) -> None:
        """Let go of everything; jobs still running are lost."""
