"""KServe's three ways to split traffic."""

from slipway.release.routers.configuration import KServe
from slipway.release.routers.protocol import Router


def open_router(settings: KServe, model: str) -> Router:
    """The router of the form that is configured."""
    if settings.form == "percent":
        from slipway.release.routers.kserve_percent import PercentRouter

        return PercentRouter(settings, model)
    if settings.form == "canary":
        from slipway.release.routers.kserve_canary import CanaryRouter

        return CanaryRouter(settings, model)
    from slipway.release.routers.kserve_llm import LLMRouter

    return LLMRouter(settings, model)
