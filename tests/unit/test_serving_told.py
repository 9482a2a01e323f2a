"""What a replica tells: metrics, the inference log, traces, the ledger; and what it never tells."""

import errno
import gzip
import os
import signal
import sqlite3
import threading
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest
from conftest import wait_for
from made_engine import SERVED
from served import TARGET, Process, Running, chat, events, project, running

from slipway.data.redaction import redacted
from slipway.ledger import audit, checkpoints
from slipway.ledger import events as ledger_events
from slipway.ledger.database import Database
from slipway.serving import config, inference_log
from slipway.serving.ids import Ids, Keys, keys
from slipway.serving.problems import Problem
from slipway.serving.seen import drawn
from slipway.serving.started import standing

SECRET = "AKIA" + "Q7RSTUVWXYZ23456"
CANARY = "canary-7f3a9c"  # stands in a prompt; seen anywhere it should not be, it is a leak


@pytest.fixture(scope="module")
def replica(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Running]:
    with running(tmp_path_factory.mktemp("told"), {"log": {"flush_seconds": 0.1}}) as found:
        yield found


def rows(root: Path, count: int, kind: Any = "requests") -> list[dict[str, Any]]:
    wait_for(lambda: inference_log.read(root, "desk", kind).num_rows >= count, 10, f"{count} rows")
    found: list[dict[str, Any]] = inference_log.read(root, "desk", kind).to_pylist()
    return found


# --- metrics ---


def test_metrics_have_the_names_that_dashboards_know(replica: Running) -> None:
    replica.chat("x", headers={"x-slipway-track": "candidate"})
    replica.chat("x", stream=True)
    second = 'llm_tokens_total{kind="answer",track="direct",version="1.0.0"}'
    wait_for(lambda: replica.metric(second) == 4, 5, "the stream to be counted")
    text = replica.http.get("/metrics").text
    for line in (
        'llm_requests_total{endpoint="/v1/chat/completions",method="POST",status="200",track="candidate",version="1.0.0"} 1.0',
        'llm_tokens_total{kind="answer",track="candidate",version="1.0.0"} 4.0',
        'llm_request_latency_seconds_count{endpoint="/v1/chat/completions",track="candidate",version="1.0.0"} 1.0',
        'llm_time_to_first_token_seconds_count{endpoint="/v1/chat/completions",track="direct",version="1.0.0"} 1.0',
        "llm_active_requests 0.0",
        "llm_gpu_memory_bytes 12345.0",
        "llm_batch_size_count 2.0",
        "llm_ready 1.0",
    ):
        assert f"\n{line}\n" in text, line
    assert "_created" not in text


def test_metrics_stay_few_whatever_is_asked(replica: Running) -> None:
    for number in range(40):
        replica.http.get(f"/v1/{number}")
        replica.http.request(f"ODD{number}", "/v1/models")
        replica.chat("x", headers={"x-slipway-track": f"track{number}", "x-user-id": f"user{number}"})
    before = len(replica.http.get("/metrics").text.splitlines())
    for number in range(40, 80):
        replica.http.get(f"/v1/{number}")
        replica.chat("x", headers={"x-slipway-track": f"track{number}", "x-user-id": f"user{number}"})
    assert len(replica.http.get("/metrics").text.splitlines()) == before
    assert 'endpoint="other"' in replica.http.get("/metrics").text


def test_a_stream_that_failed_does_not_count_as_answered(replica: Running) -> None:
    got = replica.chat("fault:lost_midway", stream=True, headers={"x-slipway-track": "shadow"})
    assert got.status_code == 200 and events(got.text)[-1][0] == "error"
    line = (
        'llm_requests_total{endpoint="/v1/chat/completions",method="POST",status="503",track="shadow",version="1.0.0"}'
    )
    wait_for(lambda: replica.metric(line) == 1, 5, "the count")


# --- the inference log ---


