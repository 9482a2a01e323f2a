"""Tune (stub)."""

from slipway import atomic, journal
from slipway.artifacts import Manifest, Validation
from slipway.errors import Refused
from slipway.params import FinetuneParams
from tasks import _faults
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
    judged = Validation.load(validation)
    if not judged.passed:
        raise Refused(f"{validation} says the data failed; correct it")
    if judged.prepared_digest != Manifest.verified(prepared).digest:
        raise Refused(f"{validation} is about other data; run validate again")
    done = checkpoints / "step-1"
    if done.exists():
        print("resumed from step 1", flush=True)
    done.write_text("1")
    _faults.act("finetune", adapter)
    for step in range(3):
        journal.log({"loss": 1.0 / (step + 1)}, step)
    adapter.mkdir()
    (adapter / "weights.txt").write_text(f"{(base / 'weights.txt').read_text()} rank {params.lora.rank}")
    Manifest.write(adapter, facts={"method": "lora", "base_digest": Manifest.load(base / "manifest.json").digest})
    atomic.write_json(loss, [{"step": 1, "train_loss": 1.0, "validation_loss": 1.0, "learning_rate": 0.1}])
    return {"train_loss": 0.5}
