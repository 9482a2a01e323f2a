"""How fast thousands of versions are listed, compared and traced, beside asking MLflow's registry one call a version.

    python benchmarks/registry.py FILE [--versions 10000] [--sample 500]

Ours: the ledger, on SQLite and, where it is installed, on a PostgreSQL that this starts. The peer: MLflow's own registry on
SQLite, through its client, in this process (no HTTP in between). Both hold the same versions with the same metrics and
parameters; MLflow's were written by its client once and then copied row by row with SQL, since its client takes minutes
for them. One call a version is measured on a sample of its versions and scaled; that is said beside each figure.
Each figure is the best of three, of processor time, which other work on the machine moves least: this process's, and with
PostgreSQL its server's for this session too. A look-up is the mean of fifty. Over a bar, the run ends with 1.
"""

import argparse
import functools
import json
import platform
import sqlite3
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
sys.path[:0] = [str(ROOT), str(ROOT / "tests")]

import ledgers  # noqa: E402
import many_versions  # noqa: E402

from slipway import settings  # noqa: E402
from slipway.cli import models  # noqa: E402
from slipway.ledger import versions as rows  # noqa: E402
from slipway.ledger.database import Database  # noqa: E402
from slipway.registry import catalog, comparing, lineage, versions  # noqa: E402

NAME = many_versions.MODEL
LOOK_UPS = 50  # in a trial
LOOK_UP, REPORT = 0.020, 2.0  # seconds: the bars
Taken = dict[str, float]  # wall and cpu, in seconds
Worked = Callable[[], float]


def best(do: Callable[[], Any], times: int = 3, again: int = 1, worked: Worked = time.process_time) -> Taken:
    """The best of some trials, each the mean of as many calls."""
    taken = []
    for _ in range(times):
        begin, before = time.perf_counter(), worked()
        for _ in range(again):
            do()
        taken.append(((time.perf_counter() - begin) / again, (worked() - before) / again))
    return {"wall": min(wall for wall, _ in taken), "cpu": min(cpu for _, cpu in taken)}


# --- ours -------------------------------------------------------------------------------------------------------------


