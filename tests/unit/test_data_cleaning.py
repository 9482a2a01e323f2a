"""Personal data, duplicates, splits and packing, each on its own."""

import random
from collections import Counter

import pytest
from data_folders import tickets
from hypothesis import given
from hypothesis import strategies as st

from slipway.data import duplicates, formats, packing, personal, rows, split
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
        mine = duplicates.shingles(duplicates.said(one.asked))
        if all(duplicates.jaccard(mine, duplicates.shingles(duplicates.said(o.asked))) < similarity for o in truth):
            truth.append(one)
    assert kept == truth
    assert 20 < len(drops) < 180 and len(kept) + len(drops) == 240


def _edited(rng: random.Random, text: str) -> str:
    words = text.split()
    for _ in range(rng.randrange(1, 6)):
        words[rng.randrange(len(words))] = rng.choice(("really", "maybe", "soon"))
    return " ".join(words)


def chatting(*turns: str, system: str | None = None, number: int = 1) -> Row:
    """A chat of user and assistant in turn."""
    start = [Message("system", system)] if system is not None else []
    spoken = [Message(("user", "assistant")[n % 2], text) for n, text in enumerate(turns)]
    return Row("f", number, "chat", (*start, *spoken))


def test_a_long_system_message_makes_no_row_a_duplicate_or_a_leak() -> None:
    system = " ".join(f"rule{n}" for n in range(150))
    found = [
        chatting(f"what costs item{n} in shop{n} today", f"{n} euros", system=system, number=n) for n in range(300)
    ]
    kept, drops = duplicates.without_exact(found)
    assert (len(kept), drops) == (300, [])
    kept, drops = duplicates.without_near(found, 0.8)
    assert (len(kept), drops) == (300, [])
    kept, drops = duplicates.without_leaks(found[30:], found[:30], "test", 0.8)
    assert (len(kept), drops) == (270, [])


def test_the_user_and_the_answer_make_a_duplicate_whatever_the_system_message() -> None:
    first = chatting("name a colour that you like", "red", system="be brief")
    same = chatting("name a colour that you like", "red", system="today is Monday")
    conflict = chatting("name a colour that you like", "blue", system="be brief")
    another = chatting("name a colour that you like", "rouge", system="answer in French")
    kept, drops = duplicates.without_exact([first, same, conflict, another])
    assert kept == [first, another] and [drop.reason for drop in drops] == ["exact_duplicate", "conflict"]
    louder = chatting("Name a colour that you like!", "rot", system="be brief")
    kept, drops = duplicates.without_near([first, another, louder], 0.8)
    assert kept == [first, another] and [drop.reason for drop in drops] == ["near_duplicate"]


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ("3 + 4", "3 - 4"),
        ("3+4", "3*4"),
        ("What is 3 + 4?", "What is 3 - 4?"),
        ("What is 3+4?", "What is 3/4?"),
        ("👍", "???"),
        ("👍", "👎"),
        ("how was it all 👍", "how was it all 👎"),
    ],
)
def test_signs_tell_texts_of_the_same_few_words_apart(one: str, other: str) -> None:
    found = [row(one), row(other, number=2), row(f" {one.upper()} ", number=3)]
    kept, drops = duplicates.without_near(found, 0.8)
    assert kept == found[:2] and len(drops) == 1
    kept, drops = duplicates.without_leaks(found, [row(other)], "test", 0.8)
    assert kept == [found[0], found[2]] and len(drops) == 1


def test_words_are_told_apart_in_scripts_without_spaces() -> None:
    assert duplicates.words("Hello, 世界! iPhone電池") == ["hello", "世", "界", "iphone", "電", "池"]


def test_a_long_shared_passage_is_a_leak_and_a_short_one_is_not() -> None:
    held = row(" ".join(f"w{n}" for n in range(20)))
    around = "other words " * 30
    copied = row(around + held.prompt)
    phrase = row(around + " ".join(f"w{n}" for n in range(14)))
    kept, drops = duplicates.without_leaks([copied, phrase], [held], "test", 0.8)
    assert kept == [phrase] and [drop.reason for drop in drops] == ["leaked_test"]


LATE = "Where is my parcel, it is late"


