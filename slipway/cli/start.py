"""`slipway run` and `slipway release`."""

import contextlib
import json as json_module
import os
import sys
from pathlib import Path
from typing import TYPE_CHECKING

from slipway import params, settings
from slipway.errors import StageError, UsageError

if TYPE_CHECKING:
    from slipway.report.release import Release


def run(wait: float, again: bool, json: bool) -> int:
    """In place; when nothing changed, the last result again, without starting anything."""
    root = _ready()
    if not again and (last := _nothing_changed(root)):
        return _tell(root, last, json, "Everything is up to date; nothing was run. The last result:")
    return _start(root, {"isolation": "in place", "wait_seconds": wait}, json)


def release(revision: str, changes: list[str], json: bool) -> int:
    """In a worktree of its own."""
    return _start(_ready(), {"isolation": "worktree", "revision": revision, "changes": changes}, json)


def _ready() -> Path:
    """The project, with its environment set and its configuration read once: mistakes show before anything starts."""
    root = settings.find_root()
    os.chdir(root)
    settings.apply(root)
    params.load_all(root / "params.yaml")
    return root


def _nothing_changed(root: Path) -> "Release | None":
    """The last release, when source, base, params, policies, code and what `register` read are still the same."""
    from slipway import pins, records

    last = records.of_lock(root, records.lock_digest(root))
    if last is None or pins.stale(root, root):
        return None
    from slipway.registry import receipt
    from tasks import _repro

    return None if receipt.stale(root, last.id) or _repro.changed_stages(root) else last


def _start(root: Path, options: dict[str, object], json: bool) -> int:
    from flows.release import ReleaseOptions, run_here
    from slipway import records
    from slipway.cli.live import Display
    from tasks import _prefect
    from tasks._stage import ACTS, NAMES

    release_id = records.new_id()
    print(f"Release {release_id} · {root}", file=sys.stderr, flush=True)
    print("Starting Prefect and MLflow (embedded, first start takes a little longer) …", file=sys.stderr, flush=True)
    with Display((*NAMES, *ACTS)) as display:
        _prefect.watchers[release_id] = display.line
        error = run_here(release_id, ReleaseOptions.model_validate(options))
    with contextlib.suppress(UsageError):
        return _tell(root, records.find(root, release_id), json, "")
    raise error or StageError(f"release {release_id} left no record; look at the lines above")


def _tell(root: Path, record: "Release", json: bool, first: str) -> int:
    from slipway.report import summary

    if json:
        print(json_module.dumps(record.model_dump(mode="json"), indent=2))
        return record.exit_code
    if first:
        print(first)
    summary.show(record, root)
    return record.exit_code
