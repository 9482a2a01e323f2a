"""A few plain calls on a Kubernetes API server, through the official client.

Every change is read, edit, write with the version that was read: what somebody else changed in between is looked at
again, a few times. What is not labelled as ours is never changed.
"""

import copy
import functools
import json
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

from slipway.artifacts import Json
from slipway.errors import Refused, Transient, UsageError
from slipway.release.routers.configuration import KServe, Kubernetes
from slipway.release.routers.plan import OWNER, SLIPWAY
from slipway.release.routers.protocol import TRIES

SECONDS = (3.0, 20.0)  # to connect, to answer
_AGAIN = {429, 500, 502, 503, 504}


@dataclass(frozen=True)
class Ref:
    """Where an object is."""

    api: str  # v1, apps/v1, serving.kserve.io/v1beta1
    plural: str
    namespace: str
    name: str

    @property
    def path(self) -> str:
        root = "/api/" if "/" not in self.api else "/apis/"
        return f"{root}{self.api}/namespaces/{self.namespace}/{self.plural}"

    def __str__(self) -> str:
        return f"{self.plural}/{self.name} in {self.namespace}"


class Cluster:
    """One API server."""

    def __init__(self, settings: KServe | Kubernetes) -> None:
        self.settings = settings

    @functools.cached_property
    def client(self) -> Any:
        try:
            from kubernetes import client, config
        except ImportError:
            raise UsageError(
                f"the router {self.settings.kind} needs the Kubernetes client; install it: pip install 'slipway[kubernetes]'"
            ) from None
        chosen = self.settings.kubeconfig, self.settings.context
        try:
            if any(chosen):
                return config.new_client_from_config(*chosen, persist_config=False)
            try:
                return config.new_client_from_config(persist_config=False)
            except config.ConfigException:
                config.load_incluster_config()
                return client.ApiClient()
        except config.ConfigException as error:
            raise UsageError(f"no way to a cluster ({_line(error)}); set `router.kubeconfig` in configs/env") from None

    def send(self, method: str, path: str, body: Json | None = None, query: dict[str, str] | None = None) -> Any:
        """One request; None when there is nothing at the path."""
        from kubernetes.client.exceptions import ApiException
        from urllib3.exceptions import HTTPError

        api, address = self.client, self.client.configuration.host
        try:
            asked = api.param_serialize(
                method, path, query_params=list((query or {}).items()), body=body, auth_settings=["BearerToken"],
                header_params={"Accept": "application/json", "Content-Type": "application/json"},
            )  # fmt: skip
            answer = api.call_api(*asked, _request_timeout=SECONDS)
            status, data = answer.status, answer.read() or b""
        except ApiException as error:
            status, data = int(error.status or 0), (error.body or "")
        except HTTPError as error:
            raise Transient(f"the API server {address} does not answer ({_line(error)}); is it reachable?") from None
        return _answer(method, path, address, status, data)

    def find(self, ref: Ref) -> Json | None:
        found: Json | None = self.send("GET", f"{ref.path}/{ref.name}")
        return found

    def listed(self, ref: Ref, selector: str) -> list[Json]:
        """Every object beside this one that carries a label."""
        found = self.send("GET", ref.path, query={"labelSelector": selector})
        return [] if found is None else list(found["items"])

    def create(self, ref: Ref, wanted: Json) -> Json:
        """Make an object; one that is there already, and ours, is taken as it is."""
        try:
            made: Json = self.send("POST", ref.path, wanted, {"fieldManager": SLIPWAY})
            return made
        except _Conflict:
            there = self.find(ref)
            if there is None:
                raise Transient(f"{ref} came and went while it was made; run this again") from None
            if "deletionTimestamp" in there["metadata"]:
                raise Transient(f"{ref} is still going away; run this again when it is gone") from None
            return ours(ref, there)

    def change(self, ref: Ref, edit: Callable[[Json], Json | None]) -> Json:
        """Edit an object that is ours; nothing is sent where the edit changes nothing."""
        there: Json | None = None
        for _ in range(TRIES):
            there = self.find(ref)
            if there is None:
                raise Refused(f"{ref} is not there; prepare a candidate, or restore the champion, first")
            wanted = edit(copy.deepcopy(ours(ref, there)))
            if wanted is None or wanted == there:
                return there
            try:
                done: Json = self.send("PUT", f"{ref.path}/{ref.name}", wanted, {"fieldManager": SLIPWAY})
                return done
            except _Conflict:
                continue
        raise Transient(
            f"{ref} was changed by {_last_writer(there)} each of {TRIES} times before our change came; find out who does, then run this again"
        )

    def delete(self, ref: Ref) -> None:
        """Take away an object that is ours; one that is gone is fine."""
        if (there := self.find(ref)) is not None:
            ours(ref, there)
            try:
                self.send("DELETE", f"{ref.path}/{ref.name}")
            except _Conflict:
                raise Transient(f"{ref} was changed by {_last_writer(there)} while it went; run this again") from None

    def proxied(self, service: Ref, port: int, path: str) -> None:
        """Ask a Service over the API server's own proxy; Refused when its answer is not 200."""
        try:
            self.send("GET", f"{service.path}/{service.name}:{port}/proxy{path}")
        except Transient as error:
            raise Refused(f"the smoke test of {service} at {path} failed: {error}; no traffic was moved") from None


class _Conflict(Exception):
    """Somebody else was first."""


def _answer(method: str, path: str, address: str, status: int, data: bytes | str) -> Any:
    if 200 <= status < 300:
        try:
            return json.loads(data) if data else {}
        except ValueError:
            return {}  # what a proxied Service answers is its own affair
    if status == 404 and method in ("GET", "DELETE") and "/proxy" not in path:
        return None
    if status == 409:
        raise _Conflict
    said = f"the API server {address} answered {method} {path} with {status}: {_message(data)}"
    if status in _AGAIN or "/proxy" in path:
        raise Transient(f"{said}; run this again")
    if status in (401, 403):
        raise Refused(f"{said}; give this account the rights of docs/guide/routers.md")
    raise Refused(f"{said}; correct `router` in configs/env, or the cluster")


def _message(data: bytes | str) -> str:
    text = data.decode(errors="replace") if isinstance(data, bytes) else data
    try:
        return _line(json.loads(text)["message"])
    except (ValueError, KeyError, TypeError):
        return _line(text)


def _line(said: object) -> str:
    return " ".join(str(said).split())[:300]


def _last_writer(there: Json | None) -> str:
    fields = (there or {}).get("metadata", {}).get("managedFields") or []
    others = [str(one.get("manager")) for one in fields if one.get("manager") != SLIPWAY]
    return others[-1] if others else "somebody else"


def ours(ref: Ref, there: Json) -> Json:
    """An object that Slipway made; Refused otherwise."""
    labels = there.get("metadata", {}).get("labels") or {}
    if labels.get(OWNER) != SLIPWAY:
        raise Refused(
            f"{ref} is not ours ({OWNER} is {labels.get(OWNER)!r}); name another in `router`, or label it {OWNER}={SLIPWAY} to hand it over"
        )
    return there


def observed(there: Json) -> bool:
    """Whether the status speaks of the spec that stands there now."""
    return int(there.get("status", {}).get("observedGeneration", 0)) >= int(there["metadata"].get("generation", 0))


def condition(there: Json, kind: str) -> bool:
    """Whether a condition of an object is true."""
    found = there.get("status", {}).get("conditions") or []
    return any(one.get("type") == kind and one.get("status") == "True" for one in found)


def at(ref: Ref, name: str) -> Ref:
    """Another object beside this one."""
    return replace(ref, name=name)
