"""What people say of evidence that is to enter the registry, before it is a version."""

from dataclasses import replace
from pathlib import Path

from sqlalchemy import Connection

from slipway.artifacts import Decision
from slipway.ledger import clock, events
from slipway.people import approvals, vouching
from slipway.people.approvers import REGISTER, Approvers
from slipway.people.panel import About, Panel, askers, examine
from slipway.registry.opening import reading


def said_of(root: Path, model: str, release: str, gate: Decision) -> Panel:
    """What was said of this evidence entering the registry, to this release or to an earlier one of the same evidence."""
    now, rules, trusted = clock.read(), Approvers.load(root), vouching.trust(root)
    about = About(model, release, None, gate.identity, gate.evidence_digest, approvals.policy_digest_of(root))
    with reading(root) as connection:
        releases = _spoken_of(connection, about)
        vouching.check_chain(connection, model, releases, about.name)
        found = [examine(connection, rules, trusted, replace(about, release=r), REGISTER, now) for r in releases]
        asked = askers(connection, rules, about)
    given_here = [voice for panel in found for voice in panel.counted]
    counted = given_here if rules.solo else [voice for voice in given_here if asked and voice.person not in asked]
    void = [one for panel in found for one in panel.not_counted]
    void += [(voice.id, "is by somebody who asked for it, or may have") for voice in given_here if voice not in counted]
    rejections = [voice for panel in found for voice in panel.rejections]
    return Panel(REGISTER, counted, rejections, void, rules.wanting(REGISTER, [voice.person for voice in counted]))


def _spoken_of(connection: Connection, about: About) -> list[str]:
    """This release, and every one of the same evidence of which somebody said something."""
    found = {about.release}
    for kind in ("approval_given", "approval_rejected"):
        for event in events.read(connection, kind=kind, model=about.model):
            same = event.payload.get("evidence_digest") == about.evidence_digest
            found |= {event.subject} if same and event.payload.get("act") == REGISTER else set()
    return sorted(found)
