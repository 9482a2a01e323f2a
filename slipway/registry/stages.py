"""None → Staging → Production → Archived: each step judged by the policy's rules for it, on what the store has kept.

The evidence is the one that was judged when the version was entered, byte by byte. What the world says is the observation of
then, with the tags, approvals and waivers of now; advisories are asked again, or grow old.
"""

from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime, timedelta
from pathlib import Path

from pydantic import TypeAdapter, ValidationError
from sqlalchemy import Connection

from slipway import atomic, digest
from slipway import model as models
from slipway.artifacts import Advisories, Decision, Json, Observations
from slipway.errors import Refused, SlipwayError, UsageError
from slipway.governance import backtest
from slipway.governance.judge import Evidence, heard, judge
from slipway.governance.policy import Policy
from slipway.keeping import lifecycle, liveness
from slipway.ledger import clock, events, given
from slipway.ledger.clock import Reading
from slipway.ledger.events import Actor
from slipway.observing import advisories
from slipway.people import approvals, grants, panel
from slipway.people.approvers import Approvers
from slipway.people.grants import Grant
from slipway.people.panel import Panel
from slipway.registry import keys, receipt, store, versions
from slipway.registry.opening import acting, reading
from slipway.registry.versions import Stage, Version

AFTER: dict[Stage, Stage | None] = {
    "None": "Staging",
    "Staging": "Production",
    "Production": "Archived",
    "Archived": None,
}
REASON = "reason:"  # a tag of this kind is the reason itself, and never goes into an event
FRESH = timedelta(days=1)  # advisories that are younger are not asked for again
_TAG = TypeAdapter(models.Tag)


class NotAllowed(Refused):
    """A step that the policy refuses, with the decision."""

    def __init__(self, message: str, decision: Decision):
        super().__init__(message)
        self.decision = decision


@dataclass(frozen=True)
class Case:
    """All that is judged of a version's step, but for what the ledger says of people."""

    version: Version
    to: Stage
    evidence: Evidence
    observations: Observations
    policy: Policy
    policy_digest: str
    rules: Approvers
    now: Reading

    @property
    def act(self) -> str:
        return f"{self.version.stage}→{self.to}"


def transition(
    root: Path,
    model: str,
    version: str,
    to: Stage,
    tags: list[str],
    reason: str,
    actor: Actor | None = None,
    tell: Callable[[Decision], None] = lambda _: None,
    now: Reading | None = None,
) -> Version:
    """Bring a version to its next stage, or NotAllowed with every rule that stands in the way. Already there: nothing is done."""
    _said(tags, reason)
    now = now or clock.read()
    with reading(root) as connection:
        found = _there(connection, model, version)
        if found.stage == to:
            return found
        _next(found, to)
        kept = _tags(connection, found)
    if to != "Archived" and (wrong := store.problems(root, found)):
        raise Refused(f"{found.name} does not go to {to}: {wrong[0]}")
    case = _case(root, found, to, sorted({*kept, *tags, *_reasons(to, tags, reason)}), now)
    with acting(root) as connection:
        if _there(connection, model, version).stage != found.stage:
            raise Refused(f"{found.name} left {found.stage} while this was judged; look and decide again")
        if to == "Archived":
            liveness.refuse_if_live(connection, found, lifecycle.Policy.load(root / lifecycle.FILE), "archived")
        decision, observed, used = _judged(root, connection, case)
        tell(decision)
        after = _done(root, connection, case, decision, observed, used, reason, actor) if used else None
        if after is None:
            _refused(connection, case, decision, actor)
    if after is None:
        raise NotAllowed(f"{found.name} does not go to {to}: {decision.summary}", decision)
    return after


# --- what may be asked ----------------------------------------------------------------------------------------------------


def _said(tags: list[str], reason: str) -> None:
    if not reason.strip():
        raise UsageError("say why (--reason): whoever looks into it later will read that")
    for tag in tags:
        try:
            _TAG.validate_python("x" if tag.startswith(REASON) else tag, strict=True)
        except ValidationError:
            raise UsageError(f"{tag!r:.80} is no tag; letters, digits, spaces and . _ : / - only, 64 at most") from None


def _there(connection: Connection, model: str, version: str) -> Version:
    found = versions.find(connection, model, version)
    if found is None:
        raise UsageError(f"{model} has no version {version}; `slipway models list` shows those there are")
    if found.state == "deleted":
        raise Refused(f"{found.name} was deleted: only its row is left, and that stays where it is")
    return found


def _next(version: Version, to: Stage) -> None:
    if to not in AFTER:
        raise UsageError(f"{to!r:.40} is no stage; there are {', '.join(AFTER)}")
    after = AFTER[version.stage]
    if to != after:
        way = f"from there it goes to {after} alone" if after else "only `slipway models restore` brings it back"
        raise Refused(f"{version.name} is in {version.stage} and does not go to {to}: {way}")


def _tags(connection: Connection, version: Version) -> set[str]:
    """Those that earlier steps have given it."""
    told = given.history(connection, version.model, (version.version,), ("stage_transition",))
    return {str(tag) for event in told for tag in event.payload.get("tags") or []}


def _reasons(to: Stage, tags: list[str], reason: str) -> list[str]:
    """What is archived needs a tag that gives the reason: the one that was given with it."""
    return [f"{REASON} {reason}"] if to == "Archived" and not any(t.startswith(REASON) for t in tags) else []


# --- judging --------------------------------------------------------------------------------------------------------------


