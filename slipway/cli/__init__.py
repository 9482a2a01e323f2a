"""The `slipway` command. The outermost layer: it may call flows and tasks, and nothing below it knows it.

Every command's module is imported only when the command runs, so that `slipway --help` answers at once.
"""

import sys
from pathlib import Path
from typing import Annotated, Literal

from cyclopts import App, Parameter

from slipway import __version__
from slipway.errors import SlipwayError

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


# --- serving ------------------------------------------------------------------------------------------------------------


@app.command(name="serve")
def serve_versions(
    *targets: str,
    host: str = "127.0.0.1",
    port: int = 8000,
    engine: Literal["transformers", "vllm"] | None = None,
    composites: bool = True,
    json: Json = False,
) -> int:
    """Answer as OpenAI's API does, with one model's version or several, until a signal.

    Parameters
    ----------
    targets
        What to serve, as NAME@champion or NAME@1.0.0, or the name of a composite; the first one answers where a request
        names no model.
    host
        The address to listen on.
    port
        The port; 0 takes a free one and says which.
    engine
        What generates, in place of `engine` in configs/serving.yaml.
    composites
        Whether the composites of configs/serving.yaml are served too, with the versions that they are made of. Where
        some are named, only those are.
    """
    from slipway.cli import serve

    return serve.serve(targets, host, port, engine, composites, json)


@app.command(name="vllm")
def vllm_server(
    *targets: str,
    out: Path,
    host: str = "127.0.0.1",
    port: int = 8000,
    max_model_len: int | None = None,
    gpu_memory_utilization: float | None = None,
    tensor_parallel: int = 1,
    json: Json = False,
) -> int:
    """Write the command of a vLLM server, and verified copies of what it serves; vLLM itself is not needed here.

    Parameters
    ----------
    targets
        What it serves, as for `slipway serve`: NAME@champion, NAME@1.0.0, NAME@base; of a composite, its members.
    out
        A new folder for the copies and `serve.sh`, to be mounted where vLLM runs.
    host
        The address that vLLM listens on; 0.0.0.0 within a container.
    port
        Its port.
    max_model_len
        The most tokens of prompt and answer together; otherwise what the model has.
    gpu_memory_utilization
        The share of the GPU's memory that vLLM takes; otherwise its own default.
    tensor_parallel
        How many GPUs share the model.
    """
    from slipway.cli import vllm
    from slipway.generating.vllm_command import Options

    options = Options(host, port, max_model_len, gpu_memory_utilization, tensor_parallel)
    return vllm.write(targets, out, options, json)


@app.command
def predict(
    given: Annotated[Path, Parameter(name="IN")],
    out: Annotated[Path, Parameter(name="OUT")],
    /,
    *,
    model: str = "champion",
    max_tokens: int = 256,
    temperature: float = 0.0,
    top_p: float = 1.0,
    top_k: int = 0,
    seed: int | None = None,
    stop: list[str] | None = None,
    batch: int = 32,
    shard_rows: int = 256,
    threads: int | None = None,
    json: Json = False,
) -> int:
    """Answer a file or folder of prompts offline, through the engine that serves; killed, run it again to go on.

    Parameters
    ----------
    given
        JSON lines with `prompt` or `messages`, and an `id` if wanted; or a folder of such *.jsonl files.
    out
        A folder for the answers.
    model
        The version: NAME@champion, NAME@1.2.0, previous, latest, a release's id, or NAME@base.
    max_tokens
        The most an answer may have.
    temperature
        0 takes the likeliest token each time.
    top_p
        Draw from the likeliest tokens that make this share together.
    top_k
        Draw from so many of the likeliest tokens; 0 is all.
    seed
        Makes drawn answers the same each time.
    stop
        An answer ends before this text; may be given several times.
    batch
        Answers that grow at once.
    shard_rows
        Rows in each file of answers; a kill costs at most the files that were not full yet.
    threads
        CPU threads that compute.
    """
    from slipway.cli import offline

    sampling = {
        "max_tokens": max_tokens,
        "temperature": temperature,
        "top_p": top_p,
        "top_k": top_k,
        "stop": stop or [],
    }
    return offline.predict(given, out, model, {**sampling, "seed": seed}, batch, shard_rows, threads, json)


