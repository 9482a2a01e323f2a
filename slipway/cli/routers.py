"""`slipway canary render`: a canary as manifests, for who keeps a cluster in git."""

import json as json_module
from pathlib import Path

from slipway import settings as environments
from slipway.artifacts import Json
from slipway.errors import UsageError
from slipway.release.routers.configuration import KServe, Kubernetes, Settings
from slipway.release.routers.plan import Plan
from slipway.release.routers.protocol import Arm


def render(
    champion: str, candidate: str | None, router: str, percent: float, model: str | None, file: Path | None,
    steps: list[int], json: bool,
) -> int:  # fmt: skip
    chosen, name = _settings(router, file), model or _model()
    plan = Plan(_arm(name, champion), _arm(name, candidate) if candidate else None, percent)
    if plan.candidate and plan.candidate.version == plan.champion.version:
        raise UsageError(f"champion and candidate are both {plan.champion.version}; name two versions")
    if any(not 0 < here < 100 for here in steps) or steps != sorted(set(steps)):
        raise UsageError(f"steps {steps} must rise, within 1 and 99 per cent; write --step 5 --step 25")
    made = _rendered(router, chosen, plan, steps)
    if json:
        print(json_module.dumps(made, indent=2))
    else:
        import yaml

        plain = json_module.loads(json_module.dumps(made))  # what stands twice is written twice, not as an anchor
        print(yaml.safe_dump_all(plain, sort_keys=False, allow_unicode=True), end="")
    return 0


def _rendered(router: str, chosen: KServe | Kubernetes, plan: Plan, steps: list[int]) -> list[Json]:
    from slipway.release.routers import kserve_manifests, kubernetes_manifests

    if isinstance(chosen, KServe):
        return kserve_manifests.render(chosen, plan)
    if router == "flagger":
        return kubernetes_manifests.flagger(chosen, plan, steps)
    return kubernetes_manifests.render(chosen, plan)


def _settings(router: str, file: Path | None) -> KServe | Kubernetes:
    """The section that a platform's manifests need."""
    kind = "kserve" if router == "kserve" else "kubernetes"
    where = str(file) if file else "the environment in use"
    chosen: Settings = environments.load_router(file) if file else environments.load(environments.find_root()).router
    if isinstance(chosen, KServe | Kubernetes) and chosen.kind == kind:
        return chosen
    raise UsageError(
        f"the router of {where} is {chosen.kind}, and --router {router} needs the kind {kind}; name a file with such a "
        f"section: --settings FILE (docs/guide/routers.md)"
    )


def _model() -> str:
    from slipway import model

    if (name := model.load(environments.find_root()).name) is None:
        raise UsageError("configs/model.yaml names no model; write its name there, or name one: --model NAME")
    return name


def _arm(model: str, given: str) -> Arm:
    version, _, uri = given.partition("=")
    if not version or not uri:
        raise UsageError(f"{given!r} is no version with its place; write VERSION=URI, as in 1.0.0=s3://models/1.0.0")
    return Arm(model, version, "", uri)
