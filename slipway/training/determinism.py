"""PyTorch, set up so that the same work gives the same bytes."""

import contextlib
from collections.abc import Iterator

import torch


@contextlib.contextmanager
def reproducible(deterministic: bool, threads: int) -> Iterator[None]:
    """PyTorch set up so that the same steps give the same bytes; as it was before, afterwards."""
    before = torch.are_deterministic_algorithms_enabled(), torch.get_num_threads()
    torch.use_deterministic_algorithms(deterministic)
    torch.set_num_threads(threads)
    try:
        yield
    finally:
        torch.use_deterministic_algorithms(before[0])
        torch.set_num_threads(before[1])
