"""What goes wrong with a request, in the form in which OpenAI says it: one class, one constructor a kind."""

from collections.abc import Mapping

from slipway.artifacts import Json
from slipway.errors import SlipwayError

_TYPES = {401: "authentication_error", 403: "permission_error", 404: "not_found_error", 429: "rate_limit_error"}


class Problem(SlipwayError):
    """A request that is answered with an error; its text is what the client reads."""

    def __init__(
        self,
        status: int,
        code: str,
        message: str,
        param: str | None = None,
        headers: Mapping[str, str] | None = None,
    ) -> None:
        super().__init__(message)
        self.status, self.code, self.param = status, code, param
        self.headers = dict(headers or {})

    @property
    def body(self) -> Json:
        """OpenAI's error object."""
        kind = "server_error" if self.status >= 500 else _TYPES.get(self.status, "invalid_request_error")
        return {"error": {"message": str(self), "type": kind, "param": self.param, "code": self.code}}


_CLOSE = {"connection": "close"}  # what is left of the body is not read


def invalid(message: str, param: str | None = None, code: str = "invalid_value") -> Problem:
    """400: the client's mistake."""
    return Problem(400, code, message, param)


def unsupported(field: str, what: str = "is not supported") -> Problem:
    """400: a field that would change the answer, and that this server does not have."""
    return Problem(400, "unsupported_parameter", f"`{field}` {what}; leave it out", field)


def too_large(most: int) -> Problem:
    return Problem(413, "body_too_large", f"the body has more than {most:,} bytes; send less", headers=_CLOSE)


def too_slow(seconds: float) -> Problem:
    return Problem(
        408, "body_too_slow", f"the body did not arrive within {seconds:g} s; send the request again", headers=_CLOSE
    )


def encoded(encoding: str) -> Problem:
    shown = ascii(encoding)[1:-1][:40]
    return Problem(
        415,
        "unsupported_encoding",
        f"content-encoding {shown} is not read here; send the body as it is",
        headers=_CLOSE,
    )


def full(waiting: int, retry_seconds: int) -> Problem:
    """429: the queue is full."""
    message = f"{waiting} answers wait already; try again in {retry_seconds} s"
    return Problem(429, "queue_full", message, headers={"retry-after": str(retry_seconds)})


def out_of_time(what: str, seconds: float | None = None) -> Problem:
    within = f"within {seconds:g} s" if seconds is not None else "in its time"
    return Problem(504, "deadline_exceeded", f"{what} was not made {within}; ask for less or try again later")


def lost(why: str, code: str = "model_unavailable") -> Problem:
    """503: this replica cannot answer now; another one may."""
    return Problem(503, code, why, headers={"retry-after": "1"})


def draining() -> Problem:
    return Problem(
        503, "draining", "this replica is shutting down; try again", headers={"retry-after": "1", "connection": "close"}
    )
