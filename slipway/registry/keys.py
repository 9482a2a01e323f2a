"""Whose signature counts: the keys of a project, in the state folder.

A key signs until it is *retired* (a new one took its place), and is believed until it *expires*; *revoked*, it is not
believed at all, and never for what is dated before it was made here. Expiry goes by the verifier's clock. Retirement goes by the time in the signed statement, which is the
signer's clock: good enough for a key that was merely replaced (its private half is destroyed then), and the reason why a
key that may be in other hands must be revoked, whatever time its statements claim.
"""

import contextlib
import fcntl
import os
import stat
from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Annotated, Literal

from pydantic import AwareDatetime, Field

from slipway import atomic, digest, settings
from slipway.artifacts import Artifact
from slipway.errors import Refused, StageError, UsageError

FOLDER, FILE = "keys", "trust.json"
DAYS = 1095  # how long a key is believed, where nobody says otherwise
MOST_DAYS = 36_500
# What a key is believed about. `project`: what this project itself says (its models, what serves, where its ledger ends, and
# which account spoke). `models`: another's models, nothing else. `approvals`: a person's yes, which vouches for no model.
Purpose = Literal["project", "models", "approvals"]
Moment = Annotated[AwareDatetime, Field(strict=False)]  # artifacts are strict, and JSON has no moments


class Key(Artifact):
    """A public key that somebody trusts, and for how long."""

    public: str  # PEM
    owner: str
    created: Moment  # when it came into the trust file
    made: Moment | None = None  # when the key itself was, where that is known: another's may be older than our trust
    expires: Moment
    retired: Moment | None = None
    revoked: Moment | None = None
    reason: str | None = None  # why it was revoked
    purpose: Purpose = "models"

    def vouches(self, what: Purpose) -> bool:
        return self.purpose == what or (self.purpose, what) == ("project", "models")

    def doubt(self, signed: datetime, now: datetime) -> str | None:
        """Why a statement that it signed at one time is not believed at another; None when it is."""
        if self.revoked:
            return f"was revoked at {shown(self.revoked)} ({self.reason})"
        if now >= self.expires:
            return f"expired at {shown(self.expires)}"
        if self.retired and signed > self.retired:
            return f"was retired at {shown(self.retired)}, before the statement of {shown(signed)}"
        if self.made and signed < self.made:
            return f"was made at {shown(self.made)}, after the statement of {shown(signed)}"
        return None

    def state(self, now: datetime) -> str:
        if self.revoked:
            return "revoked"
        if now >= self.expires:
            return "expired"
        return "retired" if self.retired else "valid"


class Identity(Artifact):
    """Somebody who signs without a key of their own, as Sigstore's certificates name them."""

    name: str  # an e-mail address or a workflow's address
    issuer: str


class Trust(Artifact):
    """`trust.json`: every key and identity that may have signed, and the key that signs here."""

    keys: dict[str, Key] = Field(default_factory=dict)  # fingerprint → key
    identities: list[Identity] = Field(default_factory=list)
    signing: str | None = None  # fingerprint

    def find(self, fingerprint: str) -> tuple[str, Key]:
        """A key by its fingerprint or the start of it; UsageError where none or several fit."""
        fitting = [name for name in self.keys if name.startswith(fingerprint.lower())]
        if len(fitting) != 1 or not fingerprint:
            what = "no key" if not fitting else f"{len(fitting)} keys"
            raise UsageError(f"{what} {fingerprint!r} in the trust file; `slipway keys list` shows them")
        return fitting[0], self.keys[fitting[0]]


def now() -> datetime:
    return datetime.now(UTC).replace(microsecond=0)


