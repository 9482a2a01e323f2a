"""configs/serving.yaml: every key is described, shipped and explained, and no wrong one gets in."""

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any, get_args

import pytest
import yaml
from pydantic import BaseModel
from served import project

from slipway.errors import UsageError
from slipway.serving.config import FILE, Section, ServingConfig

ROOT = Path(__file__).parents[2]


def keys_of(model: type[BaseModel], prefix: str = "") -> Iterator[tuple[str, str | None]]:
    """Every key with what is said of it."""
    for name, field in model.model_fields.items():
        kinds = [field.annotation, *get_args(field.annotation)]
        inner = next((kind for kind in kinds if isinstance(kind, type) and issubclass(kind, Section)), None)
        if inner is not None:
            yield from keys_of(inner, f"{prefix}{name}.")
        else:
            yield f"{prefix}{name}", field.description


def test_every_key_is_described_and_explained() -> None:
    keys = dict(keys_of(ServingConfig))
    assert len(keys) >= 45 and all(keys.values()), [key for key, said in keys.items() if not said]
    part = (ROOT / "docs" / "guide" / "serving.md").read_text().partition("## Configuration")[2]
    assert re.findall(r"^\| `([^`]+)` \|", part, re.M) == list(keys), "the guide lists each once, in order"


def test_the_shipped_file_is_valid_and_says_everything() -> None:
    loaded = ServingConfig.load(ROOT / FILE)
    assert loaded.prompts.share == 0 and loaded.cache.scope == "tenant", "careful unless told otherwise"
    raw: dict[str, Any] = yaml.safe_load((ROOT / FILE).read_text())
    assert set(raw) == set(ServingConfig.model_fields)


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"limits": {"body_bytes": 0}}, "limits.body_bytes: Input should be greater than or equal to 1"),
        ({"limits": {"body_bytes": "1 MB"}}, "limits.body_bytes: Input should be a valid integer"),
        ({"prompts": {"share": 1.5}}, "prompts.share: Input should be less than or equal to 1"),
        ({"drain": {"limit_seconds": float("inf")}}, "drain.limit_seconds: Input should be a finite number"),
        ({"cache": {"scope": "everybody"}}, "cache.scope: Input should be 'tenant', 'user' or 'shared'"),
        ({"cache": {"redis": {"url": "http://x"}}}, "cache.redis.url: String should match"),
        ({"ledger": {"then": "ignore"}}, "ledger.then: Input should be 'refuse' or 'alarm'"),
        ({"versions": {"v1": None, "v2": None}}, "versions: Value error, leaves out every version"),
        ({"versions": {"v1": {"sunset": "2027-01-01"}}}, "has a sunset and no date of its deprecation"),
        ({"odd": 1}, "odd: Extra inputs are not permitted"),
    ],
)
def test_a_wrong_value_is_named_with_its_line(tmp_path: Path, changes: dict[str, Any], says: str) -> None:
    with pytest.raises(UsageError, match=r"serving\.yaml:\d+: ") as refused:
        ServingConfig.load(project(tmp_path, changes) / FILE)
    assert says in str(refused.value)
