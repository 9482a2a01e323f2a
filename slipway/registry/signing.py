"""Sign what a model is, and hold a model against what was signed.

`statement.json` says which bytes make the model, what its identity is and on which evidence it was judged;
`statement.sig` is a Sigstore bundle over it, made by model-signing. The library alone would miss hidden folders, empty
folders and file modes, and binds neither name nor release: the statement does, and `verify` looks at every entry.
"""

import os
import stat
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterable, Iterator, Mapping
from datetime import datetime
from pathlib import Path
from typing import ClassVar

from slipway import digest, identity, strict
from slipway.artifacts import Artifact, Manifest, Signature
from slipway.errors import Refused, SlipwayError, StageError, Transient
from slipway.registry import keys

BUNDLE = "statement.sig"
KEYLESS_SECONDS = 60  # the most that Sigstore's services may take
MOST_BYTES = 16_000_000  # of a file that a receipt has; the largest that was seen, a bill of materials, has a hundredth
_SHOWN = 5
Signer = Callable[[Path, Path], None]  # a file, and where the bundle over it goes


class Statement(Artifact):
    """`statement.json`: what is signed."""

    FILE: ClassVar[str] = "statement.json"

    model: str
    version: str | None
    release: str
    at: keys.Moment  # by the signer's clock
    identity: str
    parts: dict[str, str]  # base, adapter, tokenizer, chat_template, generation, quantisation → digest
    files: dict[str, str]  # base/… and adapter/…, the manifests too → SHA-256
    evidence_digest: str
    policy_digest: str


class About(Artifact):
    """What a statement binds beside the model's own bytes."""

    model: str
    version: str | None
    release: str
    evidence_digest: str
    policy_digest: str


# --- signing --------------------------------------------------------------------------------------------------------


def sign(root: Path, folder: Path, about: About, base: Path, adapter: Path, keyless: bool = False) -> Signature:
    """Write statement and signature into a folder, and verify them as anybody else would."""
    sign_file = signer(root, keyless)
    statement = Statement(
        **about.model_dump(),
        at=keys.now(),
        identity=identity.identity(base, adapter),
        parts=identity.parts(base, adapter),
        files=files_of(base, adapter),
    )
    path, bundle = folder / Statement.FILE, folder / BUNDLE
    statement.save(path)
    sign_file(path, bundle)
    return verify(folder, base, adapter, keys.load(keys.folder(root) / keys.FILE), keys.now())


def signer(root: Path, keyless: bool = False) -> Signer:
    """How this project signs a file. The key is there from now on: what is dated later is never older than its key."""
    if keyless:
        words = ("sign", "sigstore", "--use_ambient_credentials", "--signature")
        return lambda path, bundle: _model_signing(*words, str(bundle), str(path))
    private = keys.signing_key(root)[1]
    return lambda path, bundle: _sign_with_key(path, bundle, private)


def _sign_with_key(path: Path, bundle: Path, private: Path) -> None:
    from model_signing import signing

    try:
        signing.Config().use_elliptic_key_signer(private_key=private).sign(path, bundle)
    except (ValueError, TypeError) as error:
        raise StageError(f"{private} does not sign ({error}); `slipway keys rotate` makes another key") from None


def files_of(base: Path, adapter: Path) -> dict[str, str]:
    """Every file of both folders, manifests included → SHA-256; each folder whole by its own manifest."""
    found: dict[str, str] = {}
    for name, folder in (("base", base), ("adapter", adapter)):
        listed = {file.path: file.sha256 for file in Manifest.verified(folder).files}
        listed[digest.MANIFEST] = digest.of_file(folder / digest.MANIFEST)
        found |= {f"{name}/{path}": sha256 for path, sha256 in listed.items()}
    return found


# --- verifying ------------------------------------------------------------------------------------------------------


