"""What to serve, from a name that people use to files whose every byte is known to be the version's.

Between a check and a load lies a moment in which a file can be swapped. So: the version is checked where it lies, as
`slipway models verify` checks it; then each file is opened once, copied into a folder of our own and hashed in the same
pass, and the copies are held against what the ledger has and what was signed. Only the copies are loaded. They are
read-only, in a folder that nobody else may enter, and are removed as soon as the weights are in memory. A hard link
would save the copy but share its bytes with whoever can still write the file, so it would prove nothing.

Needs the ledger and the local store, and no service.
"""

import contextlib
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

from slipway import digest, identity, settings
from slipway.artifacts import Json, Manifest
from slipway.errors import Refused, StageError, UsageError
from slipway.ledger import champions
from slipway.ledger import versions as rows
from slipway.ledger.database import Database
from slipway.observing.servability import private_copies
from slipway.registry import store, versions
from slipway.registry.versions import Version

BASE = "base"
WORKSPACE_BASE = Path("models") / "base"  # as dvc.yaml has it


@dataclass(frozen=True)
class Target:
    """A version, or the base that one was tuned on; without a version, the workspace's own base."""

    model: str
    version: Version | None
    is_base: bool

    @property
    def name(self) -> str:
        return f"{self.model}@{BASE if self.is_base or self.version is None else self.version.version}"


@dataclass(frozen=True)
class Opened:
    """Files that may be loaded: private copies that were verified."""

    model: str
    version: str  # 1.0.0, or base
    identity: str
    base: Path  # the base, or the whole model where all of it was tuned
    adapter: Path | None
    facts: Json = field(default_factory=dict)

    @property
    def name(self) -> str:
        return f"{self.model}@{self.version}"


@contextlib.contextmanager
def opened(root: Path, targets: Sequence[str]) -> Iterator[list[Opened]]:
    """Every version that is asked for, verified; the folders are gone afterwards."""
    if not targets:
        raise UsageError("nothing to serve was named; name a version, as in NAME@champion")
    found: dict[str, Target] = {}
    asked: dict[str, list[str]] = {}
    for wanted in targets:
        target = resolve(root, wanted)
        found.setdefault(target.name, target)
        asked.setdefault(target.name, []).append(wanted)
    for target in found.values():
        _check(root, target)
    folders = _folders(root, found.values())
    with private_copies(settings.scratch_folder(root), folders) as (_, copies):
        opened_ones = [_opened(target, copies) for target in found.values()]
        yield [replace(one, facts={**one.facts, "asked_as": asked[one.name]}) for one in opened_ones]


# --- what is meant ----------------------------------------------------------------------------------------------------


def resolve(root: Path, target: str) -> Target:
    """The version that people mean; `NAME@base` is the base it was tuned on, and the champion before there is one."""
    name, _, wanted = target.partition("@") if "@" in target else ("", "", target)
    if not _has_ledger(root):
        return _workspace(root, name, target, wanted)
    database = Database.of(root)
    try:
        with database.read() as connection:
            known = rows.models(connection)
            if not known:
                return _workspace(root, name, target, wanted)
            if wanted not in (BASE, "champion"):
                return _of(versions.resolve(connection, target, None))
            model = name or (known[0] if len(known) == 1 else "")
            if model not in known:
                versions.resolve(connection, f"{model}@latest" if model else target, None)  # says what there is
            serving = champions.find(connection, model)
            if wanted == "champion" and serving is not None:
                return _of(versions.resolve(connection, f"{model}@champion", None))
            tuned = f"{model}@{'champion' if serving else 'latest'}"
            return Target(model, versions.resolve(connection, tuned, None), is_base=True)
    finally:
        database.close()


def models(root: Path) -> list[str]:
    """Every model of which a version is registered."""
    if not _has_ledger(root):
        return []
    database = Database.of(root)
    try:
        with database.read() as connection:
            return list(rows.models(connection))
    finally:
        database.close()


