"""Bring in the raw data that pins/source.json names."""

from slipway.artifacts import Manifest, SourcePin
from slipway.data import formats, sources
from slipway.errors import StageError
from slipway.params import IngestParams
from tasks._stage import Input, Metrics, Output, stage


@stage(retries=3)
def ingest(params: IngestParams, pin: Input, raw: Output) -> Metrics:
    pinned = SourcePin.load(pin)
    if (pinned.source, pinned.test_source) != (params.source, params.test_source):
        raise StageError(
            f"{SourcePin.FILE} was made for {pinned.source}, params.yaml asks for {params.source}; {sources.PIN_AGAIN}"
        )
    raw.mkdir()
    files = sources.fetch_raw(pinned, raw)
    rows = {name: formats.check(raw / name, called=file.uri) for name, file in files.items()}
    roles = {name: file.role for name, file in files.items()}
    manifest = Manifest.write(raw, facts={"source": pinned.source, "roles": roles}, rows=rows)
    for file in manifest.files:
        print(f"{file.path}: {file.rows:,} rows, {file.bytes:,} bytes", flush=True)
    return {
        "files": float(len(rows)),
        "rows": float(sum(rows.values())),
        "bytes": float(sum(file.bytes for file in manifest.files)),
    }
