"""What would a policy have decided on past releases? Their kept evidence, judged again by the same judge.

Evidence that was not kept, or is no longer what was judged then, proves nothing: such a release cannot be judged.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import TypeVar

from slipway import digest, strict
from slipway.artifacts import (
    Benchmarks,
    Decision,
    Finding,
    Inspection,
    Manifest,
    Observations,
    Safety,
    Scan,
    Scorecard,
    Validation,
    Verdict,
)
from slipway.errors import SlipwayError, StageError
from slipway.governance import evidence
from slipway.governance.evidence import Reports
from slipway.governance.judge import Agreement, Evidence, judge
from slipway.governance.measures import Measure
from slipway.governance.policy import Policy
from slipway.report.release import Release

REGISTER = "register"  # the folder with the register act's decision and observations
_AGREEMENT = "found == recorded"  # the expression of a finding that compares two accounts of one fact

T = TypeVar("T")


@dataclass(frozen=True)
class Judged:
    """One past release: what was decided then, and what the policy says now."""

    release: str
    outcome: str  # of the release as a whole
    act: str | None  # gate | register: the last judgement that was made
    decided: Verdict | None
    would: Verdict | None  # none where it cannot be judged
    because: str  # the rules that lead to it, or why it cannot be judged

    @property
    def differs(self) -> bool:
        return self.would is not None and self.would != self.decided


@dataclass
class Kept:
    """The folder of one release; everything read from it is checked against what was judged then."""

    folder: Path
    recorded: dict[str, str]  # evidence by its name → SHA-256
    missing: list[str] = field(default_factory=list)

    def read(self, name: str, load: Callable[[Path], T]) -> T | None:
        """One piece of evidence; noted as missing where it was not kept, or nothing says what it was."""
        path = self.folder / name
        if not path.is_file() or name not in self.recorded:
            self.missing.append(name)
            return None
        if (found := digest.of_file(path)) != self.recorded[name]:
            raise StageError(f"{name} changed: it is {found}, judged was {self.recorded[name]}")
        return load(path)


def again(folder: Path, release: Release, policy: Policy, policy_digest: str) -> Judged:
    """One release, judged by another policy."""
    try:
        decided, observations = _decided(folder, release)
    except SlipwayError as error:
        return Judged(release.id, release.outcome, None, None, None, f"cannot be judged: {error}")
    try:
        kept = Kept(folder, dict(decided.evidence))
        found = _evidence(kept, decided)
        would = judge(found, policy, policy_digest, decided.act, observations, decided.transition)
    except SlipwayError as error:
        why = f"cannot be judged: {error}"
        return Judged(release.id, release.outcome, decided.act, decided.verdict, None, why)
    if kept.missing and would.verdict != "refuse":  # what is missing could only have made it worse
        why = f"cannot be judged: {', '.join(sorted(kept.missing))} not kept"
        return Judged(release.id, release.outcome, decided.act, decided.verdict, None, why)
    return Judged(release.id, release.outcome, decided.act, decided.verdict, would.verdict, _because(would))


def _decided(folder: Path, release: Release) -> tuple[Decision, Observations | None]:
    """The last judgement of a release, with what was observed for it."""
    if not release.made("gate"):
        ended = next((s.name for s in release.stages if s.status not in ("ran", "cached", "unchanged")), "its start")
        raise StageError(f"it ended at {ended}, before anything was judged")
    registered = folder / REGISTER / "decision.json"
    if not registered.is_file():
        return Decision.load(folder / "decision.json"), None
    decided, observations = Decision.load(registered), Observations.load(registered.with_name("observations.json"))
    if observations.saved_digest != decided.observations_digest:
        raise StageError(f"{REGISTER}/observations.json is not what was judged")
    return decided, observations


def kept_evidence(folder: Path, decided: Decision) -> Evidence:
    """The evidence that a folder has kept of one decision; a rule on what was not kept is undecided."""
    return _evidence(Kept(folder, dict(decided.evidence)), decided)


def _evidence(kept: Kept, decided: Decision) -> Evidence:
    """What was judged then, as far as it was kept; the agreements are the ones that were found then."""
    scorecard = kept.read("scorecard.json", Scorecard.load)
    if scorecard is None:
        raise StageError("scorecard.json was not kept")
    if (prepared := kept.read("prepared/manifest.json", Manifest.load)) is not None:
        kept.recorded |= {f"prepared/{file.path}": file.sha256 for file in prepared.files}
    reports = Reports(
        scorecard=scorecard,
        validation=kept.read("validation.json", Validation.load),
        inspection=kept.read("inspection.json", Inspection.load),
        benchmarks=kept.read("benchmarks.json", Benchmarks.load),
        safety=kept.read("safety.json", Safety.load),
        scan=kept.read("scan.json", Scan.load),
        losses=kept.read("loss.json", evidence.losses),
        card=kept.read("prepared/card.json", strict.read_json),
        sizes=dict(_sizes(kept)),
    )
    agreements = [_agreement(finding) for finding in decided.findings if finding.expression == _AGREEMENT]
    champion = scorecard.champion.identity if scorecard.champion.kind == "version" else scorecard.base_identity
    measures = evidence.measures(reports) | {"evidence.champion": Measure(champion)}
    return Evidence(decided.identity, decided.evidence, measures, agreements)


def _sizes(kept: Kept) -> Iterator[tuple[str, int]]:
    for name in ("base", "adapter"):
        manifest = kept.read(f"{name}/{digest.MANIFEST}", Manifest.load)
        if manifest is not None:
            yield name, sum(file.bytes for file in manifest.files)


def _agreement(finding: Finding) -> Agreement:
    found, recorded = (str(finding.inputs[name]) for name in ("found", "recorded"))
    return Agreement(finding.rule, finding.rule, found, recorded, finding.remedy)


def _because(decision: Decision) -> str:
    """The rules that lead to a verdict, by name."""
    if decision.verdict == "pass":
        return decision.summary.removeprefix("pass: ")
    blocking = [f for f in decision.findings if f.verdict == decision.verdict and f.severity != "advise"]
    return ", ".join(finding.rule for finding in blocking if finding.waiver is None)
