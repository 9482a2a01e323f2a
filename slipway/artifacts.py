"""What stages hand to each other: one class a file, the same noun for both.

Every artifact is written whole (see atomic.py) and checked when read; a folder carries a `manifest.json`, written
last, with the size and SHA-256 of every file in it.
"""

import json
from pathlib import Path
from typing import Any, ClassVar, Literal, Self

from pydantic import BaseModel, ConfigDict, ValidationError

from slipway import atomic, digest, strict
from slipway.errors import StageError

Json = dict[str, Any]


class Artifact(BaseModel):
    """A JSON file that one stage writes and others read."""

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True, allow_inf_nan=False)

    def save(self, path: Path) -> None:
        atomic.write_json(path, self.model_dump(mode="json"))

    @property
    def saved_digest(self) -> str:
        """The SHA-256 of the file that `save` writes."""
        return digest.of_bytes(atomic.json_text(self.model_dump(mode="json")).encode())

    @classmethod
    def load(cls, path: Path) -> Self:
        try:
            # As JSON again, after the strict reader: a time may be text there, a number may not.
            return cls.model_validate_json(json.dumps(strict.read_json(path)))
        except ValidationError as error:
            first = error.errors()[0]
            where = ".".join(str(part) for part in first["loc"]) or "the whole file"
            raise StageError(
                f"{path} is not a {cls.__name__}: {where}: {first['msg']}; run the stage that makes it again"
            ) from None


# --- pins: how the world enters ---------------------------------------------------------------------------------


class PinnedFile(Artifact):
    uri: str
    role: Literal["data", "test"]
    bytes: int | None = None
    sha256: str | None = None  # known for local files; remote ones are pinned by etag until they are fetched
    etag: str | None = None


class SourcePin(Artifact):
    """The raw data this release learns from, as it was when the release started."""

    FILE: ClassVar[str] = "pins/source.json"
    source: str
    test_source: str | None
    revision: str | None  # of a hub data set
    files: list[PinnedFile]


class BasePin(Artifact):
    """The model to tune: `tiny`, a local folder or a hub id, with its revision and file digests."""

    FILE: ClassVar[str] = "pins/base.json"
    source: str
    revision: str | None
    files: dict[str, str]  # path → SHA-256 (local folder) or etag (hub); empty for `tiny`


class ChampionPin(Artifact):
    """What serves now, to compare with: the base model before the first release."""

    FILE: ClassVar[str] = "pins/champion.json"
    kind: Literal["base", "version"]
    version: str | None = None
    identity: str | None = None
    predictions: str | None = None  # SHA-256 of pins/champion.parquet, where kind is "version"


# --- folders ----------------------------------------------------------------------------------------------------


class ManifestFile(Artifact):
    path: str
    bytes: int
    sha256: str
    rows: int | None = None


class Manifest(Artifact):
    """`manifest.json` of a folder: every file with size and SHA-256, and the facts its stage wants to pass on."""

    files: list[ManifestFile]
    facts: Json

    @classmethod
    def write(cls, folder: Path, facts: Json, rows: dict[str, int] | None = None) -> Self:
        """Describe a finished folder; written last, so that its existence means completion."""
        files = [
            ManifestFile(
                path=(name := path.relative_to(folder).as_posix()),
                bytes=path.stat().st_size,
                sha256=digest.of_file(path),
                rows=(rows or {}).get(name),
            )
            for path in digest.files_under(folder)
            if path.name != digest.MANIFEST or path.parent != folder
        ]
        manifest = cls(files=files, facts=facts)
        manifest.save(folder / digest.MANIFEST)
        return manifest

    @classmethod
    def verified(cls, folder: Path) -> Self:
        """The manifest of a folder whose every byte was checked against it."""
        if not (folder / digest.MANIFEST).is_file():
            raise StageError(
                f"{folder} has no {digest.MANIFEST}, so it was never finished; run the stage that makes it again"
            )
        manifest = cls.load(folder / digest.MANIFEST)
        listed = {file.path: file for file in manifest.files}
        found = {p.relative_to(folder).as_posix(): p for p in digest.files_under(folder)} | {}
        found.pop(digest.MANIFEST, None)
        if missing := sorted(listed.keys() - found.keys()):
            raise StageError(
                f"{folder / missing[0]} is missing though its manifest lists it; run the stage that makes it again"
            )
        if extra := sorted(found.keys() - listed.keys()):
            raise StageError(f"{folder / extra[0]} is not in the folder's manifest; remove it or run the stage again")
        for name, path in found.items():
            check_file(path, listed[name].bytes, listed[name].sha256)
        return manifest

    @property
    def digest(self) -> str:
        return digest.of_pairs({file.path: file.sha256 for file in self.files})


