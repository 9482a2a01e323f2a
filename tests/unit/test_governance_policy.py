"""Policy files: whatever is wrong with one, the answer is no, with line and column."""

import json
import re
from pathlib import Path

import cel
import pytest
from hypothesis import given
from hypothesis import strategies as st

from slipway.cli import app
from slipway.errors import UsageError
from slipway.governance import vocabulary
from slipway.governance.checking import faults
from slipway.governance.expressions import Fault, context_of, holds, parse
from slipway.governance.policy import TRANSITIONS, Policy, problems

RULE = """\
rules:
  - id: exact
    expression: tuned.exact_match.low >= 0.9
    severity: block
    why: because
    remedy: Do better.
    owner: model
"""
RULES = RULE.removeprefix("rules:\n")
INNER = "".join(f"    {line}\n" for line in RULES.splitlines())
MOVES = "transitions:\n" + "".join(
    f"  {name}:\n    rules:\n{INNER.replace('id: exact', f'id: r{n}')}" for n, name in enumerate(TRANSITIONS)
)
ROOT = Path(__file__).parents[2]
SHIPPED = ROOT / "configs" / "policies" / "gates.yaml"


def written(folder: Path, text: str) -> Path:
    path = folder / "gates.yaml"
    path.write_text(text)
    return path


def load(folder: Path, text: str) -> Policy:
    return Policy.load(written(folder, text))


def with_rule(expression: str, **keys: object) -> str:
    more = "".join(f"    {key}: {value}\n" for key, value in keys.items())
    return RULE.replace("tuned.exact_match.low >= 0.9", json.dumps(expression)) + more


def test_a_sound_policy_loads(tmp_path: Path) -> None:
    assert load(tmp_path, RULE).rules[0].parsed.names == ("tuned.exact_match",)
    policy = load(tmp_path, RULE + MOVES)
    assert [rule.id for rule in policy.transition("Staging→Production")] == ["r1"]


def test_the_shipped_policy_loads_and_asks_for_what_a_release_must_have() -> None:
    policy = Policy.load(SHIPPED)
    assert len(policy.rules) >= 35
    assert sum(rule.severity == "block" for rule in policy.rules) >= 20
    assert set(policy.transitions) == set(TRANSITIONS)
    read = {name for rule in policy.rules for name in rule.parsed.names}
    wanted = {name for name in vocabulary.NAMES if name.startswith(("safety.tuned.", "inspection."))} | {
        *(f"model.{name}" for name in ("name", "version", "base_model", "task_type", "created_at", "description")),
        *(f"model.{name}" for name in ("author", "team", "dataset.name", "dataset.version", "hyper_parameters")),
        *(f"model.{name}" for name in ("metrics", "hardware", "deployment_targets", "compliance_tags")),
        *(f"model.{name}" for name in ("dependencies", "licence", "limitations")),
        *(f"observations.{name}" for name in ("commit.kept", "commit.clean", "lock.complete", "signature.verified")),
        *("observations.card.complete", "observations.licences.conflicts", "observations.advisories.vulnerable"),
        *("scan.passed", "training.finite", "slices.worse", "delta.champion.exact_match", "tuned.format_validity"),
    }
    assert wanted - read == {"safety.tuned.refusal"}  # judged as a difference to the base
    for name in ("tested", "reviewed", "approved", "performance_validated", "reason:"):
        asked = [r for t in TRANSITIONS for r in policy.transition(t) if any(name in x for x in r.parsed.texts)]
        assert asked, name


