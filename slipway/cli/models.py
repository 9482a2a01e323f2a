"""`slipway models list | show | compare | lineage | artifacts`: looking at versions."""

import contextlib
import json as json_module
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from slipway import settings
from slipway.errors import StageError, UsageError, size_text
from slipway.ledger.database import Database
from slipway.registry import catalog
from slipway.report import columns, figures

HEADLINES = ("tuned.exact_match", "tuned.macro_f1", "tuned.loss")  # a list has room for these
LIMIT = 50


@contextlib.contextmanager
def opened() -> Iterator[tuple[Path, Database]]:
    """The project and its ledger."""
    root = settings.find_root()
    database = Database.of(root)
    try:
        yield root, database
    finally:
        database.close()


def say(value: Any) -> None:
    print(json_module.dumps(value, indent=2, default=str))


# --- list -------------------------------------------------------------------------------------------------------------


def list_versions(model: str | None, stage: str | None, sort: str | None, limit: int, deleted: bool, json: bool) -> int:
    if limit < 0:
        raise UsageError(f"--limit is {limit}; give the number of versions to show, or 0 for all of them")
    with opened() as (_, database), database.read() as connection:
        found = catalog.listing(connection, model, _stage(stage), sort, limit or None, deleted)
    if json:
        listed = [_entry(entry) for entry in found.entries]
        print(json_module.dumps({"versions": listed, "total": found.total}, indent=2 if len(listed) < 200 else None))
        return 0
    if not found.entries:
        print("no version is registered yet; `slipway run` makes one" if not stage else f"no version is in {stage}")
        return 0
    print(*_table(found.entries), sep="\n")
    if hidden := found.total - len(found.entries):
        print(f"{hidden:,} more; `--limit 0` shows all {found.total:,}")
    return 0


def _stage(stage: str | None) -> str | None:
    known = ("None", "Staging", "Production", "Archived")
    found = next((one for one in known if stage is not None and one.lower() == stage.lower()), None)
    if stage is not None and found is None:
        raise UsageError(f"--stage is {catalog.shown(stage)}; there are {', '.join(known)}")
    return found


def _entry(entry: catalog.Entry) -> Any:
    row = entry.row
    told = {"model": row.model, "version": row.version, "serial": row.serial, "stage": row.stage, "state": row.state}
    told |= {"marks": list(entry.marks), "at": row.at, "release": row.release, "identity": row.identity}
    return told | {
        "metrics": row.metrics, "bytes": row.bytes, "author": entry.author, "decision": entry.decision,
    }  # fmt: skip


def _table(entries: Sequence[catalog.Entry]) -> Iterator[str]:
    """One line a version; the model's name only where there are several."""
    several = len({entry.row.model for entry in entries}) > 1
    there = {name for entry in entries[:500] for name in entry.row.metrics}
    metrics = [name for name in HEADLINES if name in there] or sorted(there)[:3]
    first = ["model"] if several else []
    headers = [*first, "version", "stage", "", "registered", *map(figures.label, metrics), "size", "author", "decision"]
    rows = [[*([entry.row.model] if several else []), *_cells(entry, metrics)] for entry in entries]
    start = len(first) + 4
    yield from columns.lines(headers, rows, range(start, start + len(metrics) + 1))


def _cells(entry: catalog.Entry, metrics: Sequence[str]) -> list[str]:
    row = entry.row
    stage = row.stage if row.state == "present" else f"{row.stage}, {row.state}"
    measured = [figures.show(name, row.metrics.get(name)) for name in metrics]
    size = size_text(row.bytes)
    return [
        row.version, stage, " ".join(entry.marks), when(row.at), *measured, size, entry.author or "–", entry.decision or "–",
    ]  # fmt: skip


def when(moment: str) -> str:
    """`2026-11-21 14:02`, UTC like every time here."""
    return moment[:16].replace("T", " ")


# --- show --------------------------------------------------------------------------------------------------------------


def show(target: str, model: str | None, json: bool) -> int:
    from slipway.report import version

    with opened() as (root, database):
        found = catalog.known(root, database, target, model)
    say(version.as_json(found)) if json else print(*version.lines(found), sep="\n")
    return 0


# --- compare -----------------------------------------------------------------------------------------------------------


