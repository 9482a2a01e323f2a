"""Test rows that training has seen, in whatever disguise. Found again here, by other means than prepare's.

The thresholds are measured on the sample's grammar, whose rows come from a few templates and so are as alike as honest
rows get. Of 8,000 test rows from 20 seeds, each against 3,000 training rows, the most similar pair had a cosine of 0.90,
held 0.97, and had 0.73 of its pairs of words or 0.76 of its runs in common.
"""

import re
from collections import Counter, defaultdict
from collections.abc import Iterator, Mapping, Sequence
from datetime import UTC, datetime
from typing import Any

import numpy as np

from slipway.artifacts import LeakedPair
from slipway.data.inspected import Row
from slipway.data.terms import Terms, plain, words

NEAR = 0.78  # of the pairs of neighbouring words (Jaccard), from which two prompts are the same
ALIKE = 0.92  # cosine of the words, the rare ones first, from which two prompts with the same answer are the same
HELD = 0.98  # of what a test prompt's words say, that a row with the same answer has to hold, in any order
LIKE = 0.5  # a cosine for prompts whose answer is long and nobody else's
WORDS = 8  # fewer words are alike by chance
RUN = 13  # a run of this many words is no chance
COVERED = 0.8  # of a test prompt's runs, from which a training row has it within
TEMPLATE = 3  # a run or an answer that so many test rows share gives none of them away
CANDIDATES = 8  # training rows that each test row is compared with word by word
_CHUNK = 256
_SQUEEZE = re.compile(r"[\W_]+")

Pair = tuple[str, str]  # training row, test row
Records = Mapping[tuple[str, int], Mapping[str, Any]]  # (file, row) → the raw row


def leaked(learnt: Sequence[Row], test: Sequence[Row]) -> list[LeakedPair]:
    """Every pair of a training row and a test row that say the same, once, under the clearest of its kinds."""
    if not learnt or not test:
        return []
    pairs: dict[Pair, LeakedPair] = {}
    for found in (_exact(learnt, test), _similar(learnt, test), _within(learnt, test)):
        for pair in found:
            pairs.setdefault((pair.train, pair.test), pair)
    return list(pairs.values())


def _pair(train: Row, test: Row, kind: Any, overlap: float) -> LeakedPair:
    return LeakedPair(train=train.place, test=test.place, kind=kind, overlap=round(float(overlap), 6))


def _squeezed(text: str) -> str:
    """A text's letters and digits; with none of them, all of it but spaces."""
    return _SQUEEZE.sub("", plain(text)) or "".join(plain(text).split())


def _signed(text: str) -> tuple[str, tuple[str, ...]]:
    """What has to agree for two texts to be one: letters and digits, and the signs between (3 + 4 is not 3 - 4)."""
    return _squeezed(text), tuple(word for word in words(text) if not word.isalnum())


def _exact(learnt: Sequence[Row], test: Sequence[Row]) -> Iterator[LeakedPair]:
    """The same words, as the whole of what the user says or as one turn of it."""
    asked: dict[object, list[Row]] = defaultdict(list)
    for row in test:
        asked[_signed(row.asked)].append(row)
    for row in learnt:
        for key in dict.fromkeys(_signed(text) for text in (row.asked, *row.turns)):
            yield from (_pair(row, other, "exact", 1) for other in asked.get(key, ()))


def _similar(learnt: Sequence[Row], test: Sequence[Row]) -> Iterator[LeakedPair]:
    """Almost the same words in the same order; or the same words in any order, with the same answer."""
    spoken = [words(row.asked) for row in (*learnt, *test)]
    terms, rare = Terms.of(spoken), _rare_answers(learnt, test)
    rarity = dict(zip(terms.names, terms.rarity.tolist(), strict=True))
    for i, j, cosine in _candidates(terms, len(learnt)):
        mine, theirs = spoken[i], spoken[len(learnt) + j]
        row, other = learnt[i], test[j]
        order = _jaccard(_neighbours(mine), _neighbours(theirs))
        if order >= NEAR and cosine >= LIKE:  # and not alike by the words of a template alone
            yield _pair(row, other, "near-duplicate", order)
        elif row.answer == other.answer:
            held = _held(set(theirs), set(mine), rarity)
            alike = min(len(set(mine)), len(set(theirs))) >= WORDS and (cosine >= ALIKE or held >= HELD)
            if alike or (cosine >= LIKE and other.answer in rare):
                yield _pair(row, other, "answer", max(cosine, held))


def _candidates(terms: Terms, learnt: int) -> Iterator[tuple[int, int, float]]:
    """(training row, test row, cosine) of the training rows that are most like each test row."""
    weighted = terms.weighted()
    train, tests = weighted[:learnt].T.tocsr(), weighted[learnt:]
    for start in range(0, tests.shape[0], _CHUNK):
        cosines = (tests[start : start + _CHUNK] @ train).toarray()
        best = np.argsort(-cosines, axis=1, kind="stable")[:, :CANDIDATES]
        for j, (row, chosen) in enumerate(zip(cosines, best, strict=True), start):
            yield from ((int(i), j, float(row[i])) for i in chosen if row[i] > 0)


def _held(theirs: set[str], mine: set[str], rarity: Mapping[str, float]) -> float:
    """How much of what a test prompt's words say stands in a training row that is not much longer."""
    if len(mine) > 2 * len(theirs):
        return 0.0
    whole = sum(rarity[word] ** 2 for word in sorted(theirs))
    return sum(rarity[word] ** 2 for word in sorted(theirs & mine)) / whole if whole else 0.0


