"""A text as it may be written down: without personal data, and not at all where it holds a secret."""

from slipway.data import personal, secrets

MOST = 20_000  # characters that are kept
_LOOKED_AT = 2 * MOST  # so that nothing hides across the cut


def redacted(text: str) -> str:
    """Personal data gives way to its kind. A secret takes the whole text with it: its neighbours often tell it too."""
    text = text[:_LOOKED_AT]
    if found := secrets.found(text):
        return f"<WITHHELD: {', '.join(sorted(found))}>"
    return personal.redact(text, personal.KINDS)[:MOST]
