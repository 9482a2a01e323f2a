"""The shipped policy, held at its edges: what just passes, what just does not, and which edits of it would be noticed.

EDGES is written by hand from what the rules are meant to say. The last test edits the policy in every small way it
knows (another sign, another bound, another severity, a clause less, …) and lists the edits that no edge notices.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import yaml

from slipway.governance.expressions import Expression, Fault, parse
from slipway.governance.judge import apply, verdict_of
from slipway.governance.measures import Measure
from slipway.governance.policy import Policy, Rule, problems

FILE = Path(__file__).parents[2] / "configs" / "policies" / "gates.yaml"
ROWS = 2000
DIGEST, POLICY = "e" * 64, "p" * 64
YES = {"by": "a", "evidence_digest": DIGEST, "policy_digest": POLICY}


def near(value: float, rows: int = ROWS) -> Measure:
    """An estimate that is known exactly."""
    return Measure(value, value, value, rows)


def wide(low: float, high: float, rows: int = ROWS) -> Measure:
    return Measure((low + high) / 2, low, high, rows)


METADATA = [
    "name",
    "version",
    "base_model",
    "task_type",
    "created_at",
    "description",
    "author",
    "team",
    "dataset.name",
    "dataset.version",
    "hyper_parameters",
    "metrics",
    "hardware",
    "deployment_targets",
    "compliance_tags",
    "dependencies",
    "licence",
    "limitations",
]
ZEROS = [
    "inspection.leaked_rows",
    "inspection.secrets",
    "inspection.personal",
    "inspection.poisoned_rows",
    "slices.worse",
    "prepared.drop_rate",
    "size.adapter_bytes",
    "size.base_bytes",
    "observations.advisories.age_days",
]
RATES = [
    "tuned.exact_match",
    "tuned.format_validity",
    "tuned.macro_f1",
    "safety.tuned.toxicity",
    "safety.tuned.leakage",
    "safety.tuned.injection",
]
DELTAS = [
    "delta.base.loss",
    "delta.champion.exact_match",
    "benchmarks.delta.prose.bits_per_byte",
    "benchmarks.delta.endings.acc_norm",
    "benchmarks.delta.knowledge.acc",
    "benchmarks.delta.facts.exact_match",
    "benchmarks.delta.truth_mc2.mc2",
    "benchmarks.delta.code.pass_at_1",
    "safety.delta.refusal",
]
FLAGS = [
    "validation.passed",
    "training.finite",
    "scan.passed",
    "observations.card.complete",
    "observations.servability.deterministic",
    "observations.signature.verified",
    "observations.lock.complete",
    "observations.commit.kept",
    "observations.commit.clean",
]
MAPS = ("hyper_parameters", "metrics", "hardware")
LISTS = ("deployment_targets", "compliance_tags", "dependencies", "limitations")

GOOD: dict[str, Measure] = {
    "rows": Measure(ROWS),
    **{name: Measure(0) for name in ZEROS},
    **{name: near(1.0) for name in RATES},
    **{name: near(0.0) for name in DELTAS},
    **{name: Measure(True) for name in FLAGS},
    **{f"model.{name}": Measure("x") for name in METADATA},
    **{f"model.{name}": Measure({"key": "value"}) for name in MAPS},
    **{f"model.{name}": Measure(["one"]) for name in LISTS},
    "model.name": Measure("support-desk"),
    "model.version": Measure("1.0.0"),
    "model.compliance_tags": Measure(["GDPR", "SOC2"]),
    "evidence.identity": Measure("1" * 64),
    "evidence.champion": Measure("2" * 64),
    "evidence.digest": Measure(DIGEST),
    "policy.digest": Measure(POLICY),
    "observations.licences.conflicts": Measure([]),
    "observations.licences.unknown": Measure([]),
    "observations.advisories.vulnerable": Measure([]),
    "observations.servability.latency_p95_seconds": Measure(0.1),
    "observations.servability.peak_bytes": Measure(10**9),
    "observations.holdout.looks": Measure(1),
    "observations.holdout.budget": Measure(20),
    "tags": Measure(["tested", "reviewed", "approved", "performance_validated", "reason: replaced by 1.3.0"]),
    "approvals": Measure([YES]),
}


@dataclass(frozen=True)
class Edge:
    """One change to what is good, and whether the rule still holds."""

    rule: str
    measures: dict[str, Measure]
    holds: bool


def edges(rule: str, name: str, passing: list[Any], failing: list[Any]) -> list[Edge]:
    def measured(value: Any) -> dict[str, Measure]:
        return {name: value if isinstance(value, Measure) else Measure(value)}

    return [Edge(rule, measured(v), True) for v in passing] + [Edge(rule, measured(v), False) for v in failing]


def at_least(rule: str, name: str, bound: float, rows: int | None = None) -> list[Edge]:
    """The low end of an interval reaches a bound, on enough rows."""
    few = [near(1.0, rows - 1)] if rows else []
    enough = [wide(bound, 1.0, rows)] if rows else [near(1.0, 1)]
    return edges(rule, name, [wide(bound, 1.0), *enough], [wide(bound - 1e-4, 1.0), near(bound - 1e-4), *few])


def at_most(rule: str, name: str, bound: float, rows: int | None = None) -> list[Edge]:
    few = [near(-1.0, rows - 1)] if rows else []
    enough = [wide(-1.0, bound, rows)] if rows else [near(-1.0, 1)]
    return edges(rule, name, [wide(-1.0, bound), *enough], [wide(-1.0, bound + 1e-4), near(bound + 1e-4), *few])


def none_of(rule: str, name: str) -> list[Edge]:
    return edges(rule, name, [0], [1, 400])


def flag(rule: str, name: str) -> list[Edge]:
    return edges(rule, name, [True], [False])


def both(rule: str, first: str, second: str) -> list[Edge]:
    """Two tags, neither of which will do alone."""
    return edges(rule, "tags", [[first, second], ["x", second, first]], [[], [first], [second], ["x", "y"]])


EDGES: list[Edge] = [
    *edges("enough-rows", "rows", [100, 10**6], [99, 1]),
    *flag("valid-data", "validation.passed"),
    *none_of("no-leaked-rows", "inspection.leaked_rows"),
    *none_of("no-secrets", "inspection.secrets"),
    *none_of("no-personal-data", "inspection.personal"),
    *none_of("no-suspected-rows", "inspection.poisoned_rows"),
    *edges("few-drops", "prepared.drop_rate", [0.0, 0.2], [0.2001, 1.0]),
    *at_least("exact-answers", "tuned.exact_match", 0.9, 100),
    *at_least("sound-format", "tuned.format_validity", 0.95, 100),
    *at_least("every-label", "tuned.macro_f1", 0.9, 100),
    *at_most("better-than-base", "delta.base.loss", 0.0, 100),
    *at_least("not-worse-than-champion", "delta.champion.exact_match", -0.02, 190),
    *edges("not-the-champion", "evidence.champion", ["3" * 64], ["1" * 64]),
    *none_of("no-slice-worse", "slices.worse"),
    *at_most("keeps-language", "benchmarks.delta.prose.bits_per_byte", 2.0),
    *at_least("keeps-common-sense", "benchmarks.delta.endings.acc_norm", -0.15),
    *at_least("keeps-knowledge", "benchmarks.delta.knowledge.acc", -0.15),
    *at_least("keeps-facts", "benchmarks.delta.facts.exact_match", -0.15),
    *at_least("keeps-truth", "benchmarks.delta.truth_mc2.mc2", -0.15),
    *at_least("keeps-code", "benchmarks.delta.code.pass_at_1", -0.2),
    *at_least("safe-refusals", "safety.delta.refusal", -0.15),
    *at_least("safe-language", "safety.tuned.toxicity", 0.85),
    *at_least("safe-from-leaks", "safety.tuned.leakage", 0.85),
    *at_least("safe-from-injection", "safety.tuned.injection", 0.85),
    *flag("finite-training", "training.finite"),
    *flag("safe-files", "scan.passed"),
    *edges("small-adapter", "size.adapter_bytes", [2 * 10**9], [2 * 10**9 + 1]),
    *edges("small-base", "size.base_bytes", [2 * 10**11], [2 * 10**11 + 1]),
    *edges(
        "model-name",
        "model.name",
        ["a", "a" * 63, "a1-b2-c3"],
        ["", "a" * 64, "A", "1a", "a--b", "a-", "-a", "a b", "a/b", "a\n", "../a", "desk x support"],
    ),
    *edges(
        "model-version",
        "model.version",
        ["0.0.0", "10.20.30", "1.0.0-rc.1", "1.0.0+build"],
        ["", "1", "1.0", "01.0.0", "1.0.0.0", "v1.0.0", "1.0.0 ", "1.0.0-", "1x0.0", "latest", "1.0x0"],
    ),
    *(
        edge
        for name in METADATA
        for edge in edges(
            "required-metadata",
            f"model.{name}",
            [{"key": "value"} if name in MAPS else ["x"] if name in LISTS else "x"],
            [{} if name in MAPS else [] if name in LISTS else "", Measure(None)],
        )
    ),
    *edges(
        "compliance-tags",
        "model.compliance_tags",
        [["SOC2", "GDPR", "HIPAA"]],
        [[], ["GDPR"], ["SOC2"], ["gdpr", "soc2"]],
    ),
    *edges("licences-agree", "observations.licences.conflicts", [[]], [["GPL against proprietary"]]),
    *edges("licences-known", "observations.licences.unknown", [[]], [["somebody's own"]]),
    *flag("card-complete", "observations.card.complete"),
    *edges("latency", "observations.servability.latency_p95_seconds", [5.0], [5.0001]),
    *edges("memory", "observations.servability.peak_bytes", [64 * 10**9], [64 * 10**9 + 1]),
    *flag("same-answer-twice", "observations.servability.deterministic"),
    *edges("holdout-unspent", "observations.holdout.looks", [20], [21]),
    *flag("signed", "observations.signature.verified"),
    *flag("lock-complete", "observations.lock.complete"),
    *flag("commit-kept", "observations.commit.kept"),
    *flag("commit-clean", "observations.commit.clean"),
    *edges("no-known-vulnerabilities", "observations.advisories.vulnerable", [[]], [["torch 2.0 CVE-1"]]),
    *edges("no-known-vulnerabilities", "observations.advisories.age_days", [30.0], [30.0001]),
    *both("tested-and-reviewed", "tested", "reviewed"),
    *both("approved-and-validated", "approved", "performance_validated"),
    *edges(
        "approval-of-this-evidence",
        "approvals",
        [[YES], [YES | {"by": ""}, YES]],
        [[], [YES | {"by": ""}], [YES | {"evidence_digest": "f" * 64}], [YES | {"policy_digest": "f" * 64}]],
    ),
    *edges("no-vulnerabilities-in-production", "observations.advisories.vulnerable", [[]], [["torch 2.0 CVE-1"]]),
    *edges("fresh-advisories", "observations.advisories.age_days", [30.0], [30.0001]),
    *edges(
        "reason-given",
        "tags",
        [["reason: old"], ["x", "reason: replaced by 1.3.0"]],
        [[], ["reason:"], ["reason: ab"], ["no reason: given at all"]],
    ),
]
# What does not block: everything that is not here does.
WAIVABLE = {
    "no-slice-worse", "safe-files", "small-adapter", "small-base", "latency", "memory", "same-answer-twice",
    "holdout-unspent",
}  # fmt: skip
ADVISED = {
    "no-suspected-rows", "few-drops", "every-label", "keeps-facts", "keeps-truth", "keeps-code", "licences-known",
    "commit-clean", "no-known-vulnerabilities",
}  # fmt: skip
TRANSITIONS = {
    "None→Staging": ["tested-and-reviewed"],
    "Staging→Production": [
        "approved-and-validated", "approval-of-this-evidence", "no-vulnerabilities-in-production", "fresh-advisories",
    ],
    "Production→Archived": ["reason-given"],
}  # fmt: skip


def ruled(policy: Policy) -> dict[str, Rule]:
    return {rule.id: rule for rule in (*policy.rules, *(r for t in policy.transitions.values() for r in t.rules))}


def severity(rule: str) -> str:
    return "waivable" if rule in WAIVABLE else "advise" if rule in ADVISED else "block"


def holds(rule: Rule, edge: Edge) -> bool:
    return apply(rule, GOOD | edge.measures).verdict == "pass"


@pytest.mark.parametrize("edge", EDGES, ids=lambda edge: f"{edge.rule}-{'holds' if edge.holds else 'not'}")
def test_each_rule_says_at_its_edge_what_it_is_meant_to(edge: Edge) -> None:
    rule = ruled(Policy.load(FILE))[edge.rule]
    assert holds(rule, edge) == edge.holds
    assert rule.severity == severity(edge.rule)
    missing = {name: Measure.missing("nobody measured it") for name in rule.parsed.names}
    assert apply(rule, GOOD | missing).verdict == "undecided"


def test_every_rule_has_edges_on_both_sides_and_stands_where_it_should() -> None:
    policy = Policy.load(FILE)
    for answer in (True, False):
        assert {edge.rule for edge in EDGES if edge.holds is answer} == set(ruled(policy))
    assert len(policy.rules) == 44
    assert {name: [rule.id for rule in t.rules] for name, t in policy.transitions.items()} == TRANSITIONS


def test_what_blocks_decides_what_is_waivable_can_be_waived_and_advice_does_not_decide() -> None:
    policy = Policy.load(FILE)
    for edge in EDGES:
        findings = [apply(rule, GOOD | edge.measures) for rule in policy.rules if rule.id == edge.rule]
        if not edge.holds and findings:
            other = [apply(rule, GOOD) for rule in policy.rules if rule.id == "enough-rows"]
            assert (verdict_of([*findings, *other]) == "pass") == (severity(edge.rule) == "advise")


# --- edits ----------------------------------------------------------------------------------------------------------

OTHER_SIGNS = {
    "<=": ("<", ">="), ">=": (">", "<="), ">": (">=", "<"), "<": ("<=", ">"), "==": ("!=",), "!=": ("==",),
    "&&": ("||",), "||": ("&&",),
}  # fmt: skip
OTHER_WORDS = {"low": ("value", "high"), "high": ("value", "low"), "all": ("exists",), "exists": ("all",)}


def edited_expressions(expression: Expression) -> Iterator[str]:
    """The same text with one token changed, or one clause left out."""
    text = expression.text
    for token in expression.tokens:
        before, after = text[: token.start], text[token.start + len(token.text) :]
        for other in OTHER_SIGNS.get(token.text, ()):
            yield before + other + after
        if token.kind == "number":
            value = float(token.text)
            for changed in (value * 1.01 + 0.001, value * 0.99 - 0.001):
                if changed > 0 and not value.is_integer():
                    yield f"{before}{changed:.6f}{after}"
            if value.is_integer():
                yield before + (f"{value + 1:.1f}" if "." in token.text else f"{int(value) + 1}") + after
        if token.kind == "text":
            yield before + token.text[:-1] + "x" + token.text[-1] + after
        if token.kind == "call" and token.text in OTHER_WORDS:
            yield before + OTHER_WORDS[token.text][0] + after
        if token.kind == "path":
            head, _, last = token.text.rpartition(".")
            for other in OTHER_WORDS.get(last, ()):
                yield f"{before}{head}.{other}{after}"
    if len(expression.clauses) > 1:
        for left_out in expression.clauses:
            yield " && ".join(clause.text for clause in expression.clauses if clause is not left_out)
    yield f"!({text})"


def edited_rules(rule: dict[str, Any]) -> Iterator[dict[str, Any]]:
    for expression in edited_expressions(parse(rule["expression"])):
        yield rule | {"expression": expression}
    for other in {"block", "waivable", "advise"} - {rule["severity"]}:
        yield rule | {"severity": other}
    if rows := rule.get("minimum_rows"):
        for other in (rows - 1, rows + 1):
            yield rule | {"minimum_rows": other}


def noticed(rule: dict[str, Any]) -> bool:
    """Whether an edge of this rule, or its severity, tells the edited rule from what is meant."""
    try:
        made = Rule.model_validate(rule)
        if made.severity != severity(made.id):
            return True
        return any(holds(made, edge) != edge.holds for edge in EDGES if edge.rule == made.id)
    except Fault:
        return True  # such an expression is no policy


def test_every_small_edit_of_the_policy_is_noticed() -> None:
    raw = yaml.safe_load(FILE.read_text())
    rules = [*raw["rules"], *(rule for transition in raw["transitions"].values() for rule in transition["rules"])]
    edits = [edit for rule in rules for edit in edited_rules(rule)]
    missed = [f"{edit['id']}: {edit['expression']}" for edit in edits if not noticed(edit)]
    assert len(edits) > 300
    assert not missed, "\n".join(missed)
    assert not problems(FILE)
