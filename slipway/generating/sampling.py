"""Which token comes next, for a whole batch at once and for each row by its own settings.

A row's randomness is one number a token from its own generator, held against the row's own distribution: its
neighbours in the batch cannot move it.
"""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field

import torch

from slipway.generating.jobs import Sampling


@dataclass(eq=False)
class Chooser:
    """How one row's tokens are chosen, and what was chosen so far."""

    sampling: Sampling
    counts: Counter[int] = field(default_factory=Counter)
    generator: torch.Generator = field(default_factory=torch.Generator)

    def __post_init__(self) -> None:
        if self.sampling.seed is not None:
            self.generator.manual_seed(self.sampling.seed % 2**63)
        elif self.sampling.temperature:
            self.generator.seed()

    @property
    def penalises(self) -> bool:
        return bool(self.counts) and (self.sampling.presence_penalty != 0 or self.sampling.frequency_penalty != 0)

    def took(self, token: int) -> None:
        if self.sampling.presence_penalty or self.sampling.frequency_penalty:
            self.counts[token] += 1

    def draw(self) -> float:
        return float(torch.rand((), generator=self.generator, dtype=torch.float64))


def choose(logits: torch.Tensor, rows: Sequence[Chooser]) -> list[int | None]:
    """The next token of each row; None where the model's numbers are none (NaN)."""
    logits = _penalised(logits, rows)
    best, likeliest = logits.max(dim=-1)
    tokens: list[int | None] = [
        token if finite else None for token, finite in zip(likeliest.tolist(), best.isfinite().tolist(), strict=True)
    ]
    sampled = [at for at, row in enumerate(rows) if row.sampling.temperature and tokens[at] is not None]
    if sampled:
        chosen = _sampled(logits[sampled].float(), [rows[at] for at in sampled])
        for at, drawn in zip(sampled, chosen, strict=True):
            tokens[at] = drawn
    for row, token in zip(rows, tokens, strict=True):
        if token is not None:
            row.took(token)
    return tokens


def _penalised(logits: torch.Tensor, rows: Sequence[Chooser]) -> torch.Tensor:
    """Less likely what a row has said already, by OpenAI's formula."""
    if not any(row.penalises for row in rows):
        return logits
    logits = logits.float().clone()
    for at, row in enumerate(rows):
        if row.penalises:
            said = torch.tensor(list(row.counts), device=logits.device)
            often = torch.tensor(list(row.counts.values()), device=logits.device, dtype=logits.dtype)
            logits[at, said] -= row.sampling.presence_penalty + row.sampling.frequency_penalty * often
    return logits


def _sampled(logits: torch.Tensor, rows: Sequence[Chooser]) -> list[int]:
    """Temperature, then the `top_k` likeliest, then as many of them as make `top_p`; then the draw."""

    def column(values: Sequence[float]) -> torch.Tensor:
        return torch.tensor(values, device=logits.device, dtype=torch.float64)[:, None]

    ordered, order = logits.sort(dim=-1, descending=True, stable=True)
    shares = (ordered.double() / column([max(row.sampling.temperature, 1e-6) for row in rows])).softmax(dim=-1)
    width = shares.shape[-1]
    places = torch.arange(width, device=logits.device)[None, :]
    shares = shares.masked_fill(places >= column([row.sampling.top_k or width for row in rows]), 0.0)
    shares = shares / shares.sum(dim=-1, keepdim=True)
    before = shares.cumsum(dim=-1) - shares
    outside = (before >= column([row.sampling.top_p for row in rows])) & (places > 0)
    sums = shares.masked_fill(outside, 0.0).cumsum(dim=-1)
    wanted = column([row.draw() for row in rows]) * sums[:, -1:]
    place = torch.searchsorted(sums, wanted, right=True).clamp(max=width - 1)
    # A draw so near to one that rounding takes it past the end gets the last token that may be chosen.
    last = (sums < sums[:, -1:]).sum(dim=-1, keepdim=True)
    return [int(token) for token in order.gather(1, torch.minimum(place, last))[:, 0].tolist()]
