"""Who learned from a row: the index says what `prepare` did, of every row, and never guesses."""

import json
from pathlib import Path

import pytest
from data_folders import base_folder, chat, raw_folder, tickets
from many_versions import data_digest, index, prepared, row_id
from pyarrow import parquet

from slipway import params
from slipway.data import rows
from slipway.data.formats import Record
from slipway.errors import UsageError
from slipway.registry import learned, lineage
from tasks.prepare import prepare

ROOT = Path(__file__).parents[2]
DATA = "d" * 64
PRIVATE = chat("Write to me:  ada@example.org\r\nor call +49 170 1234567. ", "We will write to ada@example.org.  ")


@pytest.fixture(autouse=True)
def project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """As much of a project as has a state folder."""
    monkeypatch.setenv("SLIPWAY_STATE", str(tmp_path / "state"))
    (tmp_path / "configs" / "env").mkdir(parents=True)
    (tmp_path / "configs" / "env" / "local.yaml").write_text((ROOT / "configs" / "env" / "local.yaml").read_text())
    return tmp_path


def some(folder: Path) -> Path:
    found = {"train": [("00" * 8, "a.jsonl", 1), ("ff" * 8, "b.jsonl", 2**40)], "test": [("0f" * 8, "a.jsonl", 9)]}
    prepared(folder, found)
    return folder


def test_every_row_of_a_real_prepare_is_found_and_no_other(project: Path) -> None:
    raw, base = (
        raw_folder(project / "raw", [*tickets(200), PRIVATE], tickets(20, seed=5)),
        base_folder(project / "base"),
    )
    given = params.load_all(ROOT / "params.yaml").prepare
    prepare(given, raw, base, project / "prepared")
    learned.keep(project, DATA, project / "prepared")
    counted = dict.fromkeys(learned.SPLITS, 0)
    for split in learned.SPLITS:
        for row in parquet.read_table(project / "prepared" / "rows" / f"{split}.parquet").to_pylist():
            (found,) = learned.of_row(project, DATA, row["id"])
            assert (found.split, found.file, found.row) == (split, row["source_file"], row["source_row"])
            assert learned.of_place(project, DATA, found.file, found.row) == [found]
            counted[split] += 1
    about = learned.describe(project, DATA)
    assert about is not None and about.rows == counted and counted["train"] > 100 and counted["test"] > 10
    for stranger in tickets(50, seed=99):
        id = lineage.prepared_id(_row(stranger), given.redact)
        assert bool(learned.of_row(project, DATA, id)) == (id in _ids(project)), stranger
    # The raw row, as the person who asks for erasure has it: cleaned and redacted, its digest is the prepared one.
    assert learned.of_row(project, DATA, lineage.prepared_id(_row(PRIVATE), given.redact))
    assert not learned.of_row(project, DATA, lineage.prepared_id(_row(PRIVATE), []))


def _row(value: object) -> rows.Row:
    found = rows.of_record("given", Record(1, "", value))
    assert isinstance(found, rows.Row)
    return found


def _ids(project: Path) -> set[str]:
    names = (project / "prepared" / "rows" / f"{split}.parquet" for split in learned.SPLITS)
    return {row["id"] for name in names for row in parquet.read_table(name, columns=["id"]).to_pylist()}


def test_the_edges_of_an_index(project: Path) -> None:
    learned.keep(project, DATA, some(project / "prepared"))
    assert [one.row for one in learned.of_row(project, DATA, "00" * 8)] == [1]
    assert [(one.file, one.row) for one in learned.of_row(project, DATA, "ff" * 8)] == [("b.jsonl", 2**40)]
    assert [one.split for one in learned.of_row(project, DATA, "0f" * 32)] == ["test"]  # the whole SHA-256 of a row
    assert learned.of_row(project, DATA, "80" * 8) == [] == learned.of_place(project, DATA, "a.jsonl", 2)
    assert learned.of_place(project, DATA, "no.jsonl", 1) == [] == learned.of_place(project, DATA, "a.jsonl", 2**70)
    place = learned.folder(project, DATA)
    assert sorted(path.name for path in place.iterdir()) == ["rows.bin", "rows.json"]
    assert (place / "rows.bin").stat().st_size == 3 * 19


def test_one_row_may_stand_in_several_places(project: Path) -> None:
    twice = {"train": [("ab" * 8, "a.jsonl", 1)], "test": [("ab" * 8, "t.jsonl", 5)]}
    prepared(project / "prepared", twice)
    learned.keep(project, DATA, project / "prepared")
    assert [(one.split, one.row) for one in learned.of_row(project, DATA, "ab" * 8)] == [("train", 1), ("test", 5)]


