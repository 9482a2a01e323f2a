"""`slipway` in processes that start at once: one process has imported the libraries and forks a child a command.

It computes nothing itself, so that no library has threads when it forks.
"""

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

_ROOT = Path(__file__).parents[1]


class Forks:
    """Starts commands, and waits for or kills them."""

    def __init__(self, process: "subprocess.Popen[str]") -> None:
        self._process = process

    def start(self, *words: str, log: Path, where: Path) -> int:
        """The process id of a command that runs in a folder; what it says goes to a file."""
        return int(self._ask({"start": words, "log": str(log), "where": str(where)}))

    def wait(self, pid: int) -> int:
        """The exit code; minus nine where it was killed."""
        return int(self._ask({"wait": pid}))

    def _ask(self, what: object) -> str:
        assert self._process.stdin and self._process.stdout
        self._process.stdin.write(json.dumps(what) + "\n")
        self._process.stdin.flush()
        return self._process.stdout.readline()


@contextmanager
def forks() -> Iterator[Forks]:
    command = [sys.executable, __file__]
    environment = os.environ | {"PYTHONPATH": str(_ROOT), "OMP_NUM_THREADS": "1"}
    with subprocess.Popen(
        command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env=environment
    ) as process:
        try:
            yield Forks(process)
        finally:
            process.kill()


def _main() -> None:
    import peft
    import transformers  # noqa: F401

    from slipway import cli
    from slipway.evaluation import inference  # noqa: F401
    from slipway.generating import decoding, predict, transformers_engine  # noqa: F401

    assert peft
    for line in sys.stdin:
        asked = json.loads(line)
        if "wait" in asked:
            print(os.waitstatus_to_exitcode(os.waitpid(asked["wait"], 0)[1]), flush=True)
            continue
        pid = os.fork()
        if pid == 0:
            os.chdir(asked["where"])
            log = os.open(asked["log"], os.O_WRONLY | os.O_CREAT | os.O_APPEND)
            os.dup2(log, 1)
            os.dup2(log, 2)
            cli.main(asked["start"])
        print(pid, flush=True)


if __name__ == "__main__":
    _main()
