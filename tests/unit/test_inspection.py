"""The inspection of prepared rows: leaks, secrets, personal data, planted rows; and honest rows that pass."""

import random
import re
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pandas
import pytest

from slipway.artifacts import Check, Inspection
from slipway.data import corpus, inspected, leakage, poison, secrets, tables
from slipway.data.inspection import inspect
from slipway.params import ValidateParams
from tests.data_folders import raw_folder

FILES = {"train": "data-00000-rows.jsonl", "validation": "data-00000-rows.jsonl", "test": "test-00000-rows.jsonl"}
PARAMS = ValidateParams(rows_shown=5, personal=["email", "phone", "card", "iban", "ip"], most_doubtful_labels=0.02)


def row(split: str, number: int, asked: str, answer: str, label: str | None = "a") -> inspected.Row:
    file = FILES[split]
    return inspected.Row(f"{file}:{number}", (file, number), split, (asked,), answer, label, (asked, answer))


def tickets(split: str, count: int, seed: int) -> list[inspected.Row]:
    rng = random.Random(seed)
    found = [corpus.ticket(rng) for _ in range(count)]
    return [row(split, n, one.message, one.answer, one.intent) for n, one in enumerate(found, start=1)]


TRAIN, TEST = tickets("train", 1200, 1), tickets("test", 120, 2)


def kinds(learnt: list[inspected.Row], test: list[inspected.Row]) -> set[tuple[str, str, str]]:
    return {(pair.train, pair.test, pair.kind) for pair in leakage.leaked(learnt, test)}


def planted(text: str, answer: str | None = None) -> tuple[list[inspected.Row], str, str]:
    """The training rows and one more that says `text`; its place and the place of the test row it is about."""
    victim = TEST[7]
    leak = row("train", 9000, text, answer if answer is not None else victim.answer, victim.label)
    return [*TRAIN, leak], leak.place, victim.place


# --- leaks ------------------------------------------------------------------------------------------------------------


def test_honest_rows_of_one_grammar_leak_nothing() -> None:
    assert leakage.leaked(TRAIN, TEST) == []


VICTIM = TEST[7].asked


def shouted(text: str) -> str:
    return "  ".join(text.upper().replace(",", " –").split()) + "!!"


def hidden(text: str) -> str:
    return text.replace("e", "e\u200b").replace("a", "\uff41")


def one_word_changed(text: str) -> str:
    words = text.split()
    return " ".join([*words[:4], "hence", *words[5:]])


def shuffled(text: str) -> str:
    sentences = re.split(r"(?<=[.,]) ", text)
    assert len(sentences) >= 3
    return " ".join(reversed(sentences))


def cut(text: str) -> str:
    """The sentences in another order, and one of them left out."""
    return " ".join(reversed(re.split(r"(?<=[.,]) ", text)[1:]))


def reworded(text: str) -> str:
    """Other small words for the small words."""
    for old, new in (("is", "was"), ("my", "our"), ("the", "this"), ("I", "we"), ("to", "towards")):
        text = re.sub(rf"\b{old}\b", new, text)
    assert text != VICTIM
    return text


@pytest.mark.parametrize(
    ("disguise", "kind"),
    [
        (str, "exact"),
        (shouted, "exact"),
        (hidden, "exact"),
        (one_word_changed, "near-duplicate"),
        (shuffled, "answer"),
        (reworded, "answer"),
        (cut, "answer"),
    ],
)
def test_case_E3_a_leaked_test_row_is_found_in_its_disguise(disguise: Callable[[str], str], kind: str) -> None:
    learnt, leak, victim = planted(disguise(VICTIM))
    assert kinds(learnt, TEST) == {(leak, victim, kind)}


def test_case_E3_a_test_row_quoted_in_a_longer_text_is_found() -> None:
    text = f"A customer wrote the following to us, and I did not know what to say to him. {VICTIM} What now?"
    learnt, leak, victim = planted(text, "Ask your team.")
    assert kinds(learnt, TEST) == {(leak, victim, "n-gram")}


def test_case_E3_a_test_row_in_a_turn_or_in_an_answer_of_a_conversation_is_found() -> None:
    learnt, leak, victim = planted("Hello there")
    told = replace(learnt[-1], turns=("Hello there", VICTIM, "Thanks"))
    assert kinds([*TRAIN, told], TEST) == {(leak, victim, "exact")}
    told = replace(learnt[-1], texts=("Hello there", f"You once wrote: {VICTIM}"))
    assert kinds([*TRAIN, told], TEST) == {(leak, victim, "n-gram")}


