"""What a hostile client may try, and what comes of it."""

import contextlib
import gzip
import socket
import subprocess
import sys
import threading
import time
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import pytest
from gateways import Client, Rig, need_haproxy, rigged
from made_replica import MODEL
from pace import slowness

need_haproxy()
LIMITS = {
    "body_bytes": 16_384, "header_bytes": 8192, "headers": 50, "header_seconds": 0.5, "body_seconds": 0.5,
    "connections_per_address": 600,
}  # fmt: skip


@pytest.fixture(scope="module")
def rig(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Rig]:
    with rigged(tmp_path_factory.mktemp("hostile") / "gateway", limits=LIMITS) as made:
        yield made


def raw(port: int, data: bytes, seconds: float = 3) -> tuple[list[int], bool, bytes]:
    """The statuses that came back, whether the connection was closed, and everything."""
    with socket.create_connection(("127.0.0.1", port), timeout=seconds) as line:
        got, closed = b"", True
        try:
            line.sendall(data)
            while more := line.recv(65_536):
                got += more
        except TimeoutError:
            closed = False
        except ConnectionError:
            pass
    statuses = [int(line.split()[1]) for line in got.split(b"\r\n") if line.startswith(b"HTTP/1.1 ")]
    return statuses, closed, got


def post(*headers: str, body: bytes = b"", version: str = "1.1", host: str = "Host: a") -> bytes:
    lines = [f"POST /v1/chat/completions HTTP/{version}", *([host] if host else []), *headers]
    return "\r\n".join(lines).encode() + b"\r\n\r\n" + body


CL5 = "Content-Length: 5"
CHUNKED = "Transfer-Encoding: chunked"
END = b"0\r\n\r\n"
SMUGGLED = {
    "two lengths": post(CL5, "Content-Length: 6", body=b"hello!"),
    "a signed length": post("Content-Length: +5", body=b"hello"),
    "a negative length": post("Content-Length: -5", body=b"hello"),
    "xchunked": post("Transfer-Encoding: xchunked", body=END),
    "two encodings": post(CHUNKED, "Transfer-Encoding: identity", body=END),
    "a space before the colon": post("Transfer-Encoding : chunked", body=END),
    "a vertical tab": post("Transfer-Encoding: \x0bchunked", body=END),
    "a NUL": post("X-A: b\x00c", CL5, body=b"hello"),
    "two hosts": post("Host: b", CL5, body=b"hello"),
    "another host in the line": b"GET http://evil/v1/models HTTP/1.1\r\nHost: a\r\n\r\n",
    "a chunk of no size": post(CHUNKED, body=b"zz\r\nhello\r\n" + END),
    "chunks with bare line feeds": post(CHUNKED, body=b"5\nhello\n0\n\n"),
    "chunked in HTTP/1.0": post(CHUNKED, body=END, version="1.0"),
    "no host": post(CL5, body=b"hello", host=""),
}


@pytest.mark.parametrize("what", SMUGGLED)
def test_case_G9_an_ambiguous_request_is_refused_and_the_connection_closed(rig: Rig, what: str) -> None:
    before = rig.champion.asked("/seen")["requests"]
    statuses, closed, _ = raw(rig.port, SMUGGLED[what])
    assert (statuses, closed) == ([400], True)
    assert rig.champion.asked("/seen")["requests"] == before, "no replica saw it"


def test_case_G9_nothing_becomes_another_protocol_than_http(rig: Rig) -> None:
    upgrade = ("Connection: upgrade", "Upgrade: websocket", "Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==")
    assert raw(rig.port, post("Connection: close", *upgrade, CL5, body=b"hello"))[0] == [200]
    assert "upgrade" not in rig.champion.seen[-1]
    rig.champion.fault("101")
    hidden = b"POST /v1/evil HTTP/1.1\r\nHost: a\r\nX-Slipway-Track: candidate\r\nContent-Length: 0\r\n\r\n"
    statuses, _, _ = raw(rig.port, post(*upgrade, CL5, body=b"hello" + hidden), 1)
    tracks = {one["x-slipway-track"] for one in rig.champion.seen[-2:]}
    rig.champion.fault("ok")
    assert 101 not in statuses and tracks == {"champion"}, "what comes behind it is a request like others"


