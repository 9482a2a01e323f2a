"""The way of a candidate to all traffic."""

from pathlib import Path
from typing import Literal

from cyclopts import App

from slipway.cli.typed.root import Json, app

_canary = App(name="canary", help="How a candidate is led to all traffic, and how often that would go wrong.")
app.command(_canary)


@_canary.command(name="simulate")
def canary_simulate(
    *,
    canaries: int = 2000,
    seed: int = 1,
    policy: Path | None = None,
    metric: str | None = None,
    plot: Path | None = None,
    json: Json = False,
) -> int:
    """How often the policy promotes or rolls back wrongly, and how much traffic it needs, beside rules that others use.

    Parameters
    ----------
    canaries
        How many to try of each truth.
    seed
        Of the random numbers; the same seed gives the same figures.
    policy
        Another file than configs/policies/canary.yaml.
    metric
        The primary metric; the policy's first one when not given.
    plot
        An SVG file to draw the figures into.
    """
    from slipway.cli import canary as commands

    return commands.simulate(canaries, seed, policy, metric, plot, json)


@_canary.command(name="render")
def canary_render(
    champion: str,
    candidate: str | None = None,
    *,
    router: Literal["kserve", "kubernetes", "flagger"],
    percent: float = 0,
    model: str | None = None,
    settings: Path | None = None,
    step: list[int] | None = None,
    json: Json = False,
) -> int:
    """Print a canary as the manifests of a platform, to be committed; no cluster is asked.

    Parameters
    ----------
    champion
        VERSION=URI, as in 1.0.0=s3://models/support-desk/1.0.0.
    candidate
        The same, of the version that comes beside it.
    router
        Whose manifests: KServe's, Kubernetes' own (blue/green), or a Canary for Flagger.
    percent
        The candidate's share.
    model
        Its name; the project's when not given.
    settings
        A YAML file with the section `router` of configs/env; the environment in use when not given.
    step
        A share on the way up, for Flagger with a mesh; may be given several times. None: Flagger's blue/green.
    """
    from slipway.cli import routers as commands

    return commands.render(champion, candidate, router, percent, model, settings, step or [], json)
