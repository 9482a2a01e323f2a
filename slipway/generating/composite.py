"""A served model made of others: a cascade, a vote, the best of several answers, or a tier chosen by rule.

It is an engine over engines: whatever serves one version serves a composite. Its identity is the digest of how it is
made and of every member's identity, so nothing of it is ever taken for another's.
"""

import asyncio
import contextlib
import itertools
from collections import Counter
from collections.abc import AsyncIterator, Coroutine, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Protocol, runtime_checkable

from slipway import digest
from slipway.artifacts import Json
from slipway.errors import Transient, UsageError
from slipway.generating.composite_config import BestOf, Cascade, Composite, Tiered, Vote, members_of
from slipway.generating.jobs import Engine, Finish, Job, Piece, Prompt, Served
from slipway.generating.rules import REQUEST, VALID, Rule, whole
from slipway.governance.expressions import CannotTell

# Between the seeds of several samples, so that those of `n` answers (seed, seed + 1, …) are others.
_APART = 1_000_003


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
    text: str
    tokens: int
    finish: Finish
    queued_seconds: float

    @property
    def piece(self) -> Piece:
        return Piece(self.text, self.tokens, self.finish, self.queued_seconds)


@dataclass(frozen=True)
class _Question:
    """A composite's job, as each of its members gets it."""

    members: Sequence[Member]
    job: Job

    def own(self, at: int, number: int = 0) -> Job:
        """The job in a member's tokens, for as long an answer as it has room for; a later sample by a seed of its own."""
        served, prompt, sampling = self.members[at].served, self._prompt(at), self.job.sampling
        sampling = replace(sampling, max_tokens=min(sampling.max_tokens, served.context - len(prompt)))
        if sampling.seed is not None and number:
            sampling = replace(sampling, seed=(sampling.seed + number * _APART) % 2**63)
        return replace(self.job, id=f"{self.job.id}-{at}-{number}", served=served, prompt=prompt, sampling=sampling)

    def fits(self, at: int) -> bool:
        """Whether a member has room for the prompt and all of the answer that is asked for."""
        return len(self._prompt(at)) + self.job.sampling.max_tokens <= self.members[at].served.context

    async def streamed(self, at: int, heard: int = 0) -> AsyncIterator[Piece]:
        """A member's answer as it is made; the tokens that were heard before count with its first piece."""
        pieces = self.members[at].engine.generate(self.own(at))
        async with contextlib.aclosing(pieces):  # type: ignore[type-var]
            async for piece in pieces:
                yield replace(piece, tokens=piece.tokens + heard) if heard else piece
                heard = 0

    async def whole(self, at: int, number: int = 0) -> _Answer:
        """A member's answer from beginning to end."""
        member, text, tokens, queued, finish = self.members[at], "", 0, 0.0, None
        pieces = member.engine.generate(self.own(at, number))
        async with contextlib.aclosing(pieces):  # type: ignore[type-var]
            async for piece in pieces:
                text, tokens, finish = text + piece.text, tokens + piece.tokens, piece.finish
                queued = max(queued, piece.queued_seconds)
        if finish is None:
            raise Transient(f"{member.served.name} ended without saying how; ask again")
        return _Answer(member, text, tokens, finish, queued)

    async def likelihood(self, at: int, answer: str) -> float:
        judge = self.members[at]
        assert isinstance(judge.engine, Scores)  # `start` has seen to it
        return await judge.engine.score(judge.served, self._prompt(at), answer)

    @property
    def about(self) -> Json:
        """What a rule may read of it."""
        sampling = self.job.sampling
        told = {name: value for name, value in self.job.asked_by.items() if name in REQUEST}
        own = {"prompt_tokens": len(self.job.prompt), "max_tokens": sampling.max_tokens}
        return {**REQUEST, **told, **own, "temperature": sampling.temperature}

    def _prompt(self, at: int) -> tuple[int, ...]:
        assert isinstance(self.job.prompt, Prompt)  # `encode` makes no other
        return self.job.prompt.members[at]


