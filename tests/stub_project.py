"""A whole project whose stages are a few lines each: the same machinery as the real one, a release in seconds.

A file `faults/<stage>` makes that stage misbehave: `transient 2` (fails that many times), `bug`, `refuse`, `hang`
(until killed, after writing half an output), `fill` (writes until the disk is full), `die` (SIGKILL of itself), `edit` (an input changes while it runs),
`lose` (the ledger is gone). `faults/entry` kills the entry of a version at a named point (stub_tasks/register.py).
"""

import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import yaml

ROOT = Path(__file__).parents[1]
_COPIED = (
    "slipway",
    "flows",
    "configs",
    "pins",
    "constraints.txt",
    "params.yaml",
    ".gitignore",
    ".dvcignore",
    ".dvc/config",
    ".dvc/.gitignore",
)


# The stub's gate only looks at its flag; whoever reads the policy itself finds one that can be read.
_POLICY = """\
rules:
  - {id: enough-rows, expression: rows >= 1, severity: block, why: Some., remedy: Add rows., owner: data}
"""


def make(folder: Path) -> Path:
    """A committed git repository with a DVC project of stub stages."""
    folder.mkdir(parents=True, exist_ok=True)
    for name in _COPIED:
        source, target = ROOT / name, folder / name
        target.parent.mkdir(parents=True, exist_ok=True)
        if source.is_dir():
            shutil.copytree(source, target, ignore=shutil.ignore_patterns("__pycache__"))
        else:
            shutil.copy2(source, target)
    (folder / "tasks").mkdir()
    for machinery in (ROOT / "tasks").glob("_*.py"):
        shutil.copy2(machinery, folder / "tasks" / machinery.name)
    for stub in (ROOT / "tests" / "stub_tasks").glob("*.py"):
        shutil.copy2(stub, folder / "tasks" / stub.name)
    (folder / "sample").mkdir()
    for name in ("support_desk.jsonl", "test.jsonl"):
        (folder / "sample" / name).write_text('{"messages": []}\n' + name)
    (folder / "configs" / "policies").mkdir(exist_ok=True)
    (folder / "configs" / "policies" / "gates.yaml").write_text(_POLICY)
    _write_dvc_yaml(folder)
    git(folder, "init", "-q", "-b", "main")
    git(folder, "add", "-A")
    git(folder, "commit", "-q", "-m", "Stub project")
    return folder


def _write_dvc_yaml(folder: Path) -> None:
    """The real map, with the real paths and flags; only the code a stage depends on is shorter."""
    pipeline: dict[str, Any] = yaml.safe_load((ROOT / "dvc.yaml").read_text())
    for entry in pipeline["stages"].values():
        entry["deps"] = [dep for dep in entry["deps"] if not dep.startswith("slipway/")]
    (folder / "dvc.yaml").write_text(yaml.safe_dump(pipeline, sort_keys=False))


def git(folder: Path, *words: str) -> str:
    identity = ["-c", "user.name=Test", "-c", "user.email=test@localhost"]
    return subprocess.run(
        ["git", *identity, *words], cwd=folder, check=True, capture_output=True, text=True
    ).stdout.strip()


def environment(**extra: str) -> dict[str, str]:
    """This process's environment without a release's own variables, the interpreter's tools first."""
    kept = {
        key: value
        for key, value in os.environ.items()
        if not key.startswith(("SLIPWAY_", "PREFECT_", "MLFLOW_", "DVC_"))
    }
    kept["PATH"] = f"{Path(sys.executable).parent}{os.pathsep}{kept['PATH']}"
    return kept | extra


def slipway(folder: Path, *words: str, timeout: float = 300, **extra: str) -> subprocess.CompletedProcess[str]:
    """The `slipway` command with the project's own code."""
    command = [sys.executable, "-c", "from slipway.cli import main; main()", *words]
    return subprocess.run(
        command, cwd=folder, env=environment(**extra), capture_output=True, text=True, timeout=timeout
    )


def start(folder: Path, *words: str, **extra: str) -> subprocess.Popen[str]:
    """The same, left running in a session of its own."""
    command = [sys.executable, "-c", "from slipway.cli import main; main()", *words]
    return subprocess.Popen(
        command,
        cwd=folder,
        env=environment(**extra),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )


# As under a flow, which tells MLflow itself; else each stage's process imports MLflow, for 2 to 3 s of CPU.
WATCHED = {"SLIPWAY_PARENT_RUN": "watched"}


def stage(folder: Path, name: str, timeout: float = 120, **extra: str) -> subprocess.CompletedProcess[str]:
    """One stage's process, as dvc.yaml starts it under a flow."""
    from tasks import _stage

    command = str(yaml.safe_load((folder / "dvc.yaml").read_text())["stages"][name]["cmd"])
    for variable, value in _stage._values(folder).items():
        command = command.replace("${" + variable + "}", value)
    return subprocess.run(
        command, shell=True, cwd=folder, env=environment(**WATCHED | extra), capture_output=True, text=True,
        timeout=timeout,
    )  # fmt: skip


def repro(folder: Path, *words: str, timeout: float = 300, **extra: str) -> subprocess.CompletedProcess[str]:
    """`dvc repro`, MLflow told by nobody; with `SLIPWAY_PARENT_RUN=""` as a person runs it, each stage telling MLflow."""
    return subprocess.run(
        [sys.executable, "-m", "dvc", "repro", *words],
        cwd=folder,
        env=environment(**WATCHED | extra),
        capture_output=True,
        text=True,
        timeout=timeout,
    )


def fault(folder: Path, name: str, what: str) -> None:
    (folder / "faults").mkdir(exist_ok=True)
    (folder / "faults" / name).write_text(what)


def heal(folder: Path, name: str) -> None:
    (folder / "faults" / name).unlink()
