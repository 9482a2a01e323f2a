"""What is known of one request while it is answered: for metrics, the inference log and traces."""

import re
import secrets
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal, get_args

from slipway.generating.jobs import Served
from slipway.serving.ids import Keys
from slipway.serving.problems import Problem

Track = Literal["champion", "candidate", "shadow", "direct"]
_REQUEST_ID = re.compile(r"[A-Za-z0-9._-]{1,64}")
_GROUP = re.compile(r"[A-Za-z0-9._:-]{1,64}")


@dataclass
class Seen:
    """One request, filled in as it goes."""

    request_id: str
    track: Track  # direct: no gateway sent it
    failover: bool
    tenant: str | None  # keyed hash of who pays: what the gateway says and the API key
    user: str | None  # keyed hash
    sent_as: str | None = None  # the model that the gateway counts the answer for
    group: str = ""  # of the user, as whoever asks says: rules of composites may read it
    method: str = "other"
    endpoint: str = "other"
    began: float = field(default_factory=time.monotonic)
    at: float = field(default_factory=time.time)
    served: Served | None = None
    answer_id: str | None = None
    status: int = 0
    failure: Problem | None = None  # after the first byte: the stream ended with it
    prompt_tokens: int = 0
    answer_tokens: int = 0
    first_token_seconds: float | None = None
    queue_seconds: float | None = None
    seconds: float = 0.0
    cached: bool = False
    kept: bool = False  # whether the policy lets this one's prompt and answer be written
    prompt: str | None = None
    answer: str | None = None

    @property
    def outcome(self) -> int:
        """The status that counts: of a stream that failed it is not the 200 it began with."""
        return self.failure.status if self.failure is not None else self.status

    @property
    def asked_by(self) -> dict[str, str]:
        """What rules that choose who answers may know of whoever asks."""
        return {"user_group": self.group, "track": self.track}

    def first_token(self) -> None:
        if self.first_token_seconds is None:
            self.first_token_seconds = time.monotonic() - self.began


def of_headers(headers: Mapping[str, str], keys: Keys) -> Seen:
    """What the gateway says of a request, or what one without a gateway has."""
    given = headers.get("x-request-id", "")
    track = headers.get("x-slipway-track", "direct")
    return Seen(
        request_id=given if _REQUEST_ID.fullmatch(given) else secrets.token_hex(16),
        track=track if track in get_args(Track) else "direct",  # type: ignore[arg-type]
        failover=headers.get("x-slipway-failover") == "1",
        tenant=_tenant(headers, keys),
        user=user_hash(headers.get("x-user-id"), keys),
        sent_as=headers.get("x-slipway-model"),
        group=group if _GROUP.fullmatch(group := headers.get("x-user-group", "")) else "",
    )


def user_hash(user: str | None, keys: Keys) -> str | None:
    return keys.hashed("users", user) if user else None


def _tenant(headers: Mapping[str, str], keys: Keys) -> str | None:
    """Both together, so that whoever reaches a replica without the gateway and borrows a name still lacks the key."""
    said, key = headers.get("x-slipway-tenant", ""), headers.get("authorization", "")
    return keys.hashed("tenants", f"{said}\0{key}") if said or key else None


def drawn(request_id: str, share: float, keys: Keys) -> bool:
    """Whether a request is among a share of all; who is in a small share is in every larger one, on every replica."""
    return share > 0 and int(keys.hashed("draws", request_id)[:13], 16) < share * 16**13
