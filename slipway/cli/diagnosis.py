"""What one check of `slipway doctor` found."""

from dataclasses import dataclass
from typing import Literal

from slipway.errors import SlipwayError

State = Literal["ok", "warn", "fail"]


@dataclass(frozen=True)
class Diagnosis:
    """One line of the doctor's: fine, worth knowing, or to be fixed, and how."""

    check: str
    state: State
    found: str
    fix: str = ""

    @classmethod
    def ok(cls, check: str, found: str) -> "Diagnosis":
        return cls(check, "ok", found)

    @classmethod
    def warn(cls, check: str, found: str, fix: str) -> "Diagnosis":
        return cls(check, "warn", found, fix)

    @classmethod
    def fail(cls, check: str, found: str, fix: str) -> "Diagnosis":
        return cls(check, "fail", found, fix)

    @classmethod
    def of(cls, check: str, error: SlipwayError, state: State = "fail") -> "Diagnosis":
        """An error of ours already says what to do: its part after the last semicolon."""
        found, _, fix = str(error).rpartition("; ")
        return cls(check, state, found, fix) if found else cls(check, state, fix, "correct it")
