"""Is the ledger what was written? Everything is held against something else, and nothing is changed.

The chain against itself, archives joined on; sealed texts against their digests; the signed checkpoints against the chain; every
table against the events that told its rows; and what mirrors the ledger (MLflow) against the tables.
"""

import contextlib
import importlib
from collections.abc import Iterable
from dataclasses import asdict, dataclass, field
from datetime import timedelta
from pathlib import Path
from typing import Any

from sqlalchemy import Connection, text

from slipway.artifacts import Json
from slipway.errors import SlipwayError, StageError, Transient, UsageError
from slipway.ledger import archive, chain, checkpoints, clock, cursors, events, standing
from slipway.ledger.chain import Event
from slipway.ledger.checkpoints import Checkpoint, Line
from slipway.ledger.database import Database
from slipway.ledger.events import Head
from slipway.ledger.expected import Expected
from slipway.registry import keys

RESTORE = "find out who wrote there, and restore the newest backup (docs/guide/audit.md)"
OPEN = timedelta(days=1)  # how long events may go without a checkpoint


@dataclass(frozen=True)
class Problem:
    """Something that is not as it was written."""

    sequence: int | None  # the event it is about, or the first of them
    what: str
    where: str
    todo: str

    @property
    def text(self) -> str:
        return f"event {self.sequence}: {self.what}; {self.where}; {self.todo}" if self.sequence else (
            f"{self.what}; {self.where}; {self.todo}"
        )  # fmt: skip


@dataclass
class Report:
    """What was looked at, and what is wrong with it."""

    problems: list[Problem] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)  # what is worth knowing and no problem
    events: int = 0
    archived: int = 0
    checkpoints: int = 0
    mirrors: int = 0  # things outside the ledger that were compared with it
    erased: int = 0  # texts that somebody had erased
    head: str = chain.GENESIS

    @property
    def is_clean(self) -> bool:
        return not self.problems

    def wrong(self, sequence: int | None, what: str, where: str, todo: str) -> None:
        self.problems.append(Problem(sequence, what, where, todo))

    def as_json(self) -> Json:
        return {"clean": self.is_clean, **asdict(self)}


def verify(root: Path, mirrors: bool = True, archives: bool = True, trust: Path | None = None) -> Report:
    """Look at everything. Only a database that does not answer is an error; all else is in the report."""
    report = Report()
    try:
        _ledger(root, report, archives, keys.load(trust or keys.folder(root) / keys.FILE))
    except (Transient, UsageError):
        raise
    except SlipwayError as error:
        report.wrong(None, str(error), "the ledger", RESTORE)
    if mirrors:
        _mirrors(root, report)
    return report


def _ledger(root: Path, report: Report, archives: bool, trust: keys.Trust) -> None:
    own = checkpoints.lines(root)
    lines = [*own, *checkpoints.seen(root), *_remote(root, report)]
    wanted = {line.checkpoint.sequence for line in lines if line.checkpoint}
    with contextlib.closing(Database.of(root)) as database, database.read() as connection:
        walk = Walk(wanted)
        is_whole = _chain(root, connection, report, walk, archives, database.shown)
        _gaps(report, own)
        _checkpoints(connection, report, lines, walk, trust, is_whole)
        _guards(connection, database, report)
        if is_whole:
            found = standing.problems(connection, walk.expected, walk.skipped)
            report.problems += [Problem(at, what, database.shown, RESTORE) for at, what in found]
            report.erased = standing.erased(connection)
            _owed(connection, report)


# --- the chain ----------------------------------------------------------------------------------------------------------


@dataclass
class Walk:
    """What is picked up on the way along the chain."""

    wanted: set[int]  # events whose hashes a checkpoint tells
    hashes: dict[int, str] = field(default_factory=dict)
    expected: Expected = field(default_factory=Expected)
    last: int = 0
    last_hash: str = chain.GENESIS
    newest: Event | None = None
    skipped: int = 0  # events up to this one were not looked at, only their archives' digests

    def past(self, checked: Iterable[Event]) -> None:
        """Go along events that are checked on the way."""
        wanted, add, hashes = self.wanted, self.expected.add, self.hashes
        event = None
        for event in checked:
            self.last, self.last_hash = event.sequence, event.hash
            if event.sequence in wanted:
                hashes[event.sequence] = event.hash
            add(event)
        self.newest = event or self.newest


