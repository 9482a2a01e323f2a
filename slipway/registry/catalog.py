"""Looking at versions: which there are, and everything that is known of one."""

import difflib
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from sqlalchemy import Connection

from slipway import records
from slipway.artifacts import Artifact, Decision, Estimate, Json, Observations, Scorecard
from slipway.errors import SlipwayError, UsageError
from slipway.ledger import catalog as queries
from slipway.ledger import lifetimes
from slipway.ledger import versions as numbers
from slipway.ledger.catalog import Key, Row
from slipway.ledger.chain import Event
from slipway.ledger.database import Database
from slipway.registry import comparing, learned, paths, receipt, store, versions
from slipway.registry.comparing import Subject
from slipway.registry.versions import File, Version

_RELEASE = re.compile(r"[0-9A-Za-z][0-9A-Za-z._-]{0,63}")
_OTHER_SORTS = {"date": "at", "size": "bytes"}


# --- lists -------------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Entry:
    """One line of a list."""

    row: Row
    marks: tuple[str, ...]  # champion, previous, candidate, held
    decision: str | None
    author: str | None


@dataclass(frozen=True)
class Listing:
    entries: list[Entry]
    total: int  # before the limit


def listing(
    connection: Connection,
    model: str | None = None,
    stage: str | None = None,
    sort: str | None = None,
    limit: int | None = None,
    deleted: bool = False,
) -> Listing:
    """Versions, the newest first or the best first by a metric: a handful of queries, however many versions there are."""
    check_model(connection, model)
    rows = queries.listed(connection, model, stage, ("present", "cold", "deleted") if deleted else ("present", "cold"))
    ordered = _sorted(rows, sort) if sort is not None else rows
    shown = ordered[:limit] if limit else ordered
    marked, decided = marks(connection), queries.verdicts(connection, model)
    authors = queries.stated(connection, "author", [row.key for row in shown])
    return Listing([_entry(row, marked, decided, authors) for row in shown], len(rows))


def check_model(connection: Connection, model: str | None) -> None:
    """Refuse a model's name that no version has: an empty list would look like an answer."""
    known = numbers.models(connection)
    if model is not None and model not in known:
        there = f"there are {', '.join(known)}" if known else "none is registered yet; `slipway run` makes a version"
        raise UsageError(f"no model {shown(model)} has a version here; {there}")


def _entry(row: Row, marked: dict[Key, list[str]], decided: dict[Key, str], authors: dict[Key, str | None]) -> Entry:
    decision = decided.get((row.model, row.release)) or decided.get(
        row.key
    )  # as it was let in; later steps may be refused
    return Entry(row, tuple(marked.get(row.key, ())), decision, authors.get(row.key))


def _sorted(rows: list[Row], sort: str) -> list[Row]:
    """The best first by a metric; versions without it, last."""
    if column := _OTHER_SORTS.get(sort):
        return sorted(rows, key=lambda row: getattr(row, column), reverse=True)
    name = _metric_of(rows, sort)
    sign = 1 if comparing.better(name) == "lower" else -1
    have = [row for row in rows if name in row.metrics]
    return sorted(have, key=lambda row: sign * row.metrics[name]) + [row for row in rows if name not in row.metrics]


def _metric_of(rows: Sequence[Row], sort: str) -> str:
    """A metric's full name: `exact_match` means the tuned model's."""
    known = {name for row in rows for name in row.metrics}
    for name in (sort, f"tuned.{sort}"):
        if name in known or not rows:
            return name
    close = difflib.get_close_matches(sort, known | set(_OTHER_SORTS), 1)
    meant = f"did you mean {close[0]}?" if close else f"there are date, size, {', '.join(sorted(known)[:8])}, …"
    raise UsageError(f"no version has a metric {shown(sort)}; {meant}")


def marks(connection: Connection) -> dict[Key, list[str]]:
    """What a version is to its model's traffic (as `mirror.aliases` says it, of every model at once), and whether it is held."""
    found: dict[Key, list[str]] = {}
    serving = queries.serving(connection)
    for model, champion in serving.items():
        found.setdefault((model, champion.version), []).append("champion")
        if champion.previous and champion.previous != champion.version:
            found.setdefault((model, champion.previous), []).append("previous")
    for model, version in queries.newest_in(connection, "Staging").items():
        if model not in serving or serving[model].version != version:
            found.setdefault((model, version), []).append("candidate")
    for key in lifetimes.all_held(connection):
        found.setdefault(key, []).append("held")
    return found


