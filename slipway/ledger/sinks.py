"""Tell others of every event: a file, Elasticsearch or OpenSearch, S3. At least once, in order, and nothing is lost while one is away.

The database remembers how far each sink was told; a sink that is away is told the rest when it is back. What is told twice is
told under the same name, so that it is there once. Sinks get digests in place of what people are called and said: what was
erased here would live on there.

    file:PATH                                  one JSON line an event
    elasticsearch+https://HOST:PORT/INDEX      bulk API, of OpenSearch too; INDEX is model-audit-logs where none is named
    s3://BUCKET/PREFIX                         one compressed object a delivery
"""

import contextlib
import fcntl
import os
import re
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol
from urllib.parse import urlsplit

from sqlalchemy import Connection

from slipway import atomic, settings
from slipway.artifacts import Json
from slipway.errors import SlipwayError, StageError, Transient, UsageError, of_storage
from slipway.ledger import archive, cursors, events, past, places, wire
from slipway.ledger.archive import Archive
from slipway.ledger.chain import Event, canonical
from slipway.ledger.database import Database

SECONDS = 30.0  # the most that a delivery may take, all sinks together
BATCH = 500
INDEX = "model-audit-logs"


class Sink(Protocol):
    name: str  # what the database remembers it by; no secret is in it

    def send(self, batch: Sequence[Event], seconds: float) -> int:
        """Tell these events; how many of them, from the first on, are known to have arrived."""


@dataclass(frozen=True)
class Delivered:
    """What became of one sink."""

    sink: str
    sent: int
    pending: int
    error: str | None


def of(root: Path, uri: str) -> Sink:
    """The sink that a configuration names."""
    if uri.startswith("file:"):
        return File((root / uri.removeprefix("file:")).resolve(), uri)
    if uri.startswith("elasticsearch+http"):
        return Search(uri)
    if uri.startswith("s3://"):
        return Objects(places.of(root, uri), uri)
    raise UsageError(
        f"{uri!r:.80} is no sink; write file:PATH, elasticsearch+https://HOST:PORT/INDEX or s3://bucket/prefix "
        f"(audit_sinks in configs/env)"
    )


def deliver(root: Path, seconds: float = SECONDS, database: Database | None = None) -> list[Delivered]:
    """Tell every sink what it has not been told, within a total time; what failed is told the next time."""
    sinks = [of(root, uri) for uri in settings.load(root).audit_sinks]
    if not sinks:
        return []
    end, told = time.monotonic() + seconds, []
    with contextlib.ExitStack() as stack:
        opened = database or stack.enter_context(contextlib.closing(Database.of(root)))
        for place, sink in enumerate(sinks):
            share = (end - time.monotonic()) / (len(sinks) - place)  # one that hangs leaves the others their time
            told.append(_tell(_Untold(root, opened, sink), sink, time.monotonic() + share))
    return told


def after_release(root: Path) -> None:
    """Tell every sink; Transient naming those that are away, for whoever wants to say so."""
    away = [f"{one.error} ({one.pending:,} events wait)" for one in deliver(root) if one.error]
    if away:
        raise Transient(f"{'; '.join(away)}; `slipway audit deliver` tells them")


def pending(connection: Connection, name: str) -> int:
    return max(events.head(connection).sequence - cursors.at(connection, name), 0)


class _Untold:
    """What a sink has not been told yet, archived events too; an archive is fetched once."""

    def __init__(self, root: Path, database: Database, sink: Sink) -> None:
        self.database, self._root, self._name = database, root, sink.name
        self._kept: Archive | None = None
        self._lines: list[bytes] = []

    def next(self) -> list[Event]:
        """The first of them; Refused where somebody changed one."""
        with self.database.read() as connection, past.readable():
            told = cursors.at(connection, self._name)
            kept = next((one for one in archive.listed(connection) if one.last > told), None)
            if kept is None:
                return list(map(past.sound, events.read(connection, told, most=BATCH)))
            if self._kept != kept:
                self._kept, self._lines = kept, archive.lines(self._root, kept)
            begin = max(told + 1 - kept.first, 0)
            return [past.sound(archive.parsed(line, kept.uri)) for line in self._lines[begin : begin + BATCH]]


