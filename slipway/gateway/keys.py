"""API keys: made here, kept as SHA-256 alone, known to HAProxy by a map that is kept in step while it runs."""

import fcntl
import hashlib
import secrets
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated

from pydantic import BaseModel, ConfigDict, Field, StringConstraints, ValidationError

from slipway import atomic, strict
from slipway.errors import StageError, UsageError

FILE = "keys.json"
PREFIX = "slw_"


class Key(BaseModel):
    """Who may ask, and how often; the key itself is nowhere."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    id: Annotated[str, StringConstraints(pattern=r"^[0-9a-f]{12}$")]
    name: Annotated[str, StringConstraints(pattern=r"^[A-Za-z0-9][A-Za-z0-9 ._@-]{0,62}$")]
    sha256: Annotated[str, StringConstraints(pattern=r"^[0-9a-f]{64}$")]
    tester: bool = False
    requests_per_minute: Annotated[int, Field(ge=0, le=100_000_000)] = 0  # 0: as configs/gateway.yaml says
    made: str

    @property
    def entry(self) -> tuple[str, str]:
        """How HAProxy's map has it."""
        return self.sha256.upper(), f"{self.id}:{'tester' if self.tester else 'user'}:{self.requests_per_minute}"


class _Keys(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)

    keys: list[Key] = []


def load(folder: Path) -> list[Key]:
    """Every key that is valid; a file that cannot be read lets nobody in."""
    path = folder / FILE
    if not path.exists():
        return []
    try:
        return _Keys.model_validate(strict.read_json(path)).keys
    except ValidationError as error:
        first = error.errors()[0]
        key = ".".join(str(part) for part in first["loc"])
        raise StageError(f"{path}: {key}: {first['msg']}; restore it, or remove it and make new keys") from None


def new(folder: Path, name: str, tester: bool, requests_per_minute: int) -> tuple[Key, str]:
    """A new key, and its text, which is shown this once."""
    text = PREFIX + secrets.token_urlsafe(32)
    values = {
        "id": secrets.token_hex(6), "name": name, "sha256": hashlib.sha256(text.encode()).hexdigest(), "tester": tester,
        "requests_per_minute": requests_per_minute, "made": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
    }  # fmt: skip
    try:
        key = Key.model_validate(values)
    except ValidationError as error:
        first = error.errors()[0]
        raise UsageError(f"--{first['loc'][0]} is {first['input']!r:.80}: {first['msg']}; correct it") from None
    with _alone(folder):
        there = load(folder)
        if any(one.name == name for one in there):
            raise UsageError(f"there is a key named {name} already; revoke it first, or choose another name")
        _save(folder, [*there, key])
    return key, text


def revoke(folder: Path, wanted: str) -> Key:
    """Take a key away, by its id or name."""
    with _alone(folder):
        there = load(folder)
        found = [key for key in there if wanted in (key.id, key.name)]
        if not found:
            names = ", ".join(key.name for key in there) or "none"
            raise UsageError(f"no key {ascii(wanted)[:80]}; there are {names} (`slipway gateway keys list`)")
        _save(folder, [key for key in there if key is not found[0]])
    return found[0]


def _save(folder: Path, keys: list[Key]) -> None:
    atomic.write_json(folder / FILE, {"keys": [key.model_dump() for key in keys]})


@contextmanager
def _alone(folder: Path) -> Iterator[None]:
    folder.mkdir(parents=True, exist_ok=True, mode=0o700)
    with (folder / "keys.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield


def map_text(keys: list[Key]) -> str:
    return "".join(f"{name} {value}\n" for name, value in (key.entry for key in keys))


def difference(before: list[Key], now: list[Key], file: str) -> list[str]:
    """Runtime commands from one set of keys to another."""
    old, new_ = dict(key.entry for key in before), dict(key.entry for key in now)
    gone = [f"del map {file} {name}" for name in old if name not in new_]
    come = [f"add map {file} {name} {value}" for name, value in new_.items() if name not in old]
    return gone + come + [f"set map {file} {n} {v}" for n, v in new_.items() if n in old and old[n] != v]
