"""The replicas that a gateway started: found again after it was killed, started again when they die."""

import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

from slipway.errors import SlipwayError
from slipway.gateway import replicas
from slipway.gateway.config import ARMS, Arm
from slipway.gateway.replicas import Started
from slipway.gateway.routing import Replica

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
        self.ended = threading.Event()  # nothing is waited for any more

    def serve(self, model: str, arm: Arm, version: str, seconds: float = replicas.READY_SECONDS) -> str:
        """Start a replica of a version, wait until it is ready, and let it answer for an arm; its address."""
        replica = self._new(model, arm, version)
        replica.start()
        try:
            address = replicas.wait_started(replica, seconds, self.ended)
            named = version if version[:1].isdigit() else None
            self.gateway.add(model, arm, address, named, pid=replica.pid, started=replica.born, serves=version)
        except SlipwayError:
            replica.stop()
            raise
        replica.known_as = address
        with self._lock:
            self.started.append(replica)
        return address

    def ensure(self, model: str, arm: Arm, version: str) -> str:
        """One replica of a version in an arm: the one that is there, for who asks again after a lost answer, or a new one."""
        with self._starting:
            return self._there(model, arm, version) or self.serve(model, arm, version)

    def _there(self, model: str, arm: Arm, version: str) -> str | None:
        side = self.gateway.model(model).side(arm)
        for one in self.started:
            if (one.model, one.version) == (model, version) and one.lives() and one.known_as and side.at(one.known_as):
                return one.known_as
        return None

    def _new(self, model: str, arm: Arm, version: str) -> Started:
        self._number += 1
        log = self.gateway.folder / "replicas" / f"{model}-{arm}-{self._number}.log"
        return Started(model, arm, version, log, self.command(model, version))

    def adopt(self) -> None:
        """Know again the processes that an earlier gateway started and left."""
        for name, model in self.gateway.routing.models.items():
            for arm in ARMS:
                side = model.side(arm)
                own = [one for one in side.replicas if one.pid is not None]
                if arm == "champion" and not any(_answers(one) for one in side.replicas):
                    for one in own:  # who answers next the ledger says: it may be another version by now
                        self.gateway.forget(name, one.address)
                    continue
                for one in own:
                    self._know(name, arm, one, one.serves or side.version or name)

    def _know(self, model: str, arm: Arm, one: Replica, version: str) -> None:
        replica = self._new(model, arm, version)
        replica.pid, replica.born, replica.address = one.pid or 0, one.started or 0.0, one.address
        replica.known_as, replica.adopted = one.address, True
        self.started.append(replica)

    def look(self) -> None:
        """Start again what died, after a pause that grows; end what answers for nobody any more."""
        with self._lock:
            known = list(self.started)
        for replica in known:
            if not self._wanted(replica):
                self._dismiss(replica)
            elif not replica.coming_back and not replica.lives():
                self._again(replica)

    def _wanted(self, replica: Started) -> bool:
        """Whether it stands in an arm: which one may have changed since it was started."""
        model = self.gateway.routing.models.get(replica.model)
        arms = [arm for arm in ARMS if model and replica.known_as and model.side(arm).at(replica.known_as)]
        replica.arm = arms[0] if arms else replica.arm
        return bool(arms)

    def _dismiss(self, replica: Started) -> None:
        replica.stop()  # it finishes what it has
        with self._lock:
            self.started.remove(replica)
        said = f"a replica of {replica.version} answers for nobody any more and was told to end"
        self.gateway.journal.add("replica_ended", replica.model, said)

    def _again(self, replica: Started) -> None:
        if replica.again_at == 0.0:
            pause = replica.failed()
            said = f"a replica of the {replica.arm} died and is started again in {pause:g} s: {_words(replica.log)}"
            self.gateway.journal.add("replica_died", replica.model, said, arm=replica.arm)
        if time.monotonic() < replica.again_at:
            return
        replica.start()
        replica.coming_back = True
        threading.Thread(target=self._come_back, args=(replica,), daemon=True).start()

    def _come_back(self, replica: Started) -> None:
        try:
            address = replicas.wait_started(replica, ended=self.ended)
            if self.gateway.readdress(replica.model, str(replica.known_as), address, replica.pid, replica.born):
                replica.known_as = address
            replica.again_at = 0.0
        except SlipwayError as error:
            replica.failed()
            self.gateway.journal.add("replica_died", replica.model, str(error), arm=replica.arm)
        finally:
            replica.coming_back = False

    def stop(self, ours: bool = False) -> None:
        """Ask all of them to finish and end; or those alone that this gateway has started."""
        self.ended.set()
        for replica in self.started:
            if not (ours and replica.adopted):
                replica.stop()


def _answers(one: Replica) -> bool:
    """Whether a replica is there, as far as can be told: one that runs elsewhere is taken for it."""
    return one.pid is None or replicas.lives(one.pid, one.started or 0.0)


def _words(log: Path) -> str:
    try:
        lines = [line for line in log.read_text(errors="replace").splitlines() if line.strip()]
    except OSError:
        return "it left no log"
    return lines[-1][:200] if lines else "it said nothing"
