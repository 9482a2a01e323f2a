"""Checks of the machine: Python, packages, disk, git, home folder and the device that trains."""

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from importlib import metadata
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from packaging.requirements import InvalidRequirement, Requirement
from packaging.specifiers import SpecifierSet

from slipway.cli.diagnosis import Diagnosis
from slipway.errors import size_text

DEVICE_SECONDS = 30
_LITTLE, _TOO_LITTLE = 5_000_000_000, 1_000_000_000
_REINSTALL = "`make -B install` brings what constraints.txt pins"

# Prints what torch would train on; torch itself is too slow to import here.
_PROBE = """
import json, torch
cuda = torch.cuda.is_available()
print(json.dumps({
    "torch": torch.__version__,
    "built_for_cuda": torch.version.cuda is not None,
    "gpus": [(torch.cuda.get_device_name(i), torch.cuda.mem_get_info(i)[1]) for i in range(torch.cuda.device_count())]
    if cuda else [],
    "mps": torch.backends.mps.is_available(),
}))
"""


def checks(place: Path, constraints: Path | None) -> Iterator[Diagnosis]:
    yield python()
    yield from packages(constraints)
    yield disk(place)
    yield git()
    yield home()


def python() -> Diagnosis:
    version = ".".join(str(part) for part in sys.version_info[:3])
    wanted = metadata.metadata("slipway")["Requires-Python"]
    if version not in SpecifierSet(wanted):
        fix = "`rm -r .venv; make install PYTHON=/path/to/python3.11`"
        return Diagnosis.fail("python", f"{version} is not {wanted}", fix)
    return Diagnosis.ok("python", f"{version} ({sys.executable})")


def packages(constraints: Path | None) -> Iterator[Diagnosis]:
    """Our direct dependencies: installed, within the bounds we know a reason for, and as pinned."""
    wanted = _applying(metadata.requires("slipway") or [])
    pinned = _pins(constraints)
    problems = [problem for one in wanted for problem in _problems(one, pinned.get(_key(one.name)))]
    for found in problems:
        yield Diagnosis.fail("packages", found, _REINSTALL)
    if not problems:
        against = "as constraints.txt pins them" if pinned else "within their bounds"
        yield Diagnosis.ok("packages", f"{len(wanted)} direct dependencies {against}")


def _key(name: str) -> str:
    return name.lower().replace("_", "-")


def _applying(lines: list[str]) -> list[Requirement]:
    """The requirements that hold here: this platform's, and no extras."""
    parsed = [Requirement(line) for line in lines]
    return [one for one in parsed if one.marker is None or one.marker.evaluate({"extra": ""})]


def _pins(constraints: Path | None) -> dict[str, Requirement]:
    if constraints is None or not constraints.is_file():
        return {}
    lines = [line.partition("#")[0].strip() for line in constraints.read_text().splitlines()]
    try:
        return {_key(one.name): one for one in _applying([line for line in lines if line])}
    except InvalidRequirement:
        return {}


def _problems(wanted: Requirement, pin: Requirement | None) -> Iterator[str]:
    try:
        version = metadata.version(wanted.name)
    except metadata.PackageNotFoundError:
        yield f"{wanted.name} is not installed"
        return
    if not wanted.specifier.contains(version, prereleases=True):
        yield f"{wanted.name} {version} is outside {wanted.specifier}, which Slipway needs"
    elif pin and not pin.specifier.contains(version, prereleases=True):
        yield f"{wanted.name} {version} is installed, constraints.txt says {pin.specifier}"


def disk(place: Path) -> Diagnosis:
    free = shutil.disk_usage(place).free
    found = f"{size_text(free)} free at {place}"
    if free < _TOO_LITTLE:
        return Diagnosis.fail("disk", found, "free some space: `slipway clean`")
    if free < _LITTLE:
        return Diagnosis.warn("disk", found, "enough for the tiny model alone; `slipway clean` frees some")
    return Diagnosis.ok("disk", found)


def git() -> Diagnosis:
    program = shutil.which("git")
    if program is None:
        return Diagnosis.fail("git", "not installed", "install it (Debian: `apt install git`)")
    done = subprocess.run([program, "--version"], capture_output=True, text=True, check=False, timeout=5)
    return Diagnosis.ok("git", done.stdout.strip().removeprefix("git version "))


def home() -> Diagnosis:
    """Both are fine: nothing of ours is kept there."""
    try:
        folder = Path.home()
    except RuntimeError:
        return Diagnosis.ok("home", "no home folder; none is needed")
    writable = os.access(folder, os.W_OK)
    return Diagnosis.ok("home", f"{folder} is {'writable' if writable else 'not writable'}; it is not used")


class DeviceProbe:
    """Asks torch, in a process of its own, what it would train on; runs while the other checks do."""

    def __init__(self, program: str = _PROBE, seconds: float = DEVICE_SECONDS) -> None:
        self.program, self.seconds = program, seconds

    def __enter__(self) -> Self:
        self.process = subprocess.Popen(
            [sys.executable, "-c", self.program], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
        )
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.process.kill()
        self.process.communicate()

    def diagnosis(self) -> Diagnosis:
        try:
            output, errors = self.process.communicate(timeout=self.seconds)
        except subprocess.TimeoutExpired:
            found = f"torch did not answer within {self.seconds:g} s"
            fix = 'try `python -c "import torch"`; a busy disk or GPU driver may be the reason'
            return Diagnosis.warn("device", found, fix)
        if self.process.returncode:
            last = (errors.strip().splitlines() or [f"it ended with {self.process.returncode}"])[-1]
            return Diagnosis.fail("device", f"torch cannot be used: {last}", _REINSTALL)
        return _device(json.loads(output.strip().splitlines()[-1]))


def _device(seen: dict[str, Any]) -> Diagnosis:
    if seen["gpus"]:
        names = ", ".join(f"{name} with {size_text(memory)}" for name, memory in seen["gpus"])
        return Diagnosis.ok("device", f"CUDA: {names} (torch {seen['torch']})")
    if seen["mps"]:
        return Diagnosis.ok("device", f"Apple GPU (torch {seen['torch']})")
    found = f"CPU with {os.cpu_count()} cores (torch {seen['torch']})"
    if shutil.which("nvidia-smi"):
        fix = "look at what `nvidia-smi` says" if seen["built_for_cuda"] else "install the CUDA build of this torch"
        return Diagnosis.warn("device", f"{found}, though an NVIDIA GPU is here", fix)
    return Diagnosis.ok("device", found)
