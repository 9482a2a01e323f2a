"""Talk to a running HAProxy over its runtime API: what changes here takes effect at once and drops no connection."""

import contextlib
import csv
import io
import os
import socket
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from slipway.errors import StageError, Transient

SOCKET = "api.sock"
SECONDS = 2.0


@contextlib.contextmanager
def short(folder: Path, name: str) -> Iterator[str]:
    """A path of a socket that is short enough for the kernel (107 bytes), however deep the folder lies."""
    handle = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        yield f"/proc/self/fd/{handle}/{name}"
    finally:
        os.close(handle)


@dataclass(frozen=True)
class Row:
    """One line of HAProxy's statistics."""

    proxy: str
    service: str  # FRONTEND | BACKEND | a server's name
    status: str
    requests: int
    sessions: int  # now
    good: int  # answers below 500
    bad: int  # answers of 500 and above
    cut: int  # answers whose server went away in the middle
    denied: int
    response_ms: int  # the mean of the last 1024
    address: str


class Runtime:
    """The runtime API of the HAProxy in a folder."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def ask(self, command: str) -> str:
        """What HAProxy answers; Transient when it is not there."""
        try:
            with socket.socket(socket.AF_UNIX) as line, short(self.folder, SOCKET) as path:
                line.settimeout(SECONDS)
                line.connect(path)
                line.sendall(command.encode() + b"\n")
                return b"".join(iter(lambda: line.recv(65_536), b"")).decode(errors="replace").strip()
        except OSError as error:
            raise Transient(f"HAProxy does not answer on its runtime API ({error}); is it running?") from None

    def do(self, commands: Sequence[str]) -> None:
        """Commands that say nothing when all is well; StageError with what HAProxy said otherwise."""
        for first in range(0, len(commands), 16):
            part = commands[first : first + 16]
            said = self.ask("; ".join(part))
            lines = [line for line in said.splitlines() if line.strip() and not _harmless(line)]
            if lines:
                raise StageError(f"HAProxy did not do `{'; '.join(part)[:200]}`: {lines[0]} (please report it)")

    def pid(self) -> int | None:
        """The process that answers; None when none does."""
        try:
            lines = self.ask("show info").splitlines()
        except Transient:
            return None
        return next((int(line.partition(":")[2]) for line in lines if line.startswith("Pid:")), None)

    def rows(self) -> list[Row]:
        """All statistics there are now."""
        text = self.ask("show stat").lstrip("# ")
        if text.rpartition("\n")[2].count(",") != text.partition("\n")[0].count(","):
            raise Transient("HAProxy ended in the middle of its statistics; they are asked for again")
        return [_row(values) for values in csv.DictReader(io.StringIO(text))]


def _harmless(line: str) -> bool:
    """`set server addr` tells what it did, or that there was nothing to do."""
    return (
        line.startswith(("IP changed", "no need to change", "port changed", "nothing changed"))
        or "by 'stats socket" in line
    )


def _row(values: dict[str, str]) -> Row:
    def number(name: str) -> int:
        return int(values.get(name) or 0)

    return Row(
        proxy=values["pxname"],
        service=values["svname"],
        status=values["status"],
        requests=number("req_tot") or number("stot"),
        sessions=number("scur"),
        good=sum(number(f"hrsp_{kind}") for kind in ("1xx", "2xx", "3xx", "4xx")),
        bad=number("hrsp_5xx"),
        cut=number("srv_abrt"),
        denied=number("dreq"),
        response_ms=number("rtime"),
        address=values.get("addr", ""),
    )
