"""Opening a version: names to files, and no byte loaded that was not verified."""

import os
import shutil
import socket
import subprocess
import sys
from pathlib import Path
from typing import Any

import made_versions
import pytest
from made_versions import MODEL, Made

from slipway import digest, settings
from slipway.artifacts import Manifest
from slipway.errors import Refused, StageError, UsageError
from slipway.generating import opening
from slipway.identity import identity
from slipway.registry import store
from slipway.scanning import snapshot


@pytest.fixture
def made(tmp_path: Path) -> Made:
    return made_versions.project(tmp_path / "a project")


def names(made: Made, *targets: str) -> list[str]:
    with opening.opened(made.root, targets) as found:
        return [one.name for one in found]


def flip(path: Path) -> None:
    """One bit, with size and time of change as they were."""
    about = path.stat()
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(data)
    os.utime(path, ns=(about.st_atime_ns, about.st_mtime_ns))


# --- names ---


def test_every_name_that_people_use_leads_to_its_version(made: Made) -> None:
    first, second = made.version(whole=False), made.version(whole=False)
    made.serve(first)
    made.serve(second)
    for target, wanted in {
        "champion": "1.1.0", f"{MODEL}@champion": "1.1.0", f"{MODEL}@previous": "1.0.0", "latest": "1.1.0",
        f"{MODEL}@1.0.0": "1.0.0", "#1": "1.0.0", first.release: "1.0.0", f"{MODEL}@base": "base", "base": "base",
    }.items():  # fmt: skip
        assert names(made, target) == [f"{MODEL}@{wanted}"], target


def test_before_the_first_promotion_the_base_is_the_champion(made: Made) -> None:
    made.version(whole=False)
    assert names(made, f"{MODEL}@champion") == [f"{MODEL}@base"]
    with pytest.raises(UsageError, match="no previous yet"):
        names(made, f"{MODEL}@previous")


def test_before_anything_is_registered_the_workspaces_base_serves(made: Made) -> None:
    ledger = settings.state_folder(made.root) / "ledger.db"
    with opening.opened(made.root, ["desk@base"]) as (found,):
        assert (found.name, found.adapter) == ("desk@base", None)
        assert found.identity == identity(made.path("base"), None)
    assert not ledger.exists(), "looking makes no ledger"
    with pytest.raises(UsageError, match="nothing is registered here yet"):
        names(made, "desk@1.0.0")


def test_a_name_that_nothing_has_is_said_in_one_line(made: Made) -> None:
    made.version(whole=False)
    for target in ("other@base", "other@1.0.0", f"{MODEL}@9.9.9", "../../etc", "a\x00b", f"{MODEL}@../1.0.0"):
        with pytest.raises(UsageError) as refused:
            names(made, target)
        assert "\n" not in str(refused.value)


def test_versions_on_one_base_share_one_copy_of_it(made: Made) -> None:
    made.version(whole=False)
    made.version(whole=False)
    with opening.opened(made.root, ["1.0.0", "1.1.0", "base", "1.0.0"]) as found:
        assert [one.version for one in found] == ["1.0.0", "1.1.0", "base"]
        assert len({one.base for one in found}) == 1
        assert found[0].adapter != found[1].adapter
        assert len({one.identity for one in found}) == 3


# --- bytes ---


def test_what_is_opened_are_the_versions_bytes_and_is_gone_afterwards(made: Made) -> None:
    version = made.version(whole=False)
    with opening.opened(made.root, ["1.0.0"]) as (found,):
        assert found.adapter is not None
        for place, folder in ((made.path("adapter"), found.adapter), (made.path("base"), found.base)):
            assert Manifest.verified(folder) == Manifest.load(place / digest.MANIFEST)
            assert folder.stat().st_mode & 0o777 == 0o500
        assert found.identity == version.identity
        assert found.facts["release"] == version.release
        base, adapter = found.base, found.adapter
    assert not base.exists() and not adapter.exists()


@pytest.mark.parametrize(
    "name", ["adapter/adapter_model.safetensors", "adapter/adapter_config.json", "receipt/decision.json"]
)
def test_case_D1_a_flipped_bit_is_refused_with_file_and_both_digests(made: Made, name: str) -> None:
    version = made.version(whole=False)
    path = store.folder(made.root, MODEL, version.version) / name
    before = digest.of_file(path)
    flip(path)
    with pytest.raises(Refused) as refused:
        names(made, "1.0.0")
    said = str(refused.value)
    assert str(path) in said and before in said and digest.of_file(path) in said and "\n" not in said


@pytest.mark.parametrize("target", ["1.0.0", "base"])
def test_case_D1_a_flipped_bit_of_the_base_is_refused(made: Made, target: str) -> None:
    version = made.version(whole=False)
    path = store.base_folder(made.root, version.base_digest) / "model.safetensors"
    before = digest.of_file(path)
    flip(path)
    with pytest.raises(Refused) as refused:
        names(made, target)
    assert (
        str(path) in str(refused.value) and before in str(refused.value) and digest.of_file(path) in str(refused.value)
    )


