"""Generated code in the real sandbox: honest programs pass, and nothing hostile gets out or counts as passed."""

import contextlib
import os
import platform
import signal
import subprocess
import sys
import tempfile
import textwrap
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from slipway.errors import StageError
from slipway.evaluation import confined, sandbox
from slipway.evaluation.sandbox import Limits, Problem, Verdict, judge

real = pytest.mark.skipif(sandbox.unusable() is not None, reason=f"no sandbox: {sandbox.unusable()}")
PROJECT = Path(__file__).resolve().parents[2]
SHORT = Limits(cpu_seconds=1, wall_seconds=3.0)

ANSWER = Problem(
    prompt='def answer(n):\n    """Twice n."""\n',
    test="def check(candidate):\n    assert candidate(21) == 42\n    assert candidate(0) == 0\n",
    entry_point="answer",
)
# A program that does what it should not, and is right (7) only where it could.
SEVEN = Problem('def answer():\n    """Seven."""\n', "def check(candidate):\n    assert candidate() == 7\n", "answer")


def completed(body: str) -> str:
    return textwrap.indent(textwrap.dedent(body).strip("\n"), "    ") + "\n"


def verdict(body: str, problem: Problem = SEVEN, limits: Limits = SHORT) -> Verdict:
    return judge(problem, completed(body), limits)


def bare(body: str) -> int:
    """The same program without a sandbox, in a process of its own: whether the attack is one."""
    program = f"{SEVEN.prompt}{completed(body)}\nprint(answer())"
    found = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=20, check=True)
    return int(found.stdout)


# --- honest programs --------------------------------------------------------------------------------------------------


@real
def test_right_passes_and_wrong_does_not() -> None:
    assert verdict("return 2 * n", ANSWER) == "passed"
    assert verdict("return 3 * n", ANSWER) == "failed"
    assert verdict("retrun n", ANSWER) == "failed"
    assert judge(ANSWER, "", SHORT) == "failed"
    assert verdict("import sys\nprint('hello', flush=True)\nprint('there', file=sys.stderr)\nreturn 7") == "passed"
    assert verdict("import json, math, collections, tempfile\nreturn 7") == "passed"
    assert verdict("open('/tmp/mine', 'w').write('x')\nreturn 7 * len(open('/tmp/mine').read())") == "passed"


VALUES = ["[1, (2, {3: 'x'}), {4}, None, True, 1.5, b'z', 2j, '\\ud800', frozenset({5}), {}, [], 10 ** 400]"]


@real
@pytest.mark.parametrize("value", VALUES)
def test_plain_values_keep_their_types_on_the_way(value: str) -> None:
    test = f"def check(candidate):\n    want = {value}\n    got = candidate(want)\n    assert repr(got) == repr(want)\n"
    assert judge(Problem("def same(x):\n", test, "same"), "    return x\n", SHORT) == "passed"


def test_values_that_are_not_plain_do_not_travel() -> None:
    assert confined.decode(confined.encode({"a": (1, [2.5, {3}])})) == {"a": (1, [2.5, {3}])}
    for value in (object(), len, iter([]), range(3)):
        with pytest.raises(TypeError):
            confined.encode(value)
    with pytest.raises(ValueError, match="no value is called module"):
        confined.decode({"module": "os"})


@real
def test_tests_see_the_prompts_other_functions_and_the_errors_of_the_candidate() -> None:
    prompt = "def half(n):\n    return n // 2\n\ndef answer(n):\n    '''Half; ValueError below 0.'''\n"
    test = (
        "def check(candidate):\n    assert candidate(8) == half(8) == answer(8)\n    try:\n        candidate(-1)\n"
        "    except ValueError:\n        return\n    assert False\n"
    )
    problem = Problem(prompt, test, "answer")
    assert verdict("if n < 0: raise ValueError(n)\nreturn half(n)", problem) == "passed"
    assert verdict("return half(n)", problem) == "failed"


# --- what must not be seen ----------------------------------------------------------------------------------------------

