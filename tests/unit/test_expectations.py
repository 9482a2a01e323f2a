"""Suites are read strictly, and no table passes for want of anything to judge."""

from pathlib import Path
from typing import Any

import pandas
import pytest
import yaml

from slipway.artifacts import Check
from slipway.data import expectations
from slipway.data.expectations import Suite, failures, hold, load, problem_of
from slipway.data.tables import COLUMNS, Table
from slipway.errors import UsageError

SHIPPED = Path(__file__).parents[2] / "configs" / "expectations"
WHY = "a reason long enough to be one"


def entry(kind: str, severity: str = "critical", **kwargs: Any) -> dict[str, Any]:
    return {"type": kind, "kwargs": kwargs, "severity": severity, "why": WHY}


def suite(*entries: dict[str, Any]) -> Suite:
    return Suite.model_validate({"expectations": list(entries)})


def table(**columns: list[Any]) -> Table:
    frame = pandas.DataFrame(columns)
    return Table(frame, [f"a.jsonl:{n + 1}" for n in range(len(frame))])


def held(asked: Suite, over: Table) -> list[Check]:
    checks, _ = hold("raw", asked, over, rows_shown=3)
    return checks


def failed(asked: Suite, over: Table) -> list[str]:
    return [check.expectation for check in held(asked, over) if not check.passed]


BETWEEN = entry("expect_column_values_to_be_between", column="chars", min_value=0)


def test_shipped_suites_load_and_cover_every_table() -> None:
    suites = load(SHIPPED)
    assert suites.keys() == COLUMNS.keys()
    assert all(len(one.expectations) >= 5 for one in suites.values())
    assert all(any(e.severity == "critical" for e in one.expectations) for one in suites.values())


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("", "empty"),
        ("expectations: []", ":1:"),
        (
            "expectations:\n  - type: expect_moon\n    kwargs: {}\n    severity: info\n    why: a reason for it",
            "unknown type",
        ),
        (
            yaml.dump({"expectations": [entry("unexpected_rows_expectation", unexpected_rows_query="SELECT 1")]}),
            "unknown type",
        ),
        (yaml.dump({"expectations": [BETWEEN | {"severity": "fatal"}]}), "severity"),
        (yaml.dump({"expectations": [BETWEEN | {"note": "x"}]}), "note"),
        (yaml.dump({"expectations": [{"type": "expect_column_to_exist", "severity": "info", "why": WHY}]}), "kwargs"),
        (yaml.dump({"expectations": [entry(BETWEEN["type"], column="chars", minimum=3)]}), "minimum"),
        (yaml.dump({"expectations": [entry(BETWEEN["type"], column="chars")]}), "cannot both be None"),
        (yaml.dump({"expectations": [entry("expect_column_max_to_be_between", column="chars")]}), "neither min_value"),
        (yaml.dump({"expectations": [entry("expect_column_values_to_match_regex", column="shape")]}), "regex is not"),
        (yaml.dump({"expectations": [entry(BETWEEN["type"], column="charz", min_value=3)]}), "no column charz"),
        (yaml.dump({"expectations": [entry(BETWEEN["type"], column="chars", min_value=0, mostly=0)]}), "mostly 0"),
        (yaml.dump({"expectations": [entry(BETWEEN["type"], column="chars", min_value=float("nan"))]}), "finite"),
        (
            yaml.dump({"expectations": [entry(BETWEEN["type"], column="chars", min_value=0, row_condition="x>1")]}),
            "row_condition",
        ),
        ("expectations:\n  - {type: a, type: b}", "twice"),
        ("expectations: !!python/object:os.system {}", "tag"),
    ],
)
def test_case_E1_broken_suite_is_refused_in_one_line(tmp_path: Path, text: str, said: str) -> None:
    path = tmp_path / "raw.yaml"
    path.write_text(text)
    with pytest.raises(UsageError) as refused:
        expectations.read(path, "raw")
    assert said in str(refused.value) and str(path) in str(refused.value) and "\n" not in str(refused.value)


def test_error_names_the_line(tmp_path: Path) -> None:
    path = tmp_path / "raw.yaml"
    path.write_text(yaml.dump({"expectations": [BETWEEN]}) + "\n# a comment\n" + yaml.dump([entry("expect_moon")]))
    with pytest.raises(UsageError, match=r"raw\.yaml:10: expect_moon: unknown type"):
        expectations.read(path, "raw")


