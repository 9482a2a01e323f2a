"""The judge: nothing doubtful ever passes, and a better metric never makes a verdict worse."""

import math
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from slipway.artifacts import (
    Advisories,
    Approval,
    Commit,
    Finding,
    HoldoutUse,
    Licences,
    Lock,
    ModelCard,
    Observations,
    Servability,
    Signature,
    Vulnerability,
    Waiver,
)
from slipway.errors import UsageError
from slipway.governance import vocabulary
from slipway.governance.judge import WORST_FIRST, Agreement, Evidence, apply, judge, verdict_of
from slipway.governance.measures import Measure
from slipway.governance.policy import Policy, Rule, Transition

WORDS = {"why": "because", "remedy": "Do better.", "owner": "model"}


def rule(expression: str = "tuned.exact_match.low >= 0.9", **keys: Any) -> Rule:
    return Rule.model_validate({"id": "r", "expression": expression, "severity": "block"} | WORDS | keys)


LOSS = rule("delta.base.loss.high <= 0")
EXACT = rule()
DELTA = rule("delta.champion.exact_match.low >= 0")
SECRETS = rule("inspection.secrets == 0")
DROPS = rule("prepared.drop_rate <= 0.2")
SPEED = rule("observations.servability.tokens_per_second >= 10")


def one(of: Rule, measure: Measure) -> Finding:
    """A rule that reads one name, on one measure."""
    return apply(of, {of.parsed.names[0]: measure})


# --- one rule ---


def test_a_rule_that_holds_passes_with_its_margin() -> None:
    finding = one(rule(minimum_rows=100), Measure(0.95, 0.913, 0.97, 400))
    assert finding.verdict == "pass"
    assert finding.margin == pytest.approx(0.013)
    assert (finding.value, finding.bound, finding.remedy) == (0.913, "≥ 0.9", "")
    assert finding.inputs == {"tuned.exact_match.low": 0.913}
    assert (
        finding.reason == "tuned.exact_match.low is 0.913 (value 0.95, 400 rows), asked is ≥ 0.9: inside by 1.3 points"
    )


def test_a_miss_says_by_how_much_and_what_to_do() -> None:
    finding = one(EXACT, Measure(0.85, 0.81, 0.88, 400))
    assert finding.verdict == "refuse"
    assert finding.margin == pytest.approx(-0.09)
    assert "misses by 9 points" in finding.reason
    assert finding.remedy == "Do better. (owner: model)"


def test_case_E6_an_interval_that_is_too_wide_is_undecided_and_says_how_many_rows_would_do() -> None:
    finding = one(EXACT, Measure(0.912, 0.887, 0.93, 400))
    assert finding.verdict == "undecided"
    assert finding.reason.endswith("misses by 1.3 points; would pass at n ≥ 1,737")
    needed = 1737
    width = 0.912 - 0.887
    assert 0.912 - width * math.sqrt(400 / needed) >= 0.9 > 0.912 - width * math.sqrt(400 / (needed - 1))
    assert one(EXACT, Measure(0.9, 0.87, 0.93, 400)).reason.endswith("no number of rows would show it")
    assert one(DELTA, Measure(0.0, -0.037, 0.037, 100)).verdict == "undecided"


def test_case_E6_fewer_rows_than_asked_are_undecided() -> None:
    finding = one(rule(minimum_rows=100), Measure(0.99, 0.95, 1.0, 99))
    assert finding.verdict == "undecided"
    assert "rests on 99 rows, fewer than the 100 needed" in finding.reason
    assert one(rule(minimum_rows=100), Measure(0.99, 0.95, 1.0, 100)).verdict == "pass"


