"""Sinks: at least once, in order, nothing lost while one is away. Against a real HTTP stand-in of the bulk API that misbehaves."""

import json
import sqlite3
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import closing
from datetime import timedelta
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import made_ledger
import pytest
from made_ledger import Story

from slipway.errors import UsageError
from slipway.ledger import audit, checkpoints, clock, cursors, events, retention, sinks, tables, wire
from slipway.ledger.chain import canonical
from slipway.ledger.clock import Reading
from slipway.ledger.database import Database
from slipway.ledger.sinks import Delivered

Answer = Callable[["Handler", list[tuple[dict[str, Any], dict[str, Any]]]], None]


class Index:
    """What the stand-in holds, and how it answers the next requests; without a plan it answers well."""

    def __init__(self) -> None:
        self.documents: dict[str, dict[str, Any]] = {}
        self.plan: list[Answer] = []
        self.requests: list[dict[str, str]] = []
        self.over = threading.Event()

    def take(self, action: dict[str, Any], document: dict[str, Any]) -> dict[str, Any]:
        name = f"{action['create']['_index']}/{action['create']['_id']}"
        if name in self.documents:
            return {"create": {"_id": action["create"]["_id"], "status": 409, "error": {"type": "version_conflict"}}}
        self.documents[name] = document
        return {"create": {"_id": action["create"]["_id"], "status": 201, "result": "created"}}


class Handler(BaseHTTPRequestHandler):
    server: "Server"
    protocol_version = "HTTP/1.1"

    def do_POST(self) -> None:
        index = self.server.index
        lines = [json.loads(line) for line in self.rfile.read(int(self.headers["content-length"])).splitlines()]
        pairs = list(zip(lines[::2], lines[1::2], strict=True))
        index.requests.append({"path": self.path, **{key.lower(): value for key, value in self.headers.items()}})
        (index.plan.pop(0) if index.plan else well)(self, pairs)

    def answer(self, status: int, body: Any, cut: int | None = None) -> None:
        data = body if isinstance(body, bytes) else json.dumps(body).encode()
        self.send_response(status)
        self.send_header("content-type", "application/json")
        self.send_header("content-length", str(len(data)))
        self.end_headers()
        self.wfile.write(data[:cut])
        if cut is not None:
            self.close_connection = True

    def log_message(self, *_: object) -> None:
        """Quiet."""


class Server(ThreadingHTTPServer):
    index: Index
    daemon_threads = True


def well(here: Handler, pairs: Any) -> None:
    items = [here.server.index.take(*pair) for pair in pairs]
    here.answer(200, {"errors": any("error" in item["create"] for item in items), "items": items})


def status(code: int) -> Answer:
    return lambda here, _: here.answer(code, {"error": "no"})


def lost_reply(here: Handler, pairs: Any) -> None:
    """Takes everything, and the answer never arrives."""
    for pair in pairs:
        here.server.index.take(*pair)
    here.close_connection = True


def cut_reply(here: Handler, pairs: Any) -> None:
    items = [here.server.index.take(*pair) for pair in pairs]
    here.answer(200, {"errors": False, "items": items}, cut=40)


def hangs(here: Handler, _: Any) -> None:
    here.server.index.over.wait(30)
    here.close_connection = True


def drips(here: Handler, _: Any) -> None:
    """A byte now and then: no time-out of a client notices."""
    here.send_response(200)
    here.send_header("content-length", "100000")
    here.end_headers()
    while not here.server.index.over.wait(0.2):
        here.wfile.write(b" ")
        here.wfile.flush()
    here.close_connection = True


def refuses_the(place: int, code: int) -> Answer:
    """Takes all but one event of the request."""

    def answer(here: Handler, pairs: Any) -> None:
        items = [here.server.index.take(*pair) for number, pair in enumerate(pairs) if number != place]
        bad = {"create": {"_id": pairs[place][0]["create"]["_id"], "status": code, "error": {"type": "rejected"}}}
        here.answer(200, {"errors": True, "items": [*items[:place], bad, *items[place:]]})

    return answer


def answers_of_another(here: Handler, pairs: Any) -> None:
    """A proxy that mixes replies up: all created, but not what was asked for."""
    here.answer(200, {"errors": False, "items": [{"create": {"_id": "x", "status": 201}} for _ in pairs]})


def rubbish(data: bytes) -> Answer:
    return lambda here, _: here.answer(200, data)


@pytest.fixture
def index() -> Iterator[Index]:
    found = Index()
    yield found
    found.over.set()


@pytest.fixture
def address(index: Index) -> Iterator[str]:
    server = Server(("127.0.0.1", 0), Handler)
    server.index = index
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield f"elasticsearch+http://127.0.0.1:{server.server_address[1]}"
    index.over.set()
    server.shutdown()
    server.server_close()


def story_of(tmp_path: Path, *uris: str) -> Story:
    root = made_ledger.project(tmp_path / "project")
    made_ledger.configure(root, audit_sinks=list(uris))
    return Story(root, Database.of(root))


