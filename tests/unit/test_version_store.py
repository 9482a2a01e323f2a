"""A version's bytes beside every service: whole or not at all, and checked before anybody relies on them."""

import json
import os
import re
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import made_versions
import pytest
import stub_project
from made_versions import Made

from slipway import digest
from slipway.errors import StageError, UsageError
from slipway.registry import keys, receipt, signing, store, versions
from slipway.registry.versions import Version


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, str]:
    made = made_versions.project(tmp_path_factory.mktemp("store") / "a project")
    return made.root, made.version(whole=False).version


@pytest.fixture
def made(whole: tuple[Path, str], tmp_path: Path) -> tuple[Made, Version]:
    """A project of one's own with one version."""
    root = tmp_path / "a project"
    shutil.copytree(whole[0], root)
    copy = Made(root, 1)
    with copy.database.read() as connection:
        version = versions.find(connection, made_versions.MODEL, whole[1])
    assert version is not None
    return copy, version


def place(made: Made, version: Version) -> Path:
    return store.folder(made.root, version.model, version.version)


def test_a_version_lies_there_whole_and_sound(made: tuple[Made, Version]) -> None:
    project, version = made
    assert store.problems(project.root, version) == []
    assert {path.name for path in place(*made).iterdir()} >= {"adapter", "receipt", "version.json"}
    for file in version.files:
        assert digest.of_file(place(*made) / file.path) == file.sha256
    assert not list(store.top(project.root).rglob("*.partial"))


def test_its_bytes_are_its_own(made: tuple[Made, Version]) -> None:
    """What happens to the workspace later does not reach them."""
    project, version = made
    for name in ("adapter", "base"):
        for file in digest.files_under(project.path(name)):
            file.write_bytes(b"other")
    assert store.problems(project.root, version) == []


def test_keeping_it_again_changes_nothing(made: tuple[Made, Version]) -> None:
    project, version = made
    before = {path: path.stat().st_mtime_ns for path in digest.files_under(place(*made))}
    store.keep(
        project.root,
        version,
        project.path("adapter"),
        project.path("base"),
        receipt.folder_of(project.root, version.release),
    )
    assert {path: path.stat().st_mtime_ns for path in digest.files_under(place(*made))} == before


def test_the_base_is_kept_once_and_goes_with_the_last_version(made: tuple[Made, Version]) -> None:
    project, first = made
    second = project.version(whole=False)
    base = store.base_folder(project.root, first.base_digest)
    assert first.base_digest == second.base_digest
    assert len(list((store.top(project.root) / store.BASES).iterdir())) == 1
    size = sum(path.stat().st_size for path in digest.files_under(place(project, first)))
    with project.database.write() as connection:
        versions.set_state(connection, first.model, first.version, "deleted")
    assert store.drop(project.root, first) == size and base.is_dir()
    assert store.problems(project.root, second) == []
    with project.database.write() as connection:
        versions.set_state(connection, second.model, second.version, "deleted")
    assert store.drop(project.root, second) > size - 9_999 and not base.exists()
    assert store.drop(project.root, second) == 0


# --- D10: what cannot be relied on ---------------------------------------------------------------------------------


def edited(path: Path, change: Callable[[dict[str, object]], object]) -> None:
    value = json.loads(path.read_text())
    change(value)
    path.write_text(json.dumps(value))


DAMAGE: dict[str, tuple[Callable[[Made, Version, Path], object], str]] = {
    "all gone": (lambda made, v, here: shutil.rmtree(here), "missing: .* does not exist"),
    "adapter gone": (lambda made, v, here: shutil.rmtree(here / "adapter"), "adapter_config.json is missing"),
    "one file gone": (lambda made, v, here: (here / "adapter" / "adapter_config.json").unlink(), "is missing"),
    "one bit": (lambda made, v, here: flip(here / "adapter" / "adapter_model.safetensors"), "changed: its SHA-256"),
    "cut": (lambda made, v, here: os.truncate(here / "adapter" / "adapter_model.safetensors", 3), "is cut at byte 3"),
    "a stranger": (lambda made, v, here: (here / "adapter" / "run.py").write_text(""), "run.py does not belong"),
    "a hidden folder": (lambda made, v, here: (here / "adapter" / ".git").mkdir(), ".git does not belong"),
    "a link": (lambda made, v, here: linked(here / "adapter" / "adapter_config.json"), "no regular file"),
    "base gone": (lambda made, v, here: shutil.rmtree(store.base_folder(made.root, v.base_digest)), "does not exist"),
    "base swapped": (lambda made, v, here: flip(store.base_folder(made.root, v.base_digest) / "model.safetensors"), "model.safetensors changed"),
    "receipt edited": (lambda made, v, here: flip(here / "receipt" / "statement.json"), "statement.json"),
    "no signature": (lambda made, v, here: (here / "receipt" / "statement.sig").unlink(), "statement.sig is missing"),
    "record gone": (lambda made, v, here: (here / "version.json").unlink(), "version.json is missing"),
    "record edited": (lambda made, v, here: edited(here / "version.json", lambda d: d.update(identity="x")), "not what the ledger has: identity"),
    "key revoked": (lambda made, v, here: keys.revoke(made.root, keys.signing_key(made.root)[0], "lost"), "revoked"),
}  # fmt: skip


