"""What a replica owes under abuse and load: limits, the line before the engine, disconnects, and its end."""

import contextlib
import json
import signal
import socket
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import httpx
import pytest
from conftest import free_port, wait_for
from made_engine import MadeEngine
from served import TARGET, Process, Running, chat, events, project, read_all, running

from slipway.errors import SlipwayError, UsageError
from slipway.generating.tickets import Full

_LIMITS = {
    "limits": {"body_bytes": 100_000, "body_seconds": 0.5, "header_seconds": 0.5, "connections": 60},
    "admission": {"running": 2, "waiting": 2},
}  # fmt: skip
_POST = b"POST /v1/chat/completions HTTP/1.1\r\nhost: x\r\ncontent-type: application/json\r\n"


@pytest.fixture(scope="module")
def replica(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Running]:
    with running(tmp_path_factory.mktemp("load"), _LIMITS) as found:
        yield found


def _made(replica: Running) -> MadeEngine:
    assert isinstance(replica.engine, MadeEngine)
    return replica.engine


def _raw(replica: Running, data: bytes) -> tuple[int, dict[str, Any], bytes]:
    """What a bare connection is told, and that it is closed."""
    with replica.connection() as connection:
        with contextlib.suppress(ConnectionResetError, BrokenPipeError):  # it was refused while we still sent
            connection.sendall(data)
        answer = read_all(connection)
    head, _, body = answer.partition(b"\r\n\r\n")
    return int(head.split()[1]), json.loads(body), head.lower()


# --- bodies ---


def test_case_G8_a_body_too_large_is_refused_before_it_is_sent(replica: Running) -> None:
    status, body, head = _raw(replica, _POST + b"content-length: 1000000000\r\n\r\n")
    assert status == 413 and b"connection: close" in head
    assert body["error"]["message"] == "the body has more than 100,000 bytes; send less"


def test_case_G8_a_chunked_body_without_length_is_cut_at_the_limit(replica: Running) -> None:
    chunk = b"10000\r\n" + b" " * 65536 + b"\r\n"
    status, body, head = _raw(replica, _POST + b"transfer-encoding: chunked\r\n\r\n" + chunk * 200)
    assert status == 413 and b"connection: close" in head and body["error"]["code"] == "body_too_large"


@pytest.mark.parametrize("encoding", ["gzip", "zstd", "br", "identity, gzip"])
def test_case_G8_a_compressed_body_is_not_unpacked(replica: Running, encoding: str) -> None:
    got = replica.http.post("/v1/chat/completions", content=b"\x1f\x8b", headers={"content-encoding": encoding})
    assert got.status_code == 415 and got.headers["connection"] == "close"
    assert (
        replica.http.post("/v1/completions", content="a=b", headers={"content-type": "text/plain"}).status_code == 415
    )


def test_case_G8_a_slow_body_is_408(replica: Running) -> None:
    began = time.monotonic()
    status, body, head = _raw(replica, _POST + b"content-length: 50\r\n\r\n{")
    assert status == 408 and b"connection: close" in head and time.monotonic() - began < 3
    assert body["error"]["message"].startswith("the body did not arrive within 0.5 s")


# --- headers and connections ---


@pytest.mark.parametrize(
    "headers",
    [
        b"".join(b"x-%d: y\r\n" % number for number in range(10_000)),
        b"".join(b"x-%d: y\r\n" % number for number in range(100)),
        b"x-long: " + b"y" * 40_000 + b"\r\n",
        b"x-endless: " + b"y" * 3_000_000,
    ],
    ids=["very-many", "one-too-many", "long", "endless"],
)
def test_case_G8_headers_too_many_or_too_long_are_431(replica: Running, headers: bytes) -> None:
    status, body, _ = _raw(replica, b"GET /health HTTP/1.1\r\nhost: x\r\n" + headers + b"\r\n")
    assert status == 431 and body["error"]["code"] == "headers_too_large"


def test_case_G9_a_trailer_says_nothing_that_a_header_may(replica: Running) -> None:
    """uvicorn adds trailers to the headers, where one could call itself the gateway's."""
    heads = []
    for ends in (b"0\r\nx-request-id: forged\r\n\r\n", b"0\r\n\r\n"):
        with replica.connection() as connection:
            connection.sendall(
                _POST.replace(b"content-type", b"connection: close\r\ncontent-type")
                + b"transfer-encoding: chunked\r\n\r\n2\r\n{}\r\n"
                + ends
            )
            heads.append(read_all(connection).partition(b"\r\n\r\n")[0])
    assert [head.split()[1] for head in heads] == [b"400", b"400"]
    assert all(b"x-request-id: " in head and b"forged" not in head for head in heads)