def test_every_request_is_a_row_and_no_row_has_words(tmp_path: Path) -> None:
    with running(tmp_path, {"log": {"flush_seconds": 0.1}}) as replica:
        headers = {"x-user-id": "ann", "x-slipway-track": "champion", "x-slipway-failover": "1", "x-request-id": "r-1"}
        answer = replica.chat(CANARY, headers=headers, temperature=0).json()
        replica.chat(CANARY, headers=headers, temperature=0)
        replica.chat("fault:cut")
        replica.http.post("/v1/completions", json={"model": "desk"})
        replica.http.get("/v1/models")
        first, again, cut, wrong = rows(tmp_path, 4)
    assert tuple(first) == inference_log.COLUMNS["requests"]
    assert first["request_id"] == "r-1" and first["answer_id"] == answer["id"] and first["failover"] is True
    assert (first["model"], first["version"], first["identity"]) == ("desk", "1.0.0", SERVED.identity)
    assert (first["status"], first["track"], first["endpoint"]) == (200, "champion", "/v1/chat/completions")
    assert first["prompt_tokens"] == answer["usage"]["prompt_tokens"] and first["answer_tokens"] == 4
    assert first["latency_seconds"] >= first["first_token_seconds"] >= first["queue_seconds"] >= 0.001
    assert (first["cached"], again["cached"]) == (False, True)
    assert len(first["user_hash"]) == 32 and first["user_hash"] == again["user_hash"] and cut["user_hash"] is None
    assert (cut["status"], wrong["status"], wrong["version"]) == (503, 400, None)
    assert all(row["prompt"] is None and row["answer"] is None for row in (first, again, cut, wrong))
    found = [path for path in tmp_path.rglob("*") if path.is_file() and CANARY.encode() in path.read_bytes()]
    assert not found, "nothing that anybody said lies on the disk"


def test_words_that_the_policy_keeps_are_redacted_first(tmp_path: Path) -> None:
    with running(tmp_path, {"prompts": {"share": 1}, "log": {"flush_seconds": 0.1}}) as replica:
        replica.chat("I am ann@example.org, card 4111 1111 1111 1111")
        replica.chat(f"my key is {SECRET}", stream=True)
        first, second = rows(tmp_path, 2)
    assert first["prompt"] == "user: I am <EMAIL>, card <CARD>" and first["answer"].count("é") == 4
    assert second["prompt"] == "<WITHHELD: aws-key>" and second["answer"].count("é") == 4, "a stream's words too"
    assert not any(SECRET.encode() in path.read_bytes() for path in tmp_path.rglob("*") if path.is_file())


def test_a_secret_across_the_cut_is_seen() -> None:
    assert redacted("x" * 19_990 + SECRET) == "<WITHHELD: aws-key>"
    assert redacted("é" * 50_000) == "é" * 20_000


def test_a_crash_loses_the_buffer_and_leaves_no_half_file(tmp_path: Path) -> None:
    import httpx

    root = project(tmp_path, {"log": {"buffer_rows": 10, "flush_seconds": 600}})
    replica = Process(root, TARGET, "--port", "0", "--json")
    with httpx.Client(base_url=replica.ready()["address"], timeout=20) as http:
        for number in range(25):
            assert http.post("/v1/chat/completions", json=chat(str(number))).status_code == 200
        wait_for(lambda: inference_log.read(root, "desk").num_rows > 15, 10, "all but a buffer")
    replica.kill()
    place = inference_log.folder(root, "desk")
    assert len(list(place.glob("requests-*.parquet"))) >= 1 and not list(place.glob(".*"))
    assert 25 - inference_log.read(root, "desk").num_rows < 10, "what was lost is less than a buffer"


def test_sigterm_writes_what_is_left(tmp_path: Path) -> None:
    import httpx

    root = project(tmp_path, {"log": {"buffer_rows": 1000, "flush_seconds": 600}})
    replica = Process(root, TARGET, "--port", "0", "--json")
    url = replica.ready()["address"]
    answer = httpx.post(f"{url}/v1/chat/completions", json=chat("x"), timeout=20).json()["id"]
    assert httpx.post(f"{url}/v1/feedback", json={"id": answer, "label": "correct"}, timeout=20).status_code == 200
    replica.process.send_signal(signal.SIGTERM)
    assert replica.ended()[0] == 0
    assert inference_log.read(root, "desk").num_rows == 1
    (judged,) = inference_log.judgements(root, "desk")
    assert (judged["answer_id"], judged["correct"], judged["version"]) == (answer, True, "1.0.0")


