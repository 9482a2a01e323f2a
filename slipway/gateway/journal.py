"""What happened at the gateway: in memory for the page, in a file for later, and in the ledger where traffic changed."""

import json
import queue
import sys
import threading
import time
from collections import deque
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

KEPT = 200
LARGEST = 5_000_000  # bytes of the file, before it is put aside


@dataclass(frozen=True)
class Happening:
    """Something that happened here."""

    at: str
    kind: str  # traffic_changed | failing | recovered | started | replica_… | keys_changed
    model: str
    said: str
    facts: Mapping[str, Any] = field(default_factory=dict)


Tell = Callable[[Happening], None]  # brings a change of traffic to the ledger


class Journal:
    """Keeps what happened, in order; whoever is told in another place never holds up traffic."""

    def __init__(self, folder: Path, tell: Tell | None) -> None:
        self.file = folder / "events.jsonl"
        self.last: deque[Happening] = deque(maxlen=KEPT)
        self.count = 0
        self._tell = tell
        self._waiting: queue.Queue[Happening | None] = queue.Queue()
        self._thread = threading.Thread(target=self._deliver, name="slipway-journal", daemon=True)
        self._thread.start()

    def add(self, kind: str, model: str, said: str, **facts: Any) -> None:
        now = time.time()
        at = time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(now)) + f".{int(now * 1000) % 1000:03d}Z"
        happening = Happening(at, kind, model, said, facts)
        self.last.append(happening)
        self.count += 1
        self._waiting.put(happening)

    def close(self) -> None:
        """Returns when everything was delivered, or ten seconds later."""
        self._waiting.put(None)
        self._thread.join(10)

    def _deliver(self) -> None:
        while (happening := self._waiting.get()) is not None:
            self._write(happening)
            if self._tell is not None and happening.kind == "traffic_changed":
                try:
                    self._tell(happening)
                except Exception as error:  # noqa: BLE001 - those that come after it must be told all the same
                    print(f"warning: the ledger was not told that {happening.said}: {error}", file=sys.stderr)

    def _write(self, happening: Happening) -> None:
        try:
            if self.file.exists() and self.file.stat().st_size > LARGEST:
                self.file.replace(self.file.with_suffix(".1.jsonl"))
            with self.file.open("a", encoding="utf-8") as stream:
                stream.write(json.dumps(asdict(happening), ensure_ascii=False) + "\n")
        except OSError as error:
            print(f"warning: {self.file} cannot be written ({error.strerror})", file=sys.stderr)


def to_ledger(root: Path) -> Tell:
    """Writes `traffic_changed` as the rest of Slipway reads it: version → per cent."""

    def tell(happening: Happening) -> None:
        from slipway.ledger import events
        from slipway.ledger.database import Database
        from slipway.ledger.events import Actor

        facts = dict(happening.facts)
        with Database.of(root).write() as connection:
            actor = Actor("gateway", "service") if facts.get("by") == "breaker" else None
            subject = str(facts.pop("subject", happening.model))
            events.append(connection, "traffic_changed", happening.model, subject, facts, actor, happening.said)

    return tell
