"""What must be true of the data: the suites of configs/expectations, held against tables by Great Expectations.

Great Expectations believes in vacuous truth: an empty table passes, missing values are skipped, infinity is above any
bound. So every suite is led by guards of our own (rows exist, used columns are complete, numbers are finite), and a
check that found nothing to judge fails.
"""

import math
import sys
from collections.abc import Iterator, Mapping
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from slipway import digest, strict
from slipway.artifacts import Check
from slipway.data.tables import COLUMNS, Table
from slipway.errors import UsageError

if TYPE_CHECKING:
    from great_expectations.core import ExpectationSuiteValidationResult, ExpectationValidationResult
    from great_expectations.expectations.expectation import Expectation as GreatExpectation

Severity = Literal["critical", "warning", "info"]
_STRICTEST: tuple[Severity, ...] = ("critical", "warning", "info")

# Say themselves what may be missing, so they need no guard.
_ABOUT_MISSING = (
    "expect_column_to_exist",
    "expect_column_values_to_be_null",
    "expect_column_values_to_not_be_null",
    "expect_column_proportion_of_non_null_values_to_be_between",
)
# Need a database, which no table here is.
_NEED_SQL = (
    "unexpected_rows_expectation",
    "expect_query_results_to_match_comparison",
    "expect_table_row_count_to_equal_other_table",
)
# Great Expectations' own plumbing; `row_condition` may select no row at all and then pass.
_NOT_KWARGS = frozenset(
    [
        *("id", "meta", "notes", "description", "rendered_content", "severity", "batch_id", "windows"),
        *("result_format", "catch_exceptions", "library_metadata", "row_condition", "condition_parser"),
    ]
)
_BOUNDS = frozenset({"min_value", "max_value"})
_NEEDED = {
    "expect_column_values_to_match_regex": "regex",
    "expect_column_kl_divergence_to_be_less_than": "threshold",
}


class Expectation(BaseModel):
    """One entry of a suite, in Great Expectations' own vocabulary plus the reason it stands there."""

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)

    type: str
    kwargs: dict[str, Any]
    severity: Severity
    why: str = Field(min_length=10)

    @property
    def columns(self) -> list[str]:
        """The columns whose values it judges."""
        if self.type.startswith("expect_table_"):
            return []
        single = [self.kwargs[key] for key in ("column", "column_A", "column_B") if key in self.kwargs]
        return [str(name) for name in (*single, *self.kwargs.get("column_list", ()))]


