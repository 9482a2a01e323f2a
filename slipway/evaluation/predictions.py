"""What each model answered, row by row, and the file that keeps it."""

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from slipway import digest
from slipway.artifacts import ChampionPin, Json
from slipway.errors import StageError
from slipway.evaluation import answer_format
from slipway.evaluation.testset import Row, TestSet

if TYPE_CHECKING:
    import pyarrow


@dataclass(frozen=True)
class Answer:
    """What one model said to one row, and the loss it gives the answer that was wanted."""

    id: str
    text: str
    loss: float  # summed over the tokens of the wanted answer
    tokens: int


@dataclass(frozen=True)
class Prediction:
    """An answer, and what is to be made of it."""

    id: str
    prediction: str
    predicted_label: str | None
    exact: bool
    valid: bool  # it has the format that evaluate.format asks for
    loss: float
    tokens: int


Answers = list[Answer]  # one model's, in the order of the test set
Predictions = list[Prediction]  # likewise


def of_answers(tests: TestSet, answers: Answers, format: str) -> Predictions:
    """Every model's answers are read in this one way, whoever gave them and whenever."""
    valid = answer_format.check(format, [answer.text for answer in answers])
    return [_prediction(tests, row, answer, fits) for row, answer, fits in zip(tests.rows, answers, valid, strict=True)]


def _prediction(tests: TestSet, row: Row, answer: Answer, valid: bool) -> Prediction:
    exact = answer.text.strip() == row.answer.strip()
    label = row.label if exact else tests.label_of(answer.text)  # the right answer has the right label, however read
    return Prediction(row.id, answer.text, label, exact, valid, answer.loss, answer.tokens)


def _schema() -> "pyarrow.Schema":
    import pyarrow as pa

    text = ("id", "label", "answer", "model", "prediction", "predicted_label")
    numbers = [("exact", pa.bool_()), ("valid", pa.bool_()), ("loss", pa.float64()), ("tokens", pa.int64())]
    return pa.schema([*((name, pa.string()) for name in text), *numbers])


def write(path: Path, tests: TestSet, models: dict[str, Predictions]) -> None:
    """predictions.parquet: every model's answers, sorted by model and id."""
    import pyarrow as pa
    import pyarrow.parquet

    rows: list[dict[str, Any]] = [
        {"label": row.label, "answer": row.answer, "model": model, **vars(prediction)}
        for model in sorted(models)
        for row, prediction in zip(tests.rows, models[model], strict=True)
    ]
    table = pa.Table.from_pylist(rows, schema=_schema())
    pyarrow.parquet.write_table(table, path, compression="zstd")


def read(path: Path, tests: TestSet) -> dict[str, Predictions]:
    """predictions.parquet again: every model's answers in the order of the test set, the base's for a champion too."""
    import pyarrow.parquet

    columns = list(Prediction.__dataclass_fields__)
    found: dict[str, dict[str, Prediction]] = {}
    for row in pyarrow.parquet.read_table(path, columns=["model", *columns]).to_pylist():
        model = row.pop("model")
        found.setdefault(model, {})[row["id"]] = Prediction(**row)
    models = {model: [known[row.id] for row in tests.rows] for model, known in found.items()}
    return {"champion": models["base"], **models}


def of_json(rows: list[Json]) -> Answers:
    """Answers as they are remembered."""
    return [Answer(**row) for row in rows]


def of_champion(pin: ChampionPin, path: Path, tests: TestSet, remembered: list[Json] | None) -> Answers:
    """What the pinned version answered on the same rows when it was released; every row must be there or remembered."""
    again = f"pin the champion {pin.version} again (`slipway run` does)"
    if not path.is_file():
        raise StageError(f"{path} does not exist, and the tuned model is compared by it; {again}")
    if (found := digest.of_file(path)) != pin.predictions:
        raise StageError(f"{path} has SHA-256 {found}, its pin says {pin.predictions}; {again}")
    known = _read(path, again)
    missing = [row.id for row in tests.rows if row.id not in known]
    if not missing:
        return [known[row.id] for row in tests.rows]
    if remembered is not None:
        return of_json(remembered)
    raise StageError(
        f"{path} lacks {len(missing)} of {len(tests.rows)} test rows (first {missing[0]}): the test set is "
        f"not the one {pin.version} was scored on; score {pin.version} on the new rows, then {again}"
    )


def _read(path: Path, again: str) -> dict[str, Answer]:
    import pyarrow
    import pyarrow.parquet

    columns = ["id", "prediction", "loss", "tokens"]
    try:
        rows = pyarrow.parquet.read_table(path).select(columns).to_pylist()
    except (pyarrow.ArrowException, KeyError) as error:
        reason = str(error).splitlines()[0]
        raise StageError(f"{path} does not hold the columns {', '.join(columns)} ({reason}); {again}") from None
    return {row["id"]: Answer(*(row[name] for name in columns)) for row in rows}
