"""What Slipway asks of git: where we are, a worktree of one's own, and a tag that keeps a release."""

import os
import subprocess
from pathlib import Path

from slipway import settings
from slipway.errors import StageError, UsageError

# A tag must be possible on a machine where nobody told git who they are.
_IDENTITY = {
    "GIT_AUTHOR_NAME": "Slipway",
    "GIT_AUTHOR_EMAIL": "slipway@localhost",
    "GIT_COMMITTER_NAME": "Slipway",
    "GIT_COMMITTER_EMAIL": "slipway@localhost",
}


def _git(root: Path, *words: str, index: Path | None = None) -> str:
    env = settings.child(_IDENTITY, {"GIT_INDEX_FILE": str(index)} if index else {})
    try:
        done = subprocess.run(
            ["git", *words], cwd=root, env=env, stdin=subprocess.DEVNULL, capture_output=True, text=True, check=False
        )
    except FileNotFoundError:
        raise UsageError("git is not installed; install it (Debian: apt install git)") from None
    if done.returncode:
        last = (done.stderr.strip().splitlines() or ["it said nothing"])[-1]
        raise StageError(f"`git {' '.join(words[:2])}` failed in {root}: {last}")
    return done.stdout.strip()


def is_repository(root: Path) -> bool:
    """Whether the project is the top of a git checkout that has a commit."""
    try:
        _git(root, "rev-parse", "--verify", "HEAD")
        return Path(_git(root, "rev-parse", "--show-toplevel")).resolve() == root.resolve()
    except StageError:
        return False


def commit(root: Path, revision: str = "HEAD") -> str:
    return _git(root, "rev-parse", "--verify", f"{revision}^{{commit}}")


def dirty(root: Path) -> list[str]:
    """Changed or new files that git sees, without what a release itself rewrites (pins and dvc.lock)."""
    lines = _git(root, "status", "--porcelain").splitlines()
    paths = [line[2:].strip() for line in lines]
    return [path for path in paths if path != "dvc.lock" and not path.startswith("pins/")]


def tracked(root: Path) -> list[str]:
    return _git(root, "ls-files", "-z").split("\0")[:-1]


def keep(root: Path, tag: str, message: str) -> None:
    """Put everything a release was made from under a tag, without touching the branch or the index."""
    tree = _tree_of(root)
    kept = _git(root, "-c", "commit.gpgSign=false", "commit-tree", tree, "-p", "HEAD", "-m", message)
    _git(root, "-c", "tag.gpgSign=false", "-c", "tag.forceSignAnnotated=false", "tag", tag, kept)


def label(root: Path, tag: str, revision: str, message: str) -> None:
    """An annotated tag on a commit; the same again changes nothing, another commit under the same name is refused."""
    wanted = commit(root, revision)
    try:
        found = commit(root, f"refs/tags/{tag}")
    except StageError:
        words = ("-c", "tag.gpgSign=false", "tag", "--annotate", "--message", message, tag, wanted)
        _git(root, *words)
        return
    if found != wanted:
        raise StageError(f"git has a tag {tag} on {found[:12]}, the version is of {wanted[:12]}; remove or rename it")


def kept(root: Path, tag: str) -> bool:
    """Whether everything as it stands here is what lies under a tag."""
    try:
        return _git(root, "rev-parse", "--verify", f"refs/tags/{tag}^{{tree}}") == _tree_of(root)
    except StageError:
        return False


def _tree_of(root: Path) -> str:
    """Every file that git would add, as it stands on disk (an uncommitted policy is kept too), pins and dvc.lock."""
    index = Path(_git(root, "rev-parse", "--absolute-git-dir")) / f"slipway-{os.getpid()}.index"
    try:
        _git(root, "read-tree", "HEAD", index=index)
        _git(root, "add", "--all", index=index)
        made = [name for name in ("dvc.lock", "pins") if (root / name).exists()]
        _git(root, "add", "--force", "--", *made, index=index)
        return _git(root, "write-tree", index=index)
    finally:
        index.unlink(missing_ok=True)


def add_worktree(root: Path, folder: Path, revision: str) -> None:
    folder.parent.mkdir(parents=True, exist_ok=True)
    _git(root, "worktree", "prune")
    _git(root, "worktree", "add", "--detach", str(folder), revision)


def remove_worktree(root: Path, folder: Path) -> None:
    _git(root, "worktree", "remove", "--force", str(folder))