@pytest.mark.parametrize(
    ("expression", "value"),
    [
        ("inspection.leaked_rows == 0", 0), ("inspection.secrets == 0", 0), ("prepared.drop_rate <= 0.2", 0.1),
        ("slices.worse == 0", 0), ("comparison.champion.only_other <= 3", 1), ("rows >= 5", 99),
        ("comparison.champion.p_value >= 0.05", 0.5),
    ],
)  # fmt: skip
def test_case_E6_a_count_rests_on_rows_too(expression: str, value: float) -> None:
    asked = rule(expression, minimum_rows=100)
    few = one(asked, Measure(value, rows=99))
    assert (few.verdict, "rests on 99 rows, fewer than the 100 needed" in few.reason) == ("undecided", True)
    unsaid = one(asked, Measure(value))
    assert (unsaid.verdict, "does not say on how many rows" in unsaid.reason) == ("undecided", True)
    assert one(asked, Measure(value, rows=100)).verdict == "pass"
    assert one(rule(expression), Measure(value)).verdict == "pass"


def test_the_clause_that_fails_decides_and_else_the_nearest() -> None:
    both = rule("rows >= 100 && tuned.exact_match.low >= 0.9")
    good, few = Measure(0.95, 0.93, 0.97, 400), Measure(0.85, 0.8, 0.9, 400)
    assert apply(both, {"rows": Measure(400), "tuned.exact_match": good}).bound == "≥ 0.9"
    refused = apply(both, {"rows": Measure(90), "tuned.exact_match": good})
    assert (refused.verdict, refused.value, refused.bound, refused.margin) == ("refuse", 90.0, "≥ 100", -10.0)
    assert "misses by 10" in refused.reason
    assert apply(both, {"rows": Measure(400), "tuned.exact_match": few}).margin == pytest.approx(-0.1)
    assert apply(both, {"rows": Measure(90), "tuned.exact_match": few}).bound == "≥ 100"


def test_a_bound_that_is_computed_is_shown_with_its_value() -> None:
    finding = apply(
        rule("tuned.loss.high <= 0.5 * base.loss.low"),
        {"tuned.loss": Measure(1.0, 0.8, 1.2, 400), "base.loss": Measure(2.0, 1.9, 2.1, 400)},
    )
    assert finding.verdict == "undecided"
    assert finding.bound == "≤ 0.5 * base.loss.low (= 0.95)"
    assert finding.inputs == {"tuned.loss.high": 1.2, "base.loss.low": 1.9}


def test_a_bound_on_the_left_reads_the_same() -> None:
    measure = Measure(0.95, 0.913, 0.97, 400)
    left, right = one(rule("0.9 <= tuned.exact_match.low"), measure), one(EXACT, measure)
    assert (left.value, left.bound, left.margin, left.reason) == (right.value, right.bound, right.margin, right.reason)


def test_what_is_no_number_is_shown_as_it_is() -> None:
    tags = rule("['GDPR', 'SOC2'].all(tag, tag in model.compliance_tags)")
    finding = one(tags, Measure(["GDPR"]))
    assert finding.verdict == "refuse"
    assert finding.reason.startswith("model.compliance_tags is [GDPR]; asked is ['GDPR', 'SOC2'].all(")
    assert finding.inputs == {"model.compliance_tags": ["GDPR"]}
    holes = one(rule("size(observations.advisories.vulnerable) == 0"), Measure(["torch 1.0 CVE-1"]))
    assert "torch 1.0 CVE-1" in holes.reason
    name = one(rule("model.name.matches('^[a-z]+$')"), Measure("Bad Name"))
    assert (name.verdict, name.value) == ("refuse", "no")
    assert "'Bad Name'" in name.reason


def test_the_distance_from_an_equality_is_never_inside() -> None:
    counted = rule("slices.worse == 0")
    none, two = one(counted, Measure(0)), one(counted, Measure(2))
    assert (none.verdict, none.margin, none.reason) == ("pass", 0.0, "slices.worse is 0, asked is = 0")
    assert (two.verdict, two.margin, two.inputs) == ("refuse", -2.0, {"slices.worse": 2})
    assert two.reason == "slices.worse is 2, asked is = 0: misses by 2"
    assert type(two.inputs["slices.worse"]) is int


