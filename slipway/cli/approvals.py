"""`slipway approve | reject | revoke | waive | break-glass | follow-up` and `slipway approvals list`: what people say."""

import json as json_module
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Literal

from rich.console import Console
from rich.table import Table
from rich.text import Text

from slipway import settings
from slipway.artifacts import Json
from slipway.cli.diagnosis import Diagnosis
from slipway.errors import UsageError
from slipway.ledger import clock
from slipway.people import approvals, grants, panel, vouching
from slipway.people.approvers import Approvers
from slipway.registry.opening import reading

Target = Literal["Staging", "Production", "Archived", "register"]
_ACTS = {"Staging": "None→Staging", "Production": "Staging→Production", "Archived": "Production→Archived"}
_HOURS = {"m": 1 / 60, "h": 1.0, "d": 24.0}
_COLOURS = {"counts": "green", "rejects": "bold red", "void": "dim"}


def give(
    answer: Literal["approve", "reject"],
    target: str,
    reason: str,
    act: Target,
    key: Path | None,
    expires: str | None,
    json: bool,
) -> int:
    root = settings.find_root()
    lasting = hours(expires) if expires else None
    given = approvals.give(root, target, answer, reason, _ACTS.get(act, act), key, lasting)
    about = panel.About(
        given.model, given.release, given.version, given.identity, given.evidence_digest, given.policy_digest
    )
    with reading(root) as connection:
        name = vouching.text_of(connection, given.by) or "(erased)"
        said = panel.examine(connection, Approvers.load(root), vouching.trust(root), about, given.act, clock.read())
    facts = given.model_dump(mode="json") | {"by": name, "wanting": said.wanting}
    word = "approved" if answer == "approve" else "rejected"
    left = f"; still wanting: {', '.join(said.wanting)}" if said.wanting and answer == "approve" else ""
    solo = " Solo: whoever asked for it approved it." if any(v.id == given.id and v.solo for v in said.counted) else ""
    text = (
        f"{given.model} {about.subject} is {word} for {given.act} by {name} until {given.expires[:16]}Z{left}.{solo}\n"
        f"  {given.id[:8]}  evidence {given.evidence_digest[:16]}  policy {given.policy_digest[:16]}"
    )
    return _tell(facts, json, text)


def revoke(target: str, reason: str, key: Path | None, json: bool) -> int:
    ended = approvals.revoke(settings.find_root(), target, reason, key)
    shown = ", ".join(one[:8] for one in ended)
    return _tell({"revoked": ended}, json, f"{shown} {'is' if len(ended) == 1 else 'are'} revoked, and cannot be used.")


def list_approvals(target: str | None, json: bool) -> int:
    found = approvals.listed(settings.find_root(), target)
    if json:
        print(json_module.dumps(found, indent=2))
        return 0
    if not found:
        print("Nobody has approved or rejected anything yet.")
        return 0
    Console().print(_table(found))
    for one in found:
        if one["why"]:
            print(f"{str(one['id'])[:8]} does not count: it {one['why']}")
    return 0


def _table(found: list[Json]) -> Table:
    table = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0))
    for column in ("id", "version", "for", "answer", "by", "until", "state"):
        table.add_column(column, overflow="fold")
    for one in found:
        words = (str(one["id"])[:8], str(one["version"] or one["release"]), str(one["act"]), str(one["answer"]))
        by, until, state = str(one["by"] or "(erased)"), f"{str(one['expires'])[:16]}Z", str(one["state"])
        row = [Text(word) for word in (*words, by, until)]
        table.add_row(*row, Text(state, _COLOURS.get(state, "")))
    return table


def waive(target: str, rule: str, reason: str, expires: str, key: Path | None, json: bool) -> int:
    grant = grants.waive(settings.find_root(), target, rule, reason, expires, key)
    about = "every release" if grant.release == grants.FOR_ALL else f"the evidence of {grant.version or grant.release}"
    return _tell(grant.model_dump(mode="json"), json, f"{rule} is waived for {about}, up to and with {expires}.")


def break_glass(target: str, reason: str, expires: str, key: Path | None, json: bool) -> int:
    grant = grants.break_glass(settings.find_root(), target, reason, hours(expires), key)
    text = (
        f"Until {grant.expires[:16]}Z {grant.model} {grant.version} may go to production without approvals "
        f"(`slipway models stage {grant.version} Production`).\n"
        f"It has to be explained by {str(grant.follow_up_due)[:16]}Z: `slipway follow-up {grant.id[:8]} --reason …`"
    )
    return _tell(grant.model_dump(mode="json"), json, text)


def follow_up(identifier: str, reason: str, key: Path | None, json: bool) -> int:
    whole = grants.follow_up(settings.find_root(), identifier, reason, key)
    return _tell(
        {"followed_up": whole}, json, f"Break-glass {whole[:8]} is explained; nothing is owed for it any more."
    )


def hours(text: str) -> float:
    """A length of time as people write it: 72h, 3d, 90m."""
    found = re.fullmatch(r"(\d{1,6}(?:\.\d{1,3})?)([mhd])", text.strip())
    if found is None:
        raise UsageError(f"--expires {text!r:.40} is no length of time; write one as in 72h, 3d or 90m")
    return float(found[1]) * _HOURS[found[2]]


def checks(root: Path) -> Iterator[Diagnosis]:
    """What the doctor says: whether the rules of approving can be read, and which break-glass nobody has explained."""
    try:
        rules = Approvers.load(root)
    except UsageError as error:
        yield Diagnosis.of("approvals", error)
        return
    if rules.solo:
        yield Diagnosis.warn(
            "approvals", "solo: whoever asks for a release may approve it", "name people in approvals.yaml"
        )
    with reading(root) as connection:
        owed = grants.owed(connection, clock.read())
    for one in owed:
        found = f"break-glass {one.id[:8]} of {one.model} {one.version} is to be explained by {one.due[:16]}Z"
        fix = f"slipway follow-up {one.id[:8]} --reason …"
        yield (Diagnosis.fail if one.overdue else Diagnosis.warn)("break-glass", found, fix)


def _tell(facts: Json, json: bool, text: str) -> int:
    print(json_module.dumps(facts, indent=2) if json else text)
    return 0
