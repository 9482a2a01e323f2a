"""Traffic as users would make it: prompts at a steady rate, graded answers, and what became of every single request.

Requests leave on time whether or not answers come (an open loop): a slow server sees a queue, as in life, and its
latency counts from when the request was due.
"""

import asyncio
import contextlib
import json
import math
import random
import time
from collections import Counter, defaultdict
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from slipway import strict
from slipway.artifacts import Json
from slipway.errors import UsageError
from slipway.gateway.client import Answer, Client

MOST_LINES = 1_000_000


@dataclass(frozen=True)
class Prompt:
    """One question, who asks it, and what is right."""

    messages: list[Json]
    answer: str | None
    user: str | None


@dataclass(frozen=True)
class Plan:
    """How much traffic, for how long."""

    rate: float
    seconds: float
    requests: int = 0  # 0: as many as fit
    stream: float = 0.0
    feedback: float = 1.0
    users: int = 100
    max_tokens: int = 0  # 0: as the server says
    model: str | None = None
    seed: int = 0
    timeout_seconds: float = 120.0

    def checked(self) -> "Plan":
        """Itself; UsageError where it makes no sense."""
        for name, low, high in (
            ("rate", 0.001, 100_000), ("seconds", 0.001, 86_400), ("requests", 0, 10**9), ("stream", 0, 1),
            ("feedback", 0, 1), ("users", 1, 10**9), ("max_tokens", 0, 10**6),
        ):  # fmt: skip
            value = getattr(self, name)
            if not math.isfinite(value) or not low <= value <= high:
                raise UsageError(f"--{name.replace('_', '-')} is {value}, not within {low:g} and {high:g}; correct it")
        return self

    @property
    def count(self) -> int:
        fit = max(1, math.floor(self.rate * self.seconds))
        return min(fit, self.requests) if self.requests else fit


def read(path: Path) -> list[Prompt]:
    """Prompts from JSON lines: `prompt` or `messages`, `answer` (or a last assistant message), `user`."""
    found = []
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise UsageError(
            f"{path} cannot be read ({getattr(error, 'strerror', None) or 'not UTF-8'}); name a JSONL file"
        ) from None
    for number, line in enumerate(lines[:MOST_LINES], 1):
        if line.strip():
            found.append(_prompt(f"{path}:{number}", line))
    if not found:
        raise UsageError(f"{path} holds no prompts; each line is an object with `prompt` or `messages`")
    return found


def _prompt(where: str, line: str) -> Prompt:
    try:
        row = strict.loads_json(line)
    except ValueError as error:
        raise UsageError(f"{where}: no JSON ({error}); correct the line") from None
    messages = row.get("messages") if isinstance(row, dict) else None
    if isinstance(row, dict) and isinstance(row.get("prompt"), str):
        messages = [{"role": "user", "content": row["prompt"]}]
    if not isinstance(messages, list) or not messages or not all(isinstance(one, dict) for one in messages):
        raise UsageError(f"{where}: neither `prompt` nor `messages`; each line needs one of them")
    answer = row.get("answer")
    if messages[-1].get("role") == "assistant":
        answer, messages = answer or messages[-1].get("content"), messages[:-1]
    user = row.get("user")
    return Prompt(messages, None if answer is None else str(answer), None if user is None else str(user))


@dataclass
class Tally:
    """What became of the requests."""

    sent: int = 0
    ok: int = 0
    streams: int = 0
    cut: int = 0  # began and did not end
    lost: int = 0  # nothing came, or no answer in time
    resent: int = 0  # sent again, because the kept connection they were sent on closed without a word
    failovers: int = 0  # answered by the champion in the candidate's place
    statuses: Counter[str] = field(default_factory=Counter)
    problems: Counter[str] = field(default_factory=Counter)
    versions: Counter[str] = field(default_factory=Counter)
    seconds: list[float] = field(default_factory=list)
    first_bytes: list[float] = field(default_factory=list)
    by_user: dict[str, list[str]] = field(default_factory=lambda: defaultdict(list))  # versions, in the order of asking
    graded: Counter[str] = field(default_factory=Counter)
    right: Counter[str] = field(default_factory=Counter)
    feedback_failed: int = 0

    @property
    def flips(self) -> int:
        """How often a user came to another version."""
        return sum(max(0, len(seen) - 1) for seen in self.by_user.values())

    @property
    def flips_back(self) -> int:
        """How often a user came to a version that they had left."""
        return sum(len(seen) - len(set(seen)) for seen in self.by_user.values())

    def summary(self, wall_seconds: float) -> Json:
        errors = self.sent - self.ok
        return {
            "sent": self.sent,
            "ok": self.ok,
            "errors": errors,
            "lost": self.lost,
            "cut_streams": self.cut,
            "streams": self.streams,
            "resent": self.resent,
            "failovers": self.failovers,
            "statuses": dict(sorted(self.statuses.items())),
            "problems": dict(self.problems.most_common(5)),
            "seconds": round(wall_seconds, 3),
            "rate": round(self.sent / wall_seconds, 1) if wall_seconds else None,
            "latency_ms": percentiles(self.seconds),
            "first_byte_ms": percentiles(self.first_bytes),
            "versions": dict(sorted(self.versions.items())),
            "users": len(self.by_user),
            "users_by_version": dict(sorted(Counter(seen[-1] for seen in self.by_user.values()).items())),
            "flips": self.flips,
            "flips_back": self.flips_back,
            "right": {version: [self.right[version], total] for version, total in sorted(self.graded.items())},
            "feedback_failed": self.feedback_failed,
        }


