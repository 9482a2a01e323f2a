"""Policy files: whatever is wrong with one, the answer is no, with the line."""

from pathlib import Path

import pytest

from slipway.errors import UsageError
from slipway.governance.policy import Policy

RULE = """\
rules:
  - id: exact
    metric: tuned.exact_match
    at_least: 0.9
    severity: block
    why: because
    remedy: Do better.
    owner: model
"""
SHIPPED = Path(__file__).parents[2] / "configs" / "policies"


def load(folder: Path, text: str) -> Policy:
    path = folder / "gates.yaml"
    path.write_text(text)
    return Policy.load(path)


def test_a_sound_policy_loads(tmp_path: Path) -> None:
    assert load(tmp_path, RULE).rules[0].bound == "≥ 0.9"


def test_every_shipped_gate_policy_loads() -> None:
    policy = Policy.load(SHIPPED / "gates.yaml")
    assert len(policy.rules) >= 6
    assert sum(rule.severity == "block" for rule in policy.rules) >= 4


@pytest.mark.parametrize(
    ("text", "line", "complaint"),
    [
        ("", None, "is empty"),
        ("rules: []\n", 1, "at least 1 item"),
        ("{}\n", 1, "rules is missing"),
        ("- a\n", None, "not a mapping"),
        (RULE.replace("severity: block", "severity: advise"), 1, "nothing could ever be refused"),
        (RULE.replace("at_least: 0.9", "at_least: [0.9"), 5, "not valid YAML"),
        (RULE + "extra: 1\n", 9, "unknown key extra"),
        (RULE + "    ceiling: 1\n", 9, "rule exact: unknown key ceiling"),
        (RULE + "    owner: me\n", 9, "stands twice (first on line 8)"),
        (RULE + RULE.removeprefix("rules:\n"), 1, "two rules have the id 'exact'"),
        (RULE.replace("severity: block", "severity: approve"), 5, "'approve'"),
        (RULE.replace("at_least: 0.9", "at_least: '0.9'"), 4, "'0.9'"),
        (RULE.replace("at_least: 0.9", "at_least: !!float 0.9"), 4, "the tag"),
        (RULE.replace("at_least: 0.9", "at_least: .nan"), 4, "finite"),
        (RULE.replace("at_least: 0.9", "at_least: true"), 4, "valid number"),
        (RULE.replace("    at_least: 0.9\n", ""), 2, "exactly one of"),
        (RULE + "    at_most: 1\n", 2, "exactly one of"),
        (RULE.replace("tuned.exact_match", "tuned.niceness"), 2, "no metric 'tuned.niceness'"),
        (RULE.replace("tuned.exact_match", "delta.tuned.loss"), 2, "no metric 'delta.tuned.loss'"),
        (RULE.replace("    owner: model\n", ""), 2, "owner is missing"),
    ],
)
def test_case_E9_a_broken_policy_is_denied_with_its_line(
    tmp_path: Path, text: str, line: int | None, complaint: str
) -> None:
    with pytest.raises(UsageError) as caught:
        load(tmp_path, text)
    message = str(caught.value)
    assert complaint in message
    assert "\n" not in message
    assert f"gates.yaml{f':{line}' if line else ''}" in message


def test_case_E9_a_missing_policy_is_denied(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="does not exist"):
        Policy.load(tmp_path / "none.yaml")
    with pytest.raises(UsageError, match="is a folder"):
        Policy.load(tmp_path)
