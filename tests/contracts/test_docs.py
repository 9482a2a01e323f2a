"""What the documents say is true of the repository: tree, targets, links, names, keys and numbers."""

import re
import subprocess
import tomllib
from functools import cache
from pathlib import Path
from typing import Any, get_args

import pytest
import yaml
from pydantic import BaseModel

import slipway
from slipway import params, strict
from slipway.governance.policy import Policy

ROOT = Path(__file__).parents[2]
MADE_BY_A_RUN = {"dvc.lock"}  # in git after the first release, not in a fresh clone


@cache
def files() -> list[str]:
    """What git holds or would hold."""
    words = ["git", "ls-files", "-coz", "--exclude-standard"]
    listed = subprocess.run(words, cwd=ROOT, capture_output=True, text=True, check=True).stdout.split("\0")[:-1]
    return [name for name in listed if (ROOT / name).is_file()]


@cache
def text(name: str) -> str:
    return (ROOT / name).read_text(encoding="utf-8")


def pages() -> list[str]:
    return [name for name in files() if name.endswith(".md")]


def section(page: str, title: str) -> str:
    """The part of a page below one heading."""
    found = re.search(rf"^## {re.escape(title)}\n(.*?)(?=^## |\Z)", text(page), re.M | re.S)
    assert found, f"{page} has no section {title!r}"
    return found.group(1)


def first_cells(part: str) -> list[str]:
    """The code word that begins each row of a page's tables."""
    return re.findall(r"^\| `([^`]+)` \|", part, re.M)


# --- README, CONTRIBUTING, Makefile, CHANGELOG ---


def test_the_readme_shows_the_tree_as_it_is() -> None:
    block = re.search(r"```\n(README\.md .*?)```", text("README.md"), re.S)
    assert block
    lines = block.group(1).splitlines()
    shown = {line.split()[0].rstrip("/") for line in lines}
    there = {name.partition("/")[0] for name in files()}
    assert len(there) >= 15
    assert there | MADE_BY_A_RUN == shown | MADE_BY_A_RUN
    folders = {line.split()[0].rstrip("/") for line in lines if line.split()[0].endswith("/")}
    assert folders == {name for name in there if (ROOT / name).is_dir()}
    assert all(len(line.split()) > 2 for line in lines), "each with a clause that says what it is"


def targets() -> set[str]:
    return set(re.findall(r"^([a-z][a-z-]*):", text("Makefile"), re.M))


def test_every_make_target_has_help_and_no_file_hides_it() -> None:
    helped = set(re.findall(r"^([a-z][a-z-]*):.*  ## \S", text("Makefile"), re.M))
    phony = re.search(r"^\.PHONY: (.+)$", text("Makefile"), re.M)
    assert phony and len(helped) >= 8
    assert helped == targets() == set(phony.group(1).split())


def test_every_make_target_that_is_named_exists() -> None:
    named = {
        (page, word)
        for page in pages()
        for word in re.findall(r"(?:`|^    |\ttime |  )make ([a-z-]+)", text(page), re.M)
    }
    assert len({word for _, word in named}) >= 8
    assert {word for _, word in named} <= targets(), sorted(named)
    spoken_of = {word for page, word in named if page in ("README.md", "CONTRIBUTING.md")}
    assert targets() - {"help"} <= spoken_of, "README or CONTRIBUTING names each"


def test_the_newest_version_in_the_changelog_is_this_one() -> None:
    versions = re.findall(r"^## \[(\d+\.\d+\.\d+)\] - (?:\d{4}-\d\d-\d\d|Unreleased)$", text("CHANGELOG.md"), re.M)
    assert len(versions) >= 1
    assert versions[0] == slipway.__version__ == tomllib.loads(text("pyproject.toml"))["project"]["version"]


# --- links and names ---


def test_every_relative_link_leads_somewhere() -> None:
    links = [(page, link) for page in pages() for link in re.findall(r"\]\(([^)\s]+)\)", text(page))]
    inside = [(page, link) for page, link in links if "://" not in link and not link.startswith("#")]
    assert len(inside) >= 15
    broken = [
        f"{page}: {link}" for page, link in inside if not (ROOT / page).parent.joinpath(link.partition("#")[0]).exists()
    ]
    assert not broken, broken


def test_every_file_and_test_that_a_page_names_is_there() -> None:
    kinds = r"(?:slipway|tasks|flows|tests|configs|docs|benchmarks|sample)/[\w./-]*\w\.(?:py|yaml|md|jsonl)"
    named = {(page, *found) for page in pages() for found in re.findall(rf"`({kinds})(?:::(\w+))?`", text(page))}
    own = {
        "configs/policies/my-gates.yaml",
        "configs/evals/mine/rows.jsonl",
        "configs/evals/mine/suite.yaml",
    }  # the reader's
    assert len(named) >= 60
    wrong = [f"{page}: {name}" for page, name, _ in named if name not in own and not (ROOT / name).is_file()]
    wrong += [f"{page}: {name}::{test}" for page, name, test in named if test and f"def {test}(" not in text(name)]
    assert not wrong, wrong


