"""What replicas count themselves (tokens, answers that people called right), added up by arm."""

import re
import urllib.request
from collections.abc import Mapping
from dataclasses import dataclass, field

_LINE = re.compile(r"^([a-zA-Z_:][\w:]*)(?:\{[^}]*\})? ([0-9.eE+-]+)(?: \d+)?$")
NAMES = {
    "llm_tokens_total": "tokens",
    "model_correct_predictions": "correct",
    "model_correct_predictions_total": "correct",
    "model_total_predictions": "judged",
    "model_total_predictions_total": "judged",
}


def scraped(text: str) -> dict[str, float]:
    """The sums that we look for in a page of metrics."""
    found: dict[str, float] = {}
    for line in text.splitlines():
        match = _LINE.match(line)
        if match and (name := NAMES.get(match[1])):
            value = float(match[2])
            if value >= 0:  # NaN is not
                found[name] = found.get(name, 0.0) + value
    return found


def scrape(address: str, seconds: float = 1.0) -> dict[str, float] | None:
    """A replica's counts; None when it does not answer."""
    try:
        with urllib.request.urlopen(f"http://{address}/metrics", timeout=seconds) as answer:
            return scraped(answer.read(2_000_000).decode(errors="replace"))
    except (OSError, ValueError):
        return None


@dataclass
class Sums:
    """What the replicas of one model's arms counted since the gateway began; a replica may begin again at nothing."""

    by_arm: dict[str, dict[str, float]] = field(default_factory=dict)
    _seen: dict[str, dict[str, float]] = field(default_factory=dict)

    def add(self, arm: str, address: str, values: Mapping[str, float]) -> None:
        before = self._seen.get(address)
        self._seen[address] = dict(values)
        if before is None:
            return  # what it counted before we knew it was for somebody else
        into = self.by_arm.setdefault(arm, {})
        for name, value in values.items():
            old = before.get(name, 0.0)
            into[name] = into.get(name, 0.0) + (value - old if value >= old else value)

    def of(self, name: str) -> dict[str, float]:
        return {arm: values.get(name, 0.0) for arm, values in self.by_arm.items()}