def shown(text: str) -> str:
    """What somebody typed, on one line, harmless and not for ever."""
    return ascii(text)[1:-1][:80] or "''"


# --- side by side --------------------------------------------------------------------------------------------------------

_DETAILED = 20  # versions whose own files are opened, for intervals


def subjects(root: Path, connection: Connection, targets: Sequence[str], model: str | None = None) -> list[Subject]:
    """The versions that people name, ready to compare; a few of them with the intervals that their scorecards hold."""
    named = {(one.model, one.version): one for one in (find(connection, target, model) for target in targets)}
    scorecards = {key: scorecard(root, one) for key, one in named.items()} if len(named) <= _DETAILED else {}
    found = queries.compared(connection, named.keys())
    return _subjects(root, {key: found[key] for key in named}, scorecards)


def every_subject(root: Path, connection: Connection, model: str | None = None) -> list[Subject]:
    """Every version there is, in one query, the newest first."""
    check_model(connection, model)
    return _subjects(root, queries.compared(connection, None, model), {})


def _subjects(root: Path, found: dict[Key, Json], scorecards: dict[Key, Scorecard | None]) -> list[Subject]:
    indexes = {data: _rows(root, data) for data in {about["data_digest"] for about in found.values()}}
    return [_subject(about, indexes[about["data_digest"]], scorecards.get(key)) for key, about in found.items()]


def _subject(about: Json, rows: learned.Rows | None, scores: Scorecard | None) -> Subject:
    most = about["params"].get("evaluate", {}).get("max_rows")
    test = f"{rows.splits.get('test') if rows else about['data_digest']} {most}"
    estimates = _estimates(scores) if scores else {}
    return Subject(about["model"], about["version"], about, estimates, rows.counts if rows else {}, test)


def _estimates(found: Scorecard) -> dict[str, Estimate]:
    scores = {f"{of}.{name}": one for of, named in found.metrics.items() for name, one in named.items()}
    return scores | {f"delta.{of}.{name}": one for of, named in found.deltas.items() for name, one in named.items()}


def _rows(root: Path, data_digest: str) -> learned.Rows | None:
    try:
        return learned.describe(root, data_digest)
    except SlipwayError:  # damaged: `slipway models verify` says how
        return None


# --- one version ---------------------------------------------------------------------------------------------------------


def find(connection: Connection, target: str, model: str | None = None) -> Version:
    """The version that people mean."""
    return versions.resolve(connection, target, model)


def kept_file(root: Path, version: Version, name: str) -> Path | None:
    """A file of a version's evidence: its own copy in the store, else the one beside its release's record."""
    own = store.folder(root, version.model, version.version)
    places = [own / file.path for file in _receipts(version) if file.path.rpartition("/")[2] == name]
    if _RELEASE.fullmatch(version.release):
        places += [receipt.folder_of(root, version.release) / name, records.folder_of(root, version.release) / name]
    return next((place for place in places if place.is_file()), None)


def _receipts(version: Version) -> list[File]:
    """Files of its receipt; what `register` wrote before the evidence that it kept."""
    own = (file for file in version.files if paths.is_plain(file.path) and file.path.startswith(f"{store.RECEIPT}/"))
    return sorted(own, key=lambda file: file.path.count("/"))


def scorecard(root: Path, version: Version) -> Scorecard | None:
    """The kept scorecard, where it is still there and speaks of this very model."""
    found = _loaded(Scorecard, kept_file(root, version, "scorecard.json"))
    return found if isinstance(found, Scorecard) and found.identity == version.identity else None


def decision(root: Path, version: Version) -> Decision | None:
    found = _loaded(Decision, kept_file(root, version, receipt.DECISION))
    return found if isinstance(found, Decision) and found.identity == version.identity else None


def observed(root: Path, version: Version) -> Observations | None:
    found = _loaded(Observations, kept_file(root, version, receipt.OBSERVATIONS))
    return found if isinstance(found, Observations) and found.release == version.release else None


