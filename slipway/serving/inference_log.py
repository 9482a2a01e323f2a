"""The inference log: a row a request and a row a judgement, in Parquet, for drift detection, canary judgement and replay.

A file is whole or not there. Rows wait in memory until there are `buffer_rows` of them or the oldest is `flush_seconds` old;
a crash loses those and no others. Writing happens in a thread of its own: no request waits for it, and where the disk cannot
follow, rows are dropped and counted.
"""

import contextlib
import itertools
import os
import secrets
import threading
import time
from collections.abc import Iterable, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal
from urllib.parse import quote

from slipway import settings
from slipway.artifacts import Json
from slipway.data.redaction import redacted
from slipway.serving import config

if TYPE_CHECKING:
    import pyarrow as pa

Kind = Literal["requests", "feedback"]
BUFFER_BYTES = 16_000_000  # of prompts and answers: where rows are long, a file is written earlier
_BEHIND = 4  # buffers that may wait for the disk before rows are dropped
_TEXTS = ("prompt", "answer", "comment")
_REQUESTS = {
    "time": "time", "request_id": "text", "answer_id": "text", "user_hash": "text", "model": "text", "version": "text",
    "identity": "text", "track": "text", "endpoint": "text", "status": "int", "prompt": "text", "answer": "text",
    "prompt_tokens": "int", "answer_tokens": "int", "latency_seconds": "float", "first_token_seconds": "float",
    "queue_seconds": "float", "failover": "bool", "cached": "bool",
}  # fmt: skip
_FEEDBACK = {
    "time": "time", "answer_id": "text", "user_hash": "text", "model": "text", "version": "text", "score": "float",
    "label": "text", "correct": "bool", "comment": "text", "replaced": "bool",
}  # fmt: skip
COLUMNS = {"requests": tuple(_REQUESTS), "feedback": tuple(_FEEDBACK)}


def folder(root: Path, model: str) -> Path:
    return settings.state_folder(root) / "inference" / quote(model, safe="")


class Log:
    """Writes the rows of one replica."""

    def __init__(self, root: Path, chosen: config.Log) -> None:
        self._root, self._config = root, chosen
        self._rows: dict[tuple[str, Kind], list[Json]] = {}
        self._count = self._bytes = 0
        self._oldest: float | None = None
        self._woken = threading.Condition()
        self._name = secrets.token_hex(6)  # replicas on other machines may have the same process id
        self._numbers = itertools.count(1)
        self._stopping = False
        self.dropped = 0
        self._thread = threading.Thread(target=self._work, name="inference-log", daemon=True)

    def start(self) -> None:
        self._thread.start()

    def add(self, kind: Kind, model: str, row: Json) -> None:
        """Never waits, and never fails."""
        size = sum(len(row.get(name) or "") for name in _TEXTS)
        with self._woken:
            if self._count >= _BEHIND * self._config.buffer_rows or self._bytes + size > _BEHIND * BUFFER_BYTES:
                self.dropped += 1
                return
            self._rows.setdefault((model, kind), []).append(row)
            self._count, self._bytes = self._count + 1, self._bytes + size
            self._oldest = self._oldest or time.monotonic()
            self._woken.notify()

    def stop(self, seconds: float = 30) -> None:
        """Write what is left."""
        with self._woken:
            self._stopping = True
            self._woken.notify()
        if self._thread.is_alive():
            self._thread.join(seconds)

    def _work(self) -> None:
        _table("requests", [{"status": 200}])  # Arrow and what it brings take seconds to come: now, not at the end
        while True:
            with self._woken:
                while not self._stopping and not self._due():
                    self._woken.wait(self._patience())
                taken, ends = self._taken(), self._stopping
            for (model, kind), rows in taken.items():
                self._write(kind, model, rows)
            if ends:
                return

    def _due(self) -> bool:
        if self._count >= self._config.buffer_rows or self._bytes >= BUFFER_BYTES:
            return True
        return self._oldest is not None and time.monotonic() - self._oldest >= self._config.flush_seconds

    def _patience(self) -> float | None:
        if self._oldest is None:
            return None
        return max(0.01, self._oldest + self._config.flush_seconds - time.monotonic())

    def _taken(self) -> dict[tuple[str, Kind], list[Json]]:
        taken, self._rows = self._rows, {}
        self._count, self._bytes, self._oldest = 0, 0, None
        return taken

    def _write(self, kind: Kind, model: str, rows: list[Json]) -> None:
        """One file; rows that the disk does not take are lost and counted, and serving goes on."""
        place = folder(self._root, model)
        name = f"{kind}-{datetime.now(UTC):%Y%m%dT%H%M%S}-{self._name}-{next(self._numbers):06d}.parquet"
        try:
            place.mkdir(parents=True, exist_ok=True)
            _write(place / name, kind, [_plain(row) for row in rows])
            prune(place, self._config)
        except (OSError, ValueError):  # the second is Arrow's, for what its types cannot hold
            self.dropped += len(rows)


