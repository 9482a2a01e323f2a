"""A person's yes or no to one change of one version, on one evidence, under one policy; any difference voids a yes."""

import secrets
from datetime import timedelta
from pathlib import Path
from typing import Any, Literal

from sqlalchemy import Connection

from slipway import digest, records
from slipway.artifacts import Approval, Decision, Json
from slipway.errors import Refused, UsageError
from slipway.ledger import clock, events, given, sealed
from slipway.ledger.clock import Reading
from slipway.ledger.events import Actor
from slipway.people import approvers, vouching
from slipway.people.approvers import REGISTER, Approvers
from slipway.people.panel import PURPOSE, SKEW, About, Given, Panel, doubt_of_person, examine, requesters
from slipway.registry import receipt, store, versions
from slipway.registry.keys import Trust
from slipway.registry.opening import acting, reading
from slipway.registry.versions import Version

PRODUCTION = "Staging→Production"
_EVENT: dict[str, str] = {"approve": "approval_given", "reject": "approval_rejected"}

__all__ = ["SKEW", "About", "Given", "Panel", "give", "listed", "panel_of", "revoke", "standing"]


# --- giving -------------------------------------------------------------------------------------------------------------


def give(
    root: Path,
    target: str,
    answer: Literal["approve", "reject"],
    reason: str,
    act: str = PRODUCTION,
    key: Path | None = None,
    hours: float | None = None,
    actor: Actor | None = None,
    model: str | None = None,
    now: Reading | None = None,
) -> Given:
    """Say yes or no to a version's (or a release's) next step; the same person's same answer is given once."""
    if not reason.strip():
        raise UsageError(f"say why you {answer} it (--reason): whoever looks into it later will read that")
    rules, policy_digest = Approvers.load(root), policy_digest_of(root)
    who, trusted, now = vouching.speaker(root, actor, key, answer), vouching.trust(root), now or clock.read()
    lifetime = _lifetime(rules, hours)
    with reading(root) as connection:
        about = about_of(root, connection, target, act, model, policy_digest)
        version = _found(connection, about)
    if version is not None and (wrong := store.problems(root, version)):
        raise Refused(f"{about.name} cannot be approved: {wrong[0]}")
    with acting(root) as connection:
        vouching.check_chain(connection, about.model, (about.release, about.subject), about.name)
        sweep(connection, about.model, now)
        _still(connection, version)
        person = rules.person(who.name, who.own_key)
        if known := _same(connection, rules, trusted, about, act, answer, person, now):
            return known
        if answer == "approve":
            _may(connection, rules, about, act, who, person)
        return _told(connection, rules, about, act, answer, who, reason, lifetime, now)


def _lifetime(rules: Approvers, hours: float | None) -> int:
    most = rules.expiry_hours
    if hours is not None and not 0 < hours <= most:
        raise UsageError(
            f"--expires is {hours:g} h; approvals hold for more than 0 and at most {most} h ({approvers.FILE})"
        )
    return int((hours if hours is not None else most) * 3_600_000)


def about_of(root: Path, connection: Connection, target: str, act: str, model: str | None, policy_digest: str) -> About:
    """The version that is meant, or for `register` the release and what its gate judged."""
    if act not in approvers.ACTS:
        raise UsageError(f"{act!r:.60} cannot be approved; there are {', '.join(approvers.ACTS)}")
    if act != REGISTER:
        return About.of(versions.resolve(connection, target, model), policy_digest)
    release = records.find(root, target)
    gate = Decision.load(records.folder_of(root, release.id) / receipt.DECISION)
    return About(release.model, release.id, None, gate.identity, gate.evidence_digest, policy_digest)


def _found(connection: Connection, about: About) -> Version | None:
    return versions.find(connection, about.model, about.version) if about.version is not None else None


def _still(connection: Connection, version: Version | None) -> None:
    if version is None:
        return
    now = versions.find(connection, version.model, version.version)
    if now is None or now.state != "present":
        raise Refused(f"{version.name} is {now.state if now else 'gone'} by now; nothing was approved")


def _same(
    connection: Connection,
    rules: Approvers,
    trusted: Trust,
    about: About,
    act: str,
    answer: str,
    person: str,
    now: Reading,
) -> Given | None:
    """This person's same answer, where it stands already."""
    panel = examine(connection, rules, trusted, about, act, now)
    voices = panel.counted if answer == "approve" else panel.rejections
    found = next((one for one in voices if one.person == person), None)
    row = given.approval(connection, found.id) if found else None
    return Given.model_validate_json(row.about) if row is not None else None


def _may(connection: Connection, rules: Approvers, about: About, act: str, who: vouching.Speaker, person: str) -> None:
    if doubt := doubt_of_person(connection, rules, about, act, person, who.via):
        solo = "; have somebody else approve it, or set solo: true there" if "asked for" in doubt else ""
        raise Refused(
            f"{sealed.cleaned(who.name)} cannot approve {about.name} for {act}: {doubt}{solo} ({approvers.FILE})"
        )


