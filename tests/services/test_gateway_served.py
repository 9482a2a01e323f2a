"""The gateway before real replicas: what only both together can show."""

import json
import socket
from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Any

import pytest
from conftest import wait_for
from gateways import Answer, Client, configuration, need_haproxy
from made_engine import SERVED, MadeEngine
from served import Running, chat, project, read_all

from slipway.gateway import keys
from slipway.gateway.control import Gateway

need_haproxy()


@dataclass
class Stand:
    gateway: Gateway
    champion: Running
    candidate: Running
    keys: dict[str, str]

    @property
    def port(self) -> int:
        return int(str(self.gateway.routing.listen).rpartition(":")[2])

    def ask(self, text: str, key: str = "ada", user: str = "u", **asked: Any) -> Answer:
        return Client(self.port).ask(user, body=chat(text, **asked), authorization=f"Bearer {self.keys[key]}")

    def made(self, replica: Running, text: str) -> int:
        assert isinstance(replica.engine, MadeEngine)
        return replica.engine.started[f"<user>{text}"]


@pytest.fixture(scope="module")
def stand(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stand]:
    folder = tmp_path_factory.mktemp("served")
    root = project(folder / "project")
    champion, candidate = Running(root), Running(root, MadeEngine([replace(SERVED, version="2.0.0")]))
    at = [f"127.0.0.1:{one.port}" for one in (champion, candidate)]
    models = [{"name": "desk", "champion": at[:1], "candidate": at[1:]}]
    made = {name: keys.new(folder / "gateway", name, False, 0)[1] for name in ("ada", "bob")}
    gateway = Gateway(configuration([], [], models=models, authentication="keys"), folder / "gateway")
    gateway.start()
    wait_for(lambda: gateway.arms("desk")["candidate"]["up"], 10, "the candidate")
    try:
        yield Stand(gateway, champion, candidate, made)
    finally:
        gateway.stop(1)
        champion.stop()
        candidate.stop()


def test_case_G13_behind_the_gateway_each_key_is_a_tenant_and_nobody_borrows_another(stand: Stand) -> None:
    for _ in range(2):
        assert stand.ask("secret", "ada", temperature=0).status == 200
    assert stand.made(stand.champion, "secret") == 1, "her own answer comes back to her"
    given = {"authorization": f"Bearer {stand.keys['bob']}", "x-slipway-tenant": keys.load(stand.gateway.folder)[0].id}
    assert Client(stand.port).ask("u", body=chat("secret", temperature=0), **given).status == 200
    assert stand.made(stand.champion, "secret") == 2


def test_case_G9_a_trailer_makes_nobody_another_tenant_or_user(stand: Stand) -> None:
    """HAProxy passes trailers on."""
    body = json.dumps(chat("by trailer", temperature=0)).encode()
    for trailer in (b"", b"x-slipway-failover: 1\r\nauthorization: Bearer other\r\nx-slipway-tenant: other\r\n"):
        head = (
            "POST /v1/chat/completions HTTP/1.1\r\nhost: a\r\nconnection: close\r\ncontent-type: application/json\r\n"
            f"authorization: Bearer {stand.keys['ada']}\r\ntransfer-encoding: chunked\r\n\r\n{len(body):x}\r\n"
        )
        with socket.create_connection(("127.0.0.1", stand.port), timeout=10) as line:
            line.sendall(head.encode() + body + b"\r\n0\r\n" + trailer + b"\r\n")
            assert read_all(line).startswith(b"HTTP/1.1 200 ")
    assert stand.made(stand.champion, "by trailer") == 1, "the same tenant: the answer was known"


@pytest.mark.parametrize(
    "body",
    [b"[" * 50_000 + b"]" * 50_000, b'{"a":' * 20_000 + b"1" + b"}" * 20_000, *(
        json.dumps(chat("many", max_tokens=many)).encode() for many in (10**6, 2**63, -1)
    )],
    ids=["deep-lists", "deep-objects", "a-million-tokens", "too-many-for-64-bits", "less-than-none"],
)  # fmt: skip
@pytest.mark.parametrize("arm", ["champion", "candidate"])
def test_case_G8_what_makes_no_sense_is_400_and_nobodys_fault(stand: Stand, arm: str, body: bytes) -> None:
    stand.gateway.set_weights(
        "desk", {"champion": 0, "candidate": 100} if arm == "candidate" else {"champion": 100, "candidate": 0}, "a test"
    )
    answer = Client(stand.port).ask("u", body=body, authorization=f"Bearer {stand.keys['ada']}")
    assert answer.status == 400 and json.loads(answer.body)["error"]["message"]
    assert stand.gateway.share("desk")["counts"]["candidate_bad"] == 0
    assert stand.gateway.weights("desk")["candidate"] == (100 if arm == "candidate" else 0)


def test_feedback_counts_for_the_version_that_answered_wherever_it_is_posted(stand: Stand) -> None:
    stand.gateway.set_weights("desk", {"champion": 0, "candidate": 100}, "a test")
    answer = stand.ask("a question", temperature=0)
    assert answer.version == "2.0.0"
    for path in ("/v1/feedback", "/models/desk/v1/feedback"):
        label = {"id": json.loads(answer.body)["id"], "score": 1}
        told = Client(stand.port).ask("u", path=path, body=label, authorization=f"Bearer {stand.keys['ada']}")
        assert told.status == 200, told.body


def test_case_G2_a_stream_that_fails_midway_ends_with_an_error_that_says_so(stand: Stand) -> None:
    stand.gateway.set_weights("desk", {"champion": 0, "candidate": 100}, "a test")
    answer = stand.ask("fault:lost_midway tokens:6", stream=True)
    events = [line[6:] for line in answer.body.decode().splitlines() if line.startswith("data: ")]
    assert answer.status == 200 and answer.version == "2.0.0"
    assert "error" in json.loads(events[-1] if events[-1] != "[DONE]" else events[-2]), events[-2:]


@pytest.mark.parametrize("stream", [False, True])
def test_case_G1_an_engine_that_fails_is_made_good_by_the_champion(stand: Stand, stream: bool) -> None:
    stand.gateway.set_weights("desk", {"champion": 100, "candidate": 0}, "a test")
    stand.gateway.set_weights("desk", {"champion": 0, "candidate": 100}, "a test")
    assert isinstance(stand.candidate.engine, MadeEngine)
    stand.candidate.engine.broken = True
    try:
        answer = stand.ask(f"tokens:3 and made good {stream}", stream=stream)
        assert (answer.status, answer.version, answer.headers.get("x-slipway-failover")) == (200, "1.0.0", "1")
        assert not stream or answer.body.endswith(b"data: [DONE]\n\n")
        wait_for(lambda: stand.gateway.share("desk")["counts"]["candidate_bad"] == 1, 2, "it to be counted")
    finally:
        stand.candidate.engine.broken = False
