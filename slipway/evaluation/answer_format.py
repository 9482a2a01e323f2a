"""Does an answer look as other systems expect it: not empty, JSON, or as a pattern says?

A pattern comes from a file that people edit, and some patterns take years on some answers. So it runs in a process of
its own that is ended at a deadline; what cannot be told in time is an error, never a pass.
"""

import json
import subprocess
import sys

from slipway import strict
from slipway.errors import StageError, UsageError

SECONDS = 20.0
_NO_PATTERN = 9  # the exit code of the process below
_MATCH = f"""
import json, re, sys
pattern, answers = json.load(sys.stdin)
try:
    match = re.compile(pattern).fullmatch
except (re.error, OverflowError, RecursionError) as error:
    print(error, file=sys.stderr)
    sys.exit({_NO_PATTERN})
json.dump([match(answer) is not None for answer in answers], sys.stdout)
"""


def check(format: str, answers: list[str], seconds: float = SECONDS) -> list[bool]:
    """For each answer, without the white space around it: does it have the format (any | json | a pattern)?"""
    stripped = [answer.strip() for answer in answers]
    if format == "any":
        return [answer != "" for answer in stripped]
    if format == "json":
        return [_is_json(answer) for answer in stripped]
    return _matched(format, stripped, seconds)


def _is_json(answer: str) -> bool:
    try:
        strict.loads_json(answer)
    except ValueError:
        return False
    return True


def _matched(pattern: str, answers: list[str], seconds: float) -> list[bool]:
    command = [sys.executable, "-I", "-c", _MATCH]
    asked = json.dumps([pattern, answers])
    try:
        done = subprocess.run(command, input=asked, capture_output=True, text=True, timeout=seconds, check=False)
    except subprocess.TimeoutExpired:
        raise StageError(
            f"evaluate.format ({pattern!r}) is not done with {len(answers)} answers after {seconds:g} seconds: it tries "
            f"too many ways to match; rewrite it without nested repetition (possessive `*+` and `(?>…)` help)"
        ) from None
    reason = (done.stderr.splitlines() or [f"exit code {done.returncode}"])[-1]
    if done.returncode == _NO_PATTERN:
        raise UsageError(f"evaluate.format is {pattern!r}, which is no pattern: {reason}; correct it, or write `any`")
    if done.returncode != 0:
        raise StageError(f"evaluate.format ({pattern!r}) cannot be applied: {reason}; rewrite it")
    return [bool(fits) for fits in json.loads(done.stdout)]
