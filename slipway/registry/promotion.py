"""The champion's row: one version a model's name, changed under a lease by compare-and-set, together with its event.

The change is also a signed statement that binds name, version, identity and generation: whoever serves holds it against the
ledger, and an older model that was validly signed in its day is not believed for today.
"""

import contextlib
import json
from pathlib import Path

from pydantic import ValidationError
from sqlalchemy import Connection

from slipway import atomic, settings
from slipway.artifacts import Artifact, Json
from slipway.errors import Refused, SlipwayError, UsageError
from slipway.ledger import champions, clock, events, given, leases, lifetimes, past, signatures
from slipway.ledger.champions import Champion
from slipway.ledger.events import Actor
from slipway.people import approvals, vouching
from slipway.registry import keys, store, versions
from slipway.registry.opening import acting, reading
from slipway.registry.versions import Version

FOLDER, PURPOSE = "promotions", "promotion"
PROMOTED, ROLLED_BACK = "model_promoted", "rolled_back"
# What the event has of the statement, so that it can be put together from there.
_TOLD = ("version", "identity", "previous", "generation", "policy_digest", "at", "key", "signature")


class Promotion(Artifact):
    """`<generation>.json`: what serves from this generation on, signed with the project's key."""

    model: str
    version: str
    identity: str
    generation: int
    previous: str | None
    kind: str  # model_promoted | rolled_back
    at: str
    evidence_digest: str
    policy_digest: str
    via: str
    key: str
    signature: str


def promote(
    root: Path,
    model: str,
    version: str,
    expected_generation: int | None,
    reason: str,
    actor: Actor | None = None,
    kind: str = PROMOTED,
    mirrored: bool = True,
) -> Champion:
    """Make a sound version in Production the champion, where the champion is still the one that was looked at.

    A rollback may take one that was there before (`rollback` has looked), wherever it stands now, archived or restored: it is
    brought back to Production in the same transaction.
    """
    if not reason.strip():
        raise UsageError("say why (--reason): whoever looks into it later will read that")
    with reading(root) as connection:
        found, serving = versions.find(connection, model, version), champions.find(connection, model)
    if found is None:
        raise UsageError(f"{model} has no version {version}; `slipway models list` shows those there are")
    looked_at = expected_generation if expected_generation is not None else serving.generation if serving else 0
    _ready(root, found, kind)
    signer = vouching.Speaker("slipway", vouching.ACCOUNT, *keys.signing_key(root))
    with acting(root) as connection:
        changed, said = _changed(root, connection, found, looked_at, signer, reason, actor, kind)
    with contextlib.suppress(OSError):  # it serves by now, and the event says the same to whoever finds no file
        atomic.write_json(path_of(root, model, changed.generation), said)
    if mirrored:
        mirror(root, model)
    return changed


def mirror(root: Path, model: str) -> str | None:
    """Tell MLflow, which nothing waits for: the next reconcile does it where this one could not; a warning then."""
    from slipway.registry import mirror as mlflow

    try:
        mlflow.reconcile(root, model)
    except (SlipwayError, json.JSONDecodeError) as error:
        return f"MLflow does not know yet: {error}"
    return None


def _ready(root: Path, version: Version, kind: str) -> None:
    if version.state == "present" and version.stage != "Production" and kind != ROLLED_BACK:
        step = "Staging" if version.stage == "None" else "Production"
        way = f"`slipway models stage {version.version} {step}` first"
        raise Refused(f"{version.name} is in {version.stage}, and only versions in Production serve; {way}")
    if wrong := store.problems(root, version):
        raise Refused(f"{version.name} cannot serve: {wrong[0]}; nothing was changed")


def _changed(
    root: Path,
    connection: Connection,
    looked_at: Version,
    generation: int,
    signer: vouching.Speaker,
    reason: str,
    actor: Actor | None,
    kind: str,
) -> tuple[Champion, Json]:
    """The row, its event and the signed statement in it, all or nothing; what has changed meanwhile is noticed here."""
    lease = leases.acquire(connection, f"champion:{looked_at.model}")
    serving = champions.find(connection, looked_at.model)
    _unlost(looked_at, serving, generation)
    _unchanged(connection, looked_at, serving, kind)
    # A rollback asks nobody: it goes back to what people once agreed to, because what serves now is worse.
    anew = approvals.carrying(connection, root, looked_at, clock.read()) if kind == PROMOTED else []
    if looked_at.stage != "Production":
        _back_to_production(connection, looked_at, reason, actor)
    judged = looked_at.model_copy(update={"policy_digest": _judged_under(connection, looked_at)})
    said = _statement(judged, serving, generation + 1, signer, kind)
    told: Json = {name: said[name] for name in _TOLD} | {"weights": {looked_at.version: 100}}
    told |= {"approvals": anew} if anew else {}
    event = events.append(connection, kind, looked_at.model, looked_at.version, told, actor, reason)
    changed = champions.change(
        connection, looked_at.model, looked_at.version, looked_at.identity, generation, event, lease
    )
    leases.release(connection, lease)
    return changed, said


def _judged_under(connection: Connection, version: Version) -> str:
    """The policy of the decision that let it into Production; of its registration where none is on record."""
    told = given.history(connection, version.model, (version.version,), ("stage_transition",))
    decisions = [event.payload.get("decision") or {} for event in told if event.payload.get("to") == "Production"]
    digests = [str(one["policy_digest"]) for one in decisions if "policy_digest" in one]
    return digests[-1] if digests else version.policy_digest


def _unlost(version: Version, serving: Champion | None, generation: int) -> None:
    """Said before anything else is looked at: whoever lost should hear that, and to whom."""
    found = serving.generation if serving else 0
    if found != generation:
        raise Refused(
            f"{version.name} was not promoted: lost to generation {found} ({serving.version if serving else 'none'} serves), "
            f"this was decided on generation {generation}; look and decide again"
        )