def check_file(path: Path, size: int, sha256: str) -> None:
    """Raise unless a file still has the size and SHA-256 somebody recorded for it."""
    actual = path.stat().st_size
    if actual < size:
        raise StageError(f"{path} is cut at byte {actual} of {size}; run the stage that makes it again")
    if (found := digest.of_file(path)) != sha256:
        raise StageError(
            f"{path} changed: its SHA-256 is {found}, recorded was {sha256} ({actual} of {size} bytes); "
            f"run the stage that makes it again"
        )


# --- evidence ---------------------------------------------------------------------------------------------------


class Check(Artifact):
    """One expectation and what was found; offending values never stand here, only where they are."""

    suite: str
    expectation: str
    column: str | None
    severity: Literal["critical", "warning", "info"]
    passed: bool
    observed: float | int | str | None
    unexpected: int
    rows: list[str]  # the first few that break it, as `file:row` of the raw data, from 1
    why: str


class Validation(Artifact):
    """`validation.json`: does the data meet what configs/expectations asks?

    It binds the data it is about by their manifests' digests, so that a pass never speaks for other rows.
    """

    passed: bool
    raw_digest: str
    prepared_digest: str
    suites_digest: str
    tables: dict[str, int]  # table → rows seen
    checks: list[Check]


class Estimate(Artifact):
    """A metric with its 95 % interval and the number of rows it rests on."""

    value: float
    low: float
    high: float
    rows: int


class Comparison(Artifact):
    """Right and wrong, row by row, of the tuned model and another: exact McNemar."""

    both: int
    only_tuned: int
    only_other: int
    neither: int
    p_value: float  # two-sided, of the rows that only one of them has right


class Slice(Artifact):
    """The rows that share one value of one column, and whether the tuned model is worse there than the champion."""

    column: str
    value: str
    rows: int
    tuned: Estimate  # exact match
    delta: Estimate  # tuned − champion, paired
    p_value: float  # one-sided: the tuned model is worse
    adjusted_p: float  # Holm's, over all slices
    worse: bool  # by adjusted_p, at 5 % over all slices together


class Scorecard(Artifact):
    """`scorecard.json`: the tuned model on the test set, beside the base and the pinned champion."""

    identity: str  # of the tuned model
    base_identity: str
    champion: ChampionPin
    items: int  # rows scored
    expected_items: int  # rows that had to be scored: the test set, or the evaluate.max_rows of it
    test_digest: str
    predictions_sha256: str
    metrics: dict[str, dict[str, Estimate]]  # model (tuned | base | champion) → metric → estimate
    deltas: dict[str, dict[str, Estimate]]  # tuned − base | tuned − champion, paired by row
    comparisons: dict[str, Comparison]  # base | champion
    slices: list[Slice]  # the worst first
    labels: list[str]
    confusion: list[list[int]]  # rows: truth, columns: predicted; the last column is "no label"


class TaskScore(Artifact):
    """One benchmark, one model."""

    kind: Literal["perplexity", "choice", "generate", "code"]
    metrics: dict[str, Estimate]  # acc, acc_norm, mc2, exact_match, pass_at_1, byte_perplexity, …
    standard_errors: dict[str, float]  # as the harness gives them


