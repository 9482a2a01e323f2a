"""OpenTelemetry spans, where a collector is configured; elsewhere nothing is imported and nothing is done."""

from collections.abc import Mapping
from typing import TYPE_CHECKING

from slipway import __version__
from slipway.serving import config
from slipway.serving.seen import Seen

if TYPE_CHECKING:
    from opentelemetry.sdk.trace import TracerProvider
    from opentelemetry.trace import Span


class Telemetry:
    """One span a request, with its parent from `traceparent`. No prompt and no answer is ever in it."""

    def __init__(self, chosen: config.OpenTelemetry | None) -> None:
        self._provider = _provider(chosen) if chosen is not None else None

    def begin(self, headers: Mapping[str, str], seen: Seen) -> "Span | None":
        if self._provider is None:
            return None
        from opentelemetry.trace import SpanKind
        from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator

        parent = TraceContextTextMapPropagator().extract(dict(headers))
        name, tracer = f"{seen.method} {seen.endpoint}", self._provider.get_tracer("slipway.serving", __version__)
        return tracer.start_span(name, context=parent, kind=SpanKind.SERVER)

    def end(self, span: "Span | None", seen: Seen) -> None:
        if span is None:
            return
        from opentelemetry.trace import Status, StatusCode

        span.update_name(f"{seen.method} {seen.endpoint}")
        span.set_attributes({name: value for name, value in _attributes(seen).items() if value is not None})
        if seen.outcome >= 500:
            span.set_status(Status(StatusCode.ERROR))
        span.end()

    def stop(self) -> None:
        if self._provider is not None:
            self._provider.shutdown()


def _provider(chosen: config.OpenTelemetry) -> "TracerProvider":
    from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
    from opentelemetry.sdk.resources import Resource
    from opentelemetry.sdk.trace import TracerProvider
    from opentelemetry.sdk.trace.export import BatchSpanProcessor
    from opentelemetry.sdk.trace.sampling import ParentBased, TraceIdRatioBased

    provider = TracerProvider(
        sampler=ParentBased(TraceIdRatioBased(chosen.share)),
        resource=Resource.create({"service.name": "slipway", "service.version": __version__}),
        shutdown_on_exit=False,
    )
    # It drops what the collector does not take; no request waits for it.
    provider.add_span_processor(BatchSpanProcessor(OTLPSpanExporter(endpoint=chosen.endpoint, timeout=5)))
    return provider


def _attributes(seen: Seen) -> dict[str, str | int | float | bool | None]:
    served = seen.served
    return {
        "http.request.method": seen.method,
        "http.route": seen.endpoint,
        "http.response.status_code": seen.status,
        "slipway.outcome": seen.outcome,
        "slipway.request_id": seen.request_id,
        "slipway.track": seen.track,
        "gen_ai.operation.name": "chat" if "chat" in seen.endpoint else "text_completion",
        "gen_ai.response.model": served.name if served else None,
        "slipway.identity": served.identity if served else None,
        "gen_ai.usage.input_tokens": seen.prompt_tokens,
        "gen_ai.usage.output_tokens": seen.answer_tokens,
        "slipway.first_token_seconds": seen.first_token_seconds,
        "slipway.queue_seconds": seen.queue_seconds,
        "slipway.cached": seen.cached,
    }
