"""`slipway models list | show | compare | lineage | artifacts | card | verify`, as a person types them."""

import contextlib
import io
import json
import os
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import made_versions
import many_versions
import pytest
from sqlalchemy import update

from slipway import cli, digest
from slipway.ledger import releases, tables
from slipway.ledger.chain import canonical
from slipway.ledger.events import Actor
from slipway.people import approvals
from slipway.registry import catalog, comparing, download, learned, mirror, store, versions

SECRET = "the words of a file outside"
DATA = digest.of_value("data")
OTHER = digest.of_value("other data")
ATTACK = '<script>alert("x")</script><img src=http://evil.example/x onerror=alert(1)>{{ 7 * 7 }}$x^{2'
RAW = {"prompt": "Where is my parcel?", "completion": "On its way."}


@dataclass
class Answer:
    code: int
    out: str
    err: str

    @property
    def json(self) -> Any:
        return json.loads(self.out)


def run(*words: str) -> Answer:
    out, err = io.StringIO(), io.StringIO()
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err), pytest.raises(SystemExit) as ended:
        cli.main(["models", *words])
    return Answer(int(ended.value.code or 0), out.getvalue(), err.getvalue())


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> made_versions.Made:
    """Three versions: one that served, one that serves, and a candidate that differs in everything that is compared."""
    top = tmp_path_factory.mktemp("models")
    outside = top / "outside"
    outside.mkdir()
    (outside / "secret.txt").write_text(SECRET)
    found = made_versions.project(top / "a project")
    first, second = (
        found.version(whole=True),
        found.version("1.1.0", metadata={"name": "support-desk", "author": "Ada"}),
    )
    latency = {"tuned.exact_match": 0.985, "tuned.loss": 0.05, "servability.latency_p95_seconds": 0.2}
    found.version(
        "1.2.0", parent="1.1.0", metrics=latency, params={"finetune": {"method": "lora", "lora": {"rank": 32}}},
        data_digest=OTHER, seconds={"finetune": 60.0}, cost=1.5,
    )  # fmt: skip
    found.serve(first)
    found.serve(second)
    found.stage(found.find(second).model_copy(update={"version": "1.2.0"}), "Staging")
    from slipway.data import rows
    from slipway.data.formats import Record

    row = rows.of_record("given", Record(1, "", RAW))
    assert isinstance(row, rows.Row)
    for data, split in ((DATA, "train"), (OTHER, "test")):
        folder = top / f"prepared {split}"
        many_versions.prepared(
            folder, {split: [(row.id, "data-00000-support_desk.jsonl", 17), ("0" * 16, "t.jsonl", 1)]}
        )
        learned.keep(found.root, data, folder)
    (found.root / "link").symlink_to(outside)
    (found.root / "link.txt").symlink_to(outside / "secret.txt")
    return found


@pytest.fixture(autouse=True)
def _there(made: made_versions.Made, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(made.root)


# --- list ----------------------------------------------------------------------------------------------------------------


def test_a_list_shows_stage_marks_metrics_author_and_size(made: made_versions.Made) -> None:
    said = run("list")
    lines = said.out.splitlines()
    assert said.code == 0 and [line.split()[0] for line in lines[1:]] == ["1.2.0", "1.1.0", "1.0.0"]
    assert "Staging" in lines[1] and "candidate" in lines[1] and "98.5 %" in lines[1]
    assert "champion" in lines[2] and "Ada" in lines[2]
    assert "previous" in lines[3] and "kB" in lines[3]


def test_a_list_is_filtered_sorted_and_cut(made: made_versions.Made) -> None:
    def numbers(*words: str) -> list[str]:
        return [one["version"] for one in run("list", "--json", *words).json["versions"]]

    assert numbers("--stage", "production") == ["1.1.0", "1.0.0"] and numbers("--model", "support-desk")[0] == "1.2.0"
    assert numbers("--sort", "loss")[0] == "1.2.0" == numbers("--sort", "tuned.exact_match")[0]
    assert numbers("--sort", "servability.latency_p95_seconds")[0] == "1.2.0"  # those without it come last
    assert len(numbers("--limit", "2")) == 2 and run("list", "--limit", "2", "--json").json["total"] == 3
    assert "1 more" in run("list", "--limit", "2").out


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["--sort", "exact_mach"], "did you mean"),
        (["--stage", "Prod"], "there are None, Staging, Production, Archived"),
        (["--model", "nobody"], "there are support-desk"),
        (["--limit", "-1"], "or 0 for all"),
    ],
)
def test_a_list_that_cannot_be_is_refused(words: list[str], said: str) -> None:
    answer = run("list", *words)
    assert answer.code == 2 and said in answer.err and answer.out == ""