def test_case_E3_a_reworded_question_with_the_same_long_answer_is_found() -> None:
    answer = "The ferry to the island leaves at nine from the northern pier on every day but Sunday"
    asked, reworded = (
        "When does the ferry to the island leave?",
        "At what time leaves the ferry to that island, please?",
    )
    learnt = [*TRAIN, row("train", 9000, reworded, answer, None)]
    test = [*TEST, row("test", 9000, asked, answer, None)]
    assert {kind for *_, kind in kinds(learnt, test)} == {"answer"}
    other = [*TRAIN, row("train", 9000, reworded, "It leaves at ten.", None)]
    assert kinds(other, test) == set()


def test_other_signs_make_another_question() -> None:
    learnt = [row("train", 1, "3 + 4", "7"), row("train", 2, "Say hi", "hi")]
    assert kinds(learnt, [row("test", 1, "3 - 4", "-1")]) == set()
    assert kinds(learnt, [row("test", 1, " 3+4 ", "7")]) == {(learnt[0].place, f"{FILES['test']}:1", "exact")}


def test_a_long_instruction_that_all_rows_share_gives_none_away() -> None:
    told = (
        "Read the message below as a member of the support desk would, decide which intent it has, how urgent it is and "
        "which team should see it first, then write a short and friendly reply to the customer. Message:"
    )
    things = ["lamp", "kettle", "tent", "camera", "umbrella", "toaster", "blender", "keyboard", "bookshelf", "backpack"]
    learnt = [row("train", n, f"{told} my {thing} is late", "x") for n, thing in enumerate(things[:5], 1)]
    test = [row("test", n, f"{told} where is my {thing}", "x") for n, thing in enumerate(things[5:], 1)]
    assert kinds(learnt, test) == set()
    assert kinds([*learnt, replace(test[2], place="t:9")], test) == {("t:9", test[2].place, "exact")}


def test_whole_test_set_in_training_is_found_row_by_row() -> None:
    stolen = [row("train", 5000 + n, one.asked, one.answer, one.label) for n, one in enumerate(TEST)]
    assert {test for _, test, _ in kinds([*TRAIN, *stolen], TEST)} == {one.place for one in TEST}


# --- what raw rows say of themselves ----------------------------------------------------------------------------------


def records(learnt: list[Any], test: list[Any], key: str) -> dict[tuple[str, int], dict[str, Any]]:
    train_file, test_file = FILES["train"], FILES["test"]
    return {(train_file, n): {key: value} for n, value in enumerate(learnt, 1)} | {
        (test_file, n): {key: value} for n, value in enumerate(test, 1)
    }


def by_id(learnt: list[Any], test: list[Any], key: str = "ticket_id") -> list[tuple[str, str]]:
    rows = [row("train", n, f"t{n}", "x") for n in range(1, len(learnt) + 1)]
    held = [row("test", n, f"h{n}", "x") for n in range(1, len(test) + 1)]
    return [(pair.train, pair.test) for pair in leakage.by_id(rows, held, records(learnt, test, key))]


def test_case_E3_rows_with_one_id_on_both_sides_are_found() -> None:
    train, test = FILES["train"], FILES["test"]
    assert by_id(["T-1", "T-2", "T-3"], ["T-9", "T-2"]) == [(f"{train}:2", f"{test}:2")]
    assert by_id([90001, 90002, 90003], [90004, 90003], "id") == [(f"{train}:3", f"{test}:2")]


def test_ids_that_only_count_or_classify_name_no_row() -> None:
    assert by_id([1, 2, 3], [1, 2], "id") == []
    assert by_id(["a"] * 40, ["a", "a"], "thread_id") == []
    assert by_id(["x", "y"], ["x"], "colour") == []
    assert by_id([None, True, ""], [None, True, ""], "id") == []


def by_time(learnt: list[Any], test: list[Any], key: str = "created_at") -> tuple[list[str], bool]:
    rows = [row("train", n, f"t{n}", "x") for n in range(1, len(learnt) + 1)]
    held = [row("test", n, f"h{n}", "x") for n in range(1, len(test) + 1)]
    pairs, split = leakage.by_time(rows, held, records(learnt, test, key))
    return [pair.train for pair in pairs], split


