"""A candidate that fails in every way there is: clients do not notice, and it loses its traffic."""

import json
import socket
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from conftest import wait_for
from gateways import Answer, Client, Rig, need_haproxy, rigged
from made_replica import MODEL, PIECES

need_haproxy()
FAULTS = ("500", "hang", "empty", "garbage", "nothing", "cut", "slow")


@pytest.fixture(scope="module")
def rig(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Rig]:
    with rigged(tmp_path_factory.mktemp("faults") / "gateway") as made:
        yield made


@pytest.fixture
def canary(rig: Rig) -> Rig:
    """Half of the users are the candidate's, and it is well."""
    rig.candidate.fault("ok", draining=False)
    rig.champion.fault("ok")
    wait_for(lambda: rig.gateway.arms(MODEL)["candidate"]["up"], 5, "the candidate")
    rig.split(0)
    rig.split(50)
    return rig


class Load:
    """Clients that ask one thing after the other, each with users of its own."""

    def __init__(self, port: int, clients: int = 8) -> None:
        self.answers: list[tuple[float, Answer]] = []
        self.stopped = threading.Event()
        self.threads = [threading.Thread(target=self._ask, args=(port, number)) for number in range(clients)]
        for thread in self.threads:
            thread.start()

    def _ask(self, port: int, number: int) -> None:
        client, count = Client(port), 0
        while not self.stopped.is_set():
            count += 1
            self.answers.append((time.monotonic(), client.ask(f"{number}-{count % 20}")))
            time.sleep(0.005)
        client.close()

    def end(self) -> list[Answer]:
        self.stopped.set()
        for thread in self.threads:
            thread.join()
        return [answer for _, answer in self.answers]


@pytest.mark.parametrize("fault", [*FAULTS, "kill"])
def test_case_G1_nobody_sees_a_failing_candidate_and_it_is_out_within_two_seconds(canary: Rig, fault: str) -> None:
    load = Load(canary.port)
    time.sleep(0.2)
    begun = time.monotonic()
    if fault == "kill":
        canary.candidate.kill()
    else:
        canary.candidate.fault(fault, seconds=1.5)
    try:
        wait_for(lambda: canary.gateway.weights(MODEL)["candidate"] == 0, 3, f"the breaker, at {fault}")
        took = time.monotonic() - begun
        time.sleep(0.1)
    finally:
        answers = load.end()
        if fault == "kill":
            canary.candidate.again()
    assert took <= 2
    assert len(answers) > 50
    assert {answer.status for answer in answers} == {200}
    assert all(json.loads(answer.body)["choices"] for answer in answers), "whole answers, whoever gave them"
    assert {answer.version for answer in answers[-8:]} == {"1.0.0"}
    told = canary.gateway.journal.last[-1]
    assert (told.kind, told.facts["by"], told.facts["before"]) == ("traffic_changed", "breaker", 50)


@pytest.mark.parametrize("fault", ["501", "507", "599", "302", "204", "101", "cut-chunks"])
def test_case_G1_whatever_is_no_answer_is_made_good_and_counted(canary: Rig, fault: str) -> None:
    """A status that no `retry-on` knows; chunks that end behind a brace."""
    canary.split(100)
    canary.candidate.fault(fault)
    answer = Client(canary.port).ask("somebody")
    assert (answer.status, answer.version, answer.headers.get("x-slipway-failover")) == (200, "1.0.0", "1")
    assert json.loads(answer.body)["choices"]
    wait_for(lambda: canary.gateway.share(MODEL)["counts"]["candidate_bad"] == 1, 2, "it to be counted")


