"""One definition, three faces: the files, the registered stages, dvc.yaml and params.yaml say the same thing."""

import re
from functools import cache
from pathlib import Path
from typing import Any

import grimp
import pytest
import yaml

from slipway.errors import UsageError
from tasks import _stage

ROOT = Path(__file__).parents[2]


@cache
def pipeline() -> dict[str, Any]:
    return yaml.safe_load((ROOT / "dvc.yaml").read_text())


@cache
def graph() -> grimp.ImportGraph:
    return grimp.build_graph("slipway", "tasks", cache_dir=None)


def file_of(module: str) -> str:
    path = Path(*module.split("."))
    return (path / "__init__.py" if (ROOT / path).is_dir() else path.with_suffix(".py")).as_posix()


def closure(module: str) -> set[str]:
    """A module, everything it imports, and the packages they stand in (Python runs those too)."""
    found = {module} | graph().find_upstream_modules(module)
    return found | {".".join(m.split(".")[:n]) for m in found for n in range(1, m.count(".") + 1)}


def test_files_registered_stages_dvc_and_params_are_the_same() -> None:
    files = {path.stem for path in (ROOT / "tasks").glob("[a-z]*.py")}
    assert (
        files - set(_stage.ACTS)
        == set(_stage.NAMES)
        == set(pipeline()["stages"])
        == set(yaml.safe_load((ROOT / "params.yaml").read_text()))
    )
    assert len(files) >= 6
    assert all(_stage.find(name).name == name for name in _stage.NAMES)


def test_acts_have_a_file_each_and_are_no_stages() -> None:
    assert _stage.ACTS and not set(_stage.ACTS) & set(_stage.NAMES)
    for name in _stage.ACTS:
        assert (ROOT / "tasks" / f"{name}.py").is_file()
        assert _stage.find_act(name).name == name
        with pytest.raises(UsageError):
            _stage.find(name)


@pytest.mark.parametrize("name", _stage.NAMES)
def test_every_module_a_stage_imports_is_in_its_deps_and_nothing_else_is(name: str) -> None:
    machinery = closure("tasks._stage")
    imported = {file_of(module) for module in closure(f"tasks.{name}") - machinery}
    listed = {
        dep
        for dep in pipeline()["stages"][name]["deps"]
        if dep.endswith((".py", ".jinja")) or dep.startswith("slipway")
    }
    empty = {path for path in imported if not (ROOT / path).read_text().strip()}
    missing, idle = imported - listed - empty, listed - imported
    assert not missing, (
        f"stage {name!r} imports {sorted(missing)} but dvc.yaml does not list it: edits there would leave a stale output"
    )
    assert not idle, (
        f"dvc.yaml lists {sorted(idle)} for {name!r}, which does not import it: edits there would run it for nothing"
    )
    assert imported, f"no module found for {name!r}: the check sees nothing"


@pytest.mark.parametrize("name", _stage.NAMES)
def test_every_flag_of_a_stage_is_what_dvc_passes(name: str) -> None:
    stage = _stage.find(name)
    words = pipeline()["stages"][name]["cmd"].split()
    flags = {word.removeprefix("--").replace("-", "_") for word in words if word.startswith("--")}
    assert words[:4] == ["python", "-m", "tasks", name]
    assert flags == {*stage.paths(_stage.Input), *stage.paths(_stage.Output), "metrics"}


@pytest.mark.parametrize("name", _stage.NAMES)
def test_inputs_are_deps_and_outputs_are_outs(name: str) -> None:
    entry, stage = pipeline()["stages"][name], _stage.find(name)
    words = entry["cmd"].split()
    given = {words[i].removeprefix("--").replace("-", "_"): words[i + 1] for i in range(4, len(words), 2)}
    inputs = {given[n] for n in stage.paths(_stage.Input)}
    outputs = {given[n] for n in stage.paths(_stage.Output)} | {given["metrics"]}
    whole_files = {
        file.replace("${gate.policy}", given.get("policy", ""))
        for p in entry["params"]
        if isinstance(p, dict)
        for file in p
    }
    assert inputs <= set(entry["deps"]) | whole_files
    assert outputs == set(entry["outs"]) | set(entry["metrics"])


def test_every_stage_depends_on_its_own_section_and_on_the_pinned_packages() -> None:
    stages = pipeline()["stages"]
    assert len(stages) >= 6
    for name, entry in stages.items():
        assert entry["params"][0] == name
        assert "constraints.txt" in entry["deps"]


def test_every_input_is_made_by_another_stage_or_committed() -> None:
    stages = pipeline()["stages"]
    made = {out for entry in stages.values() for out in [*entry["outs"], *entry["metrics"]]}
    committed = {"${gate.policy}", "${path.source}", "${path.pinned_base}", "${path.champion}", "${path.expectations}"}
    committed |= {"${path.suites}/${evaluate.suite}", "${path.probes}"}
    inputs = {dep for entry in stages.values() for dep in entry["deps"] if dep.startswith("${")}
    assert len(inputs) >= 8
    assert inputs <= made | committed


def test_only_settings_reads_environment_variables() -> None:
    sources = [path for folder in ("slipway", "tasks", "flows") for path in (ROOT / folder).rglob("*.py")]
    assert len(sources) > 60
    readers = {
        path.relative_to(ROOT).as_posix() for path in sources if re.search(r"os\.(environ|getenv)", path.read_text())
    }
    assert readers == {"slipway/settings.py"}


def test_declared_fills_in_what_dvc_would() -> None:
    assert "pins/source.json" in _stage.declared(ROOT, "ingest", "deps")
    assert _stage.declared(ROOT, "gate", "params") == ["gate", "configs/policies/gates.yaml:"]
