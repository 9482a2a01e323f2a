"""The prompts of an offline run: read and checked line by line, and cut into shards that are answered one by one.

{"prompt": "a text as it is"}    or    {"messages": [{"role": "user", "content": "…"}]}    and, if wanted, "id"
"""

import hashlib
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar

from slipway import strict
from slipway.artifacts import Artifact, Json
from slipway.errors import StageError, UsageError

LONGEST = 16_000_000  # bytes of a line
SHOWN = 20  # bad rows that are named; the rest is counted
_KEYS = {"id", "prompt", "messages"}


@dataclass(frozen=True)
class PromptRow:
    """One prompt, and the line it stands on."""

    id: str
    source: str  # rows.jsonl:12
    prompt: str | list[Json]


class Shard(Artifact):
    """Lines of one file that are answered into one file."""

    file: str
    first: int  # its first line
    lines: int
    rows: int
    offset: int
    bytes: int
    sha256: str


class Plan(Artifact):
    """`predict.json`: what is answered by which version and how; a run that goes on has the very same."""

    FILE: ClassVar[str] = "predict.json"

    model: str
    version: str
    identity: str
    sampling: Json
    shard_rows: int
    shards: list[Shard]

    @property
    def rows(self) -> int:
        return sum(shard.rows for shard in self.shards)


@dataclass
class Faults:
    """What is wrong with the rows, all of it before the first is answered."""

    said: list[str] = field(default_factory=list)
    count: int = 0

    def add(self, source: str, what: str) -> None:
        self.count += 1
        if len(self.said) < SHOWN:
            self.said.append(f"{source}: {what}")

    def refuse(self) -> None:
        if self.count:
            more = f" (and {self.count - len(self.said)} more)" if self.count > len(self.said) else ""
            rows = "1 row" if self.count == 1 else f"{self.count} rows"
            raise UsageError(f"{rows} cannot be answered, so none was: {'; '.join(self.said)}{more}")


def files_of(given: Path) -> dict[str, Path]:
    """The input's files by the name they are called by; a folder's in order, those below it too."""
    if given.is_file():
        return {given.name: given}
    if not given.is_dir():
        raise UsageError(f"{given} does not exist; name a JSONL file or a folder of them")
    found = {path.relative_to(given).as_posix(): path for path in sorted(given.rglob("*.jsonl")) if path.is_file()}
    if not found:
        raise UsageError(f"{given} has no *.jsonl file; put the prompts there, one JSON object a line")
    if odd := next((name for name in found if not _is_text(name)), None):
        raise UsageError(f"{odd!a} in {given} has a name that is no UTF-8, so no answer can say it; rename it")
    return found


def unread(given: Path) -> list[str]:
    """What lies in a folder beside the prompts."""
    if not given.is_dir():
        return []
    names = (path.relative_to(given).as_posix() for path in given.rglob("*") if path.is_file())
    return sorted(ascii(name)[1:-1] for name in names if not name.endswith(".jsonl"))


def _is_text(text: str) -> bool:
    """Whether it can be written: JSON may name halves of characters, and file names may hold any bytes."""
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True


def shards_of(files: dict[str, Path], shard_rows: int, faults: Faults) -> list[Shard]:
    """Every row read and checked once; what is wrong goes to `faults`."""
    seen: dict[str, str] = {}
    shards = []
    for name, path in files.items():
        for lines in _cut(path, shard_rows):
            text = b"".join(lines.text)
            for row in rows_in(name, lines.first, text, faults):
                if (before := seen.setdefault(row.id, row.source)) != row.source:
                    faults.add(row.source, f"the id {row.id!r:.60} stands at {before} already; give each row its own")
            shards.append(
                Shard(
                    file=name, first=lines.first, lines=len(lines.text), rows=lines.rows, offset=lines.offset,
                    bytes=len(text), sha256=hashlib.sha256(text).hexdigest(),
                )
            )  # fmt: skip
    if not seen and not faults.count:
        raise UsageError(
            f"{', '.join(map(str, list(files.values())[:3]))}: no row to answer; write one JSON object a line"
        )
    return shards


@dataclass
class _Lines:
    first: int
    offset: int
    text: list[bytes] = field(default_factory=list)
    rows: int = 0


