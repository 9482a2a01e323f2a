"""Running a release of the stub project, and reading what it left."""

import json
import sqlite3
from pathlib import Path
from typing import Any

import stub_project
import yaml

STAGES = ["ingest", "fetch", "prepare", "validate", "finetune", "evaluate", "gate", "register"]


def records(project: Path) -> list[dict[str, Any]]:
    paths = sorted((project / ".slipway" / "releases").glob("*/release.json"))
    return [json.loads(path.read_text()) for path in paths]


def run(project: Path, url: str, *words: str) -> tuple[int, dict[str, Any], str]:
    """`slipway run`: exit code, the newest record, standard error."""
    done = stub_project.slipway(project, "run", *words, PREFECT_API_URL=url)
    found = records(project)
    return done.returncode, found[-1] if found else {}, done.stderr


def statuses(record: dict[str, Any]) -> dict[str, str]:
    return {stage["name"]: stage["status"] for stage in record["stages"]}


def mlflow_rows(project: Path, query: str) -> list[tuple[Any, ...]]:
    with sqlite3.connect(project / ".slipway" / "mlflow.db") as database:
        return database.execute(query).fetchall()


def attempts(project: Path, stage: str) -> list[dict[str, Any]]:
    return [json.loads(p.read_text()) for p in sorted((project / ".scratch" / "attempts" / stage).glob("*.end.json"))]


def set_param(project: Path, section: str, key: str, value: object) -> None:
    params = yaml.safe_load((project / "params.yaml").read_text())
    params[section][key] = value
    (project / "params.yaml").write_text(yaml.safe_dump(params))
