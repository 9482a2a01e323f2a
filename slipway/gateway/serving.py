"""The replicas that a gateway started: found again after it was killed, started again when they die."""

import threading
from collections.abc import Callable, Collection
from pathlib import Path
from typing import TYPE_CHECKING, Any

from slipway.errors import SlipwayError
from slipway.gateway import replicas
from slipway.gateway.config import ARMS, Arm
from slipway.gateway.replicas import Started
from slipway.gateway.routing import Model

if TYPE_CHECKING:
    from slipway.gateway.control import Gateway

Command = Callable[[str, str], list[str]]


class Serving:
    """Processes of `slipway serve` under this gateway."""

    def __init__(self, gateway: "Gateway", command: Command = replicas.serve_command) -> None:
        self.gateway, self.command = gateway, command
        self.started: list[Started] = []
        self._lock, self._starting = threading.Lock(), threading.Lock()
        self._number = 0

    def serve(self, model: str, arm: Arm, version: str, seconds: float = replicas.READY_SECONDS) -> str:
        """Let a version answer for an arm: start a replica and wait until it is ready; its address.

        Who asks again, after a lost answer or a kill, gets the replica that is there: one at a time starts.
        """
        with self._starting:
            there = self._there(model, arm, version)
            return there or self._start(model, arm, version, seconds)

    def _there(self, model: str, arm: Arm, version: str) -> str | None:
        side = self.gateway.model(model).side(arm)
        for one in self.started:
            mine = (one.model, one.arm, one.version) == (model, arm, version)
            if mine and one.lives() and one.address and side.at(one.address):
                return one.address
        return None

    def _start(self, model: str, arm: Arm, version: str, seconds: float) -> str:
        replica = self._new(model, arm, version)
        replica.start()
        try:
            address = replicas.wait_started(replica, seconds)
            self._attach(replica, address)
        except SlipwayError:
            replica.stop()
            raise
        with self._lock:
            self.started.append(replica)
        return address

    def _new(self, model: str, arm: Arm, version: str) -> Started:
        self._number += 1
        log = self.gateway.folder / "replicas" / f"{model}-{arm}-{self._number}.log"
        return Started(model, arm, version, log, self.command(model, version))

    def _attach(self, replica: Started, address: str) -> None:
        process: dict[str, Any] = {"pid": replica.pid, "started": replica.born}
        version = replica.version if replica.version[:1].isdigit() else None
        self.gateway.add(replica.model, replica.arm, address, version, **process)

    def changed_arms(self, model: str, now: Model) -> None:
        """After a settlement: a process that dies from now on is started again in the arm where it is now."""
        for replica in self.started:
            for arm in ARMS:
                if replica.model == model and replica.address and now.side(arm).at(replica.address):
                    replica.arm = arm

    def let_go(self, model: str, addresses: Collection[str]) -> None:
        """End the processes at these addresses, which finish what they have, and start them no more."""
        with self._lock:
            gone = [one for one in self.started if one.model == model and one.address in addresses]
            self.started = [one for one in self.started if one not in gone]
        for one in gone:
            one.stop()

    def adopt(self) -> None:
        """Know again the processes that an earlier gateway started and left."""
        for name, model in self.gateway.routing.models.items():
            for arm in ARMS:
                side = model.side(arm)
                for one in side.replicas:
                    if one.pid is not None:
                        replica = self._new(name, arm, side.version or name)
                        replica.pid, replica.born, replica.address = one.pid, one.started or 0.0, one.address
                        self.started.append(replica)

    def look(self) -> None:
        """Start again what died, after a pause that grows; its address changes, its arm does not."""
        with self._lock:
            known = list(self.started)
        for replica in known:
            if not replica.lives():
                self._again(replica)

    def _again(self, replica: Started) -> None:
        import time

        gateway = self.gateway
        if replica.again_at == 0.0:
            pause = replica.failed()
            said = f"a replica of the {replica.arm} died and is started again in {pause:g} s: {_words(replica.log)}"
            gateway.journal.add("replica_died", replica.model, said, arm=replica.arm)
        if time.monotonic() < replica.again_at:
            return
        old = replica.address
        replica.start()
        threading.Thread(target=self._come_back, args=(replica, old), daemon=True).start()

    def _come_back(self, replica: Started, old: str | None) -> None:
        try:
            address = replicas.wait_started(replica)
            if old is not None and old != address:
                self.gateway.forget(replica.model, old)
            self._attach(replica, address)
            replica.again_at = 0.0
        except SlipwayError as error:
            replica.failed()
            replica.address = old
            self.gateway.journal.add("replica_died", replica.model, str(error), arm=replica.arm)

    def stop(self) -> None:
        """Ask all of them to finish and end."""
        for replica in self.started:
            replica.stop()


def _words(log: Path) -> str:
    try:
        lines = [line for line in log.read_text(errors="replace").splitlines() if line.strip()]
    except OSError:
        return "it left no log"
    return lines[-1][:200] if lines else "it said nothing"
