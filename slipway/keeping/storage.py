"""Where archived versions lie away from this disk: S3 and its storage classes. Every byte is checked on its way out and back.

An object is never written over: one that is there must hold the very bytes that are wanted. What lies in a frozen class
has to be asked for, and comes hours later.
"""

import base64
import hashlib
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Self

from slipway import atomic, digest, settings
from slipway.errors import Refused, SlipwayError, StageError, Transient, UsageError, of_storage
from slipway.keeping.lifecycle import FROZEN, Class, Restore

PART = 512 << 20  # a larger file goes in parts of so many bytes
LARGEST_COPY = 5_000_000_000  # that S3 copies in one go
_CHUNK = 1 << 20

_AGAIN = {"429", "500", "502", "503", "504", "SlowDown", "RequestTimeout", "InternalError", "ServiceUnavailable"}
_AGAIN |= {"ConditionalRequestConflict", "RequestTimeTooSkewed", "BadDigest", "XAmzContentChecksumMismatch"}
_MISSING = {"404", "NoSuchKey", "NotFound"}
_FROZEN = {"InvalidObjectState"}
_FORBIDDEN = {"401", "403", "AccessDenied", "InvalidAccessKeyId", "SignatureDoesNotMatch"}


class Archive:
    """A prefix of an S3 bucket (endpoint and keys from the standard AWS variables)."""

    def __init__(self, uri: str) -> None:
        self.uri = uri.rstrip("/")
        scheme, _, rest = self.uri.partition("://")
        self._bucket, _, prefix = rest.partition("/")
        if scheme != "s3" or not self._bucket:
            raise UsageError(f"archive_url is {uri}; write s3://bucket/prefix (configs/env)")
        self._prefix = f"{prefix}/" if prefix else ""
        self._made: Any = None

    @classmethod
    def of(cls, root: Path) -> Self | None:
        """The project's archive; None where configs/env names none."""
        url = settings.load(root).archive_url
        return cls(url) if url else None

    def put(self, name: str, path: Path, sha256: str, to: Class) -> None:
        """Keep a file; one that is there already must be the same."""
        with self._translated(name):
            if (there := self._head(name)) is None:
                self._upload(name, path, sha256, to)
            elif there.get("Metadata", {}).get("sha256") != sha256:
                raise Refused(
                    f"{self.uri}/{name} holds other bytes than {path}; "
                    f"nothing was written over: find out who put it there, then remove it or name another archive_url"
                )

    def lies_in(self, name: str) -> str | None:
        """The storage class of an object; None where there is none."""
        with self._translated(name):
            there = self._head(name)
        return str(there.get("StorageClass") or "STANDARD") if there is not None else None

    def move(self, name: str, to: Class) -> None:
        """Into another storage class, where it does not lie there already."""
        with self._translated(name):
            there = self._head(name)
            if there is None:
                raise StageError(f"{self.uri}/{name} is gone, so it cannot be moved to {to}; restore the bucket")
            if (there.get("StorageClass") or "STANDARD") == to:
                return
            here = {"Bucket": self._bucket, "Key": self._key(name)}
            if there["ContentLength"] <= LARGEST_COPY:
                self._client.copy_object(**here, CopySource=here, StorageClass=to, MetadataDirective="COPY")
            else:
                how = {"StorageClass": to, "MetadataDirective": "REPLACE", "Metadata": there["Metadata"]}
                self._client.copy(here, self._bucket, here["Key"], ExtraArgs=how)

    def is_readable(self, name: str, how: Restore) -> bool:
        """Whether an object can be read now; a frozen one is asked for, once."""
        with self._translated(name):
            there = self._head(name)
            if there is None:
                raise StageError(f"{self.uri}/{name} is gone, so it cannot be brought back; restore the bucket")
            if there.get("StorageClass") not in FROZEN or 'ongoing-request="false"' in there.get("Restore", ""):
                return True
            if not there.get("Restore"):
                wish = {"Days": how.days, "GlacierJobParameters": {"Tier": how.tier}}
                self._client.restore_object(Bucket=self._bucket, Key=self._key(name), RestoreRequest=wish)
            there = self._head(name) or {}
            return 'ongoing-request="false"' in there.get("Restore", "")

    def get(self, name: str, sha256: str, target: Path) -> None:
        """Bring a file back under a name that it gets only when its digest is right and it is on disk."""
        target.parent.mkdir(parents=True, exist_ok=True)
        partial = target.with_name(f".{target.name}.{os.getpid()}.partial")
        try:
            with self._translated(name), partial.open("wb") as stream:
                found = self._read(name, stream)
                stream.flush()
                os.fsync(stream.fileno())
            if found != sha256:
                raise StageError(
                    f"{self.uri}/{name} came back with the SHA-256 {found}, kept was {sha256}; restore the bucket"
                )
            partial.replace(target)
        except OSError as error:
            raise of_storage(error, target, 0) or error from None
        finally:
            partial.unlink(missing_ok=True)
        atomic.fsync_folder(target.parent)

    def delete(self, name: str) -> None:
        """Remove an object; one that is gone is as good."""
        with self._translated(name):
            self._client.delete_object(Bucket=self._bucket, Key=self._key(name))

    # --- how --------------------------------------------------------------------------------------------------------

    def _key(self, name: str) -> str:
        return self._prefix + name

    @property
    def _client(self) -> Any:
        if self._made is None:
            import boto3
            from botocore.config import Config

            patience = Config(connect_timeout=5, read_timeout=20, retries={"total_max_attempts": 2})
            self._made = boto3.client("s3", config=patience)
        return self._made

    def _head(self, name: str) -> dict[str, Any] | None:
        from botocore.exceptions import ClientError

        try:
            here = {"Bucket": self._bucket, "Key": self._key(name)}
            return dict(self._client.head_object(**here, ChecksumMode="ENABLED"))
        except ClientError as error:
            if _codes(error) & _MISSING and "NoSuchBucket" not in _codes(error):
                return None
            raise

    def _upload(self, name: str, path: Path, sha256: str, to: Class) -> None:
        """S3 holds the bytes against the digest that goes with them, and takes none where somebody was faster."""
        if (found := digest.of_file(path)) != sha256:
            raise StageError(f"{path} has the SHA-256 {found}, kept was {sha256}; it was not sent, restore it first")
        sent = self._sent(name, path, sha256, to)
        there = self._head(name) or {}
        if there.get("ChecksumSHA256") == sent:
            return
        found = self._read(name, None)  # a storage that keeps no checksums: look at what it has
        if found != sha256:
            self._client.delete_object(Bucket=self._bucket, Key=self._key(name))
            raise StageError(f"{self.uri}/{name} holds the SHA-256 {found} after {path} was sent, {sha256} was meant")

    def _sent(self, name: str, path: Path, sha256: str, to: Class) -> str:
        """Send a file; the checksum that S3 should have of it."""
        about = {"Bucket": self._bucket, "Key": self._key(name)}
        kept = {"StorageClass": to, "Metadata": {"sha256": sha256}}
        if path.stat().st_size > PART:
            return self._sent_in_parts(path, about, kept)
        how = {"ChecksumAlgorithm": "SHA256", "ChecksumSHA256": _text_of(bytes.fromhex(sha256))}
        with path.open("rb") as stream:
            self._client.put_object(**about, **kept, **how, Body=stream, IfNoneMatch="*")
        return how["ChecksumSHA256"]

    def _sent_in_parts(self, path: Path, about: dict[str, str], kept: dict[str, Any]) -> str:
        begun = self._client.create_multipart_upload(**about, **kept, ChecksumAlgorithm="SHA256")
        upload = {**about, "UploadId": begun["UploadId"]}
        try:
            parts, digests = [], hashlib.sha256()
            for number, data in enumerate(_parts(path), start=1):
                part = hashlib.sha256(data).digest()
                digests.update(part)
                sent = {"PartNumber": number, "ChecksumSHA256": _text_of(part)}
                done = self._client.upload_part(**upload, **sent, Body=data)
                parts.append(sent | {"ETag": done["ETag"]})
            self._client.complete_multipart_upload(**upload, MultipartUpload={"Parts": parts}, IfNoneMatch="*")
            return f"{_text_of(digests.digest())}-{len(parts)}"
        except BaseException:
            self._client.abort_multipart_upload(**upload)
            raise

    def _read(self, name: str, stream: Any) -> str:
        """An object's SHA-256; its bytes go to a stream where one is given."""
        found = hashlib.sha256()
        reply = self._client.get_object(Bucket=self._bucket, Key=self._key(name))
        for chunk in reply["Body"].iter_chunks(_CHUNK):
            found.update(chunk)
            if stream is not None:
                stream.write(chunk)
        return found.hexdigest()

    @contextmanager
    def _translated(self, name: str) -> Iterator[None]:
        """The client's errors as ours."""
        from botocore import exceptions, parsers

        where = f"{self.uri}/{name}"
        away = (exceptions.HTTPClientError, exceptions.ConnectionError, exceptions.IncompleteReadError)
        try:
            yield
        except exceptions.ClientError as error:
            raise _of_reply(where, error) from None
        except (*away, parsers.ResponseParserError, exceptions.FlexibleChecksumError) as error:
            raise Transient(f"{where} did not answer rightly ({_said(error)}); run it again") from None
        except exceptions.BotoCoreError as error:
            raise UsageError(f"{where}: {_said(error)}; check the AWS_* variables (endpoint, region, keys)") from None


