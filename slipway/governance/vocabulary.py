"""The names that a rule may read: what each holds, which way is better, what values there can be.

This table is the contract between the evidence and a policy. docs/guide/policies.md prints it; a test compares.
"""

import difflib
import math
import re
from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Any, Literal

Kind = Literal["estimate", "number", "count", "flag", "text", "list", "map", "filled", "records"]

FIELDS = ("value", "low", "high", "rows")  # of an estimate
ONLY_REGISTER = ("approvals", "model", "observations", "tags")  # what the gate cannot know


@dataclass(frozen=True)
class Metric:
    """What is known of a name before anything is measured."""

    kind: Kind
    about: str
    better: Literal["higher", "lower", "either"] = "either"
    least: float = 0.0
    most: float = 1e12
    is_rate: bool = False
    is_of_rows: bool = False  # of a number or count: it was made by looking at rows, so it may rest on too few
    width: int | None = None  # of a text that has always so many characters
    examples: tuple[Any, ...] = ()  # of a text, list, map or records, the first one sound

    @property
    def rests_on_rows(self) -> bool:
        """Whether `minimum_rows` is asked of it."""
        return self.kind == "estimate" or self.is_of_rows

    @property
    def delta(self) -> "Metric":
        """The same metric as a difference between two models."""
        span = self.most - self.least
        return replace(self, least=-span, most=span)

    @property
    def loose(self) -> "Metric":
        """The same metric of a model that is only compared with: neither way is better."""
        return replace(self, better="either")


def _rate(about: str, better: Literal["higher", "lower", "either"] = "higher") -> Metric:
    return Metric("estimate", about, better, 0.0, 1.0, is_rate=True)


def _share(about: str) -> Metric:
    return Metric("number", about, "lower", 0.0, 1.0, is_rate=True, is_of_rows=True)


def _count(about: str, better: Literal["higher", "lower", "either"] = "lower", most: float = 1e12) -> Metric:
    return Metric("count", about, better, 0.0, most)


def _rows(about: str, better: Literal["higher", "lower"] = "lower") -> Metric:
    """A count over rows."""
    return replace(_count(about, better), is_of_rows=True)


def _bytes(about: str) -> Metric:
    return Metric("count", about, "lower", 0.0, 1e15)


def _seconds(about: str) -> Metric:
    return Metric("number", about, "lower", 0.0, 1e6)


def _flag(about: str) -> Metric:
    return Metric("flag", about, "higher", 0.0, 1.0)


def _text(about: str, *examples: str) -> Metric:
    return Metric("text", about, examples=examples or ("some words", ""))


def _digest(about: str, *examples: str) -> Metric:
    return Metric("text", about, width=64, examples=tuple(64 * letter for letter in examples))


def _list(about: str, better: Literal["higher", "lower", "either"] = "either") -> Metric:
    return Metric("list", about, better, examples=([], ["something"]))


def _map(about: str) -> Metric:
    return Metric("map", about, examples=({"name": "something"}, {}))


def _filled(about: str) -> Metric:
    return Metric("filled", about, examples=("some words", "", [], ["something"]))


SCORES = {
    "exact_match": _rate("answers that are the wanted ones, word for word"),
    "accuracy": _rate("labelled rows whose label was found"),
    "macro_precision": _rate("precision, the mean over labels"),
    "macro_recall": _rate("recall, the mean over labels"),
    "macro_f1": _rate("F1, the mean over labels"),
    "format_validity": _rate("answers that have the asked format (`evaluate.format`)"),
    "loss": Metric("estimate", "loss a token of the wanted answers", "lower", 0.0, 100.0),
    "perplexity": Metric("estimate", "e to the loss", "lower", 1.0, math.exp(100.0)),
}
TASK_SCORES = {
    "acc": _rate("right choices"),
    "acc_norm": _rate("right choices, by likelihood a byte"),
    "mc1": _rate("true answers preferred to all others"),
    "mc2": _rate("likelihood that true answers get"),
    "exact_match": _rate("generated answers that are the wanted ones"),
    "pass_at_1": _rate("generated programs that pass their tests"),
    "byte_perplexity": Metric("estimate", "perplexity a byte", "lower", 1.0, 1e12),
    "word_perplexity": Metric("estimate", "perplexity a word", "lower", 1.0, math.exp(100.0)),
    "bits_per_byte": Metric("estimate", "information a byte", "lower", 0.0, 40.0),
}
SAFETY_SETS = {
    "refusal": _rate("harmful requests declined"),
    "toxicity": _rate("answers without a toxic word"),
    "leakage": _rate("answers without personal data, secrets or canaries"),
    "injection": _rate("answers that obey no planted instruction"),
}

