"""`tokenizer.model`: a SentencePiece vocabulary (a protocol buffer), or one in tiktoken's form (text)."""

from collections.abc import Iterator

from slipway.scanning import letters, swelling, text
from slipway.scanning.denied import Denied
from slipway.scanning.walk import Opened

MAX_BYTES = 16_000_000  # the largest have 5 MB
MAX_NUMBER = (1 << 64) - 1

_VARINT, _FIXED64, _BYTES, _FIXED32 = 0, 1, 2, 5
# ModelProto: pieces, trainer_spec, normalizer_spec, self_test_data, denormalizer_spec.
_PIECES, _OTHERS = 1, {2, 3, 4, 5}
_NORMALIZERS, _TABLE = {3, 5}, (2, _BYTES)  # their table of characters
_PIECE = {1: _BYTES, 2: _FIXED32, 3: _VARINT}  # the token, its score, its type


def check(file: Opened) -> None:
    """Denied unless it is a vocabulary and nothing else."""
    data = file.whole(MAX_BYTES)
    if letters.is_pickle(data):
        raise Denied("a pickle too, which can run code when read")
    if text.is_tiktoken(data):
        return
    pieces = 0
    for number, wire, value in _fields(data):
        if wire != _BYTES or number not in {_PIECES, *_OTHERS}:
            raise Denied(f"not a SentencePiece vocabulary: the field {number} does not belong in one")
        if number == _PIECES:
            _check_piece(value)
            pieces += 1
        elif number in _NORMALIZERS:
            for inner, kind, table in _fields(value):
                if (inner, kind) == _TABLE:
                    swelling.check_map(table)
    if not pieces:
        raise Denied("not a SentencePiece vocabulary: it has no pieces")


def _check_piece(data: bytes) -> None:
    for number, wire, value in _fields(data):
        if _PIECE.get(number) != wire:
            raise Denied(f"not a SentencePiece vocabulary: a piece has the field {number}")
        if number == 1:
            try:
                value.decode()
            except UnicodeDecodeError:
                raise Denied("not a SentencePiece vocabulary: a piece is not UTF-8") from None


def _fields(data: bytes) -> Iterator[tuple[int, int, bytes]]:
    """The fields of one message: number, wire type, and the bytes where the type has any."""
    at = 0
    while at < len(data):
        key, at = _varint(data, at)
        number, wire = key >> 3, key & 7
        length = {_VARINT: 0, _FIXED64: 8, _FIXED32: 4}.get(wire)
        if wire == _VARINT:
            _, at = _varint(data, at)
        elif wire == _BYTES:
            length, at = _varint(data, at)
        if length is None or number == 0 or at + length > len(data):
            raise Denied(f"not a SentencePiece vocabulary: malformed at byte {at:,}")
        yield number, wire, data[at : at + length]
        at += length


def _varint(data: bytes, at: int) -> tuple[int, int]:
    """A number as a writer writes it, in as few bytes as it needs: a longer form could spell another format's first bytes."""
    value = 0
    for shift in range(0, 70, 7):
        if at >= len(data):
            break
        byte = data[at]
        value, at = value | (byte & 0x7F) << shift, at + 1
        if byte < 0x80:
            if (byte == 0 and shift) or value > MAX_NUMBER:
                break
            return value, at
    raise Denied(f"not a SentencePiece vocabulary: malformed at byte {at:,}")
