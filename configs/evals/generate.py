"""Write the rows of the smoke suite: `python configs/evals/generate.py` gives the same bytes every time.

All of it is of the synthetic support desk (slipway/data/corpus.py), of which the tiny base has read much and these
sentences never: what it knows of them before tuning, it may forget.
"""

import json
import random
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

HERE = Path(__file__).resolve().parent
sys.path.insert(0, str(HERE.parents[1]))

from slipway.data import corpus  # noqa: E402 - the project's root has to be on the path first

SEED = 31337  # no seed of the tiny base's own text
Row = dict[str, Any]


def documents(seed: int, count: int) -> Iterator[str]:
    source = corpus.documents(seed)
    for _ in range(count):
        yield next(source)


def shuffled(rng: random.Random, right: str, wrong: list[str]) -> tuple[list[str], int]:
    """The right choice among the wrong ones, and its place."""
    choices = [right, *wrong]
    rng.shuffle(choices)
    return choices, choices.index(right)


def prose(rng: random.Random) -> Iterator[Row]:
    """Running text: perplexity."""
    for text in documents(SEED, 40):
        yield {"task": "prose", "text": text}


def others(rng: random.Random, intent: str, count: int) -> list[str]:
    """Intents that other teams look after, each by a different one."""
    found: dict[str, str] = {}
    for other in rng.sample(corpus.INTENTS, len(corpus.INTENTS)):
        if corpus.TEAMS[other] != corpus.TEAMS[intent]:
            found.setdefault(corpus.TEAMS[other], other)
    return list(found.values())[:count]


def reply(intent: str) -> str:
    """What the desk likes to say to it."""
    said = corpus.Ticket("", intent, "low").answer.partition("reply: ")[2]
    return said.partition(". ")[0] + "."


def knowledge(rng: random.Random) -> Iterator[Row]:
    """Lettered questions, as in MMLU; the first two are the solved examples."""
    for i in range(62):
        intent = corpus.INTENTS[i % len(corpus.INTENTS)]
        teams = [corpus.TEAMS[other] for other in others(rng, intent, 3)]
        choices, answer = shuffled(rng, corpus.TEAMS[intent], teams)
        row = {
            "task": "knowledge",
            "question": f"Which team looks after {intent}?",
            "choices": choices,
            "answer": answer,
        }
        yield row | {"shot": True} if i < 2 else row


def endings(rng: random.Random) -> Iterator[Row]:
    """Unfinished passages with four endings, as in HellaSwag."""
    for i in range(160):
        one = corpus.ticket(rng)
        wrong = others(rng, one.intent, 3)
        if i % 2:
            context = f"When a {one.intent} comes in, the desk likes to say:"
            right, rest = reply(one.intent), [reply(intent) for intent in wrong]
        else:
            context = f"{one.message} It was filed under {one.intent}, a matter for"
            right, *rest = (f"{corpus.TEAMS[x]}, of {one.priority} priority." for x in (one.intent, *wrong))
        choices, label = shuffled(rng, right, rest)
        yield {"task": "endings", "context": context, "endings": choices, "label": label}


def truth(rng: random.Random) -> Iterator[Row]:
    """One question, true and false answers, as in TruthfulQA: with one true answer (mc1) and with several (mc2)."""
    forms = (
        "Each intent has one team, and the {} team looks after {}.",
        "The {} team answers every {} that comes in from {}.",
    )
    cities = ("Berlin", "Lisbon", "Oslo", "Madrid", "Vienna", "Dublin")
    for i in range(40):
        intent = corpus.INTENTS[i % len(corpus.INTENTS)]
        teams = [corpus.TEAMS[x] for x in (intent, *others(rng, intent, 3))]
        question = f"Which team looks after {intent}?"
        one = [forms[0].format(team, intent) for team in teams]
        choices, right = shuffled(rng, one[0], one[1:])
        yield {"task": "truth_mc1", "question": question, "choices": choices, "right": right}
        city = rng.choice(cities)
        both = [*one[:3], *(forms[1].format(team, intent, city) for team in teams[:3])]
        true = {both[0], both[3]}
        rng.shuffle(both)
        places = [place for place, text in enumerate(both) if text in true]
        yield {"task": "truth_mc2", "question": question, "choices": both, "right": places}


