"""Speaking as somebody else: with a trusted key of one's own, and a database that anybody can write."""

import json
import secrets
from collections.abc import Iterator
from datetime import timedelta
from pathlib import Path
from typing import Any

import made_versions
import pytest
from cryptography.hazmat.primitives.asymmetric import ec
from made_versions import ADA, BOB, CAROL, Made, later
from sqlalchemy import text

from slipway.artifacts import Json
from slipway.errors import Refused, UsageError
from slipway.ledger import clock, events, given, sealed
from slipway.people import approvals, grants, panel, vouching
from slipway.people.vouching import Speaker
from slipway.registry import keys, promotion, versions

PRODUCTION = "Staging→Production"


@pytest.fixture
def made(tmp_path: Path, ledger_url: str, monkeypatch: pytest.MonkeyPatch) -> Iterator[Made]:
    """A project with one version, on each of the two databases; ada asked for it."""
    monkeypatch.setenv("SLIPWAY_LEDGER_URL", ledger_url)
    yield from _made(tmp_path)


@pytest.fixture
def small(tmp_path: Path) -> Iterator[Made]:
    yield from _made(tmp_path)


def _made(folder: Path) -> Iterator[Made]:
    project = made_versions.project(folder / "a project")
    project.version("1.0.0", whole=False)
    yield project
    project.database.close()


def said(made: Made, **more: Any) -> panel.Panel:
    with made.database.read() as connection:
        version = versions.resolve(connection, "1.0.0", None)
        return approvals.panel_of(connection, made.root, version, PRODUCTION, more.get("now") or clock.read())


def written(made: Made, who: Speaker, by: str, hours: float = 5) -> None:
    """A yes in somebody's name, row and event by hand, every digest and the signature right."""
    now = clock.read()
    with made.database.write() as connection:
        digest = approvals.policy_digest_of(made.root)
        about = approvals.about_of(made.root, connection, "1.0.0", PRODUCTION, None, digest)
        statement: Json = {
            **about.__dict__, "id": secrets.token_hex(16), "act": PRODUCTION, "answer": "approve",
            "by": sealed.seal(connection, by), "roles": [], "requester": panel.requesters(connection, about),
            "reason": sealed.seal(connection, "fine"), "at": now.text, "boot": now.boot, "ticks_ms": now.ticks_ms,
            "expires": clock.shown(now.at + timedelta(hours=hours)), "lifetime_ms": int(hours * 3_600_000),
        }  # fmt: skip
        signed = vouching.sign(who, panel.PURPOSE, statement)
        told = {name: signed[name] for name in ("id", "release", "version", "evidence_digest", "policy_digest", "act")}
        told |= {"expires": signed["expires"], "digest": vouching.digest_of(signed)}
        event = events.append(connection, "approval_given", about.model, about.subject, told, who.actor, "fine", now)
        given.add_approval(connection, signed, "valid", event.sequence)


def why(made: Made, **more: Any) -> str:
    found = said(made, **more)
    assert found.counted == [] and len(found.not_counted) == 1, found
    return found.not_counted[0][1]


# --- a key speaks for one person --------------------------------------------------------------------------------------


def test_case_F1_a_key_of_ones_own_speaks_for_nobody_else(made: Made) -> None:
    """Ada asked for it, has a key that is trusted for approvals, and writes the ledger by hand in bob's name."""
    _, private = made.key("ada")
    made.key("bob")
    written(made, vouching.speaker(made.root, None, private, "approve"), "bob")
    assert "bears the name bob, and the key " in (found := why(made)) and "is ada's" in found


def test_case_F1_nor_does_one_that_nobody_has_listed(made: Made) -> None:
    fingerprint, private = keys.new(made.root, "bob", made.root / "people")
    written(made, Speaker("bob", f"key:{fingerprint}", fingerprint, private), "bob")
    assert "stands under nobody's name" in why(made)


