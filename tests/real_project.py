"""The project itself in a fresh folder, for tests of the real pipeline."""

import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import stub_project

ROOT = Path(__file__).parents[1]


@dataclass(frozen=True)
class Released:
    """A fresh clone in which `slipway run` went through."""

    project: Path
    record: dict[str, Any]
    seconds: float
    printed: str


def clone(folder: Path) -> Path:
    """A clone of what stands here now, uncommitted work included."""
    folder.mkdir(parents=True)
    listed = stub_project.git(ROOT, "ls-files", "-co", "--exclude-standard", "-z").split("\0")
    names = [name for name in listed if name and name != "dvc.lock" and (ROOT / name).is_file()]
    assert len(names) > 100
    for name in names:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy2(ROOT / name, folder / name)
    stub_project.git(folder, "init", "-q", "-b", "main")
    stub_project.git(folder, "add", "-A")
    stub_project.git(folder, "commit", "-q", "-m", "Clone")
    return folder