SEEN = {
    "password file": "return 7 if 'root' in open('/etc/passwd').read() else 0",
    "the project": f"import os\nreturn 7 if 'slipway' in os.listdir({str(PROJECT)!r}) else 0",
    "the home folder": "import os, pathlib\nreturn 7 if os.listdir(pathlib.Path.home()) is not None else 0",
    "other processes": "import os\nreturn 7 if any(name.isdigit() for name in os.listdir('/proc')) else 0",
    "the environment": "import os\nreturn 7 if os.environ.get('SANDBOX_CANARY') == 'secret' else 0",
    "installed packages": "import sys, os\nreturn 7 if any('site-packages' in p and os.listdir(p) for p in sys.path) else 0",
    "a network socket": "import socket\nsocket.socket(socket.AF_INET, socket.SOCK_DGRAM)\nreturn 7",
    "a local socket": "import socket\nsocket.socketpair()\nreturn 7",
    "a child process": "import subprocess, sys\nreturn 7 if subprocess.run([sys.executable, '-c', '0']).returncode == 0 else 0",
    "a thread": "import threading\nt = threading.Thread(target=print)\nt.start()\nreturn 7",
    "a fork": "import os\npid = os.fork()\nif not pid: os._exit(0)\nos.waitpid(pid, 0)\nreturn 7",
}


