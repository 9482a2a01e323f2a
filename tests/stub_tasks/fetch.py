"""Bring in a model (stub)."""

from slipway.artifacts import Manifest
from slipway.params import FetchParams
from tasks import _faults
from tasks._stage import Input, Metrics, Output, stage


@stage(retries=3)
def fetch(params: FetchParams, pin: Input, base: Output) -> Metrics:
    _faults.act("fetch", base)
    base.mkdir()
    (base / "weights.txt").write_text(f"{pin.read_text()} {params.seed}")
    (base / "config.json").write_text('{"architectures": ["Stub"]}')
    Manifest.write(base, facts={"source": "tiny"})
    return {"parameters": 1.0}