def test_case_G8_slow_headers_are_408_and_silence_is_closed(replica: Running) -> None:
    status, body, _ = _raw(replica, b"GET /health HTTP/1.1\r\nhost: x\r\nx-slow: ")
    assert status == 408 and body["error"]["code"] == "headers_too_slow"
    with replica.connection() as silent:
        assert read_all(silent) == b""
    with replica.connection() as dripping:  # blank lines before a request are allowed, and are no request
        for _ in range(4):
            dripping.sendall(b"\r\n")
        assert b"408" in read_all(dripping)[:20]


@pytest.mark.parametrize(
    "request_",
    [
        b"POST / HTTP/1.1\r\nhost: x\r\ncontent-length: 3\r\ntransfer-encoding: chunked\r\n\r\n0\r\n\r\n",
        b"POST / HTTP/1.1\r\nhost: x\r\ncontent-length: 3\r\ncontent-length: 4\r\n\r\nabcd",
        b"GET / HTTP/1.1\r\nhost: x\r\n folded: y\r\n\r\n",
        b"POST / HTTP/1.1\r\nhost: x\r\ntransfer-encoding: xchunked\r\n\r\n0\r\n\r\n",
        b"hello\r\n\r\n",
    ],
    ids=["cl-te", "two-lengths", "folded", "xchunked", "no-http"],
)
def test_a_request_that_two_servers_would_read_differently_is_400_and_closed(replica: Running, request_: bytes) -> None:
    status, body, head = _raw(replica, request_)
    assert status == 400 and b"connection: close" in head and body["error"]["code"] == "invalid_http"


def test_case_G8_more_connections_than_allowed_are_429(replica: Running) -> None:
    before = replica.metric('llm_refused_connections_total{status="429"}')
    opened = [replica.connection() for _ in range(70)]
    try:
        refused = [one for one in opened[60:] if b"429" in one.recv(200)[:20]]
        assert len(refused) == 10
    finally:
        for one in opened:
            one.close()
    wait_for(lambda: replica.http.get("/health").status_code == 200, 10, "room for others")
    assert replica.metric('llm_refused_connections_total{status="429"}') >= before + 10


def test_case_G8_others_are_served_in_time_while_one_abuses(replica: Running) -> None:
    def p99(seconds: list[float]) -> float:
        return sorted(seconds)[int(len(seconds) * 0.99)]

    def normal() -> list[float]:
        return [replica.chat(f"normal {number}", n=1).elapsed.total_seconds() for number in range(60)]

    stop = threading.Event()
    deep = b'{"model":"desk","messages":' + b"[" * 49_000 + b"]" * 49_000 + b"}"

    def abuse() -> None:
        with httpx.Client(base_url=replica.url, timeout=20) as http:
            while not stop.is_set():
                http.post("/v1/chat/completions", content=deep, headers={"content-type": "application/json"})
                _raw(replica, b"GET / HTTP/1.1\r\n" + b"".join(b"x-%d: y\r\n" % n for n in range(200)) + b"\r\n")
                stop.wait(0.01)

    quiet = p99(normal())
    with ThreadPoolExecutor(4) as pool:
        for _ in range(4):
            pool.submit(abuse)
        try:
            loaded = p99(normal())
        finally:
            stop.set()
    assert loaded < max(2 * quiet, 0.5), (quiet, loaded)  # the floor: abusers and server share this machine's two cores


# --- the line before the engine ---


def test_case_G8_a_long_text_holds_nobody_else_up(tmp_path: Path) -> None:
    """Cutting a megabyte into tokens takes a second or more: not on the loop that everybody shares."""
    reading, go_on = threading.Event(), threading.Event()

    class Slow(MadeEngine):
        def encode(self, served: Any, prompt: Any) -> list[int]:
            if len(str(prompt)) > 4000:
                reading.set()
                assert go_on.wait(20)
                return [1] * 9
            return super().encode(served, prompt)

    with running(tmp_path, engine=Slow()) as replica, ThreadPoolExecutor(1) as pool:
        long = pool.submit(replica.chat, "x" * 5000)
        try:
            assert reading.wait(10)
            for path in ("/health", "/ready", "/v1/models"):
                assert replica.http.get(path, timeout=5).status_code == 200
            assert replica.chat("short").status_code == 200
        finally:
            go_on.set()
        assert long.result().status_code == 200


def test_case_G8_texts_that_are_too_many_are_not_read(tmp_path: Path) -> None:
    with running(tmp_path) as replica:
        _made(replica).encode = lambda *_: pytest.fail("was read")  # type: ignore[method-assign]
        got = replica.http.post("/v1/completions", json={"prompt": ["a text"] * 400})
        assert got.status_code == 400 and "400 answers are asked for" in got.json()["error"]["message"]


