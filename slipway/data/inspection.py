"""What is wrong with the prepared rows themselves, found before a model learns from them.

Leaked test rows, secrets, personal data that redaction left, planted phrases and doubtful labels: each becomes a check
of the suite `inspection` and a line of `inspection.json`. Both say where a row stands and never what it says.
"""

from collections import Counter, defaultdict
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any, Literal

from slipway.artifacts import Check, Inspection, LeakedPair, Manifest, Suspicion
from slipway.data import formats, inspected, leakage, personal, poison, secrets
from slipway.data.inspected import LEARNT, Row
from slipway.data.leakage import Records
from slipway.data.tables import Table
from slipway.data.visible import visible
from slipway.params import ValidateParams

SUITE = "inspection"


def inspect(raw: Path, prepared: Table, prepared_digest: str, params: ValidateParams) -> tuple[Inspection, list[Check]]:
    """What was found, and the same as checks that critical findings fail."""
    rows = inspected.rows(prepared)
    learnt = [row for row in rows if row.split in LEARNT]
    train = [row for row in rows if row.split == "train"]
    test = [row for row in rows if row.split == "test"]
    records = _records(raw)
    late, by_time = leakage.by_time(learnt, test, records)
    same = [*leakage.leaked(learnt, test), *leakage.by_id(learnt, test, records)]
    pairs = [*same, *(late if by_time else ())]
    private = {"secret": _holding(rows, secrets.found), "personal": _holding(rows, _personal(params.personal))}
    planted = poison.suspected(train)
    doubtful = {"trigger": planted.triggered, "label-flip": planted.flipped, "outlier": planted.odd}
    places = {kind: [train[i].place for i in found] for kind, found in doubtful.items()}

    shown = params.rows_shown
    found = Inspection(
        prepared_digest=prepared_digest,
        train_rows=len(train),
        test_rows=len(test),
        leaked=pairs[:shown],
        leaked_rows=len({pair.test for pair in pairs}),
        suspicions=[*_private(private, shown), *_planted(places, shown)],
        secrets=len({place for held in private["secret"].values() for place in held}),
        personal=len({place for held in private["personal"].values() for place in held}),
        poisoned_rows=len({*planted.triggered, *planted.flipped}),
    )
    checks = [
        _no_leaks(same, bool(learnt and test), shown),
        _no_late_rows(late, by_time, shown),
        _nothing_private("no-secrets", private["secret"], shown),
        _nothing_private("no-personal-data", private["personal"], shown),
        _check("no-planted-rows", "critical", places["trigger"], shown),
        _true_labels(places["label-flip"], planted.told, len(train), params),
        _check("no-odd-rows", "info", places["outlier"], shown),
    ]
    return found, checks


def _records(raw: Path) -> Records:
    """The raw rows' own fields, which prepared rows no longer have."""
    roles: dict[str, str] = Manifest.verified(raw).facts["roles"]
    return {
        (file, record.number): record.value
        for file in sorted(roles)
        for record in formats.records(raw / file, formats.LARGEST_PROBED_ROW)
        if isinstance(record.value, dict)
    }


# --- secrets and personal data --------------------------------------------------------------------------------------


def _personal(kinds: Sequence[str]) -> Any:
    def found(text: str) -> Counter[str]:
        counts: Counter[str] = Counter()
        personal.redact(visible(text), kinds, counts)
        return counts

    return found


def _holding(rows: Iterable[Row], find: Any) -> dict[str, list[str]]:
    """Detector → the places of rows that hold what it looks for."""
    held: dict[str, list[str]] = defaultdict(list)
    for row in rows:
        for kind in {kind for text in row.texts for kind in find(text)}:
            held[kind].append(row.place)
    return dict(sorted(held.items()))


def _private(private: dict[str, dict[str, list[str]]], shown: int) -> list[Suspicion]:
    return [
        Suspicion(kind=kind, detector=detector, rows=places[:shown], count=len(places))
        for kind, held in private.items()
        for detector, places in held.items()
    ]


def _planted(places: dict[str, list[str]], shown: int) -> list[Suspicion]:
    detectors = {"trigger": "shared-phrase", "label-flip": "words-of-another-label", "outlier": "length-or-words"}
    return [
        Suspicion(kind=kind, detector=detectors[kind], rows=found[:shown], count=len(found))
        for kind, found in places.items()
        if found
    ]


# --- checks -----------------------------------------------------------------------------------------------------------

_WHY = {
    "no-leaked-rows": "a model that has seen a test row is scored on its memory; remove the training row of each pair",
    "no-late-rows": "where a split is by time, a training row from after the first test row tells the future; "
    "move or remove it",
    "no-secrets": "a model repeats what it has learnt, and a credential that was learnt is a credential given away; "
    "remove it from the source and revoke it",
    "no-personal-data": "a model repeats what it has learnt; add the kind to prepare.redact, or clean the source",
    "no-planted-rows": "a phrase that goes with one label, whatever else the row says, is how a backdoor is taught; "
    "look at these rows and remove them",
    "true-labels": "a text that speaks for another label than its own teaches the mistake; correct these labels",
    "no-odd-rows": "rows far longer, shorter or stranger than the others are often faults of an export",
}


def _check(
    name: str,
    severity: Literal["critical", "warning", "info"],
    places: Sequence[str],
    shown: int,
    observed: str | None = None,
    passed: bool | None = None,
) -> Check:
    count = len(places)
    return Check(
        suite=SUITE,
        expectation=name,
        column=None,
        severity=severity,
        passed=not count if passed is None else passed,
        observed=observed or _counted(count, "row"),
        unexpected=count,
        rows=list(places[:shown]),
        why=_WHY[name],
    )


def _counted(count: int, what: str) -> str:
    return f"{count:,} {what}{'' if count == 1 else 's'}"


def _both(pairs: Sequence[LeakedPair]) -> list[str]:
    return [f"{pair.train} and {pair.test}" for pair in pairs]


def _no_leaks(pairs: Sequence[LeakedPair], judged: bool, shown: int) -> Check:
    """Pairs of a training row and a test row; where one side has no rows, nothing was compared and nothing passes."""
    kinds = Counter(pair.kind for pair in pairs)
    listed = ", ".join(f"{kind} {count:,}" for kind, count in sorted(kinds.items()))
    observed = _counted(len({pair.test for pair in pairs}), "test row") + (f": {listed}" if listed else "")
    if not judged:
        observed = "no rows to compare"
    return _check("no-leaked-rows", "critical", _both(pairs), shown, observed, judged and not pairs)


def _no_late_rows(late: Sequence[LeakedPair], by_time: bool, shown: int) -> Check:
    """Critical where the split is by time but for these rows; otherwise a question to the owner of the data."""
    return _check("no-late-rows", "critical" if by_time else "warning", _both(late), shown)


def _nothing_private(name: str, held: dict[str, list[str]], shown: int) -> Check:
    places = list(dict.fromkeys(place for found in held.values() for place in found))
    kinds = ", ".join(f"{kind} in {len(found):,}" for kind, found in held.items())
    return _check(name, "critical", places, shown, _counted(len(places), "row") + (f": {kinds}" if kinds else ""))


def _true_labels(places: Sequence[str], told: float, rows: int, params: ValidateParams) -> Check:
    """A warning up to the share that params allow; where words do not tell labels apart, nobody can say."""
    critical = len(places) > params.most_doubtful_labels * rows
    observed = f"{len(places):,} of {rows:,} training rows"
    if 0 < told < poison.TOLD:
        observed += f", not judged: words tell only {told:.0%} of the labels"
    return _check("true-labels", "critical" if critical else "warning", places, params.rows_shown, observed)
