"""Processes that use one ledger at once, and are stopped, killed or cut off from power.

Run as a program with one JSON argument, so that it is a process without threads, which may fork; it prints JSON lines.
The tests' side is `start` and `lines`.
"""

import ctypes
import gc
import itertools
import json
import multiprocessing
import os
import random
import select
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from multiprocessing.synchronize import Barrier, Event
from pathlib import Path
from typing import IO, Any, cast

from slipway.errors import Refused, SlipwayError, Transient
from slipway.ledger import champions, events, leases
from slipway.ledger.database import Database
from slipway.ledger.events import Actor

ROBOT = Actor("robot", "service")


def start(
    task: str, url: str, *, environment: dict[str, str] | None = None, **options: object
) -> "subprocess.Popen[str]":
    """A worker program for one task."""
    command = [sys.executable, __file__, json.dumps({"task": task, "url": url, **options})]
    paths = os.pathsep.join(path for path in sys.path if path)
    return subprocess.Popen(
        command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True,
        env={**os.environ, "PYTHONPATH": paths, **(environment or {})}, preexec_fn=_die_with_parent,
    )  # fmt: skip


def line(worker: "subprocess.Popen[str]") -> Any:
    """The next thing a worker says."""
    said = cast(IO[str], worker.stdout).readline()
    assert said, f"the worker ended with {worker.wait()} and said nothing"
    return json.loads(said)


def lines(worker: "subprocess.Popen[str]") -> list[Any]:
    """All that a worker says until it ends well."""
    with worker:
        said = [json.loads(one) for one in cast(IO[str], worker.stdout) if one.endswith("\n")]
    assert worker.returncode == 0, f"the worker ended with {worker.returncode}"
    return said


# --- the other side: what a worker does --------------------------------------------------------------------------------


def _die_with_parent() -> None:
    """A test that ends early leaves no process behind."""
    ctypes.CDLL(None).prctl(1, signal.SIGKILL)  # PR_SET_PDEATHSIG


def say(what: object) -> None:
    """In one piece, also when many processes say something into one pipe."""
    os.write(1, f"{json.dumps(what)}\n".encode())


def fork(work: Any, *arguments: Any) -> int:
    """A child that does some work and ends without tidying up."""
    if (child := os.fork()) == 0:
        _die_with_parent()
        try:
            work(*arguments)
            os._exit(0)
        except BaseException as error:  # noqa: BLE001
            say({"crashed": f"{type(error).__name__}: {error}"})
            os._exit(1)
    return child


def reap(children: list[int]) -> None:
    for child in children:
        _, status = os.waitpid(child, 0)
        if os.waitstatus_to_exitcode(status) not in (0, -signal.SIGKILL):
            sys.exit(1)


def write_on(url: str, name: str, most: int, acknowledgements: int) -> None:
    """Append events, some to a transaction, and acknowledge each transaction once it was committed."""
    database, chance = Database(url), random.Random(name)
    for number in itertools.count():
        size = chance.randint(1, most)
        try:
            with database.write() as connection:
                for place in range(size):
                    events.append(connection, "canary_step", "m", f"{name}-{number}-{place}", {"n": number}, ROBOT)
        except Transient:
            continue
        os.write(acknowledgements, f"{name}-{number} {size}\n".encode())


def storm(url: str, kills: int, acknowledged: int, writers: int, most: int, seed: int) -> None:
    """Kill writers at random instants until enough was killed and acknowledged; then say what was acknowledged."""
    chance, (reading, writing) = random.Random(seed), os.pipe()
    names = (f"w{number}" for number in itertools.count())
    alive = [fork(write_on, url, next(names), most, writing) for _ in range(writers)]
    said, killed, due = b"", 0, time.monotonic()
    while killed < kills or _size(said) < acknowledged:
        if select.select([reading], [], [], 0.001)[0]:
            said += os.read(reading, 1 << 16)
            # Only a while after something was acknowledged: on a busy machine none would live long enough to write.
            due = due or time.monotonic() + chance.uniform(0.0, 0.12)
        if killed < kills and due and time.monotonic() >= due:
            due, place = 0.0, chance.randrange(writers)
            os.kill(alive[place], signal.SIGKILL)
            os.waitpid(alive[place], 0)
            killed += 1
            alive[place] = fork(write_on, url, next(names), most, writing)
    for child in alive:
        os.kill(child, signal.SIGKILL)
    reap(alive)
    os.close(writing)
    while more := os.read(reading, 1 << 16):
        said += more
    say({"killed": killed, "acknowledged": said.decode().splitlines()})


def _size(said: bytes) -> int:
    """How many events these lines acknowledge."""
    return sum(int(one.split()[1]) for one in said.split(b"\n")[:-1])


def race(url: str, races: int, width: int) -> None:
    """Promote different versions at once, all decided on the same generation."""
    context = multiprocessing.get_context("fork")
    barrier = context.Barrier(width, timeout=60)
    reap([fork(_racer, url, races, lane, barrier) for lane in range(width)])


