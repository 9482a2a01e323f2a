"""Rows that say the same again: exact duplicates, conflicts, near-duplicates and leaks from held-out rows."""

import math
import re
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Sequence
from functools import partial

from rensa import RMinHash, RMinHashLSH

from slipway.data.rows import Drop, Row

SHINGLE = 3  # words
LEAK_WORDS = 13  # a run of this many shared words is no chance (the length GPT-3's authors used)
LEAK_SHARE = 0.8  # of a held-out prompt, covered by such runs, from which a training row has leaked
SHORTEST_RUN = 4  # a shorter prompt may stand in any text by chance: it has leaked only where it is a whole turn

TEMPLATE_ROWS = 3  # a run that so many held-out prompts share belongs to a template and gives none of them away

_PERMUTATIONS, _SEED, _SURE = 256, 7, 0.999
_IDEOGRAPHS = "\u2e80-\u9fff\uac00-\ud7af"  # scripts without spaces: each sign counts as a word
_WORDS = rf"[{_IDEOGRAPHS}]|[^\W{_IDEOGRAPHS}]+"
_WORD = re.compile(_WORDS)
# Signs that make another question of the same words: 3 + 4, 3 - 4.
_SAID = re.compile(_WORDS + r"|[+/=<>^%$€£¥×÷±\u2190-\u2bff\U0001f000-\U0001faff]|[*\-](?=\s*\d)")


def words(text: str) -> list[str]:
    return _WORD.findall(text.casefold())


def said(text: str) -> list[str]:
    """A text's words and signs, to compare by; with too few of them, all of the text but case and spaces."""
    found = _SAID.findall(text.casefold())
    return found if len(found) >= SHINGLE else [" ".join(text.casefold().split())]


def shingles(found: Sequence[str], size: int = SHINGLE) -> frozenset[str]:
    """Every run of `size` words; a shorter text is one run."""
    return frozenset(" ".join(found[i : i + size]) for i in range(max(len(found) - size + 1, 1)))


def jaccard(one: frozenset[str], other: frozenset[str]) -> float:
    shared = len(one & other)
    return shared / (len(one) + len(other) - shared)


def _bands(similarity: float) -> tuple[int, int]:
    """(bands, hashes in each) of LSH: the fewest chance candidates that still find such a pair almost surely."""
    best = (_PERMUTATIONS, 1)
    for size in range(1, _PERMUTATIONS + 1):
        missed = 1 - similarity**size  # by one band
        if missed == 1:
            break
        bands = math.ceil(math.log(1 - _SURE) / math.log(missed)) if missed else 1
        if bands * size > _PERMUTATIONS:
            break
        best = (bands, size)
    return best


class Near:
    """Texts to compare with: MinHash proposes candidates, exact Jaccard similarity decides."""

    def __init__(self, similarity: float) -> None:
        self.similarity = similarity
        bands, size = _bands(similarity)
        self.permutations = bands * size
        self.index = RMinHashLSH(similarity, self.permutations, bands)
        self.rows: list[tuple[Row, frozenset[str]]] = []

    def _hash(self, found: frozenset[str]) -> RMinHash:
        sketch = RMinHash(self.permutations, _SEED)
        sketch.update(sorted(found))
        return sketch

    def add(self, row: Row, text: Sequence[str]) -> None:
        found = shingles(text)
        self.index.insert(len(self.rows), self._hash(found))
        self.rows.append((row, found))

    def find(self, text: Sequence[str], counts: Callable[[Row], bool] = lambda row: True) -> tuple[Row, float] | None:
        """The first row that counts and is at least as similar as asked, with the similarity."""
        found = shingles(text)
        for key in sorted(self.index.query(self._hash(found))):
            other, others = self.rows[key]
            sizes = sorted((len(found), len(others)))
            if sizes[0] < sizes[1] * self.similarity or not counts(other):  # sizes alone say no, and cheaply
                continue
            if (similarity := jaccard(found, others)) >= self.similarity:
                return other, similarity
        return None


