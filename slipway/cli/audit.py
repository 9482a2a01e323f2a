"""`slipway audit`: what happened, and proof that nobody rewrote it."""

import json as json_module
import sys
from collections.abc import Callable, Iterable
from dataclasses import asdict
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any

from rich.console import Console
from rich.table import Table
from rich.text import Text

from slipway import settings
from slipway.errors import SlipwayError, UsageError, of_storage

if TYPE_CHECKING:
    from sqlalchemy import Connection

_LONGEST = 60  # characters of a payload's value in a table


def verify(file: Path | None, trust: Path | None, ledger_only: bool, without_archives: bool, json: bool) -> int:
    """0 when everything is as it was written, 3 when something is not."""
    from slipway.ledger import audit

    if trust is not None and not trust.is_file():
        raise UsageError(f"{trust} does not exist; name a trust file, as `slipway keys list` has it")
    if file is not None:
        return _verify_file(file, trust, json)
    report = audit.verify(settings.find_root(), not ledger_only, not without_archives, trust)
    if json:
        _print(report.as_json())
        return 0 if report.is_clean else 3
    for problem in report.problems:
        print(problem.text, file=sys.stderr)
    for note in report.notes:
        print(f"note: {note}")
    end = f"{report.events:,} events, {report.checkpoints:,} checkpoints, {report.mirrors:,} mirrored, {report.erased} erased"
    print(f"✓ Nothing was rewritten: {end}" if report.is_clean else f"✗ {len(report.problems)} problems: {end}")
    return 0 if report.is_clean else 3


def _verify_file(file: Path, trust: Path | None, json: bool) -> int:
    from slipway.ledger import exports
    from slipway.registry import keys

    known = keys.load(trust or keys.folder(settings.find_root()) / keys.FILE)
    try:
        found = exports.verify(file, known)
    except OSError as error:
        raise UsageError(f"{file}: {error.strerror}; name a file that `slipway audit export` has written") from None
    if json:
        _print({"clean": not found.problems, **asdict(found)})
    else:
        for sequence, what in found.problems:
            print(f"event {sequence}: {what}; {file}" if sequence else f"{what}; {file}", file=sys.stderr)
        for note in found.notes:
            print(f"note: {note}")
        sign = "✗ This is not what was exported" if found.problems else "✓ As it was exported"
        print(f"{sign}: {found.events:,} events, {found.texts:,} texts, the last with the hash {found.head[:16]}")
    return 3 if found.problems else 0


def show(wanted: dict[str, Any], since: str | None, until: str | None, json: bool) -> int:
    """Events, as a table or as they are."""
    from slipway.ledger import clock, listing, sealed
    from slipway.ledger.database import Database

    times = {"since": since, "until": until}
    shown = {name: clock.shown(_moment(text)) for name, text in times.items() if text is not None}
    root = settings.find_root()
    with Database.of(root).read() as connection:
        _note_frozen(root, connection)
        found = listing.find(root, connection, listing.Wanted(**wanted | shown))
        texts = sealed.texts(connection)
    told = [listing.with_texts(event, texts) for event in found]
    if json:
        _print(told)
    elif told:
        Console().print(_table(told))
    else:
        print("No such event; `slipway audit show` without filters shows the last ones.")
    return 0


def _note_frozen(root: Path, connection: "Connection") -> None:
    """Whoever reads a ledger that lost something should hear it there too."""
    from slipway.ledger import history

    if said := history.frozen(root, connection):
        print(f"note: {said}", file=sys.stderr)


def _moment(text: str) -> Any:
    from slipway.ledger import listing

    found, taken = listing.moment(text)
    if taken:
        print(f"note: {taken}", file=sys.stderr)
    return found


def _table(told: Iterable[dict[str, Any]]) -> Table:
    table = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0))
    table.add_column("event", justify="right", no_wrap=True)
    for column in ("time (UTC)", "kind"):
        table.add_column(column, no_wrap=True)
    table.add_column("what and who", overflow="fold")
    for one in told:
        said = [f"{name} {_short(value)}" for name, value in one["payload"].items() if value not in (None, [], {})]
        about = " ".join(part for part in (one["model"], one["subject"]) if part)
        words = f"{about} by {one['who']} ({one['via']})" + (f": {', '.join(said)}" if said else "")
        cells = (one["at"][:19].replace("T", " "), one["kind"], words.lstrip())
        table.add_row(str(one["sequence"]), *(Text(str(cell)) for cell in cells))
    return table


def _short(value: Any) -> str:
    text = value if isinstance(value, str) else json_module.dumps(value, ensure_ascii=False)
    if len(text) == 64 and not set(text) - set("0123456789abcdef"):
        return text[:12]
    return text if len(text) <= _LONGEST else f"{text[:_LONGEST]}…"


