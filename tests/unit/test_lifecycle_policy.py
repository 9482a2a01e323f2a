"""What the lifecycle policy says, what it may never touch, and when: pure, against real and wrong clocks."""

from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from slipway.errors import UsageError
from slipway.keeping import lifecycle
from slipway.keeping.lifecycle import CLASSES, Facts, Kept, Moment, Policy, live, plan

ROOT = Path(__file__).parents[2]
SHIPPED = ROOT / lifecycle.FILE
POLICY = Policy.load(SHIPPED)
NOW = Moment(datetime(2026, 11, 21, tzinfo=UTC), 4_000 * 86_400_000)


def ago(days: float) -> Moment:
    return Moment(NOW.at - timedelta(days=days), NOW.elapsed_ms - int(days * 86_400_000))


def kept(number: int, stage: str = "None", days: float = 0, **changes: object) -> Kept:
    values = {"state": "present", "bytes": 1_000_000_000, "base": "b"} | changes
    return Kept(version=f"1.{number}.0", serial=number, stage=stage, since=ago(days), **values)


def facts(*versions: Kept, **changes: object) -> Facts:
    return Facts(**{"model": "m", "versions": versions, "now": NOW} | changes)


def actions(found: Facts, policy: Policy = POLICY) -> dict[str, str]:
    return {step.version: step.action for step in plan(found, policy)}


# --- the file ---------------------------------------------------------------------------------------------------------


def test_the_shipped_policy_says_what_the_guide_says() -> None:
    days = POLICY.archive_after_days
    assert (days.of("Staging"), days.of("Production"), POLICY.delete_after_days) == (30, 90, 365)
    assert POLICY.at_most_versions == 50 and POLICY.storage == {"STANDARD": 0, "GLACIER": 30}


@pytest.mark.parametrize(
    ("old", "new", "said"),
    [
        ("Staging: 30", "Staging: thirty", "archive_after_days.Staging: is 'thirty'"),
        ("Staging: 30", "Staging: 0", "greater than or equal to 1"),
        ("Staging: 30", "Staging: 30.5", "valid integer"),
        ("Staging: 30", "staging: 30", "archive_after_days"),
        ("Staging: 30", "Staging: true", "archive_after_days.Staging: is True"),
        ("delete_after_days: 365", "delete_after_day: 365", "delete_after_day"),
        ("delete_after_days: 365", "delete_after_days: -1", "delete_after_days: is -1"),
        ("delete_after_days: 365", "delete_after_days: 20", "30 days are not before delete_after_days, 20"),
        ("rollback_days: 14", "at_most_versions: 50\nrollback_days: 14", "stands twice"),
        ("at_most_versions: 50", "at_most_versions: 0", "at_most_versions: is 0"),
        ("rollback_days: 14", "rollback_days: 120", "inside the rollback window"),
        ("rollback_days: 14", "rollback_days: .inf", "rollback_days"),
        ("  GLACIER: 30", "  GLACIER: 0", "each on a later day"),
        ("  STANDARD: 0\n", "  STANDARD: 1\n", "must begin at 0 days"),
        ("  GLACIER: 30", "  ICE: 30", "storage.ICE"),
        ("  GLACIER: 30", "  GLACIER: 30\n  DEEP_ARCHIVE: 60", "both frozen"),
        ("  GLACIER: 0.0036", "  GLACIER: -1", "prices.GLACIER: is -1"),
        ("  GLACIER: 0.0036", "  GLACIER: .nan", "prices.GLACIER"),
        ("  GLACIER: 0.0036\n", "", "GLACIER has no price"),
        ("currency: USD", "currency: dollars", "prices.currency"),
        ("tier: Standard", "tier: fast", "restore.tier: is 'fast'"),
    ],
)
def test_a_fault_in_the_policy_is_named_with_its_line(tmp_path: Path, old: str, new: str, said: str) -> None:
    text, path = SHIPPED.read_text(), tmp_path / "lifecycle.yaml"
    assert text.count(old) == 1, old
    path.write_text(text.replace(old, new))
    with pytest.raises(UsageError) as error:
        Policy.load(path)
    assert said in str(error.value) and "\n" not in str(error.value)
    line = int(str(error.value).removeprefix(f"{path}:").partition(":")[0])
    assert 1 <= line <= len(text.splitlines()) + 1


