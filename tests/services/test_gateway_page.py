"""The live page and the admin port, in a real browser and by hand."""

import json
import re
import socket
import urllib.error
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from browsing import Page, browser
from conftest import wait_for
from gateways import Client, Rig, need_haproxy, rigged
from made_replica import MODEL

from slipway.gateway import admin, routing

need_haproxy()
HOSTILE = "<img src=x onerror=\"document.title='broken'\">"


@pytest.fixture(scope="module")
def rig(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Rig]:
    with rigged(tmp_path_factory.mktemp("page") / "gateway") as made:
        made.split(30)
        client = Client(made.port)
        for number in range(60):
            client.ask(str(number))
            client.ask(str(number), path="/v1/feedback", body={"id": "x", "score": 1})
        made.gateway.journal.add("note", MODEL, HOSTILE)
        wait_for(lambda: made.gateway.watch.quality(MODEL), 5, "the replicas' counts")
        yield made


def address(rig: Rig) -> str:
    return str(rig.gateway.routing.admin)


def asked(rig: Rig, path: str, data: Any = None, **headers: str) -> tuple[int, Any]:
    body = None if data is None else data if isinstance(data, bytes) else json.dumps(data).encode()
    request = urllib.request.Request(f"http://{address(rig)}{path}", body, headers)
    try:
        with urllib.request.urlopen(request, timeout=10) as answer:
            return answer.status, answer.read().decode()
    except urllib.error.HTTPError as error:
        return error.code, error.read().decode()


def bearer(rig: Rig) -> dict[str, str]:
    return {"authorization": f"Bearer {admin.token(rig.folder)}"}


@pytest.fixture(scope="module")
def page(rig: Rig, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Page]:
    with browser(tmp_path_factory.mktemp("browser")) as opened:
        yield opened


def test_a_browser_shows_weights_shares_curves_and_events(rig: Rig, page: Page) -> None:
    page.open(f"http://{address(rig)}/")
    page.wait("document.querySelectorAll('svg').length == 4")
    text = str(page.value("document.body.innerText"))
    for wanted in (
        "champion 70 %",
        "candidate 30 %",
        "share of requests",
        "right answers, champion",
        "HAProxy 2",
        "a test",
    ):
        assert wanted in text, wanted
    assert page.value("document.querySelectorAll('polyline').length") == 8
    assert re.search(r"[\d.]+ % \([\d.]+ – [\d.]+\) of \d+", text), "an interval"
    assert HOSTILE in text and page.value("document.querySelectorAll('img').length") == 0
    assert page.value("document.title") == "Slipway gateway", "nobody's text ran"
    rig.split(35)
    page.wait("document.body.innerText.includes('candidate 35 %')", 5)
    rig.split(30, back=True)
    assert page.complaints == []


def test_on_a_phone_nothing_is_wider_than_the_screen(rig: Rig, page: Page) -> None:
    page.open(f"http://{address(rig)}/", width=360, height=740)
    page.wait("document.querySelectorAll('svg').length == 4")
    assert page.value("document.documentElement.clientWidth") == 360
    assert page.value("document.documentElement.scrollWidth") <= 360, "no sideways scrolling"
    assert (
        page.value("Math.max(...[...document.querySelectorAll('.panel')].map(p => p.scrollWidth - p.clientWidth))") <= 1
    )
    assert page.value("getComputedStyle(document.body).fontSize") == "15px"


def test_the_page_asks_nobody_else() -> None:
    page = admin.PAGE.read_text(encoding="utf-8")
    urls = set(re.findall(r"(?:https?:)?//[\w.-]+\.\w+[^\s\"']*", page))
    assert urls == {"http://www.w3.org/2000/svg"}, "the name of SVG, which nobody fetches"
    assert "innerHTML" not in page


def test_figures_come_as_json_as_metrics_and_as_events(rig: Rig) -> None:
    code, text = asked(rig, "/api/status")
    model = json.loads(text)["models"][MODEL]
    assert code == 200 and model["weights"] == {"champion": 70, "candidate": 30}
    assert model["quality"]["champion"]["percent"] == 100
    code, text = asked(rig, "/metrics")
    assert f'slipway_gateway_weight{{model="{MODEL}",arm="candidate"}} 30' in text
    with urllib.request.urlopen(f"http://{address(rig)}/events", timeout=5) as stream:
        assert stream.headers["content-type"] == "text/event-stream"
        assert MODEL in json.loads(stream.readline().removeprefix(b"data: "))["models"]