def test_only_yes_and_no_answer_a_flag() -> None:
    passed = rule("validation.passed")
    verdicts = {repr(value): one(passed, Measure(value)).verdict for value in (True, False, 1, 1.0, "true", None)}
    undecided = dict.fromkeys(("1", "1.0", "'true'", "None"), "undecided")
    assert verdicts == {"True": "pass", "False": "refuse"} | undecided
    assert (one(passed, Measure(True)).reason, one(passed, Measure(True)).value) == ("validation.passed is yes", "yes")
    assert (one(passed, Measure(False)).reason, one(passed, Measure(False)).value) == ("validation.passed is no", "no")


@pytest.mark.parametrize("of", [EXACT, DELTA, LOSS], ids=["rate", "delta", "loss"])
@pytest.mark.parametrize(
    "value",
    [math.nan, math.inf, -math.inf, -0.0, 1e308, -1e308, 10**400, "0.9", "-1", None, True, [1.0], {}, b"1"],
    ids=repr,
)
def test_case_E5_no_malformed_metric_passes(of: Rule, value: object) -> None:
    assert one(of, Measure(value, value, value, 400)).verdict == "undecided"
    assert one(of, Measure(value, 0.95, 0.95, 400)).verdict == "undecided"


@pytest.mark.parametrize("of", [SECRETS, DROPS, SPEED], ids=["count", "share", "speed"])
@pytest.mark.parametrize("value", [math.nan, math.inf, -0.0, 1e308, "0", None, True, False, [], 10**400], ids=repr)
def test_case_E5_no_malformed_number_passes(of: Rule, value: object) -> None:
    assert one(of, Measure(value)).verdict == "undecided"


def test_case_E5_half_a_count_is_no_count() -> None:
    assert one(SECRETS, Measure(0.5)).verdict == "undecided"
    assert one(SECRETS, Measure(0.0)).verdict == "pass"
    assert one(SECRETS, Measure(1)).verdict == "refuse"


@pytest.mark.parametrize(
    ("expression", "value"),
    [
        ("size(model.name) > 0", ["support-desk"]),
        ("size(model.name) > 0", {"a": 1}),
        ("size(tags) > 0", "tested"),
        ("tags.exists(tag, tag == 'tested')", ["tested", 5]),
        ("size(approvals) > 0", ["somebody"]),
        ("size(tags) > 0", ["tag"] * 1001),
        ("size(model.metrics) > 0", "good"),
        ("size(model.limitations) > 0", 5),
    ],
)
def test_case_E5_a_value_of_another_kind_is_undecided(expression: str, value: object) -> None:
    assert one(rule(expression), Measure(value)).verdict == "undecided"


def test_case_E5_a_missing_metric_is_undecided_even_where_the_rest_would_do() -> None:
    assert apply(EXACT, {}).verdict == "undecided"
    either = rule("tuned.exact_match.low >= 0.9 || tuned.accuracy.low >= 0.9")
    finding = apply(either, {"tuned.exact_match": Measure(1.0, 0.99, 1.0, 400)})
    assert finding.verdict == "undecided"
    assert "tuned.accuracy was not measured" in finding.reason
    assert finding.inputs == {"tuned.exact_match.low": 0.99, "tuned.accuracy.low": None}
    why = one(SPEED, Measure.missing("the process was killed"))
    assert (why.verdict, "the process was killed" in why.reason) == ("undecided", True)
    assert judge(Evidence("id", {}, {}), Policy(rules=[EXACT]), "p").verdict == "undecided"


