"""Models made of other models: the `composites` part of configs/serving.yaml. None is made unless it stands here.

composites:
  - name: support-desk-cascade
    kind: cascade
    members: [small@champion, support-desk@champion]
    escalate: "finish == 'length' || answer.size() < 3"
"""

from collections.abc import Iterator
from typing import Annotated, ClassVar, Literal, Self

from pydantic import (
    AfterValidator,
    BaseModel,
    ConfigDict,
    Field,
    StringConstraints,
    field_validator,
    model_validator,
)

from slipway import model
from slipway.generating.rules import ANSWER, REQUEST, VALID, Rule, whole

Member = Annotated[str, StringConstraints(min_length=3, max_length=200, pattern=r"^[^\s@]+@[^\s@]+$")]
Expression = Annotated[str, StringConstraints(min_length=1, max_length=2000)]
Scorer = Literal["loglikelihood", "length", "regex"]


class _Part(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class _Composite(_Part):
    name: model.Name
    members: Annotated[list[Member], Field(min_length=2, max_length=16)]

    @field_validator("members")
    @classmethod
    def _once(cls, members: list[str]) -> list[str]:
        if len(set(members)) < len(members):
            raise ValueError("a member stands twice; name each once")
        return members

    @property
    def answers(self) -> int:
        """The most that are made for one that is asked for."""
        return len(self.members)


class Cascade(_Composite):
    """The first member answers; where the expression says so, the next one does instead."""

    kind: Literal["cascade"]
    escalate: Expression

    @field_validator("escalate")
    @classmethod
    def _compiles(cls, text: str) -> str:
        return Rule.read(text, ANSWER | REQUEST).text


class Vote(_Composite):
    """All members answer; the answer that most of them give wins, the first member's among equals."""

    kind: Literal["vote"]
    ignore: list[Literal["case", "space"]] = ["space"]


class BestOf(_Part):
    """Several answers; the one that the scorer likes best wins."""

    kind: Literal["best_of"]
    name: model.Name
    members: Annotated[list[Member], Field(min_length=1, max_length=16)]
    samples: Annotated[int, Field(ge=1, le=32)] = Field(default=1, description="Answers of each member")
    scorer: Scorer
    judge: Member | None = Field(default=None, description="Whose likelihood counts; none: the first member's")
    length: Literal["shortest", "longest"] = "longest"
    pattern: Expression | None = Field(default=None, description="What a valid answer matches, whole")

    @model_validator(mode="after")
    def _whole(self) -> Self:
        if len(self.members) * self.samples < 2:
            raise ValueError("one answer leaves nothing to choose; raise samples or name more members")
        if (self.scorer == "regex") != (self.pattern is not None):
            raise ValueError("pattern goes with the scorer regex, and that one needs it")
        if self.pattern is not None:
            Rule.read(VALID, {"answer": "a text", "pattern": whole(self.pattern)})
        return self

    @property
    def answers(self) -> int:
        return len(self.members) * self.samples


class Tier(_Part):
    when: Expression
    member: Member

    @field_validator("when")
    @classmethod
    def _compiles(cls, text: str) -> str:
        return Rule.read(text, REQUEST).text


class Tiered(_Part):
    """The first tier whose expression holds answers; the default where none does."""

    kind: Literal["tiered"]
    name: model.Name
    tiers: Annotated[list[Tier], Field(min_length=1, max_length=16)]
    default: Member
    answers: ClassVar[int] = 1

    @property
    def members(self) -> list[str]:
        return list(dict.fromkeys([self.default, *(tier.member for tier in self.tiers)]))


Composite = Annotated[Cascade | Vote | BestOf | Tiered, Field(discriminator="kind")]


def _names(found: list[Composite]) -> list[Composite]:
    names = [one.name for one in found]
    if twice := [name for name in names if names.count(name) > 1]:
        raise ValueError(f"the name {twice[0]} stands twice; give each its own")
    return found


Composites = Annotated[list[Composite], AfterValidator(_names)]


def members_of(config: Composite) -> list[str]:
    """Every version that a composite needs, the judge last."""
    judge = config.judge if isinstance(config, BestOf) else None
    return [*config.members, *([judge] if judge else [])]


def places(config: Composite) -> Iterator[tuple[tuple[str | int, ...], str]]:
    """Where in the file each member is named."""
    if isinstance(config, Tiered):
        yield from ((("tiers", at, "member"), tier.member) for at, tier in enumerate(config.tiers))
        yield ("default",), config.default
        return
    yield from ((("members", at), member) for at, member in enumerate(config.members))
    if isinstance(config, BestOf) and config.judge:
        yield ("judge",), config.judge
