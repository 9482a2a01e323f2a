"""The gate on folders like those the stages leave: sound evidence passes, everything doubtful does not."""

import json
import math
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from slipway import digest
from slipway.artifacts import (
    BasePin,
    ChampionPin,
    Check,
    Decision,
    Estimate,
    Manifest,
    Scorecard,
    SourcePin,
    Validation,
)
from slipway.errors import StageError, UsageError
from slipway.evaluation.scoring import estimate
from slipway.identity import identity
from slipway.params import GateParams
from tasks.gate import gate

POLICY = Path(__file__).parents[2] / "configs" / "policies" / "gates.yaml"
SCORES = {
    "tuned": {"exact_match": 0.97, "accuracy": 0.99, "macro_f1": 0.98, "loss": 0.1, "perplexity": 1.1},
    "base": {"exact_match": 0.1, "accuracy": 0.2, "macro_f1": 0.15, "loss": 2.0, "perplexity": 7.4},
}


def _folder(path: Path, files: dict[str, str], facts: dict[str, Any]) -> Manifest:
    for name, text in files.items():
        (path / name).parent.mkdir(parents=True, exist_ok=True)
        (path / name).write_text(text)
    return Manifest.write(path, facts)


def _estimates(values: dict[str, float]) -> dict[str, Estimate]:
    return {name: estimate(value, value - 0.01, value + 0.01, 400) for name, value in values.items()}


def _scorecard(base: Path, adapter: Path, prepared: Path) -> Scorecard:
    values = SCORES | {"champion": SCORES["base"]}
    delta = {name: SCORES["tuned"][name] - SCORES["base"][name] for name in SCORES["tuned"]}
    return Scorecard(
        identity=identity(base, adapter),
        base_identity=identity(base, None),
        champion=ChampionPin(kind="base"),
        items=400,
        expected_items=400,
        test_digest=digest.of_file(prepared / "rows" / "test.parquet"),
        predictions_sha256=digest.of_bytes(b"predictions"),
        metrics={model: _estimates(found) for model, found in values.items()},
        deltas={other: _estimates(delta) for other in ("base", "champion")},
        labels=["a"],
        confusion=[[400, 0]],
    )


@dataclass
class Project:
    """Evidence on disk, and the gate over it."""

    root: Path

    @property
    def scorecard(self) -> Path:
        return self.root / "scorecard.json"

    def edit(self, name: str, change: Callable[[dict[str, Any]], Any]) -> None:
        value = json.loads((self.root / name).read_text())
        change(value)
        (self.root / name).write_text(json.dumps(value))

    def judge(self, policy: Path = POLICY) -> Decision:
        names = ("source.json", "base.json", "champion.json", "base", "adapter", "prepared", "validation.json")
        made = self.root / "decision.json"
        read = [self.root / name for name in (*names, "scorecard.json", "predictions.parquet")]
        metrics = gate(GateParams(policy=str(policy)), policy, *read, made)
        decision = Decision.load(made)
        assert metrics["passed"] == (decision.verdict == "pass")
        assert metrics["rules"] == len(decision.findings)
        return decision


@pytest.fixture
def project(tmp_path: Path) -> Project:
    base, adapter, prepared = (tmp_path / name for name in ("base", "adapter", "prepared"))
    about = _folder(base, {"config.json": "{}", "tokenizer.json": "{}", "model.safetensors": "w"}, {"source": "tiny"})
    _folder(adapter, {"adapter_model.safetensors": "a"}, {"method": "lora", "base_digest": about.digest})
    card = json.dumps({"drop_rate": 0.1, "duplicate_rate": 0.05})
    data = _folder(prepared, {"rows/test.parquet": "rows", "card.json": card}, {"label_pattern": None})
    check = Check(
        suite="raw", expectation="not_null", column="id", severity="critical", passed=True,
        observed=0, unexpected=0, rows=[], why="ids identify",
    )  # fmt: skip
    Validation(
        passed=True, raw_digest="r", prepared_digest=data.digest, suites_digest="s", tables={"raw": 400}, checks=[check]
    ).save(tmp_path / "validation.json")
    _scorecard(base, adapter, prepared).save(tmp_path / "scorecard.json")
    (tmp_path / "predictions.parquet").write_bytes(b"predictions")
    SourcePin(source="sample", test_source=None, revision=None, files=[]).save(tmp_path / "source.json")
    BasePin(source="tiny", revision=None, files={}).save(tmp_path / "base.json")
    ChampionPin(kind="base").save(tmp_path / "champion.json")
    return Project(tmp_path)