@pytest.mark.parametrize(
    "measure",
    [
        Measure(0.95, math.nan, 0.97, 400),
        Measure(0.95, None, 0.97, 400),
        Measure(0.95, 0.96, 0.97, 400),
        Measure(0.95, 0.97, 0.91, 400),
        Measure(0.95, 0.91, 0.94, 400),
        Measure(0.95, 0.91, 1.01, 400),
        Measure(0.95, "0.94", 0.97, 400),
        Measure(0.95, 0.94, 0.97, 0),
        Measure(0.95, 0.94, 0.97, -400),
        Measure(0.95, 0.94, 0.97, None),
        Measure(0.95, 0.94, 0.97, True),
        Measure(0.95, 0.94, 0.97, 400.0),
        Measure(0.95, 0.94, 0.97, 10**13),
    ],
    ids=repr,
)
def test_a_doubtful_interval_is_undecided(measure: Measure) -> None:
    assert one(EXACT, measure).verdict == "undecided"
    assert one(rule("tuned.exact_match.value >= 0.9"), measure).verdict == "undecided"


def test_an_interval_on_its_very_limits_is_believed() -> None:
    for measure in (Measure(1.0, 0.9, 1.0, 1), Measure(0.9, 0.9, 0.9, 10**12), Measure(1, 1, 1, 400)):
        assert one(EXACT, measure).verdict == "pass"


def test_a_text_that_decides_is_shown_as_the_value() -> None:
    finding = one(rule("model.licence == 'Apache-2.0'"), Measure("MIT"))
    assert (finding.verdict, finding.value, finding.bound, finding.margin) == ("refuse", "MIT", "= 'Apache-2.0'", None)
    assert one(rule("model.licence != 'MIT'"), Measure("MIT")).bound == "≠ 'MIT'"


def test_a_policy_that_divides_by_zero_gets_past_nobody() -> None:
    """Were such a rule to reach the judge past the check, infinity would still be no measurement."""
    for expression in ("tuned.exact_match.low / 0.0 >= 0.9", "0.9 <= tuned.exact_match.low / 0.0"):
        with pytest.raises(ValueError, match="by anything but a number"):
            one(rule(expression), Measure(0.5, 0.4, 0.6, 400))


# --- all of them ---


def test_the_worst_blocking_finding_wins_and_advice_never_blocks() -> None:
    advice = rule("tuned.exact_match.low >= 0.999", id="advice", severity="advise")
    cases = ((0.95, False, "pass"), (0.95, True, "undecided"), (0.5, True, "refuse"), (0.5, False, "refuse"))
    for value, missing, expected in cases:
        rules = [EXACT, advice, *([rule("tuned.accuracy.low >= 0.1", id="gone")] if missing else [])]
        evidence = Evidence("id", {}, {"tuned.exact_match": Measure(value, value, value, 400)})
        assert judge(evidence, Policy(rules=rules), "p").verdict == expected


def test_where_nothing_blocks_nothing_was_decided() -> None:
    assert verdict_of([]) == "undecided"
    advice = rule(severity="advise")
    evidence = Evidence("id", {}, {"tuned.exact_match": Measure(0.95, 0.95, 0.95, 400)})
    assert judge(evidence, Policy(rules=[advice]), "p").verdict == "undecided"


def test_evidence_that_disagrees_with_itself_is_refused_naming_both() -> None:
    agreements = (Agreement("evidence-model", "the model's identity", "aaa", "bbb", "Run evaluate again."),)
    evidence = Evidence("aaa", {"scorecard.json": "1"}, {"tuned.exact_match": Measure(1.0, 1.0, 1.0, 9)}, agreements)
    decision = judge(evidence, Policy(rules=[EXACT]), "p")
    assert decision.verdict == "refuse"
    assert "aaa" in decision.summary
    assert "bbb" in decision.summary


# --- the register act ---

SOUND = {
    "model.name": "model.name.matches('^[a-z-]+$')",
    "commit": "observations.commit.kept && observations.commit.clean",
    "lock": "observations.lock.complete && size(observations.lock.missing) == 0",
    "servability": "observations.servability.latency_p95_seconds <= 5.0 && observations.servability.deterministic",
    "holdout": "observations.holdout.looks <= observations.holdout.budget",
    "advisories": "size(observations.advisories.vulnerable) == 0 && observations.advisories.age_days <= 30.0",
    "licences": "size(observations.licences.conflicts) == 0",
    "signature": "observations.signature.verified",
    "card": "observations.card.complete",
}


