"""Expressions in CEL that decide who answers, by the engine and within the limits that policies have."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import cel

from slipway.governance import expressions
from slipway.governance.expressions import CannotTell, Fault

# What an expression may read, each with a value of its kind: a rule is tried on these when it is read.
REQUEST: dict[str, Any] = {
    "prompt_tokens": 100, "max_tokens": 256, "temperature": 1.0, "user_group": "", "track": "champion",
}  # fmt: skip
ANSWER: dict[str, Any] = {"answer": "a text", "answer_tokens": 3, "finish": "stop"}
# By CEL too: its regular expressions take time in step with the text, whatever the pattern.
VALID = "answer.matches(pattern)"


def whole(pattern: str) -> str:
    """A pattern that must match all of a text, lines and all."""
    return f"^(?s:{pattern})$"


@dataclass(frozen=True)
class Rule:
    """One expression, known to compile, to read only known names, and to say yes or no."""

    text: str

    @classmethod
    def read(cls, text: str, names: Mapping[str, Any]) -> "Rule":
        """ValueError saying what is wrong with it."""
        if len(text) > expressions.LONGEST:
            raise ValueError(f"it has {len(text)} characters, more than {expressions.LONGEST}")
        try:
            odd = sorted(set(cel.compile(text).variables()) - set(names))
            if odd:
                raise ValueError(f"{odd[0]} is nothing that can be read here; there are {', '.join(sorted(names))}")
            expressions.holds(text, dict(names))
        except (Fault, CannotTell) as error:
            raise ValueError(f"`{text}`: {error}") from None
        except ValueError as error:
            said = " ".join(str(error).replace("|", " ").replace("^", " ").split())
            raise ValueError(f"`{text}`: {said[:200]}") from None
        return cls(text)

    def holds(self, values: Mapping[str, Any]) -> bool:
        """Yes or no; CannotTell where the values give neither."""
        return expressions.holds(self.text, values)
