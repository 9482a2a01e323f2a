"""The receipt of `register`: a folder beside the release's record, which appears whole or not at all.

    observations.json  decision.json  README.md  eval_results.yaml  bom.json  statement.json  statement.sig
    model.yaml  dvc.lock  policy.yaml       as they were
    receipt.json  receipt.sig               the SHA-256 of each of these, and the signature over that

Only a pass leaves the signatures there: a model that was refused is one that nobody vouches for. A decision is believed
as part of a whole receipt alone: the statement is signed before there is a verdict, and says which model, not whether.
"""

import contextlib
import os
import shutil
from collections.abc import Iterator
from datetime import datetime
from pathlib import Path
from typing import ClassVar, TypeVar

from slipway import atomic, digest, model, records
from slipway.artifacts import Artifact, Decision, Observations, Verdict
from slipway.errors import Refused, SlipwayError, StageError
from slipway.registry import keys, signing
from slipway.registry.place import Place
from slipway.registry.signing import Statement

FOLDER = "register"
OBSERVATIONS, DECISION = "observations.json", "decision.json"
MODEL, LOCK, POLICY = "model.yaml", "dvc.lock", "policy.yaml"
SIGNATURE = "receipt.sig"
EVIDENCE = "evidence"  # a folder that the store adds; a decision has the digest of each file in it
NOTHING = "none"  # in place of a digest, where there is no file
A = TypeVar("A", bound=Artifact)


class Receipt(Artifact):
    """`receipt.json`: what belongs together."""

    FILE: ClassVar[str] = "receipt.json"

    release: str
    at: keys.Moment  # by the signer's clock
    verdict: Verdict
    identity: str
    evidence_digest: str
    policy_digest: str
    files: dict[str, str]  # every other file of the folder → SHA-256


def folder_of(project: Path, release: str) -> Path:
    """Where a release's receipt lies."""
    return records.folder_of(project, release) / FOLDER


def earlier(folder: Path, gate: Decision) -> Decision | None:
    """What was decided on this very evidence by this very policy; a receipt about anything else stands in the way."""
    if not folder.exists():
        return None
    known, seen = Decision.load(folder / DECISION), Observations.load(folder / OBSERVATIONS)
    if (seen.evidence_digest, known.policy_digest) != (gate.evidence_digest, gate.policy_digest):
        raise StageError(f"{folder} is the receipt of other evidence; a release is registered once, start another")
    return known


@contextlib.contextmanager
def growing(folder: Path) -> Iterator[Path]:
    """A place for the receipt to grow; it gets its name when it is whole, and leaves nothing when it is not."""
    folder.parent.mkdir(parents=True, exist_ok=True)
    sweep(folder.parent)
    partial = folder.with_name(f".{folder.name}.{os.getpid()}.partial")
    partial.mkdir()
    try:
        yield partial
        for file in digest.files_under(partial):
            with file.open("rb") as stream:
                os.fsync(stream.fileno())
        partial.rename(folder)
        atomic.fsync_folder(folder.parent)
    finally:
        shutil.rmtree(partial, ignore_errors=True)


def kept_of(root: Path) -> dict[str, Path]:
    """What a release stands on beside its evidence, by the names that a receipt has copies of it under."""
    return {MODEL: root / model.FILE, LOCK: root / LOCK}


def seal(place: Place, folder: Path, decision: Decision, keyless: bool = False) -> None:
    """Add what the release stands on, and list every file; a pass is signed, and looked at as anybody else would."""
    sign_file = signing.signer(place.root, keyless) if decision.verdict == "pass" else None
    for name, path in (kept_of(place.root) | {POLICY: place.policy}).items():
        if path.is_file():
            atomic.write_bytes(folder / name, path.read_bytes())
    receipt = Receipt(
        release=place.release,
        at=keys.now(),
        verdict=decision.verdict,
        identity=decision.identity,
        evidence_digest=decision.evidence_digest,
        policy_digest=decision.policy_digest,
        files={path.name: digest.of_file(path) for path in digest.files_under(folder)},
    )
    receipt.save(folder / Receipt.FILE)
    if sign_file:
        sign_file(folder / Receipt.FILE, folder / SIGNATURE)
        check(folder, keys.load(keys.folder(place.root) / keys.FILE), keys.now())


def sweep(record: Path) -> None:
    """Remove what an attempt that was killed has left beside a release's record."""
    for left in record.glob(f".{FOLDER}.*.partial"):
        shutil.rmtree(left, ignore_errors=True)


def digest_of(path: Path) -> str:
    return digest.of_file(path) if path.is_file() else NOTHING