def _told(
    connection: Connection,
    rules: Approvers,
    about: About,
    act: str,
    answer: Literal["approve", "reject"],
    who: vouching.Speaker,
    reason: str,
    lifetime: int,
    now: Reading,
) -> Given:
    """The row and its event, signed."""
    statement = {
        **about.__dict__, "id": secrets.token_hex(16), "act": act, "answer": answer,
        "by": sealed.seal(connection, who.name), "roles": rules.roles_of(rules.person(who.name, who.own_key)),
        "requester": requesters(connection, about), "reason": sealed.seal(connection, reason),
        "at": now.text, "boot": now.boot, "ticks_ms": now.ticks_ms,
        "expires": clock.shown(now.at + timedelta(milliseconds=lifetime)), "lifetime_ms": lifetime,
    }  # fmt: skip
    signed = vouching.sign(who, PURPOSE, statement)
    told = {name: signed[name] for name in ("id", "release", "version", "evidence_digest", "policy_digest", "act")}
    told |= {"expires": signed["expires"], "lifetime_ms": lifetime, "digest": vouching.digest_of(signed)}
    if rules.solo and answer == "approve":
        told["solo"] = True
    event = events.append(connection, _EVENT[answer], about.model, about.subject, told, who.actor, reason, now)
    given.add_approval(connection, signed, "valid" if answer == "approve" else "rejected", event.sequence)
    return Given.model_validate(signed)


def revoke(
    root: Path,
    target: str,
    reason: str,
    key: Path | None = None,
    actor: Actor | None = None,
    model: str | None = None,
    now: Reading | None = None,
) -> list[str]:
    """Take back an approval (anybody may, for whatever reason) or one's own rejection; the ids that ended."""
    if not reason.strip():
        raise UsageError("say why it is revoked (--reason)")
    rules, who, now = Approvers.load(root), vouching.speaker(root, actor, key, "revoke"), now or clock.read()
    ended = []
    with acting(root) as connection:
        for row in _meant(connection, target, model):
            about = given.payload_of(row.about)
            if row.state == "rejected":
                _own(connection, rules, who, about)
            told = {"id": row.id, "release": row.release, "version": about.get("version"), "act": about.get("act")}
            subject = str(about.get("version") or row.release)
            events.append(connection, "approval_revoked", row.model, subject, told, who.actor, reason, now)
            given.set_approval(connection, row.id, "revoked")
            ended.append(str(row.id))
    return ended


def _meant(connection: Connection, target: str, model: str | None) -> list[Any]:
    """One approval by its id, or every one that stands on a version."""
    if len(target) >= 8 and (row := given.approval(connection, target)) is not None:
        if row.state in ("valid", "rejected", "used"):  # a used one too: whoever acts on it can still turn back
            return [row]
        raise Refused(f"{row.id[:8]} is {row.state} already; nothing was changed")
    version = versions.resolve(connection, target, model)
    rows = [row for row in given.approvals_of(connection, version.model, version.release) if row.state == "valid"]
    if not rows:
        raise UsageError(f"no approval of {version.name} stands; `slipway approvals list` shows all there were")
    return rows


def _own(connection: Connection, rules: Approvers, who: vouching.Speaker, about: Json) -> None:
    """A no is taken back by whoever said it."""
    name = vouching.text_of(connection, about["by"])
    key = str(about["key"]) if about.get("via") != vouching.ACCOUNT else None
    if name is None or rules.person(name, key) != rules.person(who.name, who.own_key):
        raise Refused(f"{str(about['id'])[:8]} is {name or 'somebody'}'s rejection, and only theirs to take back")


# --- what counts ---------------------------------------------------------------------------------------------------------


def standing(
    connection: Connection,
    model: str,
    release: str,
    now: Reading,
    *,
    root: Path,
    version: Version | None = None,
    act: str = PRODUCTION,
) -> list[Approval]:
    """The approvals that count now for a version's change of stage; the release's own version where none is named."""
    entered = (
        [one for one in versions.listed(connection, model) if one.release == release] if version is None else [version]
    )
    return panel_of(connection, root, entered[0], act, now).approvals if entered else []


def panel_of(connection: Connection, root: Path, version: Version, act: str, now: Reading) -> Panel:
    about = About.of(version, policy_digest_of(root))
    return examine(connection, Approvers.load(root), vouching.trust(root), about, act, now)


def carrying(connection: Connection, root: Path, version: Version, now: Reading) -> list[str]:
    """What a version in Production begins to serve on, but for what brought it there: nothing, or approvals given anew.

    Refused where somebody has said no since, or has taken back an approval that brought it there and nobody gave another.
    """
    vouching.check_chain(connection, version.model, (version.release, version.version), version.name)
    panel = panel_of(connection, root, version, PRODUCTION, now)
    if panel.rejections:
        raise Refused(f"{version.name} does not serve: {panel.reason}")
    back = _taken_back(connection, version)
    if back and (panel.wanting or not panel.counted):
        raise Refused(
            f"{version.name} does not serve: approval {back[0][:8]}, which brought it to Production, was revoked; "
            f"have it approved again (`slipway approve {version.version}`), or archive it"
        )
    return use(connection, panel) if back else []


