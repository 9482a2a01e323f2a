"""What is done to versions that have had their day: archive, restore, delete, hold. Each act is one operation of the ledger.

An act first changes the row, in one transaction with the event that tells it and under the liveness rule, and only then the
bytes: nobody can promote what is about to go, and whoever is killed in between leaves an operation that the next act finishes.
MLflow hears of it from whoever calls (`promotion.mirror`), or at the next reconcile.
"""

import shutil
from collections.abc import Callable, Iterator
from datetime import timedelta
from pathlib import Path
from typing import TypeVar

from sqlalchemy import Connection

from slipway.artifacts import Json
from slipway.errors import Refused, SlipwayError, StageError, UsageError
from slipway.keeping import archiving, lifecycle, liveness
from slipway.keeping.archiving import Here, Outcome
from slipway.keeping.leased import leased
from slipway.keeping.lifecycle import Class, Policy, Step
from slipway.keeping.storage import Archive
from slipway.ledger import checkpoints, clock, events, given, leases, lifetimes, operations
from slipway.ledger import versions as rows
from slipway.ledger.database import Database
from slipway.ledger.events import Actor
from slipway.ledger.operations import Operation
from slipway.registry import mirror, store, versions
from slipway.registry.versions import Stage, Version

SENT, MOVED, RESTORED, DELETED = liveness.SENT, liveness.MOVED, "restore", "delete"
KINDS = (SENT, MOVED, RESTORED, DELETED)

Tell = Callable[[str], None]
T = TypeVar("T")


# --- the acts -----------------------------------------------------------------------------------------------------------


def archive(root: Path, model: str, version: str, reason: str, actor: Actor, to: Class | None = None) -> Outcome:
    """Into the stage Archived, and its bytes into the archive where there is one."""
    return _alone(root, model, actor, lambda here: _archive(here, model, version, reason, to))


def restore(root: Path, model: str, version: str, reason: str, actor: Actor) -> Outcome:
    """Back from the archive and from the stage Archived; Transient while a frozen copy is on its way."""
    return _alone(root, model, actor, lambda here: _restore(here, model, version, reason))


def delete(root: Path, model: str, version: str, reason: str, actor: Actor) -> Outcome:
    """A tombstone: the row, its digests and the reason stay; bytes go everywhere."""
    return _alone(root, model, actor, lambda here: _delete(here, model, version, reason))


def hold(root: Path, model: str, version: str, reason: str, actor: Actor) -> Outcome:
    """On legal hold: nothing is done to it until somebody takes the hold away."""
    database = Database.of(root)
    checkpoints.require(root, database)
    with database.write() as connection:
        found = _there(connection, model, version)
        if version in lifetimes.held(connection, model):
            return Outcome(found, f"{found.name} is on legal hold already")
        lifetimes.hold(connection, model, version, reason, actor)
    return Outcome(found, f"{found.name} is on legal hold; `slipway models unhold` ends it")


def unhold(root: Path, model: str, version: str, reason: str, actor: Actor) -> Outcome:
    database = Database.of(root)
    checkpoints.require(root, database)
    with database.write() as connection:
        found = _there(connection, model, version)
        if version not in lifetimes.held(connection, model):
            return Outcome(found, f"{found.name} is not on legal hold")
        lifetimes.unhold(connection, model, version, reason, actor)
    return Outcome(found, f"{found.name} is no longer on legal hold")


def due(root: Path, model: str) -> list[Step]:
    """What the policy wants done to a model's versions, now."""
    policy, now = load_policy(root), clock.read()
    with Database.of(root).read() as connection:
        facts = liveness.gather(connection, root, model, now, Archive.of(root) is not None)
    return lifecycle.plan(facts, policy)


def take(root: Path, model: str, step: Step, actor: Actor) -> Outcome:
    """Do one step that is due; what protects the version is looked at again."""
    reason = f"lifecycle policy: {step.why}"
    if step.action == "delete":
        return delete(root, model, step.version, reason, actor)
    to = step.to if step.to and step.to != "local" else None
    if step.action == "archive" or to is None:
        return archive(root, model, step.version, reason, actor, to)
    return _alone(root, model, actor, lambda here: _move(here, model, step.version, to))


def recover(root: Path, model: str, actor: Actor) -> list[str]:
    """Finish what an earlier process began; a restore waits until somebody asks for it again."""
    with Database.of(root).read() as connection:
        if not _unfinished(connection, model):
            return []
    done: list[str] = []
    _alone(root, model, actor, lambda here: None, done.append)
    return done


def load_policy(root: Path) -> Policy:
    return Policy.load(root / lifecycle.FILE)


def _alone(root: Path, model: str, actor: Actor, act: Callable[[Here], T], tell: Tell = lambda _: None) -> T:
    """Under the model's lease, once everything that was left unfinished is finished."""
    policy, database = load_policy(root), Database.of(root)
    checkpoints.require(root, database)
    with leased(database, f"lifecycle:{model}") as lease:
        here = Here(root, database, lease, actor, policy)
        for line in _recovered(here, model):
            tell(line)
        return act(here)


