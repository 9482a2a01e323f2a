"""What becomes of a retired version in MLflow: a real store on SQLite, and `mlflow gc` as people run it."""

import subprocess
import sys
from pathlib import Path
from typing import Any

import made_versions
import pytest
from made_versions import MODEL, Made
from object_storage import BUCKET

from slipway import settings
from slipway.keeping import retiring
from slipway.ledger.events import Actor
from slipway.registry import mirror

ADA = Actor("ada", "os-user")


@pytest.fixture
def made(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Made:
    for name in ("MLFLOW_TRACKING_URI", "SLIPWAY_MLFLOW_URI", "SLIPWAY_ARCHIVE_URL"):
        monkeypatch.delenv(name, raising=False)
    return made_versions.project(tmp_path / "a project")


def client(made: Made) -> Any:
    from mlflow.tracking import MlflowClient

    return MlflowClient(settings.mlflow_uri(made.root))


def there(made: Made) -> dict[str, tuple[str, Path]]:
    """Version → its stage in MLflow, and where MLflow keeps its files."""
    mlflow, found = client(made), {}
    for one in mlflow.search_model_versions(f"name = '{MODEL}'"):
        place = mlflow.get_model_version_download_uri(MODEL, one.version)
        found[one.tags["slipway.version"]] = (one.tags["slipway.stage"], Path(place.removeprefix("file://")))
    return found


def logged(made: Made) -> list[Path]:
    """Folders of models in MLflow's store."""
    return sorted(path.parent for path in settings.state_folder(made.root).rglob("MLmodel"))


def test_a_deleted_version_goes_from_mlflow_and_gc_frees_its_files_and_no_others(made: Made) -> None:
    first, second = made.version(whole=False), made.version(whole=False)
    mirror.reconcile(made.root)
    assert set(there(made)) == {"1.0.0", "1.1.0"} and len(logged(made)) == 2
    retiring.delete(made.root, MODEL, first.version, "of no use", ADA)
    assert mirror.reconcile(made.root) == []  # not drift: the ledger has deleted it
    assert set(there(made)) == {second.version} and made.find(first).mlflow_version is None
    store = settings.mlflow_uri(made.root)
    command = [sys.executable, "-m", "mlflow", "gc", "--backend-store-uri", store, "--tracking-uri", store]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120, check=False)
    assert done.returncode == 0, done.stderr
    assert len(logged(made)) == 1 and mirror.drift(made.root) == []
    assert mirror.reconcile(made.root) == [] and set(there(made)) == {second.version}


def test_an_archived_version_is_archived_in_mlflow_and_one_in_cold_storage_does_not_stop_the_mirror(
    made: Made, s3: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SLIPWAY_ARCHIVE_URL", f"s3://{BUCKET}")
    told, untold = made.version(whole=False), made.version(whole=False)
    retiring.archive(made.root, MODEL, untold.version, "before MLflow heard of it", ADA)
    mirror.reconcile(made.root)
    assert set(there(made)) == {told.version}
    retiring.archive(made.root, MODEL, told.version, "replaced", ADA)
    mirror.reconcile(made.root)
    assert there(made)[told.version][0] == "Archived"
    retiring.restore(made.root, MODEL, untold.version, "wanted", ADA)
    mirror.reconcile(made.root)
    assert there(made)[untold.version][0] == "None"
