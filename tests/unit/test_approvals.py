"""Approvals: who may give one, to what it is bound, how long it holds, and that nothing but giving one makes one count."""

import json
import random
import shutil
from collections.abc import Callable, Iterator
from datetime import timedelta
from pathlib import Path
from typing import Any

import made_versions
import pytest
from made_versions import ADA, BOB, CAROL, Made, later
from sqlalchemy import delete, insert, select, text, update

from slipway.artifacts import Json
from slipway.errors import Refused, SlipwayError, Transient, UsageError
from slipway.ledger import chain, clock, events, given, sealed, signatures
from slipway.ledger.clock import Reading
from slipway.ledger.events import Actor
from slipway.ledger.tables import approvals as rows
from slipway.ledger.tables import events as event_rows
from slipway.people import approvals, panel, vouching
from slipway.people.approvers import Approvers
from slipway.people.panel import About, Given, Panel
from slipway.registry import keys, store, versions
from slipway.registry.versions import Version

PRODUCTION = "Staging→Production"


@pytest.fixture
def made(tmp_path: Path, ledger_url: str, monkeypatch: pytest.MonkeyPatch) -> Iterator[Made]:
    """A project with one version, on each of the two databases; ada asked for it."""
    monkeypatch.setenv("SLIPWAY_LEDGER_URL", ledger_url)
    project = made_versions.project(tmp_path / "a project")
    project.version("1.0.0", whole=False)
    yield project
    project.database.close()


@pytest.fixture
def small(tmp_path: Path) -> Iterator[Made]:
    """The same, on SQLite alone."""
    project = made_versions.project(tmp_path / "a project")
    project.version("1.0.0", whole=False)
    yield project
    project.database.close()


def version_of(made: Made, number: str = "1.0.0") -> Version:
    with made.database.read() as connection:
        return versions.resolve(connection, number, None)


def said(made: Made, act: str = PRODUCTION, number: str = "1.0.0", now: Reading | None = None) -> Panel:
    version = version_of(made, number)
    with made.database.read() as connection:
        return approvals.panel_of(connection, made.root, version, act, now or clock.read())


def why(made: Made, **more: Any) -> str:
    """Why the only approval does not count."""
    panel = said(made, **more)
    assert panel.counted == [] and len(panel.not_counted) == 1, panel
    return panel.not_counted[0][1]


def give(made: Made, actor: Actor | None = BOB, **more: Any) -> Given:
    return approvals.give(made.root, more.pop("target", "1.0.0"), "approve", "tried it", actor=actor, **more)


def key_of(made: Made, owner: str) -> Path:
    return made.key(owner)[1]


# --- giving ---------------------------------------------------------------------------------------------------------------


def test_an_approval_counts_and_says_to_what(made: Made) -> None:
    given_one, version = give(made), version_of(made)
    panel = said(made)
    assert [voice.by for voice in panel.counted] == ["bob"] and panel.wanting == [] and not panel.counted[0].solo
    found = panel.approvals[0]
    assert (found.by, found.evidence_digest) == ("bob", version.evidence_digest)
    assert found.policy_digest == approvals.policy_digest_of(made.root)
    with made.database.read() as connection:
        event = next(events.read(connection, kind="approval_given"))
        standing = approvals.standing(
            connection, version.model, version.release, clock.read(), root=made.root, version=version
        )
        of_release = approvals.standing(connection, version.model, version.release, clock.read(), root=made.root)
    assert (event.subject, event.payload["id"], event.payload["act"]) == ("1.0.0", given_one.id, PRODUCTION)
    assert standing == of_release == panel.approvals
    assert "bob" not in json.dumps(event.payload) and "tried" not in json.dumps(event.payload)


def test_the_same_yes_twice_is_one(made: Made) -> None:
    assert give(made) == give(made)
    assert made.kinds().count("approval_given") == 1


def test_a_yes_without_a_reason_is_not_taken(small: Made) -> None:
    with pytest.raises(UsageError, match="say why"):
        approvals.give(small.root, "1.0.0", "approve", "  ", actor=BOB)


