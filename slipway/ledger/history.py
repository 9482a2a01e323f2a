"""What served at a moment: asked of the events, by index, never of what stands in a table now."""

from collections.abc import Collection, Iterable
from dataclasses import dataclass, field
from datetime import UTC, datetime
from functools import cached_property
from pathlib import Path

from sqlalchemy import ColumnElement, Connection, select

from slipway.artifacts import Json
from slipway.errors import Refused
from slipway.ledger import clock, events, past
from slipway.ledger.chain import Event
from slipway.ledger.past import Archives
from slipway.ledger.tables import events as rows
from slipway.ledger.tables import sealed, versions

_PROMOTED = ("model_promoted", "rolled_back")
_ENDED = ("approval_rejected", "approval_revoked", "approval_expired")
_JUDGED = ("model_registered", "decision_made", "stage_transition")
_ABOUT = (*_JUDGED, "approval_given", *_ENDED, "break_glass")
_ASKED = (*_PROMOTED, *_ABOUT, "traffic_changed", "release_started")
_END = clock.shown(datetime.max.replace(tzinfo=UTC))


@dataclass(frozen=True)
class Answer:
    """Somebody's approval or break-glass, as it counted then."""

    id: str
    by: str  # erased where the name was
    at: str
    act: str | None  # the change of stage that it was given to
    evidence_digest: str | None
    policy_digest: str | None
    solo: bool  # whoever asked for it approved it too


@dataclass(frozen=True)
class Served:
    """What answered a model's users at a moment."""

    model: str
    version: str | None = None  # None: the base model, before the first promotion
    identity: str | None = None
    weights: Json = field(default_factory=dict)  # version → per cent of the traffic
    approvals: list[Answer] = field(default_factory=list)
    break_glass: Answer | None = None  # whoever brought it to production without them
    policy_digest: str | None = None
    evidence_digest: str | None = None
    release: str | None = None
    since: str | None = None
    generation: int = 0
    sequence: int | None = None  # the event that made it the champion
    doubt: str | None = None  # why the answer is not sure

    @property
    def is_split(self) -> bool:
        """Whether it shared the traffic with another."""
        return self.weights not in ({}, {self.version: 100})


def at(
    connection: Connection, moment: datetime, model: str, root: Path | None = None, now: datetime | None = None
) -> Served:
    """What served then, by the order of events; `root` lets archives be read, where the table does not go back so far."""
    with past.readable():
        asked = _Past(connection, moment, now or clock.read().at, model, root)
        moved = asked.last((*_PROMOTED, "traffic_changed"))
        promoted = asked.last(_PROMOTED) if moved and moved.kind not in _PROMOTED else moved
        weights = _weights(promoted, moved)
        if promoted is None:
            return Served(model, weights=weights, doubt=asked.doubt())
        return _served(asked, promoted, weights)


def frozen(root: Path, connection: Connection) -> str | None:
    """What the ledger has lost, where it is not whole."""
    from slipway.ledger import checkpoints

    try:
        lost = checkpoints.astray(root, connection)
    except Refused as refused:  # a line among the checkpoints that nobody signed
        return str(refused)
    if lost is None:
        return None
    return (
        f"the ledger is frozen: event {lost.sequence} stood in it at {lost.at[:19]}Z and does not now; "
        f"`slipway audit verify` says more"
    )


def is_known(connection: Connection, model: str) -> bool:
    """Whether anything ever happened to a model of this name."""
    return any(
        connection.execute(select(table.c.model).where(table.c.model == model).limit(1)).first() is not None
        for table in (rows, versions)
    )


def _served(asked: "_Past", promoted: Event, weights: Json) -> Served:
    version = str(promoted.payload["version"])
    registered = asked.last(("model_registered",), (version,))
    release = registered.payload.get("release") if registered else None
    told = asked.about((version, release) if release else (version,))
    judged = {(event.kind, event.subject): event for event in told if event.kind in _JUDGED}.values()
    return Served(
        model=promoted.model,
        version=version,
        identity=promoted.payload.get("identity"),
        weights=weights,
        approvals=[asked.answer(event) for event in _approvals(told, version, clock.shown(asked.moment))],
        break_glass=next((asked.answer(event) for event in _glass(told)), None),
        policy_digest=_digest(judged, "policy_digest"),
        evidence_digest=_digest(judged, "evidence_digest"),
        release=release,
        since=promoted.at,
        generation=int(promoted.payload.get("generation", 0)),
        sequence=promoted.sequence,
        doubt=asked.doubt(),
    )


def _weights(promoted: Event | None, moved: Event | None) -> Json:
    """The last that was said of the traffic, at the promotion or after it."""
    weights = moved.payload.get("weights") if moved else None
    return weights if isinstance(weights, dict) else {str(promoted.payload["version"]): 100} if promoted else {}


def _digest(judged: Iterable[Event], name: str) -> str | None:
    """By the newest event that names it."""
    told = [(event.sequence, found) for event in judged if (found := _said(event.payload, name))]
    return max(told)[1] if told else None


def _said(payload: Json, name: str) -> str | None:
    """A change of stage tells the decision that allowed it; a decision that allowed nothing counts for nothing."""
    decision = payload.get("decision") or payload
    return decision.get(name) if decision.get("verdict", "pass") == "pass" else None