def verify(folder: Path, base: Path, adapter: Path, trust: keys.Trust, now: datetime) -> Signature:
    """Signature, key, every file and the identity; Refused naming what is wrong."""
    statement, key = signed(folder, trust, now)
    if problems := list(differences(statement.files, {"base": base, "adapter": adapter})):
        more = f" (and {len(problems) - _SHOWN} more)" if len(problems) > _SHOWN else ""
        raise Refused(
            f"this is not the model that {folder / Statement.FILE} speaks of: {'; '.join(problems[:_SHOWN])}{more}; "
            f"bring the release's own files back (`dvc checkout` at its tag), or judge this model in a release of its own"
        )
    try:
        found = identity.identity(base, adapter)
    except SlipwayError as error:  # an adapter of another base, say
        raise Refused(f"the model has no identity: {error}") from None
    if found != statement.identity or identity.parts(base, adapter) != statement.parts:
        raise Refused(
            f"the model's identity is {found}, signed was {statement.identity}; judge it in a release of its own"
        )
    return Signature(
        verified=True, identity=statement.identity, key=key, statement_sha256=digest.of_file(folder / Statement.FILE)
    )


def signed(folder: Path, trust: keys.Trust, now: datetime) -> tuple[Statement, str]:
    """The statement, once a trusted key or identity is known to have signed these very bytes; and who that was."""
    path, bundle = folder / Statement.FILE, folder / BUNDLE
    for needed in (path, bundle):
        check_plain(needed)
    try:
        statement = Statement.load(path)
    except StageError as error:
        raise Refused(str(error)) from None
    return statement, signed_by(path, bundle, statement.at, trust, now)


def signed_by(path: Path, bundle: Path, at: datetime, trust: keys.Trust, now: datetime) -> str:
    """The trusted key or identity that signed these very bytes, which say that they are of that time."""
    check_plain(bundle)
    fingerprint = _hint(bundle)
    if fingerprint is None:
        return _by_identity(path, bundle, trust)
    key = trust.keys.get(fingerprint)
    if key is None:
        raise Refused(
            f"{bundle} is signed by the key {fingerprint[:16]}, which nobody here trusts; "
            f"if it should be, `slipway keys trust FILE` with its public half"
        )
    if not key.vouches("models"):
        raise Refused(f"{bundle} is signed by the key {fingerprint[:16]}, which is trusted for {key.purpose} alone")
    if doubt := key.doubt(at, now):
        raise Refused(f"{bundle} is signed by the key {fingerprint[:16]}, which {doubt}; register the model again")
    _check_key(path, bundle, key)
    return fingerprint


def check_plain(path: Path) -> None:
    """What somebody put in a file's place is a file that may be opened and read whole; Refused naming what it is."""
    try:
        about = path.lstat()
    except FileNotFoundError:
        raise Refused(
            f"{path} does not exist, so nobody vouches for this model; register it again (`slipway run --again`)"
        ) from None
    except OSError as error:
        raise Refused(_unreadable(path, error)) from None
    if odd := _odd(about.st_mode):
        raise Refused(f"{path} {odd}; bring the receipt's own file back")
    if about.st_size > MOST_BYTES:
        raise Refused(
            f"{path} has {about.st_size:,} bytes, more than the {MOST_BYTES:,} that a receipt's file may have"
        )
    try:
        path.open("rb").close()
    except OSError as error:
        raise Refused(_unreadable(path, error)) from None


def _unreadable(path: Path, error: OSError) -> str:
    return f"{path} cannot be read ({error.strerror or error}); give it back to whoever verifies"


def _hint(bundle: Path) -> str | None:
    """The fingerprint of the key that a bundle says it was signed with; None for a certificate."""
    try:
        material = strict.read_json(bundle)["verificationMaterial"]
        return str(material["publicKey"]["hint"]) if "publicKey" in material else None
    except (StageError, KeyError, TypeError) as error:
        raise Refused(f"{bundle} is not a Sigstore bundle ({error}); register the model again") from None


def _check_key(path: Path, bundle: Path, key: keys.Key) -> None:
    from cryptography.exceptions import InvalidSignature
    from model_signing import verifying

    with tempfile.NamedTemporaryFile(suffix=".pem") as public:
        public.write(key.public.encode())
        public.flush()
        try:
            verifying.Config().use_elliptic_key_verifier(public_key=public.name).verify(path, bundle)
        except InvalidSignature:
            raise Refused(f"{bundle} is no signature of its key over its own words; register the model again") from None
        except Exception as error:  # noqa: BLE001 - whatever a hostile bundle makes the library raise is no signature
            raise Refused(f"{bundle} does not vouch for {path}: {_one_line(error)}; register the model again") from None