def test_clients_that_go_away_are_not_the_candidates_fault(canary: Rig) -> None:
    canary.split(100)
    canary.candidate.fault("slow", seconds=0.3)
    for stream in (False, True) * 6:
        body = json.dumps({"model": MODEL, "stream": stream, "messages": []}).encode()
        head = f"POST /v1/chat/completions HTTP/1.1\r\nhost: x\r\ncontent-length: {len(body)}\r\n\r\n"
        with socket.create_connection(("127.0.0.1", canary.port), timeout=5) as line:
            line.sendall(head.encode() + body)
            time.sleep(0.01)
    time.sleep(0.5)
    assert Client(canary.port).ask("somebody").version == "2.0.0"
    counts = canary.gateway.share(MODEL)["counts"]
    assert (counts["candidate_bad"], counts["candidate_cut"]) == (0, 0)


def test_what_failed_over_says_so_to_the_champion_and_to_the_client(canary: Rig) -> None:
    canary.split(100)
    canary.candidate.fault("500")
    answer = Client(canary.port).ask("somebody", x_request_id="mine-1")
    assert (answer.status, answer.version, answer.headers["x-slipway-failover"]) == (200, "1.0.0", "1")
    heard = canary.champion.seen[-1]
    assert (heard["x-slipway-track"], heard["x-slipway-failover"], heard["x-request-id"]) == ("champion", "1", "mine-1")
    assert canary.candidate.seen[-1]["x-slipway-track"] == "candidate"
    assert "x-slipway-kind" not in heard and "x-slipway-kind" not in canary.candidate.seen[-1]


def test_a_mistake_of_the_client_is_not_the_candidates_fault(canary: Rig) -> None:
    before = canary.gateway.watch.totals(MODEL).candidate_bad
    canary.split(100)
    assert Client(canary.port).ask("somebody", path="/v1/chat/completions", body=b"").status == 200
    assert Client(canary.port).ask("somebody", path="/elsewhere").status == 404
    assert canary.gateway.share(MODEL)["counts"]["candidate_bad"] == 0
    assert canary.gateway.watch.totals(MODEL).candidate_bad == before


def test_a_label_reaches_a_replica_once_even_when_that_fails(canary: Rig) -> None:
    canary.split(100)
    for fault in ("500", "nothing"):
        canary.champion.fault(fault)
        before = canary.champion.asked("/seen")["feedback"], canary.candidate.asked("/seen")["feedback"]
        answer = Client(canary.port).ask("somebody", path="/v1/feedback", body={"id": "x", "score": 1})
        assert answer.status >= 500
        after = canary.champion.asked("/seen")["feedback"], canary.candidate.asked("/seen")["feedback"]
        assert (after[0] - before[0], after[1] - before[1]) == (1, 0), fault


def streamed(port: int, user: str) -> tuple[bytes, bool]:
    """What came of a stream, byte for byte, and whether it ended as it should."""
    body = json.dumps({"model": MODEL, "stream": True, "messages": []}).encode()
    head = f"POST /v1/chat/completions HTTP/1.1\r\nhost: x\r\nx-user-id: {user}\r\ncontent-length: {len(body)}\r\n\r\n"
    with socket.create_connection(("127.0.0.1", port), timeout=10) as line:
        line.sendall(head.encode() + body)
        data = b""
        while not data.endswith(b"0\r\n\r\n") and (more := line.recv(65_536)):
            data += more
    return data, data.endswith(b"0\r\n\r\n")


def test_case_G2_a_stream_that_is_cut_ends_without_an_end_and_without_anybody_elses_tokens(canary: Rig) -> None:
    canary.split(100)
    data, ended = streamed(canary.port, "u")
    assert ended and data.count(b"2.0.0-") == PIECES and b"[DONE]" in data
    canary.candidate.fault("cut-stream")
    data, ended = streamed(canary.port, "u")
    assert not ended and b"[DONE]" not in data
    assert data.count(b"2.0.0-") == 3 and b"1.0.0-" not in data
    wait_for(lambda: canary.gateway.watch.totals(MODEL).candidate_cut, 2, "the cut to be counted")


@pytest.mark.parametrize("fault", ["empty-stream", "hang", "501"])
def test_case_G1_a_stream_that_does_not_begin_is_begun_by_the_champion(canary: Rig, fault: str) -> None:
    canary.split(100)
    canary.candidate.fault(fault)
    data, ended = streamed(canary.port, "u")
    assert ended and data.count(b"1.0.0-") == PIECES and b"2.0.0-" not in data and b"x-slipway-failover: 1" in data


