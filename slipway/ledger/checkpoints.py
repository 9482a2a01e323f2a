"""Signed checkpoints of where the chain ends, written outside the database: a database cannot vouch for its own age.

Each act writes one. Whoever rewrites the chain, cuts its tail, shows another copy or puts an older backup back, has
a ledger on which the newest checkpoint does not stand. It is then *frozen*, and nothing is promoted until a person says why
that is right (`slipway audit accept`). The freeze is stored nowhere: it is what the checkpoints and the database say.

    <state>/audit/checkpoints.jsonl     those of this machine, one a line
    <state>/audit/seen.jsonl            those of others, found at the second place (`audit_checkpoints` of configs/env)
"""

import contextlib
import fcntl
import os
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path

from pydantic import ValidationError, field_validator
from sqlalchemy import Connection, select

from slipway import atomic, digest, settings, strict
from slipway.artifacts import Artifact
from slipway.errors import Refused, SlipwayError, UsageError, of_storage
from slipway.ledger import chain, clock, cursors, events, places, signatures
from slipway.ledger.chain import canonical
from slipway.ledger.database import Database
from slipway.ledger.events import Actor, Head
from slipway.ledger.tables import archives
from slipway.ledger.tables import events as rows
from slipway.registry import keys

FILE, SEEN = "checkpoints.jsonl", "seen.jsonl"
PURPOSE = "checkpoint"
CURSOR = "checkpoints"  # among the sinks: how far the database knows itself to be vouched for
_TAIL = 65_536  # bytes of the file that an act looks at
_SKEW = timedelta(days=1)  # by which the clocks of two machines may differ


class Checkpoint(Artifact):
    """Where the chain ended at a moment, and who says so."""

    number: int  # 1, 2, 3, … on this machine
    sequence: int
    hash: str
    at: str
    previous: str  # digest of the checkpoint before, so that none goes missing from the middle
    accepted: list[str]  # digests of checkpoints that a person let go (`slipway audit accept`)
    key: str
    signature: str

    @field_validator("at")
    @classmethod
    def _is_a_time(cls, at: str) -> str:
        clock.moment(at)
        return at

    @property
    def digest(self) -> str:
        return digest.of_bytes(canonical(self.model_dump(mode="json")).encode())

    @property
    def name(self) -> str:
        """What it is called at the second place: in order of time."""
        stamp = self.at.replace("-", "").replace(":", "")
        return f"{stamp}-{self.sequence:012d}-{self.digest[:12]}.json"

    def forged(self, trust: keys.Trust) -> str | None:
        """Why nobody whom we know has signed it; None when somebody has."""
        said = self.model_dump(mode="json", exclude={"signature"})
        return signatures.forged(trust, PURPOSE, said, self.key, self.signature)

    def doubt(self, trust: keys.Trust) -> str | None:
        """Why it is not believed; None when it is."""
        if why := self.forged(trust):
            return why
        signed = clock.moment(self.at).replace(microsecond=0)  # keys count whole seconds
        why = trust.keys[self.key].doubt(signed, keys.now())
        return f"is signed by the key {self.key[:16]}, which {why}" if why else None


@dataclass(frozen=True)
class Line:
    """One line of a file of checkpoints, whatever stands there."""

    where: str
    checkpoint: Checkpoint | None
    wrong: str | None


# --- writing ----------------------------------------------------------------------------------------------------------


def write(root: Path, database: Database | None = None) -> Checkpoint | None:
    """Vouch for the chain as it ends now; None where nothing has happened yet. Refused where it is not the chain we know.

    To be called after an act's transaction. A second place that is away is told the next time.
    """
    return write_everywhere(root, database)[0]


def write_everywhere(root: Path, database: Database | None = None) -> tuple[Checkpoint | None, SlipwayError | None]:
    """The same, and why the second place could not be told, where it could not."""
    with _opened(root, database) as opened, _alone(root):
        trouble = _gather(root)
        with opened.read() as connection:
            head, lost = events.head(connection), astray(root, connection)
        if lost is not None:
            _tell_frozen(opened, lost, head)
            raise Refused(_frozen(lost, head))
        newest = _last(_path(root))
        if head.sequence and (newest is None or newest.hash != head.hash):
            newest = _append(root, newest, head, [])
            _remember(opened, head.sequence)
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
    _add_lines(_path(root), [made])
    return made


