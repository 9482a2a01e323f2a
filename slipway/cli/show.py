"""`slipway status` and `slipway report`: what is known of a release."""

import json as json_module
from pathlib import Path

from slipway import records, settings
from slipway.errors import UsageError


def status(release: str | None, json: bool) -> int:
    from slipway.report import summary

    root = settings.find_root()
    record = records.find(root, release)
    if json:
        print(json_module.dumps(record.model_dump(mode="json"), indent=2))
    else:
        summary.show(record, root)
    return 0


def report(release: str | None, open_it: bool, json: bool) -> int:
    root = settings.find_root()
    record = records.find(root, release)
    path = (root / record.report).resolve() if record.report else None
    if path is None or not path.is_file():
        raise UsageError(f"release {record.id} has no report; `slipway run --again` makes one")
    print(json_module.dumps({"release": record.id, "report": str(path)}) if json else path)
    if open_it:
        import webbrowser

        webbrowser.open(Path(path).as_uri())
    return 0
