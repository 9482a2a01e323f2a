"""Our likelihood scoring against lm-eval's own, on the same models and requests."""

import copy
import random
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from lm_eval.api.instance import Instance
from lm_eval.models.huggingface import HFLM
from model_folders import WORDS, make_gpt2, make_llama, make_qwen2

from slipway.errors import StageError
from slipway.evaluation import inference, likelihood, prefixes
from slipway.evaluation.harness import Harness
from slipway.evaluation.prefixes import Request, Tree

SHOTS = "the customer asked for a refund . " * 20
MAKERS = {"llama": make_llama, "qwen2": make_qwen2, "gpt2": make_gpt2}
SAME = 1e-4


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    torch.set_num_threads(1)
    folder = tmp_path_factory.mktemp("models")
    made = {name: make(folder / name) for name, make in MAKERS.items()}
    return {name: (inference.load_model(path), inference.load_tokenizer(path)) for name, path in made.items()}


def asked(kind: str, *arguments: Any) -> list[Instance]:
    return [Instance(kind, {}, one, number) for number, one in enumerate(arguments)]


def pairs(count: int, shots: str = "", seed: int = 1) -> list[tuple[str, str]]:
    """Contexts with four answers each: of one token and of several, sharing words, after spaces and after nothing."""
    draw, words, found = random.Random(seed), WORDS.split(), []
    for number in range(count):
        context = shots + " ".join(draw.choices(words, k=draw.randint(1, 12))) + (" " if number % 5 == 0 else "")
        longest = 1 if number % 3 == 0 else 6
        for _ in range(4):
            answer = " " + " ".join(draw.choices(words[:6], k=draw.randint(1, longest)))
            found.append((context if number % 11 else "", answer))
    return found


def plain(network: Any, tokenizer: Any, positions: int | None = None, cache: bool = False) -> HFLM:
    """The stock harness; its cache of logits is off, for it is wrong now and then: see the test below."""
    return HFLM(pretrained=network, tokenizer=tokenizer, batch_size=8, max_length=positions, logits_cache=cache)


def alike(found: list[tuple[float, bool]], expected: list[tuple[float, bool]]) -> None:
    assert [score for score, _ in found] == pytest.approx([score for score, _ in expected], abs=SAME)
    assert [greedy for _, greedy in found] == [greedy for _, greedy in expected]


def compare(network: Any, tokenizer: Any, requests: list[Instance], positions: int | None = None) -> Harness:
    ours = Harness(network, tokenizer, positions, 512)
    found = ours.loglikelihood(requests)
    expected = plain(network, tokenizer, positions).loglikelihood(requests, disable_tqdm=True)
    assert len(found) == len(expected) == len(requests) > 0
    alike(found, expected)
    return ours


# --- the same scores ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", MAKERS)
@pytest.mark.parametrize("shots", ["", SHOTS])
def test_scores_are_those_of_the_stock_harness(models: dict[str, Any], name: str, shots: str) -> None:
    network, tokenizer = models[name]
    ours = compare(network, tokenizer, asked("loglikelihood", *pairs(90, shots)))
    assert ours.scorer.trees and ours.scorer.reader.head_alone


def test_a_tokenizer_that_begins_every_text_does_so_once(models: dict[str, Any]) -> None:
    from tokenizers.processors import TemplateProcessing

    network, tokenizer = models["llama"][0], copy.deepcopy(models["llama"][1])
    tokenizer.bos_token = "<|im_start|>"
    single = TemplateProcessing(single="<|im_start|> $A", special_tokens=[("<|im_start|>", tokenizer.bos_token_id)])
    tokenizer.backend_tokenizer.post_processor = single
    assert tokenizer("the")["input_ids"][0] == tokenizer.bos_token_id
    wanted = pairs(20)
    wanted += [(f"<|im_start|>{context}", answer) for context, answer in wanted]
    ours = compare(network, tokenizer, asked("loglikelihood", *wanted))
    assert ours._encode(["the", "<|im_start|>the"]) == dict.fromkeys(
        ("the", "<|im_start|>the"), tokenizer("the")["input_ids"]
    )


