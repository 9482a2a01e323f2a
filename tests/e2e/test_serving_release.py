"""The default release, served as docs/guide/serving.md, gateway.md and traffic.md tell a user to."""

import json
import shutil
import signal
import subprocess
import threading
from collections.abc import Iterator
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
import stub_project
import yaml
from conftest import wait_for
from gateways import need_haproxy
from openai import OpenAI
from pace import slowness
from real_project import Released
from unit.test_advisories import advisory, snapshot

from slipway.gateway import replicas
from slipway.gateway.runtime import Runtime

pytestmark = [pytest.mark.e2e, pytest.mark.timeout(900)]
need_haproxy()
MODEL = "support-desk"
# No advisory service answers here, whatever the machine's network: the snapshot does.
OFFLINE = {"HTTPS_PROXY": "http://127.0.0.1:9", "https_proxy": "http://127.0.0.1:9"}


@dataclass
class Serving:
    """A project with a gateway that runs, and what was started besides."""

    root: Path
    gateway: "subprocess.Popen[str]"
    url: str = ""
    started: list["subprocess.Popen[str]"] = field(default_factory=list)

    def said(self, *words: str) -> Any:
        """What a command says with --json."""
        done = stub_project.slipway(self.root, *words, "--json")
        assert done.returncode == 0, done.stderr
        return json.loads(done.stdout)

    def events(self, kind: str) -> list[dict[str, Any]]:
        """The ledger's, in order."""
        return list(self.said("audit", "show", "--kind", kind))


def promoted(released: Released, root: Path) -> Path:
    """A copy in which one person has brought the release's version to where it serves."""
    shutil.copytree(released.project, root, symlinks=True)
    approvals = root / "configs" / "policies" / "approvals.yaml"
    approvals.write_text(approvals.read_text().replace("solo: false", "solo: true"))
    (root / ".slipway" / "advisories").mkdir(exist_ok=True)
    today = datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
    snapshot(root / ".slipway" / "advisories" / "PyPI.zip", advisory("nobody-has-this", modified=today))
    for words in (
        ("models", "stage", "1.0.0", "Staging", "--tag", "tested", "--tag", "reviewed", "--reason", "asked it"),
        ("approve", "1.0.0", "--reason", "I answer for it"),
        ("models", "promote", "1.0.0", "--tag", "approved", "--tag", "performance_validated", "--reason", "the first"),
    ):
        done = stub_project.slipway(root, *words, **OFFLINE)
        assert done.returncode == 0, (words, done.stdout[-2000:], done.stderr[-2000:])
    return root


@pytest.fixture(scope="module")
def serving(released: Released, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Serving]:
    """`slipway gateway` in it, which has started a replica of the champion itself."""
    root = promoted(released, tmp_path_factory.mktemp("serving") / "a project")
    path = root / "configs" / "gateway.yaml"
    chosen = yaml.safe_load(path.read_text()) | {"listen": "127.0.0.1:0", "admin": "127.0.0.1:0"}
    path.write_text(yaml.safe_dump(chosen))
    made = Serving(root, stub_project.start(root, "gateway", "--json"))
    try:
        assert made.gateway.stdout is not None
        made.url = "http://" + json.loads(made.gateway.stdout.readline())["listen"]
        wait_for(lambda: replicas.ask(made.url.removeprefix("http://")).ready, 60 * slowness(), "the champion")
        yield made
    finally:
        for process in (made.gateway, *made.started):
            process.kill()
            process.communicate(timeout=30)
        if pid := Runtime(root / ".slipway" / "gateway" / "haproxy").pid():
            subprocess.run(["kill", "-9", str(pid)], check=False)


def questions(root: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (root / "sample" / "test.jsonl").read_text().splitlines()]


def test_openais_client_gets_the_answers_of_the_champion(serving: Serving) -> None:
    client = OpenAI(base_url=f"{serving.url}/v1", api_key="none", max_retries=0)
    right = 0
    for row in questions(serving.root)[:5]:
        *asked, known = row["messages"]
        raw = client.chat.completions.with_raw_response.create(model=MODEL, messages=asked, temperature=0)
        assert raw.headers["x-slipway-version"] == "1.0.0"
        right += raw.parse().choices[0].message.content == known["content"]
    assert right >= 3  # nine of ten, by its scorecard
    assert serving.events("inference_started")[-1]["subject"] == "1.0.0"


def test_half_of_the_users_go_to_a_candidate_and_the_graded_traffic_tells_them_apart(serving: Serving) -> None:
    """The base model is the candidate: it answers, and nothing of it is right."""
    candidate = stub_project.start(serving.root, "serve", f"{MODEL}@base", "--port", "0", "--json")
    serving.started.append(candidate)
    assert candidate.stdout is not None
    address = json.loads(candidate.stdout.readline())["address"].removeprefix("http://")
    serving.said("gateway", "add", address, "--arm", "candidate")
    serving.said("gateway", "weights", "50", "--reason", "a canary")
    words = ("--rate", f"{8 / slowness():.2f}", "--requests", "40", "--users", "20", "--stream", "0.3")
    said = serving.said("traffic", "sample/test.jsonl", *words)
    assert (said["sent"], said["errors"], said["flips"], said["feedback_failed"]) == (40, 0, 0, 0)
    assert set(said["versions"]) == {"1.0.0", "base"}
    (good, asked), (bad, others) = said["right"]["1.0.0"], said["right"]["base"]
    assert asked + others == 40 and good >= 0.7 * asked and bad == 0
    assert serving.events("traffic_changed")[-1]["payload"]["weights"] == {"1.0.0": 50, "base": 50}


def test_sigterm_lets_a_stream_end_and_takes_nothing_new(serving: Serving) -> None:
    serving.said("gateway", "weights", "0", "--reason", "back")
    client = OpenAI(base_url=f"{serving.url}/v1", api_key="none", max_retries=0)
    question = [{"role": "user", "content": "Where is my order?"}]
    begun, pieces = threading.Event(), []

    def read() -> None:
        for piece in client.chat.completions.create(model=MODEL, messages=question, stream=True, temperature=0):
            pieces.append(piece)
            begun.set()

    reading = threading.Thread(target=read)
    reading.start()
    assert begun.wait(30)
    serving.gateway.send_signal(signal.SIGTERM)
    _, err = serving.gateway.communicate(timeout=90)
    reading.join(30)
    assert serving.gateway.returncode == 0 and "finishing" in err, err
    assert pieces[-1].choices[0].finish_reason == "stop"
    assert not replicas.ask(serving.url.removeprefix("http://")).ready
    assert stub_project.slipway(serving.root, "audit", "verify").returncode == 0
