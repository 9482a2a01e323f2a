"""What served at a moment: asked of the events, by index, never of what stands in a table now."""

from collections.abc import Iterable
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path

from sqlalchemy import Connection, select

from slipway.artifacts import Json
from slipway.ledger import archive, clock, events
from slipway.ledger.chain import Event
from slipway.ledger.tables import events as rows
from slipway.ledger.tables import sealed

_PROMOTED = ("model_promoted", "rolled_back")
_ANSWERS = ("approval_given", "approval_rejected", "approval_revoked", "approval_expired")
_JUDGED = ("model_registered", "decision_made", "stage_transition")


@dataclass(frozen=True)
class Answer:
    """Somebody's approval, as it counted then."""

    id: str
    by: str  # erased where the name was
    at: str
    evidence_digest: str | None
    policy_digest: str | None


@dataclass(frozen=True)
class Served:
    """What answered a model's users at a moment."""

    model: str
    version: str | None  # None: the base model, before the first promotion
    identity: str | None
    weights: Json  # version → per cent of the traffic
    approvals: list[Answer]
    policy_digest: str | None
    evidence_digest: str | None
    release: str | None
    since: str | None
    generation: int
    sequence: int | None  # the event that made it the champion
    doubt: str | None  # why the answer is not sure


def at(connection: Connection, moment: datetime, model: str, root: Path | None = None) -> Served:
    """What served then, by the order of events; `root` lets archives be read, where the table does not go back so far."""
    past = _Past(connection, clock.shown(moment), model, root)
    promoted = past.last(_PROMOTED)
    if promoted is None:
        return Served(model, None, None, {}, [], None, None, None, None, 0, None, past.doubt())
    payload = promoted.payload
    version = str(payload["version"])
    registered = past.last(("model_registered",), version)
    release = registered.payload.get("release") if registered else None
    judged = [past.last((kind,), subject) for subject in (version, release) if subject for kind in _JUDGED]
    return Served(
        model=model,
        version=version,
        identity=payload.get("identity"),
        weights=_weights(past, promoted),
        approvals=past.approvals(version, release),
        policy_digest=_digest(judged, "policy_digest"),
        evidence_digest=_digest(judged, "evidence_digest"),
        release=release,
        since=promoted.at,
        generation=int(payload.get("generation", 0)),
        sequence=promoted.sequence,
        doubt=past.doubt(),
    )


def _weights(past: "_Past", promoted: Event) -> Json:
    """The last that was said of the traffic, at the promotion or after it."""
    moved = past.last(("traffic_changed",))
    told = moved if moved and moved.sequence > promoted.sequence else promoted
    weights = told.payload.get("weights")
    return weights if isinstance(weights, dict) else {str(promoted.payload["version"]): 100}


def _digest(judged: Iterable[Event | None], name: str) -> str | None:
    """By the newest event that names it."""
    told = [(event.sequence, found) for event in judged if event and (found := _said(event.payload, name))]
    return max(told)[1] if told else None


def _said(payload: Json, name: str) -> str | None:
    """A change of stage tells the decision that allowed it; a decision that allowed nothing counts for nothing."""
    decision = payload.get("decision") or payload
    return decision.get(name) if decision.get("verdict", "pass") == "pass" else None


class _Past:
    """The events of a model up to a moment: those in the table by query, archived ones only where the table has no answer."""

    def __init__(self, connection: Connection, until: str, model: str, root: Path | None) -> None:
        self.connection, self.until, self.model, self.root = connection, until, model, root
        self._archived: list[Event] | None = None

    def last(self, kinds: tuple[str, ...], subject: str | None = None) -> Event | None:
        """The newest event of these kinds."""
        found = self._of_table(kinds, (subject,) if subject is not None else (), 1)
        if found:
            return found[0]
        wanted = [event for event in self._of_archives() if event.kind in kinds]
        wanted = [event for event in wanted if subject in (None, event.subject, event.payload.get("version"))]
        return wanted[-1] if wanted else None

    def approvals(self, version: str, release: str | None) -> list[Answer]:
        """Those that were given and neither withdrawn nor expired by then."""
        subjects = (version, release) if release else (version,)
        found = [event for event in self._of_archives() if event.kind in _ANSWERS and event.subject in subjects]
        found += reversed(self._of_table(_ANSWERS, subjects, None))
        standing: dict[str, Event] = {}
        for event in found:
            name = str(event.payload.get("id"))
            if event.kind == "approval_given" and event.payload.get("version") in (None, version):
                standing[name] = event
            else:
                standing.pop(name, None)
        expired = [name for name, event in standing.items() if str(event.payload.get("expires") or "~") < self.until]
        return [self._answer(event) for name, event in standing.items() if name not in expired]

    def doubt(self) -> str | None:
        """Whether the clock that events were written by was set back around this moment."""
        newest = self.connection.execute(
            select(rows.c.sequence).where(rows.c.at <= self.until).order_by(rows.c.sequence.desc()).limit(1)
        ).scalar()
        if newest is None:
            return None
        query = select(rows.c.sequence).where(rows.c.sequence < newest, rows.c.at > self.until)
        odd = self.connection.execute(query.order_by(rows.c.sequence.desc()).limit(1)).scalar()
        if odd is None:
            return None
        return f"the clock was set back after event {odd}: it says a later time than event {newest}, which followed it"

    def _answer(self, event: Event) -> Answer:
        who = event.actor.get("who", {})
        name = _text(self.connection, str(who.get("sealed")))
        digests = [event.payload.get(key) for key in ("evidence_digest", "policy_digest")]
        return Answer(str(event.payload.get("id")), name or "(erased)", event.at, *digests)

    def _of_table(self, kinds: tuple[str, ...], subjects: tuple[str, ...], most: int | None) -> list[Event]:
        """Newest first."""
        query = select(rows).where(rows.c.model == self.model, rows.c.kind.in_(kinds), rows.c.at <= self.until)
        if subjects:
            query = query.where(rows.c.subject.in_(subjects))
        found = self.connection.execute(query.order_by(rows.c.sequence.desc()).limit(most))
        return [events.of_row(row) for row in found]

    def _of_archives(self) -> list[Event]:
        if self._archived is None:
            root = self.root
            kept = archive.listed(self.connection) if root else []
            found = (event for one in kept if root for event in archive.read(root, one))
            self._archived = [event for event in found if event.model == self.model and event.at <= self.until]
        return self._archived


def _text(connection: Connection, name: str) -> str | None:
    return connection.execute(select(sealed.c.text).where(sealed.c.id == name)).scalar()
