"""Pins: what the world was when a release started. Only starting a release rewrites them."""

from pathlib import Path
from typing import TYPE_CHECKING

from slipway import atomic, digest, model, params, settings
from slipway.artifacts import Artifact, BasePin, ChampionPin, SourcePin
from slipway.data import sources
from slipway.errors import StageError
from slipway.training import base

if TYPE_CHECKING:
    from slipway.registry.versions import Version


def _of_world(project: Path, workspace: Path) -> dict[str, Artifact]:
    """The pins of data and base as the world is now; the champion's where there is none."""
    chosen, memory = params.load_all(workspace / "params.yaml"), settings.scratch_folder(project) / "digests"
    pins: dict[str, Artifact] = {
        SourcePin.FILE: sources.pin(chosen.ingest, project, memory),
        BasePin.FILE: base.pin(chosen.fetch, project, memory),
    }
    if not (workspace / ChampionPin.FILE).exists():
        pins[ChampionPin.FILE] = ChampionPin(kind="base")
    return pins


def stale(project: Path, workspace: Path) -> list[str]:
    """The pins that no longer say what the world is. Not the champion's: a new champion never re-judges by surprise."""
    return sorted(name for name, pin in _of_world(project, workspace).items() if _text(workspace / name) != _json(pin))


def refresh(project: Path, workspace: Path) -> list[str]:
    """Rewrite the pins that are stale; their names."""
    rewritten = []
    for name, pin in (_of_world(project, workspace) | _of_ledger(workspace)).items():
        if _text(workspace / name) != _json(pin):
            pin.save(workspace / name)
            rewritten.append(name)
    return sorted(rewritten)


def _of_ledger(workspace: Path) -> dict[str, Artifact]:
    """The champion, where one serves, with its predictions beside the pin: what a candidate is compared with."""
    from slipway.ledger import champions
    from slipway.ledger.database import Database
    from slipway.registry import versions

    name = model.load(workspace).name or workspace.name
    with Database.of(workspace).read() as connection:
        serving = champions.find(connection, name)
        version = versions.find(connection, name, serving.version) if serving else None
    if version is None:
        return {}
    known = ChampionPin.load(workspace / ChampionPin.FILE) if (workspace / ChampionPin.FILE).is_file() else None
    predictions = (workspace / ChampionPin.FILE).with_suffix(".parquet")
    same = known is not None and known.identity == version.identity and predictions.is_file()
    if not same or digest.of_file(predictions) != known.predictions:  # type: ignore[union-attr]
        _write_predictions(workspace, version, predictions)
    pinned = digest.of_file(predictions)
    return {
        ChampionPin.FILE: ChampionPin(
            kind="version", version=version.version, identity=version.identity, predictions=pinned
        )
    }


def _write_predictions(workspace: Path, version: "Version", target: Path) -> None:
    """What the champion itself answered when it was judged, out of the store."""
    import pyarrow.compute
    import pyarrow.parquet

    from slipway.registry import store

    place = store.folder(workspace, version.model, version.version) / store.RECEIPT / store.EVIDENCE
    listed = {file.path: file for file in version.files}
    source = place / "predictions.parquet"
    file = listed.get(f"{store.RECEIPT}/{store.EVIDENCE}/predictions.parquet")
    if file is None or not source.is_file() or digest.of_file(source) != file.sha256:
        raise StageError(
            f"the predictions of the champion {version.name} are not in the store ({source}), and a candidate is "
            f"compared with them; `slipway models verify {version.version}` says what is missing, restore it"
        )
    table = pyarrow.parquet.read_table(source)
    own = table.filter(pyarrow.compute.equal(table["model"], "tuned"))
    partial = target.with_name(f".{target.name}.partial")
    pyarrow.parquet.write_table(own, partial, compression="zstd")
    partial.replace(target)


def _text(path: Path) -> str | None:
    return path.read_text() if path.is_file() else None


def _json(pin: Artifact) -> str:
    return atomic.json_text(pin.model_dump(mode="json"))
