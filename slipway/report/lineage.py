"""Lineage as people read it: where a version came from, or who learned from something."""

from collections.abc import Iterator

from slipway.artifacts import Json
from slipway.documents.text import plain
from slipway.registry.lineage import Ancestry, Learners, Link
from slipway.report import columns, compare, words
from slipway.report.version import when

_KINDS = {
    "file": "this raw data file", "row": "this row", "data": "this prepared data set", "base": "this base model",
    "identity": "this very model",
}  # fmt: skip
_HEADINGS = {"made_by": "Made by", "learned_from": "Learned from", "judged_by": "Judged by"}
_SHOWN = 100  # versions in a terminal
_SHOWN_DOUBTS = 5


def lines(found: Ancestry | Learners) -> Iterator[str]:
    yield from _ancestry(found) if isinstance(found, Ancestry) else _learners(found)


def _ancestry(found: Ancestry) -> Iterator[str]:
    yield found.version.name
    for name, heading in _HEADINGS.items():
        links: list[Link] = getattr(found, name)
        yield from ("", heading)
        yield from columns.lines([], [[f"  {link.name}", link.value, link.digest or ""] for link in links])
    yield from ("", "Led to")
    yield from columns.lines([], [[f"  {name}", text] for name, text in _after(found)])


def _after(found: Ancestry) -> Iterator[tuple[str, str]]:
    yield "compared with", found.compared_with or "the base model"
    yield "compared with it", ", ".join(found.children) or "no version"
    if not found.served:
        yield "served", "never"
    for one in found.served:
        yield (
            "served",
            f"{when(one.since)} to {when(one.until) if one.until else 'now'} UTC (generation {one.generation})",
        )


def _learners(found: Learners) -> Iterator[str]:
    yield headline(found)
    if found.rows and found.rows != [found.target]:
        yield f"asked for as {', '.join(found.rows[:5])}{' …' if len(found.rows) > 5 else ''}"
    rows = [
        [f"  {one.model} {one.version}", " ".join(one.marks), one.state, "; ".join(one.where[:3])]
        for one in found.versions[:_SHOWN]
    ]
    yield from columns.lines([], rows)
    if len(found.versions) > _SHOWN:
        yield f"  and {len(found.versions) - _SHOWN:,} more (`--json` lists them)"


def headline(found: Learners) -> str:
    what, target, many = _KINDS[found.kind], plain(found.target), len(found.versions)
    if not many:
        return f"no version knows {what}, of {words.count(found.asked, 'version')} asked: {target}"
    counted = words.count(many, "version")
    if found.kind == "base":
        return f"{counted} {'was' if many == 1 else 'were'} tuned on {what}: {target}"
    if found.kind == "identity":
        return f"{counted} {'is' if many == 1 else 'are'} {what}: {target}"
    return f"{counted} learned from {what} or {'was' if many == 1 else 'were'} judged on it: {target}"


def doubt(found: Learners) -> str:
    """Of whom nobody can tell."""
    shown = "; ".join(plain(one) for one in found.unknown[:_SHOWN_DOUBTS])
    more = f"; and {len(found.unknown) - _SHOWN_DOUBTS} more data sets" if len(found.unknown) > _SHOWN_DOUBTS else ""
    return (
        f"of these it is not known, so the answer is incomplete: {shown}{more}; "
        f"restore their index from a copy of the state folder, or count them as having learned from it"
    )


def as_json(found: Ancestry | Learners) -> Json:
    if isinstance(found, Learners):
        told = [{**vars(one), "marks": list(one.marks), "where": list(one.where)} for one in found.versions]
        return vars(found) | {"versions": told, "complete": not found.unknown}
    links = {name: [vars(link) for link in getattr(found, name)] for name in _HEADINGS}
    about = {"model": found.version.model, "version": found.version.version, "identity": found.version.identity}
    later = {
        "compared_with": found.compared_with,
        "children": found.children,
        "served": [vars(one) for one in found.served],
    }
    return about | links | later


def html(found: Ancestry | Learners) -> str:
    """One self-contained page: no network, no scripts, everything escaped."""
    if isinstance(found, Learners):
        told = doubt(found) if found.unknown else ""
        return compare.page("lineage.html.jinja", ancestry=None, learners=found, headline=headline(found), doubt=told)
    parts = {heading: getattr(found, name) for name, heading in _HEADINGS.items()}
    later = [Link(name, text) for name, text in _after(found)]
    return compare.page("lineage.html.jinja", ancestry=found, parts=parts, later=later, learners=None)
