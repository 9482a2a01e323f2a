"""Checks of what a release talks to: the DVC cache and remote, MLflow and Prefect."""

import os
import sqlite3
import urllib.error
import urllib.request
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from slipway import settings
from slipway.cli.configuration import nearest, writable
from slipway.cli.diagnosis import Diagnosis
from slipway.errors import UsageError

SECONDS = 5


def checks(root: Path) -> Iterator[Diagnosis]:
    yield writable("dvc cache", root / ".dvc" / "cache")
    yield dvc_remote(root)
    yield mlflow(settings.mlflow_uri(root))
    yield prefect(root)


def dvc_remote(root: Path) -> Diagnosis:
    from tasks import _storage

    try:
        remote = _storage.remote(root)
    except UsageError as error:
        return Diagnosis.of("dvc remote", error)
    url = str(remote.get("url", ""))
    if not url:
        found = "none, so outputs stay in this folder's cache"
        return Diagnosis.warn("dvc remote", found, "`dvc remote add --default NAME URL`")
    if url.startswith("s3://"):
        return _bucket(url, remote)
    if "://" in url:
        return Diagnosis.warn("dvc remote", f"{url}: this kind is not checked here", "`dvc push` tries it")
    return _folder_remote(Path(url))


def _folder_remote(folder: Path) -> Diagnosis:
    """Write, read back and delete; where the folder is not there yet, its parent must let us make it."""
    if not folder.exists():
        return writable("dvc remote", folder)
    probe = folder / f".slipway-probe-{os.getpid()}"
    try:
        probe.write_bytes(b"slipway")
        whole = probe.read_bytes() == b"slipway"
        probe.unlink()
    except OSError as error:
        return Diagnosis.fail("dvc remote", f"{folder}: {error.strerror}", "make it writable, or `dvc remote modify`")
    if not whole:
        return Diagnosis.fail("dvc remote", f"{folder} does not give back what was written", "look at its disk")
    return Diagnosis.ok("dvc remote", f"{folder}: written, read back and deleted a probe")


def _bucket(url: str, remote: Mapping[str, Any]) -> Diagnosis:
    import boto3
    from botocore.config import Config
    from botocore.exceptions import BotoCoreError, ClientError

    patient = Config(connect_timeout=3, read_timeout=3, retries={"max_attempts": 0})
    try:
        session = boto3.Session(profile_name=remote.get("profile"), region_name=remote.get("region"))
        client = session.client(
            "s3",
            endpoint_url=remote.get("endpointurl"),
            aws_access_key_id=remote.get("access_key_id"),
            aws_secret_access_key=remote.get("secret_access_key"),
            config=patient,
        )
        client.head_bucket(Bucket=url.removeprefix("s3://").partition("/")[0])
    except (BotoCoreError, ClientError) as error:
        fix = "check bucket, endpoint and credentials (`dvc remote modify`, `aws configure`)"
        return Diagnosis.fail("dvc remote", f"{url}: {' '.join(str(error).split())}", fix)
    return Diagnosis.ok("dvc remote", f"{url} answers")


def mlflow(uri: str) -> Diagnosis:
    if uri.startswith("sqlite:///"):
        return _sqlite(Path(uri.removeprefix("sqlite:///")))
    if uri.startswith(("http://", "https://")):
        return _health("mlflow", f"{uri.rstrip('/')}/health", "start it, or correct mlflow_uri in configs/env")
    if uri.startswith(("postgresql", "mysql", "mssql")):
        return _database(uri)
    fix = "use sqlite:///…, a database or http(s)://… in configs/env"
    return Diagnosis.fail("mlflow", f"{uri} is no tracking store to rely on", fix)


def _sqlite(path: Path) -> Diagnosis:
    if not path.exists():
        return writable("mlflow", path)
    try:
        database = sqlite3.connect(f"{path.as_uri()}?mode=ro", uri=True, timeout=SECONDS)
        try:
            schema = database.execute("SELECT version_num FROM alembic_version").fetchone()
            runs = database.execute("SELECT count(*) FROM runs").fetchone()
        finally:
            database.close()
    except sqlite3.Error as error:
        fix = "restore it from a copy, or move it away: the next run makes a new one"
        return Diagnosis.fail("mlflow", f"{path} cannot be read: {error}", fix)
    if not os.access(path, os.W_OK):
        return Diagnosis.fail("mlflow", f"{path} is not writable", "change its mode or owner")
    return Diagnosis.ok("mlflow", f"{path}: {runs[0]} runs, schema {schema[0] if schema else 'none'}")


def _database(uri: str) -> Diagnosis:
    """Never shows the URI: it may hold a password."""
    from sqlalchemy import create_engine
    from sqlalchemy.exc import SQLAlchemyError

    kind = uri.partition(":")[0]
    try:
        with create_engine(uri).connect():
            return Diagnosis.ok("mlflow", f"{kind} database answers")
    except (SQLAlchemyError, ModuleNotFoundError) as error:
        fix = "start it, install its driver, or correct mlflow_uri in configs/env"
        return Diagnosis.fail("mlflow", f"{kind} database: {str(error).splitlines()[0]}", fix)


def prefect(root: Path) -> Diagnosis:
    chosen = settings.environment(root)
    if url := chosen.get("PREFECT_API_URL"):
        fix = "start it (`prefect server start`), or correct prefect_api_url in configs/env"
        return _health("prefect", f"{url.rstrip('/')}/health", fix)
    home = Path(chosen["PREFECT_HOME"])
    diagnosis = writable("prefect", home)
    return diagnosis if diagnosis.state == "fail" else Diagnosis.ok("prefect", f"its own local API in {nearest(home)}")


def _health(check: str, url: str, fix: str) -> Diagnosis:
    try:
        with urllib.request.urlopen(url, timeout=SECONDS) as answer:
            return Diagnosis.ok(check, f"{url} answers {answer.status}")
    except urllib.error.HTTPError as error:
        return Diagnosis.fail(check, f"{url} answers {error.code}", fix)
    except (OSError, ValueError) as error:
        return Diagnosis.fail(check, f"{url} does not answer: {getattr(error, 'reason', None) or error}", fix)
