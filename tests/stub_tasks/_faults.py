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
