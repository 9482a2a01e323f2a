"""Small raw and base folders for tests of the data stages."""

import itertools
import json
from collections.abc import Iterable
from functools import cache
from pathlib import Path
from typing import Any

from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors, trainers

from slipway.artifacts import Manifest
from slipway.data import corpus
from slipway.params import PrepareParams, SplitParams

CHATML = (
    "{% for message in messages %}{{ '<|im_start|>' + message['role'] + '\\n' + message['content'] + '<|im_end|>\\n' }}"
    "{% endfor %}{% if add_generation_prompt %}{{ '<|im_start|>assistant\\n' }}{% endif %}"
)

Row = dict[str, Any]


@cache
def _tokenizer_json(adds_bos: bool) -> str:
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    special = ["<|im_start|>", "<|im_end|>", "<s>", "</s>"]
    trainer = trainers.BpeTrainer(
        vocab_size=600,
        show_progress=False,
        special_tokens=special,
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
    )
    tokenizer.train_from_iterator(itertools.islice(corpus.documents(1), 200), trainer)
    if adds_bos:
        bos = ("<s>", tokenizer.token_to_id("<s>"))
        tokenizer.post_processor = processors.TemplateProcessing(single="<s> $A", special_tokens=[bos])
    return str(tokenizer.to_str())


def base_folder(path: Path, template: str | None = CHATML, max_length: int = 512, adds_bos: bool = False) -> Path:
    """What fetch makes, without weights: prepare never reads them."""
    path.mkdir(parents=True)
    (path / "tokenizer.json").write_text(_tokenizer_json(adds_bos))
    (path / "tokenizer_config.json").write_text(json.dumps({"bos_token": "<s>", "eos_token": {"content": "</s>"}}))
    if template is not None:
        (path / "chat_template.jinja").write_text(template)
    Manifest.write(path, facts={"source": "test", "max_length": max_length})
    return path


def lines(rows: Iterable[Row | str]) -> str:
    """JSON Lines; a text stands for itself."""
    return "".join((row if isinstance(row, str) else json.dumps(row)) + "\n" for row in rows)


def raw_folder(path: Path, data: Iterable[Row | str], test: Iterable[Row | str] | None = None) -> Path:
    """What ingest makes."""
    path.mkdir(parents=True)
    roles = {"data-00000-rows.jsonl": "data"}
    (path / "data-00000-rows.jsonl").write_text(lines(data))
    if test is not None:
        roles["test-00000-rows.jsonl"] = "test"
        (path / "test-00000-rows.jsonl").write_text(lines(test))
    Manifest.write(path, facts={"source": "test", "roles": roles})
    return path


def chat(prompt: str, answer: str, **extra: Any) -> Row:
    return {"messages": [{"role": "user", "content": prompt}, {"role": "assistant", "content": answer}], **extra}


def tickets(count: int, seed: int = 3) -> list[Row]:
    """Clean chat rows of the sample's grammar."""
    import random

    rng = random.Random(seed)
    return [chat(one.message, one.answer) for one in (corpus.ticket(rng) for _ in range(count))]


def params(**changes: Any) -> PrepareParams:
    values: dict[str, Any] = {
        "max_row_bytes": 100_000,
        "max_length": 512,
        "label_pattern": r"(?m)^intent: *(\S+)",
        "near_duplicate_similarity": 0.8,
        "redact": ["email", "phone", "card", "iban", "ip"],
        "split": SplitParams(validation=0.1, test=0.2, seed=7),
        "threads": 2,
    }
    return PrepareParams(**(values | changes))
