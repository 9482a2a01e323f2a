"""How much faster our likelihood scoring is than the stock harness, and whether the scores are the same.

    python benchmarks/evaluation.py FILE [--questions 50] [--hidden 256] [--release FOLDER] [--tiny]

Both sides run lm-evaluation-harness on one model object, on one thread, in one process. The stock side is its `HFLM`
with a batch size of 64 and with its default of 1; the faster of the two counts. The ratio is of CPU time, which other
work on the machine moves less than wall time. The model has random weights, on which speed does not depend; with
--release (a folder where a release has finished: models/base, models/adapter, data/prepared) the scores of its trained
models are compared too. Scores that differ by more than 1e-4, or any other greedy answer, end the run with 1.
"""

import argparse
import contextlib
import io
import json
import logging
import random
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
sys.path[:0] = [str(ROOT), str(ROOT / "tests")]

import torch  # noqa: E402
from lm_eval.api.instance import Instance  # noqa: E402
from lm_eval.models.huggingface import HFLM  # noqa: E402
from model_folders import WORDS, make_llama  # noqa: E402

from slipway.evaluation import inference  # noqa: E402
from slipway.evaluation.harness import Harness  # noqa: E402

SHAPE = {"num_hidden_layers": 4, "num_attention_heads": 4, "max_position_embeddings": 2048}
TOKENS = 1024  # a batch of ours
ITEMS = 2000  # compared at least, beside those measured
SAME = 1e-4
# name: (bar, words in the question, words in an option, questions with answers shown before)
FORMS = {
    "four options of several tokens, after a question": (8.0, (40, 80), (3, 8), 0),
    "four options of several tokens, after a passage": (8.0, (150, 250), (3, 8), 0),
    "four options of several tokens, after five shown answers": (12.0, (40, 80), (3, 8), 5),
    "four options of one token, after a question": (1.5, (40, 80), (1, 1), 0),
    "four long endings, after a few sentences": (None, (20, 60), (12, 30), 0),
}


def requests(form: str, questions: int) -> list[Instance]:
    """Questions of random words with four options each, of this form."""
    _, asked, option, shots = FORMS[form]
    draw, words = random.Random(form), WORDS.split()

    def some(span: tuple[int, int]) -> str:
        return " ".join(draw.choices(words, k=draw.randint(*span)))

    shown = "".join(f"Question: {some(asked)}\nAnswer: {some(option)}\n\n" for _ in range(shots))
    contexts = [f"{shown}Question: {some(asked)}\nAnswer:" for _ in range(questions)]
    return instances("loglikelihood", [(context, f" {some(option)}") for context in contexts for _ in range(4)])


def instances(kind: str, arguments: list[Any]) -> list[Instance]:
    return [Instance(kind, {}, one, number) for number, one in enumerate(arguments)]


def timed(side: Any, asked: list[Instance]) -> tuple[list[Any], dict[str, float]]:
    """What a side answers to requests of one kind, and the seconds that took: of the processor and of the clock."""
    processor, clock = time.process_time(), time.perf_counter()
    with contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(io.StringIO()):
        found = getattr(side, asked[0].request_type)(asked)
    return found, {"cpu": time.process_time() - processor, "wall": time.perf_counter() - clock}


def apart(one: list[tuple[float, bool]], other: list[tuple[float, bool]]) -> dict[str, float]:
    """How far two sides' scores are from each other, and how many greedy answers differ."""
    assert len(one) == len(other) > 0
    return {
        "items": len(one),
        "largest_difference": max(abs(a[0] - b[0]) for a, b in zip(one, other, strict=True)),
        "other_greedy": sum(a[1] != b[1] for a, b in zip(one, other, strict=True)),
        "greedy": sum(a[1] for a in other),
    }


def least(side: Any, asked: list[Instance], repeats: int) -> tuple[list[Any], dict[str, float]]:
    """The same, of the run that other work on the machine disturbed least."""
    return min((timed(side, asked) for _ in range(repeats)), key=lambda run: run[1]["cpu"])


def both(
    model: Any, tokenizer: Any, asked: list[Instance], sizes: tuple[int, ...] = (64, 1), repeats: int = 1
) -> dict[str, Any]:
    """Requests of one kind on both sides: seconds, ratios, agreement."""
    ours = Harness(model, tokenizer, None, TOKENS)
    timed(ours, asked[:16])  # warm
    found, seconds = least(ours, asked, repeats)
    stock: dict[int, dict[str, float]] = {}
    expected: list[Any] = []
    for size in sizes:
        expected, stock[size] = least(HFLM(pretrained=model, tokenizer=tokenizer, batch_size=size), asked, repeats)
    best = min(stock, key=lambda size: stock[size]["cpu"])
    return {
        "ours": seconds,
        "stock": {str(size): spent for size, spent in stock.items()},
        "stock_batch": best,
        "ratio": stock[best]["cpu"] / seconds["cpu"],
        "wall_ratio": stock[best]["wall"] / seconds["wall"],
        "trees": ours.scorer.trees,
        "agreement": apart(found, expected) if asked[0].request_type == "loglikelihood" else agreed(found, expected),
    }


def agreed(found: list[Any], expected: list[Any]) -> dict[str, Any]:
    """The same for running text, by its share of the whole, and for written answers."""
    if isinstance(found[0], str):
        return {"items": len(found), "other_text": sum(a != b for a, b in zip(found, expected, strict=True))}
    relative = max(abs(a - b) / abs(b) for a, b in zip(found, expected, strict=True))
    return {"items": len(found), "largest_relative_difference": relative}