@pytest.mark.parametrize(
    "leak",
    [
        chatting(LATE, "We look.", "And what about the lamp that I bought from you in March?", "It is fine."),
        chatting("I have a question about the lamp that I bought from you", "Yes?", LATE.upper(), "We look."),
        chatting(f"Hello dear team, I hope you are all well. {LATE}. Thank you very much!", "We look."),
        chatting("Where is my parcel?", "Which one?", "it is late", "We look."),
        chatting(LATE, "We look.", system="be brief"),
        chatting("ok", "fine", "and now something longer please", "no"),
    ],
)
def test_a_held_out_prompt_leaks_through_any_turn_and_however_short(leak: Row) -> None:
    held = [row(LATE), row("ok")]
    honest = chatting("It is late, where are you and my friends?", "Here.", "ok then, thanks", "Bye.")
    kept, drops = duplicates.without_leaks([leak, honest], held, "test", 0.8)
    assert kept == [honest] and [drop.reason for drop in drops] == ["leaked_test"]


def test_what_held_out_chats_share_with_all_chats_is_no_leak() -> None:
    opening = "Please read the following letter of a customer and tell me in one sentence what it is about"
    found = [
        chatting(opening, "Send it.", f"the lamp{n} that came on day{n} has hole{n} and I want{n} money{n}", f"{n}")
        for n in range(40)
    ]
    kept, drops = duplicates.without_leaks(found[10:], found[:10], "test", 0.8)
    assert kept == found[10:] and drops == []


def test_a_template_that_all_prompts_share_is_no_leak_but_the_prompt_in_it_is() -> None:
    frame = " ".join(f"frame{n}" for n in range(40))
    found = [
        row(f"{frame} what costs item{n} with part{n} and wheel{n} and screw{n} in shop{n}", number=n)
        for n in range(40)
    ]
    around = " ".join(f"other{n}" for n in range(40))
    bare = row(f"{around} {frame} what costs item3 with part3 and wheel3 and screw3 in shop3")
    kept, drops = duplicates.without_leaks([*found[10:], bare], found[:10], "test", 0.8)
    assert kept == found[10:] and [drop.detail for drop in drops] == ["repeats 100% of f:3"]


def test_a_chat_of_very_many_turns_is_compared_in_time() -> None:
    import time

    turns = [text for n in range(2_000) for text in (f"what is item{n} worth to you", "much")]
    start = time.process_time()
    assert duplicates.without_leaks([chatting(*turns)], [row(LATE)], "test", 0.8)[1] == []
    assert time.process_time() - start < 2


FORMULAS = (
    *('=HYPERLINK("http://example.com")', "=1+1", "=+cmd|' /C calc'!A0", "=-A1", "@sum(1)", "-2+3+cmd|' /C calc'!A0"),
    *("=cmd|' /C calc'!A0", "+cmd|' /C calc'!A0", "@SUM(A1:A9)", "= hyperlink (1)", "=A1", "='Sheet 1'!A1", "-SUM(1)"),
)
HONEST = (
    *("- item one", "+49 30 1234", "@anna thanks", "-5 degrees outside", "- see f(x) below", "=> the next step"),
    *("== Heading ==", "=) thanks", "-5 + 3", "- a | b! c", "@anna (from Berlin) thanks", "a =SUM(1)", "+1 (555) 010"),
)


@pytest.mark.parametrize("before", ["", " \n", "\u200b", "\ufeff", "\x00\u200b ", "\u2060\u200d"])
def test_what_a_spreadsheet_would_run_goes_and_ordinary_text_stays(before: str) -> None:
    def reason(text: str) -> str | None:
        found = rows.of_record("f", formats.Record(1, "", {"prompt": "a", "completion": before + text}))
        return found.reason if isinstance(found, rows.Drop) else None

    assert {text: reason(text) for text in (*FORMULAS, *HONEST)} == {
        **dict.fromkeys(FORMULAS, "formula"),
        **dict.fromkeys(HONEST),
    }


def test_a_formula_goes_wherever_it_stands() -> None:
    fine = {"prompt": "a", "chosen": "b", "rejected": "c", "label": "d"}
    places = ("prompt", "chosen", "rejected", "label")
    found = [rows.of_record("f", formats.Record(1, "", fine | {place: "\u200b=1+1"})) for place in places]
    assert [one.reason for one in found if isinstance(one, rows.Drop)] == ["formula"] * 4
    assert isinstance(rows.of_record("f", formats.Record(1, "", fine)), Row)


def test_formulas_are_told_fast_in_hostile_text() -> None:
    import time

    start = time.process_time()
    for text in ("=" + "(" * 100_000, "-" + "a" * 100_000, "-" + "1a|" * 30_000, "=" + "a." * 50_000, "-|'" * 30_000):
        rows.of_record("f", formats.Record(1, "", {"prompt": "a", "completion": text}))
    assert time.process_time() - start < 2


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
