"""How long events stay in the table: `keep_days` of configs/policies/audit.yaml. Older ones move to an archive, whole and checked.

An event is old when the wall clock says so and the time that has credibly passed (clock.py) says so too. So a clock that is
set ahead makes nothing old, and one that is set back only keeps things longer. Events move from the start of the chain on, up to
the first that is young or on legal hold.
"""

import contextlib
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from typing import Annotated

from pydantic import AwareDatetime, BaseModel, ConfigDict, Field, ValidationError
from sqlalchemy import Connection, delete, insert, select

from slipway import digest, strict
from slipway.errors import Refused, StageError, UsageError
from slipway.ledger import archive, chain, checkpoints, clock, events, lifetimes, past, sealed
from slipway.ledger.archive import Archive
from slipway.ledger.chain import Event
from slipway.ledger.clock import Reading
from slipway.ledger.database import Database
from slipway.ledger.events import Actor
from slipway.ledger.tables import archives
from slipway.ledger.tables import events as rows
from slipway.ledger.tables import sealed as texts

FILE = Path("configs") / "policies" / "audit.yaml"
MOST = 50_000  # events that one archive holds
_DAY_MS = 24 * 3600 * 1000


class Hold(BaseModel):
    """Events that no retention may touch: of one model, or of all."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    model: str | None = None
    reason: Annotated[str, Field(min_length=1)]
    since: AwareDatetime | None = None  # events before it may go


class Policy(BaseModel):
    """configs/policies/audit.yaml."""

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True)

    keep_days: Annotated[int, Field(ge=1)]
    holds: list[Hold] = []

    @classmethod
    def load(cls, path: Path) -> "Policy":
        try:
            return cls.model_validate(strict.read_yaml(path))
        except ValidationError as error:
            first = error.errors()[0]
            where = f"{path}:{strict.line_of(path, first['loc'])}"
            raise UsageError(f"{where}: {'.'.join(map(str, first['loc']))}: {first['msg']}; correct it") from None


@dataclass(frozen=True)
class Plan:
    """What would move, and what stands in the way of more."""

    events: list[Event]
    stopped_by: str | None

    @property
    def first(self) -> int:
        return self.events[0].sequence

    @property
    def last(self) -> int:
        return self.events[-1].sequence

    @property
    def name(self) -> str:
        return f"events-{self.first:012d}-{self.last:012d}-{self.events[-1].hash[:12]}.jsonl.gz"


def plan(connection: Connection, policy: Policy, now: Reading | None = None) -> Plan:
    """The old events at the start of the chain, as far as nothing is held."""
    try:
        return _plan(connection, policy, now or clock.read())
    except (chain.Broken, ValueError, StageError) as error:  # somebody wrote into the table by hand
        raise Refused(f"nothing can be moved: {error}; `slipway audit verify` says more") from None


def _plan(connection: Connection, policy: Policy, now: Reading) -> Plan:
    head = events.head(connection)
    elapsed = events.elapsed_ms(connection, now, head)
    held = lifetimes.all_held(connection)
    explained = {event.payload.get("id") for event in events.read(connection, kind="break_glass_followed_up")}
    due: list[Event] = []
    for event in events.read(connection, most=MOST):
        if _is_young(event, policy.keep_days, elapsed, now) or event.sequence == head.sequence:
            return Plan(due, None)
        if why := _held_by(event, policy, held, explained):
            return Plan(due, f"event {event.sequence} ({event.at[:10]}) is on hold: {why}")
        due.append(event)
    return Plan(due, None)


def _is_young(event: Event, days: int, elapsed_ms: int, now: Reading) -> bool:
    return now.at - clock.moment(event.at) < timedelta(days=days) or elapsed_ms - event.elapsed_ms < days * _DAY_MS


def _held_by(event: Event, policy: Policy, held: set[tuple[str, str]], explained: set[str | None]) -> str | None:
    if (event.model, event.subject) in held or (event.model, event.payload.get("version")) in held:
        return f"{event.model} {event.payload.get('version', event.subject)} (`slipway models hold`)"
    if event.kind == "break_glass" and "follow_up_due" in event.payload and event.payload.get("id") not in explained:
        return f"a break-glass that nobody has explained (`slipway follow-up {str(event.payload.get('id'))[:8]}`)"
    for hold in policy.holds:
        is_in = hold.since is None or clock.moment(event.at) >= hold.since
        if hold.model in (None, event.model) and is_in:
            return f"{hold.reason} ({FILE})"
    return None


def retain(root: Path, actor: Actor | None = None, now: Reading | None = None) -> Archive | None:
    """Move what is old to the archive; None where nothing is. Nothing leaves the table before its copy was read back."""
    with contextlib.closing(Database.of(root)) as database:
        return _retain(root, database, Policy.load(root / FILE), actor, now)


def _retain(root: Path, database: Database, policy: Policy, actor: Actor | None, now: Reading | None) -> Archive | None:
    checkpoints.require(root, database)
    with database.read() as connection:
        due = plan(connection, policy, now)
        _must_follow(connection, due)
    if not due.events:
        return None
    kept = _kept(root, due)
    with database.write() as connection:
        again = plan(connection, policy, now)
        if [event.hash for event in again.events[: len(due.events)]] != [event.hash for event in due.events]:
            raise Refused("what is held or kept changed meanwhile; nothing was moved, look at `--dry-run` again")
        payload = {"first": kept.first, "last": kept.last, "last_hash": kept.last_hash, "uri": kept.uri}
        payload |= {"sha256": kept.sha256, "events": len(due.events)}
        with past.readable():
            payload["latest"] = max(past.latest(connection), *(event.at for event in due.events))
        events.append(connection, "events_archived", "", "", payload, actor, now=now)
        connection.execute(insert(archives).values(**vars(kept)))
        connection.execute(delete(rows).where(rows.c.sequence <= kept.last))
    checkpoints.write(root, database)
    return kept


def _must_follow(connection: Connection, due: Plan) -> None:
    """A chain that is broken stays where it is, for whoever looks into it."""
    before = archive.listed(connection)
    last, last_hash = (before[-1].last, before[-1].last_hash) if before else (0, chain.GENESIS)
    try:
        for _ in chain.checked(due.events, last, last_hash):
            pass
    except chain.Broken as broken:
        raise Refused(f"nothing was moved: {broken}; `slipway audit verify` says more") from None


def _kept(root: Path, due: Plan) -> Archive:
    """Put the events into the archive, and read back what lies there."""
    data, uri = archive.packed(due.events), archive.address(root, due.name)
    archive.place(root).put_new(due.name, data)
    if archive.fetched(root, uri) != data:
        raise StageError(f"{uri} does not hold what was just written there; nothing was moved, look at the archive")
    return Archive(due.first, due.last, due.events[-1].hash, uri, digest.of_bytes(data))


# --- what people are called and said ----------------------------------------------------------------------------------


@dataclass(frozen=True)
class Erased:
    """Which sealed texts are gone, and which others still hold the same words."""

    ids: list[str]
    also_in: list[str]


def erase(root: Path, text: str, reason: str, within: bool = False, actor: Actor | None = None) -> Erased:
    """Forget a text for good, also the texts that hold it (`within`); the chain and its digests stay."""
    wanted = sealed.cleaned(text)
    if not wanted.strip() or not reason.strip():
        raise UsageError("name the text to erase, and say why (--reason)")
    actor = actor or Actor.here()
    for what, said in (("the reason", reason), ("your own name", actor.name)):
        if wanted in sealed.cleaned(said):
            raise UsageError(f"{what} holds the text that is to be erased, and is itself written; give another")
    with contextlib.closing(Database.of(root)) as database:
        return _erase(root, database, wanted, reason, within, actor)


def _erase(root: Path, database: Database, wanted: str, reason: str, within: bool, actor: Actor) -> Erased:
    with database.write() as connection:
        if database.is_sqlite:
            connection.exec_driver_sql("PRAGMA secure_delete=ON")  # its bytes in the file too
        holding = _holding(connection, wanted)
        ids = [name for full in (holding.values() if within else [wanted]) for name in sealed.erase(connection, full)]
        if not ids and not holding:
            raise UsageError("no event has this text; `slipway audit show` has them as they were written")
        if ids:
            events.append(connection, "text_erased", "", "", {"ids": sorted(ids)}, actor, reason)
    if ids:
        _scrub(database)
        checkpoints.write(root, database)
    return Erased(sorted(ids), sorted(holding.keys() - set(ids)))


def _holding(connection: Connection, wanted: str) -> dict[str, str]:
    """Every sealed text that has these words in it."""
    query = select(texts.c.id, texts.c.text).where(texts.c.text.contains(wanted, autoescape=True))
    return {row.id: row.text for row in connection.execute(query) if wanted in row.text}


def _scrub(database: Database) -> None:
    """Also from the write-ahead log, which keeps old pages until it is emptied."""
    if database.is_sqlite:
        with database.engine.connect() as connection:
            connection.exec_driver_sql("PRAGMA wal_checkpoint(TRUNCATE)")