def _plain(row: Json) -> Json:
    return row | {name: redacted(row[name]) for name in _TEXTS if row.get(name) is not None}


def _schema(kind: Kind) -> "pa.Schema":
    import pyarrow as pa
    import pyarrow.parquet

    types = {
        "time": pa.timestamp("us", tz="UTC"), "text": pa.string(), "int": pa.int64(), "float": pa.float64(),
        "bool": pa.bool_(),
    }  # fmt: skip
    return pa.schema([(name, types[of]) for name, of in (_REQUESTS if kind == "requests" else _FEEDBACK).items()])


def _table(kind: Kind, rows: list[Json]) -> "pa.Table":
    import pyarrow as pa

    return pa.Table.from_pylist(rows, schema=_schema(kind))


def _write(path: Path, kind: Kind, rows: list[Json]) -> None:
    from pyarrow import parquet

    from slipway import atomic

    partial = path.with_name(f".{path.name}.partial")
    try:
        with partial.open("wb") as stream:
            parquet.write_table(_table(kind, rows), stream, compression="zstd")
            stream.flush()
            os.fsync(stream.fileno())
        partial.replace(path)
    finally:
        partial.unlink(missing_ok=True)
    atomic.fsync_folder(path.parent)


def prune(place: Path, chosen: config.Log) -> None:
    """Remove what is older or more than is kept, and what killed replicas left half written."""
    now, kept = time.time(), 0
    for path in sorted(place.glob(".*.partial")):
        with contextlib.suppress(FileNotFoundError):
            if now - path.stat().st_mtime > 3600:
                path.unlink()
    sizes = []
    for path in place.glob("*.parquet"):
        with contextlib.suppress(FileNotFoundError):  # another replica was faster
            sizes.append((path.stat().st_mtime, path.stat().st_size, path))
    for changed, size, path in sorted(sizes, reverse=True):
        kept += size
        if kept > chosen.keep_bytes or now - changed > chosen.keep_days * 86_400:
            path.unlink(missing_ok=True)


# --- reading ------------------------------------------------------------------------------------------------------------


def read(
    root: Path,
    model: str,
    kind: Kind = "requests",
    since: datetime | None = None,
    until: datetime | None = None,
    columns: Sequence[str] | None = None,
) -> "pa.Table":
    """Rows of all replicas in the order of time, `since` included and `until` not; empty where nothing was logged."""
    import pyarrow as pa
    from pyarrow import compute, parquet

    wanted = [name for name in COLUMNS[kind] if columns is None or name in columns or name == "time"]
    empty = _schema(kind).empty_table().select(wanted)
    parts = [empty]
    for path in sorted(folder(root, model).glob(f"{kind}-*.parquet")):
        with contextlib.suppress(FileNotFoundError):  # pruned meanwhile
            parts.append(parquet.read_table(path, columns=wanted, filters=_between(compute, since, until)))
    return pa.concat_tables(parts).sort_by("time")


def _between(compute: Any, since: datetime | None, until: datetime | None) -> Any:
    bounds: Iterable[Any] = (
        *((compute.field("time") >= since,) if since else ()),
        *((compute.field("time") < until,) if until else ()),
    )
    found = None
    for bound in bounds:
        found = bound if found is None else found & bound
    return found


def judgements(
    root: Path, model: str, since: datetime | None = None, until: datetime | None = None
) -> list[dict[str, Any]]:
    """Feedback as it stands: of everything that one user said of one answer, the last."""
    last = {
        (row["answer_id"], row["user_hash"]): row for row in read(root, model, "feedback", since, until).to_pylist()
    }
    return list(last.values())
