"""Tokenised documents, packed into sequences, read from a memory map: nothing is loaded before it is needed."""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import safe_open

from slipway.errors import StageError

IGNORED = -100  # a target that carries no loss
_TENSORS = {"input_ids", "loss", "documents", "packs", "pack_offsets"}


@dataclass(frozen=True)
class Batch:
    """Some packs side by side; a document's positions start at 0, so that models can tell documents apart."""

    input_ids: torch.Tensor  # (packs, length)
    position_ids: torch.Tensor
    targets: torch.Tensor  # the token that should follow, or IGNORED

    def to(self, device: torch.device) -> "Batch":
        return Batch(self.input_ids.to(device), self.position_ids.to(device), self.targets.to(device))

    @property
    def target_count(self) -> int:
        return int((self.targets != IGNORED).sum())


class Packs:
    """The packs of one split (`tokens/train.safetensors`)."""

    def __init__(self, path: Path) -> None:
        mapped = _mapped(path)
        if missing := _TENSORS - set(mapped.keys()):
            raise StageError(f"{path} lacks the tensor {sorted(missing)[0]}; run prepare again")
        self._ids, self._loss = mapped.get_slice("input_ids"), mapped.get_slice("loss")
        self.documents = mapped.get_tensor("documents").tolist()
        self._order = mapped.get_tensor("packs").tolist()
        self._offsets = mapped.get_tensor("pack_offsets").tolist()

    def __len__(self) -> int:
        return len(self._offsets) - 1

    def contents(self, pack: int) -> list[int]:
        """The documents of a pack, in their order."""
        return list(self._order[self._offsets[pack] : self._offsets[pack + 1]])

    def document(self, index: int) -> tuple[torch.Tensor, torch.Tensor]:
        """A document's tokens and, for each, the token to predict next (IGNORED where no loss falls)."""
        start, end = self.documents[index], self.documents[index + 1]
        tokens = self._ids[start:end].long()
        targets = torch.full_like(tokens, IGNORED)
        targets[:-1] = torch.where(self._loss[start:end][1:].bool(), tokens[1:], IGNORED)
        return tokens, targets

    def batch(self, packs: list[int]) -> Batch:
        """These packs as one batch, padded by a last document that carries no loss."""
        rows = [[self.document(index) for index in self.contents(pack)] for pack in packs]
        length = max(sum(len(tokens) for tokens, _ in row) for row in rows)
        shape = (len(rows), length)
        input_ids, position_ids = torch.zeros(shape, dtype=torch.long), torch.zeros(shape, dtype=torch.long)
        all_targets = torch.full(shape, IGNORED, dtype=torch.long)
        for row, documents in enumerate(rows):
            at = 0
            for tokens, targets in documents:
                end = at + len(tokens)
                input_ids[row, at:end], all_targets[row, at:end] = tokens, targets
                position_ids[row, at:end] = torch.arange(len(tokens))
                at = end
            position_ids[row, at:] = torch.arange(length - at)
        return Batch(input_ids, position_ids, all_targets)

    def in_order(self, size: int) -> Iterator[list[int]]:
        """Every pack once, in groups."""
        for start in range(0, len(self), size):
            yield list(range(start, min(start + size, len(self))))


def _mapped(path: Path) -> Any:
    return safe_open(path, framework="pt")


class Order:
    """Which packs each step sees: a new permutation an epoch, a function of seed and step alone."""

    def __init__(self, packs: int, batch_size: int, epochs: float, max_steps: int | None, seed: int) -> None:
        self.packs, self.batch_size, self.seed = packs, batch_size, seed
        self._seen = max(1, round(packs * epochs))
        steps = -(-self._seen // batch_size)
        self.steps = min(steps, max_steps) if max_steps else steps
        self._epochs: dict[int, list[int]] = {}

    def _epoch(self, epoch: int) -> list[int]:
        if epoch not in self._epochs:
            generator = torch.Generator().manual_seed(self.seed * 1_000_003 + epoch)
            self._epochs = {
                **{e: order for e, order in self._epochs.items() if e == epoch - 1},
                epoch: torch.randperm(self.packs, generator=generator).tolist(),
            }
        return self._epochs[epoch]

    def at(self, step: int) -> list[int]:
        """The packs of a step, from 0."""
        start = step * self.batch_size
        places = range(start, min(start + self.batch_size, self._seen))
        return [self._epoch(place // self.packs)[place % self.packs] for place in places]
