"""LLMInferenceServices of one routing group: each version is an object of its own, with its weight.

Two objects cannot be changed at once. A weight that rises is written first and one that falls afterwards, so that somebody
always has traffic; on the way back the candidate falls first, where the champion has any. Who is in charge is one number
on one object, so that it changes in one write.
"""

from slipway.artifacts import Json
from slipway.errors import Refused
from slipway.release.routers import kserve_manifests as manifests
from slipway.release.routers import protocol
from slipway.release.routers.cluster import Cluster, Ref, at, condition, observed
from slipway.release.routers.configuration import KServe
from slipway.release.routers.kserve_manifests import CHARGE, GROUP, WEIGHTS, weight_of
from slipway.release.routers.plan import VERSION
from slipway.release.routers.protocol import Arm, Traffic


class LLMRouter:
    """The routing group of one model."""

    def __init__(self, settings: KServe, model: str, cluster: Cluster | None = None) -> None:
        self.settings, self.cluster = settings, cluster or Cluster(settings)
        self.group = manifests.name(settings, model)
        self.ref = Ref(manifests.LLM, "llminferenceservices", settings.namespace, self.group)

    def look(self) -> Traffic:
        return seen(self.ref, self._members())

    def prepare(self, champion: Arm, candidate: Arm) -> None:
        wanted = manifests.member(self.settings, candidate, 0, 0)
        self._stand_up(champion)
        now = self.look()
        protocol.in_charge(now, champion, candidate, str(self.ref))
        if now.candidate not in (None, candidate.version):
            self.abandon()
        self.cluster.create(self._at(wanted), wanted)
        self._until_ready(candidate.version)

    def move(self, candidate_percent: float, why: str) -> Traffic:
        wanted = protocol.share(candidate_percent)
        now = self.look()
        protocol.can_take(now, wanted, str(self.ref))
        self._weigh(str(now.champion), wanted)
        return self._until(wanted)

    def settle(self, candidate: Arm, keep_old: bool) -> None:
        now = self.look()
        if now.champion != candidate.version:
            protocol.can_settle(now, candidate, str(self.ref))
            self._put_in_charge(candidate.version)
        if not keep_old:
            self.abandon()

    def restore(self, champion: Arm) -> Traffic:
        now = self.look()
        if now.champion is None:
            self._stand_up(champion)
        elif champion.version not in (now.champion, now.candidate):
            return protocol.bring_back(self, now, champion)
        else:
            self._weigh(champion.version, 0)
            self._put_in_charge(champion.version)
        return self._until(0)

    def abandon(self) -> None:
        now = self.look()
        if now.candidate is not None:
            protocol.idle(now, str(self.ref))
            for one in self._members():
                if _version(one) == now.candidate:
                    self.cluster.delete(self._at(one))

    def _members(self) -> list[Json]:
        return self.cluster.listed(self.ref, f"{GROUP}={self.group}")

    def _at(self, member: Json) -> Ref:
        return at(self.ref, member["metadata"]["name"])

    def _stand_up(self, champion: Arm) -> None:
        if not self._members():
            wanted = manifests.member(self.settings, champion, WEIGHTS, 1)
            self.cluster.create(self._at(wanted), wanted)
            self._until_ready(champion.version)

    def _weigh(self, champion: str, other_percent: float) -> None:
        """Write the weights in an order in which somebody always has traffic."""
        rest = weight_of(other_percent)
        wanted = {self._at(one): WEIGHTS - rest if _version(one) == champion else rest for one in self._members()}
        has = {self._at(one): _weight(one) for one in self._members()}
        served = any(has.get(ref) and weight for ref, weight in wanted.items())  # somebody keeps some of what he has
        for ref in sorted(wanted, key=lambda ref: (wanted[ref] > has.get(ref, 0)) is (served and rest == 0)):
            self.cluster.change(ref, lambda there, weight=wanted[ref]: _weighed(there, weight))  # type: ignore[misc]

    def _put_in_charge(self, version: str) -> None:
        members = self._members()
        most = max(members, key=_charge)
        for one in members:
            if _version(one) == version and one is not most:
                number = str(_charge(most) + 1)
                self.cluster.change(self._at(one), lambda there, number=number: _charged(there, number))  # type: ignore[misc]

    def _until_ready(self, version: str) -> None:
        protocol.until_ready(self, version, self.settings.ready_seconds, self.settings.look_seconds, str(self.ref))

    def _until(self, candidate_percent: float) -> Traffic:
        def done() -> bool:
            members = self._members()
            return all(map(observed, members)) and seen(self.ref, members).candidate_percent == candidate_percent

        said = f"{self.ref} does not give its candidate {candidate_percent:g} %"
        protocol.wait(done, self.settings.move_seconds, self.settings.look_seconds, lambda: said)
        return self.look()


def seen(ref: Ref, members: list[Json]) -> Traffic:
    """What a group does, by the weights its controller has taken over."""
    if len(members) > 2:
        named = ", ".join(one["metadata"]["name"] for one in members)
        raise Refused(
            f"the group {ref.name} has {len(members)} members ({named}), and we make two; take the others away"
        )
    if not members:
        return Traffic(None, None, 0.0)
    ranked = sorted(members, key=_charge, reverse=True)
    ready = {_version(one): observed(one) and condition(one, "Ready") for one in ranked}
    champion = _version(ranked[0])
    if len(ranked) == 1:
        return Traffic(champion, None, 0.0, ready)
    shares = [share for one in ranked if (share := _share(ref, one, ranked)) is not None]
    return Traffic(champion, _version(ranked[1]), max(shares, default=0.0), ready)


def _share(ref: Ref, member: Json, ranked: list[Json]) -> float | None:
    """The candidate's share as one member's status has it, for each speaks of the whole group; None before it does."""
    group = (member.get("status", {}).get("router") or {}).get("group") or {}
    found = {one["name"]: 0 if one.get("stopped") else int(one["weight"]) for one in group.get("members") or []}
    champion, candidate = (found.get(one["metadata"]["name"]) for one in ranked)
    if champion is None or candidate is None:
        return None
    if champion + candidate == 0:
        raise Refused(f"the group {ref.name} gives nobody any traffic; restore the champion")
    return round(100 * candidate / (champion + candidate), 2)


def _weighed(there: Json, weight: int) -> Json:
    there["spec"]["router"]["route"]["weight"] = weight
    return there


def _charged(there: Json, number: str) -> Json:
    there["metadata"]["annotations"][CHARGE] = number
    return there


def _weight(member: Json) -> int:
    return int(member["spec"]["router"]["route"]["weight"])


def _charge(member: Json) -> int:
    return int((member["metadata"].get("annotations") or {}).get(CHARGE, 0))


def _version(member: Json) -> str:
    return str((member["metadata"].get("annotations") or {}).get(VERSION))