def deliver(story: Story, seconds: float = 10) -> Delivered:
    return sinks.deliver(story.root, seconds)[0]


def held(index: Index, story: Story) -> bool:
    """Whether the index holds each event, once and whole."""
    with story.database.read() as connection:
        wanted = {
            f"{sinks.INDEX}/{event.sequence}-{event.hash[:12]}": wire.values(event) for event in events.read(connection)
        }
    found = {
        name: {key: document[key] for key in wire.FIELDS}
        | {key: json.loads(document[key]) for key in ("actor", "payload")}
        for name, document in index.documents.items()
    }
    return found == wanted


def test_every_event_is_told_once(tmp_path: Path, address: str, index: Index) -> None:
    story = story_of(tmp_path, address)
    story.tell(2)
    assert deliver(story) == Delivered(address, 20, 0, None)
    assert deliver(story).sent == 0
    story.tell(1)
    assert deliver(story).sent == 10 and held(index, story)
    document = next(one for one in index.documents.values() if one["sequence"] == 8)
    assert document["@timestamp"] == document["at"] and document["version"] == "1.1.0"
    assert "Ada Lovelace" not in canonical(index.documents), "what people are called stays in the ledger"
    assert audit.verify(story.root, mirrors=False).problems == []


TROUBLES: dict[str, list[Answer]] = {
    "busy": [status(503), status(429)],
    "broken": [status(500)],
    "denied": [status(403)],
    "lost reply": [lost_reply],
    "cut reply": [cut_reply],
    "no bulk reply": [rubbish(b"<html>")],
    "empty reply": [rubbish(b"{}")],
    "a list": [rubbish(b"[]")],
    "no items": [rubbish(b'{"items": []}')],
    "items of nothing": [rubbish(b'{"items": [null, 1, {}, {"create": null}]}')],
    "another's reply": [answers_of_another],
    "one refused": [refuses_the(3, 429)],
    "the first refused": [refuses_the(0, 400)],
    "the last refused": [refuses_the(9, 503)],
    "all of it": [status(503), lost_reply, refuses_the(5, 429), cut_reply, status(500), refuses_the(1, 429)],
}


@pytest.mark.parametrize("name", TROUBLES)
def test_case_H3_nothing_is_lost_whatever_the_sink_does(name: str, tmp_path: Path, address: str, index: Index) -> None:
    story = story_of(tmp_path, address)
    story.tell(1)
    index.plan = list(TROUBLES[name])
    for trouble in TROUBLES[name]:
        found = deliver(story)
        assert found.error is not None and found.pending > 0, trouble
        story.tell(1)
    assert deliver(story).error is None
    assert held(index, story) and deliver(story).pending == 0


@pytest.mark.parametrize("answer", [hangs, drips])
def test_a_sink_that_hangs_is_given_up_and_the_others_are_told(
    answer: Answer, tmp_path: Path, address: str, index: Index
) -> None:
    story = story_of(tmp_path, address, "file:told.jsonl")
    story.tell(1)
    index.plan = [answer]
    begin = time.monotonic()
    search, file = sinks.deliver(story.root, 2)
    assert time.monotonic() - begin < 8
    assert search.error is not None and search.pending == 10
    assert (file.sent, file.error) == (10, None)
    assert deliver(story).error is None and held(index, story)


def test_a_sink_that_is_not_there(tmp_path: Path) -> None:
    story = story_of(tmp_path, "elasticsearch+http://127.0.0.1:9")
    story.tell(1)
    found = deliver(story)
    assert found.pending == 10 and found.error is not None and "did not answer" in found.error


