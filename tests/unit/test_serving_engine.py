"""The engine in this process, on real tiny models: rows that join and leave a running batch, and answers that do not care."""

import asyncio
import random
import threading
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import served_models
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from model_folders import make_gemma2, make_gpt2, make_llama, make_mistral, make_qwen2
from running_engine import Running, running

from slipway.errors import StageError, Transient, UsageError
from slipway.evaluation import inference
from slipway.generating import networks
from slipway.generating.answer_text import AnswerText
from slipway.generating.engine_config import EngineConfig
from slipway.generating.jobs import Job, Sampling
from slipway.generating.sampling import Chooser, choose
from slipway.generating.slots import Slots
from slipway.generating.tickets import Late
from slipway.generating.transformers_engine import TransformersEngine

SMALL = EngineConfig(max_batch=5, prefill_tokens=48, max_waiting=200, threads=1)
PROMPT = tuple(range(20, 40))


@pytest.fixture(scope="module")
def llama(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A project of one base and two versions on it."""
    made = served_models.project(tmp_path_factory.mktemp("llama") / "a project")
    made.version(whole=False)
    made.version(whole=False)
    return made.root


@pytest.fixture(scope="module")
def engine(llama: Path) -> Iterator[Running]:
    with running(TransformersEngine(llama, ["1.0.0", "1.1.0", "base"], SMALL)) as found:
        yield found


def alone(found: Running, job: Job) -> str:
    """What evaluation's own loop says to one prompt, asked by itself."""
    place = found.engine._places[job.served.name]
    place.network._names = [place.adapter]
    prompt = list(job.prompt)
    limits = inference.Limits(1, job.sampling.max_tokens, place.network.context)
    row = inference.Row("", "[]", "", "", None)
    with inference.computing(1):
        (tokens,) = inference.answers(
            place.network.model, [inference.Example(row, prompt, prompt, [])], limits, place.network.stops
        )
    return str(place.network.prompts.decode(tokens)).rstrip("\N{REPLACEMENT CHARACTER}")


# --- the same answers ---


KINDS: dict[str, Callable[..., Path]] = {
    "llama": make_llama, "gpt2": make_gpt2, "qwen2": make_qwen2, "mistral": make_mistral, "gemma2": make_gemma2,
}  # fmt: skip


@pytest.mark.parametrize("kind", KINDS)
def test_greedy_answers_are_those_of_one_at_a_time(tmp_path: Path, kind: str) -> None:
    """Random arrival, random lengths (some prompts read in parts), adapters mixed in every batch."""
    made = served_models.project(tmp_path / "a project", KINDS[kind])
    made.version(whole=False)
    made.version(whole=False)
    chance = random.Random(kind)

    async def ask(found: Running, job: Job) -> str:
        await asyncio.sleep(chance.random() * 0.2)
        return await found.text(job)

    async def everything(found: Running, jobs: list[Job]) -> list[str]:
        return list(await asyncio.gather(*(ask(found, job) for job in jobs)))

    with running(TransformersEngine(made.root, ["1.0.0", "1.1.0", "base"], SMALL)) as found:
        jobs = [
            found.job(
                [chance.randrange(5, 390) for _ in range(chance.choice([1, 4, 20, 45, 110]))],
                chance.choice(["1.0.0", "1.1.0", "base"]),
                max_tokens=chance.choice([1, 6, 40]),
            )
            for _ in range(30)
        ]
        said = [text.rstrip("\N{REPLACEMENT CHARACTER}") for text in found.do(everything(found, jobs))]
        load = found.engine.load()
        assert said == [alone(found, job) for job in jobs]
    assert int(max(load["batch_sizes"], key=int)) >= 4, load
    assert load["finished"] == 30 and len(set(said)) > 15


def test_adapters_give_answers_of_their_own(engine: Running) -> None:
    said = {version: engine.say(PROMPT, version) for version in ("1.0.0", "1.1.0", "base")}
    assert len(set(said.values())) == 3


def test_messages_become_the_prompt_that_was_trained_on(engine: Running) -> None:
    served = engine.named("1.0.0")
    asked = engine.engine.encode(served, [{"role": "user", "content": "a refund"}])
    text = "<|im_start|>user\na refund<|im_end|>\n<|im_start|>assistant\n"
    assert asked == engine.engine.encode(served, text)
    in_parts = [{"role": "user", "content": [{"type": "text", "text": "a "}, {"type": "text", "text": "refund"}]}]
    assert engine.engine.encode(served, in_parts) == asked
    for bad in (
        [],
        [{"role": "user"}],
        [{"role": "user", "content": 3}],
        [{"role": "user", "content": "<|im_end|>"}],
        ["x"],
    ):
        with pytest.raises(UsageError):
            engine.engine.encode(served, bad)


def test_an_answer_ends_where_evaluation_ends_it(engine: Running) -> None:
    (network,) = {place.network for place in engine.engine._places.values()}
    end = network.prompts.tokens("<|im_end|>")
    assert network.stops == set(end)


def test_an_answer_is_as_long_as_the_context_has_room(engine: Running) -> None:
    served = engine.named("base")
    prompt = [7] * (served.context - 3)
    pieces = engine.do(engine.pieces(engine.job(prompt, "base", max_tokens=50)))
    assert sum(piece.tokens for piece in pieces) <= 3 and pieces[-1].finish in ("stop", "length")
    assert [piece.finish for piece in pieces[:-1]] == [None] * (len(pieces) - 1)
    for wrong in ([], [7] * served.context):
        with pytest.raises(UsageError):
            engine.say(wrong)


# --- joining and leaving ---


def endless(network: networks.Network) -> None:
    """An answer never ends by itself."""
    network.stops.clear()


@pytest.fixture
def long(llama: Path) -> Iterator[Running]:
    """An engine whose answers go on and on."""
    with running(TransformersEngine(llama, ["1.0.0", "1.1.0"], SMALL)) as found:
        for place in found.engine._places.values():
            endless(place.network)
        yield found


def test_closing_the_iterator_gives_the_place_to_the_next(long: Running) -> None:
    async def first_piece(job: Job) -> None:
        answer = long.engine.generate(job)
        async for _ in answer:
            break
        await answer.aclose()

    async def everything() -> None:
        await asyncio.gather(*(first_piece(long.job(PROMPT, max_tokens=400)) for _ in range(23)))

    long.do(everything())
    # The engine's thread frees the cache just after the last row has left.
    long.until(lambda load: load["running"] == load["waiting"] == load["cache_bytes"] == 0)
    load = long.engine.load()
    assert load["given_up"] == 23 and load["finished"] == 0
    assert load["tokens"] < 23 * 200, "the others' steps were saved"
    assert long.say(PROMPT, max_tokens=5)


def test_a_late_job_is_told_so_and_leaves(long: Running) -> None:
    with pytest.raises(Late, match="did not answer in"):
        long.do(long.text(long.job(PROMPT, seconds=0.05, max_tokens=480)))
    with pytest.raises(Late):  # while it waits, too
        long.do(long.text(long.job(PROMPT, seconds=-1)))
    long.until(lambda load: load["running"] == 0)
    assert long.engine.load()["late"] == 2


def test_a_new_job_joins_the_running_batch(long: Running) -> None:
    """Nobody waits for a batch to end: a short answer that comes second is first."""

    async def both() -> list[str]:
        order: list[str] = []

        async def ask(name: str, tokens: int) -> None:
            await long.text(long.job(PROMPT, max_tokens=tokens))
            order.append(name)

        slow = asyncio.create_task(ask("long", 450))
        while not long.engine.load()["running"]:
            await asyncio.sleep(0.001)
        await ask("short", 3)
        await slow
        return order

    assert long.do(both()) == ["short", "long"]


def test_more_than_may_wait_are_turned_away_at_once(llama: Path) -> None:
    config = EngineConfig(max_batch=1, max_waiting=3, threads=1)
    with running(TransformersEngine(llama, ["1.0.0"], config)) as found:
        for place in found.engine._places.values():
            endless(place.network)

        async def many() -> list[Any]:
            asked = (found.text(found.job(PROMPT, max_tokens=30)) for _ in range(12))
            return list(await asyncio.gather(*asked, return_exceptions=True))

        said = found.do(many())
    refused = [one for one in said if isinstance(one, Transient)]
    assert 8 <= len(refused) <= 9 and "try again" in str(refused[0])
    assert len({one for one in said if isinstance(one, str)}) == 1


def test_an_engine_that_breaks_tells_everybody_who_waits(long: Running, monkeypatch: pytest.MonkeyPatch) -> None:
    async def broken() -> list[Any]:
        asked = [asyncio.create_task(long.text(long.job(PROMPT, max_tokens=480))) for _ in range(8)]
        while not long.engine.load()["running"]:
            await asyncio.sleep(0.001)
        monkeypatch.setattr(networks.Network, "forward", lambda *_, **__: 1 / 0)
        return list(await asyncio.gather(*asked, return_exceptions=True))

    said = long.do(broken())
    assert [type(one) for one in said] == [Transient] * 8
    assert "ZeroDivisionError" in str(said[0])
    with pytest.raises(Transient, match="start it again"):
        long.say(PROMPT)


def test_stopping_ends_the_jobs_that_run(long: Running) -> None:
    async def stopped() -> list[Any]:
        asked = [asyncio.create_task(long.text(long.job(PROMPT, max_tokens=480))) for _ in range(8)]
        while not long.engine.load()["running"]:
            await asyncio.sleep(0.001)
        await long.engine.stop()
        return list(await asyncio.gather(*asked, return_exceptions=True))

    assert [type(one) for one in long.do(stopped())] == [Transient] * 8


def test_a_model_without_numbers_answers_nobody(long: Running, monkeypatch: pytest.MonkeyPatch) -> None:
    forward = networks.Network.forward

    def nothing(self: networks.Network, adapters: list[str], **inputs: Any) -> torch.Tensor:
        logits = forward(self, adapters, **inputs)
        logits[[name == "adapter1" for name in adapters]] = float("nan")
        return logits

    monkeypatch.setattr(networks.Network, "forward", nothing)
    with pytest.raises(StageError, match="no numbers"):
        long.say(PROMPT, "1.1.0")
    assert long.say(PROMPT, "1.0.0", max_tokens=3)


# --- memory ---


@pytest.mark.parametrize("fits", [1, 3])
def test_a_batch_that_memory_does_not_hold_is_halved_and_nobody_loses_a_word(
    long: Running, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], fits: int
) -> None:
    prompts = [[20 + at, *PROMPT] for at in range(9)]
    wanted = [long.say(prompt, max_tokens=30) for prompt in prompts]
    forward = networks.Network.forward

    def full(self: networks.Network, adapters: list[str], **inputs: Any) -> torch.Tensor:
        if len(adapters) > fits:
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB")
        return forward(self, adapters, **inputs)

    monkeypatch.setattr(networks.Network, "forward", full)

    async def everything() -> list[str]:
        return list(await asyncio.gather(*(long.text(long.job(prompt, max_tokens=30)) for prompt in prompts)))

    assert long.do(everything()) == wanted
    load = long.engine.load()
    assert load["preempted"] > 0 and load["most"] <= fits
    assert "do not fit in memory" in capsys.readouterr().out


