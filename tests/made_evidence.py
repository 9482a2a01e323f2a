"""A release's evidence, made by hand: what the stages leave, without any training, in a project of the shipped configuration.

made_evidence.configure(root)               configuration, dvc.yaml and raw data around evidence that lies there
made_evidence.workspace(root, monkeypatch)  all that `register` asks for: evidence the gate has passed, kept under its tag
"""

import json
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest
import stub_project
import yaml
from made_release import make_release
from stages.test_gate import NAMES, Project, _made

from slipway import digest, git, model, records
from slipway.artifacts import Advisories, Decision, Manifest, Observations, Servability
from slipway.observing import advisories, servability
from slipway.people import waivers
from slipway.registry import receipt, register

ROOT = Path(__file__).parents[1]
RELEASE = "20260101-000000-abcdef"
PATHS = NAMES | {"raw": "data/raw"}


def serves(**changes: Any) -> Servability:
    good = {"device": "cpu", "prompts": 16, "load_seconds": 1.0, "peak_bytes": 500_000_000, "tokens_per_second": 300.0}
    seconds = {f"latency_{name}_seconds": 0.2 for name in ("p50", "p95", "p99")}
    return Servability.model_validate(good | seconds | {"deterministic": True} | changes)


class Workspace(Project):
    """Evidence that the gate has passed, in a git repository, kept under its release's tag."""

    @property
    def kept(self) -> Path:
        return receipt.folder_of(self.root, RELEASE)

    def register(self, release: str = RELEASE) -> Decision:
        return register.register(self.root, release)

    @property
    def seen(self) -> Observations:
        return Observations.load(self.kept / receipt.OBSERVATIONS)

    def record(self, release: str = RELEASE) -> None:
        """What a flow keeps of a release that ended, with copies of the evidence."""
        ended = make_release().model_copy(update={"id": release, "paths": PATHS})
        records.save(self.root, self.root, ended)

    def change(self, **about: Any) -> None:
        """Other values in configs/model.yaml; None takes one out. Kept under the tag again."""
        path = self.root / model.FILE
        path.write_text(yaml.safe_dump({k: v for k, v in (yaml.safe_load(path.read_text()) | about).items() if v}))
        self.keep()

    def keep(self) -> None:
        stub_project.git(self.root, "add", "-A")
        stub_project.git(self.root, "commit", "-q", "--allow-empty", "-m", "Change")
        self.tag()

    def tag(self, release: str = RELEASE) -> None:
        subprocess.run(["git", "tag", "-d", f"slipway/{release}"], cwd=self.root, check=False, capture_output=True)
        git.keep(self.root, f"slipway/{release}", "Release")

    @property
    def policy(self) -> Path:
        return self.root / "configs" / "policies" / "gates.yaml"


def configure(root: Path) -> None:
    """The shipped configuration, a dvc.yaml and raw data around evidence that lies there."""
    for name in ("configs/env", "configs/policies"):
        shutil.copytree(ROOT / name, root / name)
    for name in (model.FILE.as_posix(), waivers.FILE.as_posix(), "params.yaml"):
        shutil.copy2(ROOT / name, root / name)
    (root / "dvc.yaml").write_text(yaml.safe_dump({"vars": [{"path": PATHS}], "stages": {}}))
    (root / "data" / "raw").mkdir(parents=True)
    (root / "data" / "raw" / "rows.jsonl").write_text("{}\n")
    Manifest.write(root / "data" / "raw", {"roles": {}})


def workspace(root: Path, monkeypatch: pytest.MonkeyPatch) -> Workspace:
    """Whole, but for the two parts that have their own tests: the network's and the probe's answers are given."""
    made = Workspace(_made(root).root)
    configure(root)
    (root / "dvc.lock").write_text("schema: '2.0'\nstages: {}\n")
    (root / ".gitignore").write_text(".slipway\n.scratch\ndata\nmodels\nreports\n")
    _with_a_whole_card(made)
    stub_project.git(root, "init", "-q", "-b", "main")
    made.keep()
    assert made.judge(made.policy).verdict == "pass"
    monkeypatch.setattr(servability, "observe", lambda *words, **more: serves())
    answered = Advisories(source="OSV", as_of="2026-01-01", age_days=0.1, packages=300, vulnerable=[])
    monkeypatch.setattr(advisories, "observe", lambda *words: answered)
    return made


def _with_a_whole_card(made: Workspace) -> None:
    """The data's card as prepare writes it, and the reports about these very bytes."""
    prepared = made.path("prepared")
    about = Manifest.load(prepared / digest.MANIFEST)
    split = {"tokens": 900, "labels": {}, "languages": {"en": 9}, "length_tokens": {"p50": 9, "max": 99}}
    card_of_data = {
        "rows_in": 3444, "rows_out": 3400, "steps": [{"step": "read", "rows": 3444}], "dropped": {}, "altered": {},
        "splits": {name: split | {"rows": 9} for name in ("train", "validation", "test")},
        "overlap": {"train_test": 0, "train_validation": 0}, "drop_rate": 0.1, "duplicate_rate": 0.05,
    }  # fmt: skip
    (prepared / "card.json").write_text(json.dumps(card_of_data))
    counts = {file.path: file.rows for file in about.files if file.rows}
    found = Manifest.write(prepared, about.facts, counts).digest
    for name in ("validation", "inspection"):
        made.edit(name, lambda report: report.update(prepared_digest=found))
