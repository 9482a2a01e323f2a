"""Where a version came from, and which versions learned from a file, a row or a data set."""

import json
import re
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from sqlalchemy import Connection

from slipway import digest, records
from slipway.artifacts import Json
from slipway.data import personal, rows
from slipway.data.formats import Record
from slipway.errors import SlipwayError, UsageError
from slipway.ledger import catalog as queries
from slipway.ledger.database import Database
from slipway.model import NAME
from slipway.registry import catalog, learned, versions
from slipway.registry.learned import Learned, Unreadable
from slipway.registry.versions import Version
from slipway.report.release import Release

_ROW = re.compile(r"[0-9a-fA-F]{16}")
_NUMBER = re.compile(rf"(?:{NAME}@)?[v#]?[0-9][0-9A-Za-z+-]*(?:\.[0-9][0-9A-Za-z+-]*)*|[a-z]+")
_BROUGHT = re.compile(r"^(data|test)-\d{5}-")  # what `ingest` puts before a file's own name
_DIGEST = re.compile(r"[0-9a-fA-F]{64}")
_LARGEST_ROWS = 64_000_000  # bytes of rows that are asked about at once

Kind = Literal["file", "row", "data", "base", "identity"]


# --- backwards: what a version was made from -------------------------------------------------------------------------


@dataclass(frozen=True)
class Link:
    """One thing on the way to or from a version."""

    name: str
    value: str
    digest: str | None = None


@dataclass(frozen=True)
class Ancestry:
    """A version with everything it was made from, and what came of it."""

    version: Version
    made_by: list[Link]  # release, MLflow run, commit, tag, params
    learned_from: list[Link]  # data, its files and rows, the base
    judged_by: list[Link]
    compared_with: str | None
    children: list[str]
    served: list[catalog.Served]


def of_version(root: Path, database: Database, version: Version) -> Ancestry:
    with database.read() as connection:
        children = queries.children(connection, version.model, version.version)
        served = catalog.served(connection, version)
    made, judged = list(_made_by(root, version)), list(_judged_by(version))
    return Ancestry(version, made, list(_learned_from(root, version)), judged, version.parent, children, served)


def _made_by(root: Path, version: Version) -> Iterator[Link]:
    record = _record(root, version)
    yield Link("release", version.release)
    if record and record.mlflow_run_id:
        yield Link("MLflow run", record.mlflow_run_id)
    if version.mlflow_version:
        yield Link("MLflow version", version.mlflow_version)
    yield Link("commit", version.commit or "not in git")
    if version.tag:
        yield Link("tag", version.tag)
    yield Link("params", "params.yaml as it was", digest.of_value(version.params))


def _record(root: Path, version: Version) -> Any:
    try:
        return Release.load(records.folder_of(root, version.release) / Release.FILE)
    except SlipwayError:  # cleaned up, or made on another machine
        return None


def _learned_from(root: Path, version: Version) -> Iterator[Link]:
    about = _index(root, version.data_digest)
    counted = (
        ", ".join(f"{count:,} {split}" for split, count in about.counts.items())
        if about
        else "its rows are not indexed"
    )
    yield Link("data", f"{version.data_version or 'no version stated'} ({counted})", version.data_digest)
    if about:
        yield Link("rows", f"{sum(about.counts.values()):,} row digests", about.sha256)
    for file in version.sources:
        yield Link("file", f"{file.path} ({file.bytes:,} bytes)", file.sha256)
    yield Link("base", version.base_source, version.base_digest)


def _index(root: Path, data_digest: str) -> learned.Rows | None:
    try:
        return learned.describe(root, data_digest)
    except SlipwayError:
        return None


def _judged_by(version: Version) -> Iterator[Link]:
    yield Link("identity", "", version.identity)
    yield Link("evidence", "", version.evidence_digest)
    yield Link("policy", "", version.policy_digest)


# --- forwards: who learned from it -----------------------------------------------------------------------------------


@dataclass(frozen=True)
class Learner:
    """A version that has something in it, and where."""

    model: str
    version: str
    state: str
    marks: tuple[str, ...]
    where: tuple[str, ...]  # "train: tickets.jsonl row 17"


