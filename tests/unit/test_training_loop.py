"""The training loop: same gradient whatever the micro-batch, same end after a stop, and no adapter from a NaN."""

import json
import math
from types import SimpleNamespace

import pytest
import torch
from model_folders import make_gpt2, make_llama
from training_parts import parameters, write_tokens

from slipway import atomic, digest
from slipway.errors import StageError
from slipway.training import loop, model
from slipway.training.determinism import reproducible
from slipway.training.schedule import learning_rate_share


@pytest.fixture(scope="module")
def base(tmp_path_factory):
    return make_llama(tmp_path_factory.mktemp("base") / "llama")


@pytest.fixture(scope="module")
def tokens(tmp_path_factory):
    return write_tokens(tmp_path_factory.mktemp("tokens"))


def silent(_values, _step):
    pass


def tune(base, tokens, folder, report=silent, **changes):
    folder.mkdir(exist_ok=True)
    return loop.train(base, tokens, parameters(**changes), folder, report)


def weights(tuned):
    return {name: p.detach().clone() for name, p in tuned.model.parameters.items()}


def same_bytes(one, other):
    return one.keys() == other.keys() and len(one) > 10 and all(torch.equal(one[n], other[n]) for n in one)


def farthest(one, other):
    return max(float((one[n] - other[n]).abs().max()) for n in one)


def test_loss_falls_and_every_mark_has_its_held_out_loss(base, tokens, tmp_path):
    seen = []
    tuned = tune(base, tokens, tmp_path / "c", lambda values, step: seen.append((step, values)), epochs=12)
    records = tuned.state.records
    assert tuned.state.step >= 12 and records[-1]["train_loss"] < 0.97 * records[0]["train_loss"]
    assert [r["step"] for r in records if "validation_loss" in r] == [
        s for s in range(1, tuned.state.step + 1) if s % 4 == 0 or s == tuned.state.step
    ]
    assert len(seen) == len(records) and {"grad_norm", "tokens_per_second"} <= seen[0][1].keys()
    assert not any("second" in key for record in records for key in record)  # no timing in what is kept


@pytest.mark.parametrize("micro", [1, 3])
def test_the_micro_batch_does_not_change_the_gradient(base, tokens, tmp_path, micro):
    whole = weights(tune(base, tokens, tmp_path / "whole"))
    assert farthest(whole, weights(tune(base, tokens, tmp_path / "parts", micro_batch_size=micro))) < 2e-4


def test_out_of_memory_halves_the_micro_batch_and_goes_on(base, tokens, tmp_path, monkeypatch, capsys):
    expected = weights(tune(base, tokens, tmp_path / "small", micro_batch_size=1))
    own = loop.Training._loss_sum

    def too_large(self, batch):
        if batch.input_ids.shape[0] > 1:
            raise torch.OutOfMemoryError("tried to allocate too much")
        return own(self, batch)

    monkeypatch.setattr(loop.Training, "_loss_sum", too_large)
    tuned = tune(base, tokens, tmp_path / "large")
    assert same_bytes(weights(tuned), expected) and tuned.state.micro_batch == 1
    printed = capsys.readouterr().out
    assert "going on with 2" in printed and "going on with 1" in printed


def test_out_of_memory_with_one_sequence_is_an_error(base, tokens, tmp_path, monkeypatch):
    def too_large(_self, _batch):
        raise torch.OutOfMemoryError("tried to allocate too much")

    monkeypatch.setattr(loop.Training, "_loss_sum", too_large)
    with pytest.raises(StageError, match="out of memory with one packed sequence at a time"):
        tune(base, tokens, tmp_path / "c")


@pytest.mark.parametrize("bad", [math.nan, math.inf])
def test_a_loss_that_is_no_number_ends_the_training_and_names_the_step(base, tokens, tmp_path, monkeypatch, bad):
    own, calls = loop.Training._loss_sum, []

    def spoiled(self, batch):
        calls.append(1)
        return own(self, batch) * (bad if len(calls) == 3 else 1.0)

    monkeypatch.setattr(loop.Training, "_loss_sum", spoiled)
    with pytest.raises(StageError, match=f"step 3 of .*loss is {bad}.*no adapter"):
        tune(base, tokens, tmp_path / "c")


class Stopped(Exception):
    pass


@pytest.mark.parametrize("stop_at", [1, 5, 9])
def test_stopped_and_started_again_it_ends_in_the_same_bytes(base, tokens, tmp_path, stop_at):
    changes = {"epochs": 5, "lora": SimpleNamespace(rank=4, alpha=8, dropout=0.2, target_modules="all-linear")}
    expected = tune(base, tokens, tmp_path / "whole", **changes)

    def stop(_values, step):
        if step >= stop_at:
            raise Stopped

    with pytest.raises(Stopped):
        tune(base, tokens, tmp_path / "broken", stop, **changes)
    again = tune(base, tokens, tmp_path / "broken", **changes)
    assert same_bytes(weights(again), weights(expected))
    assert again.state == expected.state