def _by_identity(path: Path, bundle: Path, trust: keys.Trust) -> str:
    """Which trusted identity signed, by Sigstore's own verification."""
    for known in trust.identities:
        who = ("--identity", known.name, "--identity_provider", known.issuer)
        try:
            _model_signing("verify", "sigstore", "--signature", str(bundle), *who, str(path))
            return f"{known.name} ({known.issuer})"
        except StageError:
            continue
    raise Refused(
        f"{bundle} is signed by an identity that nobody here trusts, or not validly; "
        f"`slipway keys trust --identity NAME --issuer URL` where it should be"
    )


def _model_signing(*words: str) -> None:
    """model-signing's own command, in a process that can be stopped: Sigstore may be away."""
    command = [sys.executable, "-m", "model_signing", *words]
    try:
        done = subprocess.run(
            command, stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=KEYLESS_SECONDS, check=False
        )
    except subprocess.TimeoutExpired:
        raise Transient(
            f"Sigstore did not answer in {KEYLESS_SECONDS} s; run again, or sign with a key (`signing: key` in configs/env)"
        ) from None
    if done.returncode:
        said = (done.stderr or done.stdout).strip().splitlines() or ["it said nothing"]
        raise StageError(f"model-signing could not {words[0]} without a key: {said[-1][:300]}")


def _one_line(error: Exception) -> str:
    return " ".join(str(error).split())[:300] or type(error).__name__


# --- the files themselves -------------------------------------------------------------------------------------------


def differences(files: Mapping[str, str], folders: Mapping[str, Path]) -> Iterator[str]:
    """Everything by which folders differ from the files that were signed: bytes, extra or missing entries, modes."""
    for name, folder in folders.items():
        listed = {path.removeprefix(f"{name}/"): sha for path, sha in files.items() if path.startswith(f"{name}/")}
        if not folder.is_dir() or folder.is_symlink():
            yield f"{folder} does not exist"
            continue
        if (mode := folder.lstat().st_mode) & stat.S_IWOTH:
            yield _open_to_all(folder, mode)
        needed = {parent.as_posix() for path in listed for parent in Path(path).parents} - {"."}
        present = set()
        for entry in _entries(folder):
            path = entry.relative_to(folder).as_posix()
            present.add(path)
            yield from _wrong(entry, listed.get(path), path in needed)
        yield from (f"{folder / path} is missing" for path in sorted(listed.keys() - present))
    if stray := sorted(path for path in files if path.partition("/")[0] not in folders):
        yield f"the statement lists {stray[0]}, which is in none of the model's folders"


def _entries(folder: Path) -> Iterable[Path]:
    """Every entry below a folder, links not followed."""
    for where, names, others in os.walk(folder):
        for name in sorted([*names, *others]):
            yield Path(where) / name


def _wrong(entry: Path, sha256: str | None, is_parent: bool) -> Iterator[str]:
    """What is wrong with one entry."""
    mode = entry.lstat().st_mode
    if stat.S_ISDIR(mode):
        if not is_parent:
            yield f"{entry}/ is not in the signed statement"
        elif mode & stat.S_IWOTH:
            yield _open_to_all(entry, mode)
        return
    if sha256 is None:
        yield f"{entry} is not in the signed statement"
    elif odd := _odd(mode):
        yield f"{entry} {odd}"
    else:
        yield from _changed(entry, sha256)


def _changed(file: Path, sha256: str) -> Iterator[str]:
    try:
        found = digest.of_file(file)
    except OSError as error:
        yield _unreadable(file, error)
        return
    if found != sha256:
        yield f"{file} changed: its SHA-256 is {found}, signed was {sha256}"


def _open_to_all(folder: Path, mode: int) -> str:
    return f"{folder}/ has the mode {stat.S_IMODE(mode):o}; a folder that everybody may write holds whatever they want"


def _odd(mode: int) -> str | None:
    """What a file is that a model's file never is; no digest tells its mode."""
    if not stat.S_ISREG(mode):
        return "is no regular file"
    if mode & (stat.S_IXUSR | stat.S_IXGRP | stat.S_IXOTH | stat.S_ISUID | stat.S_ISGID | stat.S_IWOTH):
        return f"has the mode {stat.S_IMODE(mode):o}; a model's file is neither run nor written by everybody"
    return None
