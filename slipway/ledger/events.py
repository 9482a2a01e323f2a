"""Append events and read them back."""

import os
import pwd
from collections import deque
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import orjson
from sqlalchemy import Connection, Row, Select, exc, func, insert, select

from slipway import settings
from slipway.artifacts import Json
from slipway.errors import StageError
from slipway.ledger import chain, clock, sealed
from slipway.ledger.chain import Event
from slipway.ledger.clock import Reading
from slipway.ledger.tables import archives, events

BATCH = 5_000
LARGEST = 1_000_000  # characters of one event's payload


@dataclass(frozen=True)
class Actor:
    """Who did it, and how we know."""

    name: str
    via: str  # os-user | prefect | key:FINGERPRINT | service

    @classmethod
    def here(cls) -> "Actor":
        """Whoever runs this process, as the operating system knows them."""
        if named := settings.variable("ACTOR"):  # a flow that acts for somebody
            return cls(named, "flow")
        try:  # by the kernel's word: the variables that getpass believes are anybody's to set
            return cls(pwd.getpwuid(os.getuid()).pw_name, "os-user")
        except KeyError:
            return cls(f"uid {os.getuid()}", "os-user")


@dataclass(frozen=True)
class Head:
    """The newest event: where the chain ends."""

    sequence: int
    hash: str
    elapsed_ms: int
    reading: Reading | None  # None before the first event


def head(connection: Connection) -> Head:
    """Where the chain ends. What is to hang on it must be whole."""
    row = connection.execute(select(events).order_by(events.c.sequence.desc()).limit(1)).first()
    if row is None:
        kept = connection.execute(select(archives).order_by(archives.c.last.desc()).limit(1)).first()
        return Head(kept.last, kept.last_hash, 0, None) if kept is not None else Head(0, chain.GENESIS, 0, None)
    try:
        deque(chain.checked_rows([row], row.sequence - 1, row.previous), maxlen=0)
        return Head(row.sequence, row.hash, row.elapsed_ms, Reading(clock.moment(row.at), row.boot, row.ticks_ms))
    except (chain.Broken, ValueError) as broken:
        raise StageError(
            f"the ledger's newest event was changed behind its back ({broken}); nothing can be written after it: "
            f"`slipway audit verify`, then restore the ledger"
        ) from None


def elapsed_ms(connection: Connection, now: Reading | None = None, last: Head | None = None) -> int:
    """Time that has credibly passed since event 1, whatever the wall clocks did."""
    now, last = now or clock.read(), last or head(connection)
    if last.reading is None:
        return last.elapsed_ms
    furthest = select(events.c.elapsed_ms, events.c.ticks_ms).where(events.c.boot == now.boot)
    row = connection.execute(furthest.order_by(events.c.ticks_ms.desc()).limit(1)).first()
    same_boot = (row.elapsed_ms, row.ticks_ms) if row is not None else None
    return clock.elapsed_ms(last.elapsed_ms, last.reading, same_boot, now)


def append(
    connection: Connection,
    kind: str,
    model: str,
    subject: str,
    payload: Mapping[str, Any],
    actor: Actor | None = None,
    reason: str | None = None,
    now: Reading | None = None,
) -> Event:
    """Add one event, in a transaction of `Database.write`; what people say goes to `reason`, never into the payload."""
    if kind not in chain.KINDS:
        raise StageError(f"{kind} is no kind of event; slipway.ledger.chain.KINDS lists them (please report it)")
    last, now, actor = head(connection), now or clock.read(), actor or Actor.here()
    who = sealed.seal(connection, actor.name)
    said: Json = {"reason": sealed.seal(connection, reason)} if reason is not None else {}
    event = Event(
        sequence=last.sequence + 1,
        at=now.text,
        elapsed_ms=elapsed_ms(connection, now, last),
        boot=now.boot,
        ticks_ms=now.ticks_ms,
        kind=kind,
        model=sealed.cleaned_name(model),
        subject=sealed.cleaned_name(subject),
        actor={"who": who, "via": sealed.cleaned_name(actor.via)},
        payload=_plain(kind, {**payload, **said}),
        previous=last.hash,
        hash="",
    )
    event = event.model_copy(update={"hash": chain.hash_of(event)})
    connection.execute(insert(events).values(_row(event)))
    return event


