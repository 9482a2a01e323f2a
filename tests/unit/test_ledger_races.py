"""Several processes on one ledger: one order, one champion, no false owner."""

import os
import random
import signal
from collections import defaultdict
from datetime import timedelta
from typing import Any

import ledger_workers as workers
import pytest
from ledgers import Postgres, wait_until

from slipway.errors import Transient
from slipway.ledger import champions, clock, events, leases
from slipway.ledger.clock import Reading
from slipway.ledger.database import Database

WIDTH = 8


def raced(ledger: Database, races: int) -> None:
    """Race, and hold what every racer was told against what is there."""
    said = workers.lines(workers.start("race", ledger.url, races=races, width=WIDTH))
    by_race: dict[int, list[Any]] = defaultdict(list)
    for one in said:
        by_race[one["race"]].append(one)
    assert len(said) == races * WIDTH and len(by_race) == races
    before = None
    for number in range(races):
        (winner,) = [one for one in by_race[number] if one["won"]]
        assert winner["generation"] == number + 1 and winner["previous"] == before == winner["seen"]
        losers = [one["why"] for one in by_race[number] if not one["won"]]
        assert len(losers) == WIDTH - 1
        assert all(f"lost to generation {number + 1} ({winner['version']} serves)" in why for why in losers)
        before = winner["version"]
    with ledger.read() as connection:
        told = [event.subject for event in events.checked(connection)]
        now = champions.find(connection, "m")
    assert (
        len(told) == races and now is not None and (now.version, now.generation, now.sequence) == (before, races, races)
    )


def test_case_C3_of_eight_promotions_at_once_one_wins_and_seven_hear_to_whom(ledger: Database) -> None:
    raced(ledger, 250)  # 500 on both databases


@pytest.mark.chaos
def test_case_C3_ten_thousand_races(ledger: Database) -> None:
    raced(ledger, 10_000)


def test_case_C9_a_holder_that_was_stopped_finds_itself_fenced_off(ledger: Database) -> None:
    worker = workers.start("hold", ledger.url, ttl_seconds=0.5)
    token = workers.line(worker)["token"]
    worker.send_signal(signal.SIGSTOP)
    taken: list[leases.Lease] = []

    def take() -> bool:
        try:
            with ledger.write() as connection:
                taken.append(leases.acquire(connection, "champion:m"))
        except Transient as held:
            assert "is held by another run" in str(held)
        return bool(taken)

    wait_until(take, "the lease to run out")
    with ledger.write() as connection:
        event = events.append(connection, "model_promoted", "m", "1.0.0", {}, workers.ROBOT)
        champions.change(connection, "m", "1.0.0", "f" * 64, 0, event, taken[0])
    worker.send_signal(signal.SIGCONT)
    assert worker.stdin is not None
    worker.stdin.write("now\n")
    worker.stdin.flush()
    said = workers.line(worker)
    assert worker.wait(30) == 0 and not said["wrote"] and said["exit_code"] == 75
    assert f"the lease with token {token} was lost to token {token + 1}; nothing was changed" in said["why"]
    with ledger.read() as connection:
        assert events.count(connection) == 1
        assert champions.find(connection, "m").version == "1.0.0"  # type: ignore[union-attr]
        with pytest.raises(Transient, match="was lost"):
            leases.held(connection, leases.Lease("champion:m", "somebody", token + 1))  # the number alone is no key


def test_case_C9_a_writer_stopped_in_mid_write_does_not_stop_the_others(postgres: Postgres, postgres_url: str) -> None:
    """The server ends the session of whoever rests inside a write, and with it the lock."""
    ledger = Database(postgres_url)
    with ledger.write() as connection:
        limits = [str(connection.exec_driver_sql(f"SHOW {name}").scalar_one()) for name in
                  ("idle_in_transaction_session_timeout", "statement_timeout", "lock_timeout")]  # fmt: skip
    assert limits == ["30s", "30s", "25s"]
    with pytest.raises(Transient, match="nothing was changed"), ledger.write() as connection:
        connection.exec_driver_sql("SET LOCAL idle_in_transaction_session_timeout = '50ms'")
        events.append(connection, "canary_step", "m", "s", {}, workers.ROBOT)
        wait_until(lambda: _writers(postgres) == 0, "the server to end the session")
        events.append(connection, "canary_step", "m", "s", {}, workers.ROBOT)
    with ledger.write() as connection:
        assert events.count(connection) == 0
    ledger.close()


def _writers(postgres: Postgres) -> int:
    return int(str(postgres.execute("SELECT count(*) FROM pg_locks WHERE locktype = 'advisory'")[0][0]))


def test_case_C12_a_process_forked_with_open_connections_is_no_false_owner(ledger: Database) -> None:
    said = workers.lines(workers.start("fork_in_use", ledger.url, children=3, each=20))
    assert len(said) == len(set(said)) == 3 + 4 * 20
    with ledger.read() as connection:
        assert {event.subject for event in events.checked(connection)} == set(said)


def test_case_C12_neither_a_process_number_nor_a_host_makes_an_owner(ledger: Database) -> None:
    here = clock.read()
    with ledger.write() as connection:
        one = leases.acquire(connection, "champion:m", 30, here)
        assert str(os.getpid()) not in one.holder
        later = Reading(here.at, here.boot, here.ticks_ms + 29_000)
        for now in (here, later, Reading(here.at, "another host", 5)):
            with pytest.raises(Transient, match="is held by another run, for"):
                leases.acquire(connection, "champion:m", 30, now)
        leases.beat(connection, one, later)
        with pytest.raises(Transient):
            leases.acquire(connection, "champion:m", 30, Reading(here.at, here.boot, here.ticks_ms + 58_000))
        # A host whose clock is an hour ahead takes it too early, and the one that had it is refused.
        ahead = Reading(clock.moment("2099-01-01T00:00:00.000000Z"), "another host", 5)
        other = leases.acquire(connection, "champion:m", 30, ahead)
        assert other.token == one.token + 1 and other.holder != one.holder
        with pytest.raises(Transient, match="was lost"):
            leases.beat(connection, one)
        leases.release(connection, one)  # changes nothing
        leases.held(connection, other)


def test_case_C10_a_lease_of_a_machine_whose_clock_was_far_ahead_waits_for_nobody(ledger: Database) -> None:
    here = clock.read()
    with ledger.write() as connection:
        for days, waits in ((10 / 86_400, True), (400, False)):  # ten seconds are what clocks differ by
            one = leases.acquire(connection, f"m{days}", 15, Reading(here.at + timedelta(days=days), "another host", 5))
            if waits:
                with pytest.raises(Transient, match="is held by another run"):
                    leases.acquire(connection, one.name, 15, here)
                continue
            assert leases.acquire(connection, one.name, 15, here).token == one.token + 1
            with pytest.raises(Transient, match="was lost"):
                leases.beat(connection, one)


def test_eight_processes_make_the_tables_at_once(sqlite_url: str, postgres: Postgres) -> None:
    empty = postgres.empty()
    for url in (sqlite_url, empty):
        said = workers.lines(workers.start("migrate", Database(url).url, width=WIDTH))
        assert sorted(said) == list(range(1, WIDTH + 1))
    postgres.drop(empty)


def test_case_B7_in_a_storm_of_writers_each_gets_its_turn(ledger: Database) -> None:
    each = 25 + random.randrange(10)
    said = workers.lines(workers.start("storm_of_writers", ledger.url, width=WIDTH, each=each))
    assert sorted(said) == list(range(1, WIDTH * each + 1))