@dataclass(frozen=True)
class Learners:
    """Which versions learned from something; `unknown`: those of which nobody can tell."""

    kind: Kind
    target: str
    versions: list[Learner]
    asked: int = 0  # versions that were looked through
    unknown: list[str] = field(default_factory=list)
    rows: list[str] = field(default_factory=list)  # the digests that stand for a row given as text


def of_target(root: Path, database: Database, target: str, model: str | None = None) -> Ancestry | Learners:
    """By a version, a digest (row, file, data, base, identity), a raw file's path, or FILE:ROW of it."""
    if not target.isprintable():
        raise _unknown(target)
    if _DIGEST.fullmatch(target) or _ROW.fullmatch(target):
        return _of_digest(root, database, target.lower())
    with database.read() as connection:
        try:
            version = versions.resolve(connection, target, model)
        except UsageError as error:
            return _of_path(root, connection, target, error)
    return of_version(root, database, version)


def _of_digest(root: Path, database: Database, target: str) -> Learners:
    """64 digits may be a file's, a data set's, a base's or a model's; 16, or the first of 64, a row's."""
    with database.read() as connection:
        if len(target) == 64 and (found := _by_digest(connection, target)):
            return found
        return _of_rows(root, connection, target, {target[:16]: None})


def _by_digest(connection: Connection, target: str) -> Learners | None:
    kinds: dict[Kind, str] = {"data": "data_digest", "base": "base_digest", "identity": "identity"}
    for kind, column in kinds.items():
        if holders := queries.having(connection, column, target):
            return _learners(connection, kind, target, holders)
    return _by_file(connection, target, lambda file: file["sha256"] == target)


def _by_file(connection: Connection, target: str, is_it: Callable[[Json], bool]) -> Learners | None:
    """Versions with a raw data file of this kind; None when there is none."""
    holders = []
    for holder, sources in queries.naming(connection, target.rpartition("/")[2]):
        if where := tuple(str(file["path"]) for file in sources if is_it(file)):
            holders.append((*holder, where))
    return _learners(connection, "file", target, holders) if holders else None


def _learners(connection: Connection, kind: Kind, target: str, holders: Sequence[tuple[Any, ...]]) -> Learners:
    marked = catalog.marks(connection)
    found = [_learner(marked, *holder) for holder in holders]
    return Learners(kind, target, found, len(found))


def _learner(
    marked: dict[queries.Key, list[str]], model: str, version: str, state: str, where: tuple[str, ...] = ()
) -> Learner:
    return Learner(model, version, state, tuple(marked.get((model, version), ())), where)


def _of_path(root: Path, connection: Connection, target: str, unknown: UsageError) -> Learners:
    """By the path a version recorded for its raw data, or by the bytes of a file of this project."""
    file, _, row = target.rpartition(":")
    if row.isascii() and row.isdigit() and file and len(row) < 16:
        return _of_place(root, connection, target, file, int(row))
    if found := _by_name(root, connection, target):
        return found
    if _NUMBER.fullmatch(target):
        raise unknown
    raise _unknown(target)


def _unknown(target: str) -> UsageError:
    return UsageError(
        f"{catalog.shown(target)} is no version, no digest, and no raw data file that a version learned from; "
        f"`slipway models list` names versions, and of a file elsewhere give its SHA-256"
    )


def _by_name(root: Path, connection: Connection, target: str) -> Learners | None:
    """By the path as it was recorded; by the bytes of a file of this project; by a name alone, as `ingest` changed it."""
    if found := _by_file(connection, target, lambda file: file["path"] == target):
        return found
    if (path := _of_project(root, target)) is not None and (found := _by_digest(connection, digest.of_file(path))):
        return found
    if "/" in target:
        return None
    return _by_file(connection, target, lambda file: _BROUGHT.sub("", file["path"]) == target)


def _of_project(root: Path, target: str) -> Path | None:
    """A file inside the project by its path; a path that leads out of it is never touched."""
    if not all(character.isprintable() for character in target):
        return None
    inside, path = root.resolve(), Path(target)
    lexical = path if path.is_absolute() else Path.cwd() / path
    if ".." in path.parts or not lexical.is_relative_to(inside):
        return None
    try:
        found = lexical.resolve()
        return found if found.is_relative_to(inside) and found.is_file() else None
    except OSError:
        return None


# --- rows ------------------------------------------------------------------------------------------------------------


