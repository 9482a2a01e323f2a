"""Several engines as one: each answers for what it serves, and a later one may stand on those before it."""

import contextlib
from collections import Counter
from collections.abc import AsyncIterator, Sequence

from slipway.artifacts import Json
from slipway.generating.jobs import Engine, Job, Piece, Served

_SUMS = ("running", "waiting", "device_memory_bytes")


class Together:
    """Routes what is asked to whoever serves it; what was asked for first is the default."""

    def __init__(self, engines: Sequence[Engine], wanted: Sequence[str] = ()) -> None:
        self._engines, self._wanted = tuple(engines), tuple(wanted)
        self._by_name: dict[str, Engine] = {}
        self._served: tuple[Served, ...] = ()

    @property
    def served(self) -> Sequence[Served]:
        return self._served

    async def start(self) -> None:
        """One after the other; where one does not start, those before it are stopped."""
        started: list[Engine] = []
        try:
            for engine in self._engines:
                started.append(engine)
                await engine.start()
        except BaseException:
            await _stopped(started)
            raise
        self._by_name = {one.name: engine for engine in self._engines for one in engine.served}
        self._served = tuple(sorted((one for engine in self._engines for one in engine.served), key=self._place))

    async def stop(self) -> None:
        await _stopped(self._engines)

    def encode(self, served: Served, prompt: str | Sequence[Json]) -> tuple[int, ...]:
        return self._by_name[served.name].encode(served, prompt)

    async def generate(self, job: Job) -> AsyncIterator[Piece]:
        pieces = self._by_name[job.served.name].generate(job)
        async with contextlib.aclosing(pieces):  # type: ignore[type-var]
            async for piece in pieces:
                yield piece

    def load(self) -> Json:
        loads = [engine.load() for engine in self._engines]
        sizes: Counter[str] = Counter()
        for load in loads:
            sizes.update(load.get("batch_sizes") or {})
        sums = {name: sum(load.get(name) or 0 for load in loads) for name in _SUMS}
        return {name: value for load in loads for name, value in load.items()} | sums | {"batch_sizes": dict(sizes)}

    def _place(self, one: Served) -> int:
        """Where it stands among what was asked for; after all of that, where nobody did."""
        asked = one.facts.get("asked_as", ())
        return next((at for at, name in enumerate(self._wanted) if name in asked), len(self._wanted))


async def _stopped(engines: Sequence[Engine]) -> None:
    for engine in reversed(engines):
        await engine.stop()
