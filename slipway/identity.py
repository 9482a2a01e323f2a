"""Who a model is: one digest over everything that decides its answers, read from the manifests of its folders."""

from pathlib import Path

from slipway import digest
from slipway.artifacts import Manifest
from slipway.errors import StageError

_CHAT_TEMPLATE = ("chat_template.jinja", "chat_template.json")
_TOKENIZER = (
    "tokenizer.json",
    "tokenizer_config.json",
    "tokenizer.model",
    "special_tokens_map.json",
    "added_tokens.json",
    "vocab.json",
    "merges.txt",
)
_GENERATION = ("generation_config.json",)


def parts(base: Path, adapter: Path | None) -> dict[str, str]:
    """The digest of each part of a model, so that one can see in which part two models differ."""
    about_base = _manifest(base)
    files = {file.path: file.sha256 for file in about_base.files}
    named = {"chat_template": _CHAT_TEMPLATE, "tokenizer": _TOKENIZER, "generation": _GENERATION}
    found = {part: digest.of_pairs({n: files[n] for n in names if n in files}) for part, names in named.items()}
    known = {name for names in named.values() for name in names}
    found["base"] = digest.of_pairs({name: sha256 for name, sha256 in files.items() if name not in known})
    found["quantisation"] = digest.of_value(about_base.facts.get("quantisation"))
    if adapter is not None:
        about_adapter = _manifest(adapter)
        if (trained_on := about_adapter.facts.get("base_digest")) != about_base.digest:
            raise StageError(
                f"{adapter} was tuned on the base {trained_on}, but {base} is {about_base.digest}; run finetune again"
            )
        found["adapter"] = about_adapter.digest
    return found


def identity(base: Path, adapter: Path | None) -> str:
    """The model's identity: base, tokenizer, chat template, generation settings, quantisation and adapter."""
    return digest.of_value(parts(base, adapter))


def _manifest(folder: Path) -> Manifest:
    if not (folder / digest.MANIFEST).is_file():
        raise StageError(
            f"{folder} has no {digest.MANIFEST}, so it was never finished; run the stage that makes it again"
        )
    return Manifest.load(folder / digest.MANIFEST)
