"""Evidence of a release as the card and the bill of materials read it; and the same with an attack in every text."""

import dataclasses
import shutil
from pathlib import Path
from typing import Any

import made_release
from pydantic import BaseModel

from slipway import digest, model
from slipway.artifacts import BasePin, Json, Manifest
from slipway.documents import facts
from slipway.documents.facts import CardFacts
from slipway.registry.place import Place

ROOT = Path(__file__).parents[1]
RELEASE, AT = "20260314-092653-5f2c1a", "2026-03-14T09:28:40Z"

ATTACKS = {
    "script": '<script>alert("x")</script><img src=http://evil.example/x onerror=alert(1)>',
    "entity": "&lt;script&gt;alert(1)&lt;/script&gt; &#60;b&#62;",
    "comment": "<!-- hidden --> <b>bold</b> <td>",
    "template": "{{7*7}} {% raw %} ${7*7} #{7*7} {# x #} <%= 7*7 %>",
    "link": "[x](javascript:alert(1)) ![y](http://evil.example/p.png) [z]: http://evil.example <http://evil.example>",
    "address": "http://evil.example www.evil.example me@evil.example",
    "new metadata": "a\n---\nlicense: mit\n---\n# Owned\n",
    "yaml": "x: !!python/object/apply:os.system [id] &a *a # 'no' \"yes",
    "block": "# Owned",
    "list": "- a point",
    "number": "1. a point",
    "quote": "> said",
    "rule": "---",
    "underline": "===",
    "fence": "```\nfenced\n```",
    "cell": "a | b || c \\| d",
    "marks": "*a* **b** _c_ ~~d~~ `e` \\",
    "formula": "$$x^2$$ $y$ \\(z\\)",
    "direction": "abc\u202etxt.exe\u2066\ufeff",
    "terminal": "\x1b[2J\x1b]0;owned\x07\x00",
    "surrogate": "half \ud800 a letter",
    "spaces": "    indented\tby\u2028lines\u00a0\r\n",
}

# What programs compare: it cannot be poisoned without being another artifact.
_FIXED = {"verdict", "severity", "role", "kind", "act", "mode", "sha256", "identity", "base_identity", "test_digest"}
_KEYS = {"tuned", "base", "champion", "train", "validation", "test", "exact_match"}


def stated() -> Json:
    """configs/model.yaml as it is shipped, with what `register` adds."""
    return model.load(ROOT).model_dump(mode="json", exclude_none=True) | {"base_model": "tiny", "created_at": AT}


def make(folder: Path, about: Json | None = None) -> CardFacts:
    """The facts of a made release."""
    made_release.write_evidence(folder)
    adapter = folder / made_release.PATHS["adapter"]
    base = folder / made_release.PATHS["base"]
    Manifest.write(base, facts={"source": "tiny", "parameters": 786_944})
    Manifest.write(adapter, facts={"method": "lora", "steps": 1020, "trained_parameters": 116_688, "device": "cpu"})
    for name in ("dvc.yaml", "params.yaml"):
        shutil.copy(ROOT / name, folder / name)
    (folder / "configs").mkdir(exist_ok=True)
    shutil.copy(ROOT / "configs" / "model.yaml", folder / "configs" / "model.yaml")
    return facts.load(Place.of(folder, RELEASE), about or stated())


def on_hub(found: CardFacts) -> CardFacts:
    """The same release with a base and data from the hub."""
    assert found.source
    manifests = dict(found.manifests)
    manifests["base"] = manifests["base"].model_copy(update={"facts": {"source": "Qwen/Qwen2.5-0.5B-Instruct"}})
    commit = digest.of_value("commit")[:40]
    pin = BasePin(source="Qwen/Qwen2.5-0.5B-Instruct", revision=commit, files={})
    data = found.source.model_copy(update={"source": "hf://desk/tickets@main?split=train", "revision": commit})
    return dataclasses.replace(found, base=pin, manifests=manifests, source=data)


def poisoned(value: Any, attack: str) -> Any:
    """The same value with an attack in place of every free text, keys of mappings included."""
    if isinstance(value, BaseModel):
        named = {name: getattr(value, name) for name in type(value).model_fields}
        return type(value).model_construct(
            **{name: one if name in _FIXED else poisoned(one, attack) for name, one in named.items()}
        )
    if isinstance(value, dict):
        kept = {key: poisoned(one, attack) for key, one in value.items() if key in _KEYS}
        return kept | {
            f"{attack}{n}": poisoned(one, attack) for n, (key, one) in enumerate(value.items()) if key not in _KEYS
        }
    if isinstance(value, list):
        return [poisoned(one, attack) for one in value]
    return attack if isinstance(value, str) else value


def hostile(found: CardFacts, attack: str) -> CardFacts:
    """Facts whose every word comes from an attacker: names, tags, labels, reasons, licences, paths of data files."""
    about = {name: one if name == "method" else poisoned(one, attack) for name, one in found.model.items()}
    changed: dict[str, Any] = {
        name: poisoned(getattr(found, name), attack)
        for name in ("source", "data", "validation", "inspection", "scorecard", "benchmarks", "safety", "licences")
    }
    decision = poisoned(found.decision, attack).model_copy(
        update={"policy_digest": "0" * 64, "evidence_digest": "1" * 64}
    )
    return dataclasses.replace(
        found, model=about, decision=decision, training=poisoned(found.training, attack), **changed
    )