def test_a_policy_that_is_not_there_is_a_usage_error(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"does not exist; restore it"):
        Policy.load(tmp_path / "lifecycle.yaml")


# --- by age -------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("stage", "days", "action"),
    [
        ("None", 29.99, None), ("None", 30, "archive"),
        ("Staging", 29.99, None), ("Staging", 30, "archive"),
        ("Production", 89.99, None), ("Production", 90, "archive"),
        ("Archived", 364.99, None), ("Archived", 365, "delete"), ("Archived", 366, "delete"),
    ],
)  # fmt: skip
def test_a_step_is_due_on_its_day_and_not_before(stage: str, days: float, action: str | None) -> None:
    assert actions(facts(kept(1, stage, days))).get("1.1.0") == action


@pytest.mark.parametrize(("wall", "credible"), [(400, 0), (0, 400), (-400, 400), (400, -400), (-400, -400), (364, 366)])
def test_both_clocks_must_say_that_the_time_is_over(wall: float, credible: float) -> None:
    since = Moment(ago(wall).at, ago(credible).elapsed_ms)
    one = Kept("1.1.0", 1, "Archived", "present", 1, "b", since)
    assert actions(facts(one)) == {}


def test_archived_versions_move_to_colder_classes_and_never_back() -> None:
    def due(days: float, place: str, state: str = "cold") -> list[tuple[str, str | None]]:
        found = facts(kept(1, "Archived", days, state=state, place=place), has_archive=True)
        return [(step.action, step.to) for step in plan(found, POLICY)]

    assert due(1, "STANDARD") == [] and due(29, "GLACIER") == []
    assert due(1, "local", "present") == [("move", "STANDARD")]  # archived before there was an archive_url
    assert due(30, "STANDARD") == [("move", "GLACIER")] and due(40, "GLACIER") == []
    assert due(40, "DEEP_ARCHIVE") == []


def test_without_an_archive_nothing_moves_and_nothing_is_saved() -> None:
    (step,) = plan(facts(kept(1, "Staging", 31)), POLICY)
    assert (step.action, step.to, step.saves_per_month, step.bytes) == ("archive", "local", 0.0, 0)


# --- by number ----------------------------------------------------------------------------------------------------------


def test_above_the_limit_the_oldest_archived_go_first_then_the_oldest_that_customers_never_met() -> None:
    there = [kept(n, "Archived" if n in (5, 9) else "Production" if n < 5 else "None", 1) for n in range(1, 55)]
    assert actions(facts(*there)) == dict.fromkeys(("1.5.0", "1.9.0", "1.6.0", "1.7.0"), "delete")


def test_the_limit_is_kept_at_fifty_exactly_and_counts_what_goes_by_age() -> None:
    assert actions(facts(*(kept(n, "None", 1) for n in range(1, 51)))) == {}
    there = [kept(1, "Archived", 400), *(kept(n, "None", 1) for n in range(2, 52))]
    assert actions(facts(*there)) == {"1.1.0": "delete"}


# --- what may never be touched ---------------------------------------------------------------------------------------


PROTECTED = {
    "the champion": {"champion": "1.1.0"},
    "traffic": {"weights": {"1.1.0": 0.01}},
    "a candidate": {"candidates": frozenset(["1.1.0"])},
    "an approval": {"awaiting": frozenset(["1.1.0"])},
    "an approval that was asked for": {"asked": {"1.1.0": ago(29.9)}},
    "a legal hold": {"held": frozenset(["1.1.0"])},
    "the rollback window": {"champion": "1.2.0", "previous": "1.1.0", "left": {"1.1.0": ago(13.9)}},
    "a rollback window of unknown age": {"champion": "1.2.0", "previous": "1.1.0"},
    "the window of the champion before last": {"champion": "1.2.0", "previous": "1.3.0", "left": {"1.1.0": ago(13.9)}},
}


