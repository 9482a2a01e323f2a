"""What is asked of events a year later, when retention has moved them: the same answers as before."""

from datetime import timedelta
from pathlib import Path

import made_versions
import pytest
from made_versions import MODEL, Made

from slipway.errors import Refused
from slipway.ledger import clock, events, releases, retention
from slipway.ledger.clock import Reading
from slipway.people import grants
from slipway.registry import keys, promotion, versions
from slipway.registry.rollback import rollback
from slipway.registry.versions import Version


class Year:
    """Versions of a project whose clocks a test sets forth."""

    def __init__(self, made: Made, monkeypatch: pytest.MonkeyPatch) -> None:
        self.made, self.days = made, -400.0
        self._real = clock.read()
        monkeypatch.setattr(clock, "read", self._read)
        monkeypatch.setattr(keys, "now", lambda: self._read().at.replace(microsecond=0))

    def _read(self) -> Reading:
        gone = timedelta(days=self.days)
        return Reading(self._real.at + gone, self._real.boot, self._real.ticks_ms + int(gone.total_seconds() * 1000))

    def serve(self, number: str) -> None:
        self.made.serve(self.made.version(number, whole=False))

    def retain(self) -> None:
        """A year after the first days, they leave the table."""
        self.days = 0
        assert retention.retain(self.made.root) is not None

    def back(self, to: str | None = None) -> str:
        return rollback(self.made.root, MODEL, to, "wrong answers", made_versions.ADA, mirrored=False).version


@pytest.fixture
def year(tmp_path: Path, ledger_url: str, monkeypatch: pytest.MonkeyPatch) -> Year:
    monkeypatch.setenv("SLIPWAY_LEDGER_URL", ledger_url)
    return Year(made_versions.project(tmp_path / "a project"), monkeypatch)


def without_archives(year: Year) -> None:
    for path in (year.made.root / ".slipway" / "audit" / "archive").iterdir():
        path.unlink()


def test_the_previous_champion_serves_again_though_its_events_are_archived_and_the_archive_is_away(year: Year) -> None:
    year.serve("1.0.0")
    year.days = -1
    year.serve("1.1.0")
    year.retain()
    without_archives(year)
    assert year.back() == "1.0.0"


def test_any_version_that_was_in_production_serves_again_by_what_the_archive_says(year: Year) -> None:
    year.serve("1.0.0")
    never = year.made.version("1.0.1", whole=False)
    year.days = -2
    year.serve("1.1.0")
    year.serve("1.2.0")
    year.made.stage(year.made.find(year.made.version("1.3.0", whole=False)), "Staging")
    for version in ("1.0.0", never.version):
        year.made.stage(_named(year, version), "Archived")
    year.days = 366
    year.serve("1.4.0")
    assert retention.retain(year.made.root) is not None
    assert year.back("1.0.0") == "1.0.0"
    with pytest.raises(Refused, match="never was in Production"):
        year.back("1.0.1")


def _named(year: Year, number: str) -> Version:
    with year.made.database.read() as connection:
        found = versions.find(connection, MODEL, number)
    assert found is not None
    return found


@pytest.mark.parametrize("has_statement", [True, False])
def test_a_second_start_of_an_archived_rollback_does_not_bring_the_bad_one_back(
    year: Year, has_statement: bool
) -> None:
    year.serve("1.0.0")
    year.serve("1.1.0")
    assert year.back() == "1.0.0"
    year.days = -1
    year.made.version("1.2.0", whole=False)
    year.retain()
    statement = promotion.path_of(year.made.root, MODEL, 3)
    if has_statement:
        without_archives(year)
    else:
        statement.unlink()
    assert year.back() == "1.0.0"
    assert promotion.verify_promotion(year.made.root, MODEL).kind == "rolled_back"


def test_no_event_of_an_unexplained_break_glass_leaves_the_table(year: Year) -> None:
    year.serve("1.0.0")
    with year.made.database.write() as connection:
        told = {"id": "a" * 32, "version": "1.0.0", "follow_up_due": clock.read().text}
        events.append(connection, "break_glass", MODEL, "1.0.0", told)
    year.days = -390
    year.serve("1.1.0")
    year.retain()
    with year.made.database.read() as connection:
        assert [one.id for one in grants.overdue(connection)] == ["a" * 32]
        plan = retention.plan(connection, retention.Policy.load(year.made.root / retention.FILE))
    assert plan.stopped_by is not None and "slipway follow-up aaaaaaaa" in plan.stopped_by


def test_a_policy_that_nobody_changed_for_a_year_is_not_told_again(year: Year) -> None:
    def started(release: str) -> None:
        releases.started(year.made.root, year.made.database, MODEL, release, {}, {"a.yaml": "x", "b.yaml": "y"}, [])

    started("r1")
    year.days = -1
    started("r2")
    year.retain()
    started("r3")
    assert year.made.kinds().count("policy_changed") == 0
    without_archives(year)
    started("r4")
    assert year.made.kinds().count("policy_changed") == 2, "a release waits for no archive"
