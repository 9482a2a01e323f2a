"""Gather what the clock, the network, git and the machine say about a candidate.

Each part is asked on its own. One that cannot be observed is None with the reason, and nothing here raises: a rule that
needs the part is undecided, which is never a pass.
"""

import importlib.metadata
from collections.abc import Callable, Iterator
from datetime import datetime
from pathlib import Path
from typing import TypeVar

from slipway import digest, git, model, settings
from slipway.artifacts import (
    Approval,
    BasePin,
    Commit,
    Decision,
    HoldoutUse,
    Json,
    Licences,
    Manifest,
    ModelCard,
    Observations,
    Scorecard,
    Servability,
    Signature,
)
from slipway.errors import SlipwayError, StageError
from slipway.evaluation import memory
from slipway.observing import advisories, licences, lock, servability
from slipway.people import entering, grants
from slipway.registry import keys, receipt
from slipway.registry.place import Place

_MADE_WITH = ("torch", "transformers", "peft", "tokenizers", "safetensors", "lm-eval")
T = TypeVar("T")


class Asking:
    """Asks for one part after the other, and keeps the reason where there is no answer."""

    def __init__(self, root: Path) -> None:
        self.root, self.missing = root, dict[str, str]()

    def __call__(self, name: str, ask: Callable[[], T]) -> T | None:
        try:
            return ask()
        except (SlipwayError, OSError) as error:
            self.missing[name] = self._line(str(error))
        except Exception as error:  # noqa: BLE001 - whatever goes wrong, the part is missing and the verdict says so
            self.missing[name] = self._line(f"{type(error).__name__}: {error} (please report it)")
        print(f"{name} could not be observed: {self.missing[name]}", flush=True)
        return None

    def _line(self, text: str) -> str:
        return " ".join(text.replace(f"{self.root}/", "").split())


def gather(
    place: Place,
    at: datetime,
    evidence_digest: str,
    describe: Callable[[Json], ModelCard],
    sign: Callable[[Json], Signature],
    version: str | None = None,
) -> Observations:
    """Everything that may be observed; `describe` writes the card about the model's facts, `sign` signs the model."""
    ask = Asking(place.root)
    facts = ask("model", lambda: model_facts(place, at, version)) or {}
    return Observations(
        release=place.release,
        at=keys.shown(at),
        evidence_digest=evidence_digest,
        model=facts,
        model_digest=receipt.digest_of(place.root / model.FILE),
        commit=ask("commit", lambda: commit(place)),
        lock=ask("lock", lambda: lock.observe(place.root)),
        servability=ask("servability", lambda: _servability(place)),
        holdout=ask("holdout", lambda: holdout(place, facts)),
        advisories=ask("advisories", lambda: advisories.observe(place.root, at)),
        licences=ask("licences", lambda: _licences(place, facts)),
        card=ask("card", lambda: describe(facts)),
        signature=ask("signature", lambda: sign(facts)),
        approvals=ask("approvals", lambda: _approvals(place, facts)) or [],
        waivers=ask("waivers", lambda: grants.standing(place.root, evidence_digest)) or [],
        tags=[],
        missing=ask.missing,
    )


# --- the parts ------------------------------------------------------------------------------------------------------


def _approvals(place: Place, facts: Json) -> list[Approval]:
    """Those of people who have let this very evidence enter the registry (`slipway approve RELEASE --for register`)."""
    gate, name = Decision.load(place.path("decision")), str(facts.get("name") or place.root.name)
    return entering.said_of(place.root, name, place.release, gate).approvals


def model_facts(place: Place, at: datetime, version: str | None = None) -> Json:
    """configs/model.yaml without what it leaves open, the number it got, and what the evidence says of the training."""
    stated = model.load(place.root).model_dump(mode="json", exclude_none=True, exclude={"numbering"})
    stated |= {"version": version} if version is not None else {}
    source = str(Manifest.load(place.path("base") / digest.MANIFEST).facts.get("source") or "")
    pinned = BasePin.load(place.path("pinned_base"))
    tuned = Scorecard.load(place.path("scorecard")).metrics.get("tuned", {})
    return stated | {
        "base_model": source + (f"@{pinned.revision}" if pinned.revision else ""),
        "hyper_parameters": place.params.finetune.model_dump(mode="json"),
        "metrics": {name: estimate.value for name, estimate in sorted(tuned.items())},
        "created_at": keys.shown(at),
        "dependencies": list(_made_with()),
    }


def _made_with() -> Iterator[str]:
    for name in _MADE_WITH:
        try:
            yield f"{name}=={importlib.metadata.version(name)}"
        except importlib.metadata.PackageNotFoundError:
            continue


def commit(place: Place) -> Commit:
    if not git.is_repository(place.root):
        raise StageError(f"{place.root} is not a git repository, so nothing keeps what made this model; `git init` it")
    changed = git.dirty(place.root)
    return Commit(
        id=git.commit(place.root), clean=not changed, changed=changed[:20], kept=git.kept(place.root, place.tag)
    )


def _servability(place: Place) -> Servability:
    base, adapter, prepared = (place.path(name) for name in ("base", "adapter", "prepared"))
    scratch, most = settings.scratch_folder(place.root), settings.load(place.root).servability_seconds
    return servability.observe(base, adapter, prepared, scratch, place.params.evaluate, most)


def holdout(place: Place, facts: Json) -> HoldoutUse:
    """How often this test set has been looked at, this candidate included."""
    budget = facts.get("holdout_budget")
    if not isinstance(budget, int):
        raise StageError(f"{model.FILE} has no holdout_budget; say how many candidates one test set may decide on")
    test_digest = Scorecard.load(place.path("scorecard")).test_digest
    looks = memory.looks(settings.state_folder(place.root) / "memory" / "evaluate", test_digest)
    return HoldoutUse(test_digest=test_digest, looks=max(looks, 1), budget=budget)


def _licences(place: Place, facts: Json) -> Licences:
    return licences.observe(facts, place.path("base"), str(facts.get("base_model") or "") or None)