@pytest.mark.parametrize("why", PROTECTED)
@pytest.mark.parametrize("stage", ["None", "Staging", "Production", "Archived"])
def test_what_is_live_is_never_touched_however_old(why: str, stage: str) -> None:
    found = facts(kept(1, stage, 3_000), **PROTECTED[why])
    assert actions(found) == {} and "1.1.0" in live(found, POLICY)
    assert actions(facts(kept(1, stage, 3_000))) != {}  # without it, it would be


def test_the_previous_champion_may_be_archived_after_its_window_and_is_never_deleted() -> None:
    gone = {"champion": "1.2.0", "previous": "1.1.0", "left": {"1.1.0": ago(3_000)}}
    assert actions(facts(kept(1, "Production", 3_000), **gone)) == {"1.1.0": "archive"}
    assert actions(facts(kept(1, "Archived", 3_000), **gone)) == {}


STAGES = st.sampled_from(["None", "Staging", "Production", "Archived"])


@st.composite
def worlds(draw: st.DrawFn) -> Facts:
    """Any number of versions in any state, with clocks that were set by up to 400 days either way."""
    names = [f"1.{n}.0" for n in range(1, draw(st.integers(1, 60)) + 1)]
    some = st.frozensets(st.sampled_from(names), max_size=4)
    versions = []
    for serial, name in enumerate(names, start=1):
        true = draw(st.floats(0, 800))
        since = Moment(
            ago(true + draw(st.sampled_from([0, -400, -1, 1, 400]))).at, ago(true * draw(st.floats(0, 1))).elapsed_ms
        )
        cold = draw(st.booleans())
        place = draw(st.sampled_from(CLASSES)) if cold else "local"
        versions.append(
            Kept(name, serial, draw(STAGES), "cold" if cold else "present", draw(st.integers(0, 10**9)), draw(st.sampled_from("xyz")), since, place, draw(st.integers(0, 10**8)))
        )  # fmt: skip
    champion = draw(st.none() | st.sampled_from(names))
    return Facts(
        model="m", versions=versions, now=NOW, champion=champion,
        previous=draw(st.none() | st.sampled_from(names)) if champion else None,
        left=draw(st.dictionaries(st.sampled_from(names), st.floats(0, 100).map(ago), max_size=4)),
        weights=draw(st.dictionaries(st.sampled_from(names), st.floats(0, 100), max_size=3)),
        candidates=draw(some), awaiting=draw(some), held=draw(some),
        base_bytes={"x": 10**9, "y": 5}, bases_elsewhere=draw(st.frozensets(st.sampled_from("xyz"))),
        has_archive=draw(st.booleans()),
    )  # fmt: skip


@settings(max_examples=150, deadline=None)
@given(worlds())
def test_no_plan_ever_touches_what_is_live_nor_goes_beyond_the_policy(found: Facts) -> None:
    steps, there = plan(found, POLICY), {one.version: one for one in found.versions}
    assert len({step.version for step in steps}) == len(steps)
    touched = {step.version for step in steps}
    assert not touched & ({found.champion} | found.candidates | found.awaiting | found.held)
    assert not touched & {version for version, percent in found.weights.items() if percent > 0}
    assert found.previous not in touched or found.previous in found.left
    for version in touched & found.left.keys():
        assert lifecycle.passed(found.left[version], found.now) >= timedelta(days=POLICY.rollback_days)
    limits = {"None": 30, "Staging": 30, "Production": 90}
    above = []
    for step in steps:
        one = there[step.version]
        age = lifecycle.passed(one.since, found.now) / timedelta(days=1)
        if step.action == "archive":
            assert one.stage in limits and age >= limits[one.stage]
        elif step.action == "move":
            assert (
                one.stage == "Archived" and found.has_archive and CLASSES.index(step.to) > CLASSES.index(one.place)
                if one.place in CLASSES
                else True
            )
        else:
            assert step.version != found.previous
            if not (one.stage == "Archived" and age >= 365):
                above.append(step)
                assert one.stage != "Production"
    by_age = sum(step.action == "delete" for step in steps) - len(above)
    assert len(above) <= max(len(there) - by_age - POLICY.at_most_versions, 0)


