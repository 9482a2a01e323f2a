"""configs/waivers.yaml: which waivable rules somebody answers for, why, and until when. Shown, never hidden."""

from datetime import date
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from slipway import strict
from slipway.artifacts import Waiver
from slipway.errors import UsageError

FILE = Path("configs") / "waivers.yaml"


def load(root: Path) -> list[Waiver]:
    """configs/waivers.yaml, where there is one; a broken file waives nothing."""
    path = root / FILE
    if not path.is_file():
        return []
    listed = strict.read_yaml(path)
    if set(listed) != {"waivers"} or not isinstance(listed["waivers"], list):
        raise UsageError(f"{path} needs one key, `waivers`, with a list; docs/guide/register.md shows one")
    return [_waiver(path, at, entry) for at, entry in enumerate(listed["waivers"])]


def _waiver(path: Path, at: int, entry: Any) -> Waiver:
    where = f"{path}:{strict.line_of(path, ('waivers', at))}"
    try:
        raw = {key: value.isoformat() if type(value) is date else value for key, value in dict(entry).items()}
        waiver = Waiver.model_validate(raw)
        date.fromisoformat(waiver.expires)
    except ValidationError as error:
        first = error.errors()[0]
        raise UsageError(f"{where}: {'.'.join(map(str, first['loc']))}: {first['msg']}; correct it") from None
    except (TypeError, ValueError):
        raise UsageError(f"{where}: a waiver has rule, owner, reason and expires (a date, as in 2026-06-30)") from None
    if empty := [name for name in ("rule", "owner", "reason") if not getattr(waiver, name).strip()]:
        raise UsageError(f"{where}: {empty[0]} is empty; whoever waives a rule says so by name and gives a reason")
    return waiver