def test_the_key_comes_from_a_variable_and_stands_in_no_name(
    tmp_path: Path, address: str, index: Index, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SLIPWAY_SEARCH_API_KEY", "s3cr3t")
    story = story_of(tmp_path, f"{address}/our-index")
    story.tell(1)
    deliver(story)
    assert index.requests[0]["authorization"] == "ApiKey s3cr3t"
    assert all(name.startswith("our-index/") for name in index.documents)
    with story.database.read() as connection:
        assert not any("s3cr3t" in name for name in cursors.all_of(connection))


@pytest.mark.parametrize(
    "uri", ["nonsense", "elasticsearch+http://", "elasticsearch+https://me:secret@host:9200", "ftp://x", ""]
)
def test_a_wrong_address_is_one_line(tmp_path: Path, uri: str) -> None:
    with pytest.raises(UsageError) as error:
        sinks.of(tmp_path, uri)
    assert "secret" not in str(error.value)


# --- a file -----------------------------------------------------------------------------------------------------------------


def lines(story: Story) -> list[int]:
    return [wire.parsed(line).sequence for line in (story.root / "told.jsonl").read_text().splitlines()]


def test_a_file_has_every_event_once_also_after_a_kill(tmp_path: Path) -> None:
    story = story_of(tmp_path, "file:told.jsonl")
    story.tell(2)
    assert deliver(story).sent == 20
    whole = (story.root / "told.jsonl").read_bytes()
    for cut in (1, 5, 300, 900, len(whole)):
        (story.root / "told.jsonl").write_bytes(whole[:-cut])  # killed while it wrote, the cursor not moved
        with story.database.write() as connection:
            cursors.move(connection, "file:told.jsonl", 0)
        assert deliver(story).error is None
        assert lines(story) == list(range(1, 21)), cut
    assert (story.root / "told.jsonl").read_bytes() == whole


def test_a_file_that_ends_with_something_else_is_left_alone(tmp_path: Path) -> None:
    story = story_of(tmp_path, "file:told.jsonl")
    (story.root / "told.jsonl").write_text("our diary\n")
    story.tell(1)
    found = deliver(story)
    assert found.error is not None and "does not end with an event" in found.error
    assert (story.root / "told.jsonl").read_text() == "our diary\n"


def test_a_sink_that_was_told_more_than_the_ledger_has_betrays_a_cut(tmp_path: Path) -> None:
    story = story_of(tmp_path, "file:told.jsonl")
    story.tell(2)
    deliver(story)
    with story.database.write() as connection:
        made_ledger.unguarded(connection, True)
        made_ledger.cut(connection, 15)
        made_ledger.guard(connection, True)
    assert any(
        "file:told.jsonl was told of events up to 20" in one.what
        for one in audit.verify(story.root, mirrors=False).problems
    )


# --- after the ledger changed under it --------------------------------------------------------------------------------------


def restored(story: Story) -> None:
    """Ten events were told that the ledger has lost since; ten others bear their numbers now."""
    story.tell(2)
    backup = story.root / "backup.db"
    with (
        closing(sqlite3.connect(story.root / ".slipway" / "ledger.db")) as here,
        closing(sqlite3.connect(backup)) as there,
    ):
        here.backup(there)
    story.tell(1)
    assert deliver(story).pending == 0
    story.database.close()
    for path in (story.root / ".slipway").glob("ledger.db*"):
        path.unlink()
    backup.rename(story.root / ".slipway" / "ledger.db")
    story.database = Database.of(story.root)
    checkpoints.accept(story.root, "the disk died")
    story.tell(1)


def test_after_an_accepted_restore_a_file_is_told_what_happened_since(tmp_path: Path) -> None:
    story = story_of(tmp_path, "file:told.jsonl")
    restored(story)
    assert deliver(story).error is None and deliver(story).pending == 0
    with story.database.read() as connection:
        wanted = [event.hash for event in events.read(connection)]
    told = [wire.parsed(line).hash for line in (story.root / "told.jsonl").read_text().splitlines()]
    assert set(wanted) < set(told) and len(told) == len(set(told)) == len(wanted) + 10


def test_after_an_accepted_restore_an_index_is_told_what_happened_since(
    tmp_path: Path, address: str, index: Index
) -> None:
    story = story_of(tmp_path, address)
    restored(story)
    assert deliver(story).error is None
    with story.database.read() as connection:
        wanted = {event.hash for event in events.read(connection)}
    assert wanted < {document["hash"] for document in index.documents.values()}


def test_case_H3_a_sink_that_was_away_is_told_of_archived_events_too(tmp_path: Path, monkeypatch: Any) -> None:
    story, now = story_of(tmp_path, "file:told.jsonl"), clock.read()
    monkeypatch.setattr(sinks, "BATCH", 7)
    for days in (500, 1):
        story.now = Reading(now.at - timedelta(days=days), "boot", (600 - days) * 86_400_000)
        story.tell(1)
    kept = retention.retain(story.root, now=Reading(now.at, "boot", 600 * 86_400_000))
    assert kept is not None and kept.last == 10
    (place := story.root / ".slipway" / "audit" / "archive" / kept.uri).rename(tmp_path / "away")
    found = deliver(story)
    assert found.error is not None and "is gone" in found.error and found.pending == 21
    (tmp_path / "away").rename(place)
    assert deliver(story).error is None and lines(story) == list(range(1, 22))


def test_an_event_that_was_edited_is_told_to_nobody(tmp_path: Path) -> None:
    story = story_of(tmp_path, "file:told.jsonl")
    story.tell(1)
    for payload in ("{", '{"version":"6.6.6"}'):
        with story.database.write() as connection:
            made_ledger.unguarded(connection, True)
            connection.execute(tables.events.update().where(tables.events.c.sequence == 8).values(payload=payload))
            made_ledger.guard(connection, True)
        found = deliver(story)
        assert found.error is not None and "event 8: " in found.error and "audit verify" in found.error


def _deliver_thrice(root: Path) -> None:
    for _ in range(3):
        sinks.deliver(root)


def test_four_processes_at_once_leave_no_line_twice_in_a_file(tmp_path: Path) -> None:
    story = story_of(tmp_path, "file:told.jsonl")
    story.vouch = 0
    story.tell(60)
    story.database.close()
    workers = [get_context("spawn").Process(target=_deliver_thrice, args=(story.root,)) for _ in range(4)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join(120)
    assert lines(story) == list(range(1, 601))
