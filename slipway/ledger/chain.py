"""One event, and how it hangs on the one before it. Pure: no database, no clock."""

import hashlib
import json
from collections.abc import Iterable, Iterator, Sequence
from json.encoder import encode_basestring_ascii as _quoted
from typing import Any

from slipway.artifacts import Artifact, Json

GENESIS = "0" * 64
KINDS = frozenset(
    [
        "release_started",
        "release_ended",
        "stage_finished",
        "model_registered",
        "decision_made",
        "approval_given",
        "approval_rejected",
        "approval_revoked",
        "approval_expired",
        "waiver_granted",
        "break_glass",
        "break_glass_followed_up",
        "stage_transition",
        "canary_started",
        "canary_step",
        "canary_asked",
        "canary_verdict",
        "traffic_changed",
        "model_deployed",
        "model_promoted",
        "rolled_back",
        "model_archived",
        "model_restored",
        "model_deleted",
        "model_held",
        "model_unheld",
        "inference_started",
        "policy_changed",
        "key_changed",
        "drift_found",
        "mirror_repaired",
        "retrain_triggered",
        "events_archived",
        "text_erased",
        "ledger_frozen",
        "ledger_released",
    ]
)


class Event(Artifact):
    """Something that happened."""

    sequence: int
    at: str
    elapsed_ms: int
    boot: str
    ticks_ms: int
    kind: str
    model: str
    subject: str
    actor: Json  # {"who": sealed id, "digest": …, "via": how they were known}
    payload: Json
    previous: str
    hash: str


_encode = json.JSONEncoder(sort_keys=True, separators=(",", ":"), allow_nan=False).encode


def canonical(value: Any) -> str:
    """The one text of a JSON value: what is hashed and what is kept. ASCII, so one line wherever it is read or shown."""
    return _encode(value)


def hash_of(event: Event) -> str:
    """The digest of everything an event says, the hash of the one before included."""
    actor, payload = canonical(event.actor), canonical(event.payload)
    return _hash(
        event.sequence, event.at, event.elapsed_ms, event.boot, event.ticks_ms, event.kind, event.model, event.subject,
        actor, payload, event.previous,
    )  # fmt: skip


def _hash(
    sequence: int, at: str, elapsed_ms: int, boot: str, ticks_ms: int, kind: str, model: str, subject: str, actor: str,
    payload: str, previous: str,
) -> str:  # fmt: skip
    """`canonical` of the whole event, put together from its parts: ten times as fast, and verification is mostly this."""
    said = (
        f'{{"actor":{actor},"at":{_quoted(at)},"boot":{_quoted(boot)},"elapsed_ms":{elapsed_ms},"kind":{_quoted(kind)},'
        f'"model":{_quoted(model)},"payload":{payload},"previous":{_quoted(previous)},"sequence":{sequence},'
        f'"subject":{_quoted(subject)},"ticks_ms":{ticks_ms}}}'
    )
    return hashlib.sha256(said.encode()).hexdigest()


class Broken(Exception):
    """Where a chain breaks, and how."""

    def __init__(self, sequence: int, what: str):
        super().__init__(f"event {sequence}: {what}")
        self.sequence, self.what = sequence, what


def checked(events: Iterable[Event], last: int = 0, last_hash: str = GENESIS) -> Iterator[Event]:
    """The same events, each held against the one before; Broken at the first that does not follow."""
    for event in events:
        _must_follow(event.sequence, event.previous, last, last_hash)
        try:
            found = hash_of(event)
        except (TypeError, ValueError, RecursionError):
            raise Broken(event.sequence, "holds what no event can hold") from None
        _must_be(event.sequence, event.hash, found)
        last, last_hash = event.sequence, event.hash
        yield event


# An event as a row of the table, in the order of its columns; actor and payload are the texts that stand there.
COLUMNS = (
    "sequence", "at", "elapsed_ms", "boot", "ticks_ms", "kind", "model", "subject", "actor", "payload", "previous", "hash",
)  # fmt: skip
_TYPES = [int, str, int, str, int, str, str, str, str, str, str, str]


def checked_rows(rows: Iterable[Sequence[Any]], last: int = 0, last_hash: str = GENESIS) -> Iterator[Sequence[Any]]:
    """The same for rows as they stand in a table, which may hold anything; nothing is parsed, so it is fast."""
    for row in rows:
        _must_follow(row[0], row[10], last, last_hash)
        if (types := [type(value) for value in row]) != _TYPES:
            wrong = next(name for name, found, due in zip(COLUMNS, types, _TYPES, strict=False) if found is not due)
            raise Broken(last + 1, f"holds something else than it may: its {wrong}")
        try:
            found = _hash(*row[:11])
        except ValueError:  # text that is no Unicode
            raise Broken(last + 1, "holds what no event can hold") from None
        _must_be(row[0], row[11], found)
        last, last_hash = row[0], row[11]
        yield row


def _must_follow(sequence: Any, previous: Any, last: int, last_hash: str) -> None:
    if sequence != last + 1:
        raise Broken(last + 1, f"is missing; event {_shown(sequence)} stands in its place")
    if previous != last_hash:
        raise Broken(sequence, f"follows {_shown(previous)}, but the event before it is {last_hash[:16]}")


def _must_be(sequence: int, recorded: Any, found: str) -> None:
    if recorded != found:
        raise Broken(
            sequence,
            f"says something else than was written: its hash is {found[:16]}, recorded was {_shown(recorded)}",
        )


def _shown(value: Any) -> str:
    """What stands where a number or a digest should; it may be anything."""
    if isinstance(value, str):
        return value[:16]
    return str(value) if isinstance(value, int) and value.bit_length() <= 64 else type(value).__name__