def compare(
    targets: Sequence[str],
    model: str | None,
    every: bool,
    parts: Sequence[str],
    all_values: bool,
    html: Path | None,
    png: Path | None,
    json: bool,
) -> int:
    from slipway.registry import comparing
    from slipway.report import compare as comparison

    chosen: list[comparing.Part] = [part for part in comparing.PARTS if part in parts] or list(comparing.PARTS)
    with opened() as (root, database), database.read() as connection:
        subjects = _subjects(root, connection, targets, model, every)
    if len(subjects) < 2:
        raise UsageError(f"{'one version' if subjects else 'no version'} to compare; name two or more, or give --all")
    sheet = comparing.compare(subjects, chosen)
    written = list(_written(sheet, html, png))
    if json:
        print(json_module.dumps(comparing.as_json(sheet), indent=2 if len(subjects) < 50 else None))
    else:
        print(*comparison.lines(sheet, all_values), *(f"written: {path}" for path in written), sep="\n")
    return 0


def _subjects(root: Path, connection: Any, targets: Sequence[str], model: str | None, every: bool) -> Any:
    if not every:
        return catalog.subjects(root, connection, targets, model)
    if targets:
        raise UsageError(
            f"--all compares every version, and {catalog.shown(targets[0])} is named too; give one or the other"
        )
    return catalog.every_subject(root, connection, model)


def _written(sheet: Any, html: Path | None, png: Path | None) -> Iterator[Path]:
    from slipway.report import compare, compare_picture

    if html:
        yield write(html, compare.html(sheet).encode())
    if png:
        yield write(png, compare_picture.png(sheet))


def write(path: Path, data: bytes) -> Path:
    """Write what somebody asked for where they asked; never through a link, never over a folder."""
    from slipway import atomic
    from slipway.registry import paths

    paths.given(path, "the file")
    if path.is_symlink() or path.is_dir() or not path.parent.is_dir():
        what = (
            "a link"
            if path.is_symlink()
            else "a folder"
            if path.is_dir()
            else f"in {path.parent}, which does not exist"
        )
        raise UsageError(f"{path} is {what}; name a file in a folder that exists")
    try:
        atomic.write_bytes(path, data)
    except OSError as error:
        raise UsageError(
            f"{path} cannot be written ({error.strerror or error}); name a file in a folder of yours"
        ) from None
    return path


# --- lineage -----------------------------------------------------------------------------------------------------------


def lineage(target: str | None, model: str | None, row_text: Path | None, html: Path | None, json: bool) -> int:
    """1 when some version's rows cannot be asked: then nobody may say "no version learned from it"."""
    from slipway.registry import lineage as lineages
    from slipway.report import lineage as told

    if (target is None) == (row_text is None):
        raise UsageError("name one thing: a version, a raw data file, FILE:ROW, a digest, or --row-text FILE")
    with opened() as (root, database):
        if row_text is not None:
            found: lineages.Ancestry | lineages.Learners = lineages.of_text(root, database, _read(row_text))
        else:
            found = lineages.of_target(root, database, str(target), model)
    written = [write(html, told.html(found).encode())] if html else []
    if json:
        say(told.as_json(found))
    else:
        print(*told.lines(found), *(f"written: {path}" for path in written), sep="\n")
    if isinstance(found, lineages.Ancestry) or not found.unknown:
        return 0
    print(f"slipway: {told.doubt(found)}", file=sys.stderr)
    return StageError.exit_code


def _read(path: Path) -> bytes:
    if str(path) == "-":
        return sys.stdin.buffer.read()
    from slipway.registry import paths

    paths.given(path, "the file")
    if not path.is_file():
        raise UsageError(
            f"{path} is no file; name one with the rows as they stand in the raw data, or - for standard input"
        )
    return path.read_bytes()


# --- artifacts ---------------------------------------------------------------------------------------------------------


def artifacts(target: str, model: str | None, download: Path | None, base: bool, json: bool) -> int:
    from slipway.registry import download as downloads

    with opened() as (root, database):
        with database.read() as connection:
            version = catalog.find(connection, target, model)
        listed = downloads.download(root, version, download, base) if download else downloads.files(root, version, base)
    size = sum(one.bytes for one in listed)
    if json:
        files = [
            {"path": one.path, "bytes": one.bytes, "sha256": one.sha256, "here": one.source is not None}
            for one in listed
        ]
        to = str(download.resolve()) if download else None
        say({"model": version.model, "version": version.version, "files": files, "bytes": size, "downloaded": to})
        return 0
    if not download:
        rows = [[one.path, f"{one.bytes:,}", one.sha256, "" if one.source else "not here"] for one in listed]
        print(*columns.lines(["file", "bytes", "SHA-256", ""], rows, [1]), sep="\n")
    where = f"; every one is as recorded, in {download}" if download else ""
    print(f"{version.name}: {len(listed)} files, {size_text(size)}{where}")
    return 0