@pytest.mark.parametrize("name", MAKERS)
def test_what_the_model_would_write_is_known_as_greedy(models: dict[str, Any], name: str) -> None:
    network, tokenizer = models[name]
    requests = []
    for context, _ in pairs(10)[4::4]:
        tokens = tokenizer(context or "the", return_tensors="pt")["input_ids"]
        out = network.generate(input_ids=tokens, max_new_tokens=3, do_sample=False, eos_token_id=None)
        written = out[0, tokens.shape[1] :].tolist()
        requests += [(None, tokens[0].tolist(), answer) for answer in (written, [*written[:2], 7], written[:1], [7])]
    found = Harness(network, tokenizer, None, 512)._loglikelihood_tokens(requests)
    alike(found, plain(network, tokenizer)._loglikelihood_tokens(requests, disable_tqdm=True))
    assert [greedy for _, greedy in found] == [True, False, True, False] * 9


def test_the_same_tokens_cut_elsewhere_are_two_requests(models: dict[str, Any]) -> None:
    """lm-eval 0.4.13 scores the shorter answer at the longer one's place, unless its cache of logits is off."""
    requests = asked("loglikelihood", ("sent customer", " the a"), ("sent", " customer the a"))
    ours = compare(*models["llama"], requests)
    stock = plain(*models["llama"], cache=True).loglikelihood(requests, disable_tqdm=True)
    assert abs(stock[0][0] - ours.loglikelihood(requests)[0][0]) > 1


def test_two_thousand_items_are_scored_the_same(models: dict[str, Any]) -> None:
    requests = asked("loglikelihood", *pairs(500, seed=3))
    assert len(requests) == 2000
    compare(*models["llama"], requests)


def test_a_tuned_model_is_scored_with_its_adapter_on(models: dict[str, Any], tmp_path: Path) -> None:
    from peft import LoraConfig, get_peft_model

    network = inference.load_model(make_llama(tmp_path / "m"))
    tokenizer = models["llama"][1]
    requests = asked("loglikelihood", *pairs(60))
    before = Harness(network, tokenizer, None, 512).loglikelihood(requests)
    tuned = get_peft_model(network, LoraConfig(r=4, target_modules="all-linear", task_type="CAUSAL_LM"))
    for name, weight in tuned.named_parameters():
        if "lora_B" in name:
            torch.nn.init.normal_(weight, 0, 0.3, generator=torch.Generator().manual_seed(1))
    ours = compare(tuned.eval(), tokenizer, requests)
    assert ours.scorer.trees
    after = ours.loglikelihood(requests)
    assert max(abs(a[0] - b[0]) for a, b in zip(before, after, strict=True)) > 1
    with tuned.disable_adapter():
        alike(ours.loglikelihood(requests), before)


def test_what_is_longer_than_the_model_is_cut_from_the_left(models: dict[str, Any]) -> None:
    network, tokenizer = models["llama"]
    wanted = pairs(30, SHOTS)
    tokens = [len(tokenizer(a + b)["input_ids"]) for a, b in wanted]
    assert min(tokens) < 60 < max(tokens)
    compare(network, tokenizer, asked("loglikelihood", *wanted), positions=60)


@pytest.mark.parametrize("name", MAKERS)
def test_running_text_is_scored_the_same(models: dict[str, Any], name: str) -> None:
    network, tokenizer = models[name]
    draw = random.Random(2)
    texts = [(" ".join(draw.choices(WORDS.split(), k=20 + 40 * n)),) for n in range(8)]
    requests = asked("loglikelihood_rolling", *texts)
    expected = plain(network, tokenizer, 128).loglikelihood_rolling(requests, disable_tqdm=True)
    found = Harness(network, tokenizer, 128, 512).loglikelihood_rolling(requests)
    assert found == pytest.approx(expected, rel=1e-6)
    assert len(tokenizer(texts[-1][0])["input_ids"]) > 2 * 128


