"""The engine in this process: Transformers models on the CPU, CUDA or MPS, one thread that computes for all jobs.

The base is loaded once for all adapters that were tuned on it; one batch mixes them. A job joins the running batch as
soon as there is a place and leaves it the moment it ends, is given up or is late.
"""

import asyncio
import threading
import time
from collections import Counter, deque
from collections.abc import AsyncIterator, Callable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from slipway.artifacts import Json
from slipway.errors import SlipwayError, StageError, Transient, UsageError
from slipway.generating import opening
from slipway.generating.answer_text import AnswerText
from slipway.generating.engine_config import EngineConfig
from slipway.generating.jobs import Job, Piece, Served
from slipway.generating.opening import Opened
from slipway.generating.tickets import Full, Ticket

if TYPE_CHECKING:
    from slipway.generating.decoding import Batch, Happened, Row
    from slipway.generating.networks import Network


LOADING_SECONDS = 3.0  # that a stop waits for a load; the copies of one that is left go with the next opening


@dataclass(frozen=True)
class _Place:
    """Where a version's rows run."""

    network: "Network"
    batch: "Batch"
    adapter: str


class TransformersEngine:
    """Versions of a project, verified and loaded into this process."""

    def __init__(self, root: Path, targets: Sequence[str], config: EngineConfig | None = None) -> None:
        self._root, self._targets, self._config = root, tuple(targets), config or EngineConfig()
        self._served: tuple[Served, ...] = ()
        self._places: dict[str, _Place] = {}
        self._batches: list[Batch] = []
        self._new: deque[Ticket] = deque()
        self._calls: deque[Callable[[], None]] = deque()  # other work for the thread that computes
        self._lock = threading.Condition()
        self._open: dict[int, Ticket] = {}  # everybody whom this thread owes an answer
        self._waiting = 0
        self._lost: str | None = "it was not started"
        self._stopping = self._loaded = False
        self._thread: threading.Thread | None = None
        self._counted = Counter[str]()
        self._device_bytes = 0

    @property
    def served(self) -> Sequence[Served]:
        return self._served

    # --- start and stop -----------------------------------------------------------------------------------------------

    async def start(self) -> None:
        """Verify, load, warm up; the thread that loads is the one that will compute."""
        loop, ready = asyncio.get_running_loop(), asyncio.get_running_loop().create_future()
        self._thread = threading.Thread(target=self._run, args=(loop, ready), name="engine", daemon=True)
        self._thread.start()
        await ready

    async def stop(self) -> None:
        with self._lock:
            self._stopping = True
            self._lock.notify()
        if self._thread is not None:
            # A model that is still being loaded is not waited for: nobody will ask it, and whoever ends us has a limit.
            await asyncio.to_thread(self._thread.join, None if self._loaded else LOADING_SECONDS)

    def _load(self) -> None:
        from slipway.generating import networks
        from slipway.generating.decoding import Batch

        with opening.opened(self._root, self._targets) as found:
            loaded: dict[Path, Network] = {}
            served = []
            for one in found:
                if self._stopping:
                    raise Transient("it was stopped while it loaded")
                network = loaded.get(one.base)
                if network is None:
                    network = loaded[one.base] = networks.Network(one.base)
                    self._batches.append(Batch(network, self._config.max_batch, self._config.prefill_tokens))
                batch = next(batch for batch in self._batches if batch.network is network)
                adapter = network.add(one.adapter) if one.adapter else networks.BASE
                served.append(_served(one, network.context))
                self._places[served[-1].name] = _Place(network, batch, adapter)
        self._check_company(served)
        for network in loaded.values():
            networks.check(network)
        self._served, self._loaded = tuple(served), True

    def _check_company(self, served: list[Served]) -> None:
        """An adapter that replaces a part of its base would answer in the name of all that share it."""
        for one in served:
            place = self._places[one.name]
            others = [o.name for o in served if o is not one and self._places[o.name].network is place.network]
            if others and (changed := place.network.changed.get(place.adapter)):
                raise StageError(
                    f"{one.name} changes more of its base than LoRA layers ({changed}), so it cannot share it with "
                    f"{', '.join(others)}; serve it in a replica of its own"
                )

    # --- the event loop's side ------------------------------------------------------------------------------------------

    def encode(self, served: Served, prompt: str | Sequence[Json]) -> tuple[int, ...]:
        return tuple(self._place(served).network.prompts.encode(prompt))

    async def generate(self, job: Job) -> AsyncIterator[Piece]:
        self._check(job)
        ticket = Ticket(job)
        with self._lock:
            if self._waiting >= self._config.max_waiting:
                raise Full(self._waiting, job.served.name)
            self._waiting += 1
            self._new.append(ticket)
            self._lock.notify()
        try:
            async for piece in ticket.pieces():
                yield piece
        finally:
            ticket.given_up = True

    async def score(self, served: Served, prompt: Sequence[int], answer: str) -> float:
        """The mean log-likelihood of an answer's tokens after a prompt, for whoever picks the best of several."""
        place = self._place(served)
        loop = asyncio.get_running_loop()
        future: asyncio.Future[float] = loop.create_future()

        def work() -> None:
            found: Any
            try:
                found = place.network.likelihood(place.adapter, list(prompt), answer)
            except SlipwayError as error:
                found = error
            except Exception as error:  # noqa: BLE001 - whoever asked is told; the answers of all others go on
                found = StageError(f"the answer could not be scored: {_line(error)}")
            _tell(loop, partial(_settle, future, found))

        with self._lock:
            self._calls.append(work)
            self._lock.notify()
        return await future

    def load(self) -> Json:
        # Copies, made in one go: the thread that computes goes on counting.
        sizes = sum((batch.sizes.copy() for batch in tuple(self._batches)), Counter[int]())
        return {
            "running": sum(len(batch.running) for batch in self._batches),
            "waiting": self._waiting,
            "batch_sizes": {str(size): steps for size, steps in sorted(sizes.items())},
            "most": sum(batch.limit for batch in self._batches),
            "cache_bytes": sum(batch.cache_bytes for batch in self._batches),
            "device_memory_bytes": self._device_bytes,
            **{name: self._counted[name] for name in ("tokens", "finished", "given_up", "late")},
            "preempted": sum(batch.preempted for batch in self._batches),
        }

    def _place(self, served: Served) -> _Place:
        if self._lost:
            raise Transient(f"the engine of {served.name} does not answer: {self._lost}; start it again")
        found = self._places.get(served.name)
        if found is None:
            raise UsageError(f"{served.name} is not served here; there are {', '.join(self._places) or 'none'}")
        return found

    def _check(self, job: Job) -> None:
        self._place(job.served)
        if not job.prompt:
            raise UsageError("the prompt is empty; send some text")
        if len(job.prompt) >= job.served.context:
            raise UsageError(
                f"the prompt has {len(job.prompt)} tokens; {job.served.name} takes {job.served.context} with the answer"
            )
        if job.sampling.max_tokens < 1:
            raise UsageError(f"max_tokens is {job.sampling.max_tokens}; ask for at least one")

    # --- the computing thread's side --------------------------------------------------------------------------------------

    def _run(self, loop: asyncio.AbstractEventLoop, ready: "asyncio.Future[None]") -> None:
        import torch

        from slipway.evaluation import inference

        try:
            with inference.computing(self._config.threads or torch.get_num_threads()):
                self._load()
                self._lost = None
                loop.call_soon_threadsafe(_settle, ready, None)
                self._work(loop)
        except BaseException as error:  # noqa: BLE001 - told to everybody who waits; this thread ends
            why = error if isinstance(error, SlipwayError) else StageError(f"the engine broke: {_line(error)}")
            self._give_up_all(loop, str(why) if isinstance(error, SlipwayError) else _line(error))
            _tell(loop, partial(_settle, ready, why))

    def _work(self, loop: asyncio.AbstractEventLoop) -> None:
        while self._gather():
            self._turn_away(loop)
            while self._calls:
                self._calls.popleft()()
            happened: list[Happened] = []
            for batch in self._batches:
                if batch.busy:
                    happened += batch.advance()
            if happened:
                self._tell_of(happened, loop)
        self._give_up_all(loop, "it was stopped")

    def _gather(self) -> bool:
        """Take what is new; with nothing to do, wait for it. False when it is time to stop."""
        with self._lock:
            busy = any(batch.busy for batch in self._batches)
            if not busy:
                self._lock.wait_for(lambda: self._new or self._calls or self._stopping)
                if self._new and len(self._new) < self._config.max_batch:
                    self._lock.wait_for(
                        lambda: len(self._new) >= self._config.max_batch or self._stopping,
                        self._config.max_wait_seconds,
                    )
            if self._stopping:
                return False
            arrived = list(self._new)
            self._new.clear()
        for ticket in arrived:
            place = self._places[ticket.job.served.name]
            self._open[id(ticket)] = ticket
            place.batch.waiting.append(_row(ticket, place))
        return True

    def _turn_away(self, loop: asyncio.AbstractEventLoop) -> None:
        """Rows nobody waits for go at once; those that are late are told."""
        now = time.monotonic()
        late: list[Happened] = []
        for batch in self._batches:
            gone = [row for row in batch.rows() if row.ticket.given_up]
            self._counted["given_up"] += len(gone)
            over = [(row, error) for row in batch.rows() if row not in gone and (error := row.ticket.late(now))]
            batch.drop([*gone, *(row for row, _ in over)])
            late += over
            self._closed(gone)
        self._counted["late"] += len(late)
        self._tell_of(late, loop)
        self._waiting_now(now)

    def _waiting_now(self, now: float) -> None:
        """How many wait; a row's wait ends when its turn is about to come."""
        waiting = 0
        for batch in self._batches:
            for row in batch.waiting:
                if not row.tokens:
                    row.queued_seconds = now - row.ticket.arrived
            waiting += len(batch.waiting)
        with self._lock:
            self._waiting = waiting + len(self._new)

    def _closed(self, rows: "list[Row]") -> None:
        for row in rows:
            self._open.pop(id(row.ticket), None)

    def _tell_of(self, happened: "list[Happened]", loop: asyncio.AbstractEventLoop) -> None:
        """Count what was made, and hand it to whoever waits for it: one call for all."""
        import torch

        if not happened:
            return
        self._closed([row for row, piece in happened if not isinstance(piece, Piece) or piece.finish])
        self._counted["tokens"] += sum(isinstance(piece, Piece) for _, piece in happened)
        self._counted["finished"] += sum(isinstance(piece, Piece) and piece.finish is not None for _, piece in happened)
        if torch.cuda.is_available():
            self._device_bytes = int(torch.cuda.memory_allocated())
        _tell(loop, partial(_deliver, happened))

    def _give_up_all(self, loop: asyncio.AbstractEventLoop, why: str) -> None:
        with self._lock:
            self._lost = why
            tickets = [*self._new, *self._open.values()]
            self._new.clear()
            self._waiting = 0
        error = Transient(f"the engine was lost: {why}; ask again")
        for ticket in tickets:
            _tell(loop, partial(ticket.put, error))
        self._places.clear()
        self._batches.clear()


def _served(one: Opened, context: int) -> Served:
    return Served(one.model, one.version, one.identity, context, one.facts)


def _row(ticket: Ticket, place: _Place) -> "Row":
    from slipway.generating.decoding import Row
    from slipway.generating.sampling import Chooser

    job = ticket.job
    room = min(job.sampling.max_tokens, job.served.context - len(job.prompt))
    text = AnswerText(place.network.prompts.decode, job.sampling.stop)
    return Row(ticket, place.adapter, room, text, Chooser(job.sampling))


def _deliver(happened: "list[Happened]") -> None:
    """On the event loop: everybody gets what the step made for them."""
    for row, piece in happened:
        row.ticket.put(piece)


def _settle(future: "asyncio.Future[Any]", result: Any) -> None:
    if future.done():
        return
    if isinstance(result, BaseException):
        future.set_exception(result)
    else:
        future.set_result(result)


def _tell(loop: asyncio.AbstractEventLoop, call: Callable[[], Any]) -> None:
    """Run a call on the event loop, where there still is one."""
    if not loop.is_closed():
        loop.call_soon_threadsafe(call)


def _line(error: BaseException) -> str:
    return f"{type(error).__name__}: {(str(error).splitlines() or [''])[0][:200]}"
