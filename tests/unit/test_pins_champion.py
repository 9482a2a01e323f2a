"""The champion as a pin: written when a release starts, with its own answers, and never a reason to start one."""

import json
import shutil
from pathlib import Path

import made_versions
import pyarrow.parquet
import pytest
import stub_project
from made_versions import Made

from slipway import digest, pins, settings, workspace
from slipway.artifacts import ChampionPin
from slipway.errors import StageError
from slipway.registry import store


@pytest.fixture
def made(tmp_path: Path) -> Made:
    made = made_versions.project(tmp_path / "a project")
    shutil.copytree(stub_project.ROOT / "sample", made.root / "sample")
    return made


def pinned(made: Made) -> ChampionPin:
    return ChampionPin.load(made.root / ChampionPin.FILE)


def test_before_the_first_champion_it_is_the_base(made: Made) -> None:
    made.version()
    pins.refresh(made.root, made.root)
    assert pinned(made) == ChampionPin(kind="base")


def test_the_champion_is_pinned_with_its_own_answers(made: Made) -> None:
    version = made.version()
    made.serve(version)
    assert ChampionPin.FILE in pins.refresh(made.root, made.root)
    table = made.root / "pins" / "champion.parquet"
    assert pinned(made) == ChampionPin(
        kind="version", version=version.version, identity=version.identity, predictions=digest.of_file(table)
    )
    rows = pyarrow.parquet.read_table(table)
    assert set(rows["model"].to_pylist()) == {"tuned"} and len(rows) >= 100
    assert pins.refresh(made.root, made.root) == [], "the same champion is the same pin"


def test_a_release_in_a_worktree_is_compared_with_the_champion_that_serves(made: Made) -> None:
    version = made.version()
    made.serve(version)
    (made.root / ".gitignore").write_text(".slipway\n.scratch\n")
    stub_project.git(made.root, "init", "-q", "-b", "main")
    stub_project.git(made.root, "add", "-A")
    stub_project.git(made.root, "commit", "-q", "-m", "A project whose pin still names the base")
    with workspace.worktree(made.root, "20260101-000000-abcdef", "HEAD") as place:
        assert settings.state_folder(place) == settings.state_folder(made.root)
        assert settings.project_folder(place) == made.root
        assert ChampionPin.FILE in pins.refresh(made.root, place)
        pin = ChampionPin.load(place / ChampionPin.FILE)
        assert (pin.kind, pin.version) == ("version", version.version)
        assert (place / "pins" / "champion.parquet").is_file() and not (place / ".slipway").exists()


def test_a_new_champion_alone_is_no_reason_to_run(made: Made) -> None:
    first, second = made.version(), made.version()
    made.serve(first)
    pins.refresh(made.root, made.root)
    made.serve(second)
    assert pins.stale(made.root, made.root) == []
    assert pins.refresh(made.root, made.root) == [ChampionPin.FILE]
    assert pinned(made).version == second.version


def test_answers_that_were_changed_are_written_again(made: Made) -> None:
    made.serve(made.version())
    pins.refresh(made.root, made.root)
    table = made.root / "pins" / "champion.parquet"
    right = digest.of_file(table)
    table.write_bytes(b"other")
    pins.refresh(made.root, made.root)
    assert digest.of_file(table) == right == pinned(made).predictions


def test_case_D10_a_champion_without_its_answers_stops_the_start(made: Made) -> None:
    version = made.version()
    made.serve(version)
    kept = store.folder(made.root, version.model, version.version) / "receipt" / "evidence" / "predictions.parquet"
    kept.unlink()
    with pytest.raises(StageError, match=r"the predictions of the champion support-desk .* are not in the store"):
        pins.refresh(made.root, made.root)
    assert json.loads((made.root / ChampionPin.FILE).read_text())["kind"] == "base"
