"""Answers that are known already: in memory, and in Redis where it is configured.

The key is a keyed digest over everything that decides an answer, and over who may see it: the scope, the version and its
identity, the prompt's tokens, and the sampling as far as it matters; of a composite also each member's tokens and who asks. Nothing else is looked up by, so an answer can only come
back to a question of the same scope that is equal to the last token. What Redis holds is signed with the project's secret and
with its key: a value that was written, moved or changed by anybody else is no value.
"""

import asyncio
import hmac
import time
from collections import OrderedDict
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, Literal

import orjson

from slipway.generating.jobs import Prompt, Sampling, Served
from slipway.serving import config
from slipway.serving.asking import Choice
from slipway.serving.checking import Answer
from slipway.serving.ids import Keys

if TYPE_CHECKING:
    from redis.asyncio import Redis

Level = Literal["memory", "redis"]
_FORM = "slipway answer 1"  # another form of key or value gets another number
_OVERHEAD = 300  # bytes of an entry beside its text
_WRITES = 100  # that wait for Redis at once; more are not written


def scope(kind: Literal["tenant", "user", "shared"], tenant: str | None, user: str | None) -> str | None:
    """Who shares answers with whom; None: nobody does, since nobody knows who asks."""
    if kind == "shared":
        return "shared"
    if kind == "user":
        return f"user {tenant or ''} {user}" if user else None
    if tenant:
        return f"tenant {tenant}"
    return f"user {user}" if user else None


def key(secret: bytes, shared_by: str, served: Served, choice: Choice, asked_by: Mapping[str, str]) -> bytes:
    """Equal for two questions exactly if they must get the same answer and may see each other's."""
    version, prompt = [served.model, served.version, served.identity], choice.prompt
    said = [_FORM, shared_by, *version, [*prompt], _deciding(choice.sampling)]
    if isinstance(prompt, Prompt):  # its rules read who asks, and its members may tell apart what one of them does not
        said += [prompt.members, sorted(asked_by.items())]
    return hmac.digest(secret, orjson.dumps(said), "sha256")


def _deciding(sampling: Sampling) -> list[Any]:
    """What changes an answer: where the likeliest token is always taken, seed and the cuts of the tail do not."""
    drawn = [sampling.temperature, sampling.top_p, sampling.top_k, sampling.seed] if sampling.temperature else [0.0]
    penalties = [sampling.presence_penalty, sampling.frequency_penalty]
    return [sampling.max_tokens, sorted(set(sampling.stop)), [float(one) for one in penalties], drawn]


class Memory:
    """The answers used last, up to so many bytes."""

    def __init__(self, most_bytes: int, keep_seconds: float) -> None:
        self._most, self._keep = most_bytes, keep_seconds
        self._entries: OrderedDict[bytes, tuple[Answer, float, int]] = OrderedDict()
        self.bytes = 0

    def get(self, at: bytes) -> Answer | None:
        found = self._entries.get(at)
        if found is None:
            return None
        answer, until, _ = found
        if until < time.monotonic():
            self._drop(at)
            return None
        self._entries.move_to_end(at)
        return answer

    def put(self, at: bytes, answer: Answer) -> None:
        size = 4 * len(answer.text) + len(at) + _OVERHEAD  # Python keeps a character in at most four bytes
        if at in self._entries:
            self._drop(at)
        if size > self._most:
            return
        while self.bytes + size > self._most:
            self._drop(next(iter(self._entries)))
        self._entries[at] = (answer, time.monotonic() + self._keep, size)
        self.bytes += size

    def _drop(self, at: bytes) -> None:
        self.bytes -= self._entries.pop(at)[2]


class Second:
    """Redis, as long as it answers; left alone for a while after it did not."""

    def __init__(self, chosen: config.Redis, secret: bytes) -> None:
        self._config, self._secret = chosen, secret
        self._client: Redis | None = None
        self._quiet_until = 0.0
        self._writes: set[asyncio.Task[None]] = set()
        self.failures = 0

    async def get(self, at: bytes) -> Answer | None:
        data = await self._told("get", self._name(at))
        return self._opened(at, data) if isinstance(data, bytes) else None

    def put(self, at: bytes, answer: Answer) -> None:
        """Later, and perhaps not at all: nobody waits for it."""
        if len(self._writes) < _WRITES:
            seconds = self._config.keep_seconds
            task = asyncio.create_task(self._write(self._name(at), self._sealed(at, answer), seconds))
            self._writes.add(task)
            task.add_done_callback(self._writes.discard)

    async def close(self) -> None:
        for task in tuple(self._writes):
            task.cancel()
        if self._client is not None:
            await self._client.aclose()

    async def _write(self, name: str, data: bytes, seconds: int) -> None:
        await self._told("set", name, data, ex=seconds)

    async def _told(self, command: str, *words: Any, **options: Any) -> Any:
        from redis.exceptions import RedisError

        if time.monotonic() < self._quiet_until:
            return None
        try:
            async with asyncio.timeout(self._config.timeout_seconds):
                return await getattr(self._connected(), command)(*words, **options)
        except (RedisError, OSError, TimeoutError, ValueError):  # the last: an answer that is no Redis's
            self.failures += 1
            self._quiet_until = time.monotonic() + self._config.pause_seconds
            return None

    def _connected(self) -> "Redis":
        if self._client is None:
            from redis.asyncio import Redis

            # Connecting may take longer than one request waits: it goes on in the next.
            self._client = Redis.from_url(
                self._config.url, socket_timeout=5, socket_connect_timeout=5, max_connections=32
            )
        return self._client

    def _name(self, at: bytes) -> str:
        return f"slipway:answer:{at.hex()}"

    def _sealed(self, at: bytes, answer: Answer) -> bytes:
        said = orjson.dumps([answer.text, answer.tokens, answer.finish])
        return self._mac(at, said) + said

    def _opened(self, at: bytes, data: bytes) -> Answer | None:
        """An answer that a replica of this project kept under this very key; anything else is none."""
        mac, said = data[:32], data[32:]
        if not hmac.compare_digest(mac, self._mac(at, said)):
            return None
        text, tokens, finish = orjson.loads(said)
        return Answer(text, tokens, finish)

    def _mac(self, at: bytes, said: bytes) -> bytes:
        return hmac.digest(self._secret, at + said, "sha256")


class Cache:
    """Both levels."""

    def __init__(self, chosen: config.Cache, known: Keys) -> None:
        self.config = chosen
        self.secret = known.of("cache keys")
        self.memory = Memory(chosen.memory_bytes, chosen.keep_seconds)
        self.second = Second(chosen.redis, known.of("cache values")) if chosen.redis else None

    async def find(self, at: bytes) -> tuple[Answer, Level] | None:
        if (found := self.memory.get(at)) is not None:
            return found, "memory"
        if self.second is not None and (found := await self.second.get(at)) is not None:
            self.memory.put(at, found)
            return found, "redis"
        return None

    def keep(self, at: bytes, answer: Answer) -> None:
        self.memory.put(at, answer)
        if self.second is not None:
            self.second.put(at, answer)

    async def close(self) -> None:
        if self.second is not None:
            await self.second.close()