def _loaded(kind: type[Artifact], path: Path | None) -> Artifact | None:
    try:
        return kind.load(path) if path else None
    except SlipwayError:  # damaged: `slipway models verify` says how
        return None


@dataclass(frozen=True)
class Happening:
    """One event of a version's history, its sealed words opened; None where they were erased."""

    sequence: int
    at: str
    kind: str
    payload: Json
    who: str | None
    via: str
    reason: str | None


def happenings(connection: Connection, events: Sequence[Event]) -> list[Happening]:
    said = queries.said(connection, {held["sealed"] for event in events for held in _sealed(event)})
    return [_happening(event, said) for event in events]


def _sealed(event: Event) -> Iterator[Json]:
    for held in (event.actor.get("who"), event.payload.get("reason")):
        if isinstance(held, dict) and "sealed" in held:
            yield held


def _happening(event: Event, said: dict[str, str | None]) -> Happening:
    def opened(held: Any) -> str | None:
        return said.get(held["sealed"]) if isinstance(held, dict) and "sealed" in held else None

    told = {key: value for key, value in event.payload.items() if key != "reason"}
    reason = event.payload.get("reason")
    return Happening(
        event.sequence, event.at, event.kind, told, opened(event.actor.get("who")), str(event.actor.get("via")), opened(reason)
    )  # fmt: skip


def history(connection: Connection, version: Version) -> list[Happening]:
    """Everything that happened to a version and to the release that made it, in order; what took its place, too."""
    own = queries.history(connection, version.model, (version.version, version.release))
    after = (
        one for one in queries.deployments(connection, version.model) if one.payload.get("previous") == version.version
    )
    found = {event.sequence: event for event in (*own, *after)}
    return happenings(connection, [found[sequence] for sequence in sorted(found)])


@dataclass(frozen=True)
class Served:
    """A time in which a version was the champion."""

    since: str
    until: str | None  # None: it serves now
    generation: int | None


def served(connection: Connection, version: Version) -> list[Served]:
    """When a version served, by the events that changed the champion."""
    found: list[Served] = []
    changes = list(queries.deployments(connection, version.model))
    for change, after in zip(changes, [*changes[1:], None], strict=False):
        if change.payload.get("version") == version.version:
            found.append(Served(change.at, after.at if after else None, change.payload.get("generation")))
    return found


@dataclass(frozen=True)
class Known:
    """Everything that is known of one version."""

    version: Version
    marks: list[str]
    served: list[Served]
    history: list[Happening]
    approvals: list[Json]
    decision: Decision | None
    scorecard: Scorecard | None
    rows: learned.Rows | None
    children: list[str]
    problems: list[str]  # files that are not where the store keeps them


def known(root: Path, database: Database, target: str, model: str | None = None) -> Known:
    """Ask the ledger and the store about a version."""
    with database.read() as connection:
        version = find(connection, target, model)
        marked = marks(connection).get((version.model, version.version), [])
        times, told = served(connection, version), history(connection, version)
        given = _opened(connection, queries.approvals_of(connection, version.model, version.release))
        children = queries.children(connection, version.model, version.version)
    return Known(
        version, marked, times, told, given, decision(root, version), scorecard(root, version), _rows(root, version.data_digest),
        children, list(missing(root, version)),
    )  # fmt: skip


def _opened(connection: Connection, given: list[Json]) -> list[Json]:
    """Approvals with the words that stand sealed in them; None where they were erased."""
    held = {value["sealed"] for one in given for value in one.values() if isinstance(value, dict) and "sealed" in value}
    said = queries.said(connection, held)

    def word(value: Any) -> Any:
        return said.get(value["sealed"]) if isinstance(value, dict) and "sealed" in value else value

    return [{name: word(value) for name, value in one.items()} for one in given]


def missing(root: Path, version: Version) -> Iterator[str]:
    """Files that should lie in the store and do not; their bytes are `slipway models verify`'s matter."""
    if version.state != "present":
        return
    folder = store.folder(root, version.model, version.version)
    for file in version.files:
        if not paths.is_plain(file.path) or not (folder / file.path).is_file():
            yield file.path