@pytest.mark.parametrize(
    ("text", "place", "complaint"),
    [
        ("", "", "is empty"),
        ("rules: []\n", "1:1", "at least 1 item"),
        ("{}\n", "1:1", "rules is missing"),
        ("- a\n", "", "not a mapping"),
        ("rules: 5\n", "1:1", "valid list"),
        ("rules: [5]\n", "1:9", "is 5"),
        (RULE.replace("severity: block", "severity: advise"), "1:1", "nothing could ever be refused"),
        (RULE.replace("severity: block", "severity: waivable"), "1:1", "nothing could ever be refused"),
        (RULE.replace("expression: tuned", "expression: [tuned"), "4", "not valid YAML"),
        (RULE + "extra: 1\n", "8:1", "unknown key extra"),
        (RULE + "    ceiling: 1\n", "8:5", "rule exact: unknown key ceiling"),
        (RULE + "    owner: me\n", "8", "stands twice (first on line 7)"),
        (RULE + RULES, "8:5", "rule exact: two rules have the id 'exact'"),
        (RULE.replace("severity: block", "severity: approve"), "4:5", "'approve'"),
        (RULE.replace("tuned.exact_match.low >= 0.9", "0.9"), "3:5", "valid string"),
        (RULE.replace("tuned.exact_match.low >= 0.9", "!!str x"), "3", "the tag"),
        (RULE.replace("    expression: tuned.exact_match.low >= 0.9\n", ""), "2:5", "expression is missing"),
        (RULE.replace("id: exact", "id: Exact Match"), "2:5", "should match pattern"),
        (RULE.replace("id: exact", "id: evidence-model"), "2:5", "the gate's own"),
        (RULE.replace("    owner: model\n", ""), "2:5", "owner is missing"),
        (RULE.replace("owner: model", "owner: ''"), "7:5", "owner is ''"),
        (RULE + "    minimum_rows: 0\n", "8:5", "greater than or equal to 1"),
        (RULE + "    minimum_rows: '100'\n", "8:5", "valid integer"),
        (RULE.replace("exact_match.low", "niceness.low"), "3:17", "there is no metric 'tuned.niceness.low'"),
        (RULE.replace("exact_match.low", "exact_mtch.low"), "3:17", "did you mean tuned.exact_match.low?"),
        (RULE.replace("tuned.exact", "rows >= 5 && tuned.exakt"), "3:30", "did you mean tuned.exact_match.low?"),
        (RULE + MOVES.replace("None→Staging", "Dev→Staging"), "9:3", "there is no transition 'Dev→Staging'"),
        (RULE + MOVES.replace("None→Staging", "Dev→Staging"), "8:1", "the transition None→Staging has no rules"),
        (RULE + "transitions:\n  None→Staging:\n    rules: []\n", "10:5", "at least 1 item"),
        (RULE + "transitions:\n  None→Staging: {}\n", "9:3", "rules is missing"),
        (RULE + MOVES.replace("id: r2", "id: exact"), "", "two rules have the id 'exact'"),
        (RULE + MOVES.replace("tuned.exact_match.low", "tuned.exact_match", 1), "", "is an estimate"),
    ],
)  # fmt: skip
def test_case_E9_a_broken_policy_is_denied_with_its_place(
    tmp_path: Path, text: str, place: str, complaint: str
) -> None:
    path = written(tmp_path, text)
    with pytest.raises(UsageError) as caught:
        Policy.load(path)
    try:
        said = [str(problem) for problem in problems(path)]
    except UsageError as error:
        said = [str(error)]
    assert str(caught.value).startswith(said[0])
    assert "\n" not in str(caught.value)
    found = next((line for line in said if complaint in line), None)
    assert found, said
    assert found.startswith(f"{path}:{place}" if place else f"{path}")


def test_case_E9_a_missing_policy_is_denied(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="does not exist"):
        Policy.load(tmp_path / "none.yaml")
    with pytest.raises(UsageError, match="is a folder"):
        Policy.load(tmp_path)


def test_case_E9_a_transition_without_rules_is_denied(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="no rules for the transition None→Staging"):
        load(tmp_path, RULE).transition("None→Staging")


