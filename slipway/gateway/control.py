"""Steer the traffic of a running gateway.

gateway = Gateway(root, config, folder)
gateway.start()
gateway.add("support-desk", "candidate", "127.0.0.1:9002")
gateway.set_weights("support-desk", {"champion": 95, "candidate": 5}, "canary step 1")
gateway.share("support-desk")                                     what was measured, with its interval
gateway.set_weights("support-desk", {"champion": 100, "candidate": 0}, "rolled back")
gateway.stop()

What is decided takes effect over HAProxy's runtime API within milliseconds and drops no connection. Where traffic goes is
written down first (but for taking a candidate out, which happens first), so that whatever is killed goes on as it was.
"""

import contextlib
import fcntl
import resource
import socket
import threading
import time
from collections.abc import Iterator, Mapping
from dataclasses import asdict
from pathlib import Path
from typing import IO, Any

from slipway.artifacts import Json
from slipway.errors import Refused, SlipwayError, Transient, UsageError
from slipway.gateway import counting, haproxy, keys, orders, rendering, replicas, routing
from slipway.gateway.admin import Admin
from slipway.gateway.config import ARMS, Arm, Config, split
from slipway.gateway.journal import Journal, Tell
from slipway.gateway.process import DataPlane
from slipway.gateway.rendering import Rendered
from slipway.gateway.routing import Model, Routing
from slipway.gateway.serving import Serving
from slipway.gateway.shadows import Pairs
from slipway.gateway.watching import Watch

SILENT_SECONDS = 10.0  # a HAProxy that lives has to answer again, before another takes its place


