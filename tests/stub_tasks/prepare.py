"""Prepare rows (stub)."""

from slipway.artifacts import Manifest
from slipway.params import PrepareParams
from tasks import _faults
from tasks._stage import Input, Metrics, Output, stage


@stage()
def prepare(params: PrepareParams, raw: Input, base: Input, prepared: Output) -> Metrics:
    _faults.act("prepare", prepared)
    prepared.mkdir()
    (prepared / "rows.txt").write_text((raw / "rows.txt").read_text() * 2 + str(params.max_length))
    Manifest.write(prepared, facts={})
    return {"rows": 2.0}
