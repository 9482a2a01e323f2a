"""Pins: what the world was when a release started. Only starting a release rewrites them."""

from pathlib import Path

from slipway import atomic, params, settings
from slipway.artifacts import Artifact, BasePin, ChampionPin, SourcePin
from slipway.data import sources
from slipway.training import base


def _of_world(project: Path, workspace: Path) -> dict[str, Artifact]:
    """The pins as the world is now. The champion's is left alone: a new champion never re-judges by surprise."""
    chosen, memory = params.load_all(workspace / "params.yaml"), settings.scratch_folder(project) / "digests"
    pins: dict[str, Artifact] = {
        SourcePin.FILE: sources.pin(chosen.ingest, project, memory),
        BasePin.FILE: base.pin(chosen.fetch, project, memory),
    }
    if not (workspace / ChampionPin.FILE).exists():
        pins[ChampionPin.FILE] = ChampionPin(kind="base")
    return pins


def stale(project: Path, workspace: Path) -> list[str]:
    """The pins that no longer say what the world is."""
    return sorted(name for name, pin in _of_world(project, workspace).items() if _text(workspace / name) != _json(pin))


def refresh(project: Path, workspace: Path) -> list[str]:
    """Rewrite the pins that are stale; their names."""
    rewritten = []
    for name, pin in _of_world(project, workspace).items():
        if _text(workspace / name) != _json(pin):
            pin.save(workspace / name)
            rewritten.append(name)
    return sorted(rewritten)


def _text(path: Path) -> str | None:
    return path.read_text() if path.is_file() else None


def _json(pin: Artifact) -> str:
    return atomic.json_text(pin.model_dump(mode="json"))
