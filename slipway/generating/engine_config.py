"""How an engine in this process batches: the `engine` part of configs/serving.yaml."""

from typing import Annotated

from pydantic import BaseModel, ConfigDict, Field


class EngineConfig(BaseModel):
    """What may run at once, and how long a job may wait for company."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    max_batch: Annotated[int, Field(ge=1, le=1024)] = Field(
        default=32, description="Answers that grow at once; memory that does not hold them halves it while it must"
    )
    max_wait_seconds: Annotated[float, Field(ge=0, le=1)] = Field(
        default=0.002, description="How long the first job of an idle engine waits for others to start with"
    )
    max_waiting: Annotated[int, Field(ge=1)] = Field(
        default=256, description="Jobs that may wait for a place; one more is turned away at once"
    )
    prefill_tokens: Annotated[int, Field(ge=16)] = Field(
        default=2048,
        description="Prompt tokens read between two steps of the running answers; a longer prompt in parts",
    )
    threads: Annotated[int, Field(ge=1)] | None = Field(
        default=None, description="CPU threads that compute; none: what the libraries choose"
    )
