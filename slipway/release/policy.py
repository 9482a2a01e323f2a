"""`configs/policies/canary.yaml`, typed: how a candidate is led to all traffic, and what sends it back. Pure."""

from collections.abc import Iterator
from itertools import pairwise
from pathlib import Path
from typing import Annotated, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, StringConstraints

from slipway import strict
from slipway.errors import UsageError
from slipway.release.blocks import Unit
from slipway.release.planning import Design
from slipway.release.rates import Limits
from slipway.release.sequential import Question

FILE = Path("configs") / "policies" / "canary.yaml"

Name = Annotated[str, StringConstraints(pattern=r"^[a-z][a-z0-9_]{0,59}$")]
Percent = Annotated[float, Field(gt=0, le=100)]
Seconds = Annotated[float, Field(ge=0, le=2_592_000)]
Requests = Annotated[int, Field(ge=0, le=100_000_000)]
Margin = Annotated[float, Field(gt=0, lt=0.5)]
Error = Annotated[float, Field(gt=0, le=0.25)]
Role = Literal["primary", "guardrail"]


class _Strict(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, strict=True, allow_inf_nan=False)


class Step(_Strict):
    """A share of the traffic, and what must have been seen at it before the next."""

    candidate_percent: Percent
    min_requests: Requests  # of the candidate
    min_seconds: Seconds
    max_seconds: Seconds
    bake_seconds: Seconds  # once the minimum is met, so long nothing may have failed


class WarmUp(_Strict):
    """What a candidate does first does not count."""

    requests: Requests
    seconds: Seconds


class Primary(_Strict):
    """The quality that must be proven before all traffic."""

    test: Literal["non-inferiority", "superiority"]
    margin: Annotated[float, Field(ge=0, lt=0.5)]
    expected: Margin | None = None  # of superiority: a candidate as much better as this must not be rolled back

    @property
    def question(self) -> Question:
        if self.expected is not None:
            return Question.superiority(self.margin, self.expected)
        return Question.non_inferiority(self.margin)


class SuccessRate(_Strict):
    """Answers that are no errors, of the candidate alone: at `fails_at` or below it fails, at `at_least` it must pass."""

    at_least: Annotated[float, Field(gt=0, lt=1)]
    fails_at: Annotated[float, Field(gt=0, lt=1)]
    must_pass: bool = False


class Share(_Strict):
    """Good answers of both arms: the candidate's share may be lower by less than `margin`."""

    margin: Margin
    must_pass: bool = False


class Exceedance(Share):
    """Answers within a bound that is frozen before the canary: the champion's quantile then, and some per cent more."""

    increase_percent: Annotated[float, Field(ge=0, le=1000)]

    def bound(self, quantile: float) -> float:
        """Where the champion's quantile was this: how much an answer may take to be good."""
        return quantile * (1 + self.increase_percent / 100)


class Latency(Exceedance):
    """As Exceedance; where a limit was promised, it takes the place of the champion's quantile and of the increase."""

    slo_seconds: Annotated[float, Field(gt=0, le=86_400)] | None = None

    def bound(self, quantile: float) -> float:
        return self.slo_seconds if self.slo_seconds is not None else super().bound(quantile)


class Guardrails(_Strict):
    """What must not fail on the way; each may be left out."""

    success_rate: SuccessRate | None = None
    latency_p95: Latency | None = None
    latency_p99: Latency | None = None
    toxicity: Share | None = None
    format_validity: Share | None = None
    cost_per_request: Exceedance | None = None

    @property
    def set(self) -> "dict[str, SuccessRate | Share]":
        return {name: rail for name in type(self).model_fields if (rail := getattr(self, name)) is not None}


class AbortRule(_Strict):
    """A canary ends at once where fewer of the candidate's last answers are good."""

    metric: Name
    below: Annotated[float, Field(gt=0, le=1)]
    of_last: Annotated[int, Field(ge=1, le=100_000)]


class Rollback(_Strict):
    """How traffic goes back: at once, or by falling shares of the candidate."""

    mode: Literal["immediate", "gradual"]
    candidate_percents: list[Annotated[float, Field(ge=0, lt=100)]] = []
    step_seconds: Seconds = 0


class Watched(_Strict):
    """One metric as it is judged."""

    name: str
    role: Role
    must_pass: bool
    question: Question | None  # against the champion
    limits: Limits | None  # of the candidate alone


