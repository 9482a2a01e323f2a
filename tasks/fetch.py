"""Bring in the model to tune, or pretrain the tiny one."""

from pathlib import Path

from slipway import scanning, settings
from slipway.artifacts import BasePin, Manifest
from slipway.errors import StageError
from slipway.params import FetchParams
from slipway.training import base as bases
from tasks._stage import Input, Metrics, Output, stage


@stage(retries=3)
def fetch(params: FetchParams, pin: Input, base: Output) -> Metrics:
    """Write the base model's folder, every file checked against its pin."""
    pinned, root = BasePin.load(pin), Path.cwd()
    if pinned.source != params.base:
        raise StageError(
            f"{pin} pins {pinned.source!r}, params.yaml names {params.base!r}; "
            f"start a release (`slipway run`) to pin it again"
        )
    metrics = {}
    if pinned.source == bases.TINY:
        from slipway.training import tiny

        metrics["loss"] = tiny.make(params, base)
    else:
        place = root if (root / pinned.source).is_dir() else settings.project_folder(root)
        bases.bring(pinned, place, base)
        scanning.demand(base, f"the base {pinned.source}")  # before anything reads more of it than its bytes
    facts = bases.facts(base, bases.public_name(pinned.source, root), pinned.revision)
    manifest = Manifest.write(base, facts)
    return metrics | {
        "parameters": float(facts["parameters"]),
        "bytes": float(sum(file.bytes for file in manifest.files)),
    }
