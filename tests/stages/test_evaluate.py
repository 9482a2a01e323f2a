"""`evaluate` on a real, very small Llama: the same answers as transformers' own, and no report that is not whole."""

import json
import os
import re
import shutil
import signal
import subprocess
import sys
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import data_folders
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
import yaml
from peft import LoraConfig, PeftModel, get_peft_model
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import GPT2Config, GPT2LMHeadModel, LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

from slipway import digest
from slipway.artifacts import ChampionPin, Manifest, Scorecard
from slipway.data import rows as data_rows
from slipway.data.rows import Message
from slipway.data.template import Template
from slipway.errors import StageError
from slipway.evaluation import inference, memory, scoring, testset
from slipway.evaluation import predictions as tables
from slipway.params import EvaluateParams
from tasks.evaluate import evaluate

REPO = Path(__file__).parents[2]
TEMPLATE = (
    "{% for m in messages %}<|{{ m['role'] }}|>\n{{ m['content'] }}<|end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|assistant|>\n{% endif %}"
)
PARAMS = EvaluateParams(
    max_new_tokens=12, batch_size=5, max_rows=None, bootstrap_resamples=100, format="any", slices=["label", "length"],
    suite="smoke", seed=7, threads=1,
)  # fmt: skip
OUTPUTS = ("scorecard.json", "predictions.parquet", "confusion.csv", "benchmarks.json", "safety.json")
LABELS = ("refund", "login", "bug")
ROWS = 24


def _tokenizer() -> PreTrainedTokenizerFast:
    words = Tokenizer(models.BPE())
    words.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    words.decoder = decoders.ByteLevel()
    special = ["<|end|>", "<|user|>", "<|assistant|>"]
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    text = ["intent: refund login bug\npriority: high"] * 20
    words.train_from_iterator(
        text, trainers.BpeTrainer(vocab_size=300, special_tokens=special, initial_alphabet=alphabet)
    )
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=words, eos_token="<|end|>")  # no pad token
    tokenizer.chat_template = TEMPLATE
    return tokenizer


def _prepared(folder: Path, tokenizer: PreTrainedTokenizerFast, rows: int, tuned: PeftModel | None = None) -> None:
    (folder / "rows").mkdir(parents=True)
    table = []
    for i in range(rows):
        label = LABELS[i % 3]
        said = [{"role": "user", "content": f"Hello {i}{' please' * (i % 7)}"}]
        chat = [*said, {"role": "assistant", "content": f"intent: {label}\npriority: high"}]
        prompt = tokenizer.apply_chat_template(said, tokenize=False, add_generation_prompt=True)
        row = {"id": f"{(i * 7919) % 2**32:016x}", "messages": json.dumps(chat), "prompt": prompt}
        table.append(row | {"answer": chat[-1]["content"], "label": label, "language": "en"})
    pq.write_table(pa.Table.from_pylist(table), folder / "rows" / "test.parquet")
    Manifest.write(folder, {"label_pattern": r"(?m)^intent: *(\S+)"})


@dataclass
class Project:
    root: Path
    tokenizer: PreTrainedTokenizerFast

    def run(
        self, out: Path, params: EvaluateParams = PARAMS, pin: ChampionPin | None = None, **paths: Path
    ) -> dict[str, float]:
        """Evaluate into a folder; without a `memory` of its own, into an empty one."""
        out.mkdir(exist_ok=True)
        (pin or ChampionPin(kind="base")).save(out / "champion.json")
        given = {
            "base": self.root / "models/base",
            "adapter": self.root / "models/adapter",
            "prepared": self.root / "data/prepared",
            "suite": self.root / "configs/evals/smoke",
            "probes": self.root / "configs/evals/safety.jsonl",
            "memory": out / "memory",
        }
        return evaluate(
            params, **(given | paths), champion=out / "champion.json", **{n.split(".")[0]: out / n for n in OUTPUTS}
        )


