"""The outermost layer of every request: its id, what it is counted as, what its answer says of this replica."""

from collections.abc import MutableMapping
from typing import Any, Final

from starlette.datastructures import Headers, MutableHeaders
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from slipway.serving.problems import Problem
from slipway.serving.replica import Replica
from slipway.serving.seen import Seen, of_headers

PROBES: Final = frozenset(["/health", "/ready", "/metrics"])  # asked every second by machines: no requests of anybody


class Edge:
    """Wraps the application."""

    def __init__(self, app: ASGIApp, replica: Replica, endpoints: frozenset[str]) -> None:
        self._app, self._replica, self._endpoints = app, replica, endpoints

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http" or scope["path"] in PROBES:
            await self._app(scope, receive, send)
            return
        replica, headers = self._replica, Headers(scope=scope)
        seen = of_headers(headers, replica.keys)
        seen.method = scope["method"]
        seen.endpoint = scope["path"] if scope["path"] in self._endpoints else "other"
        scope.setdefault("state", {})["seen"] = seen
        replica.began(seen)
        span = replica.telemetry.begin(headers, seen)
        try:
            await self._answered(scope, receive, send, seen)
        finally:
            seen.status = seen.status or 500
            replica.ended(seen)
            replica.telemetry.end(span, seen)

    async def _answered(self, scope: Scope, receive: Receive, send: Send, seen: Seen) -> None:
        body = _Body(scope)

        async def received() -> Message:
            return body.seen(await receive())

        async def sent(message: Message) -> None:
            if message["type"] == "http.response.start":
                seen.status = message["status"]
                self._label(message, seen, body)
            await send(message)

        await self._app(scope, received, sent)

    def _label(self, message: Message, seen: Seen, body: "_Body") -> None:
        headers = MutableHeaders(raw=message["headers"])
        headers["x-request-id"] = seen.request_id
        served = seen.served or (self._replica.served[0] if self._replica.served else None)
        if served is not None:
            headers["x-slipway-version"], headers["x-slipway-model"] = served.version, served.model
        if not body.read:  # what is left of it is not waited for
            headers["connection"] = "close"


class _Body:
    """Whether a request's body was read to its end."""

    def __init__(self, scope: Scope) -> None:
        headers = Headers(scope=scope)
        self.read = headers.get("content-length", "0") == "0" and "transfer-encoding" not in headers

    def seen(self, message: MutableMapping[str, Any]) -> MutableMapping[str, Any]:
        if message["type"] == "http.request" and not message.get("more_body", False):
            self.read = True
        return message


def of_status(status: int, path: str) -> Problem:
    """What the router itself says: no such path, no such method."""
    shown = ascii(path)[1:-1][:100]
    if status == 404:
        return Problem(404, "unknown_url", f"there is no {shown} here; /docs lists what there is")
    if status == 405:
        return Problem(405, "method_not_allowed", f"{shown} is not asked in this way; /docs says how")
    return Problem(status, "error", f"{shown} cannot be answered ({status})")


# uvicorn closes a connection on which something was raised, and says so only if we do.
BUG: Final = Problem(
    500,
    "internal_error",
    "something went wrong here that should not have; it is in the log",
    headers={"connection": "close"},
)
