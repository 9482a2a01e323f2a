"""A served model made of others: a cascade, a vote, the best of several answers, or a tier chosen by rule.

It is an engine over engines: whatever serves one version serves a composite. Its identity is the digest of how it is
made and of every member's identity, so nothing of it is ever taken for another's.
"""

import asyncio
import contextlib
import itertools
from collections import Counter, OrderedDict
from collections.abc import AsyncIterator, Coroutine, Mapping, Sequence
from contextvars import ContextVar
from dataclasses import dataclass, replace
from typing import Any, Protocol, runtime_checkable

from slipway import digest
from slipway.artifacts import Json
from slipway.errors import Transient, UsageError
from slipway.generating.composite_config import BestOf, Cascade, Composite, Tiered, Vote
from slipway.generating.jobs import Engine, Finish, Job, Piece, Served
from slipway.generating.rules import REQUEST, VALID, Rule, whole
from slipway.governance.expressions import CannotTell

# What the server knows of a request that a job does not say: user_group, track. Set in the task that generates.
asked_by: ContextVar[Mapping[str, Any]] = ContextVar("asked_by", default={})  # noqa: B039 - never changed in place

_REMEMBERED = 4096  # prompts between `encode` and `generate`, whose text another tokenizer may be asked for


@runtime_checkable
class Scores(Protocol):
    """An engine that can say how likely it finds an answer."""

    async def score(self, served: Served, prompt: Sequence[int], answer: str) -> float:
        """The mean log-likelihood of the answer's tokens."""


@dataclass(frozen=True)
class Member:
    """A version, and the engine that serves it."""

    engine: Engine
    served: Served


@dataclass(frozen=True)
class _Answer:
    member: Member
    prompt: tuple[int, ...]
    text: str
    tokens: int
    finish: Finish
    queued_seconds: float

    @property
    def pieces(self) -> list[Piece]:
        return [Piece(self.text, self.tokens, self.finish, self.queued_seconds)]


class CompositeEngine:
    """The composites of a configuration, over engines that are started and stopped by whoever made them."""

    def __init__(self, engines: Sequence[Engine], composites: Sequence[Composite]) -> None:
        self._engines, self._configured = tuple(engines), tuple(composites)
        self._made: dict[str, tuple[Composite, list[Member]]] = {}
        self._served: list[Served] = []
        self._prompts: OrderedDict[tuple[str, tuple[int, ...]], Any] = OrderedDict()
        self._counts: Counter[str] = Counter()

    @property
    def served(self) -> Sequence[Served]:
        return self._served

    async def start(self) -> None:
        """Find every member; its engine runs already."""
        for config in self._configured:
            members = [self._member(config, name) for name in _members(config)]
            about = {"made": config.model_dump(mode="json"), "members": [m.served.identity for m in members]}
            _check_judge(config, members)
            identity = digest.of_value(about)
            facts: Json = {"kind": config.kind, "members": [member.served.name for member in members]}
            context = min(member.served.context for member in members)
            served = Served(config.name, identity[:12], identity, context, facts)
            self._served.append(served)
            self._made[served.name] = (config, members)

    async def stop(self) -> None:
        self._prompts.clear()

    def load(self) -> Json:
        """How often each way was taken; running and waiting are the members' own."""
        return {"running": 0, "waiting": 0, "batch_sizes": {}, "device_memory_bytes": 0, "ways": dict(self._counts)}

    def encode(self, served: Served, prompt: str | Sequence[Json]) -> list[int]:
        """In the first member's tokens; the text is kept for the others, whose tokens may be other ones."""
        first = self._of(served)[1][0]
        tokens = first.engine.encode(first.served, prompt)
        key = (served.name, tuple(tokens))
        self._prompts[key] = prompt
        self._prompts.move_to_end(key)
        while len(self._prompts) > _REMEMBERED:
            self._prompts.popitem(last=False)
        return tokens

    async def generate(self, job: Job) -> AsyncIterator[Piece]:
        config, members = self._of(job.served)
        if isinstance(config, Cascade):
            answer = self._cascade(config, members, job)
        elif isinstance(config, Tiered):
            answer = self._tier(config, members, job)
        else:
            answer = self._ensemble(config, members, job)
        async with contextlib.aclosing(answer):  # type: ignore[type-var]
            async for piece in answer:
                yield piece

    # --- the ways to an answer ------------------------------------------------------------------------------------------

    async def _cascade(self, config: Cascade, members: list[Member], job: Job) -> AsyncIterator[Piece]:
        """Each member but the last is heard to its end; the last one streams."""
        rule = Rule(config.escalate)
        for member in members[:-1]:
            answer = await self._whole(member, job)
            said = {"answer": answer.text, "answer_tokens": answer.tokens, "finish": answer.finish}
            about = _request(job) | said
            if not _escalates(rule, about):
                self._counts[member.served.name] += 1
                for piece in answer.pieces:
                    yield piece
                return
        self._counts[members[-1].served.name] += 1
        async for piece in self._streamed(members[-1], job):
            yield piece

    async def _tier(self, config: Tiered, members: list[Member], job: Job) -> AsyncIterator[Piece]:
        wanted, about = config.default, _request(job)
        for tier in config.tiers:
            if _applies(Rule(tier.when), about):
                wanted = tier.member
                break
        member = members[config.members.index(wanted)]
        self._counts[member.served.name] += 1
        async for piece in self._streamed(member, job):
            yield piece

    async def _ensemble(self, config: Vote | BestOf, members: list[Member], job: Job) -> AsyncIterator[Piece]:
        """All answers at once, then the one that wins; the tokens that are told are all that were made."""
        drawn = isinstance(config, BestOf) and job.sampling.temperature != 0
        samples = config.samples if isinstance(config, BestOf) and drawn else 1  # greedy, they would all be the same
        asked = list(itertools.product(range(samples), members[: len(config.members)]))
        answers = await _all([self._whole(member, _seeded(job, number)) for number, member in asked])
        best = _voted(config, answers) if isinstance(config, Vote) else await self._best(config, members, job, answers)
        self._counts[best.member.served.name] += 1
        for piece in best.pieces:
            yield replace(piece, tokens=sum(answer.tokens for answer in answers))

    async def _best(self, config: BestOf, members: list[Member], job: Job, answers: list[_Answer]) -> _Answer:
        if config.scorer == "length":
            lengths = [len(answer.text) for answer in answers]
            return answers[lengths.index(max(lengths) if config.length == "longest" else min(lengths))]
        if config.scorer == "regex":
            rule, pattern = Rule(VALID), whole(config.pattern or "")
            valid = (one for one in answers if _applies(rule, {"answer": one.text, "pattern": pattern}))
            return next(valid, answers[0])
        judge = members[-1] if config.judge else members[0]
        prompt = self._for(judge, job).prompt
        assert isinstance(judge.engine, Scores)  # `start` has seen to it
        scores = [await judge.engine.score(judge.served, prompt, answer.text) for answer in answers]
        return answers[scores.index(max(scores))]

    # --- asking members -------------------------------------------------------------------------------------------------

    async def _streamed(self, member: Member, job: Job) -> AsyncIterator[Piece]:
        pieces = member.engine.generate(self._for(member, job))
        async with contextlib.aclosing(pieces):  # type: ignore[type-var]
            async for piece in pieces:
                yield piece

    async def _whole(self, member: Member, job: Job) -> _Answer:
        """A member's answer from beginning to end."""
        own = self._for(member, job)
        text, tokens, queued, finish = "", 0, 0.0, None
        pieces = member.engine.generate(own)
        async with contextlib.aclosing(pieces):  # type: ignore[type-var]
            async for piece in pieces:
                text, tokens, finish = text + piece.text, tokens + piece.tokens, piece.finish
                queued = max(queued, piece.queued_seconds)
        if finish is None:
            raise Transient(f"{member.served.name} ended without saying how; ask again")
        return _Answer(member, own.prompt, text, tokens, finish, queued)

    def _for(self, member: Member, job: Job) -> Job:
        """The job as the member's own."""
        first = self._of(job.served)[1][0]
        if member is first:
            prompt = job.prompt
        else:
            known = self._prompts.get((job.served.name, job.prompt))
            if known is None:
                raise Transient(f"the text of this prompt is not known any more to {job.served.name}; ask again")
            prompt = tuple(member.engine.encode(member.served, known))
        return replace(job, served=member.served, prompt=prompt)

    def _of(self, served: Served) -> tuple[Composite, list[Member]]:
        if served.name not in self._made:
            raise UsageError(f"{served.name} is not served here; there are {', '.join(self._made) or 'none'}")
        return self._made[served.name]

    def _member(self, config: Composite, name: str) -> Member:
        for engine in self._engines:
            for served in engine.served:
                if name == served.name or name in served.facts.get("asked_as", ()):
                    return Member(engine, served)
        known = ", ".join(served.name for engine in self._engines for served in engine.served)
        raise UsageError(f"the composite {config.name} names {name}, which is not served; there are {known or 'none'}")


