"""When a candidate is taken out at once. Pure."""

from collections import deque

from slipway.gateway.config import Breaker


class Window:
    """The last answers of a candidate."""

    def __init__(self, policy: Breaker) -> None:
        self.policy = policy
        self._last: deque[bool] = deque(maxlen=policy.last)

    def add(self, good: int, bad: int) -> None:
        """Answers since the last look. Their order is not known: the bad ones count as the newest."""
        most = self.policy.last
        self._last.extend([False] * min(good, most))
        self._last.extend([True] * min(bad, most))

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