def export(file: str, since: str | None, sealed: bool, json: bool) -> int:
    """Write the ledger to a file or to standard output."""
    from slipway.ledger import clock, exports, past
    from slipway.ledger.database import Database

    root = settings.find_root()
    begin = clock.shown(_moment(since)) if since is not None else None
    if file != "-" and Path(file).is_dir():
        raise UsageError(f"{file} is a folder; name a file")
    with Database.of(root).read() as connection, past.readable():
        _note_frozen(root, connection)
        if file == "-":
            exports.write(root, connection, sys.stdout.buffer, begin, not sealed)
            return 0
        count = _write(Path(file), lambda stream: exports.write(root, connection, stream, begin, not sealed))
    return _tell(
        {"file": file, "events": count}, json, f"{count:,} events in {file}; `slipway audit verify --file` checks it"
    )


def _write(path: Path, write: Callable[[IO[bytes]], int]) -> int:
    """A whole file or none."""
    partial = path.with_name(f".{path.name}.partial")
    try:
        with partial.open("wb") as stream:
            count = write(stream)
        partial.replace(path)
        return count
    except OSError as error:
        raise _storage(error, path) from None
    finally:
        partial.unlink(missing_ok=True)


def _storage(error: OSError, path: Path) -> SlipwayError:
    return of_storage(error, path, 0) or UsageError(f"{path}: {error.strerror}; name another file")


def checkpoint(json: bool) -> int:
    """Vouch for the ledger as it ends now."""
    from slipway.ledger import checkpoints

    made, trouble = checkpoints.write_everywhere(settings.find_root())
    if trouble is not None:
        raise trouble
    if made is None:
        return _tell({"sequence": 0}, json, "Nothing has happened yet, so there is nothing to vouch for.")
    facts = {"number": made.number, "sequence": made.sequence, "hash": made.hash, "at": made.at}
    return _tell(
        facts, json, f"Checkpoint {made.number}: the ledger ends at event {made.sequence}, hash {made.hash[:16]}."
    )


def accept(reason: str, json: bool) -> int:
    """Say that the ledger as it is now is the right one."""
    from slipway.ledger import checkpoints

    lost = checkpoints.accept(settings.find_root(), reason)
    facts = {"accepted": [{"sequence": one.sequence, "hash": one.hash, "at": one.at} for one in lost]}
    return _tell(facts, json, f"The ledger is released; {len(lost)} checkpoints of what it lost were let go.")


def reconcile(json: bool) -> int:
    """Make MLflow say what the ledger says."""
    from slipway.registry import mirror

    found = mirror.reconcile(settings.find_root())
    if json:
        _print([one.model_dump(mode="json") for one in found])
    else:
        for one in found:
            print(one.line)
        print(f"MLflow says what the ledger says; {len(found)} things were put back.")
    return 0


def deliver(json: bool) -> int:
    """Tell every sink what it has not been told. 75 when one is away."""
    from slipway.ledger import sinks

    told = sinks.deliver(settings.find_root())
    if json:
        _print([asdict(one) for one in told])
    elif not told:
        print("No sink is configured (audit_sinks in configs/env).")
    else:
        for one in told:
            print(f"{one.sink}: {one.sent:,} told, {one.pending:,} pending" + (f"; {one.error}" if one.error else ""))
    return 75 if any(one.error for one in told) else 0


def retain(dry_run: bool, json: bool) -> int:
    """Move what is older than the policy keeps to the archive."""
    from slipway.ledger import retention
    from slipway.ledger.database import Database

    root = settings.find_root()
    policy = retention.Policy.load(root / retention.FILE)
    if not dry_run:
        kept = retention.retain(root)
        if kept is None:
            return _tell({"moved": 0}, json, f"Nothing is older than {policy.keep_days} days, or may go.")
        facts = {"moved": kept.last - kept.first + 1, "first": kept.first, "last": kept.last, "archive": kept.uri}
        return _tell(facts, json, f"Events {kept.first}–{kept.last} are in {kept.uri}; the chain goes on across it.")
    with Database.of(root).read() as connection:
        plan = retention.plan(connection, policy)
    facts = {"moved": 0, "would_move": len(plan.events), "stopped_by": plan.stopped_by}
    what = f"events {plan.first}–{plan.last} would move" if plan.events else "nothing would move"
    why = f"; {plan.stopped_by}" if plan.stopped_by else ""
    return _tell(facts, json, f"Older than {policy.keep_days} days: {what}{why}.")


def erase(text: str, reason: str, within: bool, json: bool) -> int:
    """Forget what somebody is called or has said."""
    from slipway.ledger import retention

    words = sys.stdin.read().rstrip("\n") if text == "-" else text
    gone = retention.erase(settings.find_root(), words, reason, within)
    also = f" {len(gone.also_in)} other texts hold it too: --within erases them whole." if gone.also_in else ""
    return _tell(asdict(gone), json, f"{len(gone.ids)} texts are erased; the events that spoke of them stay.{also}")


def _tell(facts: dict[str, Any], json: bool, text: str) -> int:
    print(json_module.dumps(facts, indent=2) if json else text)
    return 0


def _print(value: Any) -> None:
    print(json_module.dumps(value, indent=2, ensure_ascii=False))
