"""What time it is, and how much time has credibly passed: wall clocks are set, stepped and wrong.

The wall clock says when. How long ago something was is told by the time since the machine started, which nobody can
set, wherever the same start of the same machine saw both ends; else by the wall clock, of which a step back counts
nothing and a leap counts a day at most. So time may be under-counted (something is kept too long); it is over-counted by
a day at most each time that a machine which the ledger has not seen before starts writing to it.
"""

import secrets
import time
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

MOST_MS = 24 * 3600 * 1000  # that a wall clock may add between two events
_BOOT = Path("/proc/sys/kernel/random/boot_id")
_PROCESS = f"process-{secrets.token_hex(8)}"  # where the machine does not say which start this is, each process is one


@dataclass(frozen=True)
class Reading:
    """All clocks at one moment."""

    at: datetime
    boot: str
    ticks_ms: int

    @property
    def text(self) -> str:
        return shown(self.at)


def read() -> Reading:
    clock = getattr(time, "CLOCK_BOOTTIME", time.CLOCK_MONOTONIC)
    return Reading(datetime.now(UTC), boot(), time.clock_gettime_ns(clock) // 1_000_000)


def boot() -> str:
    try:
        return _BOOT.read_text().strip()
    except OSError:
        return _PROCESS


def shown(moment: datetime) -> str:
    """In one form whose order as text is the order of time (strftime would give the year 900 three digits)."""
    return moment.astimezone(UTC).replace(tzinfo=None).isoformat(timespec="microseconds") + "Z"


def moment(text: str) -> datetime:
    return datetime.strptime(text, "%Y-%m-%dT%H:%M:%S.%fZ").replace(tzinfo=UTC)


def passed_ms(then: Reading, now: Reading) -> int:
    """Milliseconds that have credibly passed between two readings."""
    if then.boot == now.boot:
        return max(now.ticks_ms - then.ticks_ms, 0)  # they go back only in a copy of a machine that was restored
    return min(max(int((now.at - then.at).total_seconds() * 1000), 0), MOST_MS)


def elapsed_ms(last_ms: int, last: Reading, same_boot: tuple[int, int] | None, now: Reading) -> int:
    """Time that has credibly passed since event 1, from the newest event's and the furthest one of the same boot.

    `same_boot` is that event's (elapsed_ms, ticks_ms), if there is one. With it no wall clock counts: else two machines that
    write by turns, one of them ahead, would add up the difference with every turn.
    """
    if same_boot is None:
        return last_ms + passed_ms(last, now)
    then_ms, ticks_ms = same_boot
    return max(last_ms, then_ms + max(now.ticks_ms - ticks_ms, 0))