def test_missing_and_surplus_suite_files_are_refused(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"raw\.yaml does not exist"):
        load(tmp_path)
    for file in SHIPPED.glob("*.yaml"):
        (tmp_path / file.name).write_bytes(file.read_bytes())
    assert load(tmp_path)
    (tmp_path / "prepard.yaml").write_text("expectations: []")
    with pytest.raises(UsageError, match=r"prepard\.yaml belongs to no table"):
        load(tmp_path)


def test_good_table_passes() -> None:
    assert failed(suite(BETWEEN), table(chars=[1.0, 2.0])) == []


def test_case_E1_empty_table_passes_nothing() -> None:
    checks = held(suite(BETWEEN), Table(pandas.DataFrame({"chars": pandas.Series([], dtype=float)}), []))
    assert len(checks) == 4 and not any(check.passed for check in checks)


def test_case_E1_mostly_missing_values_fail() -> None:
    names = failed(suite(BETWEEN), table(chars=[1.0] * 10 + [float("nan")] * 90))
    assert names == ["expect_column_values_to_not_be_null"]


def test_a_suite_may_say_how_many_values_are_missing() -> None:
    stated = entry("expect_column_values_to_not_be_null", column="chars", mostly=0.5)
    assert failed(suite(BETWEEN, stated), table(chars=[1.0, 2.0, float("nan")])) == []
    assert failed(suite(BETWEEN, stated), table(chars=[1.0, float("nan"), float("nan")])) == [stated["type"]]


def test_column_without_any_value_passes_nothing() -> None:
    stated = entry("expect_column_values_to_not_be_null", column="chars", mostly=0.01)
    assert BETWEEN["type"] in failed(suite(BETWEEN, stated), table(chars=[float("nan")] * 5))


@pytest.mark.parametrize("value", [float("inf"), float("-inf")])
def test_case_E1_infinity_fails_a_one_sided_bound(value: float) -> None:
    side = "min_value" if value > 0 else "max_value"
    one_sided = entry("expect_column_values_to_be_between", column="chars", **{side: 0})
    checks = [check for check in held(suite(one_sided), table(chars=[value])) if not check.passed]
    assert [check.why.startswith("guard") for check in checks] == [True]


def test_guards_are_as_severe_as_what_they_guard() -> None:
    asked = suite(BETWEEN | {"severity": "warning"}, BETWEEN | {"severity": "info"})
    checks = held(asked, table(chars=[float("nan"), 1.0]))
    assert [(c.severity, c.passed) for c in checks][1] == ("warning", False)


def test_what_cannot_be_checked_fails_critically() -> None:
    (check,) = failures(held(suite(BETWEEN | {"severity": "info"}), table(other=[1])), "critical")[-1:]
    assert check.expectation == BETWEEN["type"] and "could not be checked" in str(check.observed)


def test_failed_rows_are_named_and_their_values_are_not() -> None:
    secret = "anna.private@example.org"
    asked = suite(
        entry("expect_column_values_to_be_in_set", column="problem", value_set=["fine"]),
        entry("expect_column_distinct_values_to_be_in_set", column="problem", value_set=["fine"]),
        entry("expect_column_most_common_value_to_be_in_set", column="problem", value_set=["fine"]),
        entry("expect_column_values_to_match_regex", column="problem", regex="^fine$"),
        entry("expect_column_values_to_be_unique", column="problem"),
        entry("expect_column_max_to_be_between", column="problem", max_value=1),
        entry("expect_column_values_to_be_of_type", column="problem", type_="int"),
        entry("expect_column_pair_values_to_be_equal", column_A="problem", column_B="shape"),
        entry("expect_column_mean_to_be_between", column="problem", max_value=1),
    )
    over = table(problem=["fine", secret, secret, secret, secret], shape=["fine"] * 5)
    checks, result = hold("raw", asked, over, rows_shown=3)
    broken = next(c for c in checks if c.expectation == "expect_column_values_to_be_in_set")
    assert (broken.unexpected, broken.rows) == (4, ["a.jsonl:2", "a.jsonl:3", "a.jsonl:4"])
    assert problem_of(broken).startswith(f"raw.problem breaks {broken.expectation} (4 of 5 rows) at a.jsonl:2, ")
    assert sum(not check.passed for check in checks) == 9
    written = [check.model_dump_json() for check in checks] + [str(result.to_json_dict())]
    assert not any("anna" in text for text in written)