def _unchanged(connection: Connection, looked_at: Version, serving: Champion | None, kind: str) -> None:
    """Between looking and writing it may have been deleted, sent to the archive or taken out of production."""
    now = versions.find(connection, looked_at.model, looked_at.version)
    if now is None or now.state != "present":
        raise Refused(f"{looked_at.name} is {now.state if now else 'gone'} by now; nothing was changed")
    if (now.stage, now.identity) != (looked_at.stage, looked_at.identity):
        raise Refused(f"{looked_at.name} is in {now.stage} by now; look and decide again")
    if serving and serving.version == now.version:
        raise Refused(f"{now.name} is the champion already (generation {serving.generation}); nothing was changed")


def _back_to_production(connection: Connection, version: Version, reason: str, actor: Actor | None) -> None:
    told: Json = {"version": version.version, "from": version.stage, "to": "Production", "tags": [], "decision": None}
    event = events.append(connection, "stage_transition", version.model, version.version, told, actor, reason)
    versions.set_stage(connection, version.model, version.version, "Production", event.sequence)


# --- the signed statement -------------------------------------------------------------------------------------------------


def path_of(root: Path, model: str, generation: int) -> Path:
    store.folder(root, model, "1.0.0")  # refuses a name that could lead elsewhere
    return settings.state_folder(root) / FOLDER / model / f"{generation}.json"


def _statement(
    version: Version, serving: Champion | None, generation: int, signer: vouching.Speaker, kind: str
) -> Json:
    said = {
        "model": version.model, "version": version.version, "identity": version.identity, "generation": generation,
        "previous": serving.version if serving else None, "kind": kind, "at": clock.read().text,
        "evidence_digest": version.evidence_digest, "policy_digest": version.policy_digest,
    }  # fmt: skip
    return vouching.sign(signer, PURPOSE, said)


def verify_promotion(root: Path, model: str, at_least: int = 0) -> Promotion:
    """The signed statement of what serves, held against the ledger and the bytes; Refused naming what differs.

    `at_least`: the newest generation that whoever asks has seen; an older one is a replay.
    """
    with reading(root) as connection:
        serving = champions.find(connection, model)
        version = versions.find(connection, model, serving.version) if serving else None
        if serving is None or version is None:
            raise UsageError(f"{model} has no champion yet; `slipway models promote` makes a version the champion")
        said = _on_disk(root, model, serving.generation) or _told(root, connection, serving, version)
    _believe(root, said, model, serving.generation)
    for name in ("version", "identity", "generation", "previous"):
        if getattr(said, name) != getattr(serving, name):
            raise Refused(
                f"the signed promotion of {model} speaks of the {name} {getattr(said, name)}, the ledger of "
                f"{getattr(serving, name)}; `slipway audit verify`, then promote again"
            )
    if said.generation < at_least:
        raise Refused(
            f"generation {said.generation} of {model} is a replay: {at_least} has been seen; restore the ledger"
        )
    if wrong := store.problems(root, version):
        raise Refused(f"{version.name} cannot serve: {wrong[0]}")
    return said


def _on_disk(root: Path, model: str, generation: int) -> Promotion | None:
    path = path_of(root, model, generation)
    try:
        return Promotion.load(path) if path.is_file() else None
    except SlipwayError as error:
        raise Refused(f"{error}") from None


def _told(root: Path, connection: Connection, serving: Champion, version: Version) -> Promotion:
    """The statement as the event tells it, where this machine never had the file."""
    with past.readable():
        event = past.one(root, connection, serving.sequence)
    if event is None or event.kind not in (PROMOTED, ROLLED_BACK):
        raise Refused(f"no event tells why {version.name} serves; `slipway audit verify`, then promote again")
    said: Json = {"model": event.model, "kind": event.kind, "via": vouching.ACCOUNT}
    said |= {"evidence_digest": version.evidence_digest, "policy_digest": version.policy_digest}
    said |= {name: event.payload[name] for name in _TOLD if name in event.payload}
    try:
        return Promotion.model_validate(said)
    except ValidationError:
        raise Refused(f"event {event.sequence} holds no signed promotion; promote again, or roll back") from None


def kind_of(root: Path, connection: Connection, serving: Champion) -> str | None:
    """Whether the champion came by a promotion or by a rollback; where its event is in an archive, its statement may say so."""
    if kind := lifetimes.kind_of(connection, serving.sequence):
        return kind
    try:
        if said := _on_disk(root, serving.model, serving.generation):
            _believe(root, said, serving.model, serving.generation)
            return said.kind
    except Refused:  # then the archive has to
        pass
    with past.readable():
        event = past.one(root, connection, serving.sequence)
    return event.kind if event is not None else None


def _believe(root: Path, said: Promotion, model: str, generation: int) -> None:
    """Signed by the project, for this very name and generation."""
    name = f"the signed promotion of {model}, generation {generation},"
    if (said.model, said.generation) != (model, generation):
        raise Refused(f"{name} speaks of {said.model}, generation {said.generation}; it belongs elsewhere")
    signed = said.model_dump(mode="json", exclude={"signature"})
    key = vouching.trust(root).keys.get(said.key)
    if key is None or not key.vouches("project") or not signatures.is_of(key.public, PURPOSE, signed, said.signature):
        raise Refused(
            f"{name} bears no signature of a key that is trusted here ({said.key[:16]}); promote again, or roll back"
        )
    if doubt := key.doubt(clock.moment(said.at).replace(microsecond=0), keys.now()):
        raise Refused(f"{name} is signed by the key {said.key[:16]}, which {doubt}; promote again")
