"""Versions in the ledger, on SQLite and PostgreSQL: entered once, found by whatever people call them."""

from typing import Any

import pytest
from pydantic import ValidationError

from slipway import digest
from slipway.errors import StageError, UsageError
from slipway.ledger import champions, events, leases
from slipway.ledger.database import Database
from slipway.registry import versions
from slipway.registry.versions import File, Version


def version(number: str = "1.0.0", serial: int = 1, **changes: Any) -> Version:
    return Version.model_validate(
        {
            "model": "desk", "version": number, "serial": serial, "release": f"20260101-00000{serial}-abcdef", "at": "2026-01-01T00:00:00.000000Z",
            "identity": digest.of_value([number, "identity"]), "mlflow_version": None, "parent": None, "commit": None, "tag": None,
            "evidence_digest": "e", "policy_digest": "p", "data_digest": "d", "data_version": None, "base": "tiny", "base_digest": "b",
            "base_source": "tiny", "metrics": {"tuned.exact_match": 0.97, "rows": 400}, "params": {}, "metadata": {},
            "files": [File(path="adapter/a", bytes=1, sha256="s")], "sources": [], "bytes": 1, "seconds": {}, "cost": None, "report": None,
        } | changes
    )  # fmt: skip


@pytest.fixture
def filled(ledger: Database) -> Database:
    with ledger.write() as connection:
        for serial, number in enumerate(("1.0.0", "1.1.0", "2.0.0"), 1):
            versions.insert(connection, version(number, serial))
    return ledger


def test_what_was_entered_is_found_as_it_was(filled: Database) -> None:
    with filled.read() as connection:
        assert versions.find(connection, "desk", "1.1.0") == version("1.1.0", 2)
        assert versions.of_identity(connection, "desk", version().identity) == version()
        assert [v.version for v in versions.listed(connection)] == ["2.0.0", "1.1.0", "1.0.0"]
        assert versions.find(connection, "desk", "9.9.9") is versions.of_identity(connection, "desk", "none") is None


def test_what_changes_later_wins_over_what_was_written(filled: Database) -> None:
    with filled.write() as connection:
        versions.set_stage(connection, "desk", "1.0.0", "Staging", 7)
        versions.set_mlflow(connection, "desk", "1.0.0", "12")
        versions.set_state(connection, "desk", "1.1.0", "deleted")
    with filled.read() as connection:
        found = versions.find(connection, "desk", "1.0.0")
        assert found and (found.stage, found.mlflow_version, found.state) == ("Staging", "12", "present")
        assert [v.version for v in versions.listed(connection, "desk", "Staging")] == ["1.0.0"]
        assert [v.version for v in versions.listed(connection, "desk")] == ["2.0.0", "1.0.0"]
        assert [v.version for v in versions.listed(connection, states=("deleted",))] == ["1.1.0"]
    with pytest.raises(StageError, match=r"desk 9\.9\.9 is not in the ledger"), filled.write() as connection:
        versions.set_state(connection, "desk", "9.9.9", "cold")


def test_the_same_candidate_or_serial_is_never_entered_twice(filled: Database) -> None:
    for again in (version("3.0.0", 4, identity=version().identity), version("3.0.0", 2), version("1.0.0", 4)):
        with pytest.raises(StageError, match="nothing was changed"), filled.write() as connection:
            versions.insert(connection, again)


def test_people_find_a_version_by_many_names(filled: Database) -> None:
    with filled.write() as connection:
        for number, generation in (("1.0.0", 0), ("2.0.0", 1)):
            lease = leases.acquire(connection, "champion:desk")
            event = events.append(connection, "model_promoted", "desk", number, {})
            champions.change(connection, "desk", number, "i", generation, event, lease)
            leases.release(connection, lease)
    names = {
        "1.1.0": "1.1.0", "v1.1.0": "1.1.0", "desk@1.1.0": "1.1.0", "desk/1.1.0": "1.1.0", "champion": "2.0.0", "previous": "1.0.0",
        "desk@champion": "2.0.0", "latest": "2.0.0", "#2": "1.1.0", "desk@#2": "1.1.0", "20260101-000002-abcdef": "1.1.0", "20260101-000003": "2.0.0",
    }  # fmt: skip
    with filled.read() as connection:
        assert {name: versions.resolve(connection, name, None).version for name in names} == names
        assert versions.resolve(connection, "latest", "desk").version == "2.0.0"


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("3.0.0", r"no version 3\.0\.0 of desk; there are 2\.0\.0, 1\.1\.0, 1\.0\.0"),
        ("nobody@1.0.0", "no model nobody has a version here; there are desk"),
        ("champion", "desk has no champion yet"),
        ("#9", "no version #9 of desk"),
        ("#١", r"no version #\\u0661"),
        ("", "no version  of desk"),
        ("2026", "no version 2026"),
        ("a\nb\x1b[2J", r"no version a\\nb\\x1b\[2J"),
        ("x" * 5000, "no version x{80} of"),
        ("../../etc@x", "no model ../../etc"),
        ("'; DROP TABLE versions; --", "no version"),
        ("20260101-%", "no version"),
    ],
)
def test_case_F7_a_name_that_is_none_is_a_clear_error(filled: Database, name: str, said: str) -> None:
    with filled.read() as connection, pytest.raises(UsageError, match=said):
        versions.resolve(connection, name, None)


def test_two_models_have_to_be_told_apart(filled: Database) -> None:
    with filled.write() as connection:
        versions.insert(connection, version(model="other"))
    with filled.read() as connection:
        assert versions.resolve(connection, "other@1.0.0", None).model == "other"
        with pytest.raises(UsageError, match="of which model"):
            versions.resolve(connection, "1.0.0", None)


def test_nothing_is_registered_yet(ledger: Database) -> None:
    with ledger.read() as connection, pytest.raises(UsageError, match="nothing is registered here yet"):
        versions.resolve(connection, "latest", None)


@pytest.mark.parametrize(
    "number", ["", "..", ".", "../1", "1/2", "1\\2", "1\n", "1\x00", "%2e%2e", "v" * 65, "-1", "é"]
)
def test_case_F7_a_number_is_a_name_and_nothing_else(number: str) -> None:
    with pytest.raises(ValidationError):
        version(number)