@pytest.mark.parametrize("path", ["/v1/feedb%61ck", "/v1//feedback", "/v1/../v1/feedback", "/v1/./feedback"])
def test_case_G9_a_path_that_a_replica_would_read_otherwise_is_none(rig: Rig, path: str) -> None:
    before = rig.champion.asked("/seen")["requests"]
    assert Client(rig.port).ask("u", path=path, body={"id": "x", "score": 1}).status == 404
    assert rig.champion.asked("/seen")["requests"] == before


NORMALISED = {
    "length and chunks": post("Content-Length: 4", CHUNKED, body=END + b"GET /v1/evil HTTP/1.1\r\nHost: a\r\n\r\n"),
    "bare line feeds": post(CL5, body=b"hello").replace(b"\r\n", b"\n"),
    "a folded header": post("X-A: b\r\n  Transfer-Encoding: chunked", CL5, body=b"hello"),
}


@pytest.mark.parametrize("what", NORMALISED)
def test_case_G9_what_haproxy_tolerates_reaches_a_replica_as_one_plain_request(rig: Rig, what: str) -> None:
    """HAProxy reads these as RFC 9112 lets it, and writes them anew: a replica never sees the ambiguity."""
    before = rig.champion.asked("/seen")["requests"]
    statuses, closed, _ = raw(rig.port, NORMALISED[what], seconds=0.7)
    seen = rig.champion.asked("/seen")
    assert statuses == [200] and seen["requests"] == before + 1, "one, and nothing hidden behind it"
    heard = seen["seen"][-1]
    assert ("content-length" in heard) != ("transfer-encoding" in heard)
    assert heard["path"] == "/v1/chat/completions"
    assert closed or what != "length and chunks"


def test_case_G9_only_the_gateway_says_who_is_who(rig: Rig) -> None:
    spoofed = {
        "x_slipway_track": "candidate", "x_slipway_version": "9.9.9", "x_slipway_failover": "1", "x_slipway_kind": "stream",
        "x_slipway_tenant": "other", "x_forwarded_for": "6.6.6.6", "x_forwarded_host": "evil", "x_real_ip": "6.6.6.6",
        "forwarded": "for=6.6.6.6", "x_slipway_force": "candidate",
        "x_slipway_model": "other",
    }  # fmt: skip
    answer = Client(rig.port).ask("u", **spoofed)
    heard = rig.champion.seen[-1]
    assert (answer.status, answer.version) == (200, "1.0.0"), "nobody chooses an arm here"
    ours = {name: value for name, value in heard.items() if name.startswith(("x-slipway", "x-forwarded", "x-real"))}
    assert ours == {
        "x-slipway-track": "champion", "x-slipway-model": MODEL, "x-forwarded-for": "127.0.0.1", "x-forwarded-proto": "http",
    }  # fmt: skip
    assert "forwarded" not in heard
    statuses, _, _ = raw(rig.port, post("X_Slipway_Track: shadow", "Connection: close", CL5, body=b"hello"))
    assert statuses == [200] and "x_slipway_track" not in rig.champion.seen[-1]


def test_case_G9_a_hop_header_cannot_take_ours_away(rig: Rig) -> None:
    statuses, _, _ = raw(rig.port, post("Connection: close, x-slipway-track, x-request-id", CL5, body=b"hello"))
    heard = rig.champion.seen[-1]
    assert statuses == [200] and heard["x-slipway-track"] == "champion" and heard["x-request-id"]


@pytest.mark.parametrize(
    ("given", "kept"), [("mine-1._x", True), ("a b", False), ("<script>", False), ("x" * 65, False)]
)
def test_a_request_id_is_kept_where_it_is_plain(rig: Rig, given: str, kept: bool) -> None:
    answer = Client(rig.port).ask("u", x_request_id=given)
    assert (answer.headers["x-request-id"] == given) is kept
    assert rig.champion.seen[-1]["x-request-id"] == answer.headers["x-request-id"]


def endless_body(port: int) -> list[int]:
    """A gigabyte in chunks, as far as it is taken."""
    with socket.create_connection(("127.0.0.1", port), timeout=5) as line:
        line.sendall(post(CHUNKED))
        with contextlib.suppress(OSError):
            for _ in range(1000):
                line.sendall(b"100000\r\n" + b"x" * 1_048_576 + b"\r\n")
        got = b""
        with contextlib.suppress(OSError):
            while more := line.recv(65_536):
                got += more
    return [int(line.split()[1]) for line in got.split(b"\r\n") if line.startswith(b"HTTP/1.1 ")]


