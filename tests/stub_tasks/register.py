"""Register (stub): pass, unless a flag says otherwise; what passed is entered as the real act enters it.

MLflow is told only where a file `mirrored` asks for it: starting it takes longer than the rest of a stub release.
"""

from pathlib import Path

from slipway import digest, git, identity, model, settings
from slipway.artifacts import Decision, Json, Manifest, Observations
from slipway.errors import Refused
from slipway.ledger import clock, operations
from slipway.ledger.database import Database
from slipway.people import waivers
from slipway.registry import entry, keys, mirror, receipt, signing, store, versions
from slipway.registry.numbering import Made
from slipway.registry.place import Place
from slipway.registry.versions import Version
from tasks import _faults
from tasks._stage import Metrics, act

# Where a test may have this act killed, in their order.
POINTS = (
    (receipt, "growing", "before-receipt"),
    (store, "keep", "before-store"),
    (store, "keep", "after-store"),
    (versions, "insert", "after-row"),
    (entry, "_committed", "after-commit"),
    (mirror, "reconcile", "after-mirror"),
)


@act()
def register(root: Path, release: str) -> Metrics:
    for owner, name, point in POINTS:
        _faults.die_at(owner, name, point)
    place = Place.of(root, release)
    gate = Decision.load(place.path("decision"))
    folder = receipt.folder_of(settings.project_folder(root), release)
    candidate = _reserved(root, place)
    if receipt.earlier(folder, gate) is None:
        with receipt.growing(folder) as partial:
            _write(place, partial, gate, candidate.version)
    decision = Decision.load(folder / receipt.DECISION)
    print(decision.summary, flush=True)
    if decision.verdict == "pass":
        print(f"registered as {_entered(place, folder, decision).name}", flush=True)
    else:
        entry.abandon(root, candidate, release)
    return {"passed": float(decision.verdict == "pass")}


def _reserved(root: Path, place: Place) -> entry.Reserved:
    parts = identity.parts(place.path("base"), place.path("adapter"))
    prepared = Manifest.load(place.path("prepared") / digest.MANIFEST).digest
    made = Made(parts, prepared, place.params.finetune.model_dump(mode="json"))
    stated = model.load(root)
    with Database.of(root).write() as connection:
        return entry.reserved(connection, stated, str(stated.name), digest.of_value(parts), made, place.release)


def _write(place: Place, folder: Path, gate: Decision, version: str) -> None:
    root = place.root
    verdict = "pass"
    try:
        _faults.act("register", folder / "README.md")
    except Refused:
        verdict = "refuse"
    about = signing.About(
        model=str(model.load(root).name), version=version, release=place.release,
        evidence_digest=gate.evidence_digest, policy_digest=gate.policy_digest,
    )  # fmt: skip
    seen = Observations(
        release=place.release, at=keys.shown(keys.now()), evidence_digest=gate.evidence_digest, model={"name": "stub"},
        model_digest=receipt.digest_of(root / model.FILE), commit=None, lock=None, servability=None, holdout=None,
        advisories=None, licences=None, card=None, approvals=[], waivers=waivers.load(root), tags=[], missing={},
        signature=signing.sign(root, folder, about, place.path("base"), place.path("adapter")),
    )  # fmt: skip
    seen.save(folder / receipt.OBSERVATIONS)
    findings = [finding.model_copy(update={"verdict": verdict}) for finding in gate.findings]
    decision = gate.model_copy(update={"act": "register", "verdict": verdict, "findings": findings})
    decision.save(folder / receipt.DECISION)


def _entered(place: Place, folder: Path, decision: Decision) -> Version:
    root = place.root
    name = str(model.load(root).name)
    with store.alone(root, name):
        candidate = _reserved(root, place)
        version = candidate.known
        if version is None:
            adapter, base = place.path("adapter"), place.path("base")
            about = _described(place, folder, decision, candidate)
            version = entry.entered(root, about, adapter, base, folder, {}, decision)
    if (settings.project_folder(root) / "mirrored").exists():
        entry.finished(root, version)
    else:
        operation = mirror.operation_of(version.model, version.version)
        with Database.of(root).write() as connection:
            operations.end(connection, operation, {})
    return version


def _described(place: Place, folder: Path, decision: Decision, candidate: entry.Reserved) -> Version:
    base, adapter = place.path("base"), place.path("adapter")
    files = store.described(store.contents(adapter, folder, {}))
    with Database.of(place.root).read() as connection:
        begun = operations.find(connection, candidate.operation)
        last: Json = begun.request if begun else {}
    return versions.Version(
        model=candidate.model, version=candidate.version, serial=int(last["serial"]), release=place.release,
        at=clock.read().text, identity=candidate.identity, parts=identity.parts(base, adapter), mlflow_version=None,
        parent=None, commit=git.commit(place.root), tag=place.tag if git.kept(place.root, place.tag) else None,
        evidence_digest=decision.evidence_digest, policy_digest=decision.policy_digest,
        data_digest=Manifest.load(place.path("prepared") / digest.MANIFEST).digest, data_version=None,
        base="stub", base_digest=store.base_digest(base), base_source="tiny", metrics={"tuned.exact_match": 1.0},
        params=place.params.model_dump(mode="json", by_alias=True), metadata={"name": candidate.model}, files=files,
        sources=[], bytes=sum(file.bytes for file in files), seconds=entry.seconds_of(place.root, place.release),
        cost=None, report=None,
    )  # fmt: skip
