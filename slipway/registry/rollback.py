"""Back to what served before: one change of the champion's row, decided on the ledger and on local files alone."""

from pathlib import Path

from sqlalchemy import Connection

from slipway.errors import Refused
from slipway.ledger import champions, lifetimes
from slipway.ledger.champions import Champion
from slipway.ledger.database import Database
from slipway.ledger.events import Actor
from slipway.registry import promotion, versions
from slipway.registry.versions import Version


def rollback(
    root: Path, model: str, to: str | None, reason: str, actor: Actor | None = None, mirrored: bool = True
) -> Champion:
    """Make the previous champion, or another version that was in Production, serve again; again changes nothing.

    The target's bytes, signature and identity are checked before anything is touched (`promotion.promote`).
    """
    with Database.of(root).read() as connection:
        serving = _serving(connection, model)
        target = _target(root, connection, serving, to)
        if target is not None and target.version != serving.version:
            _may_serve_again(root, connection, target)
    if target is None or target.version == serving.version:
        return serving
    kind = promotion.ROLLED_BACK
    return promotion.promote(root, model, target.version, serving.generation, reason, actor, kind, mirrored)


def _serving(connection: Connection, model: str) -> Champion:
    serving = champions.find(connection, model)
    if serving is None:
        raise Refused(
            f"no version of {model} has served yet, so there is nothing to go back from: "
            f"until `slipway models promote`, the base model is the champion"
        )
    return serving


def _target(root: Path, connection: Connection, serving: Champion, to: str | None) -> Version | None:
    """The version that is meant; None where a rollback without a target has been done already."""
    if to is not None and to != "previous":
        if to == "base":
            raise Refused(
                f"the base model is no version of {serving.model} and cannot be gone back to: it has no signature and no "
                f"evidence of its own; name a version with --to (`slipway models list`)"
            )
        return versions.resolve(connection, to, serving.model)
    if to is None and _came_by_rollback(root, connection, serving):
        return None
    if serving.previous is None:
        raise Refused(
            f"{serving.model} {serving.version} is the first champion; before it the base model served, which is no version; "
            f"name a version with --to, or release a better one"
        )
    return versions.resolve(connection, serving.previous, serving.model)


def _came_by_rollback(root: Path, connection: Connection, serving: Champion) -> bool:
    """Then `previous` is what was rolled back from: a second start must not bring that back."""
    return promotion.kind_of(root, connection, serving) == promotion.ROLLED_BACK


def _may_serve_again(root: Path, connection: Connection, target: Version) -> None:
    if target.state == "deleted":
        raise Refused(
            f"{target.name} was deleted: only its row is left, so nothing can serve it; name another with --to"
        )
    if not lifetimes.was_in_production(root, connection, target.model, target.version):
        raise Refused(
            f"{target.name} never was in Production, so it is no way back: nobody has approved it for customers; "
            f"`slipway models stage {target.version} Production` is the way forward"
        )
