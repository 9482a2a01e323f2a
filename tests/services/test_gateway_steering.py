"""Weights, users, replicas, keys and kills: what is decided is what happens, and goes on happening."""

import http.client
import json
import os
import shutil
import signal
import ssl
import subprocess
import sys
import threading
import time
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import made_ledger
import made_replica
import pytest
from conftest import wait_for
from gateways import Answer, Client, Rig, configuration, need_haproxy, rigged
from made_replica import MODEL, Process

from slipway.errors import Refused, StageError, Transient
from slipway.gateway import keys, routing
from slipway.gateway.config import Config
from slipway.gateway.control import Gateway
from slipway.gateway.runtime import Runtime

need_haproxy()


@pytest.fixture(scope="module")
def rig(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Rig]:
    with rigged(tmp_path_factory.mktemp("steering") / "gateway") as made:
        yield made


@pytest.fixture
def calm(rig: Rig) -> Rig:
    """All users with the champion."""
    rig.split(0)
    return rig


# --- weights and users ------------------------------------------------------------------------------------------------

NONSENSE = [
    {"champion": 101, "candidate": -1}, {"champion": -1, "candidate": 101}, {"champion": 50, "candidate": float("nan")},
    {"champion": 50, "candidate": 51}, {"champion": 100, "candidate": 101}, {"champion": 100}, {}, {"champion": True, "candidate": 99},
    {"champion": "95", "candidate": "5"}, {"champion": 90, "candidate": 5, "shadow": 5}, {"champion": float("inf"), "candidate": 0},
]  # fmt: skip


@pytest.mark.parametrize("weights", NONSENSE, ids=str)
def test_case_G10_weights_that_make_no_sense_change_nothing(calm: Rig, weights: dict[str, object]) -> None:
    calm.split(20)
    with pytest.raises(Refused, match="kept"):
        calm.gateway.set_weights(MODEL, weights, "nonsense")
    assert calm.gateway.weights(MODEL) == {"champion": 80, "candidate": 20}
    assert f"{MODEL} 2000" in calm.gateway.runtime.ask("show map weights.map")


def test_case_G10_a_configuration_that_haproxy_refuses_changes_nothing(calm: Rig, tmp_path: Path) -> None:
    broken = calm.gateway.config.model_copy(update={"certificate": str(tmp_path / "missing.pem")})
    before = calm.gateway.plane.running(), (calm.gateway.plane.folder / "haproxy.cfg").read_bytes()
    with pytest.raises(StageError, match=r"missing\.pem.*kept"):
        calm.gateway.reload(broken)
    assert (calm.gateway.plane.running(), (calm.gateway.plane.folder / "haproxy.cfg").read_bytes()) == before
    assert calm.gateway.config.certificate is None
    assert Client(calm.port).ask().status == 200


def versions(port: int, users: int) -> dict[str, str]:
    client = Client(port)
    return {str(user): client.ask(str(user)).version for user in range(users)}


def test_case_G12_users_only_move_on_as_the_weight_rises_and_back_by_rollback_alone(calm: Rig) -> None:
    before = versions(calm.port, 120)
    assert set(before.values()) == {"1.0.0"}
    for weight in (1, 5, 20, 50, 99, 100):
        calm.split(weight)
        now = versions(calm.port, 120)
        assert not [user for user in now if before[user] == "2.0.0" and now[user] == "1.0.0"]
        assert now == versions(calm.port, 120), "the same user, the same arm"
        share = sum(version == "2.0.0" for version in now.values()) / 120
        assert abs(share - weight / 100) < 0.14
        before = now
    with pytest.raises(Refused, match="take users back"):
        calm.split(50)
    assert set(versions(calm.port, 20).values()) == {"2.0.0"}
    calm.split(50, back=True)
    calm.split(0)
    assert set(versions(calm.port, 20).values()) == {"1.0.0"}


