"""Everything that was said about one act, and what of it counts now. No word is believed because it stands in a table.

An approval counts with its signature, the event that told it, and people as configs/policies/approvals.yaml knows them
now. A no needs less: its event is enough, whatever became of its row.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from datetime import timedelta
from typing import Any, Literal

from sqlalchemy import Connection

from slipway.artifacts import Approval, Artifact, Finding, Json
from slipway.governance.judge import PEOPLE
from slipway.ledger import clock, given
from slipway.ledger.chain import Event
from slipway.ledger.clock import Reading
from slipway.people import approvers, vouching
from slipway.people.approvers import Approvers
from slipway.registry.keys import Trust
from slipway.registry.versions import Version

PURPOSE = "approval"
SKEW = timedelta(minutes=5)  # by which a clock may stand before the time that an approval bears
_USES = ("stage_transition", "model_promoted")  # what uses approvals up
_KINDS = ("approval_given", "approval_rejected", "approval_revoked", "approval_expired", *_USES)
_STARTED = ("release_started", "model_registered")  # who asked for it


class Given(Artifact):
    """What somebody said. Names and reasons lie sealed beside the chain (they can be erased), their digests here."""

    id: str  # a nonce
    model: str
    release: str
    version: str | None  # None: to its entering the registry
    identity: str
    evidence_digest: str
    policy_digest: str
    act: str  # None→Staging, Staging→Production, … or register
    answer: Literal["approve", "reject"]
    by: Json
    via: str  # os-user, or key:FINGERPRINT
    roles: list[str]  # as they were then; counted are those of now
    requester: list[Json]
    reason: Json
    at: str
    boot: str
    ticks_ms: int
    expires: str
    lifetime_ms: int
    key: str
    signature: str


@dataclass(frozen=True)
class About:
    """What an approval is to."""

    model: str
    release: str
    version: str | None
    identity: str
    evidence_digest: str
    policy_digest: str

    @classmethod
    def of(cls, version: Version, policy_digest: str) -> "About":
        named = (version.model, version.release, version.version, version.identity, version.evidence_digest)
        return cls(*named, policy_digest)

    @property
    def subject(self) -> str:
        return self.version or self.release

    @property
    def name(self) -> str:
        return f"{self.model} {self.subject}"


@dataclass(frozen=True)
class Voice:
    """A yes that counts now, or a no that stands."""

    id: str
    by: str
    person: str
    at: str
    evidence_digest: str
    policy_digest: str
    why: str | None = None
    solo: bool = False  # by who asked for it


@dataclass(frozen=True)
class Panel:
    """Everything that was said about one act, and what of it counts."""

    act: str
    counted: list[Voice]
    rejections: list[Voice]
    not_counted: list[tuple[str, str]]  # an approval's id, and why it does not count
    wanting: list[str]

    @property
    def people(self) -> list[str]:
        return sorted({one.person for one in self.counted})

    @property
    def approvals(self) -> list[Approval]:
        return [
            Approval(by=one.by, at=one.at, evidence_digest=one.evidence_digest, policy_digest=one.policy_digest)
            for one in self.counted
        ]

    @property
    def finding(self) -> Finding | None:
        """Whether those who must agree do; None where nobody must, and nobody has said no."""
        if not self.wanting and not self.rejections and not self.counted:
            return None
        enough = not self.wanting and not self.rejections
        return Finding(
            rule=PEOPLE,
            verdict="pass" if enough else "refuse",
            severity="block",
            expression="approvals are enough and nobody has said no",
            inputs={"approvals": self.people, "rejections": [one.by for one in self.rejections]},
            value=float(len(self.people)),
            bound=str(approvers.FILE),
            margin=None,
            reason=self.reason,
            remedy="" if enough else self._remedy(),
            owner="slipway",
            waiver=None,
        )

    @property
    def reason(self) -> str:
        """Who agreed, who did not, or what is wanting."""
        if self.rejections:
            return "; ".join(f"{one.by} has rejected it: {one.why} ({one.id[:8]})" for one in self.rejections)
        names = ", ".join(f"{one.by} (solo: asked for it too)" if one.solo else one.by for one in self.counted)
        left = "".join(f"; approval {id[:8]} does not count: it {why}" for id, why in self.not_counted)
        return f"approved by {names or 'nobody'}" if not self.wanting else f"wanting: {', '.join(self.wanting)}{left}"

    def _remedy(self) -> str:
        if self.rejections:
            return "Settle it with whoever said no (`slipway revoke ID`), or release another candidate."
        if self.act == approvers.REGISTER:
            return "Have it approved (`slipway approve RELEASE --for register`), then `slipway run --again`."
        return f"Have it approved (`slipway approve VERSION --for {self.act.rpartition('→')[2]} --reason …`)."


# --- counting -----------------------------------------------------------------------------------------------------------


def examine(connection: Connection, rules: Approvers, trusted: Trust, about: About, act: str, now: Reading) -> Panel:
    """Every word about one act, each looked at anew: its proof, what it is bound to, its time, and who said it."""
    told = given.history(connection, about.model, (about.subject,), _KINDS)
    counted: list[Voice] = []
    not_counted: list[tuple[str, str]] = []
    for row in given.approvals_of(connection, about.model, about.release):
        if row.state == "rejected":
            continue
        with vouching.unreadable() as doubts:
            known = Given.model_validate_json(row.about)
            doubts += _doubts(connection, rules, trusted, about, act, now, row, known, told)
            if not doubts:
                counted.append(_voice(connection, rules, about, known))
        if doubts:
            not_counted.append((str(row.id), doubts[0]))
    people = [one.person for one in counted]
    rejections = list(_rejections(connection, rules, about, act, now, told))
    return Panel(act, counted, rejections, not_counted, rules.wanting(act, people))


def _doubts(
    connection: Connection,
    rules: Approvers,
    trusted: Trust,
    about: About,
    act: str,
    now: Reading,
    row: Any,
    known: Given,
    told: list[Event],
) -> Iterator[str]:
    """Why an approval does not count, the plainest reason first."""
    signed = known.model_dump(mode="json")
    kind = "approval_given" if known.answer == "approve" else "approval_rejected"
    event, doubt = vouching.doubt_of_row(connection, row, signed, kind, known.version or known.release)
    if doubt or event is None:
        yield doubt or "is told by no event"
        return
    if given.payload_of(row.about) != signed:
        yield "is not as it was given"
    if known.answer != "approve":
        yield from _ended(known.id, row.state, told)
        yield "is a rejection"
    if doubt := vouching.doubt_of_signature(trusted, PURPOSE, signed, now):
        yield doubt
    yield from _ended(known.id, row.state, told)
    yield from _bound(known, about, act)
    if vouching.is_over(connection, signed, event.sequence, now, rules.expiry_hours):
        yield f"expired at {_end(known, rules)[:19]}Z"
    if now.at < clock.moment(known.at) - SKEW:
        yield f"was given at {known.at[:19]}Z, and the clock here says {now.text[:19]}Z: set it right"
    yield from _said_by(connection, rules, trusted, about, act, known)


def _end(known: Given, rules: Approvers) -> str:
    """When its time is over, by the rules of now: they may have become stricter."""
    return min(known.expires, clock.shown(clock.moment(known.at) + timedelta(hours=rules.expiry_hours)))


def _ended(identifier: str, state: str, told: list[Event]) -> Iterator[str]:
    """By the events, whatever the table says; and by the table, whatever the events say."""
    words = {"approval_revoked": "was revoked", "approval_expired": "expired"}
    for event in told:
        if event.kind in words and event.payload.get("id") == identifier:
            yield f"{words[event.kind]} (event {event.sequence})"
        used = event.payload.get("approvals") if event.kind in _USES else None
        if isinstance(used, list) and identifier in used:
            step = (
                f"{event.payload.get('from')}→{event.payload.get('to')}" if event.kind == _USES[0] else "its promotion"
            )
            yield f"was used for {step} (event {event.sequence}), once is all"
    if state != "valid":
        yield f"is {state}"


def _bound(known: Given, about: About, act: str) -> Iterator[str]:
    """What it was given to, where that is not what is asked now."""
    if known.act != act:
        yield f"is for {known.act}, not for {act}"
    for name in ("model", "release", "version", "identity", "evidence_digest", "policy_digest"):
        then, wanted = getattr(known, name), getattr(about, name)
        if then != wanted:
            yield f"is to the {name.replace('_', ' ')} {_short(then)}, which is {_short(wanted)} now"


def _short(value: str | None) -> str:
    return "none" if value is None else value[:16] if len(value) == 64 else value


def _said_by(
    connection: Connection, rules: Approvers, trusted: Trust, about: About, act: str, known: Given
) -> Iterator[str]:
    name = vouching.text_of(connection, known.by)
    if name is None:
        yield "has lost the name of who gave it (erased, or changed)"
    elif not given.text(connection, known.reason)[0]:
        yield "bears another reason than was signed"
    elif doubt := vouching.doubt_of_name(trusted, rules, known.via, name):
        yield doubt
    elif doubt := doubt_of_person(connection, rules, about, act, rules.person(name, _own_key(known)), known.via):
        yield f"is {name}'s: {doubt}"


def _own_key(known: Given) -> str | None:
    return known.key if known.via != vouching.ACCOUNT else None


def doubt_of_person(
    connection: Connection, rules: Approvers, about: About, act: str, person: str, via: str
) -> str | None:
    """Why a person's yes does not count, whatever they sign; None when it does."""
    if rules.signature and via == vouching.ACCOUNT:
        return "approvals must be signed with the approver's own key (--key FILE)"
    if not rules.may(person, act):
        roles = ", ".join(rules.transitions[act].roles)
        return f"{person} has none of the roles that count for {act}: {roles}"
    if rules.solo:
        return None
    asked = askers(connection, rules, about)
    if asked is None:
        return "nobody knows who asked for the release, so it may be the approver"
    return f"{person} asked for the release" if person in asked else None


