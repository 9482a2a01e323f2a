"""`slipway models verify`: is this the model that was signed, by somebody we trust?"""

import json as json_module
import os
import sys
from dataclasses import dataclass
from pathlib import Path

from slipway import records, settings
from slipway.artifacts import Decision
from slipway.cli import versions
from slipway.documents import text
from slipway.errors import Refused, SlipwayError, UsageError
from slipway.governance.receipt import recheck_kept
from slipway.registry import keys, learned, paths, receipt, signing, store
from slipway.registry.receipt import Receipt
from slipway.registry.versions import Version


@dataclass(frozen=True)
class Target:
    """A signed statement, the model it should be about, and what else is known of its release."""

    folder: Path
    base: Path
    adapter: Path
    evidence: Path | None = None  # what was kept of it
    release: str | None = None
    version: Version | None = None

    @property
    def has_receipt(self) -> bool:
        """A statement alone says which bytes a model has; whatever comes with a decision has to come with all of it."""
        return self.release is not None or any(
            os.path.lexists(self.folder / name) for name in (Receipt.FILE, receipt.SIGNATURE, receipt.DECISION)
        )


def verify(target: str | None, base: Path | None, adapter: Path | None, trust: Path | None, json: bool) -> int:
    """Exit 0 when every byte is as signed; 3 naming what is not."""
    found = _target(target, base, adapter)
    trusted = keys.load(trust or keys.folder(settings.find_root()) / keys.FILE)
    if trust and not trust.is_file():
        raise UsageError(f"{trust} does not exist; name a trust file (`slipway keys list` shows this project's)")
    try:
        _check_store(found.version)
        _check_receipt(found, trusted)
        signature = signing.verify(found.folder, found.base, found.adapter, trusted, keys.now())
    except (SlipwayError, OSError) as error:
        said = text.plain(error)  # a file's name may hold anything
        if not json:
            raise Refused(said) from None
        print(json_module.dumps({"verified": False, "reason": said}, indent=2))
        return Refused.exit_code
    statement = signing.Statement.load(found.folder / signing.Statement.FILE)
    if doubt := _doubt(found.version):  # the rows' index; the bytes of the model are sound
        print(f"slipway: the model is sound, but {doubt}; erasure requests cannot be answered for it", file=sys.stderr)
    if not found.has_receipt:
        print("slipway: the bytes are as signed; no receipt lies here, so no decision was looked at", file=sys.stderr)
    if json:
        print(json_module.dumps(signature.model_dump(mode="json") | {"release": statement.release}, indent=2))
        return 0
    version = f" {statement.version}" if statement.version else ""
    print(f"{statement.model}{version} of release {statement.release}: {len(statement.files)} files as signed")
    print(f"  identity  {statement.identity}")
    print(f"  signed    {keys.shown(statement.at)} by {signature.key[:16]}")
    if found.version and not doubt and (rows := learned.describe(settings.find_root(), found.version.data_digest)):
        print(f"  rows      {sum(rows.counts.values()):,} digests kept for erasure requests, sound")
    return 0


def _target(target: str | None, base: Path | None, adapter: Path | None) -> Target:
    """A folder with a statement (its model beside it, or in the project), a version, or a release of this project."""
    if target and (folder := paths.folder(target)):
        place = folder if (folder / "adapter").is_dir() else _models()
        stated = folder / "receipt" if (folder / "receipt").is_dir() else folder  # as `models artifacts` downloads it
        kept = stated / receipt.EVIDENCE
        return Target(stated, base or place / "base", adapter or place / "adapter", kept if kept.is_dir() else None)
    root = settings.find_root()
    if version := versions.find(root, target):
        return _of_version(root, version, base, adapter)
    record = records.find(root, target)
    folder = receipt.folder_of(root, record.id)
    if not folder.is_dir():
        raise Refused(f"release {record.id} was not registered ({record.outcome}: {record.reason})")
    models = (base or root / record.paths["base"], adapter or root / record.paths["adapter"])
    return Target(folder, *models, records.folder_of(root, record.id), record.id)


def _of_version(root: Path, version: Version, base: Path | None, adapter: Path | None) -> Target:
    place = store.folder(root, version.model, version.version)
    kept, stated = store.base_folder(root, version.base_digest), place / store.RECEIPT
    models = (base or kept, adapter or place / store.ADAPTER)
    return Target(stated, *models, stated / store.EVIDENCE, version.release, version)


def _check_receipt(found: Target, trusted: keys.Trust) -> None:
    """Every file of the receipt is as signed, all of them are about this release, and its evidence leads to it again."""
    if not found.has_receipt:
        return
    seal = receipt.check(found.folder, trusted, keys.now())
    for name, known in _known(found).items():
        if (said := getattr(seal, name)) != known:
            raise Refused(
                f"{found.folder / Receipt.FILE} has the {name} {said}, on record here is {known}: it is the receipt of "
                f"something else; bring this release's own back, or register it again (`slipway run --again`)"
            )
    if seal.verdict != "pass":
        decision = Decision.load(found.folder / receipt.DECISION)
        raise Refused(f"this release was not registered: {decision.summary}")
    if found.evidence:
        recheck_kept(found.folder, found.evidence)


def _known(found: Target) -> dict[str, str]:
    """What is on record of the release, beside its receipt."""
    if found.version:
        names = ("release", "identity", "evidence_digest", "policy_digest")
        return {name: getattr(found.version, name) for name in names}
    return {"release": found.release} if found.release else {}


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