def _blamed(decision: Decision) -> set[str]:
    return {finding.rule for finding in decision.findings if finding.verdict != "pass" and finding.severity == "block"}


def test_sound_evidence_passes_and_says_what_it_rests_on(project: Project) -> None:
    decision = project.judge()
    assert decision.verdict == "pass"
    assert len(decision.findings) >= 12
    assert decision.evidence_digest == digest.of_pairs(decision.evidence)
    assert decision.policy_digest == digest.of_file(POLICY)
    assert str(project.root) not in (project.root / "decision.json").read_text()


def test_the_same_evidence_gives_the_same_bytes(project: Project) -> None:
    project.judge()
    first = (project.root / "decision.json").read_bytes()
    project.judge()
    assert (project.root / "decision.json").read_bytes() == first


def test_a_bad_model_is_refused_with_its_margin_and_remedy(project: Project) -> None:
    low = {"value": 0.912, "low": 0.887, "high": 0.93, "rows": 400}
    project.edit("scorecard.json", lambda card: card["metrics"]["tuned"].update(exact_match=low))
    for other in ("base", "champion"):
        gain = {"value": 0.812, "low": 0.8, "high": 0.82, "rows": 400}
        project.edit("scorecard.json", lambda card, o=other, g=gain: card["deltas"][o].update(exact_match=g))
    decision = project.judge()
    assert decision.verdict == "refuse"
    assert _blamed(decision) == {"exact-answers"}
    assert "misses by 1.3 points" in decision.summary


def test_edited_predictions_are_refused(project: Project) -> None:
    (project.root / "predictions.parquet").write_bytes(b"better predictions")
    assert _blamed(project.judge()) == {"evidence-predictions"}


def test_another_champion_than_the_pinned_one_is_refused(project: Project) -> None:
    ChampionPin(kind="version", version="1.0.0", identity="1" * 64, predictions="2" * 64).save(
        project.root / "champion.json"
    )
    assert _blamed(project.judge()) == {"evidence-champion"}


def test_case_A3_a_scorecard_over_too_few_rows_is_refused(project: Project) -> None:
    project.edit("scorecard.json", lambda card: card.update(items=399))
    decision = project.judge()
    assert decision.verdict == "refuse"
    assert _blamed(decision) == {"evidence-rows"}


def test_case_E5_a_swapped_baseline_is_refused(project: Project) -> None:
    def swap(card: dict[str, Any]) -> None:
        card["metrics"] |= {"tuned": card["metrics"]["base"], "base": card["metrics"]["tuned"]}

    project.edit("scorecard.json", swap)
    assert "evidence-deltas" in _blamed(project.judge())


def test_case_E5_swapped_identities_are_refused(project: Project) -> None:
    def swap(card: dict[str, Any]) -> None:
        card |= {"identity": card["base_identity"], "base_identity": card["identity"]}

    project.edit("scorecard.json", swap)
    decision = project.judge()
    assert {"evidence-model", "evidence-base"} <= _blamed(decision)
    assert decision.identity in decision.summary


@pytest.mark.parametrize("value", ["0.97", None, True, -0.0, 1e308, math.nan, math.inf])
def test_case_E5_a_malformed_metric_in_the_file_never_passes(project: Project, value: object) -> None:
    project.edit("scorecard.json", lambda card: card["metrics"]["tuned"]["exact_match"].update(value=value))
    try:
        assert project.judge().verdict != "pass"
    except StageError as error:
        assert "scorecard.json" in str(error)


