"""Rows that say the same again: exact duplicates, conflicts, near-duplicates and leaks from held-out rows."""

import re
from collections import defaultdict
from collections.abc import Iterable, Sequence

from rensa import RMinHash, RMinHashLSH

from slipway.data.rows import Drop, Row

SHINGLE = 3  # words
LEAK_WORDS = 13  # a run of this many shared words is no chance (the length GPT-3's authors used)
LEAK_SHARE = 0.8  # of a held-out prompt, covered by such runs, from which a training row has leaked

_PERMUTATIONS, _SEED, _SURE = 128, 7, 0.999
_IDEOGRAPHS = "\u2e80-\u9fff\uac00-\ud7af"  # scripts without spaces: each sign counts as a word
_WORD = re.compile(rf"[{_IDEOGRAPHS}]|[^\W{_IDEOGRAPHS}]+")


def words(text: str) -> list[str]:
    return _WORD.findall(text.casefold())


def shingles(found: Sequence[str], size: int = SHINGLE) -> frozenset[str]:
    """Every run of `size` words; a shorter text is one run."""
    return frozenset(" ".join(found[i : i + size]) for i in range(max(len(found) - size + 1, 1)))


def jaccard(one: frozenset[str], other: frozenset[str]) -> float:
    return len(one & other) / len(one | other)


def _bands(similarity: float) -> int:
    """The fewest LSH bands that still find a pair of this similarity almost surely."""
    for bands in (4, 8, 16, 32, 64):
        if 1 - (1 - similarity ** (_PERMUTATIONS // bands)) ** bands >= _SURE:
            return bands
    return _PERMUTATIONS


class Near:
    """Texts to compare with: MinHash proposes candidates, exact Jaccard similarity decides."""

    def __init__(self, similarity: float) -> None:
        self.similarity = similarity
        self.index = RMinHashLSH(similarity, _PERMUTATIONS, _bands(similarity))
        self.rows: list[tuple[Row, frozenset[str]]] = []

    @staticmethod
    def _hash(found: frozenset[str]) -> RMinHash:
        sketch = RMinHash(_PERMUTATIONS, _SEED)
        sketch.update(sorted(found))
        return sketch

    def add(self, row: Row) -> None:
        found = shingles(words(row.prompt))
        self.index.insert(len(self.rows), self._hash(found))
        self.rows.append((row, found))

    def find(self, row: Row) -> tuple[Row, float] | None:
        """The first row at least as similar as asked, with the similarity."""
        found = shingles(words(row.prompt))
        for key in sorted(self.index.query(self._hash(found))):
            other, others = self.rows[key]
            if (similarity := jaccard(found, others)) >= self.similarity:
                return other, similarity
        return None


class Overlap:
    """Held-out prompts by their long runs of words, to see how much of one a row repeats."""

    def __init__(self, rows: Iterable[Row]) -> None:
        self.rows: list[tuple[Row, int]] = []
        self.places: dict[tuple[str, ...], list[tuple[int, int]]] = defaultdict(list)
        for key, row in enumerate(rows):
            found = words(row.prompt)
            self.rows.append((row, len(found)))
            for start in range(len(found) - LEAK_WORDS + 1):
                self.places[tuple(found[start : start + LEAK_WORDS])].append((key, start))

    def find(self, row: Row) -> tuple[Row, float] | None:
        """The first held-out row of whose prompt this one repeats too much, with the share."""
        covered: dict[int, set[int]] = defaultdict(set)
        found = words(row.prompt)
        for start in range(len(found) - LEAK_WORDS + 1):
            for key, place in self.places.get(tuple(found[start : start + LEAK_WORDS]), ()):
                covered[key].update(range(place, place + LEAK_WORDS))
        for key in sorted(covered):
            other, length = self.rows[key]
            if (share := len(covered[key]) / length) >= LEAK_SHARE:
                return other, share
        return None


def _place(row: Row) -> str:
    return f"{row.file}:{row.number}"


def _dropped(row: Row, reason: str, detail: str) -> Drop:
    return Drop(row.file, row.number, reason, detail, row.conversation)


def without_exact(rows: Iterable[Row]) -> tuple[list[Row], list[Drop]]:
    """Rows without repeats; of one prompt with several answers the first answer stays."""
    first: dict[str, Row] = {}
    kept: list[Row] = []
    drops: list[Drop] = []
    for row in rows:
        same = first.setdefault(row.prompt, row)
        if same is row:
            kept.append(row)
        elif same.answer == row.answer:
            drops.append(_dropped(row, "exact_duplicate", f"the same as {_place(same)}"))
        else:
            drops.append(_dropped(row, "conflict", f"another answer to the prompt of {_place(same)}"))
    return kept, drops


def without_near(rows: Iterable[Row], similarity: float) -> tuple[list[Row], list[Drop]]:
    """Rows without those whose prompt is almost that of an earlier one."""
    seen, drops = Near(similarity), list[Drop]()
    for row in rows:
        if match := seen.find(row):
            drops.append(_dropped(row, "near_duplicate", f"similarity {match[1]:.2f} to {_place(match[0])}"))
        else:
            seen.add(row)
    return [row for row, _ in seen.rows], drops


def without_leaks(
    rows: Iterable[Row], held_out: Sequence[Row], split: str, similarity: float
) -> tuple[list[Row], list[Drop]]:
    """Rows without those that repeat a held-out prompt: whole, almost, or by a long part of it."""
    near, overlap = Near(similarity), Overlap(held_out)
    for row in held_out:
        near.add(row)
    kept: list[Row] = []
    drops: list[Drop] = []
    for row in rows:
        if match := near.find(row):
            drops.append(_dropped(row, f"leaked_{split}", f"similarity {match[1]:.2f} to {_place(match[0])}"))
        elif match := overlap.find(row):
            drops.append(_dropped(row, f"leaked_{split}", f"repeats {match[1]:.0%} of {_place(match[0])}"))
        else:
            kept.append(row)
    return kept, drops
