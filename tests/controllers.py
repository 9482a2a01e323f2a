"""What the controllers of Kubernetes and KServe do, as far as traffic goes: written after their own sources (v0.20).

knative   ksvc_reconciler.go and PropagateStatus of inference_service_status.go: revisions, and the last one rolled out
standard  validateCanarySpecs and reconcileCanaryDeployments: replicas of a canary are taken away from the predictor's
llm       router_group*.go: members of a group, with their weights, in the status of each
"""

import json
import math
from typing import Any

from api_server import ApiServer, Object

VERSION = "slipway.dev/version"
MODE = "serving.kserve.io/deploymentMode"


def version_of(predictor: Object) -> str:
    return str(predictor["annotations"][VERSION])


def conditions(**said: bool) -> list[Object]:
    return [{"type": kind, "status": "True" if value else "False"} for kind, value in said.items()]


def deployments(api: ApiServer) -> None:
    for one in api.of_kind("Deployment"):
        replicas = one["spec"]["replicas"]
        ready = 0 if one["metadata"]["annotations"][VERSION] in api.unready else replicas
        one["status"] = {
            "observedGeneration": one["metadata"]["generation"], "updatedReplicas": replicas,
            "availableReplicas": ready, "readyReplicas": ready,
        }  # fmt: skip


class Knative:
    """InferenceServices whose mode is Knative."""

    def __init__(self) -> None:
        self.revisions: dict[str, list[tuple[str, str]]] = {}  # name and predictor, by service

    def __call__(self, api: ApiServer) -> None:
        for one in api.of_kind("InferenceService"):
            if one["metadata"]["annotations"][MODE] == "Knative":
                self.reconcile(api, one)

    def reconcile(self, api: ApiServer, one: Object) -> None:
        predictor = one["spec"]["predictor"]
        rest = json.dumps({k: v for k, v in predictor.items() if k != "canaryTrafficPercent"}, sort_keys=True)
        made = self.revisions.setdefault(one["metadata"]["name"], [])
        if not made or made[-1][1] != rest:
            made.append((f"{one['metadata']['name']}-predictor-{len(made) + 1:05}", rest))
        ready = [name for name, text in made if version_of(json.loads(text)) not in api.unready]
        status = one["status"].setdefault("components", {}).setdefault("predictor", {})
        for _ in range(3):  # a controller comes again until nothing changes
            self._once(status, predictor.get("canaryTrafficPercent"), made[-1][0], ready[-1] if ready else None)
        up = bool(ready) and ready[-1] == made[-1][0]
        one["status"]["conditions"] = conditions(
            PredictorReady=up, PredictorRouteReady=bool(ready), PredictorConfigurationReady=up, Ready=up
        )
        one["status"]["observedGeneration"] = one["metadata"]["generation"]

    def _once(self, status: Object, percent: int | None, created: str, ready: str | None) -> None:
        last = status.get("latestRolledoutRevision", "")
        traffic: list[Object] = []
        if ready is not None:
            traffic = [{"revisionName": ready, "latestRevision": True, "percent": 100}]
        if percent is not None and last and ready is not None:
            traffic[0]["percent"] = percent
            if percent < 100:
                traffic.append({"revisionName": last, "latestRevision": False, "percent": 100 - percent, "tag": "prev"})
        sums: dict[str, int] = {}
        for target in traffic:
            sums[target["revisionName"]] = sums.get(target["revisionName"], 0) + target["percent"]
        for target in traffic[:1]:
            if last != ready:
                if target["percent"] == 100:
                    status["previousRolledoutRevision"], status["latestRolledoutRevision"] = last, ready
            elif ready == created and target["percent"] < 100 and sums[created] == 100:
                status["latestRolledoutRevision"] = status.get("previousRolledoutRevision") or last
        status.update({"traffic": traffic, "latestCreatedRevision": created})
        if ready is not None:
            status["latestReadyRevision"] = ready

    def shares(self, one: Object) -> dict[str, float]:
        """Who really has the traffic, by the revisions themselves."""
        by_name = {name: version_of(json.loads(text)) for name, text in self.revisions[one["metadata"]["name"]]}
        found: dict[str, float] = {}
        for target in one["status"]["components"]["predictor"]["traffic"]:
            version = by_name[target["revisionName"]]
            found[version] = found.get(version, 0) + target["percent"]
        return found