SOUND = [
    "tuned.exact_match.low >= 0.9 && rows >= 100",
    "0.9 <= tuned.exact_match.low",
    "!(tuned.exact_match.low < 0.9)",
    "(tuned.exact_match.low >= 0.9 || delta.champion.exact_match.low >= 0.05) && rows >= 100",
    "tuned.loss.high <= 0.5 * base.loss.low",
    "tuned.exact_match.high - tuned.exact_match.low <= 0.1",
    "size.adapter_bytes <= size.base_bytes / 4.0",
    "rows > 100 ? tuned.exact_match.low >= 0.9 : tuned.exact_match.low >= 0.95",
    "validation.passed",
    "scan.passed == true",
    "slices.worse == 0",
    "comparison.champion.p_value >= 0.05 || delta.champion.exact_match.value > 0",
    "benchmarks.delta.facts.acc.low >= -0.1",
    "['GDPR', 'SOC2'].all(tag, tag in model.compliance_tags)",
    "size(tags) > 0 && tags.all(tag, size(tag) > 2)",
    "!tags.exists(tag, tag == 'frozen')",
    "model.name.matches('^[a-z]+$') && size(model.name) <= 64",
    "model.licence != 'unknown'",
    "observations.holdout.looks <= observations.holdout.budget",
    "size(observations.advisories.vulnerable) == 0",
    "approvals.exists(one, one.evidence_digest == evidence.digest)",
    "approvals.exists(a, approvals.exists(b, a.by != b.by))",
    "approvals.exists(one, one.by == 'ada') && approvals.exists(one, one.by == 'bob')",
    "model.licence in ['MIT', 'Apache-2.0']",
    "model.licence.matches('^(MIT|Apache-2[.]0|BSD-[23]-Clause)$')",
    "model.name.matches('^[a-z]+$') && size(model.name) >= 10",
    "tags.exists(tag, tag.matches('^ticket-[0-9]{4}$'))",
    "tags.exists(a, a == 'x') && tags.exists(b, b == 'y') && !tags.exists(c, c == 'z') && size(tags) <= 5",
    "model.hyper_parameters.exists(name, name == 'epochs')",
    "model.name != '// no remark, \\'\\'\\' no three quotes'",
]


@pytest.mark.parametrize("expression", SOUND)
def test_sound_expressions_are_let_through(expression: str) -> None:
    assert not faults(expression)


