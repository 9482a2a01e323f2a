"""Answers that are known already: who may be answered with whose, what decides an answer, and a second level that fails."""

import contextlib
import shutil
import socketserver
import subprocess
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from conftest import free_port, wait_for
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from made_engine import SERVED, MadeEngine
from served import Running, running

from slipway.generating.jobs import Prompt, Sampling
from slipway.serving.asking import Choice
from slipway.serving.cache import Memory, key, scope
from slipway.serving.checking import Answer

ANN, BOB = {"authorization": "Bearer ann"}, {"authorization": "Bearer bob"}


@pytest.fixture(scope="module")
def replica(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Running]:
    with running(tmp_path_factory.mktemp("known")) as found:
        yield found


def made(replica: Running, text: str) -> int:
    assert isinstance(replica.engine, MadeEngine)
    return replica.engine.started[f"<user>{text}"]


def said(got: Any) -> str:
    assert got.status_code == 200, got.text
    return str(got.json()["choices"][0]["message"]["content"])


# --- the key ---

CHOICE = Choice((1, 2, 3), Sampling(max_tokens=9, temperature=0.7, seed=5))


def _key(shared_by: str = "tenant a", served: Any = SERVED, choice: Choice = CHOICE) -> bytes:
    return key(b"secret", shared_by, served, choice, {})


def test_case_G13_whatever_decides_an_answer_or_who_sees_it_is_in_the_key() -> None:
    sampling = CHOICE.sampling
    others = [
        _key(shared_by="tenant b"),
        _key(served=replace(SERVED, version="1.0.1")),
        _key(served=replace(SERVED, identity="2e" * 32)),
        _key(served=replace(SERVED, model="other")),
        _key(choice=replace(CHOICE, prompt=(1, 2, 3, 4))),
        *(
            _key(choice=replace(CHOICE, sampling=replace(sampling, **change)))
            for change in (
                {"max_tokens": 8}, {"temperature": 0.8}, {"temperature": 0.0}, {"top_p": 0.9}, {"top_k": 4}, {"seed": 6},
                {"stop": ("x",)}, {"presence_penalty": 0.1}, {"frequency_penalty": 0.1},
            )
        ),
        key(b"another secret", "tenant a", SERVED, CHOICE, {}),
    ]  # fmt: skip
    assert len({_key(), *others}) == len(others) + 1 == 16


def test_case_G13_a_composites_key_has_who_asks_and_what_each_member_is_given() -> None:
    """Two texts may be one to the first member's tokenizer and two to the second's; rules read who asks."""

    def of(members: list[tuple[int, ...]], group: str = "", track: str = "direct") -> bytes:
        choice = replace(CHOICE, prompt=Prompt.of(members, 0))
        return key(b"secret", "tenant a", SERVED, choice, {"user_group": group, "track": track})

    found = [of([(1, 2), (3,)]), of([(1, 2), (4,)]), of([(1, 2), (3,)], "staff"), of([(1, 2), (3,)], track="candidate")]
    assert len({*found, _key(choice=replace(CHOICE, prompt=(1, 2)))}) == 5 and found[0] == of([(1, 2), (3,)])


def test_what_changes_no_greedy_answer_is_not_in_the_key() -> None:
    greedy = Sampling(max_tokens=9, temperature=0)
    for change in ({"seed": 4}, {"top_p": 0.5}, {"top_k": 3}):
        assert _key(choice=Choice((1,), replace(greedy, **change))) == _key(choice=Choice((1,), greedy))  # type: ignore[arg-type]
    stops = [replace(greedy, stop=stop) for stop in (("a", "b"), ("b", "a"), ("a", "b", "a"))]
    assert len({_key(choice=Choice((1,), one)) for one in stops}) == 1


def test_case_G13_nobody_shares_with_whom_nobody_knows() -> None:
    assert scope("tenant", None, None) is None and scope("user", "a", None) is None
    assert scope("tenant", "a", "u") == scope("tenant", "a", "v") != scope("tenant", "b", "u")
    assert scope("user", "a", "u") != scope("user", "b", "u") and scope("user", "a", "u") != scope("user", "a", "v")
    assert scope("tenant", None, "u") != scope("tenant", "u", None), "a user's name is no tenant's"
    assert scope("shared", None, None) == scope("shared", "a", "u")


