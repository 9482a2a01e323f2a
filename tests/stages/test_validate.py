"""validate: what the tables hold, what stops the pipeline, and what it leaves behind."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pandas
import pytest

from slipway.artifacts import Manifest, Validation
from slipway.data import expectations, tables
from slipway.errors import Refused, StageError
from slipway.params import ValidateParams
from tasks.validate import validate

SHIPPED = Path(__file__).parents[2] / "configs" / "expectations"
FILE = "data-00000-rows.jsonl"
LABELS = ("refund", "delivery")
SECRET = "anna.private@example.org"


def row(number: int) -> dict[str, Any]:
    return {
        "id": f"{number:016x}",
        "source_file": FILE,
        "source_row": number,
        "messages": "[]",
        "prompt": f"customer {number} writes",
        "answer": f"intent: {LABELS[number % 2]}",
        "rejected": None,
        "label": LABELS[number % 2],
        "language": "en",
        "tokens": 9,
    }


class Data:
    """Raw and prepared folders that agree, until a test changes something."""

    def __init__(self, root: Path) -> None:
        self.raw, self.prepared, self.report = root / "raw", root / "prepared", root / "reports" / "validation.json"
        self.lines = [json.dumps({"prompt": f"customer {n} writes", "completion": "refund"}) for n in range(1, 41)]
        self.rows = [row(number) for number in range(1, 41)]
        self.splits = {"train": slice(0, 30), "validation": slice(30, 35), "test": slice(35, 40)}
        self.drops: list[dict[str, Any]] = []

    def write(self) -> None:
        (self.prepared / "rows").mkdir(parents=True)
        self.raw.mkdir()
        self.report.parent.mkdir()
        (self.raw / FILE).write_text("\n".join(self.lines) + "\n")
        Manifest.write(self.raw, {"source": "test", "roles": {FILE: "data"}})
        for split, part in self.splits.items():
            frame = pandas.DataFrame(self.rows[part], columns=list(row(1)))
            frame.to_parquet(self.prepared / "rows" / f"{split}.parquet")
        columns = ["source_file", "source_row", "reason", "action", "detail", "content"]
        pandas.DataFrame(self.drops, columns=columns, dtype=str).to_parquet(self.prepared / "drops.parquet")
        Manifest.write(self.prepared, {})

    def drop(self, reason: str, count: int) -> None:
        for number in range(count):
            self.lines.append(self.lines[number])
            self.drops.append({"source_file": FILE, "source_row": "1", "reason": reason, "action": "dropped"})

    def validate(self) -> dict[str, float]:
        self.write()
        return self.hold()

    def hold(self) -> dict[str, float]:
        return validate(
            ValidateParams(rows_shown=5),
            raw=self.raw,
            prepared=self.prepared,
            expectations=SHIPPED,
            validation=self.report,
        )

    def refused(self) -> str:
        with pytest.raises(Refused) as refused:
            self.validate()
        assert Validation.load(self.report).passed is False
        assert (self.report.parent / "data_docs" / "index.html").is_file()
        assert "\n" not in str(refused.value)
        return str(refused.value)


@pytest.fixture
def data(tmp_path: Path) -> Data:
    return Data(tmp_path)


def test_good_data_passes(data: Data) -> None:
    metrics = data.validate()
    found = Validation.load(data.report)
    assert found.passed and found.tables == {"raw": 40, "prepared": 40, "summary": 1}
    assert metrics == {"checks": len(found.checks), "failed_critical": 0, "failed_warning": 0, "rows": 40}
    assert len(found.checks) > 40
    assert {check.suite for check in found.checks} == {"raw", "prepared", "summary"}
    assert found.raw_digest == Manifest.verified(data.raw).digest
    assert found.prepared_digest == Manifest.verified(data.prepared).digest
    assert found.suites_digest == expectations.digest_of(SHIPPED)


def test_same_data_same_bytes(data: Data, tmp_path: Path) -> None:
    data.validate()
    again = Data(tmp_path / "again")
    again.raw.parent.mkdir()
    again.validate()
    assert data.report.read_bytes() == again.report.read_bytes()


def one_class(data: Data) -> None:
    data.rows = [one | {"label": "refund"} for one in data.rows]


def same_prompt_in_two_splits(data: Data) -> None:
    data.rows[38]["prompt"] = "Customer  2 WRITES!"


def repeated_id(data: Data) -> None:
    data.rows[4]["id"] = data.rows[3]["id"]


def empty_answer(data: Data) -> None:
    data.rows[6]["answer"] = "  "


def missing_prompt(data: Data) -> None:
    data.rows[6]["prompt"] = None


def broken_source(data: Data) -> None:
    for number in range(20):
        data.lines.append("{broken")
        data.drops.append(
            {"source_file": FILE, "source_row": str(41 + number), "reason": "broken_json", "action": "dropped"}
        )


def vanished_rows(data: Data) -> None:
    data.lines += ['{"prompt": "a", "completion": "b"}'] * 3


def dropped_too_much(data: Data) -> None:
    data.drop("exact_duplicate", 60)


def no_test_rows(data: Data) -> None:
    data.splits["test"] = slice(0, 0)


def nothing_prepared(data: Data) -> None:
    data.splits = dict.fromkeys(data.splits, slice(0, 0))


@pytest.mark.parametrize(
    ("spoil", "said"),
    [
        (
            one_class,
            "summary.labels breaks expect_column_values_to_not_be_in_set (only one, refund, on 30 of 30 training rows)",
        ),
        (same_prompt_in_two_splits, f"at {FILE}:2, {FILE}:39: a prompt that stands in two splits"),
        (repeated_id, f"prepared.id breaks expect_column_values_to_be_unique (2 of 40 rows) at {FILE}:4, {FILE}:5"),
        (empty_answer, f"prepared.answer breaks expect_column_values_to_match_regex (1 of 40 rows) at {FILE}:7"),
        (missing_prompt, f"prepared.prompt breaks expect_column_values_to_not_be_null (1 of 40 rows) at {FILE}:7"),
        (broken_source, f"raw.problem breaks expect_column_values_to_be_null (20 of 60 rows) at {FILE}:41"),
        (vanished_rows, "summary.unaccounted_rows breaks expect_column_values_to_be_in_set (43 in, 40 out, 0 dropped)"),
        (dropped_too_much, "0.6000: 60 of 100 raw rows, 60 of them as exact_duplicate"),
        (no_test_rows, "summary.test_rows"),
        (nothing_prepared, "prepared breaks expect_table_row_count_to_be_between (0)"),
    ],
    ids=lambda value: value.__name__ if callable(value) else "",
)
def test_critical_failure_is_refused_and_explained(data: Data, spoil: Callable[[Data], None], said: str) -> None:
    spoil(data)
    assert said in data.refused()


def test_warning_does_not_stop(data: Data, capsys: pytest.CaptureFixture[str]) -> None:
    data.rows = [one | {"language": "fr"} for one in data.rows]
    assert data.validate()["failed_warning"] == 1
    assert "warning   prepared.language breaks" in capsys.readouterr().out


def test_unlabelled_data_is_no_fault(data: Data) -> None:
    data.rows = [one | {"label": None} for one in data.rows]
    assert data.validate()["failed_critical"] == 0


def test_case_E7_report_and_pages_hold_no_value_of_the_data(data: Data) -> None:
    data.lines[3] = json.dumps({"prompt": SECRET, "no": SECRET})
    data.rows = [one | {"label": SECRET, "prompt": SECRET, "id": SECRET, "language": SECRET} for one in data.rows]
    message = data.refused()
    written = [path for path in data.report.parent.rglob("*") if path.is_file()]
    assert len(written) > 10
    assert SECRET not in message
    assert not [path for path in written if b"anna" in path.read_bytes()]


def test_pages_work_without_a_network(data: Data) -> None:
    data.validate()
    pages = list((data.report.parent / "data_docs").rglob("*.html"))
    assert len(pages) == 7
    for page in pages:
        text = page.read_text()
        assert "http://" not in text and "https://" not in text and "<script" not in text
        assert "Value" in text or "Expectation" in text


def test_pages_of_an_earlier_run_are_replaced(data: Data) -> None:
    data.validate()
    old = data.report.parent / "data_docs" / "old.html"
    old.write_text("old")
    data.hold()
    assert not old.exists() and (old.parent / "index.html").is_file()


def test_torn_prepared_folder_is_an_error_not_a_verdict(data: Data) -> None:
    data.write()
    (data.prepared / "rows" / "test.parquet").write_bytes(b"PAR1")
    with pytest.raises(StageError, match=r"test\.parquet is cut at byte 4"):
        data.hold()
    assert not data.report.exists()


def test_every_table_has_the_columns_it_promises(data: Data) -> None:
    data.write()
    raw, prepared = tables.raw(data.raw), tables.prepared(data.prepared)
    found = {"raw": raw, "prepared": prepared, "summary": tables.summary(raw, prepared, data.prepared)}
    assert found.keys() == tables.COLUMNS.keys()
    for name, table in found.items():
        assert tuple(table.frame.columns) == tables.COLUMNS[name]