@pytest.mark.parametrize(
    ("expression", "complaint", "offset"),
    [
        # a rule that can never fail, or never pass
        ("tuned.exact_match.low >= 0", "can never fail", 0),
        ("rows >= 100 && tuned.exact_match.low <= 1", "can never fail", 15),
        ("rows >= 0 || tuned.exact_match.low >= 0.9", "can never fail", 0),
        ("1 == 1", "reads no metric", 0),
        ("rows >= 100 && 1 == 1", "can never fail", 15),
        ("size(tags) >= 0", "can never fail", 0),
        ("tuned.exact_match.low >= 1.1", "can never pass", 0),
        ("size(tags) == 1 && size(tags) == 2", "can never pass", 0),
        ("validation.passed == 1", "can never pass", 0),
        ("tags == 'tested'", "can never pass", 0),
        ("tags.all(tag, tag != 'bad')", "holds for an empty list", 0),
        ("rows >= 0 || true", "can never fail", 0),
        ("tuned.loss.high >= -1000000000.0", "can never fail", 0),
        ("tuned.accuracy.value <= 1.0", "can never fail", 0),
        ("model.name.matches('^.*$')", "can never fail", 0),
        ("rows >= 100 && model.name.matches('^(.|x)*$')", "can never fail", 15),
        (r"model.name.matches('^[\\s\\S]*$')", "can never fail", 0),
        ("model.name.matches('^[^\\u0000]*$')", "can never fail", 0),
        ("tags.all(tag, tag.matches('^.*$'))", "can never fail", 0),
        ("evidence.digest != ''", "can never fail", 0),
        ("size(evidence.identity) == 64", "can never fail", 0),
        ("model.name.matches('^abc$') && tags.all(tag, tag != 'bad')", "holds for an empty list", 31),
        ("model.name.matches('^(((a{9}){9}){9})$')", "can never pass", 0),
        # patterns are about the whole text
        ("model.licence.matches('^MIT')", "begin it with ^ and end it with $", 22),
        ("model.licence.matches('MIT$')", "begin it with ^ and end it with $", 22),
        ("model.licence.matches('^MIT|evil$')", "an alternative that ^ or $ does not hold for", 22),
        ("model.licence.matches('^MIT\\\\$')", "where policies read", 22),
        ("model.licence.matches('^(?m)MIT$')", "where policies read", 22),
        ("model.licence.matches('^(?i:mit)$')", "where policies read", 22),
        ("model.licence.matches('^MIT$|^.*$')", "where policies read", 22),
        ("model.licence.matches('^[a--b]$')", "which means one thing here", 22),
        ("model.licence.matches('^[[:alpha:]]$')", "where policies read", 22),
        ("model.licence.matches('^" + "(" * 30 + "a" + ")" * 30 + "$')", "groups in one another", 22),
        # bounds hidden in lists
        ("slices.worse in [0, 1, 2]", "stands in a list", 17),
        ("!(tuned.exact_match.low in [0.1])", "stands in a list", 28),
        ("[0.9, 0.5].all(x, tuned.exact_match.low >= x)", "stands in a list", 1),
        ("[tuned.exact_match.value].exists(x, x >= 0.9)", "stands in a list", 1),
        ("tuned.exact_match.low in {0.9: true}", "'{' means nothing here", 25),
        # types
        ("rows >= 'x'", "type error", 0),
        ("rows", "neither yes nor no", 0),
        ("rows > 1 ? 1 : 0", "neither yes nor no", 0),
        ("rows + 1 > 100", "write 2.0 for 2", 0),
        ("model.name > 3", "type error", 0),
        ("rows >= 5 && model.name > 3", "type error", 13),
        ("rows >= 5 || model.name > 3", "type error", 0),
        ("approvals.exists(one, one.name == 'x')", "type error", 0),
        # syntax and names
        ("rows >", "syntax error", 6),
        ("rows >= 100 and scan.passed", "syntax error", 12),
        ("rows >= 100 $ 2", "'$' means nothing here", 12),
        ("   ", "it is empty", 0),
        ("tuned . loss . low < 3", "without spaces", 0),
        ("tuned.loss < 3", "is an estimate: compare one of tuned.loss.value", 0),
        ("tuned.loss.median < 3", "has no 'median'", 0),
        ("inspektion.secrets == 0", "did you mean inspection.secrets?", 0),
        ("tags.exists(tag, other == 'x')", "no metric 'other'", 17),
        ("tags.exists(rows, rows == 'x')", "call the variable something else", 12),
        # direction
        ("tuned.exact_match.value <= 0.9", "is better when higher", 0),
        ("tuned.loss.value >= 0.9", "is better when lower", 0),
        ("tuned.exact_match.high >= 0.9", "flattering end", 0),
        ("tuned.loss.low <= 3", "flattering end", 0),
        ("tuned.exact_match.high >= base.exact_match.low", "flattering end", 0),
        ("!validation.passed", "better when it says yes", 0),
        ("validation.passed == false", "better when it says yes", 0),
        ("slices.worse > 0", "better when lower", 0),
        ("rows != 5", "better when higher", 0),
        ("size(observations.advisories.vulnerable) > 0", "better when empty", 0),
        ("tuned.exact_match.rows <= 100", "lets a worse one pass", 0),
        # ways to say yes by accident
        ("tuned.loss.high / 0 >= 1", "by anything but a number", 16),
        ("tuned.loss.high / 0.0 >= 1", "by anything but a number", 16),
        ("tuned.loss.high / slices.worse >= 1", "by anything but a number", 16),
        ("tuned.loss.high / (1.0 - 1.0) >= 1", "by anything but a number", 16),
        ("rows % 0 == 1", "by anything but a number", 5),
        ("has(tuned.loss.low)", "has()", 0),
        ("!has(tuned.loss.low) || tuned.loss.high < 3", "has()", 1),
        ("tags[0] == 'x'", "indexing", 4),
        ("model['name'] == 'x'", "indexing", 5),
        ("double(model.name) > 1.0", "double() is not for policies", 0),
        ("rows > 1e300", "no bound", 7),
        ("rows * 0.0000000000000001 > 1.0", "no bound", 7),
        ("rows * rows * rows * rows * rows * rows > 1.0", "more than 4 multiplications", 33),
        ("model.name.matches('(')", "no regular expression", 19),
        ("model.name.matches('desk')", "begin it with ^", 19),
        ("model.name.matches(model.team)", "one pattern in quotes", 11),
        ("tags.filter(tag, tag == 'x').all(tag, tag == 'x')", "for names and for lists", 29),
        ("x" * 3000, "more than 2000", 0),
        (f"model.name in [{'1,' * 101}1]".replace("1", "'a'"), "more than 100 numbers", 415),
        ("tags.all(a, tags.all(b, tags.all(c, a == b)))", "more than 2 loops", 29),
        ("model.name.matches('^(((a{100}){100}){100})$')", "no regular expression", 19),
        ("(" * 500 + "true" + ")" * 500, "syntax error", 0),
    ],
)  # fmt: skip
def test_case_E9_an_expression_that_could_pass_by_accident_is_denied(
    tmp_path: Path, expression: str, complaint: str, offset: int
) -> None:
    found = [(str(fault), fault.offset) for fault in faults(expression)]
    assert any(complaint in text for text, _ in found), found
    assert min(at for text, at in found if complaint in text) == offset or "syntax" in complaint
    with pytest.raises(UsageError, match=r"gates\.yaml:3:\d+: rule exact: "):
        load(tmp_path, with_rule(expression))


