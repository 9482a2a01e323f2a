"""Great Expectations' Data Docs: the results as pages to browse, made to work without a network.

As shipped, the pages load styles, scripts and a logo from other people's servers, which would also tell them when
somebody looks. Here they carry their own style and nothing else.
"""

import html
import re
import shutil
from collections.abc import Mapping
from pathlib import Path
from string import Template
from typing import TYPE_CHECKING

from slipway.artifacts import Validation
from slipway.data.expectations import problem_of

if TYPE_CHECKING:
    from great_expectations.core import ExpectationSuiteValidationResult

_REMOTE = re.compile(
    r'<script[^>]*\bsrc="https?:[^>]*>\s*</script>|<link[^>]*\bhref="https?:[^>]*>|<img[^>]*\bsrc="https?:[^>]*>', re.S
)
_REMOTE_STYLE = re.compile(r"url\(['\"]?https?:[^)]*\)")
_SCRIPT = re.compile(r"<script\b.*?</script>|<footer>.*?</footer>", re.S)

_STYLE = """
body { font: 15px/1.5 system-ui, sans-serif; color: #1c2733; background: #fff;
       margin: 2rem auto; padding: 0 1rem; max-width: 70rem; }
table { border-collapse: collapse; width: 100%; margin: 1rem 0; }
th, td { border-bottom: 1px solid #d7dee6; padding: .4rem .6rem; text-align: left; vertical-align: top;
         overflow-wrap: anywhere; }
a { color: #0b5cad; }
h1, h2, h3, h4, h5, h6 { line-height: 1.25; }
.fa-check-circle::before { content: "passed"; }
.fa-times::before, .fa-exclamation-triangle::before { content: "failed"; }
input[type=radio], input[type=radio] + label { display: none; }
.failed, .text-danger { color: #a3160c; font-weight: 600; }
.passed, .text-success { color: #0d6b36; font-weight: 600; }
"""

_INDEX = Template("""<!DOCTYPE html>
<html lang="en"><head><meta charset="utf-8"><title>Data Docs</title><style>$style</style></head>
<body><h1>Data Docs</h1>
<p>What configs/expectations asks of the data, and what was found.
Values of the data are never shown, only where they stand.</p>
<table><tr><th>Table</th><th>Rows</th><th>Checks</th><th>Result</th></tr>$rows</table>
<ul>$problems</ul>
</body></html>
""")


def write(folder: Path, validation: Validation, results: "Mapping[str, ExpectationSuiteValidationResult]") -> Path:
    """A folder of pages, replacing the one before; gives its first page."""
    partial = folder.with_name(f".partial-{folder.name}")
    shutil.rmtree(partial, ignore_errors=True)
    _build(partial, results)
    for page in partial.rglob("*.html"):
        page.write_text(_offline(page.read_text(encoding="utf-8")), encoding="utf-8")
    for film in (partial / "static").rglob("*.gif"):  # of a tour through the product
        film.unlink()
    (partial / "index.html").write_text(_index(partial, validation), encoding="utf-8")
    shutil.rmtree(folder, ignore_errors=True)
    partial.rename(folder)
    return folder / "index.html"


def _build(folder: Path, results: "Mapping[str, ExpectationSuiteValidationResult]") -> None:
    import great_expectations as gx
    from great_expectations.core.run_identifier import RunIdentifier
    from great_expectations.data_context.types.resource_identifiers import (
        ExpectationSuiteIdentifier,
        ValidationResultIdentifier,
    )

    context = gx.get_context(mode="ephemeral")
    context.add_data_docs_site(
        "slipway",
        {
            "class_name": "SiteBuilder",
            "show_how_to_buttons": False,
            "site_index_builder": {"class_name": "DefaultSiteIndexBuilder"},
            "store_backend": {"class_name": "TupleFilesystemStoreBackend", "base_directory": str(folder.resolve())},
        },
    )
    for table, result in results.items():
        asked = [one.expectation_config for one in result.results if one.expectation_config]
        context.suites.add(gx.ExpectationSuite(name=table, expectations=list(asked)))
        key = ValidationResultIdentifier(
            ExpectationSuiteIdentifier(table), RunIdentifier(run_name="validate"), batch_identifier=table
        )
        context.validation_results_store.set(key, result)
    context.build_data_docs(site_names=["slipway"])


def _offline(page: str) -> str:
    page = _SCRIPT.sub("", _REMOTE_STYLE.sub("none", _REMOTE.sub("", page)))
    return page.replace("</head>", f"<style>{_STYLE}</style></head>", 1)


def _index(folder: Path, validation: Validation) -> str:
    """A first page of our own: the shipped one lists nothing without scripts from the network."""
    rows = []
    for table, count in validation.tables.items():
        checks = [check for check in validation.checks if check.suite == table]
        failures = sum(not check.passed for check in checks)
        page = next((folder / "validations" / table).rglob("*.html")).relative_to(folder).as_posix()
        verdict = f'<td class="failed">{failures} failed</td>' if failures else '<td class="passed">all passed</td>'
        link = f'<a href="{html.escape(page)}">{html.escape(table)}</a>'
        rows.append(f"<tr><td>{link}</td><td>{count:,}</td><td>{len(checks)}</td>{verdict}</tr>")
    failed = [check for check in validation.checks if not check.passed]
    problems = [f"<li>{check.severity}: {html.escape(problem_of(check))}</li>" for check in failed]
    return _INDEX.substitute(style=_STYLE, rows="".join(rows), problems="".join(problems))
