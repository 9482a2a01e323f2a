"""A target on the command line that may be a version or a release: which of the two somebody means."""

from pathlib import Path

from slipway import records, settings
from slipway.errors import UsageError
from slipway.registry.versions import Version


def find(root: Path, target: str | None) -> Version | None:
    """The version that is meant, the newest where none is named; None where a release is, or nothing is registered yet."""
    if target is not None and not target.strip():
        raise UsageError("the name is empty; name a version (`slipway models list`), or leave it out")
    if not _has_ledger(root):
        return None
    from slipway.ledger import versions as rows
    from slipway.ledger.database import Database
    from slipway.registry import versions

    database = Database.of(root)
    try:
        with database.read() as connection:
            return versions.resolve(connection, target or "latest", None) if rows.models(connection) else None
    except UsageError:
        if target is None:  # versions of several models, or none is left: the newest release, as before there was any
            return None
        if any(record.id.startswith(target) for record in records.newest_first(root)):
            return None
        raise
    finally:
        database.close()


def kept_file(root: Path, version: Version, name: str) -> Path | None:
    from slipway.registry import catalog

    return catalog.kept_file(root, version, name)


def _has_ledger(root: Path) -> bool:
    """Looking makes no ledger where there is none."""
    url = settings.ledger_url(root)
    return not url.startswith("sqlite:///") or Path(url.removeprefix("sqlite:///")).is_file()