def test_case_G8_what_is_too_large_is_refused(rig: Rig) -> None:
    before = rig.champion.asked("/seen")["requests"]
    for length in (10**9, 2**31 + 5, 2**32 + 5, 2**63 - 1):
        assert raw(rig.port, post(f"Content-Length: {length}"))[:2] == ([413], True), length
    assert endless_body(rig.port) in ([413], []), "the answer, or a connection that is closed under the flood"
    assert raw(rig.port, post(CHUNKED, body=b"8000\r\n" + b"x" * 32_768 + b"\r\n" + END))[0] == [413]
    bomb = gzip.compress(b"0" * 10_000_000)
    assert raw(rig.port, post("Content-Encoding: gzip", f"Content-Length: {len(bomb)}", body=bomb))[0] == [415]
    assert raw(rig.port, post("Content-Encoding: zstd", "Content-Length: 3", body=b"abc"))[0] == [415]
    assert raw(rig.port, post(*(f"X-{n}: y" for n in range(100)), CL5, body=b"hello"))[0] == [431]
    assert raw(rig.port, post("X-A: " + "a" * 9000, CL5, body=b"hello"))[0] == [431]
    assert raw(rig.port, post(*(f"X-{n}: y" for n in range(10_000)), CL5, body=b"hello"))[0] in ([431], [400])
    assert raw(rig.port, b"BREW /v1/x HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n")[0] == [405]
    assert rig.champion.asked("/seen")["requests"] == before, "no replica saw any of it"


def test_case_G8_who_is_slow_is_let_go(rig: Rig) -> None:
    statuses, closed, _ = raw(rig.port, b"POST /v1/x HTTP/1.1\r\nHost: a\r\n")
    assert (statuses, closed) == ([408], True)
    for method in (b"POST", b"GET"):
        before = rig.champion.asked("/seen")["requests"]
        statuses, closed, _ = raw(rig.port, post("Content-Length: 50", body=b"hello").replace(b"POST", method))
        assert (statuses, closed) == ([408], True), method
        assert rig.champion.asked("/seen")["requests"] == before


def test_case_G8_deep_json_reaches_the_replica_which_judges_it(rig: Rig) -> None:
    assert Client(rig.port).ask("u", body=b"[" * 8000 + b"]" * 8000).status == 200
    rig.split(100)
    assert Client(rig.port).ask("u", body=b"[" * 8000 + b"]" * 8000).status == 200
    rig.split(0)


def memory(rig: Rig) -> int:
    pid = rig.gateway.plane.running()
    lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith("VmRSS"))


def slowest(client: Client, times: int = 200) -> float:
    """The 99th percentile of a user who asks one thing after the other."""
    found = []
    for _ in range(times):
        begun = time.perf_counter()
        assert client.ask("u").status == 200
        found.append(time.perf_counter() - begun)
    return sorted(found)[int(times * 0.99) - 1]


def check_calm(client: Client, rig: Rig, calm: float, idle: int) -> None:
    busy, most = slowest(client), memory(rig)
    assert busy <= max(2 * calm, 0.025 * slowness()), f"{busy * 1000:.1f} ms, {calm * 1000:.1f} ms without"
    assert most <= 2 * idle + 20_000, f"{most} kB, {idle} kB without"


@pytest.mark.alone
def test_case_G8_five_hundred_slow_connections_do_not_slow_others(rig: Rig) -> None:
    client = Client(rig.port)
    slowest(client)
    calm, idle = slowest(client), memory(rig)
    stopped = threading.Event()
    flood = threading.Thread(target=flooding, args=(rig.port, stopped))
    flood.start()
    try:
        time.sleep(0.3)
        check_calm(client, rig, calm, idle)
    finally:
        stopped.set()
        flood.join()


