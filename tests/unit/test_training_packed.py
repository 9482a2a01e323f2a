"""Packing changes nothing: loss and gradients are those of a plain loop over single documents."""

import pytest
import torch
from model_folders import make_gpt2, make_llama, make_qwen2
from torch.nn import functional
from training_parts import write_tokens

from slipway.training import forward, model
from slipway.training.packs import IGNORED, Batch, Order, Packs

MAKERS = {"llama": make_llama, "qwen2": make_qwen2, "gpt2": make_gpt2}
TOLERANCE = 1e-4


def plain_loop(causal, packs: Packs, chosen: list[int]) -> tuple[float, dict[str, torch.Tensor]]:
    """One document at a time, no packing, no positions, the model's own logits."""
    causal.zero_grad()
    total = 0.0
    for pack in chosen:
        for index in packs.contents(pack):
            tokens, targets = packs.document(index)
            logits = causal(input_ids=tokens[None], use_cache=False).logits[0]
            loss = functional.cross_entropy(logits, targets, ignore_index=IGNORED, reduction="sum")
            loss.backward()
            total += float(loss.detach())
    return total, {name: p.grad.clone() for name, p in causal.named_parameters() if p.grad is not None}


def relative(one: torch.Tensor, other: torch.Tensor) -> float:
    return float((one - other).norm() / other.norm().clamp_min(1e-12))


@pytest.mark.parametrize("separation", ["probed", "mask"])
@pytest.mark.parametrize("kind", MAKERS)
def test_packed_loss_and_gradients_equal_a_loop_over_documents(tmp_path, kind, separation):
    causal = model.load(MAKERS[kind](tmp_path / kind), torch.float32).eval()
    packs = Packs(write_tokens(tmp_path / "tokens") / "train.safetensors")
    chosen = list(range(len(packs)))
    assert max(len(packs.contents(pack)) for pack in chosen) >= 3
    expected_loss, expected = plain_loop(causal, packs, chosen)
    run = forward.probe(causal) if separation == "probed" else forward.Forward("mask", chosen_positions=False)
    causal.zero_grad()
    loss = run.loss_sum(causal, packs.batch(chosen))
    loss.backward()
    found = {name: p.grad for name, p in causal.named_parameters() if p.grad is not None}
    assert abs(float(loss.detach()) - expected_loss) / expected_loss < TOLERANCE
    assert found.keys() == expected.keys() and len(found) >= 10
    assert max(relative(found[name], expected[name]) for name in found) < TOLERANCE


def test_documents_that_see_each_other_are_noticed(tmp_path):
    causal = model.load(make_llama(tmp_path / "llama"), torch.float32).eval()
    packs = Packs(write_tokens(tmp_path / "tokens") / "train.safetensors")
    _, expected = plain_loop(causal, packs, [0, 1])
    batch = packs.batch([0, 1])
    leaking = Batch(batch.input_ids, torch.arange(batch.input_ids.shape[1]).expand_as(batch.input_ids), batch.targets)
    causal.zero_grad()
    forward.probe(causal).loss_sum(causal, leaking).backward()
    name = "model.layers.0.self_attn.q_proj.weight"
    assert relative(causal.get_parameter(name).grad, expected[name]) > 10 * TOLERANCE


@pytest.mark.parametrize("kind", MAKERS)
def test_probe_takes_the_fast_way_where_it_is_sound(tmp_path, kind):
    causal = model.load(MAKERS[kind](tmp_path / kind), torch.float32)
    assert forward.probe(causal) == forward.Forward("positions", chosen_positions=True)


def test_probe_falls_back_to_the_mask_and_to_the_whole_head(tmp_path):
    causal = model.load(make_llama(tmp_path / "llama"), torch.float32)
    own = causal.forward

    def stubborn(input_ids, position_ids, use_cache, attention_mask=None):  # no positions to tell documents apart
        places = torch.arange(input_ids.shape[1]).expand_as(input_ids)
        found = own(input_ids=input_ids, position_ids=places, attention_mask=attention_mask, use_cache=use_cache)
        found.logits = found.logits * 0.5  # a head with a scale of its own
        return found

    causal.forward = stubborn
    assert forward.probe(causal) == forward.Forward("mask", chosen_positions=False)


def test_a_target_is_the_next_token_of_the_same_document(tmp_path):
    packs = Packs(write_tokens(tmp_path / "tokens") / "train.safetensors")
    batch = packs.batch(list(range(len(packs))))
    checked = 0
    for row in range(batch.input_ids.shape[0]):
        for place in (batch.targets[row] != IGNORED).nonzero().flatten().tolist():
            assert batch.targets[row, place] == batch.input_ids[row, place + 1]
            assert batch.position_ids[row, place + 1] == batch.position_ids[row, place] + 1
            checked += 1
    assert checked == batch.target_count and checked > 100


def test_each_epoch_sees_every_pack_once_in_an_order_of_its_own():
    order = Order(packs=10, batch_size=3, epochs=2.0, max_steps=None, seed=1)
    seen = [pack for step in range(order.steps) for pack in order.at(step)]
    assert order.steps == 7 and len(seen) == 20
    assert sorted(seen[:10]) == sorted(seen[10:]) == list(range(10)) and seen[:10] != seen[10:]
    assert Order(10, 3, 2.0, None, 1).at(5) == order.at(5)  # no need to have asked for the steps before
    assert Order(10, 3, 2.0, 4, 1).steps == 4
