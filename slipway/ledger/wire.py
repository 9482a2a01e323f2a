"""An event as one line of JSON, and back: for archives, exports and sinks."""

from typing import Any

from slipway import strict
from slipway.artifacts import Json
from slipway.ledger.chain import Event, canonical

_TEXTS = ("at", "boot", "kind", "model", "subject", "previous", "hash")
_NUMBERS = ("sequence", "elapsed_ms", "ticks_ms")
_PARTS = ("actor", "payload")
FIELDS = (*_NUMBERS, *_TEXTS, *_PARTS)


def values(event: Event) -> Json:
    """All that an event says."""
    return {name: getattr(event, name) for name in FIELDS}


def text(event: Event) -> str:
    return canonical(values(event))


def parsed(line: str) -> Event:
    """The event of a line; ValueError where it is none."""
    return of_values(strict.loads_json(line))


def of_values(found: Any) -> Event:
    if not isinstance(found, dict) or set(found) != set(FIELDS):
        raise ValueError("has other fields than an event")
    for names, kind in ((_TEXTS, str), (_NUMBERS, int), (_PARTS, dict)):
        if wrong := next((name for name in names if type(found[name]) is not kind), None):
            raise ValueError(f"{wrong} is {found[wrong]!r:.60}")
    return Event(**found)
