"""The engine in another process: an OpenAI-compatible vLLM server, asked by HTTP with the very tokens of the prompt.

The tokenizer and template are read here, from verified files, so that a prompt is what it is everywhere; which weights
vLLM loaded is decided by the command that started it (`vllm_command`).
"""

import asyncio
import time
from collections.abc import AsyncIterator, Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

import httpx2 as httpx

from slipway import strict
from slipway.artifacts import Json
from slipway.errors import StageError, Transient, UsageError
from slipway.generating import opening
from slipway.generating.jobs import Finish, Job, Piece, Served
from slipway.generating.tickets import Late

if TYPE_CHECKING:
    from slipway.generating.prompts import Prompts

CONNECT_SECONDS = 5.0
LONGEST = 1_000_000  # bytes of a line that a server may send


class VllmEngine:
    """Versions of a project that a vLLM server answers for."""

    def __init__(self, root: Path, targets: Sequence[str], url: str, api_key: str | None = None) -> None:
        self._root, self._targets, self._url = root, tuple(targets), url.rstrip("/")
        self._headers = {"authorization": f"Bearer {api_key}"} if api_key else {}
        self._client: httpx.AsyncClient | None = None
        self._served: tuple[Served, ...] = ()
        self._prompts: dict[str, Prompts] = {}
        self._stops: dict[str, list[int]] = {}
        self._running = self._tokens = 0

    @property
    def served(self) -> Sequence[Served]:
        return self._served

    # --- start and stop -----------------------------------------------------------------------------------------------

    async def start(self) -> None:
        """Verify what the prompts are made with, and that the server has every version."""
        limits = httpx.Limits(max_connections=None, max_keepalive_connections=64)
        timeout = httpx.Timeout(None, connect=CONNECT_SECONDS)
        self._client = httpx.AsyncClient(
            base_url=self._url, headers=self._headers, timeout=timeout, limits=limits, trust_env=False
        )
        try:
            there = await self._models()
            await asyncio.to_thread(self._open, there)
        except BaseException:
            await self.stop()
            raise

    async def stop(self) -> None:
        if self._client is not None:
            client, self._client = self._client, None
            await client.aclose()

    async def _models(self) -> dict[str, Json]:
        """What the server says it has, by name."""
        assert self._client is not None
        try:
            answer = await asyncio.wait_for(self._client.get("/v1/models"), 2 * CONNECT_SECONDS)
            _check_status(answer.status_code, answer.text, self._url)
            return {str(about["id"]): about for about in strict.loads_json(answer.content)["data"]}
        except (httpx.HTTPError, TimeoutError) as error:
            raise self._away(error) from None
        except (KeyError, TypeError, ValueError) as error:
            raise StageError(
                f"{self._url} is no vLLM server: /v1/models says something else ({error!r:.100})"
            ) from None

    def _open(self, there: dict[str, Json]) -> None:
        from slipway.generating.prompts import Prompts

        served = []
        with opening.opened(self._root, self._targets) as found:
            for one in found:
                if one.name not in there:
                    raise StageError(
                        f"{self._url} does not serve {one.name}, it has {', '.join(sorted(there)) or 'nothing'}; "
                        f"start vLLM with the command that `slipway vllm` writes"
                    )
                self._prompts[one.name] = prompts = Prompts(one.base)
                generation, positions = _settings(one.base)
                self._stops[one.name] = sorted(prompts.stops(generation))
                context = min(filter(None, (there[one.name].get("max_model_len"), positions)), default=10**6)
                served.append(Served(one.model, one.version, one.identity, int(context), one.facts))
        self._served = tuple(served)

    # --- asking -------------------------------------------------------------------------------------------------------

    def encode(self, served: Served, prompt: str | Sequence[Json]) -> tuple[int, ...]:
        if served.name not in self._prompts:
            raise UsageError(f"{served.name} is not served here; there are {', '.join(self._prompts) or 'none'}")
        return tuple(self._prompts[served.name].encode(prompt))

    async def generate(self, job: Job) -> AsyncIterator[Piece]:
        """The server's pieces; leaving closes the connection, at which vLLM lets go of the request."""
        if self._client is None:
            raise Transient(f"the engine of {job.served.name} was stopped; start it again")
        self._running += 1
        try:
            async with asyncio.timeout(_left(job)):
                answer = await self._client.send(self._request(job), stream=True)
            try:
                if answer.status_code != 200:
                    async with asyncio.timeout(_left(job)):
                        _check_status(answer.status_code, (await answer.aread()).decode("utf-8", "replace"), self._url)
                async for piece in self._pieces(answer, job):
                    self._tokens += piece.tokens
                    yield piece
            finally:
                await answer.aclose()
        except TimeoutError:
            raise Late(f"{job.served.name} did not answer in the time this request had; try again later") from None
        except httpx.HTTPError as error:
            raise self._away(error) from None
        finally:
            self._running -= 1

    def _request(self, job: Job) -> httpx.Request:
        assert self._client is not None
        sampling = job.sampling
        body: Json = {
            "model": job.served.name, "prompt": list(job.prompt), "max_tokens": sampling.max_tokens,
            "temperature": sampling.temperature, "top_p": sampling.top_p, "top_k": sampling.top_k,
            "presence_penalty": sampling.presence_penalty, "frequency_penalty": sampling.frequency_penalty,
            "stop": list(sampling.stop), "stop_token_ids": self._stops[job.served.name], "stream": True,
            "stream_options": {"include_usage": True, "continuous_usage_stats": True},
        }  # fmt: skip
        if sampling.seed is not None:
            body["seed"] = sampling.seed
        return self._client.build_request("POST", "/v1/completions", json=body, headers={"x-request-id": job.id})

    async def _pieces(self, answer: httpx.Response, job: Job) -> AsyncIterator[Piece]:
        """The answer's events until the one that ends it; a stream that ends before is an engine that was lost."""
        lines, told = _lines(answer, self._url), 0
        while True:
            try:
                async with asyncio.timeout(_left(job)):
                    line = await anext(lines)
            except StopAsyncIteration:
                raise Transient(f"{self._url} ended the answer in the middle; ask again") from None
            if not line.startswith(b"data:"):
                continue
            if line.strip() == b"data: [DONE]":
                raise Transient(f"{self._url} ended the answer without saying how; ask again")
            text, written, finish = _said(_event(line[5:], self._url), told, self._url)
            if text or finish:
                yield Piece(text, max(written - told, 0), finish)
                told = max(told, written)
            if finish:
                return

    def load(self) -> Json:
        """What is known on this side; vLLM's own /metrics has the rest."""
        return {
            "running": self._running,
            "waiting": 0,
            "batch_sizes": {},
            "tokens": self._tokens,
            "device_memory_bytes": 0,
        }

    def _away(self, error: BaseException) -> Transient:
        return Transient(
            f"{self._url} does not answer ({type(error).__name__}: {str(error)[:200]}); see that vLLM runs"
        )


