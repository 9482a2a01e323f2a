"""What single routers promise beyond what all do."""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from api_server import ApiServer
from conftest import wait_for
from gateways import configuration, need_haproxy
from made_replica import MODEL, Process
from pace import slowness
from router_rigs import ClusterRig, SageMakerRig, rig

from slipway.errors import Refused, StageError, Transient, UsageError
from slipway.gateway import routing
from slipway.gateway.control import Gateway
from slipway.gateway.runtime import Runtime
from slipway.gateway.steering import ask
from slipway.release.routers.cluster import Cluster
from slipway.release.routers.configuration import KServe
from slipway.release.routers.local import LocalRouter
from slipway.release.routers.protocol import Arm

OLD, NEW = "1.0.0", "2.0.0"


@pytest.fixture(params=["percent", "canary", "llm", "kubernetes"])
def cluster(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[ClusterRig]:
    with rig(request.param, tmp_path) as made:
        assert isinstance(made, ClusterRig)
        yield made


@pytest.fixture
def kubernetes(tmp_path: Path) -> Iterator[ClusterRig]:
    with rig("kubernetes", tmp_path) as made:
        assert isinstance(made, ClusterRig)
        yield made


def steered(api: ApiServer) -> list[dict[str, object]]:
    """The objects that carry traffic."""
    return [one for one in api.objects.values() if one["kind"] != "Deployment"]


# --- clusters ---------------------------------------------------------------------------------------------------------


def test_somebody_who_changes_it_every_time_is_named(cluster: ClusterRig) -> None:
    router = cluster.router()
    router.prepare(cluster.arm(OLD), cluster.arm(NEW))
    cluster.disturb(1000)
    with pytest.raises(Transient, match=r"changed by kubectl-edit each of 5 times"):
        router.move(100, "a step")
    assert cluster.shares() == {OLD: 100}


def test_what_is_not_ours_is_never_changed(cluster: ClusterRig) -> None:
    router = cluster.router()
    router.prepare(cluster.arm(OLD), cluster.arm(NEW))
    for one in steered(cluster.api):
        del one["metadata"]["labels"]["app.kubernetes.io/managed-by"]  # type: ignore[attr-defined]
    writes = len(cluster.api.writes)
    with pytest.raises(Refused, match="is not ours"):
        router.move(100, "a step")
    with pytest.raises(Refused, match="is not ours"):
        router.restore(cluster.arm(OLD))
    assert len(cluster.api.writes) == writes


def test_a_change_is_waited_for_until_the_controller_has_done_it(cluster: ClusterRig) -> None:
    cluster.api.lag = 3
    router = cluster.router()
    router.prepare(cluster.arm(OLD), cluster.arm(NEW))
    for share in cluster.steps:
        assert router.move(share, "a step").candidate_percent == share
    router.restore(cluster.arm(OLD))
    assert cluster.shares() == {OLD: 100}


def test_a_controller_that_does_nothing_is_said_to(cluster: ClusterRig) -> None:
    if cluster.form == "kubernetes":
        pytest.skip("a Service needs no controller: its selector is what it does")
    router = cluster.router()
    router.prepare(cluster.arm(OLD), cluster.arm(NEW))
    cluster.api.lag = 10_000
    with pytest.raises(Transient, match="does not give its candidate"):
        router.move(cluster.steps[0], "a step")


def test_a_version_of_this_machine_alone_cannot_go_to_a_cluster(cluster: ClusterRig) -> None:
    if cluster.form == "kubernetes":
        pytest.skip("its container may find the version by itself")
    with pytest.raises(Refused, match="archive_url"):
        cluster.router().prepare(cluster.arm(OLD), Arm(MODEL, NEW, "x"))
    assert not cluster.api.objects


def test_no_cluster_named_and_none_around_says_where_to_name_one(tmp_path: Path) -> None:
    settings = KServe.model_validate(
        {"kind": "kserve", "form": "llm", "namespace": "m", "kubeconfig": str(tmp_path / "none")}
    )
    with pytest.raises(UsageError, match=r"router\.kubeconfig"):
        Cluster(settings).send("GET", "/api")


def test_the_champion_keeps_all_its_replicas_beside_a_canary(tmp_path: Path) -> None:
    with rig("canary", tmp_path) as platform:
        assert isinstance(platform, ClusterRig)
        router = platform.router()
        router.prepare(platform.arm(OLD), platform.arm(NEW))
        for share in platform.steps:
            router.move(share, "a step")
        router.settle(platform.arm(NEW), keep_old=True)
        router.restore(platform.arm(OLD))
        assert platform.standard.least_stable and min(platform.standard.least_stable) == 2


def test_a_group_always_has_somebody_with_traffic(tmp_path: Path) -> None:
    with rig("llm", tmp_path) as platform:
        assert isinstance(platform, ClusterRig)
        seen: list[float] = []

        def look(method: str, path: str) -> None:
            members = platform.api.of_kind("LLMInferenceService")
            seen.append(sum(one["spec"]["router"]["route"]["weight"] for one in members) if members else 1)

        platform.api.before_write = look
        router = platform.router()
        router.prepare(platform.arm(OLD), platform.arm(NEW))
        for share in (5, 50, 100, 0, 100):
            router.move(share, "a step")
        router.restore(platform.arm(OLD))
        assert len(seen) >= 12 and min(seen) > 0


def test_a_smoke_test_that_fails_keeps_the_traffic_where_it_is(kubernetes: ClusterRig) -> None:
    router = kubernetes.router()
    router.prepare(kubernetes.arm(OLD), kubernetes.arm(NEW))
    kubernetes.api.smoke_status = 500
    with pytest.raises(Refused, match=r"smoke test .* at /ready failed.*no traffic was moved"):
        router.move(100, "the switch")
    assert kubernetes.shares() == {OLD: 100}
    kubernetes.api.smoke_status = 200
    assert router.move(100, "the switch").candidate_percent == 100
    kubernetes.api.smoke_status = 500
    assert router.restore(kubernetes.arm(OLD)).champion == OLD, "the way back asks nobody"


def test_the_switch_and_the_way_back_are_one_write_each(kubernetes: ClusterRig) -> None:
    router = kubernetes.router()
    router.prepare(kubernetes.arm(OLD), kubernetes.arm(NEW))
    router.move(100, "the switch")
    kubernetes.api.writes.clear()
    router.restore(kubernetes.arm(OLD))
    assert kubernetes.api.writes == [("PUT", "/api/v1/namespaces/models/services/support-desk")]


def test_a_champion_that_somebody_took_away_comes_back(kubernetes: ClusterRig) -> None:
    router = kubernetes.router()
    router.prepare(kubernetes.arm(OLD), kubernetes.arm(NEW))
    del kubernetes.api.objects["/apis/apps/v1/namespaces/models/deployments/support-desk-blue"]
    assert kubernetes.shares() == {} and router.look().champion is None
    assert router.restore(kubernetes.arm(OLD)).champion == OLD
    assert kubernetes.shares() == {OLD: 100}


# --- SageMaker --------------------------------------------------------------------------------------------------------


def test_an_endpoint_of_somebody_else_is_not_steered(tmp_path: Path) -> None:
    with rig("sagemaker", tmp_path) as platform:
        assert isinstance(platform, SageMakerRig)
        router = platform.router()
        router.prepare(platform.arm(OLD), platform.arm(NEW))
        endpoint = platform._backend().endpoints["support-desk"]
        endpoint.production_variants.append({"VariantName": "theirs", "CurrentWeight": 1.0})
        with pytest.raises(Refused, match="an endpoint of its own"):
            router.look()
        endpoint.production_variants.pop()
        endpoint.endpoint_status = "Failed"
        with pytest.raises(StageError, match="is Failed"):
            router.restore(platform.arm(OLD))


# --- the local gateway ------------------------------------------------------------------------------------------------

PROGRAM = """
import sys, threading
from pathlib import Path
from slipway.gateway.config import Config
from slipway.gateway.control import Gateway
gateway = Gateway(Config.model_validate_json(Path(sys.argv[1]).read_text()), Path(sys.argv[2]))
gateway.start()
print("started", flush=True)
threading.Event().wait()
"""


@pytest.mark.alone
def test_the_way_back_needs_no_process_that_steers(tmp_path: Path) -> None:
    need_haproxy()
    folder, champion, candidate = tmp_path / "gateway", Process(OLD), Process(NEW)
    (tmp_path / "config.json").write_text(configuration([champion.address], [candidate.address]).model_dump_json())
    words = [sys.executable, "-c", PROGRAM, str(tmp_path / "config.json"), str(folder)]
    steering = subprocess.Popen(words, stdout=subprocess.PIPE, text=True)
    router = LocalRouter(folder, MODEL, 10)
    try:
        assert steering.stdout is not None and steering.stdout.readline() == "started\n"
        wait_for(lambda: router.look().ready == {OLD: True, NEW: True}, 5, "both versions")
        router.move(50, "a step")
        steering.send_signal(signal.SIGSTOP)
        stuck = LocalRouter(folder, MODEL, 10, lambda folder, path, *rest: ask(folder, path, None, 0.3))
        with pytest.raises(Transient, match="runs and does not answer"):
            stuck.restore(Arm(MODEL, OLD, ""))
        assert f"{MODEL} 0" in Runtime(folder / "haproxy").ask("show map weights.map")
        Runtime(folder / "haproxy").do([f"set map weights.map {MODEL} 5000"])
        steering.kill()
        steering.wait()
        with pytest.raises(Transient, match="does not answer"):
            router.look()
        begun = time.monotonic()
        now = router.restore(Arm(MODEL, OLD, ""))
        took = time.monotonic() - begun
        assert (now.champion, now.candidate_percent) == (OLD, 0) and took < 1 * slowness(), took
        assert f"{MODEL} 0" in Runtime(folder / "haproxy").ask("show map weights.map")
        kept = routing.load(folder)
        assert kept is not None and kept.models[MODEL].candidate_weight == 0
        with pytest.raises(Transient, match=r"its champion is not 3\.0\.0"):
            router.restore(Arm(MODEL, "3.0.0", ""))
    finally:
        steering.kill()
        if pid := Runtime(folder / "haproxy").pid():
            os.kill(pid, signal.SIGKILL)
        for replica in (champion, candidate):
            replica.kill()


def test_a_version_is_started_once_however_often_it_is_asked_for(tmp_path: Path) -> None:
    import made_replica

    need_haproxy()
    gateway = Gateway(configuration([], []), tmp_path / "gateway")
    gateway.serving.command = lambda _, version: [sys.executable, made_replica.__file__, "--version", version, "--json"]
    gateway.start()
    try:
        first = gateway.serving.ensure(MODEL, "champion", OLD)
        assert gateway.serving.ensure(MODEL, "champion", OLD) == first
        gateway.serving.ensure(MODEL, "candidate", NEW)
        gateway.set_weights(MODEL, {"champion": 0, "candidate": 100}, "a test")
        gateway.settle(MODEL, "promoted", keep_old=True)
        now = gateway.model(MODEL)
        assert (now.champion.version, now.candidate.version, now.candidate_weight) == (NEW, OLD, 0)
        assert gateway.serving.ensure(MODEL, "candidate", OLD) == first, "kept warm, it is found in its new place"
        wait_for(lambda: gateway.arms(MODEL)["candidate"]["up"] == 1, 5, "the kept one to be found ready")
    finally:
        gateway.stop(1)
