"""The gate against itself (`policy aa`) and against its own past (`policy backtest`)."""

import json
import shutil
from pathlib import Path

import made_release
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from stages import test_gate

from slipway import records
from slipway.artifacts import ChampionPin, Decision, Manifest, Scorecard
from slipway.cli import main
from slipway.evaluation import predictions, scoring
from slipway.evaluation.scoring import COLUMNS
from slipway.evaluation.testset import Row, TestSet
from slipway.governance import selftest

REPO = Path(__file__).parents[2]
POLICY = REPO / "configs" / "policies" / "gates.yaml"
ROWS = test_gate.ROWS
SLICED = {"label": ["ab"[i % 2] for i in range(ROWS)]}


# --- A/A ------------------------------------------------------------------------------------------------------------


def _card(kind: str) -> Scorecard:
    pin = ChampionPin(kind="base") if kind == "base" else ChampionPin(kind="version", version="1", identity="c")
    return Scorecard(
        identity="t", base_identity="b", champion=pin, items=ROWS, expected_items=ROWS, test_digest="d",
        predictions_sha256="p", metrics={}, deltas={}, comparisons={}, slices=[], labels=["a", "b"], confusion=[],
    )  # fmt: skip


def _tables(seed: int, right: float = 0.9) -> dict[str, scoring.Floats]:
    """Two models of one quality that err independently, and a poor base."""
    rows = [Row(f"{i:04}", "[]", "prompt", f"answer {i}", "ab"[i % 2]) for i in range(ROWS)]
    tests = TestSet(rows, ROWS, "d", lambda answer: "ab"[int(answer.split()[1]) % 2] if "answer" in answer else None)
    random = np.random.default_rng(seed)

    def said(share: float) -> scoring.Floats:
        hits = random.random(ROWS) < share
        answers = [
            predictions.Answer(row.id, row.answer if hit else "?", float(random.exponential()), 2)
            for row, hit in zip(rows, hits, strict=True)
        ]
        return scoring.table(tests, predictions.of_answers(tests, answers, "any"))

    return {"tuned": said(right), "champion": said(right), "base": said(0.1)}


def _decided(verdict: str) -> Decision:
    return Decision.model_construct(verdict=verdict, findings=[])


def test_two_runs_that_always_differ_flip_always_and_steady_ones_never() -> None:
    verdicts = iter(["pass", "refuse"] * 10)
    flipping = selftest.run(_card("version"), _tables(1), SLICED, lambda _: _decided(next(verdicts)), 20, 7)
    assert (flipping.flips.value, flipping.flips.rows) == (1.0, 10)
    assert dict(flipping.verdicts) == {"pass": 10, "refuse": 10, "undecided": 0}
    steady = selftest.run(_card("version"), _tables(1), SLICED, lambda _: _decided("pass"), 20, 7)
    assert (steady.flips.value, steady.flips.high) == (0.0, scoring.rate(0, 10).high)


def test_a_seed_gives_the_same_trials_and_another_others() -> None:
    def cards(seed: int) -> list[Scorecard]:
        seen: list[Scorecard] = []

        def judged(card: Scorecard) -> Decision:
            seen.append(card)
            return _decided("pass")

        selftest.run(_card("version"), _tables(1), SLICED, judged, 4, seed)
        return seen

    assert cards(7) == cards(7) != cards(8)
    first = cards(7)[0]
    assert (first.items, first.champion) == (ROWS, _card("version").champion)
    assert set(first.metrics) == {"tuned", "champion", "base"}
    assert first.comparisons["champion"].both + first.comparisons["champion"].only_tuned == round(
        first.metrics["tuned"]["exact_match"].value * ROWS
    )


def test_a_swap_takes_nothing_away_and_touches_half_of_the_rows() -> None:
    tables = _tables(2)
    swapped = selftest.exchanged(_card("version"), tables, np.random.default_rng(3))
    pair, before = (np.sort(np.stack([t["tuned"], t["champion"]]), axis=0) for t in (swapped, tables))
    assert (pair == before).all()
    differ = (tables["tuned"] != tables["champion"]).any(axis=1)
    moved = (swapped["tuned"] != tables["tuned"]).any(axis=1)
    assert 0.4 < moved.sum() / differ.sum() < 0.6
    assert (swapped["base"] == tables["base"]).all()