def stale(project: Path, release: str) -> bool:
    """Whether what a release was registered with, and DVC does not see, is another by now: who the model is, waivers."""
    path = folder_of(project, release) / OBSERVATIONS
    if not path.is_file():
        return False
    from slipway.people import grants

    seen = Observations.load(path)
    changed = digest_of(project / model.FILE) != seen.model_digest
    return changed or grants.standing(project, seen.evidence_digest) != seen.waivers


# --- looking at it again ----------------------------------------------------------------------------------------------


def check(folder: Path, trust: keys.Trust, now: datetime) -> Receipt:
    """A receipt whose every file is the one that was signed, all of one release; Refused naming the first that is not.

    One without a pass is not signed: that it is whole says only that nothing was damaged.
    """
    signing.check_plain(folder / Receipt.FILE)
    receipt = _loaded(Receipt, folder / Receipt.FILE)
    if receipt.verdict == "pass":
        signing.signed_by(folder / Receipt.FILE, folder / SIGNATURE, receipt.at, trust, now)
    _check_files(folder, receipt)
    for name, what, said, listed in _accounts(folder, receipt, trust, now):
        if said != listed:
            raise Refused(
                f"{folder / name} has the {what} {said}, and it is {listed} by {folder / Receipt.FILE}; they do not "
                f"belong together: bring the release's own files back, or register it again (`slipway run --again`)"
            )
    return receipt


def check_here(root: Path, folder: Path) -> Receipt:
    """The same by this project's keys, and the workspace is the one that the release stood on."""
    receipt = check(folder, keys.load(keys.folder(root) / keys.FILE), keys.now())
    for name, path in kept_of(root).items():
        check_digest(path, receipt.files.get(name, NOTHING))
    return receipt


def _check_files(folder: Path, receipt: Receipt) -> None:
    beside = {Receipt.FILE, EVIDENCE} | ({SIGNATURE} if receipt.verdict == "pass" else set())
    signed = {Statement.FILE, signing.BUNDLE, POLICY} if receipt.verdict == "pass" else set()
    listed = receipt.files.keys()
    if missing := sorted(({DECISION, OBSERVATIONS} | signed) - listed):
        raise Refused(f"{folder / Receipt.FILE} does not list {missing[0]}; register it again (`slipway run --again`)")
    if odd := sorted(name for name in listed if Path(name).name != name or name in beside):
        raise Refused(f"{folder / Receipt.FILE} lists {odd[0]}, which is no file of a receipt; register it again")
    if extra := sorted({path.name for path in folder.iterdir()} - listed - beside):
        raise Refused(f"{folder / extra[0]} is not on {folder / Receipt.FILE}; take it away")
    for name, sha256 in sorted(receipt.files.items()):
        signing.check_plain(folder / name)
        check_digest(folder / name, sha256)


def check_digest(path: Path, recorded: str) -> None:
    """A file, or the want of one, against the digest on a receipt."""
    if (found := digest_of(path)) != recorded:
        raise Refused(f"{path} changed: it is {found}, the receipt has {recorded}; bring the release's own file back")


def _accounts(
    folder: Path, receipt: Receipt, trust: keys.Trust, now: datetime
) -> Iterator[tuple[str, str, str | None, str]]:
    """Every fact that two of the files tell: the file, the fact, what it says there, and what the receipt says."""
    seen, decision = _loaded(Observations, folder / OBSERVATIONS), _loaded(Decision, folder / DECISION)
    yield OBSERVATIONS, "release", seen.release, receipt.release
    yield OBSERVATIONS, "evidence_digest", seen.evidence_digest, receipt.evidence_digest
    yield OBSERVATIONS, "model_digest", seen.model_digest, receipt.files.get(MODEL, NOTHING)
    yield DECISION, "act", decision.act, FOLDER
    for name in ("verdict", "identity", "evidence_digest", "policy_digest"):
        yield DECISION, name, getattr(decision, name), getattr(receipt, name)
    yield DECISION, "observations_digest", decision.observations_digest, receipt.files[OBSERVATIONS]
    if receipt.verdict != "pass":
        return
    yield POLICY, "SHA-256", receipt.files[POLICY], receipt.policy_digest
    statement, key = signing.signed(folder, trust, now)
    for name in ("release", "identity", "evidence_digest", "policy_digest"):
        yield Statement.FILE, name, getattr(statement, name), getattr(receipt, name)
    signature = seen.signature
    yield OBSERVATIONS, "key", signature.key if signature else None, key
    recorded = signature.statement_sha256 if signature else None
    yield OBSERVATIONS, "statement_sha256", recorded, receipt.files[Statement.FILE]


def _loaded(kind: type[A], path: Path) -> A:
    """One that cannot be read proves nothing."""
    try:
        return kind.load(path)
    except SlipwayError as error:
        raise Refused(str(error)) from None
