"""What is remembered is whole, of this very question, or not believed."""

import json
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from slipway.evaluation import memory
from slipway.evaluation.inference import Question
from slipway.evaluation.memory import Notebook

VALUE = [{"id": "1", "loss": 0.1 + 0.2, "text": "naïve \ud7ff"}, {"id": "2", "loss": 1e-300, "text": ""}]


def question(name: str = "answers", **facts: Any) -> Question:
    return Question(name, {"test": "t"} | facts, lambda model: VALUE)


def notebook(folder: Path, **surroundings: Any) -> Notebook:
    return Notebook(folder, {"packages": {"torch": "2"}} | surroundings)


def _file(folder: Path) -> Path:
    (path,) = (folder / "measured").iterdir()
    return path


def test_what_is_remembered_comes_back_to_the_last_digit(tmp_path: Path) -> None:
    notes = notebook(tmp_path)
    assert notes.recall(question(), "m") is None
    assert notes.remember(question(), "m", [tuple(VALUE)]) == [VALUE]  # as it will be read: no tuples
    assert notebook(tmp_path).recall(question(), "m") == [VALUE]


def test_anything_that_may_move_a_digit_is_another_key(tmp_path: Path) -> None:
    notes = notebook(tmp_path)
    notes.remember(question(), "m", VALUE)
    others = [
        notes.recall(question("safety"), "m"), notes.recall(question(test="u"), "m"), notes.recall(question(more=1), "m"),
        notes.recall(question(), "n"), notebook(tmp_path, code="c").recall(question(), "m"),
        notebook(tmp_path, packages={"torch": "3"}).recall(question(), "m"),
    ]  # fmt: skip
    assert others == [None] * 6
    assert notes.recall(question(), "m") == VALUE


def test_a_file_that_is_not_whole_is_not_believed(tmp_path: Path) -> None:
    notes = notebook(tmp_path)
    notes.remember(question(), "m", VALUE)
    whole = _file(tmp_path).read_bytes()
    for at in range(len(whole)):  # cut anywhere; and every byte flipped
        flipped = whole[:at] + bytes([whole[at] ^ 1]) + whole[at + 1 :]
        for spoilt in (whole[:at], flipped):
            _file(tmp_path).write_bytes(spoilt)
            found = notes.recall(question(), "m")
            assert found is None or found == VALUE, at  # white space may go unnoticed, a value may not
    for text in ("", "{}", "[]", "null", '{"key": 1}', "[" * 9000):
        _file(tmp_path).write_text(text)
        assert notes.recall(question(), "m") is None


def test_another_models_file_under_this_ones_name_is_not_believed(tmp_path: Path) -> None:
    notes = notebook(tmp_path)
    notes.remember(question(), "m", VALUE)
    mine = _file(tmp_path)
    notebook(tmp_path / "other").remember(question(), "n", VALUE)
    mine.write_bytes(_file(tmp_path / "other").read_bytes())
    assert notes.recall(question(), "m") is None


def test_a_nan_is_not_remembered(tmp_path: Path) -> None:
    notes = notebook(tmp_path)
    assert str(notes.remember(question(), "m", [float("nan")])) == "[nan]"
    assert notes.recall(question(), "m") is None


def test_only_what_is_unknown_is_asked(tmp_path: Path) -> None:
    notes, asked, loaded = notebook(tmp_path), [], []

    def ask(name: str) -> Question:
        def answer(model: Any) -> str:
            asked.append((model.name, name))
            return f"{name} of {model.name}"

        return Question(name, {}, answer)

    def load(names: list[str]) -> Iterator[Any]:
        loaded.append(names)
        yield from (SimpleNamespace(name=name, identity=name) for name in names)

    questions, who = [ask("answers"), ask("safety")], {"base": "base", "tuned": "tuned"}
    notes.remember(questions[0], "base", "known")
    found = notes.gather(questions, who, load)
    assert found["base"] == {"answers": "known", "safety": "safety of base"}
    assert asked == [("base", "safety"), ("tuned", "answers"), ("tuned", "safety")]
    assert notes.gather(questions, who, load) == found
    assert loaded == [["base", "tuned"], []]
    assert len(asked) == 3


def test_surroundings_name_packages_hardware_and_code_and_no_paths() -> None:
    found = memory.surroundings()
    assert set(found) == {"packages", "hardware", "code"}
    assert {"torch", "transformers", "tokenizers", "peft", "lm-eval"} <= set(found["packages"])
    assert found["packages"]["torch"] != "none"
    assert str(Path.home()) not in json.dumps(found)
    assert "/" not in json.dumps(found)


def test_case_E4_looks_count_candidates_by_test_set(tmp_path: Path) -> None:
    assert memory.looks(tmp_path, "a" * 64) == 0
    for identity in ("1" * 64, "2" * 64, "1" * 64):
        memory.look(tmp_path, "a" * 64, identity)
    memory.look(tmp_path, "b" * 64, "1" * 64)
    assert (memory.looks(tmp_path, "a" * 64), memory.looks(tmp_path, "b" * 64)) == (2, 1)
    (tmp_path / "looks" / ("a" * 64) / ".half.partial").write_text("")  # of a writer that was killed
    assert memory.looks(tmp_path, "a" * 64) == 2


@pytest.mark.parametrize("name", ["data", "evaluation"])
def test_an_edit_to_the_code_that_asks_is_another_key(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for folder in ("data", "evaluation"):
        (tmp_path / "slipway" / folder).mkdir(parents=True)
        (tmp_path / "slipway" / folder / "one.py").write_text("a = 1")
    monkeypatch.setattr(memory, "__file__", str(tmp_path / "slipway" / "evaluation" / "memory.py"))
    before = memory.surroundings()["code"]
    (tmp_path / "slipway" / name / "one.py").write_text("a = 2")
    assert memory.surroundings()["code"] != before
