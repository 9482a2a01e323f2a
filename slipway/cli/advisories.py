"""`slipway advisories`: what is known against the installed packages, and a snapshot for where no network is."""

import json as json_module
from datetime import UTC, datetime

from slipway import settings
from slipway.observing import advisories, osv


def check(json: bool) -> int:
    """0 when no installed package has a known vulnerability, 3 when one has."""
    root = settings.find_root()
    found = advisories.observe(root, datetime.now(UTC))
    if json:
        print(json_module.dumps(found.model_dump(mode="json"), indent=2))
    else:
        for one in found.vulnerable:
            fixed = f"fixed in {', '.join(one.fixed_in)}" if one.fixed_in else "no fix is known"
            print(f"{one.package} {one.version}: {one.id}, {fixed}")
        count = f"{len(found.vulnerable)} known vulnerabilities" if found.vulnerable else "no known vulnerability"
        print(f"{found.packages} packages, {count}; {found.source}, as of {found.as_of}")
    return 3 if found.vulnerable else 0


def fetch(url: str | None, json: bool) -> int:
    """Bring OSV's advisories here, whole or not at all."""
    found = osv.fetch(url or osv.URL, advisories.snapshot_of(settings.find_root()))
    as_of = found.newest.astimezone(UTC).strftime("%Y-%m-%d")
    if json:
        print(json_module.dumps({"path": str(found.path), "advisories": found.advisories, "as_of": as_of}))
    else:
        print(f"{found.advisories:,} advisories, the newest of {as_of}: {found.path}")
    return 0
