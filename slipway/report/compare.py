"""Versions side by side, as lines for a terminal, as a page and as a picture."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from slipway.registry.comparing import Line, Part, Sheet
from slipway.report import columns, figures, words

BEST = "★"
MOST_COLUMNS = 6  # versions that stand beside each other in a terminal; more stand below each other
MOST_ACROSS = 8  # figures of each version, where versions stand below each other in a terminal
MOST_ROWS = 100  # versions in a terminal or on a page
HEADINGS: dict[Part, str] = {
    "metrics": "Metrics",
    "params": "Parameters",
    "data": "Data and base",
    "cost": "Time, size and cost",
}
_SHORT = 12  # characters of a digest that are shown


@dataclass(frozen=True)
class Cell:
    """One value as it is read."""

    text: str
    interval: str | None
    best: bool
    full: str  # what a digest's cell shows when pointed at
    share: float | None = None  # of the widest bar, for a page


@dataclass(frozen=True)
class Shown:
    """A line of a sheet in words."""

    name: str
    direction: str
    cells: list[Cell]
    differs: bool


def shown(part: Part, line: Line) -> Shown:
    name = line.name if part == "params" else figures.label(line.name)
    direction = {"higher": "higher is better", "lower": "lower is better", "either": ""}[line.better]
    most = _widest(line)
    return Shown(name, direction, [_cell(part, line, place, most) for place in range(len(line.values))], line.differs)


def _cell(part: Part, line: Line, place: int, most: float | None) -> Cell:
    value, pair = line.values[place], line.intervals[place] if line.intervals else None
    full = str(value) if value is not None else "–"
    text = (
        full[:_SHORT] if line.name.endswith("digest") else full if part == "params" else figures.show(line.name, value)
    )
    between = figures.interval(line.name, *pair) if pair else None
    return Cell(text, between, place in line.best, full, _share(value, most))


def _widest(line: Line) -> float | None:
    """What a whole bar stands for: all of a share, or the largest value; None where a bar says nothing."""
    there = [one for one in line.values if isinstance(one, int | float) and not isinstance(one, bool)]
    if line.better == "either" or not there or min(there) < 0:
        return None
    return 1.0 if figures.is_share(line.name) else max(there)


def _share(value: Any, most: float | None) -> float | None:
    if most is None or not isinstance(value, int | float) or isinstance(value, bool):
        return None
    return min(value / most, 1.0) if most > 0 else 0.0


# --- a terminal ----------------------------------------------------------------------------------------------------------


def lines(sheet: Sheet, everything: bool = False) -> Iterator[str]:
    """Versions as columns while they are few, as rows when they are many; equal parameters only on request."""
    yield from (f"! {warning}" for warning in sheet.warnings)
    more, sheet = len(sheet.subjects) - MOST_ROWS, sheet.first(MOST_ROWS)
    few = len(sheet.subjects) <= MOST_COLUMNS
    for part, found in sheet.parts.items():
        wanted = [shown(part, line) for line in found if everything or line.differs or part in ("metrics", "data")]
        hidden = len(found) - len(wanted)
        yield from ("", HEADINGS[part]) if few or wanted else ()
        yield from (_beside(sheet, wanted) if few else _below(sheet, wanted)) if wanted else ()
        if hidden:
            yield f"  {words.count(hidden, 'value')} the same in all of them (`--all-values` shows them)"
    if any(line.best for found in sheet.parts.values() for line in found):
        yield f"\n{BEST} the best of these, where they differ"
    if more > 0:
        yield f"{more:,} more versions were compared; `--json` has them all"


def _beside(sheet: Sheet, found: Sequence[Shown]) -> Iterator[str]:
    headers = ["", *_names(sheet)]
    rows = [[f"  {line.name}", *(_text(cell) for cell in line.cells)] for line in found]
    yield from columns.lines(headers, rows, range(1, len(headers)))


def _below(sheet: Sheet, found: Sequence[Shown]) -> Iterator[str]:
    first = found[:MOST_ACROSS]
    headers = ["", *(line.name for line in first)]
    rows = [
        [f"  {name}", *(_text(line.cells[place], False) for line in first)] for place, name in enumerate(_names(sheet))
    ]
    yield from columns.lines(headers, rows, range(1, len(headers)))
    if len(found) > MOST_ACROSS:
        yield f"  and {', '.join(line.name for line in found[MOST_ACROSS:])[:200]} (`--json` or `--html` shows them)"


def _names(sheet: Sheet) -> list[str]:
    """Versions alone where all are of one model."""
    one = len({subject.model for subject in sheet.subjects}) == 1
    return [subject.version if one else subject.name for subject in sheet.subjects]


def _text(cell: Cell, wide: bool = True) -> str:
    between = f" ({cell.interval})" if cell.interval and wide else ""
    return f"{BEST + ' ' if cell.best else ''}{cell.text}{between}"


# --- a page and a picture ------------------------------------------------------------------------------------------------


def html(sheet: Sheet) -> str:
    """One self-contained page: no network, no scripts, everything escaped."""
    more, sheet = len(sheet.subjects) - MOST_ROWS, sheet.first(MOST_ROWS)
    hidden = [f"{more:,} more versions were compared than are shown here"] if more > 0 else []
    parts = {HEADINGS[part]: [shown(part, line) for line in found] for part, found in sheet.parts.items() if found}
    return page(
        "compare.html.jinja",
        subjects=sheet.subjects,
        names=_names(sheet),
        parts=parts,
        warnings=sheet.warnings + hidden,
    )


def page(template: str, **values: Any) -> str:
    import jinja2

    templates = jinja2.Environment(
        loader=jinja2.FileSystemLoader(Path(__file__).parent),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    templates.filters |= {"short": words.short, "number": words.number}
    templates.globals |= {"count": words.count, "BEST": BEST}
    return templates.get_template(template).render(**values)
