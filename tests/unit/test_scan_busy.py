"""A scan ends, soon and in words: whatever is large, endless, nested, gone or forbidden keeps it neither busy nor crashes it."""

import os
import time
from collections.abc import Callable
from pathlib import Path

import hostile_files
import pytest
import stub_project

from slipway import scanning
from slipway.errors import UsageError
from slipway.scanning import letters, walk
from slipway.scanning.snapshot import snapshot

SECONDS = 1.0  # of processor time for a megabyte; the patterns take a hundredth of it


def reason(path: Path) -> str | None:
    found = scanning.scan(path)
    return found.refused[0].reason if found.refused else None


# --- patterns ---

MEGABYTE = 999_000
LONG: dict[str, str] = {
    text: (text * MEGABYTE)[:MEGABYTE]
    for text in (
        "<", "<(", "](", "](<", "=\"'", "]:", "= ", "< ", " on", " onload", "onload ", "a.", "a@", "a@a.", "&#", "&#x", "&",
        "- ", "---\n", "-----BEGIN ", "<object ", "<a b", "a ", "\n", "\t", "c\n", "(", "I1\n", "N", "(N", "(NN1", "Va\n",
        "p0\n", "]2", "aaaa 1\n", "Kx2",
    )
}  # fmt: skip


@pytest.mark.parametrize("text", LONG)
def test_a_megabyte_of_anything_takes_little_time(tmp_path: Path, text: str) -> None:
    for name in ("README.md", "notes.txt", "tokenizer.model"):
        (tmp_path / name).write_text(LONG[text])
        start = time.process_time()
        reason(tmp_path / name)
        assert time.process_time() - start < SECONDS, name


@pytest.mark.parametrize(
    "text",
    [
        "<",
        "{% if a %}",
        "{{ a }}",
        "{{ '",
        "{% raw %}",
        "{#",
        "{%   ",
        "-%}",
        "{{ a[",
        "{{ a+",
        "{% set a = a ~ a %}",
        "{% for a in b %}",
        "{{ 2*2*2 }}",
        "{{ range(",
        "{{ a|join(b) }}",
    ],
)
def test_a_template_of_anything_takes_little_time(tmp_path: Path, text: str) -> None:
    (tmp_path / "chat_template.jinja").write_text((text * 200_000)[:200_000])
    start = time.process_time()
    reason(tmp_path / "chat_template.jinja")
    assert time.process_time() - start < 5.0  # jinja2's own parser takes most of it


# --- letters ---


@pytest.mark.parametrize("name", hostile_files.LETTERS)
def test_letters_that_call_are_a_pickle(name: str) -> None:
    assert letters.is_pickle(hostile_files.LETTERS[name])


@pytest.mark.parametrize(
    "text",
    [
        "cat\ndog\nbird\n", "(important)\nnote\n", "copyright 2024\nAll rights reserved\n", "I am\nhere\n(\n", "N.B. see below\n",
        "Very well\nSo it is\n(c) 2024\ntR\n", "continue\nstop\n", "(in the beginning\nthere was\n", "]]]]]]\n", "S'quoted'\n.\n",
        "0.5\n", "[PAD]\n[UNK]\nthe\n", "Usage\ncommand\nlist\n", "Inside\n", "}\n",
    ],
)  # fmt: skip
def test_prose_and_lists_of_words_are_no_pickle(text: str) -> None:
    assert not letters.is_pickle(text.encode())


# --- templates that real models have ---


@pytest.mark.parametrize(
    "source",
    [
        "{% for m in messages %}{% for t in m.tool_calls %}{% for k, v in t.arguments|items %}{{ k }}={{ v }}{% endfor %}"
        "{% endfor %}{% endfor %}",
        "{% set ns = namespace(text='') %}{% for m in messages %}{% set ns.text = ns.text + '\\n\\n' + m.content %}{% endfor %}",
        "{% set ns = namespace(i=0, seen=[]) %}{% for m in messages %}{% set ns.i = ns.i + 1 %}"
        "{% set ns.seen = ns.seen + [m] %}{% endfor %}",
        "{% for i in range(messages|length - 1, -1, -1) %}{{ messages[i].content.replace('\"', '\\\\\"') }}{% endfor %}",
        "{% set s = s + '\\n' if s else '' %}{% set s = '%s (%s)' % (s, date) %}{{ '{}: {}'.format(s, s)|indent(4) }}",
        "{% for m in messages %}{% set c = m.content.split('</think>')[-1].lstrip() %}{% set c = c.replace('a', 'bb') %}{{ c }}"
        "{% endfor %}{{ '2024-07-26' }}{{ '20240726' }}{{ 100000 }}",
    ],
)
def test_templates_as_models_have_them_pass(tmp_path: Path, source: str) -> None:
    (tmp_path / "chat_template.jinja").write_text(source)
    assert reason(tmp_path / "chat_template.jinja") is None


def test_a_constant_that_cannot_be_read_is_named(tmp_path: Path) -> None:
    (tmp_path / "chat_template.jinja").write_text("{{ " + "9" * 5000 + " }}")
    assert "the chat template holds a constant that cannot be read" in str(reason(tmp_path / "chat_template.jinja"))


