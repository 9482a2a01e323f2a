"""Models made of others, over the real engine and over one that says what it is told."""

import asyncio
import math
from collections.abc import AsyncIterator, Sequence
from pathlib import Path
from typing import Any

import pytest
import served_models
from made_versions import MODEL
from pydantic import TypeAdapter, ValidationError
from running_engine import running

from slipway.artifacts import Json
from slipway.errors import Transient, UsageError
from slipway.generating.composite import CompositeEngine
from slipway.generating.composite_config import Composite, Composites
from slipway.generating.engine_config import EngineConfig
from slipway.generating.jobs import Job, Piece, Sampling, Served
from slipway.generating.transformers_engine import TransformersEngine


class Telling:
    """Versions that say what a table says; their tokens are letters, each version's shifted by its number."""

    def __init__(self, answers: dict[str, Any]) -> None:
        self.answers, self.asked, self.closed = answers, list[Job](), 0
        self._served = [
            Served(*name.split("@"), identity=f"identity of {name}", context=100 - at)
            for at, name in enumerate(answers)
        ]

    @property
    def served(self) -> Sequence[Served]:
        return self._served

    async def start(self) -> None: ...

    async def stop(self) -> None: ...

    def load(self) -> Json:
        return {}

    def encode(self, served: Served, prompt: str | Sequence[Json]) -> tuple[int, ...]:
        text = prompt if isinstance(prompt, str) else "".join(message["content"] for message in prompt)
        return tuple(ord(letter) + self._served.index(served) for letter in text)

    async def generate(self, job: Job) -> AsyncIterator[Piece]:
        self.asked.append(job)
        said = self.answers[job.served.name]
        said = said(job) if callable(said) else said
        if isinstance(said, Exception):
            raise said
        try:
            for at, word in enumerate(said):
                await asyncio.sleep(0)
                yield Piece(word, 1, "stop" if at == len(said) - 1 else None, 0.5)
        finally:
            self.closed += 1


class Judging(Telling):
    """Likes an answer the more, the more often it has the letter e."""

    async def score(self, served: Served, prompt: Sequence[int], answer: str) -> float:
        assert prompt[0] == ord("a") + self._served.index(served), "the prompt in this judge's own tokens"
        return answer.count("e") - 10.0


def read(configured: list[dict[str, Any]]) -> list[Composite]:
    found: list[Composite] = TypeAdapter(Composites).validate_python(configured)
    return found


def made(engine: Any, **config: Any) -> CompositeEngine:
    found = CompositeEngine([engine], read([{"name": "made", **config}]))
    asyncio.run(found.start())
    return found


def pieces(
    of: CompositeEngine, prompt: str = "ask", about: dict[str, Any] | None = None, **sampling: Any
) -> list[Piece]:
    async def all_of_it() -> list[Piece]:
        served = of.served[0]
        chosen = Sampling(**{"max_tokens": 9, "temperature": 0.0, **sampling})
        job = Job("1", served, of.encode(served, prompt), chosen, math.inf, about or {})
        return [piece async for piece in of.generate(job)]

    return asyncio.run(all_of_it())


def text(found: list[Piece]) -> str:
    assert [piece.finish is not None for piece in found] == [False] * (len(found) - 1) + [True]
    return "".join(piece.text for piece in found)


# --- cascade ---


def test_a_cascade_asks_the_larger_one_only_where_the_expression_says_so() -> None:
    engine = Telling(
        {
            "small@1": lambda job: ["hm"] if job.prompt[0] == ord("w") else ["a ", "sure ", "thing"],
            "large@1": ["l", "a"],
        }
    )
    cascade = made(
        engine, kind="cascade", members=["small@1", "large@1"], escalate="answer.size() < 3 || finish == 'length'"
    )
    easy = pieces(cascade, "ask")
    assert text(easy) == "a sure thing" and [piece.tokens for piece in easy] == [3]
    assert [job.served.name for job in engine.asked] == ["small@1"]
    hard = pieces(cascade, "why")
    assert [piece.text for piece in hard] == ["l", "a"], "the larger one streams"
    assert [piece.tokens for piece in hard] == [2, 1], "what was heard of the smaller one counts"
    assert engine.asked[-1].prompt == tuple(ord(letter) + 1 for letter in "why"), "in its own tokens"
    assert cascade.load()["ways"] == {"made": {"small@1": 1, "large@1": 1}}
    assert engine.closed == 3


def test_an_answer_that_the_expression_cannot_judge_goes_on() -> None:
    engine = Telling({"small@1": ["x"], "large@1": ["larger"]})
    cascade = made(
        engine,
        kind="cascade",
        members=["small@1", "large@1"],
        escalate="10 / (answer_tokens - 1) > 100",
    )
    assert text(pieces(cascade)) == "larger"


