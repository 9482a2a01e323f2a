"""MLflow traces of some requests, linked to the version and the run that made it. The only module of serving that imports MLflow.

Traces wait in a bounded line for a thread of their own: no request waits for MLflow or fails with it, and what does not fit is
dropped and counted. Prompts and answers are in a trace only where the sampling policy keeps them, redacted.
"""

import logging
import queue
import sys
import threading
import time
from pathlib import Path

from slipway import settings, tracking
from slipway.data.redaction import redacted
from slipway.serving import config
from slipway.serving.seen import Seen

_AGAIN_SECONDS = 30.0  # after MLflow did not answer


class Traces:
    """What MLflow is told of requests."""

    def __init__(self, root: Path, chosen: config.Traces) -> None:
        self._root = root
        self._line: queue.Queue[Seen | None] = queue.Queue(chosen.queue)
        self._experiment: str | None = None
        self._quiet_until = 0.0
        self.dropped = 0
        self._thread = threading.Thread(target=self._work, name="traces", daemon=True)

    def start(self) -> None:
        self._thread.start()

    def add(self, seen: Seen) -> None:
        """Never waits, and never fails."""
        try:
            self._line.put_nowait(seen)
        except queue.Full:
            self.dropped += 1

    def stop(self, seconds: float = 5) -> None:
        """Tell what is in line, as far as there is time."""
        try:
            self._line.put_nowait(None)
        except queue.Full:
            return
        self._thread.join(seconds)

    def _work(self) -> None:
        while (seen := self._line.get()) is not None:
            if time.monotonic() < self._quiet_until or not self._told(seen):
                self.dropped += 1
        if self._experiment is not None:
            import mlflow

            mlflow.flush_trace_async_logging()

    def _told(self, seen: Seen) -> bool:
        from mlflow.exceptions import MlflowException

        try:
            self._trace(seen)
        except (*tracking.AWAY, MlflowException) as error:
            self._quiet_until = time.monotonic() + _AGAIN_SECONDS
            print(f"slipway: MLflow gets no traces for a while: {error}", file=sys.stderr, flush=True)
            return False
        return True

    def _trace(self, seen: Seen) -> None:
        import mlflow

        if self._experiment is None:
            _, self._experiment = tracking.connect(self._root)
            mlflow.set_tracking_uri(settings.mlflow_uri(self._root))
            logging.getLogger("mlflow.tracing").setLevel(logging.ERROR)
        span = mlflow.start_span_no_context(
            name=seen.endpoint,
            span_type="LLM",
            inputs={"prompt": redacted(seen.prompt)} if seen.prompt is not None else None,
            attributes=_attributes(seen),
            tags=_tags(seen),
            metadata=_links(seen),
            experiment_id=self._experiment,
            start_time_ns=int(seen.at * 1e9),
        )
        span.end(
            outputs={"answer": redacted(seen.answer)} if seen.answer is not None else None,
            status="OK" if seen.outcome < 500 else "ERROR",
            end_time_ns=int((seen.at + seen.seconds) * 1e9),
        )


def _attributes(seen: Seen) -> dict[str, str]:
    found = {
        "status": seen.outcome, "prompt_tokens": seen.prompt_tokens, "answer_tokens": seen.answer_tokens,
        "first_token_seconds": seen.first_token_seconds, "queue_seconds": seen.queue_seconds, "cached": seen.cached,
    }  # fmt: skip
    return {f"slipway.{name}": str(value) for name, value in found.items()}


def _tags(seen: Seen) -> dict[str, str]:
    served = seen.served
    found = {
        "slipway.request_id": seen.request_id, "slipway.answer_id": seen.answer_id, "slipway.track": seen.track,
        "slipway.model": served and served.model, "slipway.version": served and served.version,
        "slipway.identity": served and served.identity,
    }  # fmt: skip
    return {name: str(value) for name, value in found.items() if value}


def _links(seen: Seen) -> dict[str, str]:
    """The run that made the version, by which MLflow shows a run's traces."""
    run = seen.served.facts.get("run") if seen.served else None
    return {"mlflow.sourceRun": str(run)} if run else {}
