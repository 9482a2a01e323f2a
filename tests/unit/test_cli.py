"""The command line: quick, helpful, and one line for every mistake."""

import json
import resource
import subprocess
import sys
from pathlib import Path

import pytest
import stub_project
from pace import slowness

from slipway import params
from slipway.cli import app
from slipway.errors import UsageError

ROOT = Path(__file__).parents[2]
COMMANDS = [name for name in app if not name.startswith("-")]
HEAVY = (
    "torch",
    "transformers",
    "peft",
    "mlflow",
    "prefect",
    "great_expectations",
    "pandas",
    "pyarrow",
    "matplotlib",
    "dvc",
)
MODULES = [f"slipway.cli.{path.stem}" for path in (ROOT / "slipway" / "cli").glob("[a-z]*.py")]


def python(code: str, folder: Path = ROOT) -> subprocess.CompletedProcess[str]:
    return subprocess.run([sys.executable, "-c", code], cwd=folder, capture_output=True, text=True, timeout=60)


@pytest.mark.alone
def test_help_comes_at_once() -> None:
    """Processor time: what the clock on the wall says depends on whoever else uses this machine."""

    def seconds() -> float:
        before = resource.getrusage(resource.RUSAGE_CHILDREN)
        assert stub_project.slipway(ROOT, "--help").returncode == 0
        after = resource.getrusage(resource.RUSAGE_CHILDREN)
        return after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime

    assert min(seconds() for _ in range(5)) < 0.3 * slowness()


def test_no_command_module_imports_anything_heavy() -> None:
    assert len(MODULES) >= 8
    code = f"import sys, {', '.join(['slipway.cli', *MODULES])}; print([m for m in {HEAVY!r} if m in sys.modules])"
    done = python(code)
    assert (done.stdout.strip(), done.returncode) == ("[]", 0), done.stderr


@pytest.mark.parametrize(
    "words", [["frobnicate"], ["run", "--nope"], ["clean", "--older-than-days", "soon"], ["init"], ["clean", "x"]]
)
def test_a_mistake_is_one_line_and_exit_code_2(words: list[str]) -> None:
    done = stub_project.slipway(ROOT, *words)
    assert (done.returncode, done.stdout) == (2, "")
    assert len(done.stderr.splitlines()) == 1 and done.stderr.startswith("slipway: ")


@pytest.mark.parametrize("words", [["run"], ["release"], ["status"], ["report"], ["clean"]])
def test_outside_a_project_it_says_so(words: list[str], tmp_path: Path) -> None:
    done = subprocess.run(
        [Path(sys.executable).parent / "slipway", *words],
        cwd=tmp_path,
        env=stub_project.environment(),
        capture_output=True,
        text=True,
    )
    assert done.returncode == 2
    assert len(done.stderr.splitlines()) == 1 and "no Slipway project" in done.stderr


def test_every_command_has_help_and_stands_in_the_guide() -> None:
    page = (ROOT / "docs" / "guide" / "commands.md").read_text()
    assert len(COMMANDS) >= 7
    for name in COMMANDS:
        assert app[name].help, f"`slipway {name}` has no help"
        assert f"## slipway {name}\n" in page, f"docs/guide/commands.md has no section on `slipway {name}`"
        assert f"\n    slipway {name}" in page, f"docs/guide/commands.md has no example of `slipway {name}`"


def test_the_guide_names_no_command_that_is_not_there() -> None:
    lines = (ROOT / "docs" / "guide" / "commands.md").read_text().splitlines()
    named = [line.removeprefix("## slipway ") for line in lines if line.startswith("## slipway ")]
    assert sorted(named) == sorted(COMMANDS)


def test_completion_for_each_shell() -> None:
    for shell in ("bash", "zsh", "fish"):
        script = app.generate_completion(shell=shell)
        assert all(name in script for name in COMMANDS)


def test_json_answers_parse(stub: Path) -> None:
    cleaned = stub_project.slipway(stub, "clean", "--dry-run", "--json")
    assert json.loads(cleaned.stdout)["dry_run"] is True
    examined = stub_project.slipway(stub, "doctor", "--json")
    assert {one["state"] for one in json.loads(examined.stdout)} <= {"ok", "warn", "fail"}


RECIPES = sorted((ROOT / "configs" / "recipes").glob("*.yaml"))


def test_every_recipe_is_a_whole_params_file() -> None:
    assert len(RECIPES) >= 2
    page = (ROOT / "docs" / "guide" / "commands.md").read_text()
    for path in RECIPES:
        chosen = params.load_all(path)
        assert chosen.fetch.base != "tiny"
        assert (ROOT / chosen.gate.policy).is_file()
        assert f"`{path.stem}`" in page


def test_a_recipe_with_a_key_too_few_is_refused(tmp_path: Path) -> None:
    short = tmp_path / "params.yaml"
    short.write_text(RECIPES[0].read_text().replace("  revision: null\n", ""))
    with pytest.raises(UsageError, match=r"fetch\.revision is missing"):
        params.load_all(short)