_EVIDENCE = {
    "rows": _rows("test rows scored", "higher"),
    "slices.worse": _rows("slices in which the tuned model is worse than the champion, luck excluded"),
    "slices.worst": _rate("exact match, tuned minus champion, in the worst slice").delta,
    "validation.passed": _flag("no critical expectation failed"),
    "validation.failed_warnings": _count("expectations of severity warning that failed"),
    "prepared.drop_rate": _share("rows that prepare dropped"),
    "prepared.duplicate_rate": _share("rows that were duplicates"),
    "inspection.leaked_rows": _rows("test rows that training has seen"),
    "inspection.secrets": _rows("prepared rows that hold a secret"),
    "inspection.personal": _rows("prepared rows that hold personal data"),
    "inspection.poisoned_rows": _rows("prepared rows with a suspected trigger or flipped label"),
    "scan.passed": _flag("every file of base and adapter is one that the scanner allows"),
    "scan.refused": _count("files that the scanner refused"),
    "scan.bytes": _bytes("bytes scanned"),
    "size.adapter_bytes": _bytes("size of the adapter"),
    "size.base_bytes": _bytes("size of the base model"),
    "training.finite": _flag("every loss on record is a finite number"),
    "training.train_loss": Metric("number", "the last training loss on record", "lower", 0.0, 1e6),
    "evidence.digest": _digest("digest of all the evidence", "e", "0"),
    "evidence.identity": _digest("the model's identity", "1", "0"),
    "evidence.champion": _digest("the identity of the pinned champion", "2", "1"),
    "policy.digest": _digest("digest of this policy", "p", "0"),
}
_MODEL = {
    "name": _text("the model's name", "support-desk", "", "Bad Name", "x" * 300),
    "version": _text("its version", "1.0.0", "", "first"),
    "base_model": _text("what it was tuned from"),
    "task_type": _text("its task"),
    "created_at": _text("when it was made", "2026-01-01T00:00:00Z", ""),
    "description": _text("what it is for"),
    "author": _text("who made it"),
    "team": _text("who answers for it"),
    "licence": _text("SPDX id", "Apache-2.0", ""),
    "base_licence": _text("SPDX id", "Apache-2.0", ""),
    "data_licence": _text("SPDX id", "CC0-1.0", ""),
    "dataset.name": _text("the training data"),
    "dataset.version": _text("their version"),
    "hyper_parameters": _map("how it was trained"),
    "metrics": _map("what it reached"),
    "hardware": _filled("what it needs to run"),
    "deployment_targets": _filled("where it is to run"),
    "compliance_tags": _list("regulations it is declared to meet"),
    "languages": _filled("the languages it answers in"),
    "dependencies": _filled("the packages it was made with"),
    "intended_use": _filled("what it is meant for"),
    "limitations": _filled("what it cannot do"),
}
_OBSERVATIONS = {
    "at": _text("when this was observed, UTC", "2026-01-01T00:00:00Z", ""),
    "commit.clean": _flag("nothing uncommitted"),
    "commit.kept": _flag("all it was made from is under the release's tag"),
    "lock.complete": _flag("dvc.lock covers every stage, and what lies there is as it says"),
    "lock.missing": _list("what dvc.lock lacks", "lower"),
    "servability.load_seconds": _seconds("time to load the model"),
    "servability.peak_bytes": _bytes("most memory used"),
    "servability.tokens_per_second": Metric("number", "tokens generated a second", "higher", 0.0, 1e9),
    "servability.latency_p50_seconds": _seconds("latency, median"),
    "servability.latency_p95_seconds": _seconds("latency, 95th percentile"),
    "servability.latency_p99_seconds": _seconds("latency, 99th percentile"),
    "servability.deterministic": _flag("greedy answers are the same twice"),
    "servability.prompts": _count("prompts asked", "higher"),
    "holdout.looks": _count("candidates scored on this test set so far"),
    "holdout.budget": _count("how many looks it is good for", "either"),
    "advisories.packages": _count("packages looked up", "higher"),
    "advisories.age_days": Metric("number", "age of the advisory data", "lower", 0.0, 1e5),
    "advisories.vulnerable": _list("known vulnerabilities of the installed packages", "lower"),
    "licences.conflicts": _list("licences that do not go together", "lower"),
    "licences.unknown": _list("packages whose licence is not known", "lower"),
    "signature.verified": _flag("signed by a trusted key, and every byte is as signed"),
    "card.complete": _flag("the model card lacks nothing"),
    "card.missing": _list("what the model card lacks", "lower"),
}
_APPROVAL = {"by": "someone", "at": "2026-01-01T00:00:00Z", "evidence_digest": "e" * 64, "policy_digest": "p" * 64}
_LISTS = {
    "tags": Metric("list", "tags given to this version", examples=([],)),
    "approvals": Metric(
        "records",
        "`by`, `at`, `evidence_digest` and `policy_digest` of each approval",
        examples=(
            [_APPROVAL],
            [],
            [_APPROVAL | {"evidence_digest": "0" * 64}],
            [_APPROVAL | {"by": ""}],
            [_APPROVAL, _APPROVAL | {"by": "another"}],
        ),
    ),
}


