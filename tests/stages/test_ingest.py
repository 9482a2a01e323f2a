"""ingest: exactly the pinned bytes, checked; a person's mistake is one clear line."""

import gzip
import json
from collections.abc import Iterator
from pathlib import Path

import boto3
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from data_folders import lines, tickets
from moto.server import ThreadedMotoServer

from slipway.artifacts import Manifest, SourcePin
from slipway.data import hub, s3, sources
from slipway.errors import SlipwayError, StageError, Transient, UsageError
from slipway.params import IngestParams
from tasks.ingest import ingest

GOOD = lines(tickets(5))


@pytest.fixture
def project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    return tmp_path


def run(project: Path, source: str, test_source: str | None = None) -> Manifest:
    params = IngestParams(source=source, test_source=test_source)
    sources.pin(params, project, project / "cache").save(project / "pin.json")
    ingest(params, project / "pin.json", project / "raw")
    return Manifest.verified(project / "raw")


def test_files_of_a_folder_come_in_with_rows_and_roles(project: Path) -> None:
    (project / "in").mkdir()
    (project / "in" / "b.jsonl").write_text(GOOD)
    (project / "in" / "a.jsonl.gz").write_bytes(gzip.compress(GOOD.encode()))
    (project / "in" / "notes.txt").write_text("not data")
    pq.write_table(pa.Table.from_pylist([{"prompt": "a", "completion": "b"}] * 3), project / "test.parquet")
    manifest = run(project, "in", "test.parquet")
    assert {file.path: file.rows for file in manifest.files} == {
        "data-00000-a.jsonl.gz": 5,
        "data-00001-b.jsonl": 5,
        "test-00000-test.parquet": 3,
    }
    assert manifest.facts["roles"]["test-00000-test.parquet"] == "test"
    pin = SourcePin.load(project / "pin.json")
    assert [file.uri for file in pin.files] == ["in/a.jsonl.gz", "in/b.jsonl", "test.parquet"]


def test_a_glob_and_a_path_outside_the_project(project: Path, tmp_path_factory: pytest.TempPathFactory) -> None:
    outside = tmp_path_factory.mktemp("elsewhere")
    for name in ("x1.jsonl", "x2.jsonl"):
        (outside / name).write_text(GOOD)
    assert len(run(project, f"{outside}/x*.jsonl").files) == 2
    pin = SourcePin.load(project / "pin.json")
    assert pin.files[0].uri == (outside / "x1.jsonl").as_posix()


def test_the_kind_of_a_file_is_in_its_content(project: Path) -> None:
    (project / "misnamed.jsonl").write_bytes(gzip.compress(GOOD.encode()))
    assert run(project, "misnamed.jsonl").files[0].rows == 5


@pytest.mark.parametrize(
    ("source", "message"),
    [
        ("nothing.jsonl", "nothing.jsonl does not exist"),
        ("*.csv", "matches no file"),
        ("empty", "is a folder without"),
        ("zero.jsonl", "zero.jsonl is empty"),
        ("ftp://host/x", "no such kind of source"),
        ("s3://", "names no bucket"),
        ("hf://", "names no data set"),
        ("hf://a/b?spilt=train", "unknown option spilt"),
    ],
)
def test_case_E1_a_source_that_is_not_there_is_one_clear_line(project: Path, source: str, message: str) -> None:
    (project / "empty").mkdir()
    (project / "zero.jsonl").write_bytes(b"")
    with pytest.raises(UsageError, match=message.replace("*", r"\*")) as caught:
        run(project, source)
    assert "\n" not in str(caught.value)