def test_case_F2_a_key_made_in_somebodys_name_is_not_theirs(made: Made) -> None:
    """Whoever asked for a release can make keys; who stands in approvals.yaml is for whoever reviews it."""
    people = {"grace": {"names": ["grace"]}}
    made.approvers(people=people, roles={"release": ["grace"]})
    fingerprint, private = keys.new(made.root, "grace", made.root / "people")
    with pytest.raises(Refused, match=rf"{fingerprint[:16]} stands under nobody's name in .*approvals\.yaml"):
        approvals.give(made.root, "1.0.0", "approve", "fine", key=private)
    assert made.kinds().count("approval_given") == 0
    made.approvers(people={"grace": {"names": ["grace"], "keys": [fingerprint[:16]]}})
    approvals.give(made.root, "1.0.0", "approve", "fine", key=private)
    assert said(made).people == ["grace"]
    made.approvers(people=people)  # taken out again, what it approved counts no more
    assert "stands under nobody's name" in why(made)


def test_case_F2_two_keys_of_one_person_are_one_voice(small: Made) -> None:
    first, second = (keys.new(small.root, name, small.root / "people") for name in ("Bob B", "bob.b@x"))
    listed = {"names": ["bob"], "keys": [first[0][:16], second[0][:16]]}
    small.approvers(people={"bob": listed}, transitions={PRODUCTION: {"approvals": 2, "roles": {}}})
    for _, private in (first, second):
        approvals.give(small.root, "1.0.0", "approve", "fine", key=private)
    approvals.give(small.root, "1.0.0", "approve", "fine", actor=BOB)
    assert said(small).people == ["bob"] and said(small).wanting == ["1 more approval"]


def test_case_F2_a_no_is_not_taken_back_with_a_key_in_its_givers_name(made: Made) -> None:
    no = approvals.give(made.root, "1.0.0", "reject", "it swears", actor=CAROL)
    _, private = keys.new(made.root, "carol", made.root / "people")
    with pytest.raises(Refused, match="stands under nobody's name"):
        approvals.revoke(made.root, no.id, "it does not", key=private)
    assert len(said(made).rejections) == 1


@pytest.mark.parametrize("kind", ["waiver", "break_glass"])
def test_case_F1_nobody_answers_for_a_rule_in_anothers_name(small: Made, kind: Any) -> None:
    _, private = small.key("ada")
    who = vouching.speaker(small.root, None, private, "waive a rule")
    with small.database.write() as connection:
        version = versions.resolve(connection, "1.0.0", None)
        about = {name: getattr(version, name) for name in ("model", "release", "version", "evidence_digest")}
        now, until = clock.read(), clock.read().at + timedelta(hours=2)
        other = Speaker("bob", who.via, who.key, who.private)
        due = until if kind == "break_glass" else None
        grants._granted(connection, kind, about | {"rule": "latency"}, other, "fine", now, until, due)
    assert grants.standing(small.root, version.evidence_digest) == []
    with small.database.read() as connection:
        assert grants.open_for(connection, small.root, version, clock.read()) is None


# --- an account's word is the project's ---------------------------------------------------------------------------------


def vendor(made: Made) -> tuple[str, Path]:
    """Somebody whose models are believed here: `slipway keys trust vendor.pub`."""
    private = ec.generate_private_key(ec.SECP256R1())
    place = made.root / "vendor"
    place.mkdir()
    keys._write_private(place / "v.pem", keys._private_pem(private))
    (place / "v.pub").write_bytes(keys._pem(private.public_key()))
    return keys.trust_key(made.root, place / "v.pub", "vendor"), place / "v.pem"


def test_case_F1_a_key_that_is_trusted_for_models_speaks_for_no_account(made: Made) -> None:
    fingerprint, private = vendor(made)
    written(made, Speaker("bob", vouching.ACCOUNT, fingerprint, private), "bob", 24 * 3650)
    assert f"is signed by the key {fingerprint[:16]}, which is trusted for models alone" in why(made)


