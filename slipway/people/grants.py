"""What a person lets through on their own name, for a time: waivers of waivable rules, and break-glass. Shown, never hidden."""

import difflib
import secrets
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, date, datetime, timedelta
from pathlib import Path
from typing import Any, Literal

from sqlalchemy import Connection

from slipway import model as models
from slipway import records
from slipway.artifacts import Artifact, Decision, Finding, Json, Waiver
from slipway.errors import Refused, UsageError
from slipway.governance.judge import PEOPLE, verdict_of
from slipway.governance.policy import Policy, Rule
from slipway.ledger import clock, events, given, sealed
from slipway.ledger.chain import Event
from slipway.ledger.clock import Reading
from slipway.ledger.events import Actor
from slipway.people import approvals, approvers, vouching, waivers
from slipway.people.approvers import Approvers
from slipway.registry import receipt, store, versions
from slipway.registry.keys import Trust
from slipway.registry.opening import acting, reading
from slipway.registry.versions import Version

ALL = "all"  # in place of a release: a waiver for every one
FOR_ALL = "*"  # how the table has it
_LAST_YEAR = 2999
_TOLD_BY = {"waiver": "waiver_granted", "break_glass": "break_glass"}
_OF_APPROVALS = frozenset(["approvals", "evidence.digest", "policy.digest"])  # what a rule that asks for one reads


class Grant(Artifact):
    """Who answers for what, and until when. Names and reasons lie sealed beside the chain, their digests here."""

    id: str
    kind: Literal["waiver", "break_glass"]
    model: str
    release: str  # or * for all
    version: str | None
    evidence_digest: str | None  # a waiver holds for this evidence too, under whatever release
    rule: str | None
    owner: Json
    via: str
    reason: Json
    at: str
    boot: str
    ticks_ms: int
    expires: str
    lifetime_ms: int
    follow_up_due: str | None
    key: str
    signature: str

    @property
    def subject(self) -> str:
        return self.version or ("" if self.release == FOR_ALL else self.release)


@dataclass(frozen=True)
class Owed:
    """A break-glass that nobody has explained yet."""

    id: str
    model: str
    version: str
    due: str
    overdue: bool


# --- waivers ------------------------------------------------------------------------------------------------------------


def waive(
    root: Path,
    target: str,
    rule: str,
    reason: str,
    expires: str,
    key: Path | None = None,
    actor: Actor | None = None,
    now: Reading | None = None,
) -> Grant:
    """Answer for one waivable rule, for one release (its evidence, that is) or for `all`, up to and with a day."""
    now, until = now or clock.read(), _day(expires)
    _waivable(root, rule)
    _reasoned(reason)
    if until <= now.at:
        raise UsageError(
            f"--expires {expires} is over; name a day to come, as in {now.at + timedelta(days=30):%Y-%m-%d}"
        )
    who = vouching.speaker(root, actor, key, "waive a rule")
    _own_word(Approvers.load(root), who, "waiver")
    with reading(root) as connection:
        about = _waived(root, connection, target)
    with acting(root) as connection:
        return _granted(connection, "waiver", about | {"rule": rule}, who, reason, now, until, None)


def _day(text: str) -> datetime:
    """The moment at which a day is over."""
    try:
        day = date.fromisoformat(text)
    except ValueError:
        raise UsageError(f"--expires {text!r:.40} is no date; write one as in 2027-06-30") from None
    if day.year > _LAST_YEAR:
        raise UsageError(f"--expires {text} is too far away; name a day before {_LAST_YEAR + 1}-01-01")
    return datetime(day.year, day.month, day.day, tzinfo=UTC) + timedelta(days=1)


def _waivable(root: Path, rule: str) -> None:
    path = approvals.policy_of(root)
    known: dict[str, Rule] = {}
    policy = Policy.load(path)
    for one in (*policy.rules, *(rule for change in policy.transitions.values() for rule in change.rules)):
        known[one.id] = one
    if rule not in known:
        near = difflib.get_close_matches(rule, known, 3) or sorted(n for n in known if known[n].severity == "waivable")
        raise UsageError(f"{path} has no rule {rule!r:.80}; there are {', '.join(near[:8])}")
    if known[rule].severity != "waivable":
        raise Refused(f"{rule} is {known[rule].severity}, not waivable ({path}), and nobody can waive it")


def _own_word(rules: Approvers, who: vouching.Speaker, what: str) -> None:
    if rules.signature and who.own_key is None:
        raise Refused(
            f"a {what} must be signed with your own key here (--key FILE); {approvers.FILE} says so (`signature`)"
        )


def _reasoned(reason: str) -> None:
    if not reason.strip():
        raise UsageError("say why (--reason): whoever looks into it later will read that")


