"""Enter a candidate into the registry: the same candidate is one version, however often and from wherever it is brought.

reserve     the number, under the operation `register:<model>:<identity>`; the statement that is signed then bears it
enter       bytes to the store → one transaction: row, events, operation → git tag → MLflow
recover     what a killed process left begun is finished where its bytes are whole, else undone and its number free again
"""

import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from sqlalchemy import Connection

from slipway import digest, git, identity, model, settings, workspace
from slipway.artifacts import BasePin, ChampionPin, Decision, Json, Manifest, Observations
from slipway.errors import Refused, SlipwayError, StageError, Transient, UsageError
from slipway.governance import evidence, observed
from slipway.governance.evidence import Places
from slipway.ledger import chain, checkpoints, clock, events, operations
from slipway.ledger import versions as rows
from slipway.ledger.database import Database
from slipway.ledger.operations import Operation
from slipway.registry import learned, mirror, numbering, receipt, signing, store, versions
from slipway.registry.numbering import Known, Made
from slipway.registry.place import Place
from slipway.registry.versions import File, Version

KIND = "register"
# Of everything that was measured, what a version is listed, compared and sorted by.
_HEADLINE = ("tuned.", "delta.champion.", "benchmarks.tuned.", "safety.tuned.", "scan.bytes", "size.", "servability.",
             "training.train_loss", "rows", "slices.")  # fmt: skip
_ABANDONED_MS = clock.MOST_MS  # how long another machine's release may take before its reservation is given up


@dataclass(frozen=True)
class Reserved:
    """The number that a candidate has, or will have."""

    model: str
    identity: str
    version: str
    known: Version | None  # it is registered already

    @property
    def operation(self) -> str:
        return f"{KIND}:{self.model}:{self.identity}"


# --- a number ---------------------------------------------------------------------------------------------------------


def reserve(root: Path, place: Place) -> Reserved:
    """The candidate's number, the same one each time it is asked for."""
    stated = model.load(root)
    if stated.name is None:
        raise UsageError(f"{model.FILE} has no name, and a version needs one; write `name:` there")
    store.folder(root, stated.name, "0")  # a name that is one of the store's own is refused here
    parts = identity.parts(place.path("base"), place.path("adapter"))
    who = digest.of_value(parts)
    prepared = Manifest.load(place.path("prepared") / digest.MANIFEST)
    made = Made(parts, prepared.digest, place.params.finetune.model_dump(mode="json"))
    database = Database.of(root)
    checkpoints.require(root, database)
    with database.write() as connection:
        return reserved(connection, stated, stated.name, who, made, place.release)


def reserved(connection: Connection, stated: model.Model, name: str, who: str, made: Made, release: str) -> Reserved:
    if known := versions.of_identity(connection, name, who):
        _not_deleted(known)
        return Reserved(name, who, known.version, known)
    fresh = Reserved(name, who, "", None)
    begun = operations.find(connection, fresh.operation)
    if begun is None or begun.state != "begun":
        begun = _begun(connection, stated, fresh, made, release)
    return Reserved(name, who, str(begun.request["version"]), None)


def _not_deleted(known: Version) -> None:
    if known.state == "deleted":
        raise Refused(
            f"this candidate was {known.name} and that version was deleted; what was deleted does not come back by "
            f"itself: change something (data, recipe, seed) and train it again"
        )


def _begun(connection: Connection, stated: model.Model, fresh: Reserved, made: Made, release: str) -> Operation:
    """Begin the operation under the number that comes next."""
    waiting = [op.request for op in operations.unfinished(connection) if op.kind == KIND and op.model == fresh.model]
    taken = rows.numbers(connection, fresh.model).keys() | {str(request["version"]) for request in waiting}
    serial = 1 + max([rows.last_serial(connection, fresh.model), *(int(request["serial"]) for request in waiting)])
    now = clock.read()
    known = Known(taken, serial, _made_of(rows.newest(connection, fresh.model, versions.STATES)))
    version = numbering.number(stated.numbering, made, known, stated.version, now.at)
    request = {"version": version, "serial": serial, "release": release, "boot": now.boot, "at": now.text}
    return operations.begin(connection, fresh.operation, KIND, fresh.model, request)


