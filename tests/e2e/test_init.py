"""`slipway init`: a project of one's own, whole or not at all."""

import json
import shutil
import subprocess
from pathlib import Path

import pytest
import stub_project

from slipway import params, strict
from slipway.artifacts import SourcePin

ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def checkout(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """This checkout, committed, as a fresh clone would have it."""
    folder = tmp_path_factory.mktemp("checkout")
    listed = subprocess.run(
        ["git", "ls-files", "-coz", "--exclude-standard"], cwd=ROOT, capture_output=True, text=True, check=True
    )
    for name in listed.stdout.split("\0")[:-1]:
        if (ROOT / name).is_file():
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy2(ROOT / name, folder / name)
    stub_project.git(folder, "init", "-q", "-b", "main")
    stub_project.git(folder, "add", "-A")
    stub_project.git(folder, "commit", "-qm", "Slipway")
    return folder


@pytest.fixture
def here(tmp_path: Path) -> Path:
    """A person's folder with rows of their own."""
    rows = [{"prompt": f"Say {n}", "completion": str(n)} for n in range(20)]
    (tmp_path / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    return tmp_path


def init(checkout: Path, here: Path, *words: str, **extra: str) -> subprocess.CompletedProcess[str]:
    return stub_project.slipway(here, "init", *words, PYTHONPATH=str(checkout), **extra)


def test_with_the_sample_it_is_the_whole_checkout(checkout: Path, here: Path) -> None:
    done = init(checkout, here, "my project", "--name", "mine")
    project = here / "my project"
    assert done.returncode == 0, done.stderr
    assert "make run" in done.stdout
    assert (project / "sample").is_dir() and (project / "tests").is_dir()
    assert strict.read_yaml(project / "configs" / "model.yaml")["name"] == "mine"
    assert stub_project.git(project, "status", "--porcelain") == ""
    assert stub_project.git(project, "rev-list", "--count", "HEAD") == "1"
    assert params.load_all(project / "params.yaml") == params.load_all(checkout / "params.yaml")


def test_with_data_of_ones_own(checkout: Path, here: Path) -> None:
    done = init(checkout, here, "mine", "--data", "rows.jsonl", "--json")
    project = here / "mine"
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["folder"] == str(project)
    chosen = params.load_all(project / "params.yaml")
    assert (chosen.ingest.source, chosen.ingest.test_source) == (str(here / "rows.jsonl"), None)
    assert chosen.prepare.label_pattern is None
    assert "# held-out rows" in (project / "params.yaml").read_text()  # comments stay
    assert [file.uri for file in SourcePin.load(project / SourcePin.FILE).files] == [str(here / "rows.jsonl")]
    assert not any((project / name).exists() for name in ("sample", "tests", "benchmarks", "dvc.lock", ".scratch"))
    assert (project / "slipway" / "cli" / "__init__.py").is_file()


def test_the_new_project_is_sound(checkout: Path, here: Path) -> None:
    assert init(checkout, here, "mine", "--data", "rows.jsonl").returncode == 0
    done = stub_project.slipway(here / "mine", "doctor", "--json")
    assert [one for one in json.loads(done.stdout) if one["state"] == "fail"] == []


def test_a_source_that_does_not_answer_is_pinned_later(checkout: Path, here: Path) -> None:
    done = init(checkout, here, "mine", "--data", "hf://some/data", HF_ENDPOINT="http://127.0.0.1:1")
    assert done.returncode == 0, done.stderr
    assert "first run pins" in done.stdout and not (here / "mine" / SourcePin.FILE).exists()


BAD_NAMES = ["..", ".hidden", "a/b", "a\\b", "a b", "%2e%2e", "file://x", "a\n", "ünder", "x" * 64]
BAD = [
    (["mine", "--data", "nothing.jsonl"], "nothing at"),
    (["mine", "--data", "*.parquet"], "nothing at"),
    (["mine", "--test", "nothing.jsonl"], "nothing at"),
    (["mine", "--base", "./nothing"], "no folder"),
    (["mine", "--data", "ftp://x"], "no such kind of source"),
    (["rows.jsonl"], "is a file"),
    (["."], "not empty"),
    *[(["mine", f"--name={name}"], "the name") for name in BAD_NAMES],
]


@pytest.mark.parametrize(("words", "said"), BAD)
def test_a_mistake_leaves_nothing_behind(words: list[str], said: str, checkout: Path, here: Path) -> None:
    before = sorted(path.name for path in here.iterdir())
    done = init(checkout, here, *words)
    assert (done.returncode, len(done.stderr.splitlines())) == (2, 1), done.stderr
    assert said in done.stderr
    assert sorted(path.name for path in here.iterdir()) == before


def test_never_inside_the_checkout(checkout: Path) -> None:
    done = init(checkout, checkout, "mine")
    assert done.returncode == 2 and not (checkout / "mine").exists()