def test_case_E5_a_missing_metric_is_undecided(project: Project) -> None:
    def forget(card: dict[str, Any]) -> None:
        for found in (*card["metrics"].values(), *card["deltas"].values()):
            del found["exact_match"]

    project.edit("scorecard.json", forget)
    assert project.judge().verdict == "undecided"


def test_a_champion_with_another_tokenizer_has_no_loss_delta_and_a_rule_on_it_is_undecided(project: Project) -> None:
    pin = ChampionPin(kind="version", version="1.0.0", identity="1" * 64, predictions="2" * 64)
    pin.save(project.root / "champion.json")

    def change(card: dict[str, Any]) -> None:
        card["champion"] = pin.model_dump(mode="json")
        for name in ("loss", "perplexity"):
            del card["deltas"]["champion"][name]

    project.edit("scorecard.json", change)
    assert project.judge().verdict == "pass"  # the shipped policy compares losses with the base alone
    policy = project.root / "gates.yaml"
    policy.write_text(POLICY.read_text().replace("delta.base.loss", "delta.champion.loss"))
    decision = project.judge(policy)
    assert (decision.verdict, _blamed(decision)) == ("undecided", {"better-than-base"})
    project.edit("scorecard.json", lambda card: card["deltas"]["champion"].pop("exact_match"))
    assert "evidence-deltas" in _blamed(project.judge())


def test_another_test_set_is_refused_naming_both_digests(project: Project) -> None:
    recorded = digest.of_file(project.root / "prepared" / "rows" / "test.parquet")
    _folder(project.root / "prepared", {"rows/test.parquet": "other rows"}, {})
    decision = project.judge()
    assert _blamed(decision) == {"evidence-test-set", "evidence-validated-data"}
    assert recorded in decision.summary
    assert digest.of_bytes(b"other rows") in decision.summary


@pytest.mark.parametrize("change", [{"passed": False}, {"checks": []}], ids=["failed", "no checks"])
def test_data_that_failed_validation_is_refused(project: Project, change: dict[str, Any]) -> None:
    project.edit("validation.json", lambda found: found.update(change))
    assert "evidence-validation" in _blamed(project.judge())


def test_training_rows_that_validation_has_not_seen_are_refused(project: Project) -> None:
    validated = json.loads((project.root / "validation.json").read_text())["prepared_digest"]
    now = _folder(project.root / "prepared", {"tokens/train.safetensors": "unseen"}, {}).digest
    decision = project.judge()
    assert _blamed(decision) == {"evidence-validated-data"}
    assert validated in decision.summary
    assert now in decision.summary


def test_a_critical_check_that_failed_is_refused_whatever_the_report_says(project: Project) -> None:
    project.edit("validation.json", lambda found: found["checks"][0].update(passed=False))
    assert "evidence-validation" in _blamed(project.judge())


def test_a_changed_weight_stops_the_gate(project: Project) -> None:
    (project.root / "adapter" / "adapter_model.safetensors").write_text("b")
    with pytest.raises(StageError, match=r"adapter_model\.safetensors changed"):
        project.judge()


def test_case_E9_without_a_readable_policy_there_is_no_decision(project: Project) -> None:
    broken = project.root / "gates.yaml"
    for text in ("", "rules: [", "rules: []\n"):
        broken.write_text(text)
        with pytest.raises(UsageError, match=r"gates\.yaml"):
            project.judge(broken)
    with pytest.raises(UsageError, match="does not exist"):
        project.judge(project.root / "gone.yaml")
    assert not (project.root / "decision.json").exists()


@pytest.mark.parametrize(("name", "kind"), [("scorecard.json", Scorecard), ("decision.json", Decision)])
def test_case_A9_a_report_torn_at_any_byte_is_detected(
    project: Project, name: str, kind: type[Scorecard | Decision]
) -> None:
    project.judge()
    path = project.root / name
    whole = path.read_bytes()
    assert len(whole) > 2000
    for size in range(len(whole) - 1):
        path.write_bytes(whole[:size])
        with pytest.raises(StageError, match=rf"{name} is torn .* at byte \d+ of {size}\b"):
            kind.load(path)
    path.write_bytes(whole[:-1])  # only the newline after the closing brace: nothing is lost
    kind.load(path)