def _approvals(told: Iterable[Event], version: str, moment: str) -> list[Event]:
    """Those that were given and not withdrawn by then. Time ends only those that no change of stage was made on."""
    standing, used = dict[str, Event](), set[str]()
    for event in told:
        name = str(event.payload.get("id"))
        if event.kind == "approval_given" and event.payload.get("version") in (None, version):
            standing[name] = event
        elif event.kind in _ENDED:
            standing.pop(name, None)
        elif event.kind == "stage_transition":
            used.update(str(one) for one in event.payload.get("approvals") or [])
    return [
        event for name, event in standing.items() if name in used or str(event.payload.get("expires") or _END) >= moment
    ]


def _glass(told: list[Event]) -> Iterable[Event]:
    """The break-glass by which it came to production last."""
    steps = (event for event in reversed(told) if event.kind == "stage_transition")
    broken = next((name for step in steps if (name := step.payload.get("break_glass"))), None)
    return (event for event in told if event.kind == "break_glass" and event.payload.get("id") == broken)


class _Past:
    """The events of a model up to a moment: those in the table by query, archived ones only where the table has no answer.

    Each is held against its hash. For a moment that has not come before `now` all of them count, whatever times they bear.
    """

    def __init__(self, connection: Connection, moment: datetime, now: datetime, model: str, root: Path | None) -> None:
        self.connection, self.moment, self.model, self.root = connection, moment, model, root
        self.now = clock.shown(now)
        self.until = clock.shown(moment) if moment < now else _END

    def last(self, kinds: Collection[str], subjects: Collection[str] = ()) -> Event | None:
        """The newest event of these kinds."""
        found = self._of_table(kinds, subjects, 1) or self._of_archives(kinds, subjects)
        return next(iter(found), None)

    def about(self, subjects: Collection[str]) -> list[Event]:
        """What was said and decided of a version and of its release, in order: a release that began here left nothing there."""
        found = self._of_table(_ABOUT, subjects, None)
        if not self._of_table(("release_started",), subjects, 1):
            found += self._of_archives(_ABOUT, subjects)
        return found[::-1]

    def answer(self, event: Event) -> Answer:
        who, said = event.actor.get("who", {}), event.payload
        query = select(sealed.c.text).where(sealed.c.id == str(who.get("sealed")))
        return Answer(
            id=str(said.get("id")),
            by=self.connection.execute(query).scalar() or "(erased)",
            at=event.at,
            act=said.get("act"),
            evidence_digest=said.get("evidence_digest"),
            policy_digest=said.get("policy_digest"),
            solo=said.get("solo") is True,
        )

    def _of_table(self, kinds: Collection[str], subjects: Collection[str], most: int | None) -> list[Event]:
        """Newest first."""
        here = (rows.c.model == self.model, rows.c.kind.in_(list(kinds)), rows.c.at <= self.until)
        query = select(rows).where(*here, rows.c.sequence <= self._newest)  # by which an index finds where to begin
        if subjects:
            query = query.where(rows.c.subject.in_(list(subjects)))
        found = self.connection.execute(query.order_by(rows.c.sequence.desc()).limit(most))
        return [past.sound(events.of_row(row)) for row in found]

    def _of_archives(self, kinds: Collection[str], subjects: Collection[str]) -> Iterable[Event]:
        found = self._archives.events(kinds, subjects or None) if self._archives else ()
        return (event for event in found if event.at <= self.until)

    @cached_property
    def _archives(self) -> Archives | None:
        return Archives(self.root, self.connection, _ASKED, self.model) if self.root else None

    @cached_property
    def _newest(self) -> int:
        """The last event of the table that says no later time; 0 where there is none."""
        return self._last_where(rows.c.at <= self.until) or 0

    # --- how sure it is -------------------------------------------------------------------------------------------------

    def doubt(self) -> str | None:
        """Why another answer might be true: a ledger that is not whole, or clocks that were wrong around this moment."""
        return (frozen(self.root, self.connection) if self.root else None) or self._set_back() or self._ahead()

    def _set_back(self) -> str | None:
        """An event that says a later time than this moment, before one that says an earlier."""
        told = list(self._archives.times()) if self._archives and past.reach(self.connection, self.until) else []
        newest = self._newest or next((n for n, at in told if at <= self.until), None)
        if newest is None:
            return None
        odd = self._last_where((rows.c.at > self.until) & (rows.c.sequence < newest))
        odd = odd or next((n for n, at in told if n < newest and at > self.until), None)
        if odd is None:
            return None
        return f"the clock was set back after event {odd}: it says a later time than event {newest}, which followed it"

    def _ahead(self) -> str | None:
        """An event that says a time to come was written by a clock that was ahead: nobody knows when."""
        odd = self._last_where(rows.c.at > self.now) if self.until != _END else None
        if odd is None:
            return None
        return (
            f"event {odd} says a time that has not come yet: a clock was ahead, and it may have been before this moment"
        )

    def _last_where(self, which: ColumnElement[bool]) -> int | None:
        query = select(rows.c.sequence).where(which).order_by(rows.c.sequence.desc()).limit(1)
        return self.connection.execute(query).scalar()