def test_case_D10_what_has_lost_its_files_cannot_be_approved(small: Made) -> None:
    version = version_of(small)
    (store.folder(small.root, version.model, "1.0.0") / "adapter" / "adapter_model.safetensors").unlink()
    with pytest.raises(Refused, match=r"cannot be approved: .*adapter_model.safetensors is missing"):
        give(small)
    assert "approval_given" not in small.kinds()


def test_case_H3_nothing_is_approved_while_the_ledger_is_away(small: Made, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SLIPWAY_LEDGER_URL", "postgresql+psycopg://nobody@127.0.0.1:9/nothing")
    with pytest.raises(Transient, match="does not answer"):
        give(small)


def test_case_H4_whatever_is_given_as_a_reason_is_one_line_of_the_ledger(small: Made) -> None:
    approvals.give(small.root, "1.0.0", "approve", "line\nbreak\x1b[31m\x00 \udcff" + "x" * 10_000_000, actor=BOB)
    with small.database.read() as connection:
        texts = [text for text in sealed.texts(connection).values() if text and text.startswith("line")]
    assert len(texts) == 1 and "\n" not in texts[0] and "\x1b" not in texts[0] and len(texts[0]) < 5_000
    assert said(small).people == ["bob"]


# --- who --------------------------------------------------------------------------------------------------------------------


def test_case_F2_whoever_asked_for_it_cannot_approve_it(made: Made) -> None:
    with pytest.raises(Refused, match=r"ada cannot approve support-desk 1\.0\.0 .*: ada asked for the release"):
        give(made, ADA)
    assert "approval_given" not in made.kinds()


@pytest.mark.parametrize("name", ["ada-admin", "ADA", "Ada.Lovelace@Example.org", "ａｄａ", "ada\u200b", " ada "])
def test_case_F2_nor_under_another_name(small: Made, name: str) -> None:
    small.approvers(people={"ada": {"names": ["ada-admin", "ada.lovelace@example.org"]}})
    with pytest.raises(Refused, match="ada asked for the release"):
        give(small, Actor(name, "os-user"))


def test_case_F2_nor_with_a_key_of_theirs(small: Made) -> None:
    fingerprint, file = keys.new(small.root, "somebody else", small.root / "people")
    small.approvers(people={"ada": {"names": [], "keys": [fingerprint[:16]]}})
    with pytest.raises(Refused, match="ada asked for the release"):
        give(small, None, key=file)
    own = key_of(small, "ada")
    with pytest.raises(Refused, match="ada asked for the release"):
        give(small, None, key=own)


@pytest.mark.parametrize("via", ["flow", "service", "prefect", "", "os-user ", "key:" + "0" * 64])
def test_case_F2_a_service_or_a_flow_cannot_approve(small: Made, via: str) -> None:
    with pytest.raises(Refused, match="a person does"):
        give(small, Actor("bob", via))


def test_case_F1_a_name_that_a_variable_claims_is_nobodys(small: Made, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SLIPWAY_ACTOR", "bob")
    with pytest.raises(Refused, match="known here only through flow"):
        give(small, None)
    monkeypatch.delenv("SLIPWAY_ACTOR")
    for name in ("LOGNAME", "USER", "LNAME", "USERNAME"):
        monkeypatch.setenv(name, "grace")
    assert Actor.here().name != "grace"


def test_where_nobody_knows_who_asked_nobody_can_approve(small: Made) -> None:
    with small.database.write() as connection:
        sealed.erase(connection, "ada")
    with pytest.raises(Refused, match="nobody knows who asked"):
        give(small)


def test_solo_is_said_in_the_ledger_and_in_the_decision(made: Made) -> None:
    made.approvers(solo=True)
    give(made, ADA)
    panel = said(made)
    assert panel.counted[0].solo and panel.finding and "solo: asked for it too" in panel.finding.reason
    with made.database.read() as connection:
        assert next(events.read(connection, kind="approval_given")).payload["solo"] is True
    made.approvers(solo=False)
    assert "ada asked for the release" in why(made)


def test_roles_and_quorum_count_people_not_approvals(small: Made) -> None:
    people = {"bob": {"names": ["robert"]}, "carol": {}, "dora": {}}
    roles = {"owner": ["bob", "carol"], "security": ["carol"]}
    small.approvers(
        people=people, roles=roles, transitions={PRODUCTION: {"approvals": 2, "roles": {"owner": 1, "security": 1}}}
    )
    give(small, BOB)
    assert give(small, Actor("Robert", "os-user")).id == said(small).counted[0].id
    assert said(small).wanting == ["1 more approval", "1 of the role security"]
    with pytest.raises(Refused, match="dora has none of the roles that count for Staging→Production: owner, security"):
        give(small, Actor("dora", "os-user"))
    give(small, CAROL)
    assert said(small).wanting == [] and said(small).people == ["bob", "carol"]
    small.approvers(
        people=people,
        roles=roles | {"security": ["dora"]},
        transitions={PRODUCTION: {"approvals": 1, "roles": {"security": 1}}},
    )
    assert said(small).people == []  # judged by who has which role now


# --- keys -------------------------------------------------------------------------------------------------------------------


def test_a_signed_approval_is_its_keys_owners(made: Made) -> None:
    made.approvers(signature=True)
    with pytest.raises(Refused, match="must be signed with the approver's own key"):
        give(made, BOB)
    file = key_of(made, "bob")
    known = give(made, None, key=file)
    assert known.via == f"key:{keys.of_private(file)}" and said(made).people == ["bob"]
    keys.revoke(made.root, known.key, "lost")
    assert "was revoked" in why(made)


def test_an_approval_outlives_the_rotation_of_the_projects_key(small: Made) -> None:
    give(small)
    keys.rotate(small.root)
    assert said(small).people == ["bob"]


def test_a_key_for_models_approves_nothing_and_one_for_approvals_vouches_for_no_model(small: Made) -> None:
    _, project_key = keys.signing_key(small.root)
    with pytest.raises(Refused, match="signs models, not what people say"):
        give(small, None, key=project_key)
    stranger = small.root / "stranger.pem"
    shutil.copy(key_of(small, "eve"), stranger)
    trust = keys.load(keys.folder(small.root) / keys.FILE)
    fingerprint = keys.of_private(stranger)
    keys.Trust(keys={k: v for k, v in trust.keys.items() if k != fingerprint}, signing=trust.signing).save(
        keys.folder(small.root) / keys.FILE
    )
    stranger.chmod(0o600)
    with pytest.raises(Refused, match="nobody here trusts the key"):
        give(small, None, key=stranger)


def test_a_key_that_others_can_read_signs_nothing(small: Made) -> None:
    file = key_of(small, "bob")
    file.chmod(0o644)
    with pytest.raises(Refused, match="may be read by others"):
        give(small, None, key=file)


# --- bound to one thing -----------------------------------------------------------------------------------------------------


def test_case_F3_another_policy_voids_it(made: Made) -> None:
    give(made)
    made.policy.write_text(made.policy.read_text() + "\n# a word more\n")
    assert "is to the policy digest " in (found := why(made)) and approvals.policy_digest_of(made.root)[:16] in found


@pytest.mark.parametrize("name", ["evidence_digest", "identity"])
def test_case_F3_another_model_or_other_evidence_voids_it(made: Made, name: str) -> None:
    give(made)
    other = version_of(made).model_copy(update={name: "f" * 64})
    about = About.of(other, approvals.policy_digest_of(made.root))
    with made.database.read() as connection:
        found = panel.examine(
            connection, Approvers.load(made.root), vouching.trust(made.root), about, PRODUCTION, clock.read()
        )
    assert found.counted == [] and f"is to the {name.replace('_', ' ')} " in found.not_counted[0][1]


def test_case_F3_a_yes_to_staging_is_none_to_production(made: Made) -> None:
    give(made, act="None→Staging")
    assert why(made) == "is for None→Staging, not for Staging→Production"
    assert said(made, act="None→Staging").people == ["bob"]


def test_case_F3_a_yes_to_one_version_is_none_to_another(small: Made) -> None:
    small.version("1.1.0", whole=False)
    give(small)
    assert said(small, number="1.1.0").counted == []


def test_case_F3_an_expired_one_is_void_and_stays_void_when_the_clock_is_set_back(made: Made) -> None:
    give(made, hours=2)
    assert said(made, now=later(hours=1.9)).people == ["bob"]
    assert "expired at" in why(made, now=later(hours=2.1))
    with made.database.write() as connection:
        approvals.sweep(connection, "support-desk", later(hours=3))
    assert "expired (event" in why(made)
    assert made.kinds().count("approval_expired") == 1


def test_case_C10_a_clock_set_back_revives_nothing(made: Made) -> None:
    give(made, hours=2)
    after = later(hours=3)
    back = Reading(after.at - timedelta(hours=2.5), after.boot, after.ticks_ms)
    assert "expired" in why(made, now=back)  # half an hour by the wall, three hours by the time since the start
    booted = Reading(clock.read().at - timedelta(days=1), "another start", 5)
    assert "set it right" in why(made, now=booted)


@pytest.mark.parametrize("days", [1, 400])
def test_case_C10_a_clock_that_jumps_ahead_ends_it_rather_than_prolongs_it(small: Made, days: int) -> None:
    now = clock.read()
    ahead = Reading(now.at + timedelta(days=days), now.boot, now.ticks_ms)
    give(small, hours=2, now=ahead)  # given under a wrong clock, which is set right afterwards
    right = Reading(now.at + timedelta(hours=3), now.boot, now.ticks_ms + 3 * 3_600_000)
    assert "expired" in why(small, now=right)


def test_case_F3_a_used_one_is_void(made: Made) -> None:
    known = give(made)
    told = {"version": "1.0.0", "from": "Staging", "to": "Production", "approvals": [known.id]}
    with made.database.write() as connection:
        events.append(connection, "stage_transition", "support-desk", "1.0.0", told, BOB)
    assert "was used for Staging→Production (event" in why(made)


def test_case_F3_a_nonce_is_used_once(small: Made) -> None:
    known = give(small)
    with pytest.raises(SlipwayError), small.database.write() as connection:
        given.add_approval(connection, known.model_dump(mode="json"), "valid", 99)


@pytest.mark.parametrize("hours", [0, -1, 73, float("nan"), float("inf")])
def test_it_holds_for_as_long_as_the_project_allows(small: Made, hours: float) -> None:
    with pytest.raises(UsageError, match="at most 72 h"):
        give(small, hours=hours)


# --- taking back, saying no -------------------------------------------------------------------------------------------------


def test_a_revoked_one_is_void_whatever_the_table_says(made: Made) -> None:
    known = give(made)
    assert approvals.revoke(made.root, "1.0.0", "found a bug", actor=CAROL) == [known.id]
    with made.database.write() as connection:
        given.set_approval(connection, known.id, "valid")
    assert "was revoked (event" in why(made)
    with pytest.raises(UsageError, match="say why"):
        approvals.revoke(made.root, "1.0.0", "", actor=CAROL)


def test_a_no_that_was_taken_back_says_so(small: Made) -> None:
    known = approvals.give(small.root, "1.0.0", "reject", "it swears", actor=CAROL)
    approvals.revoke(small.root, known.id, "it was another model", actor=CAROL)
    ((identifier, reason),) = said(small).not_counted
    assert identifier == known.id and "was revoked (event" in reason


def test_a_no_that_somebody_wrote_into_is_still_one(small: Made) -> None:
    approvals.give(small.root, "1.0.0", "reject", "it swears", actor=CAROL)
    told = {"id": "1", "act": PRODUCTION, "expires": "never"}
    with small.database.write() as connection:
        events.append(connection, "approval_rejected", "support-desk", "1.0.0", told, BOB)
    assert [voice.by for voice in said(small).rejections] == ["carol", "(unreadable)"]


def test_a_used_one_can_be_revoked_so_that_who_acts_on_it_turns_back(small: Made) -> None:
    known = give(small)
    with small.database.write() as connection:
        approvals.use(
            connection, approvals.panel_of(connection, small.root, version_of(small), PRODUCTION, clock.read())
        )
    assert approvals.revoke(small.root, known.id[:8], "found a bug", actor=CAROL) == [known.id]
    with pytest.raises(Refused, match="is revoked already"):
        approvals.revoke(small.root, known.id[:8], "again", actor=CAROL)


def test_a_no_stands_until_its_giver_takes_it_back(made: Made) -> None:
    give(made, BOB)
    no = approvals.give(made.root, "1.0.0", "reject", "it swears", actor=CAROL)
    panel = said(made)
    assert (
        panel.finding
        and panel.finding.verdict == "refuse"
        and "carol has rejected it: it swears" in panel.finding.reason
    )
    with pytest.raises(Refused, match="only theirs to take back"):
        approvals.revoke(made.root, no.id, "no matter", actor=BOB)
    with made.database.write() as connection:
        connection.execute(delete(rows).where(rows.c.id == no.id))
    assert len(said(made).rejections) == 1  # its event is enough
    with made.database.write() as connection:
        event = next(events.read(connection, kind="approval_rejected"))
        given.add_approval(connection, no.model_dump(mode="json"), "rejected", event.sequence)
    approvals.revoke(made.root, no.id, "it was the prompt", actor=CAROL)
    assert said(made).finding is not None and said(made).finding.verdict == "pass"  # type: ignore[union-attr]


def test_the_list_says_what_each_is_worth(small: Made) -> None:
    give(small)
    made_by = approvals.listed(small.root, "1.0.0")
    assert [(one["by"], one["state"]) for one in made_by] == [("bob", "counts")]
    small.policy.write_text(small.policy.read_text() + "\n")
    assert approvals.listed(small.root, None)[0]["state"] == "void"


# --- forgery ----------------------------------------------------------------------------------------------------------------

Mutation = Callable[[Json], Json]


class Undone(SlipwayError):
    """Ends a transaction without a trace."""


class Forger:
    """Somebody who can write every table, drop every trigger and compute every hash, and has no private key."""

    def __init__(self, made: Made, known: Given) -> None:
        self.made, self.known, self.version = made, known, version_of(made)
        self.rules, self.trust = Approvers.load(made.root), vouching.trust(made.root)
        self.tried = self.accepted = 0

    def counts(self, forge: Callable[[Any], Any], about: About | None = None, act: str = PRODUCTION) -> int:
        """How many approvals count after a forgery that is rolled back again."""
        self.tried += 1
        asked = about or About.of(self.version, approvals.policy_digest_of(self.made.root))
        with pytest.raises(Undone), self.made.database.write() as connection:
            forge(connection)
            found = panel.examine(connection, self.rules, self.trust, asked, act, clock.read())
            raise Undone
        self.accepted += len(found.counted)
        return len(found.counted)

    def row(self, change: Mutation) -> Callable[[Any], None]:
        """The row alone says something else."""

        def forge(connection: Any) -> None:
            about = change(self.known.model_dump(mode="json"))
            connection.execute(update(rows).values(about=chain.canonical(about)))

        return forge

    def row_and_event(self, change: Mutation) -> Callable[[Any], None]:
        """Row, columns and event say the same other thing, every hash right."""

        def forge(connection: Any) -> None:
            about = change(self.known.model_dump(mode="json"))
            columns = {name: str(about.get(name)) for name in ("id", "model", "release")}
            connection.execute(update(rows).values(about=chain.canonical(about), **columns))
            _retell(connection, about)

        return forge


def _retell(connection: Any, about: Json) -> None:
    """Write the event anew, as the triggers would not allow, and hash it as it should be."""
    for (name,) in connection.exec_driver_sql("SELECT name FROM sqlite_master WHERE type = 'trigger'").fetchall():
        connection.exec_driver_sql(f"DROP TRIGGER {name}")
    row = connection.execute(select(event_rows).where(event_rows.c.kind == "approval_given")).one()
    event = events.of_row(row)
    told = {name: about.get(name) for name in ("id", "release", "version", "evidence_digest", "policy_digest", "act")}
    told |= {"expires": about.get("expires"), "digest": vouching.digest_of(about)}
    changed = event.model_copy(update={"payload": {**event.payload, **told}, "subject": str(about.get("version"))})
    changed = changed.model_copy(update={"hash": chain.hash_of(changed)})
    values = {"payload": chain.canonical(changed.payload), "hash": changed.hash, "subject": changed.subject}
    connection.execute(update(event_rows).where(event_rows.c.sequence == row.sequence).values(values))


def _set(name: str, value: Any) -> Mutation:
    return lambda about: about | {name: value}


def _without(name: str) -> Mutation:
    return lambda about: {key: value for key, value in about.items() if key != name}


def mutations(known: Given) -> Iterator[tuple[str, Mutation]]:
    """Every field, each in ways that change it."""
    for name, value in known.model_dump(mode="json").items():
        yield f"{name} removed", _without(name)
        others: list[Any] = [
            None,
            "",
            0,
            -1,
            10**30,
            True,
            [],
            {},
            "all",
            "*",
            "None→Staging",
            "f" * 64,
            "2099-01-01T00:00:00.000000Z",
        ]
        if isinstance(value, str):
            others += [value + " ", value[:-1], value.upper(), value + "\u200b", value.replace("a", "а"), value[::-1]]
        if isinstance(value, int):
            others += [value + 1, value - 1, float(value) + 0.5, str(value)]
        if isinstance(value, dict):
            others += [value | {"digest": "0" * 64}, value | {"sealed": "0" * 16}, [value]]
        yield from ((f"{name} = {str(other)[:40]!r}", _set(name, other)) for other in others if other != value)
    yield "a field more", _set("note", "x")


def test_case_F1_no_forged_approval_counts(small: Made) -> None:
    forger = Forger(small, give(small))
    assert forger.counts(lambda connection: None) == 1  # as it was given
    forger.tried = forger.accepted = 0
    for name, change in mutations(forger.known):
        assert forger.counts(forger.row(change)) == 0, name
        assert forger.counts(forger.row_and_event(change)) == 0, f"{name}, and its event"
    assert (forger.tried >= 600, forger.accepted) == (True, 0)


def test_case_F1_a_yes_cannot_be_carried_over_to_what_it_was_not_given_to(small: Made) -> None:
    """The forger asks about exactly what the forged words say: only the signature is left to stop it."""
    small.version("1.1.0", whole=False)
    forger, other = Forger(small, give(small)), version_of(small, "1.1.0")
    asked = About.of(other, approvals.policy_digest_of(small.root))
    assert forger.counts(forger.row_and_event(lambda about: about | asked.__dict__), asked) == 0
    assert forger.counts(forger.row_and_event(_set("act", "None→Staging")), act="None→Staging") == 0
    fresh = {"expires": "2099-01-01T00:00:00.000000Z", "lifetime_ms": 10**12}
    assert forger.counts(forger.row_and_event(lambda about: about | fresh)) == 0


def test_case_F1_rows_and_events_written_by_hand_count_for_nothing(small: Made, tmp_path: Path) -> None:
    forger = Forger(small, give(small))
    stranger = keys.new(made_versions.project(tmp_path / "elsewhere").root, "bob", tmp_path / "stranger")
    private = keys.signing_key(tmp_path / "elsewhere")

    def invented(change: Json, told: bool, sign: Callable[[Json], str] | None = None) -> Callable[[Any], None]:
        def forge(connection: Any) -> None:
            connection.execute(delete(rows))
            about = forger.known.model_dump(mode="json") | {"id": "ab" * 16} | change
            if sign is not None:
                about["signature"] = sign({k: v for k, v in about.items() if k != "signature"})
            sequence = 1
            if told:
                payload = {"id": about["id"], "digest": vouching.digest_of(about)}
                sequence = events.append(connection, "approval_given", "support-desk", "1.0.0", payload, BOB).sequence
            values = {name: about[name] for name in ("id", "model", "release")}
            connection.execute(
                insert(rows).values(**values, state="valid", about=chain.canonical(about), sequence=sequence)
            )

        return forge

    def by(file: Path) -> Callable[[Json], str]:
        return lambda about: signatures.sign(file, panel.PURPOSE, about)

    def for_another_purpose(about: Json) -> str:
        return signatures.sign(keys.signing_key(small.root)[1], "promotion", about)

    for told in (False, True):
        assert forger.counts(invented({}, told)) == 0  # somebody else's signature
        assert forger.counts(invented({"signature": ""}, told)) == 0
        assert forger.counts(invented({"signature": "00" * 70}, told)) == 0
        assert forger.counts(invented({"key": stranger[0], "via": f"key:{stranger[0]}"}, told, by(stranger[1]))) == 0
        assert forger.counts(invented({"key": private[0]}, told, by(private[1]))) == 0
        assert forger.counts(invented({}, told, by(private[1]))) == 0
        assert forger.counts(invented({}, told, for_another_purpose)) == 0
    keys_of_here = keys.signing_key(small.root)
    assert forger.counts(invented({}, True, by(keys_of_here[1]))) == 1  # the control: only the key was missing
    assert forger.counts(invented({}, False, by(keys_of_here[1]))) == 0  # and with the key, the event


def test_case_F1_an_approval_whose_event_was_touched_or_removed_is_void(small: Made) -> None:
    forger = Forger(small, give(small))
    small.version("1.1.0", whole=False)  # events after it

    def drop(connection: Any) -> None:
        _retell(connection, forger.known.model_dump(mode="json"))
        connection.execute(delete(event_rows).where(event_rows.c.kind == "approval_given"))

    def touch(connection: Any) -> None:
        _retell(connection, forger.known.model_dump(mode="json"))
        connection.execute(text("UPDATE events SET at = '2020-01-01T00:00:00.000000Z' WHERE kind = 'approval_given'"))

    def rehash(connection: Any) -> None:
        _retell(connection, forger.known.model_dump(mode="json") | {"lifetime_ms": 1})

    def rename(connection: Any) -> None:
        connection.execute(text("UPDATE sealed SET text = 'carol' WHERE text = 'bob'"))

    for forge in (drop, touch, rehash, rename):
        assert forger.counts(forge) == 0, forge.__name__


@pytest.mark.parametrize(
    "changes",
    [{"state": state} for state in ("revoked", "used", "expired", "rejected", "VALID", "")]
    + [{"sequence": sequence} for sequence in (0, 1, 2, 10**9)]
    + [{"id": "0" * 32}, {"model": "other"}, {"release": "other"}, {"about": "{"}, {"about": "[]"}, {"about": "null"}],
)
def test_case_F1_a_row_whose_columns_say_something_else_is_void(small: Made, changes: Json) -> None:
    forger = Forger(small, give(small))
    assert forger.counts(lambda connection: connection.execute(update(rows).values(**changes))) == 0


@pytest.mark.chaos
def test_case_F1_ten_thousand_random_forgeries(small: Made) -> None:
    """Several fields at once, at random, in the row or in row and event; seed 4."""
    forger, draw = Forger(small, give(small)), random.Random(4)
    every = [change for _, change in mutations(forger.known)]
    for _ in range(10_000):
        chosen = draw.sample(every, draw.randint(1, 4))

        def change(about: Json, chosen: list[Mutation] = chosen) -> Json:
            for one in chosen:
                about = one(about)
            return about

        if change(forger.known.model_dump(mode="json")) != forger.known.model_dump(mode="json"):
            forge = forger.row if draw.random() < 0.5 else forger.row_and_event
            forger.counts(forge(change))
    assert forger.tried > 9_000 and forger.accepted == 0