def test_case_G8_a_full_line_is_429_with_a_time_to_come_back(replica: Running) -> None:
    with ThreadPoolExecutor(4) as pool:
        slow = [pool.submit(replica.chat, f"slow {number} delay:0.2 tokens:5") for number in range(4)]
        wait_for(lambda: replica.replica.queue.waiting == 2, 10, "a full line")
        got = replica.chat("one too many")
        assert got.status_code == 429 and got.json()["error"]["code"] == "queue_full"
        assert got.json()["error"]["type"] == "rate_limit_error" and 1 <= int(got.headers["retry-after"]) <= 60
        assert replica.chat("several", n=4).status_code == 429
        assert [one.result().status_code for one in slow] == [200] * 4
    assert replica.metric('llm_queue_seconds_sum{track="direct",version="1.0.0"}') > 0.5
    wait_for(lambda: replica.replica.queue.running == 0, 10, "every place to be given back")


def test_a_client_that_goes_away_frees_the_engine(replica: Running) -> None:
    engine, places = _made(replica), replica.replica.queue
    for stream in (False, True):
        text = f"gone {stream} delay:0.05 tokens:1000"
        with pytest.raises(httpx.ReadTimeout):
            if stream:
                with replica.http.stream("POST", "/v1/chat/completions", json=chat(text, stream=True)) as got:
                    for line in got.iter_lines():
                        if "content" in line:
                            raise httpx.ReadTimeout("seen enough")
            else:
                replica.http.post("/v1/chat/completions", json=chat(text), timeout=0.3)
        wait_for(lambda text=text: engine.closed[f"<user>{text}"] == 1, 5, "the iterator to be closed")  # type: ignore[misc]
    wait_for(lambda: places.running == 0, 5, "the places to be free")
    gone = (
        'llm_requests_total{endpoint="/v1/chat/completions",method="POST",status="499",track="direct",version="1.0.0"}'
    )
    wait_for(lambda: replica.metric(gone) == 2, 5, "both to be counted")


# --- the end ---


def test_case_G11_sigterm_lets_streams_end_and_takes_nothing_new(tmp_path: Path) -> None:
    root = project(tmp_path, {"drain": {"announce_seconds": 0.5, "limit_seconds": 20}})
    replica = Process(root, TARGET, "--port", "0", "--json")
    url = replica.ready()["address"]
    with httpx.Client(base_url=url, timeout=20) as http, ThreadPoolExecutor(8) as pool:
        asked = [chat(f"{number} delay:0.1 tokens:12", stream=number % 2 == 0) for number in range(8)]
        flying = [pool.submit(http.post, "/v1/chat/completions", json=body) for body in asked]
        wait_for(lambda: "llm_engine_running 8.0" in http.get("/metrics").text, 10, "all to be in flight")
        replica.process.send_signal(signal.SIGTERM)
        wait_for(lambda: http.get("/ready").status_code == 503, 5, "/ready to say so")
        assert http.get("/ready").json()["reason"] == "draining" and http.get("/health").status_code == 200
        refused = http.post("/v1/chat/completions", json=chat("new"))
        assert refused.status_code == 503 and refused.json()["error"]["code"] == "draining"
        answers = [one.result() for one in flying]
    assert [one.status_code for one in answers] == [200] * 8
    assert sum("[DONE]" in one.text for one in answers) == 4
    code, out, err = replica.ended()
    assert (code, out, err) == (0, "", "")
    with pytest.raises(httpx.ConnectError):
        httpx.get(f"{url}/health")


def test_case_G11_what_does_not_end_in_time_ends_with_an_error(tmp_path: Path) -> None:
    soon = {"drain": {"announce_seconds": 0, "limit_seconds": 0.5}}
    with running(tmp_path, soon) as replica, ThreadPoolExecutor(2) as pool:
        streamed = pool.submit(replica.chat, "delay:0.1 tokens:500 a", stream=True)
        whole = pool.submit(replica.chat, "delay:0.1 tokens:500 b")
        wait_for(lambda: _made(replica).running == 2, 10, "both to be in flight")
        replica.end()
        last = events(streamed.result().text)[-1]
        assert last[0] == "error" and last[1]["error"]["code"] == "draining"
        assert whole.result().status_code == 503


# --- the command ---


def test_the_command_says_one_line_and_ends_well(tmp_path: Path) -> None:
    replica = Process(project(tmp_path), TARGET, "--port", "0")
    assert replica.process.stdout is not None
    line = replica.process.stdout.readline()
    assert line.startswith("http://127.0.0.1:") and "answers with desk@1.0.0 (identity 1d1d1d1d1d1d1d1d)" in line
    replica.process.send_signal(signal.SIGINT)
    assert replica.ended() == (0, "", "")