@pytest.fixture(scope="module")
def project(tmp_path_factory: pytest.TempPathFactory) -> Project:
    root, tokenizer = tmp_path_factory.mktemp("project"), _tokenizer()
    base, adapter = root / "models" / "base", root / "models" / "adapter"
    tokenizer.save_pretrained(base)
    torch.manual_seed(0)
    shape = LlamaConfig(
        vocab_size=len(tokenizer), hidden_size=32, intermediate_size=64, num_hidden_layers=2, num_attention_heads=4,
        max_position_embeddings=128, eos_token_id=tokenizer.eos_token_id, bos_token_id=None, pad_token_id=None,
        initializer_range=0.4,
    )  # fmt: skip
    model = LlamaForCausalLM(shape)
    model.save_pretrained(base)
    about = Manifest.write(base, {"source": "test"})
    lora = LoraConfig(r=4, target_modules="all-linear", task_type="CAUSAL_LM", init_lora_weights=False)
    get_peft_model(model, lora).save_pretrained(adapter, save_embedding_layers=False)
    Manifest.write(adapter, {"method": "lora", "base_digest": about.digest})
    _prepared(root / "data" / "prepared", tokenizer, ROWS)
    _evals(root / "configs" / "evals")
    return Project(root, tokenizer)


def _evals(folder: Path) -> None:
    """A suite of one task, and the first few probes of each set: enough to see that they are asked."""
    shutil.copytree(REPO / "configs" / "evals", folder)
    _first(folder / "safety.jsonl", "set", None)
    _first(folder / "smoke" / "rows.jsonl", "task", "truth_mc1")
    suite = yaml.safe_load((folder / "smoke" / "suite.yaml").read_text())
    suite["tasks"] = [task for task in suite["tasks"] if task["task"] == "truth_mc1"]
    (folder / "smoke" / "suite.yaml").write_text(yaml.safe_dump(suite))


def _first(path: Path, kind: str, only: str | None, count: int = 2) -> None:
    """Keep the first rows of each kind."""
    lines = path.read_text().splitlines(keepends=True)
    of = [json.loads(line)[kind] for line in lines]
    kept = [i for i in range(len(lines)) if of[:i].count(of[i]) < count and only in (None, of[i])]
    path.write_text("".join(lines[i] for i in kept))


def _same(one: Path, two: Path) -> bool:
    return [(one / name).read_bytes() for name in OUTPUTS] == [(two / name).read_bytes() for name in OUTPUTS]


def _predictions(path: Path, model: str) -> dict[str, dict[str, Any]]:
    return {row["id"]: row for row in pq.read_table(path).to_pylist() if row["model"] == model}


def test_a_scorecard_says_everything_and_the_same_inputs_give_the_same_bytes(project: Project, tmp_path: Path) -> None:
    metrics = project.run(tmp_path / "one")
    project.run(tmp_path / "two")
    assert _same(tmp_path / "one", tmp_path / "two")
    card = Scorecard.load(tmp_path / "one" / "scorecard.json")
    assert (card.items, card.expected_items) == (ROWS, ROWS)
    assert card.predictions_sha256 == digest.of_file(tmp_path / "one" / "predictions.parquet")
    assert card.identity != card.base_identity
    assert set(card.metrics) == {"tuned", "base", "champion"}
    assert set(card.deltas) == {"base", "champion"}
    assert sum(map(sum, card.confusion)) == ROWS
    assert metrics["items"] == ROWS
    assert all(np.isfinite(value) for value in metrics.values())
    lines = (tmp_path / "one" / "confusion.csv").read_text().splitlines()
    assert (lines[0], len(lines)) == ("actual,predicted", ROWS + 1)


def test_batched_answers_and_losses_are_what_transformers_gives_row_by_row(project: Project, tmp_path: Path) -> None:
    project.run(tmp_path / "out")
    base = LlamaForCausalLM.from_pretrained(project.root / "models" / "base").eval()
    tuned = PeftModel.from_pretrained(
        LlamaForCausalLM.from_pretrained(project.root / "models" / "base"), project.root / "models" / "adapter"
    )
    rows = pq.read_table(project.root / "data" / "prepared" / "rows" / "test.parquet").to_pylist()
    compared = 0
    for name, model in (("base", base), ("tuned", tuned.eval())):
        found = _predictions(tmp_path / "out" / "predictions.parquet", name)
        for row in rows:
            prompt = project.tokenizer(row["prompt"], return_tensors="pt", add_special_tokens=False)["input_ids"]
            with torch.inference_mode():
                said = model.generate(input_ids=prompt, max_new_tokens=12, do_sample=False, pad_token_id=0)
            text = project.tokenizer.decode(said[0, prompt.shape[1] :], skip_special_tokens=True)
            assert found[row["id"]]["prediction"] == text
            whole = project.tokenizer(
                row["prompt"] + row["answer"] + "<|end|>", return_tensors="pt", add_special_tokens=False
            )["input_ids"]
            labels = whole.clone()
            labels[:, : prompt.shape[1]] = -100
            with torch.inference_mode():
                loss = model(input_ids=whole, labels=labels).loss.item()
            tokens = whole.shape[1] - prompt.shape[1]
            assert found[row["id"]]["tokens"] == tokens
            assert found[row["id"]]["loss"] / tokens == pytest.approx(loss, rel=1e-4)
            compared += 1
    assert compared == 2 * ROWS


