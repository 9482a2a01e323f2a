"""Where raw data comes from: the sample, local files, S3 and the Hugging Face hub; pinned first, then brought in."""

import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from slipway import digest, settings
from slipway.artifacts import PinnedFile, SourcePin
from slipway.data import formats
from slipway.errors import StageError, UsageError

if TYPE_CHECKING:
    from slipway.params import IngestParams

SAMPLE = ("sample/support_desk.jsonl", "sample/test.jsonl")
PIN_AGAIN = "start a release (`slipway run`) to pin it again"

Role = Literal["data", "test"]


def pin(params: "IngestParams", root: Path, cache: Path) -> SourcePin:
    """What the sources hold right now; `cache` is a folder that remembers digests of unchanged local files."""
    data, test = params.source, params.test_source
    if data == "sample":
        data, test = SAMPLE[0], test or SAMPLE[1]
    files, revision = _pin(data, "data", root, cache)
    if test is not None:
        held_out, _ = _pin(test, "test", root, cache)
        if shared := sorted({file.uri for file in files} & {file.uri for file in held_out}):
            raise UsageError(f"{shared[0]} is in both ingest.source and ingest.test_source; keep it in one of them")
        files += held_out
    return SourcePin(source=params.source, test_source=params.test_source, revision=revision, files=files)


def _pin(source: str, role: Role, root: Path, cache: Path) -> tuple[list[PinnedFile], str | None]:
    if source.startswith("s3://"):
        from slipway.data import s3

        return s3.pin(source, role), None
    if source.startswith("hf://"):
        from slipway.data import hub

        return hub.pin(source, role)
    if "://" in source:
        raise UsageError(f"{source}: no such kind of source; use `sample`, a path or glob, s3://… or hf://…")
    return [_pin_local(path, role, root, cache) for path in _local(source, root)], None


def _local(source: str, root: Path) -> list[Path]:
    """The files that a path, a folder or a glob names, in one order everywhere."""
    path = root / Path(source).expanduser()
    if path.is_file():
        return [path]
    if path.is_dir():
        found = [file for file in digest.files_under(path) if file.name.lower().endswith(formats.SUFFIXES)]
        if not found:
            raise UsageError(f"{source} is a folder without {', '.join(formats.SUFFIXES)} files; name another")
        return found
    if any(character in source for character in "*?["):
        found = sorted(file for file in Path(path.anchor).glob(str(path.relative_to(path.anchor))) if file.is_file())
        if not found:
            raise UsageError(f"{source} matches no file; correct ingest.source in params.yaml")
        return found
    raise UsageError(f"{source} does not exist (looked for {path}); correct ingest.source in params.yaml")


def _pin_local(path: Path, role: Role, root: Path, cache: Path) -> PinnedFile:
    resolved, home = path.resolve(), root.resolve()
    uri = resolved.relative_to(home).as_posix() if resolved.is_relative_to(home) else resolved.as_posix()
    if (size := resolved.stat().st_size) == 0:
        raise UsageError(f"{uri} is empty; give a file with at least one row")
    return PinnedFile(uri=uri, role=role, bytes=size, sha256=digest.of_file_once(resolved, cache))


def _basename(uri: str) -> str:
    return uri.partition("?")[0].rstrip("/").rpartition("/")[2]


def _targets(pin: SourcePin, folder: Path) -> Iterator[tuple[PinnedFile, Path]]:
    counts = {"data": 0, "test": 0}
    for file in pin.files:
        suffix = ".parquet" if file.uri.startswith("hf://") else ""
        yield file, folder / f"{file.role}-{counts[file.role]:05d}-{_basename(file.uri)}{suffix}"
        counts[file.role] += 1


def fetch_raw(pin: SourcePin, folder: Path) -> dict[str, PinnedFile]:
    """Bring exactly the pinned bytes into a folder, file by file. Relative URIs count from the current folder."""
    fetched: dict[str, PinnedFile] = {}
    for file, target in _targets(pin, folder):
        if file.uri.startswith("s3://"):
            from slipway.data import s3

            s3.fetch(file, target)
        elif file.uri.startswith("hf://"):
            from slipway.data import hub

            hub.fetch(file, target)
        else:
            _fetch_local(file, target)
        fetched[target.name] = file
    return fetched


def _fetch_local(file: PinnedFile, target: Path) -> None:
    source = Path(file.uri)
    if not source.is_file():  # a worktree holds what git tracks; the rest lies in its project
        source = settings.project_folder(Path.cwd()) / file.uri
    if not source.is_file():
        raise StageError(f"{file.uri} is gone since it was pinned in {SourcePin.FILE}; restore it or {PIN_AGAIN}")
    shutil.copyfile(source, target)
    if (found := digest.of_file(target)) != file.sha256:
        raise StageError(
            f"source changed since it was pinned: {file.uri} has SHA-256 {found[:12]}…, "
            f"{SourcePin.FILE} says {str(file.sha256)[:12]}…; {PIN_AGAIN}"
        )