def test_closing_a_composite_closes_whom_it_asked() -> None:
    engine = Telling({"small@1": ["x"], "large@1": ["a", "b", "c"]})
    cascade = made(engine, kind="cascade", members=["small@1", "large@1"], escalate="true")

    async def first() -> None:
        served = cascade.served[0]
        answer = cascade.generate(Job("1", served, cascade.encode(served, "a"), Sampling(9), math.inf))
        async for _ in answer:
            break
        await answer.aclose()  # type: ignore[attr-defined]

    asyncio.run(first())
    assert engine.closed == 2


# --- tiers ---


def test_a_tier_is_chosen_by_the_request() -> None:
    engine = Telling({"small@1": ["small"], "large@1": ["large"], "best@1": ["best"]})
    tiers = [
        {"when": "user_group == 'staff'", "member": "best@1"},
        {"when": "prompt_tokens <= 3 && max_tokens < 50", "member": "small@1"},
    ]
    tiered = made(engine, kind="tiered", tiers=tiers, default="large@1")
    assert text(pieces(tiered, "ask")) == "small"
    assert text(pieces(tiered, "ask more")) == "large"
    assert text(pieces(tiered, "ask", max_tokens=80)) == "large"
    assert text(pieces(tiered, "ask", {"user_group": "staff", "secret": 1})) == "best"


# --- ensembles ---


def test_the_answer_of_most_members_wins() -> None:
    engine = Telling({"a@1": ["Yes"], "b@1": ["no "], "c@1": [" no"], "d@1": ["NO"]})
    voted = made(engine, kind="vote", members=["a@1", "b@1", "c@1"])
    found = pieces(voted)
    assert text(found) == "no " and found[-1].tokens == 3
    assert text(pieces(made(engine, kind="vote", members=["a@1", "b@1", "c@1"], ignore=[]))) == "Yes", (
        "all apart: the first"
    )
    assert text(pieces(made(engine, kind="vote", members=["a@1", "b@1", "d@1"], ignore=["case", "space"]))) == "no "


def test_one_member_that_fails_fails_the_vote() -> None:
    engine = Telling({"a@1": ["Yes"], "b@1": Transient("b is gone"), "c@1": ["Yes"]})
    with pytest.raises(Transient, match="b is gone"):
        pieces(made(engine, kind="vote", members=["a@1", "b@1", "c@1"]))


def test_the_best_of_several_by_each_scorer() -> None:
    engine = Judging({"a@1": ["three"], "b@1": ["eleven"], "c@1": ["7"]})
    members = ["a@1", "b@1", "c@1"]
    assert text(pieces(made(engine, kind="best_of", members=members, scorer="length"))) == "eleven"
    assert text(pieces(made(engine, kind="best_of", members=members, scorer="length", length="shortest"))) == "7"
    assert text(pieces(made(engine, kind="best_of", members=members, scorer="regex", pattern=r"\d+"))) == "7"
    assert text(pieces(made(engine, kind="best_of", members=members, scorer="regex", pattern="[xyz]"))) == "three", (
        "none is valid"
    )
    for judge in (None, "c@1"):
        judged = made(engine, kind="best_of", members=members, scorer="loglikelihood", judge=judge)
        assert text(pieces(judged, "ask")) == "eleven"


def test_samples_are_drawn_with_seeds_of_their_own() -> None:
    engine = Judging({"a@1": lambda job: [f"{job.sampling.seed}"]})
    best = made(engine, kind="best_of", members=["a@1"], samples=4, scorer="length")
    pieces(best, temperature=1.0, seed=7)
    seeds = [job.sampling.seed for job in engine.asked]
    assert seeds[0] == 7 and len(set(seeds)) == 4 and not {8, 9, 10} & set(seeds), "those of n answers are 7, 8, …"
    engine.asked.clear()
    pieces(best, temperature=0.0)
    assert len(engine.asked) == 1, "greedy answers would all be the same"


def test_likelihoods_need_an_engine_that_has_them() -> None:
    engine = Telling({"a@1": ["x"], "b@1": ["y"]})
    with pytest.raises(UsageError, match="for likelihoods, which its engine does not give"):
        made(engine, kind="best_of", members=["a@1", "b@1"], scorer="loglikelihood")


# --- what it is ---


def test_its_identity_is_all_of_what_it_is_made_from() -> None:
    engine = Telling({"a@1": ["x"], "b@1": ["y"], "c@1": ["z"]})
    several = [
        made(engine, kind="vote", members=["a@1", "b@1"]), made(engine, kind="vote", members=["a@1", "c@1"]),
        made(engine, kind="vote", members=["a@1", "b@1"], ignore=["case"]),
        made(Telling({"a@1": ["x"], "b@1": ["y"]}), kind="vote", members=["a@1", "b@1"]),
    ]  # fmt: skip
    identities = [one.served[0].identity for one in several]
    assert len(set(identities)) == 3 and identities[0] == identities[3]
    served = several[0].served[0]
    assert (served.model, served.version, served.context) == ("made", served.identity[:12], 99)


