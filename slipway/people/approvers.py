"""`configs/policies/approvals.yaml`, typed: who may say yes to what, how many must, and for how long. Pure."""

import unicodedata
from collections import Counter
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Annotated, Self

from pydantic import BaseModel, ConfigDict, Field, StringConstraints

from slipway import strict
from slipway.governance.policy import TRANSITIONS

FILE = Path("configs") / "policies" / "approvals.yaml"
REGISTER = "register"  # entering the registry: the one act that is no change of stage
ACTS = (REGISTER, *TRANSITIONS)

Word = Annotated[str, StringConstraints(pattern=r"^[^\x00-\x1f\x7f-\x9f]+$", max_length=200)]
Key = Annotated[str, StringConstraints(pattern=r"^[0-9a-f]{16,64}$")]


class _Strict(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, strict=True)


class Person(_Strict):
    """Somebody, under every name and key they are known by."""

    names: list[Word] = []
    keys: list[Key] = []


class Quorum(_Strict):
    """How many people must approve, and how many of them of each role."""

    approvals: Annotated[int, Field(ge=1, le=100)]
    roles: dict[Word, Annotated[int, Field(ge=1, le=100)]] = {}


class BreakGlass(_Strict):
    most_hours: Annotated[int, Field(ge=1, le=168)]
    follow_up_hours: Annotated[int, Field(ge=1, le=720)]


class Approvers(_Strict):
    """All of approvals.yaml."""

    solo: bool
    signature: bool
    expiry_hours: Annotated[int, Field(ge=1, le=720)]
    people: dict[Word, Person]
    roles: dict[Word, list[Word]]
    transitions: dict[str, Quorum]
    break_glass: BreakGlass

    @classmethod
    def load(cls, root: Path) -> Self:
        """The project's; a fault is a UsageError with its line, and without the file nothing is approved."""
        path = root / FILE
        return strict.read_typed(path, cls, f"restore it (`git checkout -- {FILE}`): without it nobody can approve")

    def contradictions(self) -> Iterator[tuple[tuple[str, ...], str]]:
        """What no single value is to blame for."""
        owners: dict[str, str] = {}
        for who, about in self.people.items():
            for name in {*map(folded, (who, *about.names)), *about.keys}:
                if owners.setdefault(name, who) != who:
                    yield (
                        ("people", who),
                        f"{name} is {owners[name]} as well; one name and one key belong to one person",
                    )
        for role, members in self.roles.items():
            if unknown := [name for name in members if name not in self.people]:
                yield ("roles", role), f"{unknown[0]} is not among `people`; add them there, with their names"
        for act, quorum in self.transitions.items():
            if act not in ACTS:
                yield ("transitions", act), f"there is no such change; there are {', '.join(ACTS)}"
            for role, count in quorum.roles.items():
                if (there := len(set(self.roles.get(role, [])))) < count:
                    yield ("transitions", act), f"asks for {count} of the role {role}, which {there} people have"
            if (
                len({name for role in quorum.roles for name in self.roles.get(role, [])}) < quorum.approvals
                and quorum.roles
            ):
                yield (
                    ("transitions", act),
                    f"asks for {quorum.approvals} approvals, and fewer people have one of its roles",
                )

    # --- people -----------------------------------------------------------------------------------------------------

    def owner_of(self, key: str) -> str | None:
        """Whose key it is. What its maker wrote on it says nothing: anybody can make one in anybody's name."""
        return next((who for who, about in self.people.items() if any(map(key.startswith, about.keys))), None)

    def person(self, name: str, key: str | None = None) -> str:
        """Who somebody is: by the key they used, else by name. An unlisted key is nobody else's, an unknown name itself."""
        if key is not None:
            return self.owner_of(key) or f"key:{key}"
        for who, about in self.people.items():
            if folded(name) in map(folded, (who, *about.names)):
                return who
        return folded(name)

    def roles_of(self, person: str) -> list[str]:
        return sorted(role for role, members in self.roles.items() if person in members)

    def may(self, person: str, act: str) -> bool:
        """Whether a person's word counts for an act at all."""
        asked = self.transitions.get(act)
        return asked is None or not asked.roles or any(role in asked.roles for role in self.roles_of(person))

    def wanting(self, act: str, people: Iterable[str]) -> list[str]:
        """What these people's approvals lack, in words; nothing where they are enough."""
        asked, there = self.transitions.get(act), set(people)
        if asked is None:
            return []
        lack = asked.approvals - len(there)
        found = [f"{lack} more approval{'s' * (lack > 1)}"] if lack > 0 else []
        have = Counter(role for person in there for role in self.roles_of(person))
        return found + [f"{n - have[role]} of the role {role}" for role, n in asked.roles.items() if have[role] < n]


def folded(name: str) -> str:
    """A name without what people do not see: case, width, accents' encodings, invisible characters, outer space."""
    shown = unicodedata.normalize("NFKC", name)
    return "".join(one for one in shown if unicodedata.category(one)[0] != "C").casefold().strip()