def test_case_G2_a_stream_that_goes_silent_is_cut_and_counted(canary: Rig) -> None:
    canary.split(100)
    canary.candidate.fault("hang-stream")
    data, ended = streamed(canary.port, "u")
    assert not ended and data.count(b"2.0.0-") == 3 and b"1.0.0-" not in data
    wait_for(lambda: canary.gateway.share(MODEL)["counts"]["candidate_cut"] == 1, 2, "it to be counted")


def test_pieces_of_a_stream_come_as_they_are_made(canary: Rig) -> None:
    canary.split(100)
    canary.candidate.fault("ok", piece_seconds=0.2)
    body = json.dumps({"model": MODEL, "stream": True, "messages": []}).encode()
    head = f"POST /v1/chat/completions HTTP/1.1\r\nhost: x\r\ncontent-length: {len(body)}\r\n\r\n"
    with socket.create_connection(("127.0.0.1", canary.port), timeout=5) as line:
        line.sendall(head.encode() + body)
        first = line.recv(65_536)
    canary.candidate.fault("ok", piece_seconds=0.02)
    assert b"2.0.0-0" in first and b"2.0.0-1" not in first


def test_case_G2_a_candidate_that_is_killed_mid_stream_cuts_the_stream(canary: Rig) -> None:
    canary.split(100)
    canary.candidate.fault("ok", piece_seconds=0.2)
    found: list[tuple[bytes, bool]] = []
    reading = threading.Thread(target=lambda: found.append(streamed(canary.port, "u")))
    reading.start()
    time.sleep(0.3)
    canary.candidate.kill()
    reading.join(5)
    canary.candidate.again()
    data, ended = found[0]
    assert b"2.0.0-0" in data and b"1.0.0-" not in data and not ended


def test_case_G7_when_the_champion_fails_the_candidate_is_not_promoted(canary: Rig) -> None:
    champions = [u for u in map(str, range(40)) if Client(canary.port).ask(u).version == "1.0.0"][:3]
    assert len(champions) == 3
    canary.champion.kill()
    try:
        wait_for(lambda: canary.gateway.journal.last[-1].kind == "failing", 5, "it to be said")
        answers = [Client(canary.port).ask(user) for user in champions]
        assert {answer.status for answer in answers} == {503}
        assert json.loads(answers[0].body)["error"]["code"] == 503
        assert canary.gateway.weights(MODEL) == {"champion": 50, "candidate": 50}, "held where it is"
        assert "not promoted" in canary.gateway.journal.last[-1].said
    finally:
        canary.champion.again()
    wait_for(lambda: canary.gateway.journal.last[-1].kind == "recovered", 5, "the champion")
    assert Client(canary.port).ask(champions[0]).status == 200


def test_a_replica_that_drains_gets_nothing_new_and_nobody_is_lost(canary: Rig) -> None:
    canary.split(100)
    load = Load(canary.port, clients=2)
    canary.candidate.fault("ok", draining=True)
    wait_for(lambda: canary.gateway.weights(MODEL)["candidate"] == 0, 3, "the drained candidate to be out")
    assert {answer.status for answer in load.end()} == {200}


def test_the_budget_is_by_kind_of_request(tmp_path: Path) -> None:
    budgets = {"stream": 0.2, "chat": 3, "completion": 0.2, "champion": 10}
    with rigged(tmp_path / "gateway", budgets=budgets, breaker={"bad": 20, "last": 20}) as rig:
        rig.split(100)
        rig.candidate.fault("slow", seconds=0.7)
        client = Client(rig.port)
        assert client.ask("u").version == "2.0.0"
        assert client.ask("u", path="/v1/completions", body={"prompt": "x"}).version == "1.0.0"
        assert client.ask("u", body={"stream": True, "messages": []}).version == "1.0.0"
