"""Ids of answers: `chatcmpl-<random>.<version>.<mac>`. Any replica of the model tells from one which version answered.

The secret lies in the state folder, so that all replicas of a project share it and nobody else can make an id.
"""

import base64
import contextlib
import hashlib
import hmac
import os
import re
import secrets
from collections.abc import Sequence
from pathlib import Path

from slipway import atomic, settings
from slipway.errors import StageError
from slipway.serving.problems import Problem

_FORM = re.compile(r"(?:chatcmpl-|cmpl-|resp_)[0-9a-f]{24}\.(?P<version>[\w.+-]{1,64})\.[\w-]{22}", re.ASCII)
_SECRET_BYTES = 32


class Keys:
    """What is derived from the project's serving secret; each use has a key of its own."""

    def __init__(self, secret: bytes) -> None:
        self._secret = secret

    def of(self, use: str) -> bytes:
        return hmac.digest(self._secret, f"slipway {use}".encode(), "sha256")

    def hashed(self, use: str, text: str) -> str:
        """A name for somebody, that tells nothing about them without the secret."""
        return hmac.new(self.of(use), text.encode("utf-8", "replace"), hashlib.sha256).hexdigest()[:32]


def keys(root: Path) -> Keys:
    """The project's, made when missing; of two replicas that make it at once, one is believed by both."""
    path = settings.state_folder(root) / "serving" / "secret"
    with contextlib.suppress(FileNotFoundError):
        return _read(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(f".secret.{os.getpid()}.{secrets.token_hex(4)}.partial")
    handle = os.open(partial, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    try:
        with os.fdopen(handle, "wb") as stream:
            stream.write(secrets.token_bytes(_SECRET_BYTES))
            stream.flush()
            os.fsync(stream.fileno())
        with contextlib.suppress(FileExistsError):
            os.link(partial, path)
    finally:
        partial.unlink()
    atomic.fsync_folder(path.parent)
    return _read(path)


def _read(path: Path) -> Keys:
    data = path.read_bytes()
    if len(data) != _SECRET_BYTES:
        raise StageError(
            f"{path} has {len(data)} bytes, not the {_SECRET_BYTES} of a serving secret; "
            f"remove it (ids of earlier answers are then no longer known)"
        )
    return Keys(data)


class Ids:
    """Makes and reads the ids of the answers of some models."""

    def __init__(self, known: Keys, models: Sequence[str]) -> None:
        self._key, self._models = known.of("completion ids"), tuple(dict.fromkeys(models))

    def make(self, kind: str, model: str, version: str) -> str:
        """`kind` is chatcmpl-, cmpl- or resp_, as OpenAI's clients know them."""
        said = f"{kind}{secrets.token_hex(12)}.{version}"
        return f"{said}.{self._mac(model, said)}"

    def read(self, text: str) -> tuple[str, str]:
        """Which model and version answered; 404 for what is no id at all, 403 for one that no replica of theirs made."""
        found = _FORM.fullmatch(text)
        if found is None:
            raise Problem(404, "unknown_id", "this is no id of an answer; send the `id` that came with it", "id")
        said, _, mac = text.rpartition(".")
        for model in self._models:
            if hmac.compare_digest(mac, self._mac(model, said)):
                return model, found["version"]
        raise Problem(403, "foreign_id", f"this id was not made by a replica of {' or '.join(self._models)}", "id")

    def _mac(self, model: str, said: str) -> str:
        digest = hmac.digest(self._key, f"{model}\0{said}".encode(), "sha256")
        return base64.urlsafe_b64encode(digest[:16]).rstrip(b"=").decode()
