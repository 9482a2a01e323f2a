"""People: whose signature counts, and who says yes or no."""

from pathlib import Path
from typing import Annotated, Literal

from cyclopts import App, Parameter

from slipway.cli.typed.root import Json, app

_keys = App(name="keys", help="Whose signature counts here: list, new, rotate, revoke, trust.")
app.command(_keys)


@_keys.command(name="list")
def list_keys(*, json: Json = False) -> int:
    """Every key that is or was believed, and the one that signs."""
    from slipway.cli import keys

    return keys.show(json)


@_keys.command
def new(*, owner: str, folder: Path, days: int = 1095, json: Json = False) -> int:
    """A key for a person, to sign what they approve; it vouches for no model.

    Parameters
    ----------
    owner
        Whose it is: approvals will bear this name.
    folder
        Where the private key goes; only its owner should be able to read there.
    days
        How long it is believed.
    """
    from slipway.cli import keys

    return keys.new(owner, folder, days, json)


@_keys.command
def rotate(*, days: int = 1095, json: Json = False) -> int:
    """A new key to sign with; what the present one has signed stays good, and it signs no more.

    Parameters
    ----------
    days
        How long the new key is believed.
    """
    from slipway.cli import keys

    return keys.rotate(days, json)


@_keys.command
def revoke(key: str, *, reason: str, json: Json = False) -> int:
    """Believe a key no more, whatever it signed and when.

    Parameters
    ----------
    key
        Its fingerprint, or the start of it.
    reason
        Why; whoever verifies will read it.
    """
    from slipway.cli import keys

    return keys.revoke(key, reason, json)


@_keys.command
def trust(
    public: Path | None = None,
    *,
    identity: str | None = None,
    issuer: str | None = None,
    owner: str = "",
    days: int = 1095,
    for_approvals: Annotated[bool, Parameter(negative="")] = False,
    for_project: Annotated[bool, Parameter(negative="")] = False,
    json: Json = False,
) -> int:
    """Believe what another key, or an identity known to Sigstore, has signed.

    Parameters
    ----------
    public
        A file with a public key (PEM).
    identity
        Instead of a key: who signs, as Sigstore's certificates name them.
    issuer
        The address of whoever vouches for that identity.
    owner
        Whose key it is; the file's name when not given.
    days
        How long it is believed.
    for_approvals
        The key signs what a person approves, and vouches for no model.
    for_project
        The key is another machine's of this very project: which account spoke there is believed too.
    """
    from slipway.cli import keys

    return keys.trust(public, identity, issuer, owner, days, keys.purpose(for_approvals, for_project), json)


@app.command
def approve(
    target: str,
    *,
    reason: str,
    to: Annotated[Literal["Staging", "Production", "Archived", "register"], Parameter(name="--for")] = "Production",
    key: Path | None = None,
    expires: str | None = None,
    json: Json = False,
) -> int:
    """Say yes to a version's next step: to this very evidence under this very policy, for some hours.

    Parameters
    ----------
    target
        A version (1.2.0, NAME@1.2.0, latest, #3) or a release's id.
    reason
        Why; it stands in the ledger.
    to
        The stage it may go to; `register`: that a release's model may enter the registry.
    key
        Your own private key (`slipway keys new`), where the project asks for signed approvals.
    expires
        How long it holds, as 72h, 3d or 90m; as long as configs/policies/approvals.yaml allows when not given.
    """
    from slipway.cli import approvals

    return approvals.give("approve", target, reason, to, key, expires, json)


@app.command
def reject(
    target: str,
    *,
    reason: str,
    to: Annotated[Literal["Staging", "Production", "Archived", "register"], Parameter(name="--for")] = "Production",
    key: Path | None = None,
    expires: str | None = None,
    json: Json = False,
) -> int:
    """Say no to a version's next step: it cannot be taken until you take that back, or the time is over.

    Parameters
    ----------
    target
        A version (1.2.0, NAME@1.2.0, latest, #3) or a release's id.
    reason
        Why; whoever is refused will read it.
    to
        The stage it may not go to.
    key
        Your own private key.
    expires
        How long it holds, as 72h, 3d or 90m.
    """
    from slipway.cli import approvals

    return approvals.give("reject", target, reason, to, key, expires, json)


@app.command(name="revoke")
def revoke_approval(target: str, *, reason: str, key: Path | None = None, json: Json = False) -> int:
    """Take an approval back, or your own rejection.

    Parameters
    ----------
    target
        The approval's id, or a version: every approval that stands on it.
    reason
        Why; it stands in the ledger.
    key
        Your own private key.
    """
    from slipway.cli import approvals

    return approvals.revoke(target, reason, key, json)


_approvals = App(name="approvals", help="Who has approved or rejected what, and what it is worth now.")
app.command(_approvals)


@_approvals.command(name="list")
def approvals_list(version: str | None = None, *, json: Json = False) -> int:
    """Every approval and rejection, with the reason why one does not count.

    Parameters
    ----------
    version
        Of one version; of all when none is named.
    """
    from slipway.cli import approvals

    return approvals.list_approvals(version, json)


@app.command
def waive(release: str, rule: str, *, reason: str, expires: str, key: Path | None = None, json: Json = False) -> int:
    """Answer for a waivable rule of the policy in your name, for one release's evidence or for `all`.

    Parameters
    ----------
    release
        A release's id, a version, or `all`.
    rule
        The rule's id; its severity must be `waivable`.
    reason
        Why; it is shown wherever the rule is.
    expires
        The last day on which it holds, as 2027-06-30.
    key
        Your own private key.
    """
    from slipway.cli import approvals

    return approvals.waive(release, rule, reason, expires, key, json)


@app.command(name="break-glass")
def break_glass(version: str, *, reason: str, expires: str = "4h", key: Path | None = None, json: Json = False) -> int:
    """Let a version into production without approvals for some hours; it has to be explained afterwards.

    Parameters
    ----------
    version
        1.2.0, NAME@1.2.0, latest, #3 or a release's id.
    reason
        What is on fire.
    expires
        How long, as 4h or 90m.
    key
        Your own private key.
    """
    from slipway.cli import approvals

    return approvals.break_glass(version, reason, expires, key, json)


@app.command(name="follow-up")
def follow_up(id: str, *, reason: str, key: Path | None = None, json: Json = False) -> int:
    """Explain a break-glass afterwards: what happened, and what was done about it.

    Parameters
    ----------
    id
        Its id, or the start of it (`slipway doctor` names those that wait).
    reason
        The explanation.
    key
        Your own private key.
    """
    from slipway.cli import approvals

    return approvals.follow_up(id, reason, key, json)
