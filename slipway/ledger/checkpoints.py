"""Signed checkpoints of where the chain ends, written outside the database: a database cannot vouch for its own age.

Each act writes one. Whoever rewrites the chain, cuts its tail, shows another copy or puts an older backup back, has
a ledger on which the newest checkpoint does not stand. It is then *frozen*, and nothing is promoted until a person says why
that is right (`slipway audit accept`). The freeze is stored nowhere: it is what the checkpoints and the database say.
"""

import contextlib
import fcntl
from collections.abc import Iterator, Sequence
from datetime import timedelta
from pathlib import Path

from sqlalchemy import Connection, select

from slipway import settings
from slipway.artifacts import Json
from slipway.errors import Refused, SlipwayError, UsageError
from slipway.ledger import chain, clock, cursors, events, places, signatures, vouched
from slipway.ledger import checkpoint_files as files
from slipway.ledger.chain import canonical
from slipway.ledger.checkpoint_files import FILE, PURPOSE, SEEN, Checkpoint, Line, lines, seen
from slipway.ledger.database import Database
from slipway.ledger.events import Actor, Head
from slipway.ledger.tables import events as rows
from slipway.ledger.vouched import Known, Vouched, stands
from slipway.registry import keys

__all__ = [
    "CURSOR", "FILE", "SEEN", "Checkpoint", "Line", "accept", "astray", "lines", "remote", "require", "seen", "stands", "write",
    "write_everywhere",
]  # fmt: skip
CURSOR = "checkpoints"  # among the sinks: how far the database knows itself to be vouched for
_LATE = timedelta(days=30)  # a checkpoint may come to the second place: clocks differ, and machines are cut off


# --- writing ----------------------------------------------------------------------------------------------------------


def write(root: Path, database: Database | None = None) -> Checkpoint | None:
    """Vouch for the chain as it ends now; None where nothing has happened yet. Refused where it is not the chain we know.

    To be called after an act's transaction. A second place that is away is told the next time.
    """
    return write_everywhere(root, database)[0]


def write_everywhere(root: Path, database: Database | None = None) -> tuple[Checkpoint | None, SlipwayError | None]:
    """The same, and why the second place could not be told, where it could not."""
    with _opened(root, database) as opened, _alone(root):
        told, trouble = _cursor(opened), _gather(root)
        found, head = _looked(root, opened)
        _must_be_sound(root, opened, found, head, told, trouble)
        newest, trust = _last(root), keys.load(keys.folder(root) / keys.FILE)
        if head.sequence and (newest is None or newest.hash != head.hash or newest.doubt(trust)):
            newest = _append(root, newest, head, [])
            trouble = trouble or _share(root)
            _remember(opened, head.sequence)
            return newest, trouble
        return newest, trouble or _share(root)


def _append(root: Path, before: Checkpoint | None, head: Head, accepted: list[str]) -> Checkpoint:
    """Sign the head and add it to this machine's file, on disk when this returns."""
    fingerprint, private = keys.signing_key(root)
    said = {
        "number": before.number + 1 if before else 1, "sequence": head.sequence, "hash": head.hash,
        "at": clock.read().text, "previous": before.digest if before else chain.GENESIS, "accepted": accepted,
        "key": fingerprint,
    }  # fmt: skip
    made = Checkpoint.model_validate({**said, "signature": signatures.sign(private, PURPOSE, said)})
    files.add(files.own_path(root), [made])
    return made


def _last(root: Path) -> Checkpoint | None:
    """The newest line of this machine that somebody whom we know has signed: the next one names it."""
    trust = keys.load(keys.folder(root) / keys.FILE)
    found = (line.checkpoint for line in reversed(files.tail(files.own_path(root))))
    return next((one for one in found if one is not None and one.forged(trust) is None), None)


def _cursor(database: Database) -> int:
    """Asked before any file is read: what a file says by then, it says still."""
    with database.read() as connection:
        return cursors.at(connection, CURSOR)


def _remember(database: Database, sequence: int) -> None:
    with database.write() as connection:
        if cursors.at(connection, CURSOR) < sequence:  # another machine may have been further already
            cursors.move(connection, CURSOR, sequence)


