"""How much slower this machine is just now than the one on which deadlines were stated: clocks are lowered, cores are shared."""

import time

_STATED = 0.036  # seconds of processor time for `_work` there


def _work() -> int:
    return sum(number * number % 7 for number in range(1_000_000))


def slowness() -> float:
    """1 or more; what a stated deadline is multiplied by."""
    best = 9.0
    for _ in range(5):
        begin = time.process_time()
        _work()
        best = min(best, time.process_time() - begin)
    return max(1.0, best / _STATED)
