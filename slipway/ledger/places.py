"""Where bytes are kept that nobody may change afterwards: a folder, or S3 with Object Lock. Written once, never over."""

import errno
import os
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Literal, Protocol, TypeVar

from slipway import atomic, settings
from slipway.errors import SlipwayError, StageError, Transient, UsageError, of_storage

SECONDS = 30  # the most that one call to somebody else's machine may take
PAGE = 1000
FOLDER = "audit"  # of the state folder

Lock = Literal["bucket", "governance", "compliance"]
T = TypeVar("T")

_AGAIN = {"429", "500", "502", "503", "504", "SlowDown", "RequestTimeout", "InternalError", "ServiceUnavailable"}
_THERE = {"PreconditionFailed", "412", "ConditionalRequestConflict", "409"}
_MISSING = {"NoSuchKey", "404"}


class Place(Protocol):
    uri: str

    def put_new(self, name: str, data: bytes) -> bool:
        """Keep bytes under a name; False, and nothing changed, where the name is taken."""

    def get(self, name: str) -> bytes | None:
        """The bytes of a name; None where there are none."""

    def names(self, after: str = "") -> list[str]:
        """Every name behind another one, in order."""


def folder(root: Path) -> Path:
    """What the audit keeps beside the database."""
    return settings.state_folder(root) / FOLDER


def of(root: Path, uri: str) -> Place:
    """The place that a configuration names."""
    if uri.startswith("s3://"):
        chosen = settings.load(root)
        return Bucket(uri.rstrip("/"), chosen.audit_lock, chosen.audit_lock_days)
    if "://" in uri:
        raise UsageError(f"{uri} is no place for an audit; write a folder or s3://bucket/prefix (configs/env)")
    return Folder(str((root / uri).resolve()))


def within(seconds: float, what: str, call: Callable[[], T]) -> T:
    """A call that may hang, given up after a total time: no timeout of a client holds against a reply that drips."""
    answer: list[T] = []
    trouble: list[BaseException] = []

    def run() -> None:
        try:
            answer.append(call())
        except BaseException as error:  # noqa: BLE001 - raised again by whoever waits
            trouble.append(error)

    thread = threading.Thread(target=run, daemon=True)
    thread.start()
    thread.join(max(seconds, 0))
    if trouble:
        raise trouble[0]
    if not answer:
        raise Transient(f"{what} did not answer in {seconds:.0f} s; try again")
    return answer[0]


class Folder:
    """A folder, on another disk or machine where it is to help against whoever holds this one."""

    def __init__(self, uri: str) -> None:
        self.uri = uri
        self._path = Path(uri)

    def put_new(self, name: str, data: bytes) -> bool:
        path = self._path / name
        partial = path.with_name(f".{name}.{os.getpid()}.partial")
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            with partial.open("wb") as stream:
                stream.write(data)
                stream.flush()
                os.fsync(stream.fileno())
            os.link(partial, path)  # unlike a rename, this fails where the name is taken
        except FileExistsError:
            return False
        except OSError as error:
            raise _storage(error, path) from None
        finally:
            partial.unlink(missing_ok=True)
        atomic.fsync_folder(path.parent)
        return True

    def get(self, name: str) -> bytes | None:
        try:
            return (self._path / name).read_bytes()
        except FileNotFoundError:
            return None
        except OSError as error:
            raise _storage(error, self._path / name) from None

    def names(self, after: str = "") -> list[str]:
        if not self._path.is_dir():
            return []
        return sorted(path.name for path in self._path.iterdir() if path.name > after and path.name[0] != ".")


def _storage(error: OSError, path: Path) -> SlipwayError:
    if known := of_storage(error, path, 0):
        return known
    if error.errno in (errno.ESTALE, errno.EIO, errno.ENOTCONN, errno.EHOSTDOWN, errno.ETIMEDOUT):
        return Transient(f"{path}: {error.strerror}; bring the disk back, then try again")
    return StageError(f"{path}: {error.strerror}; correct the place in configs/env")


