"""The router that configs/env names; what it needs is imported only then."""

from pathlib import Path

from slipway import settings
from slipway.release.routers.configuration import KServe, Kubernetes, Local
from slipway.release.routers.protocol import Router


def open_router(root: Path, model: str) -> Router:
    """The router of a model in the environment in use."""
    chosen = settings.load(root).router
    if isinstance(chosen, Local):
        from slipway.release.routers.local import LocalRouter

        return LocalRouter(settings.gateway_folder(root), model, chosen.ready_seconds)
    if isinstance(chosen, KServe):
        from slipway.release.routers import kserve

        return kserve.open_router(chosen, model)
    if isinstance(chosen, Kubernetes):
        from slipway.release.routers.kubernetes import KubernetesRouter

        return KubernetesRouter(chosen, model)
    from slipway.release.routers.sagemaker import SageMakerRouter

    return SageMakerRouter(chosen, model)
