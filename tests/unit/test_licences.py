"""Licences: what may go into a model under which licence, what the base says of itself, what the tools are under."""

from email.message import Message
from pathlib import Path
from typing import Any

import pytest
import yaml

from slipway.observing import licences, packages
from slipway.observing.licences import CONFLICT, FINE, UNKNOWN
from slipway.observing.packages import Package

ROOT = Path(__file__).parents[2]
OURS = {"licence": "Apache-2.0", "base_licence": "Apache-2.0", "data_licence": "CC0-1.0"}
LLAMA = "LLAMA 3.2 COMMUNITY LICENSE AGREEMENT\nLlama 3.2 Version Release Date: September 25, 2024\n"


def observe(base: Path, tools: tuple[Package, ...] = (), source: str | None = None, **stated: Any) -> tuple[int, str]:
    """The worst of what was found, and all of it in one text."""
    found = licences.observe({**OURS, **stated}, base, source, list(tools))
    return (CONFLICT if found.conflicts else UNKNOWN if found.unknown else FINE), " | ".join(
        found.conflicts + found.unknown
    )


def test_the_shipped_sample_has_neither_conflict_nor_unknown(tmp_path: Path) -> None:
    model = yaml.safe_load((ROOT / "configs" / "model.yaml").read_text())
    found = licences.observe(model, tmp_path, "tiny")
    assert (found.conflicts, found.unknown) == ([], [])
    assert found.dependencies > 150 and (found.model, found.base, found.data) == ("Apache-2.0", "Apache-2.0", "CC0-1.0")


@pytest.mark.parametrize(
    ("stated", "outcome", "words"),
    [
        ({}, FINE, ""),
        ({"base_licence": "MIT", "data_licence": "CC-BY-4.0"}, FINE, ""),
        ({"base_licence": "apache-2.0"}, FINE, ""),
        ({"base_licence": "LGPL-3.0-only"}, FINE, ""),
        ({"base_licence": "llama3.2"}, CONFLICT, "base: llama3.2 must be passed on"),
        ({"base_licence": "llama3.2", "licence": "llama3.2"}, FINE, ""),
        ({"base_licence": "llama3.2", "licence": "llama3.1"}, CONFLICT, "passed on"),
        ({"base_licence": "gemma"}, CONFLICT, "gemma"),
        ({"data_licence": "CC-BY-NC-4.0"}, CONFLICT, "data: CC-BY-NC-4.0 forbids commercial use"),
        ({"data_licence": "CC-BY-NC-4.0", "licence": "CC-BY-NC-4.0"}, FINE, ""),
        ({"data_licence": "CC-BY-NC-SA-4.0", "licence": "CC-BY-NC-4.0"}, CONFLICT, "passed on"),
        ({"data_licence": "CC-BY-SA-4.0"}, CONFLICT, "passed on"),
        ({"data_licence": "CC-BY-SA-4.0", "licence": "CC-BY-SA-4.0"}, FINE, ""),
        ({"data_licence": "CC-BY-ND-4.0", "licence": "CC-BY-ND-4.0"}, CONFLICT, "no changed work"),
        ({"base_licence": "GPL-3.0-or-later"}, CONFLICT, "passed on"),
        ({"base_licence": "GPL-3.0-or-later", "licence": "GPL-3.0-only"}, FINE, ""),
        ({"base_licence": "MIT OR GPL-3.0-only"}, FINE, ""),
        ({"base_licence": "MIT AND GPL-3.0-only"}, CONFLICT, "passed on"),
        ({"base_licence": "llama3.2", "licence": "Apache-2.0 OR llama3.2"}, CONFLICT, "passed on"),
        ({"data_licence": "LicenseRef-Ours"}, UNKNOWN, "data: LicenseRef-Ours"),
        ({"data_licence": "whatever we like"}, UNKNOWN, "data: whatever we like"),
        ({"licence": "LicenseRef-Ours"}, UNKNOWN, "model: LicenseRef-Ours"),
        ({"licence": "LicenseRef-Ours", "base_licence": "gemma"}, CONFLICT, "passed on"),
        ({"data_licence": None}, UNKNOWN, "data: not stated"),
        ({"base_licence": ""}, UNKNOWN, "base: not stated"),
        ({"licence": None}, UNKNOWN, "model: not stated"),
        ({"licence": None, "base_licence": "llama3.2"}, UNKNOWN, "without a licence"),
        ({"licence": ["Apache-2.0"]}, UNKNOWN, "model: not stated"),
    ],
)
def test_what_may_go_into_a_model(stated: dict[str, Any], outcome: int, words: str, tmp_path: Path) -> None:
    found, text = observe(tmp_path, **stated)
    assert (found, words in text) == (outcome, True), text


def card(folder: Path, front: str) -> None:
    (folder / "README.md").write_text(f"---\n{front}\n---\n# A model\n")


@pytest.mark.parametrize(
    ("name", "text", "words"),
    [
        ("README.md", "---\nlicense: llama3.2\n---\n", "configs/model.yaml says Apache-2.0, README.md says llama3.2"),
        ("README.md", "---\nlicense: other\nlicense_name: qwen-research\n---\n", "README.md says qwen-research"),
        ("README.md", "---\nlicense: other\n---\n", "README.md says other"),
        ("README.md", "---\nlicense: [mit, gemma]\n---\n", "mit AND gemma"),
        ("README.md", "---\nlicense: {{7*7}}: x: [\n---\n", "metadata that cannot be read"),
        ("config.json", '{"license": "cc-by-nc-4.0"}', "config.json says cc-by-nc-4.0"),
        ("config.json", "{", "cannot be read"),
        ("LICENSE", LLAMA, "LICENSE says llama3.2"),
        ("LICENSE.txt", LLAMA, "LICENSE.txt says llama3.2"),
        ("LICENSE", "Ask Bob.", "a text that is not known"),
    ],
)
def test_a_base_that_says_otherwise_is_a_conflict(name: str, text: str, words: str, tmp_path: Path) -> None:
    (tmp_path / name).write_text(text)
    found, said = observe(tmp_path)
    assert found == CONFLICT and words in said, said


