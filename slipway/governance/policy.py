"""A policy file, typed: rules that a release must meet. Anything doubtful in it is an error, never a pass."""

from pathlib import Path
from typing import Annotated, Any, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, FiniteFloat, ValidationError, model_validator

from slipway import strict
from slipway.errors import UsageError
from slipway.governance import vocabulary

Words = Annotated[str, Field(min_length=1)]


class Rule(BaseModel):
    """One bound on one metric."""

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True)

    id: Annotated[str, Field(pattern=r"^[a-z0-9][a-z0-9-]*$")]
    metric: str
    at_least: FiniteFloat | None = None
    at_most: FiniteFloat | None = None
    equals: bool | None = None
    use: Literal["value", "low", "high"] = "value"  # which end of the 95 % interval must meet the bound
    minimum_rows: Annotated[int, Field(ge=1)] = 1
    severity: Literal["block", "advise"]
    why: Words
    remedy: Words
    owner: Words

    @model_validator(mode="after")
    def _sensible(self) -> Self:
        known = vocabulary.find(self.metric)
        if known is None:
            raise ValueError(f"there is no metric {self.metric!r}; the metrics are {vocabulary.listing()}")
        given = [name for name in ("at_least", "at_most", "equals") if getattr(self, name) is not None]
        if len(given) != 1:
            raise ValueError(f"needs exactly one of at_least, at_most, equals; it has {', '.join(given) or 'none'}")
        wanted, end = _DIRECTIONS["flag" if known.is_flag else known.better]
        if given != [wanted]:
            raise ValueError(f"{self.metric} {_MEANING[wanted]}, so {given[0]} would let worse ones pass; use {wanted}")
        if self.use not in ("value", end):
            raise ValueError(f"use: {self.use} is the flattering end of {self.metric}; use {end} or value")
        return self

    @property
    def bound(self) -> str:
        end = "" if self.use == "value" else f" ({self.use} end of the 95 % interval)"
        if self.equals is not None:
            return f"= {'yes' if self.equals else 'no'}"
        return (f"≥ {self.at_least:g}" if self.at_least is not None else f"≤ {self.at_most:g}") + end


_DIRECTIONS = {"higher": ("at_least", "low"), "lower": ("at_most", "high"), "flag": ("equals", "value")}
_MEANING = {"at_least": "is better when higher", "at_most": "is better when lower", "equals": "is yes or no"}


class Policy(BaseModel):
    """Everything a release is held against, at least one rule of it blocking."""

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True)

    rules: Annotated[list[Rule], Field(min_length=1)]

    @model_validator(mode="after")
    def _can_refuse(self) -> Self:
        if all(rule.severity != "block" for rule in self.rules):
            raise ValueError("no rule has severity: block, so nothing could ever be refused")
        ids = [rule.id for rule in self.rules]
        if twice := next((name for name in ids if ids.count(name) > 1), None):
            raise ValueError(f"two rules have the id {twice!r}; rename one")
        return self

    @classmethod
    def load(cls, path: Path) -> Self:
        """The policy of a file; every fault is a UsageError with its line."""
        raw = strict.read_yaml(path, "restore it or name another in params.yaml: gate.policy")
        try:
            return cls.model_validate(raw)
        except ValidationError as error:
            raise _fail(error, path, raw) from None


def _fail(error: ValidationError, path: Path, raw: dict[str, Any]) -> UsageError:
    first = error.errors()[0]
    location = first["loc"]
    where = f"{path}:{strict.line_of(path, location)}"
    named = _rule_name(raw, location)
    key = ".".join(str(part) for part in location[2:] or location)
    if first["type"] == "extra_forbidden":
        return UsageError(f"{where}: {named}unknown key {key}; remove it or correct its spelling")
    if first["type"] == "missing":
        return UsageError(f"{where}: {named}{key} is missing; add it")
    if first["type"] == "value_error":
        return UsageError(f"{where}: {named}{first['msg'].removeprefix('Value error, ')}")
    return UsageError(f"{where}: {named}{key} is {first['input']!r}: {first['msg']}; correct it")


def _rule_name(raw: dict[str, Any], location: tuple[str | int, ...]) -> str:
    if len(location) < 2 or location[0] != "rules" or not isinstance(location[1], int):
        return ""
    rule = raw["rules"][location[1]]
    return f"rule {rule.get('id', location[1] + 1)}: " if isinstance(rule, dict) else ""