def _tell(untold: _Untold, sink: Sink, end: float) -> Delivered:
    sent, error, database = 0, None, untold.database
    while error is None:
        batch: list[Event] = []
        try:
            left, batch = end - time.monotonic(), untold.next()
            if left <= 0 or not batch:
                break
            arrived = places.within(left, sink.name, lambda batch=batch, left=left: sink.send(batch, left))  # type: ignore[misc]
        except SlipwayError as trouble:
            error, arrived = str(trouble), getattr(trouble, "arrived", 0)
        if arrived:
            with database.write() as connection:
                cursors.move(connection, sink.name, batch[arrived - 1].sequence)
            sent += arrived
        elif error is None:
            error = f"{sink.name} took nothing and did not say why"
    with database.read() as connection:
        return Delivered(sink.name, sent, pending(connection, sink.name), error)


class Partly(Transient):
    """Some of it arrived."""

    def __init__(self, message: str, arrived: int) -> None:
        super().__init__(message)
        self.arrived = arrived


# --- the kinds of sink --------------------------------------------------------------------------------------------------


class File:
    """A file that only grows, on disk when a delivery ends; one process at a time writes there."""

    def __init__(self, path: Path, name: str) -> None:
        self.name, self._path = name, path

    def send(self, batch: Sequence[Event], seconds: float) -> int:
        try:
            self._path.parent.mkdir(parents=True, exist_ok=True)
            is_new = not self._path.exists()
            with self._path.open("a+b") as stream:
                fcntl.flock(stream, fcntl.LOCK_EX)
                last = _mended(stream)
                told = _told(stream) if last >= batch[0].sequence else set()
                new = [event for event in batch if event.hash not in told]
                stream.write("".join(f"{wire.text(event)}\n" for event in new).encode())
                stream.flush()
                os.fsync(stream.fileno())
            if is_new:
                atomic.fsync_folder(self._path.parent)
        except OSError as error:
            known_error = of_storage(error, self._path, 0)
            raise known_error or StageError(f"{self._path}: {error.strerror}; correct audit_sinks") from None
        return len(batch)


def _mended(stream: Any) -> int:
    """The last event in a file, after half a line that a killed process left was cut off; 0 for an empty one."""
    size, window = stream.seek(0, os.SEEK_END), 1 << 16
    while True:
        start = max(0, size - window)
        stream.seek(start)
        tail = stream.read()
        whole = tail.rfind(b"\n") + 1
        before = tail.rfind(b"\n", 0, whole - 1) + 1 if whole else 0
        if before or start == 0:
            break
        window *= 4
    if start + whole < size:
        stream.truncate(start + whole)
    stream.seek(0, os.SEEK_END)
    if not whole:
        return 0
    try:
        return wire.parsed(tail[before : whole - 1].decode()).sequence
    except ValueError:
        raise StageError(f"{stream.name} does not end with an event; move it away, and a new one is begun") from None


def _told(stream: Any) -> set[str]:
    """The hashes of all events in a file: after a restore, another event may bear a number that was told before."""
    stream.seek(0)
    found = {match.group(1).decode() for line in stream if (match := _HASH.search(line))}
    stream.seek(0, os.SEEK_END)
    return found


_HASH = re.compile(rb'"hash":"([0-9a-f]{64})","kind":')  # as canonical JSON has it; the texts before it hold no quotes