def percentiles(seconds: Sequence[float]) -> dict[str, float] | None:
    """p50, p90, p99 and the largest, in milliseconds."""
    if not seconds:
        return None
    ordered = sorted(seconds)
    at = {f"p{p}": ordered[min(len(ordered) - 1, math.ceil(len(ordered) * p / 100) - 1)] for p in (50, 90, 99)}
    return {name: round(1000 * value, 2) for name, value in {**at, "most": ordered[-1]}.items()}


def said(answer: Answer) -> tuple[str | None, str]:
    """An answer's id and text, whole or streamed."""
    if not answer.streamed:
        return _part(answer.body.decode("utf-8", "replace"), "message")
    parts = [
        line[5:].strip() for line in answer.body.decode("utf-8", "replace").splitlines() if line.startswith("data:")
    ]
    found = [_part(part, "delta") for part in parts if part != "[DONE]"]
    return next((name for name, _ in found if name), None), "".join(text for _, text in found)


def _part(text: str, key: str) -> tuple[str | None, str]:
    try:
        value = json.loads(text)
        choice = value["choices"][0]
        return value.get("id"), str(choice.get(key, {}).get("content") or choice.get("text") or "")
    except (ValueError, KeyError, IndexError, TypeError, AttributeError):
        return None, ""


def why(answer: Answer) -> str:
    """What a refusal says of itself, in OpenAI's form."""
    with contextlib.suppress(ValueError, KeyError, TypeError):
        return str(json.loads(answer.body)["error"]["message"])[:120]
    return "no reason given"


def is_right(said_: str, wanted: str) -> bool:
    """Whether an answer is the known one, white space and case aside, or begins with it."""
    got, known = " ".join(said_.lower().split()), " ".join(wanted.lower().split())
    return bool(known) and got.startswith(known)


class Traffic:
    """One replay."""

    def __init__(self, url: str, prompts: list[Prompt], plan: Plan, key: str | None = None) -> None:
        self.plan, self.prompts, self.tally = plan.checked(), prompts, Tally()
        self.client = Client(url, key, plan.timeout_seconds)
        self.random = random.Random(plan.seed)
        self._turns: dict[str, asyncio.Lock] = defaultdict(asyncio.Lock)
        self._stopped = False

    def stop(self) -> None:
        """Send no more; what was sent is still waited for."""
        self._stopped = True

    async def run(self, progress: Callable[[Tally], None] | None = None) -> Json:
        """Send everything on time, wait for what is under way, and say how it went."""
        begun = time.perf_counter()
        tasks: set[asyncio.Task[None]] = set()
        for number in range(self.plan.count):
            due = begun + number / self.plan.rate
            if (pause := due - time.perf_counter()) > 0:
                await asyncio.sleep(pause)
            if self._stopped:
                break
            task = asyncio.create_task(self._one(number, due))
            tasks.add(task)
            task.add_done_callback(tasks.discard)
            if progress is not None and number % max(1, int(self.plan.rate)) == 0:
                progress(self.tally)
        while tasks:
            await asyncio.gather(*tasks)
        self.client.close()
        return self.tally.summary(time.perf_counter() - begun)

    async def _one(self, number: int, due: float) -> None:
        prompt = self.prompts[number % len(self.prompts)]
        user = prompt.user or f"user-{self.random.randrange(self.plan.users)}"
        streamed = self.random.random() < self.plan.stream
        body: Json = {
            "messages": prompt.messages,
            "temperature": 0,
            "stream": streamed,
        }
        body |= {"max_tokens": self.plan.max_tokens} if self.plan.max_tokens else {}
        body |= {"model": self.plan.model} if self.plan.model else {}
        self.tally.sent += 1
        # A person asks one thing after the other; only so is it known in which order versions answered.
        async with self._turns[user]:
            answer = await self.client.post("/v1/chat/completions", body, {"x-user-id": user})
            self._count(answer, user, streamed, time.perf_counter() - due)
        if answer.status == 200 and answer.whole and prompt.answer is not None:
            await self._grade(answer, prompt.answer, user)

    def _count(self, answer: Answer, user: str, streamed: bool, seconds: float) -> None:
        tally = self.tally
        tally.streams += streamed
        tally.statuses[str(answer.status or "none")] += 1
        tally.resent += answer.resent
        ended = answer.whole and (not answer.streamed or b"[DONE]" in answer.body[-64:])
        if answer.status == 200 and ended and not answer.streamed and said(answer)[0] is None:
            tally.problems["200: no completion in it"] += 1
        elif answer.status == 200 and ended:
            tally.ok += 1
            tally.seconds.append(seconds)
            tally.first_bytes.append(answer.first_byte_seconds)
        elif answer.status == 0:
            tally.lost += 1
            tally.problems[answer.problem or "nothing came"] += 1
        elif not ended:
            tally.cut += 1
            tally.problems[f"cut: {answer.problem}"] += 1
        else:
            tally.problems[f"{answer.status}: {why(answer)}"] += 1
        if answer.status != 200:
            return
        if answer.headers.get("x-slipway-failover"):
            tally.failovers += 1  # the champion stood in: that is no move of the user
        elif version := answer.headers.get("x-slipway-version"):
            tally.versions[version] += 1
            seen = tally.by_user[user]
            if not seen or seen[-1] != version:
                seen.append(version)

    async def _grade(self, answer: Answer, wanted: str, user: str) -> None:
        name, text = said(answer)
        version, right = answer.headers.get("x-slipway-version", "unknown"), is_right(text, wanted)
        self.tally.graded[version] += 1
        self.tally.right[version] += right
        if name is None or self.random.random() >= self.plan.feedback:
            return
        path = f"/models/{self.plan.model}/v1/feedback" if self.plan.model else "/v1/feedback"
        told = await self.client.post(path, {"id": name, "score": 1.0 if right else 0.0}, {"x-user-id": user})
        self.tally.feedback_failed += told.status not in (200, 201, 202, 204)
