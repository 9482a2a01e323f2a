"""params.yaml, typed: one section a stage, unknown keys refused.

No field has a default: a value that changes bytes stands in params.yaml, where DVC sees it.
"""

from pathlib import Path
from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from slipway import strict
from slipway.errors import UsageError

Share = Annotated[float, Field(ge=0, le=1)]
Count = Annotated[int, Field(ge=1)]


class Section(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)


class IngestParams(Section):
    source: str = Field(description="`sample`, a local path or glob, s3://bucket/prefix, or hf://dataset@revision")
    test_source: str | None = Field(description="Held-out rows, in the same forms; none: split from the data")


class TinyParams(Section):
    """The small Llama that is pretrained here when base is `tiny`."""

    layers: Count
    hidden_size: Count
    heads: Count
    vocabulary: Annotated[int, Field(ge=300)]
    max_length: Annotated[int, Field(ge=32)]
    steps: Count
    batch_size: Count
    learning_rate: Annotated[float, Field(gt=0)]


class FetchParams(Section):
    base: str = Field(description="`tiny`, a local model folder, or a Hugging Face id")
    revision: str | None = Field(description="Branch, tag or commit of a Hugging Face id")
    seed: int
    threads: Count
    tiny: TinyParams


class SplitParams(Section):
    validation: Share
    test: Share
    seed: int


class PrepareParams(Section):
    max_row_bytes: Count = Field(description="Longer rows are dropped, with the reason")
    max_length: Annotated[int, Field(ge=8)] = Field(description="Tokens a packed sequence; longer rows are dropped")
    label_pattern: str | None = Field(description="Regular expression whose group 1, in the answer, is the row's label")
    near_duplicate_similarity: Share = Field(
        description="Jaccard similarity of prompts from which one of two rows goes"
    )
    redact: list[Literal["email", "phone", "card", "iban", "ip"]]
    split: SplitParams
    threads: Count


class ValidateParams(Section):
    rows_shown: Count = Field(description="Row numbers kept for each expectation that fails")
    personal: list[Literal["email", "phone", "card", "iban", "ip"]] = Field(
        description="Personal data that prepared rows may not hold any more"
    )
    most_doubtful_labels: Share = Field(
        description="Share of training rows whose text may speak for another label before that is critical"
    )


class LoraParams(Section):
    rank: Count
    alpha: Count
    dropout: Annotated[float, Field(ge=0, lt=1)]
    target_modules: Literal["all-linear"] | list[str]


class FinetuneParams(Section):
    method: Literal["lora", "full"]
    lora: LoraParams
    precision: Literal["auto", "fp32", "bf16"]
    epochs: Annotated[float, Field(gt=0)]
    max_steps: Count | None = Field(description="Stops earlier than epochs would, where given")
    batch_size: Count = Field(description="Packed sequences an optimizer step (over accumulation)")
    micro_batch_size: Count = Field(description="Packed sequences at once on the device; halved when memory runs out")
    learning_rate: Annotated[float, Field(gt=0)]
    schedule: Literal["cosine", "linear"]
    warmup_share: Share
    weight_decay: Annotated[float, Field(ge=0)]
    max_grad_norm: Annotated[float, Field(gt=0)]
    evaluate_every: Count = Field(description="Steps between held-out losses (and checkpoints)")
    patience: Count | None = Field(description="Held-out losses without improvement before stopping early")
    deterministic: bool
    seed: int
    threads: Count


class EvaluateParams(Section):
    max_new_tokens: Count
    batch_size: Count
    max_rows: Count | None = Field(description="Test rows scored (the first by id), none: all")
    bootstrap_resamples: Annotated[int, Field(ge=100)]
    format: str = Field(description="What an answer must look like: `any` (not empty), `json`, or a regular expression")
    slices: list[str] = Field(description="Columns of the test rows whose values are also compared on their own")
    suite: str = Field(description="The benchmarks to run, a folder of configs/evals")
    seed: int
    threads: Count


class GateParams(Section):
    policy: str = Field(description="The policy file to judge by, below configs/policies")


class Params(Section):
    """All of params.yaml."""

    ingest: IngestParams
    fetch: FetchParams
    prepare: PrepareParams
    validate_: ValidateParams = Field(alias="validate")
    finetune: FinetuneParams
    evaluate: EvaluateParams
    gate: GateParams


def _fail(error: ValidationError, path: Path, prefix: tuple[str, ...]) -> UsageError:
    first = error.errors()[0]
    location = (*prefix, *first["loc"])
    key, line = ".".join(str(part) for part in location), strict.line_of(path, location)
    if first["type"] == "missing":
        return UsageError(
            f"{path}:{line}: {key} is missing; every value stands in params.yaml, see docs/guide/params.md"
        )
    if first["type"] == "extra_forbidden":
        return UsageError(f"{path}:{line}: unknown key {key}; remove it or correct its spelling")
    return UsageError(f"{path}:{line}: {key} is {first['input']!r}: {first['msg']}; correct the value")


def load_all(path: Path = Path("params.yaml")) -> Params:
    raw = strict.read_yaml(path)
    try:
        return Params.model_validate(raw)
    except ValidationError as error:
        raise _fail(error, path, ()) from None


def load(stage: str, path: Path = Path("params.yaml")) -> Section:
    """One stage's section and nothing else: what DVC does not track for it cannot be read."""
    raw = strict.read_yaml(path)
    field = next(f for name, f in Params.model_fields.items() if (f.alias or name) == stage)
    if unknown := raw.keys() - {f.alias or name for name, f in Params.model_fields.items()}:
        raise UsageError(f"{path}: unknown section {sorted(unknown)[0]}; remove it or correct its spelling")
    if stage not in raw:
        raise UsageError(f"{path}: the section {stage} is missing; see docs/guide/params.md")
    section = field.annotation
    assert isinstance(section, type) and issubclass(section, Section)
    try:
        return section.model_validate(raw[stage])
    except ValidationError as error:
        raise _fail(error, path, (stage,)) from None
