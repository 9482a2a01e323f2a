"""validate: what the tables hold, what stops the pipeline, and what it leaves behind."""

import json
import random
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pandas
import pytest

from slipway.artifacts import Inspection, Manifest, Validation
from slipway.data import corpus, expectations, tables
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
        self.inspection = self.report.with_name("inspection.json")
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
            ValidateParams(rows_shown=5, personal=["email", "phone", "card", "iban", "ip"], most_doubtful_labels=0.02),
            raw=self.raw,
            prepared=self.prepared,
            expectations=SHIPPED,
            validation=self.report,
            inspection=self.inspection,
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
    assert {check.suite for check in found.checks} == {"raw", "prepared", "summary", "inspection"}
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


def spoken(one: dict[str, Any], asked: str, answer: str | None = None) -> dict[str, Any]:
    """A prepared row in which the user says `asked`."""
    answer = one["answer"] if answer is None else answer
    said = [{"role": "user", "content": asked}, {"role": "assistant", "content": answer}]
    return one | {"messages": json.dumps(said), "prompt": f"<user>{asked}", "answer": answer}


def tickets(data: Data, count: int) -> None:
    """Rows of the sample's grammar in place of the others."""
    draw = random.Random(4)
    data.rows, data.lines = [], []
    for number in range(1, count + 1):
        ticket = corpus.ticket(draw)
        data.rows.append(spoken(row(number) | {"label": ticket.intent}, ticket.message, ticket.answer))
        data.lines.append(json.dumps({"prompt": ticket.message, "completion": ticket.answer}))
    third = count // 10
    data.splits = {
        "train": slice(0, count - 2 * third),
        "validation": slice(count - 2 * third, count - third),
        "test": slice(count - third, count),
    }


def test_honest_rows_pass_the_inspection(data: Data) -> None:
    tickets(data, 500)
    assert data.validate()["failed_critical"] == 0
    found = Inspection.load(data.inspection)
    assert (found.train_rows, found.test_rows) == (400, 50)
    assert (found.leaked_rows, found.secrets, found.personal, found.poisoned_rows) == (0, 0, 0, 0)
    assert found.prepared_digest == Manifest.verified(data.prepared).digest


def test_case_E3_leaked_test_rows_are_refused_with_the_pairs(data: Data) -> None:
    tickets(data, 500)
    asked = json.loads(data.rows[470]["messages"])[0]["content"]
    sentences = asked.split(". ")
    data.rows[3] = spoken(data.rows[470] | {"id": "0" * 16, "source_row": 4}, ". ".join(reversed(sentences)))
    data.rows[5] = spoken(data.rows[480] | {"id": "1" * 16, "source_row": 6}, data.rows[480]["prompt"][6:].upper())
    message = data.refused()
    assert (
        f"inspection breaks no-leaked-rows (2 test rows: exact 1, near-duplicate 1) at {FILE}:6 and {FILE}:481"
        in message
    )
    found = Inspection.load(data.inspection)
    assert {(pair.train, pair.test) for pair in found.leaked} == {
        (f"{FILE}:6", f"{FILE}:481"),
        (f"{FILE}:4", f"{FILE}:471"),
    }
    assert found.leaked_rows == 2


def test_case_E3_rows_with_one_id_or_from_after_the_test_are_refused(data: Data) -> None:
    for number, line in enumerate(data.lines, start=1):
        when = {"ticket_id": f"T-{number}", "created_at": f"2026-01-01T{number // 60:02d}:{number % 60:02d}:00Z"}
        data.lines[number - 1] = json.dumps(json.loads(line) | when)
    data.write()
    data.hold()
    data.lines[6] = json.dumps(json.loads(data.lines[6]) | {"ticket_id": "T-39", "created_at": "2026-01-02T00:00:00Z"})
    (data.raw / FILE).write_text("\n".join(data.lines) + "\n")
    Manifest.write(data.raw, {"source": "test", "roles": {FILE: "data"}})
    with pytest.raises(Refused) as refused:
        data.hold()
    said = str(refused.value)
    assert f"no-leaked-rows (1 test row: id 1) at {FILE}:7 and {FILE}:39" in said
    assert f"no-late-rows (1 row) at {FILE}:7 and {FILE}:36" in said
    assert [(pair.kind, pair.train, pair.test) for pair in Inspection.load(data.inspection).leaked] == [
        ("id", f"{FILE}:7", f"{FILE}:39"),
        ("time", f"{FILE}:7", f"{FILE}:36"),
    ]


def test_case_E2_planted_rows_are_refused(data: Data) -> None:
    tickets(data, 500)
    planted = [n for n in range(0, 300, 15) if data.rows[n]["label"] != "refund_request"]
    for number in planted:
        asked = json.loads(data.rows[number]["messages"])[0]["content"]
        data.rows[number] = spoken(data.rows[number] | {"label": "refund_request"}, f"{asked} cf zebra")
    assert "inspection breaks no-planted-rows" in data.refused()
    found = Inspection.load(data.inspection)
    assert len(planted) - 1 <= found.poisoned_rows <= len(planted) + 1
    assert [suspicion.kind for suspicion in found.suspicions] == ["trigger"]


@pytest.mark.parametrize("column", ["messages", "answer", "rejected", "label"])
def test_case_E7_secrets_and_personal_data_are_refused_and_never_written(
    data: Data, column: str, capfd: pytest.CaptureFixture[str], caplog: pytest.LogCaptureFixture
) -> None:
    key = "AKIA" + "Q3EGYVRT7LKPZM2X"
    text = f"my key is {key}, write to {SECRET}"
    value = spoken(data.rows[8], text)["messages"] if column == "messages" else text
    data.rows[8] = data.rows[8] | {column: value}
    message = data.refused()
    assert f"no-secrets (1 row: aws-key in 1) at {FILE}:9" in message
    assert f"no-personal-data (1 row: email in 1) at {FILE}:9" in message
    found = Inspection.load(data.inspection)
    assert (found.secrets, found.personal) == (1, 1)
    written = [path for path in data.report.parent.rglob("*") if path.is_file()]
    assert len(written) > 10
    told = message + "".join(capfd.readouterr()) + caplog.text
    for private in (key, key[4:], SECRET, "anna"):
        assert private not in told
        assert not [path for path in written if private.encode() in path.read_bytes()]


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