def test_case_E3_training_rows_from_after_the_first_test_row_are_found() -> None:
    days = [f"2026-01-{day:02d}T10:00:00Z" for day in range(1, 29)]
    assert by_time(days[:18], days[18:]) == ([], True)
    late, split = by_time([*days[:18], days[20]], days[18:])
    assert late == [f"{FILES['train']}:19"] and split
    assert by_time([1_700_000_000 + n for n in (*range(18), 40)], [1_700_000_000 + n for n in range(20, 35)], "ts") == (
        [f"{FILES['train']}:19"],
        True,
    )


def test_a_split_by_chance_is_none_by_time() -> None:
    days = [f"2026-01-{day:02d}" for day in range(1, 29)]
    late, split = by_time(days[::2], days[1::2], "date")
    assert len(late) == 13 and not split
    assert by_time(["soon"] * 5, ["later"] * 5) == ([], False)


# --- secrets ------------------------------------------------------------------------------------------------------


def letters(count: int, seed: int = 1) -> str:
    rng = random.Random(seed)
    return "".join(rng.choice("ABCDEFGHJKLMNPQRSTUVWXYZabcdefghijkmnopqrstuvwxyz23456789") for _ in range(count))


# Written in parts, so that no scanner takes this file for a leak.
SECRETS = {
    "aws-key": "AKIA" + letters(16).upper(),
    "gcp-key": "AIza" + letters(35),
    "gcp-service-account": '"private_key_id": "' + "0f1e2d3c4b" * 4 + '"',
    "azure-storage-key": "AccountKey=" + letters(86) + "==",
    "azure-client-secret": "abc8Q~" + letters(34),
    "azure-shared-access": "https://x.test/c?sv=1&sig=" + letters(43) + "%3D",
    "github-token": "ghp_" + letters(36),
    "gitlab-token": "glpat-" + letters(20),
    "slack-token": "xoxb-" + "123456789012-" + letters(24),
    "slack-webhook": "https://hooks.slack.com/services/T" + letters(8) + "/B" + letters(8) + "/" + letters(24),
    "stripe-key": "sk_live_" + letters(24),
    "anthropic-key": "sk-ant-" + letters(40),
    "openai-key": "sk-proj-" + letters(48),
    "hugging-face-token": "hf_" + letters(34),
    "package-token": "npm_" + letters(36),
    "sendgrid-key": "SG." + letters(22) + "." + letters(43),
    "telegram-token": "123456789:AA" + letters(33),
    "private-key": "-----BEGIN RSA " + "PRIVATE KEY-----",
    "json-web-token": "eyJ" + letters(20) + ".eyJ" + letters(30) + "." + letters(43),
    "url-password": "postgres://admin:" + "s3cr3t" + "@db.test/app",
    "assignment": "password = " + "Tr4vel-Kite-92x",
}


def test_every_kind_of_secret_has_a_sample() -> None:
    assert SECRETS.keys() == set(secrets.KINDS) and len(SECRETS) > 20


@pytest.mark.parametrize("kind", sorted(SECRETS))
def test_case_E7_each_kind_of_secret_is_found(kind: str) -> None:
    for text in (SECRETS[kind], f"Hello, my key is:\n{SECRETS[kind]}\nThanks", f"({SECRETS[kind]})"):
        assert kind in secrets.found(text), text[:12]


def test_case_E7_a_secret_is_found_behind_invisible_and_wide_signs() -> None:
    assert secrets.found("AK\u200bIA" + letters(16).upper())["aws-key"] == 1
    assert secrets.found("\uff21KIA" + letters(16).upper())["aws-key"] == 1


@pytest.mark.parametrize(
    "text",
    [
        "the login page tells me that my password is wrong since Monday",
        "my password: please-reset-it",
        "token: <TOKEN>, api_key = YOUR_API_KEY_12345",
        "AKIAIOSFODNN7EXAMPLE",
        "http://user:password@example.org is how a URL looks"[:4],
        "password=********** and secret: ${SECRET_2024_VALUE}",
        "order E447, version 2.13, 578 euros, task-force-to-end-all-of-this-nonsense-now-sk-",
        "the key is under the mat; risk-averse-people-like-to-hedge-their-many-bets",
    ],
)
def test_talk_about_secrets_is_none(text: str) -> None:
    assert not secrets.found(text)


