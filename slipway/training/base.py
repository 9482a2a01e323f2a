"""The base model: pinned when a release starts, brought in whole and checked by the fetch stage.

Only safetensors and text are read. Pickled weights and a model's own code never are.
"""

import hashlib
import json
import math
import shutil
import struct
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from slipway import digest, strict
from slipway.artifacts import BasePin
from slipway.errors import StageError, Transient, UsageError

if TYPE_CHECKING:
    from slipway.params import FetchParams

TINY = "tiny"
# Everything a causal language model and its tokenizer need; the rest of a repository stays where it is.
_WANTED = ("*.safetensors", "*.safetensors.index.json", "*.json", "*.jinja", "*.txt", "*.model")
_PICKLED = ("*.bin", "*.pt", "*.pth", "*.ckpt", "*.pkl")


def pin(params: "FetchParams", root: Path, memory: Path) -> BasePin:
    """The base that params.yaml names, as it is now; `memory` is a folder that remembers digests of unchanged files."""
    if params.base == TINY:
        return BasePin(source=TINY, revision=None, files={})
    folder = root / params.base
    if folder.is_dir():
        files = {path.relative_to(folder).as_posix(): digest.of_file_once(path, memory) for path in _wanted(folder)}
        _check_names(set(files), params.base, [p.name for p in digest.files_under(folder)])
        return BasePin(source=params.base, revision=None, files=files)
    if not _looks_like_hub_id(params.base):
        raise UsageError(
            f"fetch.base is {params.base!r}: no such folder in the project; "
            f"name a model folder, a Hugging Face id, or {TINY}"
        )
    return _pin_hub(params.base, params.revision)


def bring(pinned: BasePin, root: Path, folder: Path) -> None:
    """Copy or download the pinned files into a folder, each checked against its pin."""
    folder.mkdir(parents=True)
    source = root / pinned.source
    if source.is_dir():
        _check_unchanged(pinned, {p.relative_to(source).as_posix() for p in _wanted(source)})
        for name in pinned.files:
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(source / name, folder / name)
    else:
        _download(pinned, folder)
    for name, expected in sorted(pinned.files.items()):
        found = _git_or_sha256(folder / name, expected) if (folder / name).is_file() else "gone"
        if found != expected:
            raise _moved(pinned, f"{name} is {found}, pinned was {expected}")


def facts(folder: Path, source: str, revision: str | None) -> dict[str, Any]:
    """What the manifest says about a base: source, revision, size, longest input, precision."""
    config = strict.read_json(folder / "config.json")
    text = config.get("text_config") or config
    lengths = (text.get(key) for key in ("max_position_embeddings", "n_positions", "n_ctx", "max_sequence_length"))
    shapes = [shape for path in sorted(folder.rglob("*.safetensors")) for shape in _shapes(path)]
    return {
        "source": source,
        "revision": revision,
        "parameters": sum(math.prod(shape) for shape in shapes),
        "max_length": next((length for length in lengths if isinstance(length, int)), None),
        "precision": config.get("dtype") or config.get("torch_dtype") or "float32",
    }


def public_name(source: str, root: Path) -> str:
    """How outputs call a source: a hub id as it is, a folder by its last name, so that they hold no machine's path."""
    return Path(source).name if (root / source).is_dir() else source


# --- checks ---


def _wanted(folder: Path) -> list[Path]:
    matches = [p for p in digest.files_under(folder) if any(p.match(pattern) for pattern in _WANTED)]
    return [p for p in matches if p != folder / digest.MANIFEST and not _is_hidden(p.relative_to(folder))]


def _is_hidden(path: Path) -> bool:
    """Whether a file or a folder it lies in is hidden: a repository's or a download's bookkeeping."""
    return any(part.startswith(".") for part in path.parts)


def _check_names(names: set[str], source: str, everything: list[str]) -> None:
    """Refuse a model that lacks a part, or whose weights are pickled."""
    if not any(name.endswith(".safetensors") for name in names):
        if pickled := [name for name in everything if any(Path(name).match(pattern) for pattern in _PICKLED)]:
            raise StageError(
                f"{source} has only pickled weights ({pickled[0]}), which can run code when read; "
                f"save it with save_pretrained, which writes safetensors"
            )
        raise StageError(f"{source} has no weights (*.safetensors); name a folder that save_pretrained wrote")
    if "config.json" not in names:
        raise StageError(f"{source} has no config.json; name a folder that save_pretrained wrote")
    if "tokenizer.json" not in names:
        raise StageError(
            f"{source} has no tokenizer (tokenizer.json); save one into it with AutoTokenizer.from_pretrained(…)"
            f".save_pretrained"
        )