def whole_suite(folder: Path, model: Any, tokenizer: Any) -> dict[str, dict[str, Any]]:
    """What lm-eval asks for a suite, by kind of request, on both sides."""
    from slipway.evaluation import harness, suites

    asked: dict[str, list[Instance]] = {}

    class Recording(Harness):  # type: ignore[misc]
        def loglikelihood(self, requests: list[Instance], disable_tqdm: bool = False) -> Any:
            return super().loglikelihood(asked.setdefault("loglikelihood", requests))

        def loglikelihood_rolling(self, requests: list[Instance], disable_tqdm: bool = False) -> Any:
            return super().loglikelihood_rolling(asked.setdefault("loglikelihood_rolling", requests))

        def generate_until(self, requests: list[Instance], disable_tqdm: bool = False) -> Any:
            return super().generate_until(asked.setdefault("generate_until", requests))

    harness.Harness = Recording
    limits = inference.Limits(8, 32, inference.positions_of(model))
    with contextlib.redirect_stdout(io.StringIO()):
        suites.score(suites.load(folder), inference.Model("base", "", model, tokenizer, limits), 1)
    harness.Harness = Harness
    return {kind: both(model, tokenizer, found, (64, 8, 1), repeats=2) for kind, found in sorted(asked.items())}


def trained(release: Path) -> dict[str, dict[str, float]]:
    """A release's base and tuned model on its test rows: each row's answer and those of four others."""
    from slipway.evaluation import testset

    rows = testset.load(release / "data" / "prepared", None).rows
    asked = [(row.prompt, rows[(n + k) % len(rows)].answer) for n, row in enumerate(rows) for k in range(5)]
    network, tokenizer = (
        load(release / "models" / "base") for load in (inference.load_model, inference.load_tokenizer)
    )
    found = {"base": both(network, tokenizer, instances("loglikelihood", asked), (16,))}
    network = inference.add_adapter(network, release / "models" / "adapter")
    found["tuned, adapter on top"] = both(network, tokenizer, instances("loglikelihood", asked), (16,))
    return found


def table(figures: dict[str, Any]) -> str:
    """The figures as docs/benchmarks.md has them."""
    lines = [
        "| what | bar | ratio | against batch 64 · 1 | wall | largest difference | other greedy |",
        "|---|---|---|---|---|---|---|",
    ]
    for name, one in figures["forms"].items():
        sides = " · ".join(f"{one['stock'][size]['cpu'] / one['ours']['cpu']:.1f}" for size in ("64", "1"))
        found, bar = one["agreement"], one["bar"]
        lines.append(
            f"| {name} | {bar or '–'} | **{one['ratio']:.1f}** | {sides} | {one['wall_ratio']:.1f} | "
            f"{found['largest_difference']:.1e} | {found['other_greedy']} of {found['items']} |"
        )
    for name, one in figures["suite"].items():
        lines.append(
            f"| smoke suite, {name} ({one['agreement']['items']}) | – | {one['ratio']:.1f} | {one['stock_batch']} | {one['wall_ratio']:.1f} | {one['agreement']} | |"
        )
    for name, one in figures["agreement"].items():
        lines.append(
            f"| {name} | | {one['ratio']:.1f} | | | {one['agreement']['largest_difference']:.1e} | {one['agreement']['other_greedy']} of {one['agreement']['items']} |"
        )
    return "\n".join(lines)


def main() -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("file", type=Path, help="where the figures go")
    parser.add_argument("--questions", type=int, default=50, help="of each form")
    parser.add_argument("--hidden", type=int, default=256, help="the model's width")
    parser.add_argument("--vocabulary", type=int, default=32000)
    parser.add_argument("--release", type=Path, help="a folder where a release has finished")
    parser.add_argument("--tiny", action="store_true", help="a few seconds, to see that it runs")
    chosen = parser.parse_args()
    logging.disable(logging.WARNING)
    torch.set_num_threads(1)
    hidden, vocabulary = (32, 400) if chosen.tiny else (chosen.hidden, chosen.vocabulary)
    questions, items, repeats = (4, 40, 1) if chosen.tiny else (chosen.questions, ITEMS, 2)
    with tempfile.TemporaryDirectory() as name:
        shape = {"hidden_size": hidden, "intermediate_size": 4 * hidden, "vocab_size": vocabulary}
        folder = make_llama(Path(name) / "model", **shape, **SHAPE)
        model, tokenizer = inference.load_model(folder), inference.load_tokenizer(folder)
    forms = {
        form: {"bar": FORMS[form][0], **both(model, tokenizer, requests(form, questions), repeats=repeats)}
        for form in FORMS
    }
    many = [one for form in list(FORMS)[:1] + list(FORMS)[3:] for one in requests(form, items // 12 + 1)]
    agreement = {"random weights": both(model, tokenizer, many, (16,))}
    suite_model = model, tokenizer
    if chosen.release:
        agreement |= trained(chosen.release)
        base = chosen.release / "models" / "base"
        suite_model = inference.load_model(base), inference.load_tokenizer(base)
    figures = {
        "torch": torch.__version__,
        "hidden": hidden,
        "vocabulary": vocabulary,
        "questions": questions,
        "forms": forms,
        "suite": {} if chosen.tiny else whole_suite(ROOT / "configs" / "evals" / "smoke", *suite_model),
        "agreement": agreement,
    }
    chosen.file.write_text(json.dumps(figures, indent=2) + "\n")
    print(table(figures))
    compared = [one["agreement"] for part in (forms, agreement) for one in part.values()]
    return int(any(one["largest_difference"] > SAME or one["other_greedy"] for one in compared))


if __name__ == "__main__":
    sys.exit(main())