class Canary(_Strict):
    """All of canary.yaml."""

    steps: Annotated[list[Step], Field(min_length=1)]
    warm_up: WarmUp
    unit: Unit
    primary: dict[Name, Primary]
    guardrails: Guardrails
    alpha: Error
    beta: Error
    abort: list[AbortRule]
    deadline_seconds: Annotated[float, Field(gt=0, le=31_536_000)]
    broken_limit_seconds: Annotated[float, Field(gt=0, le=86_400)]
    supersede: Literal["queue", "supersede"]
    approval: Literal["none", "before_100"]
    rollback: Rollback

    @property
    def watched(self) -> list[Watched]:
        """Every metric that can roll a candidate back; the primary ones must pass too."""
        found = [
            Watched(name=name, role="primary", must_pass=True, question=one.question, limits=None)
            for name, one in self.primary.items()
        ]
        for name, rail in self.guardrails.set.items():
            absolute = Limits(rail.at_least, rail.fails_at) if isinstance(rail, SuccessRate) else None
            relative = Question.non_inferiority(rail.margin) if isinstance(rail, Share) else None
            found.append(
                Watched(name=name, role="guardrail", must_pass=rail.must_pass, question=relative, limits=absolute)
            )
        return found

    @property
    def ramp(self) -> tuple[tuple[float, int], ...]:
        """The steps on which both arms answer."""
        return tuple((s.candidate_percent, s.min_requests) for s in self.steps if s.candidate_percent < 100)

    def design(self, metric: str) -> Design:
        """What decides how long a primary metric takes: all of α, and its share of β."""
        if metric not in self.primary:
            raise UsageError(f"{metric} is no primary metric; {FILE} has {', '.join(self.primary)}")
        return Design(self.primary[metric].question, self.alpha, self.beta / len(self.watched), self.ramp)

    def contradictions(self) -> Iterator[tuple[tuple[str | int, ...], str]]:
        """What no single value is to blame for."""
        if not self.primary:
            yield ("primary",), "no primary metric: nothing could prove a candidate good; add one"
        for name, one in self.primary.items():
            if name in Guardrails.model_fields:
                yield ("primary", name), "this is a guardrail's name; give the primary metric another"
            yield from ((("primary", name, key), why) for key, why in _of_primary(one))
        if not self.abort:
            yield ("abort",), "no abort rule: no canary starts without one; add metric, below and of_last"
        known = {*self.primary, *self.guardrails.set}
        for at, rule in enumerate(self.abort):
            if rule.metric not in known:
                yield ("abort", at, "metric"), f"{rule.metric} is not watched; there are {', '.join(sorted(known))}"
        success = self.guardrails.success_rate
        if success and success.fails_at >= success.at_least:
            yield (
                ("guardrails", "success_rate", "fails_at"),
                f"{success.fails_at:g} is not below at_least ({success.at_least:g})",
            )
        yield from self._of_steps()
        yield from self._of_rollback()

    def _of_steps(self) -> Iterator[tuple[tuple[str | int, ...], str]]:
        for at, (step, after) in enumerate(pairwise(self.steps), 1):
            if after.candidate_percent <= step.candidate_percent:
                yield (
                    ("steps", at, "candidate_percent"),
                    f"{after.candidate_percent:g} does not rise above the step before ({step.candidate_percent:g})",
                )
        last = self.steps[-1].candidate_percent
        if last != 100:
            yield ("steps", len(self.steps) - 1, "candidate_percent"), f"the last step is {last:g}, not 100"
        if len(self.steps) < 2:
            yield ("steps",), "a canary needs a step below 100 %, on which both arms answer"
        for at, step in enumerate(self.steps):
            if step.max_seconds < step.min_seconds + step.bake_seconds:
                yield (
                    ("steps", at, "max_seconds"),
                    f"{step.max_seconds:g} is less than min_seconds and bake_seconds together",
                )
        least = sum(step.min_seconds + step.bake_seconds for step in self.steps if step.candidate_percent < 100)
        if least >= self.deadline_seconds:
            yield ("deadline_seconds",), f"the steps take at least {least:g} s, so no canary could end before it"

    def _of_rollback(self) -> Iterator[tuple[tuple[str | int, ...], str]]:
        percents = self.rollback.candidate_percents
        if self.rollback.mode == "immediate" and percents:
            yield ("rollback", "candidate_percents"), "an immediate rollback has no shares; remove them"
        if self.rollback.mode == "gradual":
            falling = all(a > b for a, b in pairwise(percents))
            if not percents or percents[-1] != 0 or not falling:
                yield ("rollback", "candidate_percents"), "a gradual rollback needs shares that fall and end with 0"

    @classmethod
    def load(cls, path: Path) -> Self:
        """The policy of a file; a fault is a UsageError with its place."""
        return strict.read_typed(path, cls, f"restore it (`git checkout -- {FILE}`): without it no canary starts")


def _of_primary(one: Primary) -> Iterator[tuple[str, str]]:
    if one.test == "non-inferiority":
        if one.margin == 0:
            yield "margin", "is 0: no number of requests shows that two arms do not differ at all; allow some"
        if one.expected is not None:
            yield "expected", "belongs to superiority; remove it"
    elif one.expected is None:
        yield "expected", "is missing; how much better do you hope the candidate is, in parts of 1?"
    elif one.expected <= one.margin:
        yield "expected", f"{one.expected:g} is not above margin ({one.margin:g})"