# --- gateway and traffic -----------------------------------------------------------------------------------------------

_gateway = App(name="gateway", help="The traffic split between champion and candidate: run it, look at it, steer it.")
app.command(_gateway)


@_gateway.default
def run_gateway(*, config: Path | None = None, drain_seconds: float = 60, json: Json = False) -> int:
    """Carry the traffic, until Ctrl-C or SIGTERM; then finish what is under way.

    Parameters
    ----------
    config
        Another file than configs/gateway.yaml.
    drain_seconds
        How long requests that are under way may take in the end.
    """
    from slipway.cli import gateway as commands

    return commands.run(config, drain_seconds, json)


@_gateway.command(name="status")
def gateway_status(*, json: Json = False) -> int:
    """Weights, replicas, and the split as it was measured."""
    from slipway.cli import gateway as commands

    return commands.status(json)


@_gateway.command(name="weights")
def gateway_weights(
    candidate: Annotated[float, Parameter(allow_leading_hyphen=True)],
    *,
    reason: str,
    model: str | None = None,
    back: Annotated[bool, Parameter(negative="")] = False,
    json: Json = False,
) -> int:
    """Give the candidate a share of users, in per cent; the champion has the rest. It takes effect at once.

    Parameters
    ----------
    candidate
        0 is the way back; more than before moves users on.
    reason
        Why; it stands in the ledger.
    model
        Where the gateway has several.
    back
        Let a smaller share than before take users back from the candidate.
    """
    from slipway.cli import gateway as commands

    return commands.weights(candidate, model, reason, back, json)


@_gateway.command(name="add")
def gateway_add(
    address: str, *, arm: Literal["champion", "candidate", "shadow"], model: str | None = None, json: Json = False
) -> int:
    """Let a replica answer for an arm, once it is ready.

    Parameters
    ----------
    address
        HOST:PORT.
    arm
        Whose it is.
    model
        Where the gateway has several.
    """
    from slipway.cli import gateway as commands

    return commands.change("add", address, model, json, arm=arm)


@_gateway.command(name="drain")
def gateway_drain(address: str, *, model: str | None = None, json: Json = False) -> int:
    """Give a replica no new requests; those it has, it finishes.

    Parameters
    ----------
    address
        HOST:PORT.
    model
        Where the gateway has several.
    """
    from slipway.cli import gateway as commands

    return commands.change("drain", address, model, json)


@_gateway.command(name="ready")
def gateway_ready(address: str, *, model: str | None = None, json: Json = False) -> int:
    """Give a drained replica requests again.

    Parameters
    ----------
    address
        HOST:PORT.
    model
        Where the gateway has several.
    """
    from slipway.cli import gateway as commands

    return commands.change("ready", address, model, json)


@_gateway.command(name="remove")
def gateway_remove(address: str, *, model: str | None = None, json: Json = False) -> int:
    """Drain a replica, wait until it has nothing left, and forget it.

    Parameters
    ----------
    address
        HOST:PORT.
    model
        Where the gateway has several.
    """
    from slipway.cli import gateway as commands

    return commands.change("remove", address, model, json)


@_gateway.command(name="reload")
def gateway_reload(*, config: Path | None = None, json: Json = False) -> int:
    """Take another configuration; one that is not sound changes nothing. Weights never need this.

    Parameters
    ----------
    config
        Another file than configs/gateway.yaml.
    """
    from slipway.cli import gateway as commands

    return commands.reload(config, json)


_gateway_keys = App(name="keys", help="API keys: who may ask. They work, or stop working, within a second.")
_gateway.command(_gateway_keys)


@_gateway_keys.command(name="new")
def gateway_keys_new(
    name: str,
    *,
    tester: Annotated[bool, Parameter(negative="")] = False,
    requests_per_minute: int = 0,
    json: Json = False,
) -> int:
    """Make a key; it is shown this once, and kept as SHA-256 alone.

    Parameters
    ----------
    name
        Whose it is.
    tester
        May choose the arm, by the header x-slipway-force.
    requests_per_minute
        A limit of its own; 0: the general one.
    """
    from slipway.cli import gateway as commands

    return commands.new_key(name, tester, requests_per_minute, json)


