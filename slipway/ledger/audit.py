"""Is the ledger what was written? Everything is held against something else, and nothing is changed.

The chain against itself, archives joined on; sealed texts against their digests; the signed checkpoints against the chain; every
table against the events that told its rows; and what mirrors the ledger (MLflow) against the tables.
"""

import contextlib
import importlib
from pathlib import Path
from typing import Any

from sqlalchemy import Connection

from slipway.errors import SlipwayError, StageError, Transient, UsageError
from slipway.ledger import archive, chain, checkpoints, clock, compared, events, guards, standing
from slipway.ledger.checkpoint_files import Line
from slipway.ledger.database import Database
from slipway.ledger.findings import OPEN, RESTORE, Problem, Report, Walk
from slipway.registry import keys

__all__ = ["Problem", "Report", "verify"]


def verify(root: Path, mirrors: bool = True, archives: bool = True, trust: Path | None = None) -> Report:
    """Look at everything. Only a database that does not answer is an error; all else is in the report."""
    report = Report()
    try:
        _ledger(root, report, archives, keys.load(trust or keys.folder(root) / keys.FILE))
    except (Transient, UsageError):
        raise
    except SlipwayError as error:
        report.wrong(None, str(error), "the ledger", RESTORE)
    if mirrors:
        _mirrors(root, report)
    return report


def _ledger(root: Path, report: Report, archives: bool, trust: keys.Trust) -> None:
    own = checkpoints.lines(root)
    lines = [*own, *checkpoints.seen(root), *_remote(root, report)]
    wanted = {line.checkpoint.sequence for line in lines if line.checkpoint}
    with contextlib.closing(Database.of(root)) as database, database.read() as connection:
        walk = Walk(wanted)
        is_whole = _chain(root, connection, report, walk, archives, database.shown)
        compared.gaps(report, own, trust)
        compared.compare(connection, report, lines, walk, trust, is_whole)
        _guards(connection, database, report)
        if is_whole:
            found = standing.problems(connection, walk.expected, walk.skipped)
            report.problems += [Problem(at, what, database.shown, RESTORE) for at, what in found]
            report.erased = standing.erased(connection)
            _keys(report, walk, trust)
            _owed(connection, report)


# --- the chain ----------------------------------------------------------------------------------------------------------


def _chain(root: Path, connection: Connection, report: Report, walk: Walk, archives: bool, where: str) -> bool:
    """Go along the whole chain; whether it holds to its end."""
    try:
        for kept in archive.listed(connection):
            if kept.first != walk.last + 1:
                raise chain.Broken(walk.last + 1, f"is missing: the next archive begins at event {kept.first}")
            _past_archive(root, kept, walk, archives)
            report.archived = walk.last
        walk.past(events.checked(connection, walk.last, walk.last_hash))
    except chain.Broken as broken:
        report.wrong(broken.sequence, broken.what, where, RESTORE)
        report.notes.append(f"nothing behind event {broken.sequence} was looked at")
    except StageError as error:  # an archive that is not what it was
        report.wrong(walk.last + 1, str(error), where, RESTORE)
    else:
        return _is_alone(connection, report, walk, where)
    finally:
        report.events, report.head = walk.last, walk.last_hash
    return False


def _past_archive(root: Path, kept: archive.Archive, walk: Walk, archives: bool) -> None:
    if archives:
        walk.past(chain.checked(archive.read(root, kept), walk.last, walk.last_hash))
    else:
        walk.last, walk.last_hash, walk.skipped = kept.last, kept.last_hash, kept.last
    if (walk.last, walk.last_hash) != (kept.last, kept.last_hash):
        raise chain.Broken(kept.last, f"is not the last of the archive {kept.uri}, as its row says")


def _is_alone(connection: Connection, report: Report, walk: Walk, where: str) -> bool:
    """Whether no rows stand before the chain's live part: copies of what an archive holds, or worse."""
    found = events.count(connection)
    live = walk.last - report.archived
    if found != live:
        report.wrong(report.archived or 1, f"{found - live} rows stand beside the chain", where, RESTORE)
    return found == live


def _guards(connection: Connection, database: Database, report: Report) -> None:
    """The triggers that keep events as they were written."""
    if found := guards.wrong(connection):
        what = f"the trigger {found[0]}, which keeps events from being rewritten, is gone, switched off or does something else"
        report.wrong(None, what, database.shown, RESTORE)


# --- beside the chain ---------------------------------------------------------------------------------------------------


def _remote(root: Path, report: Report) -> list[Line]:
    try:
        return checkpoints.remote(root)
    except SlipwayError as error:
        report.wrong(None, f"the second place of the checkpoints was not compared: {error}", "configs/env", "try again")
        return []


def _keys(report: Report, walk: Walk, trust: keys.Trust) -> None:
    """Whom the trust file believes, held against the revocations that the events tell."""
    told = walk.expected.revoked
    for name, key in trust.keys.items():
        again = f"`slipway keys revoke {name[:16]} --reason …` again"
        if name in told and key.revoked is None:
            what = f"revoked the key {name[:16]}, and the trust file believes it"
            report.wrong(told[name], what, "the trust file", f"{again}, and find out who changed the file")
        elif key.revoked is not None and name not in told and not walk.skipped:
            report.notes.append(f"the key {name[:16]} is revoked, and no event tells it; {again} tells it")


# --- what mirrors the ledger ----------------------------------------------------------------------------------------------


def _mirrors(root: Path, report: Report) -> None:
    """MLflow's aliases and tags; what changed there, and when it was last right."""
    try:
        found = _above("slipway.registry.mirror").differences(root)
    except SlipwayError as error:
        report.wrong(
            None, f"MLflow was not compared: {error}", "MLflow", "start it again, or leave it out: --ledger-only"
        )
        return
    with contextlib.closing(Database.of(root)) as database, database.read() as connection:
        for model, step in found:
            _mirror(connection, report, model, step)
        report.mirrors = standing.mirrored(connection)


def _mirror(connection: Connection, report: Report, model: str, step: Any) -> None:
    """One difference. That MLflow was only not told yet is what a row says, which could be changed too: so for a day at most."""
    good = standing.last_good(connection, model)
    since = f"; it was right since event {good[0]} ({good[1][:19]}Z)" if good else ""
    what = f"{model}: {step.what} is {step.found or 'not there'}, the ledger says {step.wanted or 'none'}"
    if step.drift:
        report.wrong(None, f"{what}{since}", "MLflow", _RECONCILE)
    elif good is None or clock.read().at - clock.moment(good[1]) > OPEN:
        report.wrong(None, f"{what}, and not for a day only{since}", "MLflow", _RECONCILE)
    else:
        report.notes.append(f"{what}: it was not told yet, by what the ledger noted; {_RECONCILE}")


_RECONCILE = "`slipway audit reconcile` puts it back"


def _owed(connection: Connection, report: Report) -> None:
    """Whoever broke the glass has to explain it."""
    for one in _above("slipway.people.grants").overdue(connection):
        report.notes.append(
            f"the break-glass {one.id[:8]} of {one.model} {one.version} was never explained: `slipway follow-up`"
        )


def _above(name: str) -> Any:
    """What stands above the ledger is only looked up when everything is compared."""
    return importlib.import_module(name)
