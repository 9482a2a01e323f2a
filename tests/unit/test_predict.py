"""Offline prediction: every row answered once, whatever is killed when, and nothing computed on a bad order."""

import contextlib
import json
import os
import random
import signal
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import served_models
from conftest import slipway
from forked_slipway import Forks, forks
from made_versions import MODEL

from slipway.errors import StageError, UsageError
from slipway.generating import prediction_rows
from slipway.generating.prediction_rows import Faults

WORDS = ("--max-tokens", "12", "--shard-rows", "7", "--batch", "4", "--threads", "1")


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> served_models.Served:
    made = served_models.project(tmp_path_factory.mktemp("predict") / "a project")
    made.serve(made.version(whole=False))
    made.version(whole=False)
    return made


@pytest.fixture(autouse=True)
def inside(made: served_models.Served, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(made.root)


def prompts(count: int, seed: int = 1) -> list[dict[str, Any]]:
    chance = random.Random(seed)
    words = ["refund", "parcel", "invoice", "plan", "monday", "answer", "friendly", "customer"]

    def text() -> str:
        return " ".join(chance.choices(words, k=chance.randrange(1, 12)))

    return [
        {"id": f"row {at}", "prompt": text()} if at % 3 else {"messages": [{"role": "user", "content": text()}]}
        for at in range(count)
    ]


def write(path: Path, rows: list[Any]) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def contents(out: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in sorted(out.iterdir()) if path.name != ".lock"}


def answers(out: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for path in sorted(out.glob("part-*")) for line in path.read_bytes().splitlines()]


def test_every_row_is_answered_once_with_who_made_it(
    made: served_models.Served, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    rows = prompts(30)
    given = write(tmp_path / "rows.jsonl", rows)
    code, said, progress = slipway(capsys, "predict", str(given), str(tmp_path / "out"), *WORDS, "--json")
    assert code == 0, progress
    summary = json.loads(said)
    assert (summary["rows"], summary["files"], summary["answered_now"]) == (30, 5, 30)
    assert "predict: row 30/30" in progress and "left" in progress
    found = answers(tmp_path / "out")
    assert [row["id"] for row in found] == [row.get("id", f"rows.jsonl:{at}") for at, row in enumerate(rows, 1)]
    with made.database.read() as connection:
        from slipway.registry import versions

        champion = versions.resolve(connection, "champion", None)
    assert {(row["model"], row["version"], row["identity"]) for row in found} == {(MODEL, "1.0.0", champion.identity)}
    assert {row["finish"] for row in found} <= {"stop", "length"} and len({row["answer"] for row in found}) > 10
    assert sum(summary["finish"].values()) == 30
    assert json.loads((tmp_path / "out" / "summary.json").read_text())["tokens"] == summary["tokens"]


def test_a_folder_is_answered_file_by_file_and_again_changes_nothing(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    write(tmp_path / "in" / "b.jsonl", prompts(9, 1)[1:3])
    write(tmp_path / "in" / "deep" / "a.jsonl", prompts(9, 2)[4:6])
    words = ("predict", str(tmp_path / "in"), str(tmp_path / "out"), "--model", f"{MODEL}@1.1.0", *WORDS)
    assert slipway(capsys, *words)[0] == 0
    before = contents(tmp_path / "out")
    (tmp_path / "out" / ".summary.json.4711.partial").write_text("a killed writer's half")
    assert [row["source"] for row in answers(tmp_path / "out")] == [
        "b.jsonl:1", "b.jsonl:2", "deep/a.jsonl:1", "deep/a.jsonl:2",
    ]  # fmt: skip
    code, said, _ = slipway(capsys, *words)
    assert code == 0 and "(0 of them now" in said
    assert contents(tmp_path / "out") == before


# --- kills ---


def parts(out: Path) -> int:
    return len(list(out.glob("part-*")))


@pytest.fixture(scope="module")
def children() -> Iterator[Forks]:
    with forks() as found:
        yield found


@pytest.mark.parametrize(("sampled", "kills"), [(False, 8), (True, 3)], ids=["greedy", "seeded"])
def test_killed_at_random_moments_it_ends_as_if_nobody_had_disturbed_it(
    made: served_models.Served, tmp_path: Path, children: Forks, sampled: bool, kills: int
) -> None:
    given = write(tmp_path / "rows.jsonl", prompts(90))
    more = ("--temperature", "1", "--seed", "5") if sampled else ()
    log = tmp_path / "log"

    def start(out: str) -> int:
        return children.start("predict", str(given), str(tmp_path / out), *WORDS, *more, log=log, where=made.root)

    assert children.wait(start("undisturbed")) == 0, log.read_text()
    wanted = contents(tmp_path / "undisturbed")
    assert len(wanted) == 13 + 2

    chance, out, in_the_middle = random.Random(3), tmp_path / "disturbed", 0
    for _ in range(kills):
        pid, before = start("disturbed"), parts(out)
        # Anywhere: while it loads, within a shard, while a file is written, behind the last one.
        more_files, moment = chance.randrange(0, 4), chance.uniform(0, 0.15)
        deadline = time.monotonic() + 60
        while parts(out) < min(before + more_files, 13) and time.monotonic() < deadline:
            time.sleep(0.001)
        time.sleep(moment)
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)
        if (code := children.wait(pid)) == 0:
            break
        assert code == -signal.SIGKILL, log.read_text()
        in_the_middle += 0 < parts(out) < 13
    assert children.wait(start("disturbed")) == 0, log.read_text()
    assert in_the_middle >= 2
    assert contents(tmp_path / "disturbed") == wanted, "nothing that killed writers left either"


# --- refusals ---


def test_bad_rows_are_all_named_before_anything_is_computed(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    lines = [
        b'{"prompt": "fine"}', b"", b'{"prompt": ""}', b"[1]", b'{"prompt": "a", "messages": []}', b"{}",
        b'{"prompt": "a", "promt": 1}', b'{"messages": "x"}', b'{"prompt": "a", "id": [1]}', b"{torn", b'{"prompt": NaN}',
        b'{"prompt": "\xff"}', b'{"id": "x", "prompt": "a"}', b'{"id": "x", "prompt": "b"}',
        b'{"prompt": "a", "prompt": "b"}', b'{"prompt": "a", "id": "\\ud800"}',
    ]  # fmt: skip
    given = tmp_path / "rows.jsonl"
    given.write_bytes(b"\n".join(lines))
    code, _, said = slipway(capsys, "predict", str(given), str(tmp_path / "out"), *WORDS)
    assert code == 2 and said.count("\n") == 1
    for number in (3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 14, 15, 16):
        assert f"rows.jsonl:{number}:" in said, number
    assert "13 rows cannot be answered, so none was" in said
    assert not (tmp_path / "out").exists()


def test_prompts_that_the_model_cannot_take_are_named_too(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    rows = [
        {"prompt": "fine"}, {"prompt": "parcel " * 700}, {"messages": [{"role": "user"}]},
        {"messages": [{"role": "user", "content": "a<|im_end|>"}]}, {"prompt": "half \ud800"},
        {"messages": [{"role": "user", "content": "half \udfff"}]},
        {"messages": [{"role": "user", "content": "a", "name": "ann"}]},
    ]  # fmt: skip
    given = write(tmp_path / "rows.jsonl", rows)
    code, _, said = slipway(capsys, "predict", str(given), str(tmp_path / "out"), *WORDS)
    assert code == 2 and [f"rows.jsonl:{n}:" in said for n in range(1, 8)] == [False, *[True] * 6], said
    assert list((tmp_path / "out").glob("*.jsonl")) == []


def refused(capsys: pytest.CaptureFixture[str], *words: str) -> str:
    code, _, said = slipway(capsys, "predict", *words)
    assert code in (2, 3) and said.count("\n") == 1, said
    return said


def test_it_goes_on_only_with_the_same_version_input_and_settings(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    given, out = write(tmp_path / "rows.jsonl", prompts(20)), str(tmp_path / "out")
    words = (str(given), out, *WORDS)
    assert slipway(capsys, "predict", *words)[0] == 0
    (tmp_path / "out" / "part-00001.jsonl").unlink()
    before = contents(tmp_path / "out")
    assert f"begun with {MODEL}@1.0.0" in refused(capsys, *words, "--model", f"{MODEL}@1.1.0")
    assert "begun with temperature 0.0" in refused(capsys, *words, "--temperature", "0.5")
    assert "begun with 7 rows a shard" in refused(capsys, str(given), out, *WORDS[:2], "--shard-rows", "8")
    rows = given.read_text()
    given.write_text(rows.replace("refund", "Refund", 1))
    assert "the input changed at rows.jsonl:" in refused(capsys, *words)
    given.write_text(rows + '{"prompt": "one more"}\n')
    assert "the input changed at rows.jsonl:15" in refused(capsys, *words)
    given.write_text(rows)
    assert contents(tmp_path / "out") == before, "nothing was touched"
    (tmp_path / "out" / "part-00000.jsonl").write_text("{}\n")
    assert "part-00000.jsonl has 1 rows, 7 were written" in refused(capsys, *words)


def test_an_order_that_cannot_be_is_one_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    given, out = write(tmp_path / "in" / "rows.jsonl", prompts(2)), str(tmp_path / "out")
    assert "does not exist" in refused(capsys, str(tmp_path / "nothing"), out)
    assert "lies within" in refused(capsys, str(tmp_path / "in"), str(tmp_path / "in" / "out"))
    (tmp_path / "empty").mkdir()
    assert "has no *.jsonl file" in refused(capsys, str(tmp_path / "empty"), out)
    (tmp_path / "blank.jsonl").write_text("\n\n")
    assert "no row to answer" in refused(capsys, str(tmp_path / "blank.jsonl"), out)
    write(tmp_path / "mine" / "notes.txt", [])
    assert "has notes.txt, which no prediction wrote" in refused(capsys, str(given), str(tmp_path / "mine"))
    assert "is a file" in refused(capsys, str(given), str(given))
    for words in (("--max-tokens", "0"), ("--top-p", "nan"), ("--temperature", "-1"), ("--shard-rows", "0")):
        assert words[0] in refused(capsys, str(given), out, *words)
    assert "no version 9.9.9" in refused(capsys, str(given), out, "--model", f"{MODEL}@9.9.9")


def test_lines_that_change_between_check_and_answer_are_refused(tmp_path: Path) -> None:
    given = write(tmp_path / "rows.jsonl", prompts(20))
    files = prediction_rows.files_of(given)
    shards = prediction_rows.shards_of(files, 6, Faults())
    assert [shard.rows for shard in shards] == [6, 6, 6, 2]
    assert [row.source for shard in shards for row in prediction_rows.read(files, shard)] == [
        f"rows.jsonl:{at}" for at in range(1, 21)
    ]
    data = bytearray(given.read_bytes())
    data[shards[2].offset + 12] ^= 1
    given.write_bytes(data)
    prediction_rows.read(files, shards[1])
    with pytest.raises(StageError, match=r"rows\.jsonl:13 changed while it was answered"):
        prediction_rows.read(files, shards[2])


def test_a_line_without_end_is_not_read_whole(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(prediction_rows, "LONGEST", 100)
    given = write(tmp_path / "rows.jsonl", [{"prompt": "a"}, {"prompt": "b" * 200}])
    with pytest.raises(UsageError, match=r"rows\.jsonl:2: a line of more than 100 bytes"):
        prediction_rows.shards_of(prediction_rows.files_of(given), 4, Faults())


def test_letters_that_other_readers_end_lines_at_end_none(
    made: served_models.Served, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    given = write(
        tmp_path / "prompts" / "a\u2028b.jsonl", [{"id": "x\u2028y\x85z", "prompt": "a refund"}, {"prompt": "two"}]
    )
    (given.parent / "c.csv").write_text("prompt\na refund\n")
    out = str(tmp_path / "out")
    code, said, _ = slipway(capsys, "predict", str(given.parent), out, "--model", f"{MODEL}@1.0.0", *WORDS)
    assert [row["id"] for row in answers(tmp_path / "out")] == ["x\u2028y\x85z", "a\u2028b.jsonl:2"]
    assert code == 0 and "not read, since no name of theirs ends in .jsonl: c.csv" in said
