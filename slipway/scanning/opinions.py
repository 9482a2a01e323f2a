"""Second opinions: what other scanners say of the same files, where they happen to be installed.

They are never asked to allow anything: of 41 files that really run code, all three together flagged 34.
"""

import importlib.util
from collections.abc import Callable
from importlib import import_module
from pathlib import Path

ABSENT = "not installed"
_CAN_BE_PICKLES = {".bin", ".pt", ".pth", ".ckpt", ".pkl", ".pickle"}


def gather(files: list[Path]) -> dict[str, str]:
    """One line of each scanner about the same plain files."""
    return {name: _opinion(name, ask, files) for name, ask in sorted(_SCANNERS.items())}


def _opinion(name: str, ask: Callable[[Path], int], files: list[Path]) -> str:
    if importlib.util.find_spec(name) is None:
        return ABSENT
    try:
        found = sum(ask(file) for file in files)
    except Exception as error:  # noqa: BLE001 - another project's scanner may fail in any way, and decides nothing
        return f"failed: {type(error).__name__}"
    return f"{found} found" if found else "nothing found"


def _modelscan(file: Path) -> int:
    return int(import_module("modelscan.modelscan").ModelScan().scan(file)["summary"]["total_issues"])


def _picklescan(file: Path) -> int:
    return int(import_module("picklescan.scanner").scan_file_path(str(file)).issues_count)


def _fickling(file: Path) -> int:
    return int(file.suffix in _CAN_BE_PICKLES and not import_module("fickling").is_likely_safe(str(file)))


_SCANNERS: dict[str, Callable[[Path], int]] = {
    "fickling": _fickling,
    "modelscan": _modelscan,
    "picklescan": _picklescan,
}