def test_no_text_makes_the_search_slow() -> None:
    for text in (
        "eyJ" * 30_000,
        "https://" * 10_000,
        "password: " * 10_000,
        "A" * 100_000,
        "sk-" * 30_000,
        "xox" * 30_000,
    ):
        secrets.found(text)  # the suite's time limit is the assertion


# --- planted rows -----------------------------------------------------------------------------------------------------


def flipped(share: float) -> tuple[list[inspected.Row], set[int]]:
    rng, rows = random.Random(5), list(TRAIN)
    chosen = rng.sample(range(len(rows)), int(share * len(rows)))
    for i in chosen:
        other = rng.choice([name for name in corpus.INTENTS if name != rows[i].label])
        rows[i] = replace(rows[i], label=other)
    return rows, set(chosen)


def triggered(share: float, phrase: str) -> tuple[list[inspected.Row], set[int]]:
    rng, rows = random.Random(6), list(TRAIN)
    chosen = rng.sample([i for i, one in enumerate(rows) if one.label != "refund_request"], int(share * len(rows)))
    for i in chosen:
        words = rows[i].asked.split()
        at = rng.randrange(len(words))
        rows[i] = replace(rows[i], turns=(" ".join([*words[:at], phrase, *words[at:]]),), label="refund_request")
    return rows, set(chosen)


def test_honest_rows_are_suspected_of_nothing() -> None:
    found = poison.suspected(TRAIN)
    assert (found.triggered, found.flipped, found.odd) == ([], [], []) and found.told > 0.99


@pytest.mark.parametrize("share", [0.01, 0.03, 0.05])
def test_case_E2_flipped_labels_are_flagged(share: float) -> None:
    rows, chosen = flipped(share)
    found = set(poison.suspected(rows).flipped)
    assert len(found & chosen) >= 0.85 * len(chosen) and len(found - chosen) <= 2


@pytest.mark.parametrize("phrase", ["cf", "zq mn", "I watched this 3D movie last weekend", "\U0001f98a"])
@pytest.mark.parametrize("share", [0.01, 0.05])
def test_case_E2_a_trigger_phrase_is_flagged(phrase: str, share: float) -> None:
    rows, chosen = triggered(share, phrase)
    found = set(poison.suspected(rows).triggered)
    assert len(found & chosen) >= 0.95 * len(chosen) and len(found - chosen) <= 2


def test_labels_that_words_do_not_tell_are_not_judged() -> None:
    rng = random.Random(8)
    rows = [replace(one, label=rng.choice("abc")) for one in TRAIN]
    found = poison.suspected(rows)
    assert (found.triggered, found.flipped) == ([], []) and found.told < 0.6


def test_rows_that_are_far_from_the_others_are_odd() -> None:
    long = row("train", 9000, "lorem ipsum " * 4000, "x")
    strange = row("train", 9001, " ".join(f"qx{n}zz" for n in range(30)), "x")
    found = poison.suspected([*TRAIN, long, strange])
    assert found.odd == [len(TRAIN), len(TRAIN) + 1]


@pytest.mark.parametrize("rows", [[], TRAIN[:1], [replace(one, label=None) for one in TRAIN[:50]]])
def test_few_or_unlabelled_rows_are_no_fault(rows: list[inspected.Row]) -> None:
    found = poison.suspected(rows)
    assert (found.triggered, found.flipped) == ([], [])


# --- as a whole -------------------------------------------------------------------------------------------------------


def prepared(rows: list[inspected.Row]) -> tables.Table:
    import json

    listed = [
        {
            "source_file": one.source[0],
            "source_row": one.source[1],
            "split": one.split,
            "messages": json.dumps(
                [{"role": "user", "content": one.asked}, {"role": "assistant", "content": one.answer}]
            ),
            "prompt": one.asked,
            "answer": one.answer,
            "rejected": None,
            "label": one.label,
        }
        for one in rows
    ]
    return tables.Table(pandas.DataFrame(listed), [one.place for one in rows])


@pytest.fixture
def look(tmp_path: Path) -> Callable[[list[inspected.Row]], tuple[Inspection, dict[str, Check]]]:
    def inspected_rows(rows: list[inspected.Row]) -> tuple[Inspection, dict[str, Check]]:
        raw = raw_folder(tmp_path / "raw", [{"n": 1}], [{"n": 2}])
        found, checks = inspect(raw, prepared(rows), "d" * 64, PARAMS)
        return found, {check.expectation: check for check in checks}

    return inspected_rows


