"""Archived versions in S3 (moto speaks its protocol): classes, digests, and what goes wrong on the way."""

import socket
import threading
from pathlib import Path
from typing import Any

import pytest
from object_storage import BUCKET

from slipway import digest
from slipway.errors import Refused, SlipwayError, StageError, Transient, UsageError
from slipway.keeping import storage
from slipway.keeping.lifecycle import Restore
from slipway.keeping.storage import Archive

HOW = Restore(tier="Standard", hours=5, days=7)


@pytest.fixture
def archive(s3: Any) -> Archive:
    return Archive(f"s3://{BUCKET}/a prefix/")


@pytest.fixture
def file(tmp_path: Path) -> tuple[Path, str]:
    path = tmp_path / "weights"
    path.write_bytes(b"weights" * 1000)
    return path, digest.of_file(path)


def test_a_file_goes_out_and_comes_back_with_its_digest(archive: Archive, s3: Any, file: Any, tmp_path: Path) -> None:
    archive.put("m/1.0.0/w", *file, "STANDARD_IA")
    about = s3.head_object(Bucket=BUCKET, Key="a prefix/m/1.0.0/w", ChecksumMode="ENABLED")
    assert about["StorageClass"] == "STANDARD_IA" == archive.lies_in("m/1.0.0/w") and about["ChecksumSHA256"]
    archive.get("m/1.0.0/w", file[1], tmp_path / "back" / "w")
    assert (tmp_path / "back" / "w").read_bytes() == file[0].read_bytes()
    assert [path.name for path in (tmp_path / "back").iterdir()] == ["w"]


def test_the_same_file_twice_is_one_and_another_one_is_never_written_over_it(
    archive: Archive, file: Any, tmp_path: Path
) -> None:
    archive.put("w", *file, "STANDARD")
    archive.put("w", *file, "STANDARD")
    other = tmp_path / "other"
    other.write_bytes(b"other")
    with pytest.raises(Refused, match="holds other bytes"):
        archive.put("w", other, digest.of_file(other), "STANDARD")
    archive.get("w", file[1], tmp_path / "back")


def test_whoever_is_second_by_a_moment_writes_nothing(
    archive: Archive, s3: Any, file: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The object appears between the look and the put: the put itself is conditional."""
    s3.put_object(Bucket=BUCKET, Key="a prefix/w", Body=b"somebody else's")
    monkeypatch.setattr(archive, "_head", lambda name: None)
    with pytest.raises(Transient):
        archive.put("w", *file, "STANDARD")
    assert s3.get_object(Bucket=BUCKET, Key="a prefix/w")["Body"].read() == b"somebody else's"


def test_bytes_that_are_not_what_was_promised_are_not_taken(archive: Archive, s3: Any, file: Any) -> None:
    with pytest.raises(SlipwayError):
        archive.put("w", file[0], digest.of_bytes(b"other"), "STANDARD")
    assert archive.lies_in("w") is None


def test_a_large_file_goes_in_parts(archive: Archive, s3: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(storage, "PART", 5 << 20)
    path = tmp_path / "large"
    path.write_bytes(bytes(range(256)) * (11 << 12))
    sha256 = digest.of_file(path)
    archive.put("large", path, sha256, "STANDARD")
    archive.put("large", path, sha256, "STANDARD")
    archive.get("large", sha256, tmp_path / "back")
    with pytest.raises(StageError, match="was not sent"):
        archive.put("other", path, digest.of_bytes(b"other"), "STANDARD")
    assert archive.lies_in("other") is None
    assert "Uploads" not in s3.list_multipart_uploads(Bucket=BUCKET)


def test_a_frozen_file_is_asked_for_once_and_comes_back_when_it_is_thawed(
    archive: Archive, s3: Any, file: Any, tmp_path: Path
) -> None:
    archive.put("w", *file, "STANDARD")
    archive.move("w", "GLACIER")
    archive.move("w", "GLACIER")
    assert archive.lies_in("w") == "GLACIER"
    with pytest.raises(Transient, match="is frozen"):
        archive.get("w", file[1], tmp_path / "back")
    assert not (tmp_path / "back").exists()
    seen = [archive.is_readable("w", HOW) for _ in range(4)]
    assert seen[0] is False and seen[-1] is True
    archive.get("w", file[1], tmp_path / "back")
    assert digest.of_file(tmp_path / "back") == file[1]


def test_wrong_bytes_from_the_archive_leave_nothing_behind(
    archive: Archive, s3: Any, file: Any, tmp_path: Path
) -> None:
    archive.put("w", *file, "STANDARD")
    s3.put_object(Bucket=BUCKET, Key="a prefix/w", Body=b"tampered")
    with pytest.raises(StageError, match=r"came back with the SHA-256 .* restore the bucket"):
        archive.get("w", file[1], tmp_path / "back" / "w")
    assert list((tmp_path / "back").iterdir()) == []


def test_what_is_gone_is_said_and_deleting_it_again_is_fine(archive: Archive, file: Any, tmp_path: Path) -> None:
    archive.put("w", *file, "STANDARD")
    archive.delete("w")
    archive.delete("w")
    assert archive.lies_in("w") is None
    for act in (lambda: archive.move("w", "GLACIER"), lambda: archive.is_readable("w", HOW)):
        with pytest.raises(StageError, match="is gone"):
            act()
    with pytest.raises(StageError, match="NoSuchKey"):
        archive.get("w", file[1], tmp_path / "back")


@pytest.mark.parametrize("uri", ["", "s3://", "http://host/bucket", "models", "file:///tmp", "s3:/models"])
def test_an_archive_that_is_no_bucket_is_a_usage_error(uri: str) -> None:
    with pytest.raises(UsageError, match="archive_url is"):
        Archive(uri)


def test_a_bucket_that_is_not_there_is_a_usage_error(s3: Any, file: Any) -> None:
    with pytest.raises(UsageError, match="no such bucket"):
        Archive("s3://nobody").put("w", *file, "STANDARD")


def test_an_archive_that_is_away_is_transient(s3: Any, file: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    with socket.socket() as closed:
        closed.bind(("127.0.0.1", 0))
        monkeypatch.setenv("AWS_ENDPOINT_URL", f"http://127.0.0.1:{closed.getsockname()[1]}")
        with pytest.raises(Transient):
            Archive(f"s3://{BUCKET}").put("w", *file, "STANDARD")


def test_a_reply_that_is_cut_leaves_nothing_behind(
    archive: Archive, s3: Any, file: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A server that promises more than it sends."""

    def serve(listener: socket.socket) -> None:
        while True:
            try:
                connection, _ = listener.accept()
            except OSError:
                return
            with connection:
                connection.recv(65536)
                connection.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: 7000\r\n\r\nweights")

    with socket.create_server(("127.0.0.1", 0)) as listener:
        threading.Thread(target=serve, args=(listener,), daemon=True).start()
        monkeypatch.setenv("AWS_ENDPOINT_URL", f"http://127.0.0.1:{listener.getsockname()[1]}")
        with pytest.raises(Transient):
            Archive(f"s3://{BUCKET}").get("w", file[1], tmp_path / "back" / "w")
    assert list((tmp_path / "back").iterdir()) == []