def _taken_back(connection: Connection, version: Version) -> list[str]:
    """The approvals of its last step to Production that were revoked; broken glass had none."""
    told = given.history(connection, version.model, (version.version,), ("stage_transition", "approval_revoked"))
    used: list[str] = []
    for event in told:
        if event.kind == "stage_transition" and (event.payload["from"], event.payload["to"]) == (
            "Staging",
            "Production",
        ):
            used = event.payload.get("approvals") or []
    revoked = {event.payload.get("id") for event in told if event.kind == "approval_revoked"}
    return [one for one in used if one in revoked]


# --- what becomes of them -------------------------------------------------------------------------------------------------


def sweep(connection: Connection, model: str, now: Reading) -> None:
    """Say of every approval whose time is over that it is: a clock that is set back later revives nothing."""
    for row in given.approvals_of(connection, model):
        if row.state != "valid":
            continue
        with vouching.unreadable():
            known = Given.model_validate_json(row.about)
            if vouching.is_over(connection, known.model_dump(mode="json"), row.sequence, now):
                told = {"id": row.id, "release": row.release, "version": known.version, "act": known.act}
                actor = Actor("slipway", "service")
                events.append(
                    connection, "approval_expired", model, known.version or known.release, told, actor, now=now
                )
                given.set_approval(connection, row.id, "expired")


def use(connection: Connection, panel: Panel) -> list[str]:
    """An approval is used once; the ids, for the event that tells the change."""
    for voice in panel.counted:
        given.set_approval(connection, voice.id, "used")
    return [voice.id for voice in panel.counted]


def listed(root: Path, target: str | None, model: str | None = None) -> list[Json]:
    """Every approval and rejection of a version, or of all, with what it is worth now."""
    rules, trusted, now, policy_digest = (
        Approvers.load(root),
        vouching.trust(root),
        clock.read(),
        policy_digest_of(root),
    )
    with reading(root) as connection:
        entered = {(one.model, one.release): one for one in versions.listed(connection)}
        found = [
            _shown(connection, rules, trusted, _about_row(row, entered, policy_digest), row, now)
            for row in given.approvals_of(connection, *_asked_for(root, connection, target, model))
        ]
    return sorted(found, key=lambda one: str(one["at"]))


def _asked_for(
    root: Path, connection: Connection, target: str | None, model: str | None
) -> tuple[str | None, str | None]:
    """Model and release of what a target names: a version, or a release that may have none yet."""
    if target is None:
        return model, None
    if records.starting(root, target):
        release = records.find(root, target)
        return release.model, release.id
    version = versions.resolve(connection, target, model)
    return version.model, version.release


def _about_row(row: Any, entered: dict[tuple[str, str], Version], policy_digest: str) -> About:
    """What a row is held against: the version as it is now, or the evidence it names where it let that enter."""
    said, version = given.payload_of(row.about), entered.get((row.model, row.release))
    if version is not None and said.get("act") != REGISTER:
        return About.of(version, policy_digest)
    digests = (str(said.get("identity")), str(said.get("evidence_digest")), policy_digest)
    return About(row.model, row.release, None, *digests)


def _shown(connection: Connection, rules: Approvers, trusted: Trust, about: About, row: Any, now: Reading) -> Json:
    said = given.payload_of(row.about)
    act = str(said.get("act"))
    panel = examine(connection, rules, trusted, about, act, now)
    why = dict(panel.not_counted).get(row.id)
    known = {voice.id: voice for voice in (*panel.counted, *panel.rejections)}
    by = known[row.id].by if row.id in known else _name(connection, said)
    state = "rejects" if row.state == "rejected" and row.id in known else "counts" if row.id in known else "void"
    return {
        "id": row.id, "model": row.model, "version": said.get("version"), "release": row.release, "act": act,
        "answer": said.get("answer"), "by": by, "via": said.get("via"), "at": said.get("at"),
        "expires": said.get("expires"), "state": state, "why": why,
    }  # fmt: skip


def _name(connection: Connection, said: Json) -> str | None:
    held = said.get("by")
    return vouching.text_of(connection, held) if isinstance(held, dict) and "sealed" in held else None


def policy_digest_of(root: Path) -> str:
    """The digest of the policy that judges now."""
    return digest.of_file(policy_of(root))


def policy_of(root: Path) -> Path:
    from slipway import params

    path = root / params.load_all(root / "params.yaml").gate.policy
    if not path.is_file():
        raise UsageError(f"{path} does not exist; restore it or name another in params.yaml: gate.policy")
    return path
