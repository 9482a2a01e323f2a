"""The bill of materials: valid CycloneDX, true, the same every time, and unmoved by hostile words (E11)."""

import dataclasses
import json
import re
import uuid
from pathlib import Path
from typing import Any

import card_facts
import pytest
from card_facts import ATTACKS
from cyclonedx.schema import SchemaVersion
from cyclonedx.validation.json import JsonStrictValidator

from slipway import digest, strict
from slipway.documents import bom
from slipway.documents.facts import CardFacts
from slipway.documents.text import plain
from slipway.observing.packages import Package

VALIDATOR = JsonStrictValidator(SchemaVersion.V1_6)


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> CardFacts:
    return card_facts.make(tmp_path_factory.mktemp("release"))


@pytest.fixture(scope="module")
def facts(whole: CardFacts) -> CardFacts:
    """With a few packages: validating hundreds takes a second."""
    return dataclasses.replace(whole, packages=whole.packages[:5])


def written(facts: CardFacts, folder: Path) -> dict[str, Any]:
    """The bill as a strict reader sees it, once it is valid."""
    text = bom.write(folder, facts).read_text(encoding="utf-8")
    assert VALIDATOR.validate_str(text) is None
    found = strict.loads_json(text)
    assert isinstance(found, dict)
    return found


def component(bill: dict[str, Any], ref: str) -> dict[str, Any]:
    return next(one for one in bill["components"] if one["bom-ref"] == ref)


def properties(part: dict[str, Any]) -> dict[str, str]:
    return {one["name"]: one["value"] for one in part["properties"]}


def test_the_bill_is_valid_and_says_what_the_model_is_made_from(facts: CardFacts, tmp_path: Path) -> None:
    bill = written(facts, tmp_path)
    model, base, data = bill["metadata"]["component"], component(bill, "base"), component(bill, "data")
    assert (bill["specVersion"], bill["metadata"]["timestamp"]) == ("1.6", card_facts.AT)
    assert (model["type"], model["name"], model["version"]) == ("machine-learning-model", "support-desk", "1.0.0")
    assert properties(model)["slipway:identity"] == facts.identity
    assert (base["type"], base["name"]) == ("machine-learning-model", "tiny")
    assert model["pedigree"]["ancestors"][0]["name"] == "tiny" and "bom-ref" not in model["pedigree"]["ancestors"][0]
    assert (data["type"], data["version"]) == ("data", "1.0.0")
    assert [one["licenses"] for one in (model, base, data)] == [
        [{"expression": "Apache-2.0"}],
        [{"expression": "Apache-2.0"}],
        [{"expression": "CC0-1.0"}],
    ]


def test_every_file_has_its_digest(facts: CardFacts, tmp_path: Path) -> None:
    bill = written(facts, tmp_path)
    parts = {name: component(bill, name)["components"] for name in ("base", "data")}
    parts["adapter"] = bill["metadata"]["component"]["components"]
    found = {one["name"]: one["hashes"][0] for files in parts.values() for one in files}
    assert found["sample/test.jsonl"] == {"alg": "SHA-256", "content": digest.of_value("held out")}
    for name in ("base", "adapter"):
        for file in facts.manifests[name].files:
            assert found[file.path]["content"] == file.sha256
    evidence = {one["url"]: one["hashes"][0]["content"] for one in bill["metadata"]["component"]["externalReferences"]}
    assert len(evidence) >= 8 and evidence.items() <= facts.files.items()


def test_every_figure_has_its_interval(facts: CardFacts, tmp_path: Path) -> None:
    figures = written(facts, tmp_path)["metadata"]["component"]["modelCard"]["quantitativeAnalysis"][
        "performanceMetrics"
    ]
    assert facts.scorecard and facts.benchmarks and facts.safety
    exact = facts.scorecard.metrics["tuned"]["exact_match"]
    said = next(one for one in figures if (one["type"], one["slice"]) == ("exact_match", "test set"))
    assert said["value"] == str(exact.value)
    assert said["confidenceInterval"] == {"lowerBound": str(exact.low), "upperBound": str(exact.high)}
    assert {one["slice"] for one in figures} == {
        "test set",
        *facts.benchmarks.scores["tuned"],
        *facts.safety.rates["tuned"],
    }


