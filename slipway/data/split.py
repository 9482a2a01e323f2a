"""Which split a row belongs to: a matter of its own content, so adding rows moves no other row."""

import hashlib
from collections.abc import Iterable
from typing import TYPE_CHECKING, Literal

from slipway.data.rows import Row

if TYPE_CHECKING:
    from slipway.params import SplitParams

Split = Literal["train", "validation", "test"]
SPLITS: tuple[Split, ...] = ("train", "validation", "test")


def position(asked: str, seed: int) -> float:
    """The fixed place in [0, 1) of what a user says."""
    return int.from_bytes(hashlib.sha256(f"{seed}\n{asked}".encode()).digest()[:8], "big") / 2**64


def of_row(row: Row, params: "SplitParams", with_test: bool) -> Split:
    test = params.test if with_test else 0.0
    place = position(row.asked, params.seed)
    if place < test:
        return "test"
    return "validation" if place < test + params.validation else "train"


def assign(rows: Iterable[Row], params: "SplitParams", with_test: bool) -> dict[Split, list[Row]]:
    """Rows by split; `with_test` takes a test set from them."""
    splits: dict[Split, list[Row]] = {name: [] for name in SPLITS}
    for row in rows:
        splits[of_row(row, params, with_test)].append(row)
    return splits