def _plain(kind: str, payload: Json) -> Json:
    """A payload as it will be read back; StageError for one that no JSON can hold."""
    try:
        text = chain.canonical(payload)
        found: Json = orjson.loads(text.encode())
        if chain.canonical(found) != text:  # a number that other readers would round
            raise ValueError("holds a number of more than 64 bits")
    except (TypeError, ValueError, RecursionError) as error:
        raise StageError(
            f"the payload of {kind} cannot be kept: {error}; nothing was written (please report it)"
        ) from None
    if len(text) > LARGEST:
        raise StageError(f"the payload of {kind} has {len(text):,} characters, at most {LARGEST:,} are kept")
    return found


def _row(event: Event) -> Json:
    texts = {"actor": chain.canonical(event.actor), "payload": chain.canonical(event.payload)}
    return event.model_dump(mode="json") | texts


def read(
    connection: Connection,
    after: int = 0,
    most: int | None = None,
    kind: str | None = None,
    model: str | None = None,
    subject: str | None = None,
) -> Iterator[Event]:
    """Events in their order, a batch at a time; those in an archive are not among them."""
    wanted = ((events.c.kind, kind), (events.c.model, model), (events.c.subject, subject))
    query = select(events).where(*(column == value for column, value in wanted if value is not None))
    return map(of_row, _rows(connection, query.limit(most), after))


def checked(connection: Connection, last: int = 0, last_hash: str = chain.GENESIS) -> Iterator[Event]:
    """All events after one, each held against the one before, at 100,000 a second; Broken at the first that does not follow."""
    found = chain.checked_rows(_rows(connection, select(events), last), last, last_hash)
    return (_of_values(dict(zip(chain.COLUMNS, row, strict=True))) for row in found)


def _rows(connection: Connection, query: Select[Any], after: int) -> Iterator[Row[Any]]:
    """Rows as they stand. One whose text is no text spoils its whole batch, so the rest then comes one by one."""
    query = query.order_by(events.c.sequence)
    try:
        for row in connection.execute(query.where(events.c.sequence > after).execution_options(yield_per=BATCH)):
            after = row.sequence
            yield row
    except exc.OperationalError as error:
        if "decode" not in str(error.orig):
            raise
        yield from _one_by_one(connection, query, after)


def _one_by_one(connection: Connection, query: Select[Any], after: int) -> Iterator[Row[Any]]:
    later = select(events.c.sequence).where(events.c.sequence > after).order_by(events.c.sequence)
    for sequence in connection.execute(later).scalars().all():
        try:
            yield from connection.execute(query.where(events.c.sequence == sequence)).all()
        except exc.OperationalError as error:
            raise chain.Broken(sequence, f"holds what is no text ({error.orig})") from None


def of_row(row: Any) -> Event:
    """An event as it stands; what stands there may be anything, so nothing is checked here but its form."""
    return _of_values(dict(row._mapping))


def _of_values(values: Json) -> Event:
    try:
        values["actor"], values["payload"] = orjson.loads(values["actor"]), orjson.loads(values["payload"])
    except (ValueError, TypeError):
        raise chain.Broken(values["sequence"], "holds text that is no JSON") from None
    if type(values["actor"]) is not dict or type(values["payload"]) is not dict:
        raise chain.Broken(values["sequence"], "has an actor or a payload that is no object")
    # `Event.model_construct`, without its care for defaults and aliases, which an event has none of: it is read by the million.
    event = Event.__new__(Event)
    object.__setattr__(event, "__dict__", values)
    object.__setattr__(event, "__pydantic_fields_set__", _FIELDS)
    object.__setattr__(event, "__pydantic_extra__", None)
    object.__setattr__(event, "__pydantic_private__", None)
    return event


_FIELDS = set(Event.model_fields)


def count(connection: Connection) -> int:
    return int(connection.execute(select(func.count()).select_from(events)).scalar_one())