@_gateway_keys.command(name="list")
def gateway_keys_list(*, json: Json = False) -> int:
    """Every key that is valid."""
    from slipway.cli import gateway as commands

    return commands.list_keys(json)


@_gateway_keys.command(name="revoke")
def gateway_keys_revoke(key: str, *, json: Json = False) -> int:
    """Take a key away.

    Parameters
    ----------
    key
        Its id or its name.
    """
    from slipway.cli import gateway as commands

    return commands.revoke_key(key, json)


@app.command(name="traffic")
def send_traffic(
    prompts: Path,
    *,
    url: str | None = None,
    rate: float = 10,
    seconds: float = 60,
    requests: int = 0,
    stream: float = 0,
    feedback: float = 1,
    users: int = 100,
    max_tokens: int = 0,
    model: str | None = None,
    key: Path | None = None,
    seed: int = 0,
    json: Json = False,
) -> int:
    """Replay prompts through the gateway at a steady rate, grade the answers, and say what became of each.

    Parameters
    ----------
    prompts
        JSON lines: prompt or messages, answer (what is right) and user, the last two as you have them.
    url
        The gateway's address; the one that runs here when not given.
    rate
        Requests a second, sent on time whether or not answers come.
    seconds
        At most so long.
    requests
        At most so many; 0: as many as fit.
    stream
        The part of requests that are streamed, 0 to 1.
    feedback
        The part of answers that are graded and posted to /v1/feedback, where the right one is known.
    users
        So many users, where the file names none.
    max_tokens
        The most an answer may have; 0 is what the server gives.
    model
        Its name; the gateway's first one when not given.
    key
        A file with an API key.
    seed
        Of the order and of what is streamed.
    """
    from slipway.cli import traffic as commands

    return commands.run(
        prompts, url, rate, seconds, requests, stream, feedback, users, max_tokens, model, key, seed, json
    )


# --- canary -----------------------------------------------------------------------------------------------------------

_canary = App(name="canary", help="How a candidate is led to all traffic, and how often that would go wrong.")
app.command(_canary)


@_canary.command(name="simulate")
def canary_simulate(
    *,
    canaries: int = 2000,
    seed: int = 1,
    policy: Path | None = None,
    metric: str | None = None,
    plot: Path | None = None,
    json: Json = False,
) -> int:
    """How often the policy promotes or rolls back wrongly, and how much traffic it needs, beside rules that others use.

    Parameters
    ----------
    canaries
        How many to try of each truth.
    seed
        Of the random numbers; the same seed gives the same figures.
    policy
        Another file than configs/policies/canary.yaml.
    metric
        The primary metric; the policy's first one when not given.
    plot
        An SVG file to draw the figures into.
    """
    from slipway.cli import canary as commands

    return commands.simulate(canaries, seed, policy, metric, plot, json)


@_canary.command(name="render")
def canary_render(
    champion: str,
    candidate: str | None = None,
    *,
    router: Literal["kserve", "kubernetes", "flagger"],
    percent: float = 0,
    model: str | None = None,
    settings: Path | None = None,
    step: list[int] | None = None,
    json: Json = False,
) -> int:
    """Print a canary as the manifests of a platform, to be committed; no cluster is asked.

    Parameters
    ----------
    champion
        VERSION=URI, as in 1.0.0=s3://models/support-desk/1.0.0.
    candidate
        The same, of the version that comes beside it.
    router
        Whose manifests: KServe's, Kubernetes' own (blue/green), or a Canary for Flagger.
    percent
        The candidate's share.
    model
        Its name; the project's when not given.
    settings
        A YAML file with the section `router` of configs/env; the environment in use when not given.
    step
        A share on the way up, for Flagger with a mesh; may be given several times. None: Flagger's blue/green.
    """
    from slipway.cli import routers as commands

    return commands.render(champion, candidate, router, percent, model, settings, step or [], json)


def main(argv: list[str] | None = None) -> None:
    """Run a command; a mistake is one line and an exit code, never a traceback."""
    from cyclopts import CycloptsError

    try:
        code = app(argv, exit_on_error=False, print_error=False, result_action="return_value")
    except CycloptsError as error:
        from slipway.cli import mistakes

        code = _say(mistakes.of(error))
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