@pytest.mark.parametrize("name", MAKERS)
def test_written_answers_are_the_same(models: dict[str, Any], name: str) -> None:
    network, tokenizer = models[name]
    options = [{"until": ["and", "q"], "max_gen_toks": 8}, {"until": "\n", "max_gen_toks": 12, "do_sample": False}]
    requests = asked("generate_until", *((context or "the", options[n % 2]) for n, (context, _) in enumerate(pairs(6))))
    stock = HFLM(pretrained=network, tokenizer=tokenizer, batch_size=1)
    expected = stock.generate_until(requests, disable_tqdm=True)
    assert Harness(network, tokenizer, None, 64).generate_until(requests) == expected
    assert len(set(expected)) > 3


def test_scores_do_not_depend_on_the_order_of_the_requests(models: dict[str, Any]) -> None:
    requests = asked("loglikelihood", *pairs(40))
    shuffled = random.Random(1).sample(range(len(requests)), len(requests))
    ours = Harness(*models["qwen2"], None, 512)
    found = ours.loglikelihood(requests)
    again = ours.loglikelihood([requests[n] for n in shuffled])
    alike(again, [found[n] for n in shuffled])
    assert ours.loglikelihood(requests) == found  # the very same floats on a second run


def test_lm_eval_takes_the_harness_as_its_model(models: dict[str, Any], tmp_path: Path) -> None:
    import json

    import lm_eval
    from lm_eval.tasks import TaskManager

    rows = [{"q": a, "choices": [" refund", " parcel", " invoice"], "gold": n % 3} for n, (a, _) in enumerate(pairs(9))]
    (tmp_path / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows if row["q"]))
    task = {
        "task": "desk", "dataset_path": "json", "dataset_kwargs": {"data_files": {"test": str(tmp_path / "rows.jsonl")}},
        "test_split": "test", "output_type": "multiple_choice", "doc_to_text": "{{q}}", "doc_to_choice": "{{choices}}",
        "doc_to_target": "{{gold}}", "target_delimiter": "", "metric_list": [{"metric": "acc"}, {"metric": "acc_norm"}],
    }  # fmt: skip
    network, tokenizer = models["llama"]
    sides = [Harness(network, tokenizer, None, 512), HFLM(pretrained=network, tokenizer=tokenizer, batch_size=4)]
    manager = TaskManager(include_defaults=False)
    found = [
        lm_eval.simple_evaluate(model=side, tasks=[task], task_manager=manager, bootstrap_iters=0)["results"]
        for side in sides
    ]
    assert found[0] == found[1]
    assert found[0]["desk"]["acc,none"] > 0


# --- models that cannot read trees ----------------------------------------------------------------------------------


def test_a_model_that_looks_back_only_so_far_is_read_one_answer_at_a_time(tmp_path: Path) -> None:
    from transformers import AutoModelForCausalLM, MistralConfig

    shape = {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2, "num_attention_heads": 4}
    config = MistralConfig(vocab_size=400, sliding_window=8, num_key_value_heads=2, **shape)
    network = AutoModelForCausalLM.from_config(config, attn_implementation="sdpa").eval()
    tokenizer = inference.load_tokenizer(make_llama(tmp_path / "m"))
    ours = compare(network, tokenizer, asked("loglikelihood", *pairs(30)))
    assert not ours.scorer.trees and ours.scorer.reader.head_alone
    assert ours.scorer.reader.short_sighted(9) and not ours.scorer.reader.short_sighted(8)


def test_a_model_whose_positions_come_from_the_mask_is_read_one_answer_at_a_time(tmp_path: Path) -> None:
    from transformers import BloomConfig, BloomForCausalLM

    network = BloomForCausalLM(BloomConfig(vocab_size=400, hidden_size=32, n_layer=2, n_head=4)).eval()
    tokenizer = inference.load_tokenizer(make_llama(tmp_path / "m"))
    ours = compare(network, tokenizer, asked("loglikelihood", *pairs(30)))
    assert not ours.scorer.trees


