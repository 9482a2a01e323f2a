"""What HAProxy counts, in our words; totals go on when it is started again. Pure."""

from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, fields, replace

from slipway.artifacts import Json
from slipway.evaluation.scoring import wilson
from slipway.gateway.runtime import Row


@dataclass(frozen=True)
class Counts:
    """A model's requests since its gateway began."""

    champion: int = 0  # assigned to the champion
    candidate: int = 0  # assigned to the candidate
    failovers: int = 0  # of the candidate's, that the champion answered
    feedback: int = 0
    champion_good: int = 0
    champion_bad: int = 0
    candidate_good: int = 0
    candidate_bad: int = 0  # late, 5xx, empty, cut or no JSON before the first byte
    candidate_cut: int = 0  # died in the middle of a stream
    denied: int = 0

    def minus(self, other: "Counts") -> "Counts":
        return Counts(**{f.name: getattr(self, f.name) - getattr(other, f.name) for f in fields(self)})

    def plus(self, other: "Counts") -> "Counts":
        return Counts(**{f.name: getattr(self, f.name) + getattr(other, f.name) for f in fields(self)})


@dataclass(frozen=True)
class Look:
    """One model at one moment."""

    counts: Counts
    ready: Mapping[str, int]  # replicas of an arm that HAProxy finds up
    sessions: Mapping[str, int]  # requests under way by an arm
    response_ms: Mapping[str, int]


def looked(rows: Iterable[Row], model: str) -> Look:
    """A model's part of HAProxy's statistics."""
    mine = [row for row in rows if row.proxy.rpartition(":")[0] == model]
    by = {(row.proxy.rpartition(":")[2], row.service): row for row in mine}

    def row(proxy: str, service: str) -> Row | None:
        return by.get((proxy, service))

    def of(proxy: str, service: str, name: str) -> int:
        found = row(proxy, service)
        return int(getattr(found, name)) if found else 0

    failovers, feedback = of("failover", "FRONTEND", "requests"), of("feedback", "BACKEND", "requests")
    # Of what came by way of `direct`, the hop before counts each request once, however often it asked.
    plain = of("champion", "BACKEND", "requests") - of("direct", "FRONTEND", "requests") - failovers
    counts = Counts(
        champion=max(0, plain + of("spread", "BACKEND", "requests") + of("mirrored", "BACKEND", "requests")),
        candidate=of("canary", "BACKEND", "requests"),
        failovers=failovers,
        feedback=feedback,
        champion_good=of("champion", "BACKEND", "good"),
        champion_bad=of("champion", "BACKEND", "bad"),
        candidate_good=of("candidate", "FRONTEND", "good"),
        candidate_bad=of("candidate", "FRONTEND", "bad"),
        candidate_cut=of("candidate", "BACKEND", "cut"),
    )
    arms = ("champion", "candidate", "shadow")
    servers = {
        arm: [r for (proxy, name), r in by.items() if proxy == arm and name not in ("FRONTEND", "BACKEND")]
        for arm in arms
    }
    return Look(
        counts=counts,
        ready={arm: sum(r.status.startswith(("UP", "no check")) for r in servers[arm]) for arm in arms},
        sessions={arm: of(arm, "BACKEND", "sessions") for arm in arms},
        response_ms={arm: of(arm, "BACKEND", "response_ms") for arm in arms},
    )


class Totals:
    """Counts of one model that survive HAProxy: what a new process counts comes on top."""

    def __init__(self) -> None:
        self.now = Counts()
        self._raw = Counts()

    def add(self, raw: Counts) -> Counts:
        """What was new since the last look."""
        begun_again = any(getattr(raw, f.name) < getattr(self._raw, f.name) for f in fields(raw))
        new = raw if begun_again else raw.minus(self._raw)
        self._raw, self.now = raw, self.now.plus(new)
        return new


@dataclass(frozen=True)
class Share:
    """The candidate's part of something, with its 95 % interval."""

    candidate: float
    total: float
    percent: float | None = None
    low: float | None = None
    high: float | None = None

    @classmethod
    def of(cls, candidate: float, total: float) -> "Share":
        if total <= 0:
            return cls(candidate, total)
        low, high = wilson(min(candidate, total), total)
        return cls(candidate, total, round(100 * candidate / total, 2), round(100 * low, 2), round(100 * high, 2))


def shares(counts: Counts, tokens: Mapping[str, float]) -> Json:
    """The measured split, by requests and by tokens. An answer's tokens belong together, so theirs has no interval."""
    requests = Share.of(counts.candidate, counts.candidate + counts.champion)
    spent = sum(tokens.get(arm, 0) for arm in ("champion", "candidate"))
    by_token = replace(Share.of(tokens.get("candidate", 0), spent), low=None, high=None)
    return {"requests": asdict(requests), "tokens": asdict(by_token)}
