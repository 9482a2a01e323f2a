"""`slipway doctor`: what is installed, reachable and configured; each problem with its fix."""

import json as json_module
import os
from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path

from slipway import settings
from slipway.cli import configuration, machine, services
from slipway.cli.diagnosis import Diagnosis
from slipway.errors import SlipwayError, UsageError

_SIGNS = {"ok": "✓", "warn": "!", "fail": "✗"}


def doctor(json: bool) -> int:
    """0 when nothing has to be fixed; warnings are allowed."""
    diagnoses = []
    for diagnosis in examine():
        diagnoses.append(diagnosis)
        if not json:
            print(_line(diagnosis), flush=True)
    problems = sum(one.state == "fail" for one in diagnoses)
    if json:
        print(json_module.dumps([asdict(one) for one in diagnoses], indent=2))
    else:
        print(_verdict(problems, sum(one.state == "warn" for one in diagnoses)))
    return 1 if problems else 0


def examine() -> Iterator[Diagnosis]:
    """Every check, the slow one (torch's own process) started first and asked last."""
    root, missing = _project()
    with machine.DeviceProbe() as device:
        yield from machine.checks(root or Path.cwd(), root / "constraints.txt" if root else None)
        if root is None:
            yield missing
        else:
            yield from _of_project(root)
        yield device.diagnosis()


def _project() -> tuple[Path | None, Diagnosis]:
    try:
        root = settings.find_root()
    except UsageError as error:
        return None, Diagnosis.of("project", error, "warn")
    return root, Diagnosis.ok("project", str(root))


def _of_project(root: Path) -> Iterator[Diagnosis]:
    yield Diagnosis.ok("project", str(root))
    os.chdir(root)
    yield from configuration.environments(root)
    try:
        settings.load(root)
        settings.apply(root)
    except UsageError as error:
        yield Diagnosis("environment", "fail", str(error), "")
        return  # without it nobody knows where state and services are
    yield from configuration.checks(root)
    yield from services.checks(root)
    yield from _of_ledger(root)
    yield from _of_registry(root)


def _of_registry(root: Path) -> Iterator[Diagnosis]:
    """What killed processes left begun is finished or undone here, and MLflow brought up to date."""
    from slipway.registry import entry

    try:
        left = entry.recover(root)
    except SlipwayError as error:
        yield Diagnosis.of("registry", error)
        return
    yield from (Diagnosis.warn("registry", line, "") for line in left)
    if not left:
        yield Diagnosis.ok("registry", "nothing was left half done")


def _of_ledger(root: Path) -> Iterator[Diagnosis]:
    from slipway.cli import approvals

    try:
        yield from approvals.checks(root)
    except SlipwayError as error:
        yield Diagnosis.of("ledger", error)


def _line(diagnosis: Diagnosis) -> str:
    fix = f" → {diagnosis.fix}" if diagnosis.fix else ""
    return f"{_SIGNS[diagnosis.state]} {diagnosis.check:<12} {diagnosis.found}{fix}"


def _verdict(problems: int, warnings: int) -> str:
    noted = f", {warnings} worth knowing" if warnings else ""
    return f"\n{problems} to fix{noted}." if problems else f"\nNothing to fix{noted}."
