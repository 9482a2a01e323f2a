"""The model card: what it says and from where, what it lacks, and that nothing in it does anything (E11)."""

import dataclasses
import html
import re
from itertools import pairwise
from pathlib import Path
from typing import Any

import card_facts
import made_release
import markdown
import markdown_it
import mistune
import pytest
import yaml
from card_facts import ATTACKS
from huggingface_hub import ModelCard, ModelCardData
from huggingface_hub import parse_eval_result_entries as parse_results

from slipway import digest, report, strict
from slipway.artifacts import Benchmarks, Decision, Safety, Scorecard
from slipway.documents import card, hub, sections
from slipway.documents.facts import CardFacts
from slipway.documents.text import Markdown, code, plain
from slipway.documents.text import markdown as escaped


@pytest.fixture(scope="module")
def facts(tmp_path_factory: pytest.TempPathFactory) -> CardFacts:
    return card_facts.make(tmp_path_factory.mktemp("release"))


def front(page: str) -> dict[str, Any]:
    """The metadata as the hub cuts it out, read without the right to make objects."""
    match = re.match(r"^---\n(.*?)\n---\n", page, re.S)
    assert match
    found = yaml.safe_load(match[1])
    assert isinstance(found, dict)
    return found


def tokens(page: str) -> list[Any]:
    """Every token, inline ones included, of the page below its metadata."""
    body = page.split("\n---\n", 1)[1]
    found = []
    for token in markdown_it.MarkdownIt("commonmark", {"html": True}).enable(["table", "strikethrough"]).parse(body):
        found += [token, *(token.children or [])]
    return found


def shown(page: str) -> str:
    return " ".join(token.content for token in tokens(page) if token.type in ("text", "code_inline"))


# --- what it says ---


def test_the_card_of_a_whole_release_is_complete(facts: CardFacts, tmp_path: Path) -> None:
    made = card.write(tmp_path, facts)
    assert (made.complete, made.missing) == (True, [])
    assert sorted(path.name for path in tmp_path.iterdir()) == ["README.md", "eval_results.yaml"]


def test_the_same_facts_give_the_same_bytes(facts: CardFacts, tmp_path: Path) -> None:
    again = card_facts.make(tmp_path / "again")
    for found, folder in ((facts, tmp_path / "a"), (again, tmp_path / "b")):
        card.write(folder, found)
    for name in (card.README, card.RESULTS):
        assert (tmp_path / "a" / name).read_bytes() == (tmp_path / "b" / name).read_bytes()
    assert str(tmp_path) not in (tmp_path / "b" / card.README).read_text()


def test_the_hub_reads_the_metadata(facts: CardFacts) -> None:
    page = card.readme(card_facts.on_hub(facts))
    found = ModelCard(page, ignore_metadata_errors=False).data
    assert (found.license, found.library_name, found.pipeline_tag) == ("apache-2.0", "peft", "text-generation")
    assert (found.base_model, found.datasets, found.language) == (
        "Qwen/Qwen2.5-0.5B-Instruct",
        ["desk/tickets"],
        ["en"],
    )
    assert found.get("base_model_relation") == "adapter"
    assert found.model_name == "support-desk" and found.eval_results
    card_says = {(one.dataset_type, one.metric_type): one.metric_value for one in found.eval_results}
    assert facts.scorecard
    assert card_says["desk/tickets", "exact_match"] == facts.scorecard.metrics["tuned"]["exact_match"].value
    assert card_says["team-quiz", "acc"] is not None
    assert ModelCardData(**front(page)).to_dict() == front(page)


def test_results_are_in_the_hubs_newer_form(facts: CardFacts) -> None:
    entries = parse_results(yaml.safe_load(hub.yaml_of(hub.eval_results(card_facts.on_hub(facts)))))
    assert facts.scorecard and facts.benchmarks
    known = len(facts.scorecard.metrics["tuned"])
    known += sum(len(score.metrics) for score in facts.benchmarks.scores["tuned"].values())
    assert len(entries) == known > 5
    exact = next(one for one in entries if one.task_id == "exact_match")
    assert (exact.dataset_id, exact.date) == ("desk/tickets", card_facts.AT)
    assert exact.notes and facts.scorecard.test_digest in exact.notes and "over 400 rows" in exact.notes