def test_a_decision_takes_effect_within_fifty_milliseconds(calm: Rig) -> None:
    client, took = Client(calm.port), []
    for weight in (100, 0) * 10:
        begun = time.perf_counter()
        calm.split(weight)
        assert client.ask("u").version == ("2.0.0" if weight else "1.0.0")
        took.append(time.perf_counter() - begun)
    assert sorted(took)[len(took) // 2] <= 0.05, took


@pytest.mark.parametrize("kind", ["cookie", "key", "address"])
def test_case_G12_users_known_otherwise_stay_and_move_on_alike(tmp_path: Path, kind: str) -> None:
    """Also: who may not name a user here does not name one to a replica either."""
    more = {"authentication": "keys"} if kind == "key" else {}
    names = [keys.new(tmp_path / "gateway", f"k{n}", False, 0)[1] if kind == "key" else str(n + 2) for n in range(24)]
    with rigged(tmp_path / "gateway", identity=[kind], **more) as rig:

        def asked() -> list[str]:
            found = []
            for name in names:
                line = http.client.HTTPConnection(
                    "127.0.0.1", rig.port, source_address=(f"127.0.0.{name}", 0) if kind == "address" else None
                )
                given = {"cookie": {"cookie": f"slipway-user={name}"}, "key": {"authorization": f"Bearer {name}"}}
                line.request("POST", "/v1/chat/completions", b"{}", {**given.get(kind, {}), "x-user-id": "mallory"})
                answer = line.getresponse()
                answer.read()
                found.append(answer.headers["x-slipway-version"])
                line.close()
            return found

        before = asked()
        for weight in (30, 60):
            rig.split(weight)
            now = asked()
            assert now == asked(), "the same user, the same arm"
            assert not [pair for pair in zip(before, now, strict=True) if pair == ("2.0.0", "1.0.0")]
            assert set(now) == {"1.0.0", "2.0.0"}
            before = now
        assert "x-user-id" not in rig.champion.seen[-1]


def test_a_user_is_known_by_header_cookie_or_address(calm: Rig) -> None:
    calm.split(50)
    client = Client(calm.port)
    by_header = {user: client.ask(user).version for user in "abcdefgh"}
    assert set(by_header.values()) == {"1.0.0", "2.0.0"}
    raw = {"messages": []}
    for user, version in by_header.items():
        client.line.request("POST", "/v1/chat/completions", json.dumps(raw), {"cookie": f"x=1; slipway-user={user}"})
        answer = client.line.getresponse()
        answer.read()
        assert answer.headers["x-slipway-version"] == version
    found = set()
    for _ in range(10):
        client.line.request("POST", "/v1/chat/completions", json.dumps(raw))
        answer = client.line.getresponse()
        answer.read()
        found.add(answer.headers["x-slipway-version"])
    assert len(found) == 1, "one address, one arm"


def test_the_measured_share_comes_with_its_interval(calm: Rig) -> None:
    calm.split(30)
    calm.gateway.watch.moved(MODEL, fresh=False)
    wait_for(lambda: calm.gateway.watch.models[MODEL].tokens_begun is not None, 5, "replicas to be asked since")
    seen = versions(calm.port, 200)
    wait_for(lambda: calm.gateway.share(MODEL)["requests"]["total"] == 200, 2, "the count")
    share = calm.gateway.share(MODEL)
    wanted = sum(version == "2.0.0" for version in seen.values())
    assert share["requests"]["candidate"] == wanted and share["weight"] == 30
    assert share["requests"]["low"] < 100 * wanted / 200 < share["requests"]["high"]
    assert share["requests"]["low"] < 30 < share["requests"]["high"]
    wait_for(lambda: calm.gateway.share(MODEL)["tokens"]["total"] >= 2000, 5, "the replicas' tokens")
    assert abs(calm.gateway.share(MODEL)["tokens"]["percent"] - 100 * wanted / 200) < 10, "they are asked once a second"


# --- replicas ---------------------------------------------------------------------------------------------------------


def test_a_replica_comes_drains_and_goes_while_traffic_flows(calm: Rig) -> None:
    second, statuses, stopped = Process("1.0.0"), [], threading.Event()

    def load() -> None:
        client = Client(calm.port)
        while not stopped.is_set():
            statuses.append(client.ask("u").status)

    thread = threading.Thread(target=load)
    thread.start()
    try:
        calm.gateway.add(MODEL, "champion", second.address)
        wait_for(lambda: second.asked("/seen")["requests"] > 5, 5, "requests at the second replica")
        calm.gateway.drain(MODEL, calm.champion.address)
        time.sleep(0.1)
        before = calm.champion.asked("/seen")["requests"]
        time.sleep(0.1)
        assert calm.champion.asked("/seen")["requests"] == before
        calm.gateway.ready(MODEL, calm.champion.address)
        calm.gateway.remove(MODEL, second.address)
    finally:
        stopped.set()
        thread.join()
        second.kill()
    assert len(statuses) > 50 and set(statuses) == {200}
    assert [one.address for one in calm.gateway.model(MODEL).champion.replicas] == [calm.champion.address]


@pytest.mark.parametrize(("fault", "copied"), [("kill", 0), ("kill", 100), ("503", 0)])
def test_a_champion_of_several_replicas_loses_one_and_nobody_notices(tmp_path: Path, fault: str, copied: int) -> None:
    second = Process("1.0.0")
    with rigged(tmp_path / "gateway") as rig:
        rig.gateway.add(MODEL, "champion", second.address)
        rig.gateway.set_shadow(MODEL, copied, "a test")
        wait_for(lambda: rig.gateway.arms(MODEL)["champion"]["up"] == 2, 5, "both")
        found, stopped = [], threading.Event()

        def load() -> None:
            client = Client(rig.port)
            while not stopped.is_set():
                found.append(client.ask("u").status)

        threads = [threading.Thread(target=load) for _ in range(4)]
        for thread in threads:
            thread.start()
        wait_for(lambda: second.asked("/seen")["requests"] > 10, 5, "requests at the second")
        if fault == "kill":
            second.kill()
        else:
            second.fault("ok", draining=True)
        time.sleep(0.5)
        stopped.set()
        for thread in threads:
            thread.join()
        second.kill()
    assert len(found) > 50 and set(found) == {200}


def test_case_G12_a_request_that_was_asked_again_is_counted_once(calm: Rig) -> None:
    second = Process("1.0.0")
    try:
        calm.gateway.add(MODEL, "champion", second.address)
        wait_for(lambda: calm.gateway.arms(MODEL)["champion"]["up"] == 2, 5, "both")
        for one in (calm.champion, second):
            one.fault("503")
        before = calm.gateway.watch.totals(MODEL).champion
        heard = calm.champion.asked("/seen")["requests"] + second.asked("/seen")["requests"]
        assert Client(calm.port).ask("u").status == 503
        assert calm.champion.asked("/seen")["requests"] + second.asked("/seen")["requests"] == heard + 3
        wait_for(lambda: calm.gateway.watch.totals(MODEL).champion > before, 2, "the count")
        assert calm.gateway.watch.totals(MODEL).champion == before + 1
    finally:
        calm.champion.fault("ok")
        calm.gateway.remove(MODEL, second.address)
        second.kill()


def test_a_replica_that_is_not_ready_gets_no_traffic(calm: Rig) -> None:
    with pytest.raises(Transient, match="not ready"):
        calm.gateway.add(MODEL, "candidate", "127.0.0.1:1", wait_seconds=0.1)
    assert [one.address for one in calm.gateway.model(MODEL).candidate.replicas] == [calm.candidate.address]


def test_the_candidate_becomes_the_champion_and_no_user_sees_a_difference(tmp_path: Path) -> None:
    with rigged(tmp_path / "gateway") as rig:
        with pytest.raises(Refused, match="not all"):
            rig.gateway.settle(MODEL, "promoted")
        rig.split(100)
        found, stopped = [], threading.Event()

        def load() -> None:
            client = Client(rig.port)
            while not stopped.is_set():
                answer = client.ask("u")
                found.append((answer.status, answer.version))

        thread = threading.Thread(target=load)
        thread.start()
        time.sleep(0.2)
        rig.gateway.settle(MODEL, "promoted")
        time.sleep(0.2)
        stopped.set()
        thread.join()
        assert set(found) == {(200, "2.0.0")} and len(found) > 50
        assert rig.gateway.weights(MODEL) == {"champion": 100, "candidate": 0}
        assert rig.gateway.model(MODEL).candidate.replicas == []
        assert rig.champion.asked("/seen")["requests"] == 0


# --- kills ------------------------------------------------------------------------------------------------------------


def test_case_G11_a_killed_haproxy_comes_back_with_the_same_traffic(tmp_path: Path) -> None:
    with rigged(tmp_path / "gateway") as rig:
        rig.split(40)
        before, port = versions(rig.port, 60), rig.port
        os.kill(rig.gateway.plane.running() or 0, signal.SIGKILL)
        wait_for(lambda: "HAProxy had died" in rig.gateway.journal.last[-1].said, 5, "a new HAProxy")
        assert rig.port == port and versions(port, 60) == before
        assert rig.gateway.share(MODEL)["counts"]["candidate"] >= 0


PROGRAM = """
import json, sys, threading
from pathlib import Path
from slipway.gateway.config import Config
from slipway.gateway.control import Gateway
gateway = Gateway(Config.model_validate_json(Path(sys.argv[1]).read_text()), Path(sys.argv[2]))
gateway.start()
print("started", flush=True)
gateway.set_weights(sys.argv[3], {"champion": 60, "candidate": 40}, "a test")
print("moved", flush=True)
threading.Event().wait()
"""


def test_case_G11_a_killed_gateway_leaves_the_traffic_flowing_and_its_heir_goes_on(tmp_path: Path) -> None:
    folder, champion, candidate = tmp_path / "gateway", Process("1.0.0"), Process("2.0.0")
    config = configuration([champion.address], [candidate.address])
    (tmp_path / "config.json").write_text(config.model_dump_json())
    words = [sys.executable, "-c", PROGRAM, str(tmp_path / "config.json"), str(folder), MODEL]
    first = subprocess.Popen(words, stdout=subprocess.PIPE, text=True)
    gateway: Gateway | None = None
    try:
        assert first.stdout is not None and [first.stdout.readline() for _ in range(2)] == ["started\n", "moved\n"]
        kept = routing.load(folder)
        assert kept is not None and kept.listen is not None
        port = int(kept.listen.rpartition(":")[2])
        before, pid = versions(port, 60), Runtime(folder / "haproxy").pid()
        assert set(before.values()) == {"1.0.0", "2.0.0"}
        first.kill()
        first.wait()
        assert versions(port, 60) == before, "nobody steers, and traffic flows"
        gateway = Gateway(config, folder)
        gateway.start()
        assert gateway.plane.running() == pid, "the same HAProxy, with its connections"
        assert gateway.weights(MODEL) == {"champion": 60, "candidate": 40} and versions(port, 60) == before
        gateway.set_weights(MODEL, {"champion": 100, "candidate": 0}, "steered again")
        assert set(versions(port, 20).values()) == {"1.0.0"}
        with pytest.raises(Transient, match="another gateway"):
            Gateway(config, folder).start()
    finally:
        first.kill()
        if gateway is not None:
            gateway.stop(1)
        elif pid := Runtime(folder / "haproxy").pid():
            os.kill(pid, signal.SIGKILL)
        champion.kill()
        candidate.kill()


def test_case_G11_a_stop_finishes_what_is_under_way(tmp_path: Path) -> None:
    with rigged(tmp_path / "gateway") as rig:
        rig.champion.fault("slow", seconds=0.8)
        found: list[int] = []
        asking = [threading.Thread(target=lambda: found.append(Client(rig.port).ask("u").status)) for _ in range(10)]
        for thread in asking:
            thread.start()
        wait_for(lambda: rig.champion.asked("/seen")["requests"] == 10, 3, "the requests to be under way")
        begun = time.monotonic()
        assert rig.gateway.stop(10)
        for thread in asking:
            thread.join()
        assert found == [200] * 10 and time.monotonic() - begun < 5
        with pytest.raises(OSError):
            Client(rig.port).ask("u")


def test_case_G11_a_stop_lets_streams_of_the_candidate_end_and_then_ends(tmp_path: Path) -> None:
    """Connections between the hops, which nobody uses any more, held a stop up for half a minute; it then said that it had cut."""
    with rigged(tmp_path / "gateway") as rig:
        rig.split(50)
        for one in (rig.champion, rig.candidate):
            one.fault("ok", piece_seconds=0.1)
        found: list[Answer] = []
        body = {"stream": True, "messages": []}
        asking = [
            threading.Thread(target=lambda user=user: found.append(Client(rig.port).ask(str(user), body=body)))
            for user in range(20)
        ]
        for thread in asking:
            thread.start()
        heard = (rig.champion, rig.candidate)
        wait_for(lambda: sum(one.asked("/seen")["requests"] for one in heard) == 20, 3, "streams under way")
        assert rig.gateway.stop(18), "it ended by itself"
        for thread in asking:
            thread.join()
        assert len(found) == 20 and all(answer.body.endswith(b"data: [DONE]\n\n") for answer in found)


def test_case_G11_another_configuration_is_taken_under_load(tmp_path: Path) -> None:
    with rigged(tmp_path / "gateway") as rig:
        rig.split(50)
        found, stopped, before = [], threading.Event(), rig.gateway.plane.running()

        def load() -> None:
            client = Client(rig.port)
            while not stopped.is_set():
                try:
                    found.append(client.ask("u").status)
                except (
                    OSError,
                    http.client.HTTPException,
                ):  # the old process closed a connection that waited: any client opens another
                    client = Client(rig.port)
                    found.append(client.ask("u").status)

        threads = [threading.Thread(target=load) for _ in range(4)]
        for thread in threads:
            thread.start()
        wait_for(lambda: len(found) > 50, 5, "requests")
        limits = rig.gateway.config.limits.model_copy(update={"headers": 60})
        rig.gateway.reload(rig.gateway.config.model_copy(update={"limits": limits}))
        seen = len(found)
        wait_for(lambda: len(found) > seen + 50, 5, "requests after it")
        stopped.set()
        for thread in threads:
            thread.join()
        assert rig.gateway.plane.running() not in (None, before)
        assert rig.gateway.weights(MODEL) == {"champion": 50, "candidate": 50}
        assert set(found) == {200}


def test_a_routing_file_that_is_torn_is_an_error_and_no_fresh_start(tmp_path: Path) -> None:
    with rigged(tmp_path / "gateway") as rig:
        rig.gateway.let_go()
        (tmp_path / "gateway" / routing.FILE).write_text('{"models": {"support')
        with pytest.raises(StageError, match="torn"):
            rig.made().start()


# --- keys, testers, models, TLS ---------------------------------------------------------------------------------------


def test_a_key_works_and_stops_working_without_a_reload(tmp_path: Path) -> None:
    with rigged(tmp_path / "gateway", authentication="keys") as rig:
        client, folder, pid = Client(rig.port), tmp_path / "gateway", rig.gateway.plane.running()
        assert client.ask("u").status == 401
        assert client.ask("u", authorization="Bearer slw_wrong").status == 401
        key, text = keys.new(folder, "ada", tester=False, requests_per_minute=5)
        tester, tester_text = keys.new(folder, "tess", tester=True, requests_per_minute=0)
        bearer, tests = {"authorization": f"Bearer {text}"}, {"authorization": f"Bearer {tester_text}"}
        wait_for(lambda: client.ask("u", **tests).status == 200, 2, "the keys")
        answers = [client.ask("u", **bearer).status for _ in range(8)]
        assert answers[:4] == [200] * 4 and answers[-1] == 429, "its own limit"
        heard = rig.champion.seen[-1]
        assert "authorization" not in heard and heard["x-slipway-tenant"] == key.id
        assert client.ask("u", x_slipway_force="candidate", **tests).version == "2.0.0"
        assert client.ask("u", x_slipway_force="shadow", **tests).version == "1.0.0"
        keys.revoke(folder, "ada")
        wait_for(lambda: client.ask("u", **bearer).status == 401, 2, "the key to be gone")
        assert client.ask("u", **tests).status == 200 and rig.gateway.plane.running() == pid
        kept = (folder / keys.FILE).read_text() + (folder / "haproxy" / "keys.map").read_text()
        assert text not in kept and tester_text not in kept


def test_only_who_may_chooses_an_arm(tmp_path: Path) -> None:
    with rigged(tmp_path / "gateway", force_arm="anyone") as rig:
        client = Client(rig.port)
        assert client.ask("u", x_slipway_force="candidate").version == "2.0.0"
        rig.split(100)
        assert client.ask("u", x_slipway_force="champion").version == "1.0.0"


def test_several_models_stand_behind_one_gateway(tmp_path: Path) -> None:
    first, second, third = Process("1.0.0"), Process("5.0.0"), Process("6.0.0")
    models = [
        {"name": MODEL, "champion": [first.address]},
        {"name": "other", "champion": [second.address], "candidate": [third.address]},
    ]
    gateway = Gateway(configuration([], [], models=models), tmp_path / "gateway")
    gateway.start()
    try:
        client = Client(int(str(gateway.routing.listen).rpartition(":")[2]))
        assert client.ask(body={"model": MODEL}).version == "1.0.0"
        assert client.ask(body={"model": "other"}).version == "5.0.0"
        assert client.ask(body={"model": "other@5.0.0"}).version == "5.0.0"
        assert client.ask(body={}).version == "1.0.0", "the first"
        answer = client.ask(body={"model": "nobody"})
        assert (answer.status, json.loads(answer.body)["error"]["type"]) == (404, "model_not_found")
        assert client.ask(path="/models/other/v1/chat/completions", body={}).version == "5.0.0"
        assert second.seen[-1]["path"] == "/v1/chat/completions"
        label = {"id": "x", "score": 1}
        refused = client.ask(path="/v1/feedback", body=label)
        assert refused.status == 400 and "/models/NAME/v1/feedback" in json.loads(refused.body)["error"]["message"]
        assert client.ask(path="/models/other/v1/feedback", body=label).status == 200
        assert (first.asked("/seen")["feedback"], second.asked("/seen")["feedback"]) == (0, 1)
        gateway.set_weights("other", {"champion": 0, "candidate": 100}, "a test")
        assert client.ask(body={"model": "other"}).version == "6.0.0"
        assert client.ask(body={"model": MODEL}).version == "1.0.0", "each its own split"
        with urllib.request.urlopen(f"http://{gateway.routing.listen}/v1/models", timeout=2) as listed:
            assert [one["id"] for one in json.loads(listed.read())["data"]] == [MODEL, "other"]
    finally:
        gateway.stop(1)
        for process in (first, second, third):
            process.kill()


def test_clients_speak_tls_with_a_private_authority(tmp_path: Path) -> None:
    if shutil.which("openssl") is None:
        pytest.skip("openssl makes the certificate of this test and is not installed")
    words = "req -x509 -newkey rsa:2048 -nodes -days 2 -subj /CN=localhost -addext subjectAltName=DNS:localhost"
    made = [*words.split(), "-keyout", str(tmp_path / "key.pem"), "-out", str(tmp_path / "ca.pem")]
    subprocess.run(["openssl", *made], check=True, capture_output=True)
    (tmp_path / "both.pem").write_text((tmp_path / "ca.pem").read_text() + (tmp_path / "key.pem").read_text())
    with rigged(tmp_path / "gateway", certificate=str(tmp_path / "both.pem")) as rig:
        context = ssl.create_default_context(cafile=str(tmp_path / "ca.pem"))
        request = urllib.request.Request(f"https://localhost:{rig.port}/v1/chat/completions", b"{}")
        with urllib.request.urlopen(request, timeout=5, context=context) as answer:
            assert answer.status == 200
        assert rig.champion.seen[-1]["x-forwarded-proto"] == "https"


# --- shadow -----------------------------------------------------------------------------------------------------------


def test_a_shadow_sees_copies_and_nobody_sees_the_shadow(tmp_path: Path) -> None:
    with rigged(tmp_path / "gateway", shadow={"in_flight": 4, "keep_texts": True}) as rig:
        rig.gateway.add(MODEL, "shadow", rig.candidate.address)
        rig.gateway.set_shadow(MODEL, 100, "a test")
        wait_for(lambda: rig.gateway.arms(MODEL)["shadow"]["up"], 3, "the shadow")
        client = Client(rig.port)
        mail = {"messages": [{"role": "user", "content": "I am ada@example.org\nand ask"}]}
        assert client.ask("u", body=mail, x_request_id="r1").version == "1.0.0"
        assert client.ask("u", body={**mail, "stream": True}, x_request_id="r2").version == "1.0.0"
        wait_for(lambda: rig.gateway.pairs.count == 2, 5, "two pairs")
        pairs = {
            p["request"]: p for p in map(json.loads, (tmp_path / "gateway/shadow/pairs.jsonl").read_text().splitlines())
        }
        assert pairs["r1"]["same"] and not pairs["r2"]["same"], "the versions stand in streamed tokens"
        assert (pairs["r1"]["champion"]["version"], pairs["r1"]["shadow"]["version"]) == ("1.0.0", "2.0.0")
        assert "<EMAIL>" in pairs["r1"]["question"] and "ada@" not in json.dumps(pairs)
        assert rig.candidate.seen[-1]["x-slipway-track"] == "shadow"
        assert rig.gateway.share(MODEL)["counts"]["candidate"] == 0


def test_a_shadow_that_hangs_delays_nobody_and_is_not_piled_up(tmp_path: Path) -> None:
    with rigged(tmp_path / "gateway", shadow={"in_flight": 4, "keep_texts": False}) as rig:
        rig.gateway.add(MODEL, "shadow", rig.candidate.address)
        rig.gateway.set_shadow(MODEL, 100, "a test")
        wait_for(lambda: rig.gateway.arms(MODEL)["shadow"]["up"], 3, "the shadow")
        rig.candidate.fault("hang")
        client, begun = Client(rig.port), time.monotonic()
        assert {client.ask(str(number)).status for number in range(100)} == {200}
        assert time.monotonic() - begun < 3
        sent = rig.gateway.pairs.sent()
        assert sent["sent"] + sent["dropped"] == 100 and sent["in_flight"] <= 4 and sent["dropped"] > 60, sent
        rig.gateway.set_shadow(MODEL, 0, "enough")
        with pytest.raises(Refused):
            rig.gateway.set_shadow(MODEL, 101, "too much")


# --- processes of its own, the ledger, the command --------------------------------------------------------------------


def test_the_ledger_is_told_and_believes(tmp_path: Path) -> None:
    from slipway.gateway import journal
    from slipway.ledger import events
    from slipway.ledger.database import Database

    root = made_ledger.project(tmp_path / "project")
    champion, candidate = Process("1.0.0"), Process("2.0.0")
    gateway = Gateway(configuration([champion.address], [candidate.address]), tmp_path / "gw", journal.to_ledger(root))
    gateway.start()
    try:
        wait_for(lambda: gateway.model(MODEL).candidate.version, 5, "the versions to be known")
        gateway.set_weights(MODEL, {"champion": 90, "candidate": 10}, "step 1")
    finally:
        gateway.stop(1)
        champion.kill()
        candidate.kill()
    with Database.of(root).read() as connection:
        told = list(events.read(connection, kind="traffic_changed"))
    assert [(one.model, one.subject) for one in told] == [(MODEL, "2.0.0")]
    assert told[0].payload["weights"] == {"1.0.0": 90, "2.0.0": 10}


def test_replicas_of_its_own_are_started_watched_and_started_again(tmp_path: Path) -> None:
    gateway = Gateway(configuration([], []), tmp_path / "gateway")
    gateway.serving.command = lambda _, version: [sys.executable, made_replica.__file__, "--version", version, "--json"]
    gateway.start()
    try:
        address = gateway.serving.serve(MODEL, "champion", "3.0.0", 20)
        client = Client(int(str(gateway.routing.listen).rpartition(":")[2]))
        wait_for(lambda: client.ask("u").version == "3.0.0", 5, "the replica")
        os.kill(gateway.serving.started[0].pid, signal.SIGKILL)
        wait_for(lambda: gateway.model(MODEL).champion.at(address) is None, 15, "another replica")
        wait_for(lambda: client.ask("u").status == 200, 10, "it to answer")
        kinds = [happening.kind for happening in gateway.journal.last]
        assert "replica_died" in kinds and kinds.count("replica_added") == 2
    finally:
        gateway.stop(1)
    wait_for(lambda: not gateway.serving.started[0].lives(), 5, "the replica to end")


def test_a_replica_that_cannot_start_says_why(tmp_path: Path) -> None:
    gateway = Gateway(configuration([], []), tmp_path / "gateway")
    gateway.serving.command = lambda *_: [sys.executable, "-c", "import sys; sys.exit('slipway: no such version')"]
    gateway.start()
    try:
        with pytest.raises(StageError, match="no such version"):
            gateway.serving.serve(MODEL, "champion", "3.0.0", 20)
    finally:
        gateway.stop(1)


def test_the_command_runs_is_steered_and_stops(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    from conftest import slipway

    root = made_ledger.project(tmp_path / "project")
    champion, candidate = Process("1.0.0"), Process("2.0.0")
    config: Config = configuration([champion.address], [candidate.address])
    (root / "configs" / "gateway.yaml").write_text(config.model_dump_json())
    words = [sys.executable, "-c", "from slipway.cli import main; main()", "gateway", "--json"]
    process = subprocess.Popen(words, cwd=root, stdout=subprocess.PIPE, text=True)
    before = Path.cwd()
    try:
        assert process.stdout is not None
        where = json.loads(process.stdout.readline())
        os.chdir(root)
        code, out, err = slipway(capsys, "gateway", "weights", "25", "--reason", "step", "--json")
        assert (code, err) == (0, "") and json.loads(out)["weights"] == {"champion": 75, "candidate": 25}
        for wrong in ("-1", "101", "nan"):
            code, out, err = slipway(capsys, "gateway", "weights", wrong, "--reason", "step")
            assert code == 3 and "kept" in err and len(err.splitlines()) == 1, err
        code, out, err = slipway(capsys, "gateway", "status")
        assert code == 0 and "75 %  1.0.0" in out and "25 %  2.0.0" in out
        prompts = tmp_path / "prompts.jsonl"
        prompts.write_text("".join(json.dumps({"prompt": f"q{n}", "answer": "hello"}) + "\n" for n in range(10)))
        given = ["--rate", "100", "--requests", "60", "--stream", "0.3", "--users", "20", "--json"]
        code, out, err = slipway(capsys, "traffic", str(prompts), *given)
        summary = json.loads(out)
        assert (code, summary["ok"], summary["flips_back"], summary["feedback_failed"]) == (0, 60, 0, 0), summary
        assert set(summary["versions"]) == {"1.0.0", "2.0.0"} and where["listen"]
        assert champion.asked("/seen")["feedback"] == 60
        process.send_signal(signal.SIGTERM)
        assert process.wait(15) == 0
        code, _, err = slipway(capsys, "gateway", "status")
        assert code == 75 and "is it running?" in err
    finally:
        os.chdir(before)
        process.kill()
        if pid := Runtime(root / ".slipway" / "gateway" / "haproxy").pid():
            os.kill(pid, signal.SIGKILL)
        champion.kill()
        candidate.kill()
