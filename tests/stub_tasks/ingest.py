"""Bring in raw data (stub)."""

from slipway.artifacts import Manifest
from slipway.params import IngestParams
from tasks import _faults
from tasks._stage import Input, Metrics, Output, stage


@stage(retries=3)
def ingest(params: IngestParams, pin: Input, raw: Output) -> Metrics:
    _faults.act("ingest", raw)
    raw.mkdir()
    (raw / "rows.txt").write_text(pin.read_text())
    Manifest.write(raw, facts={"source": params.source})
    return {"rows": 3.0}
