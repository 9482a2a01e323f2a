"""configs/model.yaml, typed: who the model is and what it is for.

Read when acting, never by a stage. A value may be missing (the policy says which ones a release needs, and its rule
names the missing one); a value that stands here must be of its kind, on one line, and no key may be unknown.
"""

from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, StringConstraints, ValidationError

from slipway import strict
from slipway.errors import UsageError

FILE = Path("configs") / "model.yaml"
NAME = r"[A-Za-z0-9][A-Za-z0-9._-]{0,62}"
_VERSION = r"(0|[1-9]\d*)\.(0|[1-9]\d*)\.(0|[1-9]\d*)(-[0-9A-Za-z.-]+)?(\+[0-9A-Za-z.-]+)?"
# No control or format character (a newline, an escape sequence, a right-to-left override) may hide in a value.
_ONE_LINE = r"[^\x00-\x1f\x7f-\x9f\u200b-\u200f\u2028-\u202f\u2060-\u206f\ufeff]+"

Name = Annotated[str, StringConstraints(pattern=f"^{NAME}$")]
Version = Annotated[str, StringConstraints(pattern=f"^{_VERSION}$", max_length=64)]
Words = Annotated[str, StringConstraints(pattern=f"^{_ONE_LINE}$", min_length=1, max_length=1000)]
Licence = Annotated[str, StringConstraints(pattern=r"^[A-Za-z0-9][A-Za-z0-9 .+()-]*$", max_length=100)]  # SPDX
Tag = Annotated[str, StringConstraints(pattern=r"^[A-Za-z0-9][A-Za-z0-9 ._:/-]*$", max_length=64)]


class _Part(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, strict=True, allow_inf_nan=False)


class Dataset(_Part):
    """The rows it learnt from, by the name people know them by."""

    name: Words | None = None
    version: Words | None = None


class Hardware(_Part):
    """What it needs to serve."""

    accelerator: Words | None = None
    memory_gb: Annotated[float, Field(gt=0)] | None = None
    disk_gb: Annotated[float, Field(gt=0)] | None = None


class Model(_Part):
    """All of configs/model.yaml."""

    name: Name | None = None
    version: Version | None = None
    numbering: Literal["semantic", "timestamp", "serial", "explicit"] = "semantic"
    task_type: Tag | None = None
    description: Words | None = None
    intended_use: Words | None = None
    limitations: list[Words] = []
    author: Words | None = None
    team: Words | None = None
    licence: Licence | None = None
    base_licence: Licence | None = None
    data_licence: Licence | None = None
    dataset: Dataset = Dataset()
    languages: list[Tag] = []
    hardware: Hardware = Hardware()
    deployment_targets: list[Tag] = []
    compliance_tags: list[Tag] = []
    holdout_budget: Annotated[int, Field(ge=1)] | None = None


def load(root: Path) -> Model:
    """configs/model.yaml of a project; UsageError naming the line of a value that cannot be."""
    path = root / FILE
    try:
        return Model.model_validate(_in_kind(strict.read_yaml(path)))
    except ValidationError as error:
        first = error.errors()[0]
        key = ".".join(str(part) for part in first["loc"])
        where = f"{path}:{strict.line_of(path, first['loc'])}"
        if first["type"] == "extra_forbidden":
            raise UsageError(f"{where}: unknown key {key}; remove it or correct its spelling") from None
        raise UsageError(f"{where}: {key} is {first['input']!r:.80}: {_said(first)}; correct the value") from None


def _in_kind(raw: dict[str, Any]) -> dict[str, Any]:
    """Whole numbers are memory sizes too; an empty list or part may be left out."""
    given = {key: value for key, value in raw.items() if value is not None}
    if isinstance(hardware := given.get("hardware"), dict):
        whole = {key: float(value) for key, value in hardware.items() if type(value) is int}
        given["hardware"] = hardware | whole
    return given


def _said(error: Any) -> str:
    """What is wrong with a value, in words rather than as a pattern."""
    if error["type"] != "string_pattern_mismatch":
        return str(error["msg"])
    patterns = {
        f"^{NAME}$": "letters, digits, `.`, `_` and `-`, 63 at most, a letter or digit first",
        f"^{_VERSION}$": "a version has three numbers, as in 1.0.0",
        f"^{_ONE_LINE}$": "one line of visible text, without control characters",
    }
    return patterns.get(error["ctx"]["pattern"], "letters, digits, spaces and a few signs (`.`, `-`, …) only")