def test_case_D6_nor_says_what_serves(small: Made) -> None:
    with small.database.read() as connection:
        small.stage(versions.resolve(connection, "1.0.0", None), "Production")
    promotion.promote(small.root, "support-desk", "1.0.0", None, "better", ADA, mirrored=False)
    fingerprint, private = vendor(small)
    path = promotion.path_of(small.root, "support-desk", 1)
    unsigned = {k: v for k, v in json.loads(path.read_text()).items() if k not in ("via", "key", "signature")}
    forged = vouching.sign(Speaker("x", vouching.ACCOUNT, fingerprint, private), promotion.PURPOSE, unsigned)
    path.write_text(json.dumps(forged))
    with pytest.raises(Refused, match="bears no signature of a key that is trusted here"):
        promotion.verify_promotion(small.root, "support-desk")


def test_another_machine_of_the_project_is_believed_where_somebody_says_so(small: Made, tmp_path: Path) -> None:
    elsewhere = made_versions.project(tmp_path / "elsewhere").root
    fingerprint, private = keys.signing_key(elsewhere)
    public = tmp_path / "elsewhere.pub"
    public.write_text(vouching.trust(elsewhere).keys[fingerprint].public)
    keys.trust_key(small.root, public, "the second machine")  # as it was trusted before there was such a purpose
    written(small, Speaker("bob", vouching.ACCOUNT, fingerprint, private), "bob")
    assert "trusted for models alone" in why(small)
    keys.trust_key(small.root, public, "the second machine", purpose="project")
    assert said(small).people == ["bob"]
    with pytest.raises(UsageError, match="already"):
        keys.trust_key(small.root, public, "the second machine", purpose="approvals")


def test_a_trust_file_from_before_there_were_project_keys_still_works(made: Made) -> None:
    approvals.give(made.root, "1.0.0", "approve", "fine", actor=BOB)
    other, _ = vendor(made)
    path = keys.folder(made.root) / keys.FILE
    path.write_text(path.read_text().replace('"project"', '"models"'))
    found = keys.load(path)
    assert (found.keys[str(found.signing)].purpose, found.keys[other].purpose) == ("project", "models")
    assert said(made).people == ["bob"]
    keys.rotate(made.root)
    assert said(made).people == ["bob"]


# --- no longer than the rules say ------------------------------------------------------------------------------------


def test_case_F3_it_holds_no_longer_than_the_rules_say_now(made: Made) -> None:
    approvals.give(made.root, "1.0.0", "approve", "fine", actor=BOB)
    made.approvers(expiry_hours=1)
    assert said(made, now=later(minutes=50)).people == ["bob"]
    assert "expired" in why(made, now=later(hours=1.1))


def test_case_F3_nor_does_one_that_says_of_itself_that_it_holds_for_years(small: Made) -> None:
    who = Speaker("bob", vouching.ACCOUNT, *keys.signing_key(small.root))
    written(small, who, "bob", 24 * 3650)
    assert "expired" in why(small, now=later(hours=73))


# --- what was taken back ------------------------------------------------------------------------------------------------


def in_production(made: Made, *used: str, **more: Any) -> None:
    """The step to Production and what it used, without a judgement."""
    told = {"version": "1.0.0", "from": "Staging", "to": "Production", "tags": [], "approvals": list(used)}
    with made.database.write() as connection:
        event = events.append(connection, "stage_transition", "support-desk", "1.0.0", told | more, ADA)
        versions.set_stage(connection, "support-desk", "1.0.0", "Production", event.sequence)
        for one in used:
            given.set_approval(connection, one, "used")


def promote(made: Made) -> int:
    return promotion.promote(made.root, "support-desk", "1.0.0", None, "go", ADA, mirrored=False).generation


