"""Pickles written in letters: text whose first lines, unpickled, import a module or call something.

An unpickler acts as it reads, so what follows the call does not matter: no end, garbage, prose. A small machine therefore
goes along until something of Python's own would be used. It takes every argument for a good one, because unpicklers differ
in what they accept (`I0x10`), and is asked about text that people write, so it waits for a name to be used.
"""

import pickletools
import sys
from dataclasses import dataclass, field

MAX_OPERATIONS = 100_000  # no prose gets that far

_OTHER, _MARK, _NAME = "other", "mark", "name"
_OPERATIONS = {operation.code.encode("latin-1"): operation for operation in pickletools.opcodes}
_LENGTHS = {
    pickletools.TAKEN_FROM_ARGUMENT1: 1,
    pickletools.TAKEN_FROM_ARGUMENT4: 4,
    pickletools.TAKEN_FROM_ARGUMENT4U: 4,
    pickletools.TAKEN_FROM_ARGUMENT8U: 8,
}
_NAMING = {"GLOBAL", "STACK_GLOBAL", "EXT1", "EXT2", "EXT4"}
# What runs code of a class, function or object that was named before.
_USING = {
    "REDUCE", "OBJ", "NEWOBJ", "NEWOBJ_EX", "BUILD", "APPEND", "APPENDS", "SETITEM", "SETITEMS", "ADDITEMS",
}  # fmt: skip
_STORE = {"PUT", "BINPUT", "LONG_BINPUT"}
_FETCH = {"GET", "BINGET", "LONG_BINGET"}


class _Ended(Exception):
    """No unpickler gets beyond this place."""


def is_pickle(data: bytes) -> bool:
    """Whether an unpickler, given these bytes, comes to use something by name."""
    at, machine = 0, _Machine()
    try:
        for _ in range(MAX_OPERATIONS):
            operation, argument, at = _operation(data, at)
            if machine.uses(operation, argument):
                return True
    except _Ended:
        return False
    return True


def _operation(data: bytes, at: int) -> tuple[pickletools.OpcodeInfo, bytes, int]:
    """The operation at a place, its argument's bytes, and where the next one stands."""
    operation = _OPERATIONS.get(data[at : at + 1])
    if operation is None:
        raise _Ended
    start = at + 1
    if operation.arg is None:
        return operation, b"", start
    end = _end(data, start, operation)
    if end > len(data):
        raise _Ended
    return operation, data[start:end], end


def _end(data: bytes, start: int, operation: pickletools.OpcodeInfo) -> int:
    """Where an operation's argument ends: after so many bytes, after a line or two, or where its length says."""
    size = operation.arg.n if operation.arg else 0
    if size == pickletools.UP_TO_NEWLINE:
        end = start
        for _ in range(2 if operation.name in ("GLOBAL", "INST") else 1):
            end = data.find(b"\n", end) + 1 or len(data)  # the last line need not end
        return end
    if size >= 0:
        return start + size
    width = _LENGTHS[size]
    return start + width + int.from_bytes(data[start : start + width], "little")


def _named(argument: bytes) -> tuple[str, str] | None:
    """Module and name, if anything can be called so: `cat\\ndog` is a list of animals, or a dog out of the module `at`."""
    module, _, name = argument[:-1].decode("utf-8", "replace").partition("\n")  # unpicklers drop any last character
    plain = all(part.isidentifier() for part in [*module.split("."), *name.split(".")])
    return (module, name) if plain else None


@dataclass
class _Machine:
    stack: list[str] = field(default_factory=list)
    memo: dict[int, str] = field(default_factory=dict)

    def uses(self, operation: pickletools.OpcodeInfo, argument: bytes) -> bool:
        """Follow one operation; whether it imports what is surely there, or uses what was named."""
        name = operation.name
        taken = self._take(operation)
        if name == "INST" and _named(argument):
            return True
        if name == "GLOBAL":
            if (found := _named(argument)) is None:
                raise _Ended
            if found[0].split(".")[0] in sys.stdlib_module_names:
                return True
        if name in _USING and _NAME in taken:
            return True
        self._put(operation, argument, taken)
        return False

    def _take(self, operation: pickletools.OpcodeInfo) -> list[str]:
        before = operation.stack_before
        if pickletools.markobject in before:
            start = self._mark() - before.index(pickletools.markobject)
        else:
            start = len(self.stack) - len(before)
        if start < 0:
            raise _Ended
        taken = self.stack[start:]
        del self.stack[start:]
        return taken

    def _mark(self) -> int:
        """Where the topmost mark stands; what is above it goes, so that all these walks together stay short."""
        at = len(self.stack) - 1
        while at >= 0 and self.stack[at] != _MARK:
            at -= 1
        if at < 0:
            raise _Ended
        return at

    def _put(self, operation: pickletools.OpcodeInfo, argument: bytes, taken: list[str]) -> None:
        name = operation.name
        if name == "MEMOIZE":
            self.memo[len(self.memo)] = taken[0]
        elif name in _STORE:
            self.memo[_number(name, argument)] = self._top()
        if name in _FETCH:
            self.stack.append(self._remembered(_number(name, argument)))
        elif name == "STOP":  # some readers go on to a next pickle
            self.stack.clear()
        elif name == "MARK":
            self.stack.append(_MARK)
        elif name in _NAMING:
            self.stack.append(_NAME)
        elif name in ("DUP", "MEMOIZE"):
            self.stack += taken * len(operation.stack_after)
        elif operation.stack_after:
            self.stack.append(_OTHER)

    def _top(self) -> str:
        if not self.stack:
            raise _Ended
        return self.stack[-1]

    def _remembered(self, number: int) -> str:
        if number not in self.memo:
            raise _Ended
        return self.memo[number]


def _number(name: str, argument: bytes) -> int:
    """A place in the memo: in letters, or in bytes."""
    if name not in ("PUT", "GET"):
        return int.from_bytes(argument, "little")
    try:
        return int(argument)
    except ValueError:
        raise _Ended from None
