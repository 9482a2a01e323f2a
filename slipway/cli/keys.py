"""`slipway keys`: whose signature counts here."""

import contextlib
import json as json_module
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

from rich.console import Console
from rich.table import Table
from rich.text import Text
from sqlalchemy import Connection

from slipway import settings
from slipway.errors import SlipwayError, UsageError
from slipway.ledger import events, sealed
from slipway.people import approvers, vouching
from slipway.registry import keys
from slipway.registry.opening import acting, ledger, vouch

_COLOURS = {"valid": "green", "retired": "dim", "expired": "yellow", "revoked": "bold red"}
_PURPOSES = {"project": "", "models": "signs models", "approvals": "signs approvals"}


def show(json: bool) -> int:
    """Every key and identity, with its state."""
    root, now = settings.find_root(), keys.now()
    trust = keys.load(keys.folder(root) / keys.FILE)
    if json:
        known = {name: key.model_dump(mode="json") | {"state": key.state(now)} for name, key in trust.keys.items()}
        print(json_module.dumps({**trust.model_dump(mode="json"), "keys": known}, indent=2))
        return 0
    if not trust.keys and not trust.identities:
        print("No key yet; the first release that passes the gate makes one.")
        return 0
    table = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0))
    for column in ("key", "state", "expires", "owner", ""):
        table.add_column(column, overflow="fold")
    for name, key in sorted(trust.keys.items(), key=lambda pair: (pair[1].created, pair[0])):
        state, note = key.state(now), _note(name, key, trust)
        table.add_row(
            name[:16], Text(state, _COLOURS[state]), keys.shown(key.expires)[:10], Text(key.owner), Text(note)
        )
    for one in trust.identities:
        table.add_row("(Sigstore)", Text("valid", "green"), "", Text(f"{one.name}, {one.issuer}"), "")
    Console().print(table)
    return 0


def _note(name: str, key: keys.Key, trust: keys.Trust) -> str:
    return "signs here" if name == trust.signing else key.reason or _PURPOSES[key.purpose]


def new(owner: str, folder: Path, days: int, json: bool) -> int:
    root = settings.find_root()
    with _told(root) as tell:
        name, file = keys.new(root, owner, folder, days)
        tell(name, "new", "approvals")
    facts = {"key": name, "owner": owner, "private": str(file), "public": str(file.with_suffix(".pub"))}
    text = (
        f"{name[:16]} is {owner}'s: {file} signs what they approve (`slipway approve --key`); keep it where only they can read it.\n"
        f"It counts once it stands in {approvers.FILE}: {vouching.listing(owner, name)}."
    )
    return _tell(facts, json, text)


@contextlib.contextmanager
def _told(root: Path) -> Iterator[Callable[..., None]]:
    """A change of the keys, and the event that tells it: none without the other, as far as a file and a table can."""
    with acting(root) as connection:
        yield lambda *said, **more: _say(connection, *said, **more)


def _tell_whatever(root: Path, key: str, change: str, purpose: str, reason: str | None = None) -> None:
    """The event of a change that is made already: a key in other hands is let go at once, on a frozen ledger too."""
    try:
        with ledger(root) as database:
            with database.write() as connection:
                _say(connection, key, change, purpose, reason)
            vouch(root, database)
    except SlipwayError as error:
        print(f"slipway: done, but the ledger was not told; say it again when it answers: {error}", file=sys.stderr)


def _say(connection: Connection, key: str, change: str, purpose: str, reason: str | None = None) -> None:
    told = {"key": key, "change": change, "purpose": purpose}
    events.append(connection, "key_changed", "", key[:16], told, reason=reason)


def rotate(days: int, json: bool) -> int:
    root = settings.find_root()
    name = keys.rotate(root, days)
    _tell_whatever(root, name, "rotated", "project")
    return _tell({"signing": name}, json, f"{name[:16]} signs from now on; what the key before it signed stays good.")


def revoke(key: str, reason: str, json: bool) -> int:
    root = settings.find_root()
    name = keys.revoke(root, key, reason)
    _tell_whatever(root, name, "revoked", keys.load(keys.folder(root) / keys.FILE).keys[name].purpose, reason)
    text = f"{name[:16]} is revoked: nothing it signed is believed. {_instead(root, name)}"
    return _tell({"revoked": name, "reason": reason}, json, text)


def _instead(root: Path, name: str) -> str:
    """How to go on without a key that was revoked."""
    key = keys.load(keys.folder(root) / keys.FILE).keys[name]
    if key.purpose == "approvals":
        return f"`slipway keys new --owner {key.owner}` makes another for them."
    return "`slipway keys rotate` makes a new one to sign with." if key.purpose == "project" else ""


def purpose(for_approvals: bool, for_project: bool) -> keys.Purpose:
    if for_approvals and for_project:
        raise UsageError("a key is a person's or the project's: give --for-approvals or --for-project, not both")
    return "approvals" if for_approvals else "project" if for_project else "models"


def trust(
    public: Path | None,
    identity: str | None,
    issuer: str | None,
    owner: str,
    days: int,
    purpose: keys.Purpose,
    json: bool,
) -> int:
    root = settings.find_root()
    if identity and issuer and not public and purpose == "models":
        with acting(root) as connection:  # an address is a person's name: it can be erased
            keys.trust_identity(root, identity, issuer)
            told = {
                "identity": sealed.seal(connection, identity),
                "issuer": issuer,
                "change": "trusted",
                "purpose": "models",
            }
            events.append(connection, "key_changed", "", "", told)
        return _tell({"identity": identity, "issuer": issuer}, json, f"What {identity} signs is believed from now on.")
    if public is None or identity or issuer:
        raise UsageError("name a file with a public key, or both --identity and --issuer")
    if purpose == "approvals" and not owner.strip():
        raise UsageError("say whose key it is (--owner NAME): approvals that it signs will bear that name")
    with _told(root) as tell:
        name = keys.trust_key(root, public, owner or public.name, days, purpose)
        tell(name, "trusted", purpose)
    return _tell({"trusted": name}, json, f"What {name[:16]} signs is believed from now on.")


def _tell(facts: dict[str, str], json: bool, text: str) -> int:
    print(json_module.dumps(facts, indent=2) if json else text)
    return 0
