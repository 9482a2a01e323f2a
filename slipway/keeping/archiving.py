"""Where an archived version's bytes go, and how they come back: copied, said so in the ledger, and only then taken away here."""

from collections.abc import Iterator, Mapping
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path

from sqlalchemy import Connection

from slipway.artifacts import Json
from slipway.errors import Refused, StageError, Transient
from slipway.keeping import lifecycle, liveness
from slipway.keeping.leased import leased
from slipway.keeping.lifecycle import Class, Policy
from slipway.keeping.storage import Archive
from slipway.ledger import clock, events, leases, lifetimes, operations
from slipway.ledger.database import Database
from slipway.ledger.events import Actor
from slipway.ledger.leases import Lease
from slipway.ledger.operations import Operation
from slipway.registry import store, versions
from slipway.registry.signing import Statement
from slipway.registry.versions import Version

SENT, MOVED = liveness.SENT, liveness.MOVED


@dataclass(frozen=True)
class Outcome:
    """What became of an act."""

    version: Version
    said: str
    freed: int = 0  # bytes on this disk


@dataclass(frozen=True)
class Here:
    """Everything an act works with, once it holds the model's lease."""

    root: Path
    database: Database
    lease: Lease
    actor: Actor
    policy: Policy


def base_alone(here: Here, version: Version) -> AbstractContextManager[Lease]:
    """Models share bases, and an act holds its own model's lease alone: none looks at who needs a base while another acts."""
    return leased(here.database, f"base:{version.base_digest}")


# --- away from here --------------------------------------------------------------------------------------------------------


def begin_sending(connection: Connection, here: Here, version: Version, away: Archive, to: Class) -> Operation:
    sequence = lifetimes.stages(connection, version.model)[version.version]
    request = {
        "version": version.version, "sequence": sequence, "uri": away.uri, "to": to,
        "base": version.base_digest, "base_bytes": liveness.base_size(here.root, version.base_digest),
    }  # fmt: skip
    name = f"{SENT}:{version.model}:{version.version}:{sequence}"
    return operations.begin(connection, name, SENT, version.model, request)


def send(here: Here, operation: Operation) -> Outcome:
    """Copy, say so in the ledger, and only then take the bytes away from this disk."""
    with here.database.read() as connection:
        version = version_of(connection, operation)
    with base_alone(here, version):
        return _sent(here, operation)


def _sent(here: Here, operation: Operation) -> Outcome:
    request, away = operation.request, Archive(operation.request["uri"])
    with here.database.read() as connection:
        version = version_of(connection, operation)
        why = _taken_back(connection, version, here.policy, request)
    if why is None and version.state == "present":
        if problems := store.problems(here.root, version):
            raise _given_up(here, operation, version, f"it is not sound ({problems[0]})")
        for name, path, sha256 in _files(here.root, version):
            away.put(name, path, sha256, request["to"])
        why = _told_cold(here, operation)
    if why is not None:
        raise _given_up(here, operation, version, why)
    freed = store.cool(here.root, version)
    with here.database.write() as connection:
        leases.held(connection, here.lease)
        operations.end(connection, operation.id, {"freed": freed})
    said = f"{version.name} is archived; its bytes lie in {away.uri} ({request['to']})"
    return Outcome(version, said, freed)


def _told_cold(here: Here, operation: Operation) -> str | None:
    """The row and its event, unless something has happened to the version while its bytes were on their way."""
    with here.database.write() as connection:
        leases.held(connection, here.lease)
        version = version_of(connection, operation)
        if why := _taken_back(connection, version, here.policy, operation.request):
            return why
        _tell_cold(connection, here, version, operation.request)
        versions.set_state(connection, version.model, version.version, "cold")
    return None


def _tell_cold(connection: Connection, here: Here, version: Version, request: Json) -> None:
    told = {
        "version": version.version,
        "state": "cold",
        "place": request["to"],
        "uri": request["uri"],
        "bytes": version.bytes,
    }
    events.append(connection, "model_archived", version.model, version.version, told, here.actor)


def _given_up(here: Here, operation: Operation, version: Version, why: str) -> Refused:
    with here.database.write() as connection:
        operations.end(connection, operation.id, {}, undone=True)
    return Refused(f"{version.name} was not brought to {operation.request['to']}: {why}; nothing was taken away")


def _taken_back(connection: Connection, version: Version, policy: Policy, request: Json) -> str | None:
    """Why a version that was to be sent away stays here after all."""
    if version.state == "deleted":
        return "it was deleted"
    if version.stage != "Archived":
        return f"it is in {version.stage} by now"
    if lifetimes.stages(connection, version.model)[version.version] != request["sequence"]:
        return "its stage was changed meanwhile"
    if version.state == "cold":
        return None
    facts = liveness.protecting(connection, version.model, clock.read())
    return lifecycle.live(facts, policy).get(version.version)


def version_of(connection: Connection, operation: Operation) -> Version:
    found = versions.find(connection, operation.model, operation.request["version"])
    if found is None:
        raise StageError(f"{operation.id} is about a version that the ledger does not have; `slipway audit verify`")
    return found


