"""What looks after a running gateway: HAProxy, the candidate's answers, keys, and what replicas count."""

import contextlib
import threading
import time
from collections import deque
from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict
from typing import TYPE_CHECKING, Any

from slipway.artifacts import Json
from slipway.errors import SlipwayError, Transient
from slipway.gateway import counting, scraping
from slipway.gateway.breaker import Window
from slipway.gateway.config import ARMS
from slipway.gateway.counting import Counts, Look, Totals
from slipway.gateway.runtime import Row

if TYPE_CHECKING:
    from slipway.gateway.control import Gateway

TICK_SECONDS = 0.1
SECOND = 1.0
HISTORY = 300  # seconds on the page


class _Watched:
    """One model's numbers."""

    def __init__(self, gateway: "Gateway") -> None:
        self.totals, self.window, self.sums = Totals(), Window(gateway.config.breaker), scraping.Sums()
        self.look: Look | None = None
        self.begun = Counts()
        self.tokens_begun: dict[str, float] | None = None  # none: replicas have not been asked since
        self.since = time.time()
        self.history: deque[Json] = deque(maxlen=HISTORY)
        self.last_point = Counts()
        self.champion_up = True
        self.candidate_seen = False  # up since it has traffic: one that is only starting is not a failing one

    def take(self, rows: Iterable[Row], name: str) -> Look:
        """Count what is new, for the totals and for the breaker alike."""
        self.look = look = counting.looked(rows, name)
        new = self.totals.add(look.counts)
        self.window.add(new.candidate_good, new.candidate_bad + new.candidate_cut)
        return look


class Watch:
    """Threads that look: ten times a second at HAProxy, once a second at everything else."""

    def __init__(self, gateway: "Gateway") -> None:
        self.gateway = gateway
        self.models: dict[str, _Watched] = {}
        self.looked_at = 0
        self._stop = threading.Event()
        self._threads: list[threading.Thread] = []

    def start(self) -> None:
        self.follow()
        for work, pause in ((self._tick, TICK_SECONDS), (self._second, SECOND)):
            thread = threading.Thread(
                target=self._again, args=(work, pause), name=f"slipway{work.__name__}", daemon=True
            )
            self._threads.append(thread)
            thread.start()

    def follow(self) -> None:
        """Watch the models, and by the rules, of the configuration in use."""
        breaker = self.gateway.config.breaker
        self.models = {
            one.name: self.models.get(one.name) or _Watched(self.gateway) for one in self.gateway.config.models
        }
        for watched in self.models.values():
            if watched.window.policy != breaker:
                watched.window = Window(breaker)

    def stop(self) -> None:
        self._stop.set()
        for thread in self._threads:
            if thread is not threading.current_thread():
                thread.join(10)

    def _again(self, work: Any, pause: float) -> None:
        told: str | None = None
        while not self._stop.is_set():
            try:
                work()
                told = None
            except Exception as error:  # noqa: BLE001 - the breaker has to outlive whatever goes wrong once
                said = (
                    str(error)
                    if isinstance(error, SlipwayError)
                    else f"{type(error).__name__}: {error} (please report it)"
                )
                if said != told:  # once, not ten times a second
                    told = said
                    self.gateway.journal.add("failing", "", said)
            self._stop.wait(pause)

    # --- ten times a second -------------------------------------------------------------------------------------------

    def _tick(self) -> None:
        try:
            rows = self.gateway.runtime.rows()
        except Transient:
            if self.gateway.plane.running() is None:
                self.gateway.revive()
            return
        self.gateway.catch_up()
        for served in self.gateway.config.models:
            watched = self.models[served.name]
            with self.gateway.lock:
                look = watched.take(rows, served.name)
            self._judge(served.name, watched, look)
        self.looked_at += 1
        self.gateway.keys_on_disk()

    def _judge(self, name: str, watched: _Watched, look: Look) -> None:
        weight = self.gateway.routing.models[name].candidate_weight
        up = look.ready["candidate"] > 0
        if weight == 0:
            watched.candidate_seen = False
        elif watched.window.tripped:
            said = f"taken out: {watched.window}"
            self.gateway.take_out(name, said, bad=watched.window.bad, of=watched.window.policy.last)
        elif not up and watched.candidate_seen:
            self.gateway.take_out(name, "taken out: no replica of the candidate answers")
        watched.candidate_seen = watched.candidate_seen or up
        champion_up = look.ready["champion"] > 0
        if champion_up != watched.champion_up:
            watched.champion_up = champion_up
            said = (
                "answers again" if champion_up else "does not answer: its users get 503, the candidate is not promoted"
            )
            self.gateway.journal.add("recovered" if champion_up else "failing", name, f"the champion of {name} {said}")

    # --- once a second ------------------------------------------------------------------------------------------------

    def _second(self) -> None:
        for name, watched in list(self.models.items()):
            self._scrape(name, watched)
            self._point(name, watched)
        self.gateway.serving.look()
        self.gateway.learn_versions()

    def _scrape(self, name: str, watched: _Watched) -> None:
        model = self.gateway.routing.models[name]
        wanted = [(arm, one.address) for arm in ARMS for one in model.side(arm).replicas]
        if not wanted:
            return
        anew = watched.tokens_begun is None  # asked before asking: what is counted meanwhile belongs to neither side
        with ThreadPoolExecutor(min(8, len(wanted))) as pool:
            found = list(pool.map(scraping.scrape, [address for _, address in wanted]))
        for (arm, address), values in zip(wanted, found, strict=True):
            if values is not None:
                watched.sums.add(arm, address, values)
        if anew:
            watched.tokens_begun = watched.sums.of("tokens")

    def _point(self, name: str, watched: _Watched) -> None:
        new = watched.totals.now.minus(watched.last_point)
        watched.last_point = watched.totals.now
        look = watched.look
        watched.history.append(
            {
                "at": round(time.time(), 1),
                "weight": self.gateway.routing.models[name].candidate_weight,
                **asdict(new),
                "response_ms": dict(look.response_ms) if look else {},
            }
        )

    # --- what others ask ----------------------------------------------------------------------------------------------

    def look(self, model: str) -> Look | None:
        watched = self.models.get(model)
        return watched.look if watched else None

    def moved(self, model: str, fresh: bool) -> None:
        """The weights changed: measure the split anew; a candidate that begins again begins with no bad answers."""
        watched = self.models.get(model)
        if watched is None:
            return
        with contextlib.suppress(Transient):
            watched.take(self.gateway.runtime.rows(), model)
        watched.begun, watched.since = watched.totals.now, time.time()
        watched.tokens_begun = None
        if fresh:
            watched.window.forget()

    def since_moved(self, model: str) -> tuple[Counts, dict[str, float]]:
        watched = self.models[model]
        with self.gateway.lock:
            with contextlib.suppress(Transient):
                watched.take(self.gateway.runtime.rows(), model)
            tokens = watched.sums.of("tokens")
            begun = tokens if watched.tokens_begun is None else watched.tokens_begun
            spent = {arm: value - begun.get(arm, 0) for arm, value in tokens.items()}
            return watched.totals.now.minus(watched.begun), spent

    def totals(self, model: str) -> Counts:
        return self.models[model].totals.now

    def quality(self, model: str) -> Json:
        """How many answers people called right, by arm, with the interval."""
        sums = self.models[model].sums
        correct, judged = sums.of("correct"), sums.of("judged")
        return {
            arm: asdict(counting.Share.of(correct.get(arm, 0), total)) for arm, total in judged.items() if total > 0
        }

    def history(self, model: str) -> list[Json]:
        return list(self.models[model].history)