def test_tombstones_and_cold_versions(made: made_versions.Made) -> None:
    with made.database.write() as connection:
        versions.set_state(connection, "support-desk", "1.0.0", "deleted")
        versions.set_state(connection, "support-desk", "1.2.0", "cold")
    try:
        assert [line.split()[0] for line in run("list").out.splitlines()[1:]] == ["1.2.0", "1.1.0"]
        assert "deleted" in run("list", "--deleted").out and "cold" in run("list").out
        assert [one["version"] for one in run("compare", "--all", "--json").json["versions"]] == ["1.2.0", "1.1.0"]
        assert "Production, deleted" in run("show", "1.0.0").out
        cold, gone = run("artifacts", "1.2.0", "--download", "x"), run("artifacts", "1.0.0", "--download", "x")
        assert (cold.code, gone.code) == (3, 3) and "models restore" in cold.err and "tombstone" in gone.err
        assert not Path("x").exists()
        # Whoever asks for erasure hears of the deleted one too.
        assert {one["version"] for one in run("lineage", DATA, "--json").json["versions"]} == {"1.0.0", "1.1.0"}
    finally:
        with made.database.write() as connection:
            for number in ("1.0.0", "1.2.0"):
                versions.set_state(connection, "support-desk", number, "present")


def test_the_marks_are_those_that_mlflow_is_given(made: made_versions.Made) -> None:
    with made.database.read() as connection:
        wanted = mirror.aliases(connection, "support-desk")
        found = catalog.marks(connection)
    assert wanted == {mark: version for (_, version), marks in found.items() for mark in marks}
    assert wanted == {"champion": "1.1.0", "previous": "1.0.0", "candidate": "1.2.0"}


