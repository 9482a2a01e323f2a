"""What KServe is told of a plan, in each of its three ways. Pure.

percent   InferenceService, predictor.canaryTrafficPercent: one predictor, whose last revision keeps the rest (Knative)
canary    InferenceService, spec.canary: a second predictor beside the first (Standard deployment, Gateway API)
llm       two LLMInferenceServices of one routing group, each with its weight
"""

from typing import Any

from slipway.artifacts import Json
from slipway.release.routers.configuration import KServe
from slipway.release.routers.plan import OWNER, SLIPWAY, Plan, bytes_of, name_of, name_of_version, owned
from slipway.release.routers.protocol import Arm, share

SERVICE = "serving.kserve.io/v1beta1"
LLM = "serving.kserve.io/v1alpha2"
MODE = "serving.kserve.io/deploymentMode"
GROUP = "slipway.dev/group"
CHARGE = "slipway.dev/charge"  # of two members the one with the higher number is in charge
CHAMPION = "slipway.dev/champion"
CANDIDATE = "slipway.dev/candidate"
WEIGHTS = 10_000  # a share to a hundredth of a per cent


def name(settings: KServe, model: str) -> str:
    return settings.name or name_of(model)


def member_name(settings: KServe, arm: Arm) -> str:
    return f"{name(settings, arm.model)}-{name_of_version(arm.version)}"[:63].rstrip("-")


def render(settings: KServe, plan: Plan) -> list[Json]:
    """The manifests of a plan, in the form that is configured."""
    if settings.form == "percent":
        return [percent(settings, plan)]
    if settings.form == "canary":
        return [canary(settings, plan)]
    arms = [plan.champion, *([plan.candidate] if plan.candidate else [])]
    weights = [WEIGHTS - weight_of(plan.candidate_percent), weight_of(plan.candidate_percent)]
    return [
        member(settings, arm, weight, 1 - number)
        for number, (arm, weight) in enumerate(zip(arms, weights, strict=False))
    ]


def predictor(settings: KServe, arm: Arm) -> Json:
    """One version, as a predictor."""
    model: Json = {"modelFormat": {"name": settings.model_format}, "storageUri": bytes_of(arm)}
    if settings.runtime:
        model["runtime"] = settings.runtime
    if settings.resources:
        model["resources"] = _resources(settings)
    made: Json = {"annotations": owned(arm), "minReplicas": settings.replicas, "model": model}
    return made | ({"serviceAccountName": settings.service_account} if settings.service_account else {})


def percent(settings: KServe, plan: Plan) -> Json:
    """The candidate is the spec; the revision before it keeps the rest of the traffic."""
    shown = predictor(settings, plan.candidate or plan.champion)
    notes = {CHAMPION: plan.champion.version}
    if plan.candidate:
        shown["canaryTrafficPercent"] = int(share(plan.candidate_percent, whole=True))
        notes[CANDIDATE] = plan.candidate.version
    return _service(settings, plan.champion, {"predictor": shown}, "Knative", notes)


def canary(settings: KServe, plan: Plan) -> Json:
    """The champion is the predictor, the candidate stands in `canary`."""
    spec: Json = {"predictor": named(settings, plan.champion)}
    if plan.candidate:
        spec = with_canary(settings, spec["predictor"], named(settings, plan.candidate), plan.candidate_percent)
    return _service(settings, plan.champion, spec, "Standard", {})


def named(settings: KServe, arm: Arm) -> Json:
    """A predictor by its own name, under which it can stand in either place.

    The CRD asks for the name of a canary's container, and KServe's webhook forbids one in the predictor: an empty one is both.
    """
    made = predictor(settings, arm)
    return {"name": name_of_version(arm.version), **made, "model": {**made["model"], "name": ""}}


def with_canary(settings: KServe, stable: Json, other: Json, candidate_percent: float) -> Json:
    """Two predictors.

    KServe takes a ready canary's replicas away from the stable predictor, which would leave the champion with one replica
    under all of its traffic; so it is given those of both, and each has its full number at any share.
    """
    both = {**stable, "minReplicas": 2 * settings.replicas}
    beside = {**other, "minReplicas": settings.replicas}
    return {
        "predictor": both,
        "canary": [{"predictor": beside, "trafficPercent": int(share(candidate_percent, whole=True))}],
    }


def alone(settings: KServe, stable: Json) -> Json:
    return {"predictor": {**stable, "minReplicas": settings.replicas}}


def member(settings: KServe, arm: Arm, weight: int, charge: int) -> Json:
    """One version, as a member of the model's routing group."""
    group = name(settings, arm.model)
    spec: Json = {
        "model": {"name": group, "uri": bytes_of(arm)},
        "replicas": settings.replicas,
        "router": {"route": {"group": group, "weight": weight, "http": {}}, "gateway": {}, "scheduler": {}},
    }
    if settings.resources:
        spec["template"] = {"containers": [{"name": "main", "resources": _resources(settings)}]}
    return {
        "apiVersion": LLM,
        "kind": "LLMInferenceService",
        "metadata": {
            "name": member_name(settings, arm),
            "namespace": settings.namespace,
            "labels": {OWNER: SLIPWAY, GROUP: group},
            "annotations": {**owned(arm), CHARGE: str(charge)},
        },
        "spec": spec,
    }


def weight_of(candidate_percent: float) -> int:
    return round(share(candidate_percent) * WEIGHTS / 100)


def _resources(settings: KServe) -> dict[str, Any]:
    return {"requests": dict(settings.resources), "limits": dict(settings.resources)}


def _service(settings: KServe, arm: Arm, spec: Json, mode: str, notes: dict[str, str]) -> Json:
    return {
        "apiVersion": SERVICE,
        "kind": "InferenceService",
        "metadata": {
            "name": name(settings, arm.model),
            "namespace": settings.namespace,
            "labels": {OWNER: SLIPWAY},
            "annotations": {MODE: mode, **notes},
        },
        "spec": spec,
    }
