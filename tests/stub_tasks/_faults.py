"""What a flag file makes a stub stage do."""

import os
import signal
import threading
from pathlib import Path

from slipway.errors import Refused, Transient


def act(stage: str, output: Path) -> None:
    """Misbehave as `faults/<stage>` says; do nothing when there is no such file."""
    flag = Path("faults") / stage
    if not flag.exists():
        return
    what, _, count = flag.read_text().strip().partition(" ")
    if what == "transient":
        left = int(count) - 1
        flag.write_text(f"transient {left}") if left > 0 else flag.unlink()
        raise Transient(f"{stage}: the world hiccuped; run again")
    if what == "bug":
        raise ZeroDivisionError("a bug")
    if what == "refuse":
        raise Refused(f"{stage}: 3 rows are bad; correct them")
    if what == "die":
        os.kill(os.getpid(), signal.SIGKILL)
    if what == "lose":
        flag.unlink()
        for file in Path(".slipway").glob("ledger.db*"):
            file.unlink()
        (Path(".slipway") / "ledger.db").mkdir()
    if what == "edit":
        flag.unlink()
        path = Path(count)
        path.write_text(path.read_text() + " ")
    if what == "fill":
        output.mkdir() if not output.suffix else None
        with (output if output.suffix else output / "half").open("wb") as file:
            while True:
                file.write(b"x" * 65536)
    if what == "hang":
        output.parent.mkdir(parents=True, exist_ok=True)
        output.mkdir() if not output.suffix else output.write_text("half")
        (Path("faults") / f"{stage}.reached").write_text(str(os.getpid()))
        threading.Event().wait()


def die_at(owner: object, name: str, point: str) -> None:
    """SIGKILL of this process before or after a function, where `faults/entry` names that point; `hang` waits there instead."""
    flag = Path("faults") / "entry"
    wanted, _, how = flag.read_text().strip().partition(" ") if flag.exists() else ("", "", "")
    if wanted != point:
        return
    real = getattr(owner, name)

    def last(*words: object, **more: object) -> object:
        if point.startswith("after"):
            real(*words, **more)
        if how == "hang":
            (Path("faults") / "entry.reached").write_text(str(os.getpid()))
            threading.Event().wait()
        os.kill(os.getpid(), signal.SIGKILL)
        return None

    setattr(owner, name, last)