def test_a_finished_training_started_again_only_hands_over(base, tokens, tmp_path, capsys):
    first = tune(base, tokens, tmp_path / "c")
    second = tune(base, tokens, tmp_path / "c")
    assert f"after step {first.state.step}" in capsys.readouterr().out
    assert same_bytes(weights(first), weights(second)) and first.state == second.state


def test_patience_stops_early_and_the_best_weights_are_kept(base, tokens, tmp_path):
    changes = {"epochs": 60, "evaluate_every": 2, "patience": 2, "learning_rate": 0.05, "schedule": "linear"}
    tuned = tune(base, tokens, tmp_path / "c", **changes)
    held_out = {r["step"]: r["validation_loss"] for r in tuned.state.records if "validation_loss" in r}
    assert tuned.state.finished and tuned.state.step == tuned.kept_step + 4
    assert held_out[tuned.kept_step] == min(held_out.values()) == tuned.state.best_loss
    assert tune(base, tokens, tmp_path / "c", **changes).state.step == tuned.state.step  # it stays stopped


def test_without_held_out_rows_the_last_weights_are_kept(base, tmp_path):
    tuned = tune(base, write_tokens(tmp_path / "tokens", held_out=0), tmp_path / "c")
    assert tuned.state.best_loss is None and tuned.kept_step == tuned.state.step >= 4


def test_a_checkpoint_of_another_device_is_not_used(base, tokens, tmp_path, capsys):
    tune(base, tokens, tmp_path / "c")
    changed = list((tmp_path / "c").glob("step-*"))
    for folder in changed:
        atomic.write_json(folder / "state.json", json.loads((folder / "state.json").read_text()) | {"device": "cuda"})
        listed = json.loads((folder / "manifest.json").read_text())
        listed["state.json"] = [(folder / "state.json").stat().st_size, digest.of_file(folder / "state.json")]
        atomic.write_json(folder / "manifest.json", listed)
    tune(base, tokens, tmp_path / "c")
    assert len(changed) == 2 and "made on cuda, this is cpu" in capsys.readouterr().out


def test_full_tuning_saves_a_whole_model(tokens, tmp_path):
    base = make_gpt2(tmp_path / "gpt2")
    tuned = tune(base, tokens, tmp_path / "c", method="full", learning_rate=0.001)
    tuned.model.save(tmp_path / "model", "gpt2")
    again = model.load(tmp_path / "model", torch.float32)
    assert {p.name for p in (tmp_path / "model").iterdir()} == {p.name for p in base.iterdir()}
    assert torch.equal(again.transformer.wte.weight, tuned.model.causal.transformer.wte.weight)
    assert not torch.equal(again.transformer.wte.weight, model.load(base, torch.float32).transformer.wte.weight)


def test_an_adapter_names_no_path_and_peft_reads_it(base, tokens, tmp_path):
    from peft import PeftModel

    tuned = tune(base, tokens, tmp_path / "c")
    tuned.model.save(tmp_path / "adapter", "tiny")
    config = (tmp_path / "adapter" / "adapter_config.json").read_text()
    assert str(tmp_path.parent) not in config and json.loads(config)["base_model_name_or_path"] == "tiny"
    assert sorted(json.loads(config)["target_modules"]) == json.loads(config)["target_modules"]
    loaded = PeftModel.from_pretrained(model.load(base, torch.float32), tmp_path / "adapter").eval()
    ids = torch.arange(12)[None]
    assert torch.allclose(loaded(ids).logits, tuned.model.causal.eval()(ids).logits, atol=1e-5)


def test_an_unknown_target_module_is_named(base, tokens, tmp_path):
    lora = SimpleNamespace(rank=4, alpha=8, dropout=0.0, target_modules=["q_proj", "c_attn"])
    with pytest.raises(StageError, match="names 'c_attn', which LlamaForCausalLM lacks"):
        tune(base, tokens, tmp_path / "c", lora=lora)


def test_bf16_trains_too(base, tokens, tmp_path):
    tuned = tune(base, tokens, tmp_path / "c", precision="bf16", max_steps=3)
    assert tuned.model.half and math.isfinite(tuned.train_loss)


def test_learning_rate_rises_in_a_line_and_falls_to_zero():
    cosine = [learning_rate_share(step, 100, 0.1, "cosine") for step in range(100)]
    assert cosine[:10] == pytest.approx([(i + 1) / 10 for i in range(10)])
    assert cosine[10] == 1 and cosine[55] == pytest.approx(0.5) and cosine[99] < 0.001
    assert learning_rate_share(55, 100, 0.1, "linear") == pytest.approx(0.5)
    assert learning_rate_share(0, 100, 0.0, "linear") == 1


def test_pytorch_is_left_as_it_was():
    before = torch.get_num_threads(), torch.are_deterministic_algorithms_enabled()
    with reproducible(True, before[0] + 1):
        assert torch.are_deterministic_algorithms_enabled() and torch.get_num_threads() == before[0] + 1
    assert (torch.get_num_threads(), torch.are_deterministic_algorithms_enabled()) == before