def test_case_F3_what_a_revoked_approval_brought_to_production_does_not_serve(made: Made) -> None:
    yes = approvals.give(made.root, "1.0.0", "approve", "fine", actor=BOB)
    in_production(made, yes.id)
    approvals.revoke(made.root, yes.id, "it insults people", actor=BOB)
    with pytest.raises(Refused, match=rf"approval {yes.id[:8]}, which brought it to Production, was revoked"):
        promote(made)
    again = approvals.give(made.root, "1.0.0", "approve", "it does not any more", actor=CAROL)
    assert promote(made) == 1
    assert f"was used for its promotion (event {len(made.kinds())})" in dict(said(made).not_counted)[again.id]
    with made.database.read() as connection:
        told = next(events.read(connection, kind="model_promoted"))
    assert told.payload["approvals"] == [again.id]


def test_case_F3_nor_what_somebody_said_no_to_since(made: Made) -> None:
    yes = approvals.give(made.root, "1.0.0", "approve", "fine", actor=BOB)
    in_production(made, yes.id)
    no = approvals.give(made.root, "1.0.0", "reject", "it swears", actor=CAROL)
    with pytest.raises(Refused, match=r"1\.0\.0 does not serve: carol has rejected it: it swears"):
        promote(made)
    approvals.revoke(made.root, no.id, "it was the prompt", actor=CAROL)
    assert promote(made) == 1


def test_what_broken_glass_brought_there_rests_on_no_approval(small: Made) -> None:
    yes = approvals.give(small.root, "1.0.0", "approve", "fine", actor=BOB)
    approvals.revoke(small.root, yes.id, "not after all", actor=BOB)
    in_production(small, break_glass="ab" * 16)
    assert promote(small) == 1


# --- what was taken out ---------------------------------------------------------------------------------------------------


def by_hand(made: Made, statement: str) -> None:
    with made.database.write() as connection:
        if made.database.is_sqlite:
            for name in list(
                connection.execute(text("SELECT name FROM sqlite_master WHERE type = 'trigger'")).scalars()
            ):
                connection.execute(text(f"DROP TRIGGER {name}"))
        else:
            connection.execute(text("ALTER TABLE events DISABLE TRIGGER ALL"))
        connection.execute(text(statement))


@pytest.mark.parametrize(
    "statement",
    [
        "DELETE FROM events WHERE kind = 'approval_rejected'",
        "DELETE FROM events WHERE kind = 'approval_revoked'",
        "DELETE FROM events WHERE kind = 'release_started' AND subject = '20260101-000000-000001'",
        "UPDATE events SET payload = '{}' WHERE kind = 'approval_rejected'",
        "UPDATE events SET actor = (SELECT actor FROM events WHERE kind = 'approval_rejected') "
        "WHERE kind IN ('release_started', 'model_registered') AND subject IN ('1.0.0', '20260101-000000-000001')",
    ],
)
def test_case_F1_nothing_is_decided_on_a_ledger_that_was_changed(made: Made, statement: str) -> None:
    """A no, a revocation and who asked say it by standing there, so what follows them must fit."""
    yes = approvals.give(made.root, "1.0.0", "approve", "fine", actor=BOB)
    approvals.revoke(made.root, yes.id, "not after all", actor=BOB)
    approvals.give(made.root, "1.0.0", "reject", "it swears", actor=CAROL)
    in_production(made)
    made.version("1.1.0", whole=False)
    give_next: dict[str, Any] = {"target": "1.1.0", "answer": "approve", "reason": "fine"}
    approvals.give(made.root, **give_next, actor=BOB)  # a signed checkpoint after it all: no tail is missing
    by_hand(made, statement)
    with pytest.raises(Refused, match=r"nothing is decided about support-desk 1\.0\.0: the ledger was changed"):
        approvals.give(made.root, "1.0.0", "approve", "fine", actor=ADA)
    with pytest.raises(Refused, match=r"nothing is decided about support-desk 1\.0\.0: the ledger was changed"):
        promote(made)
    approvals.give(made.root, **give_next, actor=CAROL)  # what began after it is another matter