def test_the_guide_lists_every_page_of_its_own() -> None:
    there = {path.name for path in (ROOT / "docs" / "guide").glob("*.md")} - {"README.md"}
    assert len(there) >= 6
    assert there == set(re.findall(r"^\| \[[\w.-]+\]\(([\w.-]+)\) \|", text("docs/guide/README.md"), re.M))


def test_no_file_names_a_machines_paths() -> None:
    machine = re.compile(r"/(?:work|root|home/\w+)/")
    found, read = [], 0
    for name in files():
        try:
            lines = text(name).splitlines()
        except UnicodeDecodeError:
            continue  # a picture
        read += 1
        found += [f"{name}:{number}" for number, line in enumerate(lines, 1) if machine.search(line)]
    assert read >= 100
    assert not found, found


# --- decisions, dependencies ---


def test_every_decision_has_its_number_and_its_three_parts() -> None:
    decisions = [name for name in files() if name.startswith("docs/adr/")]
    assert len(decisions) >= 12
    numbers = []
    for name in decisions:
        number = re.match(r"docs/adr/(\d{4})-[a-z0-9-]+\.md$", name)
        assert number, name
        numbers.append(int(number.group(1)))
        assert text(name).startswith(f"# {number.group(1)}. "), name
        assert re.findall(r"^## (.+)$", text(name), re.M) == ["Context", "Decision", "Consequences"], name
    assert sorted(numbers) == list(range(1, len(numbers) + 1)), "each number once, none left out"


def names_of(requirements: list[str]) -> list[str]:
    return sorted(re.split(r"[\[<>=~! ]", requirement)[0].lower() for requirement in requirements)


def test_the_dependencies_page_is_pyproject_told_in_words() -> None:
    project = tomllib.loads(text("pyproject.toml"))["project"]
    runs, develops = names_of(project["dependencies"]), names_of(project["optional-dependencies"]["dev"])
    assert len(runs) >= 20 and len(develops) >= 8
    assert sorted(first_cells(section("docs/dependencies.md", "What runs"))) == runs
    assert sorted(first_cells(section("docs/dependencies.md", "What develops"))) == develops


# --- configuration ---


def sections_in(annotation: Any) -> type[BaseModel] | None:
    """The params section that a field holds, if it holds one."""
    for kind in (annotation, *get_args(annotation)):
        if isinstance(kind, type) and issubclass(kind, BaseModel):
            return kind
    return None


def keys_of_model(model: type[BaseModel], prefix: str = "") -> set[str]:
    found = set()
    for name, field in model.model_fields.items():
        key = f"{prefix}{field.alias or name}"
        inner = sections_in(field.annotation)
        found |= keys_of_model(inner, f"{key}.") if inner else {key}
    return found


def keys_of(value: dict[str, Any], prefix: str = "") -> set[str]:
    parts = [keys_of(v, f"{prefix}{k}.") if isinstance(v, dict) else {f"{prefix}{k}"} for k, v in value.items()]
    return set().union(*parts)


def test_the_params_page_has_every_key_once_and_no_other() -> None:
    keys = keys_of_model(params.Params)
    assert len(keys) >= 50
    listed = first_cells(text("docs/guide/params.md"))
    assert len(listed) == len(set(listed))
    assert set(listed) == keys == keys_of(yaml.safe_load(text("params.yaml")))


def fields_with_defaults(model: type[BaseModel]) -> set[str]:
    found = {f"{model.__name__}.{name}" for name, field in model.model_fields.items() if not field.is_required()}
    inner = [kind for field in model.model_fields.values() if (kind := sections_in(field.annotation))]
    return found.union(*(fields_with_defaults(kind) for kind in inner))


def test_no_param_has_a_default() -> None:
    assert not fields_with_defaults(params.Params)


CONFIGS = sorted(path.relative_to(ROOT).as_posix() for path in (ROOT / "configs").rglob("*.y*ml"))


def test_every_configuration_file_is_found() -> None:
    assert len(CONFIGS) >= 9
    assert {name.split("/")[1] for name in CONFIGS} >= {"env", "expectations", "policies", "recipes", "model.yaml"}


@pytest.mark.parametrize("name", CONFIGS)
def test_every_configuration_file_reads_strictly(name: str) -> None:
    assert strict.read_yaml(ROOT / name)


def test_the_examples_of_own_work_are_what_slipway_reads(tmp_path: Path) -> None:
    blocks = re.findall(r"```yaml\n(.*?)```", text("docs/guide/own-work.md"), re.S)
    assert len(blocks) >= 4
    policies = 0
    for block in blocks:
        example = tmp_path / "example.yaml"
        example.write_text(block)
        if block.startswith("rules:"):
            assert Policy.load(example).rules
            policies += 1
        else:
            assert keys_of(strict.read_yaml(example)) <= keys_of_model(params.Params)
    assert policies == 1
