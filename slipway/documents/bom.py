"""The bill of materials of a model: CycloneDX 1.6 (ML-BOM), from evidence alone.

What the model is made from (base, data, packages), each with its digest and licence, and what was measured of it. The
same facts give the same bytes: the serial number is made from the model's identity, the time is when `register` looked.
"""

import uuid
from collections.abc import Iterator
from importlib import metadata
from pathlib import Path
from typing import Any
from urllib.parse import quote

from slipway import atomic
from slipway.artifacts import Estimate, Json, Manifest
from slipway.documents.facts import CardFacts, shown_place
from slipway.documents.text import plain
from slipway.observing import packages

FILE = "bom.json"
MODEL, BASE, DATA = "model", "base", "data"  # how parts of the bill refer to each other
_FAMILY = "lora"
_SPACE = uuid.uuid5(uuid.NAMESPACE_URL, "urn:slipway:model")
_GOOD_USE = {  # a CycloneDX word for each piece of evidence
    "scorecard": "quality-metrics",
    "benchmarks": "quality-metrics",
    "safety": "quality-metrics",
    "validation": "evidence",
    "inspection": "evidence",
    "scan": "evidence",
    "decision": "attestation",
    "source": "evidence",
    "pinned_base": "evidence",
}


def write(folder: Path, facts: CardFacts) -> Path:
    """Write the bill into a folder; where it lies."""
    atomic.write_json(folder / FILE, bill(facts))
    return folder / FILE


def bill(facts: CardFacts) -> Json:
    """The whole document."""
    parts = [*_base(facts), *_data(facts), *(_package(one) for one in facts.packages)]
    refs = sorted(part["bom-ref"] for part in parts)
    return {
        "$schema": "http://cyclonedx.org/schema/bom-1.6.schema.json",
        "bomFormat": "CycloneDX",
        "specVersion": "1.6",
        "serialNumber": f"urn:uuid:{uuid.uuid5(_SPACE, _who(facts))}",
        "version": 1,
        "metadata": _filled({
            "timestamp": facts.at,
            "tools": {"components": [{"type": "application", "name": "slipway", "version": metadata.version("slipway")}]},
            "component": _model(facts),
        }),
        "components": parts,
        "dependencies": [{"ref": MODEL, "dependsOn": refs}, *({"ref": ref} for ref in refs)],
    }  # fmt: skip


def _who(facts: CardFacts) -> str:
    """The model's identity; of one that was never scored, the release."""
    return facts.identity or facts.release


def _filled(value: Json) -> Json:
    """Without the parts that nothing is known of."""
    return {key: one for key, one in value.items() if one not in (None, "", [], {})}


def _hash(sha256: str) -> list[Json]:
    return [{"alg": "SHA-256", "content": sha256}]


def _properties(**values: Any) -> list[Json]:
    named = ((f"slipway:{name}", value) for name, value in sorted(values.items()) if value not in (None, ""))
    return [{"name": name, "value": plain(value)} for name, value in named]


def _licences(*stated: object) -> list[Json]:
    """One SPDX expression as such; anything else, or several, by name."""
    found = [plain(one) for one in stated if one]
    if len(found) == 1 and packages.is_spdx(found[0]):
        return [{"expression": found[0]}]
    return [{"license": {"name": one}} for one in found]


# --- the model --------------------------------------------------------------------------------------------------------


def _model(facts: CardFacts) -> Json:
    trained = facts.manifests.get("adapter")
    author, team = facts.stated("author"), facts.stated("team")
    ancestors = [{key: value for key, value in part.items() if key != "bom-ref"} for part in _base(facts)]
    return _filled({
        "type": "machine-learning-model",
        "bom-ref": MODEL,
        "name": plain(facts.name),
        "version": plain(facts.stated("version") or _who(facts)[:12]),
        "description": plain(facts.stated("description") or ""),
        "authors": [{"name": plain(author)}] if author else [],
        "manufacturer": {"name": plain(team)} if team else {},
        "licenses": _licences(facts.stated("licence")),
        "components": _files(trained, "model"),
        "pedigree": {"ancestors": [_without_refs(one) for one in ancestors], "notes": _how(facts)} if ancestors else {},
        "externalReferences": list(_evidence(facts)),
        "modelCard": _card(facts),
        "tags": sorted({plain(one) for one in facts.listed("compliance_tags")}),
        "properties": _properties(
            identity=facts.identity,
            release=facts.release,
            adapter=trained.digest if trained and facts.method == _FAMILY else None,
            evidence=facts.decision.evidence_digest if facts.decision else None,
            policy=facts.decision.policy_digest if facts.decision else None,
            verdict=facts.decision.verdict if facts.decision else None,
        ),
    })  # fmt: skip


def _without_refs(part: Json) -> Json:
    """A part as an ancestor: the same thing, which may be referred to only where it stands first."""
    found = {key: value for key, value in part.items() if key != "components"}
    files = [{key: value for key, value in one.items() if key != "bom-ref"} for one in part.get("components", [])]
    return found | ({"components": files} if files else {})


def _how(facts: CardFacts) -> str:
    return "An adapter was trained for it." if facts.method == _FAMILY else "All of its weights were trained further."


