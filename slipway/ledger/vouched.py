"""What the newest checkpoints say of this database: up to where they vouch for it, or which of them does not stand in it.

A line counts for nothing but what its signature is worth. One that nobody signed is itself a reason to stop. One of a key that
is not believed any more still must stand in the chain, and lets no other go.
"""

from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

from sqlalchemy import Connection, select

from slipway.errors import Refused
from slipway.ledger import checkpoint_files as files
from slipway.ledger import given
from slipway.ledger.checkpoint_files import Checkpoint, Line
from slipway.ledger.tables import archives
from slipway.ledger.tables import events as rows
from slipway.registry import keys


@dataclass(frozen=True)
class Vouched:
    """Up to which event the chain is vouched for, as far as is known here, and the newest checkpoint that is not right."""

    sequence: int
    lost: Checkpoint | None


def newest(root: Path, connection: Connection) -> Vouched:
    """What the newest lines of both files say; Refused where one of them is no checkpoint."""
    known = Known(root, connection)
    tails = [
        files.tail(path) for path in known.paths
    ]  # before the database is asked: whatever a line tells is there by then
    found = [known.newest(tail) for tail in tails]
    lost = next((one.lost for one in found if one.lost is not None), None)
    return Vouched(max(one.sequence for one in found), lost)


class Known:
    """The checkpoints that are known here, whom we trust, and what a person let go."""

    def __init__(self, root: Path, connection: Connection) -> None:
        self._connection = connection
        self.paths = (files.own_path(root), files.seen_path(root))
        self.trust = keys.load(keys.folder(root) / keys.FILE)

    @cached_property
    def let_go(self) -> set[str]:
        """Digests that a person accepted: by a line that is believed, and by the event that it vouches for."""
        found = [one for path in self.paths for one in files.accepting(path) if one.doubt(self.trust) is None]
        return {name for one in found if self._is_told(one) for name in one.accepted}

    def newest(self, tail: list[Line]) -> Vouched:
        """The newest line of a file that nobody let go, and whether it is right."""
        found = [_whole(line) for line in tail]
        forged = [one for one in found if one.forged(self.trust)]
        if lost := next((one for one in forged if one.digest not in self.let_go), None):
            return Vouched(0, lost)
        for one in sorted((one for one in found if one not in forged), key=self._rank, reverse=True):
            if stands(self._connection, one):
                return Vouched(one.sequence, None)
            if one.digest not in self.let_go:
                return Vouched(0, one)
        return Vouched(0, None)

    def all_lost(self) -> list[Checkpoint]:
        """Every checkpoint, however old, that is not right and that nobody let go."""
        every = [one for path in self.paths for one in files.whole(path) if one.digest not in self.let_go]
        return [one for one in every if not stands(self._connection, one) or one.forged(self.trust)]

    def _rank(self, one: Checkpoint) -> tuple[int, bool, int]:
        return one.sequence, one.outdated(self.trust) is None, one.number

    def _is_told(self, one: Checkpoint) -> bool:
        """Whether the event that a line vouches for says that a person accepted just that; in an archive, `verify` asks it."""
        row = self._connection.execute(select(rows).where(rows.c.sequence == one.sequence)).first()
        if row is None:
            return stands(self._connection, one)
        told = given.payload_of(row.payload).get("accepted")
        return bool(row.hash == one.hash and row.kind == "ledger_released" and told == one.accepted)


def _whole(line: Line) -> Checkpoint:
    if line.checkpoint is None:
        raise Refused(
            f"a line in {line.where} {line.wrong}, so it is not known who vouched for what; "
            f"restore the file from a copy, or find out who wrote there and take that line out"
        )
    return line.checkpoint


def stands(connection: Connection, checkpoint: Checkpoint) -> bool:
    """Whether the chain of this database has this event under this hash."""
    found = connection.execute(select(rows.c.hash).where(rows.c.sequence == checkpoint.sequence)).scalar()
    if found is not None:
        return bool(found == checkpoint.hash)
    kept = connection.execute(select(archives).where(archives.c.last >= checkpoint.sequence)).first()
    return kept is not None and (kept.last > checkpoint.sequence or kept.last_hash == checkpoint.hash)