def _case(root: Path, version: Version, to: Stage, tags: list[str], now: Reading) -> Case:
    place = store.folder(root, version.model, version.version) / store.RECEIPT
    policy = approvals.policy_of(root)
    try:
        decided = Decision.load(place / receipt.DECISION)
        seen = Observations.load(place / receipt.OBSERVATIONS)
        evidence = backtest.kept_evidence(place / store.EVIDENCE, decided)
    except SlipwayError as error:
        raise Refused(f"{version.name} cannot be judged again, so it goes nowhere: {error}") from None
    if (decided.evidence_digest, decided.observations_digest) != (version.evidence_digest, seen.saved_digest):
        raise Refused(f"{version.name} cannot be judged again: {place} is not the receipt of what the ledger has")
    observed = _observed(root, seen, to, now.at).model_copy(
        update={"tags": tags, "waivers": grants.standing(root, version.evidence_digest, now)}
    )
    return Case(version, to, evidence, observed, Policy.load(policy), digest.of_file(policy), Approvers.load(root), now)


def _observed(root: Path, seen: Observations, to: Stage, at: datetime) -> Observations:
    """What was observed then, with the advisories of now on the way to production."""
    gone = max(at - datetime.fromisoformat(seen.at), timedelta(0))
    known, missing = seen.advisories, dict(seen.missing)
    if known is not None:
        known = known.model_copy(update={"age_days": known.age_days + gone / timedelta(days=1)})
    if to == "Production" and (known is None or known.age_days * FRESH >= FRESH):
        known = _asked(root, at, known, missing)
    return seen.model_copy(update={"at": keys.shown(at), "advisories": known, "missing": missing})


def _asked(root: Path, at: datetime, before: Advisories | None, missing: dict[str, str]) -> Advisories | None:
    """Fresh ones; those of then where nobody answers, as old as they are by now."""
    try:
        found = advisories.observe(root, at)
    except SlipwayError as error:
        if before is None:
            missing["advisories"] = " ".join(str(error).split())
        return before
    missing.pop("advisories", None)
    return found


@dataclass(frozen=True)
class Used:
    """What a step rests on that is used up by it."""

    panel: Panel
    glass: Grant | None


def _judged(root: Path, connection: Connection, case: Case) -> tuple[Decision, Observations, Used | None]:
    """The decision, on the approvals that count in this very transaction; what it uses up, where it is a pass."""
    from slipway.people import vouching

    version = case.version
    vouching.check_chain(connection, version.model, (version.release, version.version), version.name)
    approvals.sweep(connection, case.version.model, case.now)
    about = panel.About.of(case.version, case.policy_digest)
    said = panel.examine(connection, case.rules, vouching.trust(root), about, case.act, case.now)
    observed = case.observations.model_copy(update={"approvals": said.approvals})
    decision = heard(
        judge(case.evidence, case.policy, case.policy_digest, "register", observed, case.act), said.finding
    )
    if decision.verdict == "pass":
        return decision, observed, Used(said, None)
    glass = grants.open_for(connection, root, case.version, case.now) if case.to == "Production" else None
    broken = grants.broken(connection, decision, glass, bool(said.rejections)) if glass else None
    if broken and broken.verdict == "pass":
        return broken, observed, Used(said, glass)
    return decision, observed, None


# --- writing --------------------------------------------------------------------------------------------------------------


def _done(
    root: Path,
    connection: Connection,
    case: Case,
    decision: Decision,
    observed: Observations,
    used: Used,
    reason: str,
    actor: Actor | None,
) -> Version:
    """The row, the event and the receipt of the step."""
    version = case.version
    told = _decided(case, decision) | {
        "version": version.version, "from": version.stage, "to": case.to,
        "tags": [tag for tag in observed.tags if not tag.startswith(REASON)],
        "approvals": approvals.use(connection, used.panel), "break_glass": used.glass.id if used.glass else None,
        "solo": any(voice.solo for voice in used.panel.counted),
    }  # fmt: skip
    event = events.append(connection, "stage_transition", version.model, version.version, told, actor, reason, case.now)
    versions.set_stage(connection, version.model, version.version, case.to, event.sequence)
    for name, artifact in ((receipt.DECISION, decision), (receipt.OBSERVATIONS, observed)):
        text = atomic.json_text(artifact.model_dump(mode="json")).encode()
        store.write(root, version, f"{event.sequence}-{case.to}/{name}", text)
    return version.model_copy(update={"stage": case.to})


def _refused(connection: Connection, case: Case, decision: Decision, actor: Actor | None) -> None:
    """That it was asked for and refused is on record too."""
    told = _decided(case, decision)["decision"] | {"act": case.act, "version": case.version.version}
    if case.to != "Archived" and all(grants.awaits_approval(finding) for finding in decision.against):
        told["awaits_approval"] = True  # so that nobody archives or deletes it meanwhile
    events.append(connection, "decision_made", case.version.model, case.version.version, told, actor, now=case.now)


def _decided(case: Case, decision: Decision) -> Json:
    return {
        "decision": {
            "verdict": decision.verdict,
            "against": [finding.rule for finding in decision.against],
            "waived": [finding.rule for finding in decision.findings if finding.waiver],
            "evidence_digest": decision.evidence_digest,
            "policy_digest": decision.policy_digest,
            "approvers_digest": digest.of_value(case.rules.model_dump(mode="json")),
            "digest": decision.saved_digest,
        }
    }