def observations(evidence: Evidence, **changes: Any) -> Observations:
    speed = {f"latency_p{n}_seconds": 0.1 for n in (50, 95, 99)}
    parts: dict[str, Any] = {
        "commit": Commit(id="c", clean=True, changed=[], kept=True),
        "lock": Lock(complete=True, missing=[]),
        "servability": Servability(
            device="cpu", prompts=8, load_seconds=1.0, peak_bytes=9, tokens_per_second=9.0, deterministic=True, **speed
        ),
        "holdout": HoldoutUse(test_digest="t", looks=3, budget=20),
        "advisories": Advisories(source="osv", as_of="2026-01-01", age_days=1.0, packages=9, vulnerable=[]),
        "licences": Licences(model="m", base="b", data="d", dependencies=9, conflicts=[], unknown=[]),
        "signature": Signature(verified=True, identity=evidence.identity, key="k", statement_sha256="s"),
        "card": ModelCard(complete=True, missing=[]),
    }
    model = {"name": "support-desk", "dataset": {"name": "rows", "version": None}, "metrics": {"loss": 0.1}}
    whole: dict[str, Any] = {
        "release": "r", "at": "2026-03-01T10:00:00Z", "evidence_digest": evidence.digest, "model": model,
        "model_digest": "m", "approvals": [], "waivers": [], "tags": [], "missing": {},
    }  # fmt: skip
    return Observations(**whole | parts | changes)


GOOD = Evidence("id", {"a": "1"}, {"tuned.exact_match": Measure(0.95, 0.93, 0.97, 400)})
ALL = Policy(rules=[EXACT, *(rule(text, id=f"r{n}") for n, text in enumerate(SOUND.values()))])


def test_the_gate_leaves_rules_on_observations_pending_and_register_judges_them() -> None:
    gate = judge(GOOD, ALL, "p")
    assert (gate.act, gate.verdict, gate.observations_digest) == ("gate", "pass", None)
    assert gate.pending == [f"r{n}" for n in range(len(SOUND))]
    seen = observations(GOOD)
    done = judge(GOOD, ALL, "p", "register", seen)
    assert (done.verdict, done.pending, done.observations_digest) == ("pass", [], seen.saved_digest)
    assert {"evidence-observed", "evidence-signed"} <= {finding.rule for finding in done.findings}
    assert judge(GOOD, ALL, "p", "register").verdict == "undecided"


def test_what_the_gate_is_told_of_the_world_it_does_not_hear() -> None:
    assert judge(GOOD, ALL, "p", "gate", observations(GOOD)) == judge(GOOD, ALL, "p")


@pytest.mark.parametrize("part", [part for part in SOUND if "." not in part])
def test_what_could_not_be_observed_is_undecided_and_says_why(part: str) -> None:
    seen = observations(GOOD, **{part: None}, missing={part: "nobody answered"})
    done = judge(GOOD, ALL, "p", "register", seen)
    assert done.verdict == "undecided"
    assert "nobody answered" in done.summary
    assert judge(GOOD, ALL, "p", "register", observations(GOOD, **{part: None})).verdict == "undecided"


@pytest.mark.parametrize(
    ("changes", "rule_id"),
    [
        ({"model": {"name": "Support Desk"}}, "r0"),
        ({"commit": Commit(id="c", clean=False, changed=["a"], kept=True)}, "r1"),
        ({"commit": Commit(id="c", clean=True, changed=[], kept=False)}, "r1"),
        ({"lock": Lock(complete=False, missing=["gate"])}, "r2"),
        ({"holdout": HoldoutUse(test_digest="t", looks=21, budget=20)}, "r4"),
        ({"advisories": Advisories(source="o", as_of="d", age_days=31.0, packages=9, vulnerable=[])}, "r5"),
        ({"licences": Licences(model="m", base="b", data="d", dependencies=9, conflicts=["x"], unknown=[])}, "r6"),
        ({"signature": Signature(verified=False, identity="id", key="k", statement_sha256="s")}, "r7"),
        ({"card": ModelCard(complete=False, missing=["limitations"])}, "r8"),
        ({"evidence_digest": "0" * 64}, "evidence-observed"),
        ({"signature": Signature(verified=True, identity="other", key="k", statement_sha256="s")}, "evidence-signed"),
    ],
)
def test_each_observation_can_refuse(changes: dict[str, Any], rule_id: str) -> None:
    done = judge(GOOD, ALL, "p", "register", observations(GOOD, **changes))
    assert done.verdict == "refuse"
    assert [f.rule for f in done.findings if f.verdict == "refuse"] == [rule_id]