def test_a_twin_is_as_good_on_every_label_and_errs_elsewhere() -> None:
    tables = _tables(4)
    found = selftest.exchanged(_card("base"), tables, np.random.default_rng(5))
    exact, tokens = COLUMNS.index("exact"), COLUMNS.index("tokens")
    kept = found["tuned"] + found["champion"] - tables["tuned"]  # the twin, before the swap
    for label in range(2):
        rows = tables["tuned"][:, len(COLUMNS) + label] > 0
        assert kept[rows, exact].sum() == tables["tuned"][rows, exact].sum()
    assert (kept[:, tokens] == tables["tuned"][:, tokens]).all()
    share = tables["tuned"][:, exact].mean()
    apart = (kept[:, exact] != tables["tuned"][:, exact]).mean()
    assert apart == pytest.approx(2 * share * (1 - share), abs=0.05)
    true, guess, hit = np.split(kept[:, len(COLUMNS) :], 3, axis=1)
    assert (hit == true * guess).all()


def test_tests_keep_their_promised_rate_of_false_alarms(monkeypatch: pytest.MonkeyPatch) -> None:
    """Slices, McNemar and Tango on models that do not differ: wrong at most 5 times in 100."""
    monkeypatch.setattr(selftest, "RESAMPLES", 10)
    alarms = dict.fromkeys(("slices", "McNemar", "Tango"), 0)

    def judged(card: Scorecard) -> Decision:
        delta = card.deltas["champion"]["exact_match"]
        alarms["slices"] += any(one.worse for one in card.slices)
        alarms["McNemar"] += card.comparisons["champion"].p_value <= 0.05
        alarms["Tango"] += not delta.low <= 0 <= delta.high
        return _decided("pass")

    trials, by = 300, {"label": SLICED["label"], "kind": [str(i % 9) for i in range(ROWS)]}
    selftest.run(_card("version"), _tables(6, 0.8), by, judged, trials, 1)
    assert max(alarms.values()) <= 0.05 * trials + 3 * np.sqrt(0.05 * trials), alarms
    assert alarms["Tango"] > 0  # it is no test that never speaks


# --- a project with evidence ----------------------------------------------------------------------------------------


@pytest.fixture
def project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> test_gate.Project:
    """What the gate's own tests make, as a project in which commands run; the test rows are a real table here."""
    made = test_gate._made(tmp_path)
    prepared = made.path("prepared")
    rows = [
        {"id": row.id, "messages": row.messages, "prompt": row.prompt, "answer": row.answer, "label": row.label}
        | {"language": "en"}
        for row in test_gate._tests(prepared).rows
    ]
    pq.write_table(pa.Table.from_pylist(rows), prepared / "rows" / "test.parquet")
    (prepared / "manifest.json").unlink()
    counts = {"rows/test.parquet": ROWS, "rows/train.parquet": 3000}
    about = Manifest.write(prepared, {"label_pattern": None}, counts)
    for name in ("validation", "inspection"):
        made.edit(name, lambda value: value.update(prepared_digest=about.digest))
    made.score(388)
    shutil.copytree(REPO / "configs", tmp_path / "configs")
    shutil.copy(REPO / "params.yaml", tmp_path / "params.yaml")
    monkeypatch.chdir(tmp_path)
    assert made.judge(POLICY).verdict == "pass"
    return made


def _run(capsys: pytest.CaptureFixture[str], *arguments: str) -> tuple[int, str, str]:
    capsys.readouterr()
    with pytest.raises(SystemExit) as end:
        main(["policy", *arguments])
    said = capsys.readouterr()
    return int(end.value.code or 0), said.out, said.err


def test_aa_prints_how_often_the_real_policy_contradicts_itself(
    project: test_gate.Project, capsys: pytest.CaptureFixture[str]
) -> None:
    code, out, _ = _run(capsys, "aa", "--trials", "40", "--json")
    found = json.loads(out)
    assert (code, found["trials"], sum(found["verdicts"].values()), found["flips"]["rows"]) == (0, 40, 40, 20)
    assert found["verdicts"]["pass"] > 0
    assert found["rules"]["valid-data"] == {"pass": 40, "refuse": 0, "undecided": 0}
    shaky = found["rules"]["not-worse-than-champion"]  # 400 rows are too few for two points, and the trials say so
    assert 0 < shaky["pass"] < 40
    assert shaky["undecided"] > 0
    assert _run(capsys, "aa", "--trials", "40", "--json")[1] == out
    code, out, _ = _run(capsys, "aa", "--trials", "40")
    assert "two runs on identical models disagree" in out
    assert "not-worse-than-champion" in out
    assert "valid-data" not in out
    code, _, err = _run(capsys, "aa", "--trials", "1")
    assert (code, err.count("\n")) == (2, 1)


