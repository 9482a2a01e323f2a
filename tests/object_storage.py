"""A real S3 protocol on loopback (moto), empty for each test; frozen objects thaw only after they were looked at a few times."""

from collections.abc import Iterator
from typing import Any

import pytest

BUCKET = "models"
LOOKS = 3  # until a frozen object that was asked for can be read


@pytest.fixture(scope="module")
def s3_server() -> Iterator[str]:
    from moto.server import ThreadedMotoServer

    moto = ThreadedMotoServer(ip_address="127.0.0.1", port=0)
    moto.start()
    host, port = moto.get_host_and_port()
    yield f"http://{host}:{port}"
    moto.stop()


@pytest.fixture
def s3(s3_server: str, monkeypatch: pytest.MonkeyPatch) -> Any:
    """A client of an empty server with one bucket; the environment names that server."""
    import boto3
    import httpx2 as httpx

    httpx.post(f"{s3_server}/moto-api/reset")
    names = {"AWS_ENDPOINT_URL": s3_server, "AWS_ACCESS_KEY_ID": "k", "AWS_SECRET_ACCESS_KEY": "s"}
    for name, value in (names | {"AWS_DEFAULT_REGION": "us-east-1"}).items():
        monkeypatch.setenv(name, value)
    client = boto3.client("s3")
    client.create_bucket(Bucket=BUCKET)
    slow = {"model_name": "s3::keyrestore", "transition": {"progression": "manual", "times": LOOKS}}
    httpx.post(f"{s3_server}/moto-api/state-manager/set-transition", json=slow)
    return client


def keys_in(client: Any) -> dict[str, str]:
    """Every object's name and storage class."""
    listed = client.list_objects_v2(Bucket=BUCKET).get("Contents", [])
    return {item["Key"]: item.get("StorageClass", "STANDARD") for item in listed}
