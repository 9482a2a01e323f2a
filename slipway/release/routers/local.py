"""The gateway of this machine, over its admin port; back also when the process that steers it is dead."""

import fcntl
from collections.abc import Callable
from pathlib import Path
from typing import Any

from slipway.errors import Refused, Transient
from slipway.release.routers import protocol
from slipway.release.routers.protocol import Arm, Traffic

Ask = Callable[..., Any]
WHERE = "the local gateway"


class LocalRouter:
    """One model behind `slipway gateway`."""

    def __init__(self, folder: Path, model: str, ready_seconds: float = 600.0, ask: Ask | None = None) -> None:
        from slipway.gateway import steering

        self.folder, self.model, self.ready_seconds = folder, model, ready_seconds
        self._ask: Ask = ask or steering.ask

    def look(self) -> Traffic:
        arms = self._arms()
        champion, candidate = arms["champion"], arms["candidate"]
        there = candidate["version"] if candidate["replicas"] else None
        ready = {arm["version"]: arm["up"] > 0 for arm in (candidate, champion) if arm["version"] and arm["replicas"]}
        return Traffic(champion["version"], there, float(candidate["weight"]), ready)

    def prepare(self, champion: Arm, candidate: Arm) -> None:
        arms = self._arms()
        if not arms["champion"]["replicas"]:
            self._serve("champion", champion.version)
        protocol.in_charge(self.look(), champion, candidate, WHERE)
        if arms["candidate"]["version"] != candidate.version:
            self.abandon()
        if not self._has("candidate", candidate.version):
            self._serve("candidate", candidate.version)
        protocol.until_ready(self, candidate.version, self.ready_seconds, 0.05, WHERE)

    def move(self, candidate_percent: float, why: str) -> Traffic:
        wanted = protocol.share(candidate_percent)
        protocol.can_take(self.look(), wanted, WHERE)
        self._weigh(wanted, why)
        return protocol.expect(self.look(), wanted, WHERE)

    def settle(self, candidate: Arm, keep_old: bool) -> None:
        now = self.look()
        if now.champion != candidate.version:
            protocol.can_settle(now, candidate, WHERE)
            self._change("settle", {"why": "promoted", "keep_old": True})
        if not keep_old:
            self.abandon()

    def restore(self, champion: Arm) -> Traffic:
        try:
            arms = self._arms()
        except Transient:
            return self._restore_without_gateway(champion)
        if arms["champion"]["version"] == champion.version:
            self._weigh(0, "restored")
        elif self._has("candidate", champion.version):
            self._weigh(100, "restored")
            self._change("settle", {"why": "restored", "keep_old": True})
        else:
            return protocol.bring_back(self, self.look(), champion)
        return protocol.expect(self.look(), 0, WHERE)

    def abandon(self) -> None:
        protocol.idle(self.look(), WHERE)
        for replica in self._arms()["candidate"]["replicas"]:
            self._change("remove", {"address": replica["address"]})

    def _restore_without_gateway(self, champion: Arm) -> Traffic:
        """The process that steers is gone, HAProxy goes on: its map and the gateway's record say champion again."""
        from slipway.gateway import rendering, routing
        from slipway.gateway.runtime import Runtime

        kept = routing.load(self.folder)
        now = kept.models.get(self.model) if kept else None
        if kept is None or now is None or now.champion.version != champion.version:
            raise Transient(
                f"{WHERE} is not running and its champion is not {champion.version}; start it with `slipway gateway`, then run this again"
            )
        Runtime(self.folder / "haproxy").do([f"set map {rendering.WEIGHTS} {self.model} 0"])
        back = now.model_copy(update={"candidate_weight": 0.0})
        with (self.folder / "gateway.lock").open("a") as lock:
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                raise Transient(
                    f"HAProxy sends all of {self.model} to {champion.version} again, but the gateway that steers it runs and does not "
                    f"answer, so it may undo that; restart it, then run this again"
                ) from None
            routing.save(self.folder, kept.changed(self.model, back))
        return Traffic(champion.version, back.candidate.version, 0.0)

    # --- the admin port ---------------------------------------------------------------------------------------------------

    def _arms(self) -> Any:
        models = self._ask(self.folder, "/api/status")["models"]
        if self.model not in models:
            raise Refused(
                f"{WHERE} serves {', '.join(models)}, not {self.model}; add it to configs/gateway.yaml and reload"
            )
        return models[self.model]["arms"]

    def _has(self, arm: str, version: str) -> bool:
        found = self._arms()[arm]
        return found["version"] == version and bool(found["replicas"])

    def _change(self, what: str, asked: dict[str, Any], seconds: float = 90.0) -> None:
        self._ask(self.folder, f"/api/{what}", {"model": self.model, **asked}, seconds)

    def _serve(self, arm: str, version: str) -> None:
        self._change("serve", {"arm": arm, "version": version}, self.ready_seconds)

    def _weigh(self, candidate: float, why: str) -> None:
        weights = {"champion": round(100 - candidate, 2), "candidate": candidate}
        self._change("weights", {"weights": weights, "why": why, "back": True})