def test_a_taken_port_is_one_line(tmp_path: Path) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        code, out, err = Process(project(tmp_path), TARGET, "--port", str(port)).ended()
    assert (code, out) == (2, "")
    assert err == f"slipway: port {port} of 127.0.0.1 is taken; stop what listens there, or name another --port\n"


@pytest.mark.parametrize(
    ("words", "code", "says"),
    [
        ((), 2, "name what is served, as in `slipway serve support-desk@champion`"),
        (("desk", "--port", "70000"), 2, "70000 is no port"),
        (("desk", "--host", "no.such.host.invalid"), 2, "nothing can listen on no.such.host.invalid"),
        (("unsound", "--port", "0"), 3, "desk 1.0.0: base/model.safetensors has changed since it was signed"),
    ],
)
def test_what_cannot_be_served_is_one_line(tmp_path: Path, words: tuple[str, ...], code: int, says: str) -> None:
    found, out, err = Process(project(tmp_path), *words).ended()
    assert (found, out) == (code, "") and says in err and err.count("\n") == 1, err


def test_a_wrong_key_of_the_configuration_is_named(tmp_path: Path) -> None:
    root = project(tmp_path)
    path = root / "configs" / "serving.yaml"
    path.write_text(path.read_text().replace("body_bytes:", "body_size:"))
    _, _, err = Process(root, TARGET).ended()
    assert "serving.yaml:" in err and "limits.body_" in err and err.count("\n") == 1, err


def test_it_is_alive_and_not_ready_while_it_loads(tmp_path: Path) -> None:
    port = free_port()
    replica = Process(project(tmp_path), "slow", "--port", str(port), "--json")
    seen: list[tuple[int, int, int]] = []

    def asked() -> bool:
        try:
            with httpx.Client(base_url=f"http://127.0.0.1:{port}", timeout=10) as http:
                chatted = http.post("/v1/chat/completions", json=chat("x")).status_code
                seen.append((http.get("/health").status_code, http.get("/ready").status_code, chatted))
        except httpx.ConnectError:
            return False
        return seen[-1][1] == 200

    try:
        wait_for(asked, 20, "the replica")
        assert seen[0] == (200, 503, 503), "alive, and neither ready nor answering"
        assert replica.ready()["address"].endswith(f":{port}")
    finally:
        replica.kill()


def test_a_lost_engine_is_not_ready_until_it_answers_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("slipway.serving.pulse.PROBE_SECONDS", 0.05)
    with running(tmp_path) as replica:
        for number in range(2):
            assert replica.chat(f"fault:lost {number}").status_code == 503
        assert replica.chat("well").status_code == 200
        assert replica.http.get("/ready").status_code == 200, "not in a row"
        _made(replica).broken = True
        for number in range(3):
            assert replica.chat(f"broken {number}").status_code == 503
        wait_for(lambda: replica.http.get("/ready").status_code == 503, 5, "/ready to say so")
        assert replica.http.get("/ready").json()["reason"] == "lost"
        _made(replica).broken = False
        wait_for(lambda: replica.http.get("/ready").status_code == 200, 5, "/ready to be well again")


def test_a_bug_of_the_engine_does_not_end_the_watch_over_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("slipway.serving.pulse.PROBE_SECONDS", 0.05)
    with running(tmp_path) as replica:
        _made(replica).broken = ZeroDivisionError("a bug")
        for number in range(3):
            assert replica.chat(f"bug {number}").status_code == 500
        wait_for(lambda: _made(replica).started["1"] >= 2, 5, "the replica's own questions")
        assert replica.http.get("/ready").json()["reason"] == "lost"
        _made(replica).broken = False
        wait_for(lambda: replica.http.get("/ready").status_code == 200, 5, "/ready to be well again")


@pytest.mark.parametrize(
    ("error", "status", "code"),
    [(UsageError("vLLM refuses the request: a b"), 400, "invalid_value"), (Full(7, "desk@1.0.0"), 429, "queue_full")],
    ids=["usage", "full"],
)
def test_what_an_engine_turns_away_is_no_failure_of_it(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], error: SlipwayError, status: int, code: str
) -> None:
    with running(tmp_path) as replica:
        _made(replica).broken = error
        for number in range(4):
            got = replica.chat(f"turned away {number}")
            assert got.status_code == status and got.json()["error"]["code"] == code
            assert ("retry-after" in got.headers) == (status == 429)
        assert replica.http.get("/ready").status_code == 200
    assert "a b" not in capsys.readouterr().err, "what it says of a prompt is for whoever sent it"