def _of_place(root: Path, connection: Connection, target: str, file: str, row: int) -> Learners:
    name = file.rpartition("/")[2]
    found = _asked(root, connection, lambda data: learned.of_place(root, data, name, row))
    if not any(one.where for one in found.versions) and not found.unknown:
        raise UsageError(
            f"no version learned from {catalog.shown(target)}: no data set has that row of that file; "
            f"`slipway models lineage VERSION` names its files"
        )
    return Learners("row", target, found.versions, found.asked, found.unknown)


def _of_rows(root: Path, connection: Connection, target: str, wanted: dict[str, set[str] | None]) -> Learners:
    """`wanted`: row digest → the data sets it is the digest in (None: all)."""

    def look(data: str) -> list[Learned]:
        ids = (id for id, only in wanted.items() if only is None or data in only)
        return [one for id in ids for one in learned.of_row(root, data, id)]

    found = _asked(root, connection, look)
    return Learners("row", target, found.versions, found.asked, found.unknown, sorted(wanted))


def _asked(root: Path, connection: Connection, look: Any) -> Learners:
    """Every data set is asked once, whatever many versions were made of it."""
    marked = catalog.marks(connection)
    found: list[Learner] = []
    unknown: list[str] = []
    by_data = queries.keys_by_data(connection)
    for data, keys in by_data.items():
        try:
            where = tuple(dict.fromkeys(f"{one.split}: {one.file} row {one.row}" for one in look(data)))
        except Unreadable as error:
            unknown.append(f"{', '.join(f'{model} {version}' for model, version, _ in keys[:5])}: {error}")
            continue
        if where:
            found += [_learner(marked, *key, where) for key in keys]
    return Learners("row", "", found, sum(map(len, by_data.values())), unknown)


def of_text(root: Path, database: Database, data: bytes) -> Learners:
    """By rows as they stand in the raw data: JSON, or a line of JSON for each. The digest is made as `prepare` makes it."""
    given = list(_parsed(data))
    with database.read() as connection:
        prepared = queries.sections(connection, "prepare")
        wanted: dict[str, set[str] | None] = {}
        for row in given:
            for text, digests in prepared.items():
                id = prepared_id(row, _redacted(text))
                wanted[id] = (wanted.get(id) or set()) | set(digests)
        return _of_rows(root, connection, "the given rows", wanted)


def prepared_id(row: rows.Row, redact: Iterable[str]) -> str:
    """A raw row's digest once `prepare` has cleaned it (slipway.data.preparation.Cleaner)."""
    kinds = list(redact)
    return row.with_texts(rows.normal).with_texts(lambda text: personal.redact(text, kinds)).id


def _redacted(section: str) -> list[str]:
    found = json.loads(section).get("redact", [])
    return [str(kind) for kind in found] if isinstance(found, list) else []


def _parsed(data: bytes) -> Iterator[rows.Row]:
    """Rows out of JSON text; UsageError saying what is wrong with one, without repeating it."""
    for number, value in enumerate(_values(data), 1):
        found = rows.of_record("given", Record(number, "", value)) if isinstance(value, dict) else None
        if found is None:
            raise UsageError(f"row {number} is a {type(value).__name__}, not an object; write it as in the raw data")
        if isinstance(found, rows.Drop):
            raise UsageError(f"row {number} is none that `prepare` would keep: {found.reason} ({found.detail})")
        yield found


def _values(data: bytes) -> list[Any]:
    if len(data) > _LARGEST_ROWS:
        raise UsageError(f"that is {len(data):,} bytes of rows, more than {_LARGEST_ROWS:,}; ask about fewer at once")
    try:
        text = data.decode("utf-8")
    except UnicodeDecodeError as error:
        raise UsageError(f"the rows are not UTF-8 (byte {error.start}); save them as UTF-8") from None
    if (whole := _json(text)) is not None:
        return whole if isinstance(whole, list) else [whole]
    values = [_json(line) for line in text.splitlines() if line.strip()]
    if not values or None in values:
        bad = values.index(None) + 1 if values else 1
        raise UsageError(f"row {bad} is no JSON; give each row as it stands in the raw data, one a line")
    return values


def _json(text: str) -> Any:
    try:
        return json.loads(text)
    except (ValueError, RecursionError):
        return None
