"""What the Hugging Face hub reads of a card: the front matter of README.md, and eval_results.yaml."""

import re
from collections.abc import Iterator
from typing import Any

import yaml

from slipway.artifacts import Estimate, Json
from slipway.documents.facts import CardFacts, shown_place
from slipway.documents.text import plain
from slipway.report import words

# https://huggingface.co/docs/hub/repositories-licenses
_LICENCES = """
    afl-3.0 agpl-3.0 apache-2.0 artistic-2.0 bigcode-openrail-m bigscience-bloom-rail-1.0 bigscience-openrail-m
    bsd-2-clause bsd-3-clause bsl-1.0 cc cc-by-2.0 cc-by-3.0 cc-by-4.0 cc-by-nc-2.0 cc-by-nc-3.0 cc-by-nc-4.0
    cc-by-nc-nd-3.0 cc-by-nc-nd-4.0 cc-by-nc-sa-3.0 cc-by-nc-sa-4.0 cc-by-nd-4.0 cc-by-sa-3.0 cc-by-sa-4.0 cc0-1.0
    cdla-permissive-1.0 cdla-permissive-2.0 cdla-sharing-1.0 creativeml-openrail-m epl-1.0 epl-2.0 eupl-1.2 gemma
    gpl-2.0 gpl-3.0 isc lgpl-2.1 lgpl-3.0 llama2 llama3 llama3.1 llama3.2 llama3.3 llama4 mit mpl-2.0 ms-pl ncsa
    odbl odc-by openrail openrail++ osl-3.0 pddl unlicense wtfpl zlib
"""


class _Dumper(yaml.SafeDumper):
    """Quotes what does not begin with a letter: `1e3` is text to YAML 1.1, which is written here, a number to the hub."""

    def represent_str(self, data: str) -> yaml.ScalarNode:
        return self.represent_scalar("tag:yaml.org,2002:str", data, style=None if data[:1].isalpha() else "'")


_Dumper.add_representer(str, _Dumper.represent_str)


def yaml_of(value: Any) -> str:
    """YAML whose every text is one line and quoted where it has to be."""
    return yaml.dump(
        _plain(value), Dumper=_Dumper, sort_keys=False, allow_unicode=True, width=10_000, default_flow_style=False
    )


def _plain(value: Any) -> Any:
    if isinstance(value, dict):
        return {plain(key): _plain(one) for key, one in value.items()}
    if isinstance(value, list):
        return [_plain(one) for one in value]
    return plain(value) if isinstance(value, str) else value


def metadata(facts: CardFacts) -> Json:
    """The front matter: https://github.com/huggingface/hub-docs/blob/main/modelcard.md"""
    licence = str(facts.stated("licence") or "")
    known = licence.lower().removesuffix("-only").removesuffix("-or-later")
    task = str(facts.stated("task_type") or "")
    tuned = facts.scorecard.metrics.get("tuned", {}) if facts.scorecard else {}
    found: Json = {
        "license": (known if known in _LICENCES.split() else "other") if licence else None,
        "license_name": _slug(licence) if licence and known not in _LICENCES.split() else None,
        "base_model": facts.hub_base,
        "base_model_relation": ("adapter" if facts.method == "lora" else "finetune") if facts.hub_base else None,
        "library_name": "peft" if facts.method == "lora" else "transformers",
        "pipeline_tag": task if re.fullmatch(r"[a-z]+(-[a-z]+)*", task) else None,
        "language": languages(facts) or None,
        "tags": ["slipway", facts.method],
        "datasets": [facts.hub_data] if facts.hub_data else None,
        "metrics": sorted(tuned) or None,
        "model-index": [{"name": facts.name, "results": results}] if (results := list(_results(facts))) else None,
    }
    return {key: value for key, value in found.items() if value is not None}


def languages(facts: CardFacts) -> list[str]:
    """Those that configs/model.yaml names, else those that the training rows are in; ISO codes alone."""
    of_rows = sorted(facts.data.splits["train"].languages) if facts.data and "train" in facts.data.splits else []
    return [one for one in facts.listed("languages") or of_rows if re.fullmatch(r"[a-z]{2,3}", one)]


def _slug(text: str) -> str:
    return re.sub(r"[^a-z0-9.]+", "-", plain(text).lower()).strip("-") or "unnamed"


def _results(facts: CardFacts) -> Iterator[Json]:
    """Results in the form of `model-index`: the test set first, then each benchmark."""
    task = {"type": "text-generation", "name": "Text generation"}
    if facts.scorecard and (tuned := facts.scorecard.metrics.get("tuned")):
        dataset = {"type": facts.hub_data or _slug(_data_name(facts)), "name": _data_name(facts), "split": "test"}
        yield {"task": task, "dataset": dataset | _revision(facts), "metrics": list(_values(tuned))}
    if facts.benchmarks:
        for name, score in sorted(facts.benchmarks.scores.get("tuned", {}).items()):
            yield {
                "task": task,
                "dataset": {"type": _slug(name), "name": name},
                "metrics": list(_values(score.metrics)),
            }


def _values(estimates: dict[str, Estimate]) -> Iterator[Json]:
    for name in words.metric_order(set(estimates)):
        yield {"type": name, "value": estimates[name].value, "name": words.metric(name).name}


def _revision(facts: CardFacts) -> Json:
    return {"revision": facts.source.revision} if facts.hub_data and facts.source and facts.source.revision else {}


def _data_name(facts: CardFacts) -> str:
    source = shown_place(facts.source.source) if facts.source else "data"
    return str(facts.part("dataset").get("name") or source)


def eval_results(facts: CardFacts) -> list[Json]:
    """The hub's newer form of results: https://huggingface.co/docs/hub/eval-results"""
    found = []
    if facts.scorecard:
        dataset = {"id": facts.hub_data or _slug(_data_name(facts))}
        note = f"test set of SHA-256 {facts.scorecard.test_digest}"
        for metric, estimate in sorted(facts.scorecard.metrics.get("tuned", {}).items()):
            found.append(_entry(facts, dataset | {"task_id": metric} | _revision(facts), estimate, note))
    if facts.benchmarks:
        for task, score in sorted(facts.benchmarks.scores.get("tuned", {}).items()):
            note = f"lm-evaluation-harness {facts.benchmarks.harness}, suite {facts.benchmarks.suite}"
            for metric, estimate in sorted(score.metrics.items()):
                found.append(_entry(facts, {"id": _slug(task), "task_id": metric}, estimate, note))
    return found


def _entry(facts: CardFacts, dataset: Json, estimate: Estimate, note: str) -> Json:
    interval = f"95 % interval {estimate.low} to {estimate.high} over {estimate.rows} rows; {note}"
    return {"dataset": dataset, "value": estimate.value, **({"date": facts.at} if facts.at else {}), "notes": interval}