def test_the_log_reads_by_time_and_column_and_keeps_to_its_size(tmp_path: Path) -> None:
    now = datetime(2026, 11, 21, 12, tzinfo=UTC)
    chosen = config.Log(share=1, buffer_rows=1, flush_seconds=1, keep_days=1, keep_bytes=10_000_000)
    project(tmp_path)
    for number in range(3):
        log = inference_log.Log(tmp_path, chosen)
        log.start()
        log.add("requests", "desk", {"time": now + timedelta(hours=number), "status": 200 + number})
        log.stop()
    table = inference_log.read(tmp_path, "desk", since=now + timedelta(hours=1), columns=["status"])
    assert table.column_names == ["time", "status"] and table["status"].to_pylist() == [201, 202]
    assert inference_log.read(tmp_path, "desk", until=now + timedelta(hours=1)).num_rows == 1
    assert inference_log.read(tmp_path, "none").num_rows == 0
    place = inference_log.folder(tmp_path, "desk")
    oldest, *rest = sorted(place.glob("*.parquet"))
    os.utime(oldest, (0, 0))
    (place / ".torn.partial").write_bytes(b"PAR1")
    os.utime(place / ".torn.partial", (0, 0))
    inference_log.prune(place, chosen)
    assert sorted(place.iterdir()) == rest and rest, "old files and what a killed replica left half written are gone"
    inference_log.prune(place, chosen.model_copy(update={"keep_bytes": 1}))
    assert not list(place.iterdir())


def test_a_disk_that_cannot_follow_loses_rows_and_no_request(tmp_path: Path) -> None:
    with running(tmp_path, {"log": {"flush_seconds": 0.1}}) as replica:
        inference_log.folder(tmp_path, "desk").parent.write_text("a file where a folder should be")
        assert replica.chat("x").status_code == 200
        wait_for(lambda: replica.metric("llm_log_dropped_rows") == 1, 5, "the lost row to be counted")
        assert replica.chat("y").status_code == 200


def test_a_share_is_drawn_the_same_everywhere() -> None:
    known = Keys(b"s" * 32)
    ids = [f"request-{number}" for number in range(4000)]
    small, large = ({one for one in ids if drawn(one, share, known)} for share in (0.1, 0.4))
    assert small < large and 300 < len(small) < 500 and 1450 < len(large) < 1750
    assert not any(drawn(one, 0, known) for one in ids) and all(drawn(one, 1, known) for one in ids)


# --- ids ---


def test_ids_are_one_projects_and_one_models(tmp_path: Path) -> None:
    first, second = keys(project(tmp_path / "a")), keys(project(tmp_path / "b"))
    assert keys(tmp_path / "a").of("x") == first.of("x") != second.of("x") != first.of("y")
    assert (tmp_path / "a" / ".slipway" / "serving" / "secret").stat().st_mode & 0o777 == 0o600
    made = Ids(first, ["desk", "other"]).make("chatcmpl-", "other", "1.2.3-rc.1")
    assert Ids(keys(tmp_path / "a"), ["desk", "other"]).read(made) == ("other", "1.2.3-rc.1")
    for wrong in (Ids(second, ["other"]), Ids(first, ["desk"])):
        with pytest.raises(Problem, match="was not made by a replica of"):
            wrong.read(made)


def test_replicas_that_start_at_once_share_one_secret(tmp_path: Path) -> None:
    root, found = project(tmp_path), list[bytes]()
    threads = [threading.Thread(target=lambda: found.append(keys(root).of("x"))) for _ in range(16)]
    for one in threads:
        one.start()
    for one in threads:
        one.join()
    assert len(found) == 16 and len(set(found)) == 1
    assert [path.name for path in (root / ".slipway" / "serving").iterdir()] == ["secret"]


# --- the ledger ---


def started(root: Path) -> list[Any]:
    with Database.of(root).read() as connection:
        return [event for event in ledger_events.read(connection) if event.kind == "inference_started"]


