"""`slipway models verify`: is this the model that was signed, by somebody we trust?"""

import json as json_module
import sys
from dataclasses import dataclass
from pathlib import Path

from slipway import records, settings
from slipway.artifacts import Decision
from slipway.cli import versions
from slipway.errors import Refused, SlipwayError, UsageError
from slipway.registry import keys, learned, paths, receipt, signing, store
from slipway.registry.versions import Version


@dataclass(frozen=True)
class Target:
    """A signed statement, and the model it should be about."""

    folder: Path
    base: Path
    adapter: Path
    decision: Decision | None
    version: Version | None = None


def verify(target: str | None, base: Path | None, adapter: Path | None, trust: Path | None, json: bool) -> int:
    """Exit 0 when every byte is as signed; 3 naming what is not."""
    found = _target(target, base, adapter)
    trusted = keys.load(trust or keys.folder(settings.find_root()) / keys.FILE)
    if trust and not trust.is_file():
        raise UsageError(f"{trust} does not exist; name a trust file (`slipway keys list` shows this project's)")
    try:
        if found.decision and found.decision.verdict != "pass":
            raise Refused(f"this release was not registered: {found.decision.summary}")
        _check_store(found.version)
        signature = signing.verify(found.folder, found.base, found.adapter, trusted, keys.now())
    except SlipwayError as error:
        if not json:
            raise Refused(str(error)) from None
        print(json_module.dumps({"verified": False, "reason": str(error)}, indent=2))
        return Refused.exit_code
    statement = signing.Statement.load(found.folder / signing.Statement.FILE)
    if doubt := _doubt(found.version):
        print(f"slipway: the model is sound, but {doubt}; erasure requests cannot be answered for it", file=sys.stderr)
    if json:
        print(json_module.dumps(signature.model_dump(mode="json") | {"release": statement.release}, indent=2))
        return 0
    version = f" {statement.version}" if statement.version else ""
    print(f"{statement.model}{version} of release {statement.release}: {len(statement.files)} files as signed")
    print(f"  identity  {statement.identity}")
    print(f"  signed    {keys.shown(statement.at)} by {signature.key[:16]}")
    return 0


def _target(target: str | None, base: Path | None, adapter: Path | None) -> Target:
    """A folder with a statement (its model beside it, or in the project), a version, or a release of this project."""
    if target and (folder := paths.folder(target)):
        place = folder if (folder / "adapter").is_dir() else _models()
        stated = folder / "receipt" if (folder / "receipt").is_dir() else folder  # as `models artifacts` downloads it
        return Target(stated, base or place / "base", adapter or place / "adapter", None)
    root = settings.find_root()
    if version := versions.find(root, target):
        return _of_version(root, version, base, adapter)
    record = records.find(root, target)
    kept = receipt.folder_of(root, record.id)
    if not (kept / receipt.DECISION).is_file():
        raise Refused(f"release {record.id} was not registered ({record.outcome}: {record.reason})")
    return Target(
        kept,
        base or root / record.paths["base"],
        adapter or root / record.paths["adapter"],
        Decision.load(kept / receipt.DECISION),
    )


def _of_version(root: Path, version: Version, base: Path | None, adapter: Path | None) -> Target:
    place = store.folder(root, version.model, version.version)
    kept = store.base_folder(root, version.base_digest)
    return Target(place / store.RECEIPT, base or kept, adapter or place / store.ADAPTER, None, version)


def _check_store(version: Version | None) -> None:
    """Every kept file of a version, its evidence too."""
    if version and (problems := store.problems(settings.find_root(), version)):
        raise Refused(problems[0] + (f" (and {len(problems) - 1} more)" if len(problems) > 1 else ""))


def _doubt(version: Version | None) -> str | None:
    """What is wrong with the row digests by which a version is found for an erasure; its own bytes may be sound."""
    return learned.problem(settings.find_root(), version.data_digest) if version else None


def _models() -> Path:
    try:
        return settings.find_root() / "models"
    except UsageError:
        print("no adapter/ in this folder and no project here: name them with --base and --adapter", file=sys.stderr)
        raise
