"""The second judgement in a release: after a gate that passed, whole or not at all, and what it leads to."""

import json
import os
import signal
from pathlib import Path
from typing import Any

import stub_project
from conftest import wait_for

from slipway.registry import receipt


def run(project: Path, url: str) -> tuple[int, dict[str, Any], str]:
    """`slipway run`: exit code, the newest record, what was said."""
    done = stub_project.slipway(project, "run", PREFECT_API_URL=url)
    paths = sorted((project / ".slipway" / "releases").glob("*/release.json"))
    return done.returncode, json.loads(paths[-1].read_text()), done.stdout + done.stderr


def status(record: dict[str, Any], name: str) -> str:
    return str(next(stage["status"] for stage in record["stages"] if stage["name"] == name))


def receipts(project: Path) -> list[Path]:
    return sorted((project / ".slipway" / "releases").glob("*/register"))


def test_its_refusal_is_the_releases_outcome(stub: Path, prefect_url: str) -> None:
    stub_project.fault(stub, "register", "refuse")
    code, record, said = run(stub, prefect_url)
    assert code == 3, said
    assert record["outcome"] == "refused" and status(record, "register") == status(record, "gate") == "ran"
    kept = json.loads((receipts(stub)[0] / receipt.DECISION).read_text())
    assert (kept["act"], kept["verdict"]) == ("register", "refuse")
    assert record["tag"] in stub_project.git(stub, "tag").splitlines()
    again = stub_project.slipway(stub, "run", PREFECT_API_URL="http://127.0.0.1:9/api")
    assert again.returncode == 3 and "up to date" in again.stdout


def test_nothing_is_registered_that_the_gate_refused(stub: Path, prefect_url: str) -> None:
    stub_project.fault(stub, "gate", "refuse")
    (stub / "configs" / "waivers.yaml").write_text(
        "waivers:\n  - {rule: smal-data, owner: Ada, reason: Misspelt., expires: 2030-01-01}\n"
    )
    code, record, said = run(stub, prefect_url)
    assert code == 3, said
    assert status(record, "register") == "not run" and not receipts(stub)
    assert "the waiver of smal-data by Ada did nothing: the policy has no such rule" in " ".join(record["warnings"])


def test_killed_in_the_middle_it_leaves_nothing_and_the_next_start_does_it(stub: Path, prefect_url: str) -> None:
    stub_project.fault(stub, "register", "die")
    code, record, said = run(stub, prefect_url)
    assert (code, record["outcome"]) == (75, "failed"), said
    assert status(record, "register") == "failed" and not receipts(stub)
    assert not list((stub / ".slipway" / "releases").glob("*/.register.*")), "no half receipt is left"
    stub_project.heal(stub, "register")
    code, record, said = run(stub, prefect_url)
    assert code == 0, said
    assert status(record, "evaluate") == "unchanged" and status(record, "register") == "ran"
    assert len(receipts(stub)) == 1


def test_it_dies_with_the_flow(stub: Path, prefect_url: str) -> None:
    stub_project.fault(stub, "register", "hang")
    flow = stub_project.start(stub, "run", PREFECT_API_URL=prefect_url)
    reached = stub / "faults" / "register.reached"
    wait_for(lambda: reached.exists() and reached.read_text(), 120, "register to begin")
    worker = int(reached.read_text())
    os.kill(flow.pid, signal.SIGKILL)
    flow.communicate(timeout=60)
    wait_for(lambda: not _lives(worker), 20, "register's process to die")


def _lives(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[0] != "Z"
    except OSError:
        return False


def test_who_the_model_is_and_waivers_are_judged_again_when_they_change(stub: Path, prefect_url: str) -> None:
    assert run(stub, prefect_url)[0] == 0
    about = stub / "configs" / "model.yaml"
    about.write_text(about.read_text().replace("version: 1.0.0 ", "version: 1.0.1 "))
    code, record, said = run(stub, prefect_url)
    assert code == 0 and "nothing was run" not in said
    assert status(record, "gate") == "unchanged" and status(record, "register") == "ran"
    (stub / "configs" / "waivers.yaml").write_text(
        "waivers:\n  - {rule: a-rule, owner: Ada, reason: A reason., expires: 2030-01-01}\n"
    )
    assert "nothing was run" not in run(stub, prefect_url)[2]
    assert "nothing was run" in run(stub, prefect_url)[2]
    assert len(receipts(stub)) == 3
