"""Ask and steer a gateway that runs in another process, by its admin port."""

import json
import urllib.error
import urllib.request
from pathlib import Path
from typing import Any

from slipway.errors import SlipwayError, Transient, UsageError, of_exit_code
from slipway.gateway import admin, routing

SECONDS = 90.0


def ask(folder: Path, path: str, asked: Any = None, seconds: float = SECONDS) -> Any:
    """What the admin port answers; its own error where it refuses, Transient where nobody is there."""
    kept = routing.load(folder)
    if kept is None or kept.admin is None:
        raise UsageError(f"no gateway has run here ({folder} has no record of one); start it with `slipway gateway`")
    request = urllib.request.Request(f"http://{kept.admin}{path}")
    if asked is not None:
        request.data = json.dumps(asked).encode()
        request.add_header("authorization", f"Bearer {admin.token(folder)}")
    try:
        with urllib.request.urlopen(request, timeout=seconds) as answer:
            return json.loads(answer.read())
    except urllib.error.HTTPError as error:
        raise _error(error) from None
    except (OSError, ValueError) as error:
        reason = getattr(error, "reason", error)
        raise Transient(f"the gateway's admin port {kept.admin} does not answer ({reason}); is it running?") from None


def _error(error: urllib.error.HTTPError) -> SlipwayError:
    try:
        said = json.loads(error.read())
        return of_exit_code(int(said.get("exit_code", 1)), str(said["error"]))
    except (ValueError, KeyError, TypeError, AttributeError):
        return Transient(f"the admin port answered {error.code}; is something else at its address?")
