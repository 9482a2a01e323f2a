"""Ten thousand versions: list, compare and lineage answer in under two seconds, by a handful of queries, on both databases."""

import json
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import ledgers
import many_versions
import pytest
from pace import slowness
from sqlalchemy import event

from slipway.cli import models
from slipway.errors import UsageError
from slipway.ledger.database import Database
from slipway.registry import catalog, comparing, lineage, versions
from slipway.report import compare

pytestmark = pytest.mark.alone

COUNT = 10_000
SECONDS = 2.0
MOST_QUERIES = 12
ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module", params=["sqlite", "postgresql"])
def filled(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Database]:
    server: ledgers.Postgres | None = None
    if request.param == "postgresql":
        server = request.getfixturevalue("_postgres_of_session")
        database = Database(server.fresh())
    else:
        database = Database(f"sqlite:///{tmp_path_factory.mktemp('scale') / 'ledger.db'}")
        database.migrate()
    many_versions.fill(database, COUNT)
    if server:
        server.execute("ANALYZE", database.url.rsplit("/", 1)[1])
    yield database
    database.close()
    if server:
        server.drop(database.url)


@pytest.fixture(scope="module")
def project(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A project with the row indexes of all data sets: 150,000 rows."""
    root = tmp_path_factory.mktemp("scale project")
    (root / "configs" / "env").mkdir(parents=True)
    (root / "configs" / "env" / "local.yaml").write_text((ROOT / "configs" / "env" / "local.yaml").read_text())
    many_versions.index(root, root / "made")
    return root


@contextmanager
def _counted(database: Database) -> Iterator[list[str]]:
    asked: list[str] = []

    def count(connection: Any, cursor: Any, statement: str, *_: Any) -> None:
        if statement.lstrip().upper().startswith(("SELECT", "WITH")):
            asked.append(statement)

    event.listen(database.engine, "before_cursor_execute", count)
    try:
        yield asked
    finally:
        event.remove(database.engine, "before_cursor_execute", count)


def quick(database: Database, do: Callable[[], Any]) -> Any:
    """Do it at most three times; once it has to be quick. Processor time counts, since others share the machine."""
    taken: list[float] = []
    for _ in range(3):
        begin = many_versions.worked(database)
        with _counted(database) as asked:
            found = do()
        taken.append(many_versions.worked(database) - begin)
        assert len(asked) <= MOST_QUERIES, asked[:MOST_QUERIES]
        if taken[-1] < SECONDS * slowness():
            return found
    raise AssertionError(f"took {taken} s")


def test_list(filled: Database) -> None:
    def listed() -> tuple[catalog.Listing, str]:
        with filled.read() as connection:
            found = catalog.listing(connection, limit=None)
        return found, json.dumps([models._entry(entry) for entry in found.entries])

    found, text = quick(filled, listed)
    assert found.total == COUNT == len(json.loads(text)) and found.entries[0].row.version == f"1.{COUNT}.0"
    assert found.entries[1].marks == ("champion",) and found.entries[1].decision == "pass"
    assert found.entries[0].author == "Slipway"
    assert len(quick(filled, lambda: list(models._table(found.entries)))) == COUNT + 1


def test_list_sorted_by_a_metric(filled: Database) -> None:
    def best() -> catalog.Listing:
        with filled.read() as connection:
            return catalog.listing(connection, many_versions.MODEL, sort="loss", limit=5)

    found = quick(filled, best)
    losses = [entry.row.metrics["tuned.loss"] for entry in found.entries]
    wanted = min(many_versions.version(number).metrics["tuned.loss"] for number in range(1, 1000))
    assert losses == sorted(losses) and losses[0] == wanted


def test_compare_all(filled: Database, project: Path) -> None:
    def compared() -> comparing.Sheet:
        with filled.read() as connection:
            return comparing.compare(catalog.every_subject(project, connection))

    sheet = quick(filled, compared)
    assert len(sheet.subjects) == COUNT and len(sheet.parts["params"]) > 40 and len(sheet.parts["metrics"]) > 20
    seeds = next(line for line in sheet.parts["params"] if line.name == "finetune.seed")
    assert seeds.values[:2] == [COUNT, COUNT - 1] and seeds.differs
    assert len(json.loads(quick(filled, lambda: json.dumps(comparing.as_json(sheet))))["versions"]) == COUNT
    assert "9,900 more" in "\n".join(quick(filled, lambda: list(compare.lines(sheet))))


@pytest.mark.parametrize(
    ("target", "kind", "count"),
    [
        ("1.5000.0", "version", 0),
        (many_versions.data_digest(3), "data", 200),
        (many_versions.version(5).sources[1].sha256, "file", 200),
        ("tickets-7.jsonl", "file", 200),
        (many_versions.version(1).base_digest, "base", COUNT),
        (many_versions.row_id(9, 2999), "row", 200),
        ("tickets-9.jsonl:3000", "row", 200),
        ("0" * 16, "row", 0),
    ],
)
def test_lineage(filled: Database, project: Path, target: str, kind: str, count: int) -> None:
    found = quick(filled, lambda: lineage.of_target(project, filled, target))
    if isinstance(found, lineage.Ancestry):
        assert kind == "version" and found.version.version == target and len(found.children) == 9
        return
    assert (found.kind, len(found.versions), found.unknown) == (kind, count, [])


def test_lineage_of_a_given_row(filled: Database, project: Path) -> None:
    row = json.dumps({"prompt": "Where is my parcel?", "completion": "On its way."}).encode()
    found = quick(filled, lambda: lineage.of_text(project, filled, row))
    assert found.versions == [] and found.asked == COUNT and len(found.rows) == 1


def test_a_name_that_is_not_there(filled: Database) -> None:
    def asked() -> str:
        with filled.read() as connection, pytest.raises(UsageError) as refused:
            versions.resolve(connection, "7.7.7", many_versions.MODEL)
        return str(refused.value)

    assert f"1.{COUNT}.0" in quick(filled, asked)
