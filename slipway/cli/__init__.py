"""The `slipway` command. The outermost layer: it may call flows and tasks, and nothing below it knows it.

Every command's module is imported only when the command runs, so that `slipway --help` answers at once.
"""

import sys
from pathlib import Path
from typing import Annotated, Literal

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


_policy = App(name="policy", help="Is a policy sound, what would it have decided, and can this data decide at all?")
app.command(_policy)


@_policy.command
def check(file: Path | None = None, *, receipt: Path | None = None, json: Json = False) -> int:
    """Everything that is wrong with a policy, line by line; or whether a decision's evidence still leads to it.

    Parameters
    ----------
    file
        The policy; the project's own when none is named.
    receipt
        A decision.json to judge again, offline, from the evidence in this workspace.
    """
    from slipway.cli import policy

    return policy.check(file, receipt, json)


@_policy.command
def power(
    *,
    rows: int | None = None,
    margin: float | None = None,
    discordance: float | None = None,
    rate: float | None = None,
    json: Json = False,
) -> int:
    """How many test rows a margin or a rate needs before it can be decided.

    Parameters
    ----------
    rows
        The rows there are; the last scorecard's when not given.
    margin
        How much worse than the champion is still allowed.
    discordance
        The share of rows that only one of two models has right; the last scorecard's when not given.
    rate
        The rate that has to be reached.
    """
    from slipway.cli import policy_trials

    return policy_trials.power(rows, margin, discordance, rate, json)


@_policy.command
def aa(*, trials: int = 1000, json: Json = False) -> int:
    """How often the gate contradicts itself on two equally good models.

    Parameters
    ----------
    trials
        How often to judge.
    """
    from slipway.cli import policy_trials

    return policy_trials.aa(trials, json)


@_policy.command
def backtest(file: Path | None = None, *, json: Json = False) -> int:
    """What a policy would have decided on every past release, beside what was decided.

    Parameters
    ----------
    file
        The policy; the project's own when none is named.
    """
    from slipway.cli import policy_trials

    return policy_trials.backtest(file, json)


_advisories = App(name="advisories", help="Known vulnerabilities of the installed packages.")
app.command(_advisories)


@_advisories.command(name="check")
def advisories_check(*, json: Json = False) -> int:
    """Ask PyPI, then OSV, then the snapshot about every installed package. 3 when one is vulnerable."""
    from slipway.cli import advisories

    return advisories.check(json)


@_advisories.command(name="fetch")
def advisories_fetch(*, source: Annotated[str | None, Parameter(name="--from")] = None, json: Json = False) -> int:
    """Bring OSV's advisories about Python packages here, for when no service can be reached.

    Parameters
    ----------
    source
        Where the snapshot is; OSV's own when not given.
    """
    from slipway.cli import advisories

    return advisories.fetch(source, json)


_models = App(name="models", help="The models that were released.")
app.command(_models)


@_models.command(name="list")
def models_list(
    *,
    model: str | None = None,
    stage: str | None = None,
    sort: str | None = None,
    limit: int = 50,
    deleted: Annotated[bool, Parameter(negative="")] = False,
    json: Json = False,
) -> int:
    """Every version with its stage, what it serves as, headline metrics, size, author and decision; the newest first.

    Parameters
    ----------
    model
        One model's versions only.
    stage
        Those in None, Staging, Production or Archived only.
    sort
        The best first by a metric (`exact_match`, `tuned.loss`, `servability.latency_p95_seconds`, …), or by date or size.
    limit
        How many to show; 0 shows all.
    deleted
        The tombstones of deleted versions too.
    """
    from slipway.cli import models

    return models.list_versions(model, stage, sort, limit, deleted, json)


@_models.command(name="show")
def models_show(version: str = "latest", *, model: str | None = None, json: Json = False) -> int:
    """Everything that is known of one version.

    Parameters
    ----------
    version
        A number (1.2.0), NAME@1.2.0, champion, previous, latest, a serial (#3) or a release's id.
    model
        Whose version, where several models are registered.
    """
    from slipway.cli import models

    return models.show(version, model, json)


