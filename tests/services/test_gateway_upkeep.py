"""What outlives what: restarts, reloads, replicas of its own and a HAProxy that is only silent."""

import json
import os
import signal
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import made_ledger
import made_replica
import pytest
from conftest import free_port, slipway, wait_for
from gateways import Client, Rig, configuration, need_haproxy, rigged
from made_replica import MODEL, Process

from slipway.errors import Refused, SlipwayError, StageError, UsageError
from slipway.gateway import keys, replicas, routing
from slipway.gateway.config import Config
from slipway.gateway.control import Gateway

need_haproxy()


@pytest.fixture(scope="module")
def rig(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Rig]:
    with rigged(tmp_path_factory.mktemp("upkeep") / "gateway") as made:
        yield made


def with_(config: Config, **more: Any) -> Config:
    return Config.model_validate({**config.model_dump(), **more})


# --- starts -----------------------------------------------------------------------------------------------------------


def test_a_second_gateway_does_not_touch_the_first_ones_traffic(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    root = made_ledger.project(tmp_path / "project")
    monkeypatch.chdir(root)
    monkeypatch.setattr(signal, "signal", lambda *_: None)
    with rigged(root / ".slipway" / "gateway") as rig:
        (root / "configs" / "gateway.yaml").write_text(rig.gateway.config.model_dump_json())
        rig.champion.fault("slow", seconds=1.5)
        found: list[int] = []
        asking = threading.Thread(target=lambda: found.append(Client(rig.port).ask("u").status))
        asking.start()
        pid = rig.gateway.plane.running()
        code, _, err = slipway(capsys, "gateway")
        asking.join()
        assert (code, found, rig.gateway.plane.running()) == (75, [200], pid) and "another gateway" in err


@pytest.mark.parametrize("fault", ["torn", "admin"])
def test_case_G11_a_start_that_fails_leaves_the_traffic_of_the_one_before(tmp_path: Path, fault: str) -> None:
    with rigged(tmp_path / "gateway") as rig:
        rig.split(40)
        pid = rig.gateway.plane.running()
        rig.gateway.let_go()
        kept, config = (rig.folder / routing.FILE).read_bytes(), rig.gateway.config
        if fault == "torn":
            (rig.folder / routing.FILE).write_text('{"models": {"support')
        else:
            config = with_(config, admin=rig.champion.address)
        with pytest.raises(SlipwayError):
            Gateway(config, rig.folder).start()
        assert rig.gateway.plane.running() == pid and Client(rig.port).ask("u").status == 200
        (rig.folder / routing.FILE).write_bytes(kept)
        rig.made().start()
        assert rig.gateway.plane.running() == pid and rig.gateway.weights(MODEL)["candidate"] == 40


def test_ctrl_c_ends_a_gateway_whose_replica_is_still_starting(tmp_path: Path) -> None:
    gateway = Gateway(configuration([], []), tmp_path / "gateway")
    gateway.serving.command = lambda *_: [sys.executable, "-c", "import time; time.sleep(600)"]
    gateway.start()
    found: list[SlipwayError] = []

    def serving() -> None:
        try:
            gateway.serving.serve(MODEL, "champion", "1.0.0")
        except SlipwayError as error:
            found.append(error)

    thread = threading.Thread(target=serving)
    thread.start()
    wait_for(lambda: list((tmp_path / "gateway" / "replicas").glob("*.log")), 5, "the replica to be started")
    gateway.serving.ended.set()
    thread.join(3)
    gateway.give_up()
    assert "not waited for" in str(found[0])
    assert gateway.plane.running() is None


# --- what the file says, and what was decided since --------------------------------------------------------------------


def test_case_G11_after_a_promotion_a_restart_does_not_bring_the_old_version_back(tmp_path: Path) -> None:
    with rigged(tmp_path / "gateway") as rig:
        wait_for(lambda: rig.gateway.model(MODEL).candidate.version, 5, "the versions")
        rig.split(100)
        rig.gateway.settle(MODEL, "promoted")
        rig.gateway.let_go()
        rig.made().start()
        model = rig.gateway.model(MODEL)
        assert [one.address for one in model.champion.replicas] == [rig.candidate.address]
        assert (model.champion.version, model.candidate.replicas) == ("2.0.0", [])
        assert {Client(rig.port).ask(str(user)).version for user in range(10)} == {"2.0.0"}


def test_an_address_that_left_the_file_gets_no_traffic_and_one_that_was_removed_stays_away(tmp_path: Path) -> None:
    second, third = Process("1.0.0"), Process("1.0.0")
    with rigged(tmp_path / "gateway") as rig:
        served = rig.gateway.config.models[0]

        def reloaded(*champions: str) -> list[str]:
            models = [{**served.model_dump(), "champion": list(champions)}]
            rig.gateway.reload(with_(rig.gateway.config, models=models))
            return sorted(one.address for one in rig.gateway.model(MODEL).champion.replicas)

        one, two, three = rig.champion.address, second.address, third.address
        rig.gateway.add(MODEL, "champion", three)
        assert reloaded(one, two) == sorted([one, two, three]), "what was added by hand stays"
        assert reloaded(two) == sorted([two, three])
        rig.gateway.remove(MODEL, two)
        assert reloaded(two) == [three], "the file says what it said before"
        before = rig.champion.asked("/seen")["requests"]
        assert Client(rig.port).ask("u").status == 200
        assert (rig.champion.asked("/seen")["requests"], third.asked("/seen")["requests"]) == (before, 1)
    second.kill()
    third.kill()


def test_fewer_slots_keep_every_replica_or_are_refused(tmp_path: Path) -> None:
    second = Process("1.0.0")
    with rigged(tmp_path / "gateway") as rig:
        rig.gateway.add(MODEL, "champion", second.address)
        with pytest.raises(UsageError, match="more than slots"):
            rig.gateway.reload(with_(rig.gateway.config, slots=1))
        rig.gateway.remove(MODEL, rig.champion.address)
        rig.gateway.reload(with_(rig.gateway.config, slots=1))
        assert Client(rig.port).ask("u").status == 200 and second.asked("/seen")["requests"] == 1
    second.kill()


def test_one_arm_is_one_version(rig: Rig) -> None:
    other = Process("9.0.0")
    try:
        wait_for(lambda: rig.gateway.model(MODEL).champion.version, 5, "the version")
        with pytest.raises(Refused, match=r"serves 9\.0\.0, and the champion"):
            rig.gateway.add(MODEL, "champion", other.address)
        assert rig.gateway.model(MODEL).champion.at(other.address) is None
    finally:
        other.kill()


# --- reloads ----------------------------------------------------------------------------------------------------------


def test_a_revoked_key_stays_revoked_over_a_reload(tmp_path: Path) -> None:
    _, text = keys.new(tmp_path / "gateway", "ada", False, 0)
    with rigged(tmp_path / "gateway", authentication="keys") as rig:

        def status() -> int:
            return Client(rig.port).ask("u", authorization=f"Bearer {text}").status

        assert status() == 200
        keys.revoke(tmp_path / "gateway", "ada")
        wait_for(lambda: status() == 401, 3, "it to be known")
        rig.gateway.reload(with_(rig.gateway.config, force_arm="nobody"))
        assert status() == 401


def test_a_reload_takes_another_address_other_models_and_another_breaker(tmp_path: Path) -> None:
    with rigged(tmp_path / "gateway") as rig:
        config, port = rig.gateway.config, free_port()
        models = [{"name": "other", "champion": [rig.champion.address], "candidate": [rig.candidate.address]}]
        now = with_(config, listen=f"127.0.0.1:{port}", models=models, breaker={"bad": 2, "last": 4})
        rig.gateway.reload(now)
        assert Client(port).ask("u", body={}).status == 200
        with pytest.raises(OSError):
            Client(int(config.listen.rpartition(":")[2]) or 1).ask("u")
        assert set(rig.gateway.watch.models) == {"other"}
        rig.gateway.set_weights("other", {"champion": 0, "candidate": 100}, "a test")
        rig.candidate.fault("500")
        for _ in range(2):
            assert Client(port).ask("u", body={}).status == 200
        wait_for(lambda: rig.gateway.weights("other")["candidate"] == 0, 2, "the new breaker")
        points = len(rig.gateway.watch.history("other"))
        wait_for(lambda: len(rig.gateway.watch.history("other")) > points, 3, "the watch to go on")


def test_case_G10_a_configuration_that_does_not_start_changes_nothing(tmp_path: Path) -> None:
    """It is sound, and its address is somebody else's: only the start shows it."""
    with rigged(tmp_path / "gateway") as rig:
        rig.split(30)
        plane, before = rig.gateway.plane, rig.gateway.config
        files = {name: (plane.folder / name).read_bytes() for name in ("haproxy.cfg", "running.txt", "weights.map")}
        pid, port = plane.running(), rig.port
        with pytest.raises(StageError, match="did not start"):
            rig.gateway.reload(with_(before, listen=rig.champion.address))
        assert (plane.running(), rig.port, rig.gateway.config) == (pid, port, before)
        assert {name: (plane.folder / name).read_bytes() for name in files} == files
        assert Client(port).ask("u").status == 200
        for key, value in (("admin", "127.0.0.1:1"), ("haproxy", "/bin/true")):
            with pytest.raises(UsageError, match=key):
                rig.gateway.reload(with_(before, **{key: value}))


def test_case_G10_a_broken_file_is_named_and_the_old_configuration_stays(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    root = made_ledger.project(tmp_path / "project")
    monkeypatch.chdir(root)
    with rigged(root / ".slipway" / "gateway") as rig:
        file, pid = root / "configs" / "gateway.yaml", rig.gateway.plane.running()
        good = json.loads(rig.gateway.config.model_dump_json())
        for broken, says in (
            ("limits: [", "gateway.yaml"), (json.dumps({**good, "limitz": {}}), "limitz"), ("\x00", "gateway.yaml"),
            (json.dumps({**good, "models": []}), "models"), (json.dumps({**good, "certificate": "/no.pem"}), "no.pem"),
        ):  # fmt: skip
            file.write_text(broken)
            code, _, err = slipway(capsys, "gateway", "reload")
            assert code in (1, 2) and says in err and len(err.splitlines()) == 1, err
        file.unlink()
        assert slipway(capsys, "gateway", "reload")[0] == 2
        assert rig.gateway.plane.running() == pid and Client(rig.port).ask("u").status == 200


# --- a HAProxy that is silent ------------------------------------------------------------------------------------------


def test_case_G11_a_paused_haproxy_gets_no_twin_and_learns_what_was_decided(tmp_path: Path) -> None:
    with rigged(tmp_path / "gateway") as rig:
        rig.split(100)
        pid = rig.gateway.plane.running()
        assert pid is not None
        os.kill(pid, signal.SIGSTOP)
        try:
            rig.split(0)
            wait_for(lambda: "lives and does not answer" in rig.gateway.journal.last[-1].said, 8, "the silence")
        finally:
            os.kill(pid, signal.SIGCONT)
        wait_for(lambda: f"{MODEL} 0" in rig.gateway.runtime.ask("show map weights.map"), 3, "the weight")
        assert rig.gateway.plane.running() == pid and "HAProxy had died" not in str(rig.gateway.journal.last)
        assert {Client(rig.port).ask(str(user)).version for user in range(10)} == {"1.0.0"}


def test_case_G11_an_heir_puts_an_end_to_a_haproxy_that_never_answers(tmp_path: Path) -> None:
    with rigged(tmp_path / "gateway") as rig:
        rig.split(40)
        pid = rig.gateway.plane.running()
        assert pid is not None
        rig.gateway.let_go()
        os.kill(pid, signal.SIGSTOP)
        rig.made().start()
        assert rig.gateway.plane.running() not in (pid, None) and replicas.born(pid) is None
        assert rig.gateway.weights(MODEL)["candidate"] == 40 and Client(rig.port).ask("u").status == 200


# --- replicas of its own ------------------------------------------------------------------------------------------------


def own(folder: Path) -> Gateway:
    gateway = Gateway(configuration([], []), folder)
    gateway.serving.command = lambda _, version: [sys.executable, made_replica.__file__, "--version", version, "--json"]
    gateway.start()
    return gateway


def test_after_a_promotion_a_replica_that_dies_comes_back_as_the_champion_it_is(tmp_path: Path) -> None:
    gateway = own(tmp_path / "gateway")
    try:
        gateway.serving.serve(MODEL, "champion", "3.0.0", 20)
        old = gateway.serving.started[0]
        gateway.serving.serve(MODEL, "candidate", "4.0.0", 20)
        new = gateway.serving.started[1]
        gateway.set_weights(MODEL, {"champion": 0, "candidate": 100}, "a test")
        gateway.settle(MODEL, "promoted")
        wait_for(lambda: not old.lives(), 5, "the old champion's process to end")
        os.kill(new.pid, signal.SIGKILL)
        client = Client(int(str(gateway.routing.listen).rpartition(":")[2]))
        wait_for(lambda: new.lives() and new.known_as == new.address, 15, "it to come back")
        wait_for(lambda: client.ask("u").version == "4.0.0", 5, "its answer")
        model = gateway.model(MODEL)
        assert [one.address for one in model.champion.replicas] == [new.address] and model.candidate.replicas == []
    finally:
        gateway.stop(1)


@pytest.mark.parametrize("how", ["stopped", "killed"])
def test_after_its_end_the_champion_is_whom_the_ledger_names_then(tmp_path: Path, how: str) -> None:
    """Not the version that it was when the gateway ended, nor one of the model's own name."""
    gateway = own(tmp_path / "gateway")
    gateway.serving.serve(MODEL, "champion", "base", 20)
    gateway.serving.serve(MODEL, "candidate", "4.0.0", 20)
    champion, candidate = gateway.serving.started
    if how == "stopped":
        gateway.stop(1)
    else:
        gateway.let_go()
        os.kill(champion.pid, signal.SIGKILL)
        wait_for(lambda: not champion.lives(), 5, "its end")
    gateway = own(tmp_path / "gateway")
    try:
        assert gateway.model(MODEL).champion.replicas == [], "so that `slipway gateway` asks the ledger"
        assert [one.version for one in gateway.serving.started] == ["4.0.0"], "the candidate is what it was"
        wait_for(lambda: gateway.watch.look(MODEL) is not None, 5, "a look")
        wait_for(lambda: gateway.serving.started[0].lives() and gateway.arms(MODEL)["candidate"]["up"], 15, "it")
    finally:
        gateway.stop(1)
        candidate.stop()


def test_a_replica_that_was_removed_is_ended_and_one_that_drains_stays_drained(tmp_path: Path) -> None:
    gateway = own(tmp_path / "gateway")
    try:
        for _ in range(2):
            gateway.serving.serve(MODEL, "champion", "3.0.0", 20)
        gone, drained = gateway.serving.started
        gateway.drain(MODEL, str(drained.known_as))
        os.kill(drained.pid, signal.SIGKILL)
        before = drained.known_as
        wait_for(lambda: drained.known_as != before, 15, "it to come back")
        assert [one.state for one in gateway.model(MODEL).champion.replicas if one.address == drained.known_as] == [
            "drain"
        ]
        gateway.remove(MODEL, str(gone.known_as))
        wait_for(lambda: not gone.lives(), 5, "its process to end")
        time.sleep(1.2)
        assert [one.address for one in gateway.model(MODEL).champion.replicas] == [drained.known_as], (
            "it is not revived"
        )
    finally:
        gateway.stop(1)
