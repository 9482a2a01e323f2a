"""The second judgement: evidence and observations, by the same policy and the same judge."""

from pathlib import Path

from slipway import digest, settings
from slipway.artifacts import Decision, Json, ModelCard, Signature
from slipway.documents import bom, card, facts
from slipway.errors import Refused, StageError, UsageError
from slipway.governance import evidence
from slipway.governance.evidence import Places
from slipway.governance.judge import Evidence, heard, judge
from slipway.governance.policy import Policy
from slipway.governance.receipt import recheck
from slipway.observing import observations
from slipway.people import entering, grants, waivers
from slipway.registry import entry, keys, receipt, signing
from slipway.registry.place import Place


def register(root: Path, release: str) -> Decision:
    """Observe, describe, sign and judge; the decision, also when an earlier attempt has made it."""
    place = Place.of(root, release)
    gate = Decision.load(place.path("decision"))
    if not may_follow(root, gate):
        raise Refused(f"the gate's verdict is {gate.verdict}, so there is nothing to register; see its summary")
    kept = receipt.folder_of(settings.project_folder(root), release)
    if (done := receipt.earlier(kept, gate)) is not None:
        _still_holds(place, kept, done)
        return done
    found = evidence.gather(Places.of(root, place.paths))
    now = {**found.files, place.params.gate.policy: digest.of_file(place.policy)}
    judged = {**gate.evidence, place.params.gate.policy: gate.policy_digest}
    if changed := sorted(name for name in judged if now.get(name) != judged[name]):
        name = changed[0]
        raise StageError(f"{name} is {now.get(name)}, the gate judged {judged[name]}; run again (`slipway run`)")
    candidate = _candidate(root, place)
    with receipt.growing(kept) as folder:
        decision = _judged(place, folder, gate, found, candidate.version if candidate else None)
    if candidate and decision.verdict != "pass":
        entry.abandon(root, candidate, release)
    return decision


def _still_holds(place: Place, kept: Path, done: Decision) -> None:
    """An earlier attempt's receipt counts as if it were made now: whole, signed, and what everything here leads to again."""
    receipt.check_here(place.root, kept)
    recheck(place.root, kept / receipt.DECISION, place.policy)
    if done.verdict == "pass":
        trust = keys.load(keys.folder(place.root) / keys.FILE)
        signing.verify(kept, place.path("base"), place.path("adapter"), trust, keys.now())


def _candidate(root: Path, place: Place) -> entry.Reserved | None:
    """The number it will have; None where nobody says who the model is, which the policy has rules about."""
    try:
        return entry.reserve(root, place)
    except UsageError as error:
        print(f"it gets no number: {error}", flush=True)
        return None


def may_follow(root: Path, gate: Decision) -> bool:
    """Whether a second judgement can end in a pass: the gate's did, or somebody has waived all that stands in the way."""
    if gate.verdict == "pass":
        return True
    return gate.may_be_waived and {f.rule for f in gate.against} <= {
        waiver.rule for waiver in grants.standing(root, gate.evidence_digest)
    }


def misnamed_waivers(root: Path, policy: Path) -> list[str]:
    """The waivers of rules that the policy lacks: where the gate itself refuses, nothing else would say so."""
    rules = Policy.load(policy)
    known = {rule.id for rule in rules.rules} | {r.id for step in rules.transitions.values() for r in step.rules}
    return [
        f"the waiver of {waiver.rule} by {waiver.owner} did nothing: the policy has no such rule; correct {waivers.FILE}"
        for waiver in waivers.load(root)
        if waiver.rule not in known
    ]


def _judged(place: Place, folder: Path, gate: Decision, found: Evidence, version: str | None) -> Decision:
    seen = observations.gather(
        place,
        keys.now(),
        found.digest,
        describe=lambda about: _describe(place, folder, about),
        sign=lambda about: _sign(place, folder, about, gate),
        version=version,
    )
    seen.save(folder / receipt.OBSERVATIONS)
    said = entering.said_of(place.root, str(seen.model.get("name") or place.root.name), place.release, gate)
    decision = judge(found, Policy.load(place.policy), digest.of_file(place.policy), "register", seen)
    decision = heard(decision, said.finding)
    decision.save(folder / receipt.DECISION)
    if decision.verdict != "pass":
        (folder / signing.BUNDLE).unlink(missing_ok=True)
    receipt.seal(place, folder, decision, _keyless(place))
    return decision


def _describe(place: Place, folder: Path, about: Json) -> ModelCard:
    found = facts.load(place, about)
    bom.write(folder, found)
    return card.write(folder, found)


def _sign(place: Place, folder: Path, stated: Json, gate: Decision) -> Signature:
    about = signing.About(
        model=str(stated.get("name") or place.root.name),
        version=stated.get("version"),
        release=place.release,
        evidence_digest=gate.evidence_digest,
        policy_digest=gate.policy_digest,
    )
    return signing.sign(place.root, folder, about, place.path("base"), place.path("adapter"), _keyless(place))


def _keyless(place: Place) -> bool:
    return settings.load(place.root).signing == "keyless"