def test_a_champion_version_is_compared_on_the_same_rows(project: Project, tmp_path: Path) -> None:
    project.run(tmp_path / "before")
    out = tmp_path / "after"
    out.mkdir()
    kept = pq.read_table(tmp_path / "before" / "predictions.parquet")
    pq.write_table(kept.filter(pa.compute.equal(kept["model"], "tuned")), out / "champion.parquet")
    pin = ChampionPin(kind="version", version="3", identity="x", predictions=digest.of_file(out / "champion.parquet"))
    project.run(out, pin=pin)
    card = Scorecard.load(out / "scorecard.json")
    assert card.metrics["champion"] == card.metrics["tuned"]
    assert {e.value for e in card.deltas["champion"].values()} == {0.0}
    assert len(_predictions(out / "predictions.parquet", "champion")) == ROWS

    with pytest.raises(StageError, match="its pin says"):
        project.run(out, pin=pin.model_copy(update={"predictions": "0" * 64}))
    pq.write_table(pq.read_table(out / "champion.parquet").slice(2), out / "champion.parquet")
    short = pin.model_copy(update={"predictions": digest.of_file(out / "champion.parquet")})
    with pytest.raises(StageError, match=rf"lacks 2 of {ROWS} test rows"):
        project.run(out, pin=short)
    (out / "champion.parquet").unlink()
    with pytest.raises(StageError, match="does not exist"):
        project.run(out, pin=short)


def test_max_rows_scores_the_first_rows_by_id_and_says_so(project: Project, tmp_path: Path) -> None:
    project.run(tmp_path / "out", PARAMS.model_copy(update={"max_rows": 7}))
    card = Scorecard.load(tmp_path / "out" / "scorecard.json")
    assert (card.items, card.expected_items) == (7, 7)
    every = sorted(pq.read_table(project.root / "data/prepared/rows/test.parquet")["id"].to_pylist())
    assert sorted(_predictions(tmp_path / "out" / "predictions.parquet", "tuned")) == every[:7]


def test_a_fully_tuned_gpt2_without_a_chat_template_is_scored(project: Project, tmp_path: Path) -> None:
    base, tuned = tmp_path / "base", tmp_path / "tuned"
    tokenizer = _tokenizer()
    tokenizer.chat_template = None
    for seed, folder in enumerate((base, tuned)):
        torch.manual_seed(seed)
        shape = GPT2Config(
            vocab_size=len(tokenizer),
            n_embd=16,
            n_layer=1,
            n_head=2,
            n_positions=128,
            eos_token_id=0,
            bos_token_id=None,
        )
        GPT2LMHeadModel(shape).save_pretrained(folder)
    tokenizer.save_pretrained(base)
    about = Manifest.write(base, {"source": "test"})
    Manifest.write(tuned, {"method": "full", "base_digest": about.digest})
    project.run(tmp_path / "out", PARAMS.model_copy(update={"max_new_tokens": 200}), base=base, adapter=tuned)
    assert Scorecard.load(tmp_path / "out" / "scorecard.json").deltas["base"]["loss"].value != 0


def test_a_row_longer_than_the_model_is_a_clear_error(project: Project) -> None:
    tests = testset.load(project.root / "data" / "prepared", None)
    with pytest.raises(StageError, match=r"more than the model's 16 positions; lower prepare\.max_length to 16"):
        inference.encode(project.tokenizer, tests, 16)


