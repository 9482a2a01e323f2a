"""The HTTP interface: two versions of it side by side, and what machines ask."""

import asyncio
import re
import time
from collections.abc import Awaitable, Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, date, datetime
from email.utils import format_datetime
from typing import Any

import orjson
from fastapi import APIRouter, FastAPI, Request
from pydantic import BaseModel
from starlette.exceptions import HTTPException
from starlette.responses import Response
from starlette.types import ASGIApp

from slipway import __version__
from slipway.errors import SlipwayError
from slipway.serving import answering, asking, bodies, forms, metrics, problems, wire
from slipway.serving.asking import Ask
from slipway.serving.config import Api
from slipway.serving.edge import BUG, Edge, of_status
from slipway.serving.flights import of_engine
from slipway.serving.problems import Problem
from slipway.serving.replica import Replica
from slipway.serving.seen import Seen, user_hash
from slipway.serving.streaming import EventStream, Form, unless_gone

Asker = Callable[..., Ask]
Answer = Callable[[Request], Awaitable[Response]]


class Json(Response):
    media_type = "application/json"

    def render(self, content: Any) -> bytes:
        return orjson.dumps(content)


def build(replica: Replica) -> ASGIApp:
    """The application of one replica."""
    # A redirect would go to whatever host the client named, and take the API key along.
    app = FastAPI(
        title="Slipway", version=__version__, summary="Answers of one model's versions", redoc_url=None,
        redirect_slashes=False,
    )  # fmt: skip
    routers = list(_routers(replica))
    for router in routers:
        app.include_router(router)
    _say_problems(app)
    paths = frozenset(str(getattr(route, "path", "")) for router in routers for route in router.routes)
    return Edge(app, replica, paths)


def _routers(replica: Replica) -> Iterator[APIRouter]:
    versions, service = replica.config.versions, Service(replica)
    yield _probes(replica)
    if versions.v1 is not None:
        yield _v1(service, versions.v1, "/v2" if versions.v2 is not None else None)
    if versions.v2 is not None:
        yield _v2(service, versions.v2)


def _say_problems(app: FastAPI) -> None:
    """Every error in OpenAI's form."""

    async def http(request: Request, error: Exception) -> Response:
        assert isinstance(error, HTTPException)
        return Json(of_status(error.status_code, request.url.path).body, error.status_code, error.headers)

    async def bug(request: Request, error: Exception) -> Response:
        return Json(BUG.body, BUG.status, BUG.headers)

    app.add_exception_handler(HTTPException, http)
    app.add_exception_handler(Exception, bug)


# --- what machines ask --------------------------------------------------------------------------------------------------


def _probes(replica: Replica) -> APIRouter:
    router = APIRouter(tags=["machines"])

    @router.get("/health", summary="200 while the process lives")
    async def health() -> Response:
        return Json({"status": "alive"})

    @router.get("/ready", summary="200 when loaded, verified, warm and not draining")
    async def ready() -> Response:
        if (why := replica.unready) is not None:
            return Json({"status": "unready", "reason": why}, 503)
        served = [{"model": one.model, "version": one.version, "identity": one.identity} for one in replica.served]
        return Json({"status": "ready", "served": served})

    @router.get("/metrics", summary="For Prometheus")
    async def scrape() -> Response:
        return Response(replica.metrics.text(), media_type=metrics.CONTENT_TYPE)

    return router


# --- the two versions ---------------------------------------------------------------------------------------------------


def _v1(service: "Service", api: Api, successor: str | None) -> APIRouter:
    """As OpenAI's completions."""
    chat = service.operation(wire.ChatRequest, asking.of_chat, _completion, forms.Chunks)
    text = service.operation(wire.CompletionRequest, asking.of_completion, _completion, forms.Chunks)
    router = _Versioned("/v1", api, successor)
    router.post("/chat/completions", chat, wire.ChatRequest, "A conversation's next turn")
    router.post("/completions", text, wire.CompletionRequest, "A text's continuation")
    return _common(router, service)


