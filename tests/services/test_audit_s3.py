"""Checkpoints, archives and a sink in S3: written once, locked, and missed when they are gone."""

import gzip
import socket
import threading
import time
from collections.abc import Iterator
from datetime import timedelta
from pathlib import Path
from typing import Any

import boto3
import made_ledger
import pytest
from botocore.exceptions import ClientError
from made_ledger import Story
from moto.server import ThreadedMotoServer

from slipway.errors import Refused, SlipwayError, Transient, UsageError
from slipway.ledger import archive, audit, checkpoints, clock, events, places, retention, sinks, wire
from slipway.ledger.clock import Reading
from slipway.ledger.database import Database


@pytest.fixture(scope="module")
def server() -> Iterator[str]:
    started = ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    started.start()
    host, port = started.get_host_and_port()
    yield f"http://{host}:{port}"
    started.stop()


@pytest.fixture
def s3(server: str, monkeypatch: pytest.MonkeyPatch) -> Any:
    for name, value in (
        ("AWS_ENDPOINT_URL", server), ("AWS_ACCESS_KEY_ID", "x"), ("AWS_SECRET_ACCESS_KEY", "x"), ("AWS_DEFAULT_REGION", "us-east-1"),
    ):  # fmt: skip
        monkeypatch.setenv(name, value)
    return boto3.client("s3")


@pytest.fixture
def bucket(s3: Any, request: pytest.FixtureRequest) -> str:
    """A bucket of its own, with Object Lock."""
    name = f"audit-{abs(hash(request.node.name)):x}"
    s3.create_bucket(Bucket=name, ObjectLockEnabledForBucket=True)
    return name


def project(tmp_path: Path, **settings: Any) -> Path:
    root = made_ledger.project(tmp_path / "project")
    made_ledger.configure(root, **settings)
    return root


def objects(s3: Any, bucket: str) -> list[str]:
    return [item["Key"] for item in s3.list_objects_v2(Bucket=bucket).get("Contents", [])]


def story_of(root: Path, vouch: int = 1) -> Story:
    return Story(root, Database.of(root), vouch)


def test_checkpoints_are_locked_and_cannot_be_written_over(s3: Any, bucket: str, tmp_path: Path) -> None:
    uri = f"s3://{bucket}/desk"
    root = project(tmp_path, audit_checkpoints=uri, audit_lock="compliance", audit_lock_days=400)
    story_of(root).tell(3)
    names = objects(s3, bucket)
    assert len(names) == 3 and names == sorted(names), "in order of time"
    kept = s3.head_object(Bucket=bucket, Key=names[0])
    assert kept["ObjectLockMode"] == "COMPLIANCE"
    assert timedelta(days=399) < kept["ObjectLockRetainUntilDate"] - clock.read().at < timedelta(days=401)
    with pytest.raises(ClientError, match="AccessDenied"):
        s3.delete_object(Bucket=bucket, Key=names[0], VersionId=kept["VersionId"])
    assert places.of(root, uri).put_new(names[0].removeprefix("desk/"), b"other") is False
    report = audit.verify(root, mirrors=False)
    assert (report.problems, report.checkpoints) == ([], 3)


def test_a_tail_cut_with_every_file_of_this_machine_is_found_in_s3(s3: Any, bucket: str, tmp_path: Path) -> None:
    root = project(tmp_path, audit_checkpoints=f"s3://{bucket}")
    story = story_of(root)
    story.tell(3)
    with story.database.write() as connection:
        made_ledger.unguarded(connection, True)
        made_ledger.cut(connection, 25)
        connection.exec_driver_sql("DELETE FROM sinks")
        made_ledger.guard(connection, True)
    file = places.folder(root) / checkpoints.FILE
    file.write_text("".join(f"{line}\n" for line in file.read_text().splitlines()[:2]))
    report = audit.verify(root, mirrors=False)
    assert report.problems[0].sequence == 26 and f"s3://{bucket}/" in report.problems[0].where
    with pytest.raises(Refused, match="frozen"):
        checkpoints.write(root)


