"""Texts as sparse rows of terms, to compare many of them at once."""

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
from numpy.typing import NDArray
from scipy import sparse

from slipway.data.visible import visible

Floats = NDArray[np.float64]

_IDEOGRAPHS = "\u2e80-\u9fff\uac00-\ud7af"  # scripts without spaces: each sign counts as a word
# Words, and the signs that make another question of the same words (3 + 4, 3 - 4); not the marks of a sentence.
_TERM = re.compile(rf"[{_IDEOGRAPHS}]|[^\W{_IDEOGRAPHS}]+|[^\w\s.,;:!?'\"()\[\]…“”‘’–—-]|-(?=\s*\d)")


def plain(text: str) -> str:
    """A text without the differences that nobody minds: case, width, invisible signs."""
    return visible(text).casefold()


def words(text: str) -> list[str]:
    return _TERM.findall(plain(text))


def runs(found: Sequence[str], longest: int) -> list[str]:
    """Every run of one to `longest` words."""
    return [" ".join(found[i : i + n]) for n in range(1, longest + 1) for i in range(len(found) - n + 1)]


@dataclass(frozen=True)
class Terms:
    """Which text has which term: one row a text, one column a term."""

    matrix: "sparse.csr_matrix"
    names: list[str]

    @classmethod
    def of(cls, texts: Iterable[Sequence[str]]) -> "Terms":
        columns: dict[str, int] = {}
        indices: list[int] = []
        ends = [0]
        for terms in texts:
            indices += sorted({columns.setdefault(term, len(columns)) for term in terms})
            ends.append(len(indices))
        shape = (len(ends) - 1, len(columns))
        return cls(sparse.csr_matrix((np.ones(len(indices)), indices, ends), shape=shape), list(columns))

    @cached_property
    def rarity(self) -> Floats:
        """How much each term says of a text that has it; one that all texts have says nothing."""
        everywhere = np.asarray(self.matrix.sum(axis=0)).ravel()
        rarity: Floats = np.log(self.matrix.shape[0] / np.maximum(everywhere, 1))
        return rarity

    def weighted(self) -> "sparse.csr_matrix":
        """Rows of length one in which a rare term counts more."""
        weighed = sparse.csr_matrix(self.matrix @ sparse.diags(self.rarity))
        lengths = np.sqrt(np.asarray(weighed.multiply(weighed).sum(axis=1)).ravel())
        return sparse.csr_matrix(sparse.diags(1 / np.where(lengths > 0, lengths, np.inf)) @ weighed)