# --- entities ---


@pytest.mark.parametrize(
    "entity", ["&#99999999999;", "&#xFFFFFFFF;", "&#0;", "&#xD800;", "&#;", "&#x;", "&nosuch;", "&#-5;"]
)
def test_a_broken_entity_is_harmless(tmp_path: Path, entity: str) -> None:
    (tmp_path / "README.md").write_text(f"# A card\n\nIt says {entity} here.\n")
    assert reason(tmp_path / "README.md") is None


def test_a_reader_that_fails_has_not_allowed_the_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def failing(*_: object) -> None:
        raise OverflowError("somewhere inside")

    (tmp_path / "notes.txt").write_text("hello\n")
    monkeypatch.setattr(scanning.polyglots, "check", failing)
    assert reason(tmp_path / "notes.txt") == "cannot be judged (OverflowError)"


# --- the folder ---


def test_a_folder_of_too_many_files_in_all_is_refused_soon(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(walk, "MAX_TOTAL", 300)
    folder = hostile_files.good(tmp_path / "model")
    for number in range(40):
        (folder / f"d{number}").mkdir(mode=0o755)
        for inner in range(40):
            (folder / f"d{number}" / f"{inner}.txt").touch()
    looked_at: list[str] = []
    real = walk.seen

    def seen(name: str, *rest: object) -> walk.Entry:
        looked_at.append(name)
        return real(name, *rest)  # type: ignore[arg-type]

    monkeypatch.setattr(walk, "seen", seen)
    found = scanning.scan(folder)
    assert any(file.reason == "more than 300 files and folders" for file in found.refused)
    assert len(looked_at) <= 301, "and the rest is not enumerated"


def failing_stat(name: str, error: OSError) -> Callable[..., os.stat_result]:
    real = os.stat

    def stat(path: object, *rest: object, **options: object) -> os.stat_result:
        if path == name:
            raise error
        return real(path, *rest, **options)  # type: ignore[arg-type, return-value]

    return stat


def test_a_file_that_vanishes_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = hostile_files.good(tmp_path / "model")
    monkeypatch.setattr(os, "stat", failing_stat("notes.txt", FileNotFoundError(2, "No such file or directory")))
    found = scanning.scan(folder)
    assert ("sub/notes.txt", "cannot be looked at (No such file or directory)") in [
        (f.path, f.reason) for f in found.refused
    ]
    monkeypatch.setattr(os, "stat", failing_stat("config.json", PermissionError(13, "Permission denied")))
    assert ("config.json", "cannot be looked at (Permission denied)") in [
        (file.path, file.reason) for file in scanning.scan(folder).refused
    ]


def test_a_folder_that_cannot_be_listed_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = hostile_files.good(tmp_path / "model")

    def scandir(_: object) -> None:
        raise OSError(5, "Input/output error")

    monkeypatch.setattr(os, "scandir", scandir)
    assert [(file.path, file.reason) for file in scanning.scan(folder).refused] == [
        (".", "cannot be listed (Input/output error)")
    ]


def test_a_path_that_cannot_be_looked_at_is_a_mistake_of_one_line(tmp_path: Path) -> None:
    (tmp_path / "loop").symlink_to("loop")
    (tmp_path / "plain").write_text("x")
    for place in ("loop/model", "plain/below", "x" * 300, "a\0b", "a\nb"):
        with pytest.raises(UsageError, match=r"cannot be read|does not exist") as error:
            scanning.scan(tmp_path / place)
        assert "\n" not in str(error.value) and "\0" not in str(error.value)
    done = stub_project.slipway(tmp_path, "scan", "x" * 300)
    assert done.returncode == 2 and done.stderr.count("\n") == 1 and "File name too long" in done.stderr


def test_a_forbidden_folder_is_a_mistake_of_one_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Not by its mode: a test may run as root, who may open anything."""

    def forbidden(*_: object, **__: object) -> int:
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(os, "open", forbidden)
    with pytest.raises(UsageError, match=r"cannot be read \(Permission denied\)"):
        scanning.scan(tmp_path)


# --- changed while it was read ---


def test_a_change_is_seen_though_its_time_is_set_back(tmp_path: Path) -> None:
    folder = hostile_files.good(tmp_path / "model")
    path = folder / "config.json"
    with walk.open_folder(folder) as handle:
        entry = walk.seen("config.json", handle)
        before = path.stat()
        time.sleep(0.02)  # longer than the clock of a file system takes to tick
        path.write_bytes(path.read_bytes().swapcase())
        os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))
        assert path.stat().st_mtime_ns == before.st_mtime_ns and path.stat().st_size == before.st_size
        with pytest.raises(scanning.Denied, match="was swapped"), walk.opened("config.json", handle, entry.status):
            pass


def test_a_snapshot_of_too_many_files_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from slipway.artifacts import Manifest
    from slipway.errors import StageError

    folder = hostile_files.good(tmp_path / "model")
    manifest = Manifest.write(folder, {})
    monkeypatch.setattr(walk, "MAX_TOTAL", 5)
    with pytest.raises(StageError, match="more than 5 files"):
        snapshot(folder, manifest, tmp_path / "copy")