def _of(version: Version) -> Target:
    return Target(version.model, version, is_base=False)


def _workspace(root: Path, name: str, target: str, wanted: str) -> Target:
    """Before anything is registered only the base can serve."""
    from slipway import model

    if wanted not in (BASE, "champion"):
        raise UsageError(
            f"no version {ascii(target)[1:-1][:80]}: nothing is registered here yet; NAME@base is the base model"
        )
    own = name or model.load(root).name
    if not own:
        raise UsageError(f"{root / model.FILE} has no name for the model; give it one, or write NAME@{wanted}")
    return Target(own, None, is_base=True)


def _has_ledger(root: Path) -> bool:
    """Looking makes no ledger where there is none."""
    url = settings.ledger_url(root)
    return not url.startswith("sqlite:///") or Path(url.removeprefix("sqlite:///")).is_file()


# --- verified, copied, held against the ledger ------------------------------------------------------------------------


def _check(root: Path, target: Target) -> None:
    """The checks of `slipway models verify`; of a base, which has no signature of its own, every byte of its manifest."""
    if target.version is not None and not target.is_base:
        if problems := store.problems(root, target.version):
            raise Refused(f"{target.name} is not served: {'; '.join(problems[:3])}")
        return
    place = _base(root, target)
    try:
        if place.is_symlink():
            raise StageError(f"{place} is a link")
        Manifest.verified(place)
    except StageError as error:
        raise Refused(f"{target.name} is not served: {str(error).partition('; run the stage')[0]}") from None


def _base(root: Path, target: Target) -> Path:
    return store.base_folder(root, target.version.base_digest) if target.version else root / WORKSPACE_BASE


def _base_name(target: Target) -> str:
    return f"base-{target.version.base_digest if target.version else 'workspace'}"


def _folders(root: Path, targets: Iterable[Target]) -> dict[str, Path]:
    """What is copied, by the copy's name: a base once, however many versions stand on it."""
    found: dict[str, Path] = {}
    for target in targets:
        version = target.version
        found[_base_name(target)] = _base(root, target)
        if version and not target.is_base:
            found[target.name] = store.folder(root, version.model, version.version) / store.ADAPTER
    return found


def _opened(target: Target, copies: dict[str, Path]) -> Opened:
    """A target's copies, once they are what the ledger says: whatever was swapped since the check ends here."""
    base, version = copies[_base_name(target)], target.version
    if version is None:
        return Opened(target.model, BASE, identity.identity(base, None), base, None)
    _same(f"the base of {target.name}", store.base_digest(base), version.base_digest)
    if target.is_base:
        return Opened(target.model, BASE, identity.identity(base, None), base, None, _facts(version))
    adapter = copies[target.name]
    listed = {
        file.path.partition("/")[2]: file.sha256 for file in version.files if file.path.startswith(f"{store.ADAPTER}/")
    }
    copied = {file.path: file.sha256 for file in Manifest.load(adapter / digest.MANIFEST).files}
    copied[digest.MANIFEST] = digest.of_file(adapter / digest.MANIFEST)
    for path in sorted(listed.keys() | copied.keys()):
        _same(f"{path} of {target.name}", copied.get(path, "gone"), listed.get(path, "not there"))
    _same(f"the identity of {target.name}", identity.identity(base, adapter), version.identity)
    full = Manifest.load(adapter / digest.MANIFEST).facts.get("method") == "full"
    loads, on_it = (adapter, None) if full else (base, adapter)
    return Opened(version.model, version.version, version.identity, loads, on_it, _facts(version))


def _same(what: str, found: str, wanted: str) -> None:
    if found != wanted:
        raise Refused(f"{what} changed while it was read: it is {found}, the ledger has {wanted}; it is not loaded")


def _facts(version: Version) -> Json:
    """What a trace of an answer links to."""
    return {"release": version.release, "commit": version.commit, "mlflow_version": version.mlflow_version}
