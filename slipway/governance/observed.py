"""Observations under the names that rules read. Pure: what could not be observed keeps the reason why."""

from typing import Any

from pydantic import BaseModel

from slipway.artifacts import Advisories, Observations, Vulnerability
from slipway.governance import vocabulary
from slipway.governance.measures import Measure

PARTS = ("commit", "lock", "servability", "holdout", "advisories", "licences", "signature", "card")


def measures(observations: Observations) -> dict[str, Measure]:
    """Every name that only the register act knows."""
    found = {"observations.at": Measure(observations.at), "tags": Measure(list(observations.tags))}
    found["approvals"] = Measure([approval.model_dump() for approval in observations.approvals])
    for part in PARTS:
        found |= _of_part(part, getattr(observations, part), observations.missing.get(part))
    return found | _of_model(observations.model)


def _of_part(part: str, seen: BaseModel | None, why: str | None) -> dict[str, Measure]:
    prefix = f"observations.{part}."
    names = [name for name in vocabulary.NAMES if name.startswith(prefix)]
    if seen is None:
        return {name: Measure.missing(why or f"{part} was not observed") for name in names}
    values = _values(seen)
    return {name: Measure(values[name.removeprefix(prefix)]) for name in names}


def _values(seen: BaseModel) -> dict[str, Any]:
    values = dict(seen)
    if isinstance(seen, Advisories):
        values["vulnerable"] = [_line(one) for one in seen.vulnerable]
    return values


def _line(one: Vulnerability) -> str:
    fixed = f" (fixed in {', '.join(one.fixed_in)})" if one.fixed_in else ""
    return f"{one.package} {one.version} {one.id}{fixed}"


def _of_model(model: dict[str, Any]) -> dict[str, Measure]:
    """configs/model.yaml by dotted name; what is empty or null there is not there."""
    found: dict[str, Measure] = {}
    for name in (name.removeprefix("model.") for name in vocabulary.NAMES if name.startswith("model.")):
        value: Any = model
        for part in name.split("."):
            value = value.get(part) if isinstance(value, dict) else None
        if (kept := _kept(value)) is not None:
            found[f"model.{name}"] = Measure(kept)
    return found


def _kept(value: Any) -> Any:
    """Without nulls at any depth."""
    if isinstance(value, dict):
        return {key: kept for key, inner in value.items() if (kept := _kept(inner)) is not None}
    return value