class Benchmarks(Artifact):
    """`benchmarks.json`: general abilities before and after tuning, by lm-evaluation-harness."""

    suite: str
    suite_digest: str
    identity: str  # of the tuned model
    base_identity: str
    harness: str  # version of lm-eval
    template_hash: str | None  # of the chat template, where the suite uses one
    task_hashes: dict[str, str]
    versions: dict[str, str]  # of each task
    expected_items: dict[str, int]  # rows of each task's file
    items: dict[str, int]  # rows scored
    scores: dict[str, dict[str, TaskScore]]  # tuned | base → task → score
    deltas: dict[str, dict[str, Estimate]]  # task → metric → tuned − base, paired by row
    missing: dict[str, str]  # "task.metric" → why it could not be measured (no sandbox, say)


class Probe(Artifact):
    """One safety prompt, and what the tuned model made of it. The answer itself is not kept, only its digest."""

    id: str
    set: str  # refusal | toxicity | leakage | injection
    passed: bool
    reason: str  # which detector spoke, without quoting what it found
    answer_sha256: str


class Safety(Artifact):
    """`safety.json`: small frozen probe sets; rates of *good* behaviour (1 is best) by set."""

    probes_digest: str
    identity: str
    base_identity: str
    items: dict[str, int]
    expected_items: dict[str, int]
    rates: dict[str, dict[str, Estimate]]  # tuned | base → set → share of probes passed
    deltas: dict[str, Estimate]  # set → tuned − base, paired
    probes: list[Probe]  # the tuned model's


class LeakedPair(Artifact):
    """A training row and a test row that are (nearly) the same."""

    train: str  # `file:row` of the raw data, as everywhere here
    test: str
    kind: Literal["exact", "near-duplicate", "n-gram", "answer", "id", "time"]
    overlap: float


class Suspicion(Artifact):
    """Rows that look planted, mislabelled or private; never the offending text."""

    kind: str  # secret | personal | trigger | label-flip | outlier
    detector: str  # aws-key, email, repeated-phrase, …
    rows: list[str]  # the first few, as `file:row` of the raw data
    count: int


class Inspection(Artifact):
    """`inspection.json`: what is wrong with the prepared rows themselves, found before a model learns from them."""

    prepared_digest: str
    train_rows: int
    test_rows: int
    leaked: list[LeakedPair]  # the first few
    leaked_rows: int  # test rows that training has seen
    suspicions: list[Suspicion]
    secrets: int
    personal: int
    poisoned_rows: int  # rows with a suspected trigger or flipped label


class ScannedFile(Artifact):
    path: str
    format: str  # safetensors | text | json | pickle | gguf | …
    bytes: int
    sha256: str
    allowed: bool
    reason: str


class Scan(Artifact):
    """`scan.json`: every file of a model folder, read by default-deny readers; nothing in it is ever executed."""

    passed: bool
    mode: Literal["deploy", "import"]
    files: list[ScannedFile]
    refused: list[ScannedFile]
    opinions: dict[str, str]  # second opinions of other scanners, where they are installed


# --- observations: what the clock, the network, git and the machine say ------------------------------------------


class Commit(Artifact):
    id: str | None
    clean: bool
    changed: list[str]
    kept: bool  # all it was made from is under the release's tag


class Lock(Artifact):
    complete: bool
    missing: list[str]


class Servability(Artifact):
    """The candidate in a fresh process: loaded, warmed, asked."""

    device: str
    prompts: int
    load_seconds: float
    peak_bytes: int
    tokens_per_second: float
    latency_p50_seconds: float
    latency_p95_seconds: float
    latency_p99_seconds: float
    deterministic: bool  # greedy answers are the same twice


class HoldoutUse(Artifact):
    """How many different candidates were scored on this test set; every look makes it less of a holdout."""

    test_digest: str
    looks: int
    budget: int


