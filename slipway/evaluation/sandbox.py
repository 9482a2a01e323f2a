"""Generated code runs here and nowhere else: in bubblewrap, which shows it an empty machine and takes its time away.

No network, no other process, no file but the interpreter's own (read-only) and a small /tmp of its own, no environment,
no standard input; limits on processor time, memory, file size and the clock; no system call that makes a process, a
socket or a name space. The tests run in a second sandbox (see confined.py). Both die with us.
"""

import functools
import json
import os
import platform
import select
import shutil
import struct
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Literal, Self

from slipway.errors import StageError
from slipway.evaluation import confined

Verdict = Literal["passed", "failed", "timeout"]

_NOBODY = "65534"
_PYTHON = ("/python/bin/python", "-I", "-S", "-B")  # no environment, no site packages, no byte code written
_OUT_OF_TIME = (128 + 24, 128 + 9)  # SIGXCPU, then SIGKILL: what the processor limit sends

# Calls that computing a result never needs: the limit on processes does not hold for root, this does.
_ARCHITECTURES = {"x86_64": 0xC000003E, "aarch64": 0xC00000B7}
_FORBIDDEN = {  # call: (x86_64, aarch64)
    "clone": (56, 220), "clone3": (435, 435), "fork": (57, None), "vfork": (58, None),
    "unshare": (272, 97), "setns": (308, 268), "mount": (165, 40), "pivot_root": (155, 41),
    "socket": (41, 198), "socketpair": (53, 199), "ptrace": (101, 117),
    "process_vm_readv": (310, 270), "process_vm_writev": (311, 271),
    "add_key": (248, 217), "request_key": (249, 218), "keyctl": (250, 219),
    "bpf": (321, 280), "perf_event_open": (298, 241), "userfaultfd": (323, 282), "io_uring_setup": (425, 425),
    "memfd_create": (319, 279), "shmget": (29, 194), "msgget": (68, 186),
}  # fmt: skip


@dataclass(frozen=True)
class Limits:
    cpu_seconds: int = 3
    wall_seconds: float = 8.0
    memory_bytes: int = 512 << 20
    file_bytes: int = 4 << 20
    disk_bytes: int = 16 << 20  # all files in /tmp together
    message_bytes: int = 1 << 20  # one call, or one answer


LIMITS = Limits()


@dataclass(frozen=True)
class Problem:
    """A function to complete, in HumanEval's form: `test` defines `check(candidate)`."""

    prompt: str
    test: str
    entry_point: str


_TRIVIAL = Problem("def one():\n", "def check(candidate):\n    assert candidate() == 1\n", "one")


@functools.cache
def unusable() -> str | None:
    """Why no generated code can run on this machine; None where it can. Tried out, not guessed."""
    if platform.machine() not in _ARCHITECTURES:
        return f"the sandbox knows no system calls of {platform.machine()}"
    if shutil.which("bwrap") is None:
        return "bubblewrap (bwrap) is not installed"
    try:
        tried = subprocess.run([*_bubblewrap(LIMITS), *_PYTHON, "-c", "0"], capture_output=True, env={}, timeout=20)
    except (OSError, subprocess.TimeoutExpired):
        return "bubblewrap (bwrap) does not start"
    if tried.returncode:
        said = tried.stderr.decode(errors="replace").strip().splitlines() or ["no reason given"]
        return f"bubblewrap cannot confine code here: {said[0]}"
    right, wrong = _judge(_TRIVIAL, "    return 1\n", LIMITS), _judge(_TRIVIAL, "    return 2\n", LIMITS)
    return None if (right, wrong) == ("passed", "failed") else f"the sandbox gives wrong verdicts ({right}, {wrong})"


def judge(problem: Problem, completion: str, limits: Limits = LIMITS) -> Verdict:
    """Whether the prompt with this completion passes the problem's tests; StageError where there is no sandbox."""
    if reason := unusable():
        raise StageError(f"{reason}, and generated code runs nowhere else; install bubblewrap (`make services`)")
    return _judge(problem, completion, limits)


def _judge(problem: Problem, completion: str, limits: Limits) -> Verdict:
    deadline = time.monotonic() + limits.wall_seconds
    task = {"entry_point": problem.entry_point}
    candidate: _Confined | None = None
    try:
        with _Confined("candidate", limits, deadline) as candidate:
            candidate.send(json.dumps(task | {"program": problem.prompt + completion}).encode())
            if candidate.line() != confined.READY.encode():
                return "failed"
            with _Confined("check", limits, deadline) as tests:
                tests.send(json.dumps(task | {"prompt": problem.prompt, "test": problem.test}).encode())
                return _conversation(tests, candidate)
    except TimeoutError:
        return "timeout"
    except (EOFError, BrokenPipeError):
        return "failed"


def _conversation(tests: "_Confined", candidate: "_Confined") -> Verdict:
    """Carry calls and answers between the two, unread, until the tests have a verdict."""
    while True:
        line = tests.line()
        if line == confined.PASSED.encode():
            return "passed"
        if line == confined.FAILED.encode():
            return "failed"
        candidate.send(line)
        tests.send(candidate.line())