def test_every_package_that_runs_it_is_listed_once_in_order(whole: CardFacts, tmp_path: Path) -> None:
    bill = written(whole, tmp_path)
    libraries = [one for one in bill["components"] if one["type"] == "library"]
    assert len(libraries) == len(whole.packages) > 150
    assert [one["purl"] for one in libraries] == sorted(
        {one["purl"] for one in libraries}, key=lambda one: one.split("@")
    )
    torch = next(one for one in libraries if one["name"] == "torch")
    assert re.fullmatch(r"pkg:pypi/torch@[\d.]+(%2B\w+)?", torch["purl"]) and torch["licenses"]
    assert all(one.get("licenses") for one in libraries)
    whole = bill["dependencies"][0]
    assert whole["ref"] == "model" and set(whole["dependsOn"]) == {one["bom-ref"] for one in bill["components"]}


def test_the_same_facts_give_the_same_bytes(whole: CardFacts, tmp_path: Path) -> None:
    again = card_facts.make(tmp_path / "again")
    assert bom.write(tmp_path / "a", whole).read_bytes() == bom.write(tmp_path / "b", again).read_bytes()
    assert str(tmp_path) not in (tmp_path / "b" / bom.FILE).read_text()


def test_the_serial_number_is_the_identitys(facts: CardFacts) -> None:
    number = bom.bill(facts)["serialNumber"]
    assert uuid.UUID(number).version == 5
    later = dataclasses.replace(facts, at="2027-01-01T00:00:00Z", release="another")
    assert bom.bill(later)["serialNumber"] == number
    assert facts.scorecard
    other = facts.scorecard.model_copy(update={"identity": digest.of_value("another model")})
    assert bom.bill(dataclasses.replace(facts, scorecard=other))["serialNumber"] != number


def test_what_comes_from_the_hub_is_addressed_there(facts: CardFacts, tmp_path: Path) -> None:
    base = component(written(card_facts.on_hub(facts), tmp_path), "base")
    assert base["purl"] == f"pkg:huggingface/Qwen/Qwen2.5-0.5B-Instruct@{digest.of_value('commit')[:40]}"


def test_a_licence_that_is_no_expression_is_named(facts: CardFacts, tmp_path: Path) -> None:
    found = dataclasses.replace(
        facts,
        model={**facts.model, "licence": "whatever we like"},
        packages=(
            Package("a", "1", ("Artistic License", "MIT")),
            Package("b", "1"),
            Package("c", "1", ("MIT OR ISC",)),
        ),
    )
    bill = written(found, tmp_path)
    assert bill["metadata"]["component"]["licenses"] == [{"license": {"name": "whatever we like"}}]
    assert component(bill, "pkg:pypi/a@1")["licenses"] == [
        {"license": {"name": "Artistic License"}},
        {"license": {"name": "MIT"}},
    ]
    assert "licenses" not in component(bill, "pkg:pypi/b@1")
    assert component(bill, "pkg:pypi/c@1")["licenses"] == [{"expression": "MIT OR ISC"}]


PARTS = ("source", "base", "data", "validation", "inspection", "scorecard", "benchmarks", "safety", "scan", "decision")


@pytest.mark.parametrize("part", PARTS)
def test_a_bill_without_a_part_says_nothing_of_it(part: str, facts: CardFacts, tmp_path: Path) -> None:
    bill = written(dataclasses.replace(facts, **{part: None}), tmp_path)
    assert bill["metadata"]["component"]["name"] == "support-desk"
    assert not re.search(r'"(None|null)?"\s*[,}\]]', json.dumps(bill))


def test_a_bill_of_next_to_nothing_is_valid(tmp_path: Path) -> None:
    bare = CardFacts(
        release="r", at=card_facts.AT, model={}, method="full", training={}, files={}, named={}, packages=()
    )
    assert written(bare, tmp_path)["components"] == []


@pytest.mark.parametrize("name", ATTACKS)
def test_case_E11_hostile_words_stay_words(name: str, facts: CardFacts, tmp_path: Path) -> None:
    attack = ATTACKS[name]
    bill = written(card_facts.hostile(facts, attack), tmp_path)
    model = bill["metadata"]["component"]
    assert model["name"] == (plain(attack) or "unnamed") and model["description"] == plain(attack)
    assert [one["license"]["name"] for one in model["licenses"]] == [plain(attack)]
    assert bill.keys() == bom.bill(facts).keys()
    assert not re.search("[\x00-\x09\x0b-\x1f\x7f\u202a-\u202e\u2066-\u2069]", (tmp_path / bom.FILE).read_text("utf-8"))