def _metaspace(chat: bool, where: str) -> PreTrainedTokenizerFast:
    """As SentencePiece models are: a text tokenised by itself begins with a space."""
    words = Tokenizer(models.BPE())
    words.pre_tokenizer = pre_tokenizers.Metaspace(prepend_scheme=where)
    words.decoder = decoders.Metaspace(prepend_scheme=where)
    text = ["intent: refund login bug end im Hello please Assistant: User:\npriority: high"] * 20
    alphabet = sorted(set("".join(text) + "▁"))
    special = ["<|im_start|>", "<|im_end|>", "</s>"]
    words.train_from_iterator(
        text, trainers.BpeTrainer(vocab_size=120, special_tokens=special, initial_alphabet=alphabet)
    )
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=words, eos_token="</s>")
    if chat:
        tokenizer.chat_template = data_folders.CHATML
    return tokenizer


@pytest.mark.parametrize("where", ["always", "first"])
@pytest.mark.parametrize("chat", [True, False], ids=["chat", "no template"])
def test_an_answer_is_scored_on_the_very_tokens_that_training_sees(tmp_path: Path, chat: bool, where: str) -> None:
    tokenizer = _metaspace(chat, where)
    tokenizer.save_pretrained(tmp_path)
    template = Template(tmp_path)
    rows, expected = [], {}
    for i, answer in enumerate(["intent: refund", "end", "im", "<|im", "login\npriority: high"]):
        said = (Message("user", f"Hello {answer}"), Message("assistant", answer))
        source = data_rows.Row("file", i, "chat", said)
        (encoded,) = template.encode([source])
        rows.append(testset.Row(source.id, source.conversation, encoded.prompt, answer, None))
        first, last = encoded.loss.index(True), len(encoded.loss) - encoded.loss[::-1].index(True)
        expected[source.id] = (encoded.input_ids[:first], encoded.input_ids[first:last])
    tests = testset.TestSet(rows, len(rows), "", lambda _: None)
    found = {e.row.id: e for e in inference.encode(tokenizer, tests, None)}
    assert len(found) == 5
    assert {key: (e.context, e.answer) for key, e in found.items()} == expected
    end = tokenizer.convert_tokens_to_ids("<|im_end|>" if chat else "</s>")
    assert {inference.end_of_turn(tokenizer, e) for e in found.values()} == {end}


def test_row_labels_are_right_where_answers_are_whatever_the_pattern(project: Project, tmp_path: Path) -> None:
    tests = testset.load(project.root / "data" / "prepared", None)
    rows = [replace(row, answer=f"We say {i}", label=f"kind {i % 3}") for i, row in enumerate(tests.rows)]
    rows[1] = replace(rows[1], answer=rows[0].answer)  # one answer, two labels: only the row knows which
    tests = replace(tests, rows=rows, label_of=testset.label_reader(r"(?m)^intent: *(\S+)", rows))
    examples = inference.encode(project.tokenizer, tests, None)
    answers = {e.row.id: tables.Answer(e.row.id, f" {e.row.answer}\n", 1.0, len(e.answer)) for e in examples}
    said = tables.of_answers(tests, [answers[row.id] for row in rows], "any")
    found = scoring.score(tests, {"tuned": said}, 100, 7).metrics["tuned"]
    assert (found["exact_match"].value, found["accuracy"].value, found["macro_f1"].value) == (1.0, 1.0, 1.0)


def _asked(out: str) -> list[str]:
    """The models that had to answer, by their last line of progress."""
    return [model for model, _ in re.findall(r"evaluate (\w+): row (\d+)/\2 ", out)]