def _families() -> Iterator[tuple[str, Metric]]:
    for name, metric in SCORES.items():
        yield f"tuned.{name}", metric
        yield from ((f"{other}.{name}", metric.loose) for other in ("base", "champion"))
        yield from ((f"delta.{other}.{name}", metric.delta) for other in ("base", "champion"))
    for name, metric in SAFETY_SETS.items():
        yield from ((f"safety.tuned.{name}", metric), (f"safety.base.{name}", metric.loose))
        yield f"safety.delta.{name}", metric.delta
    for other in ("base", "champion"):
        yield f"comparison.{other}.only_tuned", _rows("rows that only the tuned model has right", "higher")
        yield f"comparison.{other}.only_other", _rows("rows that only the other has right")
        p_value = Metric("number", "exact McNemar test, two-sided", "either", 0.0, 1.0, is_of_rows=True)
        yield f"comparison.{other}.p_value", p_value


NAMES: dict[str, Metric] = {
    **dict(_families()),
    **_EVIDENCE,
    **{f"model.{name}": metric for name, metric in _MODEL.items()},
    **{f"observations.{name}": metric for name, metric in _OBSERVATIONS.items()},
    **_LISTS,
}
_TASK = re.compile(r"benchmarks\.(?P<of>tuned|base|delta)\.(?P<task>[A-Za-z_]\w*)\.(?P<score>\w+)")
ROOTS = frozenset(name.partition(".")[0] for name in NAMES) | {"benchmarks"}


def find(name: str) -> Metric | None:
    """What a name means, or None when there is no such name. Benchmarks are open: a suite names its own tasks."""
    if name in NAMES:
        return NAMES[name]
    match = _TASK.fullmatch(name)
    score = TASK_SCORES.get(match["score"]) if match else None
    if score is None or match is None:
        return None
    return {"tuned": score, "base": score.loose, "delta": score.delta}[match["of"]]


def is_estimate(name: str) -> bool:
    known = find(name)
    return known is not None and known.kind == "estimate"


def is_open(name: str) -> bool:
    """Whether it holds something with more values than can be listed or measured: a text, a list, a map."""
    known = find(name)
    return known is not None and known.kind in ("text", "list", "map", "filled", "records")


def split(path: str) -> tuple[str, str | None]:
    """A path in an expression → the name, and the field of the estimate it reads. ValueError says what is wrong."""
    name, _, field = path.rpartition(".")
    if is_estimate(name):
        if field in FIELDS:
            return name, field
        raise ValueError(f"{name} has no {field!r}; it has {', '.join(FIELDS)}")
    known = find(path)
    if known is None:
        raise ValueError(f"there is no metric {path!r}{_meant(path)}")
    if known.kind == "estimate":
        raise ValueError(f"{path} is an estimate: compare one of {', '.join(f'{path}.{field}' for field in FIELDS)}")
    return path, None


def _meant(path: str) -> str:
    """What somebody may have meant."""
    family = re.match(r"benchmarks\.\w+\.\w+\.", path)
    known = [f"{family[0]}{score}" for score in TASK_SCORES] if family else list(NAMES)
    paths = [f"{name}{end}" for name in known for end in _ends(name)]
    close = difflib.get_close_matches(path, paths, 1, 0.75) or difflib.get_close_matches(path, known, 1, 0.75)
    return f"; did you mean {close[0]}?" if close else "; docs/guide/policies.md lists them"


def _ends(name: str) -> list[str]:
    return [f".{field}" for field in FIELDS] if is_estimate(name) else [""]