def _neighbours(found: Sequence[str]) -> set[tuple[str, ...]]:
    """Every two neighbouring words; a single word is one."""
    return {tuple(found[i : i + 2]) for i in range(max(len(found) - 1, 1))}


def _jaccard(one: set[Any], other: set[Any]) -> float:
    shared = len(one & other)
    return shared / max(len(one) + len(other) - shared, 1)


def _rare_answers(learnt: Sequence[Row], test: Sequence[Row]) -> set[str]:
    """Long answers that one test row and at most two training rows give: no class, no stock phrase."""
    trained, tested = Counter(row.answer for row in learnt), Counter(row.answer for row in test)
    return {a for a, n in tested.items() if n == 1 and trained[a] <= 2 and len(words(a)) >= WORDS}


def _within(learnt: Sequence[Row], test: Sequence[Row]) -> Iterator[LeakedPair]:
    """Test prompts that stand within any text of a training row, its answers too, by their long runs of words."""
    places: dict[tuple[str, ...], set[int]] = defaultdict(set)
    for j, row in enumerate(test):
        if len(spoken := words(row.asked)) >= WORDS:
            for run in _runs(spoken, min(len(spoken), RUN)):
                places[run].add(j)
    own = {run: found for run, found in places.items() if len(found) < TEMPLATE}
    total = Counter(j for found in own.values() for j in found)
    sizes = sorted({len(run) for run in own})
    for row in learnt:
        seen: Counter[int] = Counter()
        for run in {run for spoken in map(words, row.texts) for size in sizes for run in _runs(spoken, size)}:
            seen.update(own.get(run, ()))
        yield from (
            _pair(row, test[j], "n-gram", count / total[j])
            for j, count in sorted(seen.items())
            if count >= COVERED * total[j]
        )


def _runs(found: Sequence[str], size: int) -> list[tuple[str, ...]]:
    return [tuple(found[i : i + size]) for i in range(len(found) - size + 1)]


# --- what the raw rows say of themselves --------------------------------------------------------------------------

_NAMES_A_ROW = re.compile(
    r"(?i)_?id|uu?id|guid|(?:row|example|sample|record|item|entry|ticket|message|conversation|thread|case|question|doc"
    r"|document)[_-]?(?:id|uuid|key)"
)
_NAMES_A_TIME = re.compile(
    r"(?i)(?:(?:creat|updat|sent|receiv|open|clos)\w*[_-]?)?(?:at|on|time|date|timestamp|datetime)|ts"
)


def by_id(learnt: Sequence[Row], test: Sequence[Row], records: Records) -> list[LeakedPair]:
    """Rows on both sides that their source gives one id: the same ticket, the same thread."""
    pairs: list[LeakedPair] = []
    for column in _columns(records, _NAMES_A_ROW):
        known: dict[object, list[Row]] = defaultdict(list)
        for row in learnt:
            known[_id(row, records, column)].append(row)
        known.pop(None, None)
        if len(known) * 5 < len(learnt):
            continue  # a few values for many rows name classes, not rows
        pairs += [_pair(row, other, "id", 1) for other in test for row in known.get(_id(other, records, column), ())]
    return pairs


def _id(row: Row, records: Records, column: str) -> object:
    """A row's id; a small number counts the rows of its file, and says nothing across files."""
    value = records.get(row.source, {}).get(column)
    if isinstance(value, bool) or not isinstance(value, str | int) or value == "":
        return None
    digits = str(value)
    counts = digits.isdecimal() and len(digits) < 12 and int(digits) <= 2 * len(records)
    return (row.source[0], digits) if counts else digits


def by_time(learnt: Sequence[Row], test: Sequence[Row], records: Records) -> tuple[list[LeakedPair], bool]:
    """Training rows no earlier than the first test row, and whether the split is one by time.

    It is one where most training rows come before the first test row, and a split by chance would hardly have done so.
    """
    for column in _columns(records, _NAMES_A_TIME):
        trained, tested = (_timed(rows, records, column) for rows in (learnt, test))
        if len(trained) < len(learnt) / 2 or len(tested) < len(test) / 2 or not trained or not tested:
            continue
        first_time, first = min(tested, key=lambda one: (one[0], one[1].place))
        late = [row for time, row in trained if time >= first_time]
        early = 1 - len(late) / len(trained)
        pairs = [_pair(row, first, "time", len(late) / len(trained)) for row in late]
        return pairs, early >= 0.5 and (1 - early) ** len(tested) < 0.001
    return [], False


def _timed(rows: Sequence[Row], records: Records, column: str) -> list[tuple[float, Row]]:
    read = [(_seconds(records.get(row.source, {}).get(column)), row) for row in rows]
    return [(time, row) for time, row in read if time is not None]


def _seconds(value: Any) -> float | None:
    """A point in time: seconds or milliseconds since 1970, or a date in ISO form; none for anything else."""
    if isinstance(value, int | float) and not isinstance(value, bool):
        return value / 1000 if 1e11 < value < 1e14 else float(value) if 1e8 < value < 1e11 else None
    if not isinstance(value, str) or len(value) > 40:
        return None
    try:
        time = datetime.fromisoformat(value)
    except ValueError:
        return None
    return (time if time.tzinfo else time.replace(tzinfo=UTC)).timestamp()


def _columns(records: Records, name: re.Pattern[str]) -> list[str]:
    return sorted({key for record in records.values() for key in record if name.fullmatch(key)})