def flip(path: Path) -> None:
    data = bytearray(path.read_bytes())
    data[-2] ^= 1
    path.write_bytes(data)


def linked(path: Path) -> None:
    moved = path.rename(path.parent.parent / "elsewhere")
    path.symlink_to(moved)


@pytest.mark.parametrize("what", DAMAGE)
def test_case_D10_a_version_whose_files_are_not_its_own_is_not_sound(made: tuple[Made, Version], what: str) -> None:
    project, version = made
    damage, said = DAMAGE[what]
    damage(project, version, place(*made))
    problems = store.problems(project.root, version)
    assert problems, what
    assert any(re.search(said, line) for line in problems), problems


def test_case_D10_a_tombstone_and_a_cold_version_are_not_sound(made: tuple[Made, Version]) -> None:
    project, version = made
    assert "was deleted" in store.problems(project.root, version.model_copy(update={"state": "deleted"}))[0]
    assert "cold storage" in store.problems(project.root, version.model_copy(update={"state": "cold"}))[0]


def test_case_D6_another_models_receipt_vouches_for_nothing(made: tuple[Made, Version]) -> None:
    """An older version's files and signature under a newer number: valid on their own, and bound to the old one."""
    project, first = made
    second = project.version(whole=False)
    theirs, ours = place(project, first), place(project, second)
    shutil.rmtree(ours)
    shutil.copytree(theirs, ours)
    lying = first.model_copy(update={"version": second.version, "serial": second.serial, "release": second.release})
    lying.save(ours / Version.FILE)
    problems = store.problems(project.root, lying)
    assert problems and f"support-desk {first.version}" in problems[0], problems


# --- names ----------------------------------------------------------------------------------------------------------

HOSTILE = ["..", ".", "", "../x", "a/b", "a\\b", "a\x00", "a\n", "%2e%2e", "/etc", "file://x", "~", ".hidden", "a" * 65, "ａ", "-x", "bases", "rows"]  # fmt: skip


@pytest.mark.parametrize("name", HOSTILE)
def test_case_F7_no_name_leads_out_of_the_store(tmp_path: Path, name: str) -> None:
    stub_env(tmp_path)
    with pytest.raises(UsageError, match="no model's name"):
        store.folder(tmp_path, name, "1.0.0")
    if name not in store.RESERVED:
        with pytest.raises(UsageError, match="no version"):
            store.folder(tmp_path, "desk", name)
    with pytest.raises(UsageError, match="no digest"):
        store.base_folder(tmp_path, name)


def stub_env(root: Path) -> None:
    shutil.copytree(stub_project.ROOT / "configs" / "env", root / "configs" / "env")


# --- killed ---------------------------------------------------------------------------------------------------------

KEEP = """
import sys
from pathlib import Path
from slipway.registry import store
from slipway.registry.versions import Version

root, version = Path(sys.argv[1]), Version.load(Path(sys.argv[2]))
copied = store._copied
def slow(source, target, file):
    copied(source, target, file)
    print(file.path, flush=True)
    sys.stdin.readline()
store._copied = slow
store.keep(root, version, root / "models/adapter", root / "models/base", Path(sys.argv[3]))
"""


@pytest.mark.parametrize("after", [1, 2, 4])
def test_a_copy_that_is_killed_is_nothing_and_the_next_one_is_whole(made: tuple[Made, Version], after: int) -> None:
    project, version = made
    folder = receipt.folder_of(project.root, version.release)
    kept = version.model_copy(update={"state": "present"})
    record = project.root / "version.json"
    kept.save(record)
    shutil.rmtree(place(*made))
    shutil.rmtree(store.base_folder(project.root, version.base_digest))
    command = [sys.executable, "-c", KEEP, str(project.root), str(record), str(folder)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as child:
        assert child.stdin and child.stdout
        for _ in range(after):
            assert child.stdout.readline()
            child.stdin.write("\n")
            child.stdin.flush()
        child.stdout.readline()
        child.send_signal(signal.SIGKILL)
    assert store.problems(project.root, version) and not place(*made).exists()
    store.keep(project.root, version, project.path("adapter"), project.path("base"), folder)
    assert store.problems(project.root, version) == []
    assert not list(store.top(project.root).rglob("*.partial")), "what the killed one left is gone"


def test_a_source_that_changed_since_it_was_described_is_not_kept(made: tuple[Made, Version]) -> None:
    project, version = made
    shutil.rmtree(place(*made))
    flip(project.path("adapter") / "adapter_model.safetensors")
    with pytest.raises(StageError, match="changed: its SHA-256"):
        store.keep(
            project.root,
            version,
            project.path("adapter"),
            project.path("base"),
            receipt.folder_of(project.root, version.release),
        )
    assert not place(*made).exists()


def test_statement_and_version_speak_of_the_same(made: tuple[Made, Version]) -> None:
    project, version = made
    statement = signing.Statement.load(place(*made) / "receipt" / signing.Statement.FILE)
    assert (statement.model, statement.version, statement.identity) == (
        version.model,
        version.version,
        version.identity,
    )