class _Confined:
    """One process in bubblewrap, spoken to in lines. EOFError when it is gone, TimeoutError when its time is up."""

    def __init__(self, role: str, limits: Limits, deadline: float) -> None:
        self.limits, self.deadline = limits, deadline
        self.waiting = b""
        numbers = map(str, (limits.cpu_seconds, limits.memory_bytes, limits.file_bytes))
        calls = os.memfd_create("calls", 0)
        try:
            os.write(calls, _filter())
            os.lseek(calls, 0, os.SEEK_SET)
            self.process = subprocess.Popen(
                [*_bubblewrap(limits), "--seccomp", str(calls), *_PYTHON, "/python/confined.py", role, *numbers],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=subprocess.DEVNULL,
                bufsize=0,
                pass_fds=[calls],
                env={},
            )
        finally:
            os.close(calls)
        assert self.process.stdin and self.process.stdout
        self.entrance, self.exit = self.process.stdin.fileno(), self.process.stdout.fileno()
        os.set_blocking(self.entrance, False)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self.process.kill()  # and with it everything inside
        self.process.wait()
        assert self.process.stdin and self.process.stdout
        self.process.stdin.close()
        self.process.stdout.close()

    def send(self, line: bytes) -> None:
        rest = memoryview(line + b"\n")
        while rest:
            self._wait_for(self.entrance, select.POLLOUT)
            rest = rest[os.write(self.entrance, rest[:4096]) :]

    def line(self) -> bytes:
        while b"\n" not in self.waiting:
            if len(self.waiting) > self.limits.message_bytes:
                raise EOFError
            self._wait_for(self.exit, select.POLLIN)
            if not (more := os.read(self.exit, 1 << 16)):
                self._gone()
            self.waiting += more
        found, _, self.waiting = self.waiting.partition(b"\n")
        return found

    def _wait_for(self, stream: int, event: int) -> None:
        poll = select.poll()
        poll.register(stream, event)
        if not poll.poll(max(0.0, self.deadline - time.monotonic()) * 1000):
            raise TimeoutError

    def _gone(self) -> None:
        """The process closed its side: because its processor time was up, or for reasons of its own."""
        try:
            status = self.process.wait(max(0.0, self.deadline - time.monotonic()))
        except subprocess.TimeoutExpired:
            raise TimeoutError from None
        raise TimeoutError if status in _OUT_OF_TIME else EOFError


def _bubblewrap(limits: Limits) -> list[str]:
    """The empty machine: of this one it shows the interpreter and the system's libraries."""
    base, stdlib = Path(sys.base_prefix), f"python{sys.version_info.major}.{sys.version_info.minor}"
    wrap = [shutil.which("bwrap") or "bwrap", "--unshare-all", "--unshare-user", "--uid", _NOBODY, "--gid", _NOBODY]
    wrap += ["--hostname", "sandbox", "--cap-drop", "ALL", "--die-with-parent", "--new-session"]
    for folder in ("/lib", "/lib64", "/usr/lib", "/usr/lib64"):
        if Path(folder).is_symlink():
            wrap += ["--symlink", str(Path(folder).readlink()), folder]
        elif Path(folder).is_dir():
            wrap += ["--ro-bind", folder, folder]
    for name in sorted({"lib", sys.platlibdir}):
        wrap += ["--ro-bind", str(base / name), f"/python/{name}"]
        if (base / name / stdlib / "site-packages").is_dir():
            wrap += ["--tmpfs", f"/python/{name}/{stdlib}/site-packages"]
    wrap += ["--ro-bind", os.path.realpath(sys.executable), "/python/bin/python"]
    wrap += ["--ro-bind", str(Path(confined.__file__)), "/python/confined.py"]
    wrap += ["--setenv", "LD_LIBRARY_PATH", "/python/lib", "--dev", "/dev", "--remount-ro", "/dev"]
    wrap += ["--size", str(limits.disk_bytes), "--tmpfs", "/tmp", "--chdir", "/tmp", "--remount-ro", "/"]
    return wrap


@functools.cache
def _filter() -> bytes:
    """The seccomp program: the forbidden calls fail, and so does every call of another architecture."""
    column = list(_ARCHITECTURES).index(platform.machine())
    load, equal, at_least, give = 0x20, 0x15, 0x35, 0x06
    kill, refuse, allow = 0x80000000, 0x00050000 | 1, 0x7FFF0000  # refuse: EPERM
    steps = [(load, 0, 0, 4), (equal, 1, 0, _ARCHITECTURES[platform.machine()]), (give, 0, 0, kill), (load, 0, 0, 0)]
    steps += [(at_least, 0, 1, 0x40000000), (give, 0, 0, refuse)]  # x86's second set of numbers
    for numbers in _FORBIDDEN.values():
        if (number := numbers[column]) is not None:
            steps += [(equal, 0, 1, number), (give, 0, 0, refuse)]
    return b"".join(struct.pack("=HBBI", *step) for step in [*steps, (give, 0, 0, allow)])
