"""MLflow as a projection of the ledger: a registered version for each of ours, its tags, and the aliases.

Nothing here decides anything and nothing waits for it: a release ends registered in the ledger when MLflow is away, with a
warning, and the next reconcile (of a registration, a promotion, a start, `slipway audit verify`) brings the mirror up to
date. What was written last is kept in the operation `mirror:…`, so that a mirror that lags is told from one that was
changed behind the ledger's back: that is drift, and drift is an event.
"""

import contextlib
import fcntl
import time
from collections.abc import Iterator
from pathlib import Path

from pydantic import Field
from sqlalchemy import Connection

from slipway.artifacts import Artifact, Json
from slipway.errors import Transient
from slipway.ledger import champions, events, operations
from slipway.ledger import versions as rows
from slipway.ledger.database import Database
from slipway.ledger.events import Actor
from slipway.registry import store, versions
from slipway.registry.mlflow_process import DEADLINE_SECONDS, Mlflow
from slipway.registry.versions import Version

BYTES_A_SECOND = 10_000_000  # a whole model (not an adapter) is given the time its upload takes on a slow line
ALIASES = ("champion", "previous", "candidate")
KIND = "mirror"
HERE = Actor("slipway", "service")
# Version tags that headline metrics become: what people sort and filter by.
HEADLINE = (
    "tuned.exact_match",
    "tuned.accuracy",
    "tuned.macro_f1",
    "tuned.loss",
    "scan.bytes",
    "servability.latency_p95_seconds",
)


class Drift(Artifact):
    """Something in MLflow that somebody changed behind the ledger's back."""

    model: str
    version: str  # "" where it is not about one version
    what: str
    wanted: str
    found: str

    @property
    def line(self) -> str:
        return f"MLflow's {self.what} of {self.model} is {self.found or 'not there'}, the ledger has {self.wanted or 'none'}"


class Step(Artifact):
    """One thing to set right, and whether it is drift or only not done yet."""

    do: str  # enter | tag | alias | delete
    version: str
    number: str | None
    what: str
    wanted: str
    found: str
    drift: bool
    tags: dict[str, str] = Field(default_factory=dict)


# --- what the ledger wants ----------------------------------------------------------------------------------------------


def operation_of(model: str, version: str) -> str:
    return f"mirror:{model}:{version}"


def aliases(connection: Connection, model: str) -> dict[str, str]:
    """The version that each alias should name. The candidate: the newest one in Staging, until a canary says otherwise."""
    found: dict[str, str] = {}
    if serving := champions.find(connection, model):
        found["champion"] = serving.version
        if serving.previous and serving.previous != serving.version:
            found["previous"] = serving.previous
    staged = versions.listed(connection, model, "Staging", ("present",))
    if staged and staged[0].version != found.get("champion"):
        found["candidate"] = staged[0].version
    return found


def tags(version: Version) -> dict[str, str]:
    """What is filed with a version in MLflow."""
    about = version.metadata
    said = {
        "slipway.version": version.version,
        "slipway.serial": str(version.serial),
        "slipway.stage": version.stage,
        "slipway.state": version.state,
        "slipway.release": version.release,
        "slipway.date": version.at,
        "slipway.identity": version.identity,
        "slipway.evidence_digest": version.evidence_digest,
        "slipway.policy_digest": version.policy_digest,
        "slipway.data_digest": version.data_digest,
        "slipway.data_version": version.data_version or "",
        "slipway.base": version.base,
        "slipway.base_digest": version.base_digest,
        "slipway.parent": version.parent or "",
        "slipway.commit": version.commit or "",
        "slipway.tag": version.tag or "",
        "author": str(about.get("author") or ""),
        "team": str(about.get("team") or ""),
    }  # fmt: skip
    measured = {name: f"{version.metrics[name]:.6g}" for name in HEADLINE if name in version.metrics}
    return {key: value[:1000] for key, value in (said | measured).items() if value}