class CompositeEngine:
    """The composites of a configuration, over engines that are started and stopped by whoever made them."""

    def __init__(self, engines: Sequence[Engine], composites: Sequence[Composite]) -> None:
        self._engines, self._configured = tuple(engines), tuple(composites)
        self._made: dict[str, tuple[Composite, list[Member]]] = {}
        self._served: list[Served] = []
        self._ways: dict[str, Counter[str]] = {}

    @property
    def served(self) -> Sequence[Served]:
        return self._served

    async def start(self) -> None:
        """Find every member; its engine runs already."""
        for config in self._configured:
            members = [self._member(config, name) for name in members_of(config)]
            _check_judge(config, members)
            served = _served(config, members)
            if served.model in {one.model for engine in self._engines for one in engine.served}:
                raise UsageError(
                    f"the composite {served.model} has the name of a model that is served; give it another"
                )
            self._served.append(served)
            self._made[served.name] = (config, members)
            self._ways[served.model] = Counter()

    async def stop(self) -> None:
        pass

    def load(self) -> Json:
        """How often each member's answer was taken; all else is the members' own."""
        return {"ways": {name: dict(ways) for name, ways in self._ways.items()}}

    def encode(self, served: Served, prompt: str | Sequence[Json]) -> Prompt:
        """For every member at once, since nobody knows yet which will answer; UsageError where one that must cannot."""
        config, members = self._of(served)
        tokens = [member.engine.encode(member.served, prompt) for member in members]
        counted = _counted(config, members)
        for at in _needed(config, members):  # whoever asks keeps to the context by the tokens that are counted
            if len(tokens[counted]) < len(tokens[at]) >= (most := members[at].served.context):
                raise UsageError(
                    f"the prompt has {len(tokens[at]):,} tokens to {members[at].served.name}, which holds {most:,} "
                    f"with the answer; send less"
                )
        return Prompt.of(tokens, counted)

    async def generate(self, job: Job) -> AsyncIterator[Piece]:
        config, members = self._of(job.served)
        question = _Question(members, job)
        if isinstance(config, Cascade):
            answer = self._cascade(config, question)
        elif isinstance(config, Tiered):
            answer = self._tier(config, question)
        else:
            answer = self._ensemble(config, question)
        async with contextlib.aclosing(answer):  # type: ignore[type-var]
            async for piece in answer:
                yield piece

    # --- the ways to an answer ------------------------------------------------------------------------------------------

    async def _cascade(self, config: Cascade, question: _Question) -> AsyncIterator[Piece]:
        """Each member but the last is heard to its end, if it has room; the last one streams. All tokens count."""
        rule, last, heard = Rule(config.escalate), len(question.members) - 1, 0
        for at in range(last):
            if not question.fits(at):
                continue
            answer = await question.whole(at)
            heard += answer.tokens
            said = {"answer": answer.text, "answer_tokens": answer.tokens, "finish": answer.finish}
            if not _escalates(rule, question.about | said):
                self._took(question, answer.member)
                yield replace(answer.piece, tokens=heard)
                return
        self._took(question, question.members[last])
        async for piece in question.streamed(last, heard):
            yield piece

    async def _tier(self, config: Tiered, question: _Question) -> AsyncIterator[Piece]:
        about, names = question.about, config.members
        tiers = ((names.index(tier.member), Rule(tier.when)) for tier in config.tiers)
        at = next(
            (at for at, rule in tiers if _applies(rule, about) and question.fits(at)), names.index(config.default)
        )
        self._took(question, question.members[at])
        async for piece in question.streamed(at):
            yield piece

    async def _ensemble(self, config: Vote | BestOf, question: _Question) -> AsyncIterator[Piece]:
        """All answers at once, then the one that wins; the tokens that are told are all that were made."""
        drawn = isinstance(config, BestOf) and question.job.sampling.temperature != 0
        samples = config.samples if isinstance(config, BestOf) and drawn else 1  # greedy, they would all be the same
        asked = itertools.product(range(samples), range(len(config.members)))
        answers = await _all([question.whole(at, number) for number, at in asked])
        best = _voted(config, answers) if isinstance(config, Vote) else await _best(config, question, answers)
        self._took(question, best.member)
        yield replace(best.piece, tokens=sum(answer.tokens for answer in answers))

    # --- whom it is made of ---------------------------------------------------------------------------------------------

    def _took(self, question: _Question, member: Member) -> None:
        self._ways[question.job.served.model][member.served.name] += 1

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