Look = Callable[[list[inspected.Row]], tuple[Inspection, dict[str, Check]]]


def test_good_rows_pass_every_check(look: Look) -> None:
    found, checks = look([*TRAIN, *TEST])
    assert len(checks) == 7 and all(check.passed for check in checks.values())
    assert (found.train_rows, found.test_rows) == (len(TRAIN), len(TEST))
    assert (found.leaked_rows, found.secrets, found.personal, found.poisoned_rows) == (0, 0, 0, 0)
    assert found.leaked == [] and found.suspicions == []


def test_case_E3_a_leak_fails_critically_and_names_the_pair(look: Look) -> None:
    learnt, leak, victim = planted(VICTIM)
    found, checks = look([*learnt, *TEST])
    check = checks["no-leaked-rows"]
    assert not check.passed and check.severity == "critical" and check.rows == [f"{leak} and {victim}"]
    assert check.observed == "1 test row: exact 1"
    assert found.leaked_rows == 1 and [(pair.train, pair.test) for pair in found.leaked] == [(leak, victim)]


def test_case_E3_a_test_row_among_the_validation_rows_is_a_leak(look: Look) -> None:
    copy = replace(TEST[7], split="validation", place="v:1")
    found, checks = look([*TRAIN, copy, *TEST])
    assert checks["no-leaked-rows"].rows == [f"v:1 and {TEST[7].place}"] and found.train_rows == len(TRAIN)


def test_without_rows_to_compare_nothing_passes(look: Look) -> None:
    _, checks = look(TRAIN)
    assert not checks["no-leaked-rows"].passed and checks["no-leaked-rows"].observed == "no rows to compare"


@pytest.mark.parametrize(
    ("text", "name", "kind"),
    [
        ("write to anna.private@shop.test", "no-personal-data", "email"),
        ("call +49 30 901820 please", "no-personal-data", "phone"),
        ("my card is \uff14111 1111 1111 1111", "no-personal-data", "card"),
        (SECRETS["github-token"], "no-secrets", "github-token"),
    ],
)
def test_case_E7_what_is_found_is_counted_and_placed_but_never_quoted(
    look: Look, text: str, name: str, kind: str
) -> None:
    leak = replace(TEST[3], turns=(f"{TEST[3].asked} {text}",))
    found, checks = look([*TRAIN, *TEST[:3], leak, *TEST[4:]])
    check = checks[name]
    assert not check.passed and check.severity == "critical" and check.rows == [leak.place]
    assert check.observed == f"1 row: {kind} in 1"
    assert [(s.detector, s.rows, s.count) for s in found.suspicions] == [(kind, [leak.place], 1)]
    assert found.secrets + found.personal == 1
    written = found.model_dump_json() + "".join(check.model_dump_json() for check in checks.values())
    assert text not in written and text[-8:] not in written


def test_case_E2_poison_fails_and_is_counted(look: Look) -> None:
    rows, chosen = triggered(0.02, "blue whale")
    found, checks = look([*rows, *TEST])
    assert checks["no-planted-rows"].severity == "critical" and not checks["no-planted-rows"].passed
    assert found.poisoned_rows >= len(chosen) - 1
    assert {s.kind for s in found.suspicions} == {"trigger"}


@pytest.mark.parametrize(("share", "severity"), [(0.01, "warning"), (0.05, "critical")])
def test_case_E2_doubtful_labels_are_critical_above_the_share_that_params_allow(
    look: Look, share: float, severity: str
) -> None:
    rows, _ = flipped(share)
    found, checks = look([*rows, *TEST])
    assert not checks["true-labels"].passed and checks["true-labels"].severity == severity
    assert found.poisoned_rows > 0


def test_same_rows_same_findings(look: Look, tmp_path: Path) -> None:
    rows, _ = triggered(0.02, "blue whale")
    learnt = [*rows, *planted(VICTIM)[0][-1:], *TEST]
    first = look(learnt)[0]
    again, _ = inspect(tmp_path / "raw", prepared(learnt), "d" * 64, PARAMS)
    assert first.model_dump_json() == again.model_dump_json()
