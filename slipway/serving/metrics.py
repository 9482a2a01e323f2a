"""What Prometheus is told. Few labels with few values: paths that nobody knows are one, and no user or request is any."""

from collections.abc import Callable, Iterable, Mapping
from typing import TYPE_CHECKING

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, disable_created_metrics, generate_latest
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, HistogramMetricFamily
from prometheus_client.registry import Collector

from slipway.artifacts import Json
from slipway.serving.seen import Seen

if TYPE_CHECKING:
    from prometheus_client.core import Metric

CONTENT_TYPE = "text/plain; version=0.0.4; charset=utf-8"
_METHODS = frozenset(["GET", "POST", "HEAD", "OPTIONS", "PUT", "DELETE", "PATCH"])
_SECONDS = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 120, 300)
_BATCHES = (1, 2, 4, 8, 16, 32, 64, 128)


class Metrics:
    """One replica's, in a registry of its own."""

    def __init__(self) -> None:
        disable_created_metrics()  # type: ignore[no-untyped-call]
        registry = self.registry = CollectorRegistry(auto_describe=False)
        self.version = "none"  # whose requests those are that name no version; set once there is one
        asked, made = ["method", "endpoint", "status", "version", "track"], ["version", "track"]
        self._requests = Counter("llm_requests", "Requests answered", asked, registry=registry)
        self._latency = Histogram(
            "llm_request_latency_seconds",
            "Until the last byte",
            ["endpoint", *made],
            buckets=_SECONDS,
            registry=registry,
        )
        self._first = Histogram(
            "llm_time_to_first_token_seconds",
            "Until the first token",
            ["endpoint", *made],
            buckets=_SECONDS,
            registry=registry,
        )
        self._queue = Histogram("llm_queue_seconds", "Waited for a turn", made, buckets=_SECONDS, registry=registry)
        self._refused = Counter(
            "llm_refused_connections", "Connections closed before a request", ["status"], registry=registry
        )
        self._active = Gauge("llm_active_requests", "Requests being answered", registry=registry)
        self._tokens = Counter("llm_tokens", "Tokens read and made", ["kind", *made], registry=registry)
        self._hits = Counter("llm_cache_hits", "Answers that were not made anew", ["level"], registry=registry)
        self._misses = Counter("llm_cache_misses", "Cacheable answers that were made anew", registry=registry)
        # Gauges by kind, for their names end as dashboards know them; they only grow, as counters do.
        self._correct = Gauge(
            "model_correct_predictions", "Answers that were called right", ["version"], registry=registry
        )
        self._graded = Gauge(
            "model_total_predictions", "Answers that were called right or wrong", ["version"], registry=registry
        )

    def watch(self, load: Callable[[], Json], own: Callable[[], Mapping[str, float]]) -> None:
        """What the engine and this replica say of themselves, asked at every scrape."""
        self.registry.register(_Load(load, own))

    def began(self) -> None:
        self._active.inc()

    def ended(self, seen: Seen) -> None:
        self._active.dec()
        version = seen.served.version if seen.served else self.version
        method = seen.method if seen.method in _METHODS else "other"
        self._requests.labels(method, seen.endpoint, str(seen.outcome), version, seen.track).inc()
        if seen.served is None:
            return
        self._latency.labels(seen.endpoint, version, seen.track).observe(seen.seconds)
        self._tokens.labels("prompt", version, seen.track).inc(seen.prompt_tokens)
        self._tokens.labels("answer", version, seen.track).inc(seen.answer_tokens)
        if seen.first_token_seconds is not None:
            self._first.labels(seen.endpoint, version, seen.track).observe(seen.first_token_seconds)
        if seen.queue_seconds is not None:
            self._queue.labels(version, seen.track).observe(seen.queue_seconds)

    def refused(self, status: int) -> None:
        """A connection that was closed before there was a request."""
        self._refused.labels(str(status)).inc()

    def looked_up(self, level: str | None) -> None:
        """Where an answer that could be known came from; None: it was made."""
        if level is None:
            self._misses.inc()
        else:
            self._hits.labels(level).inc()

    def judged(self, version: str, correct: bool) -> None:
        """The first judgement of an answer, wherever it was given."""
        self._graded.labels(version).inc()
        self._correct.labels(version).inc(correct)

    def text(self) -> bytes:
        return generate_latest(self.registry)


class _Load(Collector):
    def __init__(self, load: Callable[[], Json], own: Callable[[], Mapping[str, float]]) -> None:
        self._load, self._own = load, own

    def collect(self) -> "Iterable[Metric]":
        load = self._load()
        yield GaugeMetricFamily("llm_gpu_memory_bytes", "Memory of the device", _number(load, "device_memory_bytes"))
        yield GaugeMetricFamily("llm_engine_running", "Answers the engine makes", _number(load, "running"))
        yield GaugeMetricFamily("llm_engine_waiting", "Answers the engine has in line", _number(load, "waiting"))
        yield _batches(load.get("batch_sizes") or {})
        yield _ways(load.get("ways") or {})
        for name, value in self._own().items():
            yield GaugeMetricFamily(name, _OWN[name], value)


_OWN = {
    "llm_queue_waiting": "Answers that wait for a turn",
    "llm_cache_bytes": "Memory that known answers take",
    "llm_cache_redis_failures": "Times that Redis did not answer in time",
    "llm_ledger_unrecorded": "1 while the ledger does not know that this version answers",
    "llm_log_dropped_rows": "Rows of the inference log that were lost",
    "llm_traces_dropped": "Traces that MLflow was not told of",
    "llm_ready": "1 while /ready says 200",
}


def _number(load: Json, name: str) -> float:
    value = load.get(name)
    return float(value) if isinstance(value, int | float) else 0.0


def _ways(counted: Mapping[str, Mapping[str, int]]) -> CounterMetricFamily:
    """Of each composite, whose answer was taken."""
    found = CounterMetricFamily("llm_composite_answers", "Whose answer was taken", labels=["model", "member"])
    for model, ways in counted.items():
        for member, count in ways.items():
            found.add_metric([model, member], count)
    return found


def _batches(sizes: Mapping[object, int]) -> HistogramMetricFamily:
    """How many batches of each size the engine has run, as a histogram."""
    counted = {int(str(size)): count for size, count in sizes.items()}
    edges = [(str(float(edge)), float(sum(n for size, n in counted.items() if size <= edge))) for edge in _BATCHES]
    total = float(sum(counted.values()))
    summed = float(sum(size * count for size, count in counted.items()))
    return HistogramMetricFamily("llm_batch_size", "Answers made together", [*edges, ("+Inf", total)], summed)