@pytest.mark.parametrize(
    ("config", "words"),
    [
        ({"kind": "cascade", "members": ["a@1", "b@1"], "escalate": "answr == ''"}, "answr is nothing that can be read"),
        ({"kind": "cascade", "members": ["a@1", "b@1"], "escalate": "answer.size()"}, "neither yes nor no"),
        ({"kind": "cascade", "members": ["a@1", "b@1"], "escalate": "answer ==="}, "answer ==="),
        ({"kind": "cascade", "members": ["a@1"], "escalate": "true"}, "at least 2"),
        ({"kind": "cascade", "members": ["a@1", "a@1"], "escalate": "true"}, "stands twice"),
        ({"kind": "vote", "members": ["a@1", "bcd"]}, "pattern"),
        ({"kind": "vote", "members": ["a@1", "b@1"], "votes": 3}, "Extra inputs"),
        ({"kind": "best_of", "members": ["a@1"], "scorer": "length"}, "nothing to choose"),
        ({"kind": "best_of", "members": ["a@1"], "samples": 2, "scorer": "regex"}, "pattern goes with"),
        ({"kind": "best_of", "members": ["a@1"], "samples": 2, "scorer": "regex", "pattern": "(("}, "answer.matches"),
        ({"kind": "tiered", "tiers": [{"when": "finish == 'stop'", "member": "a@1"}], "default": "b@1"}, "finish is nothing"),
        ({"kind": "magic", "members": ["a@1", "b@1"]}, "magic"),
    ],
)  # fmt: skip
def test_a_configuration_that_cannot_be_is_refused(config: dict[str, Any], words: str) -> None:
    with pytest.raises(ValidationError) as refused:
        read([{"name": "made", **config}])
    assert words in str(refused.value)


def test_a_prompt_that_one_member_must_take_and_cannot_is_refused_before_anybody_is_asked() -> None:
    class Wordy(Telling):
        """To its second version every letter is twenty tokens."""

        def encode(self, served: Served, prompt: str | Sequence[Json]) -> tuple[int, ...]:
            return super().encode(served, prompt) * (20 if served.version == "2" else 1)

    engine = Wordy({"a@1": ["x"], "a@2": ["y"]})
    voted = made(engine, kind="vote", members=["a@1", "a@2"])
    with pytest.raises(UsageError, match="100 tokens to a@2, which holds 99"):
        voted.encode(voted.served[0], "asked")
    cascade = made(engine, kind="cascade", members=["a@2", "a@1"], escalate="false")
    assert text(pieces(cascade, "asked")) == "x" and cascade.served[0].context == 100, "passed over"
    assert [job.served.name for job in engine.asked] == ["a@1"]


def test_a_name_that_a_model_has_already_is_refused() -> None:
    with pytest.raises(UsageError, match="made has the name of a model that is served"):
        made(Telling({"made@1": ["x"], "b@1": ["y"]}), kind="vote", members=["made@1", "b@1"])


def test_a_member_that_is_not_served_is_named() -> None:
    with pytest.raises(UsageError, match="names b@1, which is not served; there are a@1"):
        made(Telling({"a@1": ["x"]}), kind="vote", members=["a@1", "b@1"])


# --- over the real engine ---


def test_composites_over_real_models(tmp_path: Path) -> None:
    project = served_models.project(tmp_path / "a project")
    project.serve(project.version(whole=False))
    project.version(whole=False)
    config = read(
            [
                {"name": "careful", "kind": "cascade", "members": [f"{MODEL}@base", f"{MODEL}@champion"], "escalate": "answer_tokens > 0"},
                {"name": "likely", "kind": "best_of", "members": [f"{MODEL}@champion", f"{MODEL}@1.1.0"], "scorer": "loglikelihood"},
                {"name": "many", "kind": "vote", "members": [f"{MODEL}@base", f"{MODEL}@champion", f"{MODEL}@1.1.0"]},
            ]
    )  # fmt: skip
    targets = [f"{MODEL}@champion", "1.1.0", "base"]
    with running(TransformersEngine(project.root, targets, EngineConfig(threads=1))) as real:
        engine = CompositeEngine([real.engine], config)
        asyncio.run(engine.start())

        async def say(name: str) -> str:
            served = next(one for one in engine.served if one.model == name)
            tokens = engine.encode(served, [{"role": "user", "content": "a refund"}])
            job = Job(name, served, tokens, Sampling(12, temperature=0.0), math.inf)
            return "".join([piece.text async for piece in engine.generate(job)])

        prompt = real.engine.encode(real.named("1.0.0"), [{"role": "user", "content": "a refund"}])
        own = {version: real.say(prompt, version, max_tokens=12) for version in ("base", "1.0.0", "1.1.0")}
        assert len(set(own.values())) == 3
        assert real.do(say("careful")) == own["1.0.0"]
        assert real.do(say("many")) == own["base"]
        judge = real.named("1.0.0")
        liked = {v: real.do(real.engine.score(judge, prompt, own[v])) for v in ("1.0.0", "1.1.0")}
        assert real.do(say("likely")) == own[max(liked, key=lambda version: liked[version])]
