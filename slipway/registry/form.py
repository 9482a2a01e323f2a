"""A version in MLflow's transformers form, written file by file from the store: the very bytes that were signed.

`mlflow.transformers.save_model` would load torch and the model, and write the adapter anew, with another digest. What it
writes is a short YAML file beside copies; a test loads the result through MLflow itself. The base is referred to by
its place in the store and named by its digest: on another machine, `mlflow.transformers.load_model(…, base_model_path=…)`.
"""

import importlib.metadata
import shutil
from pathlib import Path
from typing import Any

from slipway import digest, strict
from slipway.artifacts import Manifest

EXAMPLE = "Where is my parcel?"
_FLAVOR, _PEFT, _MODEL, _COMPONENTS = "transformers", "peft", "model", "components"
_WEIGHTS = (".safetensors", ".bin", ".gguf")
_NEEDED = ("torch", "transformers", "peft", "accelerate", "tokenizers", "safetensors", "mlflow")


def write(folder: Path, adapter: Path, base: Path, metadata: dict[str, Any]) -> None:
    """Write a version's MLflow form into an empty folder."""
    from mlflow import pyfunc
    from mlflow.models import Model

    folder.mkdir(parents=True, exist_ok=True)
    full = Manifest.load(adapter / digest.MANIFEST).facts.get("method") == "full"
    chat = _has_template(base)
    about = Model(metadata={**metadata, "task": _task(chat)})
    _copy_parts(folder, adapter, base, full)
    _example(about, folder, chat)
    about.signature = _signature(chat)
    about.add_flavor(_FLAVOR, **_flavor(base, full, chat), source_model_name=str(metadata["slipway.model"]))
    pyfunc.add_to_model(
        about,
        loader_module="mlflow.transformers",
        conda_env="conda.yaml",
        python_env="python_env.yaml",
        model_config={"do_sample": False},  # as it was judged; `pyfunc.load_model(…, model_config=…)` for another way
    )
    about.model_size_bytes = sum(path.stat().st_size for path in digest.files_under(folder))
    about.save(str(folder / "MLmodel"))
    _environment(folder)


def _task(chat: bool) -> str:
    return "llm/v1/chat" if chat else "llm/v1/completions"


def _has_template(base: Path) -> bool:
    if (base / "chat_template.jinja").is_file():
        return True
    path = base / "tokenizer_config.json"
    return path.is_file() and bool(strict.read_json(path).get("chat_template"))


def _copy_parts(folder: Path, adapter: Path, base: Path, full: bool) -> None:
    words = [file.path for file in Manifest.load(base / digest.MANIFEST).files if not file.path.endswith(_WEIGHTS)]
    tuned = [file.path for file in Manifest.load(adapter / digest.MANIFEST).files]
    _copy(base, folder / _COMPONENTS / "tokenizer", words)
    if full:
        _copy(base, folder / _MODEL, words)
    _copy(adapter, folder / (_MODEL if full else _PEFT), tuned)


def _copy(source: Path, target: Path, names: list[str]) -> None:
    for name in names:
        (target / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(source / name, target / name)


def _flavor(base: Path, full: bool, chat: bool) -> dict[str, Any]:
    """The keys that mlflow.transformers reads when it loads."""
    config = strict.read_json(base / "config.json")
    precision = str(config.get("dtype") or config.get("torch_dtype") or "float32")
    weights = (
        {"model_binary": _MODEL} if full else {"local_base_model_path": str(base.resolve()), "peft_adaptor": _PEFT}
    )
    return weights | {
        "task": "text-generation",
        "inference_task": _task(chat),
        "instance_type": "TextGenerationPipeline",
        "pipeline_model_type": str((config.get("architectures") or ["AutoModelForCausalLM"])[0]),
        "tokenizer_type": "AutoTokenizer",
        "components": ["tokenizer"],
        "torch_dtype": f"torch.{precision}",
        "transformers_version": importlib.metadata.version("transformers"),
        "code": None,
    }


def _signature(chat: bool) -> Any:
    from mlflow.models import ModelSignature
    from mlflow.types import llm

    if chat:
        return ModelSignature(inputs=llm.CHAT_MODEL_INPUT_SCHEMA, outputs=llm.CHAT_MODEL_OUTPUT_SCHEMA)
    return ModelSignature(inputs=llm.COMPLETIONS_MODEL_INPUT_SCHEMA, outputs=llm.COMPLETIONS_MODEL_OUTPUT_SCHEMA)


def _example(about: Any, folder: Path, chat: bool) -> None:
    from mlflow.models.utils import _save_example

    _save_example(
        about, {"messages": [{"role": "user", "content": EXAMPLE}]} if chat else {"prompt": EXAMPLE}, str(folder)
    )


def _environment(folder: Path) -> None:
    """What `mlflow models serve` installs where it makes an environment: our own versions."""
    import yaml
    from mlflow.utils.environment import _PythonEnv

    needed = [f"{name}=={importlib.metadata.version(name)}" for name in _NEEDED]
    python = _PythonEnv.current()
    python.to_yaml(str(folder / "python_env.yaml"))
    (folder / "requirements.txt").write_text("\n".join(needed) + "\n")
    conda = {
        "name": "mlflow-env",
        "channels": ["conda-forge"],
        "dependencies": [f"python={python.python}", "pip", {"pip": needed}],
    }
    (folder / "conda.yaml").write_text(yaml.safe_dump(conda, sort_keys=False))
