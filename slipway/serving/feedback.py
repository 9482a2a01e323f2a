"""What people think of answers: one judgement a user and answer, whichever replica is told. The last one holds.

Kept beside the ledger in the state folder, so that a repeat, also one that another replica gets, replaces and never doubles.
For the metrics an answer counts once, by the first who calls it right or wrong: so the numbers only grow, whoever reads them
may start anew, and whoever has one answer's id cannot weigh more than one answer.
"""

import contextlib
import sqlite3
import time
from collections.abc import Iterator
from pathlib import Path

from slipway import settings
from slipway.serving import problems

_TABLE = """
CREATE TABLE IF NOT EXISTS judgements (
    answer_id TEXT NOT NULL, user_hash TEXT NOT NULL, correct INTEGER, at REAL NOT NULL,
    PRIMARY KEY (answer_id, user_hash)
) WITHOUT ROWID
"""
_COUNTED = "CREATE TABLE IF NOT EXISTS counted (answer_id TEXT PRIMARY KEY, at REAL NOT NULL) WITHOUT ROWID"
_WAIT_SECONDS = 5


class Judgements:
    """The project's."""

    def __init__(self, root: Path, keep_days: int) -> None:
        self.path = settings.state_folder(root) / "serving" / "feedback.db"
        self._keep_seconds = keep_days * 86_400

    def prepare(self) -> None:
        """Make the table, and forget what is older than the log."""
        self.path.parent.mkdir(parents=True, exist_ok=True)
        with self._open() as connection:
            connection.execute("PRAGMA journal_mode = WAL")
            connection.execute(_TABLE)
            connection.execute(_COUNTED)
            for table in ("judgements", "counted"):
                connection.execute(f"DELETE FROM {table} WHERE at < ?", (time.time() - self._keep_seconds,))

    def put(self, answer_id: str, user_hash: str, correct: bool | None) -> tuple[bool, bool]:
        """Whether this user had judged this answer before, and whether this is the first word on it that counts."""
        with self._open() as connection:
            connection.execute("BEGIN IMMEDIATE")
            before = connection.execute(
                "SELECT 1 FROM judgements WHERE answer_id = ? AND user_hash = ?", (answer_id, user_hash)
            ).fetchone()
            connection.execute(
                "INSERT OR REPLACE INTO judgements VALUES (?, ?, ?, ?)", (answer_id, user_hash, correct, time.time())
            )
            counts = False
            if correct is not None:
                added = connection.execute("INSERT OR IGNORE INTO counted VALUES (?, ?)", (answer_id, time.time()))
                counts = added.rowcount == 1
            connection.execute("COMMIT")
        return before is not None, counts

    @contextlib.contextmanager
    def _open(self) -> Iterator[sqlite3.Connection]:
        try:
            with contextlib.closing(
                sqlite3.connect(self.path, timeout=_WAIT_SECONDS, isolation_level=None)
            ) as connection:
                yield connection
        except sqlite3.Error:
            raise problems.lost("feedback cannot be kept now; send it again", "feedback_unavailable") from None
