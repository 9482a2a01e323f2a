"""configs/policies/canary.yaml: what is shipped, and everything that is refused with its line."""

from pathlib import Path

import pytest

from slipway.errors import UsageError
from slipway.release.policy import Canary, Exceedance, Latency
from slipway.release.sequential import Question

ROOT = Path(__file__).parents[2]
SHIPPED = ROOT / "configs" / "policies" / "canary.yaml"


def test_the_shipped_policy() -> None:
    policy = Canary.load(SHIPPED)
    assert [step.candidate_percent for step in policy.steps] == [5, 10, 25, 50, 100]
    assert [one.name for one in policy.watched if one.must_pass] == ["quality"]
    assert len(policy.watched) == 7 and policy.abort
    design = policy.design("quality")
    assert design.question == Question.non_inferiority(0.05) and design.alpha == 0.05
    assert design.beta == pytest.approx(0.05 / 7)
    with pytest.raises(UsageError, match="taste is no primary metric"):
        policy.design("taste")


def test_a_bound_is_the_champions_quantile_and_some_more_or_what_was_promised() -> None:
    assert Exceedance(increase_percent=20, margin=0.05).bound(2.0) == pytest.approx(2.4)
    assert Latency(increase_percent=20, margin=0.05).bound(2.0) == pytest.approx(2.4)
    assert Latency(increase_percent=20, margin=0.05, slo_seconds=1.5).bound(2.0) == 1.5


REFUSED = {
    "a key that nobody knows": ("alpha: 0.05 ", "alfa: 0.05 ", "alfa: there is no such key"),
    "a key within": ("min_requests: 20,", "min_request: 20,", "steps.0.min_request: there is no such key"),
    "a chance that is no number": ("alpha: 0.05 ", "alpha: .nan ", "alpha: is nan"),
    "a chance that is none": ("alpha: 0.05 ", "alpha: 0 ", "alpha: is 0"),
    "a margin that is no number": ("non-inferiority, margin: 0.05", "non-inferiority, margin: .nan", "primary.quality.margin: is nan"),
    "a text for a number": ("beta: 0.05", "beta: '0.05'", "beta: is '0.05'"),
    "a weight that falls": ("candidate_percent: 25,", "candidate_percent: 8,", "8 does not rise above the step before"),
    "a weight that stays": ("candidate_percent: 25,", "candidate_percent: 10,", "10 does not rise above"),
    "a weight beyond all": ("candidate_percent: 100,", "candidate_percent: 101,", "candidate_percent: is 101"),
    "a ramp that ends early": ("candidate_percent: 100,", "candidate_percent: 90,", "the last step is 90, not 100"),
    "a step without time": ("max_seconds: 172800", "max_seconds: 15", "steps.3.max_seconds: 15 is less than"),
    "no time for all steps": ("deadline_seconds: 604800", "deadline_seconds: 40", "deadline_seconds: the steps take"),
    "no primary metric": ("  quality: {test: non-inferiority, margin: 0.05}\n", "", "primary: is None"),
    "an empty set of them": ("primary:\n  quality: {test: non-inferiority, margin: 0.05}", "primary: {}", "primary: no p"),
    "no margin at all": ("non-inferiority, margin: 0.05", "non-inferiority, margin: 0", "is 0: no number of requests"),
    "superiority without hope": ("test: non-inferiority,", "test: superiority,", "primary.quality.expected: is missing"),
    "hope below the margin": ("non-inferiority, margin: 0.05", "superiority, margin: 0.05, expected: 0.02", "not above"),
    "a test nobody knows": ("test: non-inferiority,", "test: vibes,", "primary.quality.test: is 'vibes'"),
    "a primary guardrail": ("  quality: {", "  toxicity: {", "this is a guardrail's name"),
    "a rate that fails too high": ("fails_at: 0.97", "fails_at: 0.995", "0.995 is not below at_least (0.99)"),
    "an abort rule of nothing": ("metric: toxicity, below", "metric: charm, below", "charm is not watched"),
    "a rollback half told": ("{mode: immediate}", "{mode: gradual}", "needs shares that fall and end with 0"),
    "a rollback that rises": (
        "{mode: immediate}", "{mode: gradual, candidate_percents: [5, 25, 0]}", "needs shares that fall",
    ),
    "a rollback told twice": ("{mode: immediate}", "{mode: immediate, candidate_percents: [0]}", "has no shares"),
    "a rule for newer ones that is none": ("supersede: queue ", "supersede: maybe ", "supersede: is 'maybe'"),
}  # fmt: skip


@pytest.mark.parametrize("case", REFUSED)
def test_what_is_refused_and_where(case: str, tmp_path: Path) -> None:
    here, instead, says = REFUSED[case]
    text = SHIPPED.read_text()
    assert text.count(here) == 1, here
    file = tmp_path / "canary.yaml"
    file.write_text(text.replace(here, instead))
    with pytest.raises(UsageError) as refused:
        Canary.load(file)
    message = str(refused.value)
    assert says in message and message.startswith(f"{file}:") and "\n" not in message
    line = int(message.removeprefix(f"{file}:").split(":")[0])
    key = says.partition(":")[0].rpartition(".")[2] if ":" in says else None
    if key and key.isidentifier() and instead:
        assert key in file.read_text().splitlines()[line - 1] or line == text[: text.index(here)].count("\n") + 1


def test_no_canary_without_an_abort_rule(tmp_path: Path) -> None:
    kept = [line for line in SHIPPED.read_text().splitlines() if not line.lstrip().startswith("- {metric:")]
    file = tmp_path / "canary.yaml"
    file.write_text("\n".join(kept).replace("abort:", "abort: []"))
    with pytest.raises(UsageError, match=r"canary.yaml:\d+: abort: no abort rule: no canary starts without one"):
        Canary.load(file)
    file.write_text("\n".join(kept).replace("abort:", ""))
    with pytest.raises(UsageError, match="abort: is missing"):
        Canary.load(file)
    with pytest.raises(UsageError, match="does not exist"):
        Canary.load(tmp_path / "other.yaml")
