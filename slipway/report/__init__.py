"""A release as a person reads it: one HTML file, and a few lines for the terminal."""

from pathlib import Path

from slipway import atomic
from slipway.report.evidence import Evidence
from slipway.report.release import Machine, Outcome, Release, StageRun, Status

__all__ = ["Machine", "Outcome", "Release", "StageRun", "Status", "html", "write"]


def html(release: Release, root: Path, register: Path | None = None) -> str:
    """The report as one self-contained page: no network, no scripts, everything escaped."""
    import jinja2

    from slipway.report import page, words

    templates = jinja2.Environment(
        loader=jinja2.FileSystemLoader(Path(__file__).parent),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    templates.filters |= {"duration": words.duration, "number": words.number, "percent": words.percent}
    templates.filters |= {"title_case": words.title, "short": words.short, "places": words.places, "prose": page.prose}
    templates.globals |= {"STATUSES": words.STATUSES, "METRICS": words.METRICS, "count": words.count}
    return templates.get_template("report.html.jinja").render(page.view(Evidence(root, release, register)))


def write(release: Release, root: Path, to: Path) -> Path:
    """Write a release's report, of as much evidence as there is; returns where it lies."""
    atomic.write_text(to, html(release, root, to.parent / "register"))
    return to