def test_a_base_that_says_the_same_is_none(tmp_path: Path) -> None:
    card(tmp_path, "license: apache-2.0")
    (tmp_path / "LICENSE").write_text((ROOT / "LICENSE").read_text())
    (tmp_path / "config.json").write_text('{"model_type": "llama"}')
    assert observe(tmp_path) == (FINE, "")


def test_a_base_known_by_its_name_cannot_be_relabelled(tmp_path: Path) -> None:
    found, said = observe(tmp_path, source="meta-llama/Llama-3.2-1B-Instruct")
    assert found == CONFLICT and "meta-llama/Llama-3.2-1B-Instruct says llama3.2" in said


def test_where_nobody_states_the_bases_licence_its_own_word_counts(tmp_path: Path) -> None:
    card(tmp_path, "license: gemma")
    found = licences.observe({**OURS, "base_licence": None}, tmp_path, None, [])
    assert found.base == "gemma" and found.conflicts == [
        "base: gemma must be passed on, and the model's licence is Apache-2.0"
    ]


# --- tools ---


@pytest.mark.parametrize(
    ("named", "outcome"),
    [
        (("MIT",), FINE),
        (("GPL-3.0-only",), FINE),  # a tool is not given away with the model
        (("LGPL-2.1-or-later",), FINE),
        (("GPL-2.0-only WITH GCC-exception-2.0",), FINE),
        (("MIT AND (Apache-2.0 OR AGPL-3.0-only)",), FINE),
        (("AGPL-3.0-only",), CONFLICT),
        (("MIT AND AGPL-3.0-or-later",), CONFLICT),
        (("MIT", "AGPL-3.0-only"), CONFLICT),
        (("SSPL-1.0",), CONFLICT),
        (("CC-BY-NC-4.0",), CONFLICT),
        (("Commercial",), UNKNOWN),
        (("MIT AND (", "MIT"), UNKNOWN),
        ((), UNKNOWN),
        (("(" * 400 + "MIT" + ")" * 400,), UNKNOWN),
        (("(" * 50 + "MIT" + ")" * 50,), UNKNOWN),
        ((" AND ".join(["(MIT OR ISC)"] * 50),), FINE),
        ((" AND ".join(["(MIT OR ISC)"] * 5_000),), UNKNOWN),
    ],
)
def test_what_a_tool_may_be_under(named: tuple[str, ...], outcome: int, tmp_path: Path) -> None:
    assert observe(tmp_path, (Package("tool", "1.0", named),))[0] == outcome


class Distribution:
    """The parts of an installed package that its licence is read from."""

    def __init__(self, text: str | None = None, **fields: str | list[str]) -> None:
        self.metadata = Message()
        for name, values in fields.items():
            for value in values if isinstance(values, list) else [values]:
                self.metadata[name.replace("_", "-")] = value
        self.files = [] if text is None else [_File(text)]


class _File:
    name = "LICENSE"

    def __init__(self, text: str) -> None:
        self.text = text

    def read_text(self) -> str:
        return self.text


AGPL_BELOW = (
    "Redistribution and use in source and binary forms. THIS SOFTWARE IS PROVIDED BY us." + " " * 9 + "word " * 600
)
BSD = "License :: OSI Approved :: BSD License"


@pytest.mark.parametrize(
    ("distribution", "expected"),
    [
        (Distribution(License_Expression="mit or apache-2.0"), ("MIT OR Apache-2.0",)),
        (Distribution(License="MIT"), ("MIT",)),
        (Distribution(License="Apache License 2.0"), ("Apache-2.0",)),
        (Distribution(License="MIT License\n\nCopyright…" + "x" * 99, Classifier=["License :: OSI Approved :: MIT License"]), ("MIT",)),
        (Distribution("Permission is hereby granted, free of charge, to any person obtaining a copy"), ("MIT",)),
        (Distribution("Redistribution and use in source and binary forms … Neither the name of", Classifier=[BSD]), ("BSD-3-Clause",)),
        (Distribution(Classifier=[BSD]), ("BSD License",)),
        (Distribution(AGPL_BELOW + "GNU AFFERO GENERAL PUBLIC LICENSE Version 3"), ("BSD-2-Clause",)),
        (Distribution(Classifier=["License :: OSI Approved"], License="Ours"), ("Ours",)),
        (Distribution(), ()),
    ],
)  # fmt: skip
def test_what_a_package_says_its_licence_is(distribution: Any, expected: tuple[str, ...]) -> None:
    assert packages.licences_of(distribution) == expected


def test_what_slipway_needs_leaves_its_tests_out() -> None:
    needed, installed = ({one.name for one in found} for found in (packages.needed(), packages.installed()))
    assert needed < installed
    assert {"torch", "transformers", "mlflow", "cryptography"} <= needed
    assert not {"pytest", "ruff", "mypy", "moto"} & needed and "slipway" not in installed


def test_a_package_has_an_address() -> None:
    assert Package("torch", "2.13.0+cpu").purl == "pkg:pypi/torch@2.13.0%2Bcpu"
