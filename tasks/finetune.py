"""Tune the base on the prepared data."""

from slipway import atomic, digest, journal
from slipway.artifacts import Manifest, Validation
from slipway.errors import Refused, StageError
from slipway.params import FinetuneParams
from tasks._stage import Input, Metrics, Output, Scratch, stage


@stage(retries=2)
def finetune(
    params: FinetuneParams,
    base: Input,
    prepared: Input,
    validation: Input,
    adapter: Output,
    loss: Output,
    checkpoints: Scratch,
) -> Metrics:
    """Write the adapter and its loss curve; never on data that validation refused or has not seen."""
    judged = Validation.load(validation)
    if not judged.passed:
        failed = [f"{c.suite}: {c.expectation}" for c in judged.checks if not c.passed and c.severity == "critical"]
        why = "; ".join(failed) or "no reason given"
        raise Refused(f"{validation} says the data failed ({why}); correct the data, then run again")
    about_base = Manifest.verified(base)
    about_data = Manifest.verified(prepared)
    if about_data.digest != judged.prepared_digest:
        raise Refused(
            f"{validation} is about other data: {prepared} is {about_data.digest}, validated was "
            f"{judged.prepared_digest}; run validate again"
        )
    made_for, tokenizer = about_data.facts.get("tokenizer_sha256"), digest.of_file(base / "tokenizer.json")
    if made_for != tokenizer:
        raise StageError(
            f"{prepared} holds tokens of another base: its tokenizer.json was {made_for}, {base} has {tokenizer}; "
            f"run prepare again"
        )
    from slipway.training import loop

    tuned = loop.train(base, prepared / "tokens", params, checkpoints, journal.log)
    tuned.model.save(adapter, str(about_base.facts["source"]))
    facts = {
        "method": params.method,
        "base_digest": about_base.digest,
        "steps": tuned.state.step,
        "best_step": tuned.kept_step,
        "trained_parameters": sum(p.numel() for p in tuned.model.parameters.values()),
        "precision": "bf16" if tuned.model.half else "fp32",
        "device": tuned.model.device.type,
    }
    Manifest.write(adapter, facts)
    atomic.write_json(loss, tuned.state.records)
    held_out = {} if tuned.state.best_loss is None else {"validation_loss": tuned.state.best_loss}
    steps = {"steps": float(tuned.state.step), "best_step": float(tuned.kept_step)}
    return {"train_loss": tuned.train_loss} | steps | held_out
