"""What was found out about a model is never worked out twice: answers, benchmark scores and safety answers.

    memory/measured/<key>.json           what a question about a model gave, by everything that decides it
    memory/looks/<test set>/<identity>   which candidates were scored on a test set

A key tells apart every model, data set, parameter, library, device and version of this package, and no paths. Whatever
is not whole is worked out again, so the folder may be emptied at any time without changing a byte of any output.
"""

import importlib.metadata
import json
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from slipway import atomic, digest, strict
from slipway.artifacts import Json
from slipway.errors import StageError
from slipway.evaluation import inference
from slipway.evaluation.inference import Model, Question

Found = dict[str, dict[str, Any]]  # model → question → what was found
PACKAGES = ("jinja2", "lm-eval", "numpy", "peft", "safetensors", "tokenizers", "torch", "transformers")


def surroundings() -> Json:
    """Whatever else may move a digit: libraries, hardware, and the code that asks."""
    package = Path(__file__).parents[1]
    code = [path for folder in ("data", "evaluation") for path in digest.files_under(package / folder)]
    files = {path.relative_to(package).as_posix(): digest.of_file(path) for path in code if path.suffix == ".py"}
    return {"packages": dict(_versions()), "hardware": inference.hardware(), "code": digest.of_pairs(files)}


def _versions() -> Iterator[tuple[str, str]]:
    for name in PACKAGES:
        try:
            yield name, importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            yield name, "none"


@dataclass(frozen=True)
class Notebook:
    """A folder of what is known, and what it depends on besides the question."""

    folder: Path
    surroundings: Json

    def recall(self, question: Question, identity: str) -> Any | None:
        """What this question gave for this model; None where it was never asked or the file is not whole."""
        key = self._key(question, identity)
        try:
            kept = strict.read_json(self._path(key))
        except (StageError, OSError):
            return None
        if not isinstance(kept, dict) or kept.keys() != {"key", "value", "sha256"}:
            return None
        return kept["value"] if (kept["key"], kept["sha256"]) == (key, digest.of_value(kept["value"])) else None

    def remember(self, question: Question, identity: str, value: Any) -> Any:
        """Keep what was found, and give it as it will be read again; what is no finite JSON is not kept."""
        try:
            value = json.loads(json.dumps(value, allow_nan=False))
        except ValueError:
            return value  # a NaN: whoever judges it will say so
        key = self._key(question, identity)
        atomic.write_json(self._path(key), {"key": key, "value": value, "sha256": digest.of_value(value)})
        return value

    def gather(
        self,
        questions: Iterable[Question],
        identities: Mapping[str, str],
        load: Callable[[list[str]], Iterator[Model]],
    ) -> Found:
        """Every question about every model. Only models with something unknown are loaded and asked."""
        asked = list(questions)
        found = {m: {q.name: self.recall(q, identity) for q in asked} for m, identity in identities.items()}
        wanted = [model for model, answers in found.items() if None in answers.values()]
        for name in found:
            if name not in wanted:
                print(f"evaluate {name}: everything is remembered from an earlier run", flush=True)
        for model in load(wanted):
            for question in asked:
                if found[model.name][question.name] is None:
                    value = question.ask(model)
                    found[model.name][question.name] = self.remember(question, model.identity, value)
            del model  # before the next one is loaded
        return found

    def _key(self, question: Question, identity: str) -> str:
        about = {"question": question.name, "facts": question.facts, "identity": identity}
        return digest.of_value(about | {"surroundings": self.surroundings})

    def _path(self, key: str) -> Path:
        return self.folder / "measured" / f"{key}.json"


# --- looks at a test set ----------------------------------------------------------------------------------------


def look(folder: Path, test_digest: str, identity: str) -> None:
    """Note that a candidate is scored on a test set: before it is, so that no look goes uncounted."""
    path = folder / "looks" / test_digest / identity
    if not path.is_file():
        atomic.write_text(path, "")


def looks(folder: Path, test_digest: str) -> int:
    """How many different candidates were scored on a test set; every one makes it less of a holdout."""
    place = folder / "looks" / test_digest
    return sum(not path.name.startswith(".") for path in place.iterdir()) if place.is_dir() else 0
