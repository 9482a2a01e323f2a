"""`slipway models card`: what is said of a released model, and what it is made from."""

import json as json_module
from pathlib import Path

from slipway import records, settings
from slipway.documents import bom as boms
from slipway.documents import card as cards
from slipway.errors import UsageError
from slipway.registry import receipt


def card(release: str | None, bom: bool, json: bool) -> int:
    """The card (or the bill of materials) that `register` wrote, as it was written."""
    root = settings.find_root()
    of, path = _found(root, release, boms.FILE if bom else cards.README)
    text = path.read_text(encoding="utf-8")
    print(json_module.dumps({"release": of, "path": str(path), "text": text}) if json else text, end="\n" * json)
    return 0


def _found(root: Path, target: str | None, name: str) -> tuple[str, Path]:
    """(release, file) of a version, or of a release."""
    from slipway.cli import versions

    if version := versions.find(root, target):
        if path := versions.kept_file(root, version, name):
            return version.release, path
        raise UsageError(
            f"{version.name} ({version.state}) has no {name} here; `slipway models restore` brings it back"
        )
    record = records.find(root, target)
    path = receipt.folder_of(root, record.id) / name
    if not path.is_file():
        raise UsageError(f"release {record.id} has no {name}: it was not registered ({record.outcome}); name another")
    return record.id, path
