"""What a canary is, before any platform's words for it. Pure."""

import re
from dataclasses import dataclass

from slipway.errors import Refused
from slipway.release.routers.protocol import Arm

OWNER = "app.kubernetes.io/managed-by"
SLIPWAY = "slipway"
VERSION = "slipway.dev/version"
IDENTITY = "slipway.dev/identity"


@dataclass(frozen=True)
class Plan:
    """Two versions, and the share of the second."""

    champion: Arm
    candidate: Arm | None = None
    candidate_percent: float = 0


def name_of(text: str) -> str:
    """A model's name as Kubernetes takes names."""
    return re.sub(r"[^a-z0-9]+", "-", text.lower()).strip("-")[:40].rstrip("-") or "model"


def name_of_version(version: str) -> str:
    """A version as part of a name: 1.0.0 is v1-0-0."""
    return "v" + re.sub(r"[^a-z0-9]+", "-", version.lower()).strip("-")


def bytes_of(arm: Arm) -> str:
    """Where a platform finds an arm; Refused where it could not."""
    if arm.uri is None:
        raise Refused(
            f"{arm.model} {arm.version} is on this machine alone, where a cluster finds nothing; set `archive_url` in configs/env, "
            f"so that versions have a place of their own, then run this again"
        )
    return arm.uri


def owned(arm: Arm) -> dict[str, str]:
    """What says whose an object is, and which version."""
    return {VERSION: arm.version} | ({IDENTITY: arm.identity} if arm.identity else {})
