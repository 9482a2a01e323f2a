"""Scoring answers on CUDA: what plain passes over each sequence give, in single and in half precision.

Needs only PyTorch, Transformers and pytest: `python -m pytest -m gpu --noconftest tests/gpu`.
"""

import random

import pytest
import torch
from model_folders import make_llama
from transformers import AutoModelForCausalLM

from slipway.evaluation.likelihood import Scorer

needs_cuda = pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device here")


def requests():
    """Forty contexts on one long start, four answers each."""
    draw = random.Random(1)

    def some(least, most):
        return draw.choices(range(3, 400), k=draw.randint(least, most))

    start = some(60, 60)
    contexts = [start + some(5, 40) for _ in range(40)]
    return [(context, some(1, 8)) for context in contexts for _ in range(4)]


@torch.no_grad()
def one_by_one(network, asked):
    found = []
    for context, answer in asked:
        logits = network(torch.tensor([context + answer[:-1]], device=network.device)).logits[0, -len(answer) :]
        logs = logits.float().log_softmax(-1)
        wanted = torch.tensor(answer, device=logs.device)
        found.append(float(logs[range(len(answer)), wanted].sum()))
    return found


def check(folder, device, precision, tolerance):
    network = AutoModelForCausalLM.from_pretrained(make_llama(folder), dtype=precision).to(device).eval()
    asked = requests()
    assert len(asked) == 160
    scorer = Scorer(network, 512, 2048)
    found = [score for score, _ in scorer.score(asked)]
    assert scorer.trees and scorer.reader.head_alone
    assert found == pytest.approx(one_by_one(network, asked), abs=tolerance)


@pytest.mark.parametrize(("precision", "tolerance"), [(torch.float32, 1e-4), (torch.bfloat16, 0.5)])
def test_scores_on_the_cpu(tmp_path, precision, tolerance):
    check(tmp_path, "cpu", precision, tolerance)


@pytest.mark.gpu
@needs_cuda
@pytest.mark.parametrize(("precision", "tolerance"), [(torch.float32, 1e-3), (torch.bfloat16, 0.5)])
def test_scores_on_cuda(tmp_path, precision, tolerance):
    check(tmp_path, "cuda", precision, tolerance)
