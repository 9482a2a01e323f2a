"""JSON that a model's loaders obey: strict, bounded, and naming no code."""

import re
from collections.abc import Iterator
from pathlib import PurePosixPath
from typing import Any

from slipway import strict
from slipway.scanning import swelling, templates
from slipway.scanning.denied import Denied, decoded, shown, too_deep
from slipway.scanning.walk import Opened

MAX_BYTES = 10_000_000
MAX_LARGE_BYTES = 64_000_000  # the largest tokenizers have 35 MB, the largest indexes 14 MB
MAX_BRACKETS = 2_000_000  # each becomes an object in memory

# Their keys are tokens, which may be any word at all, and no loader takes instructions from them.
_VOCABULARIES = {"tokenizer.json", "vocab.json", "added_tokens.json", "tekken.json"}
# Keys by which some loader imports, downloads or runs code of the author's choosing.
_CODE = {
    "auto_map", "trust_remote_code", "custom_code", "custom_pipelines", "custom_pipeline", "custom_generate",
    "allow_all_kernels", "_target_", "py/object", "py/type", "py/reduce", "py/function", "__reduce__",
}  # fmt: skip
_KERNELS = re.compile(r"_?(attn|experts)_implementation(_internal)?")
_PICKLES = {"cache_file", "covariance_file", "prompt_tuning_init_state_dict_path"}  # PEFT gives these to torch.load
_LIBRARIES = ("transformers.models.", "transformers.modeling_", "peft.")
_SHARD = re.compile(r"[\w.-]+\.(safetensors|bin)")


def check(file: Opened, name: str) -> None:
    """Denied unless a JSON file is strict and asks no loader for code."""
    base = PurePosixPath(name).name
    is_large = base in _VOCABULARIES or base.endswith(".index.json")
    value = parsed(file.whole(MAX_LARGE_BYTES if is_large else MAX_BYTES))
    if base == "tokenizer.json":
        swelling.check(value)
    if base in _VOCABULARIES:
        return
    if base.endswith(".index.json"):
        _check_shards(value)
    for key, inner in _pairs(value):
        if fault := _fault(key, inner):
            raise Denied(fault)
    found = set(_templates(value))
    if (characters := sum(map(len, found))) > templates.MAX_CHARACTERS:
        raise Denied(f"chat templates of {characters:,} characters together; {templates.MAX_CHARACTERS:,} are the most")
    for template in sorted(found):
        templates.check(template)


def parsed(data: bytes) -> Any:
    """Strict JSON of a size and depth that no reader minds."""
    if data.count(b"[") + data.count(b"{") > MAX_BRACKETS:
        raise Denied(f"more than {MAX_BRACKETS:,} lists and objects")
    try:
        value = strict.loads_json(decoded(data))
    except ValueError as error:
        raise Denied(f"not strict JSON: {str(error)[:200]}") from None
    if too_deep(value):
        raise Denied(f"JSON nested deeper than {strict.MAX_DEPTH} levels")
    return value


def _pairs(value: Any) -> Iterator[tuple[str, Any]]:
    """Every key of every object, however deep."""
    waiting = [value]
    while waiting:
        outer = waiting.pop()
        if isinstance(outer, dict):
            yield from outer.items()
            waiting.extend(outer.values())
        elif isinstance(outer, list):
            waiting.extend(outer)


def _fault(key: str, value: Any) -> str | None:
    if key in _CODE and value:
        return f"{key} asks for code of the model's own, which is never run; remove it"
    if key in _PICKLES and value:
        return f"{key} names a file to unpickle; remove it"
    if _KERNELS.fullmatch(key) and "/" in str(value):
        return f"{key} asks for compiled code from elsewhere ({shown(str(value))}); remove it"
    if key == "peft_type" and str(value).upper() == "XLORA":
        return "an adapter that loads other adapters by name (XLORA), which nobody has judged"
    if key == "class_name" and value == "Lambda":
        return "a Keras Lambda layer, which holds code"
    if key == "parent_library" and not str(value).startswith(_LIBRARIES):
        return f"parent_library imports {shown(str(value))}; only modules of transformers and peft are"
    if key == "megatron_core" and value not in (None, "megatron.core"):
        return f"megatron_core imports {shown(str(value))}; only megatron.core is"
    if key in ("base_model_name_or_path", "tokenizer_name_or_path") and (reason := _place_fault(value)):
        return f"{key} {shown(str(value))} {reason}; write the model's name"
    return None


def _place_fault(value: Any) -> str | None:
    """What a base may not be called. A plain path is what PEFT writes; nothing here ever follows it."""
    if value is None:
        return None
    if not isinstance(value, str) or not value.isprintable():
        return "is no name"
    if "://" in value or value.lower().startswith(("file:", "data:", "\\\\", "//")):
        return "is a URL"
    if ".." in re.split(r"[/\\]|%2f|%5c", value.lower().replace("%2e", ".")) or value.startswith("~"):
        return "leads out of its folder"
    return None


def _templates(value: Any) -> Iterator[str]:
    """Chat templates, in the three forms that tokenizers have: one text, a list of named ones, a mapping."""
    for key, inner in _pairs(value):
        if key == "chat_template":
            if isinstance(inner, str):
                yield inner
            yield from (text for _, text in _pairs(inner) if isinstance(text, str))


def _check_shards(value: Any) -> None:
    """An index may lead to files beside it only."""
    shards = value.get("weight_map") if isinstance(value, dict) else None
    if not isinstance(shards, dict) or not shards:
        raise Denied("an index without a weight_map")
    for shard in shards.values():
        if not isinstance(shard, str) or not _SHARD.fullmatch(shard):
            raise Denied(f"the index leads to {shown(str(shard))}, which is no weights file beside it")
