"""Pickles, for import only: walked opcode by opcode, never loaded.

What may pass rebuilds tensors and plain containers, by names on a short list. A small machine follows the stack and the
memo, so that a name assembled, fetched back or hidden is the name that is judged. In doubt: denied. NumPy's arrays are
not on the list: an altered state of theirs crashes the interpreter, though every name in it is harmless.
"""

import pickletools
from dataclasses import dataclass, field
from typing import Any

from slipway.scanning.denied import Denied, shown
from slipway.scanning.walk import Opened

MAX_BYTES = 64_000_000
MAX_OPERATIONS = 5_000_000

_STORAGES = ("Double", "Float", "Half", "BFloat16", "Long", "Int", "Short", "Char", "Byte", "Bool")
# What a pickle may call: each only puts together what the pickle itself holds.
_CALLABLES = {
    "collections OrderedDict",
    "torch._utils _rebuild_tensor",
    "torch._utils _rebuild_tensor_v2",
    "torch._utils _rebuild_parameter",
    "torch Size",
    "torch device",
    "_codecs encode",  # how protocol 2 writes bytes
}
# What it may name, as an argument.
_NAMES = _CALLABLES | {f"torch {kind}Storage" for kind in _STORAGES} | {"torch.storage UntypedStorage"}
_DTYPES = (
    "float16", "float32", "float64", "bfloat16", "int8", "int16", "int32", "int64", "uint8", "bool", "float8_e4m3fn",
    "float8_e5m2",
)  # fmt: skip
_NAMES |= {f"torch {dtype}" for dtype in _DTYPES}
# What may get its state set afterwards, from a dictionary, which cannot reach a setter.
_STATES = {"collections OrderedDict"}

_TEXTS = {"UNICODE", "BINUNICODE", "SHORT_BINUNICODE", "BINUNICODE8"}
_STORE = {"PUT", "BINPUT", "LONG_BINPUT"}
_FETCH = {"GET", "BINGET", "LONG_BINGET"}
_NEVER = {
    "INST", "OBJ", "NEWOBJ", "NEWOBJ_EX", "EXT1", "EXT2", "EXT4", "PERSID", "NEXT_BUFFER", "READONLY_BUFFER",
}  # fmt: skip


@dataclass(frozen=True)
class Item:
    """What the machine knows of a value on the stack."""

    kind: str  # text | name | made | dictionary | tuple | mark | other
    text: str = ""


_OTHER, _MARK = Item("other"), Item("mark")


def check(file: Opened) -> None:
    """Denied unless the file is one pickle that only rebuilds data."""
    walk(file.whole(MAX_BYTES), torch=False)


def walk(data: bytes, torch: bool) -> None:
    """Follow a whole pickle; `torch` allows references to the tensors beside it in the archive."""
    machine = _Machine(torch)
    end = 0
    try:
        for count, (operation, argument, position) in enumerate(pickletools.genops(data)):
            if count > MAX_OPERATIONS:
                raise Denied(f"a pickle of more than {MAX_OPERATIONS:,} operations")
            machine.step(operation, argument, count)
            end = (position or 0) + 1
    except Denied as error:
        raise Denied(f"pickle: {error}") from None
    except (ValueError, IndexError, KeyError, OverflowError, RecursionError, UnicodeError, MemoryError) as error:
        raise Denied(f"not a pickle that can be followed ({shown(str(error))})") from None
    if end != len(data):
        raise Denied(f"pickle: {len(data) - end:,} bytes after its end, which another reader would read on")


@dataclass
class _Machine:
    torch: bool
    stack: list[Item] = field(default_factory=list)
    memo: dict[int, Item] = field(default_factory=dict)

    def step(self, operation: pickletools.OpcodeInfo, argument: Any, count: int) -> None:
        """One operation; its effect on the stack is what pickletools documents."""
        name = operation.name
        if name in _NEVER or (name == "BINPERSID" and not self.torch):
            raise Denied(f"the operation {name}, which calls or fetches what the file does not name")
        if name in _STORE or name == "MEMOIZE":
            self._remember(len(self.memo) if name == "MEMOIZE" else int(argument), count)
            return
        taken = self._take(operation)
        if name in _FETCH:
            self.stack.append(self.memo[int(argument)])
        elif name == "DUP":
            self.stack += [taken[0], taken[0]]
        elif operation.stack_after:
            self.stack.append(self._result(name, argument, taken))

    def _remember(self, index: int, count: int) -> None:
        if not 0 <= index <= count:  # a sparse memo makes the real unpickler allocate gigabytes
            raise Denied(f"a memo entry {index:,} at operation {count:,}")
        if self.stack[-1] is _MARK:  # the two unpicklers of Python would each remember something else
            raise Denied("remembers a mark")
        self.memo[index] = self.stack[-1]

    def _take(self, operation: pickletools.OpcodeInfo) -> list[Item]:
        """What an operation consumes, deepest first."""
        before = operation.stack_before
        below = before.index(pickletools.markobject) if pickletools.markobject in before else None
        if below is None and operation.name == "POP" and self.stack and self.stack[-1] is _MARK:
            below = 0
        start = len(self.stack) - len(before) if below is None else self._mark() - below
        if start < 0:
            raise Denied("the stack runs empty")
        taken = self.stack[start:]
        del self.stack[start:]
        if below is None and any(item is _MARK for item in taken):
            raise Denied(f"the operation {operation.name} takes a mark for a value")
        return taken

    def _mark(self) -> int:
        """Where the topmost mark stands; what is above it goes, so that all these walks together stay short."""
        at = len(self.stack) - 1
        while at >= 0 and self.stack[at] is not _MARK:
            at -= 1
        return at

    def _result(self, name: str, argument: Any, taken: list[Item]) -> Item:
        if name == "MARK":
            return _MARK
        if name in _TEXTS:
            return Item("text", argument)
        if name == "GLOBAL":
            return _named(argument)
        if name == "STACK_GLOBAL":
            if any(item.kind != "text" for item in taken):
                raise Denied("a name that is not written out as text")
            return _named(f"{taken[0].text} {taken[1].text}")
        if name == "REDUCE":
            return _called(*taken)
        if name == "BUILD":
            return _built(*taken)
        if name in ("EMPTY_DICT", "DICT"):
            return Item("dictionary")
        if name in ("SETITEM", "SETITEMS", "APPEND", "APPENDS", "ADDITEMS"):
            return _filled(taken[0], name)
        return Item("tuple") if "TUPLE" in name else _OTHER


def _named(name: str) -> Item:
    if name not in _NAMES:
        raise Denied(f"names {shown(name.replace(' ', '.', 1))}, which is not on the list of what may be rebuilt")
    return Item("name", name)


def _called(function: Item, arguments: Item) -> Item:
    if function.kind != "name" or function.text not in _CALLABLES:
        what = function.text.replace(" ", ".", 1) if function.kind == "name" else "a value that is no plain name"
        raise Denied(f"calls {shown(what)}")
    if arguments.kind != "tuple":
        raise Denied("a call whose arguments are no tuple")
    return Item("made", function.text)


def _built(made: Item, state: Item) -> Item:
    if made.kind != "made" or made.text not in _STATES or state.kind != "dictionary":
        raise Denied(f"sets the state of {shown(made.text or made.kind)}")
    return made


def _filled(container: Item, name: str) -> Item:
    """Items go into containers of the pickle's own; on a class they would run its methods."""
    if container.kind in ("name", "text", "mark"):
        raise Denied(f"the operation {name} on what is no container")
    return container
