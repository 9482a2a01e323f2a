"""What is loaded is what was verified, whoever swaps files meanwhile."""

import os
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import hostile_files
import numpy as np
import pytest

from slipway import digest, scanning
from slipway.artifacts import Manifest
from slipway.errors import StageError
from slipway.scanning.snapshot import discard, snapshot

ROUNDS = 60
# Large enough that a swap often falls between two reads of the same file.
GOOD = hostile_files.array(np.ones(600_000, np.float32), "F32")
EVIL = hostile_files.array(np.full(600_000, 666, np.float32), "F32")


@pytest.fixture
def model(tmp_path: Path) -> tuple[Path, Manifest]:
    folder = hostile_files.good(tmp_path / "model")
    (folder / "model.safetensors").write_bytes(GOOD)
    return folder, Manifest.write(folder, {"method": "lora"})


def test_case_D4_a_snapshot_holds_the_verified_bytes_and_nobody_writes_them(
    model: tuple[Path, Manifest], tmp_path: Path
) -> None:
    folder, manifest = model
    place = snapshot(folder, manifest, tmp_path / "private" / "copy")
    assert Manifest.verified(place) == manifest
    assert scanning.scan(place).passed
    modes = {path: path.stat().st_mode & 0o777 for path in [place, *place.rglob("*")]}
    assert len(modes) >= 13
    assert all(mode == (0o500 if path.is_dir() else 0o400) for path, mode in modes.items())
    os.link(folder / "config.json", tmp_path / "second-name")
    (tmp_path / "second-name").write_text("{}")  # the original's bytes, changed through another name
    assert Manifest.verified(place) == manifest
    discard(place)
    assert not place.exists()


@contextmanager
def swapping(swap: threading.Event, turn: list[Callable[[], object]]) -> Iterator[None]:
    """Somebody who swaps a file for another, again and again, until the block ends."""

    def work() -> None:
        while not swap.is_set():
            for step in turn:
                step()

    thread = threading.Thread(target=work)
    thread.start()
    try:
        yield
    finally:
        swap.set()
        thread.join()


def swaps(folder: Path, outside: Path, kind: str) -> list[Callable[[], object]]:
    """The steps of one swap and back; by rename, which is instant, wherever that will do."""
    outside.mkdir()
    good, evil, next_one, target = outside / "good", outside / "evil", outside / "next", folder / "model.safetensors"
    good.write_bytes(GOOD)
    evil.write_bytes(EVIL)

    def put(make: Callable[[], object]) -> Callable[[], object]:
        def step() -> None:
            next_one.unlink(missing_ok=True)
            make()
            next_one.replace(target)

        return step

    back = put(lambda: next_one.hardlink_to(good))
    return {
        "another file": [put(lambda: next_one.hardlink_to(evil)), back],
        "a link": [put(lambda: next_one.symlink_to(evil)), back],
        "a link to the same bytes": [put(lambda: next_one.symlink_to(good)), back],
        "in place": [lambda: target.write_bytes(EVIL), lambda: target.write_bytes(GOOD)],
        "gone and back": [target.unlink, back],
    }[kind]


@pytest.mark.parametrize("kind", ["another file", "a link", "a link to the same bytes", "in place", "gone and back"])
def test_case_D4_a_swap_at_any_moment_is_refused_or_without_effect(
    model: tuple[Path, Manifest], tmp_path: Path, kind: str
) -> None:
    folder, manifest = model
    made, refused = 0, 0
    with swapping(threading.Event(), swaps(folder, tmp_path / "outside", kind)):
        while made + refused < ROUNDS or (not refused and made < 50 * ROUNDS):
            place = tmp_path / f"copy{made + refused}"
            try:
                snapshot(folder, manifest, place)
            except StageError as error:
                assert "\n" not in str(error) and not place.exists()
                refused += 1
                continue
            assert (place / "model.safetensors").read_bytes() == GOOD
            assert Manifest.verified(place) == manifest
            discard(place)
            made += 1
    assert refused > 0, "the race was run"


