"""A request's body: how much of it is read, for how long, and what it may be. Sizes are looked at before anything is parsed."""

import asyncio
from typing import Any

import orjson
from starlette.requests import ClientDisconnect, Request

from slipway.artifacts import Json
from slipway.serving import problems
from slipway.serving.config import Limits

MOST_CONTAINERS = 20_000  # lists and objects of one body: what a walk through them may cost


async def read(request: Request, limits: Limits) -> Json:
    """The JSON object of a body, or the Problem with it."""
    _check_headers(request, limits)
    try:
        async with asyncio.timeout(limits.body_seconds):
            data = await _bytes(request, limits.body_bytes)
    except TimeoutError:
        raise problems.too_slow(limits.body_seconds) from None
    return parsed(data, limits.json_depth)


def _check_headers(request: Request, limits: Limits) -> None:
    encoding = request.headers.get("content-encoding", "identity").strip().lower()
    if encoding not in ("", "identity"):
        raise problems.encoded(encoding)
    kind = request.headers.get("content-type", "application/json").partition(";")[0].strip().lower()
    if kind != "application/json":
        raise problems.Problem(415, "unsupported_media_type", "send JSON, with content-type: application/json")
    stated = request.headers.get("content-length", "")
    if stated.isascii() and stated.isdigit() and (len(stated) > 15 or int(stated) > limits.body_bytes):
        raise problems.too_large(limits.body_bytes)


async def _bytes(request: Request, most: int) -> bytes:
    """The body as it arrives, up to the first byte too many."""
    data = bytearray()
    try:
        async for part in request.stream():
            data += part
            if len(data) > most:
                raise problems.too_large(most)
    except ClientDisconnect:
        raise problems.Problem(499, "client_gone", "the client went away while it sent its request") from None
    return bytes(data)


def parsed(data: bytes, most_depth: int) -> Json:
    """A body's JSON object; the shape is looked at before anybody asks what stands in it."""
    if not data:
        raise problems.invalid("the body is empty; send a JSON object", code="invalid_json")
    try:
        value = orjson.loads(data)
    except orjson.JSONDecodeError as error:
        # The library's own words name a place and never what stands there.
        raise problems.invalid(
            f"the body is not valid JSON, at character {error.pos}: {_why(error)}", code="invalid_json"
        ) from None
    if data.count(b"]") + data.count(b"}") > most_depth:  # as deep as this at most
        _check_shape(value, most_depth)
    if not isinstance(value, dict):
        raise problems.invalid("the body is not a JSON object; send one", code="invalid_json")
    return value


def _why(error: orjson.JSONDecodeError) -> str:
    return str(error.msg).partition(":")[0][:100]


def _check_shape(value: Any, most_depth: int) -> None:
    """Refuse what is nested deeply or made of very many parts, level by level, without recursion."""
    level, seen, depth = [value], 0, 0
    while level := [item for item in level if isinstance(item, dict | list)]:
        depth, seen = depth + 1, seen + len(level)
        if depth > most_depth:
            raise problems.invalid(
                f"the JSON is nested deeper than {most_depth} levels; flatten it", code="invalid_json"
            )
        if seen > MOST_CONTAINERS:
            raise problems.invalid(f"the JSON has more than {MOST_CONTAINERS:,} lists and objects", code="invalid_json")
        level = [inner for item in level for inner in (item.values() if isinstance(item, dict) else item)]