def _moved(pinned: BasePin, what: str) -> StageError:
    return StageError(
        f"base changed since pinned: {pinned.source}: {what}; start a release (`slipway run`) to pin it again"
    )


def _check_unchanged(pinned: BasePin, present: set[str]) -> None:
    if odd := sorted(present ^ pinned.files.keys()):
        raise _moved(pinned, odd[0])


def _git_or_sha256(path: Path, like: str) -> str:
    """A file's digest in the form of its pin: SHA-256, or git's SHA-1 for a hub's small files."""
    if len(like) == 64:
        return digest.of_file(path)
    data = path.read_bytes()
    return hashlib.sha1(b"blob %d\0" % len(data) + data, usedforsecurity=False).hexdigest()


def _shapes(path: Path) -> Iterator[list[int]]:
    """The shapes in a safetensors file, from its header alone."""
    size = path.stat().st_size
    with path.open("rb") as stream:
        start = stream.read(8)
        length = struct.unpack("<Q", start)[0] if len(start) == 8 else size
        if length > size - 8:
            raise StageError(f"{path} is cut: {size} bytes are fewer than its header says; bring the model in again")
        try:
            header = json.loads(stream.read(length))
        except ValueError as error:
            raise StageError(f"{path} is not safetensors: {error}; bring the model in again") from None
    yield from (entry["shape"] for name, entry in header.items() if name != "__metadata__")


# --- the hub ---


def _looks_like_hub_id(name: str) -> bool:
    from huggingface_hub.errors import HFValidationError
    from huggingface_hub.utils import validate_repo_id

    try:
        validate_repo_id(name)
    except HFValidationError:
        return False
    return not name.startswith((".", "~"))


@contextmanager
def _hub(name: str, revision: str | None) -> Iterator[None]:
    """The hub's many errors as one of ours."""
    import httpx2  # what huggingface_hub speaks through
    from huggingface_hub import errors

    at = f"{name}@{revision}" if revision else name
    try:
        yield
    except (errors.RepositoryNotFoundError, errors.RevisionNotFoundError, errors.GatedRepoError) as error:
        raise UsageError(
            f"fetch.base {at} is neither a folder here nor to be had on the Hugging Face hub ({type(error).__name__}); "
            f"correct params.yaml, or log in if the model is private"
        ) from None
    except (errors.HfHubHTTPError, httpx2.HTTPError, OSError) as error:  # OSError: offline, no such entry, no network
        if getattr(error, "errno", None) is not None and not isinstance(error, ConnectionError | TimeoutError):
            raise  # the disk's, not the hub's
        raise Transient(
            f"cannot reach the Hugging Face hub for fetch.base {at} ({type(error).__name__}); "
            f"check the network and run again, or name a model folder"
        ) from None


def _pin_hub(name: str, revision: str | None) -> BasePin:
    from huggingface_hub import HfApi

    with _hub(name, revision):
        info = HfApi().model_info(name, revision=revision, files_metadata=True)
    siblings = info.siblings or []
    marks = {s.rfilename: (s.lfs.sha256 if s.lfs else s.blob_id) or "" for s in siblings}
    files = {name: mark for name, mark in marks.items() if any(Path(name).match(p) for p in _WANTED)}
    files = {name: mark for name, mark in files.items() if not _is_hidden(Path(name))}
    _check_names(set(files), name, list(marks))
    return BasePin(source=name, revision=info.sha, files=files)


def _download(pinned: BasePin, folder: Path) -> None:
    from huggingface_hub import snapshot_download

    with _hub(pinned.source, pinned.revision):
        names = sorted(pinned.files)
        snapshot_download(pinned.source, revision=pinned.revision, local_dir=folder, allow_patterns=names)
    shutil.rmtree(folder / ".cache", ignore_errors=True)  # the download's bookkeeping