HEAD = b'{"prompt": "a", "completion": "b"}\n'


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (b"\n \n", "in.jsonl has no rows"),
        (b"\xef\xbb\xbf" + HEAD, r"in.jsonl starts with a UTF-8 byte order mark \(byte 0\)"),
        (HEAD.decode().encode("utf-16"), "in.jsonl starts with a UTF-16 byte order mark"),
        (HEAD + HEAD + b'{"prompt": "caf\xe9"}\n', r"not UTF-8 at byte 85 \(line 3\)"),
        (HEAD * 40_000 + b"\xff\n", r"not UTF-8 at byte 1400000 \(line 40001\)"),
        (HEAD + b'{"prompt": "\xc3', r"not UTF-8 at byte 47 \(line 2\)"),
        (b"{broken\n" * 3, r"no usable row: all 3 are broken, the first at row 1 \(broken_json"),
        (b"[1, 2]\n", "not_an_object"),
        (b"a,b\n1,2\n", "no usable row: all 2 are broken"),
        (b'{"x": ' + b"[" * 100_000, "too_deep"),
        (b'{"a": 1, "a": 2}\n', "duplicate_key: the key 'a' stands twice"),
        (b'{"a": NaN}\n', "not_finite"),
        (gzip.compress(HEAD * 50, mtime=0)[:-9], "in.jsonl is not an intact gzip file"),
        (b"PAR1 and then nothing", "in.jsonl is not a readable Parquet file"),
    ],
)
def test_case_E1_a_file_that_cannot_be_used_is_refused(project: Path, data: bytes, message: str) -> None:
    (project / "in.jsonl").write_bytes(data)
    with pytest.raises(StageError, match=message) as caught:
        run(project, "in.jsonl")
    assert "\n" not in str(caught.value) and "raw/" not in str(caught.value)


def test_single_broken_rows_are_left_for_prepare(project: Path) -> None:
    (project / "in.jsonl").write_text("{broken\n" * 3 + GOOD)
    assert run(project, "in.jsonl").files[0].rows == 8


@pytest.mark.parametrize("change", ["edit", "remove"])
def test_a_source_that_moved_since_it_was_pinned_is_refused(project: Path, change: str) -> None:
    (project / "in.jsonl").write_text(GOOD)
    params = IngestParams(source="in.jsonl", test_source=None)
    sources.pin(params, project, project / "cache").save(project / "pin.json")
    if change == "edit":
        (project / "in.jsonl").write_text(GOOD.replace("intent", "Intent"))
    else:
        (project / "in.jsonl").unlink()
    with pytest.raises(StageError, match=r"since it was pinned.*slipway run"):
        ingest(params, project / "pin.json", project / "raw")


def test_a_pin_for_another_source_is_refused(project: Path) -> None:
    (project / "in.jsonl").write_text(GOOD)
    params = IngestParams(source="in.jsonl", test_source=None)
    sources.pin(params, project, project / "cache").save(project / "pin.json")
    with pytest.raises(StageError, match=r"made for in.jsonl, params.yaml asks for other.jsonl"):
        ingest(IngestParams(source="other.jsonl", test_source=None), project / "pin.json", project / "raw")


def test_an_edited_file_is_pinned_anew_in_spite_of_the_cache(project: Path) -> None:
    (project / "in.jsonl").write_text(GOOD)
    params = IngestParams(source="in.jsonl", test_source=None)
    first = sources.pin(params, project, project / "cache")
    assert sources.pin(params, project, project / "cache") == first
    (entry,) = (project / "cache").iterdir()
    known = json.loads(entry.read_text())
    entry.write_text(json.dumps(known | {"sha256": "from the cache"}))
    assert sources.pin(params, project, project / "cache").files[0].sha256 == "from the cache"
    (project / "in.jsonl").write_text(GOOD + GOOD)
    edited = sources.pin(params, project, project / "cache").files[0].sha256
    assert edited not in (first.files[0].sha256, "from the cache")
    entry.write_text("torn")
    assert sources.pin(params, project, project / "cache").files[0].bytes == 2 * len(GOOD)


# --- S3, over HTTP --------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def endpoint() -> Iterator[str]:
    server = ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    server.start()
    host, port = server.get_host_and_port()
    yield f"http://{host}:{port}"
    server.stop()


