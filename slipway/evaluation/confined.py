"""What runs inside the sandbox, with the standard library alone: a candidate's code in one, the task's tests in another.

The two meet only in plain data. The tests call the candidate through lines of JSON, so an answer that is equal to
everything, ends the process early or rewrites `assert` is just a wrong answer: nothing of it runs where it is judged.
"""

import builtins
import json
import os
import sys
from typing import IO, Any

READY, PASSED, FAILED = "ready", "passed", "failed"
_SEQUENCES: dict[str, type[Any]] = {"list": list, "tuple": tuple, "set": set, "frozenset": frozenset}


def encode(value: Any) -> Any:
    """A plain Python value as JSON that keeps its type; TypeError for anything else."""
    if value is None or isinstance(value, bool | int | float | str):
        return value
    if isinstance(value, dict):
        return {"dict": [[encode(key), encode(inner)] for key, inner in value.items()]}
    for name, kind in _SEQUENCES.items():
        if isinstance(value, kind):
            return {name: [encode(inner) for inner in value]}
    if isinstance(value, bytes):
        return {"bytes": value.hex()}
    if isinstance(value, complex):
        return {"complex": [value.real, value.imag]}
    raise TypeError(f"a {type(value).__name__} cannot be passed to or from generated code")


def decode(value: Any) -> Any:
    """The value that `encode` wrote."""
    if not isinstance(value, dict):
        return value
    ((name, inner),) = value.items()
    if name == "dict":
        return {decode(key): decode(one) for key, one in inner}
    if name in _SEQUENCES:
        return _SEQUENCES[name](decode(one) for one in inner)
    if name == "bytes":
        return bytes.fromhex(inner)
    if name == "complex":
        return complex(*inner)
    raise ValueError(f"no value is called {name}")


def _candidate(task: dict[str, str], asked: IO[str], told: IO[str]) -> None:
    """Load generated code, then call its function as often as the tests ask."""
    space: dict[str, Any] = {"__name__": "candidate"}
    exec(compile(task["program"], "candidate.py", "exec"), space)
    function = space[task["entry_point"]]
    _say(told, READY)
    for line in asked:
        try:
            positional, named = decode(json.loads(line))
            answer = {"value": encode(function(*positional, **named))}
        except Exception as error:  # noqa: BLE001 - generated code may fail in any way
            answer = {"error": type(error).__name__}
        _say(told, json.dumps(answer))


def _check(task: dict[str, str], asked: IO[str], told: IO[str]) -> None:
    """Run the task's tests on a stand-in that asks the candidate; say whether they hold."""

    def stand_in(*positional: Any, **named: Any) -> Any:
        _say(told, json.dumps(encode((positional, named))))
        answer = json.loads(asked.readline())
        if "error" in answer:
            kind = getattr(builtins, str(answer["error"]), Exception)
            raise kind if isinstance(kind, type) and issubclass(kind, Exception) else Exception
        return decode(answer["value"])

    space: dict[str, Any] = {"__name__": "check"}
    try:
        exec(compile(task["prompt"] + "\n    pass\n", "prompt.py", "exec"), space)  # its other functions, for the tests
        space[task["entry_point"]] = stand_in
        exec(compile(task["test"], "test.py", "exec"), space)
        space["check"](stand_in)
    except BaseException:  # noqa: BLE001 - a test that does not end well has failed
        _say(told, FAILED)
    else:
        _say(told, PASSED)


def _say(stream: IO[str], line: str) -> None:
    stream.write(line + "\n")
    stream.flush()


def _limit(cpu_seconds: int, memory_bytes: int, file_bytes: int) -> None:
    """Limits that cannot be raised again; the sandbox has dropped the right to."""
    import resource

    resource.setrlimit(resource.RLIMIT_CPU, (cpu_seconds, cpu_seconds + 1))
    for name, most in (("AS", memory_bytes), ("FSIZE", file_bytes), ("NOFILE", 32), ("CORE", 0)):
        resource.setrlimit(getattr(resource, f"RLIMIT_{name}"), (most, most))


def _channels() -> tuple[IO[str], IO[str]]:
    """The pipes to the outside, out of the code's way: its own standard streams lead nowhere."""
    asked, told = os.fdopen(os.dup(0), encoding="utf-8"), os.fdopen(os.dup(1), "w", encoding="utf-8")
    nowhere = os.open(os.devnull, os.O_RDWR)
    for stream in (0, 1, 2):
        os.dup2(nowhere, stream)
    return asked, told


if __name__ == "__main__":
    role, *limits = sys.argv[1:]
    _limit(*map(int, limits))
    channels = _channels()
    (_candidate if role == "candidate" else _check)(json.loads(channels[0].readline()), *channels)
