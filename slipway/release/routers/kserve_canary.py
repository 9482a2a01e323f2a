"""InferenceService and spec.canary: two predictors side by side, each with Deployment and Service of its own name."""

from collections.abc import Callable

from slipway.artifacts import Json
from slipway.errors import Refused
from slipway.release.routers import kserve_manifests as manifests
from slipway.release.routers import protocol
from slipway.release.routers.cluster import Cluster, Ref, condition, observed, ours
from slipway.release.routers.configuration import KServe
from slipway.release.routers.plan import VERSION, Plan
from slipway.release.routers.protocol import Arm, Traffic


class CanaryRouter:
    """One InferenceService in Standard deployment."""

    def __init__(self, settings: KServe, model: str, cluster: Cluster | None = None) -> None:
        self.settings, self.cluster = settings, cluster or Cluster(settings)
        self.ref = Ref(manifests.SERVICE, "inferenceservices", settings.namespace, manifests.name(settings, model))

    def look(self) -> Traffic:
        there = self.cluster.find(self.ref)
        return Traffic(None, None, 0) if there is None else seen(self.ref, ours(self.ref, there))

    def prepare(self, champion: Arm, candidate: Arm) -> None:
        other = manifests.named(self.settings, candidate)
        self._stand_up(champion)
        now = self.look()
        protocol.in_charge(now, champion, candidate, str(self.ref))
        if now.candidate != candidate.version:
            protocol.idle(now, str(self.ref))
            self._respec(lambda spec: manifests.with_canary(self.settings, spec["predictor"], other, 0))
        self._until_ready(candidate.version)

    def move(self, candidate_percent: float, why: str) -> Traffic:
        wanted = protocol.share(candidate_percent, whole=True)
        now = self.look()
        protocol.can_take(now, wanted, str(self.ref))
        if now.candidate is not None:
            self._respec(lambda spec: _shared(spec, wanted))
        return self._until(wanted)

    def settle(self, candidate: Arm, keep_old: bool) -> None:
        now = self.look()
        if now.champion != candidate.version:
            protocol.can_settle(now, candidate, str(self.ref))
            self._respec(lambda spec: self._swapped(spec, candidate.version))
            self._until(0)
        if not keep_old:
            self.abandon()

    def restore(self, champion: Arm) -> Traffic:
        now = self.look()
        if now.champion is None:
            self._stand_up(champion)
        elif champion.version not in (now.champion, now.candidate):
            return protocol.bring_back(self, now, champion)
        elif champion.version == now.champion:
            self._respec(lambda spec: _shared(spec, 0))
        else:
            self._until_ready(champion.version)  # a predictor without replicas would take the traffic and drop it
            self._respec(lambda spec: self._swapped(spec, champion.version))
        return self._until(0)

    def abandon(self) -> None:
        now = self.look()
        if now.candidate is not None:
            protocol.idle(now, str(self.ref))
            self._respec(lambda spec: manifests.alone(self.settings, spec["predictor"]))

    def _stand_up(self, champion: Arm) -> None:
        if self.cluster.find(self.ref) is None:
            self.cluster.create(self.ref, manifests.canary(self.settings, Plan(champion)))
            self._until_ready(champion.version)

    def _respec(self, edit: Callable[[Json], Json]) -> None:
        self.cluster.change(self.ref, lambda there: {**there, "spec": {**there["spec"], **_whole(edit(there["spec"]))}})

    def _swapped(self, spec: Json, version: str) -> Json:
        """The canary is the predictor, by its own name, so that nothing is started anew; the other stands by."""
        if _version(spec["predictor"]) == version:
            return spec
        return manifests.with_canary(self.settings, spec["canary"][0]["predictor"], spec["predictor"], 0)

    def _until_ready(self, version: str) -> None:
        protocol.until_ready(self, version, self.settings.ready_seconds, self.settings.look_seconds, str(self.ref))

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
    """What an InferenceService does. A canary that is not ready counts with its share: KServe 0.20 sends it there."""
    spec, status = there["spec"], there.get("status", {})
    canaries = spec.get("canary") or []
    if len(canaries) > 1:
        raise Refused(f"{ref} has {len(canaries)} canaries, and we make one; take the others away there")
    champion = _version(spec["predictor"])
    ready = {champion: observed(there) and condition(there, "PredictorReady")}
    if not canaries:
        return Traffic(champion, None, 0.0, ready)
    name, candidate = canaries[0]["predictor"]["name"], _version(canaries[0]["predictor"])
    found = next((one for one in status.get("canaryStatuses") or [] if one["name"] == name), None)
    ready[candidate] = observed(there) and found is not None and bool(found["ready"])
    has = float(found["trafficPercent"]) if found else 0.0
    return Traffic(champion, candidate, has, ready)


def _shared(spec: Json, candidate_percent: float) -> Json:
    for one in spec.get("canary") or []:
        one["trafficPercent"] = int(candidate_percent)
    return spec


def _whole(spec: Json) -> Json:
    return {"canary": [], **spec}


def _version(predictor: Json) -> str:
    return str((predictor.get("annotations") or {}).get(VERSION))