def _racer(url: str, races: int, lane: int, barrier: Barrier) -> None:
    database = Database(url)
    for number in range(races):
        with database.read() as connection:
            seen = champions.find(connection, "m")
        barrier.wait()
        said = _promote(database, f"{number}.{lane}", seen.generation if seen else 0)
        say({"race": number, "version": f"{number}.{lane}", "seen": seen.version if seen else None, **said})
        barrier.wait()


def _promote(database: Database, version: str, generation: int) -> dict[str, Any]:
    try:
        with database.write() as connection:
            lease = leases.acquire(connection, "champion:m")
            event = events.append(connection, "model_promoted", "m", version, {"version": version}, ROBOT)
            made = champions.change(connection, "m", version, "f" * 64, generation, event, lease)
            leases.release(connection, lease)
        return {"won": True, "generation": made.generation, "previous": made.previous, "sequence": made.sequence}
    except Refused as refused:
        return {"won": False, "why": str(refused)}


def hold(url: str, ttl_seconds: float) -> None:
    """Take the lease, say so, and write under it when told to: by then it may be somebody else's."""
    database = Database(url)
    with database.write() as connection:
        lease = leases.acquire(connection, "champion:m", ttl_seconds)
    say({"token": lease.token})
    sys.stdin.readline()
    try:
        with database.write() as connection:
            event = events.append(connection, "model_promoted", "m", "late", {}, ROBOT)
            champions.change(connection, "m", "late", "f" * 64, 0, event, lease)
        say({"wrote": True})
    except SlipwayError as error:
        say({"wrote": False, "why": str(error), "exit_code": error.exit_code})


def migrate(url: str, width: int) -> None:
    """Make the tables in many processes at once."""
    start_together = multiprocessing.get_context("fork").Event()
    children = [fork(_migrate, url, start_together, lane) for lane in range(width)]
    time.sleep(0.2)  # all are at the gate; those that are not yet only race less
    start_together.set()
    reap(children)


def _migrate(url: str, start_together: Event, lane: int) -> None:
    start_together.wait()
    database = Database(url)
    database.migrate()
    with database.write() as connection:
        event = events.append(connection, "release_started", "m", str(lane), {}, ROBOT)
    say(event.sequence)


def storm_of_writers(url: str, width: int, each: int) -> None:
    """Many writers, none of which ever rests."""
    reap([fork(_busy, url, lane, each) for lane in range(width)])


def _busy(url: str, lane: int, each: int) -> None:
    database = Database(url)
    for number in range(each):
        with database.write() as connection:
            event = events.append(connection, "canary_step", "m", f"{lane}-{number}", {}, ROBOT)
        say(event.sequence)


def fork_in_use(url: str, children: int, each: int) -> None:
    """Fork with open connections, once in the middle of a write, and go on writing on both sides."""
    database = Database(url)
    _append(database, "before")
    _fork_in_the_middle(database)
    made = [fork(_append_each, database, f"child {number}", each) for number in range(children)]
    _append_each(database, "parent", each)
    reap(made)
    _append(database, "after")


def _fork_in_the_middle(database: Database) -> None:
    """The child leaves its parent's write as a failing one leaves its own."""
    try:
        with database.write() as connection:
            events.append(connection, "canary_step", "m", "in the middle", {}, ROBOT)
            if (child := os.fork()) == 0:
                raise KeyboardInterrupt
            os.waitpid(child, 0)
    except KeyboardInterrupt:
        gc.collect()
        os._exit(0)
    say("in the middle")


def _append(database: Database, subject: str) -> None:
    with database.write() as connection:
        event = events.append(connection, "canary_step", "m", subject, {}, ROBOT)
    say(event.subject)


def _append_each(database: Database, name: str, each: int) -> None:
    for number in range(each):
        _append(database, f"{name} {number}")


def append_as_nobody(url: str) -> None:
    """Write as a user to whom the ledger does not belong."""
    if os.geteuid() == 0:
        os.setgid(65534)
        os.setuid(65534)
    try:
        _append(Database(url), "nobody's")
    except SlipwayError as error:
        say({"exit_code": error.exit_code, "why": str(error)})


def append_for_ever(url: str, most: int) -> None:
    """One writer, for a power cut; says `begun` first."""
    Database(url).migrate()
    say("begun")
    write_on(url, "w", most, 1)


def append_on_bad_disk(url: str, switch: str) -> None:
    """Write on a disk that fails from some moment on."""
    database = Database(url)
    database.migrate()
    _append(database, "good disk")
    os.close(os.open(switch, os.O_CREAT | os.O_WRONLY))
    for _ in range(2):
        try:
            _append(database, "bad disk")
        except SlipwayError as error:
            say({"exit_code": error.exit_code, "why": str(error)})
    Path(switch).unlink()
    try:
        _append(database, "good again")
    except SlipwayError as error:
        say({"exit_code": error.exit_code, "why": str(error)})


def acknowledged(said: list[str]) -> Iterator[str]:
    """The subjects of the events that were acknowledged as `NAME-NUMBER SIZE`."""
    for one in said:
        name, size = one.split()
        yield from (f"{name}-{place}" for place in range(int(size)))


if __name__ == "__main__":
    given = json.loads(sys.argv[1])
    globals()[given.pop("task")](**given)