@_models.command(name="compare")
def models_compare(
    *versions: str,
    model: str | None = None,
    every: Annotated[bool, Parameter(name="--all", negative="")] = False,
    metrics: Annotated[bool, Parameter(negative="")] = False,
    params: Annotated[bool, Parameter(negative="")] = False,
    data: Annotated[bool, Parameter(negative="")] = False,
    cost: Annotated[bool, Parameter(negative="")] = False,
    all_values: Annotated[bool, Parameter(negative="")] = False,
    html: Path | None = None,
    png: Path | None = None,
    json: Json = False,
) -> int:
    """Versions side by side, the best of each metric marked: metrics, params, data and cost, or those that are named.

    Parameters
    ----------
    versions
        Two or more, as `slipway models show` takes them.
    model
        Whose versions, where several models are registered.
    every
        Every version there is, instead of naming them.
    metrics
        Metrics alone.
    params
        Parameters alone, those that differ.
    data
        Data and base alone.
    cost
        Time, size and cost alone.
    all_values
        Also what is the same in all of them.
    html
        A page to write.
    png
        A picture to write.
    """
    from slipway.cli import models

    named = {"metrics": metrics, "params": params, "data": data, "cost": cost}
    parts = [part for part, wanted in named.items() if wanted]
    return models.compare(versions, model, every, parts, all_values, html, png, json)


@_models.command(name="lineage")
def models_lineage(
    target: str | None = None,
    *,
    model: str | None = None,
    row_text: Path | None = None,
    html: Path | None = None,
    json: Json = False,
) -> int:
    """What a version was made from and what came of it; or every version that learned from a file, a row or a data set.

    Parameters
    ----------
    target
        A version; or a raw data file, FILE:ROW of it, or the digest of a file, row, prepared data, base or model.
    model
        Whose version, where several models are registered.
    row_text
        A file with rows as they stand in the raw data (`-`: standard input): which versions learned from them?
    html
        A page to write.
    """
    from slipway.cli import models

    return models.lineage(target, model, row_text, html, json)


@_models.command(name="artifacts")
def models_artifacts(
    version: str = "latest",
    *,
    model: str | None = None,
    download: Path | None = None,
    base: Annotated[bool, Parameter(negative="")] = False,
    json: Json = False,
) -> int:
    """A version's files with sizes and digests; or a copy of them, every byte checked, whole or not at all.

    Parameters
    ----------
    version
        As `slipway models show` takes it.
    model
        Whose version, where several models are registered.
    download
        A folder to copy them to: one that is not there yet, or empty.
    base
        The base model's files too.
    """
    from slipway.cli import models

    return models.artifacts(version, model, download, base, json)


@_models.command(name="stage")
def models_stage(
    version: str,
    stage: Literal["Staging", "Production", "Archived"],
    *,
    reason: str,
    tag: list[str] | None = None,
    json: Json = False,
) -> int:
    """Bring a version to its next stage, judged by the policy's rules for that step. 3 naming every rule that failed.

    Parameters
    ----------
    version
        1.2.0, NAME@1.2.0, latest, #3 or a release's id.
    stage
        None goes to Staging, Staging to Production, Production to Archived.
    reason
        Why; it stands in the ledger.
    tag
        A tag that the rules ask for, as tested; may be given several times, and is kept for later steps.
    """
    from slipway.cli import stages

    return stages.stage(version, stage, tag or [], reason, json)


@_models.command(name="promote")
def models_promote(version: str, *, reason: str, tag: list[str] | None = None, json: Json = False) -> int:
    """Make a version the champion: to Production, where it is in Staging, then in front of the users, at once.

    Parameters
    ----------
    version
        1.2.0, NAME@1.2.0, latest, #3 or a release's id.
    reason
        Why; it stands in the ledger.
    tag
        A tag that the rules of Staging→Production ask for; may be given several times.
    """
    from slipway.cli import stages

    return stages.promote(version, tag or [], reason, json)


