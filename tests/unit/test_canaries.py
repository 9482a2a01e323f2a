"""The canary's row: one that runs a model, kept for whoever goes on, changed only by who holds the lease; on both databases."""

from collections.abc import Iterator
from contextlib import contextmanager

import ledger_workers as workers
import pytest
from sqlalchemy import Connection

from slipway.errors import Refused, Transient, UsageError
from slipway.ledger import canaries, events, leases
from slipway.ledger.canaries import Canary
from slipway.ledger.database import Database
from slipway.ledger.leases import Lease


@contextmanager
def driving(ledger: Database) -> Iterator[tuple[Connection, Lease]]:
    with ledger.write() as connection:
        lease = leases.acquire(connection, "canary:m")
        yield connection, lease
        leases.release(connection, lease)


def begun(ledger: Database, version: str = "1.1.0") -> Canary:
    with driving(ledger) as (connection, lease):
        return canaries.begin(connection, "m", version, "ab", "1.0.0", 3, {"policy": {"alpha": 0.05}}, lease)


def kinds(ledger: Database) -> list[str]:
    with ledger.read() as connection:
        return [event.kind for event in events.checked(connection)]


def test_what_was_seen_is_there_for_the_next_process(ledger: Database) -> None:
    canary = begun(ledger)
    progress = {"evidence": {"blocks": [[1, 0.5, 1, 1]]}, "cursor": "2026-11-22T01:00:00Z", "step_seconds": 1.25}
    with driving(ledger) as (connection, lease):
        kept = canaries.keep(connection, canary, progress, lease)
    with ledger.read() as connection:
        assert canaries.running(connection, "m") == canaries.find(connection, canary.id) == kept
        assert canaries.running(connection, "n") is None
    assert kept.progress == progress and kinds(ledger) == ["canary_started"]


def test_one_runs_and_a_second_is_refused_until_it_has_ended(ledger: Database) -> None:
    canary = begun(ledger)
    with pytest.raises(Refused, match=r"m 1\.1\.0 is in canary already"):
        begun(ledger, "1.2.0")
    with driving(ledger) as (connection, lease):
        canaries.end(connection, canary, "rolled back", {"why": "it failed"}, lease)
    assert begun(ledger, "1.2.0").version == "1.2.0"
    assert kinds(ledger) == ["canary_started", "canary_verdict", "canary_started"]


def test_a_step_is_on_record_before_anything_moves(ledger: Database) -> None:
    canary = begun(ledger)
    with driving(ledger) as (connection, lease):
        after = canaries.advance(connection, canary, 1, 5.0, {}, {"verdict": "healthy"}, lease)
    with ledger.read() as connection:
        assert canaries.running(connection, "m") == after and (after.step, after.percent) == (1, 5.0)
        told = list(events.checked(connection))[-1]
    assert (told.kind, told.sequence) == ("canary_step", after.sequence)
    assert told.payload["from"] == 0 and told.payload["to"] == 5 and told.payload["verdict"] == "healthy"


def test_what_a_person_asks_is_not_written_over_by_who_drives(ledger: Database) -> None:
    canary = begun(ledger)
    with ledger.write() as connection:
        canaries.ask(connection, "m", "abort", workers.ROBOT, "a complaint")
    with driving(ledger) as (connection, lease):  # with the row as it was read before
        canaries.keep(connection, canary, {"x": 1}, lease)
        canaries.advance(connection, canary, 1, 5.0, {"x": 2}, {}, lease)
    with ledger.read() as connection:
        now = canaries.running(connection, "m")
    assert now is not None and "abort" in now.asked and now.progress == {"x": 2}


def test_a_pause_is_taken_back_and_asked_twice_is_asked_once(ledger: Database) -> None:
    begun(ledger)
    with ledger.write() as connection:
        for what in ("pause", "pause", "resume", "resume", "abort", "abort", "resume", "pause"):
            now = canaries.ask(connection, "m", what, workers.ROBOT, "why")  # type: ignore[arg-type]
    assert list(now.asked) == ["abort"]
    with ledger.read() as connection:
        asked = [event.payload["asked"] for event in events.checked(connection) if event.kind == "canary_asked"]
    assert asked == ["pause", "resume", "abort"]


def test_without_a_canary_there_is_nothing_to_ask(ledger: Database) -> None:
    with ledger.write() as connection, pytest.raises(UsageError, match="no canary of m runs"):
        canaries.ask(connection, "m", "abort", workers.ROBOT, "why")


def test_who_lost_the_lease_or_wakes_after_the_end_changes_nothing(ledger: Database) -> None:
    canary = begun(ledger)
    with ledger.write() as connection:
        old = leases.acquire(connection, "canary:m", ttl_seconds=0)
    with driving(ledger) as (connection, lease):
        canaries.keep(connection, canary, {"x": 1}, lease)
    before = kinds(ledger)
    for act in (
        lambda c: canaries.keep(c, canary, {"x": 0}, old),
        lambda c: canaries.advance(c, canary, 1, 5.0, {}, {}, old),
        lambda c: canaries.end(c, canary, "promoted", {}, old),
        lambda c: canaries.begin(c, "m", "2.0.0", "cd", None, 0, {}, old),
    ):
        with pytest.raises(Transient, match="was lost"), ledger.write() as connection:
            act(connection)
    with driving(ledger) as (connection, lease):
        canaries.end(connection, canary, "promoted", {}, lease)
        with pytest.raises(Refused, match="has ended \\(promoted\\)"):
            canaries.keep(connection, canary, {}, lease)
    assert kinds(ledger) == [*before, "canary_verdict"]
