"""configs/gateway.yaml, typed."""

from pathlib import Path
from typing import Annotated, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, StringConstraints, ValidationError, model_validator

from slipway import strict
from slipway.errors import UsageError
from slipway.model import NAME, Name

FILE = Path("configs") / "gateway.yaml"
ADDRESS = r"^(\[[0-9a-fA-F:]+\]|[A-Za-z0-9][A-Za-z0-9.-]{0,252}):([0-9]{1,5})$"

Address = Annotated[str, StringConstraints(pattern=ADDRESS)]
# It is written into HAProxy's configuration between quotes.
File = Annotated[str, StringConstraints(pattern=r"^[^'\"\\\x00-\x1f\x7f]+$", max_length=1000)]
Seconds = Annotated[float, Field(ge=0.05, le=86_400)]
Arm = Literal["champion", "candidate", "shadow"]
ARMS: tuple[Arm, ...] = ("champion", "candidate", "shadow")


class _Part(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)


class Limits(_Part):
    """What a client may send."""

    body_bytes: Annotated[int, Field(ge=1024, le=16_777_216)] = 131_072
    header_bytes: Annotated[int, Field(ge=1024, le=131_072)] = 16_384
    headers: Annotated[int, Field(ge=10, le=1000)] = 100
    header_seconds: Seconds = 5
    body_seconds: Seconds = 10
    connections: Annotated[int, Field(ge=10, le=1_000_000)] = 4096
    connections_per_address: Annotated[int, Field(ge=1)] = 512
    requests_per_minute: Annotated[int, Field(ge=1, le=100_000_000)] = 60_000


class Budgets(_Part):
    """How long an answer may take before somebody else gives it, by kind of request."""

    stream: Seconds = 5
    chat: Seconds = 30
    completion: Seconds = 30
    champion: Seconds = 300


class Breaker(_Part):
    """When a candidate is taken out at once: so many bad answers of its last ones."""

    bad: Annotated[int, Field(ge=1)] = 5
    last: Annotated[int, Field(ge=1, le=10_000)] = 20

    @model_validator(mode="after")
    def _possible(self) -> Self:
        if self.bad > self.last:
            raise ValueError(f"bad ({self.bad}) can never be reached in the last {self.last}")
        return self


class Shadow(_Part):
    """How copies of requests are handled."""

    in_flight: Annotated[int, Field(ge=1, le=1000)] = 8
    keep_texts: bool = False


class Served(_Part):
    """One model behind the gateway, and where its arms are when they run elsewhere."""

    name: Name
    champion: list[Address] = []
    candidate: list[Address] = []
    shadow: list[Address] = []


class Config(_Part):
    """All of configs/gateway.yaml."""

    listen: Address = "127.0.0.1:8080"
    admin: Address = "127.0.0.1:8081"
    haproxy: File | None = None
    threads: Annotated[int, Field(ge=1, le=64)] = 1
    slots: Annotated[int, Field(ge=1, le=64)] = 8
    certificate: File | None = None
    client_ca: File | None = None
    authentication: Literal["none", "keys"] = "none"
    force_arm: Literal["nobody", "testers", "anyone"] = "testers"
    identity: Annotated[list[Literal["header", "cookie", "key", "address"]], Field(min_length=1)] = [
        "header", "cookie", "key", "address",
    ]  # fmt: skip
    limits: Limits = Limits()
    budgets: Budgets = Budgets()
    breaker: Breaker = Breaker()
    shadow: Shadow = Shadow()
    models: Annotated[list[Served], Field(min_length=1)]

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        names = [served.name for served in self.models]
        if twice := sorted({name for name in names if names.count(name) > 1}):
            raise ValueError(f"the model {twice[0]} stands twice; keep one")
        for served in self.models:
            if any(len(getattr(served, arm)) > self.slots for arm in ARMS):
                raise ValueError(f"{served.name} has an arm of more replicas than slots ({self.slots}); raise slots")
        if self.client_ca and not self.certificate:
            raise ValueError("client_ca without certificate: client certificates need TLS; set certificate")
        return self

    def served(self, model: str) -> Served:
        """A model by its name; UsageError naming those there are."""
        for one in self.models:
            if one.name == model:
                return one
        raise UsageError(
            f"no model {ascii(model)[:80]} behind this gateway; it has {', '.join(m.name for m in self.models)}"
        )


def load(root: Path, path: Path | None = None) -> Config:
    """The project's gateway configuration, or another file; UsageError naming file, line and key."""
    path = path or root / FILE
    try:
        return Config.model_validate(strict.read_yaml(path))
    except ValidationError as error:
        first = error.errors()[0]
        key = ".".join(str(part) for part in first["loc"]) or "the file"
        where = f"{path}:{strict.line_of(path, first['loc'])}"
        if first["type"] == "extra_forbidden":
            raise UsageError(f"{where}: unknown key {key}; remove it or correct its spelling") from None
        said = first["msg"].removeprefix("Value error, ")
        shown = "" if first["type"] == "value_error" else f" is {first['input']!r:.80}"
        raise UsageError(f"{where}: {key}{shown}: {said}; correct the value") from None


def split(address: str) -> tuple[str, int]:
    """Host and port of an address that was validated."""
    host, _, port = address.rpartition(":")
    return host, int(port)


__all__ = [
    "ADDRESS",
    "ARMS",
    "NAME",
    "Arm",
    "Breaker",
    "Budgets",
    "Config",
    "Limits",
    "Served",
    "Shadow",
    "load",
    "split",
]