def requesters(connection: Connection, about: About) -> list[Json]:
    """The sealed names of everybody who asked for what is to be approved."""
    found = given.history(connection, about.model, {about.subject, about.release}, _STARTED)
    return [event.actor["who"] for event in found if isinstance(event.actor.get("who"), dict)]


def askers(connection: Connection, rules: Approvers, about: About) -> set[str] | None:
    """The people who asked; None where nobody is on record or a name is lost, for then it may be anybody."""
    names = [vouching.text_of(connection, held) for held in requesters(connection, about)]
    if not names or None in names:
        return None
    return {rules.person(name) for name in names if name is not None}


def _voice(connection: Connection, rules: Approvers, about: About, known: Given) -> Voice:
    name = str(vouching.text_of(connection, known.by))
    person = rules.person(name, _own_key(known))
    solo = person in (askers(connection, rules, about) or {person})
    return Voice(known.id, name, person, known.at[:19] + "Z", known.evidence_digest, known.policy_digest, solo=solo)


def _rejections(
    connection: Connection, rules: Approvers, about: About, act: str, now: Reading, told: list[Event]
) -> Iterator[Voice]:
    """A no stands by its event, unless it was taken back or its time is over; what a row says of it changes nothing."""
    ended = {event.payload.get("id") for event in told if event.kind == "approval_revoked"}
    for event in told:
        said = event.payload
        if event.kind != "approval_rejected" or said.get("act") != act or said.get("id") in ended:
            continue
        voice: Voice | None = None
        with vouching.unreadable() as doubts:
            voice = _rejection(connection, rules, event, now)
        if doubts:  # somebody wrote into it; a no that cannot be read is still one
            voice = Voice(str(said.get("id")), "(unreadable)", "", str(event.at)[:19], "", "", doubts[0])
        if voice is not None:
            yield voice


def _rejection(connection: Connection, rules: Approvers, event: Event, now: Reading) -> Voice | None:
    said, clocks = event.payload, {"at": event.at, "boot": event.boot, "ticks_ms": event.ticks_ms}
    if vouching.is_over(connection, clocks | said, event.sequence, now):
        return None
    by, why = (vouching.text_of(connection, held) or "(erased)" for held in (event.actor["who"], said["reason"]))
    key = event.actor["via"].removeprefix("key:") if event.actor["via"] != vouching.ACCOUNT else None
    at, digests = event.at[:19] + "Z", (said["evidence_digest"], said["policy_digest"])
    return Voice(said["id"], by, rules.person(by, key), at, *digests, why)