def _recovered(here: Here, model: str) -> Iterator[str]:
    with here.database.read() as connection:
        left = _unfinished(connection, model)
    for operation in left:
        try:
            yield FINISH[operation.kind](here, operation).said
        except SlipwayError as error:  # it stays for the next one; what is asked for now is another matter
            yield str(error)


def _unfinished(connection: Connection, model: str) -> list[Operation]:
    found = operations.unfinished(connection)
    return [one for one in found if one.model == model and one.kind in FINISH]


def _there(connection: Connection, model: str, version: str) -> Version:
    found = versions.find(connection, model, version)
    if found is None:
        raise UsageError(f"{model} has no version {version}; `slipway models list` shows those there are")
    if found.state == "deleted":
        raise Refused(f"{found.name} was deleted: only its row is left, and nothing can be done to that")
    return found


# --- archive ------------------------------------------------------------------------------------------------------------


def _archive(here: Here, model: str, version: str, reason: str, to: Class | None) -> Outcome:
    if _stage_of(here, model, version) == "Production":
        _out_of_production(here, model, version, reason)
    away = Archive.of(here.root)
    with here.database.write() as connection:
        leases.held(connection, here.lease)
        found = _there(connection, model, version)
        liveness.refuse_if_live(connection, found, here.policy, "archived")
        if found.stage != "Archived":
            _to_stage(connection, found, "Archived", here.actor, reason)
        if found.state == "cold":
            return Outcome(found, f"{found.name} is archived already")
        if away is None:
            return _archived_here(connection, found, here.actor, reason)
        operation = archiving.begin_sending(connection, here, found, away, to or here.policy.place_after(timedelta(0)))
    return archiving.send(here, operation)


def _stage_of(here: Here, model: str, version: str) -> Stage:
    with here.database.read() as connection:
        found = _there(connection, model, version)
        liveness.refuse_if_live(connection, found, here.policy, "archived")
        return found.stage


def _out_of_production(here: Here, model: str, version: str, reason: str) -> None:
    """By the rules that the gate policy has for this change of stage."""
    from slipway.registry import stages

    stages.transition(here.root, model, version, "Archived", [f"reason: {reason}"], reason, here.actor)


def _to_stage(connection: Connection, version: Version, to: Stage, actor: Actor, reason: str) -> int:
    told: Json = {"version": version.version, "from": version.stage, "to": to, "decision": None, "tags": []}
    event = events.append(connection, "stage_transition", version.model, version.version, told, actor, reason)
    versions.set_stage(connection, version.model, version.version, to, event.sequence)
    return event.sequence


def _archived_here(connection: Connection, version: Version, actor: Actor, reason: str) -> Outcome:
    """Without an archive, nothing moves."""
    if _is_told(connection, version):
        return Outcome(version, f"{version.name} is archived already; its bytes are on this disk (no `archive_url`)")
    told = {"version": version.version, "state": "present", "place": "local", "bytes": version.bytes}
    events.append(connection, "model_archived", version.model, version.version, told, actor, reason)
    said = f"{version.name} is archived; its bytes stay on this disk, for configs/env has no `archive_url`"
    return Outcome(version, said)


def _is_told(connection: Connection, version: Version) -> bool:
    """Whether an event has told it since the version came to its stage; where that lies in an archive, long ago."""
    came = lifetimes.stages(connection, version.model)[version.version]
    told = given.history(connection, version.model, (version.version,), ("model_archived",))
    return lifetimes.kind_of(connection, came) is None or any(event.sequence > came for event in told)


# --- move ---------------------------------------------------------------------------------------------------------------


def _move(here: Here, model: str, version: str, to: Class) -> Outcome:
    """Into a colder class, where it lies in the archive; there from this disk, where it does not."""
    with here.database.write() as connection:
        leases.held(connection, here.lease)
        found = _there(connection, model, version)
        liveness.refuse_if_live(connection, found, here.policy, "moved")
        if found.stage != "Archived":
            raise Refused(f"{found.name} is in {found.stage}, not Archived, so its bytes stay where they are")
        sent = archiving.sent(connection, found)
        if found.state == "cold" and sent is not None:
            request = {**sent, "to": to}
            name = f"{MOVED}:{model}:{version}:{sent['sequence']}:{to}"
            operation = operations.begin(connection, name, MOVED, model, request)
    return archiving.moved(here, operation) if found.state == "cold" else _archive(here, model, version, "", to)


# --- restore ------------------------------------------------------------------------------------------------------------


