"""Where DVC keeps outputs: the remote they are sent to, and the cached ones that nothing needs any more."""

from pathlib import Path
from typing import Any

from slipway import settings
from slipway.errors import Transient, UsageError


def remote(root: Path) -> dict[str, Any]:
    """The settings of the default remote, its `url` absolute; empty when the project has none."""
    from dvc.config import Config, ConfigError

    try:
        config = Config(str(root / ".dvc"))
    except ConfigError as error:
        raise UsageError(f"{root / '.dvc' / 'config'}: {' '.join(str(error).split())}; correct it") from None
    return dict(config["remote"].get(config["core"].get("remote", ""), {}))


def share(project: Path, worktree: Path) -> None:
    """Let a worktree use its project's cache, local remote and private settings."""
    from configobj import ConfigObj

    shared = ConfigObj(str(project / ".dvc" / "config.local"), list_values=False)
    cache, remote = shared.setdefault("cache", {}), shared.setdefault('remote "local"', {})
    cache["dir"] = str(project / ".dvc" / cache.get("dir", "cache"))
    remote.setdefault("url", str(settings.state_folder(project) / "dvc-remote"))
    shared.filename = str(worktree / ".dvc" / "config.local")
    shared.write()


def free_cache(root: Path, dry_run: bool) -> tuple[int, int]:
    """Drop cached outputs that no branch, tag, experiment or the workspace uses; how many, and their bytes."""
    import logging

    logging.getLogger("dvc").setLevel(logging.CRITICAL)
    from dvc.exceptions import DvcException
    from dvc.repo import Repo
    from dvc.scm import SCMError

    kept = {"all_branches": True, "all_tags": True, "all_experiments": True}  # the workspace always counts
    try:
        with Repo(str(root)) as repo:
            used = {found.value for group in repo.used_objs(**kept).values() for found in group}
            stores = {store.path: store for _, store in repo.cache.by_scheme() if store}
            unused = [Path(s.oid_to_path(name)) for s in stores.values() for name in s.all() if name not in used]
            size = sum(path.stat().st_size for path in unused)
            if unused and not dry_run:
                repo.gc(workspace=True, force=True, **kept)
    except (DvcException, SCMError) as error:
        said = " ".join(str(error).split())
        raise Transient(f"DVC cannot tell which outputs {root} needs: {said}; run again") from error
    return len(unused), size