def test_case_D9_a_known_vulnerability_is_named() -> None:
    hole = Vulnerability(package="torch", version="1.0", id="CVE-1", fixed_in=["1.1"])
    seen = Advisories(source="osv", as_of="2026-01-01", age_days=1.0, packages=9, vulnerable=[hole])
    done = judge(GOOD, ALL, "p", "register", observations(GOOD, advisories=seen))
    assert done.verdict == "refuse"
    assert "torch 1.0 CVE-1 (fixed in 1.1)" in done.summary


@pytest.mark.parametrize("model", [{}, {"name": None}, {"name": 5}, {"name": ["a"]}], ids=repr)
def test_metadata_that_is_missing_or_no_text_is_undecided(model: dict[str, Any]) -> None:
    assert judge(GOOD, ALL, "p", "register", observations(GOOD, model=model)).verdict == "undecided"


def test_metadata_by_dots_and_nothing_in_the_place_of_null() -> None:
    read = Policy(rules=[EXACT, rule("size(model.dataset.name) > 0", id="named")])
    version = Policy(rules=[EXACT, rule("size(model.dataset.version) > 0", id="dated")])
    assert judge(GOOD, read, "p", "register", observations(GOOD)).verdict == "pass"
    assert judge(GOOD, version, "p", "register", observations(GOOD)).verdict == "undecided"
    hardware = Policy(rules=[EXACT, rule("size(model.hardware) > 0", id="hardware")])
    empty = observations(GOOD, model={"hardware": {"accelerator": None}})
    assert judge(GOOD, hardware, "p", "register", empty).verdict == "refuse"


# --- waivers ---

WAIVER = {"rule": "small", "owner": "Ada", "reason": "a trial", "expires": "2026-03-01"}
BIG = Evidence("id", {"a": "1"}, {**GOOD.measures, "size.adapter_bytes": Measure(10)})
SMALL = Policy(rules=[EXACT, rule("size.adapter_bytes <= 5", id="small", severity="waivable")])


def waived(policy: Policy = SMALL, at: str = "2026-03-01T23:59:59Z", **changes: Any) -> str:
    seen = observations(BIG, at=at, waivers=[Waiver(**WAIVER | changes)])
    return judge(BIG, policy, "p", "register", seen).verdict


def test_a_waiver_covers_its_rule_until_its_day_is_over_and_is_shown() -> None:
    assert judge(BIG, SMALL, "p", "register", observations(BIG)).verdict == "refuse"
    assert waived() == "pass"
    done = judge(BIG, SMALL, "p", "register", observations(BIG, waivers=[Waiver(**WAIVER)]))
    finding = next(finding for finding in done.findings if finding.rule == "small")
    assert (finding.verdict, finding.waiver) == ("refuse", Waiver(**WAIVER))
    assert "1 waived" in done.summary
    assert waived(at="2026-03-02T00:00:00Z") == "refuse"


@pytest.mark.parametrize(
    "changes",
    [
        {"rule": "smal"}, {"rule": "r"}, {"owner": " "}, {"owner": ""}, {"reason": ""}, {"expires": ""},
        {"expires": "never"}, {"expires": "9999"}, {"expires": "2026-02-28"}, {"expires": "99999-01-01"},
        {"expires": "2026-2-28"},
    ],
    ids=repr,
)  # fmt: skip
def test_a_waiver_that_is_not_whole_waives_nothing(changes: dict[str, str]) -> None:
    assert waived(**changes) == "refuse"


