"""The synthetic grammar and the sample made of it."""

import importlib.util
import itertools
import random
from pathlib import Path

from slipway.data import corpus

ROOT = Path(__file__).resolve().parents[2]


def test_the_committed_sample_is_what_the_generator_writes() -> None:
    spec = importlib.util.spec_from_file_location("generate", ROOT / "sample" / "generate.py")
    assert spec is not None and spec.loader is not None
    generate = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(generate)
    files = generate.files()
    assert set(files) == {"support_desk.jsonl", "test.jsonl"}
    for name, text in files.items():
        assert (ROOT / "sample" / name).read_bytes() == text.encode(), f"run `python sample/generate.py` ({name})"


def test_prose_never_shows_the_answers_format_but_all_its_words() -> None:
    found = list(itertools.islice(corpus.documents(1), 3000))
    assert len(set(found)) == 3000
    text = "\n".join(found)
    assert not any(f"{key}:" in text for key in ("intent", "priority", "team"))
    assert not any(one.answer in text for one in (corpus.ticket(random.Random(n)) for n in range(200)))
    for word in (*corpus.INTENTS, *corpus.PRIORITIES, *corpus.TEAMS.values(), "intent", "priority", "team", "reply"):
        assert word in text, word


def test_answers_are_a_closed_set() -> None:
    rng = random.Random(5)
    answers = {corpus.ticket(rng).answer for _ in range(3000)}
    assert len(answers) == len(corpus.INTENTS) * len(corpus.PRIORITIES) == 30