def test_an_index_is_kept_once_and_whole(project: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = some(project / "prepared")
    real = learned.Rows.save
    monkeypatch.setattr(learned.Rows, "save", lambda *_: (_ for _ in ()).throw(OSError(28, "No space left on device")))
    with pytest.raises(OSError, match="No space"):
        learned.keep(project, DATA, folder)
    assert list(learned.folder(project, DATA).parent.iterdir()) == []
    monkeypatch.setattr(learned.Rows, "save", real)
    learned.keep(project, DATA, folder)
    before = (learned.folder(project, DATA) / "rows.bin").stat().st_mtime_ns
    learned.keep(project, DATA, folder)
    assert (learned.folder(project, DATA) / "rows.bin").stat().st_mtime_ns == before


def test_a_changed_index_never_says_nobody(project: Path) -> None:
    """Every bit of it, one after the other; and each file missing."""
    learned.keep(project, DATA, some(project / "prepared"))
    path = learned.folder(project, DATA) / "rows.bin"
    sound, tried = path.read_bytes(), 0
    for place in range(len(sound)):
        for bit in range(8):
            path.write_bytes(sound[:place] + bytes([sound[place] ^ 1 << bit]) + sound[place + 1 :])
            with pytest.raises(learned.Unreadable, match="changed"):
                learned.of_row(project, DATA, "00" * 8)
            tried += 1
    for cut in range(0, len(sound), 19):
        path.write_bytes(sound[:cut])
        assert learned.problem(project, DATA) is not None
    assert tried == 8 * 57
    path.write_bytes(sound)
    assert learned.problem(project, DATA) is None
    for name in ("rows.bin", "rows.json"):
        kept = path.with_name(name).rename(project / name)
        with pytest.raises(learned.Unreadable, match="cannot be read"):
            learned.of_place(project, DATA, "a.jsonl", 1)
        kept.rename(path.with_name(name))
    with pytest.raises(learned.Unreadable, match="no index"):
        learned.of_row(project, "e" * 64, "00" * 8)
    for odd in ("../" + "d" * 61, "", "d" * 63, "D" * 64):
        assert learned.problem(project, odd) is not None


def test_an_index_of_another_data_set_is_refused(project: Path) -> None:
    learned.keep(project, DATA, some(project / "prepared"))
    learned.folder(project, DATA).rename(learned.folder(project, "e" * 64))
    with pytest.raises(learned.Unreadable, match="is about the data d"):
        learned.of_row(project, "e" * 64, "00" * 8)


def test_many_data_sets_keep_apart(project: Path) -> None:
    index(project, project / "made", rows=50, sets=4)
    for number in range(4):
        assert [one.row for one in learned.of_row(project, data_digest(number), row_id(number, 7))] == [8]
        assert not learned.of_row(project, data_digest((number + 1) % 4), row_id(number, 7))


@pytest.mark.parametrize(
    ("data", "said"),
    [
        (b"", "no JSON"),
        (b"not json at all", "row 1 is no JSON"),
        (b'{"prompt": "a", "completion": "b"}\n{broken', "row 2 is no JSON"),
        (b"[1]", "not an object"),
        (b"3", "not an object"),
        (b'{"other": 1}', "missing_field"),
        (b'{"messages": []}', "missing_field"),
        (b'{"prompt": "=HYPERLINK(\\"x\\")", "completion": "b"}', "formula"),
        (b"\xff\xfe", "not UTF-8"),
        (b"[" * 100_000, "no JSON"),
    ],
)
def test_rows_that_are_none_are_refused_without_repeating_them(data: bytes, said: str) -> None:
    with pytest.raises(UsageError, match=said) as refused:
        list(lineage._parsed(data))
    assert len(str(refused.value)) < 300 and "HYPERLINK" not in str(refused.value)


def test_rows_are_read_alone_as_lines_or_as_a_list() -> None:
    one, two = chat("Hello", "Hi"), {"prompt": "Hello", "completion": "Hi"}
    texts = [json.dumps(one, indent=2), json.dumps([one, two]), f"{json.dumps(one)}\n\n{json.dumps(two)}\n"]
    assert [len(list(lineage._parsed(text.encode()))) for text in texts] == [1, 2, 2]
    assert len({row.id for text in texts for row in lineage._parsed(text.encode())}) == 1