def _made_of(newest: Json | None) -> Made | None:
    if newest is None:
        return None
    return Made(newest.get("parts") or {}, newest["data_digest"], newest["params"].get("finetune") or {})


def abandon(root: Path, candidate: Reserved, release: str) -> None:
    """Give a number back: the second judgement said no."""
    if candidate.known is not None:
        return
    with Database.of(root).write() as connection:
        known = operations.find(connection, candidate.operation)
        if known and known.state == "begun" and known.request["release"] == release:
            operations.end(connection, candidate.operation, {"because": "refused"}, undone=True)


# --- entering ---------------------------------------------------------------------------------------------------------


def enter(root: Path, place: Place, decision: Decision) -> Version:
    """The version that this candidate is from now on, or already was."""
    folder = receipt.folder_of(settings.project_folder(root), place.release)
    candidate = reserve(root, place)
    adapter, base = place.path("adapter"), place.path("base")
    with store.alone(root, candidate.model):
        candidate = reserve(root, place)  # another process may have entered it while this one waited
        version = candidate.known
        if version is None:
            about = described(root, place, folder, decision, candidate)
            learned.keep(root, about.data_digest, place.path("prepared"))
            version = entered(root, about, adapter, base, folder, _evidence(place, decision), decision)
        else:
            _decided_again(root, version, decision, place.release)
    finished(root, version)
    return version


def entered(
    root: Path, version: Version, adapter: Path, base: Path, folder: Path, judged: dict[str, Path], decision: Decision
) -> Version:
    """Bytes first, then the ledger: a row is never without its very bytes, as signed. `store.alone` is held."""
    store.keep(root, version, adapter, base, folder, judged)
    if problems := store.problems(root, version):
        store.discard(root, version)
        raise StageError(
            f"{version.name} is not what was judged and signed: {problems[0]}; run again (`slipway run --again`)"
        )
    return _committed(root, version, decision)


def _committed(root: Path, version: Version, decision: Decision) -> Version:
    """Row, events and operation in one transaction; the row that is there where another process was first."""
    with Database.of(root).write() as connection:
        if known := versions.of_identity(connection, version.model, version.identity):
            return known
        events.append(connection, "decision_made", version.model, version.release, of_decision(decision))
        event = events.append(connection, "model_registered", version.model, version.version, _told(version))
        versions.insert(connection, version, event.sequence)
        operation = f"{KIND}:{version.model}:{version.identity}"
        request = {"version": version.version, "serial": version.serial, "release": version.release}
        if operations.find(connection, operation) is None:  # entered by hand, without a reservation
            operations.begin(connection, operation, KIND, version.model, request)
        operations.end(connection, operation, request)
        operations.begin(
            connection, mirror.operation_of(version.model, version.version), mirror.KIND, version.model, {}
        )
    return version


def _decided_again(root: Path, version: Version, decision: Decision, release: str) -> None:
    """A later release of the same candidate: judged once more, entered once."""
    with Database.of(root).write() as connection:
        told = events.read(connection, kind="decision_made", model=version.model, subject=release)
        if not any(event.payload["act"] == "register" for event in told):
            events.append(connection, "decision_made", version.model, release, of_decision(decision))


def of_decision(decision: Decision) -> Json:
    """What the ledger keeps of a verdict."""
    return {
        "act": decision.act,
        "verdict": decision.verdict,
        "identity": decision.identity,
        "evidence_digest": decision.evidence_digest,
        "policy_digest": decision.policy_digest,
        "against": [finding.rule for finding in decision.against],
    }


