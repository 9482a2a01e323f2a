"""What the card and the bill of materials rest on: the evidence of one release, each file with its digest."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar

from slipway import digest, model, strict
from slipway.artifacts import (
    BasePin,
    Benchmarks,
    Decision,
    Inspection,
    Json,
    Licences,
    Manifest,
    Safety,
    Scan,
    Scorecard,
    SourcePin,
    Validation,
)
from slipway.documents.text import plain
from slipway.observing import licences, packages
from slipway.observing.packages import Package
from slipway.registry.place import Place
from slipway.report.funnel import Card as DataCard

T = TypeVar("T")
FOLDERS = ("raw", "prepared", "base", "adapter")


@dataclass(frozen=True)
class CardFacts:
    """A release's evidence. A part that is not there is None: nothing is said of it, and the card is not complete."""

    release: str
    at: str  # UTC: when `register` looked
    model: Json  # configs/model.yaml, and what the evidence says of the training
    method: str
    training: Json  # the finetune section of params.yaml
    files: dict[str, str]  # path → SHA-256 of every file below
    named: dict[str, str]  # what a file is called in dvc.yaml → its path
    packages: tuple[Package, ...]
    source: SourcePin | None = None
    base: BasePin | None = None
    manifests: dict[str, Manifest] = field(default_factory=dict)
    data: DataCard | None = None
    loss: list[Json] = field(default_factory=list)
    validation: Validation | None = None
    inspection: Inspection | None = None
    scorecard: Scorecard | None = None
    benchmarks: Benchmarks | None = None
    safety: Safety | None = None
    scan: Scan | None = None
    decision: Decision | None = None
    licences: Licences | None = None

    def stated(self, name: str) -> Any:
        """A value of configs/model.yaml; None where it says nothing."""
        value = self.model.get(name)
        return None if value in ("", [], {}) else value

    def part(self, name: str) -> Json:
        """A mapping of configs/model.yaml; empty where it says nothing."""
        value = self.stated(name)
        return value if isinstance(value, dict) else {}

    def listed(self, name: str) -> list[str]:
        """A list of configs/model.yaml; empty where it says nothing."""
        value = self.stated(name)
        return [plain(one) for one in value] if isinstance(value, list) else []

    @property
    def name(self) -> str:
        return str(self.stated("name") or "unnamed")

    @property
    def identity(self) -> str | None:
        return self.scorecard.identity if self.scorecard else None

    @property
    def hub_base(self) -> str | None:
        """The base's id on the Hugging Face hub; None for a folder or a model made here."""
        about = self.manifests.get("base")
        source = str(about.facts.get("source") or "") if about else ""
        return (
            source if self.base and source == self.base.source and _is_hub_id(source) and self.base.revision else None
        )

    @property
    def hub_data(self) -> str | None:
        """The data set's id on the hub, where the rows came from there."""
        found = self.source.source.removeprefix("hf://").partition("?")[0].partition("@")[0] if self.source else ""
        return found if self.source and self.source.source.startswith("hf://") and _is_hub_id(found) else None


def shown_place(source: str) -> str:
    """A source as others may see it: of a path on this machine its last name alone."""
    return Path(source).name if source.startswith(("/", "~")) else source


def _is_hub_id(text: str) -> bool:
    owner, slash, name = text.partition("/")
    return bool(slash and owner and name) and all(c.isascii() and (c.isalnum() or c in "._-") for c in owner + name)


def load(place: Place, about: Json) -> CardFacts:
    """The evidence in a workspace; `about`: the model's facts, as `register` has gathered them."""
    read = _Reader(place)
    manifests = {name: read(name, Manifest.load, digest.MANIFEST) for name in FOLDERS}
    trained = manifests["adapter"]
    return CardFacts(
        release=place.release,
        at=str(about.get("created_at") or ""),
        model=about,
        method=str(trained.facts.get("method") if trained else place.params.finetune.method),
        training=place.params.finetune.model_dump(mode="json"),
        packages=packages.needed(),
        source=read("source", SourcePin.load),
        base=read("pinned_base", BasePin.load),
        manifests={name: manifest for name, manifest in manifests.items() if manifest},
        data=read("prepared", DataCard.load, "card.json"),
        loss=read("loss", strict.read_json) or [],
        validation=read("validation", Validation.load),
        inspection=read("inspection", Inspection.load),
        scorecard=read("scorecard", Scorecard.load),
        benchmarks=read("benchmarks", Benchmarks.load),
        safety=read("safety", Safety.load),
        scan=read("scan", Scan.load),
        decision=read("decision", Decision.load),
        licences=licences.observe(about, place.path("base"), str(about.get("base_model") or "") or None),
        files=dict(sorted(read.files.items())) | dict(_written_by_people(place.root)),
        named=read.named,
    )


class _Reader:
    """Reads evidence by its name in dvc.yaml, and notes the digest of every file it read."""

    def __init__(self, place: Place) -> None:
        self.place = place
        self.files: dict[str, str] = {}
        self.named: dict[str, str] = {}

    def __call__(self, name: str, load: Callable[[Path], T], below: str = "") -> T | None:
        path = self.place.path(name) / below if below else self.place.path(name)
        if not path.is_file():
            return None
        found, shown = load(path), path.relative_to(self.place.root).as_posix()
        self.files[shown] = digest.of_file(path)
        self.named[f"{name}/{below}" if below else name] = shown
        return found


def _written_by_people(root: Path) -> Iterator[tuple[str, str]]:
    for name in (model.FILE.as_posix(), "params.yaml"):
        if (root / name).is_file():
            yield name, digest.of_file(root / name)
