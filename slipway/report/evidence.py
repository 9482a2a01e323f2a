"""What a release left on disk, as far as it got: every file that belongs to it, read once and checked."""

from collections.abc import Callable
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any, TypeVar

from slipway import strict
from slipway.artifacts import (
    BasePin,
    Benchmarks,
    ChampionPin,
    Decision,
    Inspection,
    Json,
    Manifest,
    Observations,
    Safety,
    Scan,
    Scorecard,
    SourcePin,
    Validation,
)
from slipway.digest import MANIFEST
from slipway.errors import StageError
from slipway.report.funnel import Card
from slipway.report.release import Release

T = TypeVar("T")
Rows = list[dict[str, Any]]

FOLDERS = {"raw": "ingest", "base": "fetch", "prepared": "prepare", "adapter": "finetune"}  # folder → its stage


@dataclass
class Evidence:
    """The parts of a release's evidence that exist; `problems` names each file that could not be believed."""

    root: Path
    release: Release
    register: Path | None = None  # what the register act left, beside the release's record
    problems: list[str] = field(default_factory=list)

    def path(self, name: str) -> Path | None:
        place = self.release.paths.get(name)
        return self.root / place if place else None

    def read(self, stage: str | None, path: Path | None, reader: Callable[[Path], T]) -> T | None:
        """A file of this release, or None: not made yet, another release's, or damaged (then it is a problem)."""
        if path is None or not path.is_file() or (stage and not self.release.made(stage)):
            return None
        try:
            return reader(path)
        except StageError as error:
            message = str(error).replace(f"{self.root}/", "")
            if message not in self.problems:
                self.problems.append(message)
            return None

    @cached_property
    def validation(self) -> Validation | None:
        return self.read("validate", self.path("validation"), Validation.load)

    @cached_property
    def inspection(self) -> Inspection | None:
        return self.read("validate", self.path("inspection"), Inspection.load)

    @cached_property
    def benchmarks(self) -> Benchmarks | None:
        return self.read("evaluate", self.path("benchmarks"), Benchmarks.load)

    @cached_property
    def safety(self) -> Safety | None:
        return self.read("evaluate", self.path("safety"), Safety.load)

    @cached_property
    def scan(self) -> Scan | None:
        return self.read("gate", self.path("scan"), Scan.load)

    @cached_property
    def observations(self) -> Observations | None:
        return self.read(None, self.register and self.register / "observations.json", Observations.load)

    @cached_property
    def registration(self) -> Decision | None:
        """The second judgement, with what the world says."""
        return self.read(None, self.register and self.register / "decision.json", Decision.load)

    @cached_property
    def scorecard(self) -> Scorecard | None:
        return self.read("evaluate", self.path("scorecard"), Scorecard.load)

    @cached_property
    def decision(self) -> Decision | None:
        return self.read("gate", self.path("decision"), Decision.load)

    @cached_property
    def loss(self) -> list[Json]:
        return self.read("finetune", self.path("loss"), strict.read_json) or []

    @cached_property
    def source(self) -> SourcePin | None:
        return self.read(None, self.path("source"), SourcePin.load)

    @cached_property
    def base(self) -> BasePin | None:
        return self.read(None, self.path("pinned_base"), BasePin.load)

    @cached_property
    def champion(self) -> ChampionPin | None:
        return self.read(None, self.path("champion"), ChampionPin.load)

    @cached_property
    def manifests(self) -> dict[str, Manifest]:
        """The manifests of the folders this release made, by the folder's name."""
        found = {}
        for name, stage in FOLDERS.items():
            folder = self.path(name)
            manifest = self.read(stage, folder and folder / MANIFEST, Manifest.load)
            if manifest:
                found[name] = manifest
        return found

    @cached_property
    def predictions(self) -> Rows:
        columns = ("id", "label", "answer", "model", "prediction", "exact")
        return self.read("evaluate", self.path("predictions"), lambda path: _rows(path, *columns)) or []

    @cached_property
    def card(self) -> Card | None:
        folder = self.path("prepared")
        return self.read("prepare", folder and folder / "card.json", Card.load)

    @cached_property
    def test_messages(self) -> Rows:
        folder = self.path("prepared")
        path = folder and folder / "rows" / "test.parquet"
        return self.read("prepare", path, lambda found: _rows(found, "id", "messages")) or []


def _rows(path: Path, *columns: str) -> Rows:
    import pyarrow
    import pyarrow.parquet

    try:
        table = pyarrow.parquet.read_table(path, columns=list(columns))
        if missing := set(columns) - set(table.column_names):
            raise StageError(f"{path} has no column {min(missing)}; run the stage that makes it again")
        return list(table.to_pylist())
    except pyarrow.ArrowException as error:
        first = str(error).splitlines()[0]
        raise StageError(f"{path} is torn or not Parquet ({first}); run the stage that makes it again") from None
