"""How fast the ledger is, on SQLite and on PostgreSQL: to append, to verify, and to say what served at a time.

    python benchmarks/ledger.py FILE [--events 100000]

Appends are durable: each waits for the disk. `alone` is one event a transaction, `in hundreds` a hundred. Verifying reads every
row and checks its hash and its place in the chain; CPU time, which other work on the machine moves less. `at` is the median and
the slowest of 50 questions at random times of a ledger with --events events. PostgreSQL is one that this starts and removes.
"""

import argparse
import json
import random
import statistics
import sys
import tempfile
import time
from collections import deque
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import timedelta
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
sys.path[:0] = [str(ROOT), str(ROOT / "tests")]

from ledgers import Postgres, postgres_folder  # noqa: E402
from sqlalchemy import select  # noqa: E402

from slipway.ledger import chain, clock, events, history, tables  # noqa: E402
from slipway.ledger.clock import Reading  # noqa: E402
from slipway.ledger.database import Database  # noqa: E402
from slipway.ledger.events import Actor  # noqa: E402

BARS = {"rows_verified_per_cpu_second": 100_000, "at_slowest_seconds": 1.0}
ROBOT = Actor("robot", "service")
MODELS = [f"model-{number}" for number in range(5)]


def measure(database: Database, count: int) -> dict[str, float]:
    database.migrate()
    alone = _per_second(lambda: _append(database, 300, 1))
    together = _per_second(lambda: _append(database, 3_000, 100))
    start, end = _fill(database, count)
    with database.read() as connection:
        rows = connection.execute(
            select(tables.events).order_by(tables.events.c.sequence).execution_options(yield_per=5000)
        )
        found = _cpu(lambda: _count(chain.checked_rows(rows)))
        read = _cpu(lambda: _count(events.checked(connection)))
        asked = [_ask(connection, start, end) for _ in range(50)]
    return {
        "events": found[0], "appended_alone_per_second": alone, "appended_in_hundreds_per_second": together,
        "rows_verified_per_cpu_second": found[0] / found[1], "events_read_and_verified_per_cpu_second": read[0] / read[1],
        "at_median_seconds": statistics.median(asked), "at_slowest_seconds": max(asked),
    }  # fmt: skip


def _append(database: Database, count: int, together: int) -> int:
    for _ in range(count // together):
        with database.write() as connection:
            for _ in range(together):
                events.append(
                    connection, "stage_finished", "warm-up", "r", {"stage": "finetune", "seconds": 12.5}, ROBOT
                )
    return count


def _fill(database: Database, count: int) -> tuple[Reading, Reading]:
    """Events of many releases of a few models, a minute apart; the times of the first and the last."""
    draw, start = random.Random(1), clock.read()
    generation = dict.fromkeys(MODELS, 0)
    for first in range(0, count, 2_000):
        with database.write() as connection:
            for number in range(first, min(first + 2_000, count)):
                now = Reading(start.at + timedelta(minutes=number), start.boot, start.ticks_ms + number * 60_000)
                kind, model, subject, payload = _event(draw, generation, number)
                events.append(connection, kind, model, subject, payload, ROBOT, now=now)
    return start, Reading(start.at + timedelta(minutes=count), start.boot, 0)


def _event(draw: random.Random, generation: dict[str, int], number: int) -> tuple[str, str, str, dict[str, Any]]:
    model = draw.choice(MODELS)
    version = f"1.{generation[model]}.0"
    match number % 20:
        case 0:
            generation[model] += 1
            version = f"1.{generation[model]}.0"
            told = {"version": version, "identity": f"{number:064x}", "previous": None, "generation": generation[model]}
            return "model_promoted", model, version, told | {"weights": {version: 100}}
        case 1:
            told = {"version": version, "release": f"r{number}", "evidence_digest": "e" * 64, "policy_digest": "p" * 64}
            return "model_registered", model, version, told
        case 2:
            return (
                "approval_given",
                model,
                f"r{number}",
                {"id": f"a{number}", "version": version, "evidence_digest": "e" * 64},
            )
        case _:
            return "canary_step", model, version, {"weights": {version: draw.randrange(100)}, "requests": number}


def _ask(connection: Any, start: Reading, end: Reading) -> float:
    moment = start.at + (end.at - start.at) * random.random()
    began = time.perf_counter()
    history.at(connection, moment, random.choice(MODELS))
    return time.perf_counter() - began


def _count(found: Iterator[Any]) -> int:
    last = deque(found, maxlen=1)
    return int(last[0][0] if isinstance(last[0], tuple) or not hasattr(last[0], "kind") else last[0].sequence)


def _cpu(work: Callable[[], int]) -> tuple[int, float]:
    began = time.process_time()
    return work(), time.process_time() - began


def _per_second(work: Callable[[], int]) -> float:
    began = time.perf_counter()
    return work() / (time.perf_counter() - began)


@contextmanager
def _databases() -> Iterator[dict[str, str]]:
    programs = postgres_folder()
    with tempfile.TemporaryDirectory() as folder:
        server = Postgres(programs) if programs else None
        try:
            yield {"sqlite": f"sqlite:///{folder}/ledger.db"} | ({"postgresql": server.fresh()} if server else {})
        finally:
            if server:
                server.remove()


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("file", type=Path)
    parser.add_argument("--events", type=int, default=100_000)
    given = parser.parse_args()
    with _databases() as urls:
        found = {name: measure(Database(url), given.events) for name, url in urls.items()}
    for name, figures in found.items():
        print(name)
        for what, value in figures.items():
            print(
                f"  {what.replace('_', ' '):45}{value:>14,.4g}"
                if value < 10
                else f"  {what.replace('_', ' '):45}{value:>14,.0f}"
            )
    missed = [
        f"{name}: {what} is {figures[what]:,.4g}, the bar is {bar:,}"
        for name, figures in found.items()
        for what, bar in BARS.items()
        if (figures[what] > bar if what.endswith("seconds") else figures[what] < bar)
    ]
    given.file.write_text(json.dumps({"found": found, "bars": BARS, "missed": missed}, indent=2))
    print("\n".join(missed) or "every bar is reached")
    return int(bool(missed))


if __name__ == "__main__":
    sys.exit(main())
