"""safetensors, read more strictly than its own library does.

The library takes duplicate keys (the last one wins) and never looks at a value. Here every key stands once, every byte
of the file belongs to exactly one tensor, and every number is finite. One pass, a megabyte at a time.
"""

import math
import re
import struct
from bisect import bisect_right
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from slipway import strict
from slipway.scanning.denied import Denied, decoded, shown, too_deep
from slipway.scanning.walk import CHUNK, Opened

MAX_HEADER = 10_000_000
MAX_METADATA = 1_000_000
MAX_DIMENSIONS = 16
MAX_DIMENSION = 1 << 40

_SIZES = {
    "BOOL": 1, "U8": 1, "I8": 1, "F8_E5M2": 1, "F8_E4M3": 1, "F8_E5M2FNUZ": 1, "F8_E4M3FNUZ": 1,
    "I16": 2, "U16": 2, "F16": 2, "BF16": 2, "I32": 4, "U32": 4, "F32": 4, "I64": 8, "U64": 8, "F64": 8, "C64": 8,
}  # fmt: skip
# The bits that are all set in NaN and infinity, and in nothing else.
_NOT_FINITE: dict[str, np.unsignedinteger[Any]] = {
    "F8_E4M3": np.uint8(0x7F),
    "F8_E5M2": np.uint8(0x7C),
    "F16": np.uint16(0x7C00),
    "BF16": np.uint16(0x7F80),
    "F32": np.uint32(0x7F80_0000),
    "C64": np.uint32(0x7F80_0000),  # a pair of F32
    "F64": np.uint64(0x7FF0_0000_0000_0000),
}


@dataclass(frozen=True)
class Tensor:
    name: str
    dtype: str
    begin: int
    end: int


def check(file: Opened) -> None:
    """Denied unless the file is whole, unambiguous and finite safetensors."""
    tensors = _tensors(_header(file))
    position = 0
    for tensor in tensors:
        if tensor.begin != position:
            what = "overlaps the tensor before it" if tensor.begin < position else "leaves a hole before it"
            raise Denied(f"tensor {shown(tensor.name)} {what} (byte {tensor.begin:,}, not {position:,})")
        position = tensor.end
    rest = file.size - file.offset
    if rest < position:
        raise Denied(f"cut: {rest:,} bytes of tensors where the header promises {position:,}")
    if rest > position:
        raise Denied(f"{rest - position:,} trailing bytes that no tensor owns")
    _check_values(file, tensors)


def _header(file: Opened) -> dict[str, Any]:
    if file.size < 8:
        raise Denied("not safetensors: shorter than its 8-byte length field")
    (length,) = struct.unpack("<Q", file.take(8))
    if length > file.size - 8:
        raise Denied(f"not safetensors or cut: a header of {length:,} bytes in a file of {file.size:,}")
    if length > MAX_HEADER:
        raise Denied(f"a header of {length:,} bytes; {MAX_HEADER:,} is the most")
    data = file.take(length)
    if not data.startswith(b"{"):
        raise Denied("not safetensors: the header is no JSON object")
    if re.search(rb"[\[,:]\s*-", data):
        raise Denied("the header holds a negative number")
    try:
        header = strict.loads_json(decoded(data))
    except ValueError as error:
        raise Denied(f"the header is not strict JSON: {str(error)[:200]}") from None
    if too_deep(header):
        raise Denied("the header is nested too deeply")
    _check_metadata(header.pop("__metadata__", {}))
    if not header:
        raise Denied("holds no tensors")
    result: dict[str, Any] = header
    return result


def _check_metadata(metadata: Any) -> None:
    if not isinstance(metadata, dict) or not all(isinstance(value, str) for value in metadata.values()):
        raise Denied("__metadata__ is not a mapping of texts to texts")
    texts = [text for pair in metadata.items() for text in pair]
    if any(_has_surrogate(text) for text in texts):
        raise Denied("__metadata__ holds half a character")
    if (size := sum(map(len, texts))) > MAX_METADATA:
        raise Denied(f"__metadata__ holds {size:,} characters; {MAX_METADATA:,} are the most")


def _has_surrogate(text: str) -> bool:
    return any("\ud800" <= c <= "\udfff" for c in text) if not text.isascii() else False