def test_case_D5_whatever_does_not_belong_is_refused(made: Made) -> None:
    version = made.version(whole=False)
    adapter = store.folder(made.root, MODEL, version.version) / "adapter"
    for stray in (".git/config", "empty/", "extra.bin"):
        path = adapter / stray
        if stray.endswith("/"):
            path.mkdir()
        else:
            path.parent.mkdir(exist_ok=True)
            path.write_text("x")
        with pytest.raises(Refused, match="does not belong"):
            names(made, "1.0.0")
        top = adapter / stray.split("/")[0]
        shutil.rmtree(top) if top.is_dir() else top.unlink()
    (adapter / "adapter_config.json").chmod(0o755)
    with pytest.raises(Refused, match="mode"):
        names(made, "1.0.0")


def test_case_D8_a_base_that_moved_is_refused(made: Made) -> None:
    """Another base, whole and honest by its own manifest, in the place of the one that the version was tuned on."""
    version = made.version(whole=False)
    place = store.base_folder(made.root, version.base_digest)
    (place / "model.safetensors").write_bytes((place / "model.safetensors").read_bytes() + b"\0")
    Manifest.write(place, {"source": "tiny"})
    for target in ("1.0.0", "base"):
        with pytest.raises(Refused) as refused:
            names(made, target)
        assert "statement" in str(refused.value) or version.base_digest in str(refused.value)


@pytest.mark.parametrize("swap", ["bytes", "symlink", "whole folder"])
def test_case_D4_what_is_swapped_between_check_and_load_is_never_loaded(
    made: Made, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, swap: str
) -> None:
    """The swap happens at the worst moment: after every check has passed, before the first byte is copied."""
    version = made.version(whole=False)
    adapter = store.folder(made.root, MODEL, version.version) / "adapter"
    weights, evil = adapter / "adapter_model.safetensors", tmp_path / "evil"
    evil.write_bytes(b"evil" * 40)
    checked = store.problems

    def swapped(*args: Any) -> list[str]:
        found = checked(*args)
        assert not found
        if swap == "bytes":
            weights.write_bytes(evil.read_bytes())
        elif swap == "symlink":
            weights.unlink()
            weights.symlink_to(evil)
        else:  # with a manifest that speaks for it
            weights.write_bytes(evil.read_bytes())
            Manifest.write(adapter, Manifest.load(adapter / digest.MANIFEST).facts)
        return found

    monkeypatch.setattr(store, "problems", swapped)
    with pytest.raises((Refused, StageError)) as refused:
        names(made, "1.0.0")
    assert "adapter" in str(refused.value)


def test_case_D4_a_swap_behind_the_copy_reaches_nobody(made: Made, monkeypatch: pytest.MonkeyPatch) -> None:
    version = made.version(whole=False)
    adapter = store.folder(made.root, MODEL, version.version) / "adapter"
    wanted = (adapter / "adapter_model.safetensors").read_bytes()
    copied = snapshot.snapshot

    def swapped(folder: Path, manifest: Manifest, place: Path) -> Path:
        made_copy = copied(folder, manifest, place)
        if folder == adapter:
            (adapter / "adapter_model.safetensors").write_bytes(b"evil")
        return made_copy

    monkeypatch.setattr(snapshot, "snapshot", swapped)
    with opening.opened(made.root, ["1.0.0"]) as (found,):
        assert found.adapter is not None
        assert (found.adapter / "adapter_model.safetensors").read_bytes() == wanted


def test_copies_that_a_killed_process_left_go_with_the_next_opening(made: Made) -> None:
    made.version(whole=False)
    words = (
        "import os, sys; from pathlib import Path; from slipway.generating import opening\n"
        "with opening.opened(Path(sys.argv[1]), ['1.0.0']): os.kill(os.getpid(), 9)"
    )
    killed = subprocess.run([sys.executable, "-c", words, str(made.root)], check=False)
    snapshots = settings.scratch_folder(made.root) / "snapshots"
    assert killed.returncode == -9 and len(list(snapshots.iterdir())) == 1
    names(made, "1.0.0")
    assert list(snapshots.iterdir()) == []


def test_opening_needs_no_service(made: Made, monkeypatch: pytest.MonkeyPatch) -> None:
    """MLflow, S3 and Prefect are addresses where nobody answers; nothing even asks."""
    made.serve(made.version(whole=False))
    with socket.socket() as nobody:
        nobody.bind(("127.0.0.1", 0))
        dead = f"http://127.0.0.1:{nobody.getsockname()[1]}"
        for name in ("MLFLOW_TRACKING_URI", "PREFECT_API_URL", "AWS_ENDPOINT_URL", "SLIPWAY_MLFLOW_URI"):
            monkeypatch.setenv(name, dead)
        words = (
            "import sys; from pathlib import Path; from slipway.generating import opening\n"
            "with opening.opened(Path(sys.argv[1]), ['champion']) as (one,): print(one.name)\n"
            "print(sorted({'mlflow', 'prefect', 'torch', 'transformers'} & set(sys.modules)))"
        )
        said = subprocess.run([sys.executable, "-c", words, str(made.root)], capture_output=True, text=True, check=True)
    assert said.stdout.splitlines() == [f"{MODEL}@1.0.0", "[]"]
