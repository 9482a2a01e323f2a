"""The loss of a packed batch, with documents kept apart and logits only where loss falls.

How a model keeps documents apart is found by asking it, not by its name: see `probe`.
"""

from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch.nn import functional

from slipway.errors import StageError
from slipway.training.packs import IGNORED, Batch

_SAME = 1e-5  # relative; a real leak between documents moves logits by far more, even in a fresh model


@dataclass(frozen=True)
class Forward:
    """How to run one model: what separates documents, and whether its head may be applied to chosen positions only."""

    separation: Literal["positions", "mask"]
    chosen_positions: bool

    def logits(self, model: Any, batch: Batch, wanted: torch.Tensor) -> torch.Tensor:
        """Logits at the wanted positions, one row each."""
        inputs: dict[str, Any] = {"input_ids": batch.input_ids, "position_ids": batch.position_ids, "use_cache": False}
        if self.separation == "mask":
            inputs["attention_mask"] = document_mask(batch.position_ids)
        if self.chosen_positions:
            hidden = model.base_model(**inputs)[0]
            found: torch.Tensor = model.get_output_embeddings()(hidden[wanted])
        else:
            found = model(**inputs).logits[wanted]
        return found

    def loss_sum(self, model: Any, batch: Batch) -> torch.Tensor:
        """The summed cross-entropy of every token that carries loss."""
        wanted = batch.targets != IGNORED
        logits = self.logits(model, batch, wanted).float()
        return functional.cross_entropy(logits, batch.targets[wanted], reduction="sum")


def document_mask(position_ids: torch.Tensor) -> torch.Tensor:
    """True where a token may look: earlier in the same document."""
    document = (position_ids == 0).cumsum(-1)
    same = document[:, None, :, None] == document[:, None, None, :]
    return same & torch.ones(same.shape[-2:], dtype=torch.bool, device=same.device).tril()


def _alike(one: torch.Tensor, other: torch.Tensor) -> bool:
    scale = float(one.abs().max())
    return float((one - other).abs().max()) <= _SAME * max(scale, 1e-6)


def _two_documents(vocabulary: int, shift: int, device: torch.device) -> Batch:
    """Six tokens that `shift` changes, then six that it does not."""
    place = torch.arange(12, device=device)
    tokens = (place * 7 + 1 + shift * (place < 6)) % vocabulary
    return Batch(tokens[None], (place % 6)[None], torch.full((1, 12), IGNORED, device=device))


def probe(model: Any) -> Forward:
    """The fastest way to run this model under which no document sees another, proven on the model itself.

    The first of two packed documents is changed; the second one's logits must not move.
    """
    device, vocabulary = next(model.parameters()).device, model.config.get_text_config().vocab_size
    one, other = (_two_documents(vocabulary, shift, device) for shift in (0, 3))
    second = torch.arange(12, device=device)[None] >= 6
    was_training = model.training
    model.eval()
    with torch.no_grad():
        for plain in (Forward("positions", chosen_positions=False), Forward("mask", chosen_positions=False)):
            logits = plain.logits(model, one, second)
            if _alike(logits, plain.logits(model, other, second)):
                chosen = Forward(plain.separation, chosen_positions=True)
                works = _alike(logits, chosen.logits(model, one, second))
                model.train(was_training)
                return chosen if works else plain
    raise StageError(
        f"packed documents see each other in {type(model).__name__}, by position ids and by mask alike, "
        f"so its training would be unsound; choose another base in params.yaml: fetch.base"
    )