def _served(config: Composite, members: Sequence[Member]) -> Served:
    """What a composite is served as: by the digest of all that it is made from."""
    made = {"made": config.model_dump(mode="json"), "members": [member.served.identity for member in members]}
    identity = digest.of_value(made)
    return Served(
        config.name,
        identity[:12],
        identity,
        min(members[at].served.context for at in _needed(config, members)),
        {"kind": config.kind, "asked_as": [config.name]},
        tuple(member.served.name for member in members),
        config.answers,
    )


def _counted(config: Composite, members: Sequence[Member]) -> int:
    """The member in whose tokens a prompt is counted: one that may always be asked."""
    return len(members) - 1 if isinstance(config, Cascade) else 0


def _needed(config: Composite, members: Sequence[Member]) -> Sequence[int]:
    """Who must have room for a prompt: whoever answers where nobody else may."""
    return range(len(members)) if isinstance(config, Vote | BestOf) else [_counted(config, members)]


def _check_judge(config: Composite, members: list[Member]) -> None:
    if isinstance(config, BestOf) and config.scorer == "loglikelihood":
        judge = members[_judge(config)]
        if not isinstance(judge.engine, Scores):
            raise UsageError(
                f"the composite {config.name} asks {judge.served.name} for likelihoods, which its engine does not give; "
                f"name a judge that is served by the transformers engine"
            )


def _judge(config: BestOf) -> int:
    return -1 if config.judge else 0


# --- which answer -------------------------------------------------------------------------------------------------------


def _escalates(rule: Rule, about: Json) -> bool:
    """Whether an answer is not good enough; one that the rule cannot judge is not."""
    try:
        return rule.holds(about)
    except CannotTell:
        return True


def _applies(rule: Rule, about: Mapping[str, Any]) -> bool:
    """Whether a rule holds; one that cannot tell does not."""
    try:
        return rule.holds(about)
    except CannotTell:
        return False


def _voted(config: Vote, answers: list[_Answer]) -> _Answer:
    """The first of the answers that most members gave."""

    def said(answer: _Answer) -> str:
        text = " ".join(answer.text.split()) if "space" in config.ignore else answer.text
        return text.casefold() if "case" in config.ignore else text

    votes = Counter(said(answer) for answer in answers)
    return max(answers, key=lambda answer: votes[said(answer)])


async def _best(config: BestOf, question: _Question, answers: list[_Answer]) -> _Answer:
    if config.scorer == "length":
        lengths = [len(answer.text) for answer in answers]
        return answers[lengths.index(max(lengths) if config.length == "longest" else min(lengths))]
    if config.scorer == "regex":
        rule, pattern = Rule(VALID), whole(config.pattern or "")
        valid = (one for one in answers if _applies(rule, {"answer": one.text, "pattern": pattern}))
        return next(valid, answers[0])
    scores = [await question.likelihood(_judge(config), answer.text) for answer in answers]
    return answers[scores.index(max(scores))]


async def _all(work: Sequence[Coroutine[Any, Any, _Answer]]) -> list[_Answer]:
    """Everything at once; where one fails, the others are given up and its error is the answer."""
    try:
        async with asyncio.TaskGroup() as tasks:
            started = [tasks.create_task(one) for one in work]
    except BaseExceptionGroup as group:
        raise group.exceptions[0] from None
    return [task.result() for task in started]