class Bucket:
    """A prefix of an S3 bucket. No object is written over; with Object Lock, none can be deleted before its time."""

    def __init__(self, uri: str, lock: Lock = "bucket", days: int = 0) -> None:
        self.uri, self._lock, self._days = uri, lock, days
        self._bucket, _, prefix = uri.removeprefix("s3://").partition("/")
        self._prefix = f"{prefix}/" if prefix else ""
        if not self._bucket:
            raise UsageError(f"{uri} names no bucket; write s3://bucket/prefix (configs/env)")
        self._made: Any = None

    def put_new(self, name: str, data: bytes) -> bool:
        from botocore.exceptions import ClientError

        put: dict[str, Any] = {"Body": data, "IfNoneMatch": "*", "ChecksumAlgorithm": "SHA256", **self._kept()}
        try:
            self._call(lambda client: client.put_object(Bucket=self._bucket, Key=self._prefix + name, **put))
        except ClientError as error:
            if _codes(error) & _THERE:
                return False
            raise self._of_reply(error) from None
        return True

    def get(self, name: str) -> bytes | None:
        from botocore.exceptions import ClientError

        def read(client: Any) -> bytes:
            return bytes(client.get_object(Bucket=self._bucket, Key=self._prefix + name)["Body"].read())

        try:
            return self._call(read)
        except ClientError as error:
            if _codes(error) & _MISSING and "NoSuchBucket" not in _codes(error):
                return None
            raise self._of_reply(error) from None

    def names(self, after: str = "") -> list[str]:
        from botocore.exceptions import ClientError

        def listed(client: Any) -> list[str]:
            query = {"Bucket": self._bucket, "Prefix": self._prefix, "StartAfter": self._prefix + after}
            pages = client.get_paginator("list_objects_v2").paginate(**query, PaginationConfig={"PageSize": PAGE})
            return [item["Key"].removeprefix(self._prefix) for page in pages for item in page.get("Contents", [])]

        try:
            return sorted(self._call(listed))
        except ClientError as error:
            raise self._of_reply(error) from None

    def _call(self, call: Callable[[Any], T]) -> T:
        with _translated(self.uri):
            return within(SECONDS, self.uri, lambda: call(self._client()))

    def _client(self) -> Any:
        if self._made is None:
            import boto3
            from botocore.config import Config

            patience = Config(connect_timeout=5, read_timeout=10, retries={"total_max_attempts": 2})
            self._made = boto3.client("s3", config=patience)
        return self._made

    def _kept(self) -> dict[str, Any]:
        """How long an object may not be deleted, where the bucket's own rule is not enough."""
        if self._lock == "bucket":
            return {}
        from datetime import timedelta

        from slipway.ledger import clock

        until = clock.read().at + timedelta(days=self._days)
        return {"ObjectLockMode": self._lock.upper(), "ObjectLockRetainUntilDate": until}

    def _of_reply(self, error: Any) -> SlipwayError:
        codes, said = _codes(error), " ".join(str(error).split())
        if codes & _AGAIN:
            return Transient(f"{self.uri} is busy ({said}); try again")
        if codes & {"AccessDenied", "401", "403", "InvalidAccessKeyId", "SignatureDoesNotMatch"}:
            return UsageError(f"{self.uri}: access denied ({said}); check the AWS_* keys and the bucket's policy")
        if "NoSuchBucket" in codes:
            return UsageError(f"{self.uri} does not exist; make the bucket, with Object Lock, or correct configs/env")
        return StageError(f"{self.uri} refused ({said}); check the bucket (Object Lock must be on for `audit_lock`)")


def _codes(error: Any) -> set[str]:
    """What S3 answered: its word and its number."""
    reply = error.response
    return {str(reply.get("Error", {}).get("Code")), str(reply.get("ResponseMetadata", {}).get("HTTPStatusCode"))}


@contextmanager
def _translated(uri: str) -> Iterator[None]:
    from botocore import exceptions
    from botocore.parsers import ResponseParserError

    away = (exceptions.HTTPClientError, exceptions.ConnectionError, exceptions.IncompleteReadError)
    try:
        yield
    except exceptions.ClientError:
        raise
    except (*away, ResponseParserError) as error:
        raise Transient(f"{uri} did not answer ({' '.join(str(error).split())}); try again") from None
    except exceptions.BotoCoreError as error:
        raise UsageError(f"{uri}: {' '.join(str(error).split())}; check the AWS_* variables") from None