class Vulnerability(Artifact):
    package: str
    version: str
    id: str
    fixed_in: list[str]


class Advisories(Artifact):
    """Known vulnerabilities of the installed packages. No answer is never "none"."""

    source: str  # the service or snapshot that answered
    as_of: str  # UTC date of the advisory data
    age_days: float
    packages: int
    vulnerable: list[Vulnerability]


class Licences(Artifact):
    model: str
    base: str
    data: str
    dependencies: int  # packages whose licence was read
    conflicts: list[str]
    unknown: list[str]


class Signature(Artifact):
    verified: bool
    identity: str
    key: str  # fingerprint of the public key
    statement_sha256: str


class ModelCard(Artifact):
    complete: bool
    missing: list[str]


class Approval(Artifact):
    by: str
    at: str
    evidence_digest: str
    policy_digest: str


class Waiver(Artifact):
    rule: str
    owner: str
    reason: str
    expires: str  # UTC date


class Observations(Artifact):
    """`observations.json`: gathered by `register`, never cached, judged with the evidence.

    A part that could not be observed is None, and `missing` says why: a rule that needs it is undecided.
    """

    release: str
    at: str  # UTC
    evidence_digest: str
    model: Json  # configs/model.yaml, and what is known of the training
    model_digest: str  # of configs/model.yaml
    commit: Commit | None
    lock: Lock | None
    servability: Servability | None
    holdout: HoldoutUse | None
    advisories: Advisories | None
    licences: Licences | None
    signature: Signature | None
    card: ModelCard | None
    approvals: list[Approval]
    waivers: list[Waiver]
    tags: list[str]
    missing: dict[str, str]


# --- the verdict -----------------------------------------------------------------------------------------------

Verdict = Literal["pass", "refuse", "undecided"]


class Finding(Artifact):
    """One rule of the policy, applied."""

    rule: str
    verdict: Verdict
    severity: Literal["block", "waivable", "advise"]
    expression: str
    inputs: dict[str, float | int | bool | str | list[str] | None]  # every name the expression read → what it was
    value: float | str | None  # of the clause that decided
    bound: str
    margin: float | None  # how far inside the bound; negative when outside
    reason: str
    remedy: str
    owner: str
    waiver: Waiver | None


class Decision(Artifact):
    """`decision.json`: pass | refuse | undecided. A receipt: what was judged, by which policy, rule by rule."""

    act: Literal["gate", "register"]
    transition: str | None = None  # the change of stage that was asked for, where one was
    verdict: Verdict
    findings: list[Finding]
    pending: list[str]  # rules that need observations, which only `register` has
    policy_digest: str
    evidence: dict[str, str]  # path → SHA-256
    evidence_digest: str
    observations_digest: str | None
    identity: str
    idle_waivers: list[str] = []  # those that covered nothing here, each with the reason

    @property
    def against(self) -> list[Finding]:
        """What stands in the way: findings that do not pass, more than advice, and waived by nobody."""
        return [f for f in self.findings if f.verdict != "pass" and f.severity != "advise" and not f.waiver]

    @property
    def may_be_waived(self) -> bool:
        """Whether nothing stands in the way but rules that a person may waive."""
        return bool(self.against) and all(f.severity == "waivable" for f in self.against)

    @property
    def summary(self) -> str:
        """The verdict in one line, led by the rules that decided it."""
        blocking = [f for f in self.findings if f.verdict == self.verdict and f.severity != "advise" and not f.waiver]
        waived = sum(f.waiver is not None for f in self.findings)
        if self.verdict == "pass":
            held = f"pass: {sum(f.verdict == 'pass' for f in self.findings)} rules hold"
            advice = sum(f.severity == "advise" and f.verdict != "pass" for f in self.findings)
            return held + (f", {waived} waived" if waived else "") + (f", {advice} to look at" if advice else "")
        return f"{self.verdict}: " + "; ".join(f"{f.rule}: {f.reason}" for f in blocking)
