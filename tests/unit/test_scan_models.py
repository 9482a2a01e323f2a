"""Nothing real is refused: adapters and models of many shapes, as PEFT, Transformers and torch write them."""

import io
import pickle
from collections import OrderedDict
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from model_folders import make_gpt2, make_llama, make_qwen2

from slipway import scanning

MAKERS = {"llama": make_llama, "qwen2": make_qwen2, "gpt2": make_gpt2}
LINEAR_ONLY = {"loha", "lokr"}  # GPT-2's layers are convolutions
ATTENTION = {"llama": ["q_proj", "v_proj"], "qwen2": ["q_proj", "v_proj"], "gpt2": ["c_attn"]}


def adapters() -> dict[str, Any]:
    """A PEFT configuration of each kind, by name, given the modules to tune."""
    import peft

    causal = {"task_type": "CAUSAL_LM"}
    return {
        "lora": lambda to: peft.LoraConfig(r=4, target_modules=to, **causal),
        "lora without a task": lambda to: peft.LoraConfig(r=2, target_modules=to),
        "lora on all": lambda to: peft.LoraConfig(r=2, target_modules="all-linear", **causal),
        "lora with biases": lambda to: peft.LoraConfig(r=2, target_modules=to, bias="all", **causal),
        "lora and a whole module": lambda to: peft.LoraConfig(r=2, target_modules=to, modules_to_save=["lm_head"], **causal),
        "lora of many ranks": lambda to: peft.LoraConfig(r=2, target_modules=to, rank_pattern={to[0]: 8}, **causal),
        "dora": lambda to: peft.LoraConfig(r=2, target_modules=to, use_dora=True, **causal),
        "rslora": lambda to: peft.LoraConfig(r=2, target_modules=to, use_rslora=True, **causal),
        "ia3": lambda to: peft.IA3Config(target_modules=to, feedforward_modules=[], **causal),
        "loha": lambda to: peft.LoHaConfig(r=2, target_modules=to, **causal),
        "lokr": lambda to: peft.LoKrConfig(r=2, target_modules=to, **causal),
        "prompt": lambda to: peft.PromptTuningConfig(num_virtual_tokens=4, **causal),
        "prefix": lambda to: peft.PrefixTuningConfig(num_virtual_tokens=4, **causal),
        "p-tuning": lambda to: peft.PromptEncoderConfig(num_virtual_tokens=4, encoder_hidden_size=8, **causal),
    }  # fmt: skip


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    import torch

    torch.set_num_threads(1)
    return {name: make(tmp_path_factory.mktemp("models") / name) for name, make in MAKERS.items()}


def faults(folder: Path, mode: scanning.Mode = "deploy") -> list[str]:
    return [f"{file.path}: {file.reason}" for file in scanning.scan(folder, mode).refused]


def test_real_models_and_adapters_pass(folders: dict[str, Path], tmp_path: Path) -> None:
    import peft
    from transformers import AutoModelForCausalLM

    wrong, seen = {}, 0
    for family, folder in folders.items():
        wrong[family] = faults(folder)
        for kind, configure in adapters().items():
            if family == "gpt2" and kind in LINEAR_ONLY:
                continue
            place = tmp_path / family / kind.replace(" ", "-")
            model = AutoModelForCausalLM.from_pretrained(folder)
            peft.get_peft_model(model, configure(ATTENTION[family])).save_pretrained(place)
            assert (place / "adapter_model.safetensors").is_file() and (place / "README.md").is_file()
            wrong[f"{family} {kind}"] = faults(place)
            seen += 1
    assert seen >= 30
    assert not {name: found for name, found in wrong.items() if found}


@pytest.mark.parametrize("dtype", ["float32", "float16", "bfloat16"])
def test_a_sharded_model_passes(folders: dict[str, Path], tmp_path: Path, dtype: str) -> None:
    import torch
    from transformers import AutoModelForCausalLM

    model = AutoModelForCausalLM.from_pretrained(folders["llama"], dtype=getattr(torch, dtype))
    model.save_pretrained(tmp_path / "sharded", max_shard_size="20KB")
    assert len(list((tmp_path / "sharded").glob("*.safetensors"))) > 1
    assert not faults(tmp_path / "sharded")


def test_what_torch_saves_may_be_imported_but_not_deployed(folders: dict[str, Path], tmp_path: Path) -> None:
    import torch
    from transformers import AutoModelForCausalLM

    model = AutoModelForCausalLM.from_pretrained(folders["gpt2"])
    saved: dict[str, Any] = {
        "state": model.state_dict(),
        "parameters": {"weight": torch.nn.Parameter(torch.ones(3))},
        "halves": {"a": torch.zeros(2, dtype=torch.bfloat16), "b": torch.ones(2, dtype=torch.float16)},
        "kinds": {str(kind): torch.zeros(2, dtype=kind) for kind in (torch.int64, torch.uint8, torch.bool, torch.float64)},
        "plain": {"step": 5, "rates": [0.1, 0.2], "name": "x", "shape": torch.Size([2]), "nothing": None},
        "ordered": OrderedDict(a=torch.arange(6).reshape(2, 3).t()),
        "optimizer": torch.optim.AdamW(model.parameters()).state_dict(),
    }  # fmt: skip
    for name, value in saved.items():
        (tmp_path / name).mkdir()
        torch.save(value, tmp_path / name / "pytorch_model.bin")
        assert not faults(tmp_path / name, "import"), name
        assert len(faults(tmp_path / name, "deploy")) == 1, name
    torch.save(model, tmp_path / "whole.bin")  # classes, and so code
    torch.save(saved["plain"], tmp_path / "old.bin", _use_new_zipfile_serialization=False)
    for name in ("whole.bin", "old.bin"):
        assert len(faults(tmp_path / name, "import")) == 1, name


@pytest.mark.parametrize("protocol", range(6))
def test_plain_pickles_of_every_protocol_may_be_imported(tmp_path: Path, protocol: int) -> None:
    values = [
        {"a": [1, 2.5, None, True, "text", b"bytes", 1 << 80, (1, 2, 3, 4)], "b": {"c": {}}},
        OrderedDict(a=1),
        {"same": (same := ["x"] * 3), "again": same, "empty": ((), [], {}, "")},
    ]
    for value in values:
        (tmp_path / "state.pkl").write_bytes(pickle.dumps(value, protocol))
        assert not faults(tmp_path / "state.pkl", "import"), value


def test_numpy_in_a_pickle_is_refused(tmp_path: Path) -> None:
    """An altered state of an array or dtype crashes the interpreter that loads it, with harmless names alone."""
    for value in (np.arange(3.0), np.float32(2.0), np.dtype("f4")):
        (tmp_path / "state.pkl").write_bytes(pickle.dumps({"value": value}))
        assert "numpy" in faults(tmp_path, "import")[0]


def test_a_pickle_refers_to_itself(tmp_path: Path) -> None:
    loop: list[Any] = []
    loop.append(loop)
    (tmp_path / "state.pkl").write_bytes(pickle.dumps({"loop": loop}))
    assert not faults(tmp_path, "import")


def test_persistent_ids_are_torch_s_alone(tmp_path: Path) -> None:
    class Pickler(pickle.Pickler):
        def persistent_id(self, obj: Any) -> Any:
            return "elsewhere" if isinstance(obj, int) else None

    stream = io.BytesIO()
    Pickler(stream).dump([1])
    (tmp_path / "state.pkl").write_bytes(stream.getvalue())
    assert "BINPERSID" in faults(tmp_path, "import")[0]
