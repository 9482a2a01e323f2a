"""Where a release's candidate and its evidence lie when `register` looks at them."""

from dataclasses import dataclass
from pathlib import Path

from slipway import params, strict
from slipway.params import Params


@dataclass(frozen=True)
class Place:
    """A workspace in which every stage has run."""

    root: Path
    release: str
    paths: dict[str, str]  # `vars.path` of dvc.yaml
    params: Params

    @classmethod
    def of(cls, root: Path, release: str) -> "Place":
        paths = dict(strict.read_yaml(root / "dvc.yaml")["vars"][0]["path"])
        return cls(root, release, paths, params.load_all(root / "params.yaml"))

    def path(self, name: str) -> Path:
        """Where something lies, by its name in dvc.yaml."""
        return self.root / self.paths[name]

    @property
    def policy(self) -> Path:
        return self.root / self.params.gate.policy

    @property
    def tag(self) -> str:
        """The tag that keeps what the release was made from."""
        return f"slipway/{self.release}"