@pytest.mark.parametrize(
    ("changes", "why"),
    [
        ({"rule": "smal"}, "the policy has no such rule"),
        ({"rule": "r"}, "the rule holds without it"),
        ({"rule": "strict"}, "the rule is not waivable (block)"),
        ({"expires": "2026-02-28"}, "it ended with 2026-02-28"),
        ({"expires": "never"}, "'never' is no date"),
        ({"owner": " "}, "it names no owner, or no reason"),
    ],
)
def test_a_waiver_that_does_nothing_is_named_with_the_reason(changes: dict[str, str], why: str) -> None:
    policy = Policy(rules=[*SMALL.rules, rule("size.adapter_bytes <= 6", id="strict")])
    idle = Waiver(**WAIVER | changes)
    done = judge(BIG, policy, "p", "register", observations(BIG, at="2026-03-01T23:59:59Z", waivers=[idle]))
    assert done.idle_waivers == [f"the waiver of {idle.rule} by {idle.owner} did nothing: {why}"]
    assert done.verdict == "refuse"


def test_a_waiver_that_covers_or_waits_for_another_step_is_not_called_idle() -> None:
    moved = {"Staging→Production": Transition(rules=[rule("size(tags) > 0", id="later", severity="waivable")])}
    policy = SMALL.model_copy(update={"transitions": moved})
    given = [Waiver(**WAIVER), Waiver(**WAIVER | {"rule": "later"}), Waiver(**WAIVER | {"owner": "Bob"})]
    done = judge(BIG, policy, "p", "register", observations(BIG, at="2026-03-01T00:00:00Z", waivers=given))
    assert done.idle_waivers == ["the waiver of small by Bob did nothing: another covers the rule"]
    assert judge(BIG, policy, "p", "gate", observations(BIG, waivers=given)).idle_waivers == []


def test_a_rule_that_blocks_cannot_be_waived_nor_can_evidence_that_disagrees() -> None:
    blocking = Policy(rules=[EXACT, rule("size.adapter_bytes <= 5", id="small")])
    assert waived(blocking) == "refuse"
    assert waived(at="yesterday") == "refuse"
    swapped = Evidence("id", {"a": "1"}, BIG.measures, (Agreement("evidence-model", "m", "a", "b", "r"),))
    seen = observations(swapped, waivers=[Waiver(**WAIVER), Waiver(**WAIVER | {"rule": "evidence-model"})])
    assert judge(swapped, SMALL, "p", "register", seen).verdict == "refuse"


def test_an_undecided_rule_may_be_waived_and_the_gate_waives_nothing() -> None:
    unknown = Evidence("id", {"a": "1"}, GOOD.measures)
    seen = observations(unknown, waivers=[Waiver(**WAIVER)])
    assert judge(unknown, SMALL, "p", "register", seen).verdict == "pass"
    gate = judge(BIG, SMALL, "p", "gate", observations(BIG, waivers=[Waiver(**WAIVER)]))
    assert (gate.verdict, gate.may_be_waived) == ("refuse", True)
    assert not judge(GOOD, ALL, "p").may_be_waived


# --- transitions ---

APPROVED = rule(
    "approvals.exists(one, one.evidence_digest == evidence.digest && one.policy_digest == policy.digest)", id="approved"
)
MOVE = Policy(rules=[EXACT], transitions={"Staging→Production": Transition(rules=[APPROVED])})


def approved(**changes: str) -> str:
    yes = {"by": "Ada", "at": "2026-03-01T09:00:00Z", "evidence_digest": GOOD.digest, "policy_digest": "p"} | changes
    seen = observations(GOOD, approvals=[Approval(**yes)])
    return judge(GOOD, MOVE, "p", "register", seen, "Staging→Production").verdict