def test_an_empty_registry_says_what_to_do(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    made_versions.project(tmp_path / "empty")
    monkeypatch.chdir(tmp_path / "empty")
    assert "slipway run" in run("list").out and run("list", "--json").json == {"versions": [], "total": 0}
    assert run("show").code == 2 and "slipway run" in run("show").err


# --- show ----------------------------------------------------------------------------------------------------------------


def test_show_tells_everything(made: made_versions.Made) -> None:
    said = run("show", "1.1.0").out
    for wanted in (
        "support-desk 1.1.0 (#2) · Production · champion", "serves     now", "pass: ", "came from", "1 version compared with it: 1.2.0",
        "Exact match", "97.0 %", "Data and base", "2 train", "finetune.method", "History (UTC)", "None → Production", "ada (os-user)",
        "adapter/adapter_model.safetensors",
    ):  # fmt: skip
        assert wanted in said, wanted
    found = run("show", "champion", "--json").json
    assert (found["version"], found["marks"], found["verdict"]) == ("1.1.0", ["champion"], "pass")
    assert found["rows"] == {"train": 2, "validation": 0, "test": 0} and found["children"] == ["1.2.0"]
    assert found["intervals"]["tuned.exact_match"][0] < 0.97 < found["intervals"]["tuned.exact_match"][1]
    assert [one["kind"] for one in found["history"]][:2] == ["release_started", "model_registered"]
    assert found["served"][0]["until"] is None and found["missing"] == []


def test_show_takes_every_way_to_name_a_version(made: made_versions.Made) -> None:
    ways = ("1.0.0", "v1.0.0", "support-desk@1.0.0", "support-desk/1.0.0", "previous", "#1", "20260101-000000-000001")
    assert {run("show", way, "--json").json["version"] for way in ways} == {"1.0.0"}
    assert run("show", "--json").json["version"] == "1.2.0"
    wrong = run("show", "9.9.9")
    assert wrong.code == 2 and "there are 1.2.0, 1.1.0, 1.0.0" in wrong.err


def test_show_says_what_is_missing_from_the_store(made: made_versions.Made) -> None:
    path = store.folder(made.root, "support-desk", "1.1.0") / "adapter" / "adapter_model.safetensors"
    kept = path.rename(made.root / "kept")
    try:
        assert "adapter/adapter_model.safetensors is missing" in run("show", "1.1.0").out
    finally:
        kept.rename(path)


def test_show_tells_who_approved_which_stage_ran_and_what_took_its_place(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    made = made_versions.project(tmp_path / "a project")
    monkeypatch.chdir(made.root)
    first, second = made.version(), made.version("1.1.0")
    releases.stage_finished(made.database, first.model, first.release, {"stage": "fetch", "status": "ran"})
    approvals.give(made.root, "1.0.0", "approve", "Read the report.", actor=Actor("bob", "os-user"))
    made.serve(first)
    made.serve(second)
    told = run("show", "1.0.0").out
    (approval,) = run("show", "1.0.0", "--json").json["approvals"]
    assert approval["by"] == "bob" and "bob" in told.split("Approvals")[1].split("Files")[0] and "sealed" not in told, (
        told
    )
    assert "fetch ran" in told and "version 1.1.0, previous 1.0.0" in told, told


# --- compare -------------------------------------------------------------------------------------------------------------


def test_compare_marks_the_best_where_the_rows_are_the_same(made: made_versions.Made) -> None:
    one = run("compare", "1.0.0", "1.2.0", "--json").json
    assert "test rows" in one["warnings"][0]
    scores = {line["name"]: line for line in one["metrics"]}
    assert scores["tuned.loss"]["best"] == [] and scores["tuned.loss"]["better"] == "lower"
    with contextlib.ExitStack() as stack:
        made_same = {"data_digest": DATA}
        stack.enter_context(_changed(made, "1.2.0", made_same))
        same = run("compare", "1.0.0", "1.2.0", "--json").json
    scores = {line["name"]: line for line in same["metrics"]}
    assert same["warnings"] == [] and scores["tuned.loss"]["best"] == [1] == scores["tuned.exact_match"]["best"]
    cost = {line["name"]: line for line in same["cost"]}
    assert cost["seconds"]["best"] == [0] and cost["cost"]["values"] == [None, 1.5]
    assert same["params"][0] == {"name": "finetune.lora.rank", "values": [None, 32], "differs": True}
    rows = {line["name"]: line["values"] for line in one["data"]}
    assert rows["train rows"] == [2, 0] and rows["test rows"] == [0, 2] and rows["raw files"] == [1, 1]


@contextlib.contextmanager
def _changed(made: made_versions.Made, number: str, values: dict[str, Any]) -> Iterator[None]:
    """A version's row as somebody with the database might have written it."""
    before = made.find(made_versions.Version.model_construct(model="support-desk", version=number, state="present"))

    def write(version: Any, columns: dict[str, Any]) -> None:
        with made.database.write() as connection:
            here = (tables.versions.c.model == "support-desk", tables.versions.c.version == number)
            about = canonical(version)
            connection.execute(update(tables.versions).where(*here).values(about=about, **columns))

    known = {column.name for column in tables.versions.columns} - {"metrics", "about"}
    write(before.model_dump(mode="json") | values, {name: value for name, value in values.items() if name in known})
    try:
        yield
    finally:
        told = before.model_dump(mode="json")
        write(told, {name: told[name] for name in values if name in known})


def test_compare_in_a_terminal_beside_and_below(made: made_versions.Made, monkeypatch: pytest.MonkeyPatch) -> None:
    from slipway.report import compare

    beside = run("compare", "1.0.0", "champion", "1.2.0").out
    assert "97.0 % (" in beside and "finetune.lora.rank" in beside and "! not all of these" in beside
    assert "finetune.method" not in beside and "finetune.method" in run("compare", "1.0.0", "1.2.0", "--all-values").out
    monkeypatch.setattr(compare, "MOST_COLUMNS", 2)
    below = run("compare", "--all", "--metrics").out
    assert [line.split()[0] for line in below.splitlines() if line.startswith("  1.")] == ["1.2.0", "1.1.0", "1.0.0"]
    only = run("compare", "1.0.0", "1.1.0", "--params", "--json").json
    assert "params" in only and "metrics" not in only and "data" not in only


@pytest.mark.parametrize(
    ("words", "said"),
    [
        ([], "name two or more"),
        (["1.0.0"], "one version to compare"),
        (["1.0.0", "1.0.0"], "one version to compare"),
        (["1.0.0", "--all"], "give one or the other"),
        (["1.0.0", "7.0.0"], "no version 7.0.0"),
        (["1.0.0", "1.1.0", "--html", "."], "is a folder"),
        (["1.0.0", "1.1.0", "--html", "no/such/folder/x.html"], "does not exist"),
        (["1.0.0", "1.1.0", "--png", "link.txt"], "is a link"),
        (["1.0.0", "1.1.0", "--png", "a\x00b"], "character"),
    ],
)
def test_a_comparison_that_cannot_be_is_refused(words: list[str], said: str) -> None:
    answer = run("compare", *words)
    assert answer.code == 2 and said in answer.err and answer.err.count("\n") == 1


class Page(HTMLParser):
    """The tags and the words of a page, as a browser would see them."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.tags, self.words, self.links = list[str](), list[str](), list[str]()
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        self.links += [f"{name}={value}" for name, value in attrs if name in ("src", "href") or name.startswith("on")]

    def handle_data(self, data: str) -> None:
        self.words.append(data)


def test_case_E11_pages_and_pictures_show_names_and_run_nothing(made: made_versions.Made, tmp_path: Path) -> None:
    hostile = {"base_source": ATTACK, "params": {ATTACK: {"x": ATTACK}}, "data_version": ATTACK, "commit": ATTACK}
    hostile |= {"metadata": {"description": ATTACK, "author": f"\x1b[2J{ATTACK}"}, "seconds": {ATTACK: 3.0}}
    hostile["sources"] = [{"path": ATTACK, "bytes": 1, "sha256": "a" * 64}]
    with _changed(made, "1.2.0", hostile):
        pages = {
            "c.html": ["compare", "1.0.0", "1.2.0", "--png", str(tmp_path / "c.png")],
            "l.html": ["lineage", "1.2.0"],
        }
        pages["f.html"] = ["lineage", "a" * 64]
        for name, words in pages.items():
            answer = run(*words, "--html", str(tmp_path / name))
            assert answer.code == 0 and "\x1b" not in answer.out, answer.err
            text = (tmp_path / name).read_text()
            page = Page(text)
            assert not {"script", "img", "iframe", "link", "object"} & set(page.tags) and page.links == []
            assert "<script>alert" not in text and "{{ 7 * 7 }}" in "".join(page.words) and "default-src 'none'" in text
        assert (tmp_path / "c.png").read_bytes()[:8] == b"\x89PNG\r\n\x1a\n"
        for words in (["show", "1.2.0"], ["list"], ["artifacts", "1.2.0"]):
            assert "\x1b" not in run(*words).out


def test_a_comparison_knows_which_way_is_better() -> None:
    known = {"tuned.loss": "lower", "tuned.exact_match": "higher", "servability.latency_p95_seconds": "lower"}
    known |= {
        "scan.bytes": "lower",
        "base.exact_match": "either",
        "no.such": "either",
        "safety.tuned.refusal": "higher",
    }
    assert {name: comparing.better(name) for name in known} == known


# --- lineage -------------------------------------------------------------------------------------------------------------


def test_lineage_of_a_version_runs_both_ways(made: made_versions.Made) -> None:
    found = run("lineage", "1.1.0", "--json").json
    links = {link["name"]: link for part in ("made_by", "learned_from", "judged_by") for link in found[part]}
    assert {
        "release",
        "commit",
        "tag",
        "params",
        "data",
        "rows",
        "file",
        "base",
        "identity",
        "evidence",
        "policy",
    } <= set(links)
    assert links["MLflow run"]["value"] == "8f14e45fceea167a5a36dedd4bea2543"
    assert links["data"]["digest"] == DATA and "2 train" in links["data"]["value"]
    assert found["children"] == ["1.2.0"] and found["served"][0]["generation"] == 2
    told = run("lineage", "1.2.0").out
    assert "compared with     1.1.0" in told and "never" in told
    first = run("lineage", "1.0.0", "--json").json["served"]
    assert len(first) == 1 and first[0]["until"] is not None


def test_lineage_from_data_finds_every_version(made: made_versions.Made) -> None:
    def learners(*words: str) -> tuple[str, list[str]]:
        found = run("lineage", *words, "--json").json
        assert found["complete"]
        return found["kind"], sorted(one["version"] for one in found["versions"])

    everything = ["1.0.0", "1.1.0", "1.2.0"]
    assert learners(DATA) == ("data", ["1.0.0", "1.1.0"]) and learners(OTHER.upper()) == ("data", ["1.2.0"])
    assert learners("support_desk.jsonl") == ("file", everything) == learners(digest.of_value("rows"))
    version = run("show", "1.0.0", "--json").json
    assert learners(version["base_digest"]) == ("base", everything)
    assert learners(version["identity"]) == ("identity", ["1.0.0"])
    assert learners("0" * 16) == ("row", everything) == learners("t.jsonl:1")
    assert learners("f" * 16) == ("row", []) == learners("f" * 64)


def test_lineage_from_a_row_as_it_stands_in_the_raw_data(made: made_versions.Made, tmp_path: Path) -> None:
    (tmp_path / "row.json").write_text(json.dumps(RAW, indent=2))
    found = run("lineage", "--row-text", str(tmp_path / "row.json"), "--json").json
    assert {one["version"]: one["where"] for one in found["versions"]} == {
        "1.0.0": ["train: data-00000-support_desk.jsonl row 17"],
        "1.1.0": ["train: data-00000-support_desk.jsonl row 17"],
        "1.2.0": ["test: data-00000-support_desk.jsonl row 17"],
    }
    (tmp_path / "row.json").write_text(json.dumps({**RAW, "completion": "Lost."}))
    answer = run("lineage", "--row-text", str(tmp_path / "row.json"))
    assert answer.code == 0 and "no version knows this row, of 3 versions asked" in answer.out


def test_lineage_from_a_file_of_the_project_by_its_bytes(made: made_versions.Made) -> None:
    path = made.root / "mine.jsonl"
    path.write_bytes(b"whatever")
    try:
        with _changed(made, "1.1.0", {"sources": [{"path": "x", "bytes": 8, "sha256": digest.of_bytes(b"whatever")}]}):
            assert [one["version"] for one in run("lineage", "mine.jsonl", "--json").json["versions"]] == ["1.1.0"]
        assert run("lineage", "mine.jsonl").code == 2  # nobody learned from these bytes
    finally:
        path.unlink()


def test_an_index_that_is_lost_makes_the_answer_incomplete(made: made_versions.Made) -> None:
    place = learned.folder(made.root, OTHER)
    kept = place.rename(made.root / "kept rows")
    try:
        answer = run("lineage", "0" * 16)
        assert answer.code == 1 and "1.0.0" in answer.out and "1.2.0" in answer.err and "incomplete" in answer.err
        found = run("lineage", "0" * 16, "--json")
        assert found.code == 1 and not found.json["complete"] and len(found.json["unknown"]) == 1
        damaged = run("verify", "1.2.0")
        assert damaged.code == 0 and "erasure" in damaged.err and "digests kept" not in damaged.out
        assert "digests kept for erasure requests, sound" in run("verify", "1.1.0").out
    finally:
        kept.rename(place)


@pytest.mark.parametrize(
    "words", [[], ["1.0.0", "--row-text", "x"], ["--row-text", "no-such-file"], ["--row-text", "."]]
)
def test_a_lineage_of_nothing_or_of_two_things_is_refused(words: list[str]) -> None:
    answer = run("lineage", *words)
    assert answer.code == 2 and answer.err.count("\n") == 1


# --- artifacts, card, verify --------------------------------------------------------------------------------------------


def test_artifacts_are_listed_and_downloaded_whole(made: made_versions.Made, tmp_path: Path) -> None:
    listed = run("artifacts", "1.1.0", "--json").json
    assert listed["bytes"] == sum(one["bytes"] for one in listed["files"]) and all(
        one["here"] for one in listed["files"]
    )
    answer = run("artifacts", "1.1.0", "--download", str(tmp_path / "copy"), "--base")
    assert answer.code == 0 and "as recorded" in answer.out
    for one in listed["files"]:
        assert digest.of_file(tmp_path / "copy" / one["path"]) == one["sha256"]
    assert (tmp_path / "copy" / "version.json").is_file() and (tmp_path / "copy" / "base" / "manifest.json").is_file()
    assert run("verify", str(tmp_path / "copy")).code == 0
    again = run("artifacts", "1.1.0", "--download", str(tmp_path / "copy"))
    assert again.code == 2 and "not empty" in again.err


def test_a_download_is_whole_or_not_at_all(made: made_versions.Made, tmp_path: Path) -> None:
    """A byte that changed, a file that is missing, a link, a folder that is a link: nothing is left behind."""
    place = store.folder(made.root, "support-desk", "1.1.0")
    path = place / "adapter" / "adapter_model.safetensors"
    sound = path.read_bytes()

    def refused(said: str) -> None:
        answer = run("artifacts", "1.1.0", "--download", str(tmp_path / "copy"))
        assert answer.code == 3 and said in answer.err and list(tmp_path.iterdir()) == [], answer.err

    for place_of_bit in (0, len(sound) // 2, len(sound) - 1):
        path.write_bytes(sound[:place_of_bit] + bytes([sound[place_of_bit] ^ 1]) + sound[place_of_bit + 1 :])
        refused("changed in the store")
    path.unlink()
    refused("is missing from the store")
    path.symlink_to(made.root.parent / "outside" / "secret.txt")
    refused("cannot be read as a file of its own")
    path.unlink()
    os.mkfifo(path)
    refused("is missing from the store")
    path.unlink()
    path.write_bytes(sound)
    (place / "adapter").rename(made.root / "adapter elsewhere")
    (place / "adapter").symlink_to(made.root / "adapter elsewhere")
    refused("is a link")
    (place / "adapter").unlink()
    (made.root / "adapter elsewhere").rename(place / "adapter")
    assert run("artifacts", "1.1.0", "--download", str(tmp_path / "copy")).code == 0


@pytest.mark.parametrize(
    "path",
    ["../../x", "/etc/passwd", "adapter/../../../x", "a\\..\\b", "a\x00b", "%2e%2e/x", "․․/x", "．．／x", "a//b", "", "./x", "a/.", "file:///x", "~/x", "a\nb"],
)  # fmt: skip
def test_case_F7_a_file_of_a_changed_row_leads_nowhere(made: made_versions.Made, tmp_path: Path, path: str) -> None:
    files = [{"path": path, "bytes": len(SECRET), "sha256": digest.of_bytes(SECRET.encode())}]
    with _changed(made, "1.1.0", {"files": files}):
        for words in (["artifacts", "1.1.0"], ["artifacts", "1.1.0", "--download", str(tmp_path / "copy")]):
            answer = run(*words)
            assert answer.code == 3 and "could lead out" in answer.err and answer.err.count("\n") == 1
        assert run("show", "1.1.0").code == 0
    assert list(tmp_path.iterdir()) == []


def test_card_and_verify_take_versions_and_releases(made: made_versions.Made) -> None:
    for number in ("1.1.0", "champion", "support-desk@1.1.0"):
        assert "1.1.0" in run("verify", number).out and run("verify", number).code == 0
    path = store.folder(made.root, "support-desk", "1.1.0") / "receipt" / "decision.json"
    sound = path.read_bytes()
    path.write_bytes(sound.replace(b"pass", b"past", 1))
    try:
        answer = run("verify", "1.1.0")
        assert answer.code == 3 and "decision.json" in answer.err
        assert run("verify", "1.1.0", "--json").json["verified"] is False
    finally:
        path.write_bytes(sound)
    without = run("card", "1.1.0")
    assert without.code == 2 and "README.md" in without.err  # these were made without a card
    with _file(store.folder(made.root, "support-desk", "1.1.0") / "receipt" / "README.md", "# A card\n"):
        from slipway.registry.versions import File

        known = made.find(made_versions.Version.model_construct(model="support-desk", version="1.1.0", state="present"))
        files = [*known.files, File(path="receipt/README.md", bytes=9, sha256=digest.of_bytes(b"# A card\n"))]
        with _changed(made, "1.1.0", {"files": [file.model_dump() for file in files]}):
            assert run("card", "champion").out == "# A card\n"
            assert run("card", "1.1.0", "--json").json["release"] == known.release


@contextlib.contextmanager
def _file(path: Path, text: str) -> Iterator[None]:
    path.write_text(text)
    try:
        yield
    finally:
        path.unlink()


# --- F7: what people and machines may type ------------------------------------------------------------------------------

HOSTILE = [
    "..", "../..", "../outside", "../outside/secret.txt", "../../../../../../etc/passwd", "/etc/passwd", "//etc/passwd",
    "/proc/self/environ", "./../outside/secret.txt", "file:///etc/passwd", "file://localhost/etc/passwd", "file:secret",
    "%2e%2e", "%2e%2e%2foutside", "%2e%2e/outside/secret.txt", "..%2foutside%2fsecret.txt", "%252e%252e", "%252e%252e%252foutside",
    "%c0%ae%c0%ae/outside", "..%00", "..\\outside\\secret.txt", "..\\..\\windows\\win.ini", "C:\\Windows\\win.ini", "C:/x",
    "\\\\server\\share", "support-desk/../../outside", "support-desk/../1.0.0", "support-desk@../outside", "support-desk@%2e%2e",
    "support-desk@1.0.0/..", "../support-desk@1.0.0", "1.0.0/../../outside", "1.0.0/..", "1.0.0%00", "1.0.0\x00", "\x00",
    "1.0.0\n", "a\nb", "1.0.0\r", "\x1b[2J", "\u202e0.0.1", "1.0.0\u200b", "\u2024\u2024/outside", "\uff0e\uff0e\uff0foutside",
    "\u2025/outside", "..\u2215outside", "..\u2044outside", "\u0661.0.0", "link", "link/secret.txt", "link.txt", "./link.txt",
    "~", "~/.ssh/id_rsa", "$HOME", "$(id)", "`id`", "; id", "| id", "s3://bucket/key", "http://127.0.0.1:9/x", "models:/support-desk/1",
    "", " ", ".", "./", "#", "#0", "#-1", "#1e1", "#99999999999999999999", "champion/..", "latest/../..", "A" * 5000, "rows", "bases",
    "CON", "nul", "aux.txt", "*", "?", "[a-z]", "' OR 1=1 --", "%", "_", "\ud800",
]  # fmt: skip
LOOKED_AT: list[str] = []
WATCHING = False


def _watch(event: str, arguments: tuple[Any, ...]) -> None:
    """Every file that this process opens or lists, by Python's own audit hook."""
    if (
        WATCHING
        and event in ("open", "os.listdir", "os.scandir")
        and isinstance(arguments[0], str | bytes | os.PathLike)
    ):
        LOOKED_AT.append(os.fsdecode(arguments[0]))


sys.addaudithook(_watch)
COMMANDS: dict[str, list[str]] = {
    "show": ["show", "{}"],
    "show --model": ["show", "1.0.0", "--model", "{}"],
    "list --model": ["list", "--model", "{}"],
    "list --stage": ["list", "--stage", "{}"],
    "list --sort": ["list", "--sort", "{}"],
    "compare": ["compare", "1.0.0", "{}"],
    "lineage": ["lineage", "{}"],
    "lineage FILE:ROW": ["lineage", "{}:3"],
    "lineage --model": ["lineage", "1.0.0", "--model", "{}"],
    "artifacts": ["artifacts", "{}"],
    "artifacts --download": ["artifacts", "{}", "--download", "never"],
    "card": ["card", "{}"],
    "verify": ["verify", "{}"],
}
# What is no mistake there: a folder that may be verified wherever it lies, and a link to one; the newest version's ways.
SOUND = {"verify": {"..", "../..", "../outside", "./", ".", "link", "~"}}


@pytest.mark.parametrize("command", COMMANDS)
def test_case_F7_no_name_leads_out_of_the_project(made: made_versions.Made, command: str) -> None:
    """81 names in every command: one line that says so, exit 2, and no file outside the project is opened or listed."""
    global WATCHING
    outside = made.root.parent / "outside"
    assert len(HOSTILE) >= 80
    for name in HOSTILE:
        if name in SOUND.get(command, ()):
            continue
        words = [word.replace("{}", name) for word in COMMANDS[command]]
        words = [f"--{word}" if word.startswith("-") and not word.startswith("--") else word for word in words]
        LOOKED_AT.clear()
        WATCHING = True
        try:
            answer = run(*words)
        finally:
            WATCHING = False
        assert answer.code == 2, (command, name, answer)
        assert answer.out == "" and answer.err.startswith("slipway: ") and answer.err.count("\n") == 1, (
            name,
            answer.err,
        )
        assert answer.err.isprintable() or answer.err[:-1].isprintable(), (name, answer.err)
        assert SECRET not in answer.err and len(answer.err) < 700
        odd = [path for path in LOOKED_AT if str(outside) in path or path.startswith(("/etc/passwd", "/proc/self/env"))]
        assert not odd, (command, name, odd)
    assert sorted(path.name for path in outside.iterdir()) == ["secret.txt"] and not (made.root / "never").exists()


@pytest.mark.parametrize(
    "target", ["../x/../y", "link", "dvc.yaml", "configs", "", "a\x00b", "a\nb", "/", "..", "x/.."]
)
def test_case_F7_a_folder_to_download_to_is_empty_and_plain(made: made_versions.Made, target: str) -> None:
    answer = run("artifacts", "1.0.0", "--download", target)
    assert answer.code == 2 and answer.err.count("\n") == 1, answer
    assert not (made.root.parent / "x").exists() and not (made.root.parent / "y").exists()


def test_nothing_is_left_when_a_download_cannot_be_written(
    made: made_versions.Made, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(handle: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(download.os, "fsync", full)
    answer = run("artifacts", "1.0.0", "--download", str(tmp_path / "copy"))
    assert answer.code == 1 and "disk full" in answer.err and list(tmp_path.iterdir()) == []
