"""What `register` saw of the world: git, the machine, the advisories, the signature."""

from dataclasses import dataclass

from slipway.artifacts import (
    Advisories,
    Commit,
    HoldoutUse,
    Licences,
    Lock,
    ModelCard,
    Observations,
    Servability,
    Signature,
)
from slipway.errors import size_text
from slipway.report import words

MOST = 8


@dataclass(frozen=True)
class Fact:
    name: str
    value: str
    digest: str | None = None


def facts(seen: Observations | None) -> list[Fact]:
    """One line for each observation, those that could not be made included, with the reason."""
    if seen is None:
        return []
    parts = {
        "Commit": seen.commit and _commit(seen.commit),
        "Lock": seen.lock and _lock(seen.lock),
        "Servability": seen.servability and _servability(seen.servability),
        "Holdout": seen.holdout and _holdout(seen.holdout),
        "Advisories": seen.advisories and _advisories(seen.advisories),
        "Licences": seen.licences and _licences(seen.licences),
        "Signature": seen.signature and _signature(seen.signature),
        "Card": seen.card and _card(seen.card),
    }
    return [
        Fact(words.title(name), text, _digest(name, seen))
        if text
        else Fact(words.title(name), f"not observed: {seen.missing.get(name.lower(), 'no reason given')}")
        for name, text in parts.items()
    ]


def _digest(name: str, seen: Observations) -> str | None:
    if name == "Signature" and seen.signature:
        return seen.signature.statement_sha256
    return seen.commit.id if name == "Commit" and seen.commit else None


def _commit(commit: Commit) -> str:
    state = "clean" if commit.clean else f"{words.count(len(commit.changed), 'file')} not committed"
    return f"{state}; {'all of it is kept under the release’s tag' if commit.kept else 'not kept under a tag'}"


def _lock(lock: Lock) -> str:
    return "dvc.lock is complete" if lock.complete else f"dvc.lock lacks {', '.join(lock.missing[:MOST])}"


def _servability(one: Servability) -> str:
    same = "greedy answers repeat" if one.deterministic else "greedy answers do not repeat"
    return (
        f"loaded in {words.duration(one.load_seconds)} on {one.device}, {size_text(one.peak_bytes)} at most, "
        f"{words.number(round(one.tokens_per_second))} tokens/s; an answer takes {_milliseconds(one.latency_p50_seconds)} "
        f"(p95 {_milliseconds(one.latency_p95_seconds)}, p99 {_milliseconds(one.latency_p99_seconds)}) "
        f"over {words.count(one.prompts, 'prompt')}; {same}"
    )


def _milliseconds(seconds: float) -> str:
    return f"{seconds * 1000:,.0f} ms"


def _holdout(use: HoldoutUse) -> str:
    over = "" if use.looks <= use.budget else ", over budget: collect a fresh test set"
    return f"{words.count(use.looks, 'candidate')} scored on this test set, of {use.budget} it may decide on{over}"


def _advisories(found: Advisories) -> str:
    head = (
        f"{words.count(found.packages, 'package')} held against {found.source} of {found.as_of} "
        f"({words.number(round(found.age_days, 1))} days old)"
    )
    if not found.vulnerable:
        return f"{head}: none is known to be vulnerable"
    named = ", ".join(f"{one.package} {one.version} ({one.id})" for one in found.vulnerable[:MOST])
    return f"{head}: {words.count(len(found.vulnerable), 'advisory', 'advisories')}: {named}"


def _licences(found: Licences) -> str:
    head = f"model {found.model}, base {found.base}, data {found.data}, {found.dependencies} dependencies"
    conflicts = f"; conflicts: {'; '.join(found.conflicts[:MOST])}" if found.conflicts else "; no conflict"
    return head + conflicts + (f"; unknown: {', '.join(found.unknown[:MOST])}" if found.unknown else "")


def _signature(one: Signature) -> str:
    return f"{'verified' if one.verified else 'NOT verified'}, key {words.short(one.key)}"


def _card(card: ModelCard) -> str:
    return "complete" if card.complete else f"lacks {', '.join(card.missing[:MOST])}"
