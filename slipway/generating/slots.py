"""The keys and values of all running answers in one place, a slot each: whoever joins or leaves moves no one else's.

A slot holds its row from place 0 on; what is behind its length is masked. So a step writes one place a row and copies
nothing, an admission copies the new row's prompt alone, and a leaver is replaced by the last row.
"""

from collections.abc import Sequence
from typing import Any

import torch
from transformers.cache_utils import Cache, CacheLayerMixin, DynamicCache

_STEP = 64  # places a slot grows by at least; it doubles where that is more
_ALIGNED = 16  # places that attention looks at: kernels like round numbers


class _Now:
    """What the next step works on, shared by all layers."""

    rows: torch.Tensor
    places: torch.Tensor
    width: int = 0


class _Layer(CacheLayerMixin):  # type: ignore[misc]  # the library is not typed here
    """One layer's slots: [slots, heads, places, size of a head]."""

    def __init__(self, now: _Now) -> None:
        super().__init__()
        self.now = now
        self.keys: torch.Tensor | None = None
        self.values: torch.Tensor | None = None

    def lazy_initialization(self, key_states: torch.Tensor, value_states: torch.Tensor) -> None:
        self.is_initialized = True

    def hold(self, slots: int, width: int, keys: torch.Tensor, values: torch.Tensor) -> None:
        """Room for so many slots of so many places, of the kind of these keys and values."""
        if self.keys is None or self.values is None:
            self.keys, self.values = _room(keys, slots, width), _room(values, slots, width)
            self.is_initialized = True
        elif self.keys.shape[0] < slots or self.keys.shape[2] < width:
            slots = self.keys.shape[0] if self.keys.shape[0] >= slots else max(slots, 2 * self.keys.shape[0])
            width = self.keys.shape[2] if self.keys.shape[2] >= width else max(width, 2 * self.keys.shape[2])
            self.keys, self.values = _larger(self.keys, slots, width), _larger(self.values, slots, width)

    def update(
        self, key_states: torch.Tensor, value_states: torch.Tensor, *args: Any, **kwargs: Any
    ) -> tuple[torch.Tensor, torch.Tensor]:
        now, count = self.now, key_states.shape[0]
        self.hold(count, now.width, key_states, value_states)
        assert self.keys is not None and self.values is not None
        self.keys[now.rows, :, now.places] = key_states[:, :, 0]
        self.values[now.rows, :, now.places] = value_states[:, :, 0]
        return self.keys[:count, :, : now.width], self.values[:count, :, : now.width]

    def get_mask_sizes(self, query_length: int) -> tuple[int, int]:
        return self.now.width, 0

    def get_seq_length(self) -> int:
        return self.now.width - 1

    def get_max_length(self) -> int:
        return -1


def _room(like: torch.Tensor, slots: int, width: int) -> torch.Tensor:
    """Zeros: what is masked is still multiplied, and a NaN would come through."""
    return like.new_zeros((slots, like.shape[1], width, like.shape[3]))


def _larger(old: torch.Tensor, slots: int, width: int) -> torch.Tensor:
    new = _room(old, slots, width)
    new[: old.shape[0], :, : old.shape[2]] = old
    return new


class Slots:
    """The cache that a model is given for one step of all running rows."""

    def __init__(self, layers: int, windows: Sequence[int | None] = (), dtype: torch.dtype = torch.float32) -> None:
        self.lengths: list[int] = []
        self._now = _Now()
        self._layers = [_Layer(self._now) for _ in range(layers)]
        self.cache = Cache(layers=self._layers)
        self._dtype = dtype  # of the model's scores
        self._windows = windows  # of each kind of layer that looks back only so far; none: all look at everything

    def __len__(self) -> int:
        return len(self.lengths)

    def join(self, staged: DynamicCache, lengths: Sequence[int]) -> None:
        """Rows whose prompts were read, each at the right edge of its row in `staged`."""
        first, width = len(self), _width(max(lengths))
        for ours, theirs in zip(self._layers, staged.layers, strict=True):
            ours.hold(first + len(lengths), width, theirs.keys, theirs.values)
            assert ours.keys is not None and ours.values is not None
            for at, length in enumerate(lengths):
                ours.keys[first + at, :, :length] = theirs.keys[at, :, -length:]
                ours.values[first + at, :, :length] = theirs.values[at, :, -length:]
        self.lengths.extend(lengths)

    def leave(self, slot: int) -> None:
        """The last row takes the place of the one that leaves."""
        last = len(self) - 1
        if slot != last:
            for layer in self._layers:
                if layer.keys is not None and layer.values is not None:
                    length = self.lengths[last]
                    layer.keys[slot, :, :length] = layer.keys[last, :, :length]
                    layer.values[slot, :, :length] = layer.values[last, :, :length]
            self.lengths[slot] = self.lengths[last]
        self.lengths.pop()

    def step(self, device: torch.device) -> dict[str, Any]:
        """What the model is given beside the tokens; they count as written once `wrote` is called."""
        lengths = torch.tensor(self.lengths, device=device)
        self._now.rows, self._now.places = torch.arange(len(self), device=device), lengths
        self._now.width = _width(max(self.lengths) + 1)
        places = torch.arange(self._now.width, device=device)[None, :]
        seen = places <= lengths[:, None]
        return {
            "past_key_values": self.cache,
            "position_ids": lengths[:, None],
            "attention_mask": _masks(seen, places, lengths, self._windows, self._dtype)
            if self._windows
            else seen.long(),
        }

    def wrote(self) -> None:
        self.lengths = [length + 1 for length in self.lengths]

    def free(self) -> None:
        """Give the memory back; there is no row left."""
        self.lengths.clear()
        for layer in self._layers:
            layer.keys = layer.values = None
            layer.is_initialized = False

    @property
    def bytes(self) -> int:
        held = [tensor for layer in self._layers for tensor in (layer.keys, layer.values) if tensor is not None]
        return sum(tensor.numel() * tensor.element_size() for tensor in held)


def _width(places: int) -> int:
    """Enough places, in round numbers."""
    return -(-places // _ALIGNED) * _ALIGNED if places > _STEP else _STEP


def _masks(
    seen: torch.Tensor, places: torch.Tensor, lengths: torch.Tensor, windows: Sequence[int | None], dtype: torch.dtype
) -> Any:
    """Where some layers look back only so far, from each row's own end: what each kind of layer adds to its scores."""
    nothing = torch.finfo(dtype).min
    kinds = {}
    for window in windows:
        visible = seen & (places > (lengths - window)[:, None]) if window else seen
        added = torch.zeros_like(visible, dtype=dtype).masked_fill(~visible, nothing)
        kinds["sliding_attention" if window else "full_attention"] = added[:, None, None, :]
    return kinds if len(kinds) > 1 else next(iter(kinds.values()))