def test_a_base_or_data_set_that_is_not_on_the_hub_is_not_claimed_to_be(facts: CardFacts) -> None:
    assert not {"base_model", "base_model_relation", "datasets"} & front(card.readme(facts)).keys()


@pytest.mark.parametrize(
    ("licence", "expected"),
    [
        ("MIT", {"license": "mit"}),
        ("GPL-3.0-only", {"license": "gpl-3.0"}),
        ("llama3.2", {"license": "llama3.2"}),
        ("LicenseRef-Ours", {"license": "other", "license_name": "licenseref-ours"}),
        ("MIT OR Apache-2.0", {"license": "other", "license_name": "mit-or-apache-2.0"}),
    ],
)
def test_a_licence_is_told_in_the_hubs_words(licence: str, expected: dict[str, str], facts: CardFacts) -> None:
    said = hub.metadata(dataclasses.replace(facts, model={**facts.model, "licence": licence}))
    assert {key: value for key, value in said.items() if key.startswith("license")} == expected


def test_every_section_names_its_files_and_every_file_its_digest(facts: CardFacts) -> None:
    page = card.readme(facts)
    said = [one for one in sections.of(facts) if one.says_something]
    assert [one.title for one in said] == [
        "Model", "Intended use", "Limitations", "Training data", "Training", "Evaluation", "Groups of rows",
        "General abilities", "Safety", "Checks", "Licences", "Verdict", "Sources",
    ]  # fmt: skip
    assert all(one.sources for one in said if one.title != "Sources")
    assert {path for one in said for path in one.sources} - {"reports/predictions.parquet"} <= facts.files.keys()
    for path, sha256 in facts.files.items():
        assert f"| `{path}` | `{sha256}` |" in page
    assert len(facts.files) >= 14


def test_the_figures_are_the_evidences(facts: CardFacts) -> None:
    page = shown(card.readme(facts))
    assert facts.decision and facts.data and facts.identity
    for said in (
        facts.identity,
        facts.decision.evidence_digest,
        f"{facts.data.rows_in:,}",
        "98.5 %",
        card_facts.RELEASE,
    ):
        assert said in page


GAPS: list[tuple[dict[str, Any], str]] = [
    ({"source": None}, "evidence: source"),
    ({"base": None}, "evidence: base"),
    ({"data": None}, "evidence: data"),
    ({"loss": []}, "evidence: loss"),
    ({"validation": None}, "evidence: validation"),
    ({"inspection": None}, "evidence: inspection"),
    ({"scorecard": None}, "evidence: scorecard"),
    ({"benchmarks": None}, "evidence: benchmarks"),
    ({"safety": None}, "evidence: safety"),
    ({"scan": None}, "evidence: scan"),
    ({"decision": None}, "evidence: decision"),
    ({"licences": None}, "evidence: licences"),
    ({"manifests": {}}, "evidence: the manifest of adapter"),
]


@pytest.mark.parametrize(("gap", "name"), GAPS)
def test_what_is_not_known_is_missing_and_not_said(
    gap: dict[str, Any], name: str, facts: CardFacts, tmp_path: Path
) -> None:
    made = card.write(tmp_path, dataclasses.replace(facts, **gap))
    assert not made.complete and name in made.missing
    front((tmp_path / card.README).read_text())


@pytest.mark.parametrize("name", card.STATED)
@pytest.mark.parametrize("blank", [None, "", []])
def test_a_value_that_nobody_stated_is_missing(name: str, blank: object, facts: CardFacts, tmp_path: Path) -> None:
    made = card.write(tmp_path, dataclasses.replace(facts, model={**facts.model, name: blank}))
    assert f"configs/model.yaml: {name}" in made.missing
    assert not re.search(r"\| *\|$|None|TODO|\[More Information Needed\]", shown((tmp_path / card.README).read_text()))


def test_placeholders_are_not_evidence(facts: CardFacts, tmp_path: Path) -> None:
    assert facts.benchmarks and facts.safety and facts.scorecard and facts.validation
    empty = dataclasses.replace(
        facts,
        benchmarks=facts.benchmarks.model_copy(update={"scores": {}}),
        safety=facts.safety.model_copy(update={"rates": {}}),
        scorecard=facts.scorecard.model_copy(update={"metrics": {}}),
        validation=facts.validation.model_copy(update={"checks": []}),
    )
    missing = card.write(tmp_path, empty).missing
    assert [one for one in missing if one.startswith("evidence: no ") or "not checked" in one] == [
        "evidence: no metric of the tuned model",
        "evidence: no benchmark was run",
        "evidence: no safety probe was asked",
        "evidence: the data was not checked",
    ]