class Gateway:
    """One gateway: its HAProxy, where the traffic goes, and what is known of it."""

    def __init__(self, config: Config, folder: Path, tell: Tell | None = None) -> None:
        self.config, self.folder = config, folder
        folder.mkdir(parents=True, exist_ok=True, mode=0o700)
        self.plane = DataPlane(folder / "haproxy", haproxy.find(config.haproxy))
        self.runtime = self.plane.runtime
        self.journal = Journal(folder, tell)
        self.routing = Routing()
        self.watch = Watch(self)
        self.serving = Serving(self)
        self.pairs = Pairs(self)
        self.admin: Admin | None = None
        self.lock = threading.RLock()
        self._held: IO[str] | None = None
        self._started_haproxy = self._behind = False
        self._silent_since: float | None = None
        self._keys: list[keys.Key] = []

    # --- beginning and end --------------------------------------------------------------------------------------------

    def start(self) -> None:
        """Carry traffic: go on with a HAProxy that still runs, or start one; both with what was decided last."""
        try:
            self._start()
        except SlipwayError:
            self.give_up()
            raise

    def give_up(self) -> None:
        """End what this start has begun, and nothing else: a HAProxy that ran before it goes on, steered or not."""
        if self._started_haproxy:
            self.stop(1)
        else:
            self.serving.stop(ours=True)
            self.let_go()

    def _start(self) -> None:
        self._take_folder()
        self.routing = routing.start(self.config, routing.load(self.folder))
        listen = self._address("listen", self.config.listen)
        self.routing = self.routing.model_copy(update={"listen": listen})
        self._write_keys()
        rendered = self._rendered(self.config, self.routing)
        self.plane.install(rendered)
        running = self.plane.running()
        if running is None:
            self.plane.bury()
            self.plane.start(rendered)
            self._started_haproxy = True
            self.journal.add("started", "", f"HAProxy {self.plane.binary.version} carries traffic at {listen}")
        elif self.plane.differs(rendered):
            self.plane.start(rendered, replacing=running)
            self.journal.add("started", "", "the configuration had changed: a new HAProxy took over from the old one")
        else:
            self.journal.add("started", "", f"went on with the HAProxy that was running (PID {running})")
        routing.save(self.folder, self.routing)
        self.apply()
        self.serving.adopt()
        self.learn_versions()
        self.watch.start()
        self.pairs.start()
        self.admin = Admin(self, self._address("admin", self.config.admin))
        self.routing = self.routing.model_copy(update={"admin": self.admin.address})
        routing.save(self.folder, self.routing)
        self.admin.start()

    def _take_folder(self) -> None:
        held = (self.folder / "gateway.lock").open("w")
        try:
            fcntl.flock(held, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            held.close()
            raise Transient(
                f"another gateway steers {self.folder}; stop it, or give this one another state folder"
            ) from None
        self._held = held

    def _address(self, name: str, wanted: str) -> str:
        """The address to listen at; a free port is chosen once and then kept."""
        host, port = split(wanted)
        kept = getattr(self.routing, name)
        if port != 0:
            return wanted
        if kept is not None and split(kept)[0] == host:
            return str(kept)
        return f"{host}:{free_port(host)}"

    def stop(self, seconds: float = 30.0, replicas_too: bool = True) -> bool:
        """Let what is under way finish, then end; True when nothing had to be cut."""
        self.watch.stop()
        finished = self.plane.stop(seconds)
        if replicas_too:
            self.serving.stop()
            self.routing = routing.ended(self.routing)
            routing.save(self.folder, self.routing)
        self.let_go()
        return finished

    def let_go(self) -> None:
        """Stop steering and leave the traffic as it is: whoever starts next goes on with it."""
        self.watch.stop()
        if self.admin is not None:
            self.admin.stop()
            self.admin = None
        self.pairs.stop()
        self.journal.close()
        if self._held is not None:
            self._held.close()
            self._held = None

    def reload(self, config: Config) -> None:
        """Take another configuration: a new HAProxy takes over; one that is not sound, or does not start, changes nothing."""
        for key in ("admin", "haproxy"):
            if getattr(config, key) != getattr(self.config, key):
                raise UsageError(
                    f"`{key}` changes when the gateway starts, not while it runs; the old configuration stays"
                )
        with self.lock:
            listen = self._address("listen", config.listen)
            now = routing.start(config, self.routing).model_copy(update={"listen": listen})
            rendered = self._rendered(config, now)
            self._write_keys()  # a key that was revoked since the last start must not come back
            self.plane.replace(rendered)
            self.config, self.routing = config, now
            routing.save(self.folder, now)
            self.apply()
            self.watch.follow()
            self.journal.add("started", "", "another configuration: a new HAProxy took over from the old one")

    def revive(self) -> None:
        """Start HAProxy again after it died, with the traffic as it was. One that is only silent has some time first."""
        silent = time.monotonic() - (self._silent_since or time.monotonic())
        self._silent_since = self._silent_since or time.monotonic()
        if self.plane.lives() and silent < SILENT_SECONDS:
            raise Transient("HAProxy lives and does not answer; what is decided now waits until it does")
        with self.lock:
            self.plane.bury()  # two of them would share the port, and the old one its old weights
            rendered = self._rendered(self.config, self.routing)
            self._write_keys()
            self.plane.install(rendered)
            self.plane.start(rendered)
            self._silent_since, self._behind = None, False
            self.journal.add("started", "", "HAProxy had died; it was started again with the same weights")

    def catch_up(self) -> None:
        """HAProxy answers: what was decided while it did not is told to it now."""
        self._silent_since = None
        if self._behind:
            with self.lock:
                self.apply()

    # --- traffic ------------------------------------------------------------------------------------------------------

    def model(self, name: str) -> Model:
        self.config.served(name)
        return self.routing.models[name]

    def weights(self, model: str) -> dict[str, float]:
        return self.model(model).weights

    def set_weights(
        self, model: str, weights: Mapping[str, object], why: str, back: bool = False, by: str = "control"
    ) -> dict[str, float]:
        """Move traffic, at once; Refused with the old weights kept where these make no sense, or would flip users back."""
        candidate = routing.checked(weights)
        with self.lock:
            before = self.model(model)
            now = routing.moved(model, before, candidate, back)
            if now == before:
                return now.weights
            # Towards the champion at once; towards the candidate only when a restart would find it so.
            with self._kept(model, now, first=candidate > before.candidate_weight):
                self.runtime.do([orders.weight(model, now)])
            self.watch.moved(model, fresh=before.candidate_weight == 0)
        self._tell_traffic(model, now, why, by)
        return now.weights

    @contextlib.contextmanager
    def _kept(self, model: str, now: Model, first: bool) -> Iterator[None]:
        """Write down where traffic goes: before it does, or afterwards. What HAProxy did not do is not kept."""
        before, after = self.routing, self.routing.changed(model, now)
        if first:
            routing.save(self.folder, after)
        self.routing = after
        try:
            yield
        except Transient:
            self._behind = True  # HAProxy is away: it is started with what is decided now, or told when it answers
        except SlipwayError:
            self.routing = before
            routing.save(self.folder, before)
            raise
        if not first:
            routing.save(self.folder, after)

    def set_shadow(self, model: str, percent: float, why: str) -> None:
        """Copy a share of the champion's requests to the shadow arm, after they were answered."""
        if isinstance(percent, bool) or not isinstance(percent, int | float) or not 0 <= percent <= 100:
            raise Refused(f"the shadow's share is {percent!r:.40}, not within 0 and 100 per cent; the old one was kept")
        with self.lock:
            now = self.model(model).model_copy(update={"shadow_percent": round(float(percent), 2)})
            with self._kept(model, now, first=True):
                self.runtime.do([orders.shadow(model, now)])
        self.journal.add("shadow_changed", model, f"{percent:g} % of requests are copied: {why}")

    # --- replicas -----------------------------------------------------------------------------------------------------

    def add(
        self, model: str, arm: Arm, address: str, version: str | None = None, wait_seconds: float = 30.0, **process: Any
    ) -> None:
        """Let a replica answer for an arm, once it says that it is ready."""
        _known_arm(arm)
        said = replicas.wait_ready(address, wait_seconds)
        host, port = orders.resolve(address)
        with self.lock:
            named = version or said.version
            now, replica = routing.added(model, self.model(model), arm, address, self.config.slots, named)
            side = now.side(arm)
            rest = [one for one in side.replicas if one.slot != replica.slot]
            kept = replica.model_copy(update=process)
            side = side.model_copy(update={"replicas": [*rest, kept], "version": named or side.version})
            with self._kept(model, now.with_side(arm, side), first=True):
                self.runtime.do(rendering.attach(model, arm, replica.slot, host, port))
        self.journal.add("replica_added", model, f"{address} answers for the {arm}", arm=arm, address=address)

    def readdress(self, model: str, old: str, address: str, pid: int, started: float) -> bool:
        """A replica of ours was started again elsewhere; False where nobody waits for it any more."""
        host, port = orders.resolve(address)
        with self.lock:
            before = self.model(model)
            for arm in ARMS:
                if (replica := before.side(arm).at(old)) is not None:
                    now = routing.readdressed(before, arm, old, address, pid, started)
                    with self._kept(model, now, first=True):
                        self.runtime.do(rendering.attach(model, arm, replica.slot, host, port)[:1])
                    self.journal.add(
                        "replica_added", model, f"{address} answers for the {arm}", arm=arm, address=address
                    )
                    return True
        return False

    def drain(self, model: str, address: str) -> None:
        """Give a replica no new requests; those it has, it finishes."""
        self._state(model, address, "drain")

    def ready(self, model: str, address: str) -> None:
        """Give a replica requests again."""
        self._state(model, address, "ready")

    def _state(self, model: str, address: str, state: routing.State) -> None:
        with self.lock:
            before = self.model(model)
            arm, replica = routing.found(before, model, address)
            side = before.side(arm)
            others = [one for one in side.replicas if one.slot != replica.slot]
            changed = side.model_copy(update={"replicas": [*others, replica.model_copy(update={"state": state})]})
            with self._kept(model, before.with_side(arm, changed), first=True):
                self.runtime.do([f"set server {model}:{arm}/{rendering.slot(replica.slot)} state {state}"])
        self.journal.add(f"replica_{state}", model, f"{address} of the {arm} is set to {state}", address=address)

    def remove(self, model: str, address: str, wait_seconds: float = 60.0) -> None:
        """Drain a replica, wait until it has nothing left, and forget it."""
        arm, replica = routing.found(self.model(model), model, address)
        self.drain(model, address)
        self.idle(model, arm, replica.slot, wait_seconds)
        self.forget(model, address)
        self.journal.add("replica_removed", model, f"{address} answers for the {arm} no more", arm=arm, address=address)

    def forget(self, model: str, address: str) -> None:
        """Free the slot of a replica at once, whatever it has under way: it is empty, or dead."""
        with self.lock:
            now = self.model(model)
            arm, replica = routing.found(now, model, address)
            side = now.side(arm)
            rest = [one for one in side.replicas if one.slot != replica.slot]
            with self._kept(model, now.with_side(arm, side.model_copy(update={"replicas": rest})), first=True):
                self.runtime.do(rendering.detach(model, arm, replica.slot))

    def idle(self, model: str, arm: Arm, slot: int, seconds: float) -> None:
        """Returns when a replica has no request under way; Transient when it still has after that time."""
        deadline, name = time.monotonic() + seconds, (f"{model}:{arm}", rendering.slot(slot))
        while any(row.sessions for row in self.runtime.rows() if (row.proxy, row.service) == name):
            if time.monotonic() > deadline:
                raise Transient(
                    f"{name[0]}/{name[1]} still answers requests after {seconds:g} s; wait, then run this again"
                )
            time.sleep(0.05)

    def settle(self, model: str, why: str, keep_old: bool = False) -> None:
        """Make the candidate, which has all traffic, the champion's replicas: no user sees a difference.

        The old champion's replicas stay ready in the candidate's place, at 0 %, or are let go.
        """
        with self.lock:
            before = self.model(model)
            if before.candidate_weight != 100:
                raise Refused(
                    f"the candidate of {model} has {before.candidate_weight:g} % of the traffic, not all; move it first"
                )
            now, commands = orders.settled(model, before, self.config.slots, keep_old)
            with self._kept(model, now, first=True):
                self.runtime.do(commands)
            self.watch.moved(model, fresh=True)
        self._tell_traffic(model, now, why, "control")

    def apply(self) -> None:
        """Make HAProxy do what was decided, whatever it did before."""
        self.runtime.do(orders.everything(self.routing, self.config.slots))
        self.sync_keys(keys.load(self.folder), known=None)
        self._behind = False

    # --- keys ---------------------------------------------------------------------------------------------------------

    def _write_keys(self) -> None:
        self._keys = keys.load(self.folder)
        self.plane.folder.mkdir(parents=True, exist_ok=True, mode=0o700)
        (self.plane.folder / rendering.KEYS).write_text(keys.map_text(self._keys))

    def sync_keys(self, now: list[keys.Key], known: list[keys.Key] | None) -> None:
        """Let in who has a key now, and nobody else."""
        if self.config.authentication != "keys":
            return
        before = self._keys if known is None else known
        if known is None:  # a HAProxy that went on may know keys that were revoked since
            self.runtime.do([f"clear map {rendering.KEYS}"])
            before = []
        if commands := keys.difference(before, now, rendering.KEYS):
            self.runtime.do(commands)
        if known is not None and now != before:
            self.journal.add("keys_changed", "", f"{len(now)} API keys are valid")
        self._keys = now

    def keys_on_disk(self) -> None:
        """Notice keys that were made or revoked by another process."""
        now = keys.load(self.folder)
        if now != self._keys:
            self.sync_keys(now, self._keys)

    def learn_versions(self) -> None:
        """Ask replicas which version they are, where nobody has said so."""
        for name, model in self.routing.models.items():
            for arm in ARMS:
                side = model.side(arm)
                if (
                    side.version is None
                    and side.replicas
                    and (found := replicas.ask(side.replicas[0].address, 1.0).version)
                ):
                    with self.lock:
                        now = self.routing.models[name]
                        named = now.side(arm).model_copy(update={"version": found})
                        self.routing = self.routing.changed(name, now.with_side(arm, named))
                        routing.save(self.folder, self.routing)

    # --- what is known ------------------------------------------------------------------------------------------------

    def arms(self, model: str) -> Json:
        """The arms of a model: weight, version, replicas with what HAProxy finds of them."""
        now, look = self.model(model), self.watch.look(model)
        weights = {**now.weights, "shadow": now.shadow_percent}
        return {
            arm: {
                "weight": weights[arm],
                "version": now.side(arm).version,
                "up": look.ready.get(arm, 0) if look else 0,
                "sessions": look.sessions.get(arm, 0) if look else 0,
                "response_ms": look.response_ms.get(arm, 0) if look else 0,
                "replicas": [one.model_dump(include={"address", "state", "pid"}) for one in now.side(arm).replicas],
            }
            for arm in ARMS
        }

    def share(self, model: str) -> Json:
        """The split as it was measured since the weights changed last."""
        counts, tokens = self.watch.since_moved(model)
        return {
            "weight": self.model(model).candidate_weight,
            **counting.shares(counts, tokens),
            "counts": asdict(counts),
        }

    def _tell_traffic(self, model: str, now: Model, why: str, by: str, **facts: Any) -> None:
        names = {arm: now.side(arm).version or arm for arm in ("champion", "candidate")}
        by_version: dict[str, float] = {}
        for arm, percent in now.weights.items():
            if percent or arm == "champion":  # both may be one version: an A/A trial
                by_version[names[arm]] = by_version.get(names[arm], 0) + percent
        said = f"{model}: champion {now.weights['champion']:g} %, candidate {now.weights['candidate']:g} % ({why})"
        subject = names["candidate" if now.candidate_weight else "champion"]
        self.journal.add("traffic_changed", model, said, weights=by_version, by=by, subject=subject, **facts)

    def take_out(self, model: str, why: str, **facts: Any) -> None:
        """The candidate gets no traffic from now on: what the breaker does. Refused traffic comes back only by decision."""
        with self.lock:
            before = self.model(model)
            if before.candidate_weight == 0:
                return
            now = before.model_copy(update={"candidate_weight": 0.0})
            with self._kept(model, now, first=False):
                self.runtime.do([orders.weight(model, now)])
            self.watch.moved(model, fresh=True)
        self._tell_traffic(model, now, why, "breaker", before=before.candidate_weight, **facts)

    def _rendered(self, config: Config, now: Routing) -> Rendered:
        files = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
        return rendering.render(config, orders.numbered(now), str(now.listen), files if files > 0 else 1_000_000)


def _known_arm(arm: str) -> None:
    if arm not in ARMS:
        raise UsageError(f"no arm {ascii(arm)[:40]}; there are {', '.join(ARMS)}")


def free_port(host: str) -> int:
    with socket.socket() as probe:
        probe.bind((host, 0))
        return int(probe.getsockname()[1])