def _chain(root: Path, connection: Connection, report: Report, walk: Walk, archives: bool, where: str) -> bool:
    """Go along the whole chain; whether it holds to its end."""
    try:
        for kept in archive.listed(connection):
            if kept.first != walk.last + 1:
                raise chain.Broken(walk.last + 1, f"is missing: the next archive begins at event {kept.first}")
            _past_archive(root, kept, walk, archives)
            report.archived = walk.last
        walk.past(events.checked(connection, walk.last, walk.last_hash))
    except chain.Broken as broken:
        report.wrong(broken.sequence, broken.what, where, RESTORE)
        report.notes.append(f"nothing behind event {broken.sequence} was looked at")
    except StageError as error:  # an archive that is not what it was
        report.wrong(walk.last + 1, str(error), where, RESTORE)
    else:
        _stray(connection, report, walk, where)
    report.events, report.head = walk.last, walk.last_hash
    return not report.problems


def _past_archive(root: Path, kept: archive.Archive, walk: Walk, archives: bool) -> None:
    if archives:
        walk.past(chain.checked(archive.read(root, kept), walk.last, walk.last_hash))
    else:
        walk.last, walk.last_hash, walk.skipped = kept.last, kept.last_hash, kept.last
    if (walk.last, walk.last_hash) != (kept.last, kept.last_hash):
        raise chain.Broken(kept.last, f"is not the last of the archive {kept.uri}, as its row says")


def _stray(connection: Connection, report: Report, walk: Walk, where: str) -> None:
    """Rows that stand before the chain's live part: copies of what an archive holds, or worse."""
    found = events.count(connection)
    live = walk.last - report.archived
    if found != live:
        report.wrong(report.archived or 1, f"{found - live} rows stand beside the chain", where, RESTORE)


def _guards(connection: Connection, database: Database, report: Report) -> None:
    """The triggers that keep events as they were written."""
    if database.is_sqlite:
        query, wanted = "SELECT name FROM sqlite_master WHERE type = 'trigger' AND tbl_name = 'events'", _SQLITE
    else:
        query = "SELECT tgname FROM pg_trigger WHERE tgrelid = 'events'::regclass AND tgenabled IN ('O', 'A')"
        wanted = _POSTGRESQL
    if missing := sorted(wanted - set(connection.execute(text(query)).scalars())):
        what = f"the trigger {missing[0]}, which keeps events from being rewritten, is gone or switched off"
        report.wrong(None, what, database.shown, RESTORE)


_SQLITE = {"events_stay", "events_go_to_archives"}
_POSTGRESQL = {"events_stay", "events_stay_whole"}


# --- checkpoints --------------------------------------------------------------------------------------------------------


def _remote(root: Path, report: Report) -> list[Line]:
    try:
        return checkpoints.remote(root)
    except SlipwayError as error:
        report.wrong(None, f"the second place of the checkpoints was not compared: {error}", "configs/env", "try again")
        return []


def _checkpoints(
    connection: Connection, report: Report, lines: list[Line], walk: Walk, trust: keys.Trust, whole: bool
) -> None:
    known: dict[str, tuple[Checkpoint, str]] = {}
    for line in lines:
        if line.checkpoint is None:
            report.wrong(None, f"the checkpoint {line.wrong}", line.where, "restore the file from a copy")
        elif forged := line.checkpoint.forged(trust):
            report.wrong(line.checkpoint.sequence, f"its checkpoint {forged}", line.where, "find out who wrote it")
        else:
            known.setdefault(line.checkpoint.digest, (line.checkpoint, line.where))
    report.checkpoints = len(known)
    let_go = {accepted for one, _ in known.values() for accepted in one.accepted}
    fallen = _compared(report, list(known.values()), walk, let_go, trust, whole)
    _covered(report, [one for one, _ in known.values()], fallen, walk, connection, whole)


def _compared(
    report: Report, known: list[tuple[Checkpoint, str]], walk: Walk, let_go: set[str], trust: keys.Trust, whole: bool
) -> list[Checkpoint]:
    """Hold each checkpoint against the chain; those that stand and are not believed any more."""
    fallen, good = [], 0
    for one, where in sorted(known, key=lambda pair: (pair[0].sequence, pair[0].number)):
        if one.digest in let_go:
            report.notes.append(f"event {one.sequence} of {one.at[:19]}Z is gone, and a person accepted that")
        elif one.doubt(trust):
            fallen.append(one)
        elif one.sequence <= walk.skipped or (not whole and one.sequence > walk.last):
            continue
        elif walk.hashes.get(one.sequence) == one.hash:
            good = one.sequence
        else:
            report.wrong(*_astray(one, walk, good), where, f"{RESTORE}, or `slipway audit accept --reason …`")
            break  # whatever comes after stands on this
    return fallen


