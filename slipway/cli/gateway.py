"""`slipway gateway`: run the traffic split, and steer it from another terminal."""

import json as json_module
import signal
import sys
import threading
from pathlib import Path
from typing import TYPE_CHECKING, Any

from slipway import settings
from slipway.errors import SlipwayError, UsageError

if TYPE_CHECKING:
    from slipway.gateway.control import Gateway


def folder(root: Path) -> Path:
    return settings.gateway_folder(root)


def run(file: Path | None, drain_seconds: float, json: bool) -> int:
    from slipway.gateway import config, journal
    from slipway.gateway.control import Gateway

    root = settings.find_root()
    settings.quiet()
    gateway = Gateway(config.load(root, file), folder(root), journal.to_ledger(root))
    ended, cut = threading.Event(), threading.Event()

    def end(*_: object) -> None:
        gateway.serving.ended.set()  # no replica that is starting is waited for
        ended.set()

    for name in (signal.SIGTERM, signal.SIGINT):
        signal.signal(name, end)
    try:
        gateway.start()
        _say_addresses(gateway, json)
        _start_champions(root, gateway)
    except SlipwayError:
        gateway.give_up()
        if ended.is_set():
            return 0
        raise
    ended.wait()
    print("slipway: taking no new requests; finishing those that are under way", file=sys.stderr)
    if not gateway.stop(drain_seconds):
        cut.set()
        print(f"slipway: requests that took longer than {drain_seconds:g} s were cut", file=sys.stderr)
    return 1 if cut.is_set() else 0


def _say_addresses(gateway: "Gateway", json: bool) -> None:
    where = {"listen": gateway.routing.listen, "admin": gateway.routing.admin}
    if json:
        print(json_module.dumps(where), flush=True)
    else:
        scheme = "https" if gateway.config.certificate else "http"
        print(f"gateway at {scheme}://{where['listen']}, live page at http://{where['admin']}", flush=True)


def _start_champions(root: Path, gateway: "Gateway") -> None:
    """Where the file names no replica and none is left of an earlier gateway, start the version that the ledger says."""
    from slipway.ledger import champions
    from slipway.ledger.database import Database

    for served in gateway.config.models:
        if gateway.model(served.name).champion.replicas:
            continue
        with Database.of(root).read() as connection:
            found = champions.find(connection, served.name)
        version = found.version if found else "base"
        print(f"slipway: starting a replica of {served.name} {version}", file=sys.stderr)
        gateway.serving.serve(served.name, "champion", version)


# --- from another terminal --------------------------------------------------------------------------------------------


def _ask(path: str, asked: Any = None) -> Any:
    """What the running gateway's admin port answers."""
    from slipway.gateway import steering

    return steering.ask(folder(settings.find_root()), path, asked)


def _model(given: str | None) -> str:
    if given is not None:
        return given
    found = list(_ask("/api/status")["models"])
    if len(found) == 1:
        return str(found[0])
    raise UsageError(f"the gateway has {', '.join(found)}; say which one you mean (--model NAME)")


def weights(candidate: float, model: str | None, reason: str, back: bool, json: bool) -> int:
    """Move the traffic."""
    name = _model(model)
    wanted = {"champion": 100 - candidate, "candidate": candidate}
    said = _ask("/api/weights", {"model": name, "weights": wanted, "why": reason, "back": back})
    now = said["models"][name]["weights"]
    shown = f"{name}: champion {now['champion']:g} %, candidate {now['candidate']:g} %"
    print(json_module.dumps({"model": name, "weights": now}) if json else shown)
    return 0


def change(what: str, address: str, model: str | None, json: bool, **more: str) -> int:
    """Drain, ready, add or remove a replica."""
    name = _model(model)
    said = _ask(f"/api/{what}", {"model": name, "address": address, **more})
    print(json_module.dumps(said["models"][name]["arms"]) if json else f"{name}: {what} {address}: done")
    return 0


def reload(file: Path | None, json: bool) -> int:
    from slipway.gateway import config

    path = (file or settings.find_root() / config.FILE).resolve()
    _ask("/api/reload", {"file": str(path)})
    print(json_module.dumps({"file": str(path)}) if json else f"the gateway goes by {path} now")
    return 0


def status(json: bool) -> int:
    """Weights, arms and the measured split."""
    said = _ask("/api/status")
    if json:
        print(json_module.dumps(said, indent=2))
        return 0
    print(f"gateway at {said['listen']} (HAProxy {said['haproxy']['version']})")
    for name, model in said["models"].items():
        print(f"\n{name}")
        for arm, one in model["arms"].items():
            there = ", ".join(replica["address"] for replica in one["replicas"]) or "no replica"
            print(f"  {arm:<10} {one['weight']:>6g} %  {one['version'] or '–':<10} {one['up']} up  {there}")
        print(
            f"  measured   {_share(model['share']['requests'])} of requests, {_share(model['share']['tokens'])} of tokens"
        )
    return 0


def _share(found: dict[str, Any]) -> str:
    if found["percent"] is None:
        return "nothing yet"
    between = f" ({found['low']:g} – {found['high']:g})" if found["low"] is not None else ""
    return f"{found['percent']:g} %{between}"


# --- API keys ---------------------------------------------------------------------------------------------------------


def new_key(name: str, tester: bool, requests_per_minute: int, json: bool) -> int:
    from slipway.gateway import keys

    key, text = keys.new(folder(settings.find_root()), name, tester, requests_per_minute)
    if json:
        print(json_module.dumps({"id": key.id, "name": key.name, "key": text}))
    else:
        print(text)
        print("This is shown once. It is valid within a second of now.", file=sys.stderr)
    return 0


def list_keys(json: bool) -> int:
    from slipway.gateway import keys

    found = keys.load(folder(settings.find_root()))
    if json:
        print(json_module.dumps([key.model_dump(exclude={"sha256"}) for key in found], indent=2))
        return 0
    for key in found:
        limit = f"{key.requests_per_minute} requests a minute" if key.requests_per_minute else "the general limit"
        print(f"{key.id}  {key.name:<24} {key.made}  {limit}{'  may choose the arm' if key.tester else ''}")
    if not found:
        print("no keys; `slipway gateway keys new NAME` makes one")
    return 0


def revoke_key(wanted: str, json: bool) -> int:
    from slipway.gateway import keys

    key = keys.revoke(folder(settings.find_root()), wanted)
    print(json_module.dumps({"id": key.id, "name": key.name}) if json else f"{key.name} ({key.id}) is valid no more")
    return 0
