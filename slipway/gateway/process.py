"""One HAProxy in a folder: checked before it starts, found again by whoever comes later, started again when it dies."""

import os
import shutil
import signal
import subprocess
import time
from pathlib import Path

from slipway import atomic, settings, strict
from slipway.errors import StageError, UsageError
from slipway.gateway import haproxy, rendering, replicas
from slipway.gateway.haproxy import Binary
from slipway.gateway.rendering import Rendered
from slipway.gateway.runtime import SOCKET, Runtime

LOG, PROCESS = "haproxy.log", "process.json"
START_SECONDS = 10.0
LUA_SOURCE = Path(__file__).with_name(rendering.LUA)


class DataPlane:
    """The process that carries the traffic. It outlives whoever started it: steering may die, traffic goes on."""

    def __init__(self, folder: Path, binary: Binary) -> None:
        self.folder, self.binary = folder, binary
        self.runtime = Runtime(folder)
        self._child: subprocess.Popen[bytes] | None = None

    def install(self, rendered: Rendered) -> None:
        """Put a configuration in place, if HAProxy takes it; else StageError, and the old one stays."""
        self.folder.mkdir(parents=True, exist_ok=True, mode=0o700)
        self.folder.chmod(0o700)  # its sockets are believed
        trial = self.folder / "next"
        shutil.rmtree(trial, ignore_errors=True)
        trial.mkdir()
        shutil.copyfile(LUA_SOURCE, trial / rendering.LUA)
        keys = self.folder / rendering.KEYS
        (trial / rendering.KEYS).write_text(keys.read_text() if keys.exists() else "")
        for name, text in rendered.files.items():
            (trial / name).write_text(text)
        haproxy.check(self.binary, trial / rendering.CONFIGURATION)
        for name in [*rendered.files, rendering.LUA]:
            atomic.write_bytes(self.folder / name, (trial / name).read_bytes())
        shutil.rmtree(trial)

    def replace(self, rendered: Rendered) -> None:
        """Another configuration and a process with it; where that does not start, the files of the old one are put back."""
        names = [*rendered.files, rendering.LUA]
        before = {name: (self.folder / name).read_bytes() for name in names}
        self.install(rendered)
        try:
            self.start(rendered, replacing=self.running())
        except StageError:
            for name, data in before.items():
                atomic.write_bytes(self.folder / name, data)
            raise

    def differs(self, rendered: Rendered) -> bool:
        """Whether the running one was started with something else than this, traffic aside."""
        try:
            return (self.folder / "running.txt").read_text() != _lasting(rendered)
        except FileNotFoundError:
            return True

    def start(self, rendered: Rendered, replacing: int | None = None) -> None:
        """Start with what was installed; a process that it replaces finishes its requests and hands over its sockets."""
        command = [str(self.binary.path), "-db", "-f", rendering.CONFIGURATION]
        if replacing is not None:
            command += ["-x", SOCKET, "-sf", str(replacing)]
        with (self.folder / LOG).open("ab") as log:
            self._child = subprocess.Popen(
                command, cwd=self.folder, env=settings.child({}, {}), stdin=subprocess.DEVNULL, stdout=log, stderr=log,
                start_new_session=True,
            )  # fmt: skip
        self._wait_until_it_answers(self._child)
        atomic.write_text(self.folder / "running.txt", _lasting(rendered))
        atomic.write_json(self.folder / PROCESS, {"pid": self._child.pid, "born": replicas.born(self._child.pid)})

    def _wait_until_it_answers(self, child: "subprocess.Popen[bytes]") -> None:
        deadline = time.monotonic() + START_SECONDS
        while self.runtime.pid() != child.pid:
            if child.poll() is not None or time.monotonic() > deadline:
                child.kill()
                child.wait()
                lines = (self.folder / LOG).read_text(errors="replace").splitlines()
                said = next(
                    (line for line in reversed(lines) if "[ALERT]" in line), lines[-1] if lines else "it said nothing"
                )
                raise StageError(f"HAProxy did not start: {said.strip()} ({self.folder / LOG})")
            time.sleep(0.01)

    def running(self) -> int | None:
        """The process that carries traffic now; a dead child is buried on the way."""
        if self._child is not None:
            self._child.poll()
        return self.runtime.pid()

    def lives(self) -> bool:
        """Whether the process that was started last is there, answering or not."""
        pid, since = self._known()
        if self._child is not None:
            self._child.poll()
        return replicas.lives(pid, since)

    def bury(self) -> None:
        """End a process that does not answer, so that no second one comes to stand beside it."""
        pid, since = self._known()
        if replicas.lives(pid, since):
            os.kill(pid, signal.SIGKILL)
            self._gone(pid, 5)

    def _known(self) -> tuple[int, float]:
        try:
            said = strict.read_json(self.folder / PROCESS)
            return int(said["pid"]), float(said["born"])
        except (FileNotFoundError, UsageError, StageError, KeyError, TypeError, ValueError):
            return 0, 0.0

    def stop(self, seconds: float) -> bool:
        """Take no new connections, let those that are open finish; True when none had to be cut."""
        if (pid := self.running()) is None:
            return True
        os.kill(pid, signal.SIGUSR1)
        finished = self._gone(pid, seconds)
        if not finished:
            os.kill(pid, signal.SIGTERM)
            self._gone(pid, 5)
        return finished

    def _gone(self, pid: int, seconds: float) -> bool:
        deadline = time.monotonic() + seconds
        while time.monotonic() < deadline:
            if self._child is not None and self._child.pid == pid:
                if self._child.poll() is not None:
                    return True
            elif replicas.born(pid) is None:
                return True
            time.sleep(0.02)
        return False


def _lasting(rendered: Rendered) -> str:
    """A configuration without what is changed over the runtime API: which address stands in which slot."""
    lines = rendered.files[rendering.CONFIGURATION].splitlines()
    return "\n".join(line for line in lines if not line.startswith("  server r")) + "\n"