def _v2(service: "Service", api: Api) -> APIRouter:
    """As OpenAI's responses: one answer, text in and out, nothing kept between requests."""
    response = service.operation(wire.ResponsesRequest, asking.of_response, _response, forms.ResponseEvents)
    router = _Versioned("/v2", api, None)
    router.post("/responses", response, wire.ResponsesRequest, "One answer to a text or a conversation")
    return _common(router, service)


def _common(router: "_Versioned", service: "Service") -> APIRouter:
    router.post("/feedback", service.feedback, wire.FeedbackRequest, "What somebody thinks of an answer")
    router.get("/models", service.models, "What is served here")
    router.get("/models/{name}", service.model, "One of them")
    return router.router


class _Versioned:
    """The routes of one version, its deprecation said with every answer."""

    def __init__(self, prefix: str, api: Api, successor: str | None) -> None:
        self.router = APIRouter(prefix=prefix, tags=[prefix.removeprefix("/")])
        self._deprecated = api.deprecated is not None
        self._headers = deprecation(api, successor)

    def post(self, path: str, answer: Answer, kind: type[BaseModel], summary: str) -> None:
        body = {"content": {"application/json": {"schema": kind.model_json_schema()}}, "required": True}
        self._add(path, answer, "POST", summary, {"requestBody": body})

    def get(self, path: str, answer: Answer, summary: str) -> None:
        named = [{"in": "path", "name": name, "required": True, "schema": {"type": "string"}} for name in _names(path)]
        self._add(path, answer, "GET", summary, {"parameters": named} if named else None)

    def _add(self, path: str, answer: Answer, method: str, summary: str, extra: dict[str, Any] | None) -> None:
        headers = self._headers

        async def answered(request: Request) -> Response:
            try:
                response = await answer(request)
            except SlipwayError as error:
                problem = error if isinstance(error, Problem) else of_engine(error)
                response = Json(problem.body, problem.status, problem.headers)
            response.headers.update(headers)
            return response

        self.router.add_api_route(
            path, answered, methods=[method], summary=summary, openapi_extra=extra, deprecated=self._deprecated or None,
            response_model=None, operation_id=f"{method.lower()}{self.router.prefix}{path}".replace("/", "_"),
        )  # fmt: skip


def _names(path: str) -> list[str]:
    return re.findall(r"\{(\w+)\}", path)


def deprecation(api: Api, successor: str | None) -> dict[str, str]:
    """RFC 9745 and RFC 8594: since when it is deprecated, when it goes away, and what comes instead."""
    found: dict[str, str] = {}
    if api.deprecated is not None:
        found["deprecation"] = f"@{int(_midnight(api.deprecated).timestamp())}"
        if successor is not None:
            found["link"] = f'<{successor}>; rel="successor-version"'
    if api.sunset is not None:
        found["sunset"] = format_datetime(_midnight(api.sunset), usegmt=True)
    return found


def _midnight(day: date) -> datetime:
    return datetime(day.year, day.month, day.day, tzinfo=UTC)


def _completion(ask: Ask, answers: Sequence[Any], answer_id: str, created: int) -> dict[str, Any]:
    return forms.completion(ask, answers, answer_id, created)


def _response(ask: Ask, answers: Sequence[Any], answer_id: str, created: int) -> dict[str, Any]:
    return forms.response(ask, answers[0], answer_id, created)


# --- answering ----------------------------------------------------------------------------------------------------------