def test_what_was_measured_is_never_worked_out_twice(
    project: Project, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    kept = tmp_path / "memory"
    project.run(tmp_path / "alone")
    project.run(tmp_path / "first", memory=kept)
    assert _asked(capsys.readouterr().out) == ["base", "tuned"] * 2
    project.run(tmp_path / "second", memory=kept)
    assert _asked(capsys.readouterr().out) == []
    other = _other_adapter(project, tmp_path / "other")
    project.run(tmp_path / "other one", memory=kept, adapter=other)
    assert _asked(capsys.readouterr().out) == ["tuned"]
    assert _same(tmp_path / "alone", tmp_path / "first")
    assert _same(tmp_path / "alone", tmp_path / "second")
    project.run(tmp_path / "other alone", adapter=other)
    assert _same(tmp_path / "other alone", tmp_path / "other one")
    assert not _same(tmp_path / "alone", tmp_path / "other one")


def _other_adapter(project: Project, folder: Path) -> Path:
    """Another LoRA adapter on the same base."""
    torch.manual_seed(3)
    lora = LoraConfig(r=4, target_modules="all-linear", task_type="CAUSAL_LM", init_lora_weights=False)
    base = project.root / "models" / "base"
    get_peft_model(LlamaForCausalLM.from_pretrained(base), lora).save_pretrained(folder, save_embedding_layers=False)
    Manifest.write(folder, {"method": "lora", "base_digest": Manifest.load(base / "manifest.json").digest})
    return folder


def test_memory_knows_no_paths(project: Project, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    project.run(tmp_path / "first", memory=tmp_path / "memory")
    shutil.copytree(project.root, tmp_path / "moved")
    shutil.copytree(tmp_path / "memory", tmp_path / "moved memory")
    capsys.readouterr()
    moved = Project(tmp_path / "moved", project.tokenizer)
    moved.run(tmp_path / "second", memory=tmp_path / "moved memory")
    assert _asked(capsys.readouterr().out) == []
    assert _same(tmp_path / "first", tmp_path / "second")


def test_a_changed_parameter_is_asked_anew(
    project: Project, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    project.run(tmp_path / "first", memory=tmp_path / "memory")
    changes: tuple[dict[str, int], ...] = ({"max_new_tokens": 13}, {"batch_size": 4}, {"max_rows": 20})
    for change in changes:
        capsys.readouterr()
        project.run(tmp_path / "second", PARAMS.model_copy(update=change), memory=tmp_path / "memory")
        assert _asked(capsys.readouterr().out) == ["base", "tuned"], change
    project.run(tmp_path / "alone", PARAMS.model_copy(update=changes[-1]))
    assert _same(tmp_path / "alone", tmp_path / "second")


def test_changed_data_is_asked_anew_and_changed_reading_is_not(
    project: Project, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    kept = tmp_path / "memory"
    project.run(tmp_path / "first", memory=kept)
    _prepared(tmp_path / "prepared", project.tokenizer, ROWS - 1)
    project.run(tmp_path / "second", memory=kept, prepared=tmp_path / "prepared")
    assert Scorecard.load(tmp_path / "second" / "scorecard.json").items == ROWS - 1
    capsys.readouterr()
    reread = PARAMS.model_copy(update={"format": "json", "slices": ["region"], "seed": 8})
    project.run(tmp_path / "third", reread.model_copy(update={"slices": []}), memory=kept)
    assert _asked(capsys.readouterr().out) == []
    card = Scorecard.load(tmp_path / "third" / "scorecard.json")
    assert (card.metrics["tuned"]["format_validity"].value, card.slices) == (0.0, [])
    with pytest.raises(StageError, match=r"names 'region', which is no column of .*the columns are length, id, mess"):
        project.run(tmp_path / "fourth", reread, memory=kept)


def _flip(path: Path, at: int) -> None:
    data = bytearray(path.read_bytes())
    data[at] ^= 1
    path.write_bytes(bytes(data))


def test_a_damaged_memory_is_not_believed(project: Project, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    kept = tmp_path / "memory"
    project.run(tmp_path / "first", memory=kept)
    files = sorted((kept / "measured").iterdir())
    assert len(files) == 6  # three questions, two models
    whole = {path: path.read_bytes() for path in files}
    for path, at in zip(files, (0, 1, 2, 3, 4, 5), strict=True):
        _flip(path, at * len(whole[path]) // 6)
        capsys.readouterr()
        project.run(tmp_path / "again", memory=kept)
        assert "everything is remembered" in capsys.readouterr().out  # of the other model
        assert _same(tmp_path / "first", tmp_path / "again")
        assert path.read_bytes() == whole[path]  # mended


def test_a_pinned_champion_on_other_rows_is_looked_up_in_memory(project: Project, tmp_path: Path) -> None:
    kept, out = tmp_path / "memory", tmp_path / "out"
    project.run(tmp_path / "before", memory=kept)
    out.mkdir()
    table = pq.read_table(tmp_path / "before" / "predictions.parquet")
    champions = table.filter(pa.compute.equal(table["model"], "tuned")).slice(2)
    pq.write_table(champions, out / "champion.parquet")
    identity = Scorecard.load(tmp_path / "before" / "scorecard.json").identity
    sha256 = digest.of_file(out / "champion.parquet")
    pin = ChampionPin(kind="version", version="3", identity=identity, predictions=sha256)
    project.run(out, pin=pin, memory=kept, adapter=_other_adapter(project, tmp_path / "other"))
    card = Scorecard.load(out / "scorecard.json")
    assert card.metrics["champion"] == Scorecard.load(tmp_path / "before" / "scorecard.json").metrics["tuned"]
    with pytest.raises(StageError, match="lacks 2 of"):
        project.run(out, pin=pin.model_copy(update={"identity": "0" * 64}), memory=kept)


def test_case_E4_every_candidate_scored_on_a_test_set_is_counted_once(project: Project, tmp_path: Path) -> None:
    kept = tmp_path / "memory"
    test_set = digest.of_file(project.root / "data" / "prepared" / "rows" / "test.parquet")
    assert memory.looks(kept, test_set) == 0
    project.run(tmp_path / "one", memory=kept)
    project.run(tmp_path / "one again", memory=kept)
    assert memory.looks(kept, test_set) == 1
    project.run(tmp_path / "two", memory=kept, adapter=_other_adapter(project, tmp_path / "other"))
    assert memory.looks(kept, test_set) == 2
    _prepared(tmp_path / "prepared", project.tokenizer, ROWS - 1)
    project.run(tmp_path / "three", memory=kept, prepared=tmp_path / "prepared")
    assert memory.looks(kept, test_set) == 2


def test_case_E4_a_look_that_failed_half_way_counts_too(
    project: Project, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(*_: Any) -> Any:
        raise RuntimeError("shapes do not match")

    monkeypatch.setattr(inference, "answers", broken)
    with pytest.raises(RuntimeError):
        project.run(tmp_path / "out", memory=tmp_path / "memory")
    assert memory.looks(tmp_path / "memory", testset.load(project.root / "data/prepared", None).digest) == 1


@pytest.mark.parametrize("torn", ["base/model.safetensors", "adapter/adapter_model.safetensors"])
def test_a_cut_model_is_one_line_that_names_the_file(project: Project, tmp_path: Path, torn: str) -> None:
    shutil.copytree(project.root / "models", tmp_path / "models")
    path = tmp_path / "models" / torn
    path.write_bytes(path.read_bytes()[:-9])
    with pytest.raises(StageError, match=rf"{path.name} is cut at byte") as error:
        project.run(tmp_path / "out", base=tmp_path / "models" / "base", adapter=tmp_path / "models" / "adapter")
    assert "\n" not in str(error.value)
    assert not (tmp_path / "out" / "scorecard.json").exists()


def test_a_cut_test_set_is_one_line_that_names_the_file(project: Project, tmp_path: Path) -> None:
    shutil.copytree(project.root / "data" / "prepared", tmp_path / "prepared")
    path = tmp_path / "prepared" / "rows" / "test.parquet"
    path.write_bytes(path.read_bytes()[:-9])
    with pytest.raises(StageError, match=r"test\.parquet is cut at byte"):
        project.run(tmp_path / "out", prepared=tmp_path / "prepared")


@pytest.mark.parametrize(
    "failure",
    [torch.OutOfMemoryError("tried to allocate too much"), RuntimeError("can't allocate memory: 9 GB"), MemoryError()],
    ids=["device", "host", "python"],
)
def test_out_of_memory_halves_the_batch_and_goes_on(
    project: Project,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    failure: Exception,
) -> None:
    expected = project.run(tmp_path / "whole")
    own, fits = inference.answers, 2

    def too_large(model: Any, batch: list[Any], *rest: Any) -> Any:
        if len(batch) > fits:
            raise failure
        return own(model, batch, *rest)

    monkeypatch.setattr(inference, "answers", too_large)
    assert project.run(tmp_path / "halved") == pytest.approx(expected, rel=1e-5)
    assert "out of memory with 5 test rows at once; going on with 2" in capsys.readouterr().out
    fits = 0
    with pytest.raises(StageError, match=r"out of memory with one test row .*evaluate\.batch_size") as error:
        project.run(tmp_path / "never")
    assert "\n" not in str(error.value)


def test_an_error_that_is_no_lack_of_memory_stays_what_it_is(
    project: Project, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(*_: Any) -> Any:
        raise RuntimeError("shapes do not match")

    monkeypatch.setattr(inference, "answers", broken)
    with pytest.raises(RuntimeError, match="shapes do not match"):
        project.run(tmp_path / "out")


def test_too_few_new_tokens_for_the_wanted_answers_are_said_once(
    project: Project, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    rows = pq.read_table(project.root / "data" / "prepared" / "rows" / "test.parquet")["answer"].to_pylist()
    lengths = [len(project.tokenizer(answer, add_special_tokens=False)["input_ids"]) for answer in rows]
    project.run(tmp_path / "out", PARAMS.model_copy(update={"max_new_tokens": max(lengths) - 1}))
    said = [line for line in capsys.readouterr().out.splitlines() if line.startswith("warning")]
    count = lengths.count(max(lengths))
    assert said == [
        f"warning: {count} of {ROWS} wanted answers are longer than {max(lengths) - 1} tokens, so no model can give "
        f"them; raise evaluate.max_new_tokens"
    ]
    project.run(tmp_path / "enough", PARAMS.model_copy(update={"max_new_tokens": max(lengths)}))
    assert "warning" not in capsys.readouterr().out


def test_an_empty_test_set_is_a_clear_error(project: Project, tmp_path: Path) -> None:
    (tmp_path / "rows").mkdir()
    full = pq.read_table(project.root / "data" / "prepared" / "rows" / "test.parquet")
    pq.write_table(full.slice(0, 0), tmp_path / "rows" / "test.parquet")
    with pytest.raises(StageError, match="has no rows"):
        testset.load(tmp_path, None)


def _checkout(project: Project, root: Path) -> None:
    """A copy of the project's own code and settings, with small models and a test set long enough to be killed in."""
    for name in ("slipway", "tasks", "configs", "pins"):
        shutil.copytree(REPO / name, root / name, ignore=shutil.ignore_patterns("__pycache__"))
    for name in ("dvc.yaml", "constraints.txt"):
        shutil.copy(REPO / name, root / name)
    values = yaml.safe_load((REPO / "params.yaml").read_text())
    values["evaluate"] |= {"batch_size": 1, "bootstrap_resamples": 100, "threads": 1}
    (root / "params.yaml").write_text(yaml.safe_dump(values))
    shutil.copytree(project.root / "models", root / "models")
    _prepared(root / "data" / "prepared", project.tokenizer, 400)
    ChampionPin(kind="base").save(root / "pins" / "champion.json")


@pytest.mark.timeout(120)
def test_case_A3_killed_in_evaluation_leaves_no_report(project: Project, tmp_path: Path) -> None:
    _checkout(project, tmp_path)
    places = {
        "--base": "models/base", "--adapter": "models/adapter", "--prepared": "data/prepared",
        "--champion": "pins/champion.json", "--scorecard": "reports/scorecard.json",
        "--predictions": "reports/predictions.parquet", "--confusion": "reports/confusion.csv",
        "--suite": "configs/evals/smoke", "--probes": "configs/evals/safety.jsonl",
        "--benchmarks": "reports/benchmarks.json", "--safety": "reports/safety.json",
        "--metrics": "reports/metrics/evaluate.json",
    }  # fmt: skip
    command = [sys.executable, "-m", "tasks", "evaluate", *(part for pair in places.items() for part in pair)]
    ran = subprocess.Popen(
        command, cwd=tmp_path, stdout=subprocess.PIPE, text=True,
        env=os.environ | {"PYTHONPATH": str(tmp_path), "SLIPWAY_PARENT_RUN": "watched"},  # a flow would tell MLflow
    )  # fmt: skip
    assert ran.stdout is not None
    lines = []
    for line in ran.stdout:
        lines.append(line)
        if line.startswith("evaluate base: row"):
            ran.send_signal(signal.SIGKILL)
            break
    ran.stdout.close()
    assert ran.wait() == -signal.SIGKILL, lines
    visible = [p for p in (tmp_path / "reports").rglob("*") if p.is_file() and not p.name.startswith(".partial-")]
    assert visible == []