def _files(root: Path, version: Version) -> Iterator[tuple[str, Path, str]]:
    """Name in the archive, path and SHA-256 of everything a version needs, its base's files among them."""
    place = store.folder(root, version.model, version.version)
    base = store.base_folder(root, version.base_digest)
    for file in version.files:
        yield f"{version.model}/{version.version}/{file.path}", place / file.path, file.sha256
    for name, sha256 in _base_files(place).items():
        yield f"{store.BASES}/{version.base_digest}/{name}", base / name, sha256


def _base_files(place: Path) -> dict[str, str]:
    """The base's files with their digests, as they were signed."""
    statement = Statement.load(place / store.RECEIPT / Statement.FILE)
    return {name.removeprefix("base/"): sha for name, sha in statement.files.items() if name.startswith("base/")}


# --- between classes -------------------------------------------------------------------------------------------------------


def sent(connection: Connection, version: Version) -> Json | None:
    """The request by which a version's bytes were sent away last."""
    asked = lifetimes.brought(connection, version.model, (SENT,))
    ours = [one for one in asked if one["version"] == version.version]
    return max(ours, key=lambda one: int(one["sequence"])) if ours else None


def moved(here: Here, operation: Operation) -> Outcome:
    """Another class for a version that lies in the archive, and for its base where no other one needs it warmer."""
    request, away = operation.request, Archive(operation.request["uri"])
    with here.database.read() as connection:
        version = version_of(connection, operation)
    if version.state != "cold":
        raise _given_up(here, operation, version, f"it is {version.state} by now")
    for file in version.files:
        away.move(f"{version.model}/{version.version}/{file.path}", request["to"])
    with base_alone(here, version):
        _move_base(here, version, away, request["to"])
    with here.database.write() as connection:
        leases.held(connection, here.lease)
        _tell_cold(connection, here, version, request)
        operations.end(connection, operation.id, {})
    return Outcome(version, f"{version.name} was moved to {request['to']}")


def _move_base(here: Here, version: Version, away: Archive, to: Class) -> None:
    with here.database.read() as connection:
        base_to = _base_class(connection, version, to)
    if base_to is not None:
        for name in _base_files(store.folder(here.root, version.model, version.version)):
            away.move(f"{store.BASES}/{version.base_digest}/{name}", base_to)


def _base_class(connection: Connection, version: Version, to: Class) -> Class | None:
    """The class a base belongs in: as warm as the warmest of the versions that lie in the archive and need it."""
    others = [
        placed
        for model, name, state in lifetimes.base_users(connection, version.base_digest)
        if state == "cold" and (model, name) != (version.model, version.version)
        for (other, _), placed in liveness.placed(connection, model).items()
        if other == name
    ]
    order = lifecycle.CLASSES
    return to if all(order.index(place) >= order.index(to) for place in others if place in order) else None


# --- and back ----------------------------------------------------------------------------------------------------------


def bring(here: Here, version: Version, away: Archive) -> None:
    """Every file of a version and its base, back on this disk and sound; Transient while one of them is frozen."""
    place = store.folder(here.root, version.model, version.version)
    for file in version.files:  # the receipt says what the base is made of
        name = f"{version.model}/{version.version}/{file.path}"
        if file.path.startswith(f"{store.RECEIPT}/") and not (place / file.path).is_file():
            _readable(away, [name], version, here.policy)
            away.get(name, file.sha256, place / file.path)
    base = _base_files(place)
    _readable(away, _names(here.root, version, base), version, here.policy)
    store.warm(here.root, version, base, away.get)
    if problems := store.problems(here.root, version.model_copy(update={"state": "present"})):
        raise StageError(f"{version.name} came back broken: {problems[0]}; it stays in the archive")


def _names(root: Path, version: Version, base: Mapping[str, str]) -> list[str]:
    """What has to come from the archive."""
    own = [file.path for file in version.files if file.path.startswith(f"{store.ADAPTER}/")]
    names = [f"{version.model}/{version.version}/{path}" for path in own]
    if not store.base_folder(root, version.base_digest).is_dir():
        names += [f"{store.BASES}/{version.base_digest}/{path}" for path in base]
    return names


def _readable(away: Archive, names: list[str], version: Version, policy: Policy) -> None:
    waiting = [name for name in names if not away.is_readable(name, policy.restore)]
    if waiting:
        raise Transient(
            f"{version.name} is frozen in {away.uri} and was asked for ({policy.restore.tier}); "
            f"{len(waiting)} of {len(names)} files are on their way, which takes about {policy.restore.hours} hours: "
            f"run `slipway models restore {version.version}` again then"
        )


def remove_from(here: Here, version: Version, away: Archive) -> None:
    """Take a version out of the archive, and its base where no other one needs it there; `base_alone` is held."""
    place = store.folder(here.root, version.model, version.version)
    base = _base_files(place) if (place / store.RECEIPT / Statement.FILE).is_file() else {}
    with here.database.read() as connection:
        users = lifetimes.base_users(connection, version.base_digest)
    others = [one for one in users if one[:2] != (version.model, version.version) and one[2] == "cold"]
    for file in version.files:
        away.delete(f"{version.model}/{version.version}/{file.path}")
    for name in () if others else base:
        away.delete(f"{store.BASES}/{version.base_digest}/{name}")