def _astray(one: Checkpoint, walk: Walk, good: int) -> tuple[int, str]:
    then = f"stood in the ledger at {one.at[:19]}Z with the hash {one.hash[:16]}"
    if one.sequence > walk.last:
        return walk.last + 1, (
            f"is missing, and all up to event {one.sequence}, which {then}: the tail was cut, or an older copy put back"
        )
    now = walk.hashes.get(one.sequence, "nothing")[:16]
    return good + 1, (
        f"was rewritten, or one after it up to event {one.sequence}, which {then} and now has {now}: "
        f"this is another chain from here on"
    )


def _gaps(report: Report, own: list[Line]) -> None:
    """This machine's checkpoints name each other: one that is cut out leaves a gap."""
    before: Checkpoint | None = None
    for line in own:
        one = line.checkpoint
        if one is None:
            return
        due = (before.number + 1, before.digest) if before else (1, chain.GENESIS)
        if (one.number, one.previous) != due:
            what = f"checkpoint {due[0]} is missing: number {one.number} stands in its place"
            report.wrong(None, what, line.where, "restore the file from a copy")
            return
        before = one


def _covered(
    report: Report, known: list[Checkpoint], fallen: list[Checkpoint], walk: Walk, connection: Connection, whole: bool
) -> None:
    """What no checkpoint vouches for."""
    told = max((one.sequence for one in known), default=0)
    good = max((one.sequence for one in known if one not in fallen), default=0)
    if (remembered := cursors.at(connection, checkpoints.CURSOR)) > told:
        what = f"the database was vouched for up to event {remembered}, and the checkpoints end at event {told}"
        report.wrong(told + 1, what, "the files of checkpoints", "restore them from a copy")
    if worst := max((one.sequence for one in fallen), default=0):
        said = f"{len(fallen)} checkpoints up to event {worst} are signed by a key that is not believed any more"
        if worst > good:
            report.wrong(good + 1, said, "the trust file", "look at the events, then `slipway audit checkpoint`")
        else:
            report.notes.append(f"{said}; later ones vouch for the same events")
    if not whole or walk.newest is None or walk.last <= good:
        return
    head = Head(walk.last, walk.last_hash, walk.newest.elapsed_ms, None)
    said = f"events {good + 1}–{head.sequence} have no checkpoint yet"
    if clock.read().at - clock.moment(walk.newest.at) > OPEN:
        report.wrong(good + 1, f"{said}, a day after the last", "the files of checkpoints", _LOOK)
    else:
        report.notes.append(f"{said}; `slipway audit checkpoint` vouches for them")


_LOOK = "look at them (`slipway audit show`), then `slipway audit checkpoint`"


# --- what mirrors the ledger ----------------------------------------------------------------------------------------------


def _mirrors(root: Path, report: Report) -> None:
    """MLflow's aliases and tags; what changed there, and when it was last right."""
    try:
        found = _above("slipway.registry.mirror").drift(root)
    except SlipwayError as error:
        report.wrong(
            None, f"MLflow was not compared: {error}", "MLflow", "start it again, or leave it out: --ledger-only"
        )
        return
    with contextlib.closing(Database.of(root)) as database, database.read() as connection:
        for one in found:
            last = standing.last_good(connection, one.model)
            what = (
                f"{one.model}: {one.what} is {one.found or 'not there'}, the ledger says {one.wanted or 'none'}{last}"
            )
            report.wrong(None, what, "MLflow", "`slipway audit reconcile` puts it back")
        report.mirrors = standing.mirrored(connection)


def _owed(connection: Connection, report: Report) -> None:
    """Whoever broke the glass has to explain it."""
    for one in _above("slipway.people.grants").overdue(connection):
        report.notes.append(
            f"the break-glass {one.id[:8]} of {one.model} {one.version} was never explained: `slipway follow-up`"
        )


def _above(name: str) -> Any:
    """What stands above the ledger is only looked up when everything is compared."""
    return importlib.import_module(name)