def test_every_name_can_stand_in_a_sound_rule_and_has_a_range_it_can_break() -> None:
    tried = 0
    for name, metric in vocabulary.NAMES.items():
        middle = min((metric.least + metric.most) / 2, 1e14)
        high = low = f"{middle:.3f}"
        rule = {
            "flag": name,
            "text": f"size({name}) > 0",
            "list": f"size({name}) == 0",
            "map": f"size({name}) > 0",
            "filled": f"size({name}) > 0",
            "records": f"size({name}) > 0",
            "estimate": f"{name}.high <= {high}" if metric.better == "lower" else f"{name}.low >= {low}",
        }.get(metric.kind, f"{name} <= {high}" if metric.better == "lower" else f"{name} >= {low}")
        if metric.width:
            continue  # never empty
        assert not faults(rule), rule
        tried += 1
    assert tried >= 120


# --- the names that are read are the names that run ---

HIDING = {
    "'''x' || rows >= 100 || 'x''' != model.name": "three quotes",
    '"""x" || rows >= 100 || "x""" != model.name': "three quotes",
    "r'''x' || rows >= 100 || 'x''' != model.name": "three quotes",
    "''' == model.name || rows >= 100 || ''' != 'x'": "three quotes",
    "b'rows' != b'tags' && rows >= 100": "bytes are not for policies",
    "br'rows' == model.name": "bytes are not for policies",
    "Rb'rows' == model.name": "bytes are not for policies",
    "rows >= 100 // && model.name == 'x'": "remarks are not for expressions",
    "rows >= 100 //\n&& model.name == 'x'": "remarks are not for expressions",
    ".rows >= 100": "whether .rows is read here is not clear",
    "(model).name == 'x'": "there is no metric 'model'",
    "model.`name` == 'x'": "means nothing here",
    "model.?name == 'x'": "syntax error",
    "rows >= ١٠٠": "means nothing here",
    "rows\u00a0>= 100": "means nothing here",
    "rows\u000c>= 100": "means nothing here",
}


@pytest.mark.parametrize("text", HIDING)
def test_a_form_that_could_hide_a_name_is_refused(text: str) -> None:
    (fault,) = faults(text)
    assert HIDING[text] in str(fault)
    assert "\n" not in str(fault)


@pytest.mark.parametrize(
    ("text", "read", "means"),
    [
        ("model.name == 'rows || tags'", ("model.name",), "rows || tags"),
        ("model.name == \"rows 'and' tags\"", ("model.name",), "rows 'and' tags"),
        (r"model.name == r'rows\'", ("model.name",), "rows\\"),
        (r'model.name == R"rows\"', ("model.name",), "rows\\"),
        (r"model.name == 'a\'b || rows'", ("model.name",), "a'b || rows"),
        (r"model.name == '\x41\u0042\103'", ("model.name",), "ABC"),
        ("model.name == ''", ("model.name",), ""),
        ("model.name == '//'", ("model.name",), "//"),
        ("size(tags) > 0 && model.name\n== 'x'", ("tags", "model.name"), "x"),
    ],
)
def test_the_names_and_texts_that_are_read_are_those_that_the_engine_runs(
    text: str, read: tuple[str, ...], means: str
) -> None:
    expression = parse(text)
    assert expression.names == read
    assert expression.texts == (means,)
    assert holds(text, context_of({"model.name": means, "tags": ["a"]}))
    assert not holds(text, context_of({"model.name": f"{means}!", "tags": ["a"]}))