def test_aa_refuses_evidence_of_several_runs(project: test_gate.Project, capsys: pytest.CaptureFixture[str]) -> None:
    table = pq.read_table(project.path("predictions"))
    pq.write_table(table.slice(0, table.num_rows), project.path("predictions"), compression="none")
    code, _, err = _run(capsys, "aa")
    assert (code, err.count("\n")) == (2, 1)
    assert "is not of the test rows and predictions beside it" in err
    project.path("scorecard").unlink()
    assert "there is no scorecard here yet" in _run(capsys, "aa")[2]


def _release(project: test_gate.Project, number: int, **changes: object) -> Path:
    name = f"2026031{number}-092653-5f2c1a"
    release = made_release.make_release(**{"id": name, "paths": test_gate.NAMES} | changes)
    return records.save(project.root, project.root, release)


def _backtest(capsys: pytest.CaptureFixture[str], *arguments: str) -> dict[str, dict[str, object]]:
    code, out, _ = _run(capsys, "backtest", *arguments, "--json")
    assert code == 0
    return {one["release"][:8]: one for one in json.loads(out)["releases"]}


def test_a_policy_is_tried_on_every_past_release(
    project: test_gate.Project, capsys: pytest.CaptureFixture[str]
) -> None:
    _release(project, 1)
    project.score(380)
    assert project.judge(POLICY).verdict == "pass"
    _release(project, 2)
    project.score(330)
    assert project.judge(POLICY).verdict == "refuse"
    _release(project, 3, outcome="refused")
    _release(project, 4, outcome="failed", ended_at="validate")

    same = _backtest(capsys)
    assert [same[f"2026031{i}"]["would"] for i in range(1, 5)] == ["pass", "pass", "refuse", None]
    assert not any(one["differs"] for one in same.values())
    assert "it ended at validate, before anything was judged" in str(same["20260314"]["because"])

    text = POLICY.read_text()
    assert text.count("tuned.exact_match.low >= 0.9") == 1
    stricter = project.root / "stricter.yaml"
    stricter.write_text(text.replace("tuned.exact_match.low >= 0.9", "tuned.exact_match.low >= 0.945"))
    found = _backtest(capsys, "stricter.yaml")
    assert [found[f"2026031{i}"]["would"] for i in range(1, 4)] == ["pass", "undecided", "refuse"]
    assert (found["20260312"]["decided"], found["20260312"]["differs"]) == ("pass", True)
    assert found["20260312"]["because"] == "exact-answers"
    out = _run(capsys, "backtest", "stricter.yaml")[1]
    assert "4 releases, 3 judged again, 1 with another verdict" in out


REPORTS = ("scorecard", "validation", "inspection", "benchmarks", "safety", "scan", "loss")


def test_evidence_that_is_not_there_or_not_the_same_is_never_a_pass(
    project: test_gate.Project, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = _release(project, 1)
    assert _backtest(capsys)["20260311"]["would"] == "pass"
    kept = [f"{name}.json" for name in REPORTS] + ["prepared/manifest.json", "prepared/card.json"]
    kept += ["base/manifest.json", "adapter/manifest.json", "decision.json"]
    read = 0
    for name in kept:
        path = folder / name
        whole = path.read_bytes()
        path.unlink()
        gone = _backtest(capsys)["20260311"]
        assert (gone["would"], str(gone["because"])[:17]) == (None, "cannot be judged:"), name
        assert Path(name).name in str(gone["because"]), name
        if name != "decision.json":
            path.write_bytes(whole + b" ")
            edited = _backtest(capsys)["20260311"]
            assert edited["would"] is None, name
            assert f"{name} changed" in str(edited["because"]), name
        path.write_bytes(whole)
        read += 1
    assert read == 12
    assert _backtest(capsys)["20260311"]["would"] == "pass"


def test_what_did_not_agree_then_does_not_pass_now(
    project: test_gate.Project, capsys: pytest.CaptureFixture[str]
) -> None:
    project.edit("scorecard", lambda card: card.update(items=399))
    assert project.judge(POLICY).verdict == "refuse"
    _release(project, 1, outcome="refused")
    lax = project.root / "lax.yaml"
    lax.write_text(
        "rules:\n  - {id: any, expression: rows >= 1, severity: block, why: w, remedy: r, owner: o, minimum_rows: 1}\n"
    )
    found = _backtest(capsys, "lax.yaml")["20260311"]
    assert (found["would"], "evidence-rows" in str(found["because"])) == ("refuse", True)