@_models.command(name="card")
def models_card(
    release: str | None = None, *, bom: Annotated[bool, Parameter(negative="")] = False, json: Json = False
) -> int:
    """The model card of a release or version; `slipway models card --bom` shows what it is made from.

    Parameters
    ----------
    release
        A version (1.2.0, champion, …), or a release's id, or the start of it; the newest release when none is named.
    bom
        The bill of materials (CycloneDX) in place of the card.
    """
    from slipway.cli import card

    return card.card(release, bom, json)


@_models.command(name="verify")
def models_verify(
    target: str | None = None,
    *,
    base: Path | None = None,
    adapter: Path | None = None,
    trust: Path | None = None,
    json: Json = False,
) -> int:
    """Is this the very model that was signed, by a key that is trusted? 3 when it is not, naming what differs.

    Parameters
    ----------
    target
        A version (1.2.0, champion, …), a release (its id, or the start of it), or a folder with statement.json,
        statement.sig, base/ and adapter/; the newest release when none is named.
    base
        The base model's folder, where it lies elsewhere.
    adapter
        The adapter's folder, where it lies elsewhere.
    trust
        Another trust file than the project's.
    """
    from slipway.cli import verify

    return verify.verify(target, base, adapter, trust, json)


Why = Annotated[str, Parameter(help="Why; whoever looks into it later will read that.")]
Whose = Annotated[str | None, Parameter(name="--model", help="Whose version, where several models are registered.")]


@_models.command(name="rollback")
def models_rollback(model: str | None = None, *, to: str | None = None, reason: Why, json: Json = False) -> int:
    """What served before serves again: the previous champion, or another version that was in Production.

    Reads the ledger and this disk alone; bytes, signature and identity are checked before anything is touched.

    Parameters
    ----------
    model
        Whose champion, where several models are registered.
    to
        The version to go back to; the previous champion when not given.
    """
    from slipway.cli import rollback

    return rollback.rollback(model, to, reason, json)


@_models.command(name="archive")
def models_archive(version: str, *, model: Whose = None, reason: Why, json: Json = False) -> int:
    """Out of use: into the stage Archived, its bytes into the archive where `archive_url` names one."""
    from slipway.cli import lifecycle

    return lifecycle.act("archive", version, model, reason, json)


@_models.command(name="restore")
def models_restore(version: str, *, model: Whose = None, reason: Why, json: Json = False) -> int:
    """Back from the archive. 75 while a frozen copy is on its way: run it again when it says."""
    from slipway.cli import lifecycle

    return lifecycle.act("restore", version, model, reason, json)


@_models.command(name="delete")
def models_delete(version: str, *, model: Whose = None, reason: Why, json: Json = False) -> int:
    """A tombstone for ever: bytes go everywhere; the row, its digests and the reason stay."""
    from slipway.cli import lifecycle

    return lifecycle.act("delete", version, model, reason, json)


@_models.command(name="hold")
def models_hold(version: str, *, model: Whose = None, reason: Why, json: Json = False) -> int:
    """Legal hold: nothing is done to this version until `slipway models unhold`."""
    from slipway.cli import lifecycle

    return lifecycle.act("hold", version, model, reason, json)


@_models.command(name="unhold")
def models_unhold(version: str, *, model: Whose = None, reason: Why, json: Json = False) -> int:
    """End a legal hold."""
    from slipway.cli import lifecycle

    return lifecycle.act("unhold", version, model, reason, json)


@_models.command(name="retire")
def models_retire(
    model: str | None = None, *, dry_run: Annotated[bool, Parameter(negative="")] = False, json: Json = False
) -> int:
    """Archive, move and delete what configs/policies/lifecycle.yaml says is due; never what is live.

    Parameters
    ----------
    model
        One model's versions only.
    dry_run
        Say what is due, why, and what it saves a month; touch nothing.
    """
    from slipway.cli import lifecycle

    return lifecycle.retire(model, dry_run, json)


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
    """
    from slipway.cli import keys

    return keys.trust(public, identity, issuer, owner, days, for_approvals, json)


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
