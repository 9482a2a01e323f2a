"""Which number a candidate gets. Pure: what is known goes in, a number comes out; the ledger sees to it that it is free.

semantic    from what changed against the newest version: base, tokenizer or template → major; data, method, shape or
            recipe → minor; seed, epochs, the same again → patch. Raising `version` in configs/model.yaml wins.
timestamp   2026.11.21-1432, UTC; 2026.11.21-907 at seven past nine
serial      1.0.0, 2.0.0, 3.0.0
explicit    `version` of configs/model.yaml as it stands there; refused where another candidate has it

Whatever the strategy, three numbers stand first and without leading zeros: every tool that reads versions takes them.
"""

import re
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any, Literal

from slipway.errors import Refused, UsageError

Strategy = Literal["semantic", "timestamp", "serial", "explicit"]
FIRST = "1.0.0"
_SEMANTIC = re.compile(r"(0|[1-9]\d*)\.(0|[1-9]\d*)\.(0|[1-9]\d*)(?:-([0-9A-Za-z.-]+))?(?:\+[0-9A-Za-z.-]+)?")
# Values of params.yaml's finetune section that make another model of the same recipe.
_SAME_RECIPE = frozenset(["seed", "epochs", "max_steps", "evaluate_every", "patience", "deterministic", "threads"])
# Parts of a model's identity that are another base: whoever prompts it will notice.
_BASE = ("base", "tokenizer", "chat_template", "generation", "quantisation")

Order = tuple[int, int, int, int, tuple[tuple[int, int, str], ...]]


@dataclass(frozen=True)
class Made:
    """What a candidate is made from, as far as its number goes."""

    parts: Mapping[str, str]  # of its identity
    data: str
    training: Mapping[str, Any]  # the finetune section of params.yaml

    @property
    def recipe(self) -> dict[str, Any]:
        """How it is trained, without what differs from one training of a recipe to the next."""
        ours = {key: value for key, value in self.training.items() if key not in _SAME_RECIPE}
        if ours.get("method") != "lora":  # its shape says nothing then
            ours.pop("lora", None)
        return ours


@dataclass(frozen=True)
class Known:
    """What a number must fit in with."""

    taken: Collection[str]  # every number ever given for this name, tombstones and reservations included
    serial: int  # of this candidate: 1, 2, 3, …
    newest: Made | None  # the version entered last; None before the first


def number(strategy: Strategy, made: Made, known: Known, stated: str | None, now: datetime) -> str:
    """The number of a new version."""
    if strategy == "explicit":
        return _explicit(stated, known)
    if strategy == "timestamp":
        return _timestamp(known, now)
    if strategy == "serial":
        return _free(f"{known.serial}.0.0", known.taken, lambda last: _raised(last, "major"))
    return _semantic(made, known, stated)


def change(made: Made, newest: Made) -> Literal["major", "minor", "patch"]:
    """How much a candidate differs from the version before it."""
    if any(made.parts.get(name) != newest.parts.get(name) for name in _BASE):
        return "major"
    return "minor" if (made.data, made.recipe) != (newest.data, newest.recipe) else "patch"


def order(version: str) -> Order | None:
    """What semantic versions are sorted by; None for a number of another form."""
    if (found := _SEMANTIC.fullmatch(version)) is None:
        return None
    major, minor, patch = (int(part) for part in found.group(1, 2, 3))
    before = found.group(4)
    parts = (
        tuple((0, int(part), "") if part.isdigit() else (1, 0, part) for part in before.split(".")) if before else ()
    )
    return major, minor, patch, 0 if before else 1, parts


def highest(versions: Collection[str]) -> str | None:
    known = [(place, version) for version in versions if (place := order(version)) is not None]
    return max(known)[1] if known else None


def _semantic(made: Made, known: Known, stated: str | None) -> str:
    last = highest(known.taken)
    if stated is not None and (last is None or _rank(stated) > _rank(last)):
        return stated
    if last is None:
        return FIRST
    by = change(made, known.newest) if known.newest else "minor"
    return _free(_raised(last, by), known.taken, lambda taken: _raised(taken, "patch"))


def _explicit(stated: str | None, known: Known) -> str:
    if stated is None:
        raise UsageError("`numbering: explicit` needs a version in configs/model.yaml, as in 1.0.0; write one")
    if stated in known.taken:
        free = _free(_raised(stated, "patch"), known.taken, lambda taken: _raised(taken, "patch"))
        raise Refused(
            f"version {stated} (configs/model.yaml) is taken by another candidate; the next free one is {free}: "
            f"write it there, or leave numbering to `numbering: semantic`"
        )
    return stated


def _timestamp(known: Known, now: datetime) -> str:
    at = now.astimezone(UTC)
    first = f"{at.year}.{at.month}.{at.day}-{at.hour * 100 + at.minute}"  # SemVer takes no leading zero
    count = iter(range(2, len(known.taken) + 3))
    return _free(first, known.taken, lambda _: f"{first}.{next(count)}")


def _free(version: str, taken: Collection[str], following: Callable[[str], str]) -> str:
    while version in taken:
        version = following(version)
    return version


def _raised(version: str, by: Literal["major", "minor", "patch"]) -> str:
    major, minor, patch, final, _ = _rank(version)
    if by == "major":
        return f"{major + 1}.0.0"
    if by == "minor":
        return f"{major}.{minor + 1}.0"
    return f"{major}.{minor}.{patch + (1 if final else 0)}"  # after 1.0.0-rc.1 comes 1.0.0


def _rank(version: str) -> Order:
    return order(version) or (0, 0, 0, 0, ())