@pytest.fixture
def bucket(endpoint: str, project: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    for name, value in {
        "AWS_ENDPOINT_URL": endpoint,
        "AWS_ACCESS_KEY_ID": "test",
        "AWS_SECRET_ACCESS_KEY": "test",
        "AWS_DEFAULT_REGION": "us-east-1",
    }.items():
        monkeypatch.setenv(name, value)
    client = boto3.client("s3")
    client.create_bucket(Bucket="desk")
    yield "desk"
    for item in client.list_objects_v2(Bucket="desk").get("Contents", []):
        client.delete_object(Bucket="desk", Key=item["Key"])
    client.delete_bucket(Bucket="desk")


def put(key: str, text: str) -> None:
    boto3.client("s3").put_object(Bucket="desk", Key=key, Body=text.encode())


def test_s3_objects_under_a_prefix_come_in(bucket: str, project: Path) -> None:
    put("rows/b.jsonl", GOOD)
    put("rows/a.jsonl", GOOD + GOOD)
    put("rows/readme.md", "not data")
    put("rows2/c.jsonl", GOOD)
    manifest = run(project, "s3://desk/rows", "s3://desk/rows2/c.jsonl")
    assert {file.path: file.rows for file in manifest.files} == {
        "data-00000-a.jsonl": 10,
        "data-00001-b.jsonl": 5,
        "test-00000-c.jsonl": 5,
    }


def test_s3_lists_beyond_one_page(bucket: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(s3, "PAGE", 2)
    for number in range(7):
        put(f"many/{number}.jsonl", "x")
    assert len(s3.pin("s3://desk/many", "data")) == 7


def test_an_s3_object_that_changed_or_went_since_the_pin_is_refused(bucket: str, project: Path) -> None:
    put("in.jsonl", GOOD)
    params = IngestParams(source="s3://desk/in.jsonl", test_source=None)
    sources.pin(params, project, project / "cache").save(project / "pin.json")
    put("in.jsonl", GOOD.replace("intent", "Intent"))
    with pytest.raises(StageError, match=r"source changed since it was pinned: s3://desk/in.jsonl"):
        ingest(params, project / "pin.json", project / "raw")


@pytest.mark.parametrize(
    ("uri", "message"), [("s3://nobody", "does not exist"), ("s3://desk/none", "s3://desk/none holds no")]
)
def test_s3_names_that_lead_nowhere(bucket: str, uri: str, message: str) -> None:
    with pytest.raises(UsageError, match=message):
        s3.pin(uri, "data")


def test_s3_that_does_not_answer_is_transient(monkeypatch: pytest.MonkeyPatch) -> None:
    keys = {"AWS_ACCESS_KEY_ID": "x", "AWS_SECRET_ACCESS_KEY": "x", "AWS_ENDPOINT_URL": "http://127.0.0.1:9"}
    for name, value in keys.items():
        monkeypatch.setenv(name, value)
    with pytest.raises(Transient, match="try again"):
        s3.pin("s3://desk/x", "data")


@pytest.mark.parametrize(
    ("code", "kind"),
    [
        ("SlowDown", Transient),
        ("503", Transient),
        ("429", Transient),
        ("AccessDenied", UsageError),
        ("PreconditionFailed", StageError),
    ],
)
def test_s3_replies_have_their_kind_of_error(code: str, kind: type[SlipwayError]) -> None:
    assert type(s3._of_reply("s3://desk/x", {"Error": {"Code": code}})) is kind


# --- the hub's library, on a local folder ---------------------------------------------------------------------------


def test_the_datasets_library_reads_a_split_into_parquet(project: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (project / "set").mkdir()
    (project / "set" / "train.jsonl").write_text(GOOD)
    monkeypatch.setenv("HF_DATASETS_CACHE", str(project / "hf"))
    from slipway.artifacts import PinnedFile

    hub.fetch(PinnedFile(uri=f"hf://{project}/set?split=train", role="data"), project / "out.parquet")
    assert pq.read_table(project / "out.parquet").num_rows == 5
    with pytest.raises(StageError, match="Unknown split"):
        hub.fetch(PinnedFile(uri=f"hf://{project}/set?split=nope", role="data"), project / "no.parquet")


def test_a_hub_that_does_not_answer_is_transient(monkeypatch: pytest.MonkeyPatch) -> None:
    import huggingface_hub

    client = huggingface_hub.HfApi(endpoint="http://127.0.0.1:9")
    monkeypatch.setattr(huggingface_hub, "HfApi", lambda: client)
    with pytest.raises(Transient, match="try again"):
        hub.pin("hf://owner/name@main", "data")