def _tensors(header: dict[str, Any]) -> list[Tensor]:
    return sorted((_tensor(name, entry) for name, entry in header.items()), key=lambda t: (t.begin, t.end))


def _tensor(name: str, entry: Any) -> Tensor:
    """One entry of the header, its dtype, shape and bytes agreeing with each other."""
    if _has_surrogate(name) or not name.isprintable() or not name:
        raise Denied(f"a tensor's name {shown(name)} cannot be shown")
    if not isinstance(entry, dict) or entry.keys() != {"dtype", "shape", "data_offsets"}:
        raise Denied(f"tensor {shown(name)} has not exactly dtype, shape and data_offsets")
    dtype, shape, offsets = entry["dtype"], entry["shape"], entry["data_offsets"]
    if not isinstance(dtype, str) or dtype not in _SIZES:
        raise Denied(f"tensor {shown(name)} has the unknown dtype {shown(str(dtype))}")
    if not isinstance(shape, list) or len(shape) > MAX_DIMENSIONS or not all(_is_size(n) for n in shape):
        raise Denied(f"tensor {shown(name)} has an impossible shape")
    if not isinstance(offsets, list) or len(offsets) != 2 or not all(_is_size(n, 1 << 62) for n in offsets):
        raise Denied(f"tensor {shown(name)} has impossible offsets")
    begin, end = offsets
    if math.prod(n for n in shape if n) * _SIZES[dtype] >= 1 << 62:
        raise Denied(f"tensor {shown(name)} has an impossible shape")
    if end - begin != math.prod(shape) * _SIZES[dtype]:
        raise Denied(f"tensor {shown(name)}: {dtype} {shape} is not the {end - begin:,} bytes between its offsets")
    return Tensor(name, dtype, begin, end)


def _is_size(value: Any, limit: int = MAX_DIMENSION) -> bool:
    return type(value) is int and 0 <= value <= limit


# --- values ---


def _check_values(file: Opened, tensors: list[Tensor]) -> None:
    """Read all tensors, neighbours of one dtype together, and let no NaN or infinity by."""
    buffer, spare = bytearray(CHUNK), np.empty(CHUNK, np.uint8)
    for dtype, begin, end in _runs(tensors):
        for start in range(begin, end, CHUNK):
            count = min(CHUNK, end - start)
            file.into(memoryview(buffer)[:count])
            bad = _first_bad(np.frombuffer(buffer, np.uint8, count), dtype, spare)
            if bad is not None:
                tensor = tensors[bisect_right(tensors, start + bad, key=lambda t: t.begin) - 1]
                what = "a value that is neither true nor false" if dtype == "BOOL" else "NaN or infinity"
                raise Denied(f"tensor {shown(tensor.name)} holds {what} (byte {start + bad - tensor.begin:,} of it)")


def _runs(tensors: list[Tensor]) -> list[tuple[str, int, int]]:
    """Neighbouring tensors of one dtype as one stretch of bytes: thousands of small tensors cost no more than one."""
    runs: list[tuple[str, int, int]] = []
    for tensor in tensors:
        if runs and runs[-1][0] == tensor.dtype:
            runs[-1] = (tensor.dtype, runs[-1][1], tensor.end)
        else:
            runs.append((tensor.dtype, tensor.begin, tensor.end))
    return runs


def _first_bad(data: npt.NDArray[np.uint8], dtype: str, spare: npt.NDArray[np.uint8]) -> int | None:
    """The offset of the first byte of a value that may not be; `spare` is as large as any data."""
    if dtype == "BOOL":
        return None if data.max(initial=0) <= 1 else int(np.argmax(data > 1))
    if dtype.endswith("FNUZ"):  # one NaN, where minus zero would be, and no infinity
        return int(np.argmax(data == 0x80)) if (data == 0x80).any() else None
    if dtype not in _NOT_FINITE:
        return None
    mask = _NOT_FINITE[dtype]
    values = data.view(mask.dtype)
    bits = np.bitwise_and(values, mask, out=spare[: len(data)].view(mask.dtype))
    if bits.max(initial=0) != mask:
        return None
    return int(np.argmax(bits == mask)) * mask.itemsize
