"""Who may act on what: a lease with a heartbeat, and a token that fences off whoever held it before.

A holder is a random name, so that neither a process id that came back nor another machine is taken for it. Whoever wakes
late finds a higher token and is refused in the very transaction in which it wanted to write. Clocks only decide how soon
another may take over, never who holds it: where two machines' clocks differ by more than a lease lasts, one takes it too
early, and the old holder is refused.
"""

import secrets
from dataclasses import dataclass
from datetime import timedelta
from typing import Any

from sqlalchemy import Connection, insert, select, update

from slipway.errors import StageError, Transient
from slipway.ledger import clock
from slipway.ledger.clock import Reading
from slipway.ledger.tables import leases

TTL_SECONDS = 30.0


@dataclass(frozen=True)
class Lease:
    """The right to act on something, until somebody with a higher token has it."""

    name: str
    holder: str
    token: int


def acquire(connection: Connection, name: str, ttl_seconds: float = TTL_SECONDS, now: Reading | None = None) -> Lease:
    """Take a lease that is free or whose holder was silent for too long; Transient naming how long to wait."""
    now, holder = now or clock.read(), secrets.token_hex(8)
    row = connection.execute(select(leases).where(leases.c.name == name)).first()
    beat = {
        "holder": holder,
        "ttl_ms": int(ttl_seconds * 1000),
        "at": now.text,
        "boot": now.boot,
        "ticks_ms": now.ticks_ms,
    }
    if row is None:
        connection.execute(insert(leases).values(name=name, token=1, **beat))
        return Lease(name, holder, 1)
    last = _last_beat(row)
    silent = clock.passed_ms(last, now)
    if row.holder is not None and silent < row.ttl_ms and not _is_to_come(last, now, row.ttl_ms):
        left = (row.ttl_ms - silent) / 1000
        raise Transient(f"{name} is held by another run, for {left:.0f} s more unless it goes on; run again then")
    connection.execute(update(leases).where(leases.c.name == name).values(token=row.token + 1, **beat))
    return Lease(name, holder, row.token + 1)


def _is_to_come(last: Reading, now: Reading, ttl_ms: int) -> bool:
    """Whether another machine's heartbeat is so far ahead that waiting for it could take years: one of the clocks is wrong."""
    return last.boot != now.boot and last.at - now.at > timedelta(milliseconds=ttl_ms)


def _last_beat(row: Any) -> Reading:
    try:
        return Reading(clock.moment(row.at), row.boot, row.ticks_ms)
    except ValueError:
        raise StageError(
            f"the lease {row.name} was changed by hand (it shows the time {row.at!r:.40}); `slipway audit verify`"
        ) from None


def held(connection: Connection, lease: Lease) -> None:
    """Refuse, inside the transaction that writes, whoever no longer holds the lease."""
    row = connection.execute(select(leases).where(leases.c.name == lease.name)).first()
    if row is None or row.token != lease.token or row.holder != lease.holder:
        now = "nobody" if row is None else f"token {row.token}"
        raise Transient(f"{lease.name}: the lease with token {lease.token} was lost to {now}; nothing was changed")


def holder(connection: Connection, name: str) -> Lease | None:
    """Who holds it; None where nobody does."""
    row = connection.execute(select(leases).where(leases.c.name == name)).first()
    return Lease(name, row.holder, row.token) if row is not None and row.holder is not None else None


def beat(connection: Connection, lease: Lease, now: Reading | None = None) -> None:
    """Say that the holder is alive."""
    held(connection, lease)
    now = now or clock.read()
    values = {"at": now.text, "boot": now.boot, "ticks_ms": now.ticks_ms}
    connection.execute(update(leases).where(leases.c.name == lease.name).values(values))


def release(connection: Connection, lease: Lease) -> None:
    """Give it back; the token stays, for the next one to be higher."""
    connection.execute(
        update(leases)
        .where(leases.c.name == lease.name, leases.c.token == lease.token, leases.c.holder == lease.holder)
        .values(holder=None)
    )