def _cut(path: Path, shard_rows: int) -> Iterator[_Lines]:
    """The file in pieces of so many rows; empty lines are no rows."""
    piece = _Lines(1, 0)
    with path.open("rb") as stream:
        while line := stream.readline(LONGEST + 1):
            piece.text.append(line)
            if len(line) > LONGEST:
                raise UsageError(f"{path}:{piece.first + len(piece.text) - 1}: a line of more than {LONGEST:,} bytes")
            piece.rows += bool(line.strip())
            if piece.rows == shard_rows:
                yield piece
                piece = _Lines(piece.first + len(piece.text), stream.tell())
    if piece.rows:
        yield piece


def rows_in(name: str, first: int, text: bytes, faults: Faults) -> Iterator[PromptRow]:
    """The rows of a piece of a file; those that are none go to `faults`."""
    for number, line in enumerate(text.split(b"\n"), first):
        if not line.strip():
            continue
        source = f"{name}:{number}"
        try:
            yield _row(source, strict.loads_json(line.decode("utf-8")))
        except UnicodeDecodeError as error:
            faults.add(source, f"not UTF-8 (byte {error.start})")
        except ValueError as error:
            faults.add(source, str(error).splitlines()[0][:200])


def _row(source: str, value: Any) -> PromptRow:
    """A row of the right shape; ValueError saying what is wrong."""
    if not isinstance(value, dict):
        raise ValueError(f"a {type(value).__name__}, not an object with a prompt or messages")
    if odd := sorted(value.keys() - _KEYS):
        raise ValueError(f"unknown key {odd[0]!r:.60}; a row has prompt or messages, and may have an id")
    if ("prompt" in value) == ("messages" in value):
        raise ValueError("needs one of prompt and messages, and not both")
    named = value.get("id", source)
    if isinstance(named, bool) or not isinstance(named, str | int) or not str(named) or not _is_text(str(named)):
        raise ValueError("id must be a text or a whole number")
    prompt = value["prompt"] if "prompt" in value else value["messages"]
    if "prompt" in value and not (isinstance(prompt, str) and prompt):
        raise ValueError("prompt must be a text that is not empty")
    if "messages" in value and not (isinstance(prompt, list) and prompt and all(isinstance(m, dict) for m in prompt)):
        raise ValueError("messages must be a list of objects with role and content")
    return PromptRow(str(named), source, prompt)


def read(files: dict[str, Path], shard: Shard) -> list[PromptRow]:
    """A shard's rows, from the very bytes that were checked when the run began."""
    path = files[shard.file]
    with path.open("rb") as stream:
        stream.seek(shard.offset)
        text = stream.read(shard.bytes)
    if (found := hashlib.sha256(text).hexdigest()) != shard.sha256:
        raise StageError(
            f"{path}:{shard.first} changed while it was answered: its lines have the SHA-256 {found}, "
            f"at the start it was {shard.sha256}; put them back, or answer into another folder"
        )
    faults = Faults()
    rows = list(rows_in(shard.file, shard.first, text, faults))
    faults.refuse()
    return rows


def difference(before: Plan, now: Plan) -> str | None:
    """In what a run that would go on differs from the one that began; None where it may."""
    if (before.model, before.version, before.identity) != (now.model, now.version, now.identity):
        was, now_is = (f"{plan.model}@{plan.version} ({plan.identity[:12]})" for plan in (before, now))
        return f"it was begun with {was}, now this would be {now_is}; name the first one"
    if odd := [key for key in {**before.sampling, **now.sampling} if before.sampling.get(key) != now.sampling.get(key)]:
        key = odd[0]
        return (
            f"it was begun with {key} {before.sampling.get(key)}, now it is {now.sampling.get(key)}; give the first one"
        )
    if before.shard_rows != now.shard_rows:
        return f"it was begun with {before.shard_rows} rows a shard, now it is {now.shard_rows}; give the first number"
    return _changed(before.shards, now.shards)


def _changed(before: Sequence[Shard], now: Iterable[Shard]) -> str | None:
    rest = list(now)
    if list(before) == rest:
        return None
    for was, is_now in zip(before, rest, strict=False):
        if was != is_now:
            return f"the input changed at {is_now.file}:{is_now.first} (SHA-256 {was.sha256[:12]}, now {is_now.sha256[:12]})"
    return f"the input had {sum(s.rows for s in before)} rows, now it has {sum(s.rows for s in rest)}"
