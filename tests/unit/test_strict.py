"""Configuration and JSON from anywhere: one clear line for each fault, in time that grows with the file and no faster."""

import json
import os
import time
from pathlib import Path

import pytest

from slipway import strict
from slipway.errors import StageError, UsageError

SECONDS = 5.0  # of processor time; what is quadratic takes minutes


def refused(path: Path, data: bytes | str) -> str:
    path.write_bytes(data if isinstance(data, bytes) else data.encode())
    start = time.process_time()
    with pytest.raises(UsageError) as error:
        strict.read_yaml(path)
    assert time.process_time() - start < SECONDS
    assert "\n" not in str(error.value)
    return str(error.value)


def test_a_hundred_thousand_keys_are_looked_at_once() -> None:
    pairs = [f'"{n}": {n}' for n in range(100_000)]
    start = time.process_time()
    assert len(strict.loads_json("{" + ", ".join(pairs) + "}")) == 100_000
    with pytest.raises(ValueError, match="the key '99999' stands twice"):
        strict.loads_json("{" + ", ".join([*pairs, pairs[-1]]) + "}")
    assert time.process_time() - start < SECONDS


def test_a_hundred_thousand_keys_of_yaml_are_looked_at_once(tmp_path: Path) -> None:
    lines = "".join(f"k{n}: 1\n" for n in range(80_000))
    assert "the key 'k79999' stands twice" in refused(tmp_path / "a.yaml", lines + "k79999: 1\n")


@pytest.mark.parametrize("digits", [301, 4_000, 5_000, 900_000])
def test_a_number_without_end_is_one_clear_line(tmp_path: Path, digits: int) -> None:
    path = tmp_path / "a.yaml"
    assert f"a.yaml:2: a number of {digits:,} digits" in refused(path, "a: 1\nb: " + "9" * digits)
    refused(path, "a: 1\n" + "9" * digits + ": b")
    start = time.process_time()
    with pytest.raises(ValueError, match=f"a number of {digits:,} digits"):
        strict.loads_json('{"a": ' + "9" * digits + "}")
    path.write_text('{"a": ' + "9" * digits + "}")
    with pytest.raises(StageError, match="not a valid artifact: a number of"):
        strict.read_json(path)
    assert time.process_time() - start < SECONDS


def test_numbers_of_sixty_are_no_way_round(tmp_path: Path) -> None:
    """YAML reads `1:30` as 90; long ones are slow, or larger than any float."""
    refused(tmp_path / "a.yaml", "a: 1" + ":00" * 300_000)
    refused(tmp_path / "a.yaml", "a: 1" + ":00" * 200 + ".5")
    refused(tmp_path / "a.yaml", "a: 0x" + "f" * 900_000)


def test_numbers_that_people_write_pass(tmp_path: Path) -> None:
    (tmp_path / "a.yaml").write_text(f"a: {10**30}\nb: 1.5e-5\nc: 0x1F\nd: {'9' * 300}\ne: '{'9' * 5000}'\n")
    found = strict.read_yaml(tmp_path / "a.yaml")
    assert found["a"] == 10**30 and found["c"] == 31 and found["e"] == "9" * 5000
    assert strict.loads_json(json.dumps({"a": 10**30, "b": -5})) == {"a": 10**30, "b": -5}


def test_what_cannot_be_read_is_one_clear_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    os.mkfifo(tmp_path / "pipe.yaml")
    (tmp_path / "loop.yaml").symlink_to("loop.yaml")
    (tmp_path / "plain").write_text("x")
    places = ["pipe.yaml", "loop.yaml", "x" * 300 + ".yaml", "plain/below.yaml", "a\0b.yaml", "/dev/zero"]
    for place in places:
        with pytest.raises(UsageError, match=r"pipe or a device|cannot be read"):
            strict.read_yaml(tmp_path / place)
    for place in places[1:4]:
        with pytest.raises(StageError, match="cannot be read"):
            strict.read_json(tmp_path / place)

    def forbidden(*_: object, **__: object) -> None:
        raise PermissionError(13, "Permission denied")

    (tmp_path / "mine.yaml").write_text("a: 1\n")
    monkeypatch.setattr(Path, "open", forbidden)
    with pytest.raises(UsageError, match=r"mine\.yaml cannot be read \(Permission denied\)"):
        strict.read_yaml(tmp_path / "mine.yaml")


def test_a_character_that_yaml_has_not_is_one_clear_line(tmp_path: Path) -> None:
    assert "not valid YAML" in refused(tmp_path / "a.yaml", "a: \x00\n")
    assert "a.yaml" in refused(tmp_path / "a.yaml", "a: \x80\n")
