"""What stages hand to each other: one class a file, the same noun for both.

Every artifact is written whole (see atomic.py) and checked when read; a folder carries a `manifest.json`, written
last, with the size and SHA-256 of every file in it.
"""

import json
from pathlib import Path
from typing import Any, ClassVar, Literal, Self

from pydantic import BaseModel, ConfigDict, ValidationError

from slipway import atomic, digest, strict
from slipway.errors import StageError

Json = dict[str, Any]


class Artifact(BaseModel):
    """A JSON file that one stage writes and others read."""

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True, allow_inf_nan=False)

    def save(self, path: Path) -> None:
        atomic.write_json(path, self.model_dump(mode="json"))

    @classmethod
    def load(cls, path: Path) -> Self:
        try:
            # As JSON again, after the strict reader: a time may be text there, a number may not.
            return cls.model_validate_json(json.dumps(strict.read_json(path)))
        except ValidationError as error:
            first = error.errors()[0]
            where = ".".join(str(part) for part in first["loc"]) or "the whole file"
            raise StageError(
                f"{path} is not a {cls.__name__}: {where}: {first['msg']}; run the stage that makes it again"
            ) from None


# --- pins: how the world enters ---------------------------------------------------------------------------------


class PinnedFile(Artifact):
    uri: str
    role: Literal["data", "test"]
    bytes: int | None = None
    sha256: str | None = None  # known for local files; remote ones are pinned by etag until they are fetched
    etag: str | None = None


class SourcePin(Artifact):
    """The raw data this release learns from, as it was when the release started."""

    FILE: ClassVar[str] = "pins/source.json"
    source: str
    test_source: str | None
    revision: str | None  # of a hub data set
    files: list[PinnedFile]


class BasePin(Artifact):
    """The model to tune: `tiny`, a local folder or a hub id, with its revision and file digests."""

    FILE: ClassVar[str] = "pins/base.json"
    source: str
    revision: str | None
    files: dict[str, str]  # path → SHA-256 (local folder) or etag (hub); empty for `tiny`


class ChampionPin(Artifact):
    """What serves now, to compare with: the base model before the first release."""

    FILE: ClassVar[str] = "pins/champion.json"
    kind: Literal["base", "version"]
    version: str | None = None
    identity: str | None = None
    predictions: str | None = None  # SHA-256 of pins/champion.parquet, where kind is "version"


# --- folders ----------------------------------------------------------------------------------------------------


class ManifestFile(Artifact):
    path: str
    bytes: int
    sha256: str
    rows: int | None = None


class Manifest(Artifact):
    """`manifest.json` of a folder: every file with size and SHA-256, and the facts its stage wants to pass on."""

    files: list[ManifestFile]
    facts: Json

    @classmethod
    def write(cls, folder: Path, facts: Json, rows: dict[str, int] | None = None) -> Self:
        """Describe a finished folder; written last, so that its existence means completion."""
        files = [
            ManifestFile(
                path=(name := path.relative_to(folder).as_posix()),
                bytes=path.stat().st_size,
                sha256=digest.of_file(path),
                rows=(rows or {}).get(name),
            )
            for path in digest.files_under(folder)
            if path.name != digest.MANIFEST or path.parent != folder
        ]
        manifest = cls(files=files, facts=facts)
        manifest.save(folder / digest.MANIFEST)
        return manifest

    @classmethod
    def verified(cls, folder: Path) -> Self:
        """The manifest of a folder whose every byte was checked against it."""
        if not (folder / digest.MANIFEST).is_file():
            raise StageError(
                f"{folder} has no {digest.MANIFEST}, so it was never finished; run the stage that makes it again"
            )
        manifest = cls.load(folder / digest.MANIFEST)
        listed = {file.path: file for file in manifest.files}
        found = {p.relative_to(folder).as_posix(): p for p in digest.files_under(folder)} | {}
        found.pop(digest.MANIFEST, None)
        if missing := sorted(listed.keys() - found.keys()):
            raise StageError(
                f"{folder / missing[0]} is missing though its manifest lists it; run the stage that makes it again"
            )
        if extra := sorted(found.keys() - listed.keys()):
            raise StageError(f"{folder / extra[0]} is not in the folder's manifest; remove it or run the stage again")
        for name, path in found.items():
            check_file(path, listed[name].bytes, listed[name].sha256)
        return manifest

    @property
    def digest(self) -> str:
        return digest.of_pairs({file.path: file.sha256 for file in self.files})


def check_file(path: Path, size: int, sha256: str) -> None:
    """Raise unless a file still has the size and SHA-256 somebody recorded for it."""
    actual = path.stat().st_size
    if actual < size:
        raise StageError(f"{path} is cut at byte {actual} of {size}; run the stage that makes it again")
    if (found := digest.of_file(path)) != sha256:
        raise StageError(
            f"{path} changed: its SHA-256 is {found}, recorded was {sha256} ({actual} of {size} bytes); "
            f"run the stage that makes it again"
        )


# --- evidence ---------------------------------------------------------------------------------------------------


class Check(Artifact):
    """One expectation and what was found; offending values never stand here, only where they are."""

    suite: str
    expectation: str
    column: str | None
    severity: Literal["critical", "warning", "info"]
    passed: bool
    observed: float | int | str | None
    unexpected: int
    rows: list[str]  # the first few that break it, as `file:row` of the raw data, from 1
    why: str


class Validation(Artifact):
    """`validation.json`: does the data meet what configs/expectations asks?

    It binds the data it is about by their manifests' digests, so that a pass never speaks for other rows.
    """

    passed: bool
    raw_digest: str
    prepared_digest: str
    suites_digest: str
    tables: dict[str, int]  # table → rows seen
    checks: list[Check]


class Estimate(Artifact):
    """A metric with its 95 % interval and the number of rows it rests on."""

    value: float
    low: float
    high: float
    rows: int


class Scorecard(Artifact):
    """`scorecard.json`: the tuned model on the test set, beside the base and the pinned champion."""

    identity: str  # of the tuned model
    base_identity: str
    champion: ChampionPin
    items: int  # rows scored
    expected_items: int  # rows that had to be scored: the test set, or the evaluate.max_rows of it
    test_digest: str
    predictions_sha256: str
    metrics: dict[str, dict[str, Estimate]]  # model (tuned | base | champion) → metric → estimate
    deltas: dict[str, dict[str, Estimate]]  # tuned − base | tuned − champion, paired by row
    labels: list[str]
    confusion: list[list[int]]  # rows: truth, columns: predicted; the last column is "no label"


class Finding(Artifact):
    """One rule of the policy, applied."""

    rule: str
    verdict: Literal["pass", "refuse", "undecided"]
    severity: Literal["block", "advise"]
    value: float | str | None
    bound: str
    margin: float | None  # how far inside the bound; negative when outside
    reason: str
    remedy: str


class Decision(Artifact):
    """`decision.json`: pass | refuse | undecided, with every rule's value, bound, margin, reason and remedy."""

    verdict: Literal["pass", "refuse", "undecided"]
    findings: list[Finding]
    policy_digest: str
    evidence: dict[str, str]  # path → SHA-256
    evidence_digest: str
    identity: str

    @property
    def summary(self) -> str:
        """The verdict in one line, led by the rules that decided it."""
        blocking = [f for f in self.findings if f.verdict == self.verdict and f.severity == "block"]
        if self.verdict == "pass":
            return f"pass: {len(self.findings)} rules hold"
        return f"{self.verdict}: " + "; ".join(f"{f.rule}: {f.reason}" for f in blocking)
