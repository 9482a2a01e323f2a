"""InferenceService and canaryTrafficPercent: the spec is the newest version, and KServe keeps the revision before it.

What KServe does not keep is written beside the spec, in the same change: who is in charge, and the version, the revision
and the predictor that stood there before.
"""

import json
from typing import Any

from slipway.artifacts import Json
from slipway.errors import Refused, Transient
from slipway.release.routers import kserve_manifests as manifests
from slipway.release.routers import protocol
from slipway.release.routers.cluster import Cluster, Ref, condition, observed, ours
from slipway.release.routers.configuration import KServe
from slipway.release.routers.kserve_manifests import CANDIDATE, CHAMPION
from slipway.release.routers.plan import VERSION, Plan
from slipway.release.routers.protocol import Arm, Traffic

PREVIOUS = "slipway.dev/previous"
SHARE = "canaryTrafficPercent"


class PercentRouter:
    """One InferenceService on Knative."""

    def __init__(self, settings: KServe, model: str, cluster: Cluster | None = None) -> None:
        self.settings, self.cluster = settings, cluster or Cluster(settings)
        self.ref = Ref(manifests.SERVICE, "inferenceservices", settings.namespace, manifests.name(settings, model))

    def look(self) -> Traffic:
        there = self.cluster.find(self.ref)
        return Traffic(None, None, 0) if there is None else seen(self.ref, ours(self.ref, there))

    def prepare(self, champion: Arm, candidate: Arm) -> None:
        wanted = manifests.predictor(self.settings, candidate)
        self._stand_up(champion)
        now = self.look()
        protocol.in_charge(now, champion, candidate, str(self.ref))
        if now.candidate and (now.candidate != candidate.version or now.candidate not in now.ready):
            self.abandon()
        self.cluster.change(self.ref, lambda there: self._with_candidate(there, candidate, wanted))
        self._until_ready(candidate.version)

    def move(self, candidate_percent: float, why: str) -> Traffic:
        wanted = protocol.share(candidate_percent, whole=True)
        protocol.can_take(self.look(), wanted, str(self.ref))
        self.cluster.change(self.ref, lambda there: _moved(there, wanted))
        return self._until(wanted)

    def settle(self, candidate: Arm, keep_old: bool) -> None:
        now = self.look()
        if now.champion != candidate.version:
            protocol.can_settle(now, candidate, str(self.ref))
            self.cluster.change(self.ref, lambda there: _in_charge(there, candidate.version))
        if not keep_old:
            self.abandon()

    def restore(self, champion: Arm) -> Traffic:
        now = self.look()
        if now.champion is None:
            self._stand_up(champion)
        elif champion.version not in (now.champion, now.candidate):
            return protocol.bring_back(self, now, champion)
        else:
            self.cluster.change(self.ref, lambda there: _in_charge(there, champion.version))
        return self._until(0)

    def abandon(self) -> None:
        """The spec is the champion's again, if it was not; its new revision takes over when it is ready."""
        now = self.look()
        if now.candidate is None:
            return
        protocol.idle(now, str(self.ref))
        self.cluster.change(self.ref, _champion_in_spec)
        self._until_ready(str(now.champion))
        self.cluster.change(self.ref, _without_candidate)
        self._until_ready(str(now.champion))

    def _stand_up(self, champion: Arm) -> None:
        if self.cluster.find(self.ref) is None:
            self.cluster.create(self.ref, manifests.percent(self.settings, Plan(champion)))
            self._until_ready(champion.version)

    def _with_candidate(self, there: Json, candidate: Arm, wanted: Json) -> Json:
        notes, spec = there["metadata"]["annotations"], there["spec"]
        if notes.get(CANDIDATE) == candidate.version:
            return there
        revision = _status(there).get("latestRolledoutRevision")
        if not observed(there) or not revision:
            raise Transient(f"{self.ref} has not rolled its champion out yet; run this again")
        before = {key: value for key, value in spec["predictor"].items() if key != SHARE}
        previous = {"version": before["annotations"][VERSION], "revision": revision, "predictor": before}
        notes.update({CANDIDATE: candidate.version, PREVIOUS: json.dumps(previous, sort_keys=True)})
        spec["predictor"] = {**wanted, SHARE: 0}
        return there

    def _until_ready(self, version: str) -> None:
        protocol.until_ready(
            self,
            version,
            self.settings.ready_seconds,
            self.settings.look_seconds,
            str(self.ref),
            lambda: _why(self.cluster.find(self.ref)),
        )

    def _until(self, candidate_percent: float) -> Traffic:
        def done() -> bool:
            there = self.cluster.find(self.ref)
            return (
                there is not None and observed(there) and seen(self.ref, there).candidate_percent == candidate_percent
            )

        said = f"{self.ref} does not give its candidate {candidate_percent:g} %"
        protocol.wait(done, self.settings.move_seconds, self.settings.look_seconds, lambda: said)
        return self.look()


