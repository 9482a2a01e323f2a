"""Thousands of registered versions in a ledger, inserted in bulk: rows and events as a registration leaves them, of real size.

fill(database, 10_000)            # one model's, over fifty data sets; the last but one serves
index(root, place)                # the row indexes of those data sets, a few thousand rows each
"""

import time
from datetime import UTC, datetime, timedelta
from functools import cache
from pathlib import Path

import psutil
import pyarrow
import yaml
from pyarrow import parquet
from sqlalchemy import insert, text

from slipway import digest
from slipway.artifacts import Json, Manifest
from slipway.ledger import chain, clock, tables
from slipway.ledger.chain import Event
from slipway.ledger.database import Database
from slipway.registry import learned
from slipway.registry.versions import Version

MODEL = "support-desk"
DATA_SETS = 50
START = datetime(2026, 1, 1, tzinfo=UTC)
ROOT = Path(__file__).parents[1]
SCORES = (
    "exact_match",
    "accuracy",
    "macro_precision",
    "macro_recall",
    "macro_f1",
    "loss",
    "perplexity",
    "format_validity",
)


def data_digest(number: int) -> str:
    return sha("data", number % DATA_SETS)


def version(number: int) -> Version:
    return Version.model_validate(about(number))


def about(number: int) -> Json:
    """The artifact of the version of this serial, as large as a real one: 8 kB of JSON."""
    params = _params() | {"finetune": _params()["finetune"] | {"seed": number, "epochs": 1 + number % 3}}
    metrics = {f"tuned.{name}": 0.5 + (number * 7919 + place) % 997 / 2000 for place, name in enumerate(SCORES)}
    metrics |= {f"delta.champion.{name}": value - 0.7 for name, value in zip(SCORES, metrics.values(), strict=True)}
    metrics |= {f"servability.latency_p{p}_seconds": 0.1 + number % 50 / 500 for p in (50, 95, 99)}
    metrics |= {f"safety.tuned.{name}": 0.9 for name in ("refusal", "toxicity", "leakage", "injection")}
    metrics |= {"scan.bytes": 4e6, "size.adapter_bytes": 3e6 + number, "training.train_loss": 0.1, "rows": 400.0}
    files = [
        {"path": f"{where}/file-{place:02d}.json", "bytes": 1000 + place, "sha256": sha(number, where, place)}
        for where, count in (("adapter", 4), ("receipt", 7), ("receipt/evidence", 15))
        for place in range(count)
    ]
    kind = number % DATA_SETS
    sources = [
        {"path": f"data-{place:05d}-tickets-{kind}.jsonl", "bytes": 800_000, "sha256": sha("raw", kind, place)}
        for place in range(3)
    ]
    release = f"20260101-000000-{number:06x}"
    return {
        "model": MODEL, "version": f"1.{number}.0", "serial": number, "release": release, "stage": "None",
        "state": "present", "at": clock.shown(START + timedelta(minutes=number)), "identity": sha("identity", number),
        "mlflow_version": str(number), "parent": f"1.{number - number % 10}.0" if number % 10 else None,
        "commit": "c" * 40, "tag": f"slipway/{release}", "evidence_digest": sha("evidence", number),
        "policy_digest": sha("policy"), "data_digest": data_digest(number), "data_version": "1.0.0", "base": "tiny",
        "base_digest": sha("base"), "base_source": "tiny", "metrics": metrics, "params": params, "metadata": _stated(),
        "files": files, "sources": sources, "bytes": 26_000, "cost": None, "report": None,
        "seconds": {"ingest": 1.0, "prepare": 5.0, "finetune": 36.5, "evaluate": 11.0},
    }  # fmt: skip


def sha(*parts: object) -> str:
    return digest.of_bytes(repr(parts).encode())


@cache
def _params() -> Json:
    return dict(yaml.safe_load((ROOT / "params.yaml").read_text()))


@cache
def _stated() -> Json:
    return dict(yaml.safe_load((ROOT / "configs" / "model.yaml").read_text()))


def fill(database: Database, count: int) -> None:
    """Rows, two events each, in one transaction; the one before the last is the champion."""
    rows, told = _made(count)
    with database.write() as connection:
        for table, values in ((tables.versions, rows), (tables.events, told)):
            for start in range(0, len(values), 1000):
                connection.execute(insert(table), values[start : start + 1000])
        serves = {"model": MODEL, "version": f"1.{count - 1}.0", "identity": rows[-2]["identity"], "previous": "1.1.0"}
        connection.execute(insert(tables.champions).values(**serves, generation=2, sequence=len(told)))


@cache
def _made(count: int) -> tuple[list[Json], list[Json]]:
    columns = [column.name for column in tables.versions.columns]
    rows, told, last = list[Json](), list[Json](), chain.GENESIS
    for number in range(1, count + 1):
        known = about(number)
        texts = {"metrics": chain.canonical(known["metrics"]), "about": chain.canonical(known)}
        rows.append({name: known.get(name) for name in columns} | texts | {"stage_sequence": 2 * number})
        for kind in ("decision_made", "model_registered"):
            told.append(_event(len(told) + 1, kind, known, last))
            last = told[-1]["hash"]
    return rows, told


def _event(sequence: int, kind: str, known: Json, previous: str) -> Json:
    event = Event(
        sequence=sequence, at=known["at"], elapsed_ms=sequence, boot="b", ticks_ms=sequence, kind=kind, model=MODEL,
        subject=known["version"], actor={"who": {"sealed": "x", "digest": "x"}, "via": "os-user"},
        payload={"version": known["version"], "verdict": "pass"}, previous=previous, hash="",
    )  # fmt: skip
    event = event.model_copy(update={"hash": chain.hash_of(event)})
    return vars(event) | {"actor": chain.canonical(event.actor), "payload": chain.canonical(event.payload)}


def index(root: Path, place: Path, rows: int = 3000, sets: int = DATA_SETS) -> None:
    """The row indexes of every data set, as `register` keeps them; row i of set n has the digest `row_id(n, i)`."""
    for number in range(sets):
        folder = place / f"prepared-{number}"
        prepared(folder, {"train": [(row_id(number, row), f"tickets-{number}.jsonl", row + 1) for row in range(rows)]})
        learned.keep(root, data_digest(number), folder)


def worked(database: Database) -> float:
    """Seconds of processor time that this process and its session on a PostgreSQL have used: other work does not count."""
    if database.is_sqlite:
        return time.process_time()
    with database.read() as connection:
        session = psutil.Process(connection.execute(text("SELECT pg_backend_pid()")).scalar_one()).cpu_times()
    return time.process_time() + session.user + session.system


def row_id(number: int, row: int) -> str:
    return sha(number, row)[:16]


def prepared(folder: Path, splits: dict[str, list[tuple[str, str, int]]]) -> None:
    """As much of prepared data as an index is made of: (digest, raw file, its row) of each row."""
    (folder / "rows").mkdir(parents=True)
    for name in learned.SPLITS:
        found = splits.get(name, [])
        columns = list(zip(*found, strict=True)) if found else [(), (), ()]
        types = (pyarrow.string(), pyarrow.string(), pyarrow.int64())
        arrays = [pyarrow.array(list(column), kind) for column, kind in zip(columns, types, strict=True)]
        table = pyarrow.table(arrays, names=["id", "source_file", "source_row"])
        parquet.write_table(table, folder / "rows" / f"{name}.parquet")
    Manifest.write(folder, facts={})
