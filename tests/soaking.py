"""Traffic that is watched request by request, and what may never have happened in it.

with Soak(url, prompts, plan) as soak:
    with soak.going_back():              whatever may take users back to the champion: a rollback, a killed candidate
        …
    soak.end()                           the summary, once all is sent; or soak.stop(), which sends no more
soak.flipped_back("1.0.0"), soak.cut, soak.spliced(answers)
"""

import asyncio
import bisect
import contextlib
import threading
import time
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass

from slipway.gateway import traffic
from slipway.gateway.client import Answer
from slipway.gateway.traffic import Plan, Prompt, Traffic

Span = tuple[float, float]


@dataclass(frozen=True, slots=True)
class Seen:
    """One request, as its user saw it."""

    user: str
    begun: float
    first: float  # its first byte
    ended: float
    version: str
    whole: bool  # with 200, and to its end
    failover: bool


@dataclass(frozen=True, slots=True)
class Cut:
    """A stream that began and did not end, and what had come of it."""

    seen: Seen
    text: str
    body: bytes


class Watched(Traffic):
    """The load generator, which forgets nothing."""

    def __init__(self, url: str, prompts: list[Prompt], plan: Plan) -> None:
        super().__init__(url, prompts, plan)
        self.all: list[Seen] = []
        self.cuts: list[Cut] = []
        self.texts: dict[str, set[str]] = defaultdict(set)  # of whole answers, by the version that they name

    def _count(self, answer: Answer, user: str, streamed: bool, seconds: float) -> None:
        before = self.tally.ok
        super()._count(answer, user, streamed, seconds)
        ended = time.perf_counter()
        begun, whole = ended - answer.seconds, self.tally.ok > before
        version, failover = answer.headers.get("x-slipway-version", ""), "x-slipway-failover" in answer.headers
        seen = Seen(user, begun, begun + answer.first_byte_seconds, ended, version, whole, failover)
        self.all.append(seen)
        if whole:
            self.texts[version].add(traffic.said(answer)[1])
        elif answer.status == 200:
            self.cuts.append(Cut(seen, traffic.said(answer)[1], answer.body))


class Soak:
    """Traffic in a thread; whoever made it does the acts of a release meanwhile."""

    def __init__(self, url: str, prompts: list[Prompt], plan: Plan) -> None:
        self.replay = Watched(url, prompts, plan)
        self.back: list[Span] = []
        self.summary: dict[str, object] = {}
        self._thread = threading.Thread(target=self._run)

    def __enter__(self) -> "Soak":
        self._thread.start()
        return self

    def __exit__(self, *error: object) -> None:
        self.stop()

    def _run(self) -> None:
        self.summary = asyncio.run(self.replay.run())

    @property
    def going(self) -> bool:
        return self._thread.is_alive()

    @contextlib.contextmanager
    def going_back(self) -> Iterator[None]:
        """While this lasts, users may come back to the champion; at no other time."""
        begun = time.perf_counter()
        try:
            yield
        finally:
            self.back.append((begun, time.perf_counter()))

    def end(self) -> dict[str, object]:
        """How it went, when everything is answered."""
        self._thread.join()
        return self.summary

    def stop(self) -> dict[str, object]:
        """Send no more; how it went, when everything that was sent is answered."""
        self.replay.stop()
        return self.end()

    def flipped_back(self, champion: str) -> list[Seen]:
        return flipped_back(self.replay.all, self.back, champion)

    @property
    def cut(self) -> list[Cut]:
        return self.replay.cuts

    def spliced(self, answers: Mapping[str, set[str]]) -> list[str]:
        """What was answered, in whole or in part, that the version it names does not say: another one's words in it."""
        wrong = [text for version, texts in self.replay.texts.items() for text in texts - answers[version]]
        return wrong + [
            one.text for one in self.cut if not any(text.startswith(one.text) for text in answers[one.seen.version])
        ]


def flipped_back(asked: Iterable[Seen], back: Sequence[Span], champion: str) -> list[Seen]:
    """Answers of the champion to users who had the candidate, with no way back between the two. Pure.

    Who is asked is settled between a request's begin and its first byte; where that meets a way back, either is right.
    """
    begins, ends = [a for a, _ in back], [b for _, b in back]
    found: list[Seen] = []
    last: dict[str, tuple[int, str]] = {}
    for one in sorted(asked, key=lambda seen: seen.begun):
        stretch = bisect.bisect_left(ends, one.begun)  # how many ways back are behind it
        if one.failover or not one.version or stretch < bisect.bisect_right(begins, one.first):
            continue
        then, before = last.get(one.user, (stretch, champion))
        if then == stretch and before != champion == one.version:
            found.append(one)
        last[one.user] = (stretch, one.version)
    return found