def shown(moment: datetime) -> str:
    return moment.astimezone(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")


def folder(root: Path) -> Path:
    return settings.state_folder(root) / FOLDER


def load(path: Path) -> Trust:
    """A trust file, with every fingerprint checked; nobody is trusted where there is none."""
    if not path.is_file():
        return Trust()
    try:
        trust = Trust.load(path)
    except StageError as error:
        what = str(error).rpartition(";")[0]
        raise StageError(f"{what}; nobody is trusted until it is whole: restore it from a copy you trust") from None
    for fingerprint, key in trust.keys.items():
        if (found := fingerprint_of(key.public.encode())) != fingerprint:
            raise StageError(f"{path} lists the key {found} as {fingerprint}; restore the file from a copy you trust")
    return trust.model_copy(update={"keys": {name: _of_today(trust, name, key) for name, key in trust.keys.items()}})


def _of_today(trust: Trust, fingerprint: str, key: Key) -> Key:
    """A key of the project's own from before that was a purpose: only here is it known when a key was made."""
    own = key.purpose == "models" and (key.made is not None or fingerprint == trust.signing)
    return key.model_copy(update={"purpose": "project"}) if own else key


def fingerprint_of(pem: bytes) -> str:
    """SHA-256 of a public key in the form that signatures name it by; UsageError where it is not such a key."""
    from cryptography.hazmat.primitives import serialization
    from cryptography.hazmat.primitives.asymmetric import ec

    try:
        key = serialization.load_pem_public_key(pem)
    except ValueError:
        raise UsageError("this is not a public key in PEM form; give the file that `slipway keys list` names") from None
    if not isinstance(key, ec.EllipticCurvePublicKey) or key.curve.name not in ("secp256r1", "secp384r1", "secp521r1"):
        raise UsageError("this public key is of another kind; only NIST P-256, P-384 and P-521 keys can sign models")
    return digest.of_bytes(_pem(key))


def _pem(public_key: "object") -> bytes:
    from cryptography.hazmat.primitives import serialization

    return public_key.public_bytes(  # type: ignore[attr-defined, no-any-return]
        serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo
    )


# --- what may be done with them -----------------------------------------------------------------------------------


def signing_key(root: Path) -> tuple[str, Path]:
    """The fingerprint and the private key to sign with; the project's first is made here."""
    if not _had_one(load(folder(root) / FILE)):
        _change(root, lambda trust: trust if _had_one(trust) else _with_new_key(root, trust, DAYS))
    trust = load(folder(root) / FILE)
    if trust.signing is None:
        raise StageError("no key signs in this project since its last one was revoked; `slipway keys rotate` makes one")
    if doubt := trust.keys[trust.signing].doubt(now(), now()):
        raise StageError(f"the signing key {trust.signing[:16]} {doubt}; `slipway keys rotate` makes another")
    return trust.signing, _private(root, trust.signing)


def _had_one(trust: Trust) -> bool:
    """Whether this project ever made a key of its own; another machine's is none."""
    return bool(trust.signing) or any(key.purpose == "project" and key.made for key in trust.keys.values())


def new(root: Path, owner: str, place: Path, days: int = DAYS) -> tuple[str, Path]:
    """A person's key for approvals, its private half in a folder of theirs; its fingerprint and that file."""
    from cryptography.hazmat.primitives.asymmetric import ec

    if not owner.strip() or not owner.isprintable():
        raise UsageError("say whose key it is (--owner NAME), in visible characters: approvals will bear that name")
    _check_days(days)
    private = ec.generate_private_key(ec.SECP256R1())
    pem = _pem(private.public_key())
    name = digest.of_bytes(pem)
    file = place / f"slipway-{name[:16]}.pem"
    public = file.with_suffix(".pub")
    try:
        place.mkdir(parents=True, exist_ok=True)
        _write_private(file, _private_pem(private))
        atomic.write_bytes(public, pem)
    except OSError as error:
        raise UsageError(
            f"{place} takes no key ({error.strerror or error}); name a folder of yours (--folder)"
        ) from None
    trust_key(root, public, owner.strip(), days, "approvals")
    return name, file


def _check_days(days: int) -> None:
    if not 1 <= days <= MOST_DAYS:
        raise UsageError(f"a key cannot be believed for {days} days; give 1 to {MOST_DAYS}")


def of_private(path: Path) -> str:
    """The fingerprint of a private key's file, which nobody else may read."""
    from cryptography.hazmat.primitives import serialization

    if not path.is_file():
        what = "is no file" if path.exists() else "does not exist"
        raise UsageError(f"{path} {what}; name the file that `slipway keys new` has made")
    if stat.S_IMODE(path.stat().st_mode) & 0o077:
        raise Refused(f"{path} may be read by others (mode {stat.S_IMODE(path.stat().st_mode):o}); `chmod 600` it")
    try:
        key = serialization.load_pem_private_key(path.read_bytes(), password=None)
    except (ValueError, TypeError):
        raise UsageError(f"{path} is no private key (PEM); name the file that `slipway keys new` has made") from None
    return fingerprint_of(_pem(key.public_key()))


def rotate(root: Path, days: int = DAYS) -> str:
    """Make a new signing key and retire the present one, whose statements stay good; the new fingerprint."""
    _check_days(days)
    before = load(folder(root) / FILE).signing
    after = _change(root, lambda trust: _with_new_key(root, trust, days)).signing
    assert after is not None
    if before and before != after:
        _private_path(root, before).unlink(missing_ok=True)
    return after


def revoke(root: Path, fingerprint: str, reason: str) -> str:
    """Believe a key no more, whatever it signed and when; the whole fingerprint."""
    if not reason.strip():
        raise UsageError("say why the key is revoked (--reason): whoever verifies will read it")

    def revoked(trust: Trust) -> Trust:
        name, key = trust.find(fingerprint)
        ended = key if key.revoked else key.model_copy(update={"revoked": now(), "reason": reason})
        signing = None if trust.signing == name else trust.signing
        return trust.model_copy(update={"keys": {**trust.keys, name: ended}, "signing": signing})

    _change(root, revoked)
    name = load(folder(root) / FILE).find(fingerprint)[0]
    _private_path(root, name).unlink(missing_ok=True)
    return name


def trust_key(root: Path, public: Path, owner: str, days: int = DAYS, purpose: Purpose = "models") -> str:
    """Believe another's public key too; its fingerprint."""
    _check_days(days)
    pem = public.read_bytes() if public.is_file() else b""
    name = fingerprint_of(pem)

    def trusting(trust: Trust) -> Trust:
        known, begin = trust.keys.get(name), now()
        wider = known and (known.purpose, purpose, known.state(begin)) == ("models", "project", "valid")
        if known and not wider:
            raise UsageError(
                f"the key {name[:16]} stands in the trust file already; `slipway keys list` shows its state"
            )
        end = begin + timedelta(days=days)
        key = Key(public=_normal(pem), owner=owner, created=begin, expires=end, purpose=purpose)
        return trust.model_copy(update={"keys": {**trust.keys, name: key}})

    _change(root, trusting)
    return name


def trust_identity(root: Path, name: str, issuer: str) -> None:
    """Believe what Sigstore says this identity signed."""
    one = Identity(name=name, issuer=issuer)

    def trusting(trust: Trust) -> Trust:
        kept = [known for known in trust.identities if known != one]
        return trust.model_copy(update={"identities": [*kept, one]})

    _change(root, trusting)


# --- the files ------------------------------------------------------------------------------------------------------


def _private_path(root: Path, fingerprint: str) -> Path:
    return folder(root) / f"{fingerprint[:32]}.pem"


def _private(root: Path, fingerprint: str) -> Path:
    """The private key's file, refused where others could have read it."""
    path = _private_path(root, fingerprint)
    if not path.is_file():
        raise StageError(f"{path} does not exist, so nothing can be signed; `slipway keys rotate` makes another key")
    if stat.S_IMODE(path.stat().st_mode) & 0o077:
        raise Refused(
            f"{path} may be read by others (mode {stat.S_IMODE(path.stat().st_mode):o}); "
            f"`slipway keys revoke {fingerprint[:16]}`, then `slipway keys rotate`"
        )
    return path


def _with_new_key(root: Path, trust: Trust, days: int) -> Trust:
    """The trust file with a new signing key, its private half on disk before anybody is told to trust it."""
    from cryptography.hazmat.primitives.asymmetric import ec

    private, begin = ec.generate_private_key(ec.SECP256R1()), now()
    pem = _pem(private.public_key())
    name = digest.of_bytes(pem)
    _write_private(_private_path(root, name), _private_pem(private))
    known = dict(trust.keys)
    if trust.signing:
        known[trust.signing] = known[trust.signing].model_copy(update={"retired": begin})
    owner = f"this project, {begin:%Y-%m-%d}"
    end = begin + timedelta(days=days)
    known[name] = Key(public=pem.decode(), owner=owner, created=begin, made=begin, expires=end, purpose="project")
    return trust.model_copy(update={"keys": known, "signing": name})


def _private_pem(private: "object") -> bytes:
    from cryptography.hazmat.primitives import serialization

    form = (serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
    return private.private_bytes(*form)  # type: ignore[attr-defined, no-any-return]


def _normal(pem: bytes) -> str:
    from cryptography.hazmat.primitives import serialization

    return _pem(serialization.load_pem_public_key(pem)).decode()


def _write_private(path: Path, data: bytes) -> None:
    """Never readable by others, not even for a moment."""
    handle = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    with os.fdopen(handle, "wb") as file:
        file.write(data)
        file.flush()
        os.fsync(handle)
    atomic.fsync_folder(path.parent)


@contextlib.contextmanager
def _alone(place: Path) -> Iterator[None]:
    """One process at a time changes the keys: two first uses must not make two."""
    place.mkdir(parents=True, exist_ok=True, mode=0o700)
    place.chmod(0o700)
    with (place / ".lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield


def _change(root: Path, change: Callable[[Trust], Trust]) -> Trust:
    with _alone(folder(root)):
        trust = change(load(folder(root) / FILE))
        trust.save(folder(root) / FILE)
        return trust
