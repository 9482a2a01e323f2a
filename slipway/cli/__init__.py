"""The `slipway` command. The outermost layer: it may call flows and tasks, and nothing below it knows it.

Every command's module is imported only when the command runs, so that `slipway --help` answers at once.
"""

import sys
from pathlib import Path
from typing import Annotated

from cyclopts import App, Parameter

from slipway import __version__
from slipway.errors import SlipwayError, UsageError

app = App(
    name="slipway",
    help="Takes a fine-tuned language model from data to production, and lets nothing unproven through.",
    version=__version__,
)
app.register_install_completion_command()

Json = Annotated[bool, Parameter(name="--json", help="Answer as JSON on standard output.", negative="")]


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


def main(argv: list[str] | None = None) -> None:
    """Run a command; a mistake is one line and an exit code, never a traceback."""
    from cyclopts import CycloptsError

    try:
        code = app(argv, exit_on_error=False, print_error=False, result_action="return_value")
    except CycloptsError as error:
        code = _say(UsageError(f"{' '.join(str(error).split())} (`slipway --help` lists the commands)"))
    except SlipwayError as error:
        code = _say(error)
    except KeyboardInterrupt:
        print("slipway: interrupted; run it again to go on", file=sys.stderr)
        code = 130
    except BrokenPipeError:  # `slipway status | head`
        code = 0
    except OSError as error:
        from slipway.errors import of_storage

        known = of_storage(error, Path.cwd(), 0)
        if known is None:
            raise
        code = _say(known)
    sys.exit(code or 0)


def _say(error: SlipwayError) -> int:
    print(f"slipway: {error}", file=sys.stderr)
    return error.exit_code