class Suite(BaseModel):
    """What one table must meet."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    expectations: list[Expectation] = Field(min_length=1)


# --- reading ------------------------------------------------------------------------------------------------------


def load(folder: Path) -> dict[str, Suite]:
    """The suite of each table, or UsageError naming file and line."""
    files = {name: folder / f"{name}.yaml" for name in COLUMNS}
    if unknown := sorted({*folder.glob("*.yaml"), *folder.glob("*.yml")} - set(files.values())):
        names = ", ".join(path.name for path in files.values())
        raise UsageError(f"{unknown[0]} belongs to no table; the suites are {names}")
    return {name: read(path, name) for name, path in files.items()}


def digest_of(folder: Path) -> str:
    """One digest over the suite of each table."""
    return digest.of_pairs({name: digest.of_file(folder / f"{name}.yaml") for name in COLUMNS})


def read(path: Path, table: str) -> Suite:
    """One suite file, every entry checked as far as it can be without data."""
    raw = strict.read_yaml(path, "every table needs its suite, see docs/guide/expectations.md")
    try:
        suite = Suite.model_validate(raw)
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(str(part) for part in first["loc"])
        raise UsageError(f"{path}:{strict.line_of(path, first['loc'])}: {where}: {first['msg']}; correct it") from None
    for position, expectation in enumerate(suite.expectations):
        if problem := _problem(expectation, table):
            line = strict.line_of(path, ("expectations", position))
            raise UsageError(f"{path}:{line}: {expectation.type}: {problem}")
    return suite


def _problem(expectation: Expectation, table: str) -> str | None:
    """Why an entry cannot be used, if so."""
    if expectation.type not in (known := _types()):
        return f"unknown type; the types are those of Great Expectations that need no database, such as {known[0]}"
    if plumbing := sorted(_NOT_KWARGS & expectation.kwargs.keys()):
        return f"the kwarg {plumbing[0]} cannot be used here; remove it"
    if missing := [name for name in expectation.columns if name not in COLUMNS[table]]:
        return f"the table {table} has no column {missing[0]}; its columns are {', '.join(COLUMNS[table])}"
    if not all(math.isfinite(number) for number in _numbers(expectation.kwargs)):
        return "a bound is not a finite number; write one that is"
    return _disliked(expectation) or _vacuous(expectation)


def _vacuous(expectation: Expectation) -> str | None:
    """How an entry asks for nothing, where Great Expectations would let it."""
    given = {name for name, value in expectation.kwargs.items() if value is not None}
    if expectation.kwargs.get("mostly", 1) == 0:
        return "mostly 0 asks for nothing; raise it or remove the expectation"
    if "quantile" not in expectation.type and expectation.type.endswith("_between") and not given & _BOUNDS:
        return "neither min_value nor max_value is given, so it asks for nothing; give one"
    if (needed := _NEEDED.get(expectation.type)) and needed not in given:
        return f"{needed} is not given, so it asks for nothing; give it"
    return None


def _numbers(value: Any) -> Iterator[float]:
    if isinstance(value, dict):
        value = list(value.values())
    if isinstance(value, list):
        for item in value:
            yield from _numbers(item)
    elif isinstance(value, float):
        yield value


@cache
def _types() -> list[str]:
    from great_expectations.expectations import registry
    from great_expectations.expectations.core import ExpectColumnToExist  # noqa: F401 (registers the core ones)

    return sorted(set(registry.list_registered_expectation_implementations()) - set(_NEED_SQL))


def _disliked(expectation: Expectation) -> str | None:
    """What Great Expectations itself dislikes about the kwargs."""
    from great_expectations.compatibility.pydantic import ValidationError as GreatValidationError

    try:
        _built(expectation, 0)
    except GreatValidationError as error:
        first = error.errors()[0]
        name = ".".join(str(part) for part in first["loc"] if part != "__root__")
        return f"kwargs{'.' + name if name else ''}: {first['msg'].splitlines()[0]}; correct it"
    return None


def _built(expectation: Expectation, position: int) -> "GreatExpectation":
    from great_expectations.expectations.registry import get_expectation_impl

    implementation = get_expectation_impl(expectation.type)
    return implementation(
        **expectation.kwargs, severity=expectation.severity, notes=expectation.why, meta={"position": position}
    )


# --- guards -------------------------------------------------------------------------------------------------------


def guarded(suite: Suite, table: Table) -> list[Expectation]:
    """The suite, led by what each of its expectations takes for granted."""
    rows = Expectation(
        type="expect_table_row_count_to_be_between",
        kwargs={"min_value": 1},
        severity="critical",
        why="guard: checks of an empty table pass without having seen anything",
    )
    found = [rows, *_complete(suite), *_finite(suite, table), *suite.expectations]
    return [expectation for position, expectation in enumerate(found) if expectation not in found[:position]]


def _judged(suite: Suite) -> dict[str, Severity]:
    """Each column whose values the suite judges, with the strictest severity that does."""
    judged: dict[str, Severity] = {}
    for expectation in suite.expectations:
        for column in expectation.columns if expectation.type not in _ABOUT_MISSING else ():
            judged[column] = min(judged.get(column, "info"), expectation.severity, key=_STRICTEST.index)
    return judged


def _complete(suite: Suite) -> Iterator[Expectation]:
    """No missing values in a judged column, unless the suite itself says how many there may be."""
    statements = [e for e in suite.expectations if e.type == "expect_column_values_to_not_be_null"]
    stated = {column for statement in statements for column in statement.columns}
    for column, severity in _judged(suite).items():
        if column not in stated:
            yield Expectation(
                type="expect_column_values_to_not_be_null",
                kwargs={"column": column},
                severity=severity,
                why="guard: missing values are skipped by every other check of this column",
            )


def _finite(suite: Suite, table: Table) -> Iterator[Expectation]:
    for column, severity in _judged(suite).items():
        if column in table.frame and table.frame[column].dtype.kind == "f":
            yield Expectation(
                type="expect_column_values_to_be_between",
                kwargs={"column": column, "min_value": -sys.float_info.max, "max_value": sys.float_info.max},
                severity=severity,
                why="guard: infinity is above any lower bound, so it must be looked for",
            )


# --- holding a table against its suite ----------------------------------------------------------------------------


def hold(
    name: str, suite: Suite, table: Table, rows_shown: int
) -> "tuple[list[Check], ExpectationSuiteValidationResult]":
    """One check an expectation, in the suite's order, and Great Expectations' own result without a single value."""
    import great_expectations as gx
    from great_expectations.core.result_format import ResultFormat

    expectations = guarded(suite, table)
    context = gx.get_context(mode="ephemeral")
    context.variables.progress_bars = {"globally": False}
    asset = context.data_sources.add_pandas("slipway").add_dataframe_asset(name)
    batch = asset.add_batch_definition_whole_dataframe("all").get_batch(batch_parameters={"dataframe": table.frame})
    asked = gx.ExpectationSuite(name=name, expectations=[_built(e, n) for n, e in enumerate(expectations)])
    result = batch.validate(asked, result_format=ResultFormat.COMPLETE)
    by_position = {one.expectation_config.meta["position"]: one for one in result.results}
    ordered = [by_position[position] for position in range(len(expectations))]
    checks = [_check(name, e, one, table, rows_shown) for e, one in zip(expectations, ordered, strict=True)]
    _withhold(result, ordered, checks)
    return checks, result


def _check(
    name: str, expectation: Expectation, one: "ExpectationValidationResult", table: Table, rows_shown: int
) -> Check:
    found: Mapping[str, Any] = one.result
    broken = sorted(found.get("unexpected_index_list") or [])
    nothing_judged = len(table.frame) == 0 or (
        expectation.type not in _ABOUT_MISSING and 0 < found.get("element_count", 0) == found.get("missing_count", 0)
    )
    columns = expectation.columns
    return Check(
        suite=name,
        expectation=expectation.type,
        column=", ".join(columns) or None,
        # What could not be judged is not a warning, whatever its severity says.
        severity="critical" if not found else expectation.severity,
        passed=bool(one.success) and not nothing_judged,
        observed=_observed(expectation, found, table),
        unexpected=int(found.get("unexpected_count", 0)),
        rows=[table.places[position] for position in broken[:rows_shown]] if table.places else [],
        why=expectation.why,
    )


def _observed(expectation: Expectation, found: Mapping[str, Any], table: Table) -> float | int | str | None:
    """What was seen, in numbers and names of columns; a value of the data never."""
    if not found:
        return "could not be checked: a column is missing or of another type"
    if (column := next(iter(expectation.columns), "")) in table.notes:
        return table.notes[column]
    if "element_count" in found:
        return f"{found.get('unexpected_count', 0):,} of {found['element_count']:,} rows"
    mismatched = (found.get("details") or {}).get("mismatched")
    if isinstance(mismatched, dict):  # names of columns
        return "; ".join(f"{kind}: {', '.join(map(str, names))}" for kind, names in sorted(mismatched.items()))[:300]
    return _number(found.get("observed_value"))


def _number(value: Any) -> float | int | None:
    if hasattr(value, "item"):  # numpy's
        value = value.item()
    return value if isinstance(value, int | float) and math.isfinite(value) else None


def _withhold(
    result: "ExpectationSuiteValidationResult", ordered: "list[ExpectationValidationResult]", checks: list[Check]
) -> None:
    """Leave counts and verdicts in Great Expectations' result, and no value of the data: it becomes web pages."""
    for one, check in zip(ordered, checks, strict=True):
        kept = {key: number for key, value in one.result.items() if (number := _number(value)) is not None}
        one.success = check.passed
        one.result = kept if "element_count" in kept else {"observed_value": check.observed}
        one.exception_info = {"raised_exception": False, "exception_message": None, "exception_traceback": None}
    result.results = ordered
    passed = sum(check.passed for check in checks)
    result.success = passed == len(checks)
    result.statistics = {
        "evaluated_expectations": len(checks),
        "successful_expectations": passed,
        "unsuccessful_expectations": len(checks) - passed,
        "success_percent": 100 * passed / len(checks),
    }


def failures(checks: list[Check], severity: Severity) -> list[Check]:
    return [check for check in checks if not check.passed and check.severity == severity]


def problem_of(check: Check) -> str:
    """A failed check in one phrase: what, how much, where, why."""
    subject = f"{check.suite}.{check.column}" if check.column else check.suite
    seen = f" ({check.observed})" if check.observed is not None else ""
    where = f" at {', '.join(check.rows[:3])}{' …' if check.unexpected > 3 else ''}" if check.rows else ""
    return f"{subject} breaks {check.expectation}{seen}{where}: {check.why}"
