"""The model card: a Hugging Face README.md and eval_results.yaml, from evidence alone.

What has no evidence is not said, and what should have been said is listed as missing. The same facts give the same bytes.
"""

from collections.abc import Iterator
from pathlib import Path

from slipway import atomic, model
from slipway.artifacts import ModelCard
from slipway.documents import hub, sections
from slipway.documents.facts import FOLDERS, CardFacts
from slipway.documents.text import Markdown, code, markdown

README, RESULTS = "README.md", "eval_results.yaml"
# What a card without gaps says of the model, in words that only people know …
STATED = (
    "name", "version", "task_type", "description", "intended_use", "limitations", "author", "team", "licence",
    "base_licence", "data_licence", "dataset", "hardware", "deployment_targets", "compliance_tags",
)  # fmt: skip
# … and what the evidence says.
MEASURED = (
    "source", "base", "data", "loss", "validation", "inspection", "scorecard", "benchmarks", "safety", "scan", "licences",
    "decision",
)  # fmt: skip


def write(folder: Path, facts: CardFacts) -> ModelCard:
    """Write the card and its results into a folder; what it lacks, if anything."""
    atomic.write_text(folder / README, readme(facts))
    atomic.write_text(folder / RESULTS, hub.yaml_of(hub.eval_results(facts)))
    missing = list(_missing(facts))
    return ModelCard(complete=not missing, missing=missing)


def readme(facts: CardFacts) -> str:
    """README.md: metadata that the hub reads, and sections that people read."""
    import jinja2

    templates = jinja2.Environment(
        loader=jinja2.FileSystemLoader(Path(__file__).parent),
        autoescape=False,  # which would escape for HTML; `finalize` does it for Markdown, everywhere
        finalize=markdown,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    version = facts.stated("version")
    page = templates.get_template("card.md.jinja").render(
        metadata=Markdown(hub.yaml_of(hub.metadata(facts)).rstrip()),
        title=f"{facts.name} {version}" if version else facts.name,
        description=facts.stated("description"),
        release=facts.release,
        sections=[section for section in sections.of(facts) if section.says_something],
        cells=lambda row: Markdown(" | ".join(markdown(cell) for cell in row)),
        rule=lambda row: Markdown("|".join("---" for _ in row)),
        sources=lambda paths: Markdown(", ".join(code(path) for path in paths)),
    )
    return page.rstrip() + "\n"


def _missing(facts: CardFacts) -> Iterator[str]:
    yield from (f"{model.FILE}: {name}" for name in STATED if facts.stated(name) is None)
    yield from (f"{model.FILE}: dataset.{name}" for name in ("name", "version") if not facts.part("dataset").get(name))
    yield from (f"evidence: {name}" for name in MEASURED if not getattr(facts, name))
    yield from (f"evidence: the manifest of {name}" for name in FOLDERS if name not in facts.manifests)
    if facts.scorecard and not facts.scorecard.metrics.get("tuned"):
        yield "evidence: no metric of the tuned model"
    if facts.benchmarks and not facts.benchmarks.scores.get("tuned"):
        yield "evidence: no benchmark was run"
    if facts.safety and not facts.safety.rates.get("tuned"):
        yield "evidence: no safety probe was asked"
    if facts.validation and not facts.validation.checks:
        yield "evidence: the data was not checked"
