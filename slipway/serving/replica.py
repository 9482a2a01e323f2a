"""One replica: an engine, and everything between it and HTTP. Where its parts meet."""

import asyncio
import secrets
import sys
import time
from collections.abc import Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from slipway.artifacts import Json
from slipway.errors import SlipwayError, StageError
from slipway.generating.jobs import Engine, Served
from slipway.serving import cache, inference_log, problems
from slipway.serving.admission import Queue
from slipway.serving.asking import Names
from slipway.serving.cache import Cache
from slipway.serving.config import ServingConfig
from slipway.serving.feedback import Judgements
from slipway.serving.flights import Flights
from slipway.serving.ids import Ids, keys
from slipway.serving.metrics import Metrics
from slipway.serving.pulse import Pulse
from slipway.serving.seen import Seen, drawn
from slipway.serving.started import Recorder
from slipway.serving.telemetry import Telemetry

if TYPE_CHECKING:
    from slipway.serving.tracing import Traces

State = Literal["loading", "ready", "draining"]
_LOGGED = ("chat/completions", "completions", "responses")


class Replica:
    """Made before anything is loaded; `load` makes it ready, `drain` lets it end."""

    def __init__(self, root: Path, config: ServingConfig, engine: Engine) -> None:
        self.root, self.config, self.engine = root, config, engine
        self.state: State = "loading"
        self.name = secrets.token_hex(6)
        self.keys = keys(root)
        self.queue = Queue(config.admission)
        self.cache = Cache(config.cache, self.keys)
        self.pulse = Pulse(engine)
        self.flights = Flights(engine, self.queue, self.cache, self.pulse)
        self._watching: asyncio.Task[None] | None = None
        self.judgements = Judgements(root, config.log.keep_days)
        self.telemetry = Telemetry(config.opentelemetry)
        self.log = inference_log.Log(root, config.log)
        self.metrics = Metrics()
        self.recorder: Recorder | None = None
        self.served: tuple[Served, ...] = ()
        self.traces = _traces(root, config)
        self.active = 0
        self.idle = asyncio.Event()
        self.idle.set()

    async def load(self) -> None:
        """Ready, or a SlipwayError that says why not."""
        await asyncio.to_thread(self.judgements.prepare)
        await self.engine.start()
        self.served = tuple(self.engine.served)
        if not self.served or not all(one.identity and one.version for one in self.served):
            raise StageError("the engine serves a version without an identity; nothing unverified is served")
        self._named()
        self.metrics.version = self.served[0].version
        self.metrics.watch(self.engine.load, self._own)
        self.recorder = Recorder(self.root, self.config.ledger, self.served, self.name, self.config.engine)
        self.recorder.start()
        self._watching = asyncio.create_task(self.pulse.watch())
        for part in self._writers:
            part.start()
        if self.state == "loading":
            self.state = "ready"

    def _named(self) -> None:
        """Targets as they were typed (`support-desk@champion`) name what came of them, also several that became one."""
        typed = {name: one for one in self.served for name in one.facts.get("asked_as", ())}
        self.names = Names(self.served, typed)
        self.ids = Ids(self.keys, [one.model for one in self.served])

    @property
    def _writers(self) -> "tuple[inference_log.Log | Traces, ...]":
        return (self.log, self.traces) if self.traces is not None else (self.log,)

    # --- may it answer? ---------------------------------------------------------------------------------------------

    @property
    def unready(self) -> str | None:
        """Why /ready says 503; None: it is ready."""
        if self.state != "ready":
            return self.state
        if self.pulse.lost:
            return "lost"
        return "unrecorded" if self.recorder is not None and self.recorder.standing == "refuse" else None

    def admit(self) -> None:
        """Raise where no new work is taken."""
        if self.state == "loading":
            raise problems.lost("the model is being loaded; try again", "loading")
        if self.state == "draining":
            raise problems.draining()
        if self.recorder is not None and self.recorder.count() == "refuse":
            raise problems.lost("the ledger cannot be told that this version answers; try again later", "unrecorded")

    def shared_key(self, seen: Seen) -> str | None:
        """Who may be answered with the same answer as this request; None: nobody."""
        return cache.scope(self.config.cache.scope, seen.tenant, seen.user)

    # --- one request begins, one ends -------------------------------------------------------------------------------

    def began(self, seen: Seen) -> None:
        self.active += 1
        self.idle.clear()
        seen.kept = drawn(seen.request_id, self.config.prompts.share, self.keys)
        self.metrics.began()

    def ended(self, seen: Seen) -> None:
        seen.seconds = time.monotonic() - seen.began
        self.active -= 1
        if not self.active:
            self.idle.set()
        self.metrics.ended(seen)
        if self.served and seen.endpoint.endswith(_LOGGED):
            self._written(seen)

    def _written(self, seen: Seen) -> None:
        if not seen.kept:
            seen.prompt = seen.answer = None
        if drawn(seen.request_id, self.config.log.share, self.keys):
            self.log.add("requests", (seen.served or self.served[0]).model, row(seen))
        if self.traces is not None and drawn(seen.request_id, self.config.traces.share, self.keys):
            self.traces.add(seen)

    # --- the end ----------------------------------------------------------------------------------------------------

    async def drain(self) -> None:
        """Say so, take nothing new, let what is in flight end, and end the rest with an error."""
        self.state = "draining"
        config = self.config.drain
        announced = asyncio.create_task(asyncio.sleep(config.announce_seconds))
        try:
            async with asyncio.timeout(config.limit_seconds):
                await self.idle.wait()
        except TimeoutError:
            print(
                f"slipway: {self.active} requests did not end in {config.limit_seconds:g} s",
                file=sys.stderr,
                flush=True,
            )
            self.flights.fail_all(problems.draining())
        await announced

    async def stop(self) -> None:
        """Write what is left, and let go."""
        if self.recorder is not None:  # it was ready once
            self.recorder.stop()
            if self._watching is not None:
                self._watching.cancel()
            for part in self._writers:
                await asyncio.to_thread(part.stop)
        await self.cache.close()
        await asyncio.to_thread(self.telemetry.stop)
        try:
            await self.engine.stop()
        except SlipwayError as error:
            print(f"slipway: {error}", file=sys.stderr, flush=True)

    def _own(self) -> Mapping[str, float]:
        second = self.cache.second
        return {
            "llm_queue_waiting": self.queue.waiting,
            "llm_cache_bytes": self.cache.memory.bytes,
            "llm_cache_redis_failures": second.failures if second else 0,
            "llm_ledger_unrecorded": float(self.recorder is not None and not self.recorder.recorded),
            "llm_log_dropped_rows": self.log.dropped,
            "llm_traces_dropped": self.traces.dropped if self.traces else 0,
            "llm_ready": float(self.unready is None),
        }


def _traces(root: Path, config: ServingConfig) -> "Traces | None":
    """MLflow's door, which opens only where it is wanted."""
    if not config.traces.share:
        return None
    from slipway.serving.tracing import Traces

    return Traces(root, config.traces)


def row(seen: Seen) -> Json:
    """A request's row of the inference log."""
    served = seen.served
    return {
        "time": datetime.fromtimestamp(seen.at, UTC),
        "request_id": seen.request_id,
        "answer_id": seen.answer_id,
        "user_hash": seen.user,
        "model": served.model if served else None,
        "version": served.version if served else None,
        "identity": served.identity if served else None,
        "track": seen.track,
        "endpoint": seen.endpoint,
        "status": seen.outcome,
        "prompt": seen.prompt,
        "answer": seen.answer,
        "prompt_tokens": seen.prompt_tokens,
        "answer_tokens": seen.answer_tokens,
        "latency_seconds": seen.seconds,
        "first_token_seconds": seen.first_token_seconds,
        "queue_seconds": seen.queue_seconds,
        "failover": seen.failover,
        "cached": seen.cached,
    }