def test_the_ledger_is_told_once_a_start_and_the_chain_holds(tmp_path: Path) -> None:
    for count in (1, 2):
        with running(tmp_path) as replica:
            wait_for(lambda count=count: len(started(tmp_path)) == count, 20, "the event")  # type: ignore[misc]
            for number in range(5):
                replica.chat(str(number))
            wait_for(lambda replica=replica: replica.metric("llm_ledger_unrecorded") == 0, 5, "the metric")  # type: ignore[misc]
    first, second = started(tmp_path)
    assert (first.model, first.subject, first.payload["identity"]) == ("desk", "1.0.0", SERVED.identity)
    assert first.payload["replica"] != second.payload["replica"]
    report = audit.verify(tmp_path, mirrors=False)
    assert report.is_clean, report.problems


def test_a_ledger_that_was_told_and_then_had_no_room_is_not_told_twice(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """The event is committed, its checkpoint finds the disk full: the recorder lives on and looks before it tells again."""
    real, full = checkpoints.write, iter([True])

    def write(*given: Any) -> Any:
        if next(full, False):
            raise OSError(errno.ENOSPC, "No space left on device")
        return real(*given)

    monkeypatch.setattr(checkpoints, "write", write)
    with running(tmp_path, {"ledger": {"retry_seconds": 0.1}}) as replica:
        wait_for(lambda: replica.metric("llm_ledger_unrecorded") == 0, 20, "the ledger to be told")
    assert len(started(tmp_path)) == 1
    assert "No space left on device" in capsys.readouterr().err


def test_case_H3_what_may_be_answered_while_the_ledger_is_away_is_stated() -> None:
    chosen = config.Ledger(unrecorded_requests=2, then="refuse", retry_seconds=1)
    assert [standing(False, count, chosen) for count in range(4)] == ["buffered", "buffered", "refuse", "refuse"]
    assert standing(True, 10**6, chosen) == "recorded"
    alarm = chosen.model_copy(update={"then": "alarm"})
    assert [standing(False, count, alarm) for count in (1, 2)] == ["buffered", "alarm"]


@pytest.mark.parametrize("then", ["refuse", "alarm"])
def test_case_H3_a_ledger_that_is_away_is_met_as_stated_and_told_when_it_is_back(tmp_path: Path, then: str) -> None:
    changes = {"ledger": {"unrecorded_requests": 2, "then": then, "retry_seconds": 0.2}}
    root = project(tmp_path, changes)
    state = root / ".slipway"
    state.mkdir()
    ledger = state / "ledger.db"
    ledger.mkdir()  # no database can be opened there
    replica = Running(root)
    try:
        assert [replica.chat(str(number)).status_code for number in range(2)] == [200, 200]
        third = replica.chat("third")
        assert third.status_code == (503 if then == "refuse" else 200)
        ready = replica.http.get("/ready")
        assert ready.status_code == third.status_code
        assert replica.metric("llm_ledger_unrecorded") == 1, "the alarm"
        ledger.rmdir()
        wait_for(lambda: replica.metric("llm_ledger_unrecorded") == 0, 20, "the ledger to be told")
        assert replica.chat("again").status_code == 200 and replica.http.get("/ready").status_code == 200
    finally:
        replica.stop()
    assert len(started(root)) == 1


# --- traces ---


class _Collector(BaseHTTPRequestHandler):
    got: list[bytes]

    def do_POST(self) -> None:
        data = self.rfile.read(int(self.headers["content-length"]))
        self.got.append(gzip.decompress(data) if self.headers.get("content-encoding") == "gzip" else data)
        self.send_response(200)
        self.end_headers()

    def log_message(self, format: str, *args: Any) -> None:
        pass


def test_spans_go_to_the_collector_without_words(tmp_path: Path) -> None:
    got: list[bytes] = []
    collector = ThreadingHTTPServer(("127.0.0.1", 0), type("Collector", (_Collector,), {"got": got}))
    threading.Thread(target=collector.serve_forever, daemon=True).start()
    endpoint = f"http://127.0.0.1:{collector.server_port}/v1/traces"
    parent = "4bf92f3577b34da6a3ce929d0e0e4736"
    try:
        with running(tmp_path, {"opentelemetry": {"endpoint": endpoint}}) as replica:
            assert replica.chat(CANARY, headers={"traceparent": f"00-{parent}-00f067aa0ba902b7-01"}).status_code == 200
    finally:
        collector.shutdown()
        collector.server_close()
    sent = b"".join(got)
    assert bytes.fromhex(parent) in sent and b"desk@1.0.0" in sent and b"/v1/chat/completions" in sent
    assert CANARY.encode() not in sent


def test_a_collector_that_is_away_fails_no_request(tmp_path: Path) -> None:
    with running(tmp_path, {"opentelemetry": {"endpoint": "http://127.0.0.1:9/v1/traces"}}) as replica:
        assert replica.chat("x").status_code == 200


def test_mlflow_gets_a_trace_linked_to_version_and_run(tmp_path: Path) -> None:
    from mlflow.tracking import MlflowClient

    from slipway import settings, tracking

    changes = {"traces": {"share": 1}, "prompts": {"share": 1}}
    with running(tmp_path, changes) as replica:
        assert replica.chat("write to ann@example.org", headers={"x-request-id": "traced"}).status_code == 200
        assert replica.metric("llm_traces_dropped") == 0
        client = MlflowClient(settings.mlflow_uri(tmp_path))
        _, experiment = tracking.connect(tmp_path)
        wait_for(lambda: len(client.search_traces(locations=[experiment])) == 1, 60, "the trace")
    (trace,) = client.search_traces(locations=[experiment])
    assert trace.info.tags["slipway.request_id"] == "traced" and trace.info.tags["slipway.version"] == "1.0.0"
    assert trace.info.trace_metadata["mlflow.sourceRun"] == SERVED.facts["run"]
    (span,) = trace.data.spans
    assert span.inputs == {"prompt": "user: write to <EMAIL>"} and span.outputs["answer"].count("é") == 4


def test_mlflow_away_delays_and_fails_no_request(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SLIPWAY_MLFLOW_URI", "sqlite:////dev/null/mlflow.db")
    with running(tmp_path, {"traces": {"share": 1, "queue": 2}}) as replica:
        for number in range(8):
            assert replica.chat(str(number)).elapsed.total_seconds() < 2
        wait_for(lambda: replica.metric("llm_traces_dropped") >= 5, 30, "lost traces to be counted")


# --- feedback ---


def test_feedback_is_once_across_replicas_and_starts(tmp_path: Path) -> None:
    with running(tmp_path, {"log": {"flush_seconds": 0.1}}) as one, running(tmp_path) as other:
        answer = one.chat("x").json()["id"]
        for replica, replaced in ((one, False), (other, True), (one, True)):
            got = replica.http.post("/v1/feedback", json={"id": answer, "label": "correct", "user": "ann"})
            assert got.json()["replaced"] is replaced
        names = ('model_total_predictions{version="1.0.0"}', 'model_correct_predictions{version="1.0.0"}')
        assert [sum(one.metric(name) for one in (one, other)) for name in names] == [1, 1]
        rows(tmp_path, 2, "feedback")
    with running(
        tmp_path
    ) as again:  # counts anew from nothing, as Prometheus expects it; a changed mind is no minus one
        again.http.post("/v1/feedback", json={"id": answer, "label": "incorrect", "user": "bob"})
        again.http.post("/v1/feedback", json={"id": answer, "label": "incorrect", "user": "ann"})
        assert [again.metric(name) for name in names] == [0, 0]
        again.http.post("/v1/feedback", json={"id": answer, "label": "correct", "user": "ann"})
    judged, other_one = sorted(inference_log.judgements(tmp_path, "desk"), key=lambda row: not row["correct"])
    assert other_one["correct"] is False
    assert judged["correct"] is True and judged["replaced"] is True
    with sqlite3.connect(tmp_path / ".slipway" / "serving" / "feedback.db") as connection:
        assert connection.execute("SELECT count(*) FROM judgements").fetchone() == (2,)