def _restore(here: Here, model: str, version: str, reason: str) -> Outcome:
    with here.database.write() as connection:
        leases.held(connection, here.lease)
        found = _there(connection, model, version)
        if found.stage != "Archived":
            return Outcome(found, f"{found.name} is in {found.stage}; there is nothing to restore")
        if found.state == "present":
            return _restored(connection, here, found, reason)
        request = archiving.sent(connection, found)
        if request is None:
            raise StageError(f"the ledger does not say where the bytes of {found.name} are; `slipway audit verify`")
        name = f"{RESTORED}:{model}:{version}:{request['sequence']}"
        operation = operations.begin(connection, name, RESTORED, model, request)
    with archiving.base_alone(here, found):
        archiving.bring(here, found, Archive(request["uri"]))
        with here.database.write() as connection:
            leases.held(connection, here.lease)
            found = _there(connection, model, version)
            versions.set_state(connection, model, version, "present")
            outcome = _restored(connection, here, found, reason)
            operations.end(connection, operation.id, {})
        _leave_archive(here, found, request["uri"])
    return outcome


def _restored(connection: Connection, here: Here, version: Version, reason: str) -> Outcome:
    """Back where it came from; from Production only as far as Staging, for what was true then is judged again."""
    told = {"version": version.version, "state": "present"}
    events.append(connection, "model_restored", version.model, version.version, told, here.actor, reason)
    to = _stage_before(connection, version)
    _to_stage(connection, version, to, here.actor, reason)
    back = version.model_copy(update={"stage": to, "state": "present"})
    return Outcome(back, f"{version.name} is back, in the stage {to}")


def _stage_before(connection: Connection, version: Version) -> Stage:
    last = lifetimes.last_of_kind(connection, version.model, version.version, "stage_transition") or {}
    return "Staging" if last.get("from") in ("Staging", "Production") else "None"


def _leave_archive(here: Here, version: Version, uri: str) -> None:
    """A version's bytes are in one place. What cannot be removed now is removed when the version is deleted."""
    try:
        archiving.remove_from(here, version, Archive(uri))
    except SlipwayError:
        return


# --- delete -------------------------------------------------------------------------------------------------------------


def _delete(here: Here, model: str, version: str, reason: str) -> Outcome:
    with here.database.write() as connection:
        leases.held(connection, here.lease)
        found = versions.find(connection, model, version)
        if found is not None and found.state == "deleted":
            return Outcome(found, f"{found.name} was deleted already")
        found = _there(connection, model, version)
        _refuse_unless_out_of_use(connection, here, found)
        sent = archiving.sent(connection, found)
        request = {"version": version, "uri": sent["uri"] if sent else None}
        operation = operations.begin(connection, f"{DELETED}:{model}:{version}", DELETED, model, request)
        told = {
            "version": version, "state": "deleted", "stage": found.stage, "identity": found.identity, "release": found.release,
            "evidence_digest": found.evidence_digest, "bytes": found.bytes,
        }  # fmt: skip
        for one in operations.unfinished(connection):
            if one.kind == RESTORED and one.model == model and one.request["version"] == version:
                operations.end(connection, one.id, {}, undone=True)
        events.append(connection, "model_deleted", model, version, told, here.actor, reason)
        versions.set_state(connection, model, version, "deleted")
    return _erase(here, operation)


def _refuse_unless_out_of_use(connection: Connection, here: Here, version: Version) -> None:
    """What stands in production leaves it by the gate policy's rules, and no delete goes around them."""
    liveness.refuse_if_live(connection, version, here.policy, "deleted")
    is_candidate = version.version == mirror.aliases(connection, version.model).get("candidate")
    if is_candidate or version.stage == "Production":
        why = "is the candidate" if is_candidate else "is in Production"
        raise Refused(f"{version.name} {why}, so it is not deleted; `slipway models archive {version.version}` first")


def _erase(here: Here, operation: Operation) -> Outcome:
    """Take the bytes of a tombstone away, wherever they are; any number of times."""
    with here.database.read() as connection:
        version = archiving.version_of(connection, operation)
    with archiving.base_alone(here, version):
        if operation.request["uri"] is not None:
            archiving.remove_from(here, version, Archive(operation.request["uri"]))
        freed = store.drop(here.root, version)
    _swept(store.folder(here.root, version.model, version.version))
    with here.database.write() as connection:
        leases.held(connection, here.lease)
        operations.end(connection, operation.id, {"freed": freed})
    said = f"{version.name} is deleted; its row, digests and reason stay in the ledger"
    return Outcome(version, said, freed)


def _swept(place: Path) -> None:
    """What a removal that was killed has left."""
    for left in place.parent.glob(f".{place.name}.*.partial"):
        shutil.rmtree(left, ignore_errors=True)


def models(root: Path) -> list[str]:
    """Every model's name that has a version here."""
    with Database.of(root).read() as connection:
        return rows.models(connection)


FINISH = {SENT: archiving.send, MOVED: archiving.moved, DELETED: _erase}