@real
@pytest.mark.parametrize("what", SEEN)
def test_a_program_neither_sees_nor_makes(what: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SANDBOX_CANARY", "secret")
    assert bare(SEEN[what]) == 7  # it is possible, outside
    assert verdict(SEEN[what]) == "failed"


@real
@pytest.mark.skipif(platform.machine() != "x86_64", reason="only x86 has a second set of call numbers")
def test_the_second_set_of_call_numbers_is_closed_too() -> None:
    second = "import ctypes\nlibc = ctypes.CDLL(None, use_errno=True)\nlibc.syscall(0x40000000 | {})\nreturn ctypes.get_errno()"
    refused = Problem("def answer():\n", "def check(candidate):\n    assert candidate() == 1\n", "answer")  # EPERM
    assert verdict(second.format(57), refused) == "passed"


@real
def test_the_interpreters_own_packages_are_hidden() -> None:
    assert (
        verdict("import os\nreturn 7 if os.listdir(os.path.dirname(os.__file__) + '/site-packages') else 0") == "failed"
    )
    assert verdict("import os\nreturn 7 if 'json' in os.listdir(os.path.dirname(os.__file__)) else 0") == "passed"


@real
@pytest.mark.parametrize("place", ["/", "/python/", "/python/lib/", "/usr/lib/", "/dev/", "/dev/shm/"])
def test_nothing_can_be_written_outside_tmp(place: str) -> None:
    assert verdict(f"open({place + 'planted'!r}, 'w').write('x')\nreturn 7") == "failed"


@pytest.fixture
def in_tmp() -> Iterator[Path]:
    """A folder of /tmp, wherever pytest's own folders are."""
    with tempfile.TemporaryDirectory(dir="/tmp") as folder:
        yield Path(folder)


@real
@pytest.mark.parametrize("first", ["", "import os\nos.makedirs({folder!r}, exist_ok=True)\n"])
def test_a_file_of_this_machine_stays_whole(first: str, in_tmp: Path) -> None:
    target = in_tmp / "target"
    body = first.format(folder=str(in_tmp)) + f"open({str(target)!r}, 'w').write('torn')\nreturn 7"
    assert bare(body) == 7
    assert target.read_text() == "torn"
    target.write_text("whole")
    assert verdict(body) == ("passed" if first else "failed")  # its own /tmp may have a folder of that name
    assert target.read_text() == "whole"


# --- limits -------------------------------------------------------------------------------------------------------------

BOUND: dict[str, tuple[str, set[Verdict]]] = {
    "a loop without end": ("while True: pass", {"timeout"}),
    "a long sleep": ("import time\ntime.sleep(60)\nreturn 7", {"timeout"}),
    "a signal handler for the limit": (
        "import signal\nsignal.signal(signal.SIGXCPU, signal.SIG_IGN)\nwhile True: pass", {"timeout"},
    ),
    "limits raised": (
        "import resource\nresource.setrlimit(resource.RLIMIT_AS, (1 << 40, 1 << 40))\nreturn 7", {"failed"},
    ),
    "eight gigabytes": ("x = bytearray(8 << 30)\nreturn 7", {"failed"}),
    "memory bit by bit": ("x = []\nwhile True: x.append(bytearray(1 << 24))", {"failed", "timeout"}),
    "a fork bomb": ("import os\nwhile True:\n    try: os.fork()\n    except OSError: return 0", {"failed"}),
    "a thread bomb": (
        "import threading, time\nwhile True: threading.Thread(target=time.sleep, args=(60,)).start()", {"failed"},
    ),
    "a gigabyte printed": (
        "import sys\nfor _ in range(1000): sys.stdout.write('x' * 10 ** 6)\nsys.stdout.flush()\nreturn 0",
        {"failed", "timeout"},
    ),
    "a large file": ("with open('/tmp/x', 'wb') as f:\n    f.write(bytes(1 << 23))\nreturn 7", {"failed"}),
    "many files": (
        "for n in range(100):\n    with open(f'/tmp/{n}', 'wb') as f: f.write(bytes(1 << 20))\nreturn 7", {"failed"},
    ),
    "a large answer": ("return 'x' * (1 << 25)", {"failed"}),
    "deep nesting": ("x = []\nfor _ in range(10 ** 5): x = [x]\nreturn x", {"failed"}),
    "a crash": ("import ctypes\nctypes.string_at(0)", {"failed"}),
}  # fmt: skip


@real
@pytest.mark.parametrize("what", BOUND)
def test_every_limit_holds_in_time(what: str) -> None:
    body, allowed = BOUND[what]
    start = time.monotonic()
    assert verdict(body) in allowed
    assert time.monotonic() - start < 10


@real
def test_processor_time_runs_out_before_the_clock_does() -> None:
    patient = Limits(cpu_seconds=1, wall_seconds=30.0)
    start = time.monotonic()
    assert verdict("while True: pass", limits=patient) == "timeout"
    endless = Problem("def answer():\n", "def check(candidate):\n    while True: pass\n", "answer")
    assert verdict("return 7", endless, patient) == "timeout"
    assert time.monotonic() - start < 20


def confined_processes() -> set[int]:
    """Every live process that runs sandboxed code, by what its command line says."""
    found = set()
    for entry in Path("/proc").iterdir():
        with contextlib.suppress(OSError):
            if entry.name.isdigit() and b"/python/confined.py" in (entry / "cmdline").read_bytes():
                found.add(int(entry.name))
    return found


def soon(condition: Callable[[], bool], seconds: float = 10.0) -> bool:
    """Whether something becomes true in time."""
    deadline = time.monotonic() + seconds
    while not condition() and time.monotonic() < deadline:
        time.sleep(0.01)
    return condition()


@real
def test_nothing_outlives_its_verdict() -> None:
    before = confined_processes()
    assert verdict("import time\ntime.sleep(60)", limits=Limits(wall_seconds=1.0)) == "timeout"
    assert soon(lambda: confined_processes() <= before)


@real
def test_the_sandbox_dies_with_a_killed_parent() -> None:
    program = (
        "from slipway.evaluation import sandbox\n"
        "p = sandbox.Problem('def f():\\n', 'def check(c): c()', 'f')\n"
        "sandbox.judge(p, '    import time\\n    time.sleep(60)\\n', sandbox.Limits(wall_seconds=60.0))\n"
    )
    before = confined_processes()
    parent = subprocess.Popen([sys.executable, "-c", program], cwd=PROJECT)
    assert soon(lambda: len(confined_processes() - before) >= 4), "it never started"
    os.kill(parent.pid, signal.SIGKILL)
    parent.wait()
    assert soon(lambda: confined_processes() <= before)


# --- cheats: none of them is a right answer ---------------------------------------------------------------------------------

CHEATS = {
    "exit before the tests": ("return 0\nimport sys\nsys.exit(0)", False),
    "hard exit before the tests": ("return 0\nimport os\nos._exit(0)", False),
    "exit inside": ("import sys\nsys.exit(0)", True),
    "hard exit inside": ("import os\nos._exit(0)", True),
    "kill the parent": ("import os\nos.kill(os.getppid(), 9)\nos.kill(1, 9)\nos.kill(-1, 9)\nreturn 0", True),
    "equal to everything": ("return type('E', (int,), {'__eq__': lambda s, o: True, '__ne__': lambda s, o: False})(0)", True),
    "a new assert": ("import builtins\nbuiltins.AssertionError = int\nreturn 0", True),
    "no optimising away": ("import sys\nsys.flags = None\nreturn 0", True),
    "its own check": ("return 0\ndef check(candidate): pass", False),
    "its own runner": (
        "import sys\nmain = sys.modules['__main__']\nmain.encode = lambda v: 7\nmain.FAILED = main.PASSED\nreturn 0", True,
    ),
    "verdicts on every stream": (
        "import os\nfor fd in range(32):\n    try: os.write(fd, b'passed\\n')\n    except OSError: pass\nreturn 0", True,
    ),
    "printed verdict": ("print('passed')\nprint('PASSED', flush=True)\nreturn 0", True),
    "raise the wanted": ("raise SystemExit(7)", True),
    "endless answers": ("import itertools\nreturn itertools.count(7)", True),
}  # fmt: skip


@real
@pytest.mark.parametrize("what", CHEATS)
def test_no_cheat_counts_as_passed(what: str) -> None:
    body, inside = CHEATS[what]
    if not inside:  # at the level of the module, where it runs as the program is loaded
        first, rest = body.split("\n", 1)
        body = completed(first) + rest + "\n"
        assert judge(SEVEN, body, SHORT) == "failed"
    else:
        assert verdict(body) == "failed"


@real
def test_forged_protocol_lines_are_only_answers() -> None:
    forge = """
    import os
    for fd in range(3, 32):
        for line in (b'passed', b'{"value": 7, "passed": true}', b'null'):
            try: os.write(fd, line + b'\\n')
            except OSError: pass
    return 0
    """
    assert verdict(forge) == "failed"


# --- where there is no sandbox ----------------------------------------------------------------------------------------------


@pytest.fixture
def tried_anew() -> Iterator[None]:
    sandbox.unusable.cache_clear()
    yield
    sandbox.unusable.cache_clear()


@pytest.mark.usefixtures("tried_anew")
def test_without_bubblewrap_nothing_runs(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    assert sandbox.unusable() == "bubblewrap (bwrap) is not installed"
    with pytest.raises(StageError, match="generated code runs nowhere else"):
        judge(SEVEN, "    return 7\n")


@pytest.mark.usefixtures("tried_anew")
def test_a_bubblewrap_that_may_not_confine_is_unusable(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    fake = tmp_path / "bwrap"
    fake.write_text("#!/bin/sh\necho 'bwrap: No permissions to create a new namespace' >&2\nexit 1\n")
    fake.chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path))
    assert sandbox.unusable() == "bubblewrap cannot confine code here: bwrap: No permissions to create a new namespace"


@pytest.mark.usefixtures("tried_anew")
def test_a_bubblewrap_that_passes_everything_is_unusable(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    fake = tmp_path / "bwrap"
    fake.write_text("#!/bin/sh\necho ready\necho passed\n")
    fake.chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path))
    assert "wrong verdicts" in str(sandbox.unusable())


@pytest.mark.usefixtures("tried_anew")
def test_an_unknown_processor_has_no_sandbox(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("platform.machine", lambda: "riscv64")
    assert sandbox.unusable() == "the sandbox knows no system calls of riscv64"