def test_a_request_too_large_for_memory_by_itself_is_refused_alone(
    long: Running, monkeypatch: pytest.MonkeyPatch
) -> None:
    forward = networks.Network.forward

    def full(self: networks.Network, adapters: list[str], **inputs: Any) -> torch.Tensor:
        if inputs["attention_mask"].shape[-1] > 150:
            raise torch.OutOfMemoryError("CUDA out of memory")
        return forward(self, adapters, **inputs)

    monkeypatch.setattr(networks.Network, "forward", full)
    with pytest.raises(StageError, match="out of memory with this request alone"):
        long.say([9] * 200)
    assert long.say(PROMPT, max_tokens=3)


def test_a_model_that_the_cache_does_not_suit_is_found_at_the_start(
    llama: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    step = Slots.step

    def wrong(self: Slots, device: torch.device) -> dict[str, Any]:
        inputs = step(self, device)
        return inputs | {"position_ids": torch.zeros_like(inputs["position_ids"])}

    monkeypatch.setattr(Slots, "step", wrong)
    started = running(TransformersEngine(llama, ["1.0.0"], SMALL))
    with pytest.raises(StageError, match="answers differently in a batch than alone"), started:
        pass


# --- choosing tokens ---


def test_a_seeded_answer_does_not_depend_on_its_neighbours(engine: Running) -> None:
    chosen = {"temperature": 1.3, "top_p": 0.95, "top_k": 50, "seed": 7, "max_tokens": 30}
    wanted = engine.say(PROMPT, **chosen)
    chance = random.Random(1)

    async def crowd() -> str:
        others = [
            asyncio.create_task(
                engine.text(
                    engine.job(PROMPT[: chance.randrange(1, 20)], chance.choice(["1.1.0", "base"]), temperature=1.0)
                )
            )
            for _ in range(10)
        ]
        said = await engine.text(engine.job(PROMPT, **chosen))
        await asyncio.gather(*others)
        return said

    assert {engine.do(crowd()) for _ in range(4)} == {wanted}
    assert engine.say(PROMPT, **(chosen | {"seed": 8})) != wanted


def chosen_of(logits: torch.Tensor, **sampling: Any) -> Counter[int | None]:
    """What 4,000 rows of different seeds draw."""
    rows = [Chooser(Sampling(**{"max_tokens": 1, "seed": seed, **sampling})) for seed in range(4000)]
    return Counter(choose(logits.expand(4000, -1), rows))


def test_draws_follow_the_distribution() -> None:
    logits = torch.tensor([2.0, 1.0, 0.0, -1.0, -30.0])
    for temperature in (0.5, 1.0, 2.0):
        shares = (logits / temperature).softmax(0)
        found = chosen_of(logits, temperature=temperature)
        expected = [float(share) * 4000 for share in shares]
        off = sum((found[token] - wanted) ** 2 / wanted for token, wanted in enumerate(expected[:4]))
        assert off < 21, (temperature, found)  # chi-square with 3 degrees, one in 10,000
        assert found[4] == 0


def test_top_k_and_top_p_leave_what_they_say() -> None:
    logits = torch.tensor([0.0, 3.0, 2.0, 1.0])
    assert set(chosen_of(logits, top_k=1)) == {1}
    assert set(chosen_of(logits, top_k=2)) == {1, 2}
    assert set(chosen_of(logits, top_p=0.01)) == {1}
    assert set(chosen_of(logits, top_p=0.7)) == {1, 2}  # 0.64, then 0.88
    assert set(chosen_of(logits, top_p=1.0)) == {0, 1, 2, 3}
    assert set(chosen_of(logits, temperature=0)) == {1}
    assert set(chosen_of(logits, temperature=1e-9)) == {1}


def test_penalties_weigh_on_what_was_said() -> None:
    logits = torch.tensor([[1.0, 0.9, 0.0]])
    row = Chooser(Sampling(max_tokens=9, temperature=0, frequency_penalty=0.06, presence_penalty=0.0))
    assert [choose(logits, [row])[0] for _ in range(5)] == [0, 0, 1, 0, 1]
    row = Chooser(Sampling(max_tokens=9, temperature=0, presence_penalty=2.0))
    assert [choose(logits, [row])[0] for _ in range(4)] == [0, 1, 2, 0]


def test_a_row_without_numbers_has_no_token() -> None:
    rows = [Chooser(Sampling(max_tokens=1, temperature=t, seed=1)) for t in (0.0, 1.0, 0.0)]
    logits = torch.tensor([[float("nan"), 1.0], [1.0, float("nan")], [0.0, 1.0]])
    assert choose(logits, rows) == [None, None, 1]


# --- text ---


def bytewise(tokens: list[int]) -> str:
    """The hardest tokenizer there is: every token a byte."""
    return bytes(tokens).decode("utf-8", "replace")


TEXTS = st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\N{REPLACEMENT CHARACTER}"), max_size=30)


def grown(data: bytes, stop: list[str]) -> tuple[list[str], bool]:
    text, parts = AnswerText(bytewise, stop), []
    for size in range(1, len(data) + 1):
        parts.append(text.grown(list(data[:size])))
        if text.stopped:
            return parts, True
    return [*parts, text.end()], text.stopped


@given(TEXTS)
@settings(max_examples=200, deadline=None)
def test_no_piece_has_half_a_character(text: str) -> None:
    parts, _ = grown(text.encode(), [])
    assert "".join(parts) == text
    assert all("\N{REPLACEMENT CHARACTER}" not in part for part in parts)


@given(TEXTS, st.lists(st.text("ab ☃", min_size=1, max_size=4), max_size=3), TEXTS)
@settings(max_examples=300, deadline=None)
def test_no_piece_has_a_part_of_a_stop_string(before: str, stop: list[str], after: str) -> None:
    text = before + (stop[0] if stop else "") + after
    ends = [at for one in stop if (at := text.find(one)) >= 0]
    parts, stopped = grown(text.encode(), stop)
    assert stopped == bool(ends)
    # The end that is found first while it grows, which is the one that is whole first.
    whole = {text[: text.find(one)] for one in stop if text.find(one) >= 0} if ends else {text}
    assert "".join(parts) in whole


def test_an_answer_that_is_cut_within_a_character_ends_before_it() -> None:
    parts, _ = grown("naïve ☃".encode()[:-1], [])
    assert "".join(parts) == "naïve "


def test_bytes_that_are_no_character_hold_nothing_up() -> None:
    text = AnswerText(bytewise, [])
    shown = "".join(text.grown([0x80] * size) for size in range(1, 40))
    assert len(shown) > 20


def test_a_stop_string_ends_the_answer(engine: Running) -> None:
    whole = engine.say(PROMPT, "base", max_tokens=30)
    stop = whole[8:11]
    pieces = engine.do(engine.pieces(engine.job(PROMPT, "base", max_tokens=30, stop=(stop,))))
    assert "".join(piece.text for piece in pieces) == whole[: whole.find(stop)]
    assert pieces[-1].finish == "stop"


# --- the rest ---


def test_the_likelihood_of_an_answer_is_evaluations(engine: Running) -> None:
    served = engine.named("1.0.0")
    place = engine.engine._places[served.name]
    tokens = place.network.prompts.tokens("a refund for the parcel")
    with inference.computing(1):
        wanted = sum(
            float(place.network.plain(place.adapter, [*PROMPT, *tokens[:at]]).log_softmax(-1)[token])
            for at, token in enumerate(tokens)
        )
    found = engine.do(engine.engine.score(served, PROMPT, "a refund for the parcel"))
    assert len(tokens) >= 4 and found == pytest.approx(wanted / len(tokens), abs=1e-4)
    assert engine.do(engine.engine.score(served, PROMPT, "")) == float("-inf")


def test_a_whole_model_that_was_tuned_serves_beside_its_base(tmp_path: Path) -> None:
    made = served_models.project(tmp_path / "a project", make_llama)
    made.full = True
    made.version(whole=False)
    with running(TransformersEngine(made.root, ["1.0.0", "base"], SMALL)) as found:
        assert len({id(place.network) for place in found.engine._places.values()}) == 2
        jobs = [found.job(PROMPT, version) for version in ("1.0.0", "base")]
        said = [found.do(found.text(job)) for job in jobs]
        assert said == [alone(found, job) for job in jobs] and said[0] != said[1]


@pytest.mark.parametrize(
    "more",
    [
        {"target_modules": ["q_proj"], "modules_to_save": ["lm_head"]},
        {"target_modules": ["q_proj"], "trainable_token_indices": [20, 21, 22, 30]},
        {"target_modules": ["q_proj"], "bias": "lora_only"},
    ],
    ids=["module", "tokens", "bias"],
)
def test_an_adapter_that_replaces_a_part_of_its_base_shares_it_with_nobody(
    tmp_path: Path, more: dict[str, Any]
) -> None:
    """It would answer for all of them: neither the base nor another adapter can get around it."""
    made = served_models.project(tmp_path / "a project", make_qwen2)
    made.adapter = more
    made.version(whole=False)
    with running(TransformersEngine(made.root, ["1.0.0"], SMALL)) as found:
        assert found.say(PROMPT) == alone(found, found.job(PROMPT)).rstrip("\N{REPLACEMENT CHARACTER}")
    together = running(TransformersEngine(made.root, ["1.0.0", "base"], SMALL))
    with (
        pytest.raises(StageError, match=r"cannot share it with support-desk@base; serve it in a replica of its own"),
        together,
    ):
        pass


def test_a_model_that_is_being_loaded_holds_up_no_end(llama: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """As SIGTERM finds it while gigabytes are read."""
    loading, go_on = threading.Event(), threading.Event()
    real = networks.Network

    def slow(folder: Path) -> networks.Network:
        loading.set()
        assert go_on.wait(60)
        return real(folder)

    monkeypatch.setattr(networks, "Network", slow)
    monkeypatch.setattr("slipway.generating.transformers_engine.LOADING_SECONDS", 0.05)

    async def ended_early() -> float:
        engine = TransformersEngine(llama, ["1.0.0"], SMALL)
        starting = asyncio.ensure_future(engine.start())
        await asyncio.to_thread(loading.wait, 60)
        starting.cancel()
        begun = asyncio.get_running_loop().time()
        ended = asyncio.ensure_future(engine.stop())
        await asyncio.wait((ended,), timeout=10)
        took = asyncio.get_running_loop().time() - begun
        go_on.set()
        await ended
        assert engine._thread is not None
        await asyncio.to_thread(engine._thread.join)
        return took

    assert asyncio.run(ended_early()) < 5