class Wanted:
    """A model in the ledger, and what was written of it last."""

    def __init__(self, connection: Connection, model: str) -> None:
        self.model = model
        every = versions.listed(connection, model, states=versions.STATES)[::-1]  # the oldest first
        self.versions = {v.version: v for v in every if v.state != "deleted"}
        self.deleted = {v.version: v for v in every if v.state == "deleted"}
        self.last = rows.mirrored(connection, model)
        self.aliases = aliases(connection, model)
        known = self.last.get(f"mirror:{model}")
        self.last_aliases: dict[str, str] = (known.result or {}).get("aliases", {}) if known else {}

    def written(self, version: str) -> Json:
        """What MLflow was given of a version; empty before it was."""
        known = self.last.get(operation_of(self.model, version))
        return (known.result or {}) if known and known.state == "done" else {}


# --- what differs: pure -------------------------------------------------------------------------------------------------


def steps(wanted: Wanted, found: Json) -> list[Step]:
    """What to do so that MLflow says what the ledger says."""
    by_operation: dict[str, list[Json]] = {}
    for one in found["versions"]:
        by_operation.setdefault(one["tags"].get("slipway.operation", ""), []).append(one)
    done: list[Step] = []
    numbers: dict[str, str] = {}
    for name, version in wanted.versions.items():
        here = by_operation.get(operation_of(wanted.model, name), [])
        steps_of, number = _of_version(wanted, version, here, found["versions"])
        done += steps_of
        if number:
            numbers[name] = number
    for name, version in wanted.deleted.items():
        for one in by_operation.get(operation_of(wanted.model, name), []):
            back = version.mlflow_version is None
            done.append(_step("delete", name, one["number"], f"version {one['number']}", "", "there", back))
    return [*done, *_of_aliases(wanted, found, numbers)]


def _of_version(wanted: Wanted, version: Version, here: list[Json], every: list[Json]) -> tuple[list[Step], str | None]:
    name, last = version.version, wanted.written(version.version)
    ours = next((one for one in here if one["number"] == last.get("number")), None) or (here[0] if here else None)
    if ours is None and last:  # its operation tag may be what was taken away
        ours = next((one for one in every if one["number"] == last["number"] and one["source"] == last["source"]), None)
    number = ours["number"] if ours else None
    if ours is not None and last and ours["source"] != last["source"]:
        what = f"source of version {number}"
        gone = _step("delete", name, number, what, last["source"], ours["source"], True)
        return [gone, _step("enter", name, None, f"version {number}", name, "of another source", True)], None
    if ours is None and version.state == "cold":
        return [], None  # its bytes are not here to be entered; once restored, it is
    if ours is None:
        what = f"version {last['number']}" if last else "version"
        return [_step("enter", name, None, what, name, "", bool(last))], None
    extras = [one["number"] for one in here if one is not ours]
    found = [_step("delete", name, extra, f"version {extra}", "", f"a second {name}", bool(last)) for extra in extras]
    wants = tags(version) | {"slipway.operation": operation_of(version.model, name)}
    if wrong := {key: value for key, value in wants.items() if ours["tags"].get(key) != value}:
        known = last["tags"] | {"slipway.operation": operation_of(version.model, name)} if last else {}
        found += _of_tags(name, str(number), wrong, ours["tags"], known)
    return found, number


def _of_tags(
    version: str, number: str, wrong: dict[str, str], there: dict[str, str], last: dict[str, str]
) -> list[Step]:
    return [
        Step(
            do="tag", version=version, number=number, what=f"tag {key} of version {number}", wanted=value,
            found=there.get(key, ""), drift=key in last and there.get(key) != last[key], tags={key: value},
        )
        for key, value in wrong.items()
    ]  # fmt: skip