def _waived(root: Path, connection: Connection, target: str) -> Json:
    """The release that is meant, by its id or by its version, and the evidence that was judged in it."""
    if target == ALL:
        name = models.load(root).name or root.name
        return {"model": name, "release": FOR_ALL, "version": None, "evidence_digest": None}
    if target and not records.starting(root, target):
        version = versions.resolve(connection, target, None)
        return {name: getattr(version, name) for name in ("model", "release", "version", "evidence_digest")}
    found = records.find(root, target)
    gate = Decision.load(records.folder_of(root, found.id) / receipt.DECISION)
    return {"model": found.model, "release": found.id, "version": None, "evidence_digest": gate.evidence_digest}


def standing(root: Path, evidence_digest: str, now: Reading | None = None) -> list[Waiver]:
    """The waivers that hold for some evidence: those of configs/waivers.yaml, and those that people gave here."""
    now, name = now or clock.read(), models.load(root).name or root.name
    with reading(root) as connection:
        rows = given.grants_of(connection, kind="waiver")
        sound = _sounder(connection, root, now) if rows else None
        found = [_waiver(connection, sound(row), name, evidence_digest) for row in rows] if sound else []
    return waivers.load(root) + [one for one in found if one is not None]


def _waiver(connection: Connection, known: Grant | None, model: str, evidence_digest: str) -> Waiver | None:
    if known is None or known.rule is None:
        return None
    holds = known.model == model if known.release == FOR_ALL else known.evidence_digest == evidence_digest
    if not holds:
        return None
    owner, reason = (vouching.text_of(connection, held) for held in (known.owner, known.reason))
    if not owner or not reason:  # erased: nobody answers for it any more
        return None
    last = clock.moment(known.expires) - timedelta(days=1)
    return Waiver(rule=known.rule, owner=owner, reason=reason, expires=f"{last:%Y-%m-%d}")


# --- break-glass ----------------------------------------------------------------------------------------------------------


def break_glass(
    root: Path,
    target: str,
    reason: str,
    hours: float,
    key: Path | None = None,
    actor: Actor | None = None,
    model: str | None = None,
    now: Reading | None = None,
) -> Grant:
    """Let a version into production without approvals, for some hours; whoever does owes an explanation."""
    rules, now = Approvers.load(root), now or clock.read()
    _reasoned(reason)
    if not 0 < hours <= rules.break_glass.most_hours:
        most = rules.break_glass.most_hours
        raise UsageError(
            f"--expires is {hours:g} h; break-glass holds for more than 0 and at most {most} h ({approvers.FILE})"
        )
    who = vouching.speaker(root, actor, key, "break glass")
    _own_word(rules, who, "break-glass")
    with reading(root) as connection:
        version = versions.resolve(connection, target, model)
    if wrong := store.problems(root, version):
        raise Refused(f"{version.name} cannot go to production, whoever asks: {wrong[0]}")
    with acting(root) as connection:
        if late := [one for one in owed(connection, now) if one.overdue]:
            raise Refused(
                f"break-glass {late[0].id[:8]} of {late[0].model} {late[0].version} was to be explained by "
                f"{late[0].due[:16]}Z; `slipway follow-up {late[0].id[:8]} --reason …` first"
            )
        about = {name: getattr(version, name) for name in ("model", "release", "version", "evidence_digest")}
        until, due = now.at + timedelta(hours=hours), now.at + timedelta(hours=rules.break_glass.follow_up_hours)
        return _granted(connection, "break_glass", about | {"rule": None}, who, reason, now, until, due)


def follow_up(root: Path, identifier: str, reason: str, key: Path | None = None, actor: Actor | None = None) -> str:
    """Explain a break-glass, once; its whole id."""
    _reasoned(reason)
    who = vouching.speaker(root, actor, key, "follow up a break-glass")
    with acting(root) as connection:
        open_ones = [one for one in owed(connection, clock.read()) if one.id.startswith(identifier)]
        if len(open_ones) != 1 or not identifier:
            there = ", ".join(one.id[:8] for one in owed(connection, clock.read())) or "none"
            raise UsageError(f"no break-glass {identifier!r:.60} waits for its follow-up; waiting: {there}")
        one = open_ones[0]
        told = {"id": one.id, "version": one.version}
        events.append(connection, "break_glass_followed_up", one.model, one.version, told, who.actor, reason)
        given.set_grant(connection, one.id, "followed_up")
    return one.id


def owed(connection: Connection, now: Reading) -> list[Owed]:
    """Every break-glass without its follow-up, by the events alone: what the table says of it changes nothing."""
    done = {event.payload.get("id") for event in events.read(connection, kind="break_glass_followed_up")}
    found = []
    for event in events.read(connection, kind="break_glass"):
        said = event.payload
        if said.get("id") not in done and "follow_up_due" in said:
            late = True  # one whose time cannot be read is late
            with vouching.unreadable():
                late = _is_late(connection, event, clock.moment(said["follow_up_due"]), now)
            found.append(Owed(str(said.get("id")), event.model, event.subject, str(said["follow_up_due"]), late))
    return found


def _is_late(connection: Connection, event: Event, due: datetime, now: Reading) -> bool:
    """By the wall clock, or by the time that has credibly passed."""
    then = Reading(clock.moment(event.at), event.boot, event.ticks_ms)
    length = (due - then.at).total_seconds() * 1000
    return now.at >= due or given.passed_ms(connection, then, event.sequence, now) >= length


