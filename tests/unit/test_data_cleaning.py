"""Personal data, duplicates, splits and packing, each on its own."""

import random
from collections import Counter

import pytest
from data_folders import tickets
from hypothesis import given
from hypothesis import strategies as st

from slipway.data import duplicates, packing, personal, rows, split
from slipway.data.rows import Message, Row
from slipway.params import SplitParams


def row(prompt: str, answer: str = "yes", number: int = 1) -> Row:
    return Row("f", number, "chat", (Message("user", prompt), Message("assistant", answer)))


@pytest.mark.parametrize(
    ("text", "redacted"),
    [
        ("mail a.b+c@sub.example.org.", "mail <EMAIL>."),
        ("card 4111 1111 1111 1111, thanks", "card <CARD>, thanks"),
        ("card 4111-1111-1111-1111", "card <CARD>"),
        ("no card 4111 1111 1111 1112", "no card 4111 1111 1111 1112"),
        ("zeros 0000 0000 0000 0000", "zeros 0000 0000 0000 0000"),
        ("IBAN DE89 3704 0044 0532 0130 00 PLEASE", "IBAN <IBAN> PLEASE"),
        ("IBAN GB82WEST12345698765432", "IBAN <IBAN>"),
        ("no IBAN DE88370400440532013000", "no IBAN DE88370400440532013000"),
        ("at 192.0.2.17.", "at <IP>."),
        ("version 1.2.3.4.5 and 999.1.1.1", "version 1.2.3.4.5 and 999.1.1.1"),
        ("call +44 20 7946 0018 or (555) 010-1234", "call <PHONE> or <PHONE>"),
        ("order A955 of 2026-01-02, 724 euros", "order A955 of 2026-01-02, 724 euros"),
    ],
)
def test_personal_data_is_told_from_look_alikes(text: str, redacted: str) -> None:
    found: Counter[str] = Counter()
    assert personal.redact(text, personal.KINDS, found) == redacted
    assert found.total() == redacted.count("<")
    assert personal.redact(redacted, personal.KINDS) == redacted
    assert personal.redact(text, []) == text


def test_patterns_are_fast_on_hostile_text() -> None:
    import time

    hostile = ["1 " * 50_000, "a." * 50_000 + "@", "+1" * 50_000, "AA00" + "A" * 100_000, "1." * 50_000]
    start = time.process_time()
    for text in hostile:
        personal.redact(text, personal.KINDS)
    assert time.process_time() - start < 5


@given(st.text(max_size=80))
def test_normal_text_stays_as_it_is(text: str) -> None:
    once = rows.normal(text)
    assert rows.normal(once) == once


def test_near_duplicates_are_found_as_exact_jaccard_says() -> None:
    rng, similarity = random.Random(4), 0.6
    originals = [str(item["messages"][0]["content"]) for item in tickets(60)]
    edited = [_edited(rng, text) for text in originals for _ in range(3)]
    found = [row(text, number=n) for n, text in enumerate(originals + edited, start=1)]
    kept, drops = duplicates.without_near(found, similarity)
    truth: list[Row] = []
    for one in found:
        mine = duplicates.shingles(duplicates.words(one.prompt))
        if all(duplicates.jaccard(mine, duplicates.shingles(duplicates.words(o.prompt))) < similarity for o in truth):
            truth.append(one)
    assert kept == truth
    assert 20 < len(drops) < 180 and len(kept) + len(drops) == 240


def _edited(rng: random.Random, text: str) -> str:
    words = text.split()
    for _ in range(rng.randrange(1, 6)):
        words[rng.randrange(len(words))] = rng.choice(("really", "maybe", "soon"))
    return " ".join(words)


def test_words_are_told_apart_in_scripts_without_spaces() -> None:
    assert duplicates.words("Hello, 世界! iPhone電池") == ["hello", "世", "界", "iphone", "電", "池"]


def test_a_long_shared_passage_is_a_leak_and_a_short_one_is_not() -> None:
    held = row(" ".join(f"w{n}" for n in range(20)))
    around = "other words " * 30
    copied = row(around + held.prompt)
    phrase = row(around + " ".join(f"w{n}" for n in range(14)))
    kept, drops = duplicates.without_leaks([copied, phrase], [held], "test", 0.8)
    assert kept == [phrase] and [drop.reason for drop in drops] == ["leaked_test"]


@given(st.lists(st.integers(1, 100), max_size=60))
def test_packs_hold_everything_once_and_are_nearly_as_few_as_can_be(lengths: list[int]) -> None:
    packs = packing.pack(lengths, 100)
    assert sorted(document for one in packs for document in one) == list(range(len(lengths)))
    assert all(sum(lengths[document] for document in one) <= 100 for one in packs)
    fewest = -(-sum(lengths) // 100)
    assert len(packs) <= fewest * 11 / 9 * 1.5 + 1


def test_split_shares_come_out_as_asked() -> None:
    params = SplitParams(validation=0.1, test=0.2, seed=7)
    found = split.assign([row(f"prompt {n}") for n in range(5000)], params, with_test=True)
    assert {name: round(len(part) / 5000, 1) for name, part in found.items()} == {
        "train": 0.7,
        "validation": 0.1,
        "test": 0.2,
    }
    assert split.assign([row("a")], params, with_test=False)["test"] == []
    other = SplitParams(validation=0.1, test=0.2, seed=8)
    some = [row(f"prompt {n}") for n in range(500)]
    assert 100 < sum(split.of_row(one, params, True) != split.of_row(one, other, True) for one in some) < 400