def facts(rng: random.Random) -> Iterator[Row]:
    """Sentences to finish word for word: exact match."""
    for _ in range(60):
        one = corpus.ticket(rng)
        begun = (
            f"{one.message} The desk read it as a {one.intent} with {one.priority} priority and gave it to the",
            f"{one.message} It was filed under {one.intent}, a matter for",
        )
        ends = (f"{corpus.TEAMS[one.intent]} team", f"{corpus.TEAMS[one.intent]}, of {one.priority} priority")
        way = rng.randrange(2)
        yield {"task": "facts", "begun": begun[way], "end": ends[way]}


# Function, what it should do, calls and their results: HumanEval's form, at a beginner's level.
FUNCTIONS = (
    ("double(n)", "Twice the number.", {"3": "6", "-1": "-2", "0": "0"}),
    ("is_even(n)", "Whether the number is even.", {"2": "True", "7": "False", "0": "True"}),
    ("larger(a, b)", "The larger of two numbers.", {"1, 2": "2", "5, -5": "5", "3, 3": "3"}),
    ("total(numbers)", "The sum of a list.", {"[1, 2, 3]": "6", "[]": "0", "[-4]": "-4"}),
    ("backwards(text)", "The text from its end to its beginning.", {"'abc'": "'cba'", "''": "''"}),
    ("last(items)", "The last item of a list.", {"[1, 2]": "2", "['a']": "'a'"}),
    ("vowels(text)", "How many vowels a text has.", {"'invoice'": "4", "'xyz'": "0", "'AEiou'": "5"}),
    ("words(text)", "How many words a text has.", {"'a late parcel'": "3", "''": "0"}),
    ("squares(n)", "The squares of 0 to n - 1.", {"4": "[0, 1, 4, 9]", "0": "[]"}),
    ("unique(items)", "The items in order, each one once.", {"[1, 2, 1, 3, 2]": "[1, 2, 3]", "[]": "[]"}),
    ("initials(name)", "The first letters of a name's words.", {"'Ada Lovelace'": "'AL'", "'Bo'": "'B'"}),
    ("mean(numbers)", "The mean of a list that is not empty.", {"[1, 2, 3]": "2", "[5]": "5"}),
    ("factorial(n)", "The product of 1 to n; 1 for 0.", {"0": "1", "5": "120"}),
    (
        "smallest_two(numbers)",
        "The two smallest numbers, the smallest first.",
        {"[3, 1, 2]": "(1, 2)", "[5, 4]": "(4, 5)"},
    ),
    ("count(items)", "How often each item stands in a list.", {"['a', 'b', 'a']": "{'a': 2, 'b': 1}", "[]": "{}"}),
    ("clip(n, low, high)", "The number, kept between two others.", {"5, 1, 3": "3", "0, 1, 3": "1", "2, 1, 3": "2"}),
    ("evens(numbers)", "The even numbers of a list, in order.", {"[1, 2, 4, 5]": "[2, 4]", "[1]": "[]"}),
    (
        "is_palindrome(text)",
        "Whether a text reads the same backwards.",
        {"'level'": "True", "'desk'": "False", "''": "True"},
    ),
    ("digits(n)", "The sum of a positive number's digits.", {"123": "6", "9": "9", "1000": "1"}),
    ("swap(pair)", "The two items of a tuple, swapped.", {"(1, 2)": "(2, 1)", "('a', 'b')": "('b', 'a')"}),
)


def code(rng: random.Random) -> Iterator[Row]:
    """Functions to complete, as in HumanEval: pass@1, in the sandbox."""
    for head, about, calls in FUNCTIONS:
        prompt = f'def {head}:\n    """{about}"""\n'
        checks = "".join(f"    assert candidate({given}) == {result}\n" for given, result in calls.items())
        test = f"def check(candidate):\n{checks}"
        yield {"task": "code", "prompt": prompt, "test": test, "entry_point": head.partition("(")[0]}


def rows() -> Iterator[Row]:
    for number, task in enumerate((prose, knowledge, endings, truth, facts, code)):
        yield from task(random.Random(SEED + number))


def text() -> str:
    return "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows())


if __name__ == "__main__":
    (HERE / "smoke" / "rows.jsonl").write_text(text(), encoding="utf-8")