class Standard:
    """InferenceServices whose mode is Standard."""

    def __init__(self) -> None:
        self.least_stable: list[int] = []  # replicas that the predictor was left with

    def refuse(self, given: Object) -> None:
        if given["kind"] != "InferenceService":
            return
        stable, canaries = given["spec"]["predictor"], given["spec"].get("canary")
        if stable["model"].get("name"):
            raise ValueError("the 'name' field is not allowed in standard predictor")
        if not canaries:
            return
        if given["metadata"]["annotations"].get(MODE) != "Standard":
            raise ValueError("canary is only supported in Standard deployment mode")
        names = [one["predictor"].get("name") for one in canaries]
        if None in names or len(set(names)) < len(names) or stable.get("name") in names:
            raise ValueError(f"canary predictor.name {names} must be there and differ")
        for one in canaries:
            if one["predictor"].get("maxReplicas"):
                raise ValueError("canary must not set maxReplicas (canary uses fixed replicas)")
            if one["predictor"].get("minReplicas", 0) > stable.get("minReplicas", 1):
                raise ValueError("canary minReplicas must not exceed stable predictor minReplicas")
        if sum(one["trafficPercent"] for one in canaries) > 100:
            raise ValueError("sum of canary trafficPercent values must be <= 100")

    def __call__(self, api: ApiServer) -> None:
        for one in api.of_kind("InferenceService"):
            if one["metadata"]["annotations"][MODE] == "Standard":
                self.reconcile(api, one)

    def reconcile(self, api: ApiServer, one: Object) -> None:
        stable, canaries = one["spec"]["predictor"], one["spec"].get("canary") or []
        said, taken = [], 0
        for canary in canaries:
            replicas = canary["predictor"].get("minReplicas")
            if replicas is None:
                replicas = math.ceil(stable.get("minReplicas", 1) * canary["trafficPercent"] / 100)
            ready = replicas > 0 and version_of(canary["predictor"]) not in api.unready
            taken += replicas
            name, percent = canary["predictor"]["name"], canary["trafficPercent"]
            said.append({"name": name, "ready": ready, "trafficPercent": percent})
        left = stable.get("minReplicas", 1)
        self.least_stable.append(max(left - taken, 1) if taken else left)
        up = version_of(stable) not in api.unready
        one["status"] = {"conditions": conditions(PredictorReady=up, Ready=up), "canaryStatuses": said}
        one["status"]["observedGeneration"] = one["metadata"]["generation"]

    @staticmethod
    def shares(one: Object) -> dict[str, float]:
        """The weights of the HTTPRoute that KServe 0.20 would write; later ones hold back what is not ready."""
        found = {version_of(one["predictor"]): one["trafficPercent"] for one in one["spec"].get("canary") or []}
        return {version_of(one["spec"]["predictor"]): 100 - sum(found.values()), **found}


class Groups:
    """LLMInferenceServices."""

    def refuse(self, given: Object) -> None:
        if given["kind"] != "LLMInferenceService":
            return
        route = given["spec"]["router"]["route"]
        if ("group" in route) != ("weight" in route):
            raise ValueError("group requires weight, and weight requires group")
        if (route.get("http") or {}).get("refs"):
            raise ValueError("traffic splitting cannot be used with custom HTTPRoute refs")

    def __call__(self, api: ApiServer) -> None:
        members = api.of_kind("LLMInferenceService")
        listed = [
            {"name": one["metadata"]["name"], "weight": one["spec"]["router"]["route"]["weight"]} for one in members
        ]
        for one in members:
            up = one["metadata"]["annotations"][VERSION] not in api.unready
            group = {"name": one["spec"]["router"]["route"]["group"], "members": listed}
            one["status"] = {
                "conditions": conditions(Ready=up, GroupReady=True), "router": {"group": group},
                "observedGeneration": one["metadata"]["generation"],
            }  # fmt: skip

    @staticmethod
    def shares(members: list[Object]) -> dict[str, float]:
        weights = {one["metadata"]["annotations"][VERSION]: one["spec"]["router"]["route"]["weight"] for one in members}
        total: Any = sum(weights.values())
        return {version: round(100 * weight / total, 2) for version, weight in weights.items()}
