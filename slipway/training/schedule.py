"""How the learning rate moves over a training."""

import math


def learning_rate_share(step: int, steps: int, warmup_share: float, schedule: str) -> float:
    """The share of the peak learning rate at a step (from 0): up in a line, then down to zero."""
    warmup = round(steps * warmup_share)
    if step < warmup:
        return (step + 1) / warmup
    gone = (step - warmup) / max(steps - warmup, 1)
    return 1 - gone if schedule == "linear" else 0.5 * (1 + math.cos(math.pi * gone))