def _left(job: Job) -> float | None:
    """How long may still be waited for; a deadline of infinity is none."""
    left = job.deadline - time.monotonic()
    return None if left == float("inf") else max(left, 0)


def _check_status(status: int, text: str, url: str) -> None:
    """The client's mistake, the server's trouble, or neither."""
    if status == 200:
        return
    said = " ".join(text.split())[:300] or "nothing"
    if status in (401, 403, 404):
        raise StageError(f"{url} refuses with {status} ({said}); correct its address, key or models")
    if status in (400, 413, 422):
        raise UsageError(f"vLLM refuses the request: {said}")
    raise Transient(f"{url} answers {status} ({said}); ask again")


async def _lines(answer: httpx.Response, url: str) -> AsyncIterator[bytes]:
    """By line feeds alone: httpx's own would also cut at U+2028 and its like, which JSON has within its texts."""
    rest = b""
    async for data in answer.aiter_bytes():
        *lines, rest = (rest + data).split(b"\n")
        for line in lines:
            yield line
        if len(rest) > LONGEST:
            raise Transient(f"{url} sent a line of more than {LONGEST:,} bytes; ask again")


def _event(data: bytes, url: str) -> Json:
    try:
        text = data.decode("utf-8")
        event = strict.loads_json(text)
    except ValueError as error:
        raise Transient(f"{url} sent what is no event ({error}); ask again") from None
    if not isinstance(event, dict) or "error" in event:
        raise Transient(f"{url} ended the answer with an error ({text.strip()[:200]}); ask again")
    return event


def _said(event: Json, told: int, url: str) -> tuple[str, int, Finish | None]:
    """The text, the tokens so far and the end that an event tells of."""
    choice, usage = (event.get("choices") or [{}]), event.get("usage") or {}
    first = choice[0] if isinstance(choice, list) else None
    if not isinstance(first, dict) or not isinstance(usage, dict):
        raise Transient(f"{url} sent what is no event of a completion; ask again")
    text, finish = first.get("text") or "", first.get("finish_reason")
    written = usage.get("completion_tokens", told + bool(text))
    if not isinstance(text, str) or type(written) is not int:
        raise Transient(f"{url} sent what is no event of a completion; ask again")
    if finish not in (None, "stop", "length"):
        raise Transient(f"{url} gave the answer up ({finish!r:.40}); ask again")
    return text, written, finish


def _settings(folder: Path) -> tuple[Any, int | None]:
    """What `stop_tokens` and `positions_of` ask a loaded model for, without loading one."""
    from transformers import AutoConfig, GenerationConfig

    from slipway.evaluation import inference

    config = AutoConfig.from_pretrained(folder, local_files_only=True, trust_remote_code=False)
    own = (folder / "generation_config.json").is_file()
    generation = GenerationConfig.from_pretrained(folder) if own else GenerationConfig.from_model_config(config)
    stand_in: Any = SimpleNamespace(generation_config=generation, config=config)
    return stand_in, inference.positions_of(stand_in)