def _files(manifest: Manifest | None, owner: str) -> list[Json]:
    files = sorted(manifest.files, key=lambda file: file.path) if manifest else []
    return [
        {"type": "file", "bom-ref": f"{owner}/{quote(file.path)}", "name": plain(file.path), "hashes": _hash(file.sha256)}
        for file in files
    ]  # fmt: skip


def _evidence(facts: CardFacts) -> Iterator[Json]:
    for name, kind in _GOOD_USE.items():
        if name in facts.named:
            path = facts.named[name]
            yield {"type": kind, "url": quote(path), "hashes": _hash(facts.files[path])}


def _card(facts: CardFacts) -> Json:
    data = {"type": "dataset", "name": _data_name(facts), "contents": {"properties": _properties(**_rows(facts))}}
    return _filled({
        "modelParameters": _filled({
            "approach": {"type": "supervised"},
            "task": plain(facts.stated("task_type") or ""),
            "datasets": [{"ref": DATA}] if facts.source else [data],
            "inputs": [{"format": "text"}],
            "outputs": [{"format": "text"}],
        }),
        "quantitativeAnalysis": _filled({"performanceMetrics": list(_metrics(facts))}),
        "considerations": _filled({
            "useCases": [plain(one)] if (one := facts.stated("intended_use")) else [],
            "technicalLimitations": facts.listed("limitations"),
        }),
        "properties": _properties(method=facts.method, **_trained(facts)),
    })  # fmt: skip


def _trained(facts: CardFacts) -> Json:
    trained = facts.manifests.get("adapter")
    return {name: trained.facts.get(name) for name in ("steps", "trained_parameters", "precision")} if trained else {}


def _metrics(facts: CardFacts) -> Iterator[Json]:
    """Every figure with its interval: the test set's, the benchmarks', the safety probes'."""
    if facts.scorecard:
        for name, estimate in sorted(facts.scorecard.metrics.get("tuned", {}).items()):
            yield _metric(name, "test set", estimate)
    if facts.benchmarks:
        for task, score in sorted(facts.benchmarks.scores.get("tuned", {}).items()):
            yield from (_metric(name, task, estimate) for name, estimate in sorted(score.metrics.items()))
    if facts.safety:
        for name, estimate in sorted(facts.safety.rates.get("tuned", {}).items()):
            yield _metric("share of probes passed", name, estimate)


def _metric(name: str, where: str, estimate: Estimate) -> Json:
    return {
        "type": plain(name),
        "slice": plain(where),
        "value": str(estimate.value),
        "confidenceInterval": {"lowerBound": str(estimate.low), "upperBound": str(estimate.high)},
    }


# --- what it is made from ---------------------------------------------------------------------------------------------


def _base(facts: CardFacts) -> list[Json]:
    about = facts.manifests.get("base")
    if about is None:
        return []
    revision = facts.base.revision if facts.base else None
    hub = facts.hub_base
    stated = facts.licences.base if facts.licences else facts.stated("base_licence")
    return [
        _filled({
            "type": "machine-learning-model",
            "bom-ref": BASE,
            "name": plain(about.facts.get("source") or "base"),
            "version": plain(revision or about.digest[:12]),
            "purl": f"pkg:huggingface/{quote(hub)}@{quote(str(revision).lower())}" if hub else None,
            "licenses": _licences(stated),
            "components": _files(about, "base"),
            "properties": _properties(digest=about.digest, parameters=about.facts.get("parameters")),
        })
    ]  # fmt: skip


def _data_name(facts: CardFacts) -> str:
    return plain(facts.part("dataset").get("name") or (shown_place(facts.source.source) if facts.source else "data"))


def _rows(facts: CardFacts) -> Json:
    return {f"rows-{name}": split.rows for name, split in facts.data.splits.items()} if facts.data else {}


def _data(facts: CardFacts) -> list[Json]:
    if facts.source is None:
        return []
    files = []
    for number, file in enumerate(sorted(facts.source.files, key=lambda file: (file.uri, file.role))):
        named = {
            "type": "file",
            "bom-ref": f"data/{number}",
            "name": plain(shown_place(file.uri)),
            "properties": _properties(role=file.role, etag=file.etag),
        }
        files.append(_filled(named | ({"hashes": _hash(file.sha256)} if file.sha256 else {})))
    contents = {
        f"{name}_digest": facts.manifests[name].digest for name in ("raw", "prepared") if name in facts.manifests
    }
    return [
        _filled({
            "type": "data",
            "bom-ref": DATA,
            "name": _data_name(facts),
            "version": plain(facts.part("dataset").get("version") or facts.source.revision or ""),
            "licenses": _licences(facts.stated("data_licence")),
            "data": [{"type": "dataset", "name": _data_name(facts), "contents": {"properties": _properties(**_rows(facts))}}],
            "components": files,
            "properties": _properties(source=shown_place(facts.source.source), **contents),
        })
    ]  # fmt: skip


def _package(one: packages.Package) -> Json:
    return _filled({
        "type": "library",
        "bom-ref": one.purl,
        "name": plain(one.name),
        "version": plain(one.version),
        "purl": one.purl,
        "licenses": _licences(*one.licences),
    })  # fmt: skip
