"""`slipway scan`: judge a model's file or folder as the gate would, whoever made it."""

import json as json_module
from pathlib import Path

from slipway import errors, scanning
from slipway.artifacts import Scan
from slipway.scanning.opinions import ABSENT
from slipway.scanning.walk import printable


def scan(path: Path, imported: bool, json: bool) -> int:
    found = scanning.scan(path, "import" if imported else "deploy")
    if json:
        print(json_module.dumps(found.model_dump(mode="json"), indent=2))
    else:
        _tell(found, printable(str(path)))
    return 0 if found.passed else errors.Refused.exit_code


def _tell(found: Scan, path: str) -> None:
    for file in found.refused:
        print(f"refused {file.path}: {file.reason}")
    for scanner, said in found.opinions.items():
        if said != ABSENT:
            print(f"{scanner}, asked too: {said}")
    size = errors.size_text(sum(file.bytes for file in found.files))
    counted = f"{len(found.files)} files, {size}" if len(found.files) != 1 else f"1 file, {size}"
    print(f"{path}: {f'{len(found.refused)} refused of {counted}' if found.refused else f'passed: {counted}'}")