def _told(version: Version) -> Json:
    names = ("version", "serial", "identity", "release", "evidence_digest", "policy_digest", "mlflow_version")
    more = ("data_digest", "base_digest", "parent", "commit")
    about = digest.of_bytes(chain.canonical(version.model_dump(mode="json")).encode())  # of the row, for an audit
    return {name: getattr(version, name) for name in (*names, *more)} | {"about_digest": about}


def finished(root: Path, version: Version) -> None:
    """What follows an entry and may fail without undoing it; each is made up for by the next start."""
    for what, do in (
        ("the ledger's checkpoint", lambda: checkpoints.write(root)),
        ("the git tag", lambda: _labelled(root, version)),
        ("MLflow", lambda: mirror.reconcile(root, version.model)),
    ):
        try:
            do()
        except (SlipwayError, OSError) as error:
            print(f"registered, but {what} did not follow: {error}", flush=True)


def _labelled(root: Path, version: Version) -> None:
    """One way, from the ledger to git: NAME@v1.2.0 on what the release was made from."""
    if version.tag and git.is_repository(root):
        told = f"{version.name}\n\nRelease {version.release}\nIdentity {version.identity}"
        git.label(root, f"{version.model}@v{version.version}", version.tag, told)


# --- describing -------------------------------------------------------------------------------------------------------


def described(root: Path, place: Place, folder: Path, decision: Decision, candidate: Reserved) -> Version:
    """Everything that is known of a candidate that passed, as its version.json will say it."""
    seen = Observations.load(folder / receipt.OBSERVATIONS)
    statement = signing.Statement.load(folder / signing.Statement.FILE)
    if (statement.identity, statement.version) != (candidate.identity, candidate.version):
        raise Transient(
            f"the statement speaks of {statement.version}, and the number is {candidate.version} by now "
            f"(another candidate came first); register it again (`slipway run --again`)"
        )
    adapter, base = place.path("adapter"), place.path("base")
    files = store.described(store.contents(adapter, folder, _evidence(place, decision)))
    raw = Manifest.load(place.path("raw") / digest.MANIFEST)
    pinned, champion = BasePin.load(place.path("pinned_base")), ChampionPin.load(place.path("champion"))
    seconds = seconds_of(root, place.release)
    return Version(
        model=candidate.model,
        version=candidate.version,
        serial=_serial(root, candidate),
        release=place.release,
        at=clock.read().text,
        identity=candidate.identity,
        parts=identity.parts(base, adapter),
        mlflow_version=None,
        parent=champion.version if champion.kind == "version" else None,
        commit=seen.commit.id if seen.commit else None,
        tag=place.tag if seen.commit and seen.commit.kept else None,
        evidence_digest=decision.evidence_digest,
        policy_digest=decision.policy_digest,
        data_digest=Manifest.load(place.path("prepared") / digest.MANIFEST).digest,
        data_version=(seen.model.get("dataset") or {}).get("version"),
        base=str(seen.model.get("base_model") or pinned.source),
        base_digest=store.base_digest(base),
        base_source=pinned.source,
        metrics=dict(_metrics(place, seen)),
        params=place.params.model_dump(mode="json", by_alias=True),
        metadata=seen.model,
        files=files,
        sources=[File(path=file.path, bytes=file.bytes, sha256=file.sha256) for file in raw.files],
        bytes=sum(file.bytes for file in files),
        seconds=seconds,
        cost=_cost(root, seconds),
        report=_report(root, place.release),
    )


def _serial(root: Path, candidate: Reserved) -> int:
    with Database.of(root).read() as connection:
        known = operations.find(connection, candidate.operation)
    if known is None or known.state != "begun":
        raise Transient(f"the number {candidate.version} was given back meanwhile; register it again")
    return int(known.request["serial"])


