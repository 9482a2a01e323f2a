"""Prepared data on disk: Parquet for people and checks, memory-mappable arrays for training."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import py3langid
import pyarrow as pa
from pyarrow import parquet
from safetensors.numpy import save_file

from slipway import atomic
from slipway.data import personal
from slipway.data.card import card
from slipway.data.preparation import Prepared
from slipway.data.rows import Drop
from slipway.data.split import SPLITS
from slipway.data.template import Encoded

SHOWN_CHARACTERS = 500  # of a dropped row

_ROWS = pa.schema(
    [
        *(pa.field(name, pa.string(), nullable=False) for name in ("id", "source_file")),
        pa.field("source_row", pa.int64(), nullable=False),
        *(pa.field(name, pa.string(), nullable=False) for name in ("messages", "prompt", "answer")),
        *(pa.field(name, pa.string()) for name in ("rejected", "label")),
        pa.field("language", pa.string(), nullable=False),
        pa.field("tokens", pa.int32(), nullable=False),
    ]
)
_DROPS = pa.schema(
    [
        pa.field("source_file", pa.string(), nullable=False),
        pa.field("source_row", pa.int64(), nullable=False),
        *(pa.field(name, pa.string(), nullable=False) for name in ("reason", "action", "detail", "content")),
    ]
)


def language(one: Encoded) -> str:
    """The language of what the user says (a guess; short texts often fool it)."""
    return str(py3langid.classify(" ".join(one.row.turns))[0])


def _row(one: Encoded, spoken: str) -> dict[str, Any]:
    row = one.row
    return {
        "id": row.id,
        "source_file": row.file,
        "source_row": row.number,
        "messages": row.conversation,
        "prompt": one.prompt,
        "answer": row.answer,
        "rejected": row.rejected,
        "label": row.label,
        "language": spoken,
        "tokens": len(one.input_ids),
    }


def _drop(drop: Drop) -> dict[str, Any]:
    # Whatever params.redact says: a list of rejects is read by more people than the data itself.
    shown = personal.redact(drop.content[: 4 * SHOWN_CHARACTERS], personal.KINDS)[:SHOWN_CHARACTERS]
    return {
        "source_file": drop.file,
        "source_row": drop.number,
        "reason": drop.reason,
        "action": drop.action,
        "detail": personal.redact(drop.detail, personal.KINDS),
        "content": shown,
    }


def _write(path: Path, found: list[dict[str, Any]], schema: pa.Schema) -> None:
    parquet.write_table(pa.Table.from_pylist(found, schema=schema), path, compression="zstd", use_dictionary=False)


def _offsets(lengths: Sequence[int]) -> "np.ndarray[Any, Any]":
    return np.concatenate([np.zeros(1, np.int64), np.cumsum(np.asarray(lengths, np.int64), dtype=np.int64)])


def _tokens(path: Path, found: Sequence[Encoded], packs: Sequence[Sequence[int]]) -> None:
    """All documents of a split in one row of tokens, with where each begins and which share a sequence."""
    arrays = {
        "input_ids": np.asarray([token for one in found for token in one.input_ids], np.int32),
        "loss": np.asarray([carries for one in found for carries in one.loss], np.uint8),
        "documents": _offsets([len(one.input_ids) for one in found]),
        "packs": np.asarray([document for pack in packs for document in pack], np.int32),
        "pack_offsets": _offsets([len(pack) for pack in packs]),
    }
    save_file(arrays, str(path))


def save(prepared: Prepared, folder: Path, threads: int) -> dict[str, Any]:
    """Write everything but the manifest into a folder; gives the data card."""
    pa.set_cpu_count(threads)
    (folder / "rows").mkdir(parents=True)
    (folder / "tokens").mkdir()
    languages = {name: [language(one) for one in prepared.splits[name]] for name in SPLITS}
    for name in SPLITS:
        found = [_row(one, spoken) for one, spoken in zip(prepared.splits[name], languages[name], strict=True)]
        _write(folder / "rows" / f"{name}.parquet", found, _ROWS)
    for name, packs in prepared.packs.items():
        _tokens(folder / "tokens" / f"{name}.safetensors", prepared.splits[name], packs)
    _write(folder / "drops.parquet", [_drop(drop) for drop in prepared.journal.drops], _DROPS)
    facts = card(prepared, {str(name): spoken for name, spoken in languages.items()})
    atomic.write_json(folder / "card.json", facts)
    return facts
