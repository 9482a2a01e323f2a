"""Version numbers: a pure function of what changed and what is taken."""

import re
from dataclasses import replace
from datetime import UTC, datetime, timedelta, timezone
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from slipway.errors import Refused, UsageError
from slipway.registry import numbering, versions
from slipway.registry.numbering import Known, Made, Strategy

NOON = datetime(2026, 11, 21, 14, 32, tzinfo=UTC)
LORA = {"rank": 16, "alpha": 32, "dropout": 0.0, "target_modules": "all-linear"}
TRAINING: dict[str, Any] = {"method": "lora", "lora": LORA, "learning_rate": 0.006, "epochs": 1.5, "seed": 7}
PARTS = {"base": "b", "tokenizer": "t", "chat_template": "c", "generation": "g", "quantisation": "q", "adapter": "a"}
FIRST = Made(PARTS, "data", TRAINING)


def number(made: Made = FIRST, taken: tuple[str, ...] = (), stated: str | None = None, strategy: Strategy = "semantic", newest: Made | None = FIRST, now: datetime = NOON) -> str:  # fmt: skip
    known = Known(taken, len(taken) + 1, newest if taken else None)
    return numbering.number(strategy, made, known, stated, now)


def trained(**changes: Any) -> Made:
    return replace(FIRST, training=TRAINING | changes)


@pytest.mark.parametrize(
    ("made", "expected"),
    [
        *((replace(FIRST, parts=PARTS | {part: "new"}), "2.0.0") for part in PARTS if part != "adapter"),
        (replace(FIRST, data="new"), "1.3.0"),
        (trained(method="full"), "1.3.0"),
        (trained(lora=LORA | {"rank": 8}), "1.3.0"),
        (trained(learning_rate=0.001), "1.3.0"),
        (replace(FIRST, parts=PARTS | {"adapter": "new"}), "1.2.4"),
        (trained(seed=8), "1.2.4"),
        (trained(epochs=3.0), "1.2.4"),
        (replace(trained(seed=8), parts=PARTS | {"base": "new"}, data="new"), "2.0.0"),
    ],
)
def test_what_changed_decides_which_number_rises(made: Made, expected: str) -> None:
    assert number(made, ("1.0.0", "1.2.3")) == expected


def test_the_shape_of_an_adapter_says_nothing_of_a_full_tuning() -> None:
    newest = trained(method="full")
    assert numbering.change(trained(method="full", lora=LORA | {"rank": 2}), newest) == "patch"


def test_the_first_is_what_stands_in_the_file_or_one() -> None:
    assert (number(stated=None), number(stated="0.3.0"), number(stated="1.0.0")) == ("1.0.0", "0.3.0", "1.0.0")


def test_a_version_that_somebody_raised_wins_and_one_that_was_left_does_not_stand_in_the_way() -> None:
    assert number(taken=("1.0.0",), stated="4.0.0") == "4.0.0"
    assert number(taken=("1.0.0",), stated="1.0.1-rc.1") == "1.0.1-rc.1"
    assert number(taken=("1.0.0",), stated="1.0.0") == "1.0.1"
    assert number(taken=("1.0.0", "2.0.0"), stated="1.5.0") == "2.0.1"


def test_after_a_candidate_for_release_comes_the_release() -> None:
    assert number(taken=("1.0.0", "1.1.0-rc.2", "1.1.0-rc.10")) == "1.1.0"
    assert numbering.highest(["1.1.0-rc.2", "1.1.0-rc.10", "1.1.0-beta", "1.0.9"]) == "1.1.0-rc.10"


def test_a_number_that_another_process_has_reserved_is_not_given_twice() -> None:
    assert number(replace(FIRST, data="new"), ("1.0.0", "1.1.0")) == "1.2.0"
    assert number(trained(seed=8), ("1.0.0", "1.0.1", "1.0.2")) == "1.0.3"


def test_timestamps_are_utc_and_unique() -> None:
    assert number(strategy="timestamp") == "2026.11.21-1432"
    there = NOON.astimezone(timezone(timedelta(hours=-9)))
    assert number(strategy="timestamp", taken=("2026.11.21-1432",), now=there) == "2026.11.21-1432.2"
    assert number(strategy="timestamp", taken=("2026.11.21-1432", "2026.11.21-1432.2")) == "2026.11.21-1432.3"
    assert number(strategy="timestamp", now=datetime(2026, 1, 5, 9, 3, tzinfo=UTC)) == "2026.1.5-903"


@pytest.mark.parametrize("minutes", [0, 5, 9 * 60 + 7, 10 * 60, 23 * 60 + 59])
def test_a_timestamp_is_a_semantic_version_at_any_minute_and_later_ones_are_higher(minutes: int) -> None:
    """By the grammar of semver.org, which takes no leading zero in a number."""
    plain = r"(?:0|[1-9]\d*|\d*[a-zA-Z-][0-9a-zA-Z-]*)"
    now = datetime(2026, 1, 5, minutes // 60, minutes % 60, tzinfo=UTC)
    made = [number(strategy="timestamp", now=at) for at in (now, now + timedelta(minutes=1))]
    assert all(re.fullmatch(rf"(?:(?:0|[1-9]\d*)\.){{2}}(?:0|[1-9]\d*)-{plain}(?:\.{plain})*", one) for one in made)
    assert numbering.highest(made) == made[1]


def test_serials_count() -> None:
    assert [number(strategy="serial", taken=tuple(f"{n}.0.0" for n in range(1, k))) for k in (1, 2, 3)] == ["1.0.0", "2.0.0", "3.0.0"]  # fmt: skip
    assert number(strategy="serial", taken=("2.0.0",)) == "3.0.0"


def test_an_explicit_number_that_is_taken_is_refused_with_the_next_free_one() -> None:
    assert number(strategy="explicit", stated="0.9.0", taken=("1.0.0",)) == "0.9.0"
    with pytest.raises(Refused, match=r"version 1\.0\.0 .* taken by another candidate; the next free one is 1\.0\.2"):
        number(strategy="explicit", stated="1.0.0", taken=("1.0.0", "1.0.1"))
    with pytest.raises(UsageError, match="needs a version"):
        number(strategy="explicit")


numbers = st.from_regex(r"\A(0|[1-9][0-9]?)\.(0|[1-9][0-9]?)\.(0|[1-9][0-9]?)(-rc\.[0-9])?\Z")


@given(
    taken=st.sets(numbers, max_size=12),
    stated=st.none() | numbers,
    strategy=st.sampled_from(["semantic", "timestamp", "serial"]),
    data=st.sampled_from(["data", "new"]),
    base=st.sampled_from(["b", "new"]),
)
def test_a_number_is_always_new_and_always_a_name(taken: set[str], stated: str | None, strategy: Strategy, data: str, base: str) -> None:  # fmt: skip
    made = replace(FIRST, data=data, parts=PARTS | {"base": base})
    found = number(made, tuple(taken), stated, strategy)
    assert found not in taken
    assert re.fullmatch(versions.NUMBER, found) and numbering.order(found) is not None
    if strategy == "semantic" and taken:
        highest = numbering.highest(taken)
        assert highest is not None and numbering.order(found) > numbering.order(highest)  # type: ignore[operator]