class Search:
    """The bulk API of Elasticsearch and OpenSearch. A document's id is its event's (`_id`): told twice, it is there once.

    The client's transport is used, not its methods: these refuse whatever does not call itself Elasticsearch.
    """

    def __init__(self, uri: str) -> None:
        parts = urlsplit(uri.removeprefix("elasticsearch+"))
        self.name = uri
        if parts.username or parts.password:
            raise UsageError("an address of audit_sinks holds a password; set SLIPWAY_SEARCH_API_KEY in its place")
        if not parts.hostname:
            raise UsageError(f"{uri!r:.80} names no host; write elasticsearch+https://HOST:PORT/INDEX (audit_sinks)")
        port = parts.port or (443 if parts.scheme == "https" else 9200)
        self._node = f"{parts.scheme}://{parts.hostname}:{port}"
        self._index = parts.path.strip("/") or INDEX
        self._transport: Any = None

    def send(self, batch: Sequence[Event], seconds: float) -> int:
        lines = (line for event in batch for line in (self._action(event), canonical(_document(event))))
        body = ("\n".join(lines) + "\n").encode()
        return self._arrived(batch, self._post("/_bulk?refresh=false", body, seconds))

    def _action(self, event: Event) -> str:
        return canonical({"create": {"_index": self._index, "_id": _id(event)}})

    def _post(self, target: str, body: bytes, seconds: float) -> Json:
        from elastic_transport import ApiError, TransportError

        headers = {"content-type": "application/x-ndjson", "accept": "application/json", **self._authorization()}
        try:
            reply = self._client().perform_request(
                "POST", target, headers=headers, body=body, request_timeout=min(seconds, 10), max_retries=0
            )
        except (ApiError, TransportError, ValueError, OSError) as error:
            raise Transient(f"{self.name} did not answer ({' '.join(str(error).split())[:200]}); try again") from None
        return self._judged(reply.meta.status, reply.body)

    def _judged(self, status: int, body: Any) -> Json:
        if status in (429, 502, 503, 504) or status == 500:
            raise Transient(f"{self.name} is busy ({status}); try again")
        if status in (401, 403):
            raise UsageError(
                f"{self.name} denies access ({status}); set SLIPWAY_SEARCH_API_KEY to a key that may write"
            )
        if status >= 300:
            raise StageError(f"{self.name} refused ({status}: {str(body)[:200]}); correct audit_sinks or the index")
        if not isinstance(body, dict) or not isinstance(body.get("items"), list):
            raise Transient(
                f"{self.name} answered something that is no reply of the bulk API ({body!r:.80}); try again"
            )
        return body

    def _arrived(self, batch: Sequence[Event], reply: Json) -> int:
        """How many, from the first on; 409 means that it was there already."""
        for place, event in enumerate(batch):
            item = reply["items"][place] if place < len(reply["items"]) else {}
            told = _only(item)
            if told.get("_id") != _id(event) or told.get("status") not in (200, 201, 409):
                why = str(told.get("error") or told.get("status") or "no answer")[:200]
                raise Partly(f"{self.name} did not take event {event.sequence} ({why}); the rest waits for it", place)
        return len(batch)

    def _authorization(self) -> dict[str, str]:
        key = settings.variable("SEARCH_API_KEY")
        return {"authorization": f"ApiKey {key}"} if key else {}

    def _client(self) -> Any:
        if self._transport is None:
            from elasticsearch import Elasticsearch

            self._transport = Elasticsearch(self._node, max_retries=0, retry_on_timeout=False).transport
        return self._transport


def _id(event: Event) -> str:
    """By number and content: after a restore, another event may bear the same number."""
    return f"{event.sequence}-{event.hash[:12]}"


def _only(item: Any) -> Json:
    """What a reply says of one action."""
    told = next(iter(item.values()), None) if isinstance(item, dict) else None
    return told if isinstance(told, dict) else {}


def _document(event: Event) -> Json:
    """The event as it was hashed, its parts as text (any event fits one mapping), and what people search by."""
    said = wire.values(event)
    lifted = {name: event.payload[name] for name in _LIFTED if isinstance(event.payload.get(name), str)}
    return {
        **said,
        "actor": canonical(event.actor),
        "payload": canonical(event.payload),
        "@timestamp": event.at,
        **lifted,
    }


_LIFTED = ("version", "release", "verdict", "outcome", "stage", "evidence_digest", "policy_digest")


class Objects:
    """One object a delivery, never written over; named by its events, so that what is told twice is there once."""

    def __init__(self, place: places.Place, name: str) -> None:
        self.name, self._place = name, place

    def send(self, batch: Sequence[Event], seconds: float) -> int:
        name = f"{batch[0].sequence:012d}-{batch[-1].sequence:012d}-{batch[-1].hash[:12]}.jsonl.gz"
        self._place.put_new(name, archive.packed(batch))
        return len(batch)