@pytest.mark.alone
@pytest.mark.chaos
@pytest.mark.parametrize("arm", ["champion", "candidate"])
def test_case_G8_no_abuse_slows_others(rig: Rig, arm: str) -> None:
    """Sent by another process, so that it is the gateway which is measured and not this interpreter."""
    rig.split(100 if arm == "candidate" else 0)
    client = Client(rig.port)
    slowest(client)
    calm, idle = slowest(client), memory(rig)
    for kind, data in {
        "chunks without end": post(CHUNKED, body=(b"100000\r\n" + b"x" * 1_048_576 + b"\r\n") * 3),
        "ten thousand headers": post(*(f"X-{n}: y" for n in range(10_000))),
        "a gigabyte announced": post("Content-Length: 1000000000", body=b"x" * 100_000),
        "deep": post("Content-Length: 16000", body=b"[" * 8000 + b"]" * 8000),
    }.items():
        program = ABUSE.format(port=rig.port)
        abuser = subprocess.Popen([sys.executable, "-c", program], stdin=subprocess.PIPE, stdout=subprocess.PIPE)
        assert abuser.stdin is not None and abuser.stdout is not None
        abuser.stdin.write(data)
        abuser.stdin.close()
        try:
            assert abuser.stdout.readline() == b"begun\n"
            print(arm, kind)
            check_calm(client, rig, calm, idle)
        finally:
            abuser.kill()
            abuser.wait()
    rig.split(0)


ABUSE = """
import contextlib, socket, sys, time
data = sys.stdin.buffer.read()
print("begun", flush=True)
while True:
    with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", {port}), timeout=2) as line:
        with contextlib.suppress(OSError):
            line.sendall(data)
        line.recv(65536)
    time.sleep(0.005)
"""


@pytest.mark.alone
@pytest.mark.chaos
def test_case_G8_ten_thousand_connections_of_twenty_addresses(rig: Rig) -> None:
    """They fill what connections there are: who is connected notices nothing, who comes waits for the slow to be let go."""
    client, lines = Client(rig.port), []
    slowest(client)
    calm, idle = slowest(client), memory(rig)
    try:
        for number in range(10_000):
            line = socket.socket()
            lines.append(line)
            line.setblocking(False)
            line.bind((f"127.0.0.{2 + number % 20}", 0))
            line.connect_ex(("127.0.0.1", rig.port))
            if number >= 50:
                with contextlib.suppress(OSError):
                    lines[number - 50].send(b"POST /v1/chat/completions HTTP/1.1\r\nHost: a\r\nX-")
        check_calm(client, rig, calm, idle + 10_000 * 20)  # some 20 kB for each that waits
        assert Client(rig.port, 30).ask("u").status == 200
    finally:
        for line in lines:
            line.close()


def flooding(port: int, stopped: threading.Event) -> None:
    """Connections that begin a request and never go on, as many as are let."""
    lines: list[socket.socket] = []
    while not stopped.is_set():
        if len(lines) >= 500:
            lines.pop(0).close()
        with contextlib.suppress(OSError):
            line = socket.create_connection(("127.0.0.1", port), timeout=1)
            line.sendall(b"POST /v1/chat/completions HTTP/1.1\r\nHost: a\r\nX-")
            lines.append(line)
        stopped.wait(0.001)
    for line in lines:
        line.close()


def test_case_G8_one_address_gets_so_many_connections_and_no_more(tmp_path: Path) -> None:
    limits = {**LIMITS, "connections_per_address": 20, "header_seconds": 5}
    with rigged(tmp_path / "gateway", limits=limits) as rig:
        lines = [socket.create_connection(("127.0.0.1", rig.port), timeout=2) for _ in range(20)]
        time.sleep(0.1)
        with pytest.raises(OSError):
            Client(rig.port).ask("u")
        for line in lines:
            line.close()
        time.sleep(0.1)
        assert Client(rig.port).ask("u").status == 200


def test_case_G8_too_many_requests_are_told_to_wait(tmp_path: Path) -> None:
    with rigged(tmp_path / "gateway", limits={**LIMITS, "requests_per_minute": 20}) as rig:
        client = Client(rig.port)
        answers = [client.ask("u") for _ in range(30)]
        assert [answer.status for answer in answers].count(200) in range(18, 22)
        assert answers[-1].status == 429 and int(answers[-1].headers["retry-after"]) > 0
        with urllib.request.urlopen(f"http://127.0.0.1:{rig.port}/health", timeout=2) as live:
            assert live.status == 200