def test_a_recurrent_model_is_read_one_answer_at_a_time(tmp_path: Path) -> None:
    from transformers import MambaConfig, MambaForCausalLM

    network = MambaForCausalLM(MambaConfig(vocab_size=400, hidden_size=32, num_hidden_layers=2, state_size=4)).eval()
    tokenizer = inference.load_tokenizer(make_llama(tmp_path / "m"))
    ours = compare(network, tokenizer, asked("loglikelihood", *pairs(12)), positions=256)
    assert not ours.scorer.trees


def test_a_model_that_caps_its_logits_runs_whole(tmp_path: Path) -> None:
    from transformers import CohereConfig, CohereForCausalLM

    shape = {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2, "num_attention_heads": 4}
    config = CohereConfig(vocab_size=400, logit_scale=0.25, pad_token_id=0, bos_token_id=1, eos_token_id=2, **shape)
    network = CohereForCausalLM(config).eval()
    tokenizer = inference.load_tokenizer(make_llama(tmp_path / "m"))
    for shots in ("", SHOTS):
        ours = compare(network, tokenizer, asked("loglikelihood", *pairs(30, shots)))
        assert ours.scorer.trees and not ours.scorer.reader.head_alone


def test_a_leak_between_answers_is_noticed(models: dict[str, Any], monkeypatch: pytest.MonkeyPatch) -> None:
    """The proof itself: with a mask that lets answers see each other, trees must not be trusted."""
    monkeypatch.setattr(likelihood, "_ancestors", lambda tree: np.tri(len(tree.tokens), dtype=bool))
    ours = compare(*models["llama"], asked("loglikelihood", *pairs(30)))
    assert not ours.scorer.trees


# --- never a score that is none -------------------------------------------------------------------------------------


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_case_E8_broken_weights_give_no_score(tmp_path: Path, value: float) -> None:
    network = inference.load_model(make_llama(tmp_path / "m"))
    with torch.no_grad():
        network.model.layers[0].mlp.up_proj.weight[3, 3] = value
    ours = Harness(network, inference.load_tokenizer(tmp_path / "m"), None, 512)
    with pytest.raises(StageError, match=r"log-likelihood of request 0 is nan .*weights are broken"):
        ours.loglikelihood(asked("loglikelihood", *pairs(3)))


def test_nothing_to_score_is_an_error(models: dict[str, Any]) -> None:
    ours = Harness(*models["llama"], None, 512)
    with pytest.raises(StageError, match="request 1 of a task has neither context nor answer"):
        ours.loglikelihood(asked("loglikelihood", ("the", " desk"), ("", "")))
    with pytest.raises(StageError, match="request 1 has 1 tokens of context and 0 to score"):
        ours.loglikelihood(asked("loglikelihood", ("the", " desk"), ("the", "")))


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"do_sample": True}, "only greedy"),
        ({"temperature": 0.7}, "only greedy"),
        ({"num_beams": 4}, "only greedy"),
        ({"max_gen_toks": 512}, "answers of 512 tokens and the model has 512 positions"),
    ],
)
def test_answers_that_could_not_be_repeated_are_refused(models: dict[str, Any], options: Any, said: str) -> None:
    with pytest.raises(StageError, match=said):
        Harness(*models["llama"], None, 512).generate_until(asked("generate_until", ("the", options)))


# --- memory ---------------------------------------------------------------------------------------------------------


def scarce(network: Any, most: int) -> Any:
    """A hook that has memory for so many tokens at once."""

    def hook(module: Any, args: Any, kwargs: Any) -> None:
        tokens = kwargs["input_ids"] if "input_ids" in kwargs else args[0]
        if tokens.numel() > most:
            raise torch.OutOfMemoryError(f"tried to allocate {tokens.numel()}")

    return network.model.register_forward_pre_hook(hook, with_kwargs=True)


