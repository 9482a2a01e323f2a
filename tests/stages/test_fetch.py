"""fetch: the tiny base is the same bytes twice, and a person's model is whole, safe and as it was pinned."""

import json
from pathlib import Path

import pytest
from model_folders import make_gpt2, make_llama

from slipway import digest
from slipway.artifacts import BasePin, Manifest
from slipway.errors import Refused, StageError, Transient, UsageError
from slipway.params import FetchParams
from slipway.training import base as bases
from tasks.fetch import fetch

SMALL = {
    "layers": 2, "hidden_size": 32, "heads": 2, "vocabulary": 400, "max_length": 64, "steps": 8, "batch_size": 4,
    "learning_rate": 0.003,
}  # fmt: skip


def params(base: str = "tiny", **changes) -> FetchParams:
    return FetchParams.model_validate(
        {"base": base, "revision": None, "seed": 7, "threads": 1, "tiny": SMALL} | changes
    )


def run(folder: Path, given: FetchParams, name: str = "base") -> Path:
    pin = folder / "pin.json"
    if not pin.exists():
        bases.pin(given, folder, folder / ".memory").save(pin)
    fetch(given, pin, folder / name)
    return folder / name


def test_the_tiny_base_is_the_same_bytes_twice(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    one, two = run(tmp_path, params(), "one"), run(tmp_path, params(), "two")
    assert digest.of_path(one) == digest.of_path(two)
    assert digest.of_path(run(tmp_path, params(seed=8), "three")) != digest.of_path(one)


def test_the_tiny_base_is_a_hugging_face_folder_with_a_chat_template(tmp_path, monkeypatch):
    from transformers import AutoModelForCausalLM, AutoTokenizer

    monkeypatch.chdir(tmp_path)
    base = run(tmp_path, params())
    tokenizer, model = AutoTokenizer.from_pretrained(base), AutoModelForCausalLM.from_pretrained(base)
    text = tokenizer.apply_chat_template(
        [{"role": "user", "content": "Hello é"}], tokenize=False, add_generation_prompt=True
    )
    assert text == "<|im_start|>user\nHello é<|im_end|>\n<|im_start|>assistant\n"
    ids = tokenizer(text)["input_ids"]
    assert tokenizer.decode(ids) == text and ids[0] == tokenizer.convert_tokens_to_ids("<|im_start|>")
    assert (
        model.generation_config.eos_token_id == tokenizer.eos_token_id == tokenizer.convert_tokens_to_ids("<|im_end|>")
    )
    facts = Manifest.verified(base).facts
    assert facts["parameters"] == sum(p.numel() for p in model.parameters()) > 10_000
    assert facts["source"] == "tiny" and facts["max_length"] == 64 and facts["precision"] == "float32"
    assert str(tmp_path) not in (base / "config.json").read_text()


def test_pretraining_lowers_the_loss(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    pin = tmp_path / "pin.json"
    bases.pin(params(), tmp_path, tmp_path / ".memory").save(pin)
    short = fetch(params(tiny=SMALL | {"steps": 1}), pin, tmp_path / "short")
    long = fetch(params(tiny=SMALL | {"steps": 30}), pin, tmp_path / "long")
    assert long["loss"] < short["loss"] - 0.5
    assert "step 30/30 · loss" in capsys.readouterr().out


def test_a_shape_that_cannot_be_is_refused(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(StageError, match="hidden_size is 30, not a multiple"):
        run(tmp_path, params(tiny=SMALL | {"hidden_size": 30, "heads": 4}))


def test_a_folder_comes_in_as_it_was_pinned(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    mine = make_gpt2(tmp_path / "mine")
    (mine / "notes.py").write_text("print('never copied')")
    (mine / "old.bin").write_bytes(b"pickle")
    base = run(tmp_path, params("mine"))
    manifest = Manifest.verified(base)
    assert {f.path: f.sha256 for f in manifest.files} == BasePin.load(tmp_path / "pin.json").files
    assert {"config.json", "model.safetensors", "tokenizer.json"} <= {f.path for f in manifest.files}
    assert not (base / "notes.py").exists() and not (base / "old.bin").exists()
    assert manifest.facts["max_length"] == 512 and manifest.facts["source"] == "mine"
    assert manifest.facts["parameters"] > 10_000


def test_an_absolute_folder_leaves_no_path_in_the_outputs(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    base = run(tmp_path, params(str(make_llama(tmp_path / "far" / "mine"))))
    assert Manifest.load(base / "manifest.json").facts["source"] == "mine"


@pytest.mark.parametrize("change", ["edited", "new file", "gone"])
def test_a_base_that_changed_since_it_was_pinned(tmp_path, monkeypatch, change):
    monkeypatch.chdir(tmp_path)
    mine = make_llama(tmp_path / "mine")
    bases.pin(params("mine"), tmp_path, tmp_path / ".memory").save(tmp_path / "pin.json")
    if change == "edited":
        (mine / "config.json").write_text((mine / "config.json").read_text() + " ")
    elif change == "gone":
        (mine / "generation_config.json").unlink()
    else:
        (mine / "extra.json").write_text("{}")
    with pytest.raises(StageError, match="base changed since pinned: mine"):
        run(tmp_path, params("mine"))


def test_case_D8_a_base_that_moved_since_it_was_pinned_is_rejected_with_both_digests(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    weights = make_llama(tmp_path / "mine") / "model.safetensors"
    bases.pin(params("mine"), tmp_path, tmp_path / ".memory").save(tmp_path / "pin.json")
    pinned, data = digest.of_file(weights), bytearray(weights.read_bytes())
    data[-1] ^= 1
    weights.write_bytes(data)
    with pytest.raises(StageError, match=rf"model\.safetensors is {digest.of_file(weights)}, pinned was {pinned}"):
        run(tmp_path, params("mine"))
    assert not (tmp_path / "base" / "manifest.json").exists()


def test_params_and_pin_must_name_the_same_base(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    bases.pin(params(), tmp_path, tmp_path / ".memory").save(tmp_path / "pin.json")
    with pytest.raises(StageError, match=r"pins 'tiny', params\.yaml names 'mine'"):
        run(tmp_path, params("mine"))


def spoil(mine: Path, fault: str) -> None:
    if fault == "pickle":
        (mine / "model.safetensors").rename(mine / "pytorch_model.bin")
    elif fault == "no weights":
        (mine / "model.safetensors").unlink()
    else:
        (mine / fault).unlink()


@pytest.mark.parametrize(
    ("fault", "said"),
    [
        ("pickle", r"only pickled weights \(pytorch_model.bin\)"),
        ("no weights", "no weights"),
        ("tokenizer.json", "has no tokenizer"),
        ("config.json", "has no config.json"),
    ],
)
def test_a_folder_that_lacks_a_part_is_refused(tmp_path, fault, said):
    spoil(make_llama(tmp_path / "mine"), fault)
    with pytest.raises(StageError, match=said):
        bases.pin(params("mine"), tmp_path, tmp_path / ".memory")


def test_torn_weights_are_named(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    weights = make_llama(tmp_path / "mine") / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:100])
    with pytest.raises(Refused, match=r"model\.safetensors: .*cut"):
        run(tmp_path, params("mine"))


def planted(mine: Path, fault: str) -> None:
    """Something in a person's base that no loader may ever see."""
    config = json.loads((mine / "config.json").read_text())
    if fault == "code":
        (mine / "config.json").write_text(json.dumps(config | {"auto_map": {"AutoModel": "modeling_evil.Evil"}}))
    elif fault == "template":
        (mine / "chat_template.jinja").write_text("{{ cycler.__init__.__globals__.os.popen('id') }}")
    elif fault == "disguise":
        (mine / "model.safetensors").write_bytes(b"\x80\x02cos\nsystem\nX\x04\x00\x00\x00true\x85R.")
    else:
        weights = (mine / "model.safetensors").read_bytes()
        changed = weights + b"x" if fault == "trailing" else weights[:-4] + b"\x00\x00\xc0\x7f"
        (mine / "model.safetensors").write_bytes(changed)


@pytest.mark.parametrize(
    ("fault", "said"),
    [
        ("code", r"config\.json: auto_map asks for code"),
        ("template", r"chat_template\.jinja: the chat template reaches for the attribute '__globals__'"),
        ("disguise", r"model\.safetensors: a pickle, whatever its name says"),
        ("trailing", r"model\.safetensors: 1 trailing bytes"),
        ("NaN", r"model\.safetensors: tensor '.*' holds NaN or infinity"),
    ],
)
def test_case_D11_a_base_that_the_scan_refuses_is_never_loaded(tmp_path, monkeypatch, fault, said):
    monkeypatch.chdir(tmp_path)
    planted(make_llama(tmp_path / "mine"), fault)
    with pytest.raises(Refused, match=f"the base mine is refused by the artifact scan: {said}"):
        run(tmp_path, params("mine"))
    assert not (tmp_path / "base" / "manifest.json").exists()


def test_case_D8_a_base_that_moved_is_refused_before_it_is_read(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    mine = make_llama(tmp_path / "mine")
    bases.pin(params("mine"), tmp_path, tmp_path / ".memory").save(tmp_path / "pin.json")
    planted(mine, "NaN")
    with pytest.raises(StageError, match=r"base changed since pinned: mine: model\.safetensors"):
        run(tmp_path, params("mine"))


def test_a_clone_of_a_repository_is_a_base_without_its_bookkeeping(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    mine = make_llama(tmp_path / "mine")
    (mine / ".git").mkdir()
    (mine / ".git" / "notes.json").write_text("{}")
    (mine / ".hidden.json").write_text("{}")
    assert not [f.path for f in Manifest.verified(run(tmp_path, params("mine"))).files if f.path.startswith(".")]


def test_a_name_that_is_nothing(tmp_path):
    with pytest.raises(UsageError, match="no such folder"):
        bases.pin(params("./nowhere"), tmp_path, tmp_path / ".memory")


def test_a_hub_that_cannot_be_reached_is_worth_another_try(tmp_path, monkeypatch):
    import huggingface_hub.constants

    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)
    with pytest.raises(Transient, match=r"cannot reach the Hugging Face hub for fetch\.base someone/model"):
        bases.pin(params("someone/model"), tmp_path, tmp_path / ".memory")
