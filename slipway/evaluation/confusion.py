"""What was mistaken for what: counts for the scorecard, pairs for DVC's confusion plot."""

import csv
import io
from pathlib import Path

from slipway import atomic
from slipway.evaluation.predictions import Predictions
from slipway.evaluation.testset import TestSet

NO_LABEL = "no label"
WANTED, OTHER = "the wanted answer", "another answer"


def counts(tests: TestSet, predictions: Predictions) -> list[list[int]]:
    """Truth by row and prediction by column; the last column is "no label" (none, or one that no row has)."""
    place = {label: i for i, label in enumerate(tests.labels)}
    table = [[0] * (len(place) + 1) for _ in place]
    for row, prediction in zip(tests.rows, predictions, strict=True):
        if row.label is not None:
            table[place[row.label]][place.get(prediction.predicted_label or "", len(place))] += 1
    return table


def write(path: Path, tests: TestSet, predictions: Predictions) -> None:
    """confusion.csv: one line a test row. A row without a label says whether its answer was the wanted one."""
    known = set(tests.labels)
    stream = io.StringIO()
    writer = csv.writer(stream, lineterminator="\n")
    writer.writerow(["actual", "predicted"])
    for row, p in zip(tests.rows, predictions, strict=True):
        if row.label is None:
            writer.writerow([WANTED, WANTED if p.exact else OTHER])
        else:
            writer.writerow([row.label, p.predicted_label if p.predicted_label in known else NO_LABEL])
    atomic.write_text(path, stream.getvalue())
