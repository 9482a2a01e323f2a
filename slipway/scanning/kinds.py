"""What a file is called to be, and what its first bytes say it is."""

import re
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import PurePosixPath
from typing import Literal

from slipway.scanning import configs, pieces, templates, tensors, text, torch_files
from slipway.scanning.walk import Opened

Mode = Literal["deploy", "import"]
HEAD_BYTES = 512


@dataclass(frozen=True)
class Kind:
    """A format: how it is read, if it may be at all; otherwise why not."""

    format: str
    check: Callable[[Opened, str], None] | None
    reason: str


def _plain(check: Callable[[Opened], None]) -> Callable[[Opened, str], None]:
    return lambda file, _: check(file)


def _check_template(file: Opened) -> None:
    templates.check(text.checked(file.whole(4 * templates.MAX_CHARACTERS)))


_TENSORS = Kind("safetensors", _plain(tensors.check), "safetensors, every number finite")
_JSON = Kind("json", configs.check, "strict JSON that names no code")
_TEMPLATE = Kind("template", _plain(_check_template), "a chat template that only arranges its input")
_CARD = Kind("text", _plain(text.check_card), "a card without active HTML")
_TEXT = Kind("text", _plain(text.check_plain), "UTF-8 text")
_YAML = Kind("yaml", _plain(text.check_yaml_file), "YAML of plain values")
_PIECES = Kind("vocabulary", _plain(pieces.check), "a tokenizer's vocabulary")
_PICKLE = Kind("pickle", _plain(torch_files.check), "a pickle that only rebuilds tensors and plain values")

_ALLOWED = {
    ".safetensors": _TENSORS, ".json": _JSON, ".jinja": _TEMPLATE, ".md": _CARD, ".txt": _TEXT,
    ".yaml": _YAML, ".yml": _YAML,
}  # fmt: skip
_NAMED = {"model.sig": _JSON} | dict.fromkeys(("LICENSE", "LICENCE", "NOTICE", "COPYING", "README", "AUTHORS"), _TEXT)
_VOCABULARY = re.compile(r"(tokenizer|spiece|spm|sentencepiece[\w.-]*)\.model")  # what tokenizers call theirs
_IMPORTED = dict.fromkeys((".bin", ".pt", ".pth", ".ckpt", ".pkl"), _PICKLE)

_CAN_RUN = "which can run code when read"
# Why a name is refused, in the words of its kind; what is not here is refused too, as unknown.
_REFUSED = {
    "pickle": (f"a pickle, {_CAN_RUN}; save it as safetensors", "bin pt pth ckpt pkl pickle joblib dill pt2 mar nemo"),
    "numpy": (f"a NumPy array file, {_CAN_RUN} if its items are objects; save it as safetensors", "npy npz"),
    "gguf": ("GGUF: a chat template and metadata that nothing here reads; deploy the safetensors it came from",
             "gguf ggml ggjt ggla"),
    "onnx": ("ONNX: a graph that may name outside files and custom operators; deploy safetensors",
             "onnx ort onnx_data"),
    "keras": (f"a Keras or TensorFlow model, {_CAN_RUN} (Lambda layers, graphs)",
              "h5 hdf5 keras pb pbtxt tflite index meta data-00000-of-00001"),
    "archive": ("an archive, whose content nothing here unpacks; put the files themselves here",
                "zip tar gz tgz bz2 xz zst 7z rar lz4 jar whl egg"),
    "code": ("code, and nothing in a model is to be run", "py pyc pyi pyx so pyd dll dylib exe sh bash zsh bat cmd ps1 js "
             "mjs ts wasm ipynb rb pl lua r jl java class c cc cpp h cu cuh rs go php pth.py ptx cubin o a ko pth_code"),
    "page": ("a page that a browser would run", "html htm xhtml svg xml mhtml css pdf"),
    "tensorrt": ("a compiled engine, which runs as it is", "engine plan trt mlmodel mlpackage dlc rknn torchscript ptl"),
    "model": ("a .model file that is not called as a tokenizer's vocabulary is (tokenizer.model, spiece.model, spm.model, "
              "sentencepiece*.model)", "model"),
    "data": ("data, which has no place in a model", "csv tsv parquet arrow sqlite db jsonl npz.gz lmdb msgpack"),
}  # fmt: skip
_BY_EXTENSION = {f".{ext}": Kind(kind, None, why) for kind, (why, names) in _REFUSED.items() for ext in names.split()}
_BUILT_BY_NAME = {"modules.json", "model_index.json"}
_BY_CLASS_NAME = Kind(
    "json", None, "names the classes that sentence-transformers or diffusers import; no language model needs it"
)
_HIDDEN = Kind("text", None, "hidden: a repository's own file, no part of a model")
_UNKNOWN = Kind("unknown", None, "none of the formats that a model may hold (safetensors, JSON, jinja, text)")

