"""A checkpoint is complete or it is not used, and the one that is not used is named."""

import random
import shutil

import pytest
import torch

from slipway.training.checkpoints import Checkpoints


def keep(folder, step):
    folder.mkdir(exist_ok=True)
    weights = {"b": torch.arange(3.0) + step, "a": torch.ones(2, 2)}
    Checkpoints(folder).save(
        step, {"step": step, "records": []}, {"weights": weights, "optimizer": {"step/a": torch.tensor(1.0)}}
    )


def test_the_newest_of_the_last_two_comes_back(tmp_path):
    for step in (5, 10, 200):
        keep(tmp_path, step)
    state, tensors = Checkpoints(tmp_path).newest()
    assert state == {"step": 200, "records": []} and torch.equal(tensors["weights"]["b"], torch.arange(3.0) + 200)
    assert [p.name for p in sorted(tmp_path.iterdir())] == ["step-00000010", "step-00000200"]


def test_none_where_there_is_none(tmp_path):
    assert Checkpoints(tmp_path).newest() is None


def test_what_a_kill_left_half_written_is_removed(tmp_path):
    keep(tmp_path, 5)
    shutil.copytree(tmp_path / "step-00000005", tmp_path / ".partial-step-00000010")
    assert Checkpoints(tmp_path).newest()[0]["step"] == 5
    assert not list(tmp_path.glob(".partial-*"))


def offsets(size):
    """Every byte of a small file, a sample of a larger one."""
    return range(size) if size < 150 else sorted({0, 1, 8, size - 1, *random.Random(size).sample(range(size), 40)})


@pytest.mark.parametrize("name", ["state.json", "weights.safetensors", "optimizer.safetensors", "manifest.json"])
def test_case_A9_a_cut_checkpoint_is_named_and_never_used(tmp_path, capsys, name):
    keep(tmp_path, 5)
    keep(tmp_path, 10)
    path = tmp_path / "step-00000010" / name
    whole, tried = path.read_bytes(), 0
    for offset in offsets(len(whole)):
        path.write_bytes(whole[:offset])
        state, _ = Checkpoints(tmp_path).newest()
        printed = capsys.readouterr().out
        assert state["step"] == 5, f"cut at {offset}"
        assert str(path) in printed and (name == "manifest.json" or f"byte {offset} of {len(whole)}" in printed)
        tried += 1
    assert tried >= 30
    path.write_bytes(whole)
    assert Checkpoints(tmp_path).newest()[0]["step"] == 10


@pytest.mark.parametrize("name", ["state.json", "weights.safetensors"])
def test_a_flipped_bit_is_noticed(tmp_path, capsys, name):
    keep(tmp_path, 5)
    path = tmp_path / "step-00000005" / name
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(bytes(data))
    assert Checkpoints(tmp_path).newest() is None
    assert f"{path} changed" in capsys.readouterr().out


@pytest.mark.parametrize("change", ["extra", "missing"])
def test_a_checkpoint_with_another_set_of_files_is_not_used(tmp_path, capsys, change):
    keep(tmp_path, 5)
    path = tmp_path / "step-00000005" / "weights.safetensors"
    path.rename(path.with_name("other.safetensors")) if change == "missing" else (path.parent / "x").touch()
    assert Checkpoints(tmp_path).newest() is None
    assert "checkpoint not used" in capsys.readouterr().out