def _add_lines(path: Path, added: Iterable[Checkpoint]) -> None:
    """Add whole lines; half a line, which a killed process left, goes first."""
    is_new = not path.exists()
    try:
        with path.open("ab") as stream:
            if cut := _torn(path):
                stream.truncate(cut[0])
            stream.write("".join(f"{canonical(one.model_dump(mode='json'))}\n" for one in added).encode())
            stream.flush()
            os.fsync(stream.fileno())
    except OSError as error:
        known = of_storage(error, path, 0)
        if known is None:
            raise
        raise known from None
    if is_new:
        atomic.fsync_folder(path.parent)


def _torn(path: Path) -> tuple[int, int] | None:
    """Where the last line begins and the file ends, when that line has no end."""
    with path.open("rb") as stream:
        size = stream.seek(0, os.SEEK_END)
        stream.seek(max(0, size - _TAIL))
        tail = stream.read()
    whole = tail.rfind(b"\n") + 1
    return (size - len(tail) + whole, size) if whole < len(tail) else None


def _remember(database: Database, sequence: int) -> None:
    with database.write() as connection:
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


def _path(root: Path) -> Path:
    return places.folder(root) / FILE


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
    own, seen = _tail(_path(root)), _tail(places.folder(root) / SEEN)
    known = {one.name for one in (*own, *seen)}
    newest = max((one.at for one in (*own, *seen)), default=None)
    after = (clock.shown(clock.moment(newest) - _SKEW).replace("-", "").replace(":", "")) if newest else ""
    try:
        found = [_of_bytes(place.get(name)) for name in place.names(after) if name not in known]
    except SlipwayError as error:
        return error
    trust = keys.load(keys.folder(root) / keys.FILE)
    believed = [one for one in found if one is not None and one.doubt(trust) is None]
    if believed:
        _add_lines(places.folder(root) / SEEN, believed)
    return None


def _of_bytes(data: bytes | None) -> Checkpoint | None:
    return _parsed(data.decode("utf-8", "replace")).checkpoint if data is not None else None


def _share(root: Path) -> SlipwayError | None:
    """Bring to the second place whatever it has not got, the oldest first; why that was not possible, where it was not."""
    place = elsewhere(root)
    if place is None:
        return None
    try:
        for one in reversed(_missing(place, _whole(_path(root)))):
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


# --- reading ----------------------------------------------------------------------------------------------------------


def lines(root: Path) -> list[Line]:
    """Every line of this machine's file."""
    return _lines(_path(root))


def seen(root: Path) -> list[Line]:
    """Every checkpoint of others that was found at the second place."""
    return _lines(places.folder(root) / SEEN)


def remote(root: Path) -> list[Line]:
    """Every checkpoint at the second place."""
    place = elsewhere(root)
    if place is None:
        return []
    found = []
    for name in place.names():
        data = place.get(name) or b""
        found.append(_parsed(data.decode("utf-8", "replace"), f"{place.uri}/{name}"))
    return found


def _lines(path: Path) -> list[Line]:
    if not path.is_file():
        return []
    text = path.read_bytes().decode("utf-8", "replace")
    if text and not text.endswith("\n"):
        text = text[: text.rfind("\n") + 1]  # a process that was killed while it wrote has not vouched for anything
    return [_parsed(line, f"{path}:{number}") for number, line in enumerate(text.split("\n")[:-1], start=1)]


def _parsed(text: str, where: str = "") -> Line:
    try:
        found = Checkpoint.model_validate(strict.loads_json(text))
    except (ValidationError, ValueError):
        return Line(where, None, "is no checkpoint")
    if canonical(found.model_dump(mode="json")) != text:
        return Line(where, None, "is not as Slipway writes a checkpoint")
    return Line(where, found, None)


