"""The report and the summary: what is there is shown, what is not this release's is not, and everything is escaped."""

import io
import re
import subprocess
import sys
import time
from html.parser import HTMLParser
from pathlib import Path

import made_release
import pytest
from rich.console import Console

from slipway import report
from slipway.artifacts import Decision, Estimate
from slipway.errors import StageError
from slipway.report import Release, charts, summary, words
from slipway.report.evidence import Evidence

HEADINGS = (
    "Data",
    "Training",
    "Before and after",
    "Row by row",
    "What tuning must not cost",
    "Confusion matrix",
    "Sample answers",
    "The gate",
    "Data checks",
    "What was looked for",
)
ATTACK = '<script>alert("x")</script><img src=http://evil.example/x onerror=alert(1)>{{ 7 * 7 }}'


class Page(HTMLParser):
    """What a browser would make of a page: tags, attributes and text."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.tags: list[str] = []
        self.attributes: list[tuple[str, str]] = []
        self.words: list[str] = []
        self.open: list[str] = []
        self.feed(text)
        self.text = " ".join(" ".join(self.words).split())

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        self.attributes += [(name, value or "") for name, value in attrs]
        if tag not in ("meta", "link", "img", "br", "line", "circle", "polyline"):
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        self.attributes += [(name, value or "") for name, value in attrs]

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag, f"</{tag}> closes nothing"

    def handle_data(self, data: str) -> None:
        if not self.open or self.open[-1] != "style":
            self.words.append(data)


@pytest.fixture(scope="module")
def workspace(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("workspace")
    made_release.write_evidence(root)
    return root


@pytest.fixture(scope="module")
def page(workspace: Path) -> Page:
    return Page(report.html(made_release.make_release(), workspace))


def headings(text: str) -> list[str]:
    return re.findall(r"<h2[^>]*>(.*?)</h2>", text)


def test_the_verdict_is_first_and_every_part_of_the_evidence_follows(workspace: Path) -> None:
    assert headings(report.html(made_release.make_release(), workspace)) == ["Registered", *HEADINGS, "Lineage", "Time"]


def test_the_figures_stand_in_the_page(page: Page) -> None:
    expected = [
        "98.5 %",
        "97.2–99.8 %",
        "+98.5 points",
        "3,444 rows came in, 188 rows went",
        "Leaked test 40",
        "Decontaminated 3,256",
    ]
    expected += ["6 rows of 400 the tuned model got wrong", "394 rows it got right", "1 expectation of 5 does not hold"]
    expected += ["Loss over 1,020 steps", "exact-match", "4be1a0c97d5f0e3b2a68c1d7f9e04b5a6c8d7e21", "models/adapter"]
    assert [text for text in expected if text not in page.text] == []


def test_the_page_loads_nothing_and_runs_nothing(page: Page) -> None:
    assert len(page.tags) > 500 and page.open == []
    assert not {"script", "link", "iframe", "object", "embed", "img"} & set(page.tags)
    assert not [a for a in page.attributes if a[0] in ("src", "href", "srcset", "action") or a[0].startswith("on")]


def test_it_is_accessible(workspace: Path, page: Page) -> None:
    """Pictures have words, table heads a scope, and no state is told by colour alone."""
    text = report.html(made_release.make_release(), workspace)
    assert text.count("<svg ") == len(re.findall(r'<svg [^>]*role="img" aria-label="[^"]{20,}"', text)) == 1
    heads = re.findall(r"<th\b[^>]*>", text)
    assert len(heads) > 60
    assert [h for h in heads if "scope=" not in h and "aria-hidden" not in h] == []
    chips = re.findall(r'<span class="chip [^>]*>(.*?)</span>(?=\s*<|</)', text)
    assert len(chips) > 15 and all(re.search(r"[a-z]{3}", chip) for chip in chips)


def test_writing_is_fast_and_small(workspace: Path, tmp_path: Path) -> None:
    begin = time.monotonic()
    path = report.write(made_release.make_release(), workspace, tmp_path / "deep" / "report.html")
    assert time.monotonic() - begin < 3
    assert 20_000 < path.stat().st_size < 1_500_000


def test_the_same_release_gives_the_same_bytes(workspace: Path) -> None:
    release = made_release.make_release()
    assert report.html(release, workspace) == report.html(release, workspace)


def test_everything_a_stranger_wrote_is_escaped(tmp_path: Path) -> None:
    """A message, a model name, a reason and a tag that hold HTML and template code are only text."""
    made_release.write_evidence(tmp_path, message=ATTACK)
    hostile = made_release.make_release(model=ATTACK, reason=f"`{ATTACK}`", tag=ATTACK)
    page = Page(report.html(hostile, tmp_path))
    assert "script" not in page.tags and "img" not in page.tags
    assert not [a for a in page.attributes if a[0].startswith("on")]
    assert page.text.count('<script>alert("x")</script>') >= 9  # title, name, reason, tag and six messages
    assert "{{ 7 * 7 }}" in page.text


@pytest.mark.parametrize(
    ("ended_at", "shown"),
    [
        ("ingest", []),
        ("prepare", []),
        ("validate", ["Data"]),
        ("evaluate", ["Data", "Training", "Data checks", "What was looked for"]),
    ],
)
def test_an_early_end_shows_what_it_made_and_nothing_of_an_older_release(
    workspace: Path, ended_at: str, shown: list[str]
) -> None:
    """The workspace holds every file of an earlier release; only those of stages that ran now count."""
    release = made_release.make_release("failed", f"{ended_at}: disk full", ended_at=ended_at)
    text = report.html(release, workspace)
    assert headings(text) == ["Failed", *shown, "Lineage", "Time"]
    assert "98.5 %" not in text and f"{ended_at}: disk full" in text


def test_a_refused_validation_shows_its_checks(workspace: Path) -> None:
    release = made_release.make_release("refused", "validate: 1 critical check fails", ended_at="validate")
    assert headings(report.html(release, workspace)) == [
        "Refused",
        "Data",
        "Data checks",
        "What was looked for",
        "Lineage",
        "Time",
    ]


def test_a_refused_gate_says_which_rule_and_what_to_do(tmp_path: Path) -> None:
    made_release.write_evidence(tmp_path, tuned_match=0.88)
    decision = made_release._decision(0.88)
    text = Page(report.html(made_release.make_release("refused", decision.summary), tmp_path)).text
    assert "Refused exact-match: at least 86.7 % are exact, 3.3 points below the bound" in text
    assert "exact-match: train longer" in text and "−0.033 outside" in text


def test_nothing_on_disk_still_gives_a_report(tmp_path: Path) -> None:
    text = report.html(made_release.make_release("aborted", "stopped by Ctrl-C", ended_at="ingest"), tmp_path)
    assert headings(text) == ["Aborted", "Lineage", "Time"]


@pytest.mark.parametrize("name", ["scorecard", "decision", "validation", "loss", "predictions", "source", "card"])
def test_a_torn_file_is_named_and_the_rest_is_shown(tmp_path: Path, name: str) -> None:
    made_release.write_evidence(tmp_path)
    place = made_release.PATHS.get(name, "data/prepared/card.json")
    path = tmp_path / place
    path.write_bytes(path.read_bytes()[:-20])
    text = report.html(made_release.make_release(), tmp_path)
    assert "Some evidence could not be read" in text and place in text
    assert str(tmp_path) not in text
    assert len(headings(text)) >= 9


def test_a_release_is_kept_and_read_back(tmp_path: Path) -> None:
    release = made_release.make_release()
    release.save(tmp_path / Release.FILE)
    assert Release.load(tmp_path / Release.FILE) == release
    (tmp_path / Release.FILE).write_text('{"id": "x"}')
    with pytest.raises(StageError, match="is not a Release"):
        Release.load(tmp_path / Release.FILE)


def test_the_summary_in_plain_lines(workspace: Path) -> None:
    shown = summary.lines(made_release.make_release(), workspace)
    text = "\n".join(shown)
    assert max(map(len, shown)) <= 110 and "\x1b" not in text
    for wanted in (
        "fetch     ↺ cached",
        "98.5 % (97.2–99.8 %)",
        "✓ Registered: support-desk 1.0.0, 6 rules hold",
        "report.html",
        "next",
    ):
        assert wanted in text
    assert "champion" not in text  # it is the base


def test_the_summary_moves_no_cursor(tmp_path: Path) -> None:
    hostile = made_release.make_release("failed", "[bold]odd[/bold] \x1b[2J name", ended_at="ingest")
    text = "\n".join(summary.lines(hostile, tmp_path))
    assert "\x1b" not in text and "[bold]odd[/bold]" in text


def test_the_summary_is_light() -> None:
    heavy = "matplotlib pandas numpy pyarrow torch jinja2 mlflow prefect dvc"
    code = f"import sys, slipway.report.summary; print([m for m in {heavy.split()} if m in sys.modules])"
    ran = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert ran.stdout.strip() == "[]"


def test_show_reads_the_copies_kept_with_the_record(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    from slipway import records

    monkeypatch.setattr(records, "folder_of", lambda root, release: root / "kept" / release)
    made_release.write_evidence(tmp_path)
    release = made_release.make_release()
    records.save(tmp_path, tmp_path, release)
    made_release.write_evidence(tmp_path, tuned_match=0.5)  # a later release in the same workspace
    summary.show(release, tmp_path)
    assert "98.5 %" in capsys.readouterr().out


def test_loss_curve() -> None:
    assert charts.loss_curve([]) is None
    rows = [{"step": step, "train_loss": 1 / step} for step in range(1, 5001)]
    curve = charts.loss_curve(rows)
    assert curve is not None and [line.name for line in curve.lines] == ["training"]
    points = curve.lines[0].points
    assert len(points) <= charts.MAX_POINTS + 1
    assert all(curve.left <= x <= curve.right and curve.top <= y <= curve.bottom for x, y in points)
    assert points[-1][0] == pytest.approx(curve.right)  # the last step is kept
    one = charts.loss_curve([{"step": 0, "train_loss": 0.0, "validation_loss": 0.0}])
    assert one is not None and len(one.lines) == 2


@pytest.mark.parametrize("high", [0.003, 0.7, 1.0, 3.1, 9.99, 47, 1020, 1e6])
def test_ticks_are_round_and_inside(high: float) -> None:
    ticks = charts.nice_ticks(0, high)
    assert 3 <= len(ticks) <= 7 and ticks[0] == 0 and ticks[-1] <= high * (1 + 1e-9)


def test_a_narrow_margin_looks_narrow_and_a_missing_one_has_no_bar() -> None:
    shares = [charts.margin_share(m) for m in (0.01, -0.01, 500.0, -3.0, 0.0, None)]
    assert shares == pytest.approx([0.1, -0.1, 1.0, -1.0, 0.0, None])


def test_words() -> None:
    assert [words.number(v) for v in (0.018712, 12345.6, 3.0, -2, None)] == ["0.01871", "12,346", "3", "−2", "–"]
    assert [words.duration(s) for s in (0.04, 59.7, 107, 7260, None)] == [
        "0.0 s",
        "1 min 00 s",
        "1 min 47 s",
        "2 h 01 min",
        "–",
    ]
    assert words.title("broken_json") == "Broken JSON"
    assert words.places(["a.jsonl:3", "b:1", "a.jsonl:9"]) == "a.jsonl rows 3, 9; b rows 1"
    assert words.METRICS["loss"].tone(-0.1) == words.METRICS["accuracy"].tone(0.1) == "good"
    assert words.METRICS["exact_match"].interval(Estimate(value=0.5, low=0.4, high=0.6, rows=9)) == "40.0–60.0 %"


def test_a_slice_that_is_worse_is_shown_and_says_so(page: Page) -> None:
    assert "refund_request label 48 72.0 %" in page.text
    assert "✕ worse" in page.text


def test_a_benchmark_that_could_not_run_is_named_with_the_reason(page: Page) -> None:
    assert "programs.pass_at_1 was not measured: bubblewrap is not installed" in page.text


def test_the_registration_shows_what_was_observed_and_what_was_waived(workspace: Path, tmp_path: Path) -> None:
    made_release.write_registration(tmp_path / "register")
    shown = Page(report.write(made_release.make_release(), workspace, tmp_path / "report.html").read_text())
    assert "Registration" in shown.text
    assert "◇ waived" in shown.text and "Waived by Ada until 2026-06-01: A fresh set is on its way." in shown.text
    assert "23 candidates scored on this test set, of 20 it may decide on, over budget" in shown.text
    assert "loaded in 1.2 s on cpu" in shown.text


def test_a_waiver_that_did_nothing_is_named(workspace: Path, tmp_path: Path) -> None:
    made_release.write_registration(tmp_path / "register")
    path = tmp_path / "register" / "decision.json"
    idle = ["the waiver of smal by Ada did nothing: the policy has no such rule"]
    Decision.load(path).model_copy(update={"idle_waivers": idle}).save(path)
    shown = Page(report.write(made_release.make_release(), workspace, tmp_path / "report.html").read_text())
    assert idle[0] in shown.text
    evidence = Evidence(workspace, made_release.make_release(), tmp_path / "register")
    stream = io.StringIO()
    Console(file=stream, width=200).print(summary.renderable(evidence, made_release.make_release()))
    assert f"! {idle[0]}" in stream.getvalue()


def test_what_could_not_be_observed_is_named_with_the_reason(workspace: Path, tmp_path: Path) -> None:
    away = {"advisories": "no service answered"}
    made_release.write_registration(tmp_path / "register", advisories=None, missing=away)
    shown = Page(report.write(made_release.make_release(), workspace, tmp_path / "report.html").read_text())
    assert "not observed: no service answered" in shown.text


def test_the_rules_that_wait_for_register_are_named_until_it_has_spoken(page: Page) -> None:
    assert "2 more rules need what only register sees: servable, signed." in page.text
