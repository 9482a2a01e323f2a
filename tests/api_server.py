"""A Kubernetes API server's stand-in over real HTTP: objects with resourceVersion and generation, conflicts, CRD schemas.

What controllers do is done in `tests/controllers.py`, when an object was written or, with `lag`, some looks later.
"""

import copy
import json
import re
import threading
from collections.abc import Callable
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, urlsplit

import jsonschema
import yaml

SCHEMAS = Path(__file__).parent / "schemas"
Object = dict[str, Any]


def strict(schema: Any) -> Any:
    """A CRD's schema as a server checks it that refuses unknown fields."""
    if isinstance(schema, list):
        return [strict(one) for one in schema]
    if not isinstance(schema, dict):
        return schema
    made = {key: strict(value) for key, value in schema.items()}
    open_ = made.get("x-kubernetes-preserve-unknown-fields") or "additionalProperties" in made
    if isinstance(made.get("properties"), dict) and made.get("type") == "object" and not open_:
        made["additionalProperties"] = False
    return made


def checks() -> dict[str, Any]:
    found = {}
    for kind, file in (
        ("InferenceService", "inferenceservice-v1beta1"), ("LLMInferenceService", "llminferenceservice-v1alpha2"),
        ("Canary", "canary-v1beta1"),
    ):  # fmt: skip
        found[kind] = jsonschema.Draft7Validator(strict(json.loads((SCHEMAS / f"{file}.json").read_text())))
    return found


def problems(given: Object) -> list[str]:
    """What is wrong with a manifest, by its CRD's schema or by the official client's models of Kubernetes' own API."""
    if given["kind"] in ("Deployment", "Service"):
        from kubernetes.client import models

        kind = getattr(models, f"V1{given['kind']}")
        try:
            known = kind.from_dict(given).model_dump(by_alias=True, exclude_none=True, mode="json")
        except ValueError as error:
            return [str(error)]
        return [] if known == given else [f"unknown fields in {given}"]
    return [f"{'.'.join(map(str, one.path))}: {one.message}" for one in CHECKS[given["kind"]].iter_errors(given)]


CHECKS = checks()