def test_case_D4_checking_a_folder_and_then_loading_from_it_loses_that_race(
    model: tuple[Path, Manifest], tmp_path: Path
) -> None:
    """Why there is a snapshot: between the check and the load there is a moment."""
    folder, manifest = model
    assert Manifest.verified(folder) == manifest
    (tmp_path / "evil").write_bytes(EVIL)
    (tmp_path / "evil").replace(folder / "model.safetensors")
    loaded = (folder / "model.safetensors").read_bytes()
    assert digest.of_bytes(loaded) not in {file.sha256 for file in manifest.files}
    with pytest.raises(StageError, match=r"model\.safetensors changed: its SHA-256 is \w{64}, recorded was \w{64}"):
        snapshot(folder, manifest, tmp_path / "copy")


@pytest.mark.parametrize("kind", ["another file", "a link", "in place"])
def test_case_D4_a_scan_never_passes_bytes_it_did_not_read(
    model: tuple[Path, Manifest], tmp_path: Path, kind: str
) -> None:
    """A scan's digest is of the bytes that were judged, whichever those were."""
    folder, _ = model
    known = {digest.of_bytes(GOOD), digest.of_bytes(EVIL)}
    with swapping(threading.Event(), swaps(folder, tmp_path / "outside", kind)):
        for _ in range(ROUNDS):
            found = {file.path: file for file in scanning.scan(folder).files}["model.safetensors"]
            assert not found.allowed or found.sha256 in known


def test_case_D4_a_folder_swapped_for_a_link_is_not_followed(model: tuple[Path, Manifest], tmp_path: Path) -> None:
    folder, manifest = model
    (folder / "sub").rename(tmp_path / "elsewhere")
    (folder / "sub").symlink_to(tmp_path / "elsewhere")
    with pytest.raises(StageError, match=r"sub: a symbolic link"):
        snapshot(folder, manifest, tmp_path / "copy")
    folder.rename(tmp_path / "moved")
    folder.symlink_to(tmp_path / "moved")
    with pytest.raises(StageError, match="not loaded"):
        snapshot(folder, manifest, tmp_path / "copy")


@pytest.mark.parametrize("extra", ["notes.txt", ".git/config", ".env", "empty", "sub/more.json"])
def test_case_D5_a_snapshot_takes_nothing_that_is_not_listed(
    model: tuple[Path, Manifest], tmp_path: Path, extra: str
) -> None:
    folder, manifest = model
    target = folder / extra
    target.parent.mkdir(exist_ok=True)
    target.mkdir() if extra == "empty" else target.write_text("more\n")
    with pytest.raises(StageError, match=extra.split("/")[0]):
        snapshot(folder, manifest, tmp_path / "copy")
    assert not (tmp_path / "copy").exists()


def test_case_D5_modes_and_missing_files(model: tuple[Path, Manifest], tmp_path: Path) -> None:
    folder, manifest = model
    (folder / "config.json").chmod(0o755)
    with pytest.raises(StageError, match=r"config\.json: executable"):
        snapshot(folder, manifest, tmp_path / "copy")
    (folder / "config.json").unlink()
    with pytest.raises(StageError, match=r"config\.json is missing"):
        snapshot(folder, manifest, tmp_path / "copy")


def test_case_D1_a_flipped_bit_is_not_copied(model: tuple[Path, Manifest], tmp_path: Path) -> None:
    folder, manifest = model
    seen = 0
    for file in manifest.files:
        path = folder / file.path
        whole = path.read_bytes()
        path.write_bytes(bytes([whole[0] ^ 1]) + whole[1:])
        with pytest.raises(
            StageError, match=rf"{path.name} changed: its SHA-256 is \w{{64}}, recorded was {file.sha256}"
        ):
            snapshot(folder, manifest, tmp_path / "copy")
        path.write_bytes(whole)
        seen += 1
    assert seen >= 11
    assert snapshot(folder, manifest, tmp_path / "copy")