def _parts(path: Path) -> Iterator[bytes]:
    with path.open("rb") as stream:
        while data := stream.read(PART):
            yield data


def _text_of(sha256: bytes) -> str:
    return base64.b64encode(sha256).decode()


def _codes(error: Any) -> set[str]:
    """What S3 answered: its word and its number."""
    reply = error.response
    return {str(reply.get("Error", {}).get("Code")), str(reply.get("ResponseMetadata", {}).get("HTTPStatusCode"))}


def _of_reply(where: str, error: Any) -> SlipwayError:
    codes = _codes(error)
    if codes & (_AGAIN | {"PreconditionFailed", "412"}):
        return Transient(f"{where}: the archive is busy ({_said(error)}); run it again")
    if "NoSuchBucket" in codes:
        return UsageError(f"{where}: there is no such bucket; make it, or correct archive_url in configs/env")
    if codes & _FROZEN:
        return Transient(f"{where} is frozen; ask for it with `slipway models restore`, then run it again")
    if codes & _FORBIDDEN:
        return UsageError(f"{where}: access denied ({_said(error)}); check the AWS_* keys and the bucket's policy")
    return StageError(f"{where}: the archive refused ({_said(error)}); check the bucket and archive_url in configs/env")


def _said(error: Exception) -> str:
    return " ".join(str(error).split())[:300]