def test_a_worse_group_is_never_left_out(facts: CardFacts) -> None:
    assert facts.scorecard and facts.scorecard.slices
    bad = facts.scorecard.slices[0].model_copy(update={"worse": True})
    many = [bad.model_copy(update={"value": f"group-{n}"}) for n in range(12)]
    page = card.readme(dataclasses.replace(facts, scorecard=facts.scorecard.model_copy(update={"slices": many})))
    assert all(f"label: group-{n} " in page or f": group-{n} " in page for n in range(12))


def test_nothing_at_all_is_known_and_the_card_still_says_so(facts: CardFacts, tmp_path: Path) -> None:
    bare = CardFacts(release="r", at="", model={}, method="lora", training={}, files={}, named={}, packages=())
    made = card.write(tmp_path, bare)
    assert len(made.missing) >= len(card.STATED) + len(card.MEASURED)
    assert front((tmp_path / card.README).read_text())["tags"] == ["slipway", "lora"]


# --- E11: shown, never done ---


@pytest.mark.parametrize("name", ATTACKS)
def test_case_E11_nothing_in_a_card_does_anything(name: str, facts: CardFacts) -> None:
    attack = ATTACKS[name]
    page = card.readme(card_facts.hostile(facts, attack))
    found = tokens(page)
    assert not {"html_inline", "html_block", "link_open", "image", "fence", "code_block"} & {
        token.type for token in found
    }
    assert not {"blockquote_open", "ordered_list_open", "hr", "s_open", "strong_open"} & {token.type for token in found}
    titles = [after.content for token, after in pairwise(found) if token.type == "heading_open"]
    assert titles[1:] == [one.title for one in sections.of(facts) if one.says_something]
    assert shown(page).count(plain(attack)) > 40, "shown as it is, letter for letter"
    assert not re.search("[\x00-\x09\x0b-\x1f\x7f\u200e\u200f\u202a-\u202e\u2066-\u2069]", page)


@pytest.mark.parametrize("name", ATTACKS)
def test_case_E11_other_renderers_agree(name: str, facts: CardFacts) -> None:
    """These let HTML through, so what is not escaped here would run."""
    body = card.readme(card_facts.hostile(facts, ATTACKS[name])).split("\n---\n", 1)[1]
    python = markdown.markdown(body, extensions=["tables", "fenced_code"])
    loose = mistune.create_markdown(escape=False, plugins=["table", "url", "strikethrough", "math"])(body)
    for page in (python, str(loose)):
        assert not re.search(r"<(script|img|b|a|td onerror|!--|pre|del|blockquote|ol)\b", page), name
        assert "javascript:" not in re.sub(r">[^<]*<", "", page)


@pytest.mark.parametrize("name", ATTACKS)
def test_case_E11_metadata_stays_metadata(name: str, facts: CardFacts, tmp_path: Path) -> None:
    attack = ATTACKS[name]
    attacked = card_facts.hostile(facts, attack)
    card.write(tmp_path, attacked)
    page = (tmp_path / card.README).read_text(encoding="utf-8")
    found, known = front(page), front(card.readme(facts))
    assert found.keys() - {"license_name"} <= known.keys()
    assert found["license"] == "other" and found["model-index"][0]["name"] == (plain(attack) or "unnamed")
    assert re.fullmatch(r"[a-z0-9.-]+", found["license_name"])
    assert all(re.fullmatch(r"[a-z0-9.-]+", one["dataset"]["type"]) for one in found["model-index"][0]["results"])
    (tmp_path / "front.yaml").write_text(yaml.safe_dump(found))
    strict.read_yaml(tmp_path / "front.yaml")
    results = yaml.safe_load((tmp_path / card.RESULTS).read_text(encoding="utf-8"))
    assert len(results) > 5 and all(set(one) == {"dataset", "value", "date", "notes"} for one in results)
    strict_text = (tmp_path / card.RESULTS).read_text(encoding="utf-8")
    assert "!!python" not in re.sub(r"'[^'\n]*(''[^'\n]*)*'", "", strict_text)