def test_a_transition_adds_its_rules_and_an_approval_is_of_this_evidence_and_policy() -> None:
    assert judge(GOOD, MOVE, "p", "register", observations(GOOD)).verdict == "pass"
    assert judge(GOOD, MOVE, "p", "register", observations(GOOD), "Staging→Production").verdict == "refuse"
    assert approved() == "pass"
    assert approved(evidence_digest="0" * 64) == "refuse"
    assert approved(policy_digest="other") == "refuse"
    with pytest.raises(UsageError, match="no rules for the transition"):
        judge(GOOD, MOVE, "p", "register", observations(GOOD), "Production→Archived")
    done = judge(GOOD, MOVE, "p", "register", observations(GOOD), "Staging→Production")
    assert done.transition == "Staging→Production"


# --- whatever comes in ---

anything = st.one_of(st.none(), st.booleans(), st.text(), st.integers(), st.floats(), st.lists(st.floats()))


@given(anything, anything, anything, anything)
def test_whatever_comes_in_only_a_proven_metric_passes(value: object, low: object, high: object, rows: object) -> None:
    finding = one(rule(minimum_rows=100), Measure(value, low, high, rows))
    if finding.verdict == "pass":
        numbers = [value, low, high]
        assert all(type(n) in (int, float) and 0 <= n <= 1 for n in numbers)  # type: ignore[operator]
        assert 0.9 <= low <= value <= high  # type: ignore[operator]
        assert type(rows) is int
        assert rows >= 100


KINDS = {name: metric for name, metric in vocabulary.NAMES.items() if metric.kind in ("estimate", "number", "count")}


@given(st.sampled_from(sorted(KINDS)), anything)
def test_no_malformed_measure_of_any_name_passes(name: str, value: object) -> None:
    known = KINDS[name]
    end = {"estimate": ".low", "number": "", "count": ""}[known.kind]
    for sign in ("<=", ">="):
        text = f"{name}{end} {sign} {1 if known.kind == 'count' else 0.5}"
        finding = one(rule(text), Measure(value, value, value, 400))
        if finding.verdict == "pass":
            assert type(value) in (int, float)
            assert known.least <= value <= known.most  # type: ignore[operator]


unit = st.floats(0, 1).map(lambda x: round(x, 6) + 0.0)


@given(unit, unit, unit, unit, st.sampled_from([EXACT, rule("prepared.drop_rate <= 0.2"), rule("rows >= 100")]))
def test_a_better_metric_never_worsens_the_verdict(a: float, b: float, c: float, d: float, of: Rule) -> None:
    name = of.parsed.names[0]
    known = vocabulary.find(name)
    assert known is not None
    if known.kind == "estimate":
        first, second = sorted([a, b, c]), sorted([a, b, d])
        worse, better = sorted((first, second))
        if not all(x <= y for x, y in zip(worse, better, strict=True)):
            return
        measures = [Measure(middle, low, high, 400) for low, middle, high in (worse, better)]
    else:
        scale = 200 if known.kind == "count" else 1
        values = sorted((a, b), reverse=known.better == "lower")
        measures = [Measure(round(x * scale) if scale > 1 else x) for x in values]
    verdicts = [WORST_FIRST.index(one(of, measure).verdict) for measure in measures]
    assert verdicts[0] <= verdicts[1]


@given(unit, unit, unit, st.integers(1, 10**6))
def test_the_rows_that_are_promised_are_enough_and_one_fewer_are_not(a: float, b: float, c: float, rows: int) -> None:
    low, value, high = sorted((a, b, c))
    finding = one(EXACT, Measure(value, low, high, rows))
    if "n ≥ " not in finding.reason:
        return
    needed = int(finding.reason.rpartition("n ≥ ")[2].replace(",", ""))

    def narrowed(count: int) -> Measure:
        return Measure(value, value - (value - low) * math.sqrt(rows / count), high, rows)

    assert one(EXACT, narrowed(needed)).verdict == "pass"
    assert needed == rows + 1 or one(EXACT, narrowed(needed - 1)).verdict != "pass"