@settings(max_examples=80, deadline=None)
@given(worlds())
def test_a_plan_that_was_carried_out_leaves_nothing_due_at_once(found: Facts) -> None:
    """Archived today, nothing is deleted today: a step is never the reason of a harder one."""
    steps = {step.version: step for step in plan(found, POLICY)}
    left = []
    for one in found.versions:
        step = steps.get(one.version)
        if step is None:
            left.append(one)
        elif step.action != "delete":
            since = found.now if step.action == "archive" else one.since
            cold = step.to != "local"
            left.append(Kept(one.version, one.serial, "Archived", "cold" if cold else one.state, one.bytes, one.base, since, step.to if cold else one.place))  # fmt: skip
    after = Facts(**vars(found) | {"versions": left})
    for step in plan(after, POLICY):
        assert step.action == "move", step  # what was archived cold already may belong elsewhere


# --- what it saves ------------------------------------------------------------------------------------------------------


def test_savings_count_a_shared_base_once_and_only_when_its_last_version_goes() -> None:
    first, second = kept(1, "Archived", 400), kept(2, "Archived", 400)
    steps = plan(facts(first, second, base_bytes={"b": 10_000_000_000}), POLICY)
    assert [step.saves_per_month for step in steps] == [0.08, pytest.approx(0.88)]
    assert [step.bytes for step in steps] == [1_000_000_000, 11_000_000_000]
    shared = facts(first, second, base_bytes={"b": 10**10}, bases_elsewhere=frozenset("b"))
    assert [step.saves_per_month for step in plan(shared, POLICY)] == [0.08, 0.08]


def test_savings_are_the_difference_of_two_classes() -> None:
    (sent,) = plan(facts(kept(1, "Staging", 31), has_archive=True), POLICY)
    assert (sent.to, sent.saves_per_month, sent.bytes) == ("STANDARD", 0.057, 1_000_000_000)
    (moved,) = plan(facts(kept(1, "Archived", 31, state="cold", place="STANDARD"), has_archive=True), POLICY)
    assert (moved.to, moved.saves_per_month, moved.bytes) == ("GLACIER", pytest.approx(0.0194), 1_000_000_000)


@settings(max_examples=60, deadline=None)
@given(worlds())
def test_all_savings_together_are_what_the_whole_costs_less(found: Facts) -> None:
    steps = plan(found, POLICY)
    before, after = _monthly(found, {}), _monthly(found, {step.version: step for step in steps})
    assert sum(step.saves_per_month for step in steps) == pytest.approx(before - after, abs=1e-4)


def _monthly(found: Facts, steps: dict[str, lifecycle.Step]) -> float:
    """The same by other means: every version and every base where it lies."""
    places = {one.version: steps[one.version].to if one.version in steps else one.place for one in found.versions}
    own = sum(
        (one.bytes + one.receipt) * POLICY.prices.of(places[one.version])
        + one.receipt * POLICY.prices.of("local") * (places[one.version] != "local")
        for one in found.versions
        if places[one.version]
    )
    bases = 0.0
    for base, size in found.base_bytes.items():
        used = {places[one.version] for one in found.versions if one.base == base}
        local = "local" in used or base in found.bases_elsewhere
        cold = min((CLASSES.index(place) for place in used if place in CLASSES), default=None)
        bases += size * (
            POLICY.prices.of("local") * local + (POLICY.prices.of(CLASSES[cold]) if cold is not None else 0)
        )
    return (own + bases) / lifecycle.GB