class ApiServer:
    """One server; `objects` by path."""

    def __init__(self, controllers: list[Callable[["ApiServer"], None]]) -> None:
        self.objects: dict[str, Object] = {}
        self.controllers, self.lock = controllers, threading.RLock()
        self.unready: set[str] = set()  # versions that never become ready
        self.smoke_status = 200
        self.lag = self._behind = 0
        self.before_write: Callable[[str, str], None] = lambda method, path: None
        self.writes: list[tuple[str, str]] = []
        self._version = 0
        self.server = ThreadingHTTPServer(("127.0.0.1", 0), _handler(self))
        self.server.daemon_threads = True
        threading.Thread(target=self.server.serve_forever, args=(0.05,), daemon=True).start()

    @property
    def address(self) -> str:
        return f"http://127.0.0.1:{self.server.server_address[1]}"

    def kubeconfig(self, path: Path, address: str | None = None) -> Path:
        cluster = {"name": "c", "cluster": {"server": address or self.address}}
        user = {"name": "u", "user": {"token": "t"}}
        context = {"name": "x", "context": {"cluster": "c", "user": "u"}}
        path.write_text(
            yaml.safe_dump({
                "apiVersion": "v1", "kind": "Config", "current-context": "x",
                "clusters": [cluster], "users": [user], "contexts": [context],
            })
        )  # fmt: skip
        return path

    def close(self) -> None:
        self.server.shutdown()
        self.server.server_close()

    def of_kind(self, kind: str) -> list[Object]:
        return [one for one in self.objects.values() if one["kind"] == kind]

    def path_of(self, given: Object) -> str:
        return next(path for path, one in self.objects.items() if one is given)

    def touch(self, given: Object, manager: str = "kubectl-edit") -> None:
        """What somebody else does to an object."""
        with self.lock:
            given["metadata"].setdefault("annotations", {})["touched"] = str(self._version)
            self._stamp(given, manager)

    # --- what a request does ------------------------------------------------------------------------------------------

    def get(self, path: str, selector: str) -> tuple[int, Any]:
        if self._behind > 0:
            self._behind -= 1
            if self._behind == 0:
                self._reconcile()
        if match := re.fullmatch(r"(/api/v1/namespaces/[^/]+/services/[^/:]+):\d+/proxy(/.*)", path):
            return self._proxied(match.group(1))
        if path in self.objects:
            return 200, self.objects[path]
        listed = [one for where, one in self.objects.items() if where.rpartition("/")[0] == path]
        if selector:
            key, _, value = selector.partition("=")
            return 200, {"items": [one for one in listed if one["metadata"].get("labels", {}).get(key) == value]}
        return _status(404, "NotFound", f"{path} not found")

    def write(self, method: str, path: str, body: Object | None, manager: str) -> tuple[int, Any]:
        self.before_write(method, path)
        with self.lock:
            self.writes.append((method, path))
            if method == "DELETE":
                return (200, {"status": "Success"}) if self._removed(path) else _status(404, "NotFound", path)
            assert body is not None
            if wrong := problems({key: value for key, value in body.items() if key != "status"}):
                return _status(422, "Invalid", "; ".join(wrong)[:500])
            where = f"{path}/{body['metadata']['name']}" if method == "POST" else path
            there = self.objects.get(where)
            if method == "POST" and there is not None:
                return _status(409, "AlreadyExists", f"{where} already exists")
            if method == "PUT" and there is None:
                return _status(404, "NotFound", where)
            if there is not None and body["metadata"].get("resourceVersion") != there["metadata"]["resourceVersion"]:
                return _status(409, "Conflict", "the object has been modified")
            return self._put(where, there, body, manager, 201 if method == "POST" else 200)

    def _put(self, where: str, there: Object | None, body: Object, manager: str, code: int) -> tuple[int, Any]:
        made = copy.deepcopy(body)
        made["status"] = there.get("status", {}) if there else {}
        generation = there["metadata"]["generation"] if there else 0
        changed = there is None or there["spec"] != made["spec"]
        made["metadata"]["generation"] = generation + changed
        try:
            for controller in self.controllers:
                if refuse := getattr(controller, "refuse", None):
                    refuse(made)
        except ValueError as error:
            return _status(400, "BadRequest", f"admission webhook denied the request: {error}")
        self.objects[where] = made
        self._stamp(made, manager)
        self._later()
        return code, copy.deepcopy(made)

    def _removed(self, path: str) -> bool:
        gone = self.objects.pop(path, None) is not None
        self._later()
        return gone

    def _stamp(self, made: Object, manager: str) -> None:
        self._version += 1
        made["metadata"]["resourceVersion"] = str(self._version)
        made["metadata"]["managedFields"] = [{"manager": manager, "operation": "Update"}]

    def _later(self) -> None:
        if self.lag:
            self._behind = self.lag
        else:
            self._reconcile()

    def _reconcile(self) -> None:
        for controller in self.controllers:
            controller(self)

    def _proxied(self, path: str) -> tuple[int, Any]:
        """A Service over the server's own proxy: an answer where a ready pod is selected."""
        service = self.objects.get(path)
        if service is None:
            return _status(404, "NotFound", path)
        wanted = service["spec"]["selector"].items()
        for one in self.of_kind("Deployment"):
            labels = one["spec"]["template"]["metadata"]["labels"]
            if wanted <= labels.items() and one["status"].get("availableReplicas"):
                return self.smoke_status, {"status": "ready" if self.smoke_status == 200 else "broken"}
        return _status(503, "ServiceUnavailable", f"no endpoints available for service {path}")


def _status(code: int, reason: str, message: str) -> tuple[int, Any]:
    return code, {"kind": "Status", "status": "Failure", "code": code, "reason": reason, "message": message}


def _handler(api: ApiServer) -> type[BaseHTTPRequestHandler]:
    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"
        disable_nagle_algorithm = True

        def answer(self) -> None:
            parts = urlsplit(self.path)
            query = {key: values[0] for key, values in parse_qs(parts.query).items()}
            body = self.rfile.read(int(self.headers.get("content-length") or 0))
            if self.command == "GET":
                code, said = api.get(parts.path, query.get("labelSelector", ""))
            else:
                given = json.loads(body) if body and self.command != "DELETE" else None
                code, said = api.write(self.command, parts.path, given, query.get("fieldManager", ""))
            data = json.dumps(said).encode()
            self.send_response(code)
            self.send_header("content-type", "application/json")
            self.send_header("content-length", str(len(data)))
            self.end_headers()
            self.wfile.write(data)

        do_GET = do_POST = do_PUT = do_DELETE = answer

        def log_message(self, format: str, *args: object) -> None:
            pass

    return Handler
