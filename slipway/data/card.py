"""The data card: what went in, what was lost why, and what the prepared rows are like."""

from collections import Counter
from collections.abc import Sequence
from typing import Any

from slipway.data.duplicates import said, words
from slipway.data.preparation import Prepared
from slipway.data.split import SPLITS
from slipway.data.template import Encoded

_PERCENTILES = (5, 25, 50, 75, 95, 99)


def lengths(values: Sequence[int]) -> dict[str, float]:
    """Smallest, largest, mean and percentiles (nearest rank) of some lengths."""
    if not values:
        return {}
    ordered = sorted(values)
    ranks = {f"p{p}": float(ordered[min(-(-p * len(ordered) // 100), len(ordered)) - 1]) for p in _PERCENTILES}
    return {"min": float(ordered[0]), "max": float(ordered[-1]), "mean": sum(ordered) / len(ordered), **ranks}


def _of_split(found: Sequence[Encoded], languages: Sequence[str], packs: int) -> dict[str, Any]:
    return {
        "rows": len(found),
        "packs": packs,
        "tokens": sum(len(one.input_ids) for one in found),
        "loss_tokens": sum(sum(one.loss) for one in found),
        "merged_edges": sum(one.merged for one in found),
        "labels": dict(sorted(Counter(one.row.label for one in found if one.row.label is not None).items())),
        "shapes": dict(sorted(Counter(one.row.shape for one in found).items())),
        "languages": dict(sorted(Counter(languages).items())),
        "length_tokens": lengths([len(one.input_ids) for one in found]),
        "answer_words": lengths([len(words(one.row.answer)) for one in found]),
    }


def _shared_prompts(one: Sequence[Encoded], other: Sequence[Encoded]) -> int:
    """How many rows of the first ask what one of the second asks too, punctuation and case aside."""
    prompts = {tuple(said(item.row.asked)) for item in other}
    return sum(tuple(said(item.row.asked)) in prompts for item in one)


def card(prepared: Prepared, languages: dict[str, list[str]]) -> dict[str, Any]:
    """Everything worth knowing about the prepared data; `languages` by split, row by row."""
    dropped, splits = prepared.journal.counts("dropped"), prepared.splits
    rows_in, copies = prepared.rows_in, sum(n for name, n in dropped.items() if name.endswith("_duplicate"))
    return {
        "rows_in": rows_in,
        "rows_out": sum(len(found) for found in splits.values()),
        "steps": [{"step": step, "rows": rows} for step, rows in prepared.journal.steps],
        "dropped": dropped,
        "altered": prepared.journal.counts("altered"),
        "drop_rate": sum(dropped.values()) / rows_in,
        "duplicate_rate": copies / rows_in,
        "splits": {
            name: _of_split(splits[name], languages[name], len(prepared.packs.get(name, ()))) for name in SPLITS
        },
        "overlap": {
            "train_test": _shared_prompts(splits["train"], splits["test"]),
            "train_validation": _shared_prompts(splits["train"], splits["validation"]),
            "validation_test": _shared_prompts(splits["validation"], splits["test"]),
        },
        "chat_template": "fallback" if prepared.fallback_template else "base",
    }
