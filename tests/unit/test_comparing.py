"""What is marked as the best of several versions: only what was measured on the same rows, against the same model."""

from typing import Any

from slipway.registry.comparing import Line, Subject, compare
from slipway.report.compare_picture import _panels

METRICS = {
    "tuned.exact_match": 0.9,
    "delta.champion.exact_match": 0.03,
    "delta.base.exact_match": 0.9,
    "slices.worst": 0.0,
}


def subject(version: str, parent: str | None, base: str = "b" * 64, **more: float) -> Subject:
    about: dict[str, Any] = {
        "metrics": METRICS | more,
        "parent": parent,
        "base_digest": base,
        "params": {},
        "seconds": {},
        "bytes": 1,
    }
    return Subject("desk", version, about, test="rows")


def lines(*subjects: Subject) -> tuple[dict[str, Line], list[str]]:
    sheet = compare(subjects, ["metrics"])
    return {line.name: line for line in sheet.parts["metrics"]}, sheet.warnings


def test_a_change_from_another_champion_is_never_the_best() -> None:
    first = subject("1.0.0", None, **{"delta.champion.exact_match": 0.968, "slices.worst": 0.8})
    second = subject("1.0.1", "1.0.0", **{"tuned.exact_match": 0.99})
    found, warnings = lines(first, second)
    assert found["tuned.exact_match"].best == {1}
    assert not found["delta.champion.exact_match"].best and not found["slices.worst"].best
    assert warnings == [
        "changes from the champion are from the champion of each one's day (1.0.0 from the base, 1.0.1 from 1.0.0), so none is marked as the best"
    ]
    pictured = [line.name for line in _panels(compare([first, second], ["metrics"]))]
    assert pictured == ["tuned.exact_match"]


def test_changes_from_the_same_champion_compare() -> None:
    found, warnings = lines(
        subject("1.0.1", "1.0.0"), subject("1.0.2", "1.0.0", **{"delta.champion.exact_match": 0.05})
    )
    assert found["delta.champion.exact_match"].best == {1} and not warnings


def test_changes_from_another_base_do_not() -> None:
    found, _ = lines(subject("1.0.1", "1.0.0"), subject("2.0.0", "1.0.0", "c" * 64, **{"delta.base.exact_match": 0.95}))
    assert not found["delta.base.exact_match"].best
