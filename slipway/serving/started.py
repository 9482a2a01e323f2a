"""`inference_started` in the ledger: once a replica's start and version, never a request. What happens while it cannot be told is policy."""

import sys
import threading
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from slipway.artifacts import Json
from slipway.errors import SlipwayError
from slipway.generating.jobs import Served
from slipway.serving import config

if TYPE_CHECKING:
    from sqlalchemy import Connection

Standing = Literal["recorded", "buffered", "alarm", "refuse"]


def standing(recorded: bool, answered: int, chosen: config.Ledger) -> Standing:
    """Whether a request may be answered while the ledger does not know; pure."""
    if recorded:
        return "recorded"
    return "buffered" if answered < chosen.unrecorded_requests else chosen.then


class Recorder:
    """Tells the ledger, in a thread of its own, until it is told."""

    def __init__(self, root: Path, chosen: config.Ledger, served: Sequence[Served], replica: str, engine: str) -> None:
        self._root, self._config, self._served = root, chosen, served
        self._payload = {"replica": replica, "engine": engine}
        self._told: set[str] = set()
        self._ended = threading.Event()
        self._said: str | None = None
        self.answered = 0
        self._thread = threading.Thread(target=self._work, name="ledger", daemon=True)

    def start(self) -> None:
        self._thread.start()

    def stop(self) -> None:
        self._ended.set()

    @property
    def recorded(self) -> bool:
        return len(self._told) == len({one.name for one in self._served})

    @property
    def standing(self) -> Standing:
        return standing(self.recorded, self.answered, self._config)

    def count(self) -> Standing:
        """One more request is to be answered; whether it may be."""
        found = self.standing
        if found == "buffered":
            self.answered += 1
        return found

    def _work(self) -> None:
        while not self._ended.is_set() and not self._tell():
            self._ended.wait(self._config.retry_seconds)

    def _tell(self) -> bool:
        """Whether the ledger knows of every version now.

        An attempt may fail after it was written (no room for its checkpoint), so that one more looks first.
        """
        from slipway.ledger import events
        from slipway.registry import opening

        due = {one.name: one for one in self._served if one.name not in self._told}
        try:
            with opening.acting(self._root) as connection:
                for one in due.values():
                    if self._said is not None and self._is_there(connection, one):
                        continue
                    payload: Json = {"version": one.version, "identity": one.identity, **self._payload}
                    if one.members:
                        payload["members"] = list(one.members)
                    events.append(connection, "inference_started", one.model, one.version, payload)
        except (SlipwayError, OSError) as error:
            if str(error) != self._said:  # once, not every time
                print(f"slipway: the ledger does not know yet that this answers: {error}", file=sys.stderr, flush=True)
            self._said = str(error)
            return False
        self._told |= due.keys()
        return True

    def _is_there(self, connection: "Connection", one: Served) -> bool:
        from slipway.ledger import events

        found = events.read(connection, kind="inference_started", model=one.model, subject=one.version)
        return any(event.payload.get("replica") == self._payload["replica"] for event in found)
