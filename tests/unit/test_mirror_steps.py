"""What is drift, what is only not done yet, and what to do: a pure comparison of the ledger with what MLflow shows."""

from collections.abc import Callable
from typing import Any

import pytest
from unit.test_registry_versions import version

from slipway.ledger.operations import Operation
from slipway.registry import mirror
from slipway.registry.mirror import Wanted

Found = dict[str, Any]


def wanted(mirrored: bool = True) -> Wanted:
    """1.0.0 was the champion before 2.0.0; 0.9.0 is a tombstone."""
    made = Wanted.__new__(Wanted)
    made.model = "desk"
    made.versions = {number: version(number, n) for n, number in enumerate(("1.0.0", "2.0.0"), 1)}
    made.deleted = {"0.9.0": version("0.9.0", 9, state="deleted")}
    made.aliases = {"champion": "2.0.0", "previous": "1.0.0"}
    made.last = {}
    made.last_aliases = {"champion": "2", "previous": "1"} if mirrored else {}
    for number, name in (("1", "1.0.0"), ("2", "2.0.0")):
        said = {"number": number, "source": f"models:/m-{number}", "run": "r", "tags": mirror.tags(made.versions[name])}
        operation = mirror.operation_of("desk", name)
        done = Operation(operation, "mirror", "desk", {}, "done" if mirrored else "begun", said if mirrored else None)
        made.last[operation] = done
    return made


def found() -> Found:
    """MLflow as it should be."""
    made = wanted()
    return {
        "aliases": {"champion": "2", "previous": "1", "mine": "1"},
        "versions": [
            {
                "number": number,
                "source": f"models:/m-{number}",
                "run": "r",
                "tags": mirror.tags(made.versions[name]) | {"slipway.operation": mirror.operation_of("desk", name), "own": "x"},
            }
            for number, name in (("1", "1.0.0"), ("2", "2.0.0"))
        ],
    }  # fmt: skip


def test_a_mirror_that_says_what_the_ledger_says_is_left_alone() -> None:
    assert mirror.steps(wanted(), found()) == []


def another(number: str, operation: str) -> dict[str, Any]:
    return {"number": number, "source": f"models:/m-{number}", "run": "r", "tags": {"slipway.operation": operation}}


def gone(there: Found) -> None:
    del there["versions"][0]


DRIFT: dict[str, tuple[Callable[[Found], object], list[tuple[str, str, str]]]] = {
    "alias moved": (lambda f: f["aliases"].update(champion="1"), [("alias", "alias champion", "version 1")]),
    "alias taken away": (lambda f: f["aliases"].pop("champion"), [("alias", "alias champion", "")]),
    "alias dangling": (lambda f: f["aliases"].update(previous="7"), [("alias", "alias previous", "version 7, which does not exist")]),
    "alias set that nobody wants": (lambda f: f["aliases"].update(candidate="1"), [("alias", "alias candidate", "version 1")]),
    "stage edited": (lambda f: f["versions"][0]["tags"].update({"slipway.stage": "Production"}), [("tag", "tag slipway.stage of version 1", "Production")]),
    "tag taken away": (lambda f: f["versions"][0]["tags"].pop("slipway.identity"), [("tag", "tag slipway.identity of version 1", "")]),
    "version deleted": (gone, [("enter", "version 1", ""), ("alias", "alias previous", "version 1, which does not exist")]),
    "source of another": (lambda f: f["versions"][0].update(source="models:/evil"), [("delete", "source of version 1", "models:/evil"), ("enter", "version 1", "of another source")]),
    "a second one": (lambda f: f["versions"].append(another("3", mirror.operation_of("desk", "1.0.0"))), [("delete", "version 3", "a second 1.0.0")]),
    "a tombstone came back": (lambda f: f["versions"].append(another("4", mirror.operation_of("desk", "0.9.0"))), [("delete", "version 4", "there")]),
    "all gone": (lambda f: f.update(versions=[], aliases={}), [("enter", "version 1", ""), ("enter", "version 2", ""), ("alias", "alias champion", ""), ("alias", "alias previous", "")]),
}  # fmt: skip


@pytest.mark.parametrize("what", DRIFT)
def test_case_F5_what_somebody_changed_is_drift_and_is_named(what: str) -> None:
    there, (change, expected) = found(), DRIFT[what]
    change(there)
    steps = mirror.steps(wanted(), there)
    assert [(step.do, step.what, step.found) for step in steps if step.drift] == expected


def test_a_mirror_that_was_never_told_is_not_drift() -> None:
    steps = mirror.steps(wanted(mirrored=False), {"aliases": {}, "versions": []})
    assert [(step.do, step.drift) for step in steps] == [("enter", False)] * 2 + [("alias", False)] * 2


def test_what_the_ledger_changed_since_is_not_drift() -> None:
    """1.0.0 was promoted again and 2.0.0 archived; MLflow still says what it was told last."""
    now = wanted()
    now.aliases = {"champion": "1.0.0", "previous": "2.0.0"}
    now.versions["2.0.0"] = now.versions["2.0.0"].model_copy(update={"stage": "Archived"})
    steps = mirror.steps(now, found())
    assert {step.what for step in steps} == {"alias champion", "alias previous", "tag slipway.stage of version 2"}
    assert not any(step.drift for step in steps)


def test_people_may_keep_aliases_tags_and_versions_of_their_own() -> None:
    there = found()
    there["aliases"]["blue"] = "1"
    there["versions"][0]["tags"]["reviewed-by"] = "me"
    there["versions"].append(another("9", "") | {"tags": {}})
    assert mirror.steps(wanted(), there) == []


def test_case_F7_every_tag_is_one_short_line() -> None:
    made = mirror.tags(version(metadata={"author": "A" * 5000}, commit="c", tag="t"))
    assert len(made["author"]) == 1000 and made["slipway.commit"] == "c"
    assert all(value and value.isprintable() for value in made.values())
