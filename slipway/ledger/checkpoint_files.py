"""Checkpoints as they stand in files: what each says, who signed it, and how lines are added and read.

<state>/audit/checkpoints.jsonl     those of this machine, one a line
<state>/audit/seen.jsonl            those of others, found at the second place (`audit_checkpoints` of configs/env)
"""

import os
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from pydantic import ValidationError, field_validator

from slipway import atomic, digest, strict
from slipway.artifacts import Artifact
from slipway.errors import of_storage
from slipway.ledger import clock, places, signatures
from slipway.ledger.chain import canonical
from slipway.registry import keys

FILE, SEEN = "checkpoints.jsonl", "seen.jsonl"
PURPOSE = "checkpoint"
_TAIL = 65_536  # bytes of a file that an act looks at, or as many as its last line has


class Checkpoint(Artifact):
    """Where the chain ended at a moment, and who says so."""

    number: int  # 1, 2, 3, … on this machine
    sequence: int
    hash: str
    at: str
    previous: str  # digest of the checkpoint before, so that none goes missing from the middle
    accepted: list[str]  # digests of checkpoints that a person let go (`slipway audit accept`)
    key: str
    signature: str

    @field_validator("at")
    @classmethod
    def _is_a_time(cls, at: str) -> str:
        clock.moment(at)
        return at

    @property
    def digest(self) -> str:
        return digest.of_bytes(canonical(self.model_dump(mode="json")).encode())

    @property
    def name(self) -> str:
        """What it is called at the second place: in order of time."""
        stamp = self.at.replace("-", "").replace(":", "")
        return f"{stamp}-{self.sequence:012d}-{self.digest[:12]}.json"

    def forged(self, trust: keys.Trust) -> str | None:
        """Why nobody whom we know has signed it; None when somebody has."""
        said = self.model_dump(mode="json", exclude={"signature"})
        return signatures.forged(trust, PURPOSE, said, self.key, self.signature)

    def doubt(self, trust: keys.Trust) -> str | None:
        """Why it is not believed; None when it is."""
        return self.forged(trust) or self.outdated(trust)

    def outdated(self, trust: keys.Trust) -> str | None:
        """Why the key that signed it is not believed of it any more; None when it is."""
        signed = clock.moment(self.at).replace(microsecond=0)  # keys count whole seconds
        why = trust.keys[self.key].doubt(signed, keys.now())
        return f"is signed by the key {self.key[:16]}, which {why}" if why else None


@dataclass(frozen=True)
class Line:
    """One line of a file of checkpoints, whatever stands there."""

    where: str
    checkpoint: Checkpoint | None
    wrong: str | None


def add(path: Path, added: Iterable[Checkpoint]) -> None:
    """Add whole lines; half a line, which a killed process left, goes first."""
    is_new = not path.exists()
    try:
        with path.open("ab") as stream:
            if cut := _torn(path):
                stream.truncate(cut[0])
            stream.write("".join(f"{canonical(one.model_dump(mode='json'))}\n" for one in added).encode())
            stream.flush()
            os.fsync(stream.fileno())
    except OSError as error:
        known = of_storage(error, path, 0)
        if known is None:
            raise
        raise known from None
    if is_new:
        atomic.fsync_folder(path.parent)


def _torn(path: Path) -> tuple[int, int] | None:
    """Where the last line begins and the file ends, when that line has no end."""
    start, data = _ending(path)
    whole, size = start + data.rfind(b"\n") + 1, start + len(data)
    return (whole, size) if whole < size else None


def _ending(path: Path) -> tuple[int, bytes]:
    """The newest lines of a file, at least one whole one where there is one, and where they begin."""
    window = _TAIL
    with path.open("rb") as stream:
        size = stream.seek(0, os.SEEK_END)
        while True:
            start = max(0, size - window)
            stream.seek(start)
            data = stream.read(size - start)
            begin = data.find(b"\n") + 1 if start else 0
            if not start or b"\n" in data[begin:]:
                return start + begin, data[begin:]
            window *= 2


# --- reading ----------------------------------------------------------------------------------------------------------


def own_path(root: Path) -> Path:
    return places.folder(root) / FILE


def seen_path(root: Path) -> Path:
    return places.folder(root) / SEEN


def lines(root: Path) -> list[Line]:
    """Every line of this machine's file."""
    return _lines(own_path(root))


def seen(root: Path) -> list[Line]:
    """Every checkpoint of others that was found at the second place."""
    return _lines(seen_path(root))


def _lines(path: Path) -> list[Line]:
    if not path.is_file():
        return []
    text = path.read_bytes().decode("utf-8", "replace")
    if text and not text.endswith("\n"):
        text = text[: text.rfind("\n") + 1]  # a process that was killed while it wrote has not vouched for anything
    return [parsed(line, f"{path}:{number}") for number, line in enumerate(text.split("\n")[:-1], start=1)]


def parsed(text: str, where: str = "") -> Line:
    try:
        found = Checkpoint.model_validate(strict.loads_json(text))
    except (ValidationError, ValueError):
        return Line(where, None, "is no checkpoint")
    if canonical(found.model_dump(mode="json")) != text:
        return Line(where, None, "is not as Slipway writes a checkpoint")
    return Line(where, found, None)


def whole(path: Path) -> list[Checkpoint]:
    """Every checkpoint of a file."""
    return [line.checkpoint for line in _lines(path) if line.checkpoint is not None]


def tail(path: Path) -> list[Line]:
    """The newest lines of a file: an act must not become slower with every act before it."""
    if not path.is_file():
        return []
    return [parsed(part.decode("utf-8", "replace"), str(path)) for part in _ending(path)[1].split(b"\n")[:-1]]


def accepting(path: Path) -> list[Checkpoint]:
    """Those of a file by which a person let others go, however long ago: few, and told by how their lines begin."""
    if not path.is_file():
        return []
    found = (parsed(line.decode("utf-8", "replace")) for line in path.read_bytes().split(b"\n")[:-1] if _lets_go(line))
    return [line.checkpoint for line in found if line.checkpoint is not None]


def _lets_go(line: bytes) -> bool:
    return line.startswith(b'{"accepted":["')


def digests(path: Path) -> set[str]:
    """The digests of every line of a file, by which a place's names can be told; nothing is parsed."""
    return {digest.of_bytes(line) for line in path.read_bytes().split(b"\n")[:-1]} if path.is_file() else set()
