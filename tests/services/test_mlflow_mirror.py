"""MLflow as a mirror of the ledger: real databases, a real server, replies that get lost and processes that are killed."""

import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import threading
import time
import urllib.request
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import made_versions
import model_folders
import psutil
import pytest
import stub_project
from conftest import free_port, wait_for
from lossy_proxy import Proxy
from made_versions import Made

from slipway import digest, settings
from slipway.artifacts import Manifest
from slipway.errors import Transient
from slipway.ledger import events, operations
from slipway.registry import mirror, mlflow_process
from slipway.registry.versions import Version

MODEL = made_versions.MODEL
PATIENT = 300.0  # seconds


def entered(made: Made, count: int = 1) -> list[Version]:
    """Versions as `entry` leaves them: in the ledger, and MLflow not told yet."""
    found = [made.version(whole=False) for _ in range(count)]
    with made.database.write() as connection:
        for version in found:
            operations.begin(connection, mirror.operation_of(MODEL, version.version), "mirror", MODEL, {})
    return found


def reconciled(made: Made) -> list[mirror.Drift]:
    """On a machine that does ten other things, MLflow's import alone may take the 30 s that the product allows."""
    return mirror.reconcile(made.root, seconds=PATIENT)


@pytest.fixture
def made(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Made:
    for name in ("MLFLOW_TRACKING_URI", "SLIPWAY_MLFLOW_URI"):
        monkeypatch.delenv(name, raising=False)
    return made_versions.project(tmp_path / "a project")


def client(made: Made, uri: str | None = None) -> Any:
    from mlflow.tracking import MlflowClient

    return MlflowClient(uri or settings.mlflow_uri(made.root))


def counted(made: Made, uri: str | None = None) -> tuple[int, int, int]:
    """Runs, models and versions that MLflow has."""
    mlflow = client(made, uri)
    experiments = [one.experiment_id for one in mlflow.search_experiments()]
    runs = mlflow.search_runs(experiments, "tags.`slipway.operation` != ''", max_results=1000)
    logged = mlflow.search_logged_models(experiments, max_results=50)
    versions = mlflow.search_model_versions(f"name = '{MODEL}'", max_results=1000)
    return len(runs), len(logged), len(versions)


# --- a model that loads ----------------------------------------------------------------------------------------------


LOAD = """
import json, sys, mlflow
mlflow.set_tracking_uri(sys.argv[1])
model = mlflow.pyfunc.load_model("models:/support-desk@champion")
question = {"messages": [{"role": "user", "content": "the customer asked for a refund"}], "max_tokens": 8}
said = [model.predict(question)[0] for _ in range(2)]
print(json.dumps({"said": [one["choices"][0]["message"]["content"] for one in said], "signed": model.metadata.signature is not None,
                  "example": model.input_example, "about": model.metadata.metadata, "name": said[0]["model"]}))
"""


@pytest.fixture(scope="module")
def loadable(tmp_path_factory: pytest.TempPathFactory) -> Made:
    """A small real model with a real adapter, registered, promoted and mirrored."""
    made = made_versions.project(tmp_path_factory.mktemp("mlflow") / "a project")
    base, adapter = made.path("base"), made.path("adapter")
    shutil.rmtree(base)
    shutil.rmtree(adapter)
    model_folders.make_llama(base)
    about = Manifest.write(base, {"source": "tiny"})
    _make_adapter(base, adapter)
    Manifest.write(adapter, {"method": "lora", "base_digest": about.digest})
    made._train = lambda number: None  # type: ignore[method-assign]
    version = entered(made)[0]
    made.serve(version)
    assert reconciled(made) == []
    return made


def _make_adapter(base: Path, adapter: Path) -> None:
    from peft import LoraConfig, get_peft_model
    from transformers import AutoModelForCausalLM

    shape = LoraConfig(r=2, target_modules="all-linear", task_type="CAUSAL_LM", init_lora_weights=False)
    get_peft_model(AutoModelForCausalLM.from_pretrained(base), shape).save_pretrained(adapter)
    for path in adapter.iterdir():
        path.chmod(0o644)
    (adapter / "README.md").unlink(missing_ok=True)


def test_the_champion_loads_by_its_alias_and_answers(loadable: Made, tmp_path: Path) -> None:
    command = [sys.executable, "-c", LOAD, settings.mlflow_uri(loadable.root)]
    done = subprocess.run(
        command, cwd=tmp_path, env=stub_project.environment(), capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr[-2000:]
    found = json.loads(done.stdout.splitlines()[-1])
    assert found["said"][0] == found["said"][1] and found["signed"] and found["name"] == MODEL
    assert found["example"] == {"messages": [{"role": "user", "content": "Where is my parcel?"}]}
    version = loadable.find(_first(loadable))
    assert found["about"]["slipway.base_digest"] == version.base_digest
    assert found["about"]["slipway.identity"] == version.identity


def _first(made: Made) -> Version:
    from slipway.registry import versions

    with made.database.read() as connection:
        return versions.listed(connection)[0]


def test_mlflow_has_the_very_bytes_that_were_signed(loadable: Made) -> None:
    files = {path.name: path for path in (loadable.root / ".slipway" / "mlflow").rglob("peft/*")}
    assert {"adapter_model.safetensors", "adapter_config.json"} <= files.keys()
    for name in ("adapter_model.safetensors", "adapter_config.json"):
        assert digest.of_file(files[name]) == digest.of_file(loadable.path("adapter") / name)
    assert not list((loadable.root / ".slipway" / "mlflow").rglob("model.safetensors")), "the base is only named"


def test_mlflow_serves_the_champion(loadable: Made, tmp_path: Path) -> None:
    port = free_port()
    command = [sys.executable, "-m", "mlflow", "models", "serve", "-m", f"models:/{MODEL}@champion"]
    command += ["--env-manager", "local", "--host", "127.0.0.1", "--port", str(port)]
    env = stub_project.environment(
        MLFLOW_TRACKING_URI=settings.mlflow_uri(loadable.root), MLFLOW_DISABLE_TELEMETRY="true"
    )
    with (tmp_path / "log").open("w") as log:
        server = subprocess.Popen(command, cwd=tmp_path, env=env, stdout=log, stderr=log, start_new_session=True)
    try:
        wait_for(lambda: _alive(f"http://127.0.0.1:{port}/ping"), 180, f"the model server: {tmp_path / 'log'}")
        body = json.dumps({"messages": [{"role": "user", "content": "refund"}], "max_tokens": 4}).encode()
        request = urllib.request.Request(
            f"http://127.0.0.1:{port}/invocations", body, {"Content-Type": "application/json"}
        )
        with urllib.request.urlopen(request, timeout=60) as answer:
            assert json.loads(answer.read())[0]["choices"][0]["message"]["role"] == "assistant"
    finally:
        os.killpg(server.pid, signal.SIGKILL)
        server.wait()


def _alive(url: str) -> bool:
    try:
        with urllib.request.urlopen(url, timeout=5) as answer:
            return bool(answer.status == 200)
    except OSError:
        return False


# --- a projection of the ledger -----------------------------------------------------------------------------------------


def test_case_F5_what_was_changed_by_hand_is_found_told_and_repaired(made: Made) -> None:
    first, second, third, fourth = entered(made, 4)
    made.serve(first)
    made.serve(second)
    assert reconciled(made) == [] == mirror.drift(made.root, PATIENT)
    mlflow = client(made)
    numbers = {v.version: made.find(v).mlflow_version for v in (first, second, third, fourth)}
    assert None not in numbers.values() and len(set(numbers.values())) == 4
    aliases = mlflow.get_registered_model(MODEL).aliases
    assert {alias: str(number) for alias, number in aliases.items()} == {
        "champion": numbers[second.version],
        "previous": numbers[first.version],
    }
    tags = mlflow.get_model_version(MODEL, numbers[second.version]).tags
    wanted = {
        "version": second.version,
        "stage": "Production",
        "identity": second.identity,
        "evidence_digest": second.evidence_digest,
    }
    assert {key: tags[f"slipway.{key}"] for key in wanted} == wanted

    mlflow.set_registered_model_alias(MODEL, "champion", numbers[third.version])
    mlflow.set_model_version_tag(MODEL, numbers[first.version], "slipway.stage", "Archived")
    mlflow.delete_model_version_tag(MODEL, numbers[second.version], "slipway.operation")
    mlflow.delete_model_version(MODEL, numbers[fourth.version])
    found = {one.what for one in mirror.drift(made.root, PATIENT)}
    edited = {
        f"tag slipway.stage of version {numbers[first.version]}",
        f"tag slipway.operation of version {numbers[second.version]}",
    }
    assert found == {"alias champion", f"version {numbers[fourth.version]}"} | edited
    assert str(mlflow.get_registered_model(MODEL).aliases["champion"]) == numbers[third.version], (
        "looking changes nothing"
    )
    assert {one.what for one in reconciled(made)} == found
    assert mirror.drift(made.root, PATIENT) == []
    assert str(mlflow.get_registered_model(MODEL).aliases["champion"]) == numbers[second.version]
    assert made.find(fourth).mlflow_version not in (None, numbers[fourth.version])
    with made.database.read() as connection:
        told = {
            kind: {e.payload["what"] for e in events.read(connection, kind=kind)}
            for kind in ("drift_found", "mirror_repaired")
        }
    assert told == {"drift_found": found, "mirror_repaired": found}


def test_a_model_that_was_deleted_in_mlflow_comes_back(made: Made) -> None:
    version = entered(made)[0]
    made.serve(version)
    reconciled(made)
    client(made).delete_registered_model(MODEL)
    assert {one.what for one in reconciled(made)} == {"version 1", "alias champion"}
    assert client(made).get_model_version_by_alias(MODEL, "champion").tags["slipway.version"] == version.version


def test_a_promotion_is_no_drift_and_a_tombstone_goes(made: Made) -> None:
    from slipway.registry import versions

    first, second = entered(made, 2)
    made.serve(first)
    reconciled(made)
    made.serve(second)
    with made.database.write() as connection:
        versions.set_state(connection, MODEL, first.version, "deleted")
    assert mirror.drift(made.root, PATIENT) == []
    assert reconciled(made) == []
    assert [v.tags["slipway.version"] for v in client(made).search_model_versions(f"name = '{MODEL}'")] == [
        second.version
    ]
    assert made.kinds().count("drift_found") == 0


# --- MLflow away --------------------------------------------------------------------------------------------------------


def _mirrors(process: psutil.Process) -> bool:
    try:
        return "slipway.registry.mirroring" in process.cmdline()
    except psutil.Error:  # it has ended, whatever it was
        return False


def test_case_B2_a_server_that_accepts_and_never_answers_is_given_up(
    made: Made, monkeypatch: pytest.MonkeyPatch
) -> None:
    entered(made)
    assert mlflow_process.DEADLINE_SECONDS <= 30
    with socket.create_server(("127.0.0.1", 0)) as mute:
        held: list[socket.socket] = []
        threading.Thread(target=lambda: held.append(mute.accept()[0]), daemon=True).start()
        monkeypatch.setenv("SLIPWAY_MLFLOW_URI", f"http://127.0.0.1:{mute.getsockname()[1]}")
        begin = time.monotonic()
        with pytest.raises(
            Transient, match=r"could not be brought up to date \(no answer in 20 s\); the ledger has everything"
        ):
            mirror.reconcile(made.root, MODEL, seconds=20)
        assert time.monotonic() - begin < 25 and held, "it was reached, and left"
    assert not [one for one in psutil.Process().children(recursive=True) if _mirrors(one)]


def test_an_address_exported_for_other_work_is_not_asked(
    made: Made, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{tmp_path}/other.db")
    version = entered(made)[0]
    assert reconciled(made) == []
    assert made.find(version).mlflow_version == "1" and not (tmp_path / "other.db").exists()


def test_a_server_that_is_away_is_caught_up_with(made: Made, monkeypatch: pytest.MonkeyPatch) -> None:
    version = entered(made)[0]
    monkeypatch.setenv("SLIPWAY_MLFLOW_URI", f"http://127.0.0.1:{free_port()}")
    with pytest.raises(Transient, match="the ledger has everything"):
        reconciled(made)
    assert made.find(version).mlflow_version is None
    with made.database.read() as connection:
        assert mirror.pending(connection, MODEL)
    monkeypatch.delenv("SLIPWAY_MLFLOW_URI")
    assert reconciled(made) == []
    assert made.find(version).mlflow_version == "1"
    with made.database.read() as connection:
        assert not mirror.pending(connection, MODEL)


# --- lost replies and kills ---------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[int]:
    """A real MLflow server."""
    place, port = tmp_path_factory.mktemp("server"), free_port()
    command = [
        sys.executable,
        "-m",
        "mlflow",
        "server",
        "--backend-store-uri",
        f"sqlite:///{place}/mlflow.db",
        "--workers",
        "1",
    ]
    command += ["--artifacts-destination", str(place / "files"), "--host", "127.0.0.1", "--port", str(port)]
    env = stub_project.environment(MLFLOW_DISABLE_TELEMETRY="true", MLFLOW_SERVER_ENABLE_JOB_EXECUTION="false")
    with (place / "log").open("w") as log:
        process = subprocess.Popen(command, env=env, cwd=place, stdout=log, stderr=log, start_new_session=True)
    try:
        wait_for(lambda: _alive(f"http://127.0.0.1:{port}/health"), 120, f"MLflow's server: {place / 'log'}")
        yield port
    finally:
        os.killpg(process.pid, signal.SIGKILL)
        process.wait()


@pytest.fixture
def proxy(server: int, monkeypatch: pytest.MonkeyPatch) -> Iterator[Proxy]:
    made = Proxy(server)
    yield made
    made.close()


def _forget(server: int) -> None:
    """A server without the model: the next test begins anew."""
    from mlflow.exceptions import MlflowException
    from mlflow.tracking import MlflowClient

    mlflow = MlflowClient(f"http://127.0.0.1:{server}")
    try:
        mlflow.delete_registered_model(MODEL)
    except MlflowException:
        return
    for one in mlflow.search_experiments():
        for run in mlflow.search_runs([one.experiment_id]):
            mlflow.delete_run(run.info.run_id)
        for logged in mlflow.search_logged_models([one.experiment_id]):
            mlflow.delete_logged_model(logged.model_id)


def test_case_B3_a_reply_that_is_lost_makes_nothing_twice(
    made: Made, server: int, proxy: Proxy, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of each thing that is asked and changes something, every second reply is lost, cut or as a 503, until 200 were."""
    _forget(server)
    count = 15
    entered(made, count)
    monkeypatch.setenv("SLIPWAY_MLFLOW_URI", proxy.url)
    turns: Counter[tuple[str, str]] = Counter()

    def fate(method: str, path: str) -> str:
        changes = method != "GET" and not path.endswith("/search")
        turns[method, path] += 1
        if not changes or turns[method, path] % 2 == 0:
            return "pass"
        return ("drop", "503")[sum(turns.values()) % 2]

    proxy.fate = fate
    for _ in range(60):
        try:
            reconciled(made)
            break
        except Transient:
            continue
    lost = proxy.lost
    assert counted(made, f"http://127.0.0.1:{server}") == (count, count, count)
    assert reconciled(made) == []
    assert lost >= 200, f"{lost} replies were lost"
    print(f"{lost} lost replies, {count} versions")


KILLED = "import sys; from pathlib import Path; from slipway.registry import mirror; mirror.reconcile(Path(sys.argv[1]), seconds=300)"


@pytest.mark.parametrize("with_child", [True, False], ids=["both", "parent"])
def test_case_A4_killed_after_any_request_it_is_made_once(
    made: Made, server: int, proxy: Proxy, monkeypatch: pytest.MonkeyPatch, with_child: bool
) -> None:
    """SIGKILL right after the server has done what the k-th request asked, for each k; then once more, undisturbed."""
    _forget(server)
    version = entered(made)[0]
    monkeypatch.setenv("SLIPWAY_MLFLOW_URI", proxy.url)
    kills = 0
    for k in range(1, 40) if with_child else (4, 9, 12):
        proxy.asked.clear()
        with subprocess.Popen([sys.executable, "-c", KILLED, str(made.root)], stderr=subprocess.DEVNULL) as process:
            proxy.fate = _killing(process.pid, k, with_child, proxy)
            code = process.wait(300)
        if code == 0:
            break
        assert code == -signal.SIGKILL
        kills += 1
    proxy.fate = lambda method, path: "pass"
    reconciled(made)
    assert kills >= 3
    assert counted(made, f"http://127.0.0.1:{server}") == (1, 1, 1)
    assert made.find(version).mlflow_version is not None and made.kinds().count("drift_found") == 0


def _killing(pid: int, k: int, with_child: bool, proxy: Proxy) -> Any:
    def fate(method: str, path: str) -> str:
        if len(proxy.asked) != k:
            return "pass"
        found = psutil.Process(pid)
        for victim in [*(found.children(recursive=True) if with_child else []), found]:
            victim.kill()
        return "drop"

    return fate