@given(st.text(alphabet="'\"rb\\/|&.= xrows\n", max_size=24))
def test_whatever_is_written_the_engine_looks_up_what_was_read(text: str) -> None:
    try:
        expression = parse(f"{text} || rows >= 100")
    except Fault:
        return
    assert set(cel.compile(expression.text).variables()) == {path.partition(".")[0] for path in expression.paths}


# --- numbers without end ---

NINES = "9" * 5_000
MINIMUM = "    minimum_rows: {}\n"


@pytest.mark.parametrize(
    "text",
    [
        RULE + MINIMUM.format(NINES), RULE + MINIMUM.format(f"-{NINES}"), RULE + MINIMUM.format("1" + "0" * 400),
        RULE + MINIMUM.format("0x" + "f" * 5_000), RULE + MINIMUM.format("0" + "7" * 5_000),
        RULE + MINIMUM.format("0b" + "1" * 5_000), RULE + MINIMUM.format("1" + ":59" * 3_000),
        RULE + MINIMUM.format("1e400"), RULE + MINIMUM.format(10**9 + 1), RULE.replace("0.9", NINES),
        RULE.replace("0.9", "9" * 1_500), RULE.replace("0.9", "0." + "9" * 1_500 + "e99"),
        RULE.replace("id: exact", f"id: {NINES}"), f"rules: {NINES}\n",
    ],
    ids=lambda text: f"{len(text)} characters",
)  # fmt: skip
def test_a_number_of_thousands_of_digits_is_one_clear_error(tmp_path: Path, text: str) -> None:
    with pytest.raises(UsageError, match=r"gates\.yaml") as caught:
        load(tmp_path, text)
    assert "\n" not in str(caught.value)
    assert len(str(caught.value)) < 400


def test_minimum_rows_is_asked_of_something(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="minimum_rows asks for nothing here"):
        load(tmp_path, with_rule("size.adapter_bytes <= 5.0", minimum_rows=100))
    for sound in ("inspection.secrets == 0", "tuned.loss.high <= 3", "rows >= 200 && scan.passed"):
        assert load(tmp_path, with_rule(sound, minimum_rows=100))


# --- the command ---


def checked(capsys: pytest.CaptureFixture[str], *words: str) -> tuple[int, str]:
    code = app(["policy", "check", *words], exit_on_error=False, print_error=False, result_action="return_value")
    return code, capsys.readouterr().out


def test_policy_check_lists_every_problem_on_a_line_of_its_own(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    text = RULE.replace("exact_match.low", "exact_mtch.low").replace("    owner: model\n", "    colour: red\n")
    path = written(tmp_path, text + RULES.replace("tuned.exact_match.low >= 0.9", "rows >= 0"))
    code, said = checked(capsys, str(path))
    lines = said.splitlines()
    assert code == 2
    assert len(lines) == 5
    assert all(re.match(rf"{re.escape(str(path))}:\d+:\d+: rule exact: \S", line) for line in lines)
    code, said = checked(capsys, str(path), "--json")
    told = json.loads(said)
    assert (code, told["sound"], len(told["problems"])) == (2, False, 5)
    assert told["problems"][0]["rule"] == "exact"
    assert [one["line"] for one in told["problems"]] == sorted(one["line"] for one in told["problems"])


def test_policy_check_says_that_the_shipped_one_is_sound(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(ROOT)
    code, said = checked(capsys)
    assert code == 0
    assert said.startswith("configs/policies/gates.yaml: sound; ")
    code, said = checked(capsys, "--json")
    assert json.loads(said)["sound"] is True


def test_policy_check_of_a_receipt_that_is_not_there_is_a_mistake(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="does not exist; name a decision"):
        app(
            ["policy", "check", "--receipt", str(tmp_path / "decision.json"), str(SHIPPED)],
            exit_on_error=False, print_error=False, result_action="return_value",
        )  # fmt: skip
