"""Two Deployments, blue and green, the Service that is switched between them, and a Canary for who runs Flagger. Pure."""

from typing import Literal

from slipway.artifacts import Json
from slipway.release.routers.configuration import Kubernetes
from slipway.release.routers.plan import OWNER, SLIPWAY, Plan, name_of, owned
from slipway.release.routers.protocol import Arm

Color = Literal["blue", "green"]
COLORS: tuple[Color, Color] = ("blue", "green")
COLOR = "slipway.dev/color"
CHAMPION = "slipway.dev/champion"  # the colour in charge
APP = "app.kubernetes.io/name"


def other(color: Color) -> Color:
    return "green" if color == "blue" else "blue"


def name(settings: Kubernetes, model: str) -> str:
    return settings.name or name_of(model)


def render(settings: Kubernetes, plan: Plan) -> list[Json]:
    """Blue is the champion, green the candidate; traffic is with the one that has all of it."""
    active: Color = "green" if plan.candidate and plan.candidate_percent == 100 else "blue"
    arms = zip(COLORS, [plan.champion, *([plan.candidate] if plan.candidate else [])], strict=False)
    return [
        *(deployment(settings, arm, color) for color, arm in arms),
        service(settings, plan.champion.model, active),
        preview(settings, plan.champion.model, other(active)),
    ]


def deployment(settings: Kubernetes, arm: Arm, color: Color) -> Json:
    """One version, in one colour."""
    labels = {OWNER: SLIPWAY, APP: name(settings, arm.model), COLOR: color}
    return {
        "apiVersion": "apps/v1",
        "kind": "Deployment",
        "metadata": {
            "name": f"{name(settings, arm.model)}-{color}",
            "namespace": settings.namespace,
            "labels": labels,
            "annotations": owned(arm),
        },
        "spec": {
            "replicas": settings.replicas,
            "selector": {"matchLabels": {APP: labels[APP], COLOR: color}},
            "template": {"metadata": {"labels": labels, "annotations": owned(arm)}, "spec": pod(settings, arm)},
        },
    }


def pod(settings: Kubernetes, arm: Arm) -> Json:
    container: Json = {
        "name": "model",
        "image": settings.image,
        "args": [_filled(settings, arm, text) for text in settings.arguments],
        "ports": [{"name": "http", "containerPort": settings.port}],
        "readinessProbe": {"httpGet": {"path": "/ready", "port": "http"}, "periodSeconds": 2},
    }
    if settings.resources:
        container["resources"] = {"requests": dict(settings.resources), "limits": dict(settings.resources)}
    return {"containers": [container]}


def service(settings: Kubernetes, model: str, active: Color) -> Json:
    """Where clients come."""
    made = _service(settings, model, name(settings, model), active)
    made["metadata"]["annotations"] = {CHAMPION: active}
    return made


def preview(settings: Kubernetes, model: str, idle: Color) -> Json:
    """Where the colour without traffic is tried before the switch."""
    return _service(settings, model, f"{name(settings, model)}-preview", idle)


def flagger(settings: Kubernetes, plan: Plan, steps: list[int]) -> list[Json]:
    """One Deployment of the candidate and a Canary: Flagger makes the rest, and judges by its own rules."""
    arm = plan.candidate or plan.champion
    app = name(settings, arm.model)
    labels = {OWNER: SLIPWAY, "app": app}
    made = deployment(settings, arm, "blue")
    made["metadata"].update({"name": app, "labels": labels})
    made["spec"]["selector"]["matchLabels"] = {"app": app}
    made["spec"]["template"]["metadata"]["labels"] = labels
    split = {"maxWeight": max(steps), "stepWeights": steps} if steps else {"iterations": 10}
    canary: Json = {
        "apiVersion": "flagger.app/v1beta1",
        "kind": "Canary",
        "metadata": {"name": app, "namespace": settings.namespace, "labels": {OWNER: SLIPWAY}},
        "spec": {
            "targetRef": {"apiVersion": "apps/v1", "kind": "Deployment", "name": app},
            "progressDeadlineSeconds": int(settings.ready_seconds),
            "service": {"port": settings.service_port, "targetPort": settings.port},
            "analysis": {
                "interval": "1m",
                "threshold": 1,
                **split,
                "metrics": [{"name": "request-success-rate", "interval": "1m", "thresholdRange": {"min": 99}}],
            },
        },
    }
    if not steps:
        canary["spec"]["provider"] = "kubernetes"  # no mesh: blue/green
    return [made, canary]


def _service(settings: Kubernetes, model: str, own: str, color: Color) -> Json:
    app = name(settings, model)
    return {
        "apiVersion": "v1",
        "kind": "Service",
        "metadata": {"name": own, "namespace": settings.namespace, "labels": {OWNER: SLIPWAY, APP: app}},
        "spec": {
            "selector": {APP: app, COLOR: color},
            "ports": [{"name": "http", "port": settings.service_port, "targetPort": "http"}],
        },
    }


def _filled(settings: Kubernetes, arm: Arm, text: str) -> str:
    known = {"model": arm.model, "version": arm.version, "identity": arm.identity, "uri": arm.uri or ""}
    for key, value in {**known, "port": str(settings.port)}.items():
        text = text.replace("{" + key + "}", value)
    return text