def test_batches_shrink_when_memory_runs_out(models: dict[str, Any], capsys: pytest.CaptureFixture[str]) -> None:
    network, tokenizer = models["llama"]
    requests = asked("loglikelihood", *pairs(40))
    expected = Harness(network, tokenizer, None, 4096).loglikelihood(requests)
    hook = scarce(network, 300)
    try:
        found = Harness(network, tokenizer, None, 4096).loglikelihood(requests)
        assert "out of memory with" in capsys.readouterr().out
        hook.remove()
        hook = scarce(network, 10)
        with pytest.raises(StageError, match="out of memory with one row of"):
            Harness(network, tokenizer, None, 4096).loglikelihood(requests)
    finally:
        hook.remove()
    alike(found, expected)


# --- what is shared -------------------------------------------------------------------------------------------------


def grown(*sequences: tuple[tuple[int, ...], tuple[int, ...]]) -> list[Tree]:
    return prefixes.trees([Request(n, *pair) for n, pair in enumerate(sequences)], branching=True)


def test_a_tree_holds_every_token_once() -> None:
    (tree,) = grown(((1, 2), (3, 4, 5)), ((1, 2), (3, 4, 6)), ((1, 2), (7,)), ((1, 2), (8, 9)))
    assert tree.tokens == [1, 2, 3, 4, 8]
    assert tree.parents == [-1, 0, 1, 2, 1]
    assert tree.depths == [0, 1, 2, 3, 2]
    assert tree.straight == 4 and tree.branches
    assert sorted(tree.wanted) == [
        (1, 3, 0),
        (1, 3, 1),
        (1, 7, 2),
        (1, 8, 3),
        (2, 4, 0),
        (2, 4, 1),
        (3, 5, 0),
        (3, 6, 1),
        (4, 9, 3),
    ]


def test_one_token_answers_need_no_token_more_than_their_context() -> None:
    (tree,) = grown(((1, 2, 3), (4,)), ((1, 2, 3), (5,)))
    assert tree.tokens == [1, 2, 3] and not tree.branches


def test_a_context_asked_too_often_grows_several_trees() -> None:
    found = grown(*(((1,), tuple(range(n, n + 50))) for n in range(2, 32)))
    assert len(found) > 3
    assert all(len(tree.tokens) <= tree.room for tree in found)
    assert sum(len(tree.wanted) for tree in found) == 30 * 50


def best(contexts: list[tuple[int, ...]]) -> int:
    """The most that trunks save: one for all these sorted contexts, or the best of each part where they part first."""
    if len(contexts) < 2:
        return 0
    shared = [prefixes._shared(one, other) for one, other in pairwise(contexts)]
    least = min(shared)
    cuts = [0, *(n + 1 for n, length in enumerate(shared) if length == least), len(contexts)]
    parts = sum(best(contexts[start:stop]) for start, stop in pairwise(cuts))
    return max((len(contexts) - 1) * least - prefixes._WORTH, parts)


@given(st.lists(st.tuples(st.integers(0, 3), st.integers(0, 3), st.integers(1, 4)), min_size=1, max_size=12))
def test_trunks_save_the_most(drawn: list[tuple[int, int, int]]) -> None:
    contexts = [(9,) * 40 + (a,) * 90 * a + (b,) * 150 * b + (7,) * c for a, b, c in drawn]
    trees = [Tree.on(context) for context in contexts]
    stands = prefixes.stands(trees)
    saved = sum((len(s.trees) - 1) * len(s.shared) - prefixes._WORTH for s in stands if s.shared)
    assert saved == max(0, best(sorted(contexts)))
    assert sum(len(stand.trees) for stand in stands) == len(trees)
    whole = sorted(tuple(stand.shared) + tuple(tree.tokens) for stand in stands for tree in stand.trees)
    assert whole == sorted(contexts)
    assert all(len(tree.tokens) >= 1 for stand in stands for tree in stand.trees)