def _whole(path: Path) -> list[Checkpoint]:
    return [line.checkpoint for line in _lines(path) if line.checkpoint is not None]


def _tail(path: Path) -> list[Checkpoint]:
    """The newest checkpoints of a file: an act must not become slower with every act before it."""
    if not path.is_file():
        return []
    with path.open("rb") as stream:
        size = stream.seek(0, os.SEEK_END)
        stream.seek(max(0, size - _TAIL))
        text = stream.read().decode("utf-8", "replace")
    parts = text.split("\n")[1 if size > _TAIL else 0 : -1]
    return [found for part in parts if (found := _parsed(part).checkpoint) is not None]


def _last(path: Path) -> Checkpoint | None:
    tail = _tail(path)
    return tail[-1] if tail else None


# --- frozen -----------------------------------------------------------------------------------------------------------


def astray(root: Path, connection: Connection) -> Checkpoint | None:
    """The newest checkpoint that is not on the chain of this database, where a person has not let it go."""
    tails = [_tail(_path(root)), _tail(places.folder(root) / SEEN)]
    let_go = {accepted for tail in tails for one in tail for accepted in one.accepted}
    for tail in tails:
        standing = [one for one in tail if one.digest not in let_go]
        newest = max(standing, key=lambda one: (one.sequence, one.number), default=None)
        if newest is not None and not stands(connection, newest):
            return newest
    return None


def stands(connection: Connection, checkpoint: Checkpoint) -> bool:
    """Whether the chain of this database has this event under this hash."""
    found = connection.execute(select(rows.c.hash).where(rows.c.sequence == checkpoint.sequence)).scalar()
    if found is not None:
        return bool(found == checkpoint.hash)
    kept = connection.execute(select(archives).where(archives.c.last >= checkpoint.sequence)).first()
    return kept is not None and (kept.last > checkpoint.sequence or kept.last_hash == checkpoint.hash)


def require(root: Path, database: Database | None = None) -> None:
    """Refuse to act on a ledger that is frozen. To be called before the transaction that promotes."""
    with _opened(root, database) as opened:
        with opened.read() as connection:
            lost, head = astray(root, connection), events.head(connection)
        if lost is not None:
            _tell_frozen(opened, lost, head)
            raise Refused(_frozen(lost, head))


def _frozen(lost: Checkpoint, head: Head) -> str:
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


def _payload(lost: Checkpoint, head: Head) -> dict[str, str | int]:
    return {"checkpoint": lost.digest, "sequence": lost.sequence, "hash": lost.hash, "head": head.sequence}


def accept(root: Path, reason: str, actor: Actor | None = None) -> list[Checkpoint]:
    """Let go of every checkpoint that is not on the chain, because a person says that the database is right."""
    if not reason.strip():
        raise UsageError("say why the ledger as it is now is the right one (--reason): whoever verifies will read it")
    with contextlib.closing(Database.of(root)) as database, _alone(root):
        _gather(root)
        with database.read() as connection:
            lost, head = _all_astray(root, connection), events.head(connection)
        if not lost:
            raise UsageError(
                "nothing to accept: every checkpoint stands in the ledger; `slipway audit verify` says more"
            )
        with database.write() as connection:
            newest = max(lost, key=lambda one: one.sequence)
            if not _is_told(connection, newest):
                events.append(connection, "ledger_frozen", "", "", _payload(newest, head), actor)
            let_go = [one.digest for one in lost]
            events.append(connection, "ledger_released", "", "", {"accepted": let_go}, actor, reason)
            after = events.head(connection)
            cursors.move(connection, CURSOR, after.sequence)
        _append(root, _last(_path(root)), after, let_go)
        _share(root)
    return lost


def _all_astray(root: Path, connection: Connection) -> list[Checkpoint]:
    known: Sequence[Checkpoint] = [*_whole(_path(root)), *_whole(places.folder(root) / SEEN)]
    let_go = {accepted for one in known for accepted in one.accepted}
    return [one for one in known if one.digest not in let_go and not stands(connection, one)]
