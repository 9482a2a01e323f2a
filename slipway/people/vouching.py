"""Who speaks, and proof that they did: what approvals, waivers, break-glass and promotions have in common.

Somebody speaks as the account that runs this process, for which the project's key vouches, or with a key of their own.
Everything they say is signed over canonical JSON behind a word for its purpose. What is read back counts only with that
signature, the event that told it, and an event before and after which both still fit.
"""

import contextlib
from collections.abc import Collection, Iterator
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from typing import Any

from sqlalchemy import Connection

from slipway import digest
from slipway.artifacts import Json
from slipway.errors import Refused, SlipwayError
from slipway.ledger import chain, clock, given, sealed, signatures
from slipway.ledger.chain import Event
from slipway.ledger.clock import Reading
from slipway.ledger.events import Actor
from slipway.people import approvers
from slipway.people.approvers import Approvers
from slipway.registry import keys
from slipway.registry.keys import Trust

ACCOUNT = "os-user"


@dataclass(frozen=True)
class Speaker:
    """Somebody who may say something here, and the key that it is signed with."""

    name: str
    via: str  # os-user | key:FINGERPRINT
    key: str
    private: Path

    @property
    def actor(self) -> Actor:
        return Actor(self.name, self.via)

    @property
    def own_key(self) -> str | None:
        return self.key if self.via != ACCOUNT else None


def speaker(root: Path, actor: Actor | None, key: Path | None, what: str) -> Speaker:
    """Whoever speaks: by a key of theirs, or as the account that runs this; Refused for everything that is no person."""
    if key is not None:
        return _by_key(root, key)
    who = actor or Actor.here()
    if who.via != ACCOUNT:
        raise Refused(
            f"{sealed.cleaned(who.name)} is known here only through {sealed.cleaned(who.via)}, which cannot {what}: a person does, "
            f"at a terminal of their own or with a key (--key FILE; `slipway keys new` makes one)"
        )
    return Speaker(who.name, ACCOUNT, *keys.signing_key(root))


def _by_key(root: Path, private: Path) -> Speaker:
    fingerprint = keys.of_private(private)
    known = trust(root).keys.get(fingerprint)
    if known is None:
        raise Refused(
            f"nobody here trusts the key {fingerprint[:16]}; `slipway keys trust FILE --for-approvals --owner NAME`"
        )
    if known.purpose != "approvals":
        raise Refused(
            f"the key {fingerprint[:16]} signs models, not what people say; `slipway keys new --owner NAME` makes one"
        )
    if doubt := known.doubt(keys.now(), keys.now()):
        raise Refused(f"the key {fingerprint[:16]} {doubt}; `slipway keys new` makes another")
    if Approvers.load(root).owner_of(fingerprint) is None:
        raise Refused(f"the key {fingerprint[:16]} {_UNLISTED}; {listing(known.owner, fingerprint)}")
    return Speaker(known.owner, f"key:{fingerprint}", fingerprint, private)


_UNLISTED = f"stands under nobody's name in {approvers.FILE}, so it speaks for nobody"


def listing(owner: str, fingerprint: str) -> str:
    """How a key becomes somebody's."""
    return f"whoever answers for that file adds it to `people`, as in {owner}: {{keys: [{fingerprint[:16]}]}}"


def trust(root: Path) -> Trust:
    return keys.load(keys.folder(root) / keys.FILE)


def sign(speaker: Speaker, purpose: str, statement: Json) -> Json:
    """A statement with the key and the signature over all the rest of it."""
    signed = statement | {"via": speaker.via, "key": speaker.key}
    return signed | {"signature": signatures.sign(speaker.private, purpose, signed)}


def digest_of(about: Json) -> str:
    """What an event says of a row, so that neither can change alone."""
    return digest.of_bytes(chain.canonical(about).encode())


# --- reading it back ---------------------------------------------------------------------------------------------------


