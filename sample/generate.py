"""Write the sample data set: `python sample/generate.py` gives the same bytes every time.

Synthetic through and through: no customer ever wrote any of it. Some rows are dirty on purpose, so that every step of
`prepare` has something true to do; DIRT says how many of which kind.
"""

import json
import random
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

HERE = Path(__file__).resolve().parent
sys.path.insert(0, str(HERE.parent))

from slipway.data import corpus  # noqa: E402 - the project's root has to be on the path first

SEED = 20261
TRAIN_ROWS, TEST_ROWS = 3000, 400
DIRT = {
    "exact_duplicate": 60,
    "near_duplicate": 60,
    "personal_data": 80,
    "broken_json": 15,
    "leaked_test": 40,
    "empty_answer": 4,
    "wrong_role": 3,
    "missing_answer": 2,
    "conflict": 3,
    "formula": 2,
    "too_long": 1,
    "duplicate_key": 1,
    "not_a_number": 1,
}

Row = dict[str, Any]


def row(one: corpus.Ticket) -> Row:
    messages = [{"role": "user", "content": one.message}, {"role": "assistant", "content": one.answer}]
    return {"messages": messages}


def tickets(rng: random.Random, count: int, seen: set[str]) -> list[corpus.Ticket]:
    """Tickets whose message was not made before."""
    made: list[corpus.Ticket] = []
    while len(made) < count:
        one = corpus.ticket(rng)
        if one.message not in seen:
            seen.add(one.message)
            made.append(one)
    return made


def line(value: Row) -> str:
    return json.dumps(value, ensure_ascii=False)


def with_message(one: corpus.Ticket, message: str) -> Row:
    return row(corpus.Ticket(message, one.intent, one.priority))


# --- personal data with valid checksums, from ranges reserved for examples ------------------------------------------


def _luhn(digits: str) -> str:
    total = sum(sum(divmod(int(d) * (2 - i % 2), 10)) for i, d in enumerate(reversed(digits)))
    return digits + str(-total % 10)


def _card(rng: random.Random) -> str:
    number = _luhn("400000" + "".join(rng.choice("0123456789") for _ in range(9)))
    return " ".join(number[i : i + 4] for i in range(0, 16, 4))


def _iban(rng: random.Random) -> str:
    account = "".join(rng.choice("0123456789") for _ in range(18))
    check = 98 - int(account + "131400") % 97  # D=13, E=14, then two zeros
    return f"DE{check:02d}{account}"


PERSONAL: tuple[Callable[[random.Random], str], ...] = (
    lambda rng: f"Write to {rng.choice(('anna', 'ben.k', 'clara_m'))}{rng.randrange(100)}@example.com.",
    lambda rng: f"My phone number is +44 20 7946 0{rng.randrange(1000):03d}.",
    lambda rng: f"I paid with card {_card(rng)}.",
    lambda rng: f"My bank account is {_iban(rng)}.",
    lambda rng: f"My router has the address 192.0.2.{rng.randrange(1, 255)}.",
)

# --- dirty rows -----------------------------------------------------------------------------------------------------


def edited(rng: random.Random, message: str) -> str:
    """The same message with one light edit: case, punctuation or one extra word."""
    edits: tuple[Callable[[str], str], ...] = (
        str.lower,
        str.upper,
        lambda text: text.replace(".", "!"),
        lambda text: text.replace(",", ""),
        lambda text: text + " Please.",
    )
    return rng.choice(edits)(message)


def dirty_lines(rng: random.Random, train: list[corpus.Ticket], test: list[corpus.Ticket]) -> list[str]:
    """The rows that `prepare` should drop or alter, in the order of DIRT."""
    seen = {one.message for one in (*train, *test)}

    def fresh(kind: str) -> list[corpus.Ticket]:
        return tickets(rng, DIRT[kind], seen)

    lines = [line(row(rng.choice(train))) for _ in range(DIRT["exact_duplicate"])]
    for one in rng.sample(train, DIRT["near_duplicate"]):
        lines.append(line(with_message(one, edited(rng, one.message))))
    for number, one in enumerate(fresh("personal_data")):
        lines.append(line(with_message(one, f"{one.message} {PERSONAL[number % len(PERSONAL)](rng)}")))
    for one in fresh("broken_json"):
        whole = line(row(one))
        lines.append(whole[: rng.randrange(10, len(whole) - 1)])
    for number, one in enumerate(rng.sample(test, DIRT["leaked_test"])):
        lines.append(line(with_message(one, one.message if number % 2 else edited(rng, one.message))))
    for one in fresh("empty_answer"):
        lines.append(line({"messages": [row(one)["messages"][0], {"role": "assistant", "content": " "}]}))
    for one in fresh("wrong_role"):
        lines.append(line({"messages": [{"role": "robot", "content": one.message}, *row(one)["messages"][1:]]}))
    lines += [line({"messages": row(one)["messages"][:1]}) for one in fresh("missing_answer")]
    for one in rng.sample(train, DIRT["conflict"]):
        other = next(intent for intent in corpus.INTENTS if intent != one.intent)
        lines.append(line(row(corpus.Ticket(one.message, other, one.priority))))
    for one in fresh("formula"):
        lines.append(line(with_message(one, '=HYPERLINK("http://example.com","open me") ' + one.message)))
    for one in fresh("too_long"):
        others = " ".join(other.message for other in tickets(rng, 20, seen))
        lines.append(line(with_message(one, f"{one.message} {others}")))
    lines += ['{"messages": [], ' + line(row(one))[1:] for one in fresh("duplicate_key")]
    lines += [line(row(one) | {"score": float("nan")}) for one in fresh("not_a_number")]
    return lines


def files() -> dict[str, str]:
    """Name → text of every generated file."""
    rng, seen = random.Random(SEED), set[str]()
    train, test = tickets(rng, TRAIN_ROWS, seen), tickets(rng, TEST_ROWS, seen)
    lines = [line(row(one)) for one in train] + dirty_lines(rng, train, test)
    rng.shuffle(lines)
    return {
        "support_desk.jsonl": "\n".join(lines) + "\n",
        "test.jsonl": "\n".join(line(row(one)) for one in test) + "\n",
    }


def main() -> None:
    for name, text in files().items():
        (HERE / name).write_bytes(text.encode())
        print(f"sample/{name}: {text.count(chr(10))} rows, {len(text.encode()):,} bytes")


if __name__ == "__main__":
    main()
