"""All that knows DVC: is anything to do, and run one stage the way `dvc repro` does."""

import asyncio
import contextlib
import json
import os
import re
import signal
import sys
from collections.abc import AsyncIterator, Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from slipway.errors import SlipwayError, StageError, Transient, UsageError, of_exit_code

Status = Literal["ran", "cached", "unchanged"]

GRACE_SECONDS = 10.0  # between SIGTERM and SIGKILL, for a checkpoint to be finished
_LAST_LINES = 20
_LONGEST_LINE = 100_000


@dataclass(frozen=True)
class Done:
    """How one `dvc repro --single-item` ended well."""

    status: Status
    record: dict[str, Any]  # the attempt's own terminal record; empty when DVC had nothing to run


def changed_stages(root: Path) -> list[str]:
    """The stages that `dvc repro` would run, asked in this process (0.2 s); outputs missing from disk count."""
    import logging

    logging.getLogger("dvc").setLevel(logging.CRITICAL)
    from dvc.exceptions import DvcException
    from dvc.lock import LockError
    from dvc.repo import Repo

    try:
        with Repo(str(root)) as repo:
            return sorted(repo.status())
    except LockError as error:
        raise Transient(
            f"DVC is at work in {root}: {' '.join(str(error).split())}; run again when it is done"
        ) from None
    except DvcException as error:
        said = " ".join(str(error).split())
        raise UsageError(f"DVC cannot read the project at {root}: {said}; `slipway doctor` may know more") from None


def set_params(root: Path, changes: list[str]) -> None:
    """Apply `section.key=value` changes to params.yaml, comments kept; the values are checked when a stage reads them."""
    import yaml
    from dvc.utils.serialize import modify_yaml

    with modify_yaml(root / "params.yaml") as document:
        for change in changes:
            name, separator, text = change.partition("=")
            *sections, key = name.split(".")
            place = document
            for section in sections:
                place = place.get(section) if isinstance(place, dict) else None
            if not separator or not isinstance(place, dict) or key not in place:
                raise UsageError(
                    f"no parameter {name!r} in params.yaml; write `section.key=value` with a key that stands there"
                )
            try:
                place[key] = yaml.safe_load(text)
            except yaml.YAMLError:
                raise UsageError(f"the value of {change!r} is not one that YAML can read; quote it") from None


async def push(root: Path, environment: Mapping[str, str]) -> None:
    """Send what the stages made to the DVC remote, so that any clone can have it."""
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-m", "dvc", "push", cwd=root, env=dict(environment),
        stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.STDOUT,
    )  # fmt: skip
    output, _ = await process.communicate()
    if process.returncode:
        said = [line for line in output.decode(errors="replace").splitlines() if line.startswith("ERROR")]
        raise Transient(f"the outputs did not reach the DVC remote: {_last_words(said)}; `dvc push` when it is back")


async def repro(
    name: str, attempt: str, root: Path, environment: Mapping[str, str], on_line: Callable[[str], None]
) -> Done:
    """Run `dvc repro --single-item NAME` in its own process group; a typed error when it fails."""
    command = ["-m", "dvc", "repro", "--single-item", name]
    code, record, lines = await _grouped(name, command, attempt, root, environment, on_line)
    if code:
        raise _error(name, code, record, lines)
    return Done(_status(lines, record), record)


async def perform(
    name: str, attempt: str, root: Path, environment: Mapping[str, str], on_line: Callable[[str], None]
) -> Done:
    """Do an act in its own process group, DVC knowing nothing of it; a typed error when it fails."""
    command = ["-m", "tasks", name, "--release", environment["SLIPWAY_RELEASE"]]
    code, record, lines = await _grouped(name, command, attempt, root, environment, on_line)
    if record.get("error"):
        raise of_exit_code(int(record["exit"]), str(record["error"]))
    if code:
        killed = (
            f"its process was killed (signal {-code}); run again" if code < 0 else _last_words(lines[-_LAST_LINES:])
        )
        raise of_exit_code(Transient.exit_code if code < 0 else code, f"{name}: {killed}")
    return Done("ran", record)


