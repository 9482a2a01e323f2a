"""The registry: versions, their lives, and what serves."""

from pathlib import Path
from typing import Annotated, Literal

from cyclopts import App, Parameter

from slipway.cli.typed.root import Json, app

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
