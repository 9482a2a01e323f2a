"""The artifact scan: hostile files are refused with a reason and never run; the command says so in one line each."""

import json
import os
import struct
import subprocess
import sys
from pathlib import Path

import hostile_files
import pytest
import stub_project

from slipway import scanning
from slipway.artifacts import Manifest, Scan
from slipway.errors import Refused, StageError, UsageError

ROOT = Path(__file__).parents[2]


def built(name: str, tmp_path: Path) -> tuple[Path, list[str], Path]:
    """A case's folder, what must be refused in it, and its canary."""
    folder, canary = hostile_files.good(tmp_path / "model"), tmp_path / "canary"
    refused = hostile_files.CASES[name](folder, canary)
    return folder, [refused] if isinstance(refused, str) else refused, canary


def test_a_good_folder_passes(tmp_path: Path) -> None:
    folder = hostile_files.good(tmp_path / "model")
    for mode in ("deploy", "import"):
        found = scanning.scan(folder, mode)
        assert found.passed and not found.refused
        assert len(found.files) == sum(path.is_file() for path in folder.rglob("*")) >= 11
        assert all(file.allowed and file.reason and len(file.sha256) == 64 for file in found.files)
    assert found == scanning.scan(folder, "import"), "the same bytes, the same answer"


# --- D3 ---


def test_case_D3_the_corpus_is_large() -> None:
    assert len(hostile_files.CASES) >= 400


@pytest.mark.parametrize("name", hostile_files.CASES)
def test_case_D3_a_hostile_file_is_refused_with_its_reason_and_never_run(tmp_path: Path, name: str) -> None:
    folder, refused, canary = built(name, tmp_path)
    before = state(folder)
    for mode in ("deploy", "import"):
        found = scanning.scan(folder, mode)
        assert not found.passed
        assert [file.path for file in found.refused] == refused, "it, and nothing innocent beside it"
        assert all(file.reason.isprintable() and 5 <= len(file.reason) < 400 for file in found.refused)
        assert all(file.path.isprintable() for file in found.refused)
        assert Scan.model_validate_json(found.model_dump_json()) == found
    assert not canary.exists()
    assert state(folder) == before, "nothing was written"


def state(folder: Path) -> list[tuple[bytes, int, int]]:
    """Everything in a folder, whatever its name is made of."""
    found = [(os.fsencode(root), name) for root, below, files in os.walk(os.fsencode(folder)) for name in below + files]
    seen = [(b"/".join(parts), os.lstat(b"/".join(parts))) for parts in found]
    return sorted((path, status.st_mode, status.st_mtime_ns) for path, status in seen)