_MAGIC: tuple[tuple[str, re.Pattern[bytes]], ...] = tuple(
    (name, re.compile(pattern, re.DOTALL))
    for name, pattern in (
        ("a ZIP archive (as torch.save writes)", rb"PK(\x03\x04|\x05\x06|\x07\x08)"),
        ("a pickle", rb"\x80[\x00-\x05](?!.{6}\{)"),  # a safetensors header may have a length that begins so
        ("GGUF weights", rb"GGUF|FUGG|lmgg|tjgg|algg|ggml|ggjt"),
        ("a program (ELF)", rb"\x7fELF"),
        ("a program (Windows)", rb"MZ"),
        ("a program (Mach-O or Java)", rb"\xca\xfe\xba\xbe|\xfe\xed\xfa[\xce\xcf]|[\xce\xcf]\xfa\xed\xfe"),
        ("WebAssembly", rb"\x00asm"),
        ("LLVM bitcode", rb"BC\xc0\xde"),
        ("a gzip archive", rb"\x1f\x8b"),
        ("a bzip2 archive", rb"BZh[1-9]"),
        ("an xz archive", rb"\xfd7zXZ\x00"),
        ("a zstd archive", rb"\x28\xb5\x2f\xfd"),
        ("a 7z archive", rb"7z\xbc\xaf\x27\x1c"),
        ("a RAR archive", rb"Rar!\x1a\x07"),
        ("a tar archive", rb".{257}ustar"),
        ("an HDF5 file (Keras)", rb"\x89HDF\r\n\x1a\n"),
        ("a NumPy array file", rb"\x93NUMPY"),
        ("a TensorFlow Lite model", rb".{4}TFL3"),
        ("a SQLite database", rb"SQLite format 3\x00"),
        ("a Parquet file", rb"PAR1"),
        ("an Arrow file", rb"ARROW1"),
        ("a PDF", rb"%PDF-"),
        ("a picture", rb"\x89PNG|\xff\xd8\xff|GIF8|RIFF.{4}WEBP"),
        ("compiled Python", rb".{2}\r\n.{12}[\xe3\x63]"),
        ("a git LFS pointer, not the file itself (`git lfs pull`)", rb"version https://git-lfs\.github\.com/spec/"),
        ("a web page", rb"(?i:\s*<(!doctype|html|\?xml|svg|script))"),
        ("a script", rb"#!"),
    )
)


def of_name(path: str, mode: Mode) -> Kind:
    """The format that a file's name promises; default-deny."""
    name = PurePosixPath(path).name
    if mode == "import" and name == ".gitattributes":
        return _TEXT
    if name.startswith("."):
        return _HIDDEN
    suffix = PurePosixPath(name).suffix.lower()
    found = _BY_CLASS_NAME if name.lower() in _BUILT_BY_NAME else _NAMED.get(name) or _ALLOWED.get(suffix)
    if _VOCABULARY.fullmatch(name):
        found = _PIECES
    if found is None and mode == "import":
        found = _IMPORTED.get(suffix)
    return found or _BY_EXTENSION.get(suffix, _UNKNOWN)


def of_content(head: bytes) -> str | None:
    """What the first bytes say a file is, in words; None when they say nothing."""
    return next((name for name, pattern in _MAGIC if pattern.match(head)), None)
