"""When a candidate is taken out at once. Pure."""

from collections import deque

from slipway.gateway.config import Breaker


class Window:
    """The last answers of a candidate."""

    def __init__(self, policy: Breaker) -> None:
        self.policy = policy
        self._last: deque[bool] = deque(maxlen=policy.last)

    def add(self, good: int, bad: int) -> None:
        """Answers since the last look, in no known order: of more than a window holds, the newest are a fair part."""
        most, all_ = self.policy.last, good + bad
        newest = min(all_, most)
        of_these = round(bad * newest / all_) if all_ else 0
        self._last.extend([False] * (newest - of_these))
        self._last.extend([True] * of_these)

    def forget(self) -> None:
        self._last.clear()

    @property
    def bad(self) -> int:
        return sum(self._last)

    @property
    def tripped(self) -> bool:
        return self.bad >= self.policy.bad

    def __str__(self) -> str:
        return f"{self.bad} bad of its last {len(self._last)} answers"