def overdue(connection: Connection, now: Reading | None = None) -> list[Owed]:
    """Those whose time to explain is over."""
    return [one for one in owed(connection, now or clock.read()) if one.overdue]


def open_for(connection: Connection, root: Path, version: Version, now: Reading) -> Grant | None:
    """A break-glass for this version whose time is not over, and that was not used."""
    told = given.history(connection, version.model, (version.version,), ("stage_transition",))
    used = {event.payload.get("break_glass") for event in told}
    sound = _sounder(connection, root, now)
    for row in given.grants_of(connection, version.model, "break_glass"):
        known = sound(row)
        same = known and (known.version, known.evidence_digest) == (version.version, version.evidence_digest)
        if known and same and known.id not in used:
            return known
    return None


def broken(connection: Connection, decision: Decision, grant: Grant, rejected: bool) -> Decision | None:
    """The decision as it stands once glass is broken; None where more stands in the way than approvals and waivable rules."""
    if rejected or not all(_breakable(finding) for finding in decision.against):
        return None
    owner, reason = (vouching.text_of(connection, held) or "(erased)" for held in (grant.owner, grant.reason))
    covered = {finding.rule for finding in decision.against}
    findings = [
        finding.model_copy(update={"waiver": _cover(finding, grant, owner, reason)})
        if finding.rule in covered
        else finding
        for finding in decision.findings
    ]
    return decision.model_copy(update={"findings": findings, "verdict": verdict_of(findings)})


def _cover(finding: Finding, grant: Grant, owner: str, reason: str) -> Waiver:
    return Waiver(
        rule=finding.rule, owner=owner, reason=f"break-glass {grant.id[:8]}: {reason}", expires=grant.expires[:10]
    )


def _breakable(finding: Finding) -> bool:
    return finding.severity == "waivable" or _asks_approval(finding)


def awaits_approval(finding: Finding) -> bool:
    """Whether approvals alone are wanting, and nobody has said no."""
    return _asks_approval(finding) and not finding.inputs.get("rejections")


def _asks_approval(finding: Finding) -> bool:
    only_approvals = "approvals" in finding.inputs and finding.inputs.keys() <= _OF_APPROVALS
    return finding.rule == PEOPLE or only_approvals


# --- what they have in common -----------------------------------------------------------------------------------------------


def _granted(
    connection: Connection,
    kind: Literal["waiver", "break_glass"],
    about: Json,
    who: vouching.Speaker,
    reason: str,
    now: Reading,
    until: datetime,
    due: datetime | None,
) -> Grant:
    """The row and its event, signed."""
    statement = about | {
        "id": secrets.token_hex(16), "kind": kind, "owner": sealed.seal(connection, who.name),
        "reason": sealed.seal(connection, reason), "at": now.text, "boot": now.boot, "ticks_ms": now.ticks_ms,
        "expires": clock.shown(until), "lifetime_ms": int((until - now.at).total_seconds() * 1000),
        "follow_up_due": clock.shown(due) if due else None,
    }  # fmt: skip
    grant = Grant.model_validate(vouching.sign(who, kind, statement))
    told = {name: getattr(grant, name) for name in ("id", "release", "version", "rule", "expires")}
    told |= {"digest": vouching.digest_of(grant.model_dump(mode="json"))}
    told |= {"follow_up_due": grant.follow_up_due} if due else {}
    event = events.append(connection, _TOLD_BY[kind], grant.model, grant.subject, told, who.actor, reason, now)
    given.add_grant(connection, kind, grant.model_dump(mode="json"), event.sequence)
    return grant


def _sounder(connection: Connection, root: Path, now: Reading) -> Callable[[Any], Grant | None]:
    """What tells a grant that counts now, by the keys and the rules of now."""
    trusted, rules = vouching.trust(root), Approvers.load(root)
    return lambda row: _sound(connection, trusted, rules, row, now)


def _sound(connection: Connection, trusted: Trust, rules: Approvers, row: Any, now: Reading) -> Grant | None:
    """A grant that is proved, open, and whose time is not over."""
    found: Grant | None = None
    with vouching.unreadable():
        known = Grant.model_validate_json(row.about)
        signed = known.model_dump(mode="json")
        event, doubt = vouching.doubt_of_row(connection, row, signed, _TOLD_BY[known.kind], known.subject)
        doubt = doubt or vouching.doubt_of_signature(trusted, known.kind, signed, now)
        owner = vouching.text_of(connection, known.owner) or ""
        doubt = doubt or vouching.doubt_of_name(trusted, rules, known.via, owner)
        most = rules.break_glass.most_hours if known.kind == "break_glass" else None
        early = now.at < clock.moment(known.at) - approvals.SKEW
        odd = row.kind != known.kind or row.state == "withdrawn" or given.payload_of(row.about) != signed
        if event is not None and not doubt and not early and not odd:
            found = None if vouching.is_over(connection, signed, event.sequence, now, most) else known
    return found
