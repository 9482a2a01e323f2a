"""What each model answered, row by row, and the file that keeps it."""

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from slipway import digest
from slipway.artifacts import ChampionPin
from slipway.errors import StageError
from slipway.evaluation.testset import TestSet

if TYPE_CHECKING:
    import pyarrow


@dataclass(frozen=True)
class Prediction:
    """One model's answer to one row, with the loss it gives the answer that was wanted."""

    id: str
    prediction: str
    predicted_label: str | None
    exact: bool
    loss: float  # summed over the tokens of the wanted answer
    tokens: int


Predictions = list[Prediction]  # one model's, in the order of the test set


def _schema() -> "pyarrow.Schema":
    import pyarrow as pa

    text = ("id", "label", "answer", "model", "prediction", "predicted_label")
    numbers = [("exact", pa.bool_()), ("loss", pa.float64()), ("tokens", pa.int64())]
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


def of_champion(pin: ChampionPin, path: Path, tests: TestSet) -> Predictions:
    """What the pinned version answered on the same rows when it was released; every row must be there."""
    again = f"pin the champion {pin.version} again (`slipway run` does)"
    if not path.is_file():
        raise StageError(f"{path} does not exist, and the tuned model is compared by it; {again}")
    if (found := digest.of_file(path)) != pin.predictions:
        raise StageError(f"{path} has SHA-256 {found}, its pin says {pin.predictions}; {again}")
    known = _read(path, again)
    if missing := [row.id for row in tests.rows if row.id not in known]:
        raise StageError(
            f"{path} lacks {len(missing)} of {len(tests.rows)} test rows (first {missing[0]}): the test set is "
            f"not the one {pin.version} was scored on; score {pin.version} on the new rows, then {again}"
        )
    return [known[row.id] for row in tests.rows]


def _read(path: Path, again: str) -> dict[str, Prediction]:
    import pyarrow
    import pyarrow.parquet

    columns = list(Prediction.__dataclass_fields__)
    try:
        rows = pyarrow.parquet.read_table(path).select(columns).to_pylist()
    except (pyarrow.ArrowException, KeyError) as error:
        reason = str(error).splitlines()[0]
        raise StageError(f"{path} does not hold the columns {', '.join(columns)} ({reason}); {again}") from None
    return {row["id"]: Prediction(**row) for row in rows}