@contextlib.contextmanager
def _opened(root: Path, database: Database | None) -> Iterator[Database]:
    """The caller's database, or one of our own for as long as it is needed."""
    if database is not None:
        yield database
        return
    with contextlib.closing(Database.of(root)) as own:
        yield own


@contextlib.contextmanager
def _alone(root: Path) -> Iterator[None]:
    """One process at a time, so that the file's order is the chain's."""
    place = places.folder(root)
    place.mkdir(parents=True, exist_ok=True)
    with (place / ".lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield


# --- the second place -------------------------------------------------------------------------------------------------


def elsewhere(root: Path) -> places.Place | None:
    """The second place, where one is configured."""
    uri = settings.load(root).audit_checkpoints
    return places.of(root, uri) if uri else None


def _gather(root: Path) -> SlipwayError | None:
    """Take over what others wrote at the second place since; why that was not possible, where it was not."""
    place = elsewhere(root)
    if place is None:
        return None
    known = {name[:12] for path in (files.own_path(root), files.seen_path(root)) for name in files.digests(path)}
    try:
        new = [name for name in place.names(_since(root)) if name.removesuffix(".json")[-12:] not in known]
        found = [_of_bytes(place.get(name)) for name in new]
    except SlipwayError as error:
        return error
    trust = keys.load(keys.folder(root) / keys.FILE)
    believed = [one for one in found if one is not None and one.doubt(trust) is None]
    if believed:
        files.add(files.seen_path(root), believed)
    return None


def _since(root: Path) -> str:
    """What names at the second place begin with from which on they may be new here. A clock that ran ahead does not count."""
    now = clock.read()
    tails = [files.tail(path) for path in (files.own_path(root), files.seen_path(root))]
    times = [
        [line.checkpoint.at for line in tail if line.checkpoint and line.checkpoint.at <= now.text] for tail in tails
    ]
    last = max((one[-1] for one in times if one), default=None)
    return clock.shown(clock.moment(last) - _LATE).replace("-", "").replace(":", "") if last else ""


def _of_bytes(data: bytes | None) -> Checkpoint | None:
    return files.parsed(data.decode("utf-8", "replace")).checkpoint if data is not None else None


def _share(root: Path) -> SlipwayError | None:
    """Bring to the second place whatever it has not got, the oldest first; why that was not possible, where it was not."""
    place = elsewhere(root)
    if place is None:
        return None
    try:
        for one in reversed(_missing(place, files.whole(files.own_path(root)))):
            place.put_new(one.name, canonical(one.model_dump(mode="json")).encode())
    except SlipwayError as error:
        return error
    return None


def _missing(place: places.Place, known: Sequence[Checkpoint]) -> list[Checkpoint]:
    """Those that a place has not got, the newest first."""
    found: list[Checkpoint] = []
    for one in reversed(known):
        if place.get(one.name) is not None:
            break
        found.append(one)
    return found


def remote(root: Path) -> list[Line]:
    """Every checkpoint at the second place."""
    place = elsewhere(root)
    if place is None:
        return []
    found = []
    for name in place.names():
        data = place.get(name) or b""
        found.append(files.parsed(data.decode("utf-8", "replace"), f"{place.uri}/{name}"))
    return found


# --- frozen -----------------------------------------------------------------------------------------------------------


def astray(root: Path, connection: Connection) -> Checkpoint | None:
    """The newest checkpoint that is not on the chain of this database, or that nobody signed, and that nobody let go."""
    return vouched.newest(root, connection).lost


def require(root: Path, database: Database | None = None) -> None:
    """Refuse to act on a ledger that is frozen. To be called before the transaction that promotes."""
    with _opened(root, database) as opened:
        told, trouble, found = _cursor(opened), None, _looked(root, opened)
        if found[0].lost is None and found[0].sequence < told:  # another machine was here, or lines are gone
            with _alone(root):
                trouble = _gather(root)
            found = _looked(root, opened)
        _must_be_sound(root, opened, *found, told, trouble)


def _looked(root: Path, database: Database) -> tuple[Vouched, Head]:
    with database.read() as connection:
        return vouched.newest(root, connection), events.head(connection)


def _must_be_sound(
    root: Path, database: Database, found: Vouched, head: Head, told: int, trouble: SlipwayError | None
) -> None:
    """Refused where a checkpoint does not stand, or where some are missing that the database was vouched for by."""
    if found.lost is not None:
        _tell_frozen(database, found.lost, head)
        raise Refused(_frozen(root, found.lost, head))
    if found.sequence < told:
        raise trouble or Refused(
            f"the ledger is frozen: its database was vouched for up to event {told}, and the checkpoints known here end at "
            f"event {found.sequence}; put {files.own_path(root)} back from a copy, name the place that the machines share "
            f"(audit_checkpoints in configs/env), or {_ACCEPT}"
        )


_ACCEPT = "if the ledger is right as it is, `slipway audit accept --reason …`"


def _frozen(root: Path, lost: Checkpoint, head: Head) -> str:
    if forged := lost.forged(keys.load(keys.folder(root) / keys.FILE)):
        return (
            f"the ledger is frozen: a checkpoint of event {lost.sequence} {forged}; find out who wrote it and restore "
            f"{files.own_path(root).parent} and the trust file from a copy, or, {_ACCEPT}"
        )
    return (
        f"the ledger is frozen: event {lost.sequence} stood in it at {lost.at[:19]}Z and does not now "
        f"(it ends at event {head.sequence}); restore the newest backup, or, if what it lost is known, "
        f"`slipway audit accept --reason …`"
    )


def _tell_frozen(database: Database, lost: Checkpoint, head: Head) -> None:
    """Say so in the ledger, once."""
    with database.write() as connection:
        if not _is_told(connection, lost):
            events.append(connection, "ledger_frozen", "", "", _payload(lost, head))


def _is_told(connection: Connection, lost: Checkpoint) -> bool:
    kinds = ("ledger_frozen", "ledger_released")
    query = select(rows).where(rows.c.kind.in_(kinds)).order_by(rows.c.sequence.desc()).limit(1)
    row = connection.execute(query).first()
    if row is None or row.kind != "ledger_frozen":
        return False
    return bool(events.of_row(row).payload.get("checkpoint") == lost.digest)


def _payload(lost: Checkpoint, head: Head) -> Json:
    return {"checkpoint": lost.digest, "sequence": lost.sequence, "hash": lost.hash, "head": head.sequence}


def accept(root: Path, reason: str, actor: Actor | None = None) -> list[Checkpoint]:
    """Let go of every checkpoint that is not on the chain, because a person says that the database is right."""
    if not reason.strip():
        raise UsageError("say why the ledger as it is now is the right one (--reason): whoever verifies will read it")
    with contextlib.closing(Database.of(root)) as database, _alone(root):
        told, _ = _cursor(database), _gather(root)
        with database.read() as connection:
            lost, head = Known(root, connection).all_lost(), events.head(connection)
            known = vouched.newest(root, connection).sequence
        if not lost and known >= told:
            raise UsageError(
                "nothing to accept: every checkpoint stands in the ledger; `slipway audit verify` says more"
            )
        after = _released(database, lost, told, head, reason, actor)
        _append(root, _last(root), after, [one.digest for one in lost])
        _share(root)
    return lost


def _released(
    database: Database, lost: Sequence[Checkpoint], told: int, head: Head, reason: str, actor: Actor | None
) -> Head:
    """The events that tell who let go of what, and where the chain ends then."""
    with database.write() as connection:
        newest = max(lost, key=lambda one: one.sequence, default=None)
        if newest is not None and not _is_told(connection, newest):
            events.append(connection, "ledger_frozen", "", "", _payload(newest, head), actor)
        payload = {"accepted": [one.digest for one in lost], "vouched": told}
        events.append(connection, "ledger_released", "", "", payload, actor, reason)
        after = events.head(connection)
        cursors.move(connection, CURSOR, after.sequence)
    return after