def seen(ref: Ref, there: Json) -> Traffic:
    """What an InferenceService does, by the revisions that have traffic."""
    notes, previous = there["metadata"].get("annotations") or {}, _previous(there)
    version, status = _version(there), _status(there)
    latest, shares = status.get("latestReadyRevision"), dict[str, float]()
    for target in status.get("traffic") or []:
        revision, percent = target.get("revisionName"), float(target.get("percent") or 0)
        before = previous is not None and revision == previous["revision"]
        if percent and not before and revision != latest:
            raise Refused(f"{ref} gives {percent:g} % to {revision}, which is no revision of ours; take it away there")
        whose = previous["version"] if before else version
        shares[whose] = shares.get(whose, 0) + percent
    champion, candidate = notes.get(CHAMPION, version), notes.get(CANDIDATE)
    ready = {previous["version"]: condition(there, "PredictorRouteReady")} if previous else {}
    ready[version] = (
        observed(there) and bool(latest) and latest == status.get("latestCreatedRevision")
        and latest != (previous or {}).get("revision") and condition(there, "PredictorReady")
    )  # fmt: skip
    return Traffic(champion, candidate, shares.get(str(candidate), 0.0), ready)


def _moved(there: Json, candidate_percent: float) -> Json:
    """The share of the spec's revision: the candidate's, or what a kept one leaves."""
    if (candidate := there["metadata"]["annotations"].get(CANDIDATE)) is not None:
        mine = candidate == _version(there)
        there["spec"]["predictor"][SHARE] = int(candidate_percent if mine else 100 - candidate_percent)
    return there


def _in_charge(there: Json, version: str) -> Json:
    """A version that stands in one of the two places takes all traffic, and is the champion."""
    notes = there["metadata"]["annotations"]
    if notes.get(CANDIDATE) is None:
        return there
    notes[CHAMPION], notes[CANDIDATE] = version, _other(notes, version)
    return _moved(there, 0)


def _other(notes: dict[str, str], version: str) -> str:
    return notes[CANDIDATE] if notes[CHAMPION] == version else notes[CHAMPION]


def _champion_in_spec(there: Json) -> Json:
    previous, notes = _previous(there), there["metadata"]["annotations"]
    if previous and _version(there) != notes[CHAMPION]:
        there["spec"]["predictor"] = {**previous["predictor"], SHARE: 0}
    return there


def _without_candidate(there: Json) -> Json:
    for note in (CANDIDATE, PREVIOUS):
        there["metadata"]["annotations"].pop(note, None)
    there["spec"]["predictor"].pop(SHARE, None)
    return there


def _version(there: Json) -> str:
    return str((there["spec"]["predictor"].get("annotations") or {}).get(VERSION))


def _previous(there: Json) -> Any:
    text = (there["metadata"].get("annotations") or {}).get(PREVIOUS)
    return json.loads(text) if text else None


def _status(there: Json) -> Json:
    found: Json = there.get("status", {}).get("components", {}).get("predictor", {})
    return found


def _why(there: Json | None) -> str:
    said = ((there or {}).get("status", {}).get("modelStatus") or {}).get("lastFailureInfo") or {}
    return f" ({said.get('reason')}: {str(said.get('message'))[:200]})" if said else ""
