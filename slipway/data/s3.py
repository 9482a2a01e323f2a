"""Raw data in S3 or anything that speaks its protocol (endpoint and keys from the standard AWS variables)."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Literal

from slipway.artifacts import PinnedFile, SourcePin
from slipway.data import formats
from slipway.errors import SlipwayError, StageError, Transient, UsageError

PAGE = 1000  # keys a listing asks for at once

_AGAIN = {"429", "500", "502", "503", "504", "SlowDown", "RequestTimeout", "InternalError", "ServiceUnavailable"}
_MISSING = {"404", "NoSuchKey", "NoSuchBucket"}
_FORBIDDEN = {"401", "403", "AccessDenied", "InvalidAccessKeyId", "SignatureDoesNotMatch"}


def _split(uri: str) -> tuple[str, str]:
    bucket, _, key = uri.removeprefix("s3://").partition("/")
    if not bucket:
        raise UsageError(f"{uri} names no bucket; write s3://bucket/prefix (ingest.source)")
    return bucket, key


def _client() -> Any:
    import boto3
    from botocore.config import Config

    return boto3.client("s3", config=Config(connect_timeout=10, read_timeout=60, retries={"max_attempts": 2}))


@contextmanager
def _translated(uri: str) -> Iterator[None]:
    """The client's errors as ours: a hiccup, a wrong name, or a change since the pin."""
    from botocore import exceptions

    try:
        yield
    except exceptions.ClientError as error:
        raise _of_reply(uri, error.response) from None
    except (exceptions.HTTPClientError, exceptions.ConnectionError, exceptions.IncompleteReadError) as error:
        raise Transient(f"{uri}: {error}; the storage did not answer, try again") from None
    except exceptions.BotoCoreError as error:
        raise UsageError(f"{uri}: {error}; check the AWS_* variables (endpoint, region, keys)") from None


def _of_reply(uri: str, response: dict[str, Any]) -> SlipwayError:
    code = str(response.get("Error", {}).get("Code", ""))
    status = str(response.get("ResponseMetadata", {}).get("HTTPStatusCode", ""))
    if code in _AGAIN or status in _AGAIN:
        return Transient(f"{uri}: the storage is busy ({code or status}); try again")
    if code in ("PreconditionFailed", "412"):
        return StageError(
            f"source changed since it was pinned: {uri} has another etag than {SourcePin.FILE} says; "
            f"start a release (`slipway run`) to pin it again"
        )
    if code in _MISSING:
        return UsageError(f"{uri} does not exist ({code}); correct ingest.source in params.yaml")
    if code in _FORBIDDEN:
        return UsageError(f"{uri}: access denied ({code}); check the AWS_* keys and the bucket's policy")
    return StageError(f"{uri}: the storage answered {code or status}; check the address and the AWS_* variables")


def pin(uri: str, role: Literal["data", "test"]) -> list[PinnedFile]:
    """The object of that name, or every data file under it as a prefix, with size and etag."""
    bucket, key = _split(uri)
    found: list[PinnedFile] = []
    query = {"Bucket": bucket, "Prefix": key, "PaginationConfig": {"PageSize": PAGE}}
    with _translated(uri):
        for page in _client().get_paginator("list_objects_v2").paginate(**query):
            for item in page.get("Contents", []):
                name = f"s3://{bucket}/{item['Key']}"
                found.append(PinnedFile(uri=name, role=role, bytes=item["Size"], etag=item["ETag"].strip('"')))
    exact = [file for file in found if file.uri == uri]
    under = uri.rstrip("/") + "/" if key else f"s3://{bucket}/"
    files = exact or [f for f in found if f.uri.startswith(under) and f.uri.lower().endswith(formats.SUFFIXES)]
    if not files:
        raise UsageError(f"{uri} holds no {', '.join(formats.SUFFIXES)} file; correct ingest.source in params.yaml")
    if empty := next((file for file in files if file.bytes == 0), None):
        raise UsageError(f"{empty.uri} is empty; give a file with at least one row")
    return sorted(files, key=lambda file: file.uri)


def fetch(file: PinnedFile, target: Path) -> None:
    """Download one pinned object, and only if it still has the pinned etag."""
    bucket, key = _split(file.uri)
    with target.open("wb") as stream, _translated(file.uri):
        reply = _client().get_object(Bucket=bucket, Key=key, IfMatch=f'"{file.etag}"')
        for chunk in reply["Body"].iter_chunks(1 << 20):
            stream.write(chunk)
    if (size := target.stat().st_size) != file.bytes:
        raise Transient(f"{file.uri}: {size:,} of {file.bytes:,} bytes arrived; try again")
