"""What an audit picks up on its way along the chain, and what it reports."""

from collections.abc import Iterable
from dataclasses import asdict, dataclass, field
from datetime import timedelta

from slipway.artifacts import Json
from slipway.ledger import chain
from slipway.ledger.chain import Event
from slipway.ledger.expected import Expected

RESTORE = "find out who wrote there, and restore the newest backup (docs/guide/audit.md)"
OPEN = timedelta(days=1)  # how long events may go without a checkpoint


@dataclass(frozen=True)
class Problem:
    """Something that is not as it was written."""

    sequence: int | None  # the event it is about, or the first of them
    what: str
    where: str
    todo: str

    @property
    def text(self) -> str:
        return f"event {self.sequence}: {self.what}; {self.where}; {self.todo}" if self.sequence else (
            f"{self.what}; {self.where}; {self.todo}"
        )  # fmt: skip


@dataclass
class Report:
    """What was looked at, and what is wrong with it."""

    problems: list[Problem] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)  # what is worth knowing and no problem
    events: int = 0
    archived: int = 0
    checkpoints: int = 0
    mirrors: int = 0  # things outside the ledger that were compared with it
    erased: int = 0  # texts that somebody had erased
    head: str = chain.GENESIS

    @property
    def is_clean(self) -> bool:
        return not self.problems

    def wrong(self, sequence: int | None, what: str, where: str, todo: str) -> None:
        self.problems.append(Problem(sequence, what, where, todo))

    def as_json(self) -> Json:
        return {"clean": self.is_clean, **asdict(self)}


@dataclass
class Walk:
    """What is picked up on the way along the chain."""

    wanted: set[int]  # events whose hashes a checkpoint tells
    hashes: dict[int, str] = field(default_factory=dict)
    expected: Expected = field(default_factory=Expected)
    last: int = 0
    last_hash: str = chain.GENESIS
    newest: Event | None = None
    skipped: int = 0  # events up to this one were not looked at, only their archives' digests

    def past(self, checked: Iterable[Event]) -> None:
        """Go along events that are checked on the way."""
        wanted, add, hashes = self.wanted, self.expected.add, self.hashes
        event = None
        for event in checked:
            self.last, self.last_hash = event.sequence, event.hash
            if event.sequence in wanted:
                hashes[event.sequence] = event.hash
            add(event)
        self.newest = event or self.newest