def test_a_change_needs_the_token_and_sense(rig: Rig) -> None:
    move = {"model": MODEL, "weights": {"champion": 60, "candidate": 40}, "why": "by hand"}
    assert asked(rig, "/api/weights", move)[0] == 401
    assert asked(rig, "/api/weights", move, authorization="Bearer wrong")[0] == 401
    assert rig.gateway.weights(MODEL)["candidate"] == 30
    for wrong, code in (
        ({**move, "weights": {"champion": 0, "candidate": 101}}, 409), ({**move, "weights": 5}, 409), ({"model": MODEL}, 400),
        ({**move, "model": "nobody"}, 400), (b"{", 400), ([], 400),
    ):  # fmt: skip
        assert asked(rig, "/api/weights", wrong, **bearer(rig))[0] == code, wrong
    for what in ("nothing", "add", "drain"):
        assert (
            asked(rig, f"/api/{what}", {"model": MODEL, "arm": "candidate", "address": "evil;show"}, **bearer(rig))[0]
            == 400
        )
    assert rig.gateway.weights(MODEL)["candidate"] == 30
    assert asked(rig, "/api/weights", move, **bearer(rig))[0] == 200
    assert rig.gateway.weights(MODEL)["candidate"] == 40
    rig.split(30, back=True)


def test_a_token_that_is_cut_short_opens_nothing(tmp_path: Path) -> None:
    """A machine that lost its power while the file was written."""
    (tmp_path / admin.TOKEN).touch()
    made = admin.token(tmp_path)
    assert len(made) > 40 and admin.token(tmp_path) == made
    assert (tmp_path / admin.TOKEN).stat().st_mode & 0o777 == 0o600


@pytest.mark.parametrize("length", ["-1", "99999999999", "x", "100001", None])
def test_a_body_without_a_sensible_length_is_refused_and_not_read_as_a_request(rig: Rig, length: str | None) -> None:
    host, port = address(rig).split(":")
    said = "transfer-encoding: chunked" if length is None else f"content-length: {length}"
    for method, path, token in (("POST", "/api/weights", bearer(rig)["authorization"]), ("GET", "/metrics", "")):
        head = f"{method} {path} HTTP/1.1\r\nhost: {host}:{port}\r\nauthorization: {token}\r\n{said}\r\n\r\n"
        with socket.create_connection((host, int(port)), timeout=3) as line:
            line.sendall(head.encode() + f"GET /elsewhere HTTP/1.1\r\nhost: {host}:{port}\r\n\r\n".encode())
            got = b"".join(iter(lambda: line.recv(65_536), b""))
        assert got.count(b"HTTP/1.1 ") == 1 and (b" 413 " if method == "POST" else b" 200 ") in got[:20], got[:200]


def test_what_no_start_could_read_is_not_kept(rig: Rig) -> None:
    replica = {"model": MODEL, "arm": "candidate", "address": rig.candidate.address, "version": {"a": 1}}
    assert asked(rig, "/api/add", replica, **bearer(rig))[0] == 400
    assert asked(rig, "/api/shadow", {"model": MODEL, "percent": "5"}, **bearer(rig))[0] == 409
    assert routing.load(rig.folder) is not None


def test_another_sites_page_gets_nothing(rig: Rig) -> None:
    assert asked(rig, "/api/status", host="evil.example")[0] == 403
    assert asked(rig, "/api/weights", {"model": MODEL}, host="evil.example", **bearer(rig))[0] == 403
    assert asked(rig, "/elsewhere")[0] == 404
    for host, code in (
        ("10.0.0.5:8081", 200),
        ("[fe80::1]", 200),
        ("127.0.0.1", 200),
        ("127.0.0.1.evil.example", 403),
        ("", 403),
    ):
        assert asked(rig, "/metrics", host=host)[0] == code, host


def test_only_the_owner_reads_the_token(rig: Rig) -> None:
    assert (rig.folder / admin.TOKEN).stat().st_mode & 0o777 == 0o600
    assert rig.gateway.plane.folder.stat().st_mode & 0o777 == 0o700
