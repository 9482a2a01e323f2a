"""What the ledger knows of a model's versions that retiring has to know: how long each has stood, and what protects it."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from sqlalchemy import Connection

from slipway import digest
from slipway.artifacts import Json, Manifest
from slipway.errors import Refused
from slipway.keeping import lifecycle
from slipway.keeping.lifecycle import CLASSES, Facts, Kept, Moment, Place, Policy
from slipway.ledger import champions, clock, lifetimes
from slipway.ledger.clock import Reading
from slipway.ledger.lifetimes import Clocks
from slipway.registry import store, versions
from slipway.registry.versions import Version

SENT, MOVED = "archive", "move"  # kinds of operations that bring bytes to another place


class Clock:
    """The clocks of events, also of those that went to an archive: they are at least as old as the oldest that did not."""

    def __init__(self, connection: Connection, now: Reading) -> None:
        self.now = _moment(lifetimes.now(connection, now))
        self._known = lifetimes.clocks(connection)
        self._first = lifetimes.first(connection)

    def of(self, sequence: int) -> Moment:
        """When an event was written; an event that nobody knows was written just now."""
        if found := self._known.get(sequence):
            return _moment(found)
        if self._first and 0 < sequence < self._first[0]:
            return _moment(self._first[1])
        return self.now


def _moment(clocks: Clocks) -> Moment:
    return Moment(clock.moment(clocks[0]), clocks[1])


def gather(connection: Connection, root: Path, model: str, now: Reading, has_archive: bool) -> Facts:
    """Everything about a model that `lifecycle.plan` asks for."""
    clocks, there = Clock(connection, now), versions.listed(connection, model)
    came, left = lifetimes.stages(connection, model), _traffic(connection, model).left
    places = placed(connection, model)
    kept = [
        _kept(one, clocks.of(max(came[one.version], left.get(one.version, 0))), places.get((one.version, came[one.version])))
        for one in there
    ]  # fmt: skip
    bases = {one.base_digest for one in there}
    return _protected(connection, model, clocks, now, kept, root, bases, has_archive)


def protecting(connection: Connection, model: str, now: Reading) -> Facts:
    """What may protect a version of a model, without looking at each of them."""
    return _protected(connection, model, Clock(connection, now), now)


def refuse_if_live(connection: Connection, version: Version, policy: Policy, act: str) -> None:
    """The liveness rule, inside the transaction that writes. A delete leaves the previous champion alone at any age."""
    facts = protecting(connection, version.model, clock.read())
    why = lifecycle.live(facts, policy).get(version.version)
    if why is None and act == "deleted" and version.version == facts.previous:
        why = "is what a rollback returns to (`slipway models archive` takes its bytes away)"
    if why is not None:
        raise Refused(f"{version.name} {why}, so it is not {act}; nothing was changed")


def _protected(
    connection: Connection,
    model: str,
    clocks: Clock,
    now: Reading,
    kept: list[Kept] | None = None,
    root: Path | None = None,
    bases: set[str] | None = None,
    has_archive: bool = False,
) -> Facts:
    serving, traffic = champions.find(connection, model), _traffic(connection, model)
    replaced: Mapping[str, int] = {serving.previous: serving.sequence} if serving and serving.previous else {}
    sent = {one["base"]: int(one["base_bytes"]) for one in lifetimes.brought(connection, model, (SENT,))}
    return Facts(
        model=model,
        versions=kept or [],
        now=clocks.now,
        champion=serving.version if serving else None,
        previous=serving.previous if serving else None,
        left={version: clocks.of(sequence) for version, sequence in {**replaced, **traffic.left}.items()},
        weights=traffic.weights,
        awaiting=_awaiting(connection, model, now),
        asked={version: _moment(found) for version, found in lifetimes.asked(connection, model).items()},
        held=lifetimes.held(connection, model),
        candidates=frozenset(lifetimes.in_canary(connection, model)),
        base_bytes={base: base_size(root, base) or sent.get(base, 0) for base in bases or ()} if root else {},
        bases_elsewhere=frozenset(base for base in bases or () if _is_elsewhere(connection, model, base)),
        has_archive=has_archive,
    )


def _kept(version: Version, since: Moment, place: Place | None) -> Kept:
    adapter = sum(file.bytes for file in version.files if file.path.startswith(f"{store.ADAPTER}/"))
    return Kept(
        version=version.version,
        serial=version.serial,
        stage=version.stage,
        state=version.state,
        bytes=adapter,
        receipt=version.bytes - adapter,
        base=version.base_digest,
        since=since,
        place=(place or "STANDARD") if version.state == "cold" else "local",
    )


@dataclass(frozen=True)
class _Traffic:
    """Version → percent of the traffic now, and version → the event by which it last lost what it had."""

    weights: Mapping[str, float]
    left: Mapping[str, int]


def _traffic(connection: Connection, model: str) -> _Traffic:
    left: dict[str, int] = {}
    now: Mapping[str, float] = {}
    for sequence, weights, replaced in lifetimes.serving(connection, model):
        had = {version for version, percent in now.items() if percent > 0}
        left |= dict.fromkeys(had if replaced is None else had | {replaced}, sequence)  # it may have come long ago
        now = weights
    return _Traffic(now, left)


def _awaiting(connection: Connection, model: str, now: Reading) -> frozenset[str]:
    """Versions that somebody has approved for a step that nobody has taken yet."""
    return frozenset(str(one["version"]) for one in lifetimes.open_approvals(connection, model) if _counts(one, now))


def _counts(approval: Json, now: Reading) -> bool:
    if str(approval.get("act")).endswith("→Archived"):  # what somebody agreed to let go
        return False
    return approval.get("answer", "approve") == "approve" and str(approval.get("expires", "9")) > now.text


def _is_elsewhere(connection: Connection, model: str, base: str) -> bool:
    users = lifetimes.base_users(connection, base)
    return any(other != model and state == "present" for other, _, state in users)


def base_size(root: Path, base_digest: str) -> int:
    """The bytes of a base model that lies on this disk; none where it does not."""
    base = store.base_folder(root, base_digest)
    if not (base / digest.MANIFEST).is_file():
        return 0
    return sum(file.bytes for file in Manifest.load(base / digest.MANIFEST).files)


def placed(connection: Connection, model: str) -> dict[tuple[str, int], Place]:
    """Version and the event of its stage → the coldest class its bytes were brought to since."""
    found: dict[tuple[str, int], Place] = {}
    for one in lifetimes.brought(connection, model, (SENT, MOVED)):
        key, to = (one["version"], one["sequence"]), one["to"]
        known = found.get(key, CLASSES[0])
        found[key] = max(known, to, key=CLASSES.index)
    return found
