"""Blue and green: one Service, switched between two Deployments. The switch is one write, in both directions."""

from typing import cast

from slipway.artifacts import Json
from slipway.errors import Refused
from slipway.release.routers import kubernetes_manifests as manifests
from slipway.release.routers import protocol
from slipway.release.routers.cluster import Cluster, Ref, at, observed, ours
from slipway.release.routers.configuration import Kubernetes
from slipway.release.routers.kubernetes_manifests import CHAMPION, COLOR, COLORS, Color, other
from slipway.release.routers.plan import VERSION
from slipway.release.routers.protocol import Arm, Traffic


class KubernetesRouter:
    """One model's Service and its two colours."""

    def __init__(self, settings: Kubernetes, model: str, cluster: Cluster | None = None) -> None:
        self.settings, self.model, self.cluster = settings, model, cluster or Cluster(settings)
        name = manifests.name(settings, model)
        self.service = Ref("v1", "services", settings.namespace, name)
        self.preview = at(self.service, f"{name}-preview")
        self.deployments = {
            color: Ref("apps/v1", "deployments", settings.namespace, f"{name}-{color}") for color in COLORS
        }

    def look(self) -> Traffic:
        service = self.cluster.find(self.service)
        if service is None:
            return Traffic(None, None, 0)
        champion, active = _places(self.service, ours(self.service, service))
        found = {color: self._found(color) for color in COLORS}
        versions = {color: _version(one) for color, one in found.items() if one is not None}
        ready = {_version(one): _ready(one) for one in found.values() if one is not None}
        return Traffic(versions.get(champion), versions.get(other(champion)), 0 if active == champion else 100, ready)

    def prepare(self, champion: Arm, candidate: Arm) -> None:
        self._stand_up(champion)
        now = self.look()
        protocol.in_charge(now, champion, candidate, str(self.service))
        if now.candidate not in (None, candidate.version):
            self.abandon()
        self._deploy(candidate, other(self._champion_color()))

    def move(self, candidate_percent: float, why: str) -> Traffic:
        """All or nothing; the smoke test stands before the switch to a candidate."""
        wanted, now = protocol.share(candidate_percent), self.look()
        if wanted not in (0, 100):
            raise Refused(
                f"{self.service} is switched, not split: {wanted:g} % cannot go to a candidate there; choose the strategy "
                f"blue/green, or a router that splits. The old share was kept"
            )
        protocol.can_take(now, wanted, str(self.service))
        if now.candidate is not None:
            color = self._champion_color() if wanted == 0 else other(self._champion_color())
            if wanted > now.candidate_percent:
                self._smoke(color)
            self.cluster.change(self.service, lambda there: _switched(there, color))
        return protocol.expect(self.look(), wanted, str(self.service))

    def settle(self, candidate: Arm, keep_old: bool) -> None:
        now = self.look()
        if now.champion != candidate.version:
            protocol.can_settle(now, candidate, str(self.service))
            color = other(self._champion_color())
            self.cluster.change(self.service, lambda there: _switched(there, color, champion=True))
        if not keep_old:
            self.abandon()

    def restore(self, champion: Arm) -> Traffic:
        self._stand_up(champion)
        color = self._color_of(champion)
        self.cluster.change(self.service, lambda there: _switched(there, color, champion=True))
        return protocol.expect(self.look(), 0, str(self.service))

    def _color_of(self, arm: Arm) -> Color:
        """Where a version stands; it is deployed into the colour without traffic when it stands nowhere."""
        for color in COLORS:
            if (there := self._found(color)) is not None and _version(there) == arm.version:
                return color
        service = self.cluster.find(self.service) or {}
        idle = other(_places(self.service, service)[1])
        self.cluster.delete(self.deployments[idle])
        self._deploy(arm, idle)
        return idle

    def abandon(self) -> None:
        now = self.look()
        if now.candidate is not None:
            protocol.idle(now, str(self.service))
            self.cluster.delete(self.deployments[other(self._champion_color())])

    def _stand_up(self, champion: Arm) -> None:
        """The champion's colour before the Service: nobody is sent to a place that is empty."""
        if self.cluster.find(self.service) is None:
            self._deploy(champion, "blue")
            self.cluster.create(self.service, manifests.service(self.settings, self.model, "blue"))

    def _deploy(self, arm: Arm, color: Color) -> None:
        ref, wanted = self.deployments[color], manifests.deployment(self.settings, arm, color)
        made = self.cluster.create(ref, wanted)
        if _version(made) != arm.version:
            raise Refused(f"{ref} has {_version(made)}, not {arm.version}; abandon it first")
        protocol.wait(
            lambda: (there := self._found(color)) is not None and _ready(there),
            self.settings.ready_seconds,
            self.settings.look_seconds,
            lambda: f"{arm.version} at {ref} is not ready",
        )

    def _smoke(self, color: Color) -> None:
        self.cluster.create(self.preview, manifests.preview(self.settings, self.model, color))
        self.cluster.change(self.preview, lambda there: _switched(there, color))
        for path in self.settings.smoke:
            self.cluster.proxied(self.preview, self.settings.service_port, path)

    def _champion_color(self) -> Color:
        there = self.cluster.find(self.service)
        if there is None:
            raise Refused(f"{self.service} is not there; prepare a candidate, or restore the champion, first")
        return _places(self.service, there)[0]

    def _found(self, color: Color) -> Json | None:
        ref = self.deployments[color]
        there = self.cluster.find(ref)
        return None if there is None else ours(ref, there)


def _places(ref: Ref, service: Json) -> tuple[Color, Color]:
    """The colour in charge, and the one that has the traffic."""
    active = service["spec"].get("selector", {}).get(COLOR)
    champion = (service["metadata"].get("annotations") or {}).get(CHAMPION)
    if active not in COLORS or champion not in COLORS:
        raise Refused(
            f"{ref} has {champion!r} in charge and selects {active!r}; both must be blue or green. Correct it there"
        )
    return cast(Color, champion), cast(Color, active)


def _switched(there: Json, color: Color, champion: bool = False) -> Json:
    there["spec"]["selector"][COLOR] = color
    if champion:
        there["metadata"]["annotations"][CHAMPION] = color
    return there


def _ready(deployment: Json) -> bool:
    wanted, status = int(deployment["spec"].get("replicas", 1)), deployment.get("status", {})
    counts = (status.get("updatedReplicas", 0), status.get("availableReplicas", 0))
    return observed(deployment) and wanted > 0 and all(int(count) >= wanted for count in counts)


def _version(deployment: Json) -> str:
    return str((deployment["metadata"].get("annotations") or {}).get(VERSION))
