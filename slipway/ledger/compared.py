"""The checkpoints, held against the chain: which of them stand in it, which are believed, and what none of them vouches for."""

from dataclasses import dataclass

from sqlalchemy import Connection

from slipway.ledger import chain, checkpoints, clock, cursors
from slipway.ledger.checkpoint_files import Checkpoint, Line
from slipway.ledger.findings import OPEN, RESTORE, Report, Walk
from slipway.registry import keys


@dataclass(frozen=True)
class Known:
    """A checkpoint, where it stands, and what its signature is worth."""

    checkpoint: Checkpoint
    where: str
    forged: str | None
    is_believed: bool

    @classmethod
    def of(cls, one: Checkpoint, where: str, trust: keys.Trust) -> "Known":
        forged = one.forged(trust)
        return cls(one, where, forged, forged is None and one.outdated(trust) is None)


def compare(
    connection: Connection, report: Report, lines: list[Line], walk: Walk, trust: keys.Trust, whole: bool
) -> None:
    """Report what is wrong with the checkpoints, or with the chain by what they say. `whole`: the chain itself holds."""
    for line in lines:
        if line.checkpoint is None:
            report.wrong(None, f"the checkpoint {line.wrong}", line.where, "restore the file from a copy")
    here = {line.checkpoint.digest: line for line in reversed(lines) if line.checkpoint}
    every = [Known.of(line.checkpoint, line.where, trust) for line in here.values() if line.checkpoint]
    let_go = _let_go(every, walk)
    _forged(report, every, let_go)
    signed = [one for one in every if one.forged is None]
    report.checkpoints = len(signed)
    standing = [one for one in signed if one.checkpoint.digest not in let_go]
    report.notes += [
        f"event {one.checkpoint.sequence} of {one.checkpoint.at[:19]}Z is gone, and a person accepted that"
        for one in signed if one.checkpoint.digest in let_go
    ]  # fmt: skip
    _compared(report, standing, walk, whole)
    _remembered(connection, report, standing)
    _covered(report, standing, walk, whole)


def _let_go(every: list[Known], walk: Walk) -> set[str]:
    """Digests that a person accepted, by a checkpoint that is believed and by the very event that it vouches for."""
    told, believed = walk.expected.released, [one.checkpoint for one in every if one.is_believed]
    return {
        name
        for one in believed
        if one.sequence <= walk.skipped
        or (walk.hashes.get(one.sequence) == one.hash and told.get(one.sequence) == one.accepted)
        for name in one.accepted
    }


def _forged(report: Report, every: list[Known], let_go: set[str]) -> None:
    for one in every:
        sequence = one.checkpoint.sequence
        if one.forged and one.checkpoint.digest in let_go:
            report.notes.append(f"a checkpoint of event {sequence} {one.forged}, and a person accepted that")
        elif one.forged:
            report.wrong(sequence, f"its checkpoint {one.forged}", one.where, "find out who wrote it")


def _compared(report: Report, standing: list[Known], walk: Walk, whole: bool) -> None:
    """Name the first that is not on the chain."""
    best = max((one.checkpoint.sequence for one in standing if one.is_believed), default=0)
    good = 0
    for known in sorted(standing, key=lambda known: (known.checkpoint.sequence, known.checkpoint.number)):
        one = known.checkpoint
        if one.sequence <= walk.skipped or (not whole and one.sequence > walk.last):
            continue
        if not known.is_believed and one.sequence <= best:
            continue  # one that is believed vouches for all that came before it
        if walk.hashes.get(one.sequence) != one.hash:
            report.wrong(*_astray(one, walk, good), known.where, f"{RESTORE}, or `slipway audit accept --reason …`")
            break  # whatever comes after stands on this
        good = one.sequence


def _astray(one: Checkpoint, walk: Walk, good: int) -> tuple[int, str]:
    then = f"stood in the ledger at {one.at[:19]}Z with the hash {one.hash[:16]}"
    if one.sequence > walk.last:
        return walk.last + 1, (
            f"is missing, and all up to event {one.sequence}, which {then}: the tail was cut, or an older copy put back"
        )
    now = walk.hashes.get(one.sequence, "nothing")[:16]
    return good + 1, (
        f"was rewritten, or one after it up to event {one.sequence}, which {then} and now has {now}: "
        f"this is another chain from here on"
    )


def gaps(report: Report, own: list[Line], trust: keys.Trust) -> None:
    """This machine's checkpoints name each other: one that is cut out leaves a gap."""
    before: Checkpoint | None = None
    for line in own:
        one = line.checkpoint
        if one is None:
            return
        if one.forged(trust):
            continue  # it is named as such; whoever follows on it, names it
        due = (before.number + 1, before.digest) if before else (1, chain.GENESIS)
        if (one.number, one.previous) != due:
            what = f"checkpoint {due[0]} is missing: number {one.number} stands in its place"
            report.wrong(None, what, line.where, "restore the file from a copy")
            return
        before = one


def _remembered(connection: Connection, report: Report, standing: list[Known]) -> None:
    """How far the database knows itself to be vouched for, against what is there."""
    told = max((one.checkpoint.sequence for one in standing), default=0)
    if (remembered := cursors.at(connection, checkpoints.CURSOR)) > told:
        what = f"the database was vouched for up to event {remembered}, and the checkpoints end at event {told}"
        report.wrong(told + 1, what, "the files of checkpoints", "restore them from a copy")


def _covered(report: Report, standing: list[Known], walk: Walk, whole: bool) -> None:
    """What no checkpoint vouches for that is believed."""
    fallen = [one.checkpoint.sequence for one in standing if not one.is_believed]
    good = max((one.checkpoint.sequence for one in standing if one.is_believed), default=0)
    if worst := max(fallen, default=0):
        said = f"{len(fallen)} checkpoints up to event {worst} are signed by a key that is not believed any more"
        if worst > good:
            report.wrong(good + 1, said, "the trust file", "look at the events, then `slipway audit checkpoint`")
        else:
            report.notes.append(f"{said}; later ones vouch for the same events")
    if not whole or walk.newest is None or walk.last <= good:
        return
    said = f"events {good + 1}–{walk.last} have no checkpoint yet"
    if clock.read().at - clock.moment(walk.newest.at) > OPEN:
        report.wrong(good + 1, f"{said}, a day after the last", "the files of checkpoints", _LOOK)
    else:
        report.notes.append(f"{said}; `slipway audit checkpoint` vouches for them")


_LOOK = "look at them (`slipway audit show`), then `slipway audit checkpoint`"