def _evidence(place: Place, decision: Decision) -> dict[str, Path]:
    """Every file that was judged, by the name that the decision gives it; the data's card with them."""
    found = {name: path for name, path in Places.of(place.root, place.paths).files.items() if name in decision.evidence}
    card = place.path("prepared") / "card.json"
    beside = {"prepared/card.json": card, "params.yaml": place.root / "params.yaml", "policy.yaml": place.policy}
    return found | {name: path for name, path in beside.items() if path.is_file()}


def _metrics(place: Place, seen: Observations) -> Iterator[tuple[str, float]]:
    verified = {name: Manifest.load(place.path(name) / digest.MANIFEST) for name in evidence.FOLDERS}
    judged = evidence.measures(evidence.read(Places.of(place.root, place.paths), verified)) | observed.measures(seen)
    for name, measure in sorted((name.removeprefix("observations."), one) for name, one in judged.items()):
        value = measure.value
        if name.startswith(_HEADLINE) and isinstance(value, int | float) and not isinstance(value, bool):
            yield name, float(value)


def seconds_of(root: Path, release: str) -> dict[str, float]:
    """How long each stage took, as the flow has told the ledger."""
    with Database.of(root).read() as connection:
        told = [event.payload for event in events.read(connection, kind="stage_finished", subject=release)]
    return {str(one["stage"]): float(one["seconds"]) for one in told if one.get("seconds") is not None}


def _cost(root: Path, seconds: dict[str, float]) -> float | None:
    price = settings.load(root).hour_price
    return round(sum(seconds.values()) / 3600 * price, 6) if price is not None and seconds else None


def _report(root: Path, release: str) -> str:
    project = settings.project_folder(root)
    return os.path.relpath(receipt.folder_of(project, release).parent / "report.html", project)


# --- recovering -------------------------------------------------------------------------------------------------------


def recover(root: Path) -> list[str]:
    """Finish or undo what a killed process left begun; a line for each."""
    with Database.of(root).read() as connection:
        left = [operation for operation in operations.unfinished(connection) if operation.kind == KIND]
    said = [line for one in left if (line := _recovered(root, one))]
    with Database.of(root).read() as connection:
        behind = [name for name in rows.models(connection) if mirror.pending(connection, name)]
    for name in behind:
        try:
            mirror.reconcile(root, name)
        except SlipwayError as error:
            said.append(str(error))
    return said


def _recovered(root: Path, operation: Operation) -> str | None:
    """One registration that nobody is working on any more."""
    if _at_work(root, operation.request):
        return None
    name, number = operation.model, str(operation.request["version"])
    with store.alone(root, name):
        with Database.of(root).read() as connection:
            now = operations.find(connection, operation.id)
        if now != operation:
            return None  # somebody else has seen to it meanwhile
        version = store.kept(root, name, number)
        whole = (
            version is not None and operation.id.endswith(f":{version.identity}") and not store.problems(root, version)
        )
        if version is not None and whole:
            place = store.folder(root, name, number)
            version = _committed(root, version, Decision.load(place / store.RECEIPT / receipt.DECISION))
        else:
            if version is not None:
                store.discard(root, version)
            with Database.of(root).write() as connection:
                operations.end(connection, operation.id, {"because": "killed before it was whole"}, undone=True)
    if version is None or not whole:
        return (
            f"{name} {number} was not registered: it was killed before its bytes were whole; the number is free again"
        )
    finished(root, version)
    return f"{name} {number} is registered: a killed attempt had left it whole"


def _at_work(root: Path, request: Json) -> bool:
    """Whether the release that reserved a number still lives; of another machine's, that is known by its age alone."""
    now = clock.read()
    if request.get("boot") == now.boot:
        return workspace.works(settings.project_folder(root), str(request["release"]))
    return (now.at - clock.moment(str(request["at"]))).total_seconds() * 1000 < _ABANDONED_MS and not _embedded(root)


def _embedded(root: Path) -> bool:
    """An embedded ledger has one machine: whatever another start of it left behind is dead."""
    return Database.of(root).is_sqlite