class Service:
    """What the routes of all versions share."""

    def __init__(self, replica: Replica) -> None:
        self.replica = replica
        self._since = int(time.time())
        self._long_texts = ThreadPoolExecutor(1, "long-texts")

    def operation(
        self,
        kind: type[wire.Common],
        asker: Asker,
        whole: Callable[..., dict[str, Any]],
        stream: Callable[[Ask, str, int], Form],
    ) -> Answer:
        """A route that generates: what it reads, what that asks, and how its answers are said."""

        async def answered(request: Request) -> Response:
            replica, seen = self.replica, _seen(request)
            replica.admit()
            asked = wire.read(kind, await bodies.read(request, replica.config.limits))
            asked = asking.sent_as(seen.sent_as, asked, replica.names)
            ask = await self._asked(asker, asked)
            answer_id = self._note(ask, seen)
            if ask.stream:
                return await self._streamed(request, ask, seen, stream(ask, answer_id, int(seen.at)))
            answers = await unless_gone(request, answering.whole(replica, ask, seen))
            if seen.kept:
                seen.answer = "\n".join(one.text for one in answers)
            return Json(whole(ask, answers, answer_id, int(seen.at)))

        return answered

    async def _asked(self, asker: Asker, asked: Any) -> Ask:
        """A long text is cut into tokens elsewhere, one after another: streams and probes go on meanwhile."""
        given = (asked, self.replica.engine, self.replica.names, self.replica.config.limits)
        if asked.characters <= asking.LONG:
            return asker(*given)
        return await asyncio.get_running_loop().run_in_executor(self._long_texts, asker, *given)

    def _note(self, ask: Ask, seen: Seen) -> str:
        seen.served, seen.prompt_tokens = ask.served, ask.prompt_tokens
        seen.user = seen.user or user_hash(ask.user, self.replica.keys)
        if seen.kept:
            seen.prompt = "\n".join(ask.said)
        seen.answer_id = self.replica.ids.make(forms.PREFIXES[ask.kind], ask.served.model, ask.served.version)
        return seen.answer_id

    async def _streamed(self, request: Request, ask: Ask, seen: Seen, form: Form) -> Response:
        """Waits for the first piece: until then whatever fails is an HTTP status."""
        parts = answering.streamed(self.replica, ask, seen)
        try:
            first = await unless_gone(request, anext(parts))
        except BaseException:
            await parts.aclose()
            raise
        return EventStream(first, parts, form, seen)

    async def models(self, request: Request) -> Response:
        if not self.replica.served:
            raise problems.lost("the model is being loaded; try again", "loading")
        return Json(forms.models(self.replica.served, self._since))

    async def model(self, request: Request) -> Response:
        if not self.replica.served:
            raise problems.lost("the model is being loaded; try again", "loading")
        name = str(request.path_params["name"])
        return Json(forms.model(name, self.replica.names.find(name), self._since))

    async def feedback(self, request: Request) -> Response:
        """Kept even while it drains: what somebody thinks is asked for once."""
        replica, seen = self.replica, _seen(request)
        if not replica.served:
            raise problems.lost("the model is being loaded; try again", "loading")
        said = wire.read(wire.FeedbackRequest, await bodies.read(request, replica.config.limits))
        if said.score is None and said.label is None and said.comment is None:
            raise problems.invalid("say a `score`, a `label` or a `comment`", "score")
        model, version = replica.ids.read(said.id)
        user = seen.user or user_hash(said.user, replica.keys) or ""
        replaced, counts = await asyncio.to_thread(replica.judgements.put, said.id, user, said.correct)
        if counts and said.correct is not None:
            replica.metrics.judged(version, said.correct)
        replica.log.add("feedback", model, _row(said, model, version, user, replaced, seen))
        return Json({"object": "feedback", "id": said.id, "model": model, "version": version, "replaced": replaced})


def _row(
    said: wire.FeedbackRequest, model: str, version: str, user: str, replaced: bool, seen: Seen
) -> dict[str, object]:
    return {
        "time": datetime.fromtimestamp(seen.at, UTC),
        "answer_id": said.id,
        "user_hash": user or None,
        "model": model,
        "version": version,
        "score": said.score,
        "label": said.label,
        "correct": said.correct,
        "comment": said.comment if seen.kept else None,
        "replaced": replaced,
    }


def _seen(request: Request) -> Seen:
    found = request.scope["state"]["seen"]
    assert isinstance(found, Seen)
    return found