@settings(deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(st.lists(st.tuples(st.integers(0, 20), st.integers(0, 400)), max_size=60))
def test_memory_never_holds_more_than_it_may(puts: list[tuple[int, int]]) -> None:
    memory, last = Memory(3000, 60), {}
    for name, size in puts:
        at, answer = bytes([name]), Answer("x" * size, 1, "stop")
        memory.put(at, answer)
        last[at] = answer
        assert memory.bytes <= 3000
    found = {at: memory.get(at) for at in last}
    assert all(got in (None, last[at]) for at, got in found.items())


# --- over HTTP ---


def test_case_G13_one_tenants_answer_never_comes_to_another(replica: Running) -> None:
    asked: dict[str, Any] = {"temperature": 0}
    first = replica.chat("private", headers=ANN, **asked)
    assert made(replica, "private") == 1
    assert said(replica.chat("private", headers=ANN, **asked)) == said(first) and made(replica, "private") == 1
    replica.chat("private", headers=BOB, **asked)
    assert made(replica, "private") == 2, "another key's question is another question"
    for number, headers in enumerate(({}, {}, ANN | {"x-slipway-tenant": "bob"}), start=3):
        replica.chat("private", headers=headers, **asked)
        assert made(replica, "private") == number, "without a name, or with a borrowed one, nothing is shared"
    with ThreadPoolExecutor(6) as pool:
        both = [pool.submit(replica.chat, "at once delay:0.1", headers=who, **asked) for who in (ANN, BOB) * 3]
        ids = {one.result().json()["id"] for one in both}
    assert made(replica, "at once delay:0.1") == 2, "in flight too: one for each"
    assert len(ids) == 6, "everybody gets an id of their own"


def test_only_deterministic_answers_are_kept(replica: Running) -> None:
    for asked, times in (({}, 3), ({"temperature": 0.5}, 3), ({"seed": 1}, 1), ({"temperature": 0}, 1)):
        text = f"kept {asked}"
        answers = {said(replica.chat(text, headers=ANN, **asked)) for _ in range(3)}
        assert made(replica, text) == times and len(answers) == times, asked


def test_identical_questions_in_flight_are_one_generation(replica: Running) -> None:
    text = "together delay:0.1 tokens:6"
    with ThreadPoolExecutor(8) as pool:
        whole = [pool.submit(replica.chat, text, headers=ANN, temperature=0) for _ in range(4)]
        streamed = [pool.submit(replica.chat, text, headers=ANN, temperature=0, stream=True) for _ in range(4)]
        answers = {said(one.result()) for one in whole}
        streams = [one.result().text for one in streamed]
    assert made(replica, text) == 1 and len(answers) == 1
    assert all(one.endswith("data: [DONE]\n\n") and '"finish_reason":"stop"' in one for one in streams)
    assert replica.metric('llm_cache_hits_total{level="joined"}') >= 7


def test_a_failure_is_shared_and_never_kept(replica: Running) -> None:
    with ThreadPoolExecutor(4) as pool:
        failed = [pool.submit(replica.chat, "fault:cut shared", headers=ANN, temperature=0) for _ in range(4)]
        assert {one.result().status_code for one in failed} == {503}
    replica.chat("fault:cut shared", headers=ANN, temperature=0)
    assert made(replica, "fault:cut shared") >= 2


def test_one_who_leaves_takes_nobody_along(replica: Running) -> None:
    text = "left delay:0.1 tokens:8"
    with ThreadPoolExecutor(2) as pool:
        leaving = pool.submit(_leaves, replica, text)
        wait_for(lambda: made(replica, text) == 1, 5, "a start")
        staying = pool.submit(replica.chat, text, headers=ANN, temperature=0)
        assert leaving.result() and said(staying.result()) and made(replica, text) == 1


def _leaves(replica: Running, text: str) -> bool:
    import httpx
    from served import chat

    try:
        httpx.post(f"{replica.url}/v1/chat/completions", json=chat(text, temperature=0), headers=ANN, timeout=0.4)
    except httpx.ReadTimeout:
        return True
    return False


def test_it_can_be_switched_off_and_shared_by_all(tmp_path: Path) -> None:
    with running(tmp_path / "off", {"cache": {"memory_bytes": 0, "coalesce": False}}) as replica:
        for _ in range(2):
            replica.chat("off", headers=ANN, temperature=0)
        assert made(replica, "off") == 2
    with running(tmp_path / "shared", {"cache": {"scope": "shared"}}) as replica:
        for headers in (ANN, BOB, {}):
            replica.chat("all", headers=headers, temperature=0)
        assert made(replica, "all") == 1


# --- Redis ---


@pytest.fixture
def redis(tmp_path: Path) -> Iterator[Callable[[], "subprocess.Popen[bytes]"]]:
    program = shutil.which("redis-server")
    if program is None:
        pytest.skip("no redis-server here; `make services` installs it")
    port, started = free_port(), []

    def start() -> "subprocess.Popen[bytes]":
        words = [program, "--port", str(port), "--save", "", "--dir", str(tmp_path), "--bind", "127.0.0.1"]
        started.append(subprocess.Popen(words, stdout=subprocess.DEVNULL))
        return started[-1]

    start.port = port  # type: ignore[attr-defined]
    yield start
    for one in started:
        one.kill()
        one.wait(10)


def test_redis_shares_answers_between_replicas_and_believes_nobody_else(tmp_path: Path, redis: Any) -> None:
    import redis as client

    redis()
    server = client.Redis(port=redis.port)
    wait_for(lambda: _pings(server), 10, "Redis")
    second = {"cache": {"redis": {"url": f"redis://127.0.0.1:{redis.port}/0", "timeout_seconds": 2.0}}}
    with running(tmp_path, second) as one, running(tmp_path, second) as other:
        first = said(one.chat("far", headers=ANN, temperature=0))
        wait_for(lambda: server.dbsize() == 1, 5, "the answer in Redis")
        assert said(other.chat("far", headers=ANN, temperature=0)) == first and made(other, "far") == 0
        assert other.metric('llm_cache_hits_total{level="redis"}') == 1
        one.chat("near", headers=ANN, temperature=0)
        wait_for(lambda: server.dbsize() == 2, 5, "both answers in Redis")
        names: Any = sorted(server.keys())
        assert not any(b"far" in name or b"near" in name for name in names)
        values = [server.get(name) for name in names]
        server.mset({names[0]: values[1], names[1]: values[0]})  # moved to another question's place
        with running(tmp_path, second) as third:
            assert said(third.chat("far", headers=ANN, temperature=0)) == first and made(third, "far") == 1
            server.mset(dict.fromkeys(names, b"x" * 32 + b'["poison",1,"stop"]'))
            assert said(third.chat("near", headers=ANN, temperature=0)) != "poison" and made(third, "near") == 1


def _pings(server: Any) -> bool:
    import redis as client

    try:
        return bool(server.ping())
    except client.ConnectionError:
        return False


def test_a_redis_that_is_away_fails_no_request(tmp_path: Path, redis: Any) -> None:
    second = {"cache": {"redis": {"url": f"redis://127.0.0.1:{redis.port}/0", "pause_seconds": 0.1}}}
    with running(tmp_path, second) as replica:
        got = replica.chat("away", headers=ANN, temperature=0)
        assert said(got) and got.elapsed.total_seconds() < 1
        assert replica.metric("llm_cache_redis_failures") >= 1
        running_redis = redis()
        running_redis.send_signal(19)  # SIGSTOP: connects, and never answers
        for number in range(3):
            got = replica.chat(f"hangs {number}", headers=ANN, temperature=0)
            assert said(got) and got.elapsed.total_seconds() < 1


@pytest.mark.parametrize("reply", [b"$abc\r\n", b"$-5\r\n", b"HTTP/1.1 400 Bad Request\r\n\r\n", b"*-1\r\n"])
def test_whatever_answers_in_place_of_redis_fails_no_request(tmp_path: Path, reply: bytes) -> None:
    with _no_redis(reply) as port:
        second = {"cache": {"redis": {"url": f"redis://127.0.0.1:{port}/0", "pause_seconds": 0.01}}}
        with running(tmp_path, second) as replica:
            for number in range(2):
                assert replica.chat(f"odd {number}", headers=ANN, temperature=0).status_code == 200


@contextlib.contextmanager
def _no_redis(reply: bytes) -> Iterator[int]:
    """A server that says the same to everybody."""

    class Odd(socketserver.BaseRequestHandler):
        def handle(self) -> None:
            with contextlib.suppress(OSError):
                while self.request.recv(65536):
                    self.request.sendall(reply)

    with socketserver.ThreadingTCPServer(("127.0.0.1", 0), Odd) as server:
        server.daemon_threads = True
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05})
        thread.start()
        try:
            yield server.server_address[1]
        finally:
            server.shutdown()
            thread.join()
