"""The pipeline: run it, look at what came of it, look after the project."""

from pathlib import Path
from typing import Annotated

from cyclopts import Parameter

from slipway.cli.typed.root import Json, app


@app.command
def run(*, wait: float = 0, again: bool = False, json: Json = False) -> int:
    """The whole pipeline here, in place: data, model, evidence, verdict.

    Parameters
    ----------
    wait
        Seconds to wait when another run holds this workspace.
    again
        Judge again even when nothing changed.
    """
    from slipway.cli import start

    return start.run(wait, again, json)


@app.command
def release(
    *,
    revision: str = "HEAD",
    change: Annotated[list[str] | None, Parameter(name=["--set", "-S"])] = None,
    json: Json = False,
) -> int:
    """The same as a deployment's run: a commit, in a git worktree of its own.

    Parameters
    ----------
    revision
        The commit, branch or tag to build.
    change
        A parameter for this release alone, as in `-S finetune.lora.rank=4`; may be given several times.
    """
    from slipway.cli import start

    return start.release(revision, change or [], json)


@app.command
def status(release: str | None = None, *, json: Json = False) -> int:
    """What became of a release; the newest when none is named.

    Parameters
    ----------
    release
        The release's id, or the start of it.
    """
    from slipway.cli import show

    return show.status(release, json)


@app.command
def report(
    release: str | None = None, *, open: Annotated[bool, Parameter(negative="")] = False, json: Json = False
) -> int:
    """Where a release's HTML report is.

    Parameters
    ----------
    release
        The release's id, or the start of it; the newest when none is named.
    open
        Open it in the browser.
    """
    from slipway.cli import show

    return show.report(release, open, json)


@app.command
def doctor(*, json: Json = False) -> int:
    """What is installed, reachable and configured; each problem with its fix."""
    from slipway.cli import checkup

    return checkup.doctor(json)


@app.command
def init(
    folder: Path,
    *,
    name: str | None = None,
    data: str = "sample",
    test: str | None = None,
    base: str = "tiny",
    json: Json = False,
) -> int:
    """A project of one's own: a copy of this one, with its own git history, data and model.

    Parameters
    ----------
    folder
        Where to make it; must not exist or be empty.
    name
        The model's name; the folder's name when not given.
    data
        Training rows: sample, a path or glob, s3://… or hf://….
    test
        Held-out rows, in the same forms; split from the data when not given.
    base
        The model to tune: tiny, a model folder, or a Hugging Face id.
    """
    from slipway.cli import project

    return project.init(folder, name or folder.resolve().name, data, test, base, json)


@app.command
def clean(
    *, older_than_days: float = 14, dry_run: Annotated[bool, Parameter(negative="")] = False, json: Json = False
) -> int:
    """Free disk: left-over worktrees and checkpoints, and cached outputs that no release or workspace needs.

    Parameters
    ----------
    older_than_days
        Leave anything younger alone.
    dry_run
        Say what would go, and touch nothing.
    """
    from slipway.cli import disk

    return disk.clean(older_than_days, dry_run, json)


@app.command
def scan(
    path: Path,
    *,
    imported: Annotated[bool, Parameter(name="--import", negative="")] = False,
    json: Json = False,
) -> int:
    """Judge any model's file or folder as the gate would; nothing in it is ever run. 3 when something is refused.

    Parameters
    ----------
    path
        A file or a folder.
    imported
        Also allow what may be converted: pickles that only rebuild tensors and plain values.
    """
    from slipway.cli import scans

    return scans.scan(path, imported, json)