def test_s3_away_an_act_goes_on_and_the_next_makes_up_for_it(
    s3: Any, bucket: str, server: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    root = project(tmp_path, audit_checkpoints=f"s3://{bucket}")
    story = story_of(root)
    with monkeypatch.context() as away:
        away.setenv("AWS_ENDPOINT_URL", f"http://127.0.0.1:{_closed_port()}")
        story.tell(2)
        assert [one.where for one in audit.verify(root, mirrors=False).problems] == ["configs/env"]
        _, trouble = checkpoints.write_everywhere(root)
        assert isinstance(trouble, Transient)
    assert objects(s3, bucket) == []
    story.tell(1)
    assert len(objects(s3, bucket)) == 3 and audit.verify(root, mirrors=False).problems == []


def test_a_server_that_never_answers_is_given_up(s3: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(places, "SECONDS", 1)
    with _hanging() as port:
        monkeypatch.setenv("AWS_ENDPOINT_URL", f"http://127.0.0.1:{port}")
        begin = time.monotonic()
        with pytest.raises(Transient, match="did not answer in 1 s"):
            places.Bucket("s3://somewhere").names()
        assert time.monotonic() - begin < 10


@pytest.mark.parametrize(
    ("uri", "said"),
    [("s3://no-such-bucket-here", "does not exist"), ("s3:///x", "names no bucket"), ("ftp://x", "no place")],
)
def test_a_wrong_address_is_one_line(s3: Any, tmp_path: Path, uri: str, said: str) -> None:
    with pytest.raises(UsageError, match=said):
        places.of(project(tmp_path), uri).names()


def test_a_bucket_without_object_lock_is_refused_where_a_lock_is_wanted(s3: Any, tmp_path: Path) -> None:
    s3.create_bucket(Bucket="without-lock")
    place = places.Bucket("s3://without-lock", "compliance", 10)
    with pytest.raises(SlipwayError, match="Object Lock"):
        place.put_new("x", b"x")


# --- archives and a sink ----------------------------------------------------------------------------------------------------


def test_old_events_move_to_s3_and_the_chain_goes_on(s3: Any, bucket: str, tmp_path: Path) -> None:
    root = project(tmp_path, audit_archive=f"s3://{bucket}/old", audit_lock="governance", audit_lock_days=30)
    start = clock.moment("2025-01-01T00:00:00.000000Z")
    story = story_of(root, vouch=0)
    story.now = Reading(start, "boot", 1)
    story.tell(2)
    kept = retention.retain(root, now=Reading(start + timedelta(days=366), "boot", 366 * 24 * 3600 * 1000 + 1))
    assert kept is not None and kept.last == 19 and kept.uri.startswith(f"s3://{bucket}/old/events-")
    key = objects(s3, bucket)[0]
    assert s3.head_object(Bucket=bucket, Key=key)["ObjectLockMode"] == "GOVERNANCE"
    found = audit.verify(root, mirrors=False).problems
    assert [one.text for one in found if "no checkpoint yet" not in one.text] == []
    with story.database.read() as connection:
        assert len(list(archive.read(root, archive.listed(connection)[0]))) == 19
    s3.put_object(Bucket=bucket, Key=key, Body=b"something else")
    assert any("changed: its SHA-256" in one.what for one in audit.verify(root, mirrors=False).problems)


def test_a_sink_in_s3_has_every_event_once(s3: Any, bucket: str, tmp_path: Path) -> None:
    root = project(tmp_path, audit_sinks=[f"s3://{bucket}/sink"])
    story = story_of(root)
    story.tell(2)
    assert [(one.sent, one.pending, one.error) for one in sinks.deliver(root)] == [(20, 0, None)]
    story.tell(1)
    with story.database.write() as connection:  # a delivery whose end was never written down
        connection.exec_driver_sql("DELETE FROM sinks WHERE name LIKE 's3:%'")
    assert sinks.deliver(root)[0].sent == 30
    found: dict[int, str] = {}
    for key in objects(s3, bucket):
        text = gzip.decompress(s3.get_object(Bucket=bucket, Key=key)["Body"].read()).decode()
        found |= {wire.parsed(line).sequence: line for line in text.splitlines()}
    with story.database.read() as connection:
        assert found == {event.sequence: wire.text(event) for event in events.read(connection)}


def _closed_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


class _hanging:
    """A server that takes connections and says nothing."""

    def __enter__(self) -> int:
        self.socket = socket.create_server(("127.0.0.1", 0))
        self.taken: list[socket.socket] = []
        threading.Thread(target=self._take, daemon=True).start()
        return int(self.socket.getsockname()[1])

    def _take(self) -> None:
        try:
            while True:
                self.taken.append(self.socket.accept()[0])
        except OSError:
            return

    def __exit__(self, *_: object) -> None:
        for one in (self.socket, *self.taken):
            one.close()