@pytest.mark.parametrize(
    "text",
    ["1e3", "0o7", "-1e3", ".5e3", "1_000", "12", "0x1F", "2026-01-01", "yes", "No", "null", "~", "true", ".inf", "=",
     "<<", "- x", "? x", "a: b", "a #b", "'", '"', "%x", "@x", "`x`", "&a", "*a", "!x", "|", ">", "[", "{", "---", "..."],
)  # fmt: skip
def test_case_E11_a_text_stays_the_text_it_is_in_either_yaml(text: str) -> None:
    """The hub reads YAML 1.2, where other texts look like numbers than in 1.1."""
    written = hub.yaml_of({"name": text, "list": [text]})
    assert yaml.safe_load(written) == {"name": text, "list": [text]}
    values = [line.split(" ", 1)[1] for line in written.splitlines() if " " in line]
    assert len(values) == 2
    assert not any(
        re.fullmatch(r"[-+]?(0o[0-7]+|0x[0-9a-fA-F]+|\.?\d[\d._]*([eE][-+]?\d+)?)", value) for value in values
    )


@pytest.mark.parametrize("name", ["script", "entity", "comment", "template", "link", "terminal"])
def test_case_E11_the_html_report_shows_and_does_nothing(name: str, tmp_path: Path) -> None:
    """The same attacks in every text of every file that the report reads."""
    attack = ATTACKS[name]
    made_release.write_evidence(tmp_path)
    for kind, place in (
        (Scorecard, "scorecard"),
        (Benchmarks, "benchmarks"),
        (Safety, "safety"),
        (Decision, "decision"),
    ):
        path = tmp_path / made_release.PATHS[place]
        writable = attack.encode("utf-8", "replace").decode()
        card_facts.poisoned(kind.load(path), writable).save(path)
    page = report.html(made_release.make_release(model=plain(attack), reason=plain(attack)), tmp_path)
    inert = re.sub(r"<style>.*?</style>", "", page, flags=re.S)
    tags = set(re.findall(r"<\s*([a-zA-Z!]+)", inert))
    assert not tags & {"script", "img", "b onerror", "iframe", "object", "embed", "link"}
    assert not re.search(r"<[^>]*\s(on\w+|href=[\"']?javascript)", inert)
    if name in ("script", "template", "link"):
        assert html.unescape(inert).count(plain(attack)) >= 3


# --- the escaping itself ---


@pytest.mark.parametrize(
    ("said", "written"),
    [
        ("plain words, 1.5 % (of 3) - and more", "plain words, 1.5 % (of 3) - and more"),
        ("a_b", "a\\_b"),
        ("1. first", "1\\. first"),
        ("1.0.0", "1.0.0"),
        ("- x", "\\- x"),
        ("-5 degrees", "-5 degrees"),
        ("+1", "+1"),
        ("---", "\\---"),
        ("<b>", "&lt;b&gt;"),
        ("see http://x.y or www.x.y", "see http\\://x.y or www\\.x.y"),
        (0, "0"),
        (Markdown("**kept**"), "**kept**"),
    ],
)
def test_only_what_would_do_something_is_escaped(said: object, written: str) -> None:
    assert escaped(said) == written


def test_nothing_is_not_shown() -> None:
    with pytest.raises(TypeError):
        escaped(None)


def test_code_holds_paths_and_digests_alone() -> None:
    assert code("reports/a.json") == "`reports/a.json`"
    assert code("a`<b>\n|c") == "`a??b? ?c`"


def test_a_path_of_this_machine_is_not_told(facts: CardFacts) -> None:
    assert facts.source
    files = [file.model_copy(update={"uri": f"/srv/me/{n}.jsonl"}) for n, file in enumerate(facts.source.files)]
    away = facts.source.model_copy(update={"source": "/srv/me/rows", "files": files})
    found = dataclasses.replace(facts, source=away, model={**facts.model, "dataset": {}})
    page = card.readme(found) + hub.yaml_of(hub.eval_results(found))
    assert "/srv/me" not in page and "| Source | rows |" in page and digest.of_value("data") in page
