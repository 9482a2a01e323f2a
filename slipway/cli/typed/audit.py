"""The ledger: what happened, what served when, and proof that nobody rewrote it."""

from pathlib import Path
from typing import Annotated

from cyclopts import App, Parameter

from slipway.cli.typed.root import Json, app

_audit = App(name="audit", help="What happened, who did it, and proof that nobody rewrote it.")
app.command(_audit)


@_audit.command(name="verify")
def audit_verify(
    *,
    file: Path | None = None,
    trust: Path | None = None,
    ledger_only: Annotated[bool, Parameter(negative="")] = False,
    without_archives: Annotated[bool, Parameter(negative="")] = False,
    json: Json = False,
) -> int:
    """Chain, checkpoints, tables and mirrors, each held against the others. 3 when something is not as it was written.

    Parameters
    ----------
    file
        An export in place of the ledger; needs no database.
    trust
        Another trust file than the project's.
    ledger_only
        Leave MLflow out.
    without_archives
        Believe the digests of archived events and read only what is left in the table.
    """
    from slipway.cli import audit

    return audit.verify(file, trust, ledger_only, without_archives, json)


@_audit.command(name="show")
def audit_show(
    *,
    kind: str | None = None,
    model: str | None = None,
    subject: str | None = None,
    release: str | None = None,
    actor: str | None = None,
    since: str | None = None,
    until: str | None = None,
    last: int = 50,
    json: Json = False,
) -> int:
    """What happened, the newest at the end.

    Parameters
    ----------
    kind
        One kind of event, as model_promoted.
    model
        One model's.
    subject
        What of the model: a version, a release.
    release
        A release's, by its whole id.
    actor
        What one person did.
    since
        From this time on, as 2026-11-21 or 2026-11-21T14:00:00Z.
    until
        Before this time.
    last
        At most so many, the newest.
    """
    from slipway.cli import audit

    wanted = {"kind": kind, "model": model, "subject": subject, "release": release, "actor": actor, "last": last}
    return audit.show(wanted, since, until, json)


@_audit.command(name="export")
def audit_export(
    file: Annotated[str, Parameter(allow_leading_hyphen=True)],
    *,
    since: str | None = None,
    sealed: Annotated[bool, Parameter(negative="")] = False,
    json: Json = False,
) -> int:
    """The events as JSON lines with a signed end; `slipway audit verify --file` checks it anywhere.

    Parameters
    ----------
    file
        Where to write; `-` is standard output.
    since
        From the first event of this time on.
    sealed
        Without what people are called and have said.
    """
    from slipway.cli import audit

    return audit.export(file, since, sealed, json)


@_audit.command(name="checkpoint")
def audit_checkpoint(*, json: Json = False) -> int:
    """Sign where the ledger ends now, outside the database. Every act does so by itself."""
    from slipway.cli import audit

    return audit.checkpoint(json)


@_audit.command(name="accept")
def audit_accept(*, reason: str, json: Json = False) -> int:
    """Release a frozen ledger: say that it is right although it lost events, after a backup was put back, say.

    Parameters
    ----------
    reason
        Why; whoever verifies will read it.
    """
    from slipway.cli import audit

    return audit.accept(reason, json)


@_audit.command(name="reconcile")
def audit_reconcile(*, json: Json = False) -> int:
    """Make MLflow's aliases and tags say what the ledger says; what somebody changed there is put on record."""
    from slipway.cli import audit

    return audit.reconcile(json)


@_audit.command(name="deliver")
def audit_deliver(*, json: Json = False) -> int:
    """Tell every sink of `audit_sinks` what it has not been told. 75 when one is away."""
    from slipway.cli import audit

    return audit.deliver(json)


@_audit.command(name="retain")
def audit_retain(*, dry_run: Annotated[bool, Parameter(negative="")] = False, json: Json = False) -> int:
    """Move events older than configs/policies/audit.yaml keeps to the archive.

    Parameters
    ----------
    dry_run
        Say what would move, and touch nothing.
    """
    from slipway.cli import audit

    return audit.retain(dry_run, json)


@_audit.command(name="erase")
def audit_erase(
    text: Annotated[str, Parameter(allow_leading_hyphen=True)],
    *,
    reason: str,
    within: Annotated[bool, Parameter(negative="")] = False,
    json: Json = False,
) -> int:
    """Forget a person's name, or something that was said, for good. The events and the chain stay.

    Parameters
    ----------
    text
        The whole text; `-` reads it from standard input, so that it stands in no shell's history.
    reason
        Why; without the text itself.
    within
        Also erase, whole, every longer text that holds it.
    """
    from slipway.cli import audit

    return audit.erase(text, reason, within, json)


@app.command(name="at")
def served_at(
    time: str,
    *,
    model: str | None = None,
    restore: Annotated[bool, Parameter(negative="")] = False,
    reason: str | None = None,
    json: Json = False,
) -> int:
    """What served at a time: version, weights, who approved it, under which policy, on which evidence.

    Parameters
    ----------
    time
        As 2026-11-21T14:00:00Z or 2026-11-21T14:00+01:00, or `now`; without a zone it is UTC.
    model
        The model's name; the project's own when not given.
    restore
        Roll back to exactly that.
    reason
        Why, where it is put back.
    """
    from slipway.cli import at

    return at.at(time, model, restore, reason, json)
