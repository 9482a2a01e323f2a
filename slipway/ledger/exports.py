"""The ledger as a file that anybody can verify without it: events one a line, what people said, and a signed end.

{"event": {…}, "texts": {id: {"salt": …, "text": …}}}     each event; texts stand where they are first named
{"end": {"events": …, "sha256": …, …}, "key": …, "signature": …}   what stands above, to the byte
"""

import hashlib
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO, Any

from sqlalchemy import Connection, select

from slipway import digest, strict
from slipway.artifacts import Json
from slipway.ledger import chain, clock, past, signatures, wire
from slipway.ledger.chain import Event, canonical
from slipway.ledger.tables import sealed
from slipway.registry import keys

PURPOSE = "export"


def write(root: Path, connection: Connection, stream: IO[bytes], since: str | None, with_texts: bool) -> int:
    """Write every event from a moment on, archived ones too, and the signed end; how many there were."""
    known = _texts(connection) if with_texts else {}
    after = past.before(root, connection, since) if since else 0
    summed, count, head = hashlib.sha256(), 0, chain.GENESIS
    for event in past.read(root, connection, after):
        line = f"{canonical(_line(event, known))}\n".encode()
        stream.write(line)
        summed.update(line)
        count, head = count + 1, event.hash
    fingerprint, private = keys.signing_key(root)
    end = {"events": count, "sha256": summed.hexdigest(), "head": head, "at": clock.read().text, "key": fingerprint}
    signed = {"end": end, "signature": signatures.sign(private, PURPOSE, end)}
    stream.write(f"{canonical(signed)}\n".encode())
    return count


def _texts(connection: Connection) -> dict[str, Json]:
    query = select(sealed).where(sealed.c.text.is_not(None))
    return {row.id: {"salt": row.salt, "text": row.text} for row in connection.execute(query)}


def _line(event: Event, known: dict[str, Json]) -> Json:
    line: Json = {"event": wire.values(event)}
    if texts := {name: known.pop(name) for name, _ in _named(event) if name in known}:
        line["texts"] = texts
    return line


def _named(event: Event) -> Iterator[tuple[str, str]]:
    """The sealed texts that an event speaks of, and their digests."""
    for part in (event.actor, event.payload):
        for value in part.values():
            if isinstance(value, dict) and "sealed" in value:
                yield str(value["sealed"]), str(value.get("digest"))


# --- verifying ----------------------------------------------------------------------------------------------------------


@dataclass
class Checked:
    """What is wrong with a file, and what stands in it."""

    problems: list[tuple[int | None, str]] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    events: int = 0
    texts: int = 0
    head: str = chain.GENESIS


def verify(path: Path, trust: keys.Trust) -> Checked:
    """Whether a file is, to the byte, what somebody whom we trust exported, and its chain holds."""
    return check(path.read_bytes(), trust)


def check(data: bytes, trust: keys.Trust) -> Checked:
    found = Checked()
    body, end = _parted(data)
    if end is None:
        found.problems.append((None, "the file has no signed end: it was cut, or is no export"))
    elif why := _wrong_end(end, body, trust):
        found.problems.append((None, why))
    _events(body, found)
    if (
        end is not None
        and not found.problems
        and (end["end"]["events"], end["end"]["head"]) != (found.events, found.head)
    ):
        found.problems.append((found.events, "is not the last that the file's end names"))
    return found


def _parted(data: bytes) -> tuple[bytes, Json | None]:
    """The events' lines, and the end: of which there is one form only."""
    before, newline, rest = data.rpartition(b"\n")
    body, _, last = before.rpartition(b"\n")
    try:
        end = strict.loads_json(last.decode())
    except ValueError:
        return data, None
    if not newline or rest or not _is_end(end) or canonical(end).encode() != last:
        return data, None
    return (body + b"\n" if body else b""), end


def _is_end(end: Any) -> bool:
    parts = {"events": int, "sha256": str, "head": str, "at": str, "key": str}
    return (
        isinstance(end, dict) and end.keys() == {"end", "signature"} and isinstance(end["end"], dict)
        and isinstance(end["signature"], str) and end["end"].keys() == parts.keys()
        and all(type(end["end"][name]) is kind for name, kind in parts.items())
    )  # fmt: skip


def _wrong_end(signed: Json, body: bytes, trust: keys.Trust) -> str | None:
    end = signed["end"]
    if forged := signatures.forged(trust, PURPOSE, end, end["key"], signed["signature"]):
        return f"the file {forged}"
    signed_at = clock.moment(end["at"]).replace(microsecond=0)  # keys count whole seconds
    if why := trust.keys[end["key"]].doubt(signed_at, keys.now()):
        return f"the file is signed by the key {end['key'][:16]}, which {why}"
    if (found := digest.of_bytes(body)) != end["sha256"]:
        return f"the lines are not the ones that were exported: their SHA-256 is {found[:16]}, signed was {end['sha256'][:16]}"
    return None


def _events(body: bytes, found: Checked) -> None:
    texts: dict[str, Json] = {}
    try:
        for number, event in enumerate(chain_of(_parsed(body, texts, found)), start=1):
            if number == 1 and event.sequence > 1:
                found.notes.append(f"the file begins with event {event.sequence}; what was before is not in it")
            found.events, found.head = number, event.hash
            for name, wanted in _named(event):
                if name in texts and digest.of_bytes(f"{texts[name]['salt']}:{texts[name]['text']}".encode()) != wanted:
                    found.problems.append(
                        (event.sequence, f"speaks of the text {name}, which says something else here")
                    )
    except chain.Broken as broken:
        found.problems.append((broken.sequence, broken.what))
    found.texts = len(texts)


def chain_of(events: Iterator[Event]) -> Iterator[Event]:
    """A run of the chain from wherever it begins."""
    first = next(events, None)
    if first is None:
        return
    yield from chain.checked(_again(first, events), first.sequence - 1, first.previous)


def _again(first: Event, rest: Iterator[Event]) -> Iterator[Event]:
    yield first
    yield from rest


def _parsed(body: bytes, texts: dict[str, Json], found: Checked) -> Iterator[Event]:
    last = 0
    for number, line in enumerate(body.split(b"\n")[:-1], start=1):
        try:
            told = strict.loads_json(line.decode())
            if not isinstance(told, dict) or not {"event"} <= told.keys() <= {"event", "texts"}:
                raise ValueError("has other fields than an exported event")
            event = wire.of_values(told["event"])
            texts.update(_salted(told.get("texts", {})))
        except ValueError as error:
            found.problems.append((last + 1 if last else None, f"line {number} is no event: {error}"))
            return
        last = event.sequence
        yield event


def _salted(texts: Any) -> dict[str, Json]:
    if not isinstance(texts, dict) or not all(
        isinstance(one, dict) and one.keys() == {"salt", "text"} for one in texts.values()
    ):
        raise ValueError("its texts are not as they are exported")
    return texts
