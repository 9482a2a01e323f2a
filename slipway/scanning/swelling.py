"""`tokenizer.json`: what it does to a text before and after its vocabulary may not make much out of little."""

import binascii
from collections.abc import Iterator
from typing import Any

from slipway.scanning.denied import Denied

MAX_FACTOR = 100  # characters out of one
MAX_PIECES = 100  # in the template around a text, and tokens that one name stands for
MAX_PADDING = 1_000_000  # tokens

_SECTIONS = ("normalizer", "pre_tokenizer", "post_processor", "decoder")
# Keys by which a step writes text of its own, once for each match or piece.
_WRITTEN = ("content", "prepend", "replacement", "prefix", "suffix", "word_delimiter_token", "pad_token")
_LISTED = ("single", "pair", "ids", "tokens")


def check(tokenizer: Any) -> None:
    """Denied when some step of a tokenizer, or all of a section together, swells a text."""
    if not isinstance(tokenizer, dict):
        raise Denied("a tokenizer that is no JSON object")
    for section in _SECTIONS:
        factor = 1
        for part in _objects(tokenizer.get(section)):
            check_map(_decoded(part.get("precompiled_charsmap")))
            factor *= _factor(part)
            if factor > MAX_FACTOR:
                raise Denied(f"its {section} makes more than {MAX_FACTOR} characters out of one")
            if (
                longest := max((len(part[k]) for k in _LISTED if isinstance(part.get(k), list)), default=0)
            ) > MAX_PIECES:
                raise Denied(f"its {section} puts {longest:,} pieces around a text; {MAX_PIECES} are the most")
    for number in _numbers(tokenizer.get("padding")):
        if number > MAX_PADDING:
            raise Denied(f"pads every text to {number:,} tokens; {MAX_PADDING:,} are the most")


def check_map(data: bytes) -> None:
    """Denied when SentencePiece's table of characters gives one of them a long text: a trie, then texts that NUL ends."""
    if not data:
        return
    texts = 4 + int.from_bytes(data[:4], "little")
    if texts > len(data):
        raise Denied("its table of characters is cut")
    longest = max(map(len, data[texts:].split(b"\0")))
    if longest > MAX_FACTOR:
        raise Denied(f"its table of characters makes {longest:,} bytes out of one; {MAX_FACTOR} are the most")


def _decoded(text: Any) -> bytes:
    try:
        return binascii.a2b_base64(text) if isinstance(text, str) else b""
    except (binascii.Error, ValueError):
        raise Denied("its table of characters is not base64") from None


def _objects(value: Any) -> Iterator[dict[str, Any]]:
    waiting = [value]
    while waiting:
        outer = waiting.pop()
        if isinstance(outer, dict):
            yield outer
            waiting.extend(outer.values())
        elif isinstance(outer, list):
            waiting.extend(outer)


def _factor(part: dict[str, Any]) -> int:
    """How many characters one step makes of one: what it writes, over the shortest text that it writes it for."""
    written = sum(len(part[key]) for key in _WRITTEN if isinstance(part.get(key), str))
    if "prepend" in part:
        return 1 + written
    pattern = part.get("pattern")
    found = pattern.get("String") if isinstance(pattern, dict) else None
    return max(1, -(-written // max(1, len(found) if isinstance(found, str) else 1)))


def _numbers(padding: Any) -> Iterator[int]:
    """How far to pad: to a length, or to a multiple of one."""
    for part in _objects(padding):
        for key in ("Fixed", "pad_to_multiple_of"):
            if type(part.get(key)) is int:
                yield part[key]