def test_case_D3_the_payloads_are_real(tmp_path: Path) -> None:
    """Unpickled without a scan, nearly all of them run: the corpus proves something."""
    running = []
    for number, build in enumerate(hostile_files.PICKLES.values()):
        path, canary = tmp_path / f"{number}.pkl", tmp_path / f"canary{number}"
        path.write_bytes(build(canary))
        words = [sys.executable, "-c", f"import pickle; pickle.load(open({str(path)!r}, 'rb'))"]
        quiet = {"stdin": subprocess.DEVNULL, "stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL}
        running.append(subprocess.Popen(words, cwd=tmp_path, **quiet))  # type: ignore[call-overload]
        if len(running) % 4 == 0:
            [process.wait(60) for process in running]
    [process.wait(60) for process in running]
    fired = [number for number in range(len(running)) if os.path.lexists(tmp_path / f"canary{number}")]
    assert len(running) >= 55
    assert len(fired) >= 45, [list(hostile_files.PICKLES)[n] for n in range(len(running)) if n not in fired]


def test_a_single_file_is_judged_like_a_folder(tmp_path: Path) -> None:
    folder = hostile_files.good(tmp_path / "model")
    seen = 0
    for path in sorted(path for path in folder.rglob("*") if path.is_file()):
        found = scanning.scan(path)
        assert found.passed and [file.path for file in found.files] == [path.name]
        seen += 1
    assert seen >= 11
    (folder / "link.json").symlink_to("config.json")
    os.mkfifo(folder / "pipe.json")
    for name in ("link.json", "pipe.json"):
        assert not scanning.scan(folder / name).passed
    (tmp_path / "to-model").symlink_to(folder)
    assert "symbolic link" in scanning.scan(tmp_path / "to-model").refused[0].reason


def test_an_empty_folder_is_no_pass(tmp_path: Path) -> None:
    found = scanning.scan(tmp_path)
    assert not found.passed and found.refused[0].reason == "an empty folder"


def test_what_cannot_be_read_is_no_pass(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = hostile_files.good(tmp_path / "model")
    real = os.preadv
    broken = (folder / "config.json").stat().st_ino

    def preadv(handle: int, buffers: list[memoryview], offset: int) -> int:
        if os.fstat(handle).st_ino == broken:
            raise OSError(5, "Input/output error")
        return real(handle, buffers, offset)

    monkeypatch.setattr(os, "preadv", preadv)
    found = scanning.scan(folder)
    assert [(file.path, file.reason) for file in found.refused] == [
        ("config.json", "cannot be read (Input/output error)")
    ]


def test_a_hub_repository_s_own_file_may_be_imported(tmp_path: Path) -> None:
    folder = hostile_files.good(tmp_path / "model")
    (folder / ".gitattributes").write_text("*.safetensors filter=lfs\n")
    assert scanning.scan(folder, "import").passed
    assert [file.path for file in scanning.scan(folder).refused] == [".gitattributes"]


def test_a_file_too_large_for_memory_is_refused_unread(tmp_path: Path) -> None:
    for name in ("model.gguf", "config.json", "README.md", "pytorch_model.bin", "model.safetensors"):
        with (tmp_path / name).open("wb") as stream:
            stream.truncate(100 << 30)  # a hole: 100 GB that take no disk
    for mode in ("deploy", "import"):
        found = scanning.scan(tmp_path, mode)
        assert len(found.refused) == 5
        assert all(file.sha256 == "" and file.bytes == 100 << 30 for file in found.refused)


def test_an_archive_s_directory_has_to_fit_into_memory(tmp_path: Path) -> None:
    path = tmp_path / "pytorch_model.bin"
    with path.open("wb") as stream:
        stream.write(b"PK\x03\x04")
        stream.seek(20 << 30)
        stream.write(b"PK\x05\x06" + struct.pack("<HHHHIIH", 0, 0, 1, 1, 0x7FFF_FFFF, 1 << 20, 0))
    assert "a directory of 2,147,483,647 bytes" in scanning.scan(path, "import").refused[0].reason


def test_too_many_files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(scanning.walk, "MAX_ENTRIES", 5)
    found = scanning.scan(hostile_files.good(tmp_path / "model"))
    assert [file.path for file in found.refused] == ["."]


# --- D5, D1 ---


@pytest.mark.parametrize("extra", ["notes.txt", ".git/config", ".env", "empty", "sub/empty", "model.py", "link.txt"])
def test_case_D5_nothing_may_be_added_to_a_finished_folder(tmp_path: Path, extra: str) -> None:
    """The scan refuses what no model may hold; the manifest refuses what this model did not hold."""
    folder = hostile_files.good(tmp_path / "model")
    Manifest.write(folder, {})
    assert scanning.scan(folder).passed and Manifest.verified(folder)
    target = folder / extra
    target.parent.mkdir(parents=True, exist_ok=True)
    if extra.endswith("empty"):
        target.mkdir()
    elif extra == "link.txt":
        target.symlink_to("merges.txt")
    else:
        target.write_text("more\n")
    with pytest.raises((StageError, Refused), match=extra.split("/")[0]):
        scanning.demand(folder, str(folder))
        Manifest.verified(folder)


@pytest.mark.parametrize("mode", [0o755, 0o666, 0o4644, 0o2644])
def test_case_D5_modes(tmp_path: Path, mode: int) -> None:
    folder = hostile_files.good(tmp_path / "model")
    (folder / "model.safetensors").chmod(mode)
    with pytest.raises(Refused, match=r"model\.safetensors: .*mode"):
        scanning.demand(folder, "the model")


def test_case_D1_one_flipped_bit_in_any_file_is_named(tmp_path: Path) -> None:
    folder = hostile_files.good(tmp_path / "model")
    Manifest.write(folder, {})
    paths = sorted(path for path in folder.rglob("*") if path.is_file() and path.name != "manifest.json")
    assert len(paths) >= 11
    for path in paths:
        whole, status = path.read_bytes(), path.stat()
        path.write_bytes(whole[:-1] + bytes([whole[-1] ^ 1]))
        os.utime(path, ns=(status.st_atime_ns, status.st_mtime_ns))
        with pytest.raises(StageError, match=rf"{path.name} changed: its SHA-256 is \w{{64}}, recorded was \w{{64}}"):
            Manifest.verified(folder)
        path.write_bytes(whole)
    assert Manifest.verified(folder)


# --- E11 ---


def test_case_E11_a_card_may_show_but_not_act(tmp_path: Path) -> None:
    card = tmp_path / "README.md"
    harmless = [
        "# JavaScript: 45 %\n\nPython: 50 %, see <link> and <input>, `a < b`.\n",
        "<p align='center'><a href='https://x.example/?a=b&c=d'><img src='https://x.example/i.svg' width=5></a></p>\n",
        "<details><summary>More</summary>\n\n| a | b |\n|---|---|\n| 1 | 2 |\n</details>\n",
        "![badge](https://x.example/badge?logo=data:image/svg%2bxml;base64,PHN2Zz4=)\n",
        "---\nlanguage: [en, de]\nmodel-index:\n- name: x\n  results: []\n---\n```python\nonly = 3\ncondition = 4\n```\n",
        "&lt;script&gt; is shown, not run.\n",
    ]
    for text in harmless:
        card.write_text(text)
        assert scanning.scan(card).passed, scanning.scan(card).refused[0].reason
    hostile = [name for name in hostile_files.CASES if name.startswith("card: ")]
    assert len(harmless) >= 6 and len(hostile) >= 20


# --- several folders, second opinions ---


def test_several_folders_are_one_scan(tmp_path: Path) -> None:
    base, adapter = hostile_files.good(tmp_path / "b"), hostile_files.good(tmp_path / "a")
    (adapter / "evil.py").write_text("1")
    found = scanning.scan_folders({"base": base, "adapter": adapter})
    assert not found.passed and [file.path for file in found.refused] == ["adapter/evil.py"]
    assert {file.path.split("/")[0] for file in found.files} == {"base", "adapter"}
    assert (
        found.files == sorted(found.files, key=lambda file: file.path) and str(tmp_path) not in found.model_dump_json()
    )
    (adapter / "evil.py").unlink()
    assert scanning.scan_folders({"base": base, "adapter": adapter}).passed


def test_second_opinions_are_noted_and_decide_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = hostile_files.good(tmp_path / "model")
    assert set(scanning.scan(folder).opinions) == {"fickling", "modelscan", "picklescan"}
    stand_in = tmp_path / "installed" / "picklescan"
    stand_in.mkdir(parents=True)
    (stand_in / "__init__.py").write_text("")
    (stand_in / "scanner.py").write_text(
        "from types import SimpleNamespace\n"
        "def scan_file_path(path):\n    return SimpleNamespace(issues_count=int(path.endswith('config.json')))\n"
    )
    (tmp_path / "installed" / "fickling.py").write_text("def is_likely_safe(path):\n    raise RuntimeError\n")
    monkeypatch.syspath_prepend(str(tmp_path / "installed"))
    (folder / "old.bin").write_bytes(b"\x80\x02N.")
    found = scanning.scan(folder, "import")
    assert found.passed
    assert found.opinions["picklescan"] == "3 found" and found.opinions["fickling"] == "failed: RuntimeError"


# --- the command ---


def test_the_command_names_every_reason_and_ends_with_3(tmp_path: Path) -> None:
    folder = hostile_files.good(tmp_path / "model")
    done = stub_project.slipway(tmp_path, "scan", str(folder))
    assert done.returncode == 0 and "passed: 12 files" in done.stdout
    (folder / "evil.py").write_text("1")
    (folder / "pytorch_model.bin").write_bytes(hostile_files.call("os", "system", "true"))
    done = stub_project.slipway(tmp_path, "scan", str(folder), "--import")
    lines = done.stdout.splitlines()
    assert done.returncode == 3 and len(lines) == 3 and done.stderr == ""
    assert lines[0].startswith("refused evil.py: code") and "os.system" in lines[1] and "2 refused of 14" in lines[2]


def test_the_command_answers_as_json(tmp_path: Path) -> None:
    folder = hostile_files.good(tmp_path / "model")
    (folder / "a\x1b[2Jb.txt").write_text("x")
    done = stub_project.slipway(tmp_path, "scan", str(folder), "--json")
    found = Scan.model_validate_json(done.stdout)
    assert done.returncode == 3 and not found.passed and found.mode == "deploy"
    assert json.loads(done.stdout)["refused"][0]["path"] == "a\\x1b[2Jb.txt" and "\x1b" not in done.stdout


def test_a_path_that_is_not_there_is_a_mistake(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="does not exist"):
        scanning.scan(tmp_path / "nowhere")
    done = stub_project.slipway(tmp_path, "scan", "nowhere")
    assert done.returncode == 2 and done.stderr.count("\n") == 1 and "nowhere does not exist" in done.stderr