async def _grouped(
    name: str,
    words: list[str],
    attempt: str,
    root: Path,
    environment: Mapping[str, str],
    on_line: Callable[[str], None],
) -> tuple[int, dict[str, Any], list[str]]:
    """Run Python with these words in a process group of its own: exit code, the attempt's own record, all lines.

    Whatever ends this coroutine ends the group: cancelling it here, and a death of this process through the lifeline
    (see tasks/_attempt.py).
    """
    env = {**environment, "SLIPWAY_ATTEMPT": attempt, "SHELL": "/bin/sh"}
    process = await asyncio.create_subprocess_exec(
        sys.executable, *words, cwd=root, env=env, start_new_session=True,
        stdin=asyncio.subprocess.DEVNULL, stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.STDOUT,
    )  # fmt: skip
    assert process.stdout is not None
    lines: list[str] = []
    try:
        async for line in _lines(process.stdout):
            lines.append(line)
            on_line(line)
        code = await process.wait()
    finally:
        await _end_group(process)
    return code, _record(Path(environment["SLIPWAY_SCRATCH"]) / "attempts" / name / f"{attempt}.end.json"), lines


async def _lines(stream: asyncio.StreamReader) -> AsyncIterator[str]:
    """Lines as a terminal would show them: a progress bar's carriage return ends one too, and none is too long."""
    rest = ""
    while chunk := await stream.read(65536):
        *whole, rest = re.split(r"[\r\n]", rest + chunk.decode(errors="replace"))
        if len(rest) > _LONGEST_LINE:
            whole, rest = [*whole, rest], ""
        for line in whole:
            if line.strip():
                yield line.rstrip()
    if rest.strip():
        yield rest.rstrip()


async def _end_group(process: asyncio.subprocess.Process) -> None:
    """Nothing of the group lives on: SIGTERM, a moment's grace, SIGKILL."""
    try:
        if process.returncode is None:
            os.killpg(process.pid, signal.SIGTERM)
            with contextlib.suppress(asyncio.TimeoutError):
                await asyncio.wait_for(process.wait(), GRACE_SECONDS)
    except ProcessLookupError:
        pass
    finally:  # also when a second Ctrl-C ends the grace
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)


def _record(path: Path) -> dict[str, Any]:
    try:
        return dict(json.loads(path.read_text()))
    except FileNotFoundError:
        return {}


def _status(lines: list[str], record: Mapping[str, Any]) -> Status:
    if record.get("outcome") == "done":
        return "ran"
    return "cached" if any("is cached - skipping run" in line for line in lines) else "unchanged"


def _last_words(lines: list[str]) -> str:
    return " / ".join(line.removeprefix("ERROR: ") for line in lines[-3:]) or "it said nothing"


def exit_code_of(text: str) -> int | None:
    """The stage's own exit code: `dvc repro` always exits 255 and says the real one only in its text."""
    found = re.search(r"exited with (-?\d+)", text)
    return int(found.group(1)) if found else None


def _error(name: str, code: int, record: Mapping[str, Any], lines: list[str]) -> SlipwayError:
    """What a failed repro means: the stage's own last word first, then DVC's text."""
    if record.get("error"):
        return of_exit_code(int(record["exit"]), str(record["error"]))
    text = "\n".join(lines)
    if "is busy, it is being blocked by" in text or "Unable to acquire lock" in text:
        holder = re.search(r"\(PID (\d+)\): (.+)", text)
        by = f"`{holder.group(2)}` (PID {holder.group(1)})" if holder else "another DVC process"
        return Transient(f"{name}: this workspace is held by {by}; wait for it to end, then run again")
    if (own := exit_code_of(text)) is not None and own > 0:
        return of_exit_code(own, f"{name}: {_last_words(lines[-_LAST_LINES:])}")
    if own is not None or code < 0:
        return Transient(
            f"{name}: its process was killed (signal {abs(own or code)}); run again to go on where it stopped"
        )
    return StageError(f"{name}: `dvc repro` failed: {_last_words(lines[-_LAST_LINES:])}")
