"""Clean, deduplicate, redact, decontaminate, split, tokenise and pack."""

from slipway import digest
from slipway.artifacts import Manifest
from slipway.data import preparation, storage
from slipway.data.split import SPLITS
from slipway.params import PrepareParams
from tasks._stage import Input, Metrics, Output, stage


@stage()
def prepare(params: PrepareParams, raw: Input, base: Input, prepared: Output) -> Metrics:
    source, model = Manifest.verified(raw), Manifest.verified(base)
    files = {raw / name: role for name, role in sorted(source.facts["roles"].items())}
    result = preparation.prepare(params, files, base, model.facts.get("max_length"))
    card = storage.save(result, prepared, params.threads)
    counts = {name: card["splits"][name]["rows"] for name in SPLITS}
    facts = {
        "rows": counts,
        "tokenizer_sha256": digest.of_file(base / "tokenizer.json"),
        "max_length": params.max_length,
        "label_pattern": params.label_pattern,
        "chat_template": card["chat_template"],
    }
    Manifest.write(prepared, facts=facts, rows={f"rows/{name}.parquet": count for name, count in counts.items()})
    return {
        "rows_in": float(card["rows_in"]),
        "rows_out": float(card["rows_out"]),
        **{f"{name}_rows": float(count) for name, count in counts.items()},
        "drop_rate": card["drop_rate"],
        "duplicate_rate": card["duplicate_rate"],
        "train_tokens": float(card["splits"]["train"]["tokens"]),
        "train_packs": float(card["splits"]["train"]["packs"]),
    }
