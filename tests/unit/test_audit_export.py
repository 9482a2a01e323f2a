"""An exported ledger: anybody can verify it without the database, and not one byte of it can be changed."""

import random
import sys
from pathlib import Path

import made_ledger
import pytest
from made_ledger import Story

from slipway.ledger import clock, exports
from slipway.ledger.database import Database
from slipway.registry import keys


class Exported:
    """A ledger of two releases, and its export."""

    def __init__(self, root: Path, database: Database, releases: int = 2) -> None:
        self.root, self.database, self.file = root, database, root / "ledger.jsonl"
        self.story = Story(root, database)
        self.story.tell(releases)
        self.trust = keys.load(keys.folder(root) / keys.FILE)

    def write(self, since: str | None = None, with_texts: bool = True) -> bytes:
        with self.database.read() as connection, self.file.open("wb") as stream:
            exports.write(self.root, connection, stream, since, with_texts)
        return self.file.read_bytes()

    def problems(self, data: bytes) -> list[tuple[int | None, str]]:
        return exports.check(data, self.trust).problems


@pytest.fixture
def exported(tmp_path: Path, ledger: Database, monkeypatch: pytest.MonkeyPatch) -> Exported:
    monkeypatch.setenv("SLIPWAY_LEDGER_URL", ledger.url)
    return Exported(made_ledger.project(tmp_path / "project"), ledger)


@pytest.fixture(scope="module")
def once(tmp_path_factory: pytest.TempPathFactory) -> Exported:
    root = made_ledger.project(tmp_path_factory.mktemp("export") / "project")
    return Exported(root, Database.of(root), releases=1)


def test_it_verifies_anywhere_with_the_trust_file_alone(exported: Exported) -> None:
    exported.write()
    found = exports.verify(exported.file, exported.trust)
    assert (found.problems, found.notes, found.events) == ([], [], 20)
    assert found.texts >= 4, "two people, and what they said"


def test_sealed_it_holds_nobodys_name(exported: Exported) -> None:
    assert b"Ada Lovelace" in exported.write()
    data = exported.write(with_texts=False)
    assert b"Ada Lovelace" not in data and b"I read the report" not in data
    assert exported.problems(data) == []


def test_from_a_moment_on_it_is_a_run_of_the_chain(exported: Exported) -> None:
    between = clock.read().text
    exported.story.tell(1)
    data = exported.write(since=between)
    found = exports.check(data, exported.trust)
    assert (found.problems, found.events) == ([], 10)
    assert found.notes == ["the file begins with event 21; what was before is not in it"]
    assert exported.write(since="2099-01-01T00:00:00.000000Z").count(b"\n") == 1, "nothing but the end"
    assert exported.problems(exported.file.read_bytes()) == []


def test_whom_nobody_trusts_vouches_for_nothing(exported: Exported) -> None:
    data = exported.write()
    assert "which nobody here trusts" in exports.check(data, keys.Trust()).problems[0][1]
    keys.revoke(exported.root, exported.trust.signing or "", "it leaked")
    revoked = keys.load(keys.folder(exported.root) / keys.FILE)
    assert "was revoked" in exports.check(data, revoked).problems[0][1]


@pytest.mark.parametrize("cut", [1, 2, 200, 5_000])
def test_a_file_that_was_cut_is_told(exported: Exported, cut: int) -> None:
    assert exported.problems(exported.write()[:-cut]) != []


def test_lines_of_two_exports_do_not_mix(exported: Exported) -> None:
    first = exported.write()
    exported.story.tell(1)
    second = exported.write()
    lines, end = second.splitlines(keepends=True), first.splitlines(keepends=True)[-1]
    assert exported.problems(b"".join(lines[:-1]) + end) != []
    assert exported.problems(b"".join(lines[:10] + lines[11:])) != []
    assert exported.problems(b"".join([*lines[:10], lines[11], lines[10], *lines[12:]])) != []
    assert exported.problems(second + second) != []


@pytest.mark.parametrize("data", [b"", b"\n", b"{}\n", b"null\n", b"\xff\xfe\n", b'{"end":{},"signature":""}\n'])
def test_something_else_is_no_export(once: Exported, data: bytes) -> None:
    assert once.problems(data) != []


@pytest.mark.parametrize(
    ("before", "after"),
    [(b'{"end":', b'{ "end":'), (b'"events":', b'"events": '), (b'"signature":"30', b'"signature":"\\u00330')],
)
def test_the_end_has_one_form_only(once: Exported, before: bytes, after: bytes) -> None:
    whole = once.write()
    body, _, end = whole[:-1].rpartition(b"\n")
    assert before in end
    assert once.problems(body + b"\n" + end.replace(before, after) + b"\n") != []


def mutations(once: Exported, trials: int, seed: int) -> None:
    draw, whole = random.Random(seed), once.write()
    assert once.problems(whole) == []
    missed = []
    for trial in range(trials):
        data = bytearray(whole)
        where = draw.randrange(len(data))
        data[where] ^= draw.randrange(1, 256)
        if not once.problems(bytes(data)):
            missed.append((trial, where))
    assert missed == [], f"{len(missed)} of {trials} mutations were not noticed (seed {seed}): {missed[:5]}"


def test_10_000_random_bytes_changed_and_none_missed(once: Exported) -> None:
    mutations(once, 10_000, seed=4)


@pytest.mark.chaos
def test_case_H1_100_000_random_bytes_changed_and_none_missed(once: Exported) -> None:
    mutations(once, 100_000, seed=44)
    print("100,000 mutations, 0 missed", file=sys.stderr)