class Overlap:
    """Held-out prompts by their long runs of words, to see how much of one a text repeats."""

    def __init__(self, prompts: Sequence[tuple[Row, Sequence[str]]]) -> None:
        self.rows = [row for row, _ in prompts]
        self.own = [set(range(len(text))) for _, text in prompts]  # places of words that no template covers
        self.places: dict[tuple[str, ...], list[tuple[int, int]]] = defaultdict(list)
        for key, (_, text) in enumerate(prompts):
            if (size := min(len(text), LEAK_WORDS)) >= SHORTEST_RUN:  # a shorter prompt than a run is one run itself
                for start in range(len(text) - size + 1):
                    self.places[tuple(text[start : start + size])].append((key, start))
        self._without_templates()
        self.sizes = sorted({len(run) for run in self.places})

    def _without_templates(self) -> None:
        shared = [run for run, found in self.places.items() if len({key for key, _ in found}) >= TEMPLATE_ROWS]
        for run in shared:
            for key, place in self.places.pop(run):
                self.own[key].difference_update(range(place, place + len(run)))

    def find(self, text: Sequence[str]) -> tuple[Row, float] | None:
        """The first held-out row of whose prompt this text repeats too much, with the share."""
        covered: dict[int, set[int]] = defaultdict(set)
        for size in self.sizes:
            for start in range(len(text) - size + 1):
                for key, place in self.places.get(tuple(text[start : start + size]), ()):
                    covered[key].update(range(place, place + size))
        for key in sorted(covered):
            own = self.own[key]
            if own and (share := len(covered[key] & own) / len(own)) >= LEAK_SHARE:
                return self.rows[key], share
        return None


class HeldOut:
    """What the users of held-out rows say, to see whether a row gives one of them away."""

    def __init__(self, rows: Iterable[Row], similarity: float) -> None:
        prompts: dict[tuple[str, ...], Row] = {}
        for row in rows:
            prompts.setdefault(tuple(said(row.asked)), row)
        self.near = Near(similarity)
        for text, row in prompts.items():
            self.near.add(row, text)
        self.overlap = Overlap([(row, text) for text, row in prompts.items()])
        self.longest = max(map(len, prompts), default=0)

    def _asked(self, row: Row) -> Iterator[list[str]]:
        """What an answer of a row may answer: each turn of the user, and each turn with all before it."""
        yield from map(said, row.turns)
        for count in range(2, len(row.turns) + 1):
            text = said("\n".join(row.turns[:count]))
            if len(text) * self.near.similarity > self.longest:
                return  # too long to be like any, and so are all that follow
            yield text

    def given_away(self, row: Row) -> str | None:
        """How a row repeats a held-out prompt: whole, almost, or by a long part of it."""
        for text in self._asked(row):
            if match := self.near.find(text):
                return f"similarity {match[1]:.2f} to {_place(match[0])}"
        if match := self.overlap.find(said(row.asked)):
            return f"repeats {match[1]:.0%} of {_place(match[0])}"
        return None


def _place(row: Row) -> str:
    return f"{row.file}:{row.number}"


def _dropped(row: Row, reason: str, detail: str) -> Drop:
    return Drop(row.file, row.number, reason, detail, row.conversation)


def without_exact(rows: Iterable[Row]) -> tuple[list[Row], list[Drop]]:
    """Rows without repeats of the user's words and answer; of one prompt with several answers the first stays."""
    answered: dict[tuple[str, str], Row] = {}
    prompts: dict[str, Row] = {}
    kept: list[Row] = []
    drops: list[Drop] = []
    for row in rows:
        if same := answered.get((row.asked, row.answer)):
            drops.append(_dropped(row, "exact_duplicate", f"the same as {_place(same)}"))
        elif same := prompts.get(row.prompt):
            drops.append(_dropped(row, "conflict", f"another answer to the prompt of {_place(same)}"))
        else:
            answered[row.asked, row.answer] = prompts[row.prompt] = row
            kept.append(row)
    return kept, drops


def _same_task(one: Row, other: Row) -> bool:
    """Another system message and another answer: another task, though the user says the same."""
    return one.system == other.system or one.answer == other.answer


def without_near(rows: Iterable[Row], similarity: float) -> tuple[list[Row], list[Drop]]:
    """Rows without those whose user says almost what an earlier one of the same task said."""
    seen, drops = Near(similarity), list[Drop]()
    for row in rows:
        text = said(row.asked)
        if match := seen.find(text, partial(_same_task, row)):
            drops.append(_dropped(row, "near_duplicate", f"similarity {match[1]:.2f} to {_place(match[0])}"))
        else:
            seen.add(row, text)
    return [row for row, _ in seen.rows], drops


def without_leaks(
    rows: Iterable[Row], held_out: Iterable[Row], split: str, similarity: float
) -> tuple[list[Row], list[Drop]]:
    """Rows without those that repeat a held-out prompt in any turn."""
    held = HeldOut(held_out, similarity)
    kept: list[Row] = []
    drops: list[Drop] = []
    for row in rows:
        if detail := held.given_away(row):
            drops.append(_dropped(row, f"leaked_{split}", detail))
        else:
            kept.append(row)
    return kept, drops