def _members(config: Composite) -> list[str]:
    """Every version that a composite needs, the judge last."""
    judge = config.judge if isinstance(config, BestOf) else None
    return [*config.members, *([judge] if judge else [])]


def _check_judge(config: Composite, members: list[Member]) -> None:
    if isinstance(config, BestOf) and config.scorer == "loglikelihood":
        judge = members[-1] if config.judge else members[0]
        if not isinstance(judge.engine, Scores):
            raise UsageError(
                f"the composite {config.name} asks {judge.served.name} for likelihoods, which its engine does not give; "
                f"name a judge that is served by the transformers engine"
            )


def _request(job: Job) -> Json:
    """What a rule may read of a request."""
    sampling = job.sampling
    told = {name: value for name, value in asked_by.get().items() if name in REQUEST}
    own = {"prompt_tokens": len(job.prompt), "max_tokens": sampling.max_tokens, "temperature": sampling.temperature}
    return {**REQUEST, **told, **own}


def _escalates(rule: Rule, about: Json) -> bool:
    """Whether an answer is not good enough; one that the rule cannot judge is not."""
    try:
        return rule.holds(about)
    except CannotTell:
        return True


def _applies(rule: Rule, about: Json) -> bool:
    """Whether a rule holds; one that cannot tell does not."""
    try:
        return rule.holds(about)
    except CannotTell:
        return False


def _seeded(job: Job, number: int) -> Job:
    """The same job drawn anew: the first by its own seed, the others by the ones that follow."""
    seed = job.sampling.seed
    return job if seed is None else replace(job, sampling=replace(job.sampling, seed=seed + number))


def _voted(config: Vote, answers: list[_Answer]) -> _Answer:
    """The first of the answers that most members gave."""

    def said(answer: _Answer) -> str:
        text = " ".join(answer.text.split()) if "space" in config.ignore else answer.text
        return text.casefold() if "case" in config.ignore else text

    votes = Counter(said(answer) for answer in answers)
    return max(answers, key=lambda answer: votes[said(answer)])


async def _all(work: Sequence[Coroutine[Any, Any, _Answer]]) -> list[_Answer]:
    """Everything at once; where one fails, the others are given up and its error is the answer."""
    try:
        async with asyncio.TaskGroup() as tasks:
            started = [tasks.create_task(one) for one in work]
    except BaseExceptionGroup as group:
        raise group.exceptions[0] from None
    return [task.result() for task in started]