def _of_aliases(wanted: Wanted, found: Json, numbers: dict[str, str]) -> Iterator[Step]:
    there = {one["number"] for one in found["versions"]}
    for alias in ALIASES:
        version, now = wanted.aliases.get(alias), found["aliases"].get(alias)
        should = numbers.get(version or "")  # None also where it has no number yet: it gets that first
        drift = now != wanted.last_aliases.get(alias) or (now is not None and now not in there)
        if now != should or (version is not None and should is None):
            yield _step("alias", version or "", should, f"alias {alias}", version or "", _place(now, there), drift)


def _place(number: str | None, there: set[str]) -> str:
    if number is None:
        return ""
    return f"version {number}" if number in there else f"version {number}, which does not exist"


def _step(do: str, version: str, number: str | None, what: str, wanted: str, found: str, drift: bool) -> Step:
    return Step(do=do, version=version, number=number, what=what, wanted=wanted, found=found, drift=drift)


# --- reconciling --------------------------------------------------------------------------------------------------------

_PASSES = 3  # what is entered gets its number first, then what points at it


def drift(root: Path, seconds: float = DEADLINE_SECONDS) -> list[Drift]:
    """What somebody changed in MLflow behind the ledger's back; changes nothing."""
    return [_drift(model, step) for model, step in differences(root, seconds) if step.drift]


def differences(root: Path, seconds: float = DEADLINE_SECONDS) -> list[tuple[str, Step]]:
    """Model and step wherever MLflow does not say what the ledger says, drift or not; changes nothing."""
    with Database.of(root).read() as connection:
        every = [Wanted(connection, model) for model in rows.models(connection)]
    if not every:
        return []
    with Mlflow(root, seconds) as mlflow:
        return [(w.model, step) for w in every for step in steps(w, mlflow.look(w.model))]


def reconcile(root: Path, model: str | None = None, seconds: float = DEADLINE_SECONDS) -> list[Drift]:
    """Make MLflow say what the ledger says; what was drift, each with its events. Transient where MLflow is away."""
    database = Database.of(root)
    with database.read() as connection:
        models = [model] if model is not None else rows.models(connection)
    if not models:
        return []
    with _alone(root, seconds) as lock, Mlflow(root, seconds, lock) as mlflow:
        return [one for name in models for one in _reconciled(root, database, mlflow, name)]


def pending(connection: Connection, model: str) -> bool:
    """Whether MLflow was not told yet of something that the ledger knows; asked of the ledger alone."""
    wanted = Wanted(connection, model)
    if any(known.state == "begun" for known in wanted.last.values()):
        return True
    written = {name: wanted.written(name) for name in wanted.versions}
    if any(one and one["tags"] != tags(wanted.versions[name]) for name, one in written.items()):
        return True
    numbers = {alias: written.get(version, {}).get("number") for alias, version in wanted.aliases.items()}
    gone = any(version.mlflow_version is not None for version in wanted.deleted.values())
    return gone or {a: n for a, n in numbers.items() if n} != wanted.last_aliases


def _reconciled(root: Path, database: Database, mlflow: Mlflow, model: str) -> list[Drift]:
    drifts: list[Drift] = []
    for count in range(_PASSES):
        with database.read() as connection:
            wanted = Wanted(connection, model)
        found = mlflow.look(model)
        todo = steps(wanted, found)
        if count == 0:
            drifts = [_drift(model, step) for step in todo if step.drift]
            _tell(database, "drift_found", drifts)
        written = [_done(root, mlflow, wanted, step) for step in todo]
        with database.write() as connection:
            _remember(connection, wanted, found, todo, written)
        if not todo:
            break
    _tell(database, "mirror_repaired", drifts)
    return drifts


def _tell(database: Database, kind: str, drifts: list[Drift]) -> None:
    if not drifts:
        return
    with database.write() as connection:
        for one in drifts:
            said = {"what": one.what, "wanted": one.wanted, "found": one.found}
            payload = said if kind == "drift_found" else {"what": one.what, "to": one.wanted}
            events.append(connection, kind, one.model, one.version, payload, HERE)


