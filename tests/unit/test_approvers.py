"""configs/policies/approvals.yaml: what it means, and that a mistake in it is one line with its place."""

from pathlib import Path

import pytest
import yaml

from slipway.errors import UsageError
from slipway.people import approvers
from slipway.people.approvers import Approvers

SHIPPED = Path(__file__).parents[2] / approvers.FILE


def load(folder: Path, text: str) -> Approvers:
    (folder / approvers.FILE).parent.mkdir(parents=True, exist_ok=True)
    (folder / approvers.FILE).write_text(text)
    return Approvers.load(folder)


def changed(folder: Path, **changes: object) -> Approvers:
    return load(folder, yaml.safe_dump(yaml.safe_load(SHIPPED.read_text()) | changes, allow_unicode=True))


def test_the_shipped_file_lets_nobody_approve_their_own(tmp_path: Path) -> None:
    shipped = load(tmp_path, SHIPPED.read_text())
    assert (shipped.solo, shipped.signature, shipped.expiry_hours) == (False, False, 72)
    assert shipped.wanting("Staging→Production", []) == ["1 more approval"]
    assert shipped.wanting("None→Staging", []) == []


@pytest.mark.parametrize(
    ("old", "new", "said"),
    [
        ("solo: false", "solo: maybe", "solo: is 'maybe'"),
        ("solo: false", "sole: false", "sole: there is no such key"),
        ("expiry_hours: 72", "expiry_hours: 0", "expiry_hours: is 0"),
        ("expiry_hours: 72", "expiry_hours: 1000", "expiry_hours: is 1000"),
        ("expiry_hours: 72", "expiry_hours: .inf", "expiry_hours: is inf"),
        ("approvals: 1", "approvals: 0", "transitions.Staging→Production.approvals: is 0"),
        ("Staging→Production:", "Staging->Production:", "there is no such change"),
        ("    roles: {}", "    roles: {security: 1}", "asks for 1 of the role security, which 0 people have"),
        ("people: {}", "people: {ada: {names: [x]}, bob: {names: [X]}}", "x is ada as well"),
        ("people: {}", "people: {ada: {keys: [ABC]}}", "people.ada.keys.0: is 'ABC'"),
        ("roles: {}\n\n", "roles: {owner: [ada]}\n\n", "ada is not among `people`"),
        ("most_hours: 24", "most_hours: 1000", "break_glass.most_hours: is 1000"),
        ("signature: false", "signature: false\nsignature: true", "stands twice"),
    ],
)
def test_a_mistake_is_one_line_with_its_place(tmp_path: Path, old: str, new: str, said: str) -> None:
    text = SHIPPED.read_text()
    assert old in text
    with pytest.raises(UsageError) as error:
        load(tmp_path, text.replace(old, new, 1))
    assert said in str(error.value) and "approvals.yaml:" in str(error.value) and "\n" not in str(error.value)


def test_without_the_file_nobody_approves(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="restore it"):
        Approvers.load(tmp_path)


def test_a_person_is_one_under_every_name_and_key(tmp_path: Path) -> None:
    people = {"ada": {"names": ["ada-admin", "Ａda@example.org"], "keys": ["1d5508a2b1c0f3e4"]}, "bob": {}}
    found = changed(tmp_path, people=people, roles={"owner": ["ada"]})
    names = ["ada", "ADA", "ada-admin", "ada@example.org", " ada\u200d"]
    assert {found.person(name) for name in names} == {"ada"}
    assert found.person("bob", "1d5508a2b1c0f3e4" + "0" * 48) == "ada"  # the key is whose it is
    assert found.person("eve") == "eve" and found.roles_of("eve") == []


def test_a_quorum_counts_different_people(tmp_path: Path) -> None:
    asked = {"Staging→Production": {"approvals": 2, "roles": {"owner": 1}}}
    people: dict[str, object] = {"ada": {}, "bob": {}, "eve": {}}
    roles = {"owner": ["ada", "bob"], "guest": ["eve"]}
    found = changed(tmp_path, people=people, roles=roles, transitions=asked)
    act = "Staging→Production"
    assert found.wanting(act, ["ada", "ada"]) == ["1 more approval"]
    assert found.wanting(act, ["ada", "bob"]) == []
    assert found.may("ada", act) and not found.may("eve", act) and not found.may("nobody", act)
    assert found.may("nobody", "None→Staging")