def doubt_of_signature(trust: Trust, purpose: str, about: Json, now: Reading) -> str | None:
    """Why nobody vouches for a statement; None when somebody does."""
    fingerprint, via = str(about["key"]), str(about["via"])
    known = trust.keys.get(fingerprint)
    if via not in (ACCOUNT, f"key:{fingerprint}"):
        return f"says it was given through {sealed.cleaned(via)[:60]}, and the key is {fingerprint[:16]}"
    wanted = "project" if via == ACCOUNT else "approvals"
    if known is not None and known.purpose != wanted:
        return f"is signed by the key {fingerprint[:16]}, which is trusted for {known.purpose} alone"
    if known is None:
        return f"is signed by the key {fingerprint[:16]}, which nobody here trusts"
    said = {name: value for name, value in about.items() if name != "signature"}
    if not signatures.is_of(known.public, purpose, said, str(about["signature"])):
        return f"does not bear the signature of the key {fingerprint[:16]}"
    doubt = known.doubt(clock.moment(str(about["at"])).replace(microsecond=0), now.at)
    return f"is signed by the key {fingerprint[:16]}, which {doubt}" if doubt else None


def doubt_of_name(trust: Trust, rules: Approvers, via: str, name: str) -> str | None:
    """Why a word that is signed with a trusted key is not that of whom it names; None when it is.

    A signature says which key, and the trust file whose that is. Names in a statement are the signer's to choose.
    """
    if via == ACCOUNT:
        asked = f"is not signed with its giver's own key, which {approvers.FILE} asks for (`--key FILE`)"
        return asked if rules.signature else None
    fingerprint = via.removeprefix("key:")
    owner = sealed.cleaned(trust.keys[fingerprint].owner)
    if name != owner:
        return f"bears the name {name}, and the key {fingerprint[:16]} is {owner}'s"
    return (
        f"is signed by the key {fingerprint[:16]}, which {_UNLISTED}" if rules.owner_of(fingerprint) is None else None
    )


def doubt_of_row(
    connection: Connection, row: Any, about: Json, kind: str, subject: str
) -> tuple[Event | None, str | None]:
    """The event that tells a row, and why it does not; the row's columns must say what the signed words say."""
    for name in ("id", "model", "release"):
        if getattr(row, name) != about.get(name):
            return None, f"has the {name} {getattr(row, name)} in the table, signed was {about.get(name)}"
    try:
        event = given.told(connection, row.sequence)
    except chain.Broken as broken:
        return None, f"is told by no sound event ({broken})"
    if (event.kind, event.model, event.subject) != (kind, row.model, subject):
        return None, f"is told by event {row.sequence}, which is {event.kind} of {event.model} {event.subject}"
    if event.payload.get("id") != row.id or event.payload.get("digest") != digest_of(about):
        return None, f"is not what event {row.sequence} tells"
    return event, None


def check_chain(connection: Connection, model: str, subjects: Collection[str], name: str) -> None:
    """Refused where an event was changed or taken out since a version's release began.

    A no, a revocation and who asked for it say what they say by standing there: only the chain shows that one is gone.
    """
    try:
        given.check_since(connection, model, subjects)
    except chain.Broken as broken:
        raise Refused(
            f"nothing is decided about {name}: the ledger was changed behind its back ({broken}); "
            f"`slipway audit verify` says where, then restore it"
        ) from None


def is_over(connection: Connection, about: Json, sequence: int, now: Reading, most_hours: int | None = None) -> bool:
    """Whether its time has passed, by the wall clock or by the time that has credibly passed: either is enough.

    `most_hours`: what the rules allow now, however long it was given for.
    """
    at, lifetime = clock.moment(str(about["at"])), int(about["lifetime_ms"])
    lifetime = min(lifetime, most_hours * 3_600_000) if most_hours else lifetime
    if now.at >= min(clock.moment(str(about["expires"])), at + timedelta(milliseconds=lifetime)):
        return True
    then = Reading(at, str(about["boot"]), int(about["ticks_ms"]))
    return given.passed_ms(connection, then, sequence, now) >= lifetime


def text_of(connection: Connection, held: Json) -> str | None:
    """What a person is called or has written; None where it was erased or is not what was signed."""
    sound, text = given.text(connection, held)
    return text if sound else None


@contextlib.contextmanager
def unreadable() -> Iterator[list[str]]:
    """Whatever a row that was written by hand makes the reader stumble on is a reason not to count it."""
    found: list[str] = []
    try:
        yield found
    except SlipwayError as error:
        found.append(str(error))
    except (KeyError, TypeError, ValueError, AttributeError, OverflowError) as error:
        found.append(f"cannot be read ({type(error).__name__})")