def _done(root: Path, mlflow: Mlflow, wanted: Wanted, step: Step) -> Json:
    """Do one step; what MLflow says of the version then, where it was entered."""
    model = wanted.model
    if step.do == "enter":
        version = wanted.versions[step.version]
        return mlflow.enter(model, operation_of(model, step.version), _about(root, version), _patience(version))
    if step.do == "tag":
        mlflow.tag(model, str(step.number), step.tags)
    elif step.do == "delete":
        mlflow.delete(model, str(step.number))
    elif step.number is not None or not step.version:
        mlflow.alias(model, step.what.removeprefix("alias "), step.number)
    return {}


def _about(root: Path, version: Version) -> Json:
    place = store.folder(root, version.model, version.version)
    bound = {"model": version.model, "version": version.version, "identity": version.identity}
    return {
        "title": version.name,
        "release": version.release,
        "tags": tags(version),
        "metrics": {name: version.metrics[name] for name in sorted(version.metrics)[:60]},
        "adapter": str(place / store.ADAPTER),
        "base": str(store.base_folder(root, version.base_digest)),
        "metadata": {f"slipway.{key}": value for key, value in (bound | {"base_digest": version.base_digest}).items()},
    }


def _patience(version: Version) -> float:
    return version.bytes / BYTES_A_SECOND


def _remember(connection: Connection, wanted: Wanted, found: Json, todo: list[Step], written: list[Json]) -> None:
    """Note what MLflow has now, so that the next look can tell what somebody else has changed."""
    there = {one["number"]: one for one in found["versions"]}
    entered = {step.version: one for step, one in zip(todo, written, strict=True) if step.do == "enter"}
    for name, version in wanted.versions.items():
        one = entered.get(name) or _settled(wanted, name, there, todo)
        if one is None:
            continue
        kept = {key: one[key] for key in ("number", "source", "run")} | {"tags": tags(version)}
        if kept != wanted.written(name):
            _end(connection, operation_of(wanted.model, name), wanted.model, kept)
        if version.mlflow_version != one["number"]:
            versions.set_mlflow(connection, wanted.model, name, one["number"])
    for name, version in wanted.deleted.items():
        if version.mlflow_version is not None:
            versions.set_mlflow(connection, wanted.model, name, None)
    aliases = dict(found["aliases"]) | {s.what.removeprefix("alias "): s.number for s in todo if s.do == "alias"}
    kept_aliases = {alias: number for alias in ALIASES if (number := aliases.get(alias)) is not None}
    if kept_aliases != wanted.last_aliases:
        _end(connection, f"mirror:{wanted.model}", wanted.model, {"aliases": kept_aliases})


def _settled(wanted: Wanted, name: str, there: dict[str, Json], todo: list[Step]) -> Json | None:
    """A version that stood in MLflow already."""
    operation = operation_of(wanted.model, name)
    gone = {step.number for step in todo if step.do == "delete"}
    known = wanted.written(name).get("number")
    here = [
        one for one in there.values() if one["tags"].get("slipway.operation") == operation and one["number"] not in gone
    ]
    return next((one for one in here if one["number"] == known), here[0] if here else there.get(str(known)))


def _end(connection: Connection, operation: str, model: str, result: Json) -> None:
    operations.begin(connection, operation, KIND, model, {})
    operations.end(connection, operation, result)


def _drift(model: str, step: Step) -> Drift:
    return Drift(model=model, version=step.version, what=step.what, wanted=step.wanted, found=step.found)


@contextlib.contextmanager
def _alone(root: Path, seconds: float) -> Iterator[int]:
    """One process at a time mirrors from this machine; the kernel frees the dead's lock."""
    path, deadline = store.top(root) / ".mirror.lock", time.monotonic() + seconds
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("w") as lock:
        while True:
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
                break
            except BlockingIOError:
                if time.monotonic() >= deadline:
                    raise Transient("another process is bringing MLflow up to date; run again") from None
                time.sleep(0.1)
        yield lock.fileno()