def ours(database: Database, root: Path, count: int) -> dict[str, Taken]:
    many_versions.fill(database, count)
    middle = many_versions.version(count // 2)

    def asked(ask: Callable[[Any], Any]) -> Callable[[], Any]:
        def once() -> Any:
            with database.read() as connection:
                return ask(connection)

        return once

    def listed(connection: Any) -> str:
        return json.dumps([models._entry(entry) for entry in catalog.listing(connection).entries])

    def compared(connection: Any) -> str:
        return json.dumps(comparing.as_json(comparing.compare(catalog.every_subject(root, connection))))

    look_ups = {
        "alias": asked(lambda connection: versions.resolve(connection, "champion", None)),
        "newest": asked(lambda connection: versions.resolve(connection, "latest", None)),
        "tag": asked(lambda connection: rows.of_identity(connection, NAME, middle.identity)),
    }
    reports = {
        "list": asked(listed),
        "compare": asked(compared),
        "lineage": lambda: lineage.of_target(root, database, middle.sources[0].sha256),
        "row": lambda: lineage.of_target(root, database, many_versions.row_id(3, 100)),
    }
    worked = functools.partial(many_versions.worked, database)
    found = {name: best(do, 3, LOOK_UPS, worked) for name, do in look_ups.items()}
    return found | {name: best(do, worked=worked) for name, do in reports.items()}


# --- MLflow -----------------------------------------------------------------------------------------------------------


def mlflow_with(path: Path, count: int) -> Any:
    """A client of a registry with as many versions: one written by the client, the others its copies."""
    from mlflow import MlflowClient

    client = MlflowClient(f"sqlite:///{path}", f"sqlite:///{path}")
    client.create_registered_model(NAME)
    experiment = client.create_experiment("releases", str(path.parent / "artifacts"))
    run = client.create_run(experiment).info.run_id
    known = many_versions.version(1)
    for name, value in known.metrics.items():
        client.log_metric(run, name, value)
    for name, parameter in comparing.flattened(known.params).items():
        client.log_param(run, name, parameter)
    tags = {
        "slipway.version": known.version,
        "slipway.identity": known.identity,
        "slipway.data_digest": known.data_digest,
    }
    client.create_model_version(NAME, f"runs:/{run}/model", run, tags=tags)
    _copied(path, run, count)
    client.set_registered_model_alias(NAME, "champion", str(count - 1))
    return client


def _copied(path: Path, run: str, count: int) -> None:
    """More rows of every table that knows the run or the version, each with the next number."""
    keys = {
        "runs": "run_uuid",
        "latest_metrics": "run_uuid",
        "metrics": "run_uuid",
        "params": "run_uuid",
        "tags": "run_uuid",
    }
    keys |= {"model_versions": "version", "model_version_tags": "version"}
    with sqlite3.connect(path) as database:
        for table, key in keys.items():
            found = database.execute(f"SELECT * FROM {table} WHERE {key} = ?", (run if key == "run_uuid" else 1,))
            names = [column[0] for column in found.description]
            _insert(database, table, names, found.fetchall(), run, count)


def _insert(database: sqlite3.Connection, table: str, names: list[str], found: list[Any], run: str, count: int) -> None:
    fill = f"INSERT INTO {table} VALUES ({', '.join('?' * len(names))})"
    for number in range(2, count + 1):
        changed = {"run_uuid": f"{number:032x}", "run_id": f"{number:032x}", "version": number, "name": None}
        database.executemany(fill, [_row(table, names, row, changed, number) for row in found])


def _row(table: str, names: list[str], row: Any, changed: dict[str, Any], number: int) -> list[Any]:
    told = dict(zip(names, row, strict=True))
    told |= {name: value for name, value in changed.items() if name in told and value is not None}
    if told.get("key") == "slipway.identity":
        told["value"] = many_versions.sha("identity", number)
    return list(told.values())


def theirs(client: Any, count: int, sample: int) -> dict[str, Taken]:
    identity = many_versions.sha("identity", count // 2)

    def each() -> None:
        for number in range(1, sample + 1):
            client.get_run(client.get_model_version(NAME, str(number)).run_id)

    one_by_one = {how: seconds * count / sample for how, seconds in best(each, 1).items()}
    return {
        "alias": best(lambda: client.get_model_version_by_alias(NAME, "champion"), 3, LOOK_UPS),
        "newest": best(lambda: client.search_model_versions(f"name='{NAME}'", 1, ["version_number DESC"]), 3, LOOK_UPS),
        "tag": best(
            lambda: client.search_model_versions(f"name='{NAME}' and tags.`slipway.identity`='{identity}'"), 3, LOOK_UPS
        ),
        "list": one_by_one,
        "compare": one_by_one,
        "lineage": one_by_one,
    }


# --- both -------------------------------------------------------------------------------------------------------------

WORDS = {
    "alias": "the champion", "newest": "the newest", "tag": "by a digest", "list": "list all, with metrics, as JSON",
    "compare": "compare all: metrics, params, data, cost", "lineage": "who learned from a file", "row": "who learned from a row",
}  # fmt: skip


def table(figures: dict[str, Any]) -> str:
    """The figures in Markdown, as docs/benchmarks.md shows them."""
    lines = ["| what | bar | MLflow | ledger, SQLite | times | ledger, PostgreSQL | times |", "|" + "---|" * 7]
    for name, words in WORDS.items():
        peer = figures["mlflow"].get(name, {}).get("cpu")
        told = [words, shown(bar(name)), shown(peer) if peer else "–"]
        for place in ("SQLite", "PostgreSQL"):
            one = figures["ours"].get(place, {}).get(name, {}).get("cpu")
            told += [shown(one) if one else "–", f"**{peer / one:.1f}**" if one and peer else "–"]
        lines.append("| " + " | ".join(told) + " |")
    return "\n".join(lines)


def bar(name: str) -> float:
    return LOOK_UP if name in ("alias", "newest", "tag") else REPORT


def shown(seconds: float) -> str:
    return f"{seconds * 1000:.1f} ms" if seconds < 0.1 else f"{seconds:.2f} s"


def measured(folder: Path, count: int, sample: int) -> dict[str, Any]:
    (folder / "configs" / "env").mkdir(parents=True)
    (folder / "configs" / "env" / "local.yaml").write_text((ROOT / "configs" / "env" / "local.yaml").read_text())
    many_versions.index(folder, folder / "made")
    lite = Database(f"sqlite:///{folder / 'ledger.db'}")
    lite.migrate()
    found = {"SQLite": ours(lite, folder, count)}
    if programs := ledgers.postgres_folder():
        server = ledgers.Postgres(programs)
        try:
            url = server.fresh()
            found["PostgreSQL"] = ours(Database(url), folder, count)
        finally:
            server.remove()
    client = mlflow_with(folder / "mlflow.db", count)
    return {"versions": count, "sample": sample, "ours": found, "mlflow": theirs(client, count, sample)}


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else "")
    parser.add_argument("file", type=Path)
    parser.add_argument("--versions", type=int, default=10_000)
    parser.add_argument("--sample", type=int, default=500)
    chosen = parser.parse_args()
    settings.quiet()
    with tempfile.TemporaryDirectory() as folder:
        figures = measured(Path(folder), chosen.versions, min(chosen.sample, chosen.versions))
    figures["python"] = platform.python_version()
    chosen.file.write_text(json.dumps(figures, indent=2) + "\n")
    print(table(figures))
    print(f"MLflow one call a version: measured on {figures['sample']:,} of {figures['versions']:,}, then scaled")
    how = {"SQLite": "cpu", "PostgreSQL": "wall"}
    slow = [
        name for place, found in figures["ours"].items() for name, one in found.items() if one[how[place]] > bar(name)
    ]
    return int(bool(slow))


if __name__ == "__main__":
    sys.exit(main())
