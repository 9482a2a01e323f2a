"""Checkpoints that survive a kill at any instant: a folder a step, complete or not used.

Plain safetensors and JSON, no pickle. The list of sizes and SHA-256s is written last, then the folder gets its name.
(Not artifacts.Manifest: the training loop also runs where there is nothing but PyTorch and Transformers.)
"""

import os
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file

from slipway import atomic, digest, strict
from slipway.errors import StageError

Tensors = dict[str, torch.Tensor]
KEPT = 2


class Checkpoints:
    """The checkpoints of one training, newest last."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        for left_over in folder.glob(".partial-*"):
            shutil.rmtree(left_over)

    def save(self, step: int, state: Mapping[str, Any], tensors: Mapping[str, Tensors]) -> None:
        """Keep this moment: `state` is JSON, `tensors` one group a file."""
        final, partial = self.folder / f"step-{step:08d}", self.folder / f".partial-step-{step:08d}"
        partial.mkdir(parents=True)
        atomic.write_json(partial / "state.json", dict(state))
        for group, members in tensors.items():
            path = partial / f"{group}.safetensors"
            save_file({name: members[name].detach().contiguous() for name in sorted(members)}, path)
            _fsync(path)
        listed = {path.name: [path.stat().st_size, digest.of_file(path)] for path in digest.files_under(partial)}
        atomic.write_json(partial / digest.MANIFEST, listed)
        if final.exists():  # damaged, or it would have been resumed from
            shutil.rmtree(final)
        partial.rename(final)
        atomic.fsync_folder(self.folder)
        for old in self._all()[:-KEPT]:
            shutil.rmtree(old)

    def newest(self) -> tuple[dict[str, Any], dict[str, Tensors]] | None:
        """The newest complete checkpoint's state and tensors; damaged ones are named and passed over."""
        for folder in reversed(self._all()):
            try:
                return _read(folder)
            except StageError as error:
                print(f"checkpoint not used: {error}", flush=True)
        return None

    def _all(self) -> list[Path]:
        return sorted(self.folder.glob("step-*"))


def _fsync(path: Path) -> None:
    with path.open("rb") as stream:
        os.fsync(stream.fileno())


def _read(folder: Path) -> tuple[dict[str, Any], dict[str, Tensors]]:
    listed = strict.read_json(folder / digest.MANIFEST)
    if not (folder / digest.MANIFEST).read_bytes().endswith(b"\n"):
        raise StageError(f"{folder / digest.MANIFEST} is cut before its last byte")
    if not isinstance(listed, dict) or "state.json" not in listed:
        raise StageError(f"{folder / digest.MANIFEST} is not a checkpoint's list of files")
    present = {path.name for path in folder.iterdir()} - {digest.MANIFEST}
    if odd := sorted(present ^ listed.keys()):
        raise StageError(f"{folder / odd[0]} is {'missing' if odd[0] in listed else 'not in the list of files'}")
    for name, (size, sha256) in listed.items():
        actual = (folder / name).stat().st_size
        if actual < size:
            raise StageError(f"{folder / name} is cut at byte {actual} of {size}")
        if digest.of_file(folder / name) != sha256:
            raise StageError(f"{folder / name} changed since it was written ({actual} bytes)")
    try:
        groups = {Path(name).stem: load_file(folder / name) for name in listed if name != "state.json"}
    except SafetensorError as error:
        raise StageError(f"{folder} holds a file that is not safetensors: {error}") from None
    return strict.read_json(folder / "state.json"), groups
